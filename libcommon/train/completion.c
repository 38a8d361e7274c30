#include "train/completion.h"

#include <string.h>

int completion_write(const struct prompter *m, const struct prompt *p, const struct gen_seq *q, const char *more, struct sb *line, struct err *e)
{
	static const char *const finish[] = { "stop", "length", "context" };
	struct sb text = SB_INIT;
	struct jw w = jw_to(line);
	int rc = prompt_response(m, p, q->out, q->n_new, &text, e);

	jw_obj(&w);
	jw_key(&w, "id");
	jw_raw(&w, p->id, strlen(p->id));
	jw_key(&w, "prompt");
	jw_str(&w, p->text);
	jw_key(&w, "response");
	jw_strn(&w, sb_str(&text), text.len);
	if (p->expected) {
		jw_key(&w, "expected");
		jw_strn(&w, p->expected, p->expected_len);
	}
	jw_key(&w, "tokens");
	jw_i64(&w, q->n_new);
	jw_key(&w, "finish");
	jw_str(&w, finish[q->finish]);
	sb_adds(line, more ? more : "");
	jw_end_obj(&w);
	sb_addc(line, '\n');
	sb_release(&text);
	return rc;
}

static bool own(const struct json_member *m)
{
	static const char *const names[] = { "id", "prompt", "response", "expected", "tokens", "finish" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (m->key_len == strlen(names[i]) && memcmp(m->key, names[i], m->key_len) == 0)
			return true;
	return false;
}

void completion_more(const struct json *record, struct sb *more)
{
	for (uint32_t i = 0; json_is(record, JSON_OBJ) && i < record->n; i++) {
		const struct json_member *m = &record->members[i];
		struct jw w = { more, true };

		if (own(m))
			continue;
		jw_keyn(&w, m->key, m->key_len);
		jw_value(&w, &m->val);
	}
}

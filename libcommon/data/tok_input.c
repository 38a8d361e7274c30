/* Beside the input: see tok_input.h. */
#include "data/tok_input.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/xalloc.h"
#include "json/json.h"

/* The template among the inputs of what made the input. */
static const char *template_of(const struct json *lineage)
{
	const struct json *inputs = json_get(lineage, "inputs");
	const char *hash;

	for (uint32_t i = 0; json_is(inputs, JSON_ARR) && i < inputs->n; i++)
		if (json_str_is(json_get(&inputs->items[i], "name"), "chat_template") && json_get_str(&inputs->items[i], "hash", NULL, &hash))
			return hash;
	return NULL;
}

void tok_sidecar_read(struct tok_sidecar *s, const char *path, const char *template_hash)
{
	char *side = xasprintf("%s.lineage.json", path);
	struct arena a = ARENA_INIT;
	struct err absent = ERR_INIT;
	const char *hash = NULL, *made;
	struct json v;

	if (strcmp(path, "-") && !access(side, R_OK) && !json_load(side, &a, &v, &absent)) {
		struct sb text = SB_INIT;
		struct jw w = jw_to(&text);

		jw_value(&w, &v);
		s->lineage = sb_detach(&text);
		hash = template_of(&v);
		if (json_get_str(json_get(&v, "output"), "hash", NULL, &made) && made)
			s->input_hash = xstrdup(made);
	}
	if (template_hash || hash)
		s->template_hash = xstrdup(template_hash ? template_hash : hash);
	arena_release(&a);
	free(side);
}

void tok_sidecar_release(struct tok_sidecar *s)
{
	free(s->lineage);
	free(s->input_hash);
	free(s->template_hash);
	memset(s, 0, sizeof(*s));
}

int tok_sidecar_check(const struct tok_sidecar *s, const struct in *in, struct err *e)
{
	char hex[33];

	in_hash(in, hex);
	if (!s->input_hash || strncmp(s->input_hash, "xxh3:", 5) || !strcmp(s->input_hash + 5, hex))
		return 0;
	return err_line(e, LP_DATA, in_name(in), 0, "its lineage file is of other contents; remove that file, or render the text again");
}

int tok_model_limit(const char *path, int64_t *n, struct err *e)
{
	char *file = xasprintf("%s/config.json", path);
	struct arena a = ARENA_INIT;
	struct json v;
	int rc = 0;

	*n = 0;
	if (!access(file, F_OK)) {
		rc = json_load(file, &a, &v, e);
		if (!rc && (!json_get_i64(&v, "max_position_embeddings", 0, n) ||
		            (!*n && !json_get_i64(json_get(&v, "text_config"), "max_position_embeddings", 0, n))))
			*n = 0;
	}
	arena_release(&a);
	free(file);
	return rc;
}

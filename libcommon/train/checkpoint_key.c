#include "train/checkpoint_key.h"

#include <string.h>

#define REMEDY "; finish that run with its command, or remove its checkpoints to start anew"

enum { OPTIONS, BASE, TRAIN_DATA, EVAL_DATA, TYPE };

void checkpoint_key_init(struct checkpoint_key *k, const struct run *r)
{
	memset(k, 0, sizeof(*k));
	if (r->c->spec)
		opt_json(r->c->spec, &k->options);
	k->kv[OPTIONS] = (struct st_kv){ "options", k->options.len ? k->options.s : "{}" };
	k->kv[BASE] = (struct st_kv){ "base", r->g.w.identity };
	k->kv[TRAIN_DATA] = (struct st_kv){ "train_data", r->train.hash };
	k->kv[EVAL_DATA] = (struct st_kv){ "eval_data", r->n_evals ? r->evals[0].d.hash : "" };
	/* another kind of device computes in another type: its steps would be others */
	k->kv[TYPE] = (struct st_kv){ "type", dtype_st_name(r->dev.act) };
}

void checkpoint_key_release(struct checkpoint_key *k)
{
	sb_release(&k->options);
}

static bool is_in(const char *name, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(name, list[i]) == 0)
			return true;
	return false;
}

/* Paths (contents are compared by their hashes), and what happens beside the steps. */
static bool harmless(const char *name, bool extend)
{
	static const char *const always[] = { "model", "eval", "adapter", "save-every", "tag", "data-version", "nonfinite", "patience" };
	static const char *const length[] = { "max-steps", "epochs" };

	return is_in(name, always, sizeof(always) / sizeof(*always)) || (extend && is_in(name, length, sizeof(length) / sizeof(*length)));
}

static void value_text(const struct json *v, struct sb *out)
{
	struct jw w = jw_to(out);

	jw_value(&w, v);
}

/* An option that this version has and the one that wrote the state had not: its default is how that one behaved. */
static bool is_default(const struct run *r, const char *name)
{
	return !opt_given(r->c->spec, name);
}

static int check_options(const struct checkpoint_key *k, const struct run *r, const char *text, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json was, is;
	struct sb x = SB_INIT, y = SB_INIT;
	struct err bad = ERR_INIT;
	int rc = 0;

	if (json_parse_str(text, &a, &was, &bad) < 0 || json_parse_str(k->kv[OPTIONS].value, &a, &is, &bad) < 0) {
		arena_release(&a);
		return err_set(e, LP_DATA, "damaged: its options cannot be read");
	}
	for (uint32_t i = 0; json_is(&is, JSON_OBJ) && i < is.n && rc == 0; i++) {
		const char *name = is.members[i].key;
		const struct json *v = json_get(&was, name);

		if (harmless(name, r->c->extend) || (v ? json_equal(v, &is.members[i].val) : is_default(r, name)))
			continue;
		if (v)
			value_text(v, &x);
		value_text(&is.members[i].val, &y);
		rc = err_set(e, LP_USAGE, "the state of a run with other options: --%s was %.100s and is now %.100s" REMEDY, name, v ? sb_str(&x) : "not there",
		             sb_str(&y));
	}
	sb_release(&x);
	sb_release(&y);
	arena_release(&a);
	return rc;
}

int checkpoint_key_check(const struct checkpoint_key *k, const struct run *r, const struct st_blob *b, struct err *e)
{
	static const char *const other[KEY_FIELDS] = { NULL, "on another base model", "on other training data", "with other held-out data",
		                                       "on another kind of device (it computes in another type)" };

	for (int i = OPTIONS; i < KEY_FIELDS; i++) {
		const char *was = st_meta(b, k->kv[i].key);

		if (!was)
			return err_set(e, LP_DATA, "damaged: it does not say which run it is of");
		if (i != OPTIONS && strcmp(was, k->kv[i].value) != 0)
			return err_set(e, LP_USAGE, "the state of a run %s (%.20s..., not %.20s...)" REMEDY, other[i], was, k->kv[i].value);
	}
	return check_options(k, r, st_meta(b, k->kv[OPTIONS].key), e);
}

#include "model/codes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/xalloc.h"
#include "kernels/nf4.h"
#include "model/bnb.h"

/* Blocks that are quantised at a time, by one thread. */
enum { PART = 4096 };

static int64_t find(const struct model_source *s, const char *name)
{
	for (size_t i = 0; i < model_source_count(s); i++)
		if (strcmp(model_source_at(s, i)->name, name) == 0)
			return (int64_t)i;
	return -1;
}

void codes_json(struct model_source *s, const struct model_desc *m, struct sb *out)
{
	char name[ARCH_NAME], scales[ARCH_NAME + 16];
	struct jw w = jw_to(out);

	jw_obj(&w);
	for (int64_t i = 0; i < m->layers && m->bnb.on; i++)
		for (int l = 0; l < LIN_N; l++) {
			int64_t at;

			arch_linear_name(name, i, l, "weight");
			snprintf(scales, sizeof(scales), "%s.absmax", name);
			at = find(s, name);
			if (at < 0 || find(s, scales) < 0)
				continue; /* left in 16 bits */
			jw_keyn(&w, name, strlen(name) - strlen(".weight"));
			jw_str(&w, model_source_sha(s, (size_t)at));
		}
	jw_end_obj(&w);
}

/* The codes of a float matrix, (n + 1) / 2 bytes. Blocks do not know of one another, so threads share them. */
static int quantise(const struct tensor *t, uint8_t *codes, struct err *e)
{
	int64_t n = (int64_t)tensor_elems(t), part = (int64_t)PART * NF4_BLOCK, parts = (n + part - 1) / part, failed = 0;

#pragma omp parallel for reduction(+ : failed)
	for (int64_t p = 0; p < parts; p++) {
		int64_t from = p * part, k = n - from < part ? n - from : part;
		float *x = malloc((size_t)part * sizeof(*x)), absmax[PART], absmax2[PART / NF4_BLOCK2];
		uint8_t qabsmax[PART];
		struct nf4 q = { .n = k, .codes = codes + from / 2, .qabsmax = qabsmax, .absmax2 = absmax2 };

		if (x) {
			to_f32(t->dtype, (const char *)t->data + (size_t)from * dtype_bytes(t->dtype), x, (size_t)k);
			nf4_quantize(x, &q, absmax);
		}
		failed += x == NULL;
		free(x);
	}
	return failed ? err_set(e, LP_DEVICE, "out of memory to quantise '%.200s'", t->name) : 0;
}

static int match_one(struct model_source *s, const char *path, const struct json *want, struct err *e)
{
	char *name = xasprintf("%s.weight", path), hex[65];
	int64_t at = find(s, name);
	const struct tensor *t = at < 0 ? NULL : model_source_at(s, (size_t)at);
	size_t bytes = t ? (size_t)((tensor_elems(t) + 1) / 2) : 0;
	uint8_t *codes;
	int rc = 0;

	free(name);
	if (!t || !t->data || !json_is(want, JSON_STR) || (t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16))
		return 0;
	codes = lp_try_alloc(bytes, 1, "the codes of a projection", e);
	if (!codes || quantise(t, codes, e) < 0) {
		rc = -1;
	} else {
		sha_once(codes, bytes, hex);
		rc = json_str_is(want, hex);
	}
	free(codes);
	return rc;
}

int codes_match(struct model_source *s, const char *codes, char *first, struct err *e)
{
	struct arena a = ARENA_INIT;
	struct json v;
	int rc = json_parse_str(codes, &a, &v, e) < 0 ? -1 : 1;

	if (rc > 0 && (!json_is(&v, JSON_OBJ) || v.n == 0))
		rc = err_set(e, LP_DATA, "the digests of the base's codes are not an object of names");
	for (uint32_t i = 0; i < (rc > 0 ? v.n : 0) && rc > 0; i++) {
		rc = match_one(s, v.members[i].key, &v.members[i].val, e);
		if (rc == 0)
			snprintf(first, ARCH_NAME, "%s", v.members[i].key);
	}
	arena_release(&a);
	return rc;
}

int codes_check_base(const struct peft *p, const char *adapter, struct model_source *s, const char *identity, struct err *e)
{
	char first[ARCH_NAME];
	int rc;

	if (!p->base_id || strcmp(p->base_id, identity) == 0)
		return 0;
	if (!p->codes)
		return err_line(e, LP_USAGE, adapter, 0, "the adapter was trained on another base (%.19s..., not %.19s...)", p->base_id, identity);
	rc = codes_match(s, p->codes, first, e);
	if (rc > 0)
		return 0;
	return rc < 0 ? -1 : err_line(e, LP_USAGE, adapter, 0, "the adapter was trained on another base (%.19s..., not %.19s...): a 4-bit one, and '%s' of this "
	                              "model does not quantise to its codes", p->base_id, identity, first);
}

#include "data/split.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/num.h"
#include "base/xalloc.h"
#include "text/pystr.h"

#define UNIT 1000000000.0 /* weights are kept in billionths */

__extension__ typedef unsigned __int128 u128;

/* --- ratios --- */

void split_release(struct split *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->parts[i].name);
	memset(s, 0, sizeof(*s));
}

static int add_weight(struct split *s, const char *name, double w, struct err *e)
{
	if (s->n == SPLIT_MAX_PARTS)
		return err_set(e, LP_USAGE, "more than %d parts", SPLIT_MAX_PARTS);
	s->parts[s->n].name = xstrdup(name);
	s->parts[s->n].weight = (uint64_t)llround(w * UNIT);
	s->total += s->parts[s->n++].weight;
	return 0;
}

static int add_part(struct split *s, const char *name, const char *number, struct err *e)
{
	double w;

	if (!parse_f64(number, &w) || w < 0 || w > 1e6)
		return err_set(e, LP_USAGE, "ratio '%.40s' is not a number from 0 up", number);
	return add_weight(s, name, w, e);
}

/* What the numbers must add up to: 1, 100, or (0) anything. A sum that is
 * almost right is a slip, not a proportion. */
static uint64_t sum_wanted(const struct split *s)
{
	bool fractions = false, tens = false;

	for (size_t i = 0; i < s->n; i++) {
		fractions |= s->parts[i].weight % (uint64_t)UNIT != 0;
		tens |= s->parts[i].weight >= 10 * (uint64_t)UNIT;
	}
	return tens ? 100 : fractions || s->total == (uint64_t)UNIT ? 1 : 0;
}

static int finish(struct split *s, const char *text, struct err *e)
{
	uint64_t want = sum_wanted(s), cum = 0;
	char sum[32];

	if (s->n < 2)
		return err_set(e, LP_USAGE, "ratio '%.100s' has one part; give at least two", text);
	if (!s->total)
		return err_set(e, LP_USAGE, "ratio '%.100s' adds up to 0", text);
	if (want && s->total != want * (uint64_t)UNIT) {
		fmt_f64((double)s->total / UNIT, sum);
		return err_set(e, LP_USAGE, "ratio '%.100s' adds up to %s, not %" PRIu64, text, sum, want);
	}
	for (size_t i = 0; i < s->n; i++) {
		cum += s->parts[i].weight;
		s->parts[i].bound = cum >= s->total ? UINT64_MAX : (uint64_t)(((u128)cum << 64) / s->total);
	}
	return 0;
}

int split_parse_ratio(const char *text, struct split *s, struct err *e)
{
	static const char *const names[] = { "train", "val", "test" };
	char *copy = xstrdup(text), *p = copy;
	int rc = 0;

	memset(s, 0, sizeof(*s));
	while (p && !rc) {
		char *slash = strchr(p, '/');

		if (slash)
			*slash++ = '\0';
		rc = s->n < 3 ? add_part(s, names[s->n], p, e)
		              : err_set(e, LP_USAGE, "ratio '%.100s' has more than three parts; name them with --parts", text);
		p = slash;
	}
	if (!rc)
		rc = finish(s, text, e);
	if (rc)
		split_release(s);
	free(copy);
	return rc;
}

static bool good_name(const char *name)
{
	return *name && strlen(name) < 100 && name[0] != '-' &&
	       !name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")];
}

int split_parse_parts(const char *text, struct split *s, struct err *e)
{
	char *copy = xstrdup(text), *p = copy;
	int rc = 0;

	memset(s, 0, sizeof(*s));
	while (p && !rc) {
		char *comma = strchr(p, ','), *eq;

		if (comma)
			*comma++ = '\0';
		eq = strchr(p, '=');
		if (eq)
			*eq++ = '\0';
		if (!eq || !good_name(p))
			rc = err_set(e, LP_USAGE, "part '%.60s' is not NAME=RATIO with a name of letters, digits, - and _", p);
		else if (split_find(s, p) >= 0)
			rc = err_set(e, LP_USAGE, "part '%.60s' is named twice", p);
		else
			rc = add_part(s, p, eq, e);
		p = comma;
	}
	if (!rc)
		rc = finish(s, text, e);
	if (rc)
		split_release(s);
	free(copy);
	return rc;
}

int split_set_sample(struct split *s, double share, struct err *e)
{
	memset(s, 0, sizeof(*s));
	if (!(share > 0 && share <= 1) || add_weight(s, "sample", share, e) < 0 || add_weight(s, "rest", 1, e) < 0)
		return err_set(e, LP_USAGE, "a sample is a share over 0 and at most 1");
	s->parts[1].weight = (uint64_t)UNIT - s->parts[0].weight;
	s->total = (uint64_t)UNIT;
	return finish(s, "sample", e);
}

int split_find(const struct split *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->parts[i].name, name))
			return (int)i;
	return -1;
}

/* --- keys --- */

static void add_message(struct split_keyer *k, const struct chat_msg *m)
{
	sb_adds(&k->text, m->role);
	sb_addc(&k->text, '\1');
	py_collapse(m->content ? m->content : "", m->content_len, &k->scratch);
	sb_add(&k->text, sb_str(&k->scratch), k->scratch.len);
	sb_addc(&k->text, '\2');
}

static void add_turns(struct split_keyer *k, const struct chat *c, bool answers_apart)
{
	size_t n = c->n_msgs;

	if (k->by == SPLIT_BY_FIRST) {
		for (n = 0; n < c->n_msgs && strcmp(c->msgs[n].role, "user"); n++)
			;
		n = n < c->n_msgs ? n + 1 : c->n_msgs;
	} else if (!answers_apart) {
		while (n > 0 && strcmp(c->msgs[n - 1].role, "assistant"))
			n--;
		n = n > 1 ? n - 1 : c->n_msgs; /* no prompt before an answer: all of it */
	}
	for (size_t i = 0; i < n; i++)
		add_message(k, &c->msgs[i]);
}

static void add_whole(struct split_keyer *k, const struct json *v)
{
	struct jw w = jw_to(&k->text);

	jw_value(&w, v);
}

static int add_group(struct split_keyer *k, const struct json *v, struct err *e)
{
	const struct json *g = json_get(v, k->group);

	if (!g)
		return err_set(e, LP_DATA, "no field \"%.100s\" to group by", k->group);
	if (g->type == JSON_STR)
		py_collapse(g->s, g->n, &k->text);
	else
		add_whole(k, g);
	return 0;
}

static void add_prompt(struct split_keyer *k, const struct json *v, struct arena *a)
{
	struct err ignored = ERR_INIT;
	struct chat c;
	struct pref p;

	if (record_is_preference(v) && !pref_from_json(v, k->map, a, &p, &ignored)) {
		add_turns(k, &p.prompt, true);
	} else if (!chat_from_json(v, k->map, a, &c, &ignored)) {
		add_turns(k, &c, false);
	} else {
		k->n_whole++;
		add_whole(k, v);
	}
}

int split_key_of(struct split_keyer *k, const struct json *v, struct arena *a, struct split_key *key, struct err *e)
{
	sb_reset(&k->text);
	if (k->group) {
		if (add_group(k, v, e) < 0)
			return -1;
	} else if (k->by == SPLIT_BY_RECORD) {
		add_whole(k, v);
	} else {
		add_prompt(k, v, a);
	}
	key->hash = xxh_u64(sb_str(&k->text), k->text.len, k->seed);
	key->id = xxh_u64(sb_str(&k->text), k->text.len, ~k->seed);
	return 0;
}

void split_keyer_release(struct split_keyer *k)
{
	sb_release(&k->text);
	sb_release(&k->scratch);
}

/* --- assignment --- */

size_t split_by_hash(const struct split *s, uint64_t hash)
{
	size_t i = 0;

	while (i + 1 < s->n && (hash >= s->parts[i].bound || !s->parts[i].weight))
		i++;
	while (i > 0 && !s->parts[i].weight)
		i--;
	return i;
}

/* Sizes by largest remainder; the earlier part wins a tie. */
static void wanted_sizes(const struct split *s, uint64_t n, uint64_t *want)
{
	uint64_t rest[SPLIT_MAX_PARTS], left = n;

	for (size_t i = 0; i < s->n; i++) {
		u128 x = (u128)n * s->parts[i].weight;

		want[i] = (uint64_t)(x / s->total);
		rest[i] = (uint64_t)(x % s->total);
		left -= want[i];
	}
	for (; left; left--) {
		size_t best = 0;

		for (size_t i = 1; i < s->n; i++)
			if (rest[i] > rest[best])
				best = i;
		want[best]++;
		rest[best] = 0;
	}
}

struct item {
	struct split_key key;
	uint64_t group; /* its size; the same in all of a group */
	size_t index;
};

static int by_key(const void *pa, const void *pb)
{
	const struct item *a = pa, *b = pb;

	if (a->key.hash != b->key.hash)
		return a->key.hash < b->key.hash ? -1 : 1;
	if (a->key.id != b->key.id)
		return a->key.id < b->key.id ? -1 : 1;
	return a->index < b->index ? -1 : a->index > b->index;
}

/* Large groups first: the small ones then fill the parts up. */
static int by_size(const void *pa, const void *pb)
{
	const struct item *a = pa, *b = pb;

	if (a->group != b->group)
		return a->group > b->group ? -1 : 1;
	return by_key(pa, pb);
}

static size_t run_of(const struct item *it, size_t i, size_t n)
{
	size_t j = i + 1;

	while (j < n && it[j].key.hash == it[i].key.hash && it[j].key.id == it[i].key.id)
		j++;
	return j - i;
}

static int64_t room(const struct split_sizes *z, size_t p)
{
	return (int64_t)z->want[p] - (int64_t)z->got[p];
}

/* The part that the hash names if the group still fits, else the one with most room. */
static size_t choose(const struct split *s, const struct split_sizes *z, uint64_t hash, uint64_t size)
{
	size_t p = split_by_hash(s, hash);

	if (room(z, p) >= (int64_t)size)
		return p;
	for (size_t i = 0; i < s->n; i++)
		if (s->parts[i].weight && room(z, i) > room(z, p))
			p = i;
	return p;
}

int split_exact(const struct split *s, const struct split_key *keys, size_t n, uint8_t *part, struct split_sizes *z, struct err *e)
{
	struct item *it;

	memset(z, 0, sizeof(*z));
	wanted_sizes(s, n, z->want);
	if (!n)
		return 0;
	it = lp_try_alloc(n, sizeof(*it), "the keys of exact mode", e);
	if (!it)
		return -1;
	for (size_t i = 0; i < n; i++)
		it[i] = (struct item){ keys[i], 0, i };
	qsort(it, n, sizeof(*it), by_key);
	for (size_t i = 0, k; i < n; i += k) {
		k = run_of(it, i, n);
		for (size_t j = i; j < i + k; j++)
			it[j].group = k;
		z->n_groups++;
		if (k > z->largest_group)
			z->largest_group = k;
	}
	qsort(it, n, sizeof(*it), by_size);
	for (size_t i = 0; i < n; i += it[i].group) {
		size_t p = choose(s, z, it[i].key.hash, it[i].group);

		for (size_t j = i; j < i + it[i].group; j++)
			part[it[j].index] = (uint8_t)p;
		z->got[p] += it[i].group;
	}
	free(it);
	return 0;
}

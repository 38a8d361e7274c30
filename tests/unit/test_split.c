/* data/split.c and data/mix.c: ratios, keys, disjoint and complete parts, exact sizes, the same bits everywhere. */
#include "data/split.h"

#include "data/mix.h"

/* XXH3-64 with seed 42 of "pinned" and of "user" 01 "what is it?" 02, from the Python package xxhash. */
#define PIN_GROUP 3034054620739052527ull
#define PIN_PROMPT 2704039643631234054ull
#include "scratch.h"

static struct arena arena;

START_TEST(ratios)
{
	static const char *const good[] = { "80/10/10", "0.8/0.1/0.1", "8/1/1", "90/10", "1/1", "3/2/1", "33.3/33.3/33.4", "100/0/0" };
	static const char *const bad[] = { "", "80", "80/10/20", "0.8/0.1/0.2", "80/-10/30", "a/b", "80/10/", "0/0/0", "1e9/1", "80/10/5/5", "nan/1", "0.5/0.4" };
	struct split s;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		OK(split_parse_ratio(good[i], &s, &er));
		split_release(&s);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		BAD(split_parse_ratio(bad[i], &s, &er), LP_USAGE, "ratio");
	BAD(split_parse_ratio("80/10/20", &s, &er), LP_USAGE, "adds up to 110.0, not 100");
	OK(split_parse_parts("a=0.5,b=0.25,c-2=0.25", &s, &er));
	ck_assert(s.n == 3 && split_find(&s, "c-2") == 2 && split_find(&s, "d") == -1);
	split_release(&s);
	BAD(split_parse_parts("a=0.5,a=0.5", &s, &er), LP_USAGE, "named twice");
	BAD(split_parse_parts("a/b=0.5,c=0.5", &s, &er), LP_USAGE, "is not NAME=RATIO");
	BAD(split_parse_parts("a,b=1", &s, &er), LP_USAGE, "is not NAME=RATIO");
	BAD(split_parse_parts("a=1", &s, &er), LP_USAGE, "one part");
}
END_TEST

START_TEST(bounds)
{
	struct split s;

	OK(split_parse_ratio("50/25/25", &s, &er));
	ck_assert_uint_eq(split_by_hash(&s, 0), 0);
	ck_assert_uint_eq(split_by_hash(&s, 0x7fffffffffffffffull), 0);
	ck_assert_uint_eq(split_by_hash(&s, 0x8000000000000000ull), 1);
	ck_assert_uint_eq(split_by_hash(&s, 0xbfffffffffffffffull), 1);
	ck_assert_uint_eq(split_by_hash(&s, 0xc000000000000000ull), 2);
	ck_assert_uint_eq(split_by_hash(&s, UINT64_MAX), 2);
	split_release(&s);
	/* A part of nothing gets nothing, wherever it stands. */
	OK(split_parse_parts("a=0,b=1,c=0", &s, &er));
	ck_assert_uint_eq(split_by_hash(&s, 0), 1);
	ck_assert_uint_eq(split_by_hash(&s, UINT64_MAX), 1);
	split_release(&s);
}
END_TEST

static struct split_key key_of(const char *record, enum split_by by, const char *group, uint64_t seed)
{
	struct split_keyer k = { .by = by, .group = group, .seed = seed };
	struct split_key key;
	struct json v;

	OK(json_parse_str(record, &arena, &v, &er));
	OK(split_key_of(&k, &v, &arena, &key, &er));
	split_keyer_release(&k);
	return key;
}

static bool same_key(const char *a, const char *b, enum split_by by, const char *group)
{
	struct split_key x = key_of(a, by, group, 42), y = key_of(b, by, group, 42);

	ck_assert_int_eq(x.hash == y.hash, x.id == y.id);
	return x.hash == y.hash;
}

START_TEST(keys)
{
	const char *a = "{\"prompt\":\"what  is\\n it?\",\"completion\":\"x\"}", *b = "{\"messages\":[{\"role\":\"user\",\"content\":\" what is it?\"},{\"role\":\"assistant\",\"content\":\"y\"}]}";
	const char *two = "{\"messages\":[{\"role\":\"user\",\"content\":\"what is it?\"},{\"role\":\"assistant\",\"content\":\"y\"},{\"role\":\"user\",\"content\":\"more\"},{\"role\":\"assistant\",\"content\":\"z\"}]}";

	ck_assert(same_key(a, b, SPLIT_BY_PROMPT, NULL));
	ck_assert(!same_key(a, two, SPLIT_BY_PROMPT, NULL));
	ck_assert(same_key(a, two, SPLIT_BY_FIRST, NULL));
	ck_assert(!same_key(a, b, SPLIT_BY_RECORD, NULL));
	ck_assert(!same_key(a, "{\"prompt\":\"What is it?\",\"completion\":\"x\"}", SPLIT_BY_PROMPT, NULL));
	ck_assert(same_key("{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"b\"}", "{\"prompt\":\"p\",\"chosen\":\"c\",\"rejected\":\"d\"}", SPLIT_BY_PROMPT, NULL));
	ck_assert(same_key("{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"b\"}", "{\"prompt\":\"p\",\"completion\":\"d\"}", SPLIT_BY_PROMPT, NULL));
	/* No prompt: the text itself, or the whole record. */
	ck_assert(!same_key("{\"text\":\"a\"}", "{\"text\":\"b\"}", SPLIT_BY_PROMPT, NULL));
	ck_assert(!same_key("{\"x\":1}", "{\"x\":2}", SPLIT_BY_PROMPT, NULL));
	ck_assert(same_key("{\"x\": 1}", "{\"x\":1}", SPLIT_BY_PROMPT, NULL));
	ck_assert(same_key("{\"g\":\"u 1\",\"text\":\"a\"}", "{\"g\":\"u  1\",\"text\":\"b\"}", SPLIT_BY_PROMPT, "g"));
	ck_assert(!same_key("{\"g\":1}", "{\"g\":2}", SPLIT_BY_PROMPT, "g"));
	/* The bytes of a key are for good: a change here moves records between everybody's parts. */
	ck_assert_uint_eq(key_of(a, SPLIT_BY_PROMPT, NULL, 42).hash, key_of(b, SPLIT_BY_PROMPT, NULL, 42).hash);
	ck_assert_uint_eq(key_of("{\"g\":\"pinned\"}", SPLIT_BY_PROMPT, "g", 42).hash, PIN_GROUP);
	ck_assert_uint_eq(key_of(a, SPLIT_BY_PROMPT, NULL, 42).hash, PIN_PROMPT);
	ck_assert_uint_ne(key_of(a, SPLIT_BY_PROMPT, NULL, 43).hash, PIN_PROMPT);

	struct split_keyer k = { .group = "g" };
	struct split_key key;
	struct json v;

	OK(json_parse_str("{\"x\":1}", &arena, &v, &er));
	BAD(split_key_of(&k, &v, &arena, &key, &er), LP_DATA, "no field \"g\" to group by");
}
END_TEST

static uint64_t noise(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return *x >> 11 ^ *x << 31;
}

/* n keys in groups of random sizes up to most. */
static struct split_key *make_keys(size_t n, uint64_t most, uint64_t seed)
{
	struct split_key *k = calloc(n + 1, sizeof(*k));
	uint64_t x = seed;

	for (size_t i = 0; i < n;) {
		uint64_t h = noise(&x), id = noise(&x), g = 1 + noise(&x) % most;

		for (; g && i < n; g--, i++)
			k[i] = (struct split_key){ h, id };
	}
	for (size_t i = n; i > 1; i--) { /* shuffled */
		size_t j = noise(&x) % i;
		struct split_key t = k[i - 1];

		k[i - 1] = k[j];
		k[j] = t;
	}
	return k;
}

static void exact_case(const char *parts, size_t n, uint64_t most, uint64_t seed)
{
	struct split_key *k = make_keys(n, most, seed);
	uint8_t *part = calloc(n + 1, 1), *again = calloc(n + 1, 1);
	uint64_t got[SPLIT_MAX_PARTS] = { 0 }, sum = 0;
	struct split_sizes z;
	struct split s;

	OK(split_parse_parts(parts, &s, &er));
	OK(split_exact(&s, k, n, part, &z, &er));
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_lt(part[i], s.n);
		ck_assert(s.parts[part[i]].weight > 0);
		got[part[i]]++;
	}
	for (size_t p = 0; p < s.n; p++) {
		int64_t off = (int64_t)got[p] - (int64_t)z.want[p];

		ck_assert_uint_eq(got[p], z.got[p]);
		sum += z.want[p];
		if (z.largest_group <= 1)
			ck_assert_int_eq(off, 0);
		else
			ck_assert_msg(off < (int64_t)z.largest_group && -off < (int64_t)z.largest_group, "%s n=%zu part %zu off by %d, largest group %d",
			              parts, n, p, (int)off, (int)z.largest_group);
		/* Largest remainder: within one of the true share. */
		double share = (double)n * (double)s.parts[p].weight / (double)s.total;

		ck_assert((double)z.want[p] > share - 1 && (double)z.want[p] < share + 1);
	}
	ck_assert_uint_eq(sum, n);
	for (size_t i = 0; i < n; i++) /* one key, one part */
		for (size_t j = i + 1; j < n && j < i + 50; j++)
			if (k[i].hash == k[j].hash && k[i].id == k[j].id)
				ck_assert_uint_eq(part[i], part[j]);
	OK(split_exact(&s, k, n, again, &z, &er));
	ck_assert(!memcmp(part, again, n));
	split_release(&s);
	free(k);
	free(part);
	free(again);
}

START_TEST(exact)
{
	static const char *const parts[] = { "train=0.8,val=0.1,test=0.1", "a=0.5,b=0.5", "a=0,b=0.7,c=0.3", "a=0.97,b=0.01,c=0.01,d=0.01" };
	static const size_t sizes[] = { 0, 1, 2, 7, 10, 99, 1000, 4321 };

	for (size_t p = 0; p < 4; p++)
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
			for (uint64_t most = 1; most <= 64; most *= 4)
				exact_case(parts[p], sizes[i], most, 1000 * i + most);
}
END_TEST

START_TEST(thousand_is_800_100_100)
{
	struct split_key *k = make_keys(1000, 1, 5);
	uint8_t part[1000];
	struct split_sizes z;
	struct split s;

	OK(split_parse_ratio("80/10/10", &s, &er));
	OK(split_exact(&s, k, 1000, part, &z, &er));
	ck_assert(z.got[0] == 800 && z.got[1] == 100 && z.got[2] == 100);
	split_release(&s);
	free(k);
}
END_TEST

/* Hash mode keeps every record where it was when the data grows; shares are right on average. */
START_TEST(hash_shares)
{
	struct split_key *k = make_keys(200000, 1, 9);
	uint64_t got[3] = { 0 };
	struct split s;

	OK(split_parse_ratio("80/10/10", &s, &er));
	for (size_t i = 0; i < 200000; i++)
		got[split_by_hash(&s, k[i].hash)]++;
	/* 5 standard deviations: sqrt(n p (1 - p)) is 179 and 134 */
	ck_assert_int_lt(llabs((long long)got[0] - 160000), 895);
	ck_assert_int_lt(llabs((long long)got[1] - 20000), 671);
	ck_assert_int_lt(llabs((long long)got[2] - 20000), 671);
	split_release(&s);
	free(k);
}
END_TEST

/* --- mixtures --- */

static void mix_with(struct mix *m, const char *const *args, const uint64_t *have)
{
	memset(m, 0, sizeof(*m));
	m->seed = 42;
	for (size_t i = 0; args[i]; i++) {
		OK(mix_add(m, args[i], &er));
		m->src[i].have = have[i];
	}
}

static void run_mix(struct mix *m)
{
	uint64_t n = 0;
	size_t i;

	while ((i = mix_pick(m)) != SIZE_MAX) {
		uint64_t before = m->src[i].written, tries = 0;

		while (!mix_wants(m, i))
			ck_assert_uint_lt(tries++, 2 * m->src[i].have);
		ck_assert_uint_eq(m->src[i].written, before + 1);
		n++;
	}
	ck_assert_uint_eq(n, m->total);
	for (i = 0; i < m->n; i++)
		ck_assert_uint_eq(m->src[i].written, m->src[i].take);
}

START_TEST(mixtures)
{
	struct mix m;

	mix_with(&m, (const char *const[]){ "base", "gen:0.15", NULL }, (const uint64_t[]){ 1000, 5000 });
	OK(mix_plan(&m, 0, false, &er));
	ck_assert(m.src[0].take == 1000 && m.src[1].take == 176); /* 176 of 1176 is 14.97 % */
	run_mix(&m);
	mix_release(&m);
	mix_with(&m, (const char *const[]){ "base", "gen:10%", "other:0.2", NULL }, (const uint64_t[]){ 700, 100, 200 });
	OK(mix_plan(&m, 0, false, &er));
	ck_assert(m.src[0].take == 700 && m.src[1].take == 100 && m.src[2].take == 200);
	run_mix(&m);
	mix_release(&m);
	mix_with(&m, (const char *const[]){ "a:0.75", "b:0.25", NULL }, (const uint64_t[]){ 90, 1000 });
	OK(mix_plan(&m, 0, false, &er));
	ck_assert(m.src[0].take == 90 && m.src[1].take == 30);
	run_mix(&m);
	mix_release(&m);
	mix_with(&m, (const char *const[]){ "a", "b:0.5", NULL }, (const uint64_t[]){ 10, 3 });
	BAD(mix_plan(&m, 0, false, &er), LP_USAGE, "b has 3 records and the mixture needs 10");
	OK(mix_plan(&m, 0, true, &er));
	ck_assert(m.src[0].take == 10 && m.src[1].take == 10);
	run_mix(&m);
	mix_release(&m);
	mix_with(&m, (const char *const[]){ "a", "b:0.5", NULL }, (const uint64_t[]){ 1000, 1000 });
	OK(mix_plan(&m, 100, false, &er));
	ck_assert(m.src[0].take == 50 && m.src[1].take == 50);
	run_mix(&m);
	mix_release(&m);
	mix_with(&m, (const char *const[]){ "a", "b:0.5", "c:0.5", NULL }, (const uint64_t[]){ 10, 10, 10 });
	BAD(mix_plan(&m, 0, false, &er), LP_USAGE, "leave nothing");
	mix_release(&m);
	mix_with(&m, (const char *const[]){ "b:0.5", "c:0.4", NULL }, (const uint64_t[]){ 10, 10 });
	BAD(mix_plan(&m, 0, false, &er), LP_USAGE, "add up to 0.9, not 1");
	mix_release(&m);
	BAD(mix_add(&m, "f:1.5", &er), LP_USAGE, "over 0 and at most 1");
	BAD(mix_add(&m, "f:0", &er), LP_USAGE, "over 0");
	OK(mix_add(&m, "weird:name", &er));
	ck_assert(!m.src[0].has_ratio && !strcmp(m.src[0].path, "weird:name"));
	mix_release(&m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("split");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 60);
	tcase_add_test(c, ratios);
	tcase_add_test(c, bounds);
	tcase_add_test(c, keys);
	tcase_add_test(c, exact);
	tcase_add_test(c, thousand_is_800_100_100);
	tcase_add_test(c, hash_shares);
	tcase_add_test(c, mixtures);
	suite_add_tcase(s, c);
	return run_tests(s);
}

/* fmt/st.c and fmt/st_stream.c: what is refused, and that every cut and every
 * flipped bit of a small file or stream is an error and never a crash. */
#include "base/num.h"
#include "fmt/st.h"
#include "scratch.h"

static const float f32s[6] = { 1, -2, 3.5f, 0, 1e-30f, 7 };
static const uint16_t bf16s[3] = { 0x3f80, 0xc000, 0x0001 };
static const struct tensor two[] = {
	{ .name = "layer.weight", .dtype = DT_F32, .n_dims = 2, .shape = { 2, 3 }, .bytes = 24, .data = f32s },
	{ .name = "h\xc3\xa9.\"q\"", .dtype = DT_BF16, .n_dims = 1, .shape = { 3 }, .bytes = 6, .data = bf16s },
};

/* A blob file from a header text and n_data bytes. */
static const char *blob(const char *header, size_t n_data)
{
	static const char zeros[256];
	struct sb s = SB_INIT;
	uint8_t len[8];

	put_u64(len, strlen(header));
	sb_add(&s, len, 8);
	sb_adds(&s, header);
	sb_add(&s, zeros, n_data);
	put_file(at("blob"), s.s, s.len);
	sb_release(&s);
	return at("blob");
}

static int open_close(const char *path, struct err *e)
{
	struct st_file f;

	if (st_file_open(&f, path, e))
		return -1;
	st_file_close(&f);
	return 0;
}

START_TEST(round_trip)
{
	const struct st_kv meta[] = { { "format", "pt" }, { "absent", NULL }, { "text", "a\"b\n" } };
	struct out *o = out_open(at("x.safetensors"), &er);
	struct st_file f;

	OK(st_write(o, two, 2, meta, 3, &er));
	OK(out_commit(o, &er));
	OK(st_file_open(&f, at("x.safetensors"), &er));
	ck_assert_uint_eq(f.blob.n_tensors, 2);
	ck_assert_str_eq(st_meta(&f.blob, "text"), "a\"b\n");
	ck_assert_ptr_null(st_meta(&f.blob, "absent"));
	for (int i = 0; i < 2; i++) {
		const struct tensor *t = st_find(&f.blob, two[i].name);

		ck_assert_ptr_nonnull(t);
		ck_assert(st_same_shape(t, &two[i]));
		ck_assert_mem_eq(t->data, two[i].data, t->bytes);
	}
	ck_assert_ptr_null(st_find(&f.blob, "layer"));
	ck_assert_uint_eq((uintptr_t)f.blob.tensors[0].data % 8, 0);
	st_file_close(&f);
}
END_TEST

START_TEST(headers_refused)
{
	static const struct {
		const char *header;
		size_t data;
		const char *says;
	} bad[] = {
		{ "[]", 0, "begins with '{'" },
		{ "{\"a\":1}", 0, "no dtype" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", 4, "" },
		{ "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "F8_E4M3" },
		{ "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "no shape" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, "spans 8 bytes" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "whole numbers" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, "whole numbers" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "overflow" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807,2,0],\"data_offsets\":[0,0]}}", 0, "overflow" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "8 dimensions" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "holes" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "overlaps" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "twice" },
		{ "{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "NUL" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 0, "truncated" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2, "too many" },
		{ "{\"__metadata__\":3}", 0, "not an object" },
		{ "{\"__metadata__\":{\"k\":3}}", 0, "not a string" },
		{ "{\"__metadata__\":{\"k\":\"v\"},\"__metadata__\":{\"k\":\"v\"}}", 0, "two __metadata__" },
		{ "{\"__metadata__\":{\"stream\":\"model\"}}", 0, "model stream" },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		BAD(open_close(blob(bad[i].header, bad[i].data), &er), LP_DATA, bad[i].says);
	OK(open_close(blob("{}", 0), &er));
	OK(open_close(blob("{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},\"z\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[1,1]}}  ", 1), &er));
	BAD(open_close(at("nothing"), &er), LP_IO, "open");
	BAD(open_close(scratch, &er), LP_USAGE, "regular file");
	put_file(at("huge"), "\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
	BAD(open_close(at("huge"), &er), LP_DATA, "header");
}
END_TEST

START_TEST(every_cut_of_a_file)
{
	struct out *o = out_open(at("x.safetensors"), &er);
	size_t n;
	char *all;

	OK(st_write(o, two, 2, NULL, 0, &er));
	OK(out_commit(o, &er));
	all = get_file(at("x.safetensors"), &n);
	for (size_t cut = 0; cut < n; cut++) {
		put_file(at("cut"), all, cut);
		BAD(open_close(at("cut"), &er), LP_DATA, "");
	}
	free(all);
}
END_TEST

START_TEST(writer_refuses)
{
	struct tensor t[2] = { two[0], two[0] };
	struct sb s = SB_INIT;

	BAD(st_make_header(t, 2, NULL, 0, &s, &er), LP_DATA, "twice");
	t[0].bytes = 20;
	BAD(st_make_header(t, 1, NULL, 0, &s, &er), LP_DATA, "contradicts");
	t[1].name = "__metadata__";
	BAD(st_make_header(t + 1, 1, NULL, 0, &s, &er), LP_DATA, "name");
	sb_release(&s);
}
END_TEST

/* --- streams --- */

static void write_stream(const char *path, bool end)
{
	const struct st_kv meta[] = { { "config", "{}" } };
	struct out *o = out_open(path, &er);
	struct st_writer *w = st_writer_new(o, "tokens");

	OK(st_writer_frame(w, NULL, 0, meta, 1, 0, 0, &er));
	OK(st_writer_frame(w, two, 2, NULL, 0, 3, 41, &er));
	OK(st_writer_frame(w, two, 1, meta, 1, 2, 1, &er));
	if (end)
		OK(st_writer_end(w, &er));
	OK(out_commit(o, &er));
	st_writer_free(w);
}

/* Reads all; the number of frames, or -1. */
static int drain(const char *path, struct err *e)
{
	struct in *in = in_open(path, e);
	struct st_reader *r = in ? st_reader_open_take(in, e) : NULL;
	const struct st_blob *b;
	int n = 0, rc = -1;

	while (r && (rc = st_reader_next(r, &b, 1 << 20, e)) > 0)
		n++;
	if (!rc && !strcmp(st_reader_kind(r), "tokens")) {
		ck_assert_uint_eq(st_reader_records(r), 5);
		ck_assert_uint_eq(st_reader_tokens(r), 42);
	}
	st_reader_close(r);
	return rc ? -1 : n;
}

START_TEST(stream_round_trip)
{
	struct st_reader *r;
	const struct st_blob *b;

	write_stream(at("s.lps"), true);
	r = st_reader_open_take(in_open(at("s.lps"), &er), &er);
	ck_assert_int_eq(st_reader_next(r, &b, 0, &er), 1);
	ck_assert_str_eq(st_meta(b, "config"), "{}");
	ck_assert_int_eq(st_reader_next(r, &b, 30, &er), 1);
	ck_assert_uint_eq(b->n_tensors, 2);
	ck_assert_mem_eq(b->tensors[1].data, bf16s, 6);
	ck_assert_int_eq(st_reader_next(r, &b, 23, &er), -1);
	ck_assert_msg(strstr(er.msg, "24 bytes") != NULL, "%s", er.msg);
	st_reader_close(r);
	ck_assert_int_eq(drain(at("s.lps"), &er), 3);
}
END_TEST

START_TEST(every_cut_and_flip_of_a_stream)
{
	size_t n;
	char *all;

	write_stream(at("s.lps"), true);
	all = get_file(at("s.lps"), &n);
	for (size_t cut = 0; cut < n; cut++) {
		put_file(at("cut"), all, cut);
		BAD(drain(at("cut"), &er), LP_DATA, "");
	}
	for (size_t i = 0; i < n; i++)
		for (int bit = 0; bit < 8; bit++) {
			all[i] = (char)(all[i] ^ 1 << bit);
			put_file(at("cut"), all, n);
			er = (struct err)ERR_INIT;
			if (drain(at("cut"), &er) >= 0 || er.code != LP_DATA)
				ck_abort_msg("byte %zu bit %d: status %d, %s", i, bit, er.code, er.msg);
			all[i] = (char)(all[i] ^ 1 << bit);
		}
	all = realloc(all, 2 * n);
	memcpy(all + n, all, n);
	put_file(at("twice"), all, 2 * n);
	BAD(drain(at("twice"), &er), LP_DATA, "follow");
	free(all);
	write_stream(at("noend"), false);
	BAD(drain(at("noend"), &er), LP_DATA, "truncated");
	put_file(at("empty"), "", 0);
	BAD(drain(at("empty"), &er), LP_DATA, "truncated");
	put_text(at("text"), "{\"text\":\"x\"}\n");
	BAD(drain(at("text"), &er), LP_DATA, "this is text");
	put_text(at("bytes"), "\x01\x01\x01\x01\x01\x01\x01\x01\x01");
	BAD(drain(at("bytes"), &er), LP_DATA, "first 8 bytes give a header of 72340172838076673 bytes");
}
END_TEST

START_TEST(a_file_reads_as_one_frame)
{
	struct out *o = out_open(at("x.safetensors"), &er);
	size_t n;
	char *all;

	OK(st_write(o, two, 2, NULL, 0, &er));
	OK(out_commit(o, &er));
	ck_assert_int_eq(drain(at("x.safetensors"), &er), 1);
	all = get_file(at("x.safetensors"), &n);
	for (size_t cut = 0; cut < n; cut++) {
		put_file(at("cut"), all, cut);
		BAD(drain(at("cut"), &er), LP_DATA, "");
	}
	all = realloc(all, n + 8);
	memset(all + n, 0, 8);
	put_file(at("more"), all, n + 8);
	BAD(drain(at("more"), &er), LP_DATA, "");
	free(all);
}
END_TEST

START_TEST(pieces_must_fit)
{
	struct out *o = out_open(at("p.lps"), &er);
	struct st_writer *w = st_writer_new(o, "model");

	OK(st_writer_begin(w, two, 1, NULL, 0, 0, 0, &er));
	OK(st_writer_bytes(w, f32s, 20, &er));
	BAD(st_writer_end(w, &er), LP_DATA, "short");
	BAD(st_writer_bytes(w, f32s, 8, &er), LP_DATA, "more data");
	OK(st_writer_bytes(w, f32s + 5, 4, &er));
	OK(st_writer_end(w, &er));
	st_writer_free(w);
	OK(out_commit(o, &er));
	ck_assert_int_eq(drain(at("p.lps"), &er), 1);
}
END_TEST

START_TEST(lists)
{
	struct sb s = SB_INIT;
	struct arena a = ARENA_INIT;
	struct tensor *t;
	char text[64];
	size_t n;

	st_list_json(two, 2, &s);
	OK(st_list_parse(s.s, "x", &a, &t, &n, &er));
	ck_assert_uint_eq(n, 2);
	for (size_t i = 0; i < 2; i++)
		ck_assert(!strcmp(t[i].name, two[i].name) && st_same_shape(&t[i], &two[i]) && t[i].bytes == two[i].bytes);
	st_shape_text(&t[0], text, sizeof(text));
	ck_assert_str_eq(text, "F32 (2, 3)");
	st_shape_text(&t[0], text, 8); /* cut, not overrun */
	ck_assert_str_eq(text, "F32 (2,");
	BAD(st_list_parse(NULL, "x", &a, &t, &n, &er), LP_DATA, "index frame");
	BAD(st_list_parse("{}", "x", &a, &t, &n, &er), LP_DATA, "array");
	BAD(st_list_parse("[{\"name\":\"a\",\"dtype\":\"F9\",\"shape\":[]}]", "x", &a, &t, &n, &er), LP_DATA, "malformed");
	BAD(st_list_parse("[{\"name\":\"a\",\"dtype\":\"F32\",\"shape\":[4611686018427387904,4]}]", "x", &a, &t, &n, &er), LP_DATA, "impossible");
	arena_release(&a);
	sb_release(&s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("st");
	TCase *c = tcase_create("all");
	int rc;

	scratch_open();
	tcase_set_timeout(c, 120);
	tcase_add_test(c, round_trip);
	tcase_add_test(c, headers_refused);
	tcase_add_test(c, every_cut_of_a_file);
	tcase_add_test(c, writer_refuses);
	tcase_add_test(c, stream_round_trip);
	tcase_add_test(c, every_cut_and_flip_of_a_stream);
	tcase_add_test(c, a_file_reads_as_one_frame);
	tcase_add_test(c, pieces_must_fit);
	tcase_add_test(c, lists);
	suite_add_tcase(s, c);
	rc = run_tests(s);
	scratch_close();
	return rc;
}

/* base/in.c: plain, compressed and packed inputs, from files and from pipes,
 * whole, and cut at every byte. */
#include "scratch.h"

#include <fcntl.h>
#include <sys/wait.h>

#include "base/hash.h"
#include "base/rng.h"
#include "base/sb.h"
#include "pack.h"

enum { CAP = 4 << 20 };

/* Makes fd 0 a pipe that another process fills, slowly if asked. */
static pid_t feed(const char *p, size_t n, bool slowly)
{
	int fd[2];
	pid_t pid;

	ck_assert_int_eq(pipe(fd), 0);
	pid = fork();
	if (!pid) {
		size_t step = slowly ? 97 : 65536;

		close(fd[0]);
		for (size_t i = 0; i < n; i += step)
			if (write(fd[1], p + i, n - i < step ? n - i : step) < 0)
				_exit(1);
		_exit(0);
	}
	close(fd[1]);
	dup2(fd[0], 0);
	close(fd[0]);
	return pid;
}

/* All of the input by in_read, in pieces of step. -1 on error. */
static int64_t read_all(struct in *in, struct sb *b, size_t step, struct err *e)
{
	int64_t n;

	do {
		sb_grow(b, step);
		n = in_read(in, b->s + b->len, step, e);
		if (n < 0)
			return -1;
		b->len += (size_t)n;
	} while (n);
	n = in_read(in, b->s, 1, e); /* the end stays the end */
	ck_assert_int_eq(n, 0);
	return (int64_t)b->len;
}

static int64_t load(const char *path, struct sb *b, struct err *e)
{
	struct in *in = in_open(path, e);
	int64_t n;
	char hex[33], want[33];

	sb_reset(b);
	if (!in)
		return -1;
	n = read_all(in, b, 1000, e);
	if (n >= 0) {
		in_hash(in, hex);
		xxh_once(b->s, b->len, want);
		ck_assert_str_eq(hex, want);
		ck_assert_uint_eq(in_offset(in), b->len);
	}
	in_close(in);
	return n;
}

static char *lines(size_t n, size_t *len)
{
	struct sb b = SB_INIT;

	for (size_t i = 0; i < n; i++)
		sb_addf(&b, "{\"n\":%zu,\"r\":\"%016llx\"}\n", i, (unsigned long long)rng_u64(1, i, 0));
	*len = b.len;
	return sb_detach(&b);
}

static const char *const filters[] = { NULL, "gzip", "zstd", "xz", "bzip2" };
static const char *const formats[] = { "raw", "ustar", "pax", "zip" };

START_TEST(every_packing)
{
	size_t n, packed;
	char *text = lines(10000, &n), *buf = malloc(CAP);
	const struct packed_file f = { "dir/a.jsonl", text, n };
	struct sb b = SB_INIT;

	scratch_open();
	for (int i = 0; i < 5; i++)
		for (int k = 0; k < 4; k++) {
			packed = pack(buf, CAP, filters[i], formats[k], &f, 1);
			put_file(at("x"), buf, packed);
			OK(load(at("x"), &b, &er));
			ck_assert_msg(b.len == n && !memcmp(b.s, text, n), "%s %s", filters[i] ? filters[i] : "-", formats[k]);
			for (int slowly = 0; slowly < 2; slowly++) {
				pid_t pid = feed(buf, packed, slowly);

				OK(load("-", &b, &er));
				ck_assert_msg(b.len == n && !memcmp(b.s, text, n), "pipe: %s %s", filters[i] ? filters[i] : "-", formats[k]);
				waitpid(pid, NULL, 0);
			}
		}
	free(text);
	free(buf);
	sb_release(&b);
	scratch_close();
}
END_TEST

/* A short packed text cut at every byte: never the end, always LP_DATA. A cut
 * that leaves nothing at all is an empty input, and one within the first bytes
 * of the magic is plain bytes that no reader of ours takes for data. */
START_TEST(every_cut)
{
	size_t n, packed;
	char *text = lines(25, &n), *buf = malloc(CAP);
	const struct packed_file f[2] = { { "a.jsonl", text, n }, { "b.jsonl", text, n - 1 } };
	struct sb b = SB_INIT;

	scratch_open();
	for (int i = 0; i < 5; i++)
		for (int k = 0; k < 4; k++) {
			size_t magic = !i && k ? 512 : 10, end, missed = 0;

			if (!i && !k)
				continue;
			packed = end = pack(buf, CAP, filters[i], formats[k], f, k ? 2 : 1);
			if (k == 3 && !i)
				magic = 4;
			if (!i && (k == 1 || k == 2))
				end = packed - 512; /* of two end blocks one is enough */
			if (k == 3 && !i) /* its members suffice, the directory behind them only repeats */
				end = (size_t)((char *)memmem(buf, packed, "PK\1\2", 4) - buf);
			for (size_t cut = magic; cut < end; cut += cut > 1000 && packed > 8000 ? 97 : 1) {
				struct err e = ERR_INIT;

				put_file(at("x"), buf, cut);
				if (load(at("x"), &b, &e) >= 0)
					missed++;
				else
					ck_assert_msg(e.code == LP_DATA && strstr(e.msg, "truncated"), "%s", e.msg);
			}
			ck_assert_msg(!missed, "%s %s: %zu of %zu cuts not seen", filters[i] ? filters[i] : "-", formats[k], missed, end);
		}
	free(text);
	free(buf);
	sb_release(&b);
	scratch_close();
}
END_TEST

/* A flipped bit in compressed data: the check sums are there to be used. zstd
 * has none unless its writer adds one, and libarchive's does not. */
START_TEST(every_flip)
{
	size_t n, packed;
	char *text = lines(25, &n), *buf = malloc(CAP);
	const struct packed_file f = { "a.jsonl", text, n };
	struct sb b = SB_INIT;

	scratch_open();
	for (int i = 1; i < 5; i++) {
		if (i == 2)
			continue;
		packed = pack(buf, CAP, filters[i], "raw", &f, 1);
		for (size_t k = 12; k < packed; k++) {
			struct err e = ERR_INIT;

			buf[k] ^= 0x10;
			put_file(at("x"), buf, packed);
			if (load(at("x"), &b, &e) >= 0)
				ck_assert_msg(b.len == n && !memcmp(b.s, text, n), "%s: byte %zu of %zu: other text, no error", filters[i], k, packed);
			else
				ck_assert_int_eq(e.code, LP_DATA);
			buf[k] ^= 0x10;
		}
	}
	free(text);
	free(buf);
	sb_release(&b);
	scratch_close();
}
END_TEST

START_TEST(members_are_joined)
{
	static const struct packed_file f[] = { { "a", "1\n2", 3 }, { "empty", "", 0 }, { "d/b", "3\n4\n", 4 } };
	static const char *const want[] = { "1", "2", "3", "4" };
	static const int line_no[] = { 1, 2, 1, 2 };
	char *buf = malloc(CAP), name[300];
	const char *s;
	size_t len;
	struct in *in = NULL;

	scratch_open();
	put_file(at("x.tar"), buf, pack(buf, CAP, "gzip", "pax", f, 3));
	OK((in = in_open(at("x.tar"), &er)) ? 0 : -1);
	for (int i = 0; i < 4; i++) {
		OK(in_line(in, &s, &len, 100, &er) == 1 ? 0 : -1);
		ck_assert_str_eq(s, want[i]); /* a missing last newline joins nothing */
		ck_assert_uint_eq(in_line_no(in), line_no[i]);
		snprintf(name, sizeof(name), "%s:%s", at("x.tar"), i < 2 ? "a" : "d/b");
		ck_assert_str_eq(in_name(in), name);
	}
	OK(in_line(in, &s, &len, 100, &er) == 0 ? 0 : -1);
	in_close(in);
	free(buf);
	scratch_close();
}
END_TEST

START_TEST(line_shapes)
{
	static const char text[] = "a\n\nb\r\nlonger line\0with NUL\nlast";
	const char *s;
	size_t len;
	struct in *in = NULL;
	char hex[33], want[33];

	scratch_open();
	put_file(at("x"), text, sizeof(text) - 1);
	OK((in = in_open(at("x"), &er)) ? 0 : -1);
	ck_assert_int_eq(in_line(in, &s, &len, 100, &(struct err)ERR_INIT), 1);
	ck_assert(len == 1 && !strcmp(s, "a"));
	xxh_once("a\n", 2, want);
	in_hash(in, hex); /* the covered newline counts */
	ck_assert_str_eq(hex, want);
	ck_assert_int_eq(in_line(in, &s, &len, 100, &(struct err)ERR_INIT), 1);
	ck_assert(len == 0 && !*s);
	ck_assert_int_eq(in_line(in, &s, &len, 100, &(struct err)ERR_INIT), 1);
	ck_assert(len == 2 && !strcmp(s, "b\r"));
	ck_assert_int_eq(in_line(in, &s, &len, 100, &(struct err)ERR_INIT), 1);
	ck_assert(len == 20 && !memcmp(s, "longer line\0with NUL", 21));
	ck_assert_int_eq(in_line(in, &s, &len, 100, &(struct err)ERR_INIT), 1);
	ck_assert(len == 4 && !strcmp(s, "last"));
	ck_assert_int_eq(in_line(in, &s, &len, 100, &(struct err)ERR_INIT), 0);
	ck_assert_uint_eq(in_line_no(in), 5);
	ck_assert_uint_eq(in_offset(in), sizeof(text) - 1);
	in_hash(in, hex);
	xxh_once(text, sizeof(text) - 1, want);
	ck_assert_str_eq(hex, want);
	in_close(in);
	scratch_close();
}
END_TEST

/* Lines of every length about the buffer's size, and the limit on a line. */
START_TEST(long_lines)
{
	enum { EDGE = 256 << 10 };
	struct sb b = SB_INIT;
	const char *s;
	size_t len;
	struct in *in = NULL;

	scratch_open();
	for (int d = -70; d <= 70; d += 5) {
		for (int i = 0; i < 3; i++) {
			sb_grow(&b, EDGE * 2);
			memset(b.s + b.len, 'a' + i, (size_t)(EDGE + d));
			b.len += (size_t)(EDGE + d);
			sb_addc(&b, '\n');
		}
		put_file(at("x"), b.s, b.len);
		OK((in = in_open(at("x"), &er)) ? 0 : -1);
		for (int i = 0; i < 3; i++) {
			OK(in_line(in, &s, &len, EDGE + 100, &er) == 1 ? 0 : -1);
			ck_assert_uint_eq(len, (size_t)(EDGE + d));
			ck_assert(s[0] == 'a' + i && s[len - 1] == 'a' + i && !s[len]);
		}
		OK(in_line(in, &s, &len, EDGE, &er) == 0 ? 0 : -1);
		in_close(in);
		OK((in = in_open(at("x"), &er)) ? 0 : -1);
		BAD(in_line(in, &s, &len, EDGE - 100, &er), LP_DATA, "line is longer than");
		in_close(in);
		sb_reset(&b);
	}
	sb_release(&b);
	scratch_close();
}
END_TEST

START_TEST(peek_and_read)
{
	char *buf = malloc(10000), got[10];
	const void *p;
	struct in *in = NULL;
	const char *s;
	size_t len;

	scratch_open();
	memset(buf, 'x', 10000);
	memcpy(buf, "12345678\n", 9);
	put_file(at("x"), buf, 10000);
	OK((in = in_open(at("x"), &er)) ? 0 : -1);
	OK(in_peek(in, &p, 4, &er) == 4 ? 0 : -1);
	ck_assert_int_eq(memcmp(p, "1234", 4), 0);
	ck_assert_uint_eq(in_offset(in), 0);
	OK(in_read_full(in, got, 4, "head", &er));
	OK(in_line(in, &s, &len, 100, &er) == 1 ? 0 : -1);
	ck_assert_str_eq(s, "5678");
	OK(in_peek(in, &p, 4096, &er) == 4096 ? 0 : -1);
	OK(in_read_full(in, buf, 9990, "body", &er));
	OK(in_peek(in, &p, 4096, &er) == 1 ? 0 : -1);
	BAD(in_read_full(in, got, 2, "the tail", &er), LP_DATA, "truncated: the tail needs 2 bytes, 1 are there");
	OK(in_peek(in, &p, 1, &er) == 0 ? 0 : -1);
	in_close(in);
	free(buf);
	scratch_close();
}
END_TEST

/* Files of gzip one behind the other are one text (as bgzip and pigz leave them, and cat); zeros behind are padding, more is not. */
START_TEST(gzip_behind_gzip)
{
	size_t n, first, all;
	char *text = lines(10000, &n), *buf = malloc(CAP);
	struct packed_file f = { "x", text, n / 2 };
	struct sb b = SB_INIT;

	scratch_open();
	first = pack(buf, CAP, "gzip", "raw", &f, 1);
	f = (struct packed_file){ "x", text + n / 2, n - n / 2 };
	all = first + pack(buf + first, CAP - first, "gzip", "raw", &f, 1);
	put_file(at("two.gz"), buf, all);
	OK(load(at("two.gz"), &b, &er));
	ck_assert(b.len == n && !memcmp(b.s, text, n));
	memset(buf + all, 0, 1000);
	put_file(at("two.gz"), buf, all + 1000);
	OK(load(at("two.gz"), &b, &er));
	ck_assert(b.len == n && !memcmp(b.s, text, n));
	put_file(at("two.gz"), buf, all - 1);
	BAD(load(at("two.gz"), &b, &er), LP_DATA, "truncated or corrupt archive");
	put_file(at("two.gz"), buf, first + 5);
	BAD(load(at("two.gz"), &b, &er), LP_DATA, "truncated or corrupt archive");
	memcpy(buf + all, "more", 4);
	put_file(at("two.gz"), buf, all + 4);
	BAD(load(at("two.gz"), &b, &er), LP_DATA, "truncated or corrupt archive");
	free(text);
	free(buf);
	sb_release(&b);
	scratch_close();
}
END_TEST

START_TEST(what_cannot_be_read)
{
	struct sb b = SB_INIT;
	size_t n;
	char *s;

	scratch_open();
	BAD(load(at("none"), &b, &er), LP_IO, "cannot open: No such file");
	BAD(load(scratch, &b, &er), LP_IO, "is a directory");
	put_text(at("gz"), "\x1f\x8b\x08 this is no gzip");
	BAD(load(at("gz"), &b, &er), LP_DATA, "truncated or corrupt archive");
	put_text(at("zip"), "PK\3\4 this is no zip");
	BAD(load(at("zip"), &b, &er), LP_DATA, "truncated or corrupt archive");
	put_text(at("empty"), "");
	OK(load(at("empty"), &b, &er) == 0 ? 0 : -1);
	put_text(at("text"), "abc");
	OK((s = in_slurp(at("text"), 3, &n, &er)) ? 0 : -1);
	ck_assert(n == 3 && !strcmp(s, "abc"));
	free(s);
	BAD(in_slurp(at("text"), 2, &n, &er) ? 0 : -1, LP_DATA, "larger than 2 bytes");
	close(0);
	ck_assert_int_eq(open(scratch, O_RDONLY), 0);
	BAD(load(NULL, &b, &er), LP_IO, "is a directory");
	sb_release(&b);
	scratch_close();
}
END_TEST

/* The first line of a slow pipe is there before the second one is written. */
START_TEST(first_line_is_not_held_back)
{
	int fd[2];
	const char *s;
	size_t len;
	struct in *in = NULL;

	ck_assert_int_eq(pipe(fd), 0);
	dup2(fd[0], 0);
	ck_assert_int_eq(write(fd[1], "{\"a\":1}\n", 8), 8);
	OK((in = in_open("-", &er)) ? 0 : -1);
	OK(in_line(in, &s, &len, 100, &er) == 1 ? 0 : -1);
	ck_assert_str_eq(s, "{\"a\":1}");
	ck_assert_str_eq(in_name(in), "(stdin)");
	close(fd[1]);
	in_close(in);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("in");
	TCase *c = tcase_create("all");

	tcase_set_timeout(c, 120);
	tcase_add_test(c, every_packing);
	tcase_add_test(c, every_cut);
	tcase_add_test(c, every_flip);
	tcase_add_test(c, members_are_joined);
	tcase_add_test(c, line_shapes);
	tcase_add_test(c, long_lines);
	tcase_add_test(c, peek_and_read);
	tcase_add_test(c, gzip_behind_gzip);
	tcase_add_test(c, what_cannot_be_read);
	tcase_add_test(c, first_line_is_not_held_back);
	suite_add_tcase(s, c);
	return run_tests(s);
}

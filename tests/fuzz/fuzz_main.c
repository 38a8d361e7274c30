/* A fuzzer for machines without one. Usage: fuzz_main TARGET SECONDS|xROUNDS FILE...
 * Takes the files as they are, then mutates them: mutation i depends on i alone,
 * so a run of so many rounds is the same everywhere. A child does the work; when
 * it dies, its last input is kept as crash-TARGET. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/in.h"
#include "base/log.h"
#include "base/num.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "fuzz.h"

enum { MAX_INPUT = 1 << 18, HANG_SECONDS = 20 };

struct shared {
	uint64_t round;
	size_t n;
	uint8_t input[MAX_INPUT];
};
struct seed {
	char *p;
	size_t n;
};

static uint64_t draw(uint64_t round, uint64_t k, uint64_t below)
{
	return rng_below(20260101, round, k, below);
}

/* Numbers and marks that parsers trip over. */
static const char *const tokens[] = { "\xff\xff\xff\xff\xff\xff\xff\xff", "\0\0\0\0\0\0\0\x80", "[[[[[[[[", "{\"a\":", "\"", "\\u", "\\ud800",
				      "18446744073709551615", "-1", "1e999", "\n", ",", "null", "{{", "}}", "{% for i in ", "%}", "|", "\xed\xa0\x80" };

static void mutate(struct shared *s, const struct seed *seeds, size_t n_seeds, uint64_t round)
{
	const struct seed *from = &seeds[draw(round, 0, n_seeds)];
	uint64_t changes = 1 + draw(round, 1, 6);

	s->n = from->n;
	memcpy(s->input, from->p, s->n);
	for (uint64_t c = 0; c < changes; c++) {
		uint64_t k = 10 * (c + 1);
		size_t at = (size_t)draw(round, k, s->n + 1), len = (size_t)draw(round, k + 1, 64);

		switch (draw(round, k + 2, 7)) {
		case 0: /* flip a bit */
			if (at < s->n)
				s->input[at] ^= (uint8_t)(1u << draw(round, k + 3, 8));
			break;
		case 1: /* another byte */
			if (at < s->n)
				s->input[at] = (uint8_t)draw(round, k + 3, 256);
			break;
		case 2: /* cut the end */
			if (draw(round, k + 3, 3) == 0)
				s->n = at;
			break;
		case 3: /* leave bytes out */
			if (len > s->n - at)
				len = s->n - at;
			memmove(s->input + at, s->input + at + len, s->n - at - len);
			s->n -= len;
			break;
		case 4: { /* put a token in */
			const char *t = tokens[draw(round, k + 3, sizeof(tokens) / sizeof(*tokens))];

			len = *t ? strlen(t) : 8;
			if (s->n + len > MAX_INPUT)
				break;
			memmove(s->input + at + len, s->input + at, s->n - at);
			memcpy(s->input + at, t, len);
			s->n += len;
			break;
		}
		case 5: /* repeat a piece */
			if (len > s->n - at)
				len = s->n - at;
			if (s->n + len > MAX_INPUT)
				break;
			memmove(s->input + at + len, s->input + at, s->n - at);
			s->n += len;
			break;
		default: { /* a piece of another seed */
			const struct seed *o = &seeds[draw(round, k + 3, n_seeds)];
			size_t src = (size_t)draw(round, k + 4, o->n + 1);

			if (len > o->n - src)
				len = o->n - src;
			if (len > s->n - at)
				len = s->n - at;
			memcpy(s->input + at, o->p + src, len);
			break;
		}
		}
	}
}

static void child(const struct fuzz_target *t, struct shared *s, const struct seed *seeds, size_t n, double seconds, uint64_t rounds)
{
	double end = now_seconds() + seconds;

	for (; s->round < rounds + n; s->round++) {
		if (s->round >= n && !(s->round & 63) && now_seconds() > end)
			break;
		if (s->round < n) {
			s->n = seeds[s->round].n;
			memcpy(s->input, seeds[s->round].p, s->n);
		} else {
			mutate(s, seeds, n, s->round);
		}
		alarm(HANG_SECONDS);
		t->fn(s->input, s->n);
	}
	exit(0);
}

static int verdict(const struct fuzz_target *t, const struct shared *s, int status)
{
	char name[64];
	int fd;

	if (WIFEXITED(status) && !WEXITSTATUS(status)) {
		printf("%-8s %llu inputs, no finding\n", t->name, (unsigned long long)s->round);
		return 0;
	}
	snprintf(name, sizeof(name), "crash-%s", t->name);
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	if (fd < 0 || write(fd, s->input, s->n) != (ssize_t)s->n)
		fprintf(stderr, "fuzz: cannot keep the input: %s\n", strerror(errno));
	printf("%-8s round %llu %s; the input is in %s\n", t->name, (unsigned long long)s->round,
	       WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "hangs" : "fails", name);
	return 1;
}

int main(int argc, char **argv)
{
	const struct fuzz_target *t = fuzz_targets;
	double seconds = 1e9;
	uint64_t rounds = UINT64_MAX / 2;
	struct seed *seeds;
	struct shared *s;
	size_t n = 0;
	int status;
	pid_t pid;

	while (argc > 1 && t->name && strcmp(t->name, argv[1]))
		t++;
	if (argc < 4 || !t->name || !(argv[2][0] == 'x' ? parse_u64(argv[2] + 1, &rounds) : parse_f64(argv[2], &seconds))) {
		fprintf(stderr, "usage: fuzz_main TARGET SECONDS|xROUNDS FILE...\n");
		return 2;
	}
	seeds = xcalloc((size_t)argc, sizeof(*seeds));
	for (int i = 3; i < argc; i++) {
		FILE *f = fopen(argv[i], "rb"); /* not in_open: seeds may be archives */

		if (!f) {
			fprintf(stderr, "fuzz: cannot open %s\n", argv[i]);
			return 2;
		}
		seeds[n].p = xmalloc(MAX_INPUT / 2);
		seeds[n].n = fread(seeds[n].p, 1, MAX_INPUT / 2, f);
		n++;
		fclose(f);
	}
	s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return 5;
	pid = fork();
	if (!pid)
		child(t, s, seeds, n, seconds, rounds);
	if (waitpid(pid, &status, 0) != pid)
		return 4;
	for (size_t i = 0; i < n; i++)
		free(seeds[i].p);
	free(seeds);
	return verdict(t, s, status);
}

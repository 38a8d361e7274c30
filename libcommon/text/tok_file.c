/* A tokenizer's file in memory: see tok_file.h. */
#include "text/tok_file.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/in.h"

#define TOKENIZER_MAX (512u << 20)

bool tok_file_is_ranks(const char *s, size_t n)
{
	size_t i = 0;

	while (i < n && (isalnum((unsigned char)s[i]) || s[i] == '+' || s[i] == '/' || s[i] == '='))
		i++;
	return i && i + 1 < n && s[i] == ' ' && isdigit((unsigned char)s[i + 1]);
}

/* Not mapped: what is packed, a pipe, and whatever goes wrong; reading says why. */
static bool map_plain(struct tok_file *f, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char head[64]; /* what is packed begins otherwise */
	ssize_t n;

	if (fd < 0)
		return false;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= TOKENIZER_MAX && (n = pread(fd, head, sizeof(head), 0)) > 0 &&
	    (head[0] == '{' || tok_file_is_ranks(head, (size_t)n))) {
		f->map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
		if (f->map == MAP_FAILED)
			f->map = NULL;
	}
	close(fd);
	f->text = f->map;
	f->len = f->map ? (size_t)st.st_size : 0;
	return f->map != NULL;
}

int tok_file_open(struct tok_file *f, const char *path, struct err *e)
{
	memset(f, 0, sizeof(*f));
	if (map_plain(f, path))
		return 0;
	f->copy = in_slurp(path, TOKENIZER_MAX, &f->len, e);
	f->text = f->copy;
	return f->copy ? 0 : -1;
}

void tok_file_close(struct tok_file *f)
{
	if (f->map)
		munmap(f->map, f->len);
	free(f->copy);
	memset(f, 0, sizeof(*f));
}

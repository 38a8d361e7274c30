/* Checkpoints by name: OUTPUT.step-N beside OUTPUT. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/num.h"
#include "base/xalloc.h"
#include "train/checkpoint.h"

/* state.safetensors goes first: without it a directory is no checkpoint, so one that is half removed does not count. */
static const char *const files[] = { "state.safetensors", "adapter_config.json", "adapter_model.safetensors", "lorapipe.json",
	/* of a trained model, beside its shards */
	"config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
	"special_tokens_map.json", "added_tokens.json", "tokenizer.model" };
enum { N_FILES = sizeof(files) / sizeof(*files) };

char *checkpoint_path(const char *out, int64_t step)
{
	size_t n = strlen(out);

	while (n > 1 && out[n - 1] == '/')
		n--;
	return xasprintf("%.*s.step-%lld", (int)n, out, (long long)step);
}

/* The directory that out is in, and its name there, both allocated. */
static void split(const char *out, char **dir, char **name)
{
	char *path = checkpoint_path(out, 0);
	const char *slash = strrchr(path, '/');

	path[strlen(path) - strlen(".step-0")] = 0;
	*dir = slash ? xmemdup0(path, slash == path ? 1 : (size_t)(slash - path)) : xstrdup(".");
	*name = xstrdup(slash ? slash + 1 : path);
	free(path);
}

static int newest_first(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

/* NAME.step-N, and it holds a state. */
static bool is_checkpoint(const char *out, const char *entry, const char *name, int64_t *step)
{
	size_t n = strlen(name);
	char *path, *state;
	bool there;

	if (strncmp(entry, name, n) != 0 || strncmp(entry + n, ".step-", 6) != 0 || !parse_i64(entry + n + 6, step) || *step < 0)
		return false;
	path = checkpoint_path(out, *step);
	state = xasprintf("%s/%s", path, files[0]);
	there = access(state, F_OK) == 0;
	free(state);
	free(path);
	return there;
}

int64_t *checkpoint_list(const char *out, size_t *n)
{
	char *dir, *name;
	size_t cap = 0;
	int64_t *steps = NULL, step;
	const struct dirent *de;
	DIR *d;

	*n = 0;
	split(out, &dir, &name);
	d = opendir(dir);
	while (d && (de = readdir(d)))
		if (is_checkpoint(out, de->d_name, name, &step)) {
			steps = xgrow(steps, &cap, *n + 1, sizeof(*steps));
			steps[(*n)++] = step;
		}
	if (d)
		closedir(d);
	if (*n)
		qsort(steps, *n, sizeof(*steps), newest_first);
	free(dir);
	free(name);
	return steps;
}

/* "model-00001-of-00003.safetensors" */
static bool is_shard(const char *name)
{
	unsigned i, n;
	int end = 0;

	return sscanf(name, "model-%5u-of-%5u.safetensors%n", &i, &n, &end) == 2 && end && !name[end];
}

/* The directory's files whose names are such. */
static void remove_such(const char *dir, bool (*such)(const char *name))
{
	const struct dirent *de;
	DIR *d = opendir(dir);

	while (d && (de = readdir(d)))
		if (such(de->d_name)) {
			char *path = xasprintf("%s/%s", dir, de->d_name);

			unlink(path);
			free(path);
		}
	if (d)
		closedir(d);
}

void checkpoint_remove_dir(const char *dir)
{
	for (int i = 0; i < N_FILES; i++) {
		char *path = xasprintf("%s/%s", dir, files[i]);

		unlink(path);
		free(path);
	}
	remove_such(dir, is_shard);
	rmdir(dir);
}

void checkpoint_remove(const char *out, int64_t step)
{
	char *dir = checkpoint_path(out, step);

	checkpoint_remove_dir(dir);
	free(dir);
}

void checkpoint_prune(const char *out, int64_t keep)
{
	size_t n;
	int64_t *steps = checkpoint_list(out, &n);

	for (size_t i = (size_t)keep; i < n; i++)
		checkpoint_remove(out, steps[i]);
	free(steps);
}

/* The process that ".NAME.step-N.PID.I.tmp" belongs to (base/out_temp.c), or 0 when entry is no such name. */
static long owner_of(const char *entry, const char *name)
{
	size_t n = strlen(name);
	long long step;
	long pid;
	unsigned i;
	int end = 0;

	if (entry[0] != '.' || strncmp(entry + 1, name, n) != 0)
		return 0;
	if (sscanf(entry + 1 + n, ".step-%lld.%ld.%u.tmp%n", &step, &pid, &i, &end) != 3 || !end || entry[1 + n + (size_t)end])
		return 0;
	return pid;
}

/* ".NAME.PID.I.tmp": an interrupted file of the directory is a temporary of its own. */
static bool is_temporary(const char *name)
{
	size_t n = strlen(name);

	return name[0] == '.' && n > 4 && strcmp(name + n - 4, ".tmp") == 0;
}

void checkpoint_sweep(const char *out)
{
	char *dir, *name;
	const struct dirent *de;
	DIR *d;

	split(out, &dir, &name);
	d = opendir(dir);
	while (d && (de = readdir(d))) {
		long pid = owner_of(de->d_name, name);

		if (pid > 0 && kill((pid_t)pid, 0) < 0 && errno == ESRCH) {
			char *path = xasprintf("%s/%s", dir, de->d_name);

			remove_such(path, is_temporary);
			checkpoint_remove_dir(path);
			free(path);
		}
	}
	if (d)
		closedir(d);
	free(dir);
	free(name);
}

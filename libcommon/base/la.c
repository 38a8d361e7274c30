#include "base/la.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

static struct la la;
static bool loaded;

static void load(void)
{
	static const char *const names[] = { "libarchive.so.13", "libarchive.so" };
	void *so = NULL;

	for (size_t i = 0; i < 2 && !so; i++)
		so = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	if (!so)
		return;
	loaded = true;
	/* POSIX has dlsym's object pointer hold a function's address */
#define LA_RESOLVE(f)                      \
	*(void **)&la.f = dlsym(so, #f);   \
	loaded = loaded && la.f != NULL;
	LA_FUNCTIONS(LA_RESOLVE)
#undef LA_RESOLVE
}

const struct la *la_load(const char *path, struct err *e)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load);
	if (loaded)
		return &la;
	err_off(e, LP_IO, path, -1, "is compressed or packed, and libarchive.so.13 cannot be loaded; install libarchive13, or unpack it first");
	return NULL;
}

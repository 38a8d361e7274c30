/* Internal to in*.c: libarchive, loaded when a packed input is met. Linking it
 * would cost every start of every program 3 ms (it brings libxml2 and ICU). */
#ifndef LP_BASE_LA_H
#define LP_BASE_LA_H

#include <archive.h>
#include <archive_entry.h>

#include "base/err.h"

#define LA_FUNCTIONS(X)                                                                          \
	X(archive_entry_filetype) X(archive_entry_pathname) X(archive_errno) X(archive_error_string) \
	X(archive_filter_bytes) X(archive_filter_count) X(archive_format) X(archive_read_data)       \
	X(archive_read_data_skip) X(archive_read_free) X(archive_read_new) X(archive_read_next_header) \
	X(archive_read_open) X(archive_read_open_fd) X(archive_read_support_filter_bzip2)            \
	X(archive_read_support_filter_xz) X(archive_read_support_filter_zstd)                        \
	X(archive_read_support_format_empty) X(archive_read_support_format_raw)                      \
	X(archive_read_support_format_tar) X(archive_read_support_format_zip)                        \
	X(archive_read_support_format_zip_streamable) X(archive_set_error)

#ifdef __cplusplus
#define LA_FIELD(f) __typeof__(::f) *f;
#else
#define LA_FIELD(f) __typeof__(f) *f;
#endif
struct la {
	LA_FUNCTIONS(LA_FIELD)
#undef LA_FIELD
};

/* NULL and *e when the library is not there. Never unloaded. */
const struct la *la_load(const char *path, struct err *e) LP_MUST_USE;

#endif

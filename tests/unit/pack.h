/* For the tests of inputs: packs bytes with libarchive's writer. */
#ifndef LP_TESTS_PACK_H
#define LP_TESTS_PACK_H

#include <archive.h>
#include <archive_entry.h>
#include <string.h>

struct packed_file {
	const char *name, *data;
	size_t n;
};

/* filter: "gzip", "zstd", "xz", "bzip2" or NULL; format: "ustar", "pax", "zip" or
 * "raw" (the first file alone). Returns the number of bytes in buf. */
static inline size_t pack(char *buf, size_t cap, const char *filter, const char *format, const struct packed_file *f, size_t n)
{
	struct archive *a = archive_write_new();
	size_t used = 0;

	ck_assert_int_eq(archive_write_set_format_by_name(a, format), ARCHIVE_OK);
	if (filter)
		ck_assert_int_eq(archive_write_add_filter_by_name(a, filter), ARCHIVE_OK);
	archive_write_set_bytes_per_block(a, 0);
	ck_assert_int_eq(archive_write_open_memory(a, buf, cap, &used), ARCHIVE_OK);
	for (size_t i = 0; i < n; i++) {
		struct archive_entry *e = archive_entry_new();

		archive_entry_set_pathname(e, f[i].name);
		archive_entry_set_filetype(e, AE_IFREG);
		archive_entry_set_perm(e, 0644);
		archive_entry_set_size(e, (la_int64_t)f[i].n);
		ck_assert_int_eq(archive_write_header(a, e), ARCHIVE_OK);
		ck_assert_int_eq(archive_write_data(a, f[i].data, f[i].n), (la_ssize_t)f[i].n);
		archive_entry_free(e);
	}
	ck_assert_int_eq(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
	return used;
}

#endif

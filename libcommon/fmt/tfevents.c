/* The wire format of protocol buffers is used directly: three messages of a few
 * fields (event.proto, summary.proto), a field being (number << 3 | type), then its value. */
#include "fmt/tfevents.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/num.h"
#include "base/xalloc.h"

enum { VARINT = 0, EIGHT_BYTES = 1, BYTES = 2, FOUR_BYTES = 5 };

uint32_t crc32c(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint32_t crc = ~0u;

	for (size_t i = 0; i < n; i++) {
		crc ^= b[i];
		for (int k = 0; k < 8; k++)
			crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1)));
	}
	return ~crc;
}

static void add_u32(struct sb *out, uint32_t v)
{
	uint8_t b[4];

	put_u32(b, v);
	sb_add(out, b, sizeof(b));
}

static void add_u64(struct sb *out, uint64_t v)
{
	uint8_t b[8];

	put_u64(b, v);
	sb_add(out, b, sizeof(b));
}

static void add_varint(struct sb *out, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		sb_addc(out, (char)(v | 0x80));
	sb_addc(out, (char)v);
}

static void add_field(struct sb *out, unsigned number, unsigned type)
{
	add_varint(out, number << 3 | type);
}

static void add_bytes(struct sb *out, unsigned number, const void *p, size_t n)
{
	add_field(out, number, BYTES);
	add_varint(out, n);
	sb_add(out, p, n);
}

/* A CRC over data that holds CRCs is a weak one: they are turned and shifted. */
static uint32_t masked(const void *p, size_t n)
{
	uint32_t crc = crc32c(p, n);

	return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* Releases event. */
static void add_record(struct sb *out, struct sb *event)
{
	uint8_t length[8];

	put_u64(length, event->len);
	sb_add(out, length, sizeof(length));
	add_u32(out, masked(length, sizeof(length)));
	sb_add(out, event->s, event->len);
	add_u32(out, masked(event->s, event->len));
	sb_release(event);
}

static void begin_event(struct sb *event, double time, int64_t step)
{
	uint64_t bits;

	memcpy(&bits, &time, sizeof(bits));
	add_field(event, 1, EIGHT_BYTES); /* wall_time */
	add_u64(event, bits);
	if (step) {
		add_field(event, 2, VARINT);
		add_varint(event, (uint64_t)step);
	}
}

void tfevents_version(struct sb *out, double time)
{
	struct sb event = SB_INIT;

	begin_event(&event, time, 0);
	add_bytes(&event, 3, "brain.Event:2", 13);
	add_record(out, &event);
}

void tfevents_start(struct sb *out, double time, int64_t step)
{
	static const char start[] = { 1 << 3 | VARINT, 1 }; /* SessionLog: status START */
	struct sb event = SB_INIT;

	begin_event(&event, time, step);
	add_bytes(&event, 7, start, sizeof(start));
	add_record(out, &event);
}

void tfevents_scalar(struct sb *out, double time, int64_t step, const char *tag, double value)
{
	struct sb event = SB_INIT, summary = SB_INIT, v = SB_INIT;
	float f = (float)value;
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	add_bytes(&v, 1, tag, strlen(tag));
	add_field(&v, 2, FOUR_BYTES); /* simple_value */
	add_u32(&v, bits);
	add_bytes(&summary, 1, v.s, v.len);
	begin_event(&event, time, step);
	add_bytes(&event, 5, summary.s, summary.len);
	add_record(out, &event);
	sb_release(&v);
	sb_release(&summary);
}

/* --- the file --- */

struct tfevents {
	int fd;
	char *path;
};

struct tfevents *tfevents_open(const char *dir, struct err *e)
{
	struct tfevents *t;
	struct sb first = SB_INIT;
	char host[128] = "host";
	char *path;
	int fd, rc;

	if (mkdir(dir, 0777) && errno != EEXIST) {
		err_sys(e, dir, "create the folder");
		return NULL;
	}
	gethostname(host, sizeof(host) - 1);
	path = xasprintf("%s/events.out.tfevents.%010lld.%s.%ld", dir, (long long)time(NULL), host, (long)getpid());
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0) {
		err_sys(e, path, "open");
		free(path);
		return NULL;
	}
	t = xcalloc(1, sizeof(*t));
	t->fd = fd;
	t->path = path;
	tfevents_version(&first, (double)time(NULL));
	rc = tfevents_put(t, &first, e);
	sb_release(&first);
	if (rc == 0)
		return t;
	close(t->fd);
	free(t->path);
	free(t);
	return NULL;
}

int tfevents_put(struct tfevents *t, const struct sb *records, struct err *e)
{
	for (size_t done = 0; done < records->len;) {
		ssize_t k = write(t->fd, records->s + done, records->len - done);

		if (k > 0)
			done += (size_t)k;
		else if (k < 0 && errno != EINTR)
			return err_sys(e, t->path, "write");
	}
	return 0;
}

int tfevents_close(struct tfevents *t, struct err *e)
{
	int bad = 0;

	if (!t)
		return 0;
	if (close(t->fd))
		bad = err_sys(e, t->path, "close");
	free(t->path);
	free(t);
	return bad;
}

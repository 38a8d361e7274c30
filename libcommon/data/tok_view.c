/* Views of token sequences: see tok_view.h. */
#include "data/tok_view.h"

#include "json/json.h"

static void head(struct jw *w, int64_t record, const char *side)
{
	jw_obj(w);
	jw_key(w, "record");
	jw_i64(w, record);
	if (side) {
		jw_key(w, "side");
		jw_str(w, side);
	}
}

void tok_view_lines(const struct tok *t, const int32_t *ids, const uint8_t *mask, size_t n, int64_t record, const char *side, struct sb *out)
{
	struct sb piece = SB_INIT;

	for (size_t i = 0; i < n; i++) {
		struct jw w = jw_to(out);

		head(&w, record, side);
		jw_key(&w, "pos");
		jw_i64(&w, (int64_t)i);
		jw_key(&w, "id");
		jw_i64(&w, ids[i]);
		jw_key(&w, "piece");
		sb_reset(&piece);
		if (tok_show_piece(t, ids[i], &piece))
			jw_strn(&w, sb_str(&piece), piece.len);
		else
			jw_null(&w);
		jw_key(&w, "mask");
		jw_i64(&w, mask[i]);
		jw_end_obj(&w);
		sb_addc(out, '\n');
	}
	sb_release(&piece);
}

void tok_view_count(int64_t record, const char *side, size_t tokens, size_t targets, struct sb *out)
{
	struct jw w = jw_to(out);

	head(&w, record, side);
	jw_key(&w, "tokens");
	jw_i64(&w, (int64_t)tokens);
	jw_key(&w, "targets");
	jw_i64(&w, (int64_t)targets);
	jw_end_obj(&w);
	sb_addc(out, '\n');
}

/* Where each token's text ends in the decoded whole: decoding of longer and
 * longer beginnings is quadratic, so only the ends that are asked for. */
static int text_len(const struct tok *t, const int32_t *ids, size_t n, struct sb *tmp, size_t *len, struct err *e)
{
	sb_reset(tmp);
	if (tok_decode(t, ids, n, false, tmp, e))
		return -1;
	*len = tmp->len;
	return 0;
}

/* Printed as it is, except what would drive the terminal. */
static void add_shown(struct sb *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];

		if ((c < 32 && c != '\n' && c != '\t') || c == 127)
			sb_addf(out, "\\x%02x", (unsigned)c);
		else
			sb_addc(out, s[i]);
	}
}

int tok_view_colour(const struct tok *t, const int32_t *ids, const uint8_t *mask, size_t n, int64_t record, const char *side, struct sb *out, struct err *e)
{
	struct sb tmp = SB_INIT;
	size_t at = 0, end, j;
	int rc = 0;

	sb_addf(out, "\033[1m-- record %lld%s%s, %zu tokens --\033[0m\n", (long long)record, side ? ", " : "", side ? side : "", n);
	for (size_t i = 0; i < n && !rc; i = j, at = end) { /* runs of one colour */
		for (j = i + 1; j < n && mask[j] == mask[i]; j++)
			;
		rc = text_len(t, ids, j, &tmp, &end, e);
		if (rc)
			break;
		sb_adds(out, mask[i] ? "\033[32m" : "\033[2m");
		add_shown(out, sb_str(&tmp) + (at < end ? at : end), at < end ? end - at : 0);
		sb_adds(out, "\033[0m");
	}
	sb_addc(out, '\n');
	sb_release(&tmp);
	return rc;
}

int tok_view_record(const struct tok *t, const int32_t *ids, const uint8_t *mask, size_t n, int64_t record, const char *side, struct sb *out, struct err *e)
{
	struct sb text = SB_INIT, tmp = SB_INIT, spans = SB_INIT;
	struct jw w = jw_to(out), sw = jw_to(&spans);
	size_t whole, b = 0, end = 0, j;
	int rc = tok_decode(t, ids, n, false, &text, e);

	whole = utf8_complete_len(sb_str(&text), text.len);
	if (whole < text.len) {
		text.len = whole;
		sb_adds(&text, "\xEF\xBF\xBD");
	}
	jw_arr(&sw);
	for (size_t i = 0; i < n && !rc; i = j) {
		for (j = i + 1; j < n && mask[j] == mask[i]; j++)
			;
		if (!mask[i])
			continue;
		rc = text_len(t, ids, i, &tmp, &b, e) || text_len(t, ids, j, &tmp, &end, e) ? -1 : 0;
		end = end < text.len ? end : text.len;
		while (b && b < text.len && ((unsigned char)text.s[b] & 0xC0) == 0x80)
			b--; /* the character that the first target finishes */
		while (end && end < text.len && ((unsigned char)text.s[end] & 0xC0) == 0x80)
			end--;
		if (rc || b >= end)
			continue;
		jw_arr(&sw);
		jw_i64(&sw, (int64_t)b);
		jw_i64(&sw, (int64_t)end);
		jw_end_arr(&sw);
	}
	jw_end_arr(&sw);
	if (!rc) {
		head(&w, record, side);
		jw_key(&w, "text");
		jw_strn(&w, sb_str(&text), text.len);
		jw_key(&w, "spans");
		jw_raw(&w, sb_str(&spans), spans.len);
		jw_end_obj(&w);
		sb_addc(out, '\n');
	}
	sb_release(&text);
	sb_release(&tmp);
	sb_release(&spans);
	return rc;
}

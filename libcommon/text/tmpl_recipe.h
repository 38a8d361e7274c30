/* What tmpl_recipe.c and tmpl_hole.c share. */
#ifndef LP_TEXT_TMPL_RECIPE_H
#define LP_TEXT_TMPL_RECIPE_H

#include "text/tmpl_hole.h"
#include "text/tmpl_impl.h"

struct str {
	const char *s;
	size_t n;
};
/* A hole, or another slice stripped. */
struct slice {
	uint32_t of, hole;      /* the slice it is cut from; the hole at its root */
	bool left, right;       /* which ends are stripped */
	bool space;             /* of all white space, else of chars */
	bool needed;
	uint32_t chars, n_chars; /* in text */
};
enum guard_kind { GUARD_STARTS, GUARD_ENDS, GUARD_CONTAINS, GUARD_EQUALS };
struct guard {
	enum guard_kind kind;
	bool yes;
	uint32_t slice, at, n; /* the text asked for is text[at, at + n) */
};
#define NO_SLICE UINT32_MAX
struct recipe_piece {
	uint32_t slice, at, n; /* NO_SLICE: a constant, text[at, at + n) */
	size_t begin;          /* in the text of the last run */
};
struct recipe_gen { /* a generation block: pieces [begin, end) */
	size_t begin, end;
};
struct tmpl_recipe {
	size_t n_holes;
	struct slice *slice; /* the holes themselves, then what was cut from them, each behind its source */
	size_t n_slice, cap_slice;
	struct str *val;     /* their values: while the recipe is made, and of the last run */
	size_t cap_val;
	struct guard *guard;
	size_t n_guard, cap_guard;
	struct recipe_piece *piece;
	size_t n_piece, cap_piece, n_const; /* n_const: bytes of the constants together */
	struct recipe_gen *gen;
	size_t n_gen;
	struct sb text;      /* the bytes of all constants */
	bool looked;         /* the template looked into a hole */
};

/* The slice that the mark at s stands for; SIZE_MAX: no mark there. */
size_t mark_at(const char *s, size_t n);
uint32_t recipe_keep(struct tmpl_recipe *p, const char *s, size_t n); /* into text */
struct str slice_cut(const struct tmpl_recipe *p, const struct slice *x, struct str s);
bool guard_holds(const struct guard *g, const char *what, struct str s);
/* tmpl_render over variables with marks, watched for p. */
int tmpl_render_marks(const struct tmpl *t, const struct json *vars, int64_t now, const struct tmpl_limits *l, struct tmpl_recipe *p, struct tmpl_render *out, struct err *e) LP_MUST_USE;

#endif

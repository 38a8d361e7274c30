/* Recipes: a rendering kept as constants and pieces of some strings of the
 * variables (the holes), to be repeated for other strings without the engine.
 *
 * The template is run once over variables in which each hole is a mark instead
 * of its text. Whatever only copies, joins, strips or prints a hole moves its
 * mark along, and the text that comes out is the recipe. Questions with a yes
 * or no answer ("</think>" in content) are answered for the strings at hand
 * and kept as guards: the recipe serves strings that answer alike. Anything
 * else that looks into a hole makes the recipe impossible. */
#ifndef LP_TEXT_TMPL_HOLE_H
#define LP_TEXT_TMPL_HOLE_H

#include "text/tmpl.h"

#define TMPL_MARK_BYTES 8
#define TMPL_MAX_HOLES 4096
/* The text that stands for hole k in the variables. */
void tmpl_mark(size_t k, char out[TMPL_MARK_BYTES]);
/* Does s hold what might be a mark? Variables that do cannot be used here. */
bool tmpl_has_mark(const char *s, size_t n);

/* holes: the strings at hand, each with a character that is not white space (and
 * so has every string that the recipe is run on); vars: the variables with marks in their places.
 * Everything else in vars is part of the recipe. NULL: there is none. work: memory. */
struct tmpl_recipe;
struct tmpl_recipe *tmpl_recipe_new(const struct tmpl *t, const struct json *vars, const struct tmpl_watch *holes, size_t n_holes, int64_t now, struct tmpl_render *work);
/* Renders: text, generation blocks, and where each hole went (begin and end of holes). False: a guard does not hold. */
bool tmpl_recipe_run(struct tmpl_recipe *p, struct tmpl_watch *holes, struct tmpl_render *out);
size_t tmpl_recipe_bytes(const struct tmpl_recipe *p); /* of memory, about */
void tmpl_recipe_free(struct tmpl_recipe *p);

#endif

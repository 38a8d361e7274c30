/* What the files of the template engine share; nobody else includes it.
 *
 *   tmpl_lex    text -> tokens            tmpl_parse, tmpl_expr  tokens -> nodes
 *   tmpl_scope  names -> slots            tmpl_exec, tmpl_eval   nodes -> text
 *   tmpl_value  values, text forms        tmpl_ops   operators, attributes, items
 *   tmpl_iter   iteration, lazy filters   tmpl_filters*, tmpl_tests, tmpl_methods*, tmpl_globals
 *   tmpl_format % and str.format          tmpl_json  tojson      tmpl_uni   Unicode as Python's str
 *
 * A value is 16 bytes and is passed by value; V_ERR says that the error was
 * set. Everything a rendering makes lives in one arena, dropped as a whole. */
#ifndef LP_TEXT_TMPL_IMPL_H
#define LP_TEXT_TMPL_IMPL_H

#include <string.h>

#include "base/arena.h"
#include "text/tmpl.h"

enum vtype {
	V_ERR,     /* an error was set in rt->e */
	V_MISSING, /* a variable or argument that was never given */
	V_UNDEF, V_NONE, V_BOOL, V_INT, V_BIG /* decimal text beyond 64 bits: carried, not computed with */,
	V_FLOAT, V_STR, V_LIST, V_TUPLE, V_DICT, V_JARR /* list over input JSON */, V_JOBJ /* dict over input JSON */,
	V_RANGE, V_VIEW, V_ITER, V_NS, V_MACRO, V_FUNC, V_METHOD, V_LOOP, V_CYCLER, V_JOINER, V_SELF, V_SLICE
};

enum undef_kind { U_NAME, U_ATTR, U_ELEM, U_HINT, U_UNSAFE };
#define STR_MARKUP 1  /* val.f of a string: Markup, escapes what is added to it */
#define TUPLE_GROUP 1 /* val.f of a tuple that groupby made: it has .grouper and .list */

struct rt;
struct val {
	uint8_t t;    /* enum vtype */
	uint8_t f;    /* STR: STR_MARKUP; UNDEF: enum undef_kind */
	uint16_t aux; /* UNDEF: type of the object that lacked it */
	uint32_t n;   /* STR, BIG: bytes; LIST, TUPLE: items; UNDEF: bytes of the name */
	union {
		int64_t i;
		double d;
		const char *s; /* not NUL-terminated */
		const struct val *l;
		const struct dict *dict;
		const struct json *j;
		const struct range *range;
		const struct view *view;
		struct iter *iter;
		struct ns *ns;
		const struct macro *macro;
		const struct builtin *fn;
		const struct bound *bound;
		struct loop *loop;
		struct cycler *cycler;
		struct joiner *joiner;
		const struct val *slice; /* start, stop, step */
	};
};

struct pair {
	struct val k, v;
};
struct dict { /* never changes once it is reachable */
	uint32_t n, cap;
	struct pair *p;
	uint32_t *idx, n_idx; /* hash index, made beyond DICT_LINEAR pairs */
};
struct range {
	int64_t start, stop, step, len;
};
enum view_kind { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };
struct view {
	enum view_kind kind;
	const struct dict *d;
};
struct ns { /* the only thing a template can change */
	uint32_t n, cap;
	struct pair *p;
};
struct env {
	struct env *up;
	struct val v[];
};
struct macro {
	const struct func *fn;
	struct env *env; /* where it was defined */
};
struct cycler {
	const struct val *items;
	uint32_t n, pos;
};
struct joiner {
	struct val sep;
	bool used;
};

/* --- calls --- */
struct kwarg {
	struct val key; /* a string */
	struct val v;
};
struct args {
	const struct val *pos;
	const struct kwarg *kw;
	uint32_t n_pos, n_kw;
};
typedef struct val (*builtin_fn)(struct rt *r, struct val self, const struct args *a);
struct builtin {
	const char *name;
	builtin_fn fn;
};
struct method {
	const char *name;
	uint32_t types; /* bit (1 << vtype) */
	builtin_fn fn;  /* NULL: would change the object; refused */
};
struct bound {
	struct val self;
	const struct method *m;
};

/* --- the compiled form --- */
enum node_kind {
	E_CONST, E_NAME, E_NSREF, E_LIST, E_TUPLE, E_DICT, E_BIN, E_AND, E_OR, E_NOT, E_NEG, E_POS, E_CONCAT, E_CMP,
	E_ATTR, E_ITEM, E_SLICE, E_CALL, E_FILTER, E_TEST, E_COND,
	S_DATA, S_PRINT, S_IF, S_FOR, S_SET, S_SETBLOCK, S_MACRO, S_CALLBLOCK, S_FILTERBLOCK, S_WITH, S_BREAK, S_CONTINUE,
	S_GENERATION, S_BLOCK, S_AUTOESCAPE, S_NOLOADER
};
enum op { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOTIN };
enum name_use { USE_LOAD, USE_STORE, USE_PARAM };

struct node;
struct list_of_nodes {
	struct node **v;
	uint32_t n, cap;
};
#define UP_CTX UINT32_MAX /* ref.up: a variable of the caller or a global */
struct ref {
	uint32_t up, idx;
};
enum load_kind { LOAD_MISSING, LOAD_COPY };
struct load { /* done on entering a scope */
	enum load_kind kind;
	uint32_t slot;
	struct ref from;
};
struct loads {
	struct load *v;
	uint32_t n;
};
struct call { /* arguments of a call, filter or test */
	struct list_of_nodes pos;
	struct val *names; /* keyword names, for kw.v[i] */
	struct list_of_nodes kw;
	struct node *star, *starstar;
};
struct func { /* a macro, or the body of a call or generation block */
	struct val name;         /* V_NONE for call blocks */
	uint32_t id, depth, n_slots, n_args;
	struct node **args;      /* E_NAME, USE_PARAM */
	struct node **defaults;  /* the last n_defaults arguments' */
	uint32_t n_defaults;
	uint32_t caller, kwargs, varargs; /* slot + 1 of the special parameters in use, 0: none */
	bool explicit_caller;    /* "caller" is a named argument */
	bool captured;           /* something defined inside may outlive the call */
	struct loads loads;
	struct list_of_nodes body;
};
struct loop_info {
	struct node *target, *iter, *test;
	struct list_of_nodes body, orelse;
	bool recursive, extended, has_else;
	uint32_t loop_slot;
	struct loads loads, test_loads, else_loads;
	struct node *test_target; /* target again, in the test's scope */
	struct func *fn;          /* recursive loops only */
};
struct node {
	uint8_t k;    /* enum node_kind */
	uint8_t op;   /* enum op; name_use of a name; flag of others */
	uint8_t soft; /* filters and tests inside "if": unknown is an error only when run */
	uint16_t depth; /* height of the tree below: bounded */
	uint32_t line;
	struct val c;  /* constant, name, text */
	struct ref ref;
	struct node *a, *b, *d;
	struct list_of_nodes list, list2; /* children; IF: body and else, WITH: targets and values */
	const void *impl;  /* builtin of a filter or test; first method of an attribute name */
	struct call *call;
	struct loop_info *loop;
	struct func *fn;
	struct loads loads;
};

struct tmpl {
	struct arena arena;
	char *name;
	struct func root;
	struct val *ctx_names; /* variables looked up once, at the start */
	const struct builtin **ctx_globals; /* the global function of that name, or NULL */
	uint32_t n_ctx, cap_ctx;
	uint32_t n_funcs;
	struct node **blocks;
	uint32_t n_blocks;
	bool has_generation;
	bool has_mark; /* a constant holds what stands for a hole: no recipes */
};

/* --- compile time --- */
enum tok_type {
	T_EOF, T_DATA, T_BLOCK_BEGIN, T_BLOCK_END, T_VAR_BEGIN, T_VAR_END, T_NAME, T_STRING, T_INT, T_FLOAT,
	T_ADD, T_SUB, T_MUL, T_DIV, T_FLOORDIV, T_MOD, T_POW, T_TILDE, T_LBRACKET, T_RBRACKET, T_LPAREN, T_RPAREN,
	T_LBRACE, T_RBRACE, T_EQ, T_NE, T_GT, T_GE, T_LT, T_LE, T_ASSIGN, T_DOT, T_COLON, T_PIPE, T_COMMA, T_SEMICOLON
};
struct tok_item {
	enum tok_type type;
	uint32_t line;
	struct val v;
};
struct tok_list {
	struct tok_item *v; /* ends with T_EOF; free() it */
	size_t n, cap;
};
/* The texts of tokens live in a. */
int tmpl_lex(const char *src, size_t len, const char *name, struct arena *a, struct tok_list *out, struct err *e) LP_MUST_USE;

struct parser {
	struct tmpl *t;
	struct arena *a;
	const struct tok_item *tok; /* the current one */
	const char *name;
	int depth;
	const char *tags[64]; /* open blocks, for messages */
	int n_tags;
	int loops;            /* loops around, inside this function body */
	struct err *e;
};
int parse_fail(struct parser *p, uint32_t line, const char *fmt, ...) LP_PRINTF(3, 4);
struct node *node_new(struct parser *p, enum node_kind k, uint32_t line);
struct node *node_sized(struct parser *p, struct node *n); /* bounds the height; NULL: too deep */
void nodes_add(struct arena *a, struct list_of_nodes *l, struct node *n);
bool tok_is_name(const struct tok_item *t, const char *name);
int tok_expect(struct parser *p, enum tok_type type);
int tok_expect_name(struct parser *p, const char *name);
bool tok_skip_name(struct parser *p, const char *name);
const char *tok_text(const struct tok_item *t, char buf[64]);
enum { TUP_SIMPLE = 1, TUP_NO_COND = 2, TUP_PAREN = 4, TUP_NS = 8, TUP_END_IN = 16, TUP_END_RECURSIVE = 32 };
struct node *parse_tuple(struct parser *p, int flags);
struct node *parse_expression(struct parser *p, bool with_cond);
struct node *parse_target(struct parser *p, int flags);
struct node *parse_filters(struct parser *p, struct node *of, bool start_inline);
int tmpl_parse(struct parser *p, struct list_of_nodes *body) LP_MUST_USE;
int tmpl_scope(struct tmpl *t, const char *name, struct err *e) LP_MUST_USE;

const struct builtin *filter_find(const char *s, size_t n);
const struct builtin *test_find(const char *s, size_t n);
const struct method *method_find(const char *s, size_t n); /* first of that name */
const struct method *method_for(const struct method *m, uint8_t type); /* the one of this type, or NULL */
const struct builtin *global_find(const char *s, size_t n);

/* --- run time --- */
struct rt {
	const struct tmpl *t;
	struct arena *a;
	struct sb *out;
	struct tmpl_render *render;
	struct err *e;
	uint64_t steps, max_steps;
	size_t max_output, max_memory;
	int depth, max_depth;
	const char *stack; /* address near the start, to bound recursion */
	uint32_t line;
	struct env *env;
	struct val *ctx;
	struct env **free_env; /* by func.id: frames that can be used again */
	int64_t now;
	const struct json *vars;
	bool weighed;          /* max_steps has been raised for the size of vars */
	int captures;          /* nested output captures */
	size_t root_len;       /* output length where the outermost capture began */
	bool autoescape;
	bool in_turn;          /* inside a loop's turn that is noted (struct tmpl_turn) */
	struct tmpl_recipe *holes; /* set while a recipe is made (tmpl_hole.h) */
	struct alias *alias; /* where watched strings are: their own places first, then copies */
	uint32_t n_alias, cap_alias;
};
struct alias {
	const char *lo, *hi;
	uint32_t watch;
};
void watch_copied(struct rt *r, const char *to, const char *from, size_t n);
void watch_printed(struct rt *r, const char *s, size_t n, size_t at);
static inline void watch_copy(struct rt *r, const char *to, const char *from, size_t n)
{
	if (r->n_alias)
		watch_copied(r, to, from, n);
}

extern const struct val val_err, val_none, val_missing, val_true, val_false;
static inline struct val val_int(int64_t i)
{
	struct val v = { .t = V_INT, .i = i };
	return v;
}
static inline struct val val_float(double d)
{
	struct val v = { .t = V_FLOAT, .d = d };
	return v;
}
static inline struct val val_bool(bool b)
{
	struct val v = { .t = V_BOOL, .i = b };
	return v;
}
static inline struct val val_str(const char *s, size_t n)
{
	struct val v = { .t = V_STR, .n = (uint32_t)n, .s = s };
	return v;
}
static inline struct val val_cstr(const char *s)
{
	return val_str(s, strlen(s));
}
static inline struct val val_list(const struct val *l, size_t n)
{
	struct val v = { .t = V_LIST, .n = (uint32_t)n, .l = l };
	return v;
}
static inline struct val val_tuple(const struct val *l, size_t n)
{
	struct val v = { .t = V_TUPLE, .n = (uint32_t)n, .l = l };
	return v;
}
static inline struct val val_dict(const struct dict *d)
{
	struct val v = { .t = V_DICT, .dict = d };
	return v;
}
static inline struct val undef_name(struct val name)
{
	struct val v = { .t = V_UNDEF, .f = U_NAME, .n = name.n, .s = name.s };
	return v;
}
struct val undef_hint(const char *text);
#define T(type) (1u << (type))
static inline bool is_type(struct val v, uint32_t types)
{
	return T(v.t) & types;
}
#define T_SEQS (T(V_LIST) | T(V_TUPLE) | T(V_JARR))
#define T_LISTS (T(V_LIST) | T(V_JARR))
#define T_DICTS (T(V_DICT) | T(V_JOBJ))
#define T_NUMS (T(V_BOOL) | T(V_INT) | T(V_BIG) | T(V_FLOAT))
#define T_INTS (T(V_BOOL) | T(V_INT))

/* Sets the error (the first one counts) and returns V_ERR. */
struct val rt_fail(struct rt *r, enum tmpl_why why, const char *fmt, ...) LP_PRINTF(3, 4);
struct val rt_undef_fail(struct rt *r, struct val undef);
int rt_out_of_steps(struct rt *r);
static inline int rt_steps(struct rt *r, uint64_t n) /* 0, or -1 when the budget is spent */
{
	r->steps += n;
	return r->steps <= r->max_steps ? 0 : rt_out_of_steps(r);
}
/* The cost of looking at a value: a step, and one more for each sixteen bytes or items that are searched. */
static inline int rt_read(struct rt *r, struct val v)
{
	return rt_steps(r, v.t == V_STR || v.t == V_JOBJ ? 1 + (v.n >> 4) : 1);
}
/* Besides, of what goes through a string character by character. */
static inline int rt_slow(struct rt *r, struct val v)
{
	return rt_steps(r, v.t == V_STR ? v.n >> 1 : 0);
}
void *rt_alloc(struct rt *r, size_t bytes); /* NULL: error set */
struct val rt_str(struct rt *r, const char *s, size_t n); /* copies */
struct val rt_take(struct rt *r, struct sb *b); /* copies, releases b */
int rt_enter(struct rt *r); /* one more level of calls */
void rt_leave(struct rt *r);

/* values */
const char *type_name(struct val v); /* as Python names the type */
struct val val_from_json(const struct json *j);
bool val_truth(struct val v);
bool val_equal(struct val a, struct val b); /* names and other small values */
bool rt_equal(struct rt *r, struct val a, struct val b); /* any values: the comparison is charged */
bool val_same(struct val a, struct val b); /* Python's "is" */
/* -1, 0, 1 in *out; false: error set */
bool val_order(struct rt *r, struct val a, struct val b, const char *op, int *out);
bool val_len(struct val v, int64_t *len); /* false: has no len() */
struct val seq_at(struct val seq, uint32_t i); /* T_SEQS, i in range */
struct dict *dict_new(struct rt *r, uint32_t cap);
bool dict_put(struct rt *r, struct dict *d, struct val k, struct val v); /* false: error set */
const struct dict *dict_of(struct rt *r, struct val v); /* T_DICTS; NULL: error set */
bool dict_get(struct val v, struct val k, struct val *out); /* T_DICTS */
bool val_hashable(struct rt *r, struct val v);
uint64_t val_hash(struct val v);
struct val val_text(struct rt *r, struct val v);       /* str(v) */
struct val val_repr(struct rt *r, struct val v);       /* repr(v) */
int text_add(struct rt *r, struct sb *b, struct val v); /* str(v) appended */
int repr_add(struct rt *r, struct sb *b, struct val v, int depth);
void repr_str(struct sb *b, const char *s, size_t n, bool ascii);
void escape_add(struct sb *b, const char *s, size_t n);
struct val val_escape(struct rt *r, struct val v); /* markupsafe.escape */
struct val markup(struct val str);
struct val str_concat(struct rt *r, struct val a, struct val b);

/* operators */
struct val op_binary(struct rt *r, enum op op, struct val a, struct val b);
struct val op_unary(struct rt *r, bool neg, struct val a);
struct val op_compare(struct rt *r, enum op op, struct val a, struct val b);
int val_contains(struct rt *r, struct val in, struct val x); /* 1, 0, -1 error */
struct val get_attr(struct rt *r, struct val obj, struct val name, const struct method *m);
struct val attr_only(struct rt *r, struct val obj, struct val name); /* without the fall back to items */
struct val get_item(struct rt *r, struct val obj, struct val key);
struct val get_slice(struct rt *r, struct val obj, struct val start, struct val stop, struct val step);
struct val attr_path(struct rt *r, struct val obj, struct val path, struct val dflt);
bool val_index(struct val v, int64_t *out); /* int or bool as an index */

/* iteration */
enum iter_kind { IT_EMPTY, IT_SEQ, IT_STR, IT_DICT, IT_RANGE, IT_REVERSED, IT_FILTERED, IT_MAP, IT_SELECT, IT_LATER, IT_LOOP };
struct iter {
	enum iter_kind kind;
	int64_t pos;              /* SEQ, DICT, RANGE: next index; STR: next byte; REVERSED: items left */
	struct val src;
	const struct dict *d;     /* DICT */
	enum view_kind view;
	struct iter *in;          /* FILTERED, MAP, SELECT: where items come from; NULL: src, not begun */
	const struct loop_info *loop; /* FILTERED: the test of a for loop */
	struct env *env;          /* FILTERED: where it is evaluated */
	const struct builtin *fn; /* MAP: filter; SELECT: test; NULL: attribute or truth alone */
	struct args args;
	struct val attr, dflt;    /* MAP, SELECT: attribute path, or V_MISSING */
	bool negate;
	/* LATER: everything is computed when the first item is asked for */
	struct val (*make)(struct rt *r, struct iter *it);
};
struct iter *iter_new(struct rt *r, enum iter_kind kind, struct val src);
static inline struct val val_iter(struct iter *it)
{
	struct val v = { .t = it ? V_ITER : V_ERR, .iter = it };
	return v;
}
struct iter *iter_of(struct rt *r, struct val v); /* NULL: error set */
int iter_next(struct rt *r, struct iter *it, struct val *out); /* 1, 0 end, -1 */
bool val_iterable(struct val v);
int vec_of(struct rt *r, struct val v, const struct val **items, uint32_t *n); /* all items at once */
struct iter *iter_reversed(struct rt *r, struct val v); /* NULL without an error: not reversible */
struct vec { /* grows in the arena */
	struct val *v;
	uint32_t n, cap;
};
bool vec_add(struct rt *r, struct vec *v, struct val x);

/* Gates (tmpl_hole.c): while a recipe is made, these stand before what could look into a string that is not to be looked into. */
struct val hole_look(struct rt *r); /* ends the recipe */
bool hole_in(struct rt *r, struct val v);
struct val hole_method(struct rt *r, const struct method *m, struct val self, const struct args *a);
struct val hole_filter(struct rt *r, const struct builtin *f, struct val v, const struct args *a);
struct val hole_test(struct rt *r, const struct builtin *f, struct val v, const struct args *a);
struct val hole_call(struct rt *r, const struct builtin *f, const struct args *a);
struct val hole_compare(struct rt *r, enum op op, struct val a, struct val b);
static inline bool is_hole(struct rt *r, struct val v)
{
	return r->holes && hole_in(r, v);
}
static inline struct val call_method(struct rt *r, const struct method *m, struct val self, const struct args *a)
{
	if (rt_read(r, self) || (a->n_pos && rt_read(r, a->pos[0])))
		return val_err;
	return r->holes ? hole_method(r, m, self, a) : m->fn(r, self, a);
}
static inline struct val call_filter(struct rt *r, const struct builtin *f, struct val v, const struct args *a)
{
	if (rt_read(r, v))
		return val_err;
	return r->holes ? hole_filter(r, f, v, a) : f->fn(r, v, a);
}
static inline struct val call_test(struct rt *r, const struct builtin *f, struct val v, const struct args *a)
{
	if (rt_read(r, v))
		return val_err;
	return r->holes ? hole_test(r, f, v, a) : f->fn(r, v, a);
}

/* evaluation */
struct val eval(struct rt *r, const struct node *n);
struct val call_value(struct rt *r, struct val f, const struct args *a);
struct val call_macro(struct rt *r, const struct func *fn, struct env *up, const struct args *a);
int exec_body(struct rt *r, const struct list_of_nodes *body); /* 0, -1, or FLOW_ */
enum { FLOW_BREAK = 1, FLOW_CONTINUE = 2 };
void run_loads(struct rt *r, const struct loads *l);
int assign(struct rt *r, const struct node *target, struct val v);
struct val loop_attr(struct rt *r, struct loop *l, struct val name, bool *found);
struct val loop_call(struct rt *r, struct loop *l, const struct args *a);
int64_t loop_length(struct rt *r, struct loop *l);
int loop_next(struct rt *r, struct loop *l, struct val *out); /* the loop's own next item: 1, 0 end, -1 */
int exec_for(struct rt *r, const struct node *n);
int exec_stmt(struct rt *r, const struct node *n);
int exec_call_block(struct rt *r, const struct node *n);
int exec_generation(struct rt *r, const struct node *n);
int run_block(struct rt *r, const struct node *n);
struct val macro_value(struct rt *r, const struct func *fn);
struct env *env_new(struct rt *r, const struct func *fn, struct env *up);
void env_drop(struct rt *r, const struct func *fn, struct env *env);
struct val block_call(struct rt *r, const struct node *block);
int rt_emit(struct rt *r, const char *s, size_t n);
struct capture {
	size_t start;
	bool outer;
};
void capture_begin(struct rt *r, struct capture *c);
struct val capture_end(struct rt *r, const struct capture *c);

/* Binds arguments to names (NULL: positional only); out[i] is V_MISSING when
 * absent. -1: error set. */
int bind_args(struct rt *r, const char *fname, const struct args *a, const char *const *names, uint32_t n_min, uint32_t n_max, struct val *out);
bool arg_int(struct rt *r, const char *fname, struct val v, int64_t *out);
bool arg_str(struct rt *r, const char *fname, struct val v);

struct val format_percent(struct rt *r, struct val fmt, struct val arg);
struct val format_str(struct rt *r, struct val fmt, const struct args *a, struct val map);
int format_value(struct rt *r, struct sb *b, struct val v, const char *spec, size_t n);
struct val json_dump(struct rt *r, struct val v, const struct args *a);
#define FILTER(name) struct val name(struct rt *r, struct val v, const struct args *a)
/* filters over sequences (tmpl_fseq.c), named in the table of tmpl_filters.c */
FILTER(f_batch);
FILTER(f_dictsort);
FILTER(f_first);
FILTER(f_groupby);
FILTER(f_items);
FILTER(f_join);
FILTER(f_last);
FILTER(f_length);
FILTER(f_list);
FILTER(f_map);
FILTER(f_max);
FILTER(f_min);
FILTER(f_reject);
FILTER(f_rejectattr);
FILTER(f_reverse);
FILTER(f_select);
FILTER(f_selectattr);
FILTER(f_slice);
FILTER(f_sort);
FILTER(f_sum);
FILTER(f_unique);
/* numbers and text (tmpl_fnum.c) */
FILTER(f_abs);
FILTER(f_filesizeformat);
FILTER(f_float);
FILTER(f_int);
FILTER(f_round);
FILTER(f_striptags);
FILTER(f_truncate);
FILTER(f_urlencode);
FILTER(f_wordcount);
FILTER(f_wordwrap);
FILTER(f_xmlattr);
struct val str_replace(struct rt *r, struct val self, struct val old, struct val by, int64_t max);
#define METHOD(name) struct val name(struct rt *r, struct val self, const struct args *a)
/* methods of other types (tmpl_globals.c) that the table in tmpl_methods.c names */
METHOD(m_copy);
METHOD(m_seq_count);
METHOD(m_seq_index);
METHOD(m_fromkeys);
METHOD(m_get);
METHOD(m_items);
METHOD(m_keys);
METHOD(m_values);
METHOD(m_is_integer);
METHOD(m_next);
METHOD(m_reset);
/* methods of str that the table or filters use from elsewhere */
METHOD(m_rsplit);
METHOD(m_partition);
METHOD(m_rpartition);
METHOD(m_find);
METHOD(m_rfind);
METHOD(m_index);
METHOD(m_rindex);
METHOD(m_count);
METHOD(m_startswith);
METHOD(m_endswith);
METHOD(m_removeprefix);
METHOD(m_removesuffix);
METHOD(m_upper);
METHOD(m_lower);
METHOD(m_capitalize);
METHOD(m_center);
METHOD(m_strip);
METHOD(m_split);
METHOD(m_splitlines);
METHOD(m_islower);
METHOD(m_isupper);
struct val time_format(struct rt *r, struct val fmt);
struct val func_namespace(struct rt *r, struct val self, const struct args *a);

/* --- Unicode as Python's str sees it (UTF-8, valid) --- */
uint32_t uni_next(const char **p, const char *end);
uint32_t uni_prev(const char *start, const char **p);
size_t uni_put(char *buf, uint32_t c); /* 1..4 bytes */
size_t uni_count(const char *s, size_t n);       /* code points */
size_t uni_offset(const char *s, size_t n, size_t cp); /* byte offset of code point cp, n when beyond */
bool uni_is_space(uint32_t c);
bool uni_is_alpha(uint32_t c);
bool uni_is_decimal(uint32_t c);
bool uni_is_digit(uint32_t c);
bool uni_is_numeric(uint32_t c);
bool uni_is_alnum(uint32_t c);
bool uni_is_printable(uint32_t c);
bool uni_is_upper(uint32_t c);
bool uni_is_lower(uint32_t c);
bool uni_is_title(uint32_t c);
bool uni_is_cased(uint32_t c);
enum uni_case { UNI_UPPER, UNI_LOWER, UNI_TITLE, UNI_FOLD };
size_t uni_map(uint32_t c, enum uni_case to, uint32_t out[3]);
void uni_case_add(struct sb *b, const char *s, size_t n, enum uni_case to); /* whole string; lower knows final sigma */
bool uni_final_sigma(const char *s, const char *p, const char *next, const char *end);
void uni_strip(const char **s, size_t *n, bool left, bool right, const char *chars, size_t n_chars, bool any_space);

#endif

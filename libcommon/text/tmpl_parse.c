/* Statements: tokens to the tree that tmpl_scope.c then gives slots to.
 * Tags are Jinja2's own, loop controls and transformers' generation. What
 * needs other templates (extends, include, import) parses, and fails when it
 * is reached: there is nothing to load from. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/tmpl_impl.h"

#define MAX_BLOCKS 60 /* open at once */
#define MAX_ELIFS 500

int parse_fail(struct parser *p, uint32_t line, const char *fmt, ...)
{
	char msg[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	if (p->e->code == LP_OK)
		err_line(p->e, LP_USAGE, p->name, line, "bad template: %s", msg);
	return -1;
}

struct node *node_new(struct parser *p, enum node_kind k, uint32_t line)
{
	struct node *n = arena_calloc(p->a, 1, sizeof(*n));

	n->k = (uint8_t)k;
	n->line = line;
	n->depth = 1;
	return n;
}

void nodes_add(struct arena *a, struct list_of_nodes *l, struct node *n)
{
	if (l->n == l->cap) {
		uint32_t cap = l->cap ? 2 * l->cap : 4;
		struct node **v = arena_alloc(a, cap * sizeof(struct node *));

		if (l->n)
			memcpy(v, l->v, l->n * sizeof(*v));
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n++] = n;
}

bool tok_is_name(const struct tok_item *t, const char *name)
{
	return t->type == T_NAME && t->v.n == strlen(name) && memcmp(t->v.s, name, t->v.n) == 0;
}

const char *tok_text(const struct tok_item *t, char buf[64])
{
	static const char *const names[] = { "end of template", "template data", "begin of statement block", "end of statement block",
		"begin of print statement", "end of print statement", "name", "string", "integer", "float", "'+'", "'-'", "'*'", "'/'",
		"'//'", "'%'", "'**'", "'~'", "'['", "']'", "'('", "')'", "'{'", "'}'", "'=='", "'!='", "'>'", "'>='", "'<'", "'<='",
		"'='", "'.'", "':'", "'|'", "','", "';'" };

	if (t->type != T_NAME)
		return names[t->type];
	snprintf(buf, 64, "'%.*s'", t->v.n > 50 ? 50 : (int)t->v.n, t->v.s);
	return buf;
}

int tok_expect(struct parser *p, enum tok_type type)
{
	char got[64], want[64];
	struct tok_item w = { .type = type };

	if (p->tok->type == type) {
		p->tok++;
		return 0;
	}
	if (type == T_NAME)
		snprintf(want, sizeof(want), "a name");
	return parse_fail(p, p->tok->line, "expected %s, got %s", type == T_NAME ? want : tok_text(&w, want), tok_text(p->tok, got));
}

int tok_expect_name(struct parser *p, const char *name)
{
	char got[64];

	if (tok_skip_name(p, name))
		return 0;
	return parse_fail(p, p->tok->line, "expected '%s', got %s", name, tok_text(p->tok, got));
}

bool tok_skip_name(struct parser *p, const char *name)
{
	if (!tok_is_name(p->tok, name))
		return false;
	p->tok++;
	return true;
}

static int subparse(struct parser *p, const char *const *ends, struct list_of_nodes *body);

/* A tag's body up to one of ends, which is left as the current token. */
static int statements(struct parser *p, const char *const *ends, struct list_of_nodes *body)
{
	if (p->tok->type == T_COLON)
		p->tok++;
	if (tok_expect(p, T_BLOCK_END) || subparse(p, ends, body))
		return -1;
	if (p->tok->type == T_EOF)
		return parse_fail(p, p->tok->line, "unexpected end of template, '%s' is missing", ends[0]);
	return 0;
}

static int body_until(struct parser *p, const char *end, struct list_of_nodes *body)
{
	const char *const ends[] = { end, NULL };

	if (statements(p, ends, body))
		return -1;
	p->tok++;
	return 0;
}

static struct node *parse_set(struct parser *p, struct node *n)
{
	if (!(n->a = parse_target(p, TUP_NS)))
		return NULL;
	if (p->tok->type == T_ASSIGN) {
		p->tok++;
		return (n->b = parse_tuple(p, 0)) ? n : NULL;
	}
	n->k = S_SETBLOCK;
	if (p->tok->type == T_PIPE && !(n->b = parse_filters(p, NULL, false)))
		return NULL;
	return body_until(p, "endset", &n->list) ? NULL : n;
}

static struct node *parse_for(struct parser *p, struct node *n)
{
	static const char *const ends[] = { "endfor", "else", NULL };
	struct loop_info *l = n->loop = arena_calloc(p->a, 1, sizeof(*l));

	if (!(l->target = parse_target(p, TUP_END_IN)) || tok_expect_name(p, "in") ||
	    !(l->iter = parse_tuple(p, TUP_NO_COND | TUP_END_RECURSIVE)))
		return NULL;
	if (tok_skip_name(p, "if") && !(l->test = parse_expression(p, true)))
		return NULL;
	l->recursive = tok_skip_name(p, "recursive");
	p->loops++;
	int rc = statements(p, ends, &l->body);
	p->loops--;
	if (rc)
		return NULL;
	if (tok_skip_name(p, "else")) {
		l->has_else = true;
		/* "break" here belongs to a loop around this one */
		int outer = p->loops;
		p->loops = l->recursive ? 0 : outer;
		rc = body_until(p, "endfor", &l->orelse);
		p->loops = outer;
		return rc ? NULL : n;
	}
	p->tok++;
	return n;
}

/* IF: a test, list body, list2 = what else: elif nodes are nested. */
static struct node *parse_if(struct parser *p, struct node *n)
{
	static const char *const ends[] = { "elif", "else", "endif", NULL };
	struct node *cur = n;

	for (int branches = 0;; branches++) {
		if (branches > MAX_ELIFS) {
			parse_fail(p, n->line, "more than %d elif branches", MAX_ELIFS);
			return NULL;
		}
		if (!(cur->a = parse_tuple(p, TUP_NO_COND)) || statements(p, ends, &cur->list))
			return NULL;
		if (tok_is_name(p->tok, "elif")) {
			struct node *next = node_new(p, S_IF, p->tok->line);

			p->tok++;
			next->op = 1; /* an elif: the scopes of its branches are laid beside, not below */
			nodes_add(p->a, &cur->list2, next);
			cur = next;
			continue;
		}
		if (tok_skip_name(p, "else"))
			return body_until(p, "endif", &cur->list2) ? NULL : n;
		p->tok++;
		return n;
	}
}

static struct node *parse_with(struct parser *p, struct node *n)
{
	while (p->tok->type != T_BLOCK_END) {
		struct node *t, *v;

		if (n->list2.n && tok_expect(p, T_COMMA))
			return NULL;
		if (!(t = parse_target(p, 0)) || tok_expect(p, T_ASSIGN) || !(v = parse_expression(p, true)))
			return NULL;
		/* targets and values by turns */
		nodes_add(p->a, &n->list2, t);
		nodes_add(p->a, &n->list2, v);
	}
	return body_until(p, "endwith", &n->list) ? NULL : n;
}

static struct func *func_new(struct parser *p)
{
	struct func *f = arena_calloc(p->a, 1, sizeof(*f));

	f->name = val_none;
	f->id = p->t->n_funcs++;
	return f;
}

static int parse_signature(struct parser *p, struct func *f)
{
	struct list_of_nodes args = { 0 }, defaults = { 0 };

	if (tok_expect(p, T_LPAREN))
		return -1;
	while (p->tok->type != T_RPAREN) {
		if (args.n && tok_expect(p, T_COMMA))
			return -1;
		struct node *a = node_new(p, E_NAME, p->tok->line);
		a->c = p->tok->v;
		a->op = USE_PARAM;
		if (tok_expect(p, T_NAME))
			return -1;
		if (tok_is_name(p->tok - 1, "true") || tok_is_name(p->tok - 1, "false") || tok_is_name(p->tok - 1, "none") ||
		    tok_is_name(p->tok - 1, "True") || tok_is_name(p->tok - 1, "False") || tok_is_name(p->tok - 1, "None"))
			return parse_fail(p, a->line, "can't assign to 'name'");
		for (uint32_t i = 0; i < args.n; i++)
			if (val_equal(args.v[i]->c, a->c))
				return parse_fail(p, a->line, "two arguments of the same name");
		if (p->tok->type == T_ASSIGN) {
			p->tok++;
			struct node *d = parse_expression(p, true);
			if (!d)
				return -1;
			nodes_add(p->a, &defaults, d);
		} else if (defaults.n) {
			return parse_fail(p, a->line, "non-default argument follows default argument");
		}
		nodes_add(p->a, &args, a);
	}
	p->tok++;
	f->args = args.v;
	f->n_args = args.n;
	f->defaults = defaults.v;
	f->n_defaults = defaults.n;
	return 0;
}

/* The body of a function of its own: "break" cannot leave it. */
static int func_body(struct parser *p, struct func *f, const char *end)
{
	int outer = p->loops;

	p->loops = 0;
	int rc = body_until(p, end, &f->body);
	p->loops = outer;
	return rc;
}

static struct node *parse_macro(struct parser *p, struct node *n)
{
	n->fn = func_new(p);
	n->a = node_new(p, E_NAME, p->tok->line);
	n->a->c = n->fn->name = p->tok->v;
	n->a->op = USE_STORE;
	if (tok_expect(p, T_NAME) || parse_signature(p, n->fn))
		return NULL;
	return func_body(p, n->fn, "endmacro") ? NULL : n;
}

static struct node *parse_call_block(struct parser *p, struct node *n)
{
	n->fn = func_new(p);
	if (p->tok->type == T_LPAREN && parse_signature(p, n->fn))
		return NULL;
	if (!(n->a = parse_expression(p, true)))
		return NULL;
	if (n->a->k != E_CALL) {
		parse_fail(p, n->line, "expected a call");
		return NULL;
	}
	return func_body(p, n->fn, "endcall") ? NULL : n;
}

static struct node *parse_generation(struct parser *p, struct node *n)
{
	n->fn = func_new(p);
	p->t->has_generation = true;
	return func_body(p, n->fn, "endgeneration") ? NULL : n;
}

static struct node *parse_filter_block(struct parser *p, struct node *n)
{
	if (!(n->b = parse_filters(p, NULL, true)))
		return NULL;
	return body_until(p, "endfilter", &n->list) ? NULL : n;
}

static struct node *parse_print(struct parser *p, struct node *n)
{
	while (p->tok->type != T_BLOCK_END) {
		struct node *x;

		if (n->list.n && tok_expect(p, T_COMMA))
			return NULL;
		if (!(x = parse_expression(p, true)))
			return NULL;
		nodes_add(p->a, &n->list, x);
	}
	return n;
}

static bool only_space(const struct list_of_nodes *body)
{
	for (uint32_t i = 0; i < body->n; i++) {
		const char *s = body->v[i]->c.s;
		size_t len = body->v[i]->c.n;

		if (body->v[i]->k != S_DATA)
			return false;
		uni_strip(&s, &len, true, false, NULL, 0, true);
		if (len)
			return false;
	}
	return true;
}

static struct node *parse_block(struct parser *p, struct node *n)
{
	n->c = p->tok->v;
	if (tok_expect(p, T_NAME))
		return NULL;
	n->op = tok_skip_name(p, "scoped");
	bool required = tok_skip_name(p, "required");
	for (uint32_t i = 0; i < p->t->n_blocks; i++)
		if (val_equal(p->t->blocks[i]->c, n->c)) {
			parse_fail(p, n->line, "a block defined twice");
			return NULL;
		}
	struct node **blocks = arena_alloc(p->a, (p->t->n_blocks + 1) * sizeof(struct node *));
	if (p->t->n_blocks)
		memcpy(blocks, p->t->blocks, p->t->n_blocks * sizeof(*blocks));
	blocks[p->t->n_blocks++] = n;
	p->t->blocks = blocks;
	n->fn = func_new(p);
	if (func_body(p, n->fn, "endblock"))
		return NULL;
	if (required && !only_space(&n->fn->body)) {
		parse_fail(p, n->line, "required blocks can only contain comments or white space");
		return NULL;
	}
	if (p->tok->type == T_NAME && val_equal(p->tok->v, n->c))
		p->tok++;
	return n;
}

static struct node *parse_autoescape(struct parser *p, struct node *n)
{
	if (!(n->a = parse_expression(p, true)))
		return NULL;
	return body_until(p, "endautoescape", &n->list) ? NULL : n;
}

/* extends, include, import, from: parsed, and refused when run. */
static struct node *parse_other(struct parser *p, struct node *n)
{
	struct node *x = parse_expression(p, true);

	if (!x)
		return NULL;
	nodes_add(p->a, &n->list, x);
	while (p->tok->type != T_BLOCK_END) {
		if (p->tok->type != T_NAME && p->tok->type != T_COMMA) {
			char got[64];

			parse_fail(p, p->tok->line, "unexpected %s", tok_text(p->tok, got));
			return NULL;
		}
		p->tok++;
	}
	return n;
}

static struct node *parse_break(struct parser *p, struct node *n)
{
	if (p->loops)
		return n;
	parse_fail(p, n->line, "'%s' outside a loop", n->k == S_BREAK ? "break" : "continue");
	return NULL;
}

static const struct {
	const char *tag;
	enum node_kind kind;
	struct node *(*parse)(struct parser *p, struct node *n);
} tags[] = {
	{ "if", S_IF, parse_if }, { "set", S_SET, parse_set }, { "for", S_FOR, parse_for }, { "macro", S_MACRO, parse_macro },
	{ "call", S_CALLBLOCK, parse_call_block }, { "filter", S_FILTERBLOCK, parse_filter_block }, { "with", S_WITH, parse_with },
	{ "break", S_BREAK, parse_break }, { "continue", S_CONTINUE, parse_break }, { "generation", S_GENERATION, parse_generation },
	{ "print", S_PRINT, parse_print }, { "block", S_BLOCK, parse_block }, { "autoescape", S_AUTOESCAPE, parse_autoescape },
	{ "extends", S_NOLOADER, parse_other }, { "include", S_NOLOADER, parse_other }, { "import", S_NOLOADER, parse_other },
	{ "from", S_NOLOADER, parse_other },
};

static struct node *parse_statement(struct parser *p)
{
	const struct tok_item *t = p->tok;
	char got[64];

	if (t->type != T_NAME) {
		parse_fail(p, t->line, "tag name expected, got %s", tok_text(t, got));
		return NULL;
	}
	for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
		if (!tok_is_name(t, tags[i].tag))
			continue;
		if (p->n_tags >= MAX_BLOCKS) {
			parse_fail(p, t->line, "blocks nested more than %d deep", MAX_BLOCKS);
			return NULL;
		}
		p->tags[p->n_tags++] = tags[i].tag;
		p->tok++;
		struct node *n = tags[i].parse(p, node_new(p, tags[i].kind, t->line));
		p->n_tags--;
		return n;
	}
	if (p->n_tags)
		parse_fail(p, t->line, "unknown tag %s; the innermost block that needs to be closed is '%s'", tok_text(t, got), p->tags[p->n_tags - 1]);
	else
		parse_fail(p, t->line, "unknown tag %s", tok_text(t, got));
	return NULL;
}

static int subparse(struct parser *p, const char *const *ends, struct list_of_nodes *body)
{
	while (p->tok->type != T_EOF) {
		struct node *n;

		switch (p->tok->type) {
		case T_DATA:
			n = node_new(p, S_DATA, p->tok->line);
			n->c = p->tok->v;
			p->tok++;
			break;
		case T_VAR_BEGIN:
			n = node_new(p, S_PRINT, p->tok->line);
			p->tok++;
			struct node *x = parse_tuple(p, 0);
			if (!x || tok_expect(p, T_VAR_END))
				return -1;
			nodes_add(p->a, &n->list, x);
			break;
		case T_BLOCK_BEGIN:
			p->tok++;
			for (int i = 0; ends && ends[i]; i++)
				if (tok_is_name(p->tok, ends[i]))
					return 0;
			if (!(n = parse_statement(p)) || tok_expect(p, T_BLOCK_END))
				return -1;
			break;
		default:
			return parse_fail(p, p->tok->line, "internal parsing error");
		}
		nodes_add(p->a, body, n);
	}
	return 0;
}

int tmpl_parse(struct parser *p, struct list_of_nodes *body)
{
	return subparse(p, NULL, body);
}

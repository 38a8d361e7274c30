/* Expressions of the template language: Jinja2's grammar, precedence and
 * associativity, by recursive descent. The height of a tree is bounded, so
 * that nothing that walks it can exhaust the stack. */
#include "text/tmpl_impl.h"

#define MAX_HEIGHT 400

struct node *node_sized(struct parser *p, struct node *n)
{
	unsigned h = 0;
	const struct list_of_nodes *lists[] = { &n->list, &n->list2, n->call ? &n->call->pos : NULL, n->call ? &n->call->kw : NULL };
	const struct node *kids[] = { n->a, n->b, n->d, n->call ? n->call->star : NULL, n->call ? n->call->starstar : NULL };

	for (size_t i = 0; i < 4; i++)
		for (uint32_t k = 0; lists[i] && k < lists[i]->n; k++)
			h = lists[i]->v[k]->depth > h ? lists[i]->v[k]->depth : h;
	for (size_t i = 0; i < 5; i++)
		h = kids[i] && kids[i]->depth > h ? kids[i]->depth : h;
	if (h >= MAX_HEIGHT) {
		parse_fail(p, n->line, "an expression nested more than %d deep", MAX_HEIGHT);
		return NULL;
	}
	n->depth = (uint16_t)(h + 1);
	return n;
}

static struct node *unexpected(struct parser *p)
{
	char buf[64];

	parse_fail(p, p->tok->line, "unexpected %s", tok_text(p->tok, buf));
	return NULL;
}

static struct node *binary(struct parser *p, enum node_kind k, enum op op, struct node *a, struct node *b)
{
	if (!a || !b)
		return NULL;
	struct node *n = node_new(p, k, a->line);
	n->op = (uint8_t)op;
	n->a = a;
	n->b = b;
	return node_sized(p, n);
}

/* [a, b, c] and (a, b, c) after the bracket; NULL on error. */
static struct node *parse_list(struct parser *p)
{
	struct node *n = node_new(p, E_LIST, p->tok->line);

	p->tok++;
	while (p->tok->type != T_RBRACKET) {
		if (n->list.n && tok_expect(p, T_COMMA))
			return NULL;
		if (p->tok->type == T_RBRACKET)
			break;
		struct node *x = parse_expression(p, true);
		if (!x)
			return NULL;
		nodes_add(p->a, &n->list, x);
	}
	p->tok++;
	return node_sized(p, n);
}

static struct node *parse_dict(struct parser *p)
{
	struct node *n = node_new(p, E_DICT, p->tok->line);

	p->tok++;
	while (p->tok->type != T_RBRACE) {
		if (n->list.n && tok_expect(p, T_COMMA))
			return NULL;
		if (p->tok->type == T_RBRACE)
			break;
		struct node *k = parse_expression(p, true);
		if (!k || tok_expect(p, T_COLON))
			return NULL;
		struct node *v = parse_expression(p, true);
		if (!v)
			return NULL;
		nodes_add(p->a, &n->list, k);
		nodes_add(p->a, &n->list2, v);
	}
	p->tok++;
	return node_sized(p, n);
}

static struct node *constant(struct parser *p, struct val v)
{
	struct node *n = node_new(p, E_CONST, p->tok->line);

	n->c = v;
	return n;
}

static struct node *parse_name(struct parser *p, bool with_ns)
{
	const struct tok_item *t = p->tok++;
	struct node *n;

	if (tok_is_name(t, "true") || tok_is_name(t, "True"))
		return constant(p, val_true);
	if (tok_is_name(t, "false") || tok_is_name(t, "False"))
		return constant(p, val_false);
	if (tok_is_name(t, "none") || tok_is_name(t, "None"))
		return constant(p, val_none);
	n = node_new(p, E_NAME, t->line);
	n->c = t->v;
	if (with_ns && p->tok->type == T_DOT) {
		p->tok++;
		struct node *attr = node_new(p, E_CONST, t->line);
		attr->c = p->tok->v;
		if (tok_expect(p, T_NAME))
			return NULL;
		n->k = E_NSREF;
		n->a = attr;
	}
	return n;
}

/* Adjacent string literals are one. */
static struct node *parse_strings(struct parser *p)
{
	struct node *n = constant(p, p->tok->v);
	size_t total = 0;
	const struct tok_item *t = p->tok;

	for (; p->tok->type == T_STRING; p->tok++)
		total += p->tok->v.n;
	if (p->tok - t > 1) {
		char *buf = arena_alloc(p->a, total + 1), *w = buf;

		for (; t < p->tok; t++) {
			memcpy(w, t->v.s, t->v.n);
			w += t->v.n;
		}
		n->c = val_str(buf, total);
	}
	return n;
}

static struct node *parse_primary(struct parser *p, bool with_ns)
{
	struct node *n;

	switch (p->tok->type) {
	case T_NAME:
		return parse_name(p, with_ns);
	case T_STRING:
		return parse_strings(p);
	case T_INT:
	case T_FLOAT:
		n = constant(p, p->tok->v);
		p->tok++;
		return n;
	case T_LPAREN:
		p->tok++;
		n = parse_tuple(p, TUP_PAREN);
		return n && !tok_expect(p, T_RPAREN) ? n : NULL;
	case T_LBRACKET:
		return parse_list(p);
	case T_LBRACE:
		return parse_dict(p);
	default:
		return unexpected(p);
	}
}

static bool tuple_ends(const struct parser *p, int flags)
{
	return p->tok->type == T_VAR_END || p->tok->type == T_BLOCK_END || p->tok->type == T_RPAREN ||
	       (flags & TUP_END_IN && tok_is_name(p->tok, "in")) || (flags & TUP_END_RECURSIVE && tok_is_name(p->tok, "recursive"));
}

struct node *parse_tuple(struct parser *p, int flags)
{
	struct node *n = node_new(p, E_TUPLE, p->tok->line), *x;
	bool is_tuple = false;

	for (;;) {
		if (n->list.n && tok_expect(p, T_COMMA))
			return NULL;
		if (tuple_ends(p, flags))
			break;
		x = flags & TUP_SIMPLE ? parse_primary(p, flags & TUP_NS) : parse_expression(p, !(flags & TUP_NO_COND));
		if (!x)
			return NULL;
		nodes_add(p->a, &n->list, x);
		if (p->tok->type != T_COMMA)
			break;
		is_tuple = true;
	}
	if (!is_tuple && n->list.n)
		return n->list.v[0];
	if (!is_tuple && !(flags & TUP_PAREN))
		return unexpected(p);
	return node_sized(p, n);
}

/* One subscript: an expression, or a slice as E_SLICE with a, b, d. */
static struct node *parse_subscribed(struct parser *p)
{
	struct node *n = node_new(p, E_SLICE, p->tok->line), *first = NULL;

	if (p->tok->type != T_COLON) {
		first = parse_expression(p, true);
		if (!first || p->tok->type != T_COLON)
			return first;
	}
	p->tok++;
	n->a = first;
	if (p->tok->type != T_COLON && p->tok->type != T_RBRACKET && p->tok->type != T_COMMA && !(n->b = parse_expression(p, true)))
		return NULL;
	if (p->tok->type == T_COLON) {
		p->tok++;
		if (p->tok->type != T_RBRACKET && p->tok->type != T_COMMA && !(n->d = parse_expression(p, true)))
			return NULL;
	}
	return node_sized(p, n);
}

static struct node *parse_brackets(struct parser *p, struct node *of)
{
	struct node *n = node_new(p, E_ITEM, p->tok->line), *arg, *tuple = node_new(p, E_TUPLE, p->tok->line);

	p->tok++;
	while (p->tok->type != T_RBRACKET) {
		if (tuple->list.n && tok_expect(p, T_COMMA))
			return NULL;
		if (!(arg = parse_subscribed(p)))
			return NULL;
		nodes_add(p->a, &tuple->list, arg);
	}
	p->tok++;
	arg = tuple->list.n == 1 ? tuple->list.v[0] : node_sized(p, tuple);
	for (uint32_t i = 0; arg && arg->k == E_TUPLE && i < arg->list.n; i++)
		if (arg->list.v[i]->k == E_SLICE) {
			parse_fail(p, n->line, "a slice inside a tuple of subscripts");
			return NULL;
		}
	n->a = of;
	n->b = arg;
	return arg ? node_sized(p, n) : NULL;
}

static struct node *parse_subscript(struct parser *p, struct node *of)
{
	if (p->tok->type == T_LBRACKET)
		return parse_brackets(p, of);
	struct node *n = node_new(p, E_ATTR, p->tok->line);
	p->tok++;
	if (p->tok->type != T_NAME && p->tok->type != T_INT) {
		parse_fail(p, p->tok->line, "expected a name or number after '.'");
		return NULL;
	}
	n->a = of;
	if (p->tok->type == T_NAME) {
		n->c = p->tok->v;
		n->impl = method_find(n->c.s, n->c.n);
	} else {
		n->k = E_ITEM;
		n->b = constant(p, p->tok->v);
	}
	p->tok++;
	return node_sized(p, n);
}

/* One argument; flags what came before. */
static int parse_arg(struct parser *p, struct call *c)
{
	uint32_t line = p->tok->line;
	struct node *v;

	if (p->tok->type == T_MUL) {
		if (c->star || c->starstar)
			goto bad;
		p->tok++;
		return (c->star = parse_expression(p, true)) ? 0 : -1;
	}
	if (p->tok->type == T_POW) {
		if (c->starstar)
			goto bad;
		p->tok++;
		return (c->starstar = parse_expression(p, true)) ? 0 : -1;
	}
	if (p->tok->type == T_NAME && p->tok[1].type == T_ASSIGN) {
		if (c->starstar)
			goto bad;
		struct val *names = arena_alloc(p->a, (c->kw.n + 1) * sizeof(*names));
		if (c->kw.n)
			memcpy(names, c->names, c->kw.n * sizeof(*names));
		for (uint32_t i = 0; i < c->kw.n; i++)
			if (val_equal(names[i], p->tok->v))
				return parse_fail(p, line, "an argument given twice");
		names[c->kw.n] = p->tok->v;
		c->names = names;
		p->tok += 2;
		if (!(v = parse_expression(p, true)))
			return -1;
		nodes_add(p->a, &c->kw, v);
		return 0;
	}
	if (c->star || c->starstar || c->kw.n)
		goto bad;
	if (!(v = parse_expression(p, true)))
		return -1;
	nodes_add(p->a, &c->pos, v);
	return 0;
bad:
	return parse_fail(p, line, "invalid syntax for function call expression");
}

static struct call *parse_call_args(struct parser *p)
{
	struct call *c = arena_calloc(p->a, 1, sizeof(*c));

	if (tok_expect(p, T_LPAREN))
		return NULL;
	for (bool first = true; p->tok->type != T_RPAREN; first = false) {
		if (!first) {
			if (tok_expect(p, T_COMMA))
				return NULL;
			if (p->tok->type == T_RPAREN)
				break;
		}
		if (parse_arg(p, c))
			return NULL;
	}
	p->tok++;
	return c;
}

static struct node *parse_call(struct parser *p, struct node *of)
{
	struct node *n = node_new(p, E_CALL, p->tok->line);

	n->a = of;
	return (n->call = parse_call_args(p)) ? node_sized(p, n) : NULL;
}

static struct node *parse_postfix(struct parser *p, struct node *n)
{
	while (n) {
		if (p->tok->type == T_DOT || p->tok->type == T_LBRACKET)
			n = parse_subscript(p, n);
		else if (p->tok->type == T_LPAREN)
			n = parse_call(p, n);
		else
			break;
	}
	return n;
}

/* NAME or NAME.NAME... of a filter or test; no built-in has a dot. */
static int parse_dotted(struct parser *p, struct val *name)
{
	*name = p->tok->v;
	if (tok_expect(p, T_NAME))
		return -1;
	while (p->tok->type == T_DOT) {
		p->tok++;
		struct val part = p->tok->v;
		if (tok_expect(p, T_NAME))
			return -1;
		char *buf = arena_alloc(p->a, name->n + part.n + 1u);
		memcpy(buf, name->s, name->n);
		buf[name->n] = '.';
		memcpy(buf + name->n + 1, part.s, part.n);
		*name = val_str(buf, name->n + part.n + 1u);
	}
	return 0;
}

struct node *parse_filters(struct parser *p, struct node *of, bool start_inline)
{
	while (p->tok->type == T_PIPE || start_inline) {
		if (!start_inline)
			p->tok++;
		struct node *n = node_new(p, E_FILTER, p->tok->line);
		if (parse_dotted(p, &n->c))
			return NULL;
		n->impl = filter_find(n->c.s, n->c.n);
		n->a = of;
		n->call = p->tok->type == T_LPAREN ? parse_call_args(p) : arena_calloc(p->a, 1, sizeof(*n->call));
		if (!n->call || !node_sized(p, n))
			return NULL;
		of = n;
		start_inline = false;
	}
	return of;
}

static struct node *parse_test(struct parser *p, struct node *of)
{
	struct node *n = node_new(p, E_TEST, p->tok->line), *arg;

	p->tok++;
	bool negated = tok_skip_name(p, "not");
	if (parse_dotted(p, &n->c))
		return NULL;
	n->impl = test_find(n->c.s, n->c.n);
	n->a = of;
	n->call = arena_calloc(p->a, 1, sizeof(*n->call));
	switch (p->tok->type) {
	case T_LPAREN:
		if (!(n->call = parse_call_args(p)))
			return NULL;
		break;
	case T_NAME:
		if (tok_is_name(p->tok, "else") || tok_is_name(p->tok, "or") || tok_is_name(p->tok, "and"))
			break;
		if (tok_is_name(p->tok, "is")) {
			parse_fail(p, p->tok->line, "tests cannot be chained with is");
			return NULL;
		}
		/* fall through */
	case T_STRING: case T_INT: case T_FLOAT: case T_LBRACKET: case T_LBRACE:
		arg = parse_postfix(p, parse_primary(p, false));
		if (!arg)
			return NULL;
		nodes_add(p->a, &n->call->pos, arg);
		break;
	default:
		break;
	}
	if (!node_sized(p, n) || !negated)
		return n->depth ? n : NULL;
	struct node *not = node_new(p, E_NOT, n->line);
	not->a = n;
	return node_sized(p, not);
}

static struct node *parse_unary(struct parser *p, bool with_filter)
{
	struct node *n;

	if (p->depth++ > MAX_HEIGHT) {
		parse_fail(p, p->tok->line, "an expression nested more than %d deep", MAX_HEIGHT);
		return NULL;
	}
	if (p->tok->type == T_SUB || p->tok->type == T_ADD) {
		struct node *u = node_new(p, p->tok->type == T_SUB ? E_NEG : E_POS, p->tok->line);

		p->tok++;
		u->a = parse_unary(p, false);
		n = u->a ? node_sized(p, u) : NULL;
	} else {
		n = parse_primary(p, false);
	}
	n = parse_postfix(p, n);
	while (with_filter && n) {
		if (p->tok->type == T_PIPE)
			n = parse_filters(p, n, false);
		else if (tok_is_name(p->tok, "is"))
			n = parse_test(p, n);
		else if (p->tok->type == T_LPAREN)
			n = parse_call(p, n);
		else
			break;
	}
	p->depth--;
	return n;
}

static struct node *parse_pow(struct parser *p)
{
	struct node *n = parse_unary(p, true);

	while (n && p->tok->type == T_POW) {
		p->tok++;
		n = binary(p, E_BIN, OP_POW, n, parse_unary(p, true));
	}
	return n;
}

static struct node *parse_math2(struct parser *p)
{
	struct node *n = parse_pow(p);

	while (n) {
		enum tok_type t = p->tok->type;
		enum op op = t == T_MUL ? OP_MUL : t == T_DIV ? OP_DIV : t == T_FLOORDIV ? OP_FLOORDIV : OP_MOD;

		if (t != T_MUL && t != T_DIV && t != T_FLOORDIV && t != T_MOD)
			break;
		p->tok++;
		n = binary(p, E_BIN, op, n, parse_pow(p));
	}
	return n;
}

static struct node *parse_concat(struct parser *p)
{
	struct node *n = parse_math2(p), *c;

	if (!n || p->tok->type != T_TILDE)
		return n;
	c = node_new(p, E_CONCAT, n->line);
	nodes_add(p->a, &c->list, n);
	while (p->tok->type == T_TILDE) {
		p->tok++;
		if (!(n = parse_math2(p)))
			return NULL;
		nodes_add(p->a, &c->list, n);
	}
	return node_sized(p, c);
}

static struct node *parse_math1(struct parser *p)
{
	struct node *n = parse_concat(p);

	while (n && (p->tok->type == T_ADD || p->tok->type == T_SUB)) {
		enum op op = p->tok->type == T_ADD ? OP_ADD : OP_SUB;

		p->tok++;
		n = binary(p, E_BIN, op, n, parse_concat(p));
	}
	return n;
}

/* The comparison operator at hand, or -1; consumes it. */
static int compare_op(struct parser *p)
{
	static const struct {
		enum tok_type t;
		enum op op;
	} map[] = { { T_EQ, OP_EQ }, { T_NE, OP_NE }, { T_LT, OP_LT }, { T_LE, OP_LE }, { T_GT, OP_GT }, { T_GE, OP_GE } };

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (p->tok->type == map[i].t)
			return p->tok++, (int)map[i].op;
	if (tok_skip_name(p, "in"))
		return OP_IN;
	if (tok_is_name(p->tok, "not") && tok_is_name(p->tok + 1, "in"))
		return p->tok += 2, OP_NOTIN;
	return -1;
}

/* a < b < c: CMP with a, and operands in list whose op field is the operator. */
static struct node *parse_compare(struct parser *p)
{
	struct node *n = parse_math1(p), *c = NULL, *x;
	int op;

	while (n && (op = compare_op(p)) >= 0) {
		if (!c) {
			c = node_new(p, E_CMP, n->line);
			c->a = n;
		}
		if (!(x = parse_math1(p)))
			return NULL;
		struct node *wrap = node_new(p, E_BIN, x->line); /* only carries the operator */
		wrap->op = (uint8_t)op;
		wrap->a = x;
		if (!node_sized(p, wrap))
			return NULL;
		nodes_add(p->a, &c->list, wrap);
	}
	return c ? node_sized(p, c) : n;
}

static struct node *parse_not(struct parser *p)
{
	if (!tok_is_name(p->tok, "not"))
		return parse_compare(p);
	struct node *n = node_new(p, E_NOT, p->tok->line);
	if (p->depth++ > MAX_HEIGHT) {
		parse_fail(p, p->tok->line, "an expression nested more than %d deep", MAX_HEIGHT);
		return NULL;
	}
	p->tok++;
	n->a = parse_not(p);
	p->depth--;
	return n->a ? node_sized(p, n) : NULL;
}

static struct node *parse_and(struct parser *p)
{
	struct node *n = parse_not(p);

	while (n && tok_skip_name(p, "and"))
		n = binary(p, E_AND, 0, n, parse_not(p));
	return n;
}

static struct node *parse_or(struct parser *p)
{
	struct node *n = parse_and(p);

	while (n && tok_skip_name(p, "or"))
		n = binary(p, E_OR, 0, n, parse_and(p));
	return n;
}

struct node *parse_expression(struct parser *p, bool with_cond)
{
	struct node *n = parse_or(p);

	while (with_cond && n && tok_skip_name(p, "if")) {
		struct node *c = node_new(p, E_COND, n->line);

		c->b = n;
		if (!(c->a = parse_or(p)))
			return NULL;
		if (tok_skip_name(p, "else")) {
			if (p->depth++ > MAX_HEIGHT) {
				parse_fail(p, p->tok->line, "an expression nested more than %d deep", MAX_HEIGHT);
				return NULL;
			}
			c->d = parse_expression(p, true);
			p->depth--;
			if (!c->d)
				return NULL;
		}
		n = node_sized(p, c);
	}
	return n;
}

/* Marks a target and all names in it as stores; -1 when it cannot be one. */
static int as_store(struct parser *p, struct node *n)
{
	static const char *const kinds[] = { [E_CONST] = "const", [E_LIST] = "list", [E_DICT] = "dict", [E_CALL] = "call",
		[E_ATTR] = "getattr", [E_ITEM] = "getitem", [E_FILTER] = "filter", [E_TEST] = "test", [E_COND] = "condexpr" };

	if (n->k == E_NAME || n->k == E_NSREF) {
		n->op = n->k == E_NAME ? USE_STORE : USE_LOAD;
		return 0;
	}
	if (n->k != E_TUPLE)
		return parse_fail(p, n->line, "can't assign to '%s'", n->k < sizeof(kinds) / sizeof(kinds[0]) && kinds[n->k] ? kinds[n->k] : "expression");
	for (uint32_t i = 0; i < n->list.n; i++)
		if (as_store(p, n->list.v[i]))
			return -1;
	return 0;
}

struct node *parse_target(struct parser *p, int flags)
{
	struct node *n = parse_tuple(p, flags | TUP_SIMPLE);

	return n && !as_store(p, n) ? n : NULL;
}

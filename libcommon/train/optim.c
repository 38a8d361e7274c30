#include "train/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

int optim_parse(const char *name, enum optim_kind *k, struct err *e)
{
	if (strcmp(name, "adamw") == 0)
		*k = OPTIM_ADAMW;
	else if (strcmp(name, "adamw8bit") == 0)
		*k = OPTIM_ADAMW8;
	else
		return err_set(e, LP_USAGE, "unknown optimiser '%s'; use adamw or adamw8bit", name);
	return 0;
}

static int64_t blocks(int64_t n)
{
	return (n + ADAM8_BLOCK - 1) / ADAM8_BLOCK;
}

/* --- what is updated: the adapter's tensors, then the base's --- */

struct part {
	int64_t n;
	enum optim_rule rule;
	bool eight, halves, g_act;
	char *p;       /* where it is, and its gradient; not known while planning */
	const char *g;
};

static int64_t base_tensors(const struct optim *o)
{
	return o->base ? o->base->n_tensors : 0;
}

static struct part adapter_part(const struct optim *o, const struct lora *l, int64_t i)
{
	const struct lora_tensor *t = &l->tensors[o->b_rate > 0 ? l->by_matrix[i] : i];
	struct part p = { .n = t->n, .rule = o->b_rate > 0 && i >= l->n_a ? RULE_B : RULE_A };

	if (l->params && l->grads) {
		p.p = (char *)(l->params + t->offset);
		p.g = (const char *)(l->grads + t->offset);
	}
	return p;
}

static struct part base_part(const struct trained *b, int64_t i)
{
	const struct trained_tensor *t = &b->tensors[i];
	struct part p = { .n = t->n, .rule = i >= b->vectors ? RULE_VECTOR : RULE_A, .halves = t->halves, .g_act = t->g_once && b->act != DT_F32, .p = t->p };

	p.g = t->p ? trained_grad(b, i) : NULL;
	return p;
}

/* The small matrix that a projection's gradient becomes; its update is made from 0, and applied to the weight then. */
static struct part small_part(const struct galore *g, int64_t i)
{
	return (struct part){ .n = galore_small(g, i), .rule = RULE_GALORE, .p = (char *)g->step, .g = (const char *)g->small };
}

static struct part part_at(const struct optim *o, const struct lora *l, int64_t i)
{
	int64_t b = i - l->n_tensors;
	struct part p = b < 0 ? adapter_part(o, l, i) : o->galore && galore_projects(o->galore, b) ? small_part(o->galore, b) : base_part(o->base, b);

	/* the embedding's states stay in fp32, as transformers sets bitsandbytes up */
	p.eight = o->kind == OPTIM_ADAMW8 && p.n >= ADAM8_MIN && !(b >= 0 && b == o->base->embed);
	return p;
}

static int64_t parts(const struct optim *o, const struct lora *l)
{
	return l->n_tensors + base_tensors(o);
}

void optim_sizes(const struct optim *o, const struct lora *l, int64_t *n32, int64_t *n8, int64_t *n_blocks)
{
	*n32 = *n8 = *n_blocks = 0;
	for (int64_t i = 0; i < parts(o, l); i++) {
		struct part p = part_at(o, l, i);

		*n8 += p.eight ? p.n : 0;
		*n_blocks += p.eight ? blocks(p.n) : 0;
		*n32 += p.eight ? 0 : p.n;
	}
}

/* Whether the rest of a tensor of the base is a state; that of what is projected stays on the device. */
static bool has_rest(const struct optim *o, int64_t i)
{
	return o->base->tensors[i].halves && !(o->galore && galore_projects(o->galore, i));
}

int64_t optim_rests(const struct optim *o)
{
	int64_t n = 0;

	for (int64_t i = 0; i < base_tensors(o); i++)
		n += has_rest(o, i) ? o->base->tensors[i].n : 0;
	return n;
}

uint64_t optim_bytes(const struct optim *o, const struct lora *l)
{
	int64_t n32, n8, nb;

	optim_sizes(o, l, &n32, &n8, &nb);
	return (uint64_t)(n32 + nb) * 2 * sizeof(float) + (uint64_t)n8 * 2 + (uint64_t)optim_rests(o) * sizeof(int16_t);
}

/* --- segments, and pieces of them --- */

#define PIECE (4 << 20) /* bytes: 80 us on the way, and a buffer that other work has room for */
#define CUT (1 << 18)   /* elements of a segment at most, where states are away; whole blocks */

/* What is left of a tensor from an element on, or as much of it as a segment has. */
static int64_t cut(const struct optim *o, const struct part *p, int64_t from)
{
	int64_t most = o->piece && o->piece < PIECE ? 4 * ADAM8_BLOCK : CUT;

	return o->away && p->n - from > most ? most : p->n - from;
}

/* The states of a piece's segments. */
static void take(const struct optim_piece *p, struct layout *l, struct kn_adam_arrays *x)
{
	x->m = layout_array(l, "optimiser", p->n32, sizeof(float));
	x->v = layout_array(l, "optimiser", p->n32, sizeof(float));
	x->m8 = layout_array(l, "optimiser", p->n8, 1);
	x->v8 = layout_array(l, "optimiser", p->n8, 1);
	x->m_max = layout_array(l, "optimiser", p->n_max, sizeof(float));
	x->v_max = layout_array(l, "optimiser", p->n_max, sizeof(float));
	x->rest = layout_array(l, "optimiser", p->n_rest, sizeof(*x->rest));
}

/* A piece's arrays at base. */
static void place(const struct optim_piece *p, char *base, struct kn_adam_arrays *x)
{
	struct layout l = { .base = base };

	take(p, &l, x);
}

static uint64_t padded(int64_t n, size_t size)
{
	return ((uint64_t)n * size + LAYOUT_ALIGN - 1) / LAYOUT_ALIGN * LAYOUT_ALIGN;
}

/* What place takes. */
static uint64_t bytes_of(const struct optim_piece *p)
{
	return 2 * (padded(p->n32, sizeof(float)) + padded(p->n8, 1) + padded(p->n_max, sizeof(float))) + padded(p->n_rest, sizeof(int16_t));
}

/* The segment behind a piece; false: there is none. */
static bool segment(const struct optim *o, const struct lora *l, const struct optim_piece *p, struct part *t, int64_t *n)
{
	if (p->next >= parts(o, l))
		return false;
	*t = part_at(o, l, p->next);
	*n = cut(o, t, p->next_from);
	return true;
}

static struct optim_piece with(struct optim_piece p, const struct part *t, int64_t n)
{
	p.n++;
	p.n32 += t->eight ? 0 : n;
	p.n8 += t->eight ? n : 0;
	p.n_max += t->eight ? blocks(n) : 0;
	p.n_rest += t->halves ? n : 0;
	p.blocks += blocks(n);
	p.next_from += n;
	if (p.next_from == t->n) {
		p.next++;
		p.next_from = 0;
	}
	return p;
}

static struct optim_piece none_behind(const struct optim_piece *p)
{
	return (struct optim_piece){ .first = p->first + p->n, .at32 = p->at32 + p->n32, .at8 = p->at8 + p->n8, .at_max = p->at_max + p->n_max,
		                     .at_rest = p->at_rest + p->n_rest, .tensor = p->next, .from = p->next_from, .next = p->next, .next_from = p->next_from };
}

/* As many segments from the first on as fill a part of all states' bytes. */
static struct optim_piece front(const struct optim *o, const struct lora *l, uint64_t bytes)
{
	struct optim_piece p = { 0 }, more;
	struct part t;
	int64_t n;

	for (; segment(o, l, &p, &t, &n); p = more) {
		more = with(p, &t, n);
		if (bytes_of(&more) > bytes)
			break;
	}
	return p;
}

/* Whether a segment is one of those that stay. */
static bool stays(const struct optim *o, const struct optim_piece *at)
{
	return !o->away || at->next < o->split.next || (at->next == o->split.next && at->next_from < o->split.next_from);
}

void optim_layout(struct optim *o, const struct lora *l, struct layout *to, struct layout *host, int away)
{
	struct optim_piece all, behind = { 0 };

	o->away = away;
	all = front(o, l, UINT64_MAX);
	o->split = away ? front(o, l, optim_bytes(o, l) / OPTIM_PARTS * (uint64_t)(OPTIM_PARTS - away)) : all;
	behind.n32 = all.n32 - o->split.n32;
	behind.n8 = all.n8 - o->split.n8;
	behind.n_max = all.n_max - o->split.n_max;
	behind.n_rest = all.n_rest - o->split.n_rest;
	take(&o->split, to, &o->here);
	if (away)
		take(&behind, host, &o->there);
	o->n_segs = all.n;
	o->segs_dev = layout_array(to, "optimiser", o->n_segs, sizeof(*o->segs_dev));
}

/* The one behind p; n is 0 where p was the last. */
static struct optim_piece piece_after(const struct optim *o, const struct lora *l, const struct optim_piece *p)
{
	struct optim_piece next = none_behind(p), more;
	uint64_t most = o->piece ? o->piece : PIECE;
	struct part t;
	int64_t n;

	for (; segment(o, l, &next, &t, &n); next = more) {
		if (next.n == 0) {
			next.rule = t.rule;
			next.stays = stays(o, &next);
		}
		more = with(next, &t, n);
		if (t.rule != next.rule || stays(o, &next) != next.stays || (t.rule == RULE_GALORE && next.n && next.next_from == 0) || (!next.stays && next.n && bytes_of(&more) > most))
			break;
	}
	return next;
}

uint64_t optim_ring_bytes(const struct optim *o, const struct lora *l)
{
	struct optim_piece none = { 0 }, p = piece_after(o, l, &none);
	uint64_t most = 0;

	for (; p.n; p = piece_after(o, l, &p))
		most = !p.stays && bytes_of(&p) > most ? bytes_of(&p) : most;
	return most;
}

/* The segments of a piece, which came behind `before`; their states begin with the piece. */
static void start_piece(struct optim *o, const struct lora *l, const struct optim_piece *before, const struct optim_piece *p)
{
	struct optim_piece at = none_behind(before);
	struct part t;
	int64_t n;

	for (int64_t i = p->first; i < p->first + p->n && segment(o, l, &at, &t, &n); i++) {
		int64_t from = at.next_from;

		o->segs[i] = (struct kn_adam_seg){ .p = t.p + from * (int64_t)(t.halves ? sizeof(uint16_t) : sizeof(float)),
			.g = t.g + from * (int64_t)(t.g_act ? sizeof(uint16_t) : sizeof(float)), .n = n, .state = t.eight ? at.n8 : at.n32, .scale = at.n_max,
			.rest = t.halves ? at.n_rest : -1, .block = at.blocks, .eight = t.eight, .g_act = t.g_act };
		at = with(at, &t, n);
	}
}

/* --- states as flat arrays --- */

/* One of them: elements in front of the split and behind it, of so many bytes. */
struct flat {
	char *here, *there;
	uint64_t n_here, n_there;
};

static struct flat flat_of(const struct optim *o, const struct lora *l, int state)
{
	const struct optim_piece *p = &o->split;
	int64_t n32, n8, nb, n_rest = optim_rests(o);

	optim_sizes(o, l, &n32, &n8, &nb);
	switch (state) {
	case 0: return (struct flat){ (char *)o->here.m, (char *)o->there.m, (uint64_t)p->n32 * 4, (uint64_t)(n32 - p->n32) * 4 };
	case 1: return (struct flat){ (char *)o->here.v, (char *)o->there.v, (uint64_t)p->n32 * 4, (uint64_t)(n32 - p->n32) * 4 };
	case 2: return (struct flat){ (char *)o->here.m8, (char *)o->there.m8, (uint64_t)p->n8, (uint64_t)(n8 - p->n8) };
	case 3: return (struct flat){ (char *)o->here.v8, (char *)o->there.v8, (uint64_t)p->n8, (uint64_t)(n8 - p->n8) };
	case 4: return (struct flat){ (char *)o->here.m_max, (char *)o->there.m_max, (uint64_t)p->n_max * 4, (uint64_t)(nb - p->n_max) * 4 };
	case 5: return (struct flat){ (char *)o->here.v_max, (char *)o->there.v_max, (uint64_t)p->n_max * 4, (uint64_t)(nb - p->n_max) * 4 };
	default: return (struct flat){ (char *)o->here.rest, (char *)o->there.rest, (uint64_t)p->n_rest * 2, (uint64_t)(n_rest - p->n_rest) * 2 };
	}
}

void optim_read(const struct optim *o, const struct lora *l, struct device *d, int state, void *host)
{
	struct flat f = flat_of(o, l, state);

	if (f.n_here)
		device_download(d, host, f.here, f.n_here);
	if (f.n_there)
		device_download(d, (char *)host + f.n_here, f.there, f.n_there);
}

void optim_write(const struct optim *o, const struct lora *l, struct device *d, int state, const void *host)
{
	struct flat f = flat_of(o, l, state);

	if (f.n_here)
		device_upload(d, f.here, host, f.n_here);
	if (f.n_there)
		device_upload(d, f.there, (const char *)host + f.n_here, f.n_there);
}

/* Elements [at, at + n) of the rests, to the host or from it. */
static void move_rest(const struct optim *o, struct device *d, int64_t at, int64_t n, int16_t *host, bool home)
{
	int64_t here = at < o->split.n_rest ? o->split.n_rest - at : 0, there = at + here - o->split.n_rest;

	here = here < n ? here : n;
	if (here && home)
		device_download(d, host, o->here.rest + at, (uint64_t)here * sizeof(*host));
	else if (here)
		device_upload(d, o->here.rest + at, host, (uint64_t)here * sizeof(*host));
	if (n > here && home)
		device_download(d, host + here, o->there.rest + there, (uint64_t)(n - here) * sizeof(*host));
	else if (n > here)
		device_upload(d, o->there.rest + there, host + here, (uint64_t)(n - here) * sizeof(*host));
}

void optim_start(struct optim *o, const struct lora *l, struct device *d)
{
	struct optim_piece none = { 0 }, p = piece_after(o, l, &none);

	o->segs = xcalloc((size_t)o->n_segs + 1, sizeof(*o->segs));
	o->pieces = xcalloc((size_t)o->n_segs + 1, sizeof(*o->pieces));
	o->n_adapter = l->n_tensors;
	o->ring_bytes = o->away ? optim_ring_bytes(o, l) : 0;
	for (o->n_pieces = 0; p.n; p = piece_after(o, l, &p)) {
		start_piece(o, l, o->n_pieces ? &o->pieces[o->n_pieces - 1] : &none, &p);
		o->pieces[o->n_pieces++] = p;
	}
	device_upload(d, o->segs_dev, o->segs, (uint64_t)o->n_segs * sizeof(*o->segs));
	for (int i = 0; o->away && i <= OPTIM_STATES; i++) { /* the device's memory is clear, the host's is not */
		struct flat f = flat_of(o, l, i);

		if (f.n_there)
			memset(f.there, 0, f.n_there);
	}
}

void optim_release(struct optim *o)
{
	free(o->segs);
	free(o->pieces);
	o->segs = NULL;
	o->pieces = NULL;
}

/* --- the base's weights as fp32 has them --- */

enum { AT_ONCE = 1 << 22 }; /* elements: what the host holds of halves on their way */

/* The element of the states' rests at which a tensor's begins. */
static int64_t rest_at(const struct optim *o, int64_t tensor)
{
	int64_t at = 0;

	for (int64_t i = 0; i < tensor; i++)
		at += has_rest(o, i) ? o->base->tensors[i].n : 0;
	return at;
}

/* k of a tensor's rests from element i on, home or back: the galore's, or among the states. */
static void move_tensor_rest(const struct optim *o, struct device *d, int64_t tensor, int64_t i, int64_t k, int16_t *host, bool home)
{
	int16_t *rest;

	if (has_rest(o, tensor)) {
		move_rest(o, d, rest_at(o, tensor) + i, k, host, home);
		return;
	}
	rest = galore_rest(o->galore, tensor) + i;
	if (home)
		device_download(d, host, rest, (uint64_t)k * sizeof(*host));
	else
		device_upload(d, rest, host, (uint64_t)k * sizeof(*host));
}

static void get_halves(const struct optim *o, struct device *d, int64_t tensor, float *host)
{
	const struct trained_tensor *t = &o->base->tensors[tensor];
	uint16_t *a = xmalloc(AT_ONCE * sizeof(*a));
	int16_t *b = xmalloc(AT_ONCE * sizeof(*b));

	for (int64_t i = 0; i < t->n; i += AT_ONCE) {
		int64_t k = t->n - i < AT_ONCE ? t->n - i : AT_ONCE;

		device_download(d, a, (uint16_t *)t->p + i, (uint64_t)k * sizeof(*a));
		move_tensor_rest(o, d, tensor, i, k, b, true);
#pragma omp parallel for
		for (int64_t j = 0; j < k; j++)
			host[i + j] = kn_join(a[j], b[j]);
	}
	free(a);
	free(b);
}

static void put_halves(const struct optim *o, struct device *d, int64_t tensor, const float *host)
{
	const struct trained_tensor *t = &o->base->tensors[tensor];
	uint16_t *a = xmalloc(AT_ONCE * sizeof(*a));
	int16_t *b = xmalloc(AT_ONCE * sizeof(*b));

	for (int64_t i = 0; i < t->n; i += AT_ONCE) {
		int64_t k = t->n - i < AT_ONCE ? t->n - i : AT_ONCE;

#pragma omp parallel for
		for (int64_t j = 0; j < k; j++)
			a[j] = kn_halve(host[i + j], &b[j]);
		device_upload(d, (uint16_t *)t->p + i, a, (uint64_t)k * sizeof(*a));
		move_tensor_rest(o, d, tensor, i, k, b, false);
	}
	free(a);
	free(b);
}

void optim_get_base(const struct optim *o, struct device *d, float *host)
{
	for (int64_t i = 0; i < base_tensors(o); i++) {
		const struct trained_tensor *t = &o->base->tensors[i];

		if (t->halves)
			get_halves(o, d, i, host + t->at);
		else
			device_download(d, host + t->at, t->p, (uint64_t)t->n * sizeof(*host));
	}
}

void optim_put_tensor(const struct optim *o, struct device *d, int64_t tensor, const float *host)
{
	const struct trained_tensor *t = &o->base->tensors[tensor];

	if (t->halves)
		put_halves(o, d, tensor, host);
	else
		device_upload(d, t->p, host, (uint64_t)t->n * sizeof(*host));
}

void optim_put_base(const struct optim *o, struct device *d, const float *host)
{
	for (int64_t i = 0; i < base_tensors(o); i++)
		optim_put_tensor(o, d, i, host + o->base->tensors[i].at);
}

/* --- a step --- */

/* A piece's part of the arrays that it is in. */
static struct kn_adam_arrays part_of(const struct kn_adam_arrays *x, const struct optim_piece *p, const struct optim_piece *before)
{
	int64_t at32 = p->at32 - before->n32, at8 = p->at8 - before->n8, at_max = p->at_max - before->n_max;

	return (struct kn_adam_arrays){ x->m + at32, x->v + at32, x->m8 + at8, x->v8 + at8, x->m_max + at_max, x->v_max + at_max, x->rest + (p->at_rest - before->n_rest) };
}

/* Where piece k's states are on the device. */
static struct kn_adam_arrays arrays(const struct optim *o, int64_t k)
{
	static const struct optim_piece none;
	struct kn_adam_arrays x;

	if (o->pieces[k].stays)
		return part_of(&o->here, &o->pieces[k], &none);
	place(&o->pieces[k], (char *)o->ring + (uint64_t)(k % OPTIM_RING) * o->ring_bytes, &x);
	return x;
}

/* Piece k's states to the device, or back to the host when it is updated. */
static void travel(const struct optim *o, struct device *d, int64_t k, bool home)
{
	const struct optim_piece *p = &o->pieces[k];
	struct kn_adam_arrays x = arrays(o, k), y = part_of(&o->there, p, &o->split);
	uint64_t wide = (uint64_t)p->n32 * sizeof(float), scales = (uint64_t)p->n_max * sizeof(float);
	const struct {
		void *dev, *host;
		uint64_t bytes;
	} part[] = { { x.m, y.m, wide }, { x.v, y.v, wide }, { x.m8, y.m8, (uint64_t)p->n8 }, { x.v8, y.v8, (uint64_t)p->n8 }, { x.m_max, y.m_max, scales },
		     { x.v_max, y.v_max, scales }, { x.rest, y.rest, (uint64_t)p->n_rest * sizeof(*x.rest) } };
	int slot = o->slot + (int)(k % OPTIM_RING);

	for (int i = 0; i < 7; i++)
		if (part[i].bytes && home)
			d->k.away(d, slot, part[i].host, part[i].dev, part[i].bytes);
		else if (part[i].bytes)
			d->k.back(d, slot, part[i].dev, part[i].host, part[i].bytes);
}

bool optim_turns(const struct optim *o)
{
	return o->galore && o->step % o->galore->every == 0;
}

static void update_piece(struct optim *o, struct device *d, int64_t k, double lr, struct kn_adam a)
{
	const struct optim_piece *p = &o->pieces[k];
	struct kn_adam_arrays x = arrays(o, k);
	int64_t tensor = p->tensor - (o->base ? o->n_adapter : 0);
	bool small = p->rule == RULE_GALORE;

	a.lr = p->rule == RULE_B ? lr * o->b_rate : lr;
	a.weight_decay = p->rule == RULE_VECTOR || small ? 0 : o->weight_decay;
	if (o->galore) {
		/* galore-torch adds eps before the correction, and decays what is updated: (p - u) d is p d - u d */
		a.eps = o->eps / sqrt(1 - pow(o->beta2, (double)a.step));
		a.lr = lr * (1 - lr * a.weight_decay);
		a.weight_decay = a.lr > 0 ? lr * a.weight_decay / a.lr : 0;
	}
	if (small && p->from == 0)
		galore_project(o->galore, d, tensor, a.step);
	d->k.adam(d, o->segs + p->first, o->segs_dev + p->first, p->n, p->blocks, &x, &a);
	if (small && p->next_from == 0)
		galore_apply(o->galore, d, tensor, lr * o->weight_decay, &a);
}

void optim_step(struct optim *o, struct device *d, double lr, double loss_scale, const struct optim_sums *sums, double max_norm)
{
	struct kn_adam a = { lr, o->beta1, o->beta2, o->eps, o->weight_decay, ++o->step, (float)(1 / loss_scale), NULL, max_norm, NULL, NULL };
	int64_t first = 0; /* of those that travel */

	if (sums) {
		a.squares = sums->squares;
		a.loss = sums->loss;
		a.refused = sums->refused;
	}
	while (first < o->n_pieces && o->pieces[first].stays)
		first++;
	for (int64_t k = first; k < first + OPTIM_RING && k < o->n_pieces; k++)
		travel(o, d, k, false);
	for (int64_t k = 0; k < o->n_pieces; k++) {
		bool away = !o->pieces[k].stays;

		if (away)
			d->k.await(d, o->slot + (int)(k % OPTIM_RING));
		update_piece(o, d, k, lr, a);
		if (away)
			travel(o, d, k, true);
		if (away && k + OPTIM_RING < o->n_pieces)
			travel(o, d, k + OPTIM_RING, false);
	}
	/* the buffers are other work's again */
	for (int i = 0; o->away && i < OPTIM_RING; i++)
		d->k.await(d, o->slot + i);
}

#include "train/optim.h"

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

static bool is_8bit(const struct optim *o, const struct lora_tensor *t)
{
	return o->kind == OPTIM_ADAMW8 && t->n >= ADAM8_MIN;
}

static int64_t blocks(int64_t n)
{
	return (n + ADAM8_BLOCK - 1) / ADAM8_BLOCK;
}

void optim_sizes(const struct optim *o, const struct lora *l, int64_t *n32, int64_t *n8, int64_t *n_blocks)
{
	*n32 = *n8 = *n_blocks = 0;
	for (int64_t i = 0; i < l->n_tensors; i++) {
		const struct lora_tensor *t = &l->tensors[i];

		if (is_8bit(o, t)) {
			*n8 += t->n;
			*n_blocks += blocks(t->n);
		} else {
			*n32 += t->n;
		}
	}
}

uint64_t optim_bytes(const struct optim *o, const struct lora *l)
{
	int64_t n32, n8, nb;

	optim_sizes(o, l, &n32, &n8, &nb);
	return (uint64_t)(n32 + nb) * 2 * sizeof(float) + (uint64_t)n8 * 2;
}

void optim_layout(struct optim *o, const struct lora *l, struct layout *to, struct layout *host)
{
	struct layout *states = host ? host : to;
	int64_t n32, n8, nb;

	o->away = host != NULL;
	optim_sizes(o, l, &n32, &n8, &nb);
	o->m = layout_array(states, "optimiser", n32, sizeof(float));
	o->v = layout_array(states, "optimiser", n32, sizeof(float));
	o->m8 = layout_array(states, "optimiser", n8, 1);
	o->v8 = layout_array(states, "optimiser", n8, 1);
	o->m_max = layout_array(states, "optimiser", nb, sizeof(float));
	o->v_max = layout_array(states, "optimiser", nb, sizeof(float));
	o->segs_dev = layout_array(to, "optimiser", l->n_tensors, sizeof(*o->segs_dev));
}

/* --- pieces --- */

#define PIECE (4 << 20) /* bytes: 80 us on the way, and a buffer that other work has room for */

/* A piece's arrays at base; returns what they take. */
static uint64_t place(const struct optim_piece *p, char *base, struct kn_adam_arrays *x)
{
	struct layout l = { .base = base };

	x->m = layout_array(&l, "m", p->n32, sizeof(float));
	x->v = layout_array(&l, "v", p->n32, sizeof(float));
	x->m8 = layout_array(&l, "m8", p->n8, 1);
	x->v8 = layout_array(&l, "v8", p->n8, 1);
	x->m_max = layout_array(&l, "m_max", p->n_max, sizeof(float));
	x->v_max = layout_array(&l, "v_max", p->n_max, sizeof(float));
	return l.used;
}

static uint64_t bytes_of(const struct optim_piece *p)
{
	struct kn_adam_arrays none;

	return place(p, NULL, &none);
}

static struct optim_piece with(const struct optim *o, struct optim_piece p, const struct lora_tensor *t)
{
	bool eight = is_8bit(o, t);

	p.n++;
	p.n32 += eight ? 0 : t->n;
	p.n8 += eight ? t->n : 0;
	p.n_max += eight ? blocks(t->n) : 0;
	p.blocks += blocks(t->n);
	return p;
}

static const struct lora_tensor *tensor_at(const struct optim *o, const struct lora *l, int64_t i)
{
	return &l->tensors[o->b_rate > 0 ? l->by_matrix[i] : i];
}

static bool is_b(const struct optim *o, const struct lora *l, int64_t i)
{
	return o->b_rate > 0 && i >= l->n_a;
}

/* The one behind p; n is 0 where p was the last. */
static struct optim_piece piece_after(const struct optim *o, const struct lora *l, const struct optim_piece *p)
{
	struct optim_piece next = { .first = p->first + p->n, .at32 = p->at32 + p->n32, .at8 = p->at8 + p->n8, .at_max = p->at_max + p->n_max };
	uint64_t most = o->piece ? o->piece : PIECE;

	next.b = is_b(o, l, next.first);
	while (next.first + next.n < l->n_tensors && is_b(o, l, next.first + next.n) == next.b) {
		struct optim_piece more = with(o, next, tensor_at(o, l, next.first + next.n));

		if (o->away && next.n && bytes_of(&more) > most)
			break;
		next = more;
	}
	return next;
}

uint64_t optim_ring_bytes(const struct optim *o, const struct lora *l)
{
	struct optim_piece none = { 0 }, p = piece_after(o, l, &none);
	uint64_t most = 0;

	for (; p.n; p = piece_after(o, l, &p))
		most = bytes_of(&p) > most ? bytes_of(&p) : most;
	return most;
}

/* The segments of a piece's tensors, whose states begin with the piece. */
static void start_piece(struct optim *o, const struct lora *l, const struct optim_piece *p)
{
	struct optim_piece before = { .first = p->first };

	for (int64_t i = p->first; i < p->first + p->n; i++) {
		const struct lora_tensor *t = tensor_at(o, l, i);
		bool eight = is_8bit(o, t);

		o->segs[i] = (struct kn_adam_seg){ t->offset, t->n, eight ? before.n8 : before.n32, before.n_max, before.blocks, eight };
		before = with(o, before, t);
	}
}

static void clear_states(struct optim *o, const struct lora *l)
{
	int64_t n32, n8, nb;

	optim_sizes(o, l, &n32, &n8, &nb);
	memset(o->m, 0, (size_t)n32 * sizeof(*o->m));
	memset(o->v, 0, (size_t)n32 * sizeof(*o->v));
	memset(o->m8, 0, (size_t)n8);
	memset(o->v8, 0, (size_t)n8);
	memset(o->m_max, 0, (size_t)nb * sizeof(*o->m_max));
	memset(o->v_max, 0, (size_t)nb * sizeof(*o->v_max));
}

void optim_start(struct optim *o, const struct lora *l, struct device *d)
{
	struct optim_piece none = { 0 }, p = piece_after(o, l, &none);

	o->segs = xcalloc((size_t)l->n_tensors, sizeof(*o->segs));
	o->pieces = xcalloc((size_t)l->n_tensors, sizeof(*o->pieces));
	o->n_segs = l->n_tensors;
	o->ring_bytes = o->away ? optim_ring_bytes(o, l) : 0;
	for (o->n_pieces = 0; p.n; p = piece_after(o, l, &p)) {
		start_piece(o, l, &p);
		o->pieces[o->n_pieces++] = p;
	}
	device_upload(d, o->segs_dev, o->segs, (uint64_t)o->n_segs * sizeof(*o->segs));
	if (o->away) /* the device's memory is clear, the host's is not */
		clear_states(o, l);
}

void optim_release(struct optim *o)
{
	free(o->segs);
	free(o->pieces);
	o->segs = NULL;
	o->pieces = NULL;
}

/* --- a step --- */

/* Where piece k's states are on the device. */
static struct kn_adam_arrays arrays(const struct optim *o, const struct lora *l, int64_t k)
{
	const struct optim_piece *p = &o->pieces[k];
	struct kn_adam_arrays x = { l->params, l->grads, o->m + p->at32, o->v + p->at32, o->m8 + p->at8, o->v8 + p->at8, o->m_max + p->at_max, o->v_max + p->at_max };

	if (o->away)
		place(p, (char *)o->ring + (uint64_t)(k % OPTIM_RING) * o->ring_bytes, &x);
	return x;
}

/* Piece k's states to the device, or back to the host when it is updated. */
static void travel(const struct optim *o, const struct lora *l, struct device *d, int64_t k, bool home)
{
	const struct optim_piece *p = &o->pieces[k];
	struct kn_adam_arrays x = arrays(o, l, k);
	const struct {
		void *dev, *host;
		uint64_t bytes;
	} part[] = { { x.m, o->m + p->at32, (uint64_t)p->n32 * sizeof(float) }, { x.v, o->v + p->at32, (uint64_t)p->n32 * sizeof(float) },
		     { x.m8, o->m8 + p->at8, (uint64_t)p->n8 }, { x.v8, o->v8 + p->at8, (uint64_t)p->n8 },
		     { x.m_max, o->m_max + p->at_max, (uint64_t)p->n_max * sizeof(float) }, { x.v_max, o->v_max + p->at_max, (uint64_t)p->n_max * sizeof(float) } };
	int slot = o->slot + (int)(k % OPTIM_RING);

	for (int i = 0; i < 6; i++)
		if (part[i].bytes && home)
			d->k.away(d, slot, part[i].host, part[i].dev, part[i].bytes);
		else if (part[i].bytes)
			d->k.back(d, slot, part[i].dev, part[i].host, part[i].bytes);
}

void optim_step(struct optim *o, struct lora *l, struct device *d, double lr, double loss_scale, const struct optim_sums *sums, double max_norm)
{
	struct kn_adam a = { lr, o->beta1, o->beta2, o->eps, o->weight_decay, ++o->step, (float)(1 / loss_scale), NULL, max_norm, NULL, NULL };

	if (sums) {
		a.squares = sums->squares;
		a.loss = sums->loss;
		a.refused = sums->refused;
	}
	for (int64_t k = 0; o->away && k < OPTIM_RING && k < o->n_pieces; k++)
		travel(o, l, d, k, false);
	for (int64_t k = 0; k < o->n_pieces; k++) {
		const struct optim_piece *p = &o->pieces[k];
		struct kn_adam_arrays x = arrays(o, l, k);

		a.lr = p->b ? lr * o->b_rate : lr;
		if (o->away)
			d->k.await(d, o->slot + (int)(k % OPTIM_RING));
		d->k.adam(d, o->segs + p->first, o->segs_dev + p->first, p->n, p->blocks, &x, &a);
		if (o->away)
			travel(o, l, d, k, true);
		if (o->away && k + OPTIM_RING < o->n_pieces)
			travel(o, l, d, k + OPTIM_RING, false);
	}
	/* the buffers are other work's again */
	for (int i = 0; o->away && i < OPTIM_RING; i++)
		d->k.await(d, o->slot + i);
}

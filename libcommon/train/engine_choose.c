/* Which plan: what stays on the device, what runs again, what waits in host memory. Every candidate is laid out (engine_plan.c) and what
 * fits is compared by its estimate (engine_cost.c). Nothing here changes a bit of what is computed. */
#include <math.h>
#include <string.h>

#include "train/engine.h"

struct choice {
	int64_t full, lean, travel, cached;
	int sets;
	bool pieced, host_embed;
	int optim_away;    /* sixteenths of the optimiser's states there */
	int64_t away;      /* streams of layers in host memory, the first ones */
	int64_t head_away; /* segments of the head there, the last ones */
};

static int64_t segments(const struct engine *g)
{
	return (g->w.head.rows + g->segment - 1) / g->segment;
}

static void plan_with(struct engine *g, struct choice c)
{
	static const char *const titles[ARENA_N] = { "weights", "adapter", "activations", "scratch", "cache" };

	memset(g->plan, 0, sizeof(g->plan));
	for (int i = 0; i < ARENA_N; i++)
		g->plan[i].title = titles[i];
	memset(&g->host_plan, 0, sizeof(g->host_plan));
	g->host_plan.title = "host";
	g->away = c.away;
	g->optim_away = c.optim_away;
	g->w.host_embed = c.host_embed || c.head_away > 0; /* a tied head is the embedding */
	g->w.head_rows = c.head_away ? (segments(g) - c.head_away) * g->segment : g->w.head.rows; /* the last segment may be shorter */
	g->full = c.full;
	g->lean = c.lean;
	g->travel = c.travel;
	g->sets = c.sets;
	g->pieced = c.pieced;
	g->w.cached_layers = c.cached;
	engine_layout(g);
}

static bool fits(struct engine *g, struct choice c)
{
	plan_with(g, c);
	if (g->host_plan.used > g->shape.host_budget)
		return false;
	return g->shape.budget == 0 ? engine_bytes(g) != UINT64_MAX : engine_bytes(g) <= g->shape.budget;
}

/* Raises one choice to the most up to max that fits; as it is it does. A layer is lean or full: what becomes full is lean no more. */
static void raise_to_most(struct engine *g, struct choice *c, int64_t *what, int64_t max)
{
	int64_t lo = *what, hi = max, all = c->full + c->lean;

	while (lo < hi) {
		*what = lo + (hi - lo + 1) / 2;
		if (what == &c->full)
			c->lean = all - c->full;
		if (fits(g, *c))
			lo = *what;
		else
			hi = *what - 1;
	}
	*what = lo;
	if (what == &c->full)
		c->lean = all - c->full;
}

/* Whether a dense copy of the weights would be read. */
static bool wants_dense(const struct engine *g)
{
	return !g->w.dense && !engine_decode_rows(g) && !g->w.fp8;
}

/* The fastest for the device memory that there is, given what goes to the host; false: it does not fit. In the order of what a
 * byte saves: a lean layer saves a forward pass, a third of the step; a dense copy of a layer's weights two dequantisations; a
 * full layer the element-wise steps. All leave every bit unchanged. */
static bool fill_up(struct engine *g, struct choice *c)
{
	int64_t layers = g->w.desc.layers;

	c->lean = c->pieced ? 0 : c->sets; /* the top layers, in the sets that all share */
	if (!fits(g, *c))
		return false;
	if (!c->pieced)
		raise_to_most(g, c, &c->lean, layers);
	if (wants_dense(g)) /* decoding reads the codes: a dense copy would be four times as many bytes */
		raise_to_most(g, c, &c->cached, layers);
	if (!c->pieced)
		raise_to_most(g, c, &c->full, c->lean == layers ? layers : c->lean - c->sets);
	return true;
}

/* Of the layers that would run again as many travel as make it fastest: with one more the copies would be waited for. */
static void send_lean(struct engine *g, struct choice *c)
{
	int64_t most = g->w.desc.layers - c->full - c->lean, best = 0;
	double seconds = 0;

	if (c->sets == 1)
		return;
	raise_to_most(g, c, &c->travel, most);
	for (g->travel = 0; g->travel <= c->travel; g->travel++) {
		double s;

		engine_spread(g);
		s = engine_seconds(g);
		if (g->travel == 0 || s < seconds) {
			seconds = s;
			best = g->travel;
		}
	}
	c->travel = best;
}

/* As many streams travel as there are whose buffers are wanted again before backward comes. */
static int64_t most_streams(const struct engine *g)
{
	return g->w.desc.layers + 1 > RING ? g->w.desc.layers + 1 - RING : 0;
}

/* As many of them as the host has room for. */
static void send_streams(struct engine *g, struct choice *c)
{
	c->away = most_streams(g);
	for (plan_with(g, *c); c->away > 0 && g->host_plan.used > g->shape.host_budget; plan_with(g, *c))
		c->away--;
}

/* What is chosen fits: no more streams travel than it takes. */
static void lower_streams(struct engine *g, struct choice *c)
{
	int64_t lo = 0, hi = c->away;

	while (lo < hi) {
		c->away = lo + (hi - lo) / 2;
		if (fits(g, *c))
			hi = c->away;
		else
			lo = c->away + 1;
	}
	c->away = hi;
}

/* Bytes that come to the device in a step, and that no work before them hides. */
static uint64_t waits_for(const struct engine *g, const struct choice *c)
{
	uint64_t segment = (uint64_t)(g->segment * g->w.head.cols) * dtype_bytes(g->w.head.dtype);

	return (uint64_t)c->head_away * segment + (c->optim_away ? optim_bytes(g->shape.optim, g->lora) / OPTIM_PARTS * (uint64_t)c->optim_away : 0);
}

struct best {
	struct choice c;
	double seconds; /* 0: nothing fitted so far */
};

/* Fills up what c leaves open, with streams or without; the result is the best if it is estimated faster than the best so far. */
static void consider(struct engine *g, struct choice c, bool streams, struct best *best)
{
	double s;

	if (streams)
		send_streams(g, &c);
	if (!fill_up(g, &c))
		return;
	send_lean(g, &c);
	lower_streams(g, &c);
	plan_with(g, c);
	s = engine_seconds(g) + (c.optim_away || c.head_away ? (double)waits_for(g, &c) / g->dev->host_rate : 0);
	if (best->seconds > 0 && s >= best->seconds)
		return;
	best->c = c;
	best->seconds = s;
}

/* The same with each number of sets up to most, from `from` on, and where micro-batches go through in pieces with a piece's rows. */
static void consider_sets(struct engine *g, struct choice c, int from, int most, bool streams, struct best *best)
{
	for (c.sets = from; c.sets <= most; c.sets++)
		consider(g, c, streams, best);
	c.sets = 1;
	c.pieced = true;
	if (g->shape.train && g->shape.max_tokens > g->shape.piece)
		consider(g, c, streams, best);
}

/* Whether everything stays on the device and is dense: the host has nothing to give. */
static bool has_all(const struct engine *g, const struct best *b)
{
	return b->seconds > 0 && b->c.full + b->c.lean == g->w.desc.layers && (b->c.cached == g->w.desc.layers || !wants_dense(g));
}

static bool fits_with_streams(struct engine *g, struct choice *c)
{
	send_streams(g, c);
	return fits(g, *c);
}

/* Whether embedding and head may wait in host memory: not where they are trained. */
static bool tables_travel(const struct engine *g)
{
	return !engine_trains(g, TRAIN_EMBED | TRAIN_HEAD);
}

/* As few of the optimiser's states as do, as few segments of the head, or both: what the step waits least for. When nothing fits, *c is the
 * smallest plan. */
static void send_least(struct engine *g, struct choice *c)
{
	struct choice try = *c, best = *c;
	uint64_t least = UINT64_MAX;
	int parts = g->lora && g->shape.optim ? OPTIM_PARTS : 0;
	int64_t most = tables_travel(g) ? segments(g) : 0;

	for (int k = 0; k <= parts; k++) {
		try.optim_away = k;
		for (try.head_away = 0; try.head_away < most && !fits_with_streams(g, &try);)
			try.head_away++;
		if (fits_with_streams(g, &try) && waits_for(g, &try) < least) {
			least = waits_for(g, &try);
			best = try;
		}
	}
	*c = least == UINT64_MAX ? try : best;
}

/* The least, and more of the optimiser's states away: what they leave on the device may be worth more to a layer's activations. */
static void consider_least(struct engine *g, struct choice c, bool host, int sets, struct best *best)
{
	consider(g, c, host, best);
	for (int more = 1; host && best->seconds > 0 && c.optim_away && c.optim_away < OPTIM_PARTS; more *= 2) {
		c.optim_away = c.optim_away + more < OPTIM_PARTS ? c.optim_away + more : OPTIM_PARTS;
		consider_sets(g, c, 1, sets, true, best);
	}
}

/* c is the smallest plan. */
static int refuse(struct engine *g, struct choice c, bool host, struct err *e)
{
	double mib = 1 << 20;

	c.away = host ? most_streams(g) : 0;
	plan_with(g, c);
	if (g->host_plan.used > g->shape.host_budget && (g->shape.budget == 0 || engine_bytes(g) <= g->shape.budget))
		return err_set(e, LP_DEVICE, "the plan fits with %.1f MiB of page-locked host memory, and %.1f MiB may be used; raise --host-memory or --memory, or lower --batch or "
		               "--max-len", (double)g->host_plan.used / mib, (double)g->shape.host_budget / mib);
	return err_set(e, LP_DEVICE, "the smallest plan needs %.1f MiB and %.1f MiB may be used; raise --memory by %.0f MiB, or lower --batch or --max-len", (double)engine_bytes(g) / mib,
	               (double)g->shape.budget / mib, ceil((double)(engine_bytes(g) - g->shape.budget) / mib));
}

/* As many as the plan leaves room for. */
static int recordings(const struct engine *g)
{
	uint64_t one = engine_recording_bytes(g), more = one && g->shape.budget ? (g->shape.budget - engine_bytes(g)) / one : WORKS - 1;

	return 1 + (int)(more < WORKS - 1 ? more : WORKS - 1);
}

/* What waits in host memory, in the order of what it costs. Activations and the residual stream travel under the work, but for nothing
 * that is not worth it. For an embedding there the device waits at each micro-batch while its rows are picked. Of the head and of the
 * optimiser's states only what the loss and the update do themselves hides the copies. */
int engine_choose(struct engine *g, struct err *e)
{
	struct choice least = { .sets = 1, .pieced = !g->shape.train || g->shape.max_tokens > g->shape.piece };
	struct best best = { 0 };
	int64_t layers = g->w.desc.layers;
	bool host = g->dev->host_rate > 0 && g->shape.train;
	int sets = (int)(layers - 1 < SETS ? layers - 1 : SETS);

	if (!g->shape.train)
		consider(g, least, false, &best);
	else
		consider_sets(g, (struct choice){ 0 }, 1, 1, false, &best);
	if (host && !has_all(g, &best)) {
		consider_sets(g, (struct choice){ 0 }, 2, sets, false, &best);
		consider_sets(g, (struct choice){ 0 }, 1, sets, true, &best);
	}
	if (host && best.seconds == 0 && tables_travel(g))
		consider_sets(g, (struct choice){ .host_embed = !g->w.desc.tied }, 1, sets, true, &best);
	if (best.seconds == 0) {
		least.lean = !least.pieced;
		least.host_embed = host && !g->w.desc.tied && tables_travel(g);
		if (host)
			send_least(g, &least);
		consider_least(g, least, host, sets, &best);
	}
	if (best.seconds == 0)
		return refuse(g, least, host, e);
	plan_with(g, best.c);
	g->recordings = recordings(g);
	return 0;
}

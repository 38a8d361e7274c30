/* Batches through threads, in input order: see tok_batch.h. A thread that reads
 * draws a number; of the batches that are ready, one thread at a time uses those
 * whose number's turn has come, and the others go on with other batches: memory is
 * a few batches a thread, and the output does not depend on how many there are. */
#include <pthread.h>
#include <stdlib.h>

#include "base/xalloc.h"
#include "data/tok_batch.h"

struct slot {
	struct tok_batch b;
	struct slot *next; /* among those that are free */
	uint64_t turn;
	int rc;            /* of reading, and what was wrong */
	struct err e;
};

struct line {
	const struct tok_pipe *p;
	pthread_mutex_t reading, sharing;
	pthread_cond_t freed;
	/* under reading: */
	uint64_t drawn;
	int64_t n_read;      /* records */
	bool ended;          /* nothing more to read */
	/* under sharing: */
	struct slot *free;   /* the one that was used last in front: its memory is near */
	struct slot **ready; /* (max_slots) by turn */
	size_t n_slots, max_slots;
	uint64_t turn;
	bool using;          /* by one of the threads, which alone looks at failed and e */
	bool failed;
	struct err *e;
};

static int read_batch(struct line *l, struct tok_batch *b, uint64_t *turn, struct err *e)
{
	int64_t left;
	int rc = 0;

	pthread_mutex_lock(&l->reading);
	left = l->p->limit ? l->p->limit - l->n_read : INT64_MAX;
	if (!l->ended && left > 0) {
		rc = tok_batch_read(b, l->p->records, l->n_read, (uint64_t)left, e);
		*turn = l->drawn;
		l->drawn += rc != 0;
		l->n_read += (int64_t)b->n;
		l->ended = rc <= 0;
	}
	pthread_mutex_unlock(&l->reading);
	return rc;
}

static void stop(struct line *l, const struct err *e)
{
	l->failed = true;
	*l->e = *e;
	pthread_mutex_lock(&l->reading);
	l->ended = true;
	pthread_mutex_unlock(&l->reading);
}

static struct slot *take(struct line *l)
{
	struct slot *s;

	pthread_mutex_lock(&l->sharing);
	while (!l->free && l->n_slots == l->max_slots)
		pthread_cond_wait(&l->freed, &l->sharing);
	s = l->free;
	if (s) {
		l->free = s->next;
	} else {
		s = xmalloc(sizeof(*s));
		*s = (struct slot){ .e = ERR_INIT };
		tok_batch_init(&s->b);
		l->n_slots++;
	}
	pthread_mutex_unlock(&l->sharing);
	return s;
}

static void use(struct line *l, struct slot *s)
{
	struct err wrong = ERR_INIT;

	if (!l->failed && l->p->use(l->p->arg, &s->b, &wrong))
		stop(l, &wrong);
	if (!l->failed && s->rc < 0)
		stop(l, &s->e);
}

/* Under sharing. */
static void give(struct line *l, struct slot *s)
{
	s->next = l->free;
	l->free = s;
	pthread_cond_signal(&l->freed);
}

/* A batch that is ready; and where no other thread does so, all that are next are used. */
static void hand_over(struct line *l, struct slot *s)
{
	pthread_mutex_lock(&l->sharing);
	l->ready[s->turn % l->max_slots] = s;
	if (!l->using) {
		l->using = true;
		while ((s = l->ready[l->turn % l->max_slots]) != NULL) {
			l->ready[l->turn % l->max_slots] = NULL;
			pthread_mutex_unlock(&l->sharing);
			use(l, s);
			pthread_mutex_lock(&l->sharing);
			l->turn++;
			give(l, s);
		}
		l->using = false;
	}
	pthread_mutex_unlock(&l->sharing);
}

static void *work(void *arg)
{
	struct line *l = arg;
	struct slot *s;

	while ((s = take(l)), (s->rc = read_batch(l, &s->b, &s->turn, &s->e)) != 0) {
		tok_batch_encode(&s->b, l->p->policy);
		hand_over(l, s);
	}
	pthread_mutex_lock(&l->sharing);
	give(l, s);
	pthread_mutex_unlock(&l->sharing);
	return NULL;
}

int tok_pipe_run(const struct tok_pipe *p, struct err *e)
{
	struct line l = { .p = p, .e = e, .reading = PTHREAD_MUTEX_INITIALIZER, .sharing = PTHREAD_MUTEX_INITIALIZER, .freed = PTHREAD_COND_INITIALIZER };
	int more = p->threads > 1 ? p->threads - 1 : 0, n = 0;
	pthread_t *t = xcalloc((size_t)more + 1, sizeof(*t));
	struct slot *s;

	l.max_slots = more ? (size_t)more + 3 : 1; /* some to go on with while a frame is written */
	l.ready = xcalloc(l.max_slots, sizeof(*l.ready));
	while (n < more && !pthread_create(&t[n], NULL, work, &l)) /* fewer will do */
		n++;
	work(&l);
	while (n)
		pthread_join(t[--n], NULL);
	while ((s = l.free) != NULL) {
		l.free = s->next;
		tok_batch_release(&s->b);
		free(s);
	}
	free(l.ready);
	free(t);
	return l.failed ? -1 : 0;
}

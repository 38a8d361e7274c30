/* Batches through threads, in input order: see tok_batch.h. A thread that reads
 * draws a number, and uses its batch when that number's turn has come: memory is
 * a batch a thread, and the output does not depend on how many there are. */
#include <pthread.h>
#include <stdlib.h>

#include "base/xalloc.h"
#include "data/tok_batch.h"

struct line {
	const struct tok_pipe *p;
	pthread_mutex_t reading, waiting;
	pthread_cond_t next;
	uint64_t drawn, turn; /* under reading; under waiting */
	int64_t n_read;       /* records; under reading */
	bool ended;           /* nothing more to read; under reading */
	bool failed;          /* whose turn it is only */
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

static void *work(void *arg)
{
	struct line *l = arg;
	struct tok_batch b;
	struct err e = ERR_INIT;
	uint64_t turn = 0;
	int rc;

	tok_batch_init(&b);
	while ((rc = read_batch(l, &b, &turn, &e)) != 0) {
		struct err wrong = ERR_INIT;

		tok_batch_encode(&b, l->p->policy);
		pthread_mutex_lock(&l->waiting);
		while (l->turn != turn)
			pthread_cond_wait(&l->next, &l->waiting);
		pthread_mutex_unlock(&l->waiting);
		if (!l->failed && l->p->use(l->p->arg, &b, &wrong))
			stop(l, &wrong);
		if (!l->failed && rc < 0)
			stop(l, &e);
		pthread_mutex_lock(&l->waiting);
		l->turn++;
		pthread_cond_broadcast(&l->next);
		pthread_mutex_unlock(&l->waiting);
	}
	tok_batch_release(&b);
	return NULL;
}

int tok_pipe_run(const struct tok_pipe *p, struct err *e)
{
	struct line l = { .p = p, .e = e, .reading = PTHREAD_MUTEX_INITIALIZER, .waiting = PTHREAD_MUTEX_INITIALIZER, .next = PTHREAD_COND_INITIALIZER };
	int more = p->threads > 1 ? p->threads - 1 : 0, n = 0;
	pthread_t *t = xcalloc((size_t)more + 1, sizeof(*t));

	while (n < more && !pthread_create(&t[n], NULL, work, &l)) /* fewer will do */
		n++;
	work(&l);
	while (n)
		pthread_join(t[--n], NULL);
	free(t);
	return l.failed ? -1 : 0;
}

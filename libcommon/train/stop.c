#include "train/stop.h"

#include <signal.h>
#include <stddef.h>

static const int ends[] = { SIGINT, SIGTERM };
enum { N_ENDS = sizeof(ends) / sizeof(*ends) };

static struct sigaction before[N_ENDS], before_usr1;
static volatile sig_atomic_t ended, wanted;
static bool listening;

static void on_end(int sig)
{
	if (!ended) {
		ended = sig;
		return;
	}
	for (int i = 0; i < N_ENDS; i++)
		if (ends[i] == sig)
			sigaction(sig, &before[i], NULL);
	raise(sig); /* delivered when the handler returns */
}

static void on_usr1(int sig)
{
	(void)sig;
	wanted = 1;
}

void stop_listen(void)
{
	struct sigaction sa = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };

	ended = wanted = 0;
	sigaction(SIGUSR1, &sa, &before_usr1);
}

void stop_listen_ends(void)
{
	struct sigaction sa = { .sa_handler = on_end, .sa_flags = SA_RESTART };

	listening = true;
	for (int i = 0; i < N_ENDS; i++) {
		sigaction(ends[i], NULL, &before[i]);
		if (before[i].sa_handler != SIG_IGN)
			sigaction(ends[i], &sa, NULL);
	}
}

void stop_unlisten(void)
{
	for (int i = 0; i < N_ENDS && listening; i++)
		sigaction(ends[i], &before[i], NULL);
	listening = false;
	sigaction(SIGUSR1, &before_usr1, NULL);
}

int stop_signal(void)
{
	return ended;
}

bool stop_asks(void)
{
	return ended || wanted;
}

bool stop_wants_checkpoint(void)
{
	bool was = wanted;

	wanted = 0;
	return was;
}

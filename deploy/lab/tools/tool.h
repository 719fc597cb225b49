/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the lab's tools share: clocks, the end of a run, plain argument parsing, real-time priority.
 * Each tool is one file; this header holds only static functions.
 */
#ifndef TB_LAB_TOOL_H
#define TB_LAB_TOOL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define NS_PER_S 1000000000LL
#define NS_PER_US 1000LL

static volatile sig_atomic_t tool_stopped;

static inline void tool_on_signal(int number)
{
	(void)number;
	tool_stopped = 1;
}

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline void usage(const char *text)
{
	fprintf(stderr, "%s\n", text);
	exit(2);
}

/* SIGTERM and SIGINT end a run in good order: what was recorded is kept. */
static inline void tool_stop_on_signals(void)
{
	/* Without SA_RESTART: a blocking call has to come back and see the flag. */
	struct sigaction action = {.sa_handler = tool_on_signal};

	if (sigaction(SIGTERM, &action, NULL) || sigaction(SIGINT, &action, NULL))
		die("sigaction");
}

static inline int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* The agent's timelines and the kernel programs use this clock, so everything here does as well. */
#define TOOL_CLOCK CLOCK_BOOTTIME

/*
 * CLOCK_REALTIME − TOOL_CLOCK.  The kernel stamps packets with the former, everything else here uses
 * the latter.  Taken anew with each batch, so that a slewed or stepped clock does no harm; of
 * several readings the one with the shortest bracket is the one no scheduler came between.
 */
static inline int64_t realtime_offset_ns(void)
{
	int64_t best = INT64_MAX;
	int64_t offset = 0;

	for (int i = 0; i < 3; i++) {
		int64_t before = clock_ns(TOOL_CLOCK);
		int64_t real = clock_ns(CLOCK_REALTIME);
		int64_t after = clock_ns(TOOL_CLOCK);

		if (after - before < best) {
			best = after - before;
			offset = real - before - (after - before) / 2;
		}
	}
	return offset;
}

static inline void sleep_until_ns(int64_t when)
{
	struct timespec until = {.tv_sec = when / NS_PER_S, .tv_nsec = when % NS_PER_S};

	clock_nanosleep(TOOL_CLOCK, TIMER_ABSTIME, &until, NULL);
}

static inline int64_t parse_number(const char *text, const char *what, int64_t min, int64_t max)
{
	char *end;

	errno = 0;
	long long value = strtoll(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max) {
		fprintf(stderr, "%s: %s is not a number from %lld to %lld\n", what, text,
			(long long)min, (long long)max);
		exit(2);
	}
	return value;
}

/* Priority 0 leaves the scheduling class as it is, with timers as exact as they can be there. */
static inline void set_fifo(int priority)
{
	struct sched_param parameters = {.sched_priority = priority};

	prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	if (priority > 0 && sched_setscheduler(0, SCHED_FIFO, &parameters))
		die("SCHED_FIFO");
}

#endif

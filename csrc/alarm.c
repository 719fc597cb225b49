// SPDX-License-Identifier: Apache-2.0
#include "alarm.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

enum {
	LOOK_EVERY_NS = 1000000000,
	NOISE_NS = 100000,  /* two clocks can't be read at once; a suspend takes longer */
	AHEAD_NS = 1000000, /* what lies further behind the wake-up than this isn't armed */
};

static struct timespec timespec_of(tb_u64 ns)
{
	return (struct timespec){
		.tv_sec = (time_t)(ns / 1000000000ull),
		.tv_nsec = (long)(ns % 1000000000ull),
	};
}

/*
 * Small noise is ignored: both timers must stand on the same nanosecond, or the second isn't recognised as
 * programmed already.
 */
static void look_at_clocks(struct tb_alarm *alarm, tb_u64 now)
{
	struct timespec monotonic;
	tb_u64 suspended;

	(void)clock_gettime(CLOCK_MONOTONIC, &monotonic);
	suspended = now - ((tb_u64)monotonic.tv_sec * 1000000000ull + (tb_u64)monotonic.tv_nsec);
	/* Unsigned: differences below zero wrap to beyond the bound, unless they are noise. */
	if (suspended - alarm->suspended_ns + NOISE_NS > 2ull * NOISE_NS)
		alarm->suspended_ns = suspended;
	alarm->suspended_at_ns = now;
}

int tb_alarm_open(struct tb_alarm *alarm)
{
	*alarm = (struct tb_alarm){.ahead = {-1, -1}};
	for (int i = 0; i < 2; i++) {
		alarm->ahead[i] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (alarm->ahead[i] < 0) {
			int err = -errno;

			tb_alarm_close(alarm);
			return err;
		}
	}
	return 0;
}

void tb_alarm_close(struct tb_alarm *alarm)
{
	for (int i = 0; i < 2; i++) {
		if (alarm->ahead[i] >= 0)
			(void)close(alarm->ahead[i]);
		alarm->ahead[i] = -1;
	}
}

void tb_alarm_sleep(struct tb_alarm *alarm, tb_u32 *word, tb_u32 value, tb_u64 wake_ns,
		    tb_u64 after_ns)
{
	tb_u64 now = tb_now();
	struct timespec wake;

	if (now - alarm->suspended_at_ns >= LOOK_EVERY_NS)
		look_at_clocks(alarm, now);
	/* A sleep cut short by the bell has armed its successor already. */
	if (after_ns != alarm->armed_ns && after_ns - wake_ns <= AHEAD_NS) {
		struct itimerspec ahead = {.it_value = timespec_of(after_ns - alarm->suspended_ns)};

		(void)timerfd_settime(alarm->ahead[alarm->turn], TFD_TIMER_ABSTIME, &ahead, NULL);
		alarm->turn ^= 1;
		alarm->armed_ns = after_ns;
	}
	wake = timespec_of(wake_ns - alarm->suspended_ns);
	(void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, &wake, NULL,
		      FUTEX_BITSET_MATCH_ANY);
}

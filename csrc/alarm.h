/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sleeping until a moment, or until a bell rings, with the moment after it armed ahead.
 *
 * To sleep, a thread has to have the processor's timer programmed, unless that is going to fire earlier anyway. A
 * virtual machine leaves for its host to do that: 8-14 us under nested virtualisation, more than a whole round of
 * the engine. So the moment after the next one is always armed too. The interrupt that ends this sleep then
 * programs the timer for the next, once, and the thread's own request finds it done.
 *
 * That pays only while sleeps are short: over longer ones the processor's own ticks come in between and program the
 * timer anyway (a bare loop woken each 5 ms takes 0.69 % of a processor without this and 0.80 % with it, one woken
 * each 200 us 10.1 % and 9.0 %).
 *
 * Nothing depends on the guess being right: a wrong one costs an interrupt, or the programming that it saved.
 */
#ifndef TB_ALARM_H
#define TB_ALARM_H

#include "tb_abi.h"

struct tb_alarm {
	int ahead[2];		/* timerfds; used in turn, read by nobody */
	tb_u32 turn;		/* which one is armed next */
	tb_u64 armed_ns;	/* what was armed last, CLOCK_BOOTTIME */
	tb_u64 suspended_ns;	/* CLOCK_BOOTTIME - CLOCK_MONOTONIC, which futexes know */
	tb_u64 suspended_at_ns; /* when that was looked up */
};

/* Returns 0 or -errno. */
int tb_alarm_open(struct tb_alarm *alarm);
void tb_alarm_close(struct tb_alarm *alarm);

/*
 * Sleep while *word is `value`, until `wake_ns` at the latest; then probably `after_ns` is waited for. Both on the
 * engine's clock. Wakes early for no reason now and then.
 */
void tb_alarm_sleep(struct tb_alarm *alarm, tb_u32 *word, tb_u32 value, tb_u64 wake_ns,
		    tb_u64 after_ns);

#endif /* TB_ALARM_H */

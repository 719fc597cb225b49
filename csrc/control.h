/* SPDX-License-Identifier: Apache-2.0 */
/*
 * R11: does this node's own receive path run? One small real-time thread on each processor sends a CONTROL frame
 * through the private pair when asked. XDP over veth runs on the processor that sends, so a processor that is
 * taken away from us, or whose softirqs don't run, shows as a stamp that doesn't come. The engine never waits.
 */
#ifndef TB_CONTROL_H
#define TB_CONTROL_H

#include "engine.h"

struct tb_helpers;

/* What the helpers need; the pointers stay the caller's and outlive them. */
struct tb_helpers_setup {
	tb_u32 ifindex; /* the sending end of the private pair */
	int priority;	/* SCHED_FIFO; refused quietly: then they run as ordinary threads */
	tb_u16 port;
	struct tb_gate *gate;
	const tb_u64 *config_seq;
	const struct tb_config *config;
};

/* Start one helper for each processor that this process can get at. Returns 0 or a negative errno. */
int tb_helpers_start(const struct tb_helpers_setup *setup, struct tb_helpers **out);

/* Stop and free them; NULL is fine. */
void tb_helpers_stop(struct tb_helpers *helpers);

/* Ask the helpers of the processors in the mask; if there is none among them, that of `fallback`. */
void tb_helpers_ask(struct tb_helpers *helpers, const tb_u64 mask[TB_CPUS / 64], int fallback);

tb_u32 tb_helpers_count(const struct tb_helpers *helpers);

/* Mask of the processors that have one. */
void tb_helpers_processors(const struct tb_helpers *helpers, tb_u64 mask[TB_CPUS / 64]);
void tb_helpers_counters(const struct tb_helpers *helpers, tb_u64 *sent, tb_u64 *errors);

#endif /* TB_CONTROL_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's kernel in plain memory: the maps, and the rules of tb_rules.h that XDP applies in production. For tests
 * and the simulator alone, where two nodes live in one process under a clock that somebody else turns.
 */
#ifndef TB_PLAIN_H
#define TB_PLAIN_H

#include "engine.h"

struct tb_plain {
	struct tb_gate gate;
	struct tb_self self;
	struct tb_config config;
	struct tb_peer peer;
	struct tb_link link[TB_LINKS];
	struct tb_control control[TB_CPUS];
	tb_u64 counters[TB_REASONS];
};

/*
 * A UDP payload arrives on a link. Returns its enum tb_reason, counted. If `answered` is set, `bytes` holds the
 * ANSWER that goes back on the same link.
 */
int tb_plain_receive(struct tb_plain *plain, tb_u32 link, tb_u8 *bytes, size_t size, tb_u64 now,
		     tb_u32 cpu, tb_u32 ttl, tb_u32 ttl_min, int *answered);

/* The same on the receiving end of the private pair. */
int tb_plain_receive_control(struct tb_plain *plain, tb_u8 *bytes, size_t size, tb_u64 now,
			     tb_u32 cpu);

bool tb_plain_gate_open(struct tb_plain *plain, tb_u64 now);

/* What a round reads from the maps, as thread.c does it. Carrier and order are the caller's. */
void tb_plain_look(const struct tb_plain *plain, struct tb_input *input, tb_u32 links);

/* What a round writes to them: gate, counter, self. `term` as in tb_maps_act_gate(). */
void tb_plain_act(struct tb_plain *plain, const struct tb_actions *actions, tb_u64 term);

/* Make a HELLO, PROBE or CONTROL out of the maps. */
void tb_plain_frame(struct tb_plain *plain, struct tb_frame *frame, tb_u32 type, tb_u32 link,
		    tb_u64 now, tb_u64 echo, tb_u64 echo_ns, tb_u64 hold_ns,
		    const struct tb_proposal *proposal);

#endif /* TB_PLAIN_H */

/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's maps in this process's memory, and the two ways the engine touches them. */
#ifndef TB_MAPS_H
#define TB_MAPS_H

#include "engine.h"

struct tb_map_fds {
	int gate;
	int self;
	int peer;
	int links;
	int control;
};

struct tb_maps {
	struct tb_gate *gate;
	struct tb_self *self;
	const struct tb_peer *peer;
	const struct tb_link *link;	  /* TB_LINKS of them */
	const struct tb_control *control; /* TB_CPUS of them */
	/* Processors whose receive path can be proven: those with a control helper. At first all. */
	tb_u64 provable[TB_CPUS / 64];
};

/* Map all five, faulted in. Returns 0, or a negative errno with nothing left mapped. */
int tb_maps_open(struct tb_maps *maps, const struct tb_map_fds *fds);
void tb_maps_close(struct tb_maps *maps);

/*
 * Copy gate, peer, the links of the mask and control_ns into the input of a step. Returns false if the peer's
 * snapshot was being written all the time: the input keeps the one it had.
 */
bool tb_maps_look(const struct tb_maps *maps, tb_u32 links, struct tb_input *input);

/*
 * Carry out the gate's and the counter's part of the actions, in the order that R1 and R6 ask for. A lease is
 * renewed only while the gate still has `term`.
 */
void tb_maps_act_gate(const struct tb_maps *maps, const struct tb_actions *actions, tb_u64 term);

/* Carry out the part for the kernel's ANSWERs. */
void tb_maps_act_self(const struct tb_maps *maps, const struct tb_actions *actions);

/* Mask of the provable processors that ran the receive path of one of the links. */
void tb_maps_processors(const struct tb_maps *maps, tb_u32 links, tb_u64 mask[TB_CPUS / 64]);

#endif /* TB_MAPS_H */

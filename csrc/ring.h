/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events from the engine to Python: a ring with one writer and one reader, and an eventfd to wait on.
 *
 * The writer never waits: an event that finds the ring full is lost and counted. The reader is woken for an urgent
 * event (tb_event_urgency) and when the ring is half full; passing ones, suspicions that come and go by the hundred,
 * wait for its next turn, and rationed ones for the engine's word (tb_ring_hurry).
 */
#ifndef TB_RING_H
#define TB_RING_H

#include "engine.h"

enum { TB_RING_EVENTS = 1024 };
_Static_assert((TB_RING_EVENTS & (TB_RING_EVENTS - 1)) == 0, "positions wrap by masking");

struct tb_ring {
	_Alignas(64) tb_u64 written; /* by the writer alone */
	tb_u64 lost;
	bool urgent; /* pushed since the last notice: something to wake the reader for */
	int eventfd;
	_Alignas(64) tb_u64 read; /* by the reader alone */
	_Alignas(64) struct tb_event event[TB_RING_EVENTS];
};

/* Returns 0 or a negative errno. */
int tb_ring_open(struct tb_ring *ring);
void tb_ring_close(struct tb_ring *ring);

/* Writer. Returns false if the ring was full. */
bool tb_ring_push(struct tb_ring *ring, const struct tb_event *event);

/* Writer: what was pushed so far is worth waking the reader for, with the next notice. */
void tb_ring_hurry(struct tb_ring *ring);

/* Writer: wake the reader, once after a number of pushes, if any of them is worth it. */
void tb_ring_notify(struct tb_ring *ring);

/* Writer: wake the reader whatever was pushed. */
void tb_ring_wake(struct tb_ring *ring);

/* Reader: take up to `max` events, oldest first; clears the eventfd when none is left. */
tb_u32 tb_ring_drain(struct tb_ring *ring, struct tb_event *events, tb_u32 max);

#endif /* TB_RING_H */

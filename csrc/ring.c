// SPDX-License-Identifier: Apache-2.0
#include "ring.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int tb_ring_open(struct tb_ring *ring)
{
	memset(ring, 0, sizeof(*ring));
	ring->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return ring->eventfd < 0 ? -errno : 0;
}

void tb_ring_close(struct tb_ring *ring)
{
	if (ring->eventfd >= 0)
		(void)close(ring->eventfd);
	ring->eventfd = -1;
}

bool tb_ring_push(struct tb_ring *ring, const struct tb_event *event)
{
	tb_u64 at = ring->written;
	tb_u64 waiting = at - __atomic_load_n(&ring->read, __ATOMIC_ACQUIRE);

	if (tb_event_urgency(event->kind) == TB_URGENT || waiting >= TB_RING_EVENTS / 2)
		ring->urgent = true;
	if (waiting >= TB_RING_EVENTS) {
		__atomic_store_n(&ring->lost, ring->lost + 1, __ATOMIC_RELAXED);
		return false;
	}
	ring->event[at & (TB_RING_EVENTS - 1)] = *event;
	__atomic_store_n(&ring->written, at + 1, __ATOMIC_RELEASE);
	return true;
}

void tb_ring_hurry(struct tb_ring *ring)
{
	ring->urgent = true;
}

void tb_ring_notify(struct tb_ring *ring)
{
	if (!ring->urgent)
		return;
	ring->urgent = false;
	tb_ring_wake(ring);
}

void tb_ring_wake(struct tb_ring *ring)
{
	tb_u64 one = 1;

	/* Fails only when the counter is full, and then the reader has long been woken. */
	if (write(ring->eventfd, &one, sizeof(one)) < 0)
		return;
}

tb_u32 tb_ring_drain(struct tb_ring *ring, struct tb_event *events, tb_u32 max)
{
	tb_u64 from = ring->read;
	tb_u64 to = __atomic_load_n(&ring->written, __ATOMIC_ACQUIRE);
	tb_u32 taken = 0;

	if (from == to) {
		tb_u64 count;

		/* Clear first and look again after it: an event pushed in between isn't forgotten. */
		if (read(ring->eventfd, &count, sizeof(count)) < 0 && errno != EAGAIN)
			return 0;
		to = __atomic_load_n(&ring->written, __ATOMIC_ACQUIRE);
	}
	while (from != to && taken < max)
		events[taken++] = ring->event[from++ & (TB_RING_EVENTS - 1)];
	__atomic_store_n(&ring->read, from, __ATOMIC_RELEASE);
	return taken;
}

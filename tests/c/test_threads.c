// SPDX-License-Identifier: Apache-2.0
/* What two threads share: the ring of events and the sequence lock. */
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "ring.h"
#include "shared.h"

enum { EVENTS = 200000, VALUES = 200000 };

static struct tb_ring ring;

static void *push_events(void *unused)
{
	(void)unused;
	for (tb_u64 i = 1; i <= EVENTS; i++) {
		struct tb_event event = {.a = i, .b = ~i, .at_ns = i};

		(void)tb_ring_push(&ring, &event);
		if (i % 7 == 0)
			tb_ring_notify(&ring);
	}
	tb_ring_notify(&ring);
	return NULL;
}

static void ring_keeps_order_and_counts_what_it_lost(void)
{
	struct tb_event events[64];
	pthread_t writer;
	tb_u64 last = 0, taken = 0;

	CHECK(tb_ring_open(&ring) == 0);
	CHECK(pthread_create(&writer, NULL, push_events, NULL) == 0);
	while (last < EVENTS) {
		struct pollfd poll_fd = {.fd = ring.eventfd, .events = POLLIN};
		tb_u32 count = tb_ring_drain(&ring, events, 64);

		for (tb_u32 i = 0; i < count; i++) {
			CHECK(events[i].a > last);
			CHECK(events[i].b == ~events[i].a);
			last = events[i].a;
		}
		taken += count;
		/* The newest events may be the ones lost; then the sum tells that all is over. */
		if (taken + __atomic_load_n(&ring.lost, __ATOMIC_RELAXED) == EVENTS)
			break;
		if (count == 0)
			CHECK(poll(&poll_fd, 1, 10000) >= 0);
	}
	CHECK(pthread_join(writer, NULL) == 0);
	CHECK(taken + ring.lost == EVENTS);
	CHECK(taken >= TB_RING_EVENTS);
	CHECK(tb_ring_drain(&ring, events, 64) == 0);
	tb_ring_close(&ring);
}

/* What changes nothing waits in the ring until the reader comes by; what decides wakes it at once. */
static void ring_wakes_for_what_decides(void)
{
	struct tb_event suspect = {.kind = TB_E_SUSPECT};
	struct tb_event dead = {.kind = TB_E_DEAD};
	struct tb_event opened = {.kind = TB_E_OPENED};
	struct tb_event events[64];
	struct pollfd poll_fd;

	memset(&ring, 0, sizeof(ring));
	CHECK(tb_ring_open(&ring) == 0);
	poll_fd = (struct pollfd){.fd = ring.eventfd, .events = POLLIN};
	CHECK(tb_ring_push(&ring, &suspect));
	tb_ring_notify(&ring);
	CHECK(poll(&poll_fd, 1, 0) == 0);
	CHECK(tb_ring_push(&ring, &dead)); /* rationed: the engine says when */
	tb_ring_notify(&ring);
	CHECK(poll(&poll_fd, 1, 0) == 0);
	tb_ring_hurry(&ring);
	tb_ring_notify(&ring);
	CHECK(poll(&poll_fd, 1, 0) == 1);
	CHECK(tb_ring_drain(&ring, events, 64) == 2);
	CHECK(tb_ring_drain(&ring, events, 64) == 0);
	CHECK(tb_ring_push(&ring, &opened));
	CHECK(tb_ring_push(&ring, &suspect));
	tb_ring_notify(&ring);
	CHECK(poll(&poll_fd, 1, 0) == 1);
	CHECK(tb_ring_drain(&ring, events, 64) == 2);
	CHECK(tb_ring_drain(&ring, events, 64) == 0);
	CHECK(poll(&poll_fd, 1, 0) == 0);
	/* A ring that fills up wakes for anything. */
	for (tb_u32 i = 0; i < TB_RING_EVENTS / 2; i++)
		CHECK(tb_ring_push(&ring, &suspect));
	tb_ring_notify(&ring);
	CHECK(poll(&poll_fd, 1, 0) == 0);
	CHECK(tb_ring_push(&ring, &suspect));
	tb_ring_notify(&ring);
	CHECK(poll(&poll_fd, 1, 0) == 1);
	tb_ring_close(&ring);
}

static struct {
	tb_u64 seq;
	tb_u64 value[9];
} shared;

static void *write_values(void *unused)
{
	(void)unused;
	for (tb_u64 i = 1; i <= VALUES; i++) {
		tb_u64 value[9];

		for (tb_u64 k = 0; k < 9; k++)
			value[k] = i * (k + 1);
		tb_shared_write(&shared.seq, shared.value, value, sizeof(value));
	}
	return NULL;
}

static void shared_value_is_never_torn(void)
{
	pthread_t writer;
	tb_u64 last = 0, whole = 0;

	CHECK(pthread_create(&writer, NULL, write_values, NULL) == 0);
	while (last < VALUES) {
		tb_u64 value[9];

		if (!tb_shared_read(&shared.seq, value, shared.value, sizeof(value)))
			continue;
		CHECK(value[0] >= last);
		for (tb_u64 k = 0; k < 9; k++)
			CHECK(value[k] == value[0] * (k + 1));
		last = value[0];
		whole++;
	}
	CHECK(pthread_join(writer, NULL) == 0);
	CHECK(whole > 0);
	shared.seq++; /* a writer that stopped half-way: the reader gives up, and says so */
	CHECK(!tb_shared_read(&shared.seq, &last, shared.value, sizeof(last)));
}

int main(void)
{
	ring_keeps_order_and_counts_what_it_lost();
	ring_wakes_for_what_decides();
	shared_value_is_never_torn();
	return 0;
}

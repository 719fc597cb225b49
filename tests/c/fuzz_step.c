// SPDX-License-Identifier: Apache-2.0
/*
 * tb_engine_step() under arbitrary maps and orders: it must not crash, loop or overflow whatever the kernel's words
 * are, and must keep the promises that hold without looking at the peer.
 */
#include <string.h>

#include "check.h"
#include "engine.h"
#include "shared.h"
#include "tb_rules.h"

#define MS 1000000ull

struct reader {
	const uint8_t *data;
	size_t size;
};

static uint64_t take(struct reader *reader, size_t bytes)
{
	uint64_t value = 0;

	if (bytes > reader->size)
		bytes = reader->size;
	memcpy(&value, reader->data, bytes);
	reader->data += bytes;
	reader->size -= bytes;
	return value;
}

/* A time near now, in the past or in the future, or none at all, or nonsense. */
static tb_u64 some_time(struct reader *reader, tb_u64 now)
{
	uint64_t what = take(reader, 2);

	switch (what & 7) {
	case 0:
		return 0;
	case 1:
		return now + (what << 8);
	case 2:
		return what & 8 ? ~0ull : now + (what << 14);
	default:
		return now - (what << 5);
	}
}

static void some_input(struct reader *reader, struct tb_input *input, tb_u64 now,
		       const struct tb_engine *engine)
{
	uint64_t what = take(reader, 4);
	struct tb_order *order = &input->order;

	if (what & 1) {
		input->gate.fence_below = take(reader, 1);
		input->gate.contested = what & 2 ? engine->term : 0;
		input->gate.contested_ns = some_time(reader, now);
	}
	input->gate.counter += what >> 2 & 3;
	if (what & 0x10) {
		struct tb_peer *peer = &input->peer;

		peer->epoch = what >> 5 & 1;
		peer->counter += what >> 5 & 3;
		peer->arrived_ns = some_time(reader, now);
		peer->echo = input->gate.counter;
		peer->echo_ns = some_time(reader, now);
		peer->term = take(reader, 1);
		peer->claim = what & 0x80 ? peer->term : 0;
		peer->fence_below = what & 0x100 ? engine->claim | engine->term : take(reader, 1);
		peer->highest = what & 0x200 ? ~0ull >> (what & 63) : peer->term;
		peer->flags = (tb_u32)take(reader, 2);
		peer->type = (tb_u8)(1 + (what >> 10 & 3));
		peer->lease_us = (tb_u32)take(reader, what & 0x1000 ? 4 : 2);
		peer->two_way = what >> 13 & 1;
		peer->taught = what & 0x4000 ? take(reader, 8) : 0;
	}
	for (int i = 0; i < 2; i++) {
		if (!(what >> (15 + i) & 1))
			continue;
		input->link[i].hello_ns = some_time(reader, now);
		input->link[i].answer_ns = some_time(reader, now);
		input->link[i].foreign_ns = some_time(reader, now);
		input->link[i].mismatch_ns = some_time(reader, now);
	}
	if (what & 0x20000) {
		order->generation++;
		order->expires_ns = some_time(reader, now);
		order->attested_until_ns = some_time(reader, now);
		order->term_first = take(reader, 1);
		order->term_last = order->term_first + take(reader, 1);
		order->permits = (tb_u32)take(reader, 2);
		order->lease_ns = what & 0x40000 ? 50 * MS : 0;
		order->resign_of = what >> 19 & 1;
		order->flags = (tb_u32)take(reader, 2);
	}
	if (what & 0x800000) {
		struct tb_witness *witness = &input->witness;
		uint64_t whose = take(reader, 1);

		witness->term = whose & 1 ? engine->claim : whose & 2 ? engine->term : whose;
		witness->until_ns = some_time(reader, now);
		witness->open_ns = some_time(reader, now);
		witness->before = whose & 4 ? engine->served : whose;
		witness->kept = whose & 8 ? witness->term : whose >> 4;
		witness->absent = (whose & 0xf0) == 0xf0;
	}
	input->probes_sent += what >> 24 & 1;
	input->control_ns = some_time(reader, now);
	input->link_carrier = what >> 20 & 3;
	input->port_carrier = what >> 22 & 1;
}

/* R21: nothing beyond a word; nothing without a receipt or a grant. */
static void check_witness(const struct tb_engine *before, const struct tb_engine *after, tb_u64 now,
			  const struct tb_input *input, const struct tb_actions *actions)
{
	const struct tb_witness *witness = &input->witness;
	tb_u64 good_for = before->settings.witness;
	tb_u64 word = after->peer_word_ns != 0 ? after->peer_word_ns + good_for : 0;

	CHECK(after->peer_word_ns <= now || after->peer_word_ns <= input->peer.arrived_ns);
	if (good_for == 0 || witness->absent)
		return;
	if (witness->term == after->term && witness->until_ns > word)
		word = witness->until_ns;
	if (actions->open || actions->renew)
		CHECK(actions->open_until <= word);
	for (tb_u32 i = 0; i < actions->events; i++) {
		const struct tb_event *event = &actions->event[i];

		if (event->kind != TB_E_OPENED)
			continue;
		CHECK(event->cause == TB_C_RECEIPT || event->cause == TB_C_WITNESSED ||
		      event->cause == TB_C_RESUMED);
		if (event->cause != TB_C_WITNESSED)
			continue;
		CHECK(witness->term == event->a && witness->open_ns != 0);
		CHECK(now >= witness->open_ns ||
		      (witness->before == before->served && witness->before != 0 &&
		       input->gate.fence_below <= witness->before));
	}
}

static void check_promises(const struct tb_engine *before, const struct tb_engine *after,
			   tb_u64 now, const struct tb_input *input,
			   const struct tb_actions *actions)
{
	const struct tb_order *order = &input->order;
	tb_u64 longest = before->settings.timers.lease > order->lease_ns
				 ? before->settings.timers.lease
				 : order->lease_ns;

	check_witness(before, after, now, input, actions);
	CHECK(actions->events <= TB_STEP_EVENTS && actions->untold == 0);
	CHECK(actions->wake_ns > now);
	CHECK(actions->wake_ns <= now + before->settings.timers.hello + 1000);
	CHECK(after->highest >= before->highest && after->last_term >= before->last_term);
	CHECK(!(actions->open && actions->shut) && !(actions->renew && actions->shut));
	CHECK((actions->hello & actions->probe) == 0);
	CHECK(((actions->hello | actions->probe) & ~before->settings.links) == 0);
	if (actions->open) {
		/* R1, R2, R6: a number of ours, from the block, above every fence, under an order that stands. */
		CHECK(actions->term != 0 && (actions->term & 1) == before->settings.node);
		CHECK(actions->term >= order->term_first && actions->term <= order->term_last);
		CHECK(actions->term >= input->gate.fence_below);
		CHECK(actions->term >= after->highest);
		CHECK(now < order->expires_ns && now < order->attested_until_ns);
		CHECK(actions->announce);
		CHECK(after->phase == TB_SERVING && after->term == actions->term);
	}
	if (actions->open || actions->renew)
		CHECK(actions->open_until <= now + longest);
	if (actions->renew && !actions->open) {
		/* R3: the old lease runs, nothing fences it, Python attested. */
		CHECK(input->gate.term == after->term && now < input->gate.open_until);
		CHECK(input->gate.fence_below <= after->term);
		CHECK(now < order->attested_until_ns && (order->permits & TB_MAY_SERVE));
	}
	if (before->phase == TB_SERVING && after->phase != TB_SERVING)
		CHECK(actions->shut && actions->announce_stop);
	if (after->phase == TB_LISTENING)
		CHECK(after->term == 0 && after->claim == 0);
	if (order->permits & TB_PAUSED)
		/* Nothing new begins while paused. */
		CHECK(before->claim != 0 || after->claim == 0 || after->claim_cause == TB_C_RENEW);
	if (after->claim != 0 && before->claim != after->claim)
		CHECK(after->claim > before->last_term && after->claim > before->highest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader reader = {data, size};
	struct tb_settings settings = {
		.timers = {.hello = MS / 5,
			   .dead = MS * 3 / 5,
			   .verify = MS * 2 / 5,
			   .stall = 2 * MS,
			   .lease = 10 * MS},
		.late = MS / 10,
		.idle_claim = 2 * MS,
		.listen = 5 * MS,
		.links = 3,
		.ports = 1,
		.probes = 3,
	};
	uint64_t what = take(&reader, 2);
	struct tb_engine engine;
	struct tb_input input;
	struct tb_actions actions;
	tb_u64 now = 1000 * MS;

	settings.node = what & 1;
	settings.direct = what >> 1 & 3;
	settings.strict = what >> 3 & 1;
	settings.wait_lease = what >> 4 & 1;
	settings.claim_alone = what >> 5 & 1;
	settings.mismatch_wait = (what >> 10 & 3) * 20 * MS;
	settings.witness = (what >> 12 & 1) * 50 * MS;
	memset(&input, 0, sizeof(input));
	memset(&engine, 0xa5, sizeof(engine)); /* tb_engine_init() has to leave nothing of it */
	input.gate.counter = 5ull << 32;
	input.gate.term = what >> 6 & 15;
	input.gate.open_until = now + (what << 8);
	tb_engine_init(&engine, &settings, now);
	while (reader.size > 4) {
		struct tb_engine before = engine;

		some_input(&reader, &input, now, &engine);
		memset(&actions, 0xa5, sizeof(actions));
		tb_engine_step(&engine, now, &input, &actions);
		check_promises(&before, &engine, now, &input, &actions);
		if (actions.shut)
			input.gate.term = input.gate.open_until = 0;
		if (actions.open)
			input.gate.term = actions.term;
		if (actions.open || actions.renew)
			input.gate.open_until = actions.open_until;
		if (actions.jump)
			input.gate.counter = actions.jump_to;
		now = actions.again ? now + 1 : actions.wake_ns + (take(&reader, 1) & 0xf0) * 2000;
	}
	return 0;
}

#ifndef WITH_LIBFUZZER
#include <time.h>

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	unsigned long programs = argc > 2 ? strtoul(argv[2], NULL, 0) : 20000;
	time_t until = time(NULL) + 20;
	unsigned long done = 0;
	uint8_t data[4096];

	for (; done < programs && time(NULL) < until; done++) {
		uint64_t state = seed + done;
		size_t size = random_next(&state) % sizeof(data);

		for (size_t i = 0; i < size; i++)
			data[i] = (uint8_t)random_next(&state);
		(void)LLVMFuzzerTestOneInput(data, size);
	}
	printf("%lu programs from seed %llu\n", done, (unsigned long long)seed);
	return done > 100 ? 0 : 1;
}
#endif

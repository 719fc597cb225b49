// SPDX-License-Identifier: Apache-2.0
/*
 * The frame parser and its rules under arbitrary input. With libFuzzer this is its harness; without, main() feeds
 * it seeded random programs for a bounded time.
 *
 * Input is a program of records: what is done to the frame, and with which bytes. Half of the records carry a valid
 * MAC, since otherwise nothing behind the MAC would ever be reached. After each record the invariants are checked:
 * what no authentic frame said changes nothing but counters and stamps, words that only grow do so, and a gate that
 * is fenced or contested is shut.
 */
#include <string.h>

#include "check.h"
#include "plain.h"
#include "tb_rules.h"

enum { RECORD = 8, START = 1000000000 };

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

static struct tb_config config_of(tb_u8 node)
{
	return (struct tb_config){
		.pair = 7,
		.node = node,
		.port = TB_PORT,
		.keys = {{.k0 = 1, .k1 = 2, .id = 3}, {.k0 = 4, .k1 = 5, .id = 6}},
	};
}

/* A frame that is right in all the fuzzer is unlikely to guess, wrong where the input says so. */
static void forge(struct tb_frame *frame, struct reader *reader, struct tb_plain *peer, tb_u64 now,
		  const struct tb_plain *own)
{
	const struct tb_key *key;
	uint64_t how = take(reader, 2);
	const struct tb_proposal proposal = {.number = how >> 6 & 1, .flags = TB_F_PROPOSAL};
	tb_u8 *bytes = (tb_u8 *)frame;

	tb_make_frame(frame, &peer->gate, &peer->self, &peer->config, 1 + (how & 3), how >> 2 & 1,
		      now, 0, 0, 0, &proposal);
	if (how & 8) /* an echo that is fresh */
		frame->echo = TB_BE64(own->gate.counter);
	if (how & 16)
		frame->flags |= TB_BE32(TB_F_OPEN | TB_F_HEARS_YOU);
	for (unsigned i = 0; i < (how >> 5 & 7); i++) {
		unsigned at = (unsigned)take(reader, 1) % TB_FRAME_SIZE;

		bytes[at] = (tb_u8)take(reader, 1);
	}
	if (how & 1u << 8) /* a recording: an older counter */
		frame->counter = TB_BE64(TB_BE64(frame->counter) - (how >> 9 & 15));
	key = &peer->config.keys[how >> 13 & 1];
	if (how & 1u << 14)
		frame->key_id = (tb_u8)key->id;
	if (how & 1u << 15)
		frame->mac = tb_mac(frame, key->k0, key->k1);
}

static int is_authentic(const struct tb_plain *own, const struct tb_frame *frame)
{
	for (int i = 0; i < TB_KEYS; i++)
		if (frame->key_id == own->config.keys[i].id &&
		    tb_mac(frame, own->config.keys[i].k0, own->config.keys[i].k1) == frame->mac)
			return 1;
	return 0;
}

static void check_invariants(const struct tb_plain *before, struct tb_plain *own, int reason,
			     int authentic, tb_u64 now)
{
	struct tb_gate *gate = &own->gate;

	CHECK(reason >= 0 && reason < TB_REASONS);
	CHECK(own->counters[reason] == before->counters[reason] + 1);
	CHECK(gate->term == before->gate.term && gate->open_until == before->gate.open_until);
	CHECK(gate->fence_below >= before->gate.fence_below);
	CHECK(gate->counter >= before->gate.counter);
	CHECK(own->peer.known >= before->peer.known);
	CHECK((own->peer.seq & 1) == 0);
	CHECK(memcmp(&own->self, &before->self, sizeof(own->self)) == 0);
	if (gate->contested == gate->term || gate->fence_below > gate->term)
		CHECK(!tb_plain_gate_open(own, now));
	if (!authentic) {
		CHECK(memcmp(&own->peer, &before->peer, sizeof(own->peer)) == 0);
		CHECK(memcmp(gate, &before->gate, sizeof(*gate)) == 0);
		for (int i = 0; i < TB_LINKS; i++) {
			CHECK(own->link[i].hello_ns == before->link[i].hello_ns);
			CHECK(own->link[i].answer_ns == before->link[i].answer_ns);
			CHECK(own->link[i].stranger_ns == before->link[i].stranger_ns);
			CHECK(own->link[i].accepted == before->link[i].accepted);
		}
	}
	if (reason == TB_R_HELLO || reason == TB_R_PROBE || reason == TB_R_ANSWER) {
		CHECK(authentic);
		CHECK(own->peer.epoch != 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader reader = {data, size};
	struct tb_plain own, peer;
	tb_u64 now = START;

	memset(&own, 0, sizeof(own));
	memset(&peer, 0, sizeof(peer));
	own.config = config_of(0);
	peer.config = config_of(1);
	own.gate.counter = 5ull << 32;
	peer.gate.counter = 9ull << 32;
	own.self.fresh_from = own.gate.counter;
	own.self.probe_from = own.gate.counter;
	own.gate.term = take(&reader, 1) & ~1ull;
	own.gate.open_until = START + (take(&reader, 2) << 10);
	while (reader.size >= RECORD) {
		struct tb_plain before;
		struct tb_frame frame;
		tb_u8 bytes[TB_FRAME_SIZE + 1];
		uint64_t what = take(&reader, 2);
		size_t length = what & 0xf ? TB_FRAME_SIZE : what >> 4 & 0xff;
		int answered = 0, reason, authentic;

		now += (what >> 4) << 6;
		peer.gate.term = take(&reader, 1) | 1;
		peer.gate.open_until = what & 0x10 ? now + 1000000 : 0;
		peer.gate.fence_below = take(&reader, 1);
		peer.self.claim = what & 0x20 ? peer.gate.term : 0;
		forge(&frame, &reader, &peer, now, &own);
		memset(bytes, 0, sizeof(bytes));
		memcpy(bytes, &frame, sizeof(frame));
		authentic = length == TB_FRAME_SIZE && is_authentic(&own, &frame);
		before = own;
		if (what & 0x40) {
			reason = tb_plain_receive_control(&own, bytes, length % (sizeof(bytes) + 1),
							  now, (tb_u32)what & 3);
			CHECK(own.link[0].hello_ns == before.link[0].hello_ns);
		} else {
			reason = tb_plain_receive(&own, what >> 7 & 1, bytes,
						  length % (sizeof(bytes) + 1), now, 0,
						  255 - (what >> 8 & 1), 255, &answered);
		}
		check_invariants(&before, &own, reason, authentic, now);
		if (answered) {
			CHECK(authentic);
			/* The ANSWER is a frame that the peer's kernel can judge. */
			peer.self.probe_from = 9ull << 32;
			reason = tb_plain_receive(&peer, what >> 7 & 1, bytes, TB_FRAME_SIZE, now,
						  0, 255, 255, &answered);
			CHECK(reason != TB_R_AUTH && reason != TB_R_KEY &&
			      reason != TB_R_MALFORMED);
			CHECK(!answered);
		}
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
	uint8_t data[1024];

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

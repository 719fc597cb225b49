// SPDX-License-Identifier: Apache-2.0
/* Prebuilt packets, read back by a parser that knows nothing of how they were built. */
#include <stddef.h>

#include "frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "check.h"

/* One's complement sum over big-endian words, the way RFC 1071 writes it down. */
static uint32_t reference_sum(const tb_u8 *data, size_t size, uint32_t sum)
{
	for (size_t i = 0; i + 1 < size; i += 2)
		sum += (uint32_t)data[i] << 8 | data[i + 1];
	return sum;
}

static uint16_t reference_fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint16_t get16(const tb_u8 *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static void read_back(const struct tb_packet *packet, const struct tb_path *path,
		      const struct tb_frame *frame, tb_u16 source)
{
	const tb_u8 *at = packet->bytes;
	const tb_u8 *udp;

	CHECK(memcmp(at, path->peer_mac, 6) == 0);
	CHECK(memcmp(at + 6, path->local_mac, 6) == 0);
	at += 12;
	if (path->vlan) {
		CHECK(get16(at) == 0x8100);
		CHECK((get16(at + 2) & 0xfff) == path->vlan);
		CHECK(get16(at + 2) >> 13 == 6);
		at += 4;
	}
	if (path->family == 4) {
		CHECK(get16(at) == 0x0800);
		at += 2;
		CHECK(at[0] == 0x45 && at[1] == 0xc0);
		CHECK(get16(at + 2) == 20 + 8 + 128);
		CHECK(at[8] == path->ttl && at[9] == 17);
		CHECK(reference_fold(reference_sum(at, 20, 0)) == 0xffff);
		CHECK(memcmp(at + 12, path->local, 4) == 0 && memcmp(at + 16, path->peer, 4) == 0);
		udp = at + 20;
		CHECK(get16(udp + 6) == 0);
	} else {
		uint32_t sum;

		CHECK(get16(at) == 0x86dd);
		at += 2;
		CHECK(at[0] == 0x6c && at[1] == 0 && at[2] == 0 && at[3] == 0);
		CHECK(get16(at + 4) == 8 + 128 && at[6] == 17 && at[7] == path->ttl);
		CHECK(memcmp(at + 8, path->local, 16) == 0 && memcmp(at + 24, path->peer, 16) == 0);
		udp = at + 40;
		sum = reference_sum(at + 8, 32, 8 + 128 + 17);
		CHECK(reference_fold(reference_sum(udp, 8 + 128, sum)) == 0xffff);
		CHECK(get16(udp + 6) != 0);
	}
	CHECK(get16(udp) == source);
	CHECK(get16(udp + 2) == path->port);
	CHECK(get16(udp + 4) == 8 + 128);
	CHECK(memcmp(udp + 8, frame, TB_FRAME_SIZE) == 0);
	CHECK(udp + 8 + TB_FRAME_SIZE == packet->bytes + packet->size);
}

static void fill(void *data, size_t size, uint64_t *seed)
{
	tb_u8 *bytes = data;

	for (size_t i = 0; i < size; i++)
		bytes[i] = (tb_u8)random_next(seed);
}

int main(void)
{
	uint64_t seed = 1;
	struct tb_packet packet;
	struct tb_path path;
	struct tb_frame frame;

	for (int i = 0; i < 20000; i++) {
		tb_u16 source = (tb_u16)random_next(&seed);

		fill(&path, sizeof(path), &seed);
		fill(&frame, sizeof(frame), &seed);
		path.family = i & 1 ? 4 : 6;
		path.vlan = i & 2 ? (tb_u16)(1 + random_next(&seed) % 4094) : 0;
		/* What is behind an IPv4 address in these sixteen bytes must not matter. */
		CHECK(tb_packet_build(&packet, &path) == 0);
		tb_packet_finish(&packet, &frame, source);
		read_back(&packet, &path, &frame, source);
		fill(path.peer_mac, 6, &seed);
		tb_packet_set_peer_mac(&packet, path.peer_mac);
		fill(&frame, sizeof(frame), &seed);
		tb_packet_finish(&packet, &frame, (tb_u16)(source + 1));
		read_back(&packet, &path, &frame, (tb_u16)(source + 1));
	}

	/* A checksum that comes out as zero is sent as ones: zero would mean "none", which IPv6 refuses. */
	memset(&path, 0, sizeof(path));
	memset(&frame, 0, sizeof(frame));
	path.family = 6;
	CHECK(tb_packet_build(&packet, &path) == 0);
	frame.magic = htonl(0xffffu - (2 * (8 + 128) + 17));
	tb_packet_finish(&packet, &frame, 0);
	CHECK(get16(packet.bytes + packet.udp + 6) == 0xffff);

	path.family = 5;
	CHECK(tb_packet_build(&packet, &path) == -EINVAL);
	path.family = 4;
	path.vlan = 4095;
	CHECK(tb_packet_build(&packet, &path) == -EINVAL);
	return 0;
}

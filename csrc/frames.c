// SPDX-License-Identifier: Apache-2.0
#include <stddef.h>

#include "frames.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

enum {
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_V4 = 0x0800,
	ETHERTYPE_V6 = 0x86dd,
	PROTOCOL_UDP = 17,
	PRIORITY = 6,	  /* of the tag: internetwork control, like the DSCP */
	CLASS_CS6 = 0xc0, /* DSCP 48 in the upper six bits */
	DONT_FRAGMENT = 0x4000,
};

static void put16(tb_u8 *at, unsigned int value)
{
	at[0] = (tb_u8)(value >> 8);
	at[1] = (tb_u8)value;
}

tb_u64 tb_sum(const void *data, size_t size)
{
	const tb_u8 *bytes = data;
	tb_u64 sum = 0;

	for (size_t i = 0; i + 1 < size; i += 2) {
		tb_u16 word;

		memcpy(&word, bytes + i, sizeof(word));
		sum += word;
	}
	return sum;
}

tb_u16 tb_fold(tb_u64 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (tb_u16)sum;
}

static void build_v4(tb_u8 *ip, const struct tb_path *path)
{
	tb_u16 check;

	ip[0] = 0x45;
	ip[1] = CLASS_CS6;
	put16(ip + 2, TB_IPV4 + TB_UDP + TB_FRAME_SIZE);
	put16(ip + 6, DONT_FRAGMENT);
	ip[8] = path->ttl;
	ip[9] = PROTOCOL_UDP;
	memcpy(ip + 12, path->local, 4);
	memcpy(ip + 16, path->peer, 4);
	check = (tb_u16)~tb_fold(tb_sum(ip, TB_IPV4));
	memcpy(ip + 10, &check, sizeof(check));
}

static void build_v6(tb_u8 *ip, const struct tb_path *path)
{
	ip[0] = 0x60 | CLASS_CS6 >> 4;
	put16(ip + 4, TB_UDP + TB_FRAME_SIZE);
	ip[6] = PROTOCOL_UDP;
	ip[7] = path->ttl;
	memcpy(ip + 8, path->local, 16);
	memcpy(ip + 24, path->peer, 16);
}

int tb_packet_build(struct tb_packet *packet, const struct tb_path *path)
{
	tb_u8 *at = packet->bytes;

	if ((path->family != 4 && path->family != 6) || path->vlan > 4094)
		return -EINVAL;
	memset(packet, 0, sizeof(*packet));
	packet->family = path->family;
	memcpy(at, path->peer_mac, 6);
	memcpy(at + 6, path->local_mac, 6);
	at += 12;
	if (path->vlan != 0) {
		put16(at, ETHERTYPE_VLAN);
		put16(at + 2, PRIORITY << 13 | path->vlan);
		at += TB_TAG;
	}
	put16(at, path->family == 4 ? ETHERTYPE_V4 : ETHERTYPE_V6);
	at += 2;
	if (path->family == 4) {
		build_v4(at, path);
		at += TB_IPV4;
	} else {
		build_v6(at, path);
		at += TB_IPV6;
	}
	packet->udp = (tb_u16)(at - packet->bytes);
	put16(at + 2, path->port);
	put16(at + 4, TB_UDP + TB_FRAME_SIZE);
	packet->payload = (tb_u16)(packet->udp + TB_UDP);
	packet->size = (tb_u16)(packet->payload + TB_FRAME_SIZE);
	/* The length counts twice: once in the pseudo header, once in the UDP header. */
	packet->sum = tb_sum(path->local, 16) + tb_sum(path->peer, 16) + htons(PROTOCOL_UDP) +
		      htons(TB_UDP + TB_FRAME_SIZE) + tb_sum(at, TB_UDP);
	return 0;
}

void tb_packet_set_peer_mac(struct tb_packet *packet, const tb_u8 mac[6])
{
	memcpy(packet->bytes, mac, 6);
}

void tb_packet_finish(struct tb_packet *packet, const struct tb_frame *frame, tb_u16 source_port)
{
	tb_u8 *udp = packet->bytes + packet->udp;
	tb_u16 check;

	memcpy(packet->bytes + packet->payload, frame, TB_FRAME_SIZE);
	put16(udp, source_port);
	if (packet->family == 4)
		return;
	check = (tb_u16)~tb_fold(packet->sum + htons(source_port) + tb_sum(frame, TB_FRAME_SIZE));
	/* Zero would mean "no checksum"; its other form is all ones. */
	if (check == 0)
		check = 0xffff;
	memcpy(udp + 6, &check, sizeof(check));
}

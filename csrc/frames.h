/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prebuilt packets: everything of a heartbeat but its payload and its source port is written once, when the link
 * is opened. Finishing one costs a copy of 128 bytes and, for IPv6, a checksum over them.
 */
#ifndef TB_FRAMES_H
#define TB_FRAMES_H

#include "tb_abi.h"

enum tb_packet_sizes {
	TB_ETHERNET = 14,
	TB_TAG = 4,
	TB_IPV4 = 20,
	TB_IPV6 = 40,
	TB_UDP = 8,
	TB_PACKET_MAX = TB_ETHERNET + TB_TAG + TB_IPV6 + TB_UDP + TB_FRAME_SIZE,
};

/* What the headers of a link's packets say. */
struct tb_path {
	tb_u8 family; /* 4 or 6 */
	tb_u8 ttl;
	tb_u16 vlan;	 /* 0 = untagged */
	tb_u16 port;	 /* destination, host order */
	tb_u8 local[16]; /* IPv4: the first four bytes */
	tb_u8 peer[16];
	tb_u8 local_mac[6];
	tb_u8 peer_mac[6];
};

struct tb_packet {
	tb_u8 bytes[TB_PACKET_MAX];
	tb_u16 size;
	tb_u16 udp;	/* offset of the UDP header */
	tb_u16 payload; /* offset of the frame */
	tb_u8 family;
	tb_u64 sum; /* IPv6: one's complement sum of the pseudo header, the destination port and the length */
};

/* Returns 0, or -EINVAL for a family or VLAN that there isn't. */
int tb_packet_build(struct tb_packet *packet, const struct tb_path *path);

void tb_packet_set_peer_mac(struct tb_packet *packet, const tb_u8 mac[6]);

/* Write payload, source port and checksum (IPv4: none, as RFC 768 allows; IPv6: RFC 8200 demands one). */
void tb_packet_finish(struct tb_packet *packet, const struct tb_frame *frame, tb_u16 source_port);

/* One's complement sum of 16-bit words as they lie in memory, to be folded by tb_fold(). */
tb_u64 tb_sum(const void *data, size_t size);
tb_u16 tb_fold(tb_u64 sum);

/* R12: source ports for PROBEs and claims, so that a hash over them reaches every receive queue. */
enum { TB_SOURCE_PORTS = 64, TB_SOURCE_PORT_FIRST = 49664 };

#endif /* TB_FRAMES_H */

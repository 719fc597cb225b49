/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Headers on the wire and the first step of parsing. Kernel only; multi-byte fields are in network order.
 *
 * The structures are our own: the kernel's headers need not be installed (see uapi/).
 */
#ifndef TB_PARSE_KERN_H
#define TB_PARSE_KERN_H

#include "tb_rules.h"

enum tb_wire {
	TB_ETH_IPV4 = 0x0800,
	TB_ETH_ARP = 0x0806,
	TB_ETH_VLAN = 0x8100,
	TB_ETH_IPV6 = 0x86dd,

	TB_IP_UDP = 17,
	TB_IP_ICMPV6 = 58,
	TB_IP6_FRAGMENT = 44,
	TB_IPV4_PLAIN = 0x45,	 /* version 4, five words: no options */
	TB_IPV4_OFFSET = 0x1fff, /* mask of the fragment offset */
	TB_IPV4_MORE = 0x2000,	 /* more fragments follow */

	TB_ARP_REQUEST = 1,
	TB_ND_FIRST = 133, /* router solicitation: the messages of neighbour discovery begin */
	TB_ND_SOLICITATION = 135,
	TB_ND_ADVERTISEMENT = 136,
	TB_ND_LAST = 137, /* redirect: they end */

	TB_TTL = 255, /* what every frame of ours leaves with */
};

struct tb_eth {
	tb_u8 to[6];
	tb_u8 from[6];
	tb_u16 type;
};

struct tb_vlan_tag {
	tb_u16 tci;
	tb_u16 type;
};

struct tb_ipv4 {
	tb_u8 version_ihl;
	tb_u8 tos;
	tb_u16 length;
	tb_u16 id;
	tb_u16 fragment;
	tb_u8 ttl;
	tb_u8 protocol;
	tb_u16 checksum;
	tb_u32 from;
	tb_u32 to;
};

struct tb_ipv6 {
	tb_u32 version_class_flow;
	tb_u16 length;
	tb_u8 next;
	tb_u8 hop_limit;
	struct tb_address6 from;
	struct tb_address6 to;
};

struct tb_ipv6_fragment {
	tb_u8 next;
	tb_u8 reserved;
	tb_u16 offset; /* in the upper 13 bits */
	tb_u32 id;
};

struct tb_udp {
	tb_u16 from;
	tb_u16 to;
	tb_u16 length;
	tb_u16 checksum;
};

/* ARP for Ethernet and IPv4. */
struct tb_arp {
	tb_u16 hardware;
	tb_u16 protocol;
	tb_u8 hardware_length;
	tb_u8 protocol_length;
	tb_u16 operation;
	tb_u8 sender_mac[6];
	tb_u32 sender;
	tb_u8 target_mac[6];
	tb_u32 target;
} __attribute__((packed, aligned(2)));

/* Neighbour solicitation and advertisement, up to the target. */
struct tb_nd {
	tb_u8 type;
	tb_u8 code;
	tb_u16 checksum;
	tb_u32 flags;
	struct tb_address6 target;
};

/* Where the parser stands in a packet. */
struct tb_cursor {
	void *at;
	void *end;
	tb_u16 type; /* host order: what lies at `at` */
	tb_u16 vlan; /* 0 = untagged, or tagged with priority only */
};

/* Step over Ethernet and at most one 802.1Q tag. NULL if the packet is too short; two tags are no type we know. */
static __always_inline struct tb_eth *tb_parse_eth(struct tb_cursor *c)
{
	struct tb_eth *eth = c->at;

	if ((void *)(eth + 1) > c->end)
		return NULL;
	c->at = eth + 1;
	c->type = TB_BE16(eth->type);
	c->vlan = 0;
	if (c->type == TB_ETH_VLAN) {
		struct tb_vlan_tag *tag = c->at;

		if ((void *)(tag + 1) > c->end)
			return NULL;
		c->at = tag + 1;
		c->type = TB_BE16(tag->type);
		c->vlan = TB_BE16(tag->tci) & 0xfff;
	}
	return eth;
}

/* The number of a virtual MAC 00:00:5e:00:0F:VRID, with F = 1 for IPv4 and 2 for IPv6, as F << 8 | VRID; else 0. */
static __always_inline tb_u32 tb_vmac(const tb_u8 *mac)
{
	tb_u16 low;

	/* A MAC in a packet begins at an even offset: read it in halves of 16 bits. */
	if (*(const tb_u16 *)mac != 0 || *(const tb_u16 *)(mac + 2) != TB_BE16(0x5e00))
		return 0;
	low = TB_BE16(*(const tb_u16 *)(mac + 4));
	return low >> 8 == 1 || low >> 8 == 2 ? low : 0;
}

#endif /* TB_PARSE_KERN_H */

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * tc, clsact egress, direct action: what goes out of every port with addresses behind the gate.
 *
 * Closed: nothing leaves from a virtual MAC or in the name of a virtual address, ARP and neighbour discovery
 * included. Open: what leaves in the name of an address that has a virtual MAC leaves from that MAC (R19).
 * Everything else passes untouched. Packets are read in place and written through helpers only: a direct
 * write would make the kernel copy the head of every cloned packet, and TCP's are all cloned.
 */
#include "gate_kern.h"
#include "maps_kern.h"
#include "parse_kern.h"

#define TB_PASS (-1) /* TC_ACT_UNSPEC: whatever filters come after this one decide */
#define TB_DROP 2    /* TC_ACT_SHOT */

/* Longest stretch of headers that is looked at: Ethernet, one tag, IPv6, neighbour discovery up to the target. */
#define TB_HEADERS 82

/* Does the sender's MAC differ from the virtual MAC of this VIP? `family` as in the MAC: 1 = IPv4, 2 = IPv6. */
static __always_inline int tb_is_leak(const struct tb_eth *eth, const struct tb_vip *vip,
				      tb_u32 family)
{
	return vip->vmac && tb_vmac(eth->from) != (family << 8 | vip->vrid);
}

/* R19: set the sender's MAC to the virtual one; in ARP the sender's hardware address, at `arp_offset`, too. */
static __always_inline int tb_rewrite(struct __sk_buff *skb, tb_u32 family, tb_u32 vrid,
				      tb_u32 arp_offset)
{
	tb_u8 mac[6] = {0x00, 0x00, 0x5e, 0x00, (tb_u8)family, (tb_u8)vrid};

	if (bpf_skb_store_bytes(skb, __builtin_offsetof(struct tb_eth, from), mac, sizeof(mac),
				0) ||
	    (arp_offset && bpf_skb_store_bytes(skb, arp_offset, mac, sizeof(mac), 0))) {
		tb_count(TB_R_OUT_LEAK);
		return TB_DROP;
	}
	tb_count(TB_R_OUT_REWRITTEN);
	return TB_PASS;
}

static __always_inline int tb_arp_out(struct __sk_buff *skb, const struct tb_cursor *cursor,
				      const struct tb_eth *eth, int admitted)
{
	struct tb_arp *arp = cursor->at;
	tb_u32 sender, offset = (tb_u32)((long)&arp->sender_mac - (long)eth);
	struct tb_vip *vip;

	if ((void *)(arp + 1) > cursor->end)
		return TB_PASS;
	sender = arp->sender;
	vip = vips4.lookup(&sender);
	if (!vip)
		return TB_PASS;
	if (!admitted && !tb_gate_admits(TB_R_OUT_OPEN, TB_R_OUT_ARP))
		return TB_DROP;
	if (!tb_is_leak(eth, vip, 1) &&
	    (!vip->vmac || tb_vmac(arp->sender_mac) == (1u << 8 | vip->vrid)))
		return TB_PASS;
	return tb_rewrite(skb, 1, vip->vrid, offset);
}

static __always_inline int tb_ipv4_out(struct __sk_buff *skb, const struct tb_cursor *cursor,
				       const struct tb_eth *eth, int admitted)
{
	struct tb_ipv4 *ip = cursor->at;
	struct tb_vip *vip;
	tb_u32 from;

	if ((void *)(ip + 1) > cursor->end)
		return TB_PASS;
	from = ip->from;
	vip = vips4.lookup(&from);
	if (!vip)
		return TB_PASS;
	if (!admitted && !tb_gate_admits(TB_R_OUT_OPEN, TB_R_OUT_VIP))
		return TB_DROP;
	return tb_is_leak(eth, vip, 1) ? tb_rewrite(skb, 1, vip->vrid, 0) : TB_PASS;
}

static __always_inline int tb_ipv6_out(struct __sk_buff *skb, const struct tb_cursor *cursor,
				       const struct tb_eth *eth, int admitted)
{
	struct tb_ipv6 *ip = cursor->at;
	struct tb_nd *nd = (void *)(ip + 1);
	struct tb_vip *vip;
	int discovery;

	if ((void *)(ip + 1) > cursor->end)
		return TB_PASS;
	discovery = ip->next == TB_IP_ICMPV6 && (void *)(nd + 1) <= cursor->end &&
		    nd->type >= TB_ND_FIRST && nd->type <= TB_ND_LAST;
	if (discovery && nd->type == TB_ND_ADVERTISEMENT) {
		vip = tb_vip6(&nd->target);
		if (vip) {
			if (!admitted && !tb_gate_admits(TB_R_OUT_OPEN, TB_R_OUT_ND))
				return TB_DROP;
			goto named;
		}
	}
	vip = tb_vip6(&ip->from);
	if (!vip)
		return TB_PASS;
	if (!admitted && !tb_gate_admits(TB_R_OUT_OPEN, TB_R_OUT_VIP))
		return TB_DROP;
named:
	if (!tb_is_leak(eth, vip, 2))
		return TB_PASS;
	if (discovery) {
		/* Its options tell neighbours a MAC that isn't the virtual one, and its checksum covers them. */
		tb_count(TB_R_OUT_LEAK);
		return TB_DROP;
	}
	return tb_rewrite(skb, 2, vip->vrid, 0);
}

int tb_egress(struct __sk_buff *skb)
{
	struct tb_cursor cursor;
	struct tb_eth *eth;
	int admitted = 0;

	/* Headers in fragments are rare; a gate that couldn't see them would be none. */
	if ((long)skb->data + TB_HEADERS > (long)skb->data_end &&
	    skb->data_end - skb->data < skb->len)
		bpf_skb_pull_data(skb, skb->len < TB_HEADERS ? skb->len : TB_HEADERS);
	cursor.at = (void *)(long)skb->data;
	cursor.end = (void *)(long)skb->data_end;
	eth = tb_parse_eth(&cursor);
	if (!eth)
		return TB_PASS;

	if (tb_is_our_vmac(eth->from)) {
		admitted = tb_gate_admits(TB_R_OUT_OPEN, TB_R_OUT_VMAC);
		if (!admitted)
			return TB_DROP;
	}
	switch (cursor.type) {
	case TB_ETH_IPV4:
		return tb_ipv4_out(skb, &cursor, eth, admitted);
	case TB_ETH_IPV6:
		return tb_ipv6_out(skb, &cursor, eth, admitted);
	case TB_ETH_ARP:
		return tb_arp_out(skb, &cursor, eth, admitted);
	default:
		return TB_PASS;
	}
}

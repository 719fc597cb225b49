// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * XDP: what comes in, on every link and on every port with addresses behind the gate. One program for all
 * of them; also for the receiving end of the private pair that carries control frames.
 *
 * Heartbeats for this node are judged by tb_rules.h and end here. A PROBE goes back as an ANSWER whether or
 * not user space lives. What is behind the gate passes or is dropped. Everything else passes untouched, and
 * costs little: that path comes first in every function.
 */
#include "gate_kern.h"
#include "maps_kern.h"
#include "parse_kern.h"

#define TB_DATAGRAM (sizeof(struct tb_udp) + TB_FRAME_SIZE)

/* A UDP packet to our port, before it is known to be a heartbeat for us. */
struct tb_arrival {
	struct tb_eth *eth;
	void *ip; /* struct tb_ipv4 or struct tb_ipv6 */
	struct tb_udp *udp;
	void *end;
	tb_u32 ifindex;
	tb_u32 vlan;
	tb_u32 family; /* 4 or 6; 0 = not such a packet */
	tb_u32 ttl;
	tb_u32 fault; /* a fragment, IPv4 options, or a length that isn't a heartbeat's */
};

static __always_inline int tb_is_our_port(tb_u16 port)
{
	tb_u32 zero = 0;
	const struct tb_config *settings = config.lookup(&zero);

	return settings && settings->port == TB_BE16(port);
}

/* --------------------------------------------------------------------------------- answering ---- */

static __always_inline void tb_swap_mac(struct tb_eth *eth)
{
	tb_u16 *to = (tb_u16 *)eth->to, *from = (tb_u16 *)eth->from;

#pragma unroll
	for (int i = 0; i < 3; i++) {
		tb_u16 word = to[i];

		to[i] = from[i];
		from[i] = word;
	}
}

/* Sum of the 16-bit words of an IPv4 header without options, folded and inverted. */
static __always_inline tb_u16 tb_ipv4_checksum(const struct tb_ipv4 *ip)
{
	const tb_u16 *word = (const tb_u16 *)ip;
	tb_u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (tb_u16)~sum;
}

/* Send the frame, whose payload is an ANSWER by now, back the way it came. The VLAN tag stays. */
static __always_inline int tb_send_back(struct tb_arrival *a)
{
	struct tb_udp *udp = a->udp;

	tb_swap_mac(a->eth);
	/* The ports stay: PROBEs come from many source ports (R12), and only what is sent to ours is a heartbeat. */
	udp->checksum = 0;
	if (a->family == 4) {
		struct tb_ipv4 *ip = a->ip;
		tb_u32 from = ip->from;

		ip->from = ip->to;
		ip->to = from;
		ip->ttl = TB_TTL;
		ip->checksum = 0;
		ip->checksum = tb_ipv4_checksum(ip);
	} else {
		struct tb_ipv6 *ip = a->ip;
		struct tb_address6 from = ip->from;
		__s64 sum;

		ip->from = ip->to;
		ip->to = from;
		ip->hop_limit = TB_TTL;
		/* Over IPv6 the checksum is a must. The pseudo-header's addresses, the UDP header and the payload
		 * lie in one row; what the pseudo-header has besides, length and protocol, is the seed. */
		sum = bpf_csum_diff(NULL, 0, (void *)&ip->from,
				    2 * sizeof(struct tb_address6) + TB_DATAGRAM,
				    TB_BE16(TB_DATAGRAM) + TB_BE16(TB_IP_UDP));
		sum = (sum & 0xffff) + ((sum >> 16) & 0xffff);
		sum = (sum & 0xffff) + (sum >> 16);
		udp->checksum = (tb_u16)~sum;
		if (udp->checksum == 0)
			udp->checksum = 0xffff;
	}
	return XDP_TX;
}

/* -------------------------------------------------------------------------------- heartbeats ---- */

static __always_inline int tb_is_same(const tb_u32 *a, const tb_u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

/* Is it addressed to this node? Packets for others to the same port number are none of our business. */
static __always_inline int tb_is_for(const struct tb_port *port, const struct tb_arrival *a)
{
	if (port->family == 0)
		return 1;
	if (port->family != a->family)
		return 0;
	if (a->family == 4) {
		const struct tb_ipv4 *ip = a->ip;

		return ip->to == port->local[0];
	} else {
		const struct tb_ipv6 *ip = a->ip;

		return tb_is_same(ip->to.word, port->local);
	}
}

/* Does it come from the peer's address, as far as that is known? Of a packet for this node. */
static __always_inline int tb_is_from_peer(const struct tb_port *port, const struct tb_arrival *a)
{
	if (port->family == 0 || !(port->peer[0] | port->peer[1] | port->peer[2] | port->peer[3]))
		return 1;
	if (a->family == 4) {
		const struct tb_ipv4 *ip = a->ip;

		return ip->from == port->peer[0];
	} else {
		const struct tb_ipv6 *ip = a->ip;

		return tb_is_same(ip->from.word, port->peer);
	}
}

/*
 * A UDP packet to our port number. Not on a link, or not to this node: somebody else uses the number, or
 * another pair talks through us, and XDP_PASS means "no heartbeat". Otherwise it ends here.
 */
static __always_inline int tb_heartbeat(struct tb_arrival *a)
{
	struct tb_port_key key = {.ifindex = a->ifindex, .vlan = a->vlan};
	struct tb_frame *frame = (void *)(a->udp + 1);
	const struct tb_port *port = ports.lookup(&key);
	struct tb_ctx c = {};
	tb_u32 zero = 0, link, counted;
	int reason;

	if (!port) {
		/* Perhaps a link that lost its tag to the card's VLAN offload: worth a count. */
		if ((void *)(&frame->magic + 1) <= a->end && frame->magic == TB_BE32(TB_MAGIC))
			tb_count(TB_R_LINK);
		return XDP_PASS;
	}
	if (!tb_is_for(port, a))
		return XDP_PASS;

	link = port->link;
	/* Where the words of this link begin; the private pair is none, nor is what the agent should not have written. */
	counted = port->control || link >= TB_LINKS ? 0 : (link + 1) * TB_REASONS;
	if (a->udp->length != TB_BE16(TB_DATAGRAM)) {
		tb_count(counted + TB_R_LENGTH);
		return XDP_DROP;
	}
	if (a->fault || (void *)(frame + 1) > a->end) {
		tb_count(counted + TB_R_MALFORMED);
		return XDP_DROP;
	}

	c.cpu = bpf_get_smp_processor_id();
	c.gate = gate.lookup(&zero);
	c.self = self.lookup(&zero);
	c.config = config.lookup(&zero);
	c.peer = peer.lookup(&zero);
	c.link = links.lookup(&link);
	if (!c.gate || !c.self || !c.config || !c.peer || !c.link) {
		tb_count(TB_R_BAD_LINK); /* the others are arrays with an entry 0 */
		return XDP_ABORTED;
	}
	if (port->control) {
		c.control = control.lookup(&c.cpu);
		if (!c.control) {
			tb_count(TB_R_BAD_CPU); /* the agent warns at start */
			return XDP_ABORTED;
		}
	}
	c.now = bpf_ktime_get_boot_ns();
	c.link_id = (tb_u8)link;
	c.ttl = (tb_u8)a->ttl;
	c.ttl_min = port->ttl_min;
	c.elsewhere = !tb_is_from_peer(port, a);

	reason = tb_receive(&c, frame);
	tb_count(counted + (tb_u32)reason);
	if (c.gap_ns)
		tb_count_gap(link, c.gap_ns);
	if (!c.reply)
		return XDP_DROP;
	tb_make_answer(&c, frame);
	return tb_send_back(a);
}

/* ------------------------------------------------------------------------------ other traffic ---- */

/*
 * Rules R10 and R11 want proof that a link's interface hears somebody. Any frame of others proves it, but a
 * clock read and a hash lookup for each would cost more than the rest of this program. So: the first frame
 * of each jiffy on each processor, and every 16th.
 */
static __always_inline void tb_stamp_foreign(const struct tb_eth *eth, tb_u32 ifindex, tb_u32 vlan)
{
	tb_u32 slot = ifindex % 64;
	tb_u64 jiffies = bpf_jiffies64();
	struct tb_sample *sample = samples.lookup(&slot);
	struct tb_port_key key = {.ifindex = ifindex, .vlan = vlan};
	const struct tb_port *port;
	struct tb_link *link;
	tb_u32 number;

	if (!sample)
		return;
	sample->frames += 1;
	if (sample->jiffies == jiffies && sample->ifindex == ifindex && sample->frames % 16 != 0)
		return;
	sample->jiffies = jiffies;
	sample->ifindex = ifindex;
	/* What a bridge says to its neighbours (01:80:c2:00:00:0X) is heard on blocked ports, too. */
	if (eth->to[0] == 0x01 && eth->to[1] == 0x80 && eth->to[2] == 0xc2)
		return;
	port = ports.lookup(&key);
	if (!port || port->control)
		return;
	number = port->link;
	link = links.lookup(&number);
	if (link)
		TB_WRITE(link->foreign_ns, bpf_ktime_get_boot_ns());
}

static __always_inline int tb_admit(tb_u32 closed_reason)
{
	return tb_gate_admits(TB_R_IN_OPEN, closed_reason) ? XDP_PASS : XDP_DROP;
}

static __always_inline int tb_arp_in(const struct tb_cursor *cursor)
{
	struct tb_arp *arp = cursor->at;
	tb_u32 target;

	if ((void *)(arp + 1) > cursor->end)
		return XDP_PASS;
	/* Announcements, in which both addresses are the same, and replies pass: nobody answers to them. */
	if (arp->operation != TB_BE16(TB_ARP_REQUEST) || arp->sender == arp->target)
		return XDP_PASS;
	target = arp->target;
	return vips4.lookup(&target) ? tb_admit(TB_R_IN_ARP) : XDP_PASS;
}

static __always_inline int tb_ipv4_in(const struct tb_cursor *cursor)
{
	struct tb_ipv4 *ip = cursor->at;
	tb_u32 to;

	if ((void *)(ip + 1) > cursor->end)
		return XDP_PASS;
	to = ip->to;
	return vips4.lookup(&to) ? tb_admit(TB_R_IN_VIP) : XDP_PASS;
}

static __always_inline int tb_ipv6_in(const struct tb_cursor *cursor)
{
	struct tb_ipv6 *ip = cursor->at;
	struct tb_nd *nd = (void *)(ip + 1);

	if ((void *)(ip + 1) > cursor->end)
		return XDP_PASS;
	/* A solicitation goes to a multicast group, or to the address itself: what counts is its target. */
	if (ip->next == TB_IP_ICMPV6 && (void *)(nd + 1) <= cursor->end &&
	    nd->type == TB_ND_SOLICITATION)
		return tb_vip6(&nd->target) ? tb_admit(TB_R_IN_ND) : XDP_PASS;
	return tb_vip6(&ip->to) ? tb_admit(TB_R_IN_VIP) : XDP_PASS;
}

/* ------------------------------------------------------------------------------- the program ---- */

/* Fills the arrival if this is a UDP packet, or the first fragment of one, to our port. */
static __always_inline void tb_find_ipv4(const struct tb_cursor *cursor, struct tb_arrival *a)
{
	struct tb_ipv4 *ip = cursor->at;
	struct tb_udp *udp;

	if ((void *)(ip + 1) > cursor->end || ip->protocol != TB_IP_UDP ||
	    (ip->fragment & TB_BE16(TB_IPV4_OFFSET)))
		return;
	udp = (void *)ip + (ip->version_ihl & 0xf) * 4;
	if ((void *)(udp + 1) > cursor->end || !tb_is_our_port(udp->to))
		return;
	a->family = 4;
	a->ip = ip;
	a->udp = udp;
	a->ttl = ip->ttl;
	a->fault = ip->version_ihl != TB_IPV4_PLAIN || (ip->fragment & TB_BE16(TB_IPV4_MORE)) ||
		   ip->length != TB_BE16(sizeof(*ip) + TB_DATAGRAM);
}

static __always_inline void tb_find_ipv6(const struct tb_cursor *cursor, struct tb_arrival *a)
{
	struct tb_ipv6 *ip = cursor->at;
	struct tb_udp *udp = (void *)(ip + 1);

	if ((void *)(ip + 1) > cursor->end)
		return;
	if (ip->next == TB_IP6_FRAGMENT) {
		struct tb_ipv6_fragment *fragment = (void *)(ip + 1);

		if ((void *)(fragment + 1) > cursor->end || fragment->next != TB_IP_UDP ||
		    (fragment->offset & TB_BE16(0xfff8)))
			return;
		udp = (void *)(fragment + 1);
		a->fault = 1;
	} else if (ip->next != TB_IP_UDP) {
		return;
	}
	if ((void *)(udp + 1) > cursor->end || !tb_is_our_port(udp->to))
		return;
	a->family = 6;
	a->ip = ip;
	a->udp = udp;
	a->ttl = ip->hop_limit;
	a->fault |= ip->length != TB_BE16(TB_DATAGRAM);
}

int tb_link(struct xdp_md *ctx)
{
	struct tb_cursor cursor = {.at = (void *)(long)ctx->data,
				   .end = (void *)(long)ctx->data_end};
	struct tb_arrival arrival = {.ifindex = ctx->ingress_ifindex};

	arrival.eth = tb_parse_eth(&cursor);
	if (!arrival.eth)
		return XDP_PASS;
	arrival.end = cursor.end;
	arrival.vlan = cursor.vlan;
	if (cursor.type == TB_ETH_IPV4)
		tb_find_ipv4(&cursor, &arrival);
	else if (cursor.type == TB_ETH_IPV6)
		tb_find_ipv6(&cursor, &arrival);
	if (arrival.family) {
		int verdict = tb_heartbeat(&arrival);

		if (verdict != XDP_PASS)
			return verdict;
	}

	if (tb_is_our_vmac(arrival.eth->to)) {
		tb_stamp_foreign(arrival.eth, arrival.ifindex, arrival.vlan);
		return tb_admit(TB_R_IN_VMAC);
	}
	switch (cursor.type) {
	case TB_ETH_IPV4:
		tb_stamp_foreign(arrival.eth, arrival.ifindex, arrival.vlan);
		return tb_ipv4_in(&cursor);
	case TB_ETH_IPV6:
		tb_stamp_foreign(arrival.eth, arrival.ifindex, arrival.vlan);
		return tb_ipv6_in(&cursor);
	case TB_ETH_ARP:
		tb_stamp_foreign(arrival.eth, arrival.ifindex, arrival.vlan);
		return tb_arp_in(&cursor);
	default:
		return XDP_PASS;
	}
}

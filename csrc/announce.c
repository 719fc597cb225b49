// SPDX-License-Identifier: Apache-2.0
#include "announce.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"

enum {
	ETHERTYPE_ARP = 0x0806,
	ETHERTYPE_V6 = 0x86dd,
	ETHERNET_MIN = 60, /* without the checksum: shorter frames are padded on the wire anyway */
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
	PROTOCOL_ICMPV6 = 58,
	NEIGHBOUR_ADVERTISEMENT = 136,
	NA_ROUTER_OVERRIDE = 0xa0, /* a gateway is a router: without R hosts would drop it as one */
	NA_SIZE = 32,		   /* ICMPv6 header, target, option with the MAC */
	OPTION_TARGET_MAC = 2,
	RETRY_NS = 100000,
};
_Static_assert(TB_ETHERNET + TB_IPV6 + NA_SIZE == TB_ANNOUNCE_FRAME, "the longest announcement");

static void build_arp(struct tb_announce_frame *frame, const struct tb_announcement *what)
{
	static const tb_u8 head[6] = {0, 1, 8, 0, 6, 4}; /* Ethernet, IPv4, their lengths */
	tb_u8 *arp = frame->bytes + TB_ETHERNET;

	memset(frame->bytes, 0xff, 6);
	frame->protocol = htons(ETHERTYPE_ARP);
	memcpy(arp, head, sizeof(head));
	arp[7] = what->reply ? ARP_REPLY : ARP_REQUEST;
	memcpy(arp + 8, what->mac, 6);
	memcpy(arp + 14, what->address, 4);
	if (what->reply)
		memset(arp + 18, 0xff, 6);
	memcpy(arp + 24, what->address, 4);
	frame->size = ETHERNET_MIN;
}

static void build_na(struct tb_announce_frame *frame, const struct tb_announcement *what)
{
	static const tb_u8 all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
	static const tb_u8 all_nodes[16] = {0xff, 0x02, [15] = 1};
	tb_u8 *ip = frame->bytes + TB_ETHERNET;
	tb_u8 *na = ip + TB_IPV6;
	tb_u16 check;

	memcpy(frame->bytes, all_nodes_mac, 6);
	frame->protocol = htons(ETHERTYPE_V6);
	ip[0] = 0x6c; /* version 6, traffic class CS6 */
	ip[5] = NA_SIZE;
	ip[6] = PROTOCOL_ICMPV6;
	ip[7] = 255;
	memcpy(ip + 8, what->address, 16);
	memcpy(ip + 24, all_nodes, 16);
	na[0] = NEIGHBOUR_ADVERTISEMENT;
	na[4] = NA_ROUTER_OVERRIDE;
	memcpy(na + 8, what->address, 16);
	na[24] = OPTION_TARGET_MAC;
	na[25] = 1;
	memcpy(na + 26, what->mac, 6);
	check = (tb_u16)~tb_fold(tb_sum(ip + 8, 32) + htons(NA_SIZE) + htons(PROTOCOL_ICMPV6) +
				 tb_sum(na, NA_SIZE));
	memcpy(na + 2, &check, sizeof(check));
	frame->size = TB_ETHERNET + TB_IPV6 + NA_SIZE;
}

int tb_announce_build(struct tb_announce_frame *frame, const struct tb_announcement *what)
{
	if (what->family != 4 && what->family != 6)
		return -EINVAL;
	memset(frame, 0, sizeof(*frame));
	frame->ifindex = what->ifindex;
	if (what->family == 4)
		build_arp(frame, what);
	else
		build_na(frame, what);
	memcpy(frame->bytes + 6, what->mac, 6);
	memcpy(frame->bytes + 12, &frame->protocol, sizeof(frame->protocol));
	return 0;
}

/* FNV-1a by words, to know frames again: for that it needn't withstand anybody. */
static tb_u64 content_of(const struct tb_arena *arena)
{
	tb_u64 hash = 0xcbf29ce484222325ull;

	for (tb_u32 i = 0; i < arena->count; i++) {
		tb_u64 words[sizeof(arena->frame[i]) / sizeof(tb_u64)];

		_Static_assert(sizeof(words) == sizeof(arena->frame[i]), "frames are whole words");
		memcpy(words, &arena->frame[i], sizeof(words));
		for (size_t j = 0; j < sizeof(words) / sizeof(words[0]); j++)
			hash = (hash ^ words[j]) * 0x100000001b3ull;
	}
	return hash;
}

int tb_arena_build(const struct tb_announcement *announcements, tb_u32 count,
		   const struct tb_schedule *schedule, struct tb_arena **out)
{
	struct tb_arena *arena;
	int err = 0;

	if (count > TB_ANNOUNCE_MAX || schedule->repeats > TB_ANNOUNCE_REPEATS)
		return -EINVAL;
	arena = calloc(1, sizeof(*arena) + count * sizeof(arena->frame[0]));
	if (!arena)
		return -ENOMEM;
	arena->schedule = *schedule;
	arena->count = count;
	for (tb_u32 i = 0; i < count && !err; i++)
		err = tb_announce_build(&arena->frame[i], &announcements[i]);
	if (err) {
		tb_arena_free(arena);
		return err;
	}
	arena->content = content_of(arena);
	*out = arena;
	return 0;
}

void tb_arena_free(struct tb_arena *arena)
{
	free(arena);
}

void tb_announcer_start(struct tb_announcer *announcer, tb_u64 now)
{
	announcer->active = true;
	announcer->passing = false;
	announcer->began_ns = now;
	announcer->pass_ns = now;
	announcer->ready_ns = now;
	announcer->repeat = 0;
	announcer->at = 0;
}

void tb_announcer_stop(struct tb_announcer *announcer)
{
	announcer->active = false;
	announcer->passing = false;
}

static void skip_due(struct tb_announcer *announcer, tb_u64 now)
{
	const struct tb_schedule *schedule = &announcer->arena->schedule;

	while (announcer->repeat < schedule->repeats &&
	       announcer->began_ns + schedule->repeat_ns[announcer->repeat] <= now)
		announcer->repeat++;
}

/* When the pass after the one that just ended begins; it may be overdue, if that one took long. */
static tb_u64 following_pass(const struct tb_announcer *announcer, tb_u64 now)
{
	const struct tb_schedule *schedule = &announcer->arena->schedule;

	if (announcer->repeat < schedule->repeats)
		return announcer->began_ns + schedule->repeat_ns[announcer->repeat];
	return schedule->refresh_ns ? now + schedule->refresh_ns : ~0ull;
}

void tb_announcer_load(struct tb_announcer *announcer, const struct tb_arena *arena, tb_u64 now)
{
	const struct tb_arena *before = announcer->arena;
	tb_u64 next;

	announcer->arena = arena;
	if (!announcer->active)
		return;
	if (!before || before->count != arena->count || before->content != arena->content) {
		tb_announcer_start(announcer, now);
		return;
	}
	/* The same frames: a pass that runs or is due isn't disturbed, and none begins for it. */
	if (announcer->passing || now >= announcer->pass_ns)
		return;
	skip_due(announcer, now);
	next = following_pass(announcer, now);
	if (next < announcer->pass_ns)
		announcer->pass_ns = next;
}

/* A pass makes up for every repeat that is due when it begins. */
static void begin_pass(struct tb_announcer *announcer, tb_u64 now)
{
	skip_due(announcer, now);
	announcer->passing = true;
	announcer->at = 0;
}

const struct tb_announce_frame *tb_announcer_next(struct tb_announcer *announcer, tb_u64 now)
{
	if (!announcer->active || !announcer->arena || announcer->arena->count == 0)
		return NULL;
	if (!announcer->passing) {
		if (now < announcer->pass_ns)
			return NULL;
		begin_pass(announcer, now);
	}
	return now < announcer->ready_ns ? NULL : &announcer->arena->frame[announcer->at];
}

void tb_announcer_sent(struct tb_announcer *announcer, tb_u64 now)
{
	tb_u32 rate = announcer->arena->schedule.rate;

	announcer->at++;
	/* Paced by chunks: a chunk's worth of frames goes at once, then its time has to pass. */
	if (rate != 0 && announcer->at % TB_ANNOUNCE_CHUNK == 0)
		announcer->ready_ns = now + TB_ANNOUNCE_CHUNK * 1000000000ull / rate;
	if (announcer->at < announcer->arena->count)
		return;
	announcer->passing = false;
	announcer->pass_ns = following_pass(announcer, now);
}

void tb_announcer_retry(struct tb_announcer *announcer, tb_u64 now)
{
	announcer->ready_ns = now + RETRY_NS;
}

tb_u64 tb_announcer_wake(const struct tb_announcer *announcer)
{
	if (!announcer->active || !announcer->arena || announcer->arena->count == 0)
		return ~0ull;
	if (announcer->passing || announcer->ready_ns > announcer->pass_ns)
		return announcer->ready_ns;
	return announcer->pass_ns;
}

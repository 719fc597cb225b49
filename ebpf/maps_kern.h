/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The maps as the programs see them, and the counting of verdicts. Kernel only.
 *
 * Types and sizes are those of tb_abi.h; agent/twinbeat/engine/maps.py holds the same list for the loader,
 * which refuses to load programs that disagree with it. bcc rewrites `map.lookup()` in plain statements
 * only, so every access stands in a function, never in a macro.
 */
#ifndef TB_MAPS_KERN_H
#define TB_MAPS_KERN_H

#include "tb_abi.h"

#define TB_MMAPABLE (1u << 10) /* BPF_F_MMAPABLE: engine and programs share the memory */

struct tb_address6 {
	tb_u32 word[4];
};

/* When this processor last stamped a frame that isn't Twinbeat's, see tb_stamp_foreign(). */
struct tb_sample {
	tb_u64 jiffies;
	tb_u32 ifindex;
	tb_u32 frames;
};

/*
 * A bit for each hash of 16 bits that an IPv6 address may have; those of the addresses behind the gate are set. Most
 * packets of others are told from ours by it: to look 16 bytes up in a hash map takes as long as all the rest.
 */
struct tb_sieve {
	tb_u64 word[TB_SIEVE_WORDS];
};
_Static_assert(TB_SIEVE_WORDS * 64 == 1 << 16, "a bit for each hash");

BPF_F_TABLE("array", tb_u32, struct tb_gate, gate, 1, TB_MMAPABLE);
BPF_F_TABLE("array", tb_u32, struct tb_self, self, 1, TB_MMAPABLE);
BPF_F_TABLE("array", tb_u32, struct tb_config, config, 1, 0);
BPF_F_TABLE("array", tb_u32, struct tb_peer, peer, 1, TB_MMAPABLE);
BPF_F_TABLE("array", tb_u32, struct tb_link, links, TB_LINKS, TB_MMAPABLE);
BPF_F_TABLE("array", tb_u32, struct tb_control, control, TB_CPUS, TB_MMAPABLE);
BPF_F_TABLE("hash", struct tb_port_key, struct tb_port, ports, 64, 0);
BPF_F_TABLE("hash", tb_u32, struct tb_vip, vips4, TB_VIPS, 0);
BPF_F_TABLE("hash", struct tb_address6, struct tb_vip, vips6, TB_VIPS, 0);
BPF_F_TABLE("array", tb_u32, struct tb_sieve, sieve6, 1, 0);
BPF_F_TABLE("array", tb_u32, tb_u32, vrids, 256, 0);
BPF_F_TABLE("percpu_array", tb_u32, tb_u64, counters, ((TB_LINKS + 1) * TB_REASONS), 0);
BPF_F_TABLE("percpu_array", tb_u32, tb_u64, gaps, (TB_LINKS * TB_BUCKETS), 0);
BPF_F_TABLE("percpu_array", tb_u32, struct tb_sample, samples, 64, 0);

/* Count in one word of the map: for what belongs to no link that is the reason itself. */
static __always_inline void tb_count(tb_u32 number)
{
	tb_u64 *word = counters.lookup(&number);

	if (word)
		*word += 1;
}

/* What the rules count by themselves is always of a link: control frames end before. */
#define TB_COUNT(ctx, reason) tb_count(((ctx)->link_id + 1) * TB_REASONS + (reason))

/* Bucket i of a link's histogram counts gaps below 2^i microseconds; the last one takes the rest. */
static __always_inline void tb_count_gap(tb_u32 link, tb_u64 gap_ns)
{
	tb_u64 us = gap_ns / 1000;
	tb_u32 bucket = 0;
	tb_u64 *word;

	if (us >> 31)
		us = 1ull << 30;
	if (us >> 16) {
		us >>= 16;
		bucket = 16;
	}
	if (us >> 8) {
		us >>= 8;
		bucket += 8;
	}
	if (us >> 4) {
		us >>= 4;
		bucket += 4;
	}
	if (us >> 2) {
		us >>= 2;
		bucket += 2;
	}
	if (us >> 1) {
		us >>= 1;
		bucket += 1;
	}
	bucket += (tb_u32)us + (link % TB_LINKS) * TB_BUCKETS;
	word = gaps.lookup(&bucket);
	if (word)
		*word += 1;
}

#endif /* TB_MAPS_KERN_H */

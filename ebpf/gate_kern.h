/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The gate: what is behind it, and whether it is open. Kernel only. Design, section 4.
 *
 * Whether something is behind the gate is asked first, of maps that hardly ever change. The words of the
 * gate, which the engine writes thousands of times a second, are read for nobody else's packets.
 */
#ifndef TB_GATE_KERN_H
#define TB_GATE_KERN_H

#include "maps_kern.h"
#include "parse_kern.h"

/* Is this MAC one of our virtual ones? */
static __always_inline int tb_is_our_vmac(const tb_u8 *mac)
{
	tb_u32 number = tb_vmac(mac), vrid = number & 0xff;
	tb_u32 *bits;

	if (number == 0)
		return 0;
	bits = vrids.lookup(&vrid);
	return bits && (*bits & (number >> 8));
}

/*
 * May an IPv6 address be behind the gate? When in doubt it may. The factor spreads neighbouring addresses over the
 * whole sieve (Knuth's multiplicative hash).
 */
static __always_inline int tb_passes_sieve(const struct tb_address6 *address)
{
	const tb_u32 *word = address->word;
	tb_u64 folded = word[0] ^ word[1] ^ word[2] ^ word[3];
	tb_u32 zero = 0, bit = folded * TB_SIEVE_FACTOR >> 16 & 0xffff;
	const struct tb_sieve *bits = sieve6.lookup(&zero);

	return !bits || bits->word[bit / 64] >> (bit % 64) & 1;
}

/* The IPv6 address behind the gate that this one is, NULL = none. */
static __always_inline struct tb_vip *tb_vip6(const struct tb_address6 *address)
{
	struct tb_address6 key;

	if (!tb_passes_sieve(address))
		return NULL;
	key = *address;
	return vips6.lookup(&key);
}

static __always_inline int tb_gate_is_open(void)
{
	tb_u32 zero = 0;
	struct tb_gate *words = gate.lookup(&zero);

	return words && tb_gate_open(words, bpf_ktime_get_boot_ns());
}

/* Counts what the gate says of a packet behind it. Returns 1 if it may go on. */
static __always_inline int tb_gate_admits(tb_u32 open_reason, tb_u32 closed_reason)
{
	int open = tb_gate_is_open();

	tb_count(open ? open_reason : closed_reason);
	return open;
}

#endif /* TB_GATE_KERN_H */

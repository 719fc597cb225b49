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

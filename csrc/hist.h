/* SPDX-License-Identifier: Apache-2.0 */
/* Histograms by powers of two of microseconds: written by one thread, read by others without a lock. */
#ifndef TB_HIST_H
#define TB_HIST_H

#include "shared.h"

/* bucket[i] counts values below 2^i us and not below 2^(i-1) us; the last one all that were longer. */
struct tb_histogram {
	tb_u64 count;
	tb_u64 sum_ns;
	tb_u64 bucket[TB_BUCKETS];
};

enum tb_histograms {
	TB_H_LATENESS = 0,	 /* of a round: begun - planned */
	TB_H_SEND_LATENESS,	 /* of a heartbeat: handed to the driver - planned */
	TB_H_ROUND_DURATION,	 /* of a round, from its clock reading to its sleep */
	TB_H_ROUND_TRIP,	 /* to the peer and back, without the time it lay there */
	TB_H_SILENCE,		 /* of the peer when it was found dead */
	TB_H_SUSPECT_TO_VERDICT, /* a failover's phases */
	TB_H_VERDICT_TO_OPEN,
	TB_H_OPEN_TO_ANNOUNCE,
	TB_HISTOGRAMS,
};

static inline unsigned int tb_bucket(tb_u64 ns)
{
	tb_u64 us = ns / 1000;
	unsigned int bits = us == 0 ? 0 : 64u - (unsigned int)__builtin_clzll(us);

	return bits < TB_BUCKETS ? bits : TB_BUCKETS - 1;
}

static inline void tb_record(struct tb_histogram *histogram, tb_u64 ns)
{
	tb_add(&histogram->bucket[tb_bucket(ns)], 1);
	tb_add(&histogram->sum_ns, ns);
	tb_add(&histogram->count, 1);
}

#endif /* TB_HIST_H */

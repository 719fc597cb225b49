/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One round of the engine, as its parts see it. Private to them: everybody else includes engine.h.
 *
 * A part reads what it likes of the round and writes what is its own of struct tb_engine; what it wants of the world
 * it puts into the round's actions. Who calls whom, and in which order, is in tb_engine_step().
 */
#ifndef TB_ROUND_H
#define TB_ROUND_H

#include "engine.h"
#include "tb_rules.h"

/* A round in progress. */
struct round {
	struct tb_engine *e;
	const struct tb_settings *s;
	const struct tb_input *in;
	struct tb_actions *out;
	tb_u64 now;
	bool late;
	bool isolated;
};

enum {
	WINDOW_RESTARTS = 8,   /* R11: then late ticks no longer restart the window */
	PROBES_PER_VERIFY = 8, /* design: a PROBE every verify/8 while suspicious */
};

static inline tb_u64 later(tb_u64 a, tb_u64 b)
{
	return a > b ? a : b;
}

static inline tb_u64 sooner(tb_u64 a, tb_u64 b)
{
	return a < b ? a : b;
}

/* A stamp can be newer than `now`: it was written after the clock was read. */
static inline tb_u64 since(tb_u64 now, tb_u64 then)
{
	return now > then ? now - then : 0;
}

static inline void wake_by(struct round *r, tb_u64 at)
{
	r->out->wake_ns = sooner(r->out->wake_ns, at);
}

static inline tb_u64 margin(const struct round *r)
{
	return r->s->timers.lease /
	       2; /* R3: a lease waited for without a receipt is waited for half again */
}

static inline tb_u64 probe_interval(const struct round *r)
{
	return r->s->timers.verify / PROBES_PER_VERIFY;
}

/* round.c */
void tell(struct round *r, enum tb_event_kind kind, enum tb_cause cause, tb_u64 a, tb_u64 b);
void tell_link(struct round *r, enum tb_event_kind kind, unsigned link, tb_u64 a);
void withhold(struct round *r, enum tb_cause cause);
bool permitted(const struct round *r, tb_u32 permit);
bool order_stands(const struct round *r);

/* watch.c */
void count_probe(struct round *r);
void look_again(struct round *r);
bool verdict_is_near(const struct round *r);
void watch_peer(struct round *r, tb_u64 heard, tb_u64 answered);
void read_peer(struct round *r);
void watch_links(struct round *r, tb_u64 *heard, tb_u64 *answered);
bool is_isolated(const struct round *r);

/* witness.c */
bool judged_by_witness(const struct round *r);
tb_u64 vouched_until(const struct round *r, tb_u64 term);
bool witness_grants(const struct round *r, tb_u64 claim);
bool echo_is_dated(const struct round *r);
tb_u64 word_of_peer(const struct round *r);
void hear_word(struct round *r);
bool waits_for_witness(const struct round *r);

/* reign.c */
void begin_reign(struct round *r, tb_u64 term, enum tb_cause how, enum tb_cause why);
void take_order(struct round *r);
bool any_link(const struct round *r, bool (*holds)(const struct round *, const struct tb_link *));
bool stranger_served(const struct round *r, const struct tb_link *link);
bool lease_is_fresh(const struct round *r, tb_u64 lease);
void keep_reign(struct round *r);

/* claims.c */
void earn_again(struct round *r);
bool starter_goes_first(const struct round *r);
void consider_claim(struct round *r);
void pursue_claim(struct round *r);

#endif

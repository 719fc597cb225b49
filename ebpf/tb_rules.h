/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a kernel does with a heartbeat: authenticate, refuse replays, stamp, fence, contest, answer.
 *
 * Compiled into the XDP program by bcc, and into the test module as plain C, so that the simulator runs the
 * very same rules. Pure but for the map values it is handed. The BPF side defines TB_COUNT(ctx, reason) first.
 *
 * Order of checks: magic -> pair -> TTL -> version -> key -> MAC -> own index, link -> replay -> only then is
 * anything but a counter or a refusal's stamp touched.
 *
 * The rules' numbers (R1, R4, R5, R13) are those of deploy/docs/protocol.md.
 */
#ifndef TB_RULES_H
#define TB_RULES_H

#include "tb_abi.h"

#ifdef TB_BPF
#define TB_INLINE static __always_inline
#define TB_UNROLL _Pragma("unroll")
#define TB_READ(x) (*(volatile __typeof__(x) *)&(x))
#define TB_WRITE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))
#else
#include <stddef.h>

#define TB_INLINE static inline __attribute__((unused))
#define TB_UNROLL
#define TB_COUNT(ctx, reason) ((ctx)->counters[reason]++)
#define TB_READ(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define TB_WRITE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Twinbeat's MAC and byte order helpers are written for little-endian machines"
#endif
#define TB_BE16(x) __builtin_bswap16(x)
#define TB_BE32(x) __builtin_bswap32(x)
#define TB_BE64(x) __builtin_bswap64(x)

/* ---------------------------------------------------------------------------- SipHash-2-4 ---- */

#define TB_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define TB_SIPROUND(v0, v1, v2, v3)   \
	do {                          \
		v0 += v1;             \
		v1 = TB_ROTL(v1, 13); \
		v1 ^= v0;             \
		v0 = TB_ROTL(v0, 32); \
		v2 += v3;             \
		v3 = TB_ROTL(v3, 16); \
		v3 ^= v2;             \
		v0 += v3;             \
		v3 = TB_ROTL(v3, 21); \
		v3 ^= v0;             \
		v2 += v1;             \
		v1 = TB_ROTL(v1, 17); \
		v1 ^= v2;             \
		v2 = TB_ROTL(v2, 32); \
	} while (0)

/* MAC over the first 120 bytes of a frame (Aumasson, Bernstein: SipHash, 2012). */
TB_INLINE tb_u64 tb_mac(const struct tb_frame *frame, tb_u64 k0, tb_u64 k1)
{
	const tb_u64 *word = (const tb_u64 *)frame;
	tb_u64 v0 = k0 ^ 0x736f6d6570736575ull, v1 = k1 ^ 0x646f72616e646f6dull;
	tb_u64 v2 = k0 ^ 0x6c7967656e657261ull, v3 = k1 ^ 0x7465646279746573ull;

	TB_UNROLL
	for (int i = 0; i < TB_MAC_COVERS / 8; i++) {
		tb_u64 m = word[i];

		v3 ^= m;
		TB_SIPROUND(v0, v1, v2, v3);
		TB_SIPROUND(v0, v1, v2, v3);
		v0 ^= m;
	}
	v3 ^= (tb_u64)TB_MAC_COVERS << 56;
	TB_SIPROUND(v0, v1, v2, v3);
	TB_SIPROUND(v0, v1, v2, v3);
	v0 ^= (tb_u64)TB_MAC_COVERS << 56;
	v2 ^= 0xff;
	TB_SIPROUND(v0, v1, v2, v3);
	TB_SIPROUND(v0, v1, v2, v3);
	TB_SIPROUND(v0, v1, v2, v3);
	TB_SIPROUND(v0, v1, v2, v3);
	return v0 ^ v1 ^ v2 ^ v3;
}

/* -------------------------------------------------------------------------------- the gate ---- */

/* R1. Evaluated for each packet; `now` is CLOCK_BOOTTIME. */
TB_INLINE int tb_gate_open(struct tb_gate *gate, tb_u64 now)
{
	tb_u64 term = TB_READ(gate->term);

	return term != 0 && term >= TB_READ(gate->fence_below) && now < TB_READ(gate->open_until) &&
	       TB_READ(gate->contested) != term;
}

/* Raise a word to at least `value`. Returns 1 if this call raised it. Fails only when others raised it first. */
TB_INLINE int tb_raise(tb_u64 *word, tb_u64 value)
{
	tb_u64 old = TB_READ(*word);

	TB_UNROLL
	for (int i = 0; i < 4; i++) {
		tb_u64 seen;

		if (old >= value)
			return 0;
		seen = __sync_val_compare_and_swap(word, old, value);
		if (seen == old)
			return 1;
		old = seen;
	}
	return 0;
}

/* R4: a term that ran out is over before anybody is told that the gate is shut. Returns 1 if it raised the fence. */
TB_INLINE int tb_expire(struct tb_gate *gate, tb_u64 now)
{
	tb_u64 term = TB_READ(gate->term);

	if (term == 0 || now < TB_READ(gate->open_until))
		return 0;
	return tb_raise(&gate->fence_below, term + 1);
}

/* -------------------------------------------------------------------------------- receiving ---- */

/* What a frame is judged by. The pointers are map values; `out` fields are filled by tb_receive(). */
struct tb_ctx {
	struct tb_gate *gate;
	struct tb_self *self;
	const struct tb_config *config;
	struct tb_peer *peer;
	struct tb_link *link; /* entry of the link the frame came on; unused for control */
	struct tb_control
		*control; /* entry of this processor, or NULL where the port is no control port */
	tb_u64 now;
	tb_u32 cpu;
	tb_u8 link_id;
	tb_u8 ttl;
	tb_u8 ttl_min;
	tb_u8 elsewhere; /* it doesn't come from the peer's address */
	tb_u8 reply;	 /* out: rewrite the frame with tb_make_answer() and send it back */
	tb_u8 stranger;	 /* out: the PROBE to be answered is of an epoch that isn't adopted */
	tb_u8 slot;	 /* out: slot of the key under which the frame came */
	tb_u64 gap_ns; /* out: time since the HELLO before this one on this link, 0 = none to tell */
#ifndef TB_BPF
	tb_u64 *counters; /* of TB_REASONS words */
#endif
};

enum tb_rule_limits {
	TB_CHALLENGE_EVERY_NS =
		50000, /* a PROBE of an unknown epoch is answered at most this often on a link */
};

/* Refuse a counter that isn't newer, and take its place. One processor at a time wins. */
TB_INLINE int tb_take_position(tb_u64 *position, tb_u64 counter, tb_u64 base)
{
	tb_u64 old = TB_READ(*position);

	if (counter <= base)
		return 0;
	TB_UNROLL
	for (int i = 0; i < 4; i++) {
		tb_u64 seen;

		/* A position of another epoch says nothing about this one: `base` does. */
		if ((old >> 32) == (counter >> 32) && counter <= old)
			return 0;
		seen = __sync_val_compare_and_swap(position, old, counter);
		if (seen == old)
			return 1;
		old = seen;
	}
	return 0;
}

/*
 * R14: what the peer's address sends under another version or key isn't silence. Anybody can forge it, so the
 * stamp is shown and delays a cold claim, for a bounded time, and nothing else.
 */
TB_INLINE int tb_mismatch(struct tb_ctx *c, int reason)
{
	if (!c->control && !c->elsewhere)
		TB_WRITE(c->link->mismatch_ns, c->now);
	return reason;
}

/* Is this echo of one of our counters from within the last dead interval? Then the frame can't be a recording. */
TB_INLINE int tb_is_fresh(struct tb_ctx *c, tb_u64 echo)
{
	tb_u64 from = TB_READ(c->self->fresh_from);

	return from != 0 && echo >= from && echo <= TB_READ(c->gate->counter);
}

/* Does a frame speak of intervals that are wanted, in the place of some that are kept? */
TB_INLINE int tb_is_proposal(const struct tb_frame *f)
{
	return f->type == TB_HELLO && (TB_BE32(f->flags) & TB_F_PROPOSAL) != 0;
}

/* What its sender wants, and what it keeps, each in its place. */
TB_INLINE void tb_take_intervals(struct tb_peer *peer, const struct tb_frame *f)
{
	peer->dead_us = TB_BE32(f->dead_us);
	if (tb_is_proposal(f)) {
		peer->proposal.number = TB_BE32(f->generation);
		peer->proposal.flags = TB_BE32(f->flags) & TB_PROPOSAL_FLAGS;
		peer->proposal.hello_us = TB_BE32(f->hello_us);
		peer->proposal.dead_us = TB_BE32(f->hold_us);
		peer->proposal.verify_us = TB_BE32(f->verify_us);
		peer->proposal.stall_us = TB_BE32(f->digest);
		peer->proposal.lease_us = TB_BE32(f->lease_full_us);
		return;
	}
	peer->lease_full_us = TB_BE32(f->lease_full_us);
	peer->hello_us = TB_BE32(f->hello_us);
	peer->verify_us = TB_BE32(f->verify_us);
	peer->hold_us = TB_BE32(f->hold_us);
	peer->generation = TB_BE32(f->generation);
	peer->digest = TB_BE32(f->digest);
}

/* Copy the frame into the peer's snapshot if it is newer. Returns 0 if another processor was writing just then. */
TB_INLINE int tb_snapshot(struct tb_ctx *c, const struct tb_frame *f, tb_u64 counter, int adopt,
			  int two_way)
{
	struct tb_peer *peer = c->peer;
	tb_u64 seq = TB_READ(peer->seq);

	if (seq & 1)
		return 0;
	if (__sync_val_compare_and_swap(&peer->seq, seq, seq + 1) != seq)
		return 0;
	if (adopt) {
		TB_WRITE(peer->base, counter - 1);
		TB_WRITE(peer->epoch, counter >> 32);
	}
	if (adopt || counter > peer->counter) {
		peer->counter = counter;
		peer->arrived_ns = c->now;
		peer->echo = TB_BE64(f->echo);
		peer->term = TB_BE64(f->term);
		peer->claim = TB_BE64(f->claim);
		peer->fence_below = TB_BE64(f->fence_below);
		peer->highest = TB_BE64(f->highest);
		peer->sent_ns = TB_BE64(f->sent_ns);
		peer->echo_ns = TB_BE64(f->echo_ns);
		peer->lease_us = TB_BE32(f->lease_us);
		peer->flags = TB_BE32(f->flags) & ~(tb_u32)TB_PROPOSAL_FLAGS;
		peer->type = f->type;
		peer->link = f->link;
		peer->role = f->role;
		peer->admin = f->admin;
		peer->layouts = f->layouts;
		peer->health = TB_BE16(f->health);
		tb_take_intervals(peer, f);
		peer->keys[0] = f->keys[0];
		peer->keys[1] = f->keys[1];
		if (f->type != TB_ANSWER) {
			peer->key_id = f->key_id;
			peer->two_way = (tb_u8)two_way;
		}
	}
	(void)__sync_fetch_and_add(&peer->seq, 1);
	return 1;
}

/*
 * R5 and the fence. A claim, or a peer open under a term, ends every term below it. A peer open under a
 * lower term that has not been fenced yet shuts our gate until it is: one frame leaves at most one open.
 */
TB_INLINE void tb_fence_and_contest(struct tb_ctx *c, const struct tb_frame *f, int newer)
{
	struct tb_gate *gate = c->gate;
	tb_u64 claim = TB_BE64(f->claim);
	tb_u64 peer_term = TB_BE64(f->term);
	tb_u64 peer_fence = TB_BE64(f->fence_below);
	tb_u64 own;

	/* A reign that is shut for the length of a contest is one still: its term stands. */
	if ((TB_BE32(f->flags) & (TB_F_OPEN | TB_F_CONTESTED)) && peer_term > claim)
		claim = peer_term;
	if (claim != 0 && tb_raise(&gate->fence_below, claim))
		TB_COUNT(c, TB_R_FENCED);

	own = TB_READ(gate->term);
	if (own == 0)
		return;
	if (peer_fence >= own) {
		if (TB_READ(gate->contested) == own) {
			TB_WRITE(gate->contested, 0);
			TB_COUNT(c, TB_R_CLEARED);
		}
		return;
	}
	if (newer && (TB_BE32(f->flags) & TB_F_OPEN) && peer_term < own &&
	    own >= TB_READ(gate->fence_below) && c->now < TB_READ(gate->open_until) &&
	    TB_READ(gate->contested) != own) {
		TB_WRITE(gate->contested_ns, c->now);
		TB_WRITE(gate->contested, own);
		TB_COUNT(c, TB_R_CONTESTED);
	}
}

/*
 * Judge one frame of exactly TB_FRAME_SIZE bytes. Returns its enum tb_reason, already counted by nobody: the
 * caller counts the returned reason; side reasons (FENCED, ADOPTED ...) are counted here.
 */
TB_INLINE int tb_receive(struct tb_ctx *c, struct tb_frame *f)
{
	const struct tb_config *config = c->config;
	const struct tb_key *key;
	tb_u64 counter, epoch, echo, claim;
	int adopt = 0, two_way = 0, newer;

	c->reply = 0;
	c->stranger = 0;
	c->gap_ns = 0;
	if (f->magic != TB_BE32(TB_MAGIC))
		return TB_R_MALFORMED;
	if (f->pair != TB_BE32(config->pair))
		return TB_R_PAIR;
	if (c->ttl < c->ttl_min)
		return TB_R_TTL;
	if (f->version != TB_VERSION)
		return tb_mismatch(c, TB_R_VERSION);
	if (f->key_id == 0)
		return TB_R_KEY;
	if (f->key_id == config->keys[0].id)
		c->slot = 0;
	else if (f->key_id == config->keys[1].id)
		c->slot = 1;
	else
		return tb_mismatch(c, TB_R_KEY);
	key = &config->keys[c->slot & 1];
	if (tb_mac(f, key->k0, key->k1) != f->mac)
		return tb_mismatch(c, TB_R_AUTH);

	/* Authentic from here on. */
	if (c->control) {
		if (f->type != TB_CONTROL || f->node != config->node)
			return TB_R_LINK;
		TB_WRITE(c->control->sent_ns, TB_BE64(f->sent_ns));
		TB_WRITE(c->control->seen_ns, c->now);
		return TB_R_CONTROL;
	}
	if (f->type < TB_HELLO || f->type > TB_ANSWER || f->node > 1)
		return TB_R_MALFORMED;
	if (f->node == config->node)
		return TB_R_OWN;
	if (f->link != c->link_id)
		return TB_R_LINK;
	claim = TB_BE64(f->claim);
	if (claim != 0 && (claim & 1) != f->node)
		return TB_R_MALFORMED;

	counter = TB_BE64(f->counter);
	echo = TB_BE64(f->echo);
	epoch = counter >> 32;
	if (epoch == 0)
		return TB_R_MALFORMED; /* no node sends before it has a boot epoch; 0 means "none adopted" here */
	if (f->type == TB_ANSWER) {
		tb_u64 from = TB_READ(c->self->probe_from);

		if (from == 0 || echo < from || echo > TB_READ(c->gate->counter))
			return TB_R_WINDOW;
		if (epoch != TB_READ(c->peer->epoch)) {
			if (counter <= TB_READ(c->peer->known))
				return TB_R_STRANGER;
			adopt = 1;
		} else if (!tb_take_position(&c->link->answer_counter, counter,
					     TB_READ(c->peer->base))) {
			return TB_R_REPLAY;
		}
	} else {
		two_way = tb_is_fresh(c, echo);
		if (epoch != TB_READ(c->peer->epoch)) {
			/* R13: an epoch is adopted only by a frame that can't be a recording, and never backwards:
			 * a node that lost its count is told it in the ANSWER, and jumps. A proposal
			 * doesn't say all that has to be known of a new epoch: the next frame does. */
			if (!two_way || counter <= TB_READ(c->peer->known) || tb_is_proposal(f)) {
				TB_WRITE(c->link->stranger_ns, c->now);
				/* Not judged, yet reason enough for a node that starts not to serve
				 * beside it: what is newer than all that is known is no old recording, and
				 * a recording of what this node never heard holds it up once. */
				if ((TB_BE32(f->flags) & TB_F_OPEN) &&
				    counter > TB_READ(c->peer->known) &&
				    tb_raise(&c->link->stranger_counter, counter))
					TB_WRITE(c->link->stranger_open_ns, c->now);
				if (f->type == TB_PROBE &&
				    c->now - TB_READ(c->link->challenge_ns) >=
					    TB_CHALLENGE_EVERY_NS) {
					TB_WRITE(c->link->challenge_ns, c->now);
					c->reply = 1;
					c->stranger = 1;
					return TB_R_CHALLENGED;
				}
				return TB_R_STRANGER;
			}
			adopt = 1;
		} else if (!tb_take_position(&c->link->hello_counter, counter,
					     TB_READ(c->peer->base))) {
			return TB_R_REPLAY;
		}
	}

	newer = adopt || counter > TB_READ(c->peer->counter);
	/* The fence comes before anything that could be skipped. */
	tb_fence_and_contest(c, f, newer);
	if (newer && !tb_snapshot(c, f, counter, adopt, two_way)) {
		TB_COUNT(c, TB_R_SNAPSHOT_BUSY);
		if (adopt)
			return TB_R_STRANGER; /* the next frame adopts */
	}
	if (adopt) {
		TB_COUNT(c, TB_R_ADOPTED);
		if (f->type == TB_ANSWER)
			TB_WRITE(c->link->answer_counter, counter);
		else
			TB_WRITE(c->link->hello_counter, counter);
	}
	(void)tb_raise(&c->peer->known, counter);
	TB_WRITE(c->link->cpu, c->cpu + 1);
	TB_WRITE(c->link->accepted, c->link->accepted + 1);
	if (f->type == TB_ANSWER) {
		TB_WRITE(c->link->answer_echo, echo);
		TB_WRITE(c->link->answer_ns, c->now);
		if (TB_BE32(f->flags) & TB_F_KNOWN)
			(void)tb_raise(&c->peer->taught, TB_BE64(f->echo_ns));
		else
			TB_WRITE(c->link->round_trip_ns, c->now - TB_BE64(f->echo_ns));
		return TB_R_ANSWER;
	}
	{
		tb_u64 last = TB_READ(c->link->hello_ns);

		if (last != 0 && c->now > last)
			c->gap_ns = c->now - last;
	}
	TB_WRITE(c->link->hello_ns, c->now);
	if (f->type == TB_PROBE) {
		c->reply = 1;
		return TB_R_PROBE;
	}
	return TB_R_HELLO;
}

/* ------------------------------------------------------------------------------ making frames ---- */

/* The words that say whether the gate is open; the counter was drawn before (R13). */
struct tb_gate_words {
	tb_u64 counter, term, fence_below;
	tb_u32 lease_us, flags;
};

TB_INLINE void tb_draw(struct tb_gate *gate, tb_u64 now, struct tb_gate_words *w)
{
	tb_u64 until;

	w->counter = __sync_fetch_and_add(&gate->counter, 1) + 1;
	w->term = TB_READ(gate->term);
	until = TB_READ(gate->open_until);
	w->fence_below = TB_READ(gate->fence_below);
	w->lease_us = 0;
	w->flags = 0;
	if (w->term == 0)
		return;
	if (w->term < w->fence_below || now >= until)
		return;
	if (TB_READ(gate->contested) == w->term) {
		w->flags = TB_F_CONTESTED;
		return;
	}
	w->flags = TB_F_OPEN;
	w->lease_us = (tb_u32)((until - now) / 1000) + 1;
}

/*
 * Turn a PROBE into the kernel's ANSWER, in place, MAC included. Works though the agent hangs: what the agent
 * last said of itself comes from map "self", what counts (term, fence, lease, open) from the gate.
 */
TB_INLINE void tb_make_answer(struct tb_ctx *c, struct tb_frame *f)
{
	struct tb_self *self = c->self;
	const struct tb_key *key = &c->config->keys[c->slot & 1];
	struct tb_gate_words w;
	tb_u64 probe = TB_BE64(f->counter);
	tb_u64 known = TB_READ(c->peer->known);
	tb_u64 claim = TB_READ(self->claim);
	tb_u32 flags;

	if (tb_expire(c->gate, c->now))
		TB_COUNT(c, TB_R_EXPIRED);
	tb_draw(c->gate, c->now, &w);
	flags = TB_READ(self->flags) | w.flags | TB_F_HEARS_YOU;
	if (c->stranger && known >= probe) {
		flags |= TB_F_KNOWN;
		f->echo_ns = TB_BE64(known);
	} else {
		f->echo_ns = f->sent_ns;
	}
	/* A claim that a hung agent left behind must not go on claiming by itself. */
	if (!(w.flags & TB_F_OPEN) || claim != w.term)
		claim = 0;
	f->type = TB_ANSWER;
	f->node = c->config->node;
	f->key_id = (tb_u8)key->id;
	f->keys[0] = (tb_u8)c->config->keys[0].id;
	f->keys[1] = (tb_u8)c->config->keys[1].id;
	f->layouts = TB_VERSION;
	f->echo = TB_BE64(probe);
	f->counter = TB_BE64(w.counter);
	f->term = TB_BE64(w.term);
	f->claim = TB_BE64(claim);
	f->fence_below = TB_BE64(w.fence_below);
	f->highest = TB_BE64(TB_READ(self->highest));
	f->sent_ns = TB_BE64(c->now);
	f->lease_us = TB_BE32(w.lease_us);
	f->flags = TB_BE32(flags);
	f->role = TB_READ(self->role);
	f->admin = TB_READ(self->admin);
	f->health = TB_BE16(TB_READ(self->health));
	f->dead_us = TB_BE32(TB_READ(self->dead_us));
	f->lease_full_us = TB_BE32(TB_READ(self->lease_full_us));
	f->hello_us = TB_BE32(TB_READ(self->hello_us));
	f->verify_us = TB_BE32(TB_READ(self->verify_us));
	f->hold_us = 0;
	f->generation = TB_BE32(TB_READ(self->generation));
	f->digest = TB_BE32(TB_READ(self->digest));
	f->mac = tb_mac(f, key->k0, key->k1);
}

#ifndef TB_BPF
/*
 * Make a HELLO, PROBE or CONTROL. `echo`, `echo_ns`: newest counter accepted from the peer and its time;
 * `hold_ns`: how long that lies back; `proposal`: intervals that are wanted, for a HELLO only, its number 0 =
 * none. An expired term is closed for good before the frame says so (R4).
 */
TB_INLINE void tb_make_frame(struct tb_frame *f, struct tb_gate *gate, struct tb_self *self,
			     const struct tb_config *config, enum tb_type type, tb_u32 link,
			     tb_u64 now, tb_u64 echo, tb_u64 echo_ns, tb_u64 hold_ns,
			     const struct tb_proposal *proposal)
{
	const struct tb_key *key = &config->keys[config->send_key & 1];
	struct tb_gate_words w;

	(void)tb_expire(gate, now);
	tb_draw(gate, now, &w);
	f->magic = TB_BE32(TB_MAGIC);
	f->version = TB_VERSION;
	f->type = (tb_u8)type;
	f->node = config->node;
	f->link = (tb_u8)link;
	f->pair = TB_BE32(config->pair);
	f->key_id = (tb_u8)key->id;
	f->keys[0] = (tb_u8)config->keys[0].id;
	f->keys[1] = (tb_u8)config->keys[1].id;
	f->layouts = TB_VERSION;
	f->counter = TB_BE64(w.counter);
	f->echo = TB_BE64(echo);
	f->term = TB_BE64(w.term);
	f->claim = TB_BE64(self->claim);
	f->fence_below = TB_BE64(w.fence_below);
	f->highest = TB_BE64(self->highest);
	f->sent_ns = TB_BE64(now);
	f->echo_ns = TB_BE64(echo_ns);
	f->lease_us = TB_BE32(w.lease_us);
	f->flags = TB_BE32(self->flags | w.flags);
	f->role = self->role;
	f->admin = self->admin;
	f->health = TB_BE16(self->health);
	f->dead_us = TB_BE32(self->dead_us);
	f->lease_full_us = TB_BE32(self->lease_full_us);
	f->hello_us = TB_BE32(self->hello_us);
	f->verify_us = TB_BE32(self->verify_us);
	f->hold_us =
		TB_BE32((tb_u32)(hold_ns / 1000 > 0xffffffffull ? 0xffffffffull : hold_ns / 1000));
	f->generation = TB_BE32(self->generation);
	f->digest = TB_BE32(self->digest);
	if (type == TB_HELLO && proposal != NULL && proposal->number != 0) {
		f->flags |= TB_BE32(proposal->flags & TB_PROPOSAL_FLAGS);
		f->generation = TB_BE32(proposal->number);
		f->hello_us = TB_BE32(proposal->hello_us);
		f->hold_us = TB_BE32(proposal->dead_us);
		f->verify_us = TB_BE32(proposal->verify_us);
		f->digest = TB_BE32(proposal->stall_us);
		f->lease_full_us = TB_BE32(proposal->lease_us);
	}
	f->mac = tb_mac(f, key->k0, key->k1);
}
#endif

#endif /* TB_RULES_H */

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a node comes to serve: what begins a claim, what opens it, and what ends it in vain.
 */
#include "round.h"

enum {
	FRUITLESS_FREE = 8,    /* fruitless claims in a row before the pause between them grows */
	BACKOFF_DOUBLINGS = 8, /* of the pause between claims that nobody receipts */
	TERMS_LOW = 64,	       /* terms left in the block when Python is asked for more */
};

/* The pause between fruitless claims doubles up to this, so that a deaf peer costs few terms. */
#define BACKOFF_MAX_NS 250000000ull
/* How often a running claim looks for its receipt, as long as one may be under way. */
#define RECEIPT_POLL_NS 50000ull

/* Does the order still allow what a claim was begun for? What was asked for once needs no standing permit. */
static bool still_permitted(const struct round *r, enum tb_cause cause)
{
	switch (cause) {
	case TB_C_RENEW:
		return permitted(r, TB_MAY_SERVE);
	case TB_C_DEAD:
		return permitted(r, TB_MAY_CLAIM_DEAD) && !permitted(r, TB_PAUSED);
	case TB_C_STALLED:
		return permitted(r, TB_MAY_CLAIM_STALLED) && !permitted(r, TB_PAUSED);
	case TB_C_IDLE:
	case TB_C_DEAF:
		return permitted(r, TB_MAY_CLAIM_IDLE) && !permitted(r, TB_PAUSED);
	case TB_C_COLD:
	case TB_C_DESPITE_MISMATCH:
		return permitted(r, TB_MAY_CLAIM_COLD) && !permitted(r, TB_PAUSED);
	default:
		return !permitted(r, TB_PAUSED);
	}
}

/* R2: the smallest number of our parity above everything seen. 0 = the block is spent. */
static tb_u64 pick_term(const struct round *r)
{
	const struct tb_engine *e = r->e;
	const struct tb_order *order = &r->in->order;
	tb_u64 term = later(later(e->highest, r->in->gate.fence_below), e->last_term) + 1;

	term = later(term, order->term_first);
	if ((term & 1) != (r->s->node & 1))
		term++;
	return order->term_first != 0 && term <= order->term_last ? term : 0;
}

static void begin_claim(struct round *r, enum tb_cause cause)
{
	struct tb_engine *e = r->e;
	tb_u64 term = pick_term(r);
	bool overtaken = e->phase == TB_SERVING && e->highest > e->term;

	if (term == 0) {
		withhold(r, TB_C_BLOCK_SPENT);
		return;
	}
	e->claim = term;
	e->claim_ns = r->now;
	e->claim_cause = (tb_u32)cause;
	e->last_term = term;
	e->highest = later(e->highest, term);
	e->withheld = TB_C_NONE;
	if (e->phase == TB_LISTENING)
		e->phase = TB_CLAIMING;
	e->next_probe_ns = r->now;
	r->out->again = true;
	tell(r, TB_E_CLAIM, cause, term, overtaken);
	if (r->in->order.term_last - term < TERMS_LOW && e->low_told != r->in->order.term_last) {
		e->low_told = r->in->order.term_last;
		tell(r, TB_E_TERM_LOW, TB_C_NONE, r->in->order.term_last - term, 0);
	}
}

static void abandon(struct round *r, enum tb_cause cause)
{
	struct tb_engine *e = r->e;
	tb_u64 pause;

	tell(r, TB_E_ABANDONED, cause, e->claim, r->in->gate.fence_below);
	e->claim = 0;
	if (e->phase == TB_CLAIMING)
		e->phase = TB_LISTENING;
	/* By node index, so that two claimants don't meet again; longer each time that nobody receipts. */
	pause = (1 + r->s->node) * 2 * r->s->timers.verify;
	if (cause == TB_C_NO_RECEIPT && !r->late) {
		/* A few in a row are an unlucky host's; more are a peer that can't receipt. */
		if (e->fruitless > FRUITLESS_FREE)
			pause = later(pause, sooner(pause << (e->fruitless - FRUITLESS_FREE),
						    BACKOFF_MAX_NS));
		if (e->fruitless < FRUITLESS_FREE + BACKOFF_DOUBLINGS)
			e->fruitless++;
	}
	e->backoff_until_ns = r->now + pause;
}

/*
 * R7: may silence open? (a) both directions were proven until the end and the kernel never said "open", or
 * (b) the last lease that the peer told of, or could have begun, is over.
 */
static bool silence_opens(const struct round *r)
{
	const struct tb_engine *e = r->e;
	const struct tb_peer *peer = &r->in->peer;
	bool proven =
		peer->two_way && (peer->flags & TB_F_HEARS_YOU) && !(peer->flags & TB_F_RESTART);

	if (!r->s->strict && proven && !e->answer_open)
		return true;
	return r->now >= e->open_until_ns + margin(r);
}

/*
 * What the other node's kernel has been told, it has receipted: nothing below our term lives there. But a
 * receipt is worth only as long as its giver can't have taken us for dead since: it looks for a whole dead
 * interval at least after the frame of ours that it echoes. Whoever was stalled longer asks again, and whoever
 * booted since that frame: an echo with the time of another clock would stay fresh for ever.
 */
static bool has_receipt(const struct round *r)
{
	const struct tb_peer *peer = &r->in->peer;
	tb_u64 worth = r->s->timers.dead;

	if (peer->dead_us != 0)
		worth = sooner(worth, (tb_u64)peer->dead_us * 1000);

	return echo_is_dated(r) && peer->arrived_ns >= r->e->claim_ns &&
	       peer->fence_below >= r->e->claim && since(r->now, peer->echo_ns) < worth &&
	       !((peer->flags & (TB_F_OPEN | TB_F_CONTESTED)) && peer->term > r->e->claim);
}

static bool is_cold(enum tb_cause cause)
{
	return cause == TB_C_COLD || cause == TB_C_DESPITE_MISMATCH;
}

/* R10: nobody was ever heard, not even a kernel; asked once more for a whole verify, with the claim. */
static bool nobody_there(const struct round *r)
{
	const struct tb_engine *e = r->e;
	bool asked = is_cold((enum tb_cause)e->claim_cause) ||
		     (e->claim_cause == TB_C_RENEW && e->watch == TB_UNKNOWN);

	return asked && (e->watch == TB_UNKNOWN || e->watch == TB_DEAD) &&
	       e->answered_ns < e->claim_ns && since(r->now, e->claim_ns) >= r->s->timers.verify;
}

/* What would open a claim that nobody receipts, TB_C_NONE = nothing. */
static enum tb_cause without_receipt(const struct round *r)
{
	const struct tb_engine *e = r->e;

	if (e->watch == TB_DEAD && e->verdict_ns >= e->suspect_ns && silence_opens(r)) {
		/* A reign that goes on is earned again only by a window that began after it was in doubt. */
		if (e->phase == TB_CLAIMING || e->window_ns >= e->claim_ns)
			return r->now >= e->open_until_ns + margin(r) && e->open_until_ns != 0
				       ? TB_C_LEASE_RAN_OUT
				       : TB_C_SILENCE;
	}
	if (nobody_there(r))
		return TB_C_SILENCE;
	if (e->claim_cause == TB_C_DEAF && e->deaf_since_ns != 0 &&
	    since(r->now, e->claim_ns) >= r->s->timers.verify)
		return TB_C_LEASE_RAN_OUT;
	return TB_C_NONE;
}

/* A claim that only the end of a lease can open is no hurry: a receipt follows a PROBE. */
static tb_u64 receipt_poll(const struct round *r)
{
	bool hurries = since(r->now, r->e->claim_ns) <= 2 * r->s->timers.verify;

	return hurries ? RECEIPT_POLL_NS : later(RECEIPT_POLL_NS, probe_interval(r));
}

/* R6, from the first claim frame to the opening or the end. */
void pursue_claim(struct round *r)
{
	struct tb_engine *e = r->e;
	tb_u64 claim = e->claim;
	enum tb_cause why = (enum tb_cause)e->claim_cause;
	bool heard = e->watch == TB_ALIVE || e->watch == TB_STALLED;
	enum tb_cause how;

	if (r->in->gate.fence_below > claim || e->highest > claim) {
		abandon(r, TB_C_OVERTAKEN);
		return;
	}
	if (!order_stands(r) || !still_permitted(r, why)) {
		abandon(r, r->isolated ? TB_C_ISOLATED : TB_C_ORDER_VOID);
		return;
	}
	if (is_cold(why) && any_link(r, stranger_served)) {
		abandon(r, TB_C_PEER_SERVES);
		return;
	}
	if (!waits_for_witness(r))
		wake_by(r, r->now + receipt_poll(r));
	if (r->now == e->claim_ns && r->out->again)
		return; /* begun in this round: its frames are not out yet */
	if (has_receipt(r)) {
		/* A receipt needs no witness: it is the peer's word for this very term. */
		e->peer_word_ns = later(e->peer_word_ns, word_of_peer(r));
		if (vouched_until(r, claim) > r->now) {
			tell(r, TB_E_RECEIPT, TB_C_NONE, claim, since(r->now, e->claim_ns));
			begin_reign(r, claim, TB_C_RECEIPT, why);
			return;
		}
	}
	/* What was begun beside a peer that spoke is no leave to open in its silence. */
	if (e->watch == TB_DEAD && e->phase == TB_CLAIMING && !is_cold(why) &&
	    !permitted(r, TB_MAY_CLAIM_DEAD)) {
		abandon(r, TB_C_NOT_PERMITTED);
		return;
	}
	how = without_receipt(r);
	if (how != TB_C_NONE && witness_grants(r, claim)) {
		begin_reign(r, claim, judged_by_witness(r) ? TB_C_WITNESSED : how, why);
		return;
	}
	if (heard && how == TB_C_NONE && since(r->now, e->claim_ns) > 2 * r->s->timers.verify)
		abandon(r, TB_C_NO_RECEIPT);
	else if (r->in->witness.open_ns > r->now)
		wake_by(r, r->in->witness.open_ns);
}

/* R3, R18: with less than half a lease left, or a higher term seen, the reign is earned again, gate open meanwhile. */
void earn_again(struct round *r)
{
	struct tb_engine *e = r->e;
	bool doubtful = !r->out->renew && !lease_is_fresh(r, r->s->timers.lease);

	if (r->out->shut || (!doubtful && e->highest <= e->term))
		return;
	if (!permitted(r, TB_MAY_SERVE) || !order_stands(r) || r->now < e->backoff_until_ns)
		return;
	if (e->watch == TB_DEAD)
		look_again(r); /* nobody can give a receipt: is there really nobody? */
	begin_claim(r, TB_C_RENEW);
}

static void claim_on_silence(struct round *r)
{
	if (!permitted(r, TB_MAY_CLAIM_DEAD)) {
		withhold(r, TB_C_NOT_PERMITTED);
		return;
	}
	if (!silence_opens(r)) {
		withhold(r, TB_C_PEER_LEASE);
		wake_by(r, r->e->open_until_ns + margin(r));
		return;
	}
	if (since(r->now, r->e->verdict_ns) > r->s->timers.verify) {
		look_again(r); /* much may have changed since, and a claim opens on that verdict */
		return;
	}
	begin_claim(r, TB_C_DEAD);
}

/*
 * R8: nobody has served since both nodes started, and the one that goes first isn't ready yet. Who is slow to start
 * doesn't lose its turn by that, nor by a stall meanwhile, if it hears us and so gets on. A start lasts so long and no
 * longer; one that begins again and again is waited for once.
 */
bool starter_goes_first(const struct round *r)
{
	const struct tb_engine *e = r->e;
	tb_u32 flags = r->in->peer.flags;

	return (flags & TB_F_STARTING) && (flags & TB_F_HEARS_YOU) && !e->served_by_peer &&
	       e->served == 0 && !permitted(r, TB_PREFERRED) &&
	       since(r->now, e->met_ns) < r->s->boot_wait;
}

/* R9. A kernel that answers in place of its agent: shut, or about to be. Always by receipt. */
static void claim_on_stall(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_peer *peer = &r->in->peer;
	tb_u64 until;

	if (!permitted(r, TB_MAY_CLAIM_STALLED)) {
		withhold(r, TB_C_NOT_PERMITTED);
		return;
	}
	if (starter_goes_first(r)) {
		withhold(r, TB_C_PEER_STARTS);
		wake_by(r, r->e->met_ns + r->s->boot_wait);
		return;
	}
	if (peer->flags & TB_F_OPEN) {
		tb_u64 lease_end = peer->arrived_ns + (tb_u64)peer->lease_us * 1000;

		if (peer->flags & TB_F_RESTART)
			until = lease_end -
				sooner(2 * r->s->timers.verify, (tb_u64)peer->lease_us * 500);
		else if (r->s->wait_lease)
			until = lease_end;
		else
			until = e->suspect_ns + r->s->timers.stall;
		if (r->now < until) {
			wake_by(r, until);
			return;
		}
	}
	begin_claim(r, TB_C_STALLED);
}

static bool hears_others(const struct round *r, const struct tb_link *link)
{
	return link->foreign_ns > r->e->started_ns;
}

static bool mismatched(const struct round *r, const struct tb_link *link)
{
	return link->mismatch_ns > r->e->started_ns &&
	       since(r->now, link->mismatch_ns) < r->s->listen;
}

/* R10: nobody has been heard since the start. */
static void claim_cold(struct round *r)
{
	tb_u64 may_ns = r->e->started_ns + r->s->listen;
	tb_u64 patience_ns = may_ns + r->s->mismatch_wait;
	bool refused = any_link(r, mismatched);

	if (!permitted(r, TB_MAY_CLAIM_COLD))
		return;
	if (r->now < may_ns) {
		wake_by(r, may_ns);
		return;
	}
	if (refused && r->now < patience_ns) {
		/* R14: somebody is there who can't make himself understood. But whoever it is could be
		 * a forger, who may delay and not forbid. */
		withhold(r, TB_C_MISMATCH);
		wake_by(r, patience_ns);
		return;
	}
	if (any_link(r, stranger_served)) {
		withhold(r, TB_C_PEER_SERVES);
		return;
	}
	if (!r->s->claim_alone && !any_link(r, hears_others)) {
		withhold(r, TB_C_UNPROVEN);
		return;
	}
	begin_claim(r, refused ? TB_C_DESPITE_MISMATCH : TB_C_COLD);
}

/* The peer's agent is heard: claim when asked to, when nobody serves (R8), or when it is deaf and shut (R9). */
static void claim_beside_living(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_peer *peer = &r->in->peer;
	tb_u64 idle = r->s->idle_claim;

	if (permitted(r, TB_MAY_CLAIM_YIELD) && (peer->flags & TB_F_YIELD) &&
	    (peer->flags & TB_F_OPEN)) {
		begin_claim(r, TB_C_YIELDED);
		return;
	}
	if (permitted(r, TB_CLAIM_NOW) && e->ordered_generation != r->in->order.generation) {
		e->ordered_generation = r->in->order.generation;
		begin_claim(r, TB_C_ORDERED);
		return;
	}
	if (!permitted(r, TB_MAY_CLAIM_IDLE))
		return;
	if (starter_goes_first(r))
		withhold(r, TB_C_PEER_STARTS);
	if (!permitted(r, TB_PREFERRED))
		idle = 2 * idle + r->s->timers.verify;
	if (e->idle_since_ns != 0) {
		if (since(r->now, e->idle_since_ns) >= idle) {
			tb_u64 deaf = r->s->timers.lease + 3 * r->s->timers.verify;

			begin_claim(r,
				    e->deaf_since_ns != 0 && since(r->now, e->deaf_since_ns) >= deaf
					    ? TB_C_DEAF
					    : TB_C_IDLE);
			return;
		}
		wake_by(r, e->idle_since_ns + idle);
	}
}

void consider_claim(struct round *r)
{
	struct tb_engine *e = r->e;

	if (r->now < e->backoff_until_ns) {
		wake_by(r, e->backoff_until_ns);
		return;
	}
	if (!order_stands(r) || permitted(r, TB_PAUSED)) {
		if (e->watch == TB_DEAD || e->watch == TB_STALLED)
			withhold(r, r->isolated ? TB_C_ISOLATED : TB_C_ORDER_VOID);
		return;
	}
	switch ((enum tb_watch)e->watch) {
	case TB_UNKNOWN:
		claim_cold(r);
		break;
	case TB_DEAD:
		claim_on_silence(r);
		break;
	case TB_STALLED:
		claim_on_stall(r);
		break;
	case TB_ALIVE:
		claim_beside_living(r);
		break;
	case TB_SUSPECT:
		break;
	}
}

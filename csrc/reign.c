/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reign from its opening to its end: renewed, contested, fenced, resigned, or run out.
 */
#include "round.h"

/*
 * R11: how long an opening by silence may prove to be isolation. The kernel tells of lost carriers in batches that
 * are a second apart, so the last one's news comes up to a second after its fall, which may itself come after ours.
 */
#define STRANDED_CHECK_NS 2000000000ull

static void end_reign(struct round *r, enum tb_cause cause, tb_u64 by)
{
	struct tb_engine *e = r->e;

	r->out->shut = true;
	r->out->open = false;
	r->out->renew = false;
	r->out->announce_stop = true;
	tell(r, TB_E_CLOSED, cause, e->term, by);
	e->phase = TB_LISTENING;
	e->term = 0;
	e->claim = 0;
	e->idle_since_ns = 0;
	if (e->watch == TB_DEAD)
		look_again(r);
	else if (e->watch != TB_UNKNOWN)
		/* Whoever lost a reign lets the other node go first. */
		e->backoff_until_ns = r->now + 2 * r->s->timers.verify;
}

void begin_reign(struct round *r, tb_u64 term, enum tb_cause how, enum tb_cause why)
{
	struct tb_engine *e = r->e;

	r->out->open = true;
	r->out->term = term;
	r->out->open_until = sooner(r->now + later(r->s->timers.lease, r->in->order.lease_ns),
				    vouched_until(r, term));
	r->out->announce = true;
	e->lease_until = r->out->open_until;
	e->lease_given = later(r->s->timers.lease, r->in->order.lease_ns);
	e->opened_ns = r->now;
	e->phase = TB_SERVING;
	e->term = term;
	e->served = term;
	e->claim = 0;
	e->fruitless = 0;
	e->receipted = how == TB_C_RECEIPT;
	e->by_silence = how != TB_C_RECEIPT;
	e->contest_told_ns = 0;
	e->withheld = TB_C_NONE;
	tell(r, TB_E_OPENED, how, term, why);
}

/* R16: a reign found in the gate goes on only if it is open now; the peer hears its claim until it has a receipt. */
static void first_order(struct round *r)
{
	struct tb_engine *e = r->e;
	struct tb_gate gate = r->in->gate;

	e->order_seen = true;
	if (gate.term == 0)
		return;
	e->term = gate.term;
	e->last_term = later(e->last_term, gate.term);
	if (!permitted(r, TB_RESUME) || !tb_gate_open(&gate, r->now)) {
		end_reign(r, TB_C_EXPIRED, gate.fence_below);
		return;
	}
	e->phase = TB_SERVING;
	e->opened_ns = r->now;
	e->lease_until = gate.open_until;
	e->served = gate.term;
	e->lease_given = r->s->timers.lease;
	tell(r, TB_E_OPENED, TB_C_RESUMED, gate.term, TB_C_RESUMED);
}

void take_order(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_order *order = &r->in->order;

	if (order->generation == 0 || order->generation == e->order_generation)
		return;
	e->order_generation = order->generation;
	tell(r, TB_E_ORDER, TB_C_NONE, order->generation,
	     e->phase != TB_LISTENING || e->claim != 0);
	if (!e->order_seen)
		first_order(r);
	if (order->resign_of != e->resigned) {
		e->resigned = order->resign_of;
		if (e->phase == TB_SERVING)
			end_reign(r, TB_C_RESIGNED, 0);
	}
}

/* R5: shut while contested, over when it lasts. XDP sets and clears the word; here is only the end of patience. */
static bool lost_contest(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_gate *gate = &r->in->gate;

	if (gate->contested != e->term) {
		if (e->contest_told_ns != 0) {
			e->contest_told_ns = 0;
			tell(r, TB_E_REOPENED, TB_C_RECEIPT, e->term, 0);
			r->out->announce = true; /* the winner announces again at once */
		}
		return false;
	}
	if (e->contest_told_ns == 0) {
		e->contest_told_ns = later(gate->contested_ns, 1);
		tell(r, TB_E_CONTESTED, TB_C_NONE, r->in->peer.term, 0);
	}
	wake_by(r, e->contest_told_ns + r->s->timers.verify + 1);
	return since(r->now, e->contest_told_ns) > r->s->timers.verify;
}

bool any_link(const struct round *r, bool (*holds)(const struct round *, const struct tb_link *))
{
	for (unsigned i = 0; i < TB_LINKS; i++)
		if ((r->s->links >> i & 1) && holds(r, &r->in->link[i]))
			return true;
	return false;
}

/*
 * Somebody serves who doesn't hear us: his frames can't be told from recordings, so they are not judged, but
 * they are reason enough not to open a second gate on a guess.
 */
bool stranger_served(const struct round *r, const struct tb_link *link)
{
	return link->stranger_open_ns > r->e->started_ns &&
	       since(r->now, link->stranger_open_ns) < r->s->listen;
}

static bool stranger_serves(const struct round *r, const struct tb_link *link)
{
	return link->stranger_open_ns > r->e->opened_ns && stranger_served(r, link);
}

static bool stranger_spoke(const struct round *r, const struct tb_link *link)
{
	return stranger_serves(r, link) &&
	       since(r->now, link->stranger_open_ns) <= r->s->timers.dead;
}

/*
 * Such a stranger beside our open gate can't be fenced, as he doesn't hear us: the node that hears yields. His
 * intervals may be longer than ours, as nobody could agree on them: he is waited for no less than a lease.
 */
static bool lost_to_stranger(struct round *r)
{
	struct tb_engine *e = r->e;

	if (e->watch == TB_ALIVE || !any_link(r, stranger_serves)) {
		e->stranger_since_ns = 0;
		return false;
	}
	if (e->stranger_since_ns == 0)
		e->stranger_since_ns = r->now;
	if (!any_link(r, stranger_spoke))
		return false;
	/* Where both directions work he is adopted meanwhile, and the contest is decided by R5. */
	return since(r->now, e->stranger_since_ns) > 2 * r->s->timers.verify;
}

/*
 * R3: is the lease as good as renewed all the time? Not after half of it. With a witness it doesn't matter how long
 * ago it was renewed: who opens without a receipt waits for the end of our word, not of our lease.
 */
bool lease_is_fresh(const struct round *r, tb_u64 lease)
{
	/* A longer one that was set since isn't what the gate has. */
	tb_u64 given = sooner(lease, r->e->lease_given);

	return judged_by_witness(r) ||
	       (r->in->gate.open_until > r->now && r->in->gate.open_until - r->now >= given / 2);
}

/*
 * When the gate's words were read. Whoever was held up between the clock and the words may find a fence that was
 * raised after the lease's end.
 */
static tb_u64 looked(const struct round *r)
{
	return later(r->now, r->in->looked_ns);
}

static enum tb_cause expired(const struct round *r)
{
	return vouched_until(r, r->e->term) <= looked(r) ? TB_C_NO_WITNESS : TB_C_EXPIRED;
}

/* R3, R4, R5, R18 and the end of an opening by silence that was isolation (R11). */
void keep_reign(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_gate *gate = &r->in->gate;
	const struct tb_order *order = &r->in->order;
	tb_u64 lease = later(r->s->timers.lease, order->lease_ns);

	if (gate->term != e->term) {
		end_reign(r, TB_C_GATE_LOST, gate->term);
		return;
	}
	if (gate->fence_below > e->term) {
		/* R4: one's own frames, too, shut an expired term for good. */
		end_reign(r, looked(r) < gate->open_until ? TB_C_FENCED : expired(r),
			  gate->fence_below);
		return;
	}
	if (r->now >= gate->open_until) {
		end_reign(r, expired(r), 0);
		return;
	}
	if (lost_contest(r)) {
		end_reign(r, TB_C_CONTEST_LOST, r->in->peer.term);
		return;
	}
	if (!e->receipted && r->in->peer.fence_below >= e->term && r->in->peer.epoch != 0) {
		e->receipted = true;
		r->out->announce =
			true; /* somebody was there after all: the winner announces again at once */
		tell(r, TB_E_RECEIPT, TB_C_NONE, e->term, since(r->now, e->opened_ns));
	}
	if (lost_to_stranger(r)) {
		end_reign(r, TB_C_CONTEST_LOST, 0);
		return;
	}
	if (e->by_silence && !e->receipted && since(r->now, e->opened_ns) < STRANDED_CHECK_NS) {
		r->out->want_carrier = true;
		if (r->isolated) {
			end_reign(r, TB_C_STRANDED_ISOLATED, 0);
			return;
		}
	}
	if (!permitted(r, TB_MAY_SERVE) || order->attested_until_ns <= r->now)
		return; /* the lease runs out by itself */
	if (!lease_is_fresh(r, sooner(lease, r->s->timers.lease)))
		return; /* R3: too late to renew, see earn_again() */
	if (vouched_until(r, e->term) <= r->now)
		return; /* R21: nor is there anybody's word for it */
	r->out->renew = true;
	r->out->open_until = sooner(r->now + lease, vouched_until(r, e->term));
	e->lease_given = lease;
	e->lease_until = r->out->open_until;
}

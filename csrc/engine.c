/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One round of the engine: look at what the kernel stamped, keep or end the reign, judge the peer's silence,
 * claim, and say what to send. See engine.h for the contract and deploy/docs/protocol.md for the rules.
 *
 * Theory of operation. Two machines run side by side and meet only in claims:
 *
 *   watch   UNKNOWN -> ALIVE -> SUSPECT -> STALLED | DEAD -> ALIVE: what is known of the peer's agent.
 *   phase   LISTENING -> CLAIMING -> SERVING -> LISTENING: what this node does.
 *
 * A verdict never opens the gate. It begins a claim, if the standing order permits that, and a claim opens in
 * one of two ways only: by receipt (the peer's kernel says that it serves nothing older) or by silence (R7).
 * A reign that may have been interrupted is earned again by a claim that runs while the gate is still open.
 */
#include "engine.h"

#include <string.h>

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
	FRUITLESS_FREE =
		8, /* claims in a row without a receipt before the pause between them grows */
	BACKOFF_DOUBLINGS = 8, /* of the pause between claims that nobody receipts */
	HELLOS_PER_DEAD = 3,   /* two of them may be lost */
	TERMS_LOW = 64,	       /* terms left in the block when Python is asked for more */
	ASKED_FAST =
		256, /* PROBEs in a suspicion, 32 windows of them: then there is no hurry any more */
};

/* A PROBE per link in quiet times: round trip, two-way proof. */
#define PING_EVERY_NS 1000000000ull
/* Late ticks are reported at most this often, with their number. */
#define LATE_EVENT_EVERY_NS 100000000ull
/*
 * R11: how long an opening by silence may prove to be isolation. The kernel tells of lost carriers in batches that
 * are a second apart, so the last one's news comes up to a second after its fall, which may itself come after ours.
 */
#define STRANDED_CHECK_NS 2000000000ull
/* The pause between fruitless claims doubles up to this, so that a deaf peer costs few terms. */
#define BACKOFF_MAX_NS 250000000ull
/* How often a running claim looks for its receipt, as long as one may be under way. */
#define RECEIPT_POLL_NS 50000ull
/* Python is woken for rationed events so many times at once (burst over every), and then so often. */
#define WAKE_EVERY_NS 100000000ull
#define WAKE_BURST_NS 1500000000ull

static tb_u64 later(tb_u64 a, tb_u64 b)
{
	return a > b ? a : b;
}

static tb_u64 sooner(tb_u64 a, tb_u64 b)
{
	return a < b ? a : b;
}

/* A stamp can be newer than `now`: it was written after the clock was read. */
static tb_u64 since(tb_u64 now, tb_u64 then)
{
	return now > then ? now - then : 0;
}

static void wake_by(struct round *r, tb_u64 at)
{
	r->out->wake_ns = sooner(r->out->wake_ns, at);
}

static void tell(struct round *r, enum tb_event_kind kind, enum tb_cause cause, tb_u64 a, tb_u64 b)
{
	struct tb_event *event;

	if (r->out->events >= TB_STEP_EVENTS)
		return; /* a round makes at most one of each kind but for links, of which there are TB_LINKS */
	event = &r->out->event[r->out->events++];
	*event = (struct tb_event){
		.at_ns = r->now, .a = a, .b = b, .kind = (tb_u16)kind, .cause = (tb_u16)cause};
}

static void tell_link(struct round *r, enum tb_event_kind kind, unsigned link, tb_u64 a)
{
	if (r->out->events >= TB_STEP_EVENTS)
		return;
	tell(r, kind, TB_C_NONE, a, 0);
	r->out->event[r->out->events - 1].link = (tb_u16)link;
}

/* Why nothing happens though the peer is silent: told on the edge only. */
static void withhold(struct round *r, enum tb_cause cause)
{
	if (r->e->withheld == (tb_u32)cause)
		return;
	r->e->withheld = (tb_u32)cause;
	tell(r, TB_E_WITHHELD, cause, r->e->heard_ns != 0 ? since(r->now, r->e->heard_ns) : 0,
	     r->e->window_probes);
}

static tb_u64 margin(const struct round *r)
{
	return r->s->timers.lease /
	       2; /* R3: a lease waited for without a receipt is waited for half again */
}

static tb_u64 probe_interval(const struct round *r)
{
	return r->s->timers.verify / PROBES_PER_VERIFY;
}

/* -------------------------------------------------------------------------------- intervals ---- */

/*
 * R22. Settings change while two nodes run, on each at its own time. What is kept at this moment goes there by two
 * rules, each of which holds between any two frames, whatever the other node wants:
 *   - tolerate at once: suspicion takes three of the peer's heartbeats, as its newest frame says them, at least;
 *   - slow down last: a heartbeat comes three times in what the peer's newest frame says that it tolerates, unless
 *     that asks for more than this node sent so far.
 * And a third for receipts, which are good for one dead interval of their giver: a shorter one is used only when
 * the peer has answered a frame that announces it.
 */
static void keep_pace(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_timers *wanted = &r->s->timers;
	const struct tb_peer *peer = &r->in->peer;
	bool known = peer->epoch != 0 && peer->arrived_ns >= e->started_ns;
	tb_u64 their_hello = known ? (tb_u64)peer->hello_us * 1000 : 0;
	tb_u64 their_dead = known ? (tb_u64)peer->dead_us * 1000 : 0;
	tb_u64 dead = later(wanted->dead, HELLOS_PER_DEAD * their_hello);

	if (e->told_dead_from == 0 && e->told_dead != 0)
		e->told_dead_from = r->in->gate.counter + 1;
	if (dead >= e->dead || !known)
		e->dead = dead;
	else if (e->told_dead == wanted->dead && e->told_dead_from != 0 &&
		 peer->echo >= e->told_dead_from)
		e->dead = dead;

	if (e->watch == TB_DEAD || e->watch == TB_UNKNOWN || their_dead == 0)
		e->hello = wanted->hello;
	else
		e->hello = sooner(wanted->hello, later(their_dead / HELLOS_PER_DEAD, e->hello));
	e->next_hello_ns = sooner(e->next_hello_ns, r->now + e->hello);
}

/* R16: the peer knows of a planned restart once it has answered a frame that says so. */
static void mind_restart(struct round *r)
{
	struct tb_engine *e = r->e;

	if (!e->restart_said) {
		e->restart_from = 0;
		e->restart_known = false;
		return;
	}
	if (e->restart_from == 0)
		e->restart_from = r->in->gate.counter + 1;
	if (r->in->peer.echo >= e->restart_from)
		e->restart_known = true;
}

/* ------------------------------------------------------------------------------------ order ---- */

static bool permitted(const struct round *r, tb_u32 permit)
{
	tb_u32 permits = r->in->order.permits;

	/* What was found out of a silent peer, that its power was cut, is over when it is heard. Python may hang. */
	if ((permits & TB_UNHEARD) && !r->e->unheard)
		permits &= ~(tb_u32)(TB_MAY_CLAIM_DEAD | TB_MAY_CLAIM_COLD);
	return (permits & permit) != 0;
}

/* R6: generation, expiry, attestation left for a whole lease, not isolated. Health is in the permits. */
static bool order_stands(const struct round *r)
{
	const struct tb_order *order = &r->in->order;

	return order->generation != 0 && r->now < order->expires_ns &&
	       r->now + r->s->timers.lease < order->attested_until_ns && !r->isolated;
}

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

/* -------------------------------------------------------------------------------- suspicion ---- */

static void begin_window(struct round *r)
{
	struct tb_engine *e = r->e;

	e->window_ns = r->now;
	e->window_probes = 0;
	e->next_probe_ns = r->now;
}

/*
 * R7, R11: an unanswered PROBE says something about the peer only if it left this node, and the first one of the
 * window is given all of it for its answer.
 */
static void count_probe(struct round *r)
{
	struct tb_engine *e = r->e;

	if (e->probe_counts && r->in->probes_sent != e->probes_sent)
		e->window_probes++;
	else if (e->probe_counts && e->window_probes == 0)
		e->window_ns = r->now;
	e->probes_sent = r->in->probes_sent;
	e->probe_counts = false;
}

/* From here on answers count. */
static void begin_asking(struct round *r)
{
	struct tb_engine *e = r->e;

	e->answer_open = false;
	e->asked = 0;
	e->probe_from = r->in->gate.counter + 1;
	begin_window(r);
}

/* A verdict that is about to be used again after a doubt is made anew. */
static void look_again(struct round *r)
{
	struct tb_engine *e = r->e;

	e->watch = TB_SUSPECT;
	e->suspect_ns = r->now;
	e->window_restarts = 0;
	e->withheld = TB_C_NONE;
	/* Unless the peer is being asked already. */
	if (e->doubt_ns == 0)
		begin_asking(r);
	e->doubt_ns = 0;
}

static void suspect(struct round *r)
{
	look_again(r);
	tell(r, TB_E_SUSPECT, TB_C_NONE, since(r->now, r->e->heard_ns), 0);
}

/*
 * Silence that is doubted: the window in which the peer's kernel is asked begins before the dead interval is over
 * and runs beyond its end, so that a verdict needs the whole of both, and their sum no more. Two heartbeats at least
 * have to be missing, and a third of the window lies beyond the end. Nothing is told of a doubt that passes.
 */
static tb_u64 doubted_after(const struct round *r)
{
	const struct tb_timers *timers = &r->s->timers;

	return r->e->dead - sooner(2 * timers->verify / 3, r->e->dead / 3);
}

/* Is enough of the window over that what only a verdict needs should be fetched? */
static bool verdict_is_near(const struct round *r)
{
	return since(r->now, r->e->window_ns) >= r->s->timers.verify / 2;
}

static void doubt(struct round *r, bool kernel_spoke)
{
	struct tb_engine *e = r->e;

	if (e->doubt_ns == 0) {
		e->doubt_ns = r->now;
		begin_asking(r);
	} else if (kernel_spoke) {
		/* It lives so far, as the suspicion has to find out anew. */
		e->answer_open |= r->in->peer.type == TB_ANSWER && (r->in->peer.flags & TB_F_OPEN);
		begin_window(r);
	} else if (r->late) {
		begin_window(r);
	}
	r->out->want_carrier = verdict_is_near(r);
}

static void end_doubt(struct round *r)
{
	struct tb_engine *e = r->e;

	if (e->doubt_ns == 0)
		return;
	e->doubt_ns = 0;
	e->answer_open = false;
}

/* ---------------------------------------------------------------------------------- witness ---- */

/*
 * R21. Whoever takes a term to the witness and gets no receipt waits, from the answer on, for as long as a word is
 * good. A word counts from before it was asked for, so whoever gave one knew nothing of that term yet:
 *   - the witness' word, sent before the other term was kept there;
 *   - the peer's, the answer to a frame of ours, made before it claimed: else it would say so.
 * So the gate is shut by then, however long frames and answers were under way, if it is never open beyond a word.
 */
static bool judged_by_witness(const struct round *r)
{
	return r->s->witness != 0 && !r->in->witness.absent;
}

static tb_u64 vouched_until(const struct round *r, tb_u64 term)
{
	const struct tb_witness *witness = &r->in->witness;
	tb_u64 until;

	if (!judged_by_witness(r))
		return ~0ull;
	until = r->e->peer_word_ns != 0 ? r->e->peer_word_ns + r->s->witness : 0;
	return witness->term == term ? later(until, witness->until_ns) : until;
}

/* May a claim open though nobody gave a receipt? */
static bool witness_grants(const struct round *r, tb_u64 claim)
{
	const struct tb_witness *witness = &r->in->witness;

	if (!judged_by_witness(r))
		return true;
	if (witness->term != claim || witness->open_ns == 0 || vouched_until(r, claim) <= r->now)
		return false;
	/* A reign of ours went before, and our kernel receipted none after it: there is nobody to wait for. */
	if (witness->before != 0 && witness->before == r->e->served &&
	    r->in->gate.fence_below <= witness->before)
		return true;
	return r->now >= witness->open_ns;
}

/* Does the newest frame say when the frame of ours was sent that it echoes? By another clock it doesn't. */
static bool echo_is_dated(const struct round *r)
{
	const struct tb_peer *peer = &r->in->peer;

	return peer->epoch != 0 && !(peer->flags & TB_F_KNOWN) &&
	       peer->echo >> 32 == r->in->gate.counter >> 32 && peer->echo_ns <= peer->arrived_ns;
}

/* The newest frame as a word: when the frame of ours was sent that it answers; 0 = it proves nothing. */
static tb_u64 word_of_peer(const struct round *r)
{
	const struct tb_peer *peer = &r->in->peer;

	return echo_is_dated(r) && peer->echo_ns >= r->e->started_ns ? peer->echo_ns : 0;
}

static void hear_word(struct round *r)
{
	struct tb_engine *e = r->e;

	if (e->phase == TB_SERVING && r->in->peer.highest <= e->term)
		e->peer_word_ns = later(e->peer_word_ns, word_of_peer(r));
}

/* Only the witness' word is waited for now: there is nothing to hurry for. */
static bool waits_for_witness(const struct round *r)
{
	return judged_by_witness(r) && r->e->claim != 0 &&
	       since(r->now, r->e->claim_ns) > 2 * r->s->timers.verify;
}

/* ------------------------------------------------------------------------------------ reign ---- */

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

static void begin_reign(struct round *r, tb_u64 term, enum tb_cause how, enum tb_cause why)
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

static void take_order(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_order *order = &r->in->order;

	if (order->generation == 0 || order->generation == e->order_generation)
		return;
	e->order_generation = order->generation;
	e->unheard = e->silent;
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

static bool any_link(const struct round *r,
		     bool (*holds)(const struct round *, const struct tb_link *))
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
static bool stranger_served(const struct round *r, const struct tb_link *link)
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
static bool lease_is_fresh(const struct round *r, tb_u64 lease)
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
static void keep_reign(struct round *r)
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

/* ----------------------------------------------------------------------------------- claims ---- */

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
static void pursue_claim(struct round *r)
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
static void earn_again(struct round *r)
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
static bool starter_goes_first(const struct round *r)
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

static void consider_claim(struct round *r)
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

/* ------------------------------------------------------------------------------------ watch ---- */

static void alive(struct round *r)
{
	struct tb_engine *e = r->e;

	if (e->watch == TB_SUSPECT || e->watch == TB_STALLED)
		tell(r, TB_E_CLEARED, TB_C_NONE, since(r->now, e->suspect_ns), e->window_restarts);
	else
		tell(r, TB_E_HEARD, TB_C_NONE, r->in->peer.counter, 0);
	e->watch = TB_ALIVE;
	e->fruitless = 0;
	e->heard_since_ns = r->now;
	if (e->met_ns == 0)
		e->met_ns = r->now;
	e->withheld = TB_C_NONE;
	e->doubt_ns = 0;
	e->answer_open = false;
	e->probe_from = 0;
}

/* R11: N probes on time, unanswered, on every processor's receive path, on a node that isn't cut off itself. */
static void judge_silence(struct round *r)
{
	struct tb_engine *e = r->e;

	r->out->want_carrier = true;
	if (r->isolated) {
		/* Probes without carrier prove nothing: the window begins when there is one. */
		e->window_ns = r->now;
		e->window_probes = 0;
		wake_by(r, r->now + r->s->timers.verify);
		withhold(r, TB_C_ISOLATED);
		return;
	}
	if (r->late && e->window_restarts < WINDOW_RESTARTS) {
		e->window_restarts++;
		begin_window(r);
	}
	if (since(r->now, e->window_ns) < r->s->timers.verify || e->window_probes < r->s->probes) {
		wake_by(r, e->window_ns + r->s->timers.verify);
		return;
	}
	if (r->in->control_ns < e->window_ns) {
		withhold(r, TB_C_NO_CONTROL);
		return;
	}
	e->watch = TB_DEAD;
	e->silent = true;
	e->verdict_ns = r->now;
	tell(r, TB_E_DEAD, TB_C_NONE, since(r->now, e->heard_ns), e->window_probes);
}

static void watch_peer(struct round *r, tb_u64 heard, tb_u64 answered)
{
	struct tb_engine *e = r->e;
	bool spoke = heard > e->heard_ns;
	bool kernel_spoke = answered > e->answered_ns;

	if (spoke || kernel_spoke)
		e->silent = e->unheard = false;
	e->heard_ns = later(heard, e->heard_ns);
	e->answered_ns = later(answered, e->answered_ns);
	switch ((enum tb_watch)e->watch) {
	case TB_UNKNOWN:
		if (spoke) {
			alive(r);
		} else if (kernel_spoke && since(r->now, e->started_ns) >= r->s->listen) {
			/* Never heard, but its kernel is there: by receipt only. */
			e->watch = TB_STALLED;
			e->suspect_ns = r->now;
			e->verdict_ns = r->now;
			tell(r, TB_E_STALLED, TB_C_NONE, (r->in->peer.flags & TB_F_OPEN) != 0, 0);
		}
		return;
	case TB_ALIVE:
		if (since(r->now, e->heard_ns) > e->dead) {
			/* A tick that slept through the doubt takes no half-empty window along. */
			if (e->doubt_ns != 0 && (r->late || kernel_spoke))
				doubt(r, kernel_spoke);
			suspect(r);
		} else if (since(r->now, e->heard_ns) > doubted_after(r)) {
			doubt(r, kernel_spoke);
			wake_by(r, e->heard_ns + e->dead + 1);
		} else {
			end_doubt(r);
			wake_by(r, e->heard_ns + doubted_after(r) + 1);
		}
		return;
	case TB_DEAD:
	case TB_SUSPECT:
	case TB_STALLED:
		break;
	}
	if (spoke) {
		alive(r);
		return;
	}
	if (kernel_spoke) {
		bool open = r->in->peer.type == TB_ANSWER && (r->in->peer.flags & TB_F_OPEN);

		e->answer_open |= open;
		if (e->watch != TB_STALLED) {
			e->watch = TB_STALLED;
			e->verdict_ns = r->now;
			tell(r, TB_E_STALLED, TB_C_NONE, open, since(r->now, e->heard_ns));
		}
		return;
	}
	if (e->watch == TB_STALLED && since(r->now, e->answered_ns) > e->dead) {
		bool open = e->answer_open;

		suspect(r); /* now the kernel is silent as well */
		e->answer_open = open;
	}
	if (e->watch == TB_SUSPECT)
		judge_silence(r);
}

/* What the newest frame says of the peer's serving. */
static void read_peer(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_peer *peer = &r->in->peer;
	bool open = (peer->flags & TB_F_OPEN) != 0;
	bool idle, deaf;
	tb_u64 told;

	if (peer->epoch == 0 || peer->counter == 0 || peer->arrived_ns < e->started_ns)
		return;
	e->highest = later(e->highest, later(later(peer->term, peer->claim),
					     later(peer->fence_below, peer->highest)));
	e->served_by_peer |= open;
	if (open)
		e->open_until_ns = peer->arrived_ns + (tb_u64)peer->lease_us * 1000;
	else if (peer->claim != 0)
		/* It may have opened since, by our own kernel's receipt. */
		e->open_until_ns = later(e->open_until_ns,
					 peer->arrived_ns + (tb_u64)peer->lease_full_us * 1000);
	else
		e->open_until_ns = 0;
	if (peer->taught > r->in->gate.counter) {
		/* R13: the storage was lost or the clock set back; the peer remembers more of us than we do. */
		r->out->jump = true;
		r->out->jump_to = ((peer->taught >> 32) + 1) << 32;
		tell(r, TB_E_COUNTER_JUMP, TB_C_NONE, r->out->jump_to, 0);
	}
	idle = e->watch == TB_ALIVE && !open && peer->claim == 0 && !(peer->flags & TB_F_CLAIMING);
	deaf = idle && !(peer->flags & TB_F_HEARS_YOU);
	if (!idle)
		e->idle_since_ns = 0;
	else if (e->idle_since_ns == 0 || starter_goes_first(r))
		e->idle_since_ns = r->now;
	if (!deaf)
		e->deaf_since_ns = 0;
	else if (e->deaf_since_ns == 0)
		e->deaf_since_ns = r->now;

	if (peer->type == TB_ANSWER)
		return;
	told = peer->term << 24 ^ (tb_u64)(peer->flags & ~(tb_u32)TB_F_HEARS_YOU) << 8 ^
	       (tb_u64)peer->role ^ (tb_u64)peer->admin << 4 ^ (tb_u64)peer->health << 48;
	/* What it keeps and what it wants: numbers of all sizes, so they are mixed. */
	told ^= ((tb_u64)peer->hello_us << 32 | peer->dead_us) * 0x9e3779b97f4a7c15ull;
	told ^= ((tb_u64)peer->proposal.number << 32 | peer->proposal.flags) *
		0xc2b2ae3d27d4eb4full;
	if (told != e->told) {
		e->told = told;
		tell(r, TB_E_PEER_CHANGED, TB_C_NONE, peer->term, peer->flags);
	}
}

static void watch_links(struct round *r, tb_u64 *heard, tb_u64 *answered)
{
	struct tb_engine *e = r->e;

	for (unsigned i = 0; i < TB_LINKS; i++) {
		const struct tb_link *link = &r->in->link[i];
		tb_u32 bit = 1u << i;
		bool silent;

		if (!(r->s->links & bit))
			continue;
		/* Stamps from before the start are another agent's. */
		if (link->hello_ns > e->started_ns)
			*heard = later(*heard, link->hello_ns);
		if (link->answer_ns > e->started_ns) {
			*answered = later(*answered, link->answer_ns);
			e->two_way |= bit;
		}
		silent = link->hello_ns <= e->started_ns ||
			 since(r->now, link->hello_ns) >
				 e->dead + r->s->timers.verify +
					 ((e->link_silent & bit) ? 0 : e->dead);
		if (silent == ((e->link_silent & bit) != 0))
			continue;
		e->link_silent ^= bit;
		tell_link(r, silent ? TB_E_LINK_SILENT : TB_E_LINK_HEARD, i,
			  since(r->now, link->hello_ns));
	}
}

static bool is_isolated(const struct round *r)
{
	const struct tb_settings *s = r->s;
	tb_u32 switched = s->links & ~s->direct;

	if (r->in->order.flags & TB_F_ISOLATED)
		return true;
	if (switched == 0 && s->ports == 0)
		return false; /* only cables: nothing to judge by */
	return (r->in->link_carrier & switched) == 0 && r->in->port_carrier == 0;
}

/* ------------------------------------------------------------------------------------- time ---- */

static void mind_lateness(struct round *r)
{
	struct tb_engine *e = r->e;
	tb_u64 behind = e->expected_ns != 0 ? since(r->now, e->expected_ns) : 0;

	r->late = behind > r->s->late;
	if (!r->late)
		return;
	e->late_ticks++;
	e->late_untold++;
	if (since(r->now, e->late_told_ns) < LATE_EVENT_EVERY_NS)
		return;
	tell(r, TB_E_LATE, TB_C_NONE, behind, e->late_untold);
	e->late_told_ns = r->now;
	e->late_untold = 0;
}

/* First own counter drawn within the last dead interval, from the ring; a too early one is never given. */
static tb_u64 fresh_from(struct round *r)
{
	struct tb_engine *e = r->e;
	tb_u64 every = e->dead / (TB_RING / 2);
	tb_u64 horizon = r->now > e->dead ? r->now - e->dead : 0;
	tb_u32 newest = e->ring_at;
	tb_u64 from;

	if (e->ring_ns[newest] == 0 || since(r->now, e->ring_ns[newest]) >= every) {
		newest = (newest + 1) % TB_RING;
		e->ring_counter[newest] = r->in->gate.counter;
		e->ring_ns[newest] = r->now;
		e->ring_at = newest;
	}
	from = e->ring_counter[newest];
	for (tb_u32 i = 0; i < TB_RING; i++) {
		tb_u32 at = (newest + TB_RING - i) % TB_RING;

		if (e->ring_ns[at] == 0 || e->ring_ns[at] < horizon)
			break;
		from = e->ring_counter[at];
	}
	return from + 1;
}

/* ----------------------------------------------------------------------------------- frames ---- */

static void choose_frames(struct round *r)
{
	struct tb_engine *e = r->e;
	struct tb_actions *out = r->out;
	bool in_window = e->watch == TB_SUSPECT || e->doubt_ns != 0;
	/* Where no verdict can be given for long, a PROBE in place of each heartbeat has to do. */
	bool hurries = in_window && !r->isolated && e->asked < ASKED_FAST;
	bool urgent =
		hurries || (e->claim != 0 && !waits_for_witness(r)) || e->contest_told_ns != 0;
	/* A PROBE counts as HELLO too and brings the kernel's word: asked while there is something to learn. */
	bool asking = e->watch != TB_ALIVE || (e->phase == TB_SERVING && !e->receipted);

	if (r->now >= e->next_hello_ns) {
		e->next_hello_ns += e->hello;
		if (e->next_hello_ns <= r->now)
			e->next_hello_ns = r->now + e->hello;
		if (asking || urgent)
			out->probe |= r->s->links;
		else
			out->hello |= r->s->links;
	}
	if (urgent && r->now >= e->next_probe_ns)
		out->probe |= r->s->links;
	if (!asking && !urgent && r->now >= e->next_ping_ns && out->hello != 0) {
		e->next_ping_ns = r->now + PING_EVERY_NS;
		e->probe_from = r->in->gate.counter + 1;
		out->probe = out->hello;
	}
	if (out->probe != 0) {
		out->hello = 0;
		e->next_probe_ns = r->now + probe_interval(r);
		if (e->probe_from == 0)
			e->probe_from = r->in->gate.counter + 1;
		if (in_window) {
			if (e->asked < ASKED_FAST)
				e->asked++;
			e->probe_counts = !r->late || e->window_restarts >= WINDOW_RESTARTS;
			out->control = (e->watch == TB_SUSPECT || verdict_is_near(r)) &&
				       r->in->control_ns < e->window_ns;
		}
	}
	if (out->hello != 0 && r->in->order.proposal.number != 0 &&
	    ++e->hellos >= r->in->order.proposal.every) {
		e->hellos = 0;
		out->proposal = r->in->order.proposal;
	}
	if (urgent)
		wake_by(r, e->next_probe_ns);
	wake_by(r, e->next_hello_ns);
	out->echo = r->in->peer.epoch != 0 ? r->in->peer.counter : 0;
	out->echo_ns = r->in->peer.sent_ns;
	out->echo_arrived_ns = r->in->peer.arrived_ns;
}

static void write_self(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_order *order = &r->in->order;
	const struct tb_timers *timers = &r->s->timers;
	struct tb_self *self = &r->out->self;
	tb_u32 flags = order->flags &
		       ~(tb_u32)(TB_F_OPEN | TB_F_CONTESTED | TB_F_KNOWN | TB_PROPOSAL_FLAGS);

	/* A peer that boots again may have used terms that this node never heard of. */
	if (r->in->peer.epoch != e->first_epoch)
		flags &= ~(tb_u32)TB_F_NEWBORN;
	flags |= TB_F_NEGOTIATES;
	if (e->watch == TB_ALIVE)
		flags |= TB_F_HEARS_YOU;
	if (e->phase == TB_CLAIMING)
		flags |= TB_F_CLAIMING;
	if (e->phase == TB_SERVING && !e->receipted)
		flags |= TB_F_STRANDED;
	if (e->phase == TB_SERVING && permitted(r, TB_YIELD))
		flags |= TB_F_YIELD;
	e->restart_said = (flags & TB_F_RESTART) != 0;
	r->out->write_self = true;
	self->probe_from = e->probe_from;
	self->fresh_from = fresh_from(r);
	self->highest = later(e->highest, e->term);
	/* Who starts may have lost its disk, and hears what ours knows. Who serves would claim anew for it (R18). */
	if ((r->in->peer.flags & (TB_F_STARTING | TB_F_OPEN)) == TB_F_STARTING &&
	    order->term_first != 0)
		self->highest = later(self->highest, order->term_first - 1);
	/* R6: until the receipt every frame carries the claim, for as long as it takes. */
	self->claim = e->claim != 0				? e->claim
		      : e->phase == TB_SERVING && !e->receipted ? e->term
								: 0;
	self->flags = flags;
	self->role = order->role;
	if (e->phase == TB_SERVING)
		self->role = TB_ROLE_PRIMARY;
	else if (e->phase == TB_CLAIMING)
		self->role = TB_ROLE_CLAIMING;
	else if (order->role == TB_ROLE_PRIMARY || order->role == TB_ROLE_CLAIMING)
		self->role = TB_ROLE_SECONDARY;
	self->admin = order->admin;
	self->health = order->health;
	if (e->told_dead != timers->dead) {
		e->told_dead = timers->dead;
		e->told_dead_from = 0;
	}
	self->dead_us = (tb_u32)(timers->dead / 1000);
	self->lease_full_us = (tb_u32)(later(timers->lease, order->lease_ns) / 1000);
	self->hello_us = (tb_u32)(e->hello / 1000);
	self->verify_us = (tb_u32)(timers->verify / 1000);
	self->generation = order->generation_shared;
	self->digest = order->digest;
}

/* ---------------------------------------------------------------------------- Python's share ---- */

tb_u32 tb_event_urgency(tb_u32 kind)
{
	switch ((enum tb_event_kind)kind) {
	case TB_E_SUSPECT:
	case TB_E_CLEARED:
	case TB_E_LATE:
	case TB_E_LINK_SILENT:
	case TB_E_LINK_HEARD:
		return TB_PASSING;
	case TB_E_HEARD:
	case TB_E_STALLED:
	case TB_E_DEAD:
	case TB_E_WITHHELD:
		return TB_RATIONED;
	default:
		return TB_URGENT;
	}
}

/*
 * Where answers never come, or heartbeats come late for ever, each suspicion ends in a verdict and each verdict in a
 * heartbeat. The engine can afford that; Python, which looks anew each time, can't. What it isn't woken for waits in
 * the ring: for the next wake-up, for an event that can't wait, or for Python's own next look.
 */
static void ration(struct round *r)
{
	struct tb_engine *e = r->e;
	tb_u32 rationed = 0;

	for (tb_u32 i = 0; i < r->out->events; i++) {
		tb_u32 urgency = tb_event_urgency(r->out->event[i].kind);

		if (urgency == TB_URGENT) {
			e->unheeded = false;
			return; /* it is woken all the same */
		}
		rationed += urgency == TB_RATIONED;
	}
	e->unheeded |= rationed != 0;
	if (!e->unheeded)
		return;
	e->paid_until_ns = later(e->paid_until_ns, r->now);
	if (e->paid_until_ns - r->now > WAKE_BURST_NS) {
		r->out->waiting = rationed;
		return;
	}
	e->paid_until_ns += WAKE_EVERY_NS;
	e->unheeded = false;
	r->out->wake_python = true;
}

/* --------------------------------------------------------------------------------- the face ---- */

void tb_engine_init(struct tb_engine *engine, const struct tb_settings *settings, tb_u64 now)
{
	memset(engine, 0, sizeof(*engine));
	engine->settings = *settings;
	engine->phase = TB_LISTENING;
	engine->watch = TB_UNKNOWN;
	engine->silent = true;
	engine->started_ns = now;
	engine->next_hello_ns = now;
	engine->next_ping_ns = now;
	engine->hello = settings->timers.hello;
	engine->dead = settings->timers.dead;
	engine->link_silent = settings->links; /* heard when it is heard */
}

void tb_engine_configure(struct tb_engine *engine, const struct tb_settings *settings)
{
	tb_u32 gone = engine->settings.links & ~settings->links;
	tb_u32 new = settings->links & ~engine->settings.links;

	engine->settings = *settings;
	engine->link_silent &= ~gone;
	engine->link_silent |= new; /* as at the start: heard when it is heard */
	engine->two_way &= ~gone;
}

void tb_engine_step(struct tb_engine *engine, tb_u64 now, const struct tb_input *input,
		    struct tb_actions *actions)
{
	struct round round = {
		.e = engine, .s = &engine->settings, .in = input, .out = actions, .now = now};
	tb_u64 heard = 0, answered = 0;

	memset(actions, 0, sizeof(*actions));
	actions->wake_ns = now + engine->settings.timers.hello; /* the one kept is never longer */
	mind_lateness(&round);
	round.isolated = is_isolated(&round);
	engine->highest = later(engine->highest, input->gate.fence_below);
	if (engine->settings.witness != 0)
		engine->highest = later(engine->highest, input->witness.kept);

	if (engine->first_epoch == 0)
		engine->first_epoch =
			input->peer.known != 0 ? input->peer.known >> 32 : input->peer.epoch;

	keep_pace(&round);
	count_probe(&round);
	mind_restart(&round);
	watch_links(&round, &heard, &answered);
	watch_peer(&round, heard, answered);
	read_peer(&round);
	hear_word(&round);
	take_order(&round);

	if (engine->phase == TB_SERVING && !actions->shut) {
		keep_reign(&round);
		if (engine->phase == TB_SERVING && engine->claim == 0)
			earn_again(&round);
	} else if (engine->phase == TB_LISTENING && engine->order_seen && !actions->shut) {
		consider_claim(&round);
	}
	if (engine->claim != 0)
		pursue_claim(&round);

	choose_frames(&round);
	write_self(&round);
	ration(&round);
	if (actions->wake_ns <= now)
		actions->wake_ns = now + 1000;
	engine->expected_ns = actions->again ? 0 : actions->wake_ns;
}

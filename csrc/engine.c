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
 *
 * The first machine is watch.c, the second reign.c and claims.c, with witness.c between them; here are the order in
 * which a round goes through them, how often this node speaks, and what it says.
 */
#include "round.h"

#include <string.h>

enum {
	HELLOS_PER_DEAD = 3, /* two of them may be lost */
	ASKED_FAST = 256, /* PROBEs in a suspicion, 32 windows: then there is no hurry any more */
};

/* A PROBE per link in quiet times: round trip, two-way proof. */
#define PING_EVERY_NS 1000000000ull
/* Late ticks are reported at most this often, with their number. */
#define LATE_EVENT_EVERY_NS 100000000ull
/* Python is woken for rationed events so many times at once (burst over every), and then so often. */
#define WAKE_EVERY_NS 100000000ull
#define WAKE_BURST_NS 1500000000ull

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

/* ------------------------------------------------------------------------------------- time ---- */

static void mind_lateness(struct round *r)
{
	struct tb_engine *e = r->e;
	tb_u64 behind = e->expected_ns != 0 ? since(r->now, e->expected_ns) : 0;

	r->late = behind > r->s->late;
	if (!r->late)
		return;
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

enum {
	PAUSE_MS_NS = 1000000, /* of TB_PAUSE_LEFT */
	PAUSE_STEPS = 32,      /* to a doubling */
	PAUSE_CODES = 1024,
};

tb_u32 tb_pause_said(tb_u64 left_ns)
{
	tb_u64 left = left_ns / PAUSE_MS_NS + (left_ns % PAUSE_MS_NS != 0);
	tb_u64 code;

	for (code = 0; left >= 2 * PAUSE_STEPS; code += PAUSE_STEPS)
		left = left / 2 + left % 2;
	return (tb_u32)sooner(code + left, PAUSE_CODES - 1) << TB_PAUSE_SHIFT;
}

tb_u64 tb_pause_left_ns(tb_u32 flags)
{
	tb_u64 code = (flags & TB_PAUSE_LEFT) >> TB_PAUSE_SHIFT;
	tb_u64 exponent = code / PAUSE_STEPS;
	tb_u64 left = exponent == 0 ? code : (PAUSE_STEPS + code % PAUSE_STEPS) << (exponent - 1);

	return left * PAUSE_MS_NS;
}

/* What Python said of a pause, with what is left of it now: it ends though Python hangs. */
static tb_u32 say_pause(const struct round *r, tb_u32 flags)
{
	tb_u64 until = r->in->order.pause_until_ns;

	flags &= ~TB_PAUSE_LEFT;
	if (!(flags & TB_F_PAUSED) || until == 0)
		return flags;
	if (r->now >= until)
		return flags & ~(tb_u32)TB_F_PAUSED;
	return flags | tb_pause_said(until - r->now);
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
	flags = say_pause(r, flags);
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

/* --------------------------------------------------------------------------- Python's share ---- */

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

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known of the peer's agent: heard, doubted, suspected, stalled or dead.
 *
 * Nothing here claims or opens. It must not know what this node does; only what it hears.
 */
#include "round.h"

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
void count_probe(struct round *r)
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
void look_again(struct round *r)
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
bool verdict_is_near(const struct round *r)
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
	e->verdict_ns = r->now;
	tell(r, TB_E_DEAD, TB_C_NONE, since(r->now, e->heard_ns), e->window_probes);
}

void watch_peer(struct round *r, tb_u64 heard, tb_u64 answered)
{
	struct tb_engine *e = r->e;
	bool spoke = heard > e->heard_ns;
	bool kernel_spoke = answered > e->answered_ns;

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
void read_peer(struct round *r)
{
	struct tb_engine *e = r->e;
	const struct tb_peer *peer = &r->in->peer;
	bool open = (peer->flags & TB_F_OPEN) != 0;
	bool idle, deaf;
	tb_u32 flags;
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
	/* What is left of a pause is told each time that it has halved: Python reckons with the end. */
	flags = peer->flags & ~(tb_u32)(TB_F_HEARS_YOU | (TB_PAUSE_LEFT & ~TB_PAUSE_HALVED));
	told = peer->term << 24 ^ (tb_u64)flags << 8 ^ (tb_u64)peer->role ^
	       (tb_u64)peer->admin << 4 ^ (tb_u64)peer->health << 48;
	/* What it keeps, what it wants and what it has: numbers of all sizes, so they are mixed. */
	told ^= ((tb_u64)peer->hello_us << 32 | peer->dead_us) * 0x9e3779b97f4a7c15ull;
	told ^= ((tb_u64)peer->generation << 32 | peer->digest) * 0x94d049bb133111ebull;
	told ^= ((tb_u64)peer->proposal.number << 32 | peer->proposal.flags) *
		0xc2b2ae3d27d4eb4full;
	if (told != e->told) {
		e->told = told;
		tell(r, TB_E_PEER_CHANGED, TB_C_NONE, peer->term, peer->flags);
	}
}

void watch_links(struct round *r, tb_u64 *heard, tb_u64 *answered)
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

bool is_isolated(const struct round *r)
{
	const struct tb_settings *s = r->s;
	tb_u32 switched = s->links & ~s->direct;

	if (r->in->order.flags & TB_F_ISOLATED)
		return true;
	if (switched == 0 && s->ports == 0)
		return false; /* only cables: nothing to judge by */
	return (r->in->link_carrier & switched) == 0 && r->in->port_carrier == 0;
}

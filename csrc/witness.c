/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose word counts, and until when, where a witness decides who serves in a partition.
 */
#include "round.h"

/*
 * R21. Whoever takes a term to the witness and gets no receipt waits, from the answer on, for as long as a word is
 * good. A word counts from before it was asked for, so whoever gave one knew nothing of that term yet:
 *   - the witness' word, sent before the other term was kept there;
 *   - the peer's, the answer to a frame of ours, made before it claimed: else it would say so.
 * So the gate is shut by then, however long frames and answers were under way, if it is never open beyond a word.
 */
bool judged_by_witness(const struct round *r)
{
	return r->s->witness != 0 && !r->in->witness.absent;
}

tb_u64 vouched_until(const struct round *r, tb_u64 term)
{
	const struct tb_witness *witness = &r->in->witness;
	tb_u64 until;

	if (!judged_by_witness(r))
		return ~0ull;
	until = r->e->peer_word_ns != 0 ? r->e->peer_word_ns + r->s->witness : 0;
	return witness->term == term ? later(until, witness->until_ns) : until;
}

/* May a claim open though nobody gave a receipt? */
bool witness_grants(const struct round *r, tb_u64 claim)
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
bool echo_is_dated(const struct round *r)
{
	const struct tb_peer *peer = &r->in->peer;

	return peer->epoch != 0 && !(peer->flags & TB_F_KNOWN) &&
	       peer->echo >> 32 == r->in->gate.counter >> 32 && peer->echo_ns <= peer->arrived_ns;
}

/* The newest frame as a word: when the frame of ours was sent that it answers; 0 = it proves nothing. */
tb_u64 word_of_peer(const struct round *r)
{
	const struct tb_peer *peer = &r->in->peer;

	return echo_is_dated(r) && peer->echo_ns >= r->e->started_ns ? peer->echo_ns : 0;
}

void hear_word(struct round *r)
{
	struct tb_engine *e = r->e;

	if (e->phase == TB_SERVING && r->in->peer.highest <= e->term)
		e->peer_word_ns = later(e->peer_word_ns, word_of_peer(r));
}

/* Only the witness' word is waited for now: there is nothing to hurry for. */
bool waits_for_witness(const struct round *r)
{
	return judged_by_witness(r) && r->e->claim != 0 &&
	       since(r->now, r->e->claim_ns) > 2 * r->s->timers.verify;
}

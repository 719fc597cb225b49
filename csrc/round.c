/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all parts of a step share: what is told of it, and what the standing order allows.
 */
#include "round.h"

void tell(struct round *r, enum tb_event_kind kind, enum tb_cause cause, tb_u64 a, tb_u64 b)
{
	struct tb_event *event;

	if (r->out->events >= TB_STEP_EVENTS) {
		r->out->untold++;
		return;
	}
	event = &r->out->event[r->out->events++];
	*event = (struct tb_event){
		.at_ns = r->now, .a = a, .b = b, .kind = (tb_u16)kind, .cause = (tb_u16)cause};
}

void tell_link(struct round *r, enum tb_event_kind kind, unsigned link, tb_u64 a)
{
	tb_u32 at = r->out->events;

	tell(r, kind, TB_C_NONE, a, 0);
	if (r->out->events > at)
		r->out->event[at].link = (tb_u16)link;
}

/* Why nothing happens though the peer is silent: told on the edge only. */
void withhold(struct round *r, enum tb_cause cause)
{
	if (r->e->withheld == (tb_u32)cause)
		return;
	r->e->withheld = (tb_u32)cause;
	tell(r, TB_E_WITHHELD, cause, r->e->heard_ns != 0 ? since(r->now, r->e->heard_ns) : 0,
	     r->e->window_probes);
}

bool permitted(const struct round *r, tb_u32 permit)
{
	tb_u32 permits = r->in->order.permits;

	/*
	 * What was found out of a silent peer, that its power was cut, is over with its next frame, whether Python
	 * runs, was told of that frame, or decided before it came.
	 */
	if ((permits & TB_UNHEARD) && r->in->peer.counter != r->in->order.heard)
		permits &= ~(tb_u32)(TB_MAY_CLAIM_DEAD | TB_MAY_CLAIM_COLD);
	return (permits & permit) != 0;
}

/* R6: generation, expiry, attestation left for a whole lease, not isolated. Health is in the permits. */
bool order_stands(const struct round *r)
{
	const struct tb_order *order = &r->in->order;

	return order->generation != 0 && r->now < order->expires_ns &&
	       r->now + r->s->timers.lease < order->attested_until_ns && !r->isolated;
}

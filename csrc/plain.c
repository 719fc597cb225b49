// SPDX-License-Identifier: Apache-2.0
#include "plain.h"

#include <string.h>

#include "maps.h"
#include "tb_rules.h"

static struct tb_maps maps_of(struct tb_plain *plain)
{
	return (struct tb_maps){
		.gate = &plain->gate,
		.self = &plain->self,
		.peer = &plain->peer,
		.link = plain->link,
		.control = plain->control,
		.provable = {~0ull, ~0ull},
	};
}

static int receive(struct tb_plain *plain, struct tb_ctx *context, tb_u8 *bytes, size_t size)
{
	struct tb_frame frame; /* aligned, whatever the caller's bytes are */
	int reason = TB_R_LENGTH;

	context->gate = &plain->gate;
	context->self = &plain->self;
	context->config = &plain->config;
	context->peer = &plain->peer;
	context->counters = plain->counters;
	if (size == sizeof(frame)) {
		memcpy(&frame, bytes, sizeof(frame));
		reason = tb_receive(context, &frame);
		if (context->reply) {
			tb_make_answer(context, &frame);
			memcpy(bytes, &frame, sizeof(frame));
		}
	}
	plain->counters[reason]++;
	return reason;
}

int tb_plain_receive(struct tb_plain *plain, tb_u32 link, tb_u8 *bytes, size_t size, tb_u64 now,
		     tb_u32 cpu, tb_u32 ttl, tb_u32 ttl_min, int *answered)
{
	struct tb_ctx context = {
		.link = &plain->link[link % TB_LINKS],
		.now = now,
		.cpu = cpu,
		.link_id = (tb_u8)link,
		.ttl = (tb_u8)ttl,
		.ttl_min = (tb_u8)ttl_min,
	};
	int reason = receive(plain, &context, bytes, size);

	*answered = context.reply;
	return reason;
}

int tb_plain_receive_control(struct tb_plain *plain, tb_u8 *bytes, size_t size, tb_u64 now,
			     tb_u32 cpu)
{
	struct tb_ctx context = {
		.control = &plain->control[cpu % TB_CPUS],
		.now = now,
		.cpu = cpu,
		.ttl = 255,
		.ttl_min = 255,
	};

	return receive(plain, &context, bytes, size);
}

bool tb_plain_gate_open(struct tb_plain *plain, tb_u64 now)
{
	return tb_gate_open(&plain->gate, now) != 0;
}

void tb_plain_look(const struct tb_plain *plain, struct tb_input *input, tb_u32 links)
{
	/* Nothing is written through these. */
	struct tb_maps maps = maps_of((struct tb_plain *)(uintptr_t)plain);

	(void)tb_maps_look(&maps, links, input);
}

void tb_plain_act(struct tb_plain *plain, const struct tb_actions *actions, tb_u64 term)
{
	struct tb_maps maps = maps_of(plain);

	tb_maps_act_gate(&maps, actions, term);
	tb_maps_act_self(&maps, actions);
}

void tb_plain_frame(struct tb_plain *plain, struct tb_frame *frame, tb_u32 type, tb_u32 link,
		    tb_u64 now, tb_u64 echo, tb_u64 echo_ns, tb_u64 hold_ns,
		    const struct tb_proposal *proposal)
{
	tb_make_frame(frame, &plain->gate, &plain->self, &plain->config, (enum tb_type)type, link,
		      now, echo, echo_ns, hold_ns, proposal);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Theory of operation. Everything that the thread touches is opened, mapped, locked and faulted in before it
 * starts. Then it does nothing but rounds (engine.h), each ended by one futex sleep until the next is due, or
 * until Python rings the bell because an order has to take effect now. Received frames don't wake it: XDP
 * stamps them into the maps, and a round looks there.
 *
 * Python hands values over through sequence locks (shared.h) and one pointer exchange (announcements). Back come
 * the ring of events, counters and histograms of relaxed words, and a number that says which round is over.
 */
#include "inside.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <unistd.h>

#include "clock.h"
#include "tb_rules.h"

enum {
	STACK_SIZE = 256 * 1024,
	STACK_TOUCHED = 64 * 1024, /* more than the deepest round needs */
	AGAIN_MAX = 8, /* rounds at once; then a short sleep, whatever the engine asks */
	SLEEP_MIN_NS = 1000,
	SLEEP_MAX_NS = 1000000000,
	CARRIER_EVERY_NS = 100000000,
};

/* ------------------------------------------------------------------------- taking from Python ---- */

/* A new set of links: the one before goes back to be freed, as closing a socket may take milliseconds. */
static void take_links(struct tb_thread *t)
{
	struct tb_links *links = __atomic_exchange_n(&t->in.links, NULL, __ATOMIC_ACQ_REL);
	struct tb_links *old = t->links;

	if (!links)
		return;
	t->links = links;
	t->carrier_ns = 0; /* that of a new link is asked for before anything is judged by it */
	old->next = __atomic_load_n(&t->out.links_retired, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&t->out.links_retired, &old->next, old, false,
					    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
}

static void take_ports(struct tb_thread *t)
{
	tb_u64 seq = __atomic_load_n(&t->in.ports_seq, __ATOMIC_ACQUIRE);
	struct ports ports;

	if (seq == t->ports_seq ||
	    !tb_shared_read(&t->in.ports_seq, &ports, &t->in.ports, sizeof(ports)))
		return;
	t->ports = ports;
	t->ports_seq = seq;
	t->carrier_ns = 0;
}

/* Take what Python handed over since the last round. A value being written right now is taken in the next. */
static void take_over(struct tb_thread *t, tb_u64 now)
{
	tb_u64 seq = __atomic_load_n(&t->in.order_seq, __ATOMIC_ACQUIRE);
	struct tb_arena *arena;
	tb_u32 announce;

	if (seq != t->order_seq) {
		struct tb_order order;

		if (tb_shared_read(&t->in.order_seq, &order, &t->in.order, sizeof(order))) {
			t->order = order;
			t->order_seq = seq;
		}
	}
	seq = __atomic_load_n(&t->in.settings_seq, __ATOMIC_ACQUIRE);
	if (seq != t->settings_seq) {
		struct tb_settings settings;

		if (tb_shared_read(&t->in.settings_seq, &settings, &t->in.settings,
				   sizeof(settings))) {
			tb_engine_configure(&t->engine, &settings);
			t->settings_seq = seq;
		}
	}
	seq = __atomic_load_n(&t->in.witness_seq, __ATOMIC_ACQUIRE);
	if (seq != t->witness_seq) {
		struct tb_witness witness;

		if (tb_shared_read(&t->in.witness_seq, &witness, &t->in.witness, sizeof(witness))) {
			t->input.witness = witness;
			t->witness_seq = seq;
		}
	}
	seq = __atomic_load_n(&t->in.config_seq, __ATOMIC_ACQUIRE);
	if (seq != t->config_seq) {
		struct tb_config config;

		if (tb_shared_read(&t->in.config_seq, &config, &t->in.config, sizeof(config))) {
			t->config = config;
			t->config_seq = seq;
		}
	}
	arena = __atomic_exchange_n(&t->in.arena, NULL, __ATOMIC_ACQ_REL);
	if (arena) {
		struct tb_arena *old = t->arena;

		t->arena = arena;
		tb_announcer_load(&t->announcer, arena, now);
		if (old) {
			old->next = __atomic_load_n(&t->out.retired, __ATOMIC_RELAXED);
			while (!__atomic_compare_exchange_n(&t->out.retired, &old->next, old, false,
							    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
				;
		}
	}
	take_links(t);
	take_ports(t);
	announce = __atomic_load_n(&t->in.announce, __ATOMIC_ACQUIRE);
	if (announce != t->announce_seen) {
		t->announce_seen = announce;
		if (t->announcer.active)
			tb_announcer_start(&t->announcer, now);
	}
	t->order.attested_until_ns = __atomic_load_n(&t->in.attested_until_ns, __ATOMIC_RELAXED);
}

static bool has_carrier(struct tb_thread *t, const char name[IFNAMSIZ])
{
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	memcpy(request.ifr_name, name, sizeof(request.ifr_name));
	if (ioctl(t->carrier_fd, SIOCGIFFLAGS, &request) < 0)
		return false;
	return (request.ifr_flags & IFF_RUNNING) != 0;
}

static void look_for_carrier(struct tb_thread *t, tb_u64 now)
{
	tb_u32 links = 0, ports = 0;

	if (!t->want_carrier && t->carrier_ns != 0 && now - t->carrier_ns < CARRIER_EVERY_NS)
		return;
	t->carrier_ns = now;
	for (tb_u32 i = 0; i < TB_LINKS; i++) {
		const struct tb_lane *lane = t->links->lane[i];

		links |= lane && has_carrier(t, lane->sender.name) ? 1u << i : 0;
	}
	for (tb_u64 i = 0; i < t->ports.count; i++)
		ports |= has_carrier(t, t->ports.name[i]) ? 1u << i : 0;
	t->input.link_carrier = links;
	t->input.port_carrier = ports;
	__atomic_store_n(&t->out.link_carrier, links, __ATOMIC_RELAXED);
	__atomic_store_n(&t->out.port_carrier, ports, __ATOMIC_RELAXED);
}

/* --------------------------------------------------------------------------- carrying out ---- */

static void push(struct tb_thread *t, const struct tb_event *event)
{
	if (!tb_ring_push(&t->ring, event))
		tb_add(&t->out.counters.events_lost, 1);
	t->told = true;
}

/* The first frame of a reign is in the driver's hands: the end of the failover's timeline. */
static void first_announced(struct tb_thread *t)
{
	struct tb_event event = {.at_ns = tb_now(), .kind = TB_E_ANNOUNCED};

	event.a = t->arena->count;
	event.b = event.at_ns - t->opened_ns;
	t->first_announced = true;
	tb_record(&t->out.histogram[TB_H_OPEN_TO_ANNOUNCE], event.b);
	push(t, &event);
}

/* R19: a bounded chunk of announcements, the gate looked at before each. */
static void announce(struct tb_thread *t)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_halen = 6};

	for (int i = 0; i < TB_ANNOUNCE_CHUNK; i++) {
		tb_u64 now = tb_now();
		const struct tb_announce_frame *frame = tb_announcer_next(&t->announcer, now);

		if (!frame)
			return;
		if (!tb_gate_open(t->maps.gate, now)) {
			/* Contested or fenced: the engine says when it's over, and starts again then. */
			tb_announcer_stop(&t->announcer);
			tb_add(&t->out.counters.announce_blocked, 1);
			return;
		}
		to.sll_ifindex = (int)frame->ifindex;
		to.sll_protocol = frame->protocol;
		if (sendto(t->announce_fd, frame->bytes, frame->size, MSG_DONTWAIT,
			   (struct sockaddr *)&to, sizeof(to)) >= 0) {
			tb_add(frame->protocol == htons(ETH_P_IPV6) ? &t->out.counters.announced6
								    : &t->out.counters.announced4,
			       1);
			if (!t->first_announced)
				first_announced(t);
		} else if (errno == EAGAIN) {
			tb_announcer_retry(&t->announcer, now);
			return;
		} else {
			tb_add(&t->out.counters.announce_refused, 1);
		}
		tb_announcer_sent(&t->announcer, now);
	}
}

/*
 * A PROBE that the host refuses proves nothing about the peer, unless it was for want of carrier: that is judged by
 * itself (R11), and falls with the peer's power on a cable between the nodes, where it is reported late.
 */
static bool is_our_failure(const struct tb_thread *t, tb_u32 link, int err)
{
	tb_u32 bit = 1u << link;

	if (!(t->input.link_carrier & bit))
		return false;
	return err != -ENOBUFS || !(t->engine.settings.direct & bit);
}

static void send_frames(struct tb_thread *t)
{
	const struct tb_actions *actions = &t->actions;
	/* Settings and senders come one after the other: what isn't in both has to wait for a round. */
	tb_u32 mask = (actions->hello | actions->probe) & t->engine.settings.links & t->links->mask;
	struct tb_frame frame;
	bool asked = false, left = false, failed = false;
	tb_u64 now = 0;

	for (tb_u32 i = 0; i < TB_LINKS && mask >> i; i++) {
		bool probe = (actions->probe >> i & 1) != 0;
		tb_u64 hold;
		int err;

		if (!(mask >> i & 1))
			continue;
		now = tb_now();
		hold = actions->echo && now > actions->echo_arrived_ns
			       ? now - actions->echo_arrived_ns
			       : 0;
		tb_make_frame(&frame, t->maps.gate, t->maps.self, &t->config,
			      probe ? TB_PROBE : TB_HELLO, i, now, actions->echo, actions->echo_ns,
			      hold, &actions->proposal);
		err = tb_sender_send(&t->links->lane[i]->sender, &frame, probe);
		asked |= probe;
		left |= probe && err == 0;
		failed |= probe && err != 0 && is_our_failure(t, i, err);
	}
	if (asked && (left || !failed))
		t->input.probes_sent++;
	if (mask != 0 && t->planned_ns != 0 && now >= t->planned_ns)
		tb_record(&t->out.histogram[TB_H_SEND_LATENESS], tb_now() - t->planned_ns);
}

/* The failover's phases, taken from the events that tell of them. */
static void note_phase(struct tb_thread *t, struct tb_event *event, tb_u64 gate_ns)
{
	struct tb_histogram *histogram = t->out.histogram;

	switch ((enum tb_event_kind)event->kind) {
	case TB_E_SUSPECT:
		t->suspect_ns = event->at_ns;
		t->verdict_ns = 0;
		break;
	case TB_E_DEAD:
		tb_record(&histogram[TB_H_SILENCE], event->a);
		/* fall through */
	case TB_E_STALLED:
		t->verdict_ns = event->at_ns;
		if (t->suspect_ns != 0)
			tb_record(&histogram[TB_H_SUSPECT_TO_VERDICT],
				  event->at_ns - t->suspect_ns);
		t->suspect_ns = 0;
		break;
	case TB_E_CLEARED:
		t->suspect_ns = 0;
		t->verdict_ns = 0;
		break;
	case TB_E_OPENED:
		event->at_ns = gate_ns; /* the moment of the store, not that of the decision */
		if (t->verdict_ns != 0)
			tb_record(&histogram[TB_H_VERDICT_TO_OPEN], gate_ns - t->verdict_ns);
		t->verdict_ns = 0;
		t->opened_ns = gate_ns;
		break;
	default:
		break;
	}
}

static void note_round_trips(struct tb_thread *t)
{
	for (tb_u32 i = 0; i < TB_LINKS; i++) {
		const struct tb_link *link = &t->input.link[i];

		if (link->answer_counter == t->round_trip_counter[i])
			continue;
		t->round_trip_counter[i] = link->answer_counter;
		if (link->round_trip_ns != 0)
			tb_record(&t->out.histogram[TB_H_ROUND_TRIP], link->round_trip_ns);
	}
}

/* What tb_engine_step() asks for, in the order of the fields of tb_actions. */
static void carry_out(struct tb_thread *t, tb_u64 now)
{
	struct tb_actions *actions = &t->actions;
	tb_u64 gate_ns = now;

	tb_maps_act_gate(&t->maps, actions, t->engine.term);
	if (actions->open) {
		gate_ns = tb_now();
		t->first_announced = false;
	}
	for (tb_u32 i = 0; i < actions->events; i++)
		note_phase(t, &actions->event[i], gate_ns);
	if (actions->announce_stop)
		tb_announcer_stop(&t->announcer);
	if (actions->announce)
		tb_announcer_start(&t->announcer, now);
	/* R21: a claim is in the kernel's words before anybody hears of it who could take it to the witness. */
	tb_maps_act_self(&t->maps, actions);
	for (tb_u32 i = 0; i < actions->events; i++)
		push(t, &actions->event[i]);
	tb_add(&t->out.counters.events_lost, actions->untold);
	announce(t);
	if ((actions->hello | actions->probe) != 0)
		send_frames(t);
	if (actions->control && t->helpers) {
		tb_u64 mask[TB_CPUS / 64];

		tb_maps_processors(&t->maps, t->engine.settings.links, mask);
		tb_helpers_ask(t->helpers, mask, sched_getcpu());
	}
	if (actions->wake_python)
		tb_ring_hurry(&t->ring);
	tb_add(&t->out.counters.events_held, actions->waiting);
	if (t->told || actions->wake_python) {
		tb_ring_notify(&t->ring);
		t->told = false;
	}
	t->want_carrier = actions->want_carrier;
}

/* Tell whoever waits in Python that a round is over; `wanted` as it was when the round began. */
static void confirm(struct tb_thread *t, tb_u32 wanted)
{
	if (wanted != t->view_seen) {
		t->view_seen = wanted;
		tb_shared_write(&t->out.engine_seq, &t->out.engine, &t->engine, sizeof(t->engine));
		__atomic_store_n(&t->out.view_made, wanted, __ATOMIC_RELEASE);
	}
	if (t->out.generation != t->order.generation)
		__atomic_store_n(&t->out.generation, t->order.generation, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&t->out.waiting, __ATOMIC_SEQ_CST))
		tb_ring_bell(&t->out.bell);
}

/* ------------------------------------------------------------------------------- the thread ---- */

static void round_once(struct tb_thread *t)
{
	/* Before anything is taken over: what was handed over before a view was asked for is in that view. */
	tb_u32 wanted = __atomic_load_n(&t->in.view_wanted, __ATOMIC_ACQUIRE);
	tb_u64 now = tb_now();

	if (t->planned_ns != 0 && now >= t->planned_ns) {
		tb_record(&t->out.histogram[TB_H_LATENESS], now - t->planned_ns);
		if (now - t->planned_ns > t->engine.settings.late)
			tb_add(&t->out.counters.late, 1);
	}
	tb_add(&t->out.counters.rounds, 1);
	take_over(t, now);
	look_for_carrier(t, now);
	if (!tb_maps_look(&t->maps, t->engine.settings.links, &t->input))
		tb_add(&t->out.counters.peer_busy, 1);
	t->input.looked_ns = tb_now();
	t->input.order = t->order;
	tb_engine_step(&t->engine, now, &t->input, &t->actions);
	carry_out(t, now);
	note_round_trips(t);
	confirm(t, wanted);
	tb_record(&t->out.histogram[TB_H_ROUND_DURATION], tb_now() - now);
}

/* Sleep until the engine or the announcements are due, or the bell rings. */
static void sleep_until_due(struct tb_thread *t, tb_u32 bell)
{
	tb_u64 wake = t->actions.wake_ns;
	tb_u64 announce_wake = tb_announcer_wake(&t->announcer);
	tb_u64 now = tb_now();

	if (announce_wake < wake)
		wake = announce_wake;
	t->planned_ns = wake;
	if (wake < now + SLEEP_MIN_NS)
		wake = now + SLEEP_MIN_NS;
	if (wake > now + SLEEP_MAX_NS)
		wake = now + SLEEP_MAX_NS;
	tb_alarm_sleep(&t->alarm, &t->in.bell, bell, wake, wake + t->engine.settings.timers.hello);
}

static void touch_stack(void)
{
	volatile char stack[STACK_TOUCHED];

	for (size_t i = 0; i < sizeof(stack); i += 1024)
		stack[i] = 0;
}

static void *thread_main(void *argument)
{
	struct tb_thread *t = argument;
	tb_u32 again = 0;

	touch_stack();
	/* An ordinary thread would be woken 50 us late by design; a real-time one is exempt anyway. */
	(void)prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	while (!__atomic_load_n(&t->in.stop, __ATOMIC_ACQUIRE)) {
		/* Read before the round: what is handed over after it rings once more. */
		tb_u32 bell = __atomic_load_n(&t->in.bell, __ATOMIC_ACQUIRE);

		round_once(t);
		if (t->actions.again && again++ < AGAIN_MAX) {
			t->planned_ns = 0;
			continue;
		}
		again = 0;
		sleep_until_due(t, bell);
	}
	__atomic_store_n(&t->out.running, 0, __ATOMIC_RELEASE);
	tb_ring_bell(&t->out.bell);
	tb_ring_wake(&t->ring);
	return NULL;
}

int tb_thread_start(struct tb_thread *t, struct tb_start_report *report)
{
	struct sched_param priority = {.sched_priority = t->setup.priority};
	struct tb_helpers_setup helpers = {
		.ifindex = t->setup.control_ifindex,
		.priority = t->setup.priority,
		.port = t->setup.config.port,
		.gate = t->maps.gate,
		.config_seq = &t->in.config_seq,
		.config = &t->in.config,
	};
	pthread_attr_t attributes;
	sigset_t all, before;
	cpu_set_t processors;
	int err;

	memset(report, 0, sizeof(*report));
	if (t->started)
		return -EALREADY;
	if (t->in.stop)
		return -ESHUTDOWN; /* a reign that ended isn't taken up again by the same engine */
	/* On fault: what is never touched stays out of memory, what was touched once never leaves it. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		report->locked = errno;

	/* Signals are Python's. */
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_BLOCK, &all, &before);
	err = t->setup.control_ifindex ? tb_helpers_start(&helpers, &t->helpers) : 0;
	if (err)
		goto out;
	report->helpers = tb_helpers_count(t->helpers);
	if (t->helpers)
		tb_helpers_processors(t->helpers, t->maps.provable);
	tb_engine_init(&t->engine, &t->in.settings, tb_now());
	err = -pthread_attr_init(&attributes);
	if (err)
		goto out;
	err = -pthread_attr_setstacksize(&attributes, STACK_SIZE);
	__atomic_store_n(&t->out.running, 1, __ATOMIC_RELEASE);
	if (!err)
		err = -pthread_create(&t->pthread, &attributes, thread_main, t);
	(void)pthread_attr_destroy(&attributes);
	if (err) {
		__atomic_store_n(&t->out.running, 0, __ATOMIC_RELEASE);
		goto out;
	}
	t->started = true;
	(void)pthread_setname_np(t->pthread, "tb-engine");
	report->real_time = pthread_setschedparam(t->pthread, SCHED_FIFO, &priority);
	if (t->setup.cpu >= 0) {
		CPU_ZERO(&processors);
		CPU_SET((size_t)t->setup.cpu, &processors);
		report->pinned =
			pthread_setaffinity_np(t->pthread, sizeof(processors), &processors);
	}
out:
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err) {
		tb_helpers_stop(t->helpers);
		t->helpers = NULL;
	}
	return err;
}

int tb_thread_stop(struct tb_thread *t, bool close_gate, tb_u64 timeout_ns)
{
	struct timespec deadline;
	int err = 0;

	if (t->started) {
		tb_u64 at;

		(void)clock_gettime(CLOCK_REALTIME, &deadline);
		at = (tb_u64)deadline.tv_nsec + timeout_ns;
		deadline.tv_sec += (time_t)(at / 1000000000ull);
		deadline.tv_nsec = (long)(at % 1000000000ull);
		__atomic_store_n(&t->in.stop, 1, __ATOMIC_RELEASE);
		tb_ring_bell(&t->in.bell);
		err = -pthread_timedjoin_np(t->pthread, NULL, &deadline);
		if (!err)
			t->started = false;
	}
	if (close_gate) {
		struct tb_actions shut = {.shut = true};

		tb_maps_act_gate(&t->maps, &shut, 0);
	}
	if (!err) {
		tb_helpers_stop(t->helpers);
		t->helpers = NULL;
	}
	return err;
}

bool tb_thread_running(const struct tb_thread *t)
{
	return __atomic_load_n(&t->out.running, __ATOMIC_ACQUIRE) != 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What Python holds of the thread: opened before it starts, fed and read while it runs, closed after its end.
 *
 * Nothing here waits for the thread unless a time is given, and nothing that the thread reads is ever half written.
 */
#include "inside.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"

enum {
	ANNOUNCE_BUFFER = 4 * 1024 * 1024,
};

/* ---------------------------------------------------------------------------------- opening ---- */

static int names_of(const struct tb_thread *t, const tb_u32 *ifindex, tb_u32 count,
		    struct ports *ports)
{
	struct ifreq request;

	memset(ports, 0, sizeof(*ports));
	if (count > TB_PORTS)
		return -EINVAL;
	for (tb_u32 i = 0; i < count; i++) {
		memset(&request, 0, sizeof(request));
		request.ifr_ifindex = (int)ifindex[i];
		if (ioctl(t->carrier_fd, SIOCGIFNAME, &request) < 0)
			return -errno;
		memcpy(ports->name[i], request.ifr_name, sizeof(ports->name[i]));
	}
	ports->count = count;
	return 0;
}

static int open_announcements(struct tb_thread *t)
{
	int size = ANNOUNCE_BUFFER;

	t->announce_fd = tb_packet_socket(0, false);
	if (t->announce_fd < 0)
		return t->announce_fd;
	/* Room for a burst; without the right to force it the system's own limit does, and EAGAIN paces. */
	if (setsockopt(t->announce_fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
		(void)setsockopt(t->announce_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return 0;
}

int tb_thread_open(const struct tb_setup *setup, struct tb_thread **out, int *stage)
{
	struct tb_thread *t = NULL;
	int err;

	*stage = TB_STAGE_SETUP;
	if (setup->settings.node > 1 || setup->cpu >= CPU_SETSIZE)
		return -EINVAL;
	*stage = TB_STAGE_MEMORY;
	t = aligned_alloc(64, (sizeof(*t) + 63) / 64 * 64);
	if (!t)
		return -ENOMEM;
	memset(t, 0, sizeof(*t)); /* faults every page in */
	t->setup = *setup;
	t->in.settings = setup->settings;
	t->in.config = setup->config;
	t->config = setup->config;
	t->ring.eventfd = -1;
	t->announce_fd = -1;
	t->carrier_fd = -1;
	t->alarm.ahead[0] = t->alarm.ahead[1] = -1;

	*stage = TB_STAGE_MAPS;
	err = tb_maps_open(&t->maps, &setup->maps);
	if (err)
		goto out;
	*stage = TB_STAGE_RING;
	err = tb_ring_open(&t->ring);
	if (err)
		goto out;
	*stage = TB_STAGE_ALARM;
	err = tb_alarm_open(&t->alarm);
	if (err)
		goto out;
	*stage = TB_STAGE_LINK;
	err = tb_links_build(setup->link, NULL, &t->links);
	t->newest = t->links;
	if (err)
		goto out;
	*stage = TB_STAGE_ANNOUNCE;
	err = open_announcements(t);
	if (err)
		goto out;
	*stage = TB_STAGE_PORT;
	t->carrier_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	err = t->carrier_fd < 0 ? -errno
				: names_of(t, setup->port_ifindex, setup->ports, &t->ports);
out:
	if (err) {
		tb_thread_close(t);
		return err;
	}
	*out = t;
	return 0;
}

const char *tb_stage_name(int stage)
{
	switch ((enum tb_stage)stage) {
	case TB_STAGE_SETUP:
		return "checking the engine's setup";
	case TB_STAGE_MEMORY:
		return "getting memory for the engine";
	case TB_STAGE_MAPS:
		return "mapping the kernel's maps";
	case TB_STAGE_RING:
		return "making the ring of events";
	case TB_STAGE_ALARM:
		return "making the timers";
	case TB_STAGE_LINK:
		return "opening a link's socket";
	case TB_STAGE_ANNOUNCE:
		return "opening the socket for announcements";
	case TB_STAGE_PORT:
		return "looking up a port's interface";
	}
	return "opening the engine";
}

static void free_arenas(struct tb_arena *arena)
{
	while (arena) {
		struct tb_arena *next = arena->next;

		tb_arena_free(arena);
		arena = next;
	}
}

void tb_thread_close(struct tb_thread *t)
{
	if (!t)
		return;
	/* A thread that hangs in the kernel can't be freed under its feet; it is left to it. */
	if (tb_thread_stop(t, false, 1000000000ull) != 0)
		return;
	tb_links_free(t->in.links);
	tb_links_free(t->out.links_retired);
	tb_links_free(t->links);
	if (t->announce_fd >= 0)
		(void)close(t->announce_fd);
	if (t->carrier_fd >= 0)
		(void)close(t->carrier_fd);
	tb_alarm_close(&t->alarm);
	tb_ring_close(&t->ring);
	tb_maps_close(&t->maps);
	free_arenas(t->in.arena);
	free_arenas(t->out.retired);
	free_arenas(t->arena);
	free(t);
}

/* ------------------------------------------------------------------------------ from Python ---- */

/* Wait until `done` says so, at most `timeout_ns`. */
static int wait_for(struct tb_thread *t, bool (*done)(const struct tb_thread *, tb_u64),
		    tb_u64 argument, tb_u64 timeout_ns)
{
	tb_u64 until = tb_now() + timeout_ns;
	int err = 0;

	__atomic_store_n(&t->out.waiting, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		tb_u32 bell = __atomic_load_n(&t->out.bell, __ATOMIC_ACQUIRE);
		tb_u64 now = tb_now();

		if (done(t, argument))
			break;
		if (now >= until || !tb_thread_running(t)) {
			err = -ETIMEDOUT;
			break;
		}
		tb_wait(&t->out.bell, bell, until - now);
	}
	__atomic_store_n(&t->out.waiting, 0, __ATOMIC_SEQ_CST);
	return err;
}

static bool generation_confirmed(const struct tb_thread *t, tb_u64 generation)
{
	return __atomic_load_n(&t->out.generation, __ATOMIC_ACQUIRE) == generation;
}

static bool view_made(const struct tb_thread *t, tb_u64 number)
{
	return __atomic_load_n(&t->out.view_made, __ATOMIC_ACQUIRE) == (tb_u32)number;
}

int tb_thread_set_order(struct tb_thread *t, const struct tb_order *order, tb_u64 timeout_ns)
{
	__atomic_store_n(&t->in.attested_until_ns, order->attested_until_ns, __ATOMIC_RELAXED);
	tb_shared_write(&t->in.order_seq, &t->in.order, order, sizeof(*order));
	tb_ring_bell(&t->in.bell);
	return timeout_ns ? wait_for(t, generation_confirmed, order->generation, timeout_ns) : 0;
}

void tb_thread_attest(struct tb_thread *t, tb_u64 until_ns)
{
	__atomic_store_n(&t->in.attested_until_ns, until_ns, __ATOMIC_RELAXED);
}

void tb_thread_set_witness(struct tb_thread *t, const struct tb_witness *witness)
{
	tb_shared_write(&t->in.witness_seq, &t->in.witness, witness, sizeof(*witness));
}

void tb_thread_set_settings(struct tb_thread *t, const struct tb_settings *settings)
{
	tb_shared_write(&t->in.settings_seq, &t->in.settings, settings, sizeof(*settings));
	tb_ring_bell(&t->in.bell);
}

void tb_thread_set_config(struct tb_thread *t, const struct tb_config *config)
{
	tb_shared_write(&t->in.config_seq, &t->in.config, config, sizeof(*config));
}

int tb_thread_set_peer_mac(struct tb_thread *t, tb_u32 link, const tb_u8 mac[6])
{
	if (link >= TB_LINKS || !t->newest->lane[link])
		return -ENOENT;
	tb_sender_set_peer_mac(&t->newest->lane[link]->sender, mac);
	return 0;
}

int tb_thread_set_links(struct tb_thread *t, const struct tb_link_setup link[TB_LINKS])
{
	struct tb_links *links;
	int err = tb_links_build(link, t->newest, &links);

	if (err)
		return err;
	tb_links_free(__atomic_exchange_n(&t->out.links_retired, NULL, __ATOMIC_ACQUIRE));
	t->newest = links;
	/* What the thread hasn't taken yet it never will. */
	tb_links_free(__atomic_exchange_n(&t->in.links, links, __ATOMIC_ACQ_REL));
	tb_ring_bell(&t->in.bell);
	return 0;
}

int tb_thread_set_ports(struct tb_thread *t, const tb_u32 *ifindex, tb_u32 count)
{
	struct ports ports;
	int err = names_of(t, ifindex, count, &ports);

	if (err)
		return err;
	tb_shared_write(&t->in.ports_seq, &t->in.ports, &ports, sizeof(ports));
	tb_ring_bell(&t->in.bell);
	return 0;
}

int tb_thread_set_announcements(struct tb_thread *t, const struct tb_announcement *announcements,
				tb_u32 count, const struct tb_schedule *schedule)
{
	struct tb_arena *arena = NULL;
	int err = tb_arena_build(announcements, count, schedule, &arena);

	if (err)
		return err;
	free_arenas(__atomic_exchange_n(&t->out.retired, NULL, __ATOMIC_ACQUIRE));
	/* What the thread hasn't taken yet it never will. */
	tb_arena_free(__atomic_exchange_n(&t->in.arena, arena, __ATOMIC_ACQ_REL));
	tb_ring_bell(&t->in.bell);
	return 0;
}

void tb_thread_announce(struct tb_thread *t)
{
	__atomic_fetch_add(&t->in.announce, 1, __ATOMIC_RELEASE);
	tb_ring_bell(&t->in.bell);
}

int tb_thread_eventfd(const struct tb_thread *t)
{
	return t->ring.eventfd;
}

tb_u32 tb_thread_events(struct tb_thread *t, struct tb_event *events, tb_u32 max)
{
	return tb_ring_drain(&t->ring, events, max);
}

void tb_thread_counters(const struct tb_thread *t, struct tb_counters *counters)
{
	tb_copy_words(counters, &t->out.counters, sizeof(*counters));
	for (tb_u32 i = 0; i < TB_LINKS; i++) {
		const struct tb_lane *lane = t->newest->lane[i];

		if (lane)
			tb_copy_words(&counters->link[i], &lane->sender.counters,
				      sizeof(counters->link[i]));
	}
	tb_helpers_counters(t->helpers, &counters->control_sent, &counters->control_errors);
}

int tb_thread_histogram(const struct tb_thread *t, tb_u32 which, struct tb_histogram *out)
{
	if (which >= TB_HISTOGRAMS)
		return -ENOENT;
	tb_copy_words(out, &t->out.histogram[which], sizeof(*out));
	return 0;
}

int tb_thread_view(struct tb_thread *t, struct tb_view *view, tb_u64 timeout_ns)
{
	tb_u32 number = __atomic_add_fetch(&t->in.view_wanted, 1, __ATOMIC_RELEASE);
	struct tb_input input;
	int err = 0;

	memset(&input, 0, sizeof(input));
	memset(view, 0, sizeof(*view));
	if (timeout_ns) {
		tb_ring_bell(&t->in.bell);
		err = wait_for(t, view_made, number, timeout_ns);
	}
	(void)tb_shared_read(&t->out.engine_seq, &view->engine, &t->out.engine,
			     sizeof(view->engine));
	(void)tb_maps_look(&t->maps, t->in.settings.links, &input);
	view->gate = input.gate;
	view->peer = input.peer;
	memcpy(view->link, input.link, sizeof(view->link));
	view->control_ns = input.control_ns;
	view->link_carrier = __atomic_load_n(&t->out.link_carrier, __ATOMIC_RELAXED);
	view->port_carrier = __atomic_load_n(&t->out.port_carrier, __ATOMIC_RELAXED);
	return err;
}

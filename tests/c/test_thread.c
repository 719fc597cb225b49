// SPDX-License-Identifier: Apache-2.0
/*
 * The whole thread, while the owner does all at once what Python may ask of it: under ThreadSanitizer, and under
 * AddressSanitizer with its search for leaks. Runs as root in a namespace with nothing but `lo`.
 */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "thread.h"

#define MS 1000000ull

static int memory(size_t size)
{
	int fd = memfd_create("map", 0);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	return fd;
}

static void setup_of(struct tb_setup *setup)
{
	memset(setup, 0, sizeof(*setup));
	setup->maps = (struct tb_map_fds){
		.gate = memory(4096),
		.self = memory(4096),
		.peer = memory(4096),
		.links = memory(4096),
		.control = memory(4096),
	};
	setup->settings = (struct tb_settings){
		.timers = {.hello = MS / 5,
			   .dead = MS,
			   .verify = MS,
			   .stall = 2 * MS,
			   .lease = 500 * MS},
		.late = 100 * MS,
		.idle_claim = 5 * MS,
		.listen = 20 * MS,
		.links = 1 | 4,
		.probes = 3,
		.claim_alone = true,
	};
	setup->config = (struct tb_config){
		.pair = 1, .port = TB_PORT, .keys = {{.k0 = 1, .k1 = 2, .id = 1}}};
	setup->link[0] = (struct tb_link_setup){
		.ifindex = 1,
		.path = {.family = 4, .ttl = 255, .port = TB_PORT, .local = {127, 0, 0, 1}}};
	setup->link[2] = (struct tb_link_setup){.ifindex = 1,
						.mode = TB_MODE_UDP,
						.path = {.family = 6,
							 .ttl = 64,
							 .port = TB_PORT,
							 .local = {[15] = 1},
							 .peer = {[15] = 1}}};
	setup->control_ifindex = 1;
	setup->ports = 1;
	setup->port_ifindex[0] = 1;
	setup->priority = 1;
	setup->cpu = -1;
}

static int descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	CHECK(directory);
	while (readdir(directory))
		count++;
	CHECK(closedir(directory) == 0);
	return count;
}

/* Whatever it is that fails, what was taken before it is given back. */
static void what_fails_to_open_leaves_nothing(struct tb_setup setup, enum tb_stage where, int why)
{
	struct tb_thread *thread = NULL;
	int before = descriptors();
	int stage;

	CHECK(tb_thread_open(&setup, &thread, &stage) == -why);
	CHECK(stage == (int)where && thread == NULL);
	CHECK(descriptors() == before);
}

static void failures_to_open(const struct tb_setup *right)
{
	struct tb_setup wrong = *right;

	wrong.settings.node = 2;
	what_fails_to_open_leaves_nothing(wrong, TB_STAGE_SETUP, EINVAL);
	wrong = *right;
	wrong.maps.control = -1;
	what_fails_to_open_leaves_nothing(wrong, TB_STAGE_MAPS, EBADF);
	wrong = *right;
	wrong.link[TB_LINKS - 1] = right->link[0];
	wrong.link[TB_LINKS - 1].ifindex = 99;
	what_fails_to_open_leaves_nothing(wrong, TB_STAGE_LINK, ENODEV);
	wrong = *right;
	wrong.link[2].path.local[0] =
		0x20; /* not ours: the second thing that a UDP link asks for */
	what_fails_to_open_leaves_nothing(wrong, TB_STAGE_LINK, EADDRNOTAVAIL);
	wrong = *right;
	wrong.port_ifindex[0] = 99;
	what_fails_to_open_leaves_nothing(wrong, TB_STAGE_PORT, ENODEV);
}

static void announcements_of(struct tb_thread *thread, tb_u32 count)
{
	static struct tb_announcement what[200];
	struct tb_schedule schedule = {
		.repeat_ns = {MS, 3 * MS}, .repeats = 2, .refresh_ns = 5 * MS, .rate = 20000};

	for (tb_u32 i = 0; i < count; i++)
		what[i] = (struct tb_announcement){.ifindex = 1, .family = i & 1 ? 6 : 4};
	CHECK(tb_thread_set_announcements(thread, what, count, &schedule) == 0);
}

int main(void)
{
	struct tb_order order = {
		.expires_ns = ~0ull,
		.attested_until_ns = 1ull << 62,
		.term_first = 2,
		.term_last = 1u << 30,
		.permits = TB_MAY_SERVE | TB_MAY_CLAIM_COLD | TB_MAY_CLAIM_DEAD,
	};
	struct tb_start_report report;
	struct tb_thread *thread;
	struct tb_setup setup;
	struct tb_event events[64];
	static struct tb_counters counters;
	static struct tb_view view;
	struct tb_histogram histogram;
	tb_u64 until;
	bool opened = false;
	int stage, before;

	setup_of(&setup);
	failures_to_open(&setup);
	before = descriptors();
	CHECK(tb_thread_open(&setup, &thread, &stage) == 0);
	CHECK(tb_thread_start(thread, &report) == 0);
	CHECK(report.helpers > 0);
	until = tb_now() + 2000 * MS;
	for (tb_u32 i = 1; tb_now() < until; i++) {
		tb_u8 mac[6] = {2, 0, 0, 0, 0, (tb_u8)i};
		tb_u32 count;

		order.generation = i;
		CHECK(tb_thread_set_order(thread, &order, i % 3 ? 0 : 5000 * MS) == 0);
		tb_thread_attest(thread, 1ull << 62);
		tb_thread_set_settings(thread, &setup.settings);
		tb_thread_set_config(thread, &setup.config);
		CHECK(tb_thread_set_peer_mac(thread, 0, mac) == 0);
		/* A second link comes, changes and goes, twice as often as the thread looks. */
		setup.link[1] = setup.link[0];
		setup.link[1].ifindex = i % 3 ? 1 : 0;
		setup.link[1].mode = i % 4 ? TB_MODE_ETHERNET : TB_MODE_UDP;
		setup.link[1].path.local[3] = (tb_u8)(2 + i % 2);
		setup.link[1].path.peer[0] = 127;
		CHECK(tb_thread_set_links(thread, setup.link) == 0);
		setup.settings.links = i % 3 ? 1 | 2 | 4 : 1 | 4;
		CHECK((tb_thread_set_peer_mac(thread, 1, mac) == 0) == (i % 3 != 0));
		CHECK(tb_thread_set_ports(thread, setup.port_ifindex, i % 2) == 0);
		announcements_of(thread, i % 200);
		if (i % 5 == 0)
			tb_thread_announce(thread);
		while ((count = tb_thread_events(thread, events, 64)) != 0)
			for (tb_u32 k = 0; k < count; k++)
				opened |= events[k].kind == TB_E_OPENED;
		tb_thread_counters(thread, &counters);
		CHECK(tb_thread_histogram(thread, i % TB_HISTOGRAMS, &histogram) == 0);
		CHECK(tb_thread_view(thread, &view, i % 2 ? 0 : 5000 * MS) == 0);
		usleep(200);
	}
	CHECK(opened);
	CHECK(view.gate.term != 0);
	CHECK(counters.rounds > 100 && counters.control_sent > 0);
	CHECK(counters.announced4 > 0 && counters.announced6 > 0);
	CHECK(counters.link[0].sent[TB_PROBE] > 100 && counters.link[2].sent[TB_PROBE] > 100);
	setup.link[1].ifindex = 99;
	CHECK(tb_thread_set_links(thread, setup.link) < 0);
	/* A view shows what was handed over before it was asked for, however a round lay between the two. */
	for (tb_u32 i = 0; i < 2000; i++) {
		tb_u32 ports = i % 2;

		CHECK(tb_thread_set_ports(thread, setup.port_ifindex, ports) == 0);
		CHECK(tb_thread_view(thread, &view, 5000 * MS) == 0 && view.port_carrier == ports);
	}
	setup.port_ifindex[0] = 99;
	CHECK(tb_thread_set_ports(thread, setup.port_ifindex, 1) < 0);
	CHECK(tb_thread_set_ports(thread, setup.port_ifindex, TB_PORTS + 1) == -EINVAL);
	CHECK(tb_thread_view(thread, &view, 5000 * MS) == 0 && view.port_carrier == 1);
	CHECK(tb_thread_stop(thread, true, 5000 * MS) == 0);
	CHECK(tb_thread_start(thread, &report) < 0);
	CHECK(tb_thread_view(thread, &view, 0) == 0);
	CHECK(view.gate.term == 0 && view.gate.open_until == 0);
	tb_thread_close(thread);
	tb_thread_close(NULL);
	CHECK(descriptors() == before);
	return 0;
}

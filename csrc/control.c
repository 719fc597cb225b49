// SPDX-License-Identifier: Apache-2.0
#include "control.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "clock.h"
#include "sender.h"
#include "shared.h"

#include "tb_rules.h"

enum {
	HELPER_STACK = 64 * 1024,
	IDLE_NS = 1000000000, /* a helper that nobody asks looks up once a second */
};

struct helper {
	struct tb_helpers *all;
	pthread_t thread;
	tb_u32 bell;
	struct tb_packet packet;
	tb_u64 sent;
	tb_u64 errors;
};

struct tb_helpers {
	struct tb_helpers_setup setup;
	int fd;
	tb_u32 stop;
	tb_u32 count;
	struct helper *of_cpu[TB_CPUS];
	struct helper helper[];
};

static void send_control(struct helper *helper, struct tb_config *config)
{
	const struct tb_helpers_setup *setup = &helper->all->setup;
	struct tb_self nothing = {0};
	struct tb_frame frame;

	/* Keys are being exchanged this very moment: the old ones are still accepted. */
	(void)tb_shared_read(setup->config_seq, config, setup->config, sizeof(*config));
	tb_make_frame(&frame, setup->gate, &nothing, config, TB_CONTROL, 0, tb_now(), 0, 0, 0,
		      NULL);
	tb_packet_finish(&helper->packet, &frame, setup->port);
	if (send(helper->all->fd, helper->packet.bytes, helper->packet.size, MSG_DONTWAIT) < 0)
		tb_add(&helper->errors, 1);
	else
		tb_add(&helper->sent, 1);
}

static void *helper_main(void *argument)
{
	struct helper *helper = argument;
	struct tb_config config = {0};
	tb_u32 seen = 0;

	(void)tb_shared_read(helper->all->setup.config_seq, &config, helper->all->setup.config,
			     sizeof(config));
	while (!__atomic_load_n(&helper->all->stop, __ATOMIC_ACQUIRE)) {
		tb_u32 bell = __atomic_load_n(&helper->bell, __ATOMIC_ACQUIRE);

		if (bell == seen) {
			tb_wait(&helper->bell, bell, IDLE_NS);
			continue;
		}
		seen = bell;
		send_control(helper, &config);
	}
	return NULL;
}

static int start_helper(struct tb_helpers *helpers, struct helper *helper, int cpu)
{
	/* The dummy address of RFC 7600: the frame never leaves the pair. */
	static const struct tb_path path = {
		.family = 4,
		.ttl = 255,
		.local = {192, 0, 0, 8},
		.peer = {192, 0, 0, 8},
		.local_mac = {2, 0, 0, 0, 0, 1},
		.peer_mac = {2, 0, 0, 0, 0, 2},
	};
	struct tb_path own = path;
	struct sched_param priority = {.sched_priority = helpers->setup.priority};
	pthread_attr_t attributes;
	cpu_set_t processors;
	int err;

	helper->all = helpers;
	/* The first frame goes at once: it warms the way up, and shows whether the pair works at all. */
	helper->bell = 1;
	own.port = helpers->setup.port;
	err = tb_packet_build(&helper->packet, &own);
	if (err)
		return err;
	CPU_ZERO(&processors);
	CPU_SET((size_t)cpu, &processors);
	err = pthread_attr_init(&attributes);
	if (err)
		return -err;
	err = pthread_attr_setstacksize(&attributes, HELPER_STACK);
	if (!err)
		err = pthread_attr_setaffinity_np(&attributes, sizeof(processors), &processors);
	if (!err)
		err = pthread_create(&helper->thread, &attributes, helper_main, helper);
	(void)pthread_attr_destroy(&attributes);
	if (err)
		return -err;
	helpers->of_cpu[cpu] = helper;
	(void)pthread_setname_np(helper->thread, "tb-control");
	/* The engine's own report says whether real time is permitted here. */
	(void)pthread_setschedparam(helper->thread, SCHED_FIFO, &priority);
	return 0;
}

int tb_helpers_start(const struct tb_helpers_setup *setup, struct tb_helpers **out)
{
	/* All of the machine's, not only those this process was given: interrupts know no affinity of ours. */
	long configured = sysconf(_SC_NPROCESSORS_CONF);
	int cpus = configured > TB_CPUS ? TB_CPUS : configured < 1 ? 1 : (int)configured;
	struct tb_helpers *helpers;
	int err = 0;

	helpers = calloc(1, sizeof(*helpers) + (size_t)cpus * sizeof(helpers->helper[0]));
	if (!helpers)
		return -ENOMEM;
	helpers->setup = *setup;
	helpers->fd = tb_packet_socket(setup->ifindex, true);
	if (helpers->fd < 0)
		err = helpers->fd;
	for (int cpu = 0; cpu < cpus && !err; cpu++) {
		err = start_helper(helpers, &helpers->helper[helpers->count], cpu);
		if (!err)
			helpers->count++;
		else if (err == -EINVAL)
			err = 0; /* offline, or outside of our cpuset */
	}
	if (err) {
		tb_helpers_stop(helpers);
		return err;
	}
	*out = helpers;
	return 0;
}

void tb_helpers_stop(struct tb_helpers *helpers)
{
	if (!helpers)
		return;
	__atomic_store_n(&helpers->stop, 1, __ATOMIC_RELEASE);
	for (tb_u32 i = 0; i < helpers->count; i++)
		tb_ring_bell(&helpers->helper[i].bell);
	for (tb_u32 i = 0; i < helpers->count; i++)
		(void)pthread_join(helpers->helper[i].thread, NULL);
	if (helpers->fd >= 0)
		(void)close(helpers->fd);
	free(helpers);
}

void tb_helpers_ask(struct tb_helpers *helpers, const tb_u64 mask[TB_CPUS / 64], int fallback)
{
	bool asked = false;

	for (int cpu = 0; cpu < TB_CPUS; cpu++) {
		if (!(mask[cpu / 64] & 1ull << (cpu % 64)) || !helpers->of_cpu[cpu])
			continue;
		tb_ring_bell(&helpers->of_cpu[cpu]->bell);
		asked = true;
	}
	if (!asked && fallback >= 0 && fallback < TB_CPUS && helpers->of_cpu[fallback])
		tb_ring_bell(&helpers->of_cpu[fallback]->bell);
}

void tb_helpers_processors(const struct tb_helpers *helpers, tb_u64 mask[TB_CPUS / 64])
{
	memset(mask, 0, sizeof(tb_u64) * (TB_CPUS / 64));
	for (int cpu = 0; cpu < TB_CPUS; cpu++)
		if (helpers->of_cpu[cpu])
			mask[cpu / 64] |= 1ull << (cpu % 64);
}

tb_u32 tb_helpers_count(const struct tb_helpers *helpers)
{
	return helpers ? helpers->count : 0;
}

void tb_helpers_counters(const struct tb_helpers *helpers, tb_u64 *sent, tb_u64 *errors)
{
	*sent = 0;
	*errors = 0;
	for (tb_u32 i = 0; i < tb_helpers_count(helpers); i++) {
		*sent += __atomic_load_n(&helpers->helper[i].sent, __ATOMIC_RELAXED);
		*errors += __atomic_load_n(&helpers->helper[i].errors, __ATOMIC_RELAXED);
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in a tb_thread, and whose each word is. For thread.c, which runs it, and handle.c, which Python calls.
 */
#ifndef TB_INSIDE_H
#define TB_INSIDE_H

#include "thread.h"

#include <net/if.h>
#include <pthread.h>

#include "alarm.h"
#include "control.h"
#include "links.h"
#include "ring.h"
#include "shared.h"

_Static_assert(sizeof(struct tb_order) % sizeof(tb_word) == 0, "handed over by words");
_Static_assert(sizeof(struct tb_witness) % sizeof(tb_word) == 0, "handed over by words");
_Static_assert(sizeof(struct tb_settings) % sizeof(tb_word) == 0, "handed over by words");
_Static_assert(sizeof(struct tb_config) % sizeof(tb_word) == 0, "handed over by words");
_Static_assert(sizeof(struct tb_engine) % sizeof(tb_word) == 0, "handed over by words");

/* VIP ports to ask the carrier of: by name, as an interface may be replaced by another of that name. */
struct ports {
	tb_u64 count;
	char name[TB_PORTS][IFNAMSIZ];
};

_Static_assert(sizeof(struct ports) % sizeof(tb_word) == 0, "handed over by words");

struct tb_thread {
	/* Python writes, the thread reads. */
	struct {
		_Alignas(64) tb_u64 order_seq;
		struct tb_order order;
		tb_u64 settings_seq;
		struct tb_settings settings;
		tb_u64 config_seq;
		struct tb_config config;
		tb_u64 attested_until_ns;
		tb_u64 witness_seq;
		struct tb_witness witness;
		tb_u64 ports_seq;
		struct ports ports;
		struct tb_arena *arena; /* to be taken over, NULL = none new */
		struct tb_links *links; /* the same */
		tb_u32 announce;	/* grows: say everything again */
		tb_u32 view_wanted;	/* grows */
		tb_u32 stop;
		tb_u32 bell; /* the thread sleeps on it */
	} in;

	/* The thread writes, Python reads. */
	struct {
		_Alignas(64) tb_u64
			generation; /* of the order that a whole round was carried out under */
		tb_u64 engine_seq;
		struct tb_engine engine;
		struct tb_arena *retired;	/* list, to be freed by Python */
		struct tb_links *links_retired; /* the same */
		struct tb_counters counters;
		struct tb_histogram histogram[TB_HISTOGRAMS];
		tb_u32 view_made;
		tb_u32 link_carrier;
		tb_u32 port_carrier;
		tb_u32 running;
		tb_u32 bell;	/* Python sleeps on it */
		tb_u32 waiting; /* Python sets it before it sleeps there */
	} out;

	/* The thread's own. */
	_Alignas(64) struct tb_engine engine;
	struct tb_input input;
	struct tb_actions actions;
	struct tb_order order;
	struct tb_config config;
	struct tb_announcer announcer;
	struct tb_arena *arena;
	struct tb_links *links;
	struct ports ports;
	tb_u64 order_seq, settings_seq, config_seq, witness_seq, ports_seq; /* as last taken */
	tb_u64 planned_ns;			  /* when the next round is due, 0 = at once */
	tb_u64 carrier_ns;			  /* last looked up */
	tb_u64 suspect_ns, verdict_ns, opened_ns; /* of the failover under way */
	tb_u64 round_trip_counter[TB_LINKS];
	tb_u32 announce_seen, view_seen;
	bool want_carrier;
	bool first_announced;
	bool told; /* events were pushed in this round */

	/* Python's own: the set of links that it handed over last. */
	struct tb_links *newest;

	/* Fixed after opening. */
	struct tb_maps maps;
	struct tb_ring ring;
	struct tb_helpers *helpers;
	struct tb_setup setup;
	struct tb_alarm alarm;
	int announce_fd;
	int carrier_fd;
	pthread_t pthread;
	bool started;
};

#endif

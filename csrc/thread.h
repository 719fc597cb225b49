/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's thread: the one that drives tb_engine_step() in production, and all that Python asks of it.
 *
 * Functions of this header are called by Python's deciding thread alone. None of them makes the engine wait, and
 * none waits for it but those with a timeout. Errors are negative errno.
 */
#ifndef TB_THREAD_H
#define TB_THREAD_H

#include "announce.h"
#include "engine.h"
#include "hist.h"
#include "maps.h"
#include "sender.h"

enum { TB_PORTS = 32 }; /* VIP ports watched for carrier */

struct tb_thread;

struct tb_setup {
	struct tb_map_fds maps;
	struct tb_settings settings;
	struct tb_config config;
	struct tb_link_setup link[TB_LINKS];
	tb_u32 control_ifindex; /* 0 = none: no control frames, and so no verdict of DEAD */
	tb_u32 ports;
	tb_u32 port_ifindex[TB_PORTS];
	int priority; /* SCHED_FIFO */
	int cpu;      /* to be pinned to, -1 = none */
};

/* What was being done when tb_thread_open() failed. */
enum tb_stage {
	TB_STAGE_SETUP = 0,
	TB_STAGE_MEMORY,
	TB_STAGE_MAPS,
	TB_STAGE_RING,
	TB_STAGE_ALARM,
	TB_STAGE_LINK,
	TB_STAGE_ANNOUNCE,
	TB_STAGE_PORT,
};

/* What the host refused, as positive errno; 0 = granted. */
struct tb_start_report {
	int real_time;
	int locked;
	int pinned;
	tb_u32 helpers;
};

/* Everything only grows. */
struct tb_counters {
	struct tb_link_counters link[TB_LINKS];
	tb_u64 rounds;
	tb_u64 late;
	tb_u64 events_lost;
	tb_u64 events_held; /* rationed ones that Python was not woken for */
	tb_u64 announced4;  /* by family */
	tb_u64 announced6;
	tb_u64 announce_blocked; /* passes cut short as the gate was found shut */
	tb_u64 announce_refused; /* the kernel didn't take the frame: egress gate, interface down */
	tb_u64 control_sent;
	tb_u64 control_errors;
	tb_u64 peer_busy; /* rounds that used the last snapshot of the peer */
};

/* Everything at one glance. */
struct tb_view {
	struct tb_engine engine; /* as of the newest round made for a view */
	struct tb_gate gate;
	struct tb_peer peer;
	struct tb_link link[TB_LINKS];
	tb_u64 control_ns;
	tb_u32 link_carrier;
	tb_u32 port_carrier;
};

/* Open everything; nothing is sent and no gate is touched. `stage` says where it failed. */
int tb_thread_open(const struct tb_setup *setup, struct tb_thread **out, int *stage);
const char *tb_stage_name(int stage);

/* Give everything back; stops first, leaving the gate to lapse. NULL is fine. */
void tb_thread_close(struct tb_thread *thread);

int tb_thread_start(struct tb_thread *thread, struct tb_start_report *report);

/*
 * End the thread and wait for it at most `timeout_ns`. With `close_gate` the gate is shut when this returns, even
 * with -ETIMEDOUT, which says that the thread hangs.
 */
int tb_thread_stop(struct tb_thread *thread, bool close_gate, tb_u64 timeout_ns);
bool tb_thread_running(const struct tb_thread *thread);

/*
 * R17: replace the order. With a timeout: returns 0 when a round has carried out what it decided under this
 * generation, or -ETIMEDOUT. The attestation in the order counts as renewed as well.
 */
int tb_thread_set_order(struct tb_thread *thread, const struct tb_order *order, tb_u64 timeout_ns);
void tb_thread_attest(struct tb_thread *thread, tb_u64 until_ns);
void tb_thread_set_witness(struct tb_thread *thread, const struct tb_witness *witness);
void tb_thread_set_settings(struct tb_thread *thread, const struct tb_settings *settings);
void tb_thread_set_config(struct tb_thread *thread, const struct tb_config *config);
int tb_thread_set_peer_mac(struct tb_thread *thread, tb_u32 link, const tb_u8 mac[6]);
/*
 * Send on exactly these links from the next round on; `settings` say separately which are expected. Links that stay
 * as they were keep sockets, MACs and counters. Returns 0, or a negative errno with nothing changed.
 */
int tb_thread_set_links(struct tb_thread *thread, const struct tb_link_setup link[TB_LINKS]);
/*
 * Watch exactly these ports for carrier from the next round on; `settings` say separately how many there are. Returns
 * 0, or a negative errno with nothing changed.
 */
int tb_thread_set_ports(struct tb_thread *thread, const tb_u32 *ifindex, tb_u32 count);
int tb_thread_set_announcements(struct tb_thread *thread,
				const struct tb_announcement *announcements, tb_u32 count,
				const struct tb_schedule *schedule);
void tb_thread_announce(struct tb_thread *thread);

int tb_thread_eventfd(const struct tb_thread *thread);
tb_u32 tb_thread_events(struct tb_thread *thread, struct tb_event *events, tb_u32 max);
void tb_thread_counters(const struct tb_thread *thread, struct tb_counters *counters);
int tb_thread_histogram(const struct tb_thread *thread, tb_u32 which, struct tb_histogram *out);

/* -ETIMEDOUT: the engine's words are those of an older view. */
int tb_thread_view(struct tb_thread *thread, struct tb_view *view, tb_u64 timeout_ns);

#endif /* TB_THREAD_H */

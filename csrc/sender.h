/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sending end of one link. Ethernet: one AF_PACKET socket past the qdisc, so that bulk traffic queued there
 * can't delay a heartbeat. UDP: connected sockets, and the kernel routes. Nothing is received here: XDP does that.
 */
#ifndef TB_SENDER_H
#define TB_SENDER_H

#include <net/if.h>
#include <stdbool.h>

#include "frames.h"

enum tb_mode { TB_MODE_ETHERNET = 0, TB_MODE_UDP = 1 };

enum tb_sender_limits {
	TB_UDP_SOCKETS = 8, /* source ports of a UDP link; the first is the heartbeat port itself */
	TB_ERRNOS = 134,    /* counters of failed sends by errno; [0] = any other */
	TB_TYPES = TB_CONTROL + 1,
};

/* A link as Python describes it. */
struct tb_link_setup {
	tb_u32 ifindex; /* 0 = slot unused */
	tb_u32 mode;	/* enum tb_mode */
	struct tb_path
		path; /* a local_mac of zeros is asked of the interface, a peer_mac of zeros is broadcast */
};

struct tb_link_counters {
	tb_u64 sent[TB_TYPES];
	tb_u64 error[TB_ERRNOS];
};

struct tb_sender {
	int fd[TB_UDP_SOCKETS]; /* Ethernet: the first alone */
	tb_u32 mode;
	tb_u32 turn;	 /* which source port is next */
	tb_u64 peer_mac; /* as last handed over; set by Python, read by the thread */
	tb_u64 peer_mac_used;
	struct tb_path path;
	struct tb_packet packet;
	struct tb_link_counters counters;
	char name[IFNAMSIZ];
};

/* Returns 0 or a negative errno; tb_sender_close() is right after either. */
int tb_sender_open(struct tb_sender *sender, const struct tb_link_setup *setup);
void tb_sender_close(struct tb_sender *sender);

/* Any thread. Zeros = unknown: broadcast. */
void tb_sender_set_peer_mac(struct tb_sender *sender, const tb_u8 mac[6]);

/* Send one frame; `spread` varies the source port (PROBEs and claims). Counted either way. Never waits. */
int tb_sender_send(struct tb_sender *sender, const struct tb_frame *frame, bool spread);

/* An AF_PACKET socket that receives nothing; `ifindex` 0 = not bound. Returns it or a negative errno. */
int tb_packet_socket(tb_u32 ifindex, bool bypass);

#endif /* TB_SENDER_H */

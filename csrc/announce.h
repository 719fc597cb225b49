/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Announcements: who owns an address from now on, told to switches and hosts. Gratuitous ARP for IPv4,
 * unsolicited neighbour advertisements for IPv6.
 *
 * Frames are prebuilt in an arena when the configuration changes. A schedule of passes over the arena starts
 * when the gate opens; a pass goes out in small chunks, so that it never keeps a heartbeat waiting. The gate is
 * looked at before each frame, and the socket doesn't bypass the qdisc, so that the egress gate has the last word.
 */
#ifndef TB_ANNOUNCE_H
#define TB_ANNOUNCE_H

#include "engine.h"

enum tb_announce_limits {
	TB_ANNOUNCE_REPEATS = 16,
	TB_ANNOUNCE_MAX = 65536, /* frames in an arena */
	TB_ANNOUNCE_CHUNK = 16,	 /* frames in a round */
	TB_ANNOUNCE_FRAME = 86,	 /* bytes: a neighbour advertisement */
};

/* One announcement as Python asks for it. */
struct tb_announcement {
	tb_u32 ifindex;
	tb_u8 family; /* 4 or 6 */
	tb_u8 reply;  /* IPv4: the reply form */
	tb_u8 mac[6];
	tb_u8 address[16];
};

/* When passes begin, counted from the opening; each at the latest after the one before it. */
struct tb_schedule {
	tb_u64 repeat_ns[TB_ANNOUNCE_REPEATS]; /* ascending */
	tb_u32 repeats;
	tb_u32 rate;	   /* frames a second, 0 = no limit */
	tb_u64 refresh_ns; /* period after the last repeat, 0 = none */
};

struct tb_announce_frame {
	tb_u32 ifindex;
	tb_u16 size;
	tb_u16 protocol; /* network order */
	tb_u8 bytes[TB_ANNOUNCE_FRAME];
	tb_u8 reserved[2];
};

struct tb_arena {
	struct tb_arena *next; /* list of arenas that Python is to free */
	struct tb_schedule schedule;
	tb_u64 content; /* of the frames: the same number, the same frames */
	tb_u32 count;
	struct tb_announce_frame frame[];
};

/* The schedule's state; all zero = nothing to announce. */
struct tb_announcer {
	const struct tb_arena *arena;
	tb_u64 began_ns;
	tb_u64 pass_ns;	 /* when the next pass begins */
	tb_u64 ready_ns; /* when the next frame of the running pass may go */
	tb_u32 repeat;	 /* next entry of repeat_ns */
	tb_u32 at;	 /* next frame of the running pass */
	bool active;
	bool passing;
};

/* Build one frame. Returns 0, or -EINVAL for an unknown family. */
int tb_announce_build(struct tb_announce_frame *frame, const struct tb_announcement *announcement);

/* Build an arena; the caller frees it with tb_arena_free(). Returns 0 or a negative errno. */
int tb_arena_build(const struct tb_announcement *announcements, tb_u32 count,
		   const struct tb_schedule *schedule, struct tb_arena **out);
void tb_arena_free(struct tb_arena *arena);

/* The gate opened, or all is to be said again: the first pass begins now. */
void tb_announcer_start(struct tb_announcer *announcer, tb_u64 now);
void tb_announcer_stop(struct tb_announcer *announcer);

/*
 * Take another arena. A schedule that runs begins anew if its frames are others, since addresses may have been added;
 * with the same frames it goes on, and what is due next comes no later than it would have.
 */
void tb_announcer_load(struct tb_announcer *announcer, const struct tb_arena *arena, tb_u64 now);

/* The next frame that may go at `now`, or NULL. It counts as sent only after tb_announcer_sent(). */
const struct tb_announce_frame *tb_announcer_next(struct tb_announcer *announcer, tb_u64 now);
void tb_announcer_sent(struct tb_announcer *announcer, tb_u64 now);

/* The driver's queue is full: try the same frame again a little later. */
void tb_announcer_retry(struct tb_announcer *announcer, tb_u64 now);

/* When tb_announcer_next() has something again; all ones = never. */
tb_u64 tb_announcer_wake(const struct tb_announcer *announcer);

#endif /* TB_ANNOUNCE_H */

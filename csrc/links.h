/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The links that the thread sends on: a set that is replaced as a whole while it runs.
 *
 * Sets are built and freed by one thread (Python's), and used by another (the engine's), which gets each by a pointer
 * exchange and gives the one before back. A link that is in both goes on with the same sockets, MAC and counters: the
 * sender in them is one object, counted by the sets that hold it and closed with the last of them, by the thread that
 * may wait for the kernel to do it.
 */
#ifndef TB_LINKS_H
#define TB_LINKS_H

#include "sender.h"

/* One link's sender, and what it was made from. */
struct tb_lane {
	struct tb_link_setup setup; /* without the peer's MAC, which comes and goes by itself */
	tb_u32 holders;		    /* sets that hold it */
	struct tb_sender sender;
};

struct tb_links {
	struct tb_links *next; /* in a list of sets given back */
	tb_u32 mask;
	struct tb_lane *lane[TB_LINKS]; /* NULL = no such link */
};

/*
 * Open what `before` (may be NULL) doesn't hold just so, and share the rest. Returns 0, or a negative errno with
 * nothing changed.
 */
int tb_links_build(const struct tb_link_setup setup[TB_LINKS], const struct tb_links *before,
		   struct tb_links **out);

/* A set, or a list of them; closes senders that no other set holds. NULL is fine. */
void tb_links_free(struct tb_links *links);

#endif /* TB_LINKS_H */

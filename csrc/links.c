// SPDX-License-Identifier: Apache-2.0
#include "links.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool same_path(const struct tb_path *a, const struct tb_path *b)
{
	return a->family == b->family && a->ttl == b->ttl && a->vlan == b->vlan &&
	       a->port == b->port && memcmp(a->local, b->local, sizeof(a->local)) == 0 &&
	       memcmp(a->peer, b->peer, sizeof(a->peer)) == 0 &&
	       memcmp(a->local_mac, b->local_mac, sizeof(a->local_mac)) == 0;
}

static struct tb_lane *held_just_so(const struct tb_links *links, tb_u32 number,
				    const struct tb_link_setup *setup)
{
	struct tb_lane *lane = links ? links->lane[number] : NULL;

	if (lane && lane->setup.ifindex == setup->ifindex && lane->setup.mode == setup->mode &&
	    same_path(&lane->setup.path, &setup->path))
		return lane;
	return NULL;
}

static int open_lane(const struct tb_link_setup *setup, struct tb_lane **out)
{
	struct tb_lane *lane = calloc(1, sizeof(*lane)); /* written all over below: faulted in */
	int err;

	if (!lane)
		return -ENOMEM;
	lane->setup = *setup;
	memset(lane->setup.path.peer_mac, 0, sizeof(lane->setup.path.peer_mac));
	err = tb_sender_open(&lane->sender, setup);
	if (err) {
		tb_sender_close(&lane->sender);
		free(lane);
		return err;
	}
	*out = lane;
	return 0;
}

int tb_links_build(const struct tb_link_setup setup[TB_LINKS], const struct tb_links *before,
		   struct tb_links **out)
{
	struct tb_links *links = calloc(1, sizeof(*links));
	int err = 0;

	if (!links)
		return -ENOMEM;
	for (tb_u32 i = 0; i < TB_LINKS && !err; i++) {
		if (setup[i].ifindex == 0)
			continue;
		links->lane[i] = held_just_so(before, i, &setup[i]);
		if (!links->lane[i])
			err = open_lane(&setup[i], &links->lane[i]);
		if (err)
			break;
		links->lane[i]->holders++;
		links->mask |= 1u << i;
	}
	if (err) {
		tb_links_free(links);
		return err;
	}
	*out = links;
	return 0;
}

void tb_links_free(struct tb_links *links)
{
	while (links) {
		struct tb_links *next = links->next;

		for (tb_u32 i = 0; i < TB_LINKS; i++) {
			struct tb_lane *lane = links->lane[i];

			if (!lane || --lane->holders > 0)
				continue;
			tb_sender_close(&lane->sender);
			free(lane);
		}
		free(links);
		links = next;
	}
}

// SPDX-License-Identifier: Apache-2.0
#include "maps.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "shared.h"

_Static_assert(sizeof(struct tb_gate) % sizeof(tb_word) == 0, "copied by words");
_Static_assert(sizeof(struct tb_self) % sizeof(tb_word) == 0, "copied by words");
_Static_assert(sizeof(struct tb_peer) % sizeof(tb_word) == 0, "copied by words");
_Static_assert(sizeof(struct tb_link) % sizeof(tb_word) == 0, "copied by words");
_Static_assert(offsetof(struct tb_peer, seq) == 0, "the sequence is the first word");

static const size_t size_gate = sizeof(struct tb_gate);
static const size_t size_self = sizeof(struct tb_self);
static const size_t size_peer = sizeof(struct tb_peer);
static const size_t size_links = sizeof(struct tb_link) * TB_LINKS;
static const size_t size_control = sizeof(struct tb_control) * TB_CPUS;

static int map_one(int fd, size_t size, int protection, void **out)
{
	void *address = mmap(NULL, size, protection, MAP_SHARED | MAP_POPULATE, fd, 0);

	if (address == MAP_FAILED)
		return -errno;
	*out = address;
	return 0;
}

static void unmap_one(const void *address, size_t size)
{
	if (address)
		(void)munmap((void *)(uintptr_t)address, size);
}

int tb_maps_open(struct tb_maps *maps, const struct tb_map_fds *fds)
{
	void *gate = NULL, *self = NULL, *peer = NULL, *link = NULL, *control = NULL;
	int err;

	memset(maps, 0, sizeof(*maps));
	memset(maps->provable, 0xff, sizeof(maps->provable));
	err = map_one(fds->gate, size_gate, PROT_READ | PROT_WRITE, &gate);
	if (!err)
		err = map_one(fds->self, size_self, PROT_READ | PROT_WRITE, &self);
	if (!err)
		err = map_one(fds->peer, size_peer, PROT_READ, &peer);
	if (!err)
		err = map_one(fds->links, size_links, PROT_READ, &link);
	if (!err)
		err = map_one(fds->control, size_control, PROT_READ, &control);
	maps->gate = gate;
	maps->self = self;
	maps->peer = peer;
	maps->link = link;
	maps->control = control;
	if (err)
		tb_maps_close(maps);
	return err;
}

void tb_maps_close(struct tb_maps *maps)
{
	unmap_one(maps->gate, size_gate);
	unmap_one(maps->self, size_self);
	unmap_one(maps->peer, size_peer);
	unmap_one(maps->link, size_links);
	unmap_one(maps->control, size_control);
	memset(maps, 0, sizeof(*maps));
}

void tb_maps_processors(const struct tb_maps *maps, tb_u32 links, tb_u64 mask[TB_CPUS / 64])
{
	memset(mask, 0, sizeof(tb_u64) * (TB_CPUS / 64));
	for (tb_u32 i = 0; i < TB_LINKS; i++) {
		tb_u32 cpu;

		if (!(links & 1u << i))
			continue;
		cpu = __atomic_load_n(&maps->link[i].cpu, __ATOMIC_RELAXED);
		if (cpu != 0 && cpu <= TB_CPUS)
			mask[(cpu - 1) / 64] |= 1ull << ((cpu - 1) % 64);
	}
	/* What can't be proven must not forbid every verdict for ever; the start report tells of it. */
	for (tb_u32 i = 0; i < TB_CPUS / 64; i++)
		mask[i] &= maps->provable[i];
}

static tb_u64 control_seen(const struct tb_maps *maps, tb_u32 cpu)
{
	return __atomic_load_n(&maps->control[cpu].seen_ns, __ATOMIC_ACQUIRE);
}

/* R11: the oldest of the newest control stamps, over the processors that ran a link's receive path. */
static tb_u64 control_ns(const struct tb_maps *maps, tb_u32 links)
{
	tb_u64 mask[TB_CPUS / 64];
	tb_u64 oldest = ~0ull, newest = 0;
	bool any = false;

	tb_maps_processors(maps, links, mask);
	/* In each round, so only the stamps that count are touched. */
	for (tb_u32 i = 0; i < TB_CPUS / 64; i++) {
		for (tb_u64 left = mask[i]; left != 0; left &= left - 1) {
			tb_u64 seen = control_seen(maps, i * 64 + (tb_u32)__builtin_ctzll(left));

			any = true;
			if (seen < oldest)
				oldest = seen;
		}
	}
	if (any)
		return oldest;
	/* No link ever heard anything: then any processor's receive path is as good as another's. */
	for (tb_u32 cpu = 0; cpu < TB_CPUS; cpu++) {
		tb_u64 seen = control_seen(maps, cpu);

		if (seen > newest)
			newest = seen;
	}
	return newest;
}

bool tb_maps_look(const struct tb_maps *maps, tb_u32 links, struct tb_input *input)
{
	struct tb_peer peer;
	bool whole;

	/* The stamps before the peer's snapshot: what a stamp counts is in the snapshot or newer than it. */
	for (tb_u32 i = 0; i < TB_LINKS; i++) {
		if (links & 1u << i)
			tb_copy_words(&input->link[i], &maps->link[i], size_links / TB_LINKS);
	}
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	whole = tb_shared_read(&maps->peer->seq, &peer, maps->peer, size_peer);
	if (whole)
		input->peer = peer;
	tb_copy_words(&input->gate, maps->gate, size_gate);
	input->control_ns = control_ns(maps, links);
	return whole;
}

void tb_maps_act_gate(const struct tb_maps *maps, const struct tb_actions *actions, tb_u64 term)
{
	struct tb_gate *gate = maps->gate;

	if (actions->shut) {
		/* The term first: no packet may find an old term under a new lease. */
		__atomic_store_n(&gate->term, 0, __ATOMIC_SEQ_CST);
		__atomic_store_n(&gate->open_until, 0, __ATOMIC_SEQ_CST);
	}
	if (actions->open) {
		__atomic_store_n(&gate->term, actions->term, __ATOMIC_SEQ_CST);
		__atomic_store_n(&gate->open_until, actions->open_until, __ATOMIC_SEQ_CST);
	}
	if (actions->renew) {
		/* Only this process writes the term; if it is another's, another one serves on these maps. */
		if (__atomic_load_n(&gate->term, __ATOMIC_ACQUIRE) == term)
			__atomic_store_n(&gate->open_until, actions->open_until, __ATOMIC_SEQ_CST);
	}
	if (actions->jump) {
		tb_u64 seen = __atomic_load_n(&gate->counter, __ATOMIC_ACQUIRE);

		while (seen < actions->jump_to &&
		       !__atomic_compare_exchange_n(&gate->counter, &seen, actions->jump_to, false,
						    __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE))
			;
	}
}

void tb_maps_act_self(const struct tb_maps *maps, const struct tb_actions *actions)
{
	if (actions->write_self)
		tb_copy_words(maps->self, &actions->self, size_self);
}

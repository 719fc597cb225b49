// SPDX-License-Identifier: Apache-2.0
/* The two ways in which a round touches the maps, on memory of the test's own. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "maps.h"

static struct tb_gate gate;
static struct tb_self self;
static struct tb_peer peer;
static struct tb_link links[TB_LINKS];
static struct tb_control control[TB_CPUS];

static struct tb_maps fresh(void)
{
	memset(&gate, 0, sizeof(gate));
	memset(&self, 0, sizeof(self));
	memset(&peer, 0, sizeof(peer));
	memset(links, 0, sizeof(links));
	memset(control, 0, sizeof(control));
	return (struct tb_maps){
		.gate = &gate,
		.self = &self,
		.peer = &peer,
		.link = links,
		.control = control,
		.provable = {~0ull, ~0ull},
	};
}

static void gate_is_written_as_asked(void)
{
	struct tb_maps maps = fresh();
	struct tb_actions open = {.open = true, .term = 8, .open_until = 100};
	struct tb_actions renew = {.renew = true, .open_until = 200};
	struct tb_actions shut = {.shut = true};
	struct tb_actions jump = {.jump = true, .jump_to = 50};

	gate.fence_below = 3;
	gate.contested = 4;
	gate.counter = 7;
	tb_maps_act_gate(&maps, &open, 8);
	CHECK(gate.term == 8 && gate.open_until == 100);
	tb_maps_act_gate(&maps, &renew, 8);
	CHECK(gate.term == 8 && gate.open_until == 200);
	/* Somebody else serves on these maps by now: nothing of his is prolonged. */
	gate.term = 10;
	renew.open_until = 300;
	tb_maps_act_gate(&maps, &renew, 8);
	CHECK(gate.term == 10 && gate.open_until == 200);
	tb_maps_act_gate(&maps, &shut, 8);
	CHECK(gate.term == 0 && gate.open_until == 0);
	CHECK(gate.fence_below == 3 && gate.contested == 4 && gate.counter == 7);
	tb_maps_act_gate(&maps, &jump, 0);
	CHECK(gate.counter == 50);
	gate.counter = 60;
	tb_maps_act_gate(&maps, &jump, 0);
	CHECK(gate.counter == 60);
}

static void self_is_written_only_when_asked(void)
{
	struct tb_maps maps = fresh();
	struct tb_actions actions = {.self = {.claim = 5, .role = TB_ROLE_PRIMARY}};

	tb_maps_act_self(&maps, &actions);
	CHECK(self.claim == 0);
	actions.write_self = true;
	tb_maps_act_self(&maps, &actions);
	CHECK(self.claim == 5 && self.role == TB_ROLE_PRIMARY);
}

static void half_written_peer_is_not_looked_at(void)
{
	struct tb_maps maps = fresh();
	struct tb_input input = {0};

	peer.counter = 1;
	peer.seq = 2;
	CHECK(tb_maps_look(&maps, 1, &input));
	CHECK(input.peer.counter == 1);
	peer.seq = 3;
	peer.counter = 2;
	gate.term = 9;
	links[0].hello_ns = 5;
	CHECK(!tb_maps_look(&maps, 1, &input));
	CHECK(input.peer.counter == 1);
	CHECK(input.gate.term == 9 && input.link[0].hello_ns == 5);
}

static void links_that_are_not_ours_are_left_out(void)
{
	struct tb_maps maps = fresh();
	struct tb_input input = {0};

	for (tb_u32 i = 0; i < TB_LINKS; i++)
		links[i].hello_ns = 100 + i;
	CHECK(tb_maps_look(&maps, 0x82, &input));
	for (tb_u32 i = 0; i < TB_LINKS; i++)
		CHECK(input.link[i].hello_ns == (i == 1 || i == 7 ? 100 + i : 0));
}

static tb_u64 control_ns(const struct tb_maps *maps)
{
	struct tb_input input = {0};

	CHECK(tb_maps_look(maps, 3, &input));
	return input.control_ns;
}

static void control_counts_the_processors_that_received(void)
{
	struct tb_maps maps = fresh();

	CHECK(control_ns(&maps) == 0);
	control[5].seen_ns = 50; /* no link was ever heard: any processor will do */
	CHECK(control_ns(&maps) == 50);
	links[0].cpu = 1 + 2;
	CHECK(control_ns(&maps) == 0);
	control[2].seen_ns = 30;
	CHECK(control_ns(&maps) == 30);
	links[1].cpu = 1 + 127;
	CHECK(control_ns(&maps) == 0);
	control[127].seen_ns = 20;
	CHECK(control_ns(&maps) == 20);
	links[2].cpu = 1 + 9; /* not in the mask of links */
	CHECK(control_ns(&maps) == 20);
	maps.provable[1] = 0; /* no helper there: what can't be proven isn't asked for */
	CHECK(control_ns(&maps) == 30);
	links[0].cpu = TB_CPUS + 1; /* more processors than there are entries */
	CHECK(control_ns(&maps) == 50);
}

static void files_are_mapped_and_unmapped(void)
{
	struct tb_map_fds fds;
	struct tb_maps maps;
	int *fd = &fds.gate;

	_Static_assert(sizeof(fds) == 5 * sizeof(int), "five descriptors");
	for (int i = 0; i < 5; i++) {
		fd[i] = memfd_create("map", 0);
		CHECK(fd[i] >= 0 && ftruncate(fd[i], 4096) == 0);
	}
	CHECK(tb_maps_open(&maps, &fds) == 0);
	maps.gate->term = 6;
	tb_maps_close(&maps);
	CHECK(maps.gate == NULL);
	CHECK(tb_maps_open(&maps, &fds) == 0);
	CHECK(maps.gate->term == 6);
	CHECK(maps.provable[0] == ~0ull && maps.provable[1] == ~0ull);
	tb_maps_close(&maps);
	for (int i = 0; i < 5; i++)
		(void)close(fd[i]);
	CHECK(tb_maps_open(&maps, &fds) == -EBADF);
}

int main(void)
{
	gate_is_written_as_asked();
	self_is_written_only_when_asked();
	half_written_peer_is_not_looked_at();
	links_that_are_not_ours_are_left_out();
	control_counts_the_processors_that_received();
	files_are_mapped_and_unmapped();
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/* The schedule of announcements under a clock of the test's own. */
#include "announce.h"

#include <errno.h>
#include <string.h>

#include "check.h"

#define MS 1000000ull

static struct tb_arena *arena_of(tb_u32 count, const struct tb_schedule *schedule)
{
	struct tb_announcement *what = calloc(count, sizeof(*what));
	struct tb_arena *arena = NULL;

	CHECK(what);
	for (tb_u32 i = 0; i < count; i++) {
		what[i].ifindex = i;
		what[i].family = i & 1 ? 6 : 4;
	}
	CHECK(tb_arena_build(what, count, schedule, &arena) == 0);
	free(what);
	return arena;
}

/* Let it run from `from` to `to`, a round each `step`; returns the frames sent. */
static tb_u32 run(struct tb_announcer *announcer, tb_u64 from, tb_u64 to, tb_u64 step)
{
	tb_u32 sent = 0;

	for (tb_u64 now = from; now < to; now += step) {
		for (int i = 0; i < TB_ANNOUNCE_CHUNK; i++) {
			const struct tb_announce_frame *frame = tb_announcer_next(announcer, now);

			if (!frame)
				break;
			CHECK(tb_announcer_wake(announcer) <= now);
			CHECK(frame->ifindex == announcer->at);
			tb_announcer_sent(announcer, now);
			sent++;
		}
	}
	return sent;
}

static void passes_follow_the_schedule(void)
{
	struct tb_schedule schedule = {
		.repeat_ns = {2 * MS, 5 * MS, 20 * MS}, .repeats = 3, .refresh_ns = 50 * MS};
	struct tb_arena *arena = arena_of(2, &schedule);
	struct tb_announcer announcer = {0};

	tb_announcer_load(&announcer, arena, 0);
	CHECK(run(&announcer, 0, 100 * MS, MS) == 0); /* not before the gate opens */
	CHECK(tb_announcer_wake(&announcer) == ~0ull);
	tb_announcer_start(&announcer, 100 * MS);
	CHECK(run(&announcer, 100 * MS, 101 * MS, MS / 4) == 2);
	CHECK(tb_announcer_wake(&announcer) == 102 * MS);
	CHECK(run(&announcer, 101 * MS, 103 * MS, MS / 4) == 2);
	CHECK(run(&announcer, 103 * MS, 106 * MS, MS / 4) == 2);
	CHECK(run(&announcer, 106 * MS, 121 * MS, MS / 4) == 2);
	CHECK(tb_announcer_wake(&announcer) == 170 * MS); /* refresh */
	CHECK(run(&announcer, 121 * MS, 300 * MS, MS) == 6);
	tb_announcer_stop(&announcer);
	CHECK(run(&announcer, 300 * MS, 400 * MS, MS) == 0);
	tb_arena_free(arena);
}

static void schedule_ends_without_refresh(void)
{
	struct tb_schedule schedule = {.repeat_ns = {2 * MS}, .repeats = 1};
	struct tb_arena *arena = arena_of(1, &schedule);
	struct tb_announcer announcer = {0};

	tb_announcer_load(&announcer, arena, 0);
	tb_announcer_start(&announcer, 0);
	CHECK(run(&announcer, 0, 1000 * MS, MS) == 2);
	CHECK(tb_announcer_wake(&announcer) == ~0ull);
	tb_arena_free(arena);
}

static void overdue_repeats_are_made_up_for_once(void)
{
	struct tb_schedule schedule = {.repeat_ns = {2 * MS, 5 * MS, 20 * MS, 100 * MS},
				       .repeats = 4};
	struct tb_arena *arena = arena_of(1000, &schedule);
	struct tb_announcer announcer = {0};

	/* A chunk of 16 each millisecond: a pass takes 62.5 ms, three repeats are overdue when it ends. */
	tb_announcer_load(&announcer, arena, 0);
	tb_announcer_start(&announcer, 0);
	CHECK(run(&announcer, 0, 1000 * MS, MS) == 3000);
	tb_arena_free(arena);
}

static void rate_is_kept(void)
{
	struct tb_schedule schedule = {.rate = 10000};
	struct tb_arena *arena = arena_of(5000, &schedule);
	struct tb_announcer announcer = {0};
	tb_u32 sent;

	tb_announcer_load(&announcer, arena, 0);
	tb_announcer_start(&announcer, 0);
	CHECK(run(&announcer, 0, MS / 10, MS / 100) ==
	      TB_ANNOUNCE_CHUNK); /* the first chunk at once */
	sent = run(&announcer, MS / 10, 100 * MS, MS / 100);
	CHECK(sent > 950 && sent <= 1000);
	tb_announcer_retry(&announcer, 100 * MS);
	CHECK(tb_announcer_next(&announcer, 100 * MS) == NULL);
	CHECK(tb_announcer_wake(&announcer) > 100 * MS);
	CHECK(tb_announcer_next(&announcer, 102 * MS) != NULL);
	tb_arena_free(arena);
}

static void another_arena_begins_anew(void)
{
	struct tb_schedule schedule = {0};
	struct tb_arena *many = arena_of(100, &schedule);
	struct tb_arena *few = arena_of(3, &schedule);
	struct tb_arena *none = arena_of(0, &schedule);
	struct tb_announcer announcer = {0};

	tb_announcer_load(&announcer, many, 0);
	tb_announcer_start(&announcer, 0);
	CHECK(run(&announcer, 0, 2, 1) == 2 * TB_ANNOUNCE_CHUNK);
	tb_announcer_load(&announcer, few, 10);
	CHECK(run(&announcer, 10, 20, 1) == 3);
	tb_announcer_load(&announcer, none, 20);
	CHECK(run(&announcer, 20, 30, 1) == 0);
	tb_arena_free(many);
	tb_arena_free(few);
	tb_arena_free(none);
}

static void the_same_frames_are_not_announced_anew(void)
{
	struct tb_schedule slow = {.repeat_ns = {2 * MS}, .repeats = 1, .refresh_ns = 50 * MS};
	struct tb_schedule quick = {.repeat_ns = {2 * MS}, .repeats = 1, .refresh_ns = 10 * MS};
	struct tb_arena *first = arena_of(20, &slow);
	struct tb_arena *second = arena_of(20, &quick);
	struct tb_announcer announcer = {0};

	tb_announcer_load(&announcer, first, 0);
	tb_announcer_start(&announcer, 0);
	CHECK(run(&announcer, 0, 1, 1) == TB_ANNOUNCE_CHUNK);
	tb_announcer_load(&announcer, second, 1); /* within a pass, which goes on */
	CHECK(run(&announcer, 1, MS, MS / 4) == 20 - TB_ANNOUNCE_CHUNK);
	tb_announcer_load(&announcer, first, MS);
	CHECK(run(&announcer, MS, 6 * MS, MS / 4) == 20); /* the repeat */
	tb_announcer_load(&announcer, second, 6 * MS);
	CHECK(tb_announcer_wake(&announcer) == 16 * MS);
	tb_announcer_load(&announcer, first, 7 * MS); /* nothing that was due is put off */
	CHECK(tb_announcer_wake(&announcer) == 16 * MS);
	CHECK(run(&announcer, 7 * MS, 16 * MS, MS) == 0);
	tb_announcer_load(&announcer, second, 16 * MS); /* due just now */
	CHECK(run(&announcer, 16 * MS, 17 * MS, MS / 4) == 20);
	tb_arena_free(first);
	tb_arena_free(second);
}

static void limits_are_kept(void)
{
	struct tb_announcement odd = {.family = 5};
	struct tb_schedule schedule = {0};
	struct tb_schedule crowded = {.repeats = TB_ANNOUNCE_REPEATS + 1};
	struct tb_arena *arena = NULL;

	CHECK(tb_arena_build(&odd, 1, &schedule, &arena) == -EINVAL);
	CHECK(tb_arena_build(&odd, 0, &crowded, &arena) == -EINVAL);
	CHECK(tb_arena_build(&odd, TB_ANNOUNCE_MAX + 1, &schedule, &arena) == -EINVAL);
	CHECK(arena == NULL);
}

int main(void)
{
	passes_follow_the_schedule();
	schedule_ends_without_refresh();
	overdue_repeats_are_made_up_for_once();
	rate_is_kept();
	another_arena_begins_anew();
	the_same_frames_are_not_announced_anew();
	limits_are_kept();
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * tb-hog: burns one CPU for a given time and then ends, whatever happens.
 *
 * For the tests that ask what load does: many at normal priority, or one under SCHED_FIFO on a chosen
 * CPU; all the time, or in turns, which makes others late and starves nobody.  The time limit is not optional: two real-time hogs would take a small machine away.
 */
#include "tool.h"

#define SECONDS_MAX 3600

static const char usage_text[] = "usage: tb-hog --seconds N [--fifo PRIORITY] [--cpu N] "
				 "[--busy-us N --idle-us N]";

int main(int argc, char **argv)
{
	int64_t seconds = 0;
	int priority = 0;
	int64_t cpu = -1;
	int64_t busy_us = 0;
	int64_t idle_us = 0;

	for (int i = 1; i < argc; i++) {
		if (i + 1 == argc)
			usage(usage_text);
		if (!strcmp(argv[i], "--seconds"))
			seconds = parse_number(argv[++i], "--seconds", 1, SECONDS_MAX);
		else if (!strcmp(argv[i], "--fifo"))
			priority = (int)parse_number(argv[++i], "--fifo", 0, 98);
		else if (!strcmp(argv[i], "--cpu"))
			cpu = parse_number(argv[++i], "--cpu", 0, CPU_SETSIZE - 1);
		else if (!strcmp(argv[i], "--busy-us"))
			busy_us = parse_number(argv[++i], "--busy-us", 1, NS_PER_S / NS_PER_US);
		else if (!strcmp(argv[i], "--idle-us"))
			idle_us = parse_number(argv[++i], "--idle-us", 1, NS_PER_S / NS_PER_US);
		else
			usage(usage_text);
	}
	if (!seconds || !busy_us != !idle_us)
		usage(usage_text);
	tool_stop_on_signals();
	if (cpu >= 0) {
		cpu_set_t only;

		CPU_ZERO(&only);
		CPU_SET((size_t)cpu, &only);
		if (sched_setaffinity(0, sizeof(only), &only))
			die("sched_setaffinity");
	}
	int64_t until = clock_ns(TOOL_CLOCK) + seconds * NS_PER_S;
	set_fifo(priority);
	struct timespec idle = {.tv_sec = idle_us * NS_PER_US / NS_PER_S,
				.tv_nsec = idle_us * NS_PER_US % NS_PER_S};

	for (int64_t now = clock_ns(TOOL_CLOCK); !tool_stopped && now < until;) {
		int64_t turn = busy_us ? now + busy_us * NS_PER_US : until;

		while (!tool_stopped && now < turn && now < until)
			now = clock_ns(TOOL_CLOCK);
		if (idle_us)
			nanosleep(&idle, NULL);
		now = clock_ns(TOOL_CLOCK);
	}
	return 0;
}

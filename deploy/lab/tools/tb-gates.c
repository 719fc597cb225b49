// SPDX-License-Identifier: Apache-2.0
/*
 * tb-gates: watches the gates of both nodes from outside their agents, and writes down every opening
 * and shutting.
 *
 * The gate is one word in a pinned map, and a namespace is no machine: both nodes' maps can be mapped
 * here and compared at one moment.  That shows what no capture can: who was permitted to serve, also when
 * nothing was sent, and whether a gate that shut did so because its lease ran out or because a claim
 * fenced it.  A line of output is
 *
 *     AT_NS NODE open|shut TERM FENCE_BELOW OPEN_UNTIL WHY
 *
 * with CLOCK_BOOTTIME and, for a shut gate, why: lease, fence, contest or term (the engine's own doing, which
 * it also does within a tick of being fenced: then only the agent can tell that it was).
 * The last line is a JSON object: samples taken, the longest pause between two of them, how often both gates were
 * looked at again, and the samples in which both gates were open with the longest such stretch.  Both count as open only if the first was
 * still open when the second had been read.
 */
#include "tool.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char usage_text[] =
	"usage: tb-gates --out FILE --gate NAME=PATH --gate NAME=PATH [--interval-us N] [--fifo P]";

#define NODES 2
#define MOMENT_NS 5000
#define LOOKS 16 /* then the last one has to do */

/* The first words of struct tb_gate in ebpf/tb_abi.h, whose layout is frozen. */
struct gate {
	uint64_t term;
	uint64_t open_until;
	uint64_t fence_below;
	uint64_t contested;
};

struct watched {
	const char *name;
	const volatile struct gate *gate;
	bool open;
};

static const volatile struct gate *map_gate(const char *path)
{
	union bpf_attr attributes;

	/* All of it: the kernel refuses a request with anything behind the fields it knows. */
	memset(&attributes, 0, sizeof(attributes));
	attributes.pathname = (uintptr_t)path;
	int fd = (int)syscall(SYS_bpf, BPF_OBJ_GET, &attributes, sizeof(attributes));

	if (fd < 0)
		die(path);
	void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		die(path);
	close(fd);
	return at;
}

/* open_until is read last and again: the engine writes the term before it. */
static bool is_open(struct gate *copy, const volatile struct gate *gate, uint64_t now)
{
	copy->term = gate->term;
	copy->open_until = gate->open_until;
	copy->fence_below = gate->fence_below;
	copy->contested = gate->contested;
	return copy->term && copy->term >= copy->fence_below && now < copy->open_until &&
	       copy->contested != copy->term;
}

static const char *why(const struct gate *gate, uint64_t now)
{
	if (!gate->term)
		return "term";
	if (now >= gate->open_until)
		return "lease";
	return gate->term < gate->fence_below ? "fence" : "contest";
}

static void note(FILE *out, struct watched *node, const struct gate *gate, bool open, uint64_t now)
{
	if (open == node->open)
		return;
	node->open = open;
	fprintf(out, "%llu %s %s %llu %llu %llu %s\n", (unsigned long long)now, node->name,
		open ? "open" : "shut", (unsigned long long)gate->term,
		(unsigned long long)gate->fence_below, (unsigned long long)gate->open_until,
		open ? "-" : why(gate, now));
	fflush(out);
}

int main(int argc, char **argv)
{
	struct watched nodes[NODES] = {0};
	const char *out_path = NULL;
	int64_t interval_us = 100;
	int priority = 0, count = 0;

	for (int i = 1; i < argc; i++) {
		if (i + 1 == argc)
			usage(usage_text);
		if (!strcmp(argv[i], "--out")) {
			out_path = argv[++i];
		} else if (!strcmp(argv[i], "--gate") && count < NODES) {
			char *path = strchr(argv[++i], '=');

			if (!path)
				usage(usage_text);
			*path = '\0';
			nodes[count].name = argv[i];
			nodes[count++].gate = map_gate(path + 1);
		} else if (!strcmp(argv[i], "--interval-us")) {
			interval_us = parse_number(argv[++i], "--interval-us", 20, 1000000);
		} else if (!strcmp(argv[i], "--fifo")) {
			priority = (int)parse_number(argv[++i], "--fifo", 0, 98);
		} else {
			usage(usage_text);
		}
	}
	if (!out_path || count != NODES)
		usage(usage_text);
	FILE *out = fopen(out_path, "we");
	if (!out)
		die(out_path);

	tool_stop_on_signals();
	set_fifo(priority);
	printf("ready\n");
	fflush(stdout);

	int64_t samples = 0, looks_again = 0, both = 0, both_since = 0, both_longest = 0,
		pause_longest = 0;
	int64_t next = clock_ns(TOOL_CLOCK), last = next;
	while (!tool_stopped) {
		sleep_until_ns(next);
		struct gate first, second, again;
		bool first_open = false, second_open = false;
		int64_t now = 0;

		for (int i = 0; i < LOOKS; i++) {
			now = clock_ns(TOOL_CLOCK);
			first_open = is_open(&first, nodes[0].gate, (uint64_t)now);
			second_open = is_open(&second, nodes[1].gate, (uint64_t)now);
			if (clock_ns(TOOL_CLOCK) - now <= MOMENT_NS)
				break;
			looks_again++;
		}
		if (now - last > pause_longest)
			pause_longest = now - last;
		last = now;
		samples++;
		note(out, &nodes[0], &first, first_open, (uint64_t)now);
		note(out, &nodes[1], &second, second_open, (uint64_t)now);
		if (first_open && second_open &&
		    is_open(&again, nodes[0].gate, (uint64_t)clock_ns(TOOL_CLOCK)) &&
		    again.term == first.term) {
			both++;
			if (!both_since)
				both_since = now;
			if (now - both_since > both_longest)
				both_longest = now - both_since;
		} else {
			both_since = 0;
		}
		next += interval_us * NS_PER_US;
		if (next < now)
			next = now + interval_us * NS_PER_US;
	}
	fprintf(out,
		"{\"samples\": %lld, \"both_open\": %lld, \"both_longest_ns\": %lld, "
		"\"pause_longest_ns\": %lld, \"looks_again\": %lld}\n",
		(long long)samples, (long long)both, (long long)both_longest,
		(long long)pause_longest, (long long)looks_again);
	return fclose(out) ? 1 : 0;
}

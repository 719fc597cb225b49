// SPDX-License-Identifier: Apache-2.0
/*
 * tb-late: how late this machine wakes a real-time thread, so that every figure can be read beside it.
 *
 * One thread under SCHED_FIFO sleeps until a moment, notes how late it woke, and so on; nothing is
 * allocated in between.  What it prints is a JSON object with quantiles in nanoseconds, and what
 * this bare loop costs in percent of a processor.  Where it runs is the scheduler's choice unless
 * --cpu says otherwise.
 */
#include "tool.h"

#include <sys/mman.h>
#include <sys/resource.h>

#define SECONDS_MAX 900

static const char usage_text[] =
	"usage: tb-late --seconds N [--interval-us N] [--fifo PRIORITY] [--cpu N]";

static int by_value(const void *left, const void *right)
{
	int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;

	return (a > b) - (a < b);
}

static double cpu_s(void)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
	       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static int64_t quantile(const int64_t *sorted, int64_t count, int64_t per_mille)
{
	int64_t at = (count * per_mille + 999) / 1000;

	return sorted[at > 0 ? at - 1 : 0];
}

int main(int argc, char **argv)
{
	int64_t seconds = 0, interval_us = 200, cpu = -1;
	int priority = 90;

	for (int i = 1; i < argc; i++) {
		if (i + 1 == argc)
			usage(usage_text);
		if (!strcmp(argv[i], "--seconds"))
			seconds = parse_number(argv[++i], "--seconds", 1, SECONDS_MAX);
		else if (!strcmp(argv[i], "--interval-us"))
			interval_us = parse_number(argv[++i], "--interval-us", 20, 1000000);
		else if (!strcmp(argv[i], "--fifo"))
			priority = (int)parse_number(argv[++i], "--fifo", 0, 98);
		else if (!strcmp(argv[i], "--cpu"))
			cpu = parse_number(argv[++i], "--cpu", 0, CPU_SETSIZE - 1);
		else
			usage(usage_text);
	}
	if (!seconds)
		usage(usage_text);

	int64_t capacity = seconds * NS_PER_S / (interval_us * NS_PER_US) + 1;
	int64_t *late = calloc((size_t)capacity, sizeof(*late));
	if (!late || mlockall(MCL_CURRENT | MCL_FUTURE))
		die("memory");
	if (cpu >= 0) {
		cpu_set_t only;

		CPU_ZERO(&only);
		CPU_SET((size_t)cpu, &only);
		if (sched_setaffinity(0, sizeof(only), &only))
			die("sched_setaffinity");
	}
	tool_stop_on_signals();
	set_fifo(priority);

	int64_t count = 0, above_ms = 0;
	int64_t next = clock_ns(TOOL_CLOCK) + interval_us * NS_PER_US;
	int64_t until = next + seconds * NS_PER_S;
	double cpu_before = cpu_s();
	while (!tool_stopped && count < capacity && next < until) {
		sleep_until_ns(next);
		int64_t now = clock_ns(TOOL_CLOCK);

		late[count] = now - next;
		above_ms += late[count] > 1000 * NS_PER_US;
		count++;
		next += interval_us * NS_PER_US;
		if (next < now)
			next = now + interval_us * NS_PER_US;
	}
	if (!count)
		return 1;
	double cpu_percent = 100 * (cpu_s() - cpu_before) / (double)seconds;
	qsort(late, (size_t)count, sizeof(*late), by_value);
	printf("{\"samples\": %lld, \"p50_ns\": %lld, \"p99_ns\": %lld, \"p999_ns\": %lld, "
	       "\"max_ns\": %lld, \"above_1ms\": %lld, \"cpu_percent\": %.1f}\n",
	       (long long)count, (long long)quantile(late, count, 500),
	       (long long)quantile(late, count, 990), (long long)quantile(late, count, 999),
	       (long long)late[count - 1], (long long)above_ms, cpu_percent);
	return 0;
}

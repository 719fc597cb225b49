// SPDX-License-Identifier: Apache-2.0
/*
 * tb-late: how late this machine wakes a real-time thread, and what that costs, so that every figure
 * can be read beside it.
 *
 * One thread under SCHED_FIFO sleeps until a moment, notes how late it woke, and so on; nothing is
 * allocated in between.  What it prints is a JSON object with quantiles in nanoseconds, and what
 * this bare loop costs in percent of a processor.  Where it runs is the scheduler's choice unless
 * --cpu says otherwise.
 *
 * With --note-above-us each wake-up later than that is listed: [when on CLOCK_BOOTTIME, how late], so
 * that what else happened at that moment can be told from what the machine did.
 *
 * --method armed sleeps as Twinbeat's engine does: on a futex, with the wake-up after the next one
 * always armed on a second timer, so that the interrupt that ends a sleep programs the local timer
 * for the next.  --hold-latency keeps the processors out of deep sleep meanwhile.
 *
 * With --device and --frame (up to DEVICES_MAX times, in pairs) each wake-up also sends a frame:
 * the difference to the same loop without them is what sending costs here, the switches and the
 * receiver's program included, which run on the sender's time over veth.
 */
#include "tool.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* Nothing here is compared with anybody else's stamps, and a futex knows this clock. */
#define LATE_CLOCK CLOCK_MONOTONIC

#define MS_MAX 900000
#define DEVICES_MAX 4
#define LENGTH_MAX 1514
#define NOTED_MAX 4096
#define SYSCALLS 20000
#define PROGRAMMINGS 200
#define NEAR_NS (40 * NS_PER_US)
#define FAR_NS (20 * NS_PER_S)

static const char usage_text[] =
	"usage: tb-late --ms N [--interval-us N] [--fifo PRIORITY] [--cpu N]\n"
	"               [--method sleep|armed] [--hold-latency 0|1] [--note-above-us N]\n"
	"               [--device IFACE --frame HEX]...";

struct device {
	int fd;
	size_t length;
	unsigned char frame[LENGTH_MAX];
};

struct options {
	int64_t ms, interval_ns, cpu;
	int64_t note_above_ns; /* 0 = none is listed */
	int priority;
	bool armed, hold_latency;
	struct device device[DEVICES_MAX];
	size_t devices;
};

struct noted {
	int64_t at_ns, late_ns;
};

struct sleeper {
	bool armed;
	int ahead[2]; /* timerfds, armed in turn and never read */
	unsigned int turn;
	uint32_t word; /* nobody ever wakes it */
};

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

static struct timespec timespec_of(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

static int make_timer(void)
{
	int fd = timerfd_create(LATE_CLOCK, TFD_CLOEXEC | TFD_NONBLOCK);

	if (fd < 0)
		die("timerfd_create");
	return fd;
}

static void arm(int fd, int64_t when)
{
	struct itimerspec value = {.it_value = timespec_of(when)};

	if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &value, NULL))
		die("timerfd_settime");
}

/* Until `when`; after that probably `interval_ns` more is waited for. */
static void sleep_until(struct sleeper *sleeper, int64_t when, int64_t interval_ns)
{
	struct timespec until = timespec_of(when);

	if (!sleeper->armed) {
		clock_nanosleep(LATE_CLOCK, TIMER_ABSTIME, &until, NULL);
		return;
	}
	arm(sleeper->ahead[sleeper->turn], when + interval_ns);
	sleeper->turn ^= 1;
	syscall(SYS_futex, &sleeper->word, FUTEX_WAIT_BITSET_PRIVATE, 0, &until, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

static void open_device(struct device *device, const char *name)
{
	int on = 1;
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_ifindex = (int)if_nametoindex(name),
	};

	device->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (!address.sll_ifindex || device->fd < 0 ||
	    bind(device->fd, (struct sockaddr *)&address, sizeof(address)))
		die(name);
	if (setsockopt(device->fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)))
		die("PACKET_QDISC_BYPASS");
}

/* Two hexadecimal digits a byte. */
static void read_frame(struct device *device, const char *text)
{
	unsigned int byte;

	while (device->length < LENGTH_MAX && sscanf(text + 2 * device->length, "%2x", &byte) == 1)
		device->frame[device->length++] = (unsigned char)byte;
	if (device->length < 14 || text[2 * device->length])
		usage("--frame is not a frame in hexadecimal digits");
}

/* The plainest system call there is: what entering the kernel costs. */
static int64_t syscall_ns(void)
{
	int64_t before = clock_ns(LATE_CLOCK);

	for (int i = 0; i < SYSCALLS; i++)
		syscall(SYS_getppid);
	return (clock_ns(LATE_CLOCK) - before) / SYSCALLS;
}

/* The median time to arm a timer so far ahead. */
static int64_t arming_ns(int fd, int64_t ahead_ns)
{
	static int64_t took[PROGRAMMINGS];

	for (int i = 0; i < PROGRAMMINGS; i++) {
		struct itimerspec none = {0};
		int64_t before = clock_ns(LATE_CLOCK);

		arm(fd, before + ahead_ns);
		took[i] = clock_ns(LATE_CLOCK) - before;
		timerfd_settime(fd, 0, &none, NULL);
	}
	qsort(took, PROGRAMMINGS, sizeof(*took), by_value);
	return quantile(took, PROGRAMMINGS, 500);
}

/* What a timer costs that the processor's own has to be programmed for, beyond one that waits in line. */
static int64_t programming_ns(void)
{
	int fd = make_timer();
	int64_t difference = arming_ns(fd, NEAR_NS) - arming_ns(fd, FAR_NS);

	close(fd);
	return difference > 0 ? difference : 0;
}

static void hold_latency(void)
{
	int32_t none = 0;
	/* Held for as long as the file is open: until the end. */
	int fd = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, &none, sizeof(none)) != sizeof(none))
		die("/dev/cpu_dma_latency");
}

static void parse(struct options *options, int argc, char **argv)
{
	size_t frames = 0;

	for (int i = 1; i < argc; i++) {
		if (i + 1 == argc)
			usage(usage_text);
		if (!strcmp(argv[i], "--ms"))
			options->ms = parse_number(argv[++i], "--ms", 1, MS_MAX);
		else if (!strcmp(argv[i], "--interval-us"))
			options->interval_ns =
				parse_number(argv[++i], "--interval-us", 20, 1000000) * NS_PER_US;
		else if (!strcmp(argv[i], "--fifo"))
			options->priority = (int)parse_number(argv[++i], "--fifo", 0, 98);
		else if (!strcmp(argv[i], "--cpu"))
			options->cpu = parse_number(argv[++i], "--cpu", 0, CPU_SETSIZE - 1);
		else if (!strcmp(argv[i], "--hold-latency"))
			options->hold_latency = parse_number(argv[++i], "--hold-latency", 0, 1);
		else if (!strcmp(argv[i], "--note-above-us"))
			options->note_above_ns =
				parse_number(argv[++i], "--note-above-us", 1, 1000000) * NS_PER_US;
		else if (!strcmp(argv[i], "--method") && !strcmp(argv[i + 1], "sleep"))
			options->armed = false, i++;
		else if (!strcmp(argv[i], "--method") && !strcmp(argv[i + 1], "armed"))
			options->armed = true, i++;
		else if (!strcmp(argv[i], "--device") && options->devices < DEVICES_MAX)
			open_device(&options->device[options->devices++], argv[++i]);
		else if (!strcmp(argv[i], "--frame") && frames < options->devices)
			read_frame(&options->device[frames++], argv[++i]);
		else
			usage(usage_text);
	}
	if (!options->ms || frames != options->devices)
		usage(usage_text);
}

static void print_noted(const struct noted *noted, size_t count)
{
	printf("\"noted\": [");
	for (size_t i = 0; i < count; i++)
		printf("%s[%lld, %lld]", i ? ", " : "", (long long)noted[i].at_ns,
		       (long long)noted[i].late_ns);
	printf("]");
}

int main(int argc, char **argv)
{
	static struct noted noted[NOTED_MAX];
	static struct options options = {.interval_ns = 200 * NS_PER_US, .cpu = -1, .priority = 90};

	parse(&options, argc, argv);

	int64_t capacity = options.ms * 1000 * NS_PER_US / options.interval_ns + 1;
	int64_t *late = calloc((size_t)capacity, sizeof(*late));
	if (!late || mlockall(MCL_CURRENT | MCL_FUTURE))
		die("memory");
	if (options.cpu >= 0) {
		cpu_set_t only;

		CPU_ZERO(&only);
		CPU_SET((size_t)options.cpu, &only);
		if (sched_setaffinity(0, sizeof(only), &only))
			die("sched_setaffinity");
	}
	if (options.hold_latency)
		hold_latency();
	tool_stop_on_signals();
	set_fifo(options.priority);

	struct sleeper sleeper = {.armed = options.armed, .ahead = {make_timer(), make_timer()}};
	int64_t a_syscall = syscall_ns(), a_programming = programming_ns();
	int64_t count = 0, above_ms = 0, unsent = 0;
	size_t notes = 0;
	int64_t begun = clock_ns(LATE_CLOCK);
	int64_t next = begun + options.interval_ns;
	int64_t until = next + options.ms * 1000 * NS_PER_US;
	double cpu_before = cpu_s();
	while (!tool_stopped && count < capacity && next < until) {
		sleep_until(&sleeper, next, options.interval_ns);
		int64_t now = clock_ns(LATE_CLOCK);

		if (now < next)
			continue; /* a signal */
		late[count] = now - next;
		above_ms += late[count] > 1000 * NS_PER_US;
		if (options.note_above_ns && late[count] > options.note_above_ns &&
		    notes < NOTED_MAX)
			noted[notes++] = (struct noted){clock_ns(TOOL_CLOCK), late[count]};
		count++;
		for (size_t i = 0; i < options.devices; i++)
			unsent += send(options.device[i].fd, options.device[i].frame,
				       options.device[i].length, MSG_DONTWAIT) < 0;
		next += options.interval_ns;
		if (next < now)
			next = now + options.interval_ns;
	}
	if (!count)
		return 1;
	double cpu = cpu_s() - cpu_before;
	double seconds = (double)(clock_ns(LATE_CLOCK) - begun) / NS_PER_S;
	qsort(late, (size_t)count, sizeof(*late), by_value);
	printf("{\"samples\": %lld, \"p50_ns\": %lld, \"p90_ns\": %lld, \"p99_ns\": %lld, "
	       "\"p999_ns\": %lld, \"max_ns\": %lld, \"above_1ms\": %lld, \"seconds\": %.3f, "
	       "\"cpu_percent\": %.2f, \"wake_ns\": %.0f, \"syscall_ns\": %lld, "
	       "\"programming_ns\": %lld, \"unsent\": %lld, ",
	       (long long)count, (long long)quantile(late, count, 500),
	       (long long)quantile(late, count, 900), (long long)quantile(late, count, 990),
	       (long long)quantile(late, count, 999), (long long)late[count - 1],
	       (long long)above_ms, seconds, 100 * cpu / seconds, 1e9 * cpu / (double)count,
	       (long long)a_syscall, (long long)a_programming, (long long)unsent);
	print_noted(noted, notes);
	printf("}\n");
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * tb-probe: the client whose patience is measured.
 *
 * Sends a numbered datagram through the VIP (or through several in turn) every interval, and records
 * for each when it went out and when its answer arrived, into a file that others may read while it
 * grows (twinlab/probe.py knows how).  What an outage is, is defined there, from these two times.
 *
 * Send times are read just before the send; arrival times are the kernel's own stamps, taken when
 * the frame reaches the client's interface, so how soon this process looks at them doesn't matter:
 * the receiving thread looks every half millisecond and takes everything there is.  Nothing here
 * polls busily.  Of several answers to a probe the first counts; further ones are counted as
 * duplicates (two gateways that forward the same probe make one).
 *
 * A sender that was kept from running does not catch up: it goes on from now.  The record shows when
 * that was, so an outage can be told from a client that was asleep.
 */
#include "tool.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEADER_BYTES 4096
#define BATCH 64
#define HARVEST_NS (500 * NS_PER_US)
/* Enabling receive stamps takes effect a moment later, in a kernel worker. */
#define WARM_UP_NS (20 * 1000 * NS_PER_US)
#define PAYLOAD_MAGIC 0x54425042u
#define VIPS_MAX 65536

static const char usage_text[] = "usage: tb-probe --out FILE (--vip ADDRESS | --vips-file FILE) "
				 "[--port N] [--interval-us N]\n"
				 "                [--seconds N] [--fifo PRIORITY]";

struct record {
	int64_t sent_ns;     /* CLOCK_BOOTTIME; 0 = not sent yet */
	int64_t answered_ns; /* the same clock; 0 = no answer */
};

struct header {
	char magic[8]; /* "TBPROBE1" */
	uint32_t header_bytes;
	uint32_t vips;
	int64_t interval_ns;
	int64_t capacity;
	int64_t started_ns;
	_Atomic int64_t sent;
	_Atomic int64_t answered;
	_Atomic int64_t duplicates;
	_Atomic int64_t strays;
	_Atomic int64_t send_errors;
	_Atomic int64_t lateness_max_ns;
	_Atomic int64_t finished;
};

_Static_assert(sizeof(struct record) == 16, "the reader knows this size");
_Static_assert(sizeof(struct header) == 96, "the reader knows this size");

struct payload {
	uint32_t magic;
	uint32_t run; /* tells this run's answers from a former run's late ones */
	uint64_t number;
	uint64_t reserved[2];
};

struct probe {
	struct header *header;
	struct record *records;
	struct sockaddr_storage *vips;
	socklen_t address_length;
	uint32_t run;
	int fd;
	_Atomic bool sender_done;
};

static void add_vip(struct probe *probe, const char *address, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST};
	struct addrinfo *found;
	uint32_t *count = &probe->header->vips;

	if (*count == VIPS_MAX || getaddrinfo(address, port, &hints, &found)) {
		fprintf(stderr, "%s: not an address, or too many\n", address);
		exit(2);
	}
	memcpy(&probe->vips[*count], found->ai_addr, found->ai_addrlen);
	if (*count && probe->address_length != found->ai_addrlen)
		usage("the VIPs are of two families");
	probe->address_length = found->ai_addrlen;
	(*count)++;
	freeaddrinfo(found);
}

static void add_vips_from(struct probe *probe, const char *path, const char *port)
{
	FILE *file = fopen(path, "re");
	char line[128];

	if (!file)
		die(path);
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, " #\r\n")] = '\0';
		if (*line)
			add_vip(probe, line, port);
	}
	fclose(file);
}

static void *map_file(const char *path, int64_t capacity)
{
	size_t size = HEADER_BYTES + (size_t)capacity * sizeof(struct record);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	/* The file is sparse: only what was probed takes room. */
	if (fd < 0 || ftruncate(fd, (off_t)size))
		die(path);
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		die("mmap");
	close(fd);
	return at;
}

static int open_socket(sa_family_t family)
{
	int on = 1;
	int room = 8 << 20;
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)))
		die("socket");
	return fd;
}

static int64_t stamp_of(struct msghdr *message)
{
	struct cmsghdr *control = CMSG_FIRSTHDR(message);

	for (; control; control = CMSG_NXTHDR(message, control)) {
		if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_TIMESTAMPNS) {
			struct timespec at;

			memcpy(&at, CMSG_DATA(control), sizeof(at));
			return at.tv_sec * NS_PER_S + at.tv_nsec;
		}
	}
	return 0;
}

static void note_answer(struct probe *probe, const struct payload *answer, size_t length,
			int64_t at_ns)
{
	struct header *header = probe->header;
	int64_t number = (int64_t)answer->number;

	if (length != sizeof(*answer) || answer->magic != PAYLOAD_MAGIC ||
	    answer->run != probe->run || number < 0 || number >= atomic_load(&header->sent)) {
		atomic_fetch_add(&header->strays, 1);
		return;
	}
	struct record *record = &probe->records[number];
	if (record->answered_ns) {
		atomic_fetch_add(&header->duplicates, 1);
		return;
	}
	record->answered_ns = at_ns;
	atomic_fetch_add(&header->answered, 1);
}

/* Everything that has arrived since the last look. */
static void harvest(struct probe *probe)
{
	static struct payload answers[BATCH];
	static char controls[BATCH][CMSG_SPACE(sizeof(struct timespec))];
	static struct iovec vectors[BATCH];
	static struct mmsghdr messages[BATCH];
	int received;

	do {
		for (int i = 0; i < BATCH; i++) {
			vectors[i] = (struct iovec){&answers[i], sizeof(answers[i])};
			messages[i].msg_hdr = (struct msghdr){
				.msg_iov = &vectors[i],
				.msg_iovlen = 1,
				.msg_control = controls[i],
				.msg_controllen = sizeof(controls[i]),
			};
		}
		received = recvmmsg(probe->fd, messages, BATCH, MSG_DONTWAIT, NULL);
		if (received <= 0)
			return;
		int64_t offset = realtime_offset_ns();

		for (int i = 0; i < received; i++)
			note_answer(probe, &answers[i], messages[i].msg_len,
				    stamp_of(&messages[i].msg_hdr) - offset);
	} while (received == BATCH);
}

static void *receive(void *argument)
{
	struct probe *probe = argument;
	int64_t next = clock_ns(TOOL_CLOCK);

	while (!atomic_load(&probe->sender_done)) {
		next += HARVEST_NS;
		sleep_until_ns(next);
		harvest(probe);
	}
	return NULL;
}

static void send_all(struct probe *probe, int64_t until_ns)
{
	struct header *header = probe->header;
	struct payload payload = {.magic = PAYLOAD_MAGIC, .run = probe->run};
	int64_t next = clock_ns(TOOL_CLOCK);
	uint32_t vip = 0;

	for (int64_t number = 0; number < header->capacity && !tool_stopped; number++) {
		sleep_until_ns(next);
		int64_t now = clock_ns(TOOL_CLOCK);

		if (until_ns && now >= until_ns)
			break;
		if (now - next > atomic_load(&header->lateness_max_ns))
			atomic_store(&header->lateness_max_ns, now - next);
		payload.number = (uint64_t)number;
		probe->records[number].sent_ns = now;
		/* Published before the send: the answer may be there before the call returns. */
		atomic_store(&header->sent, number + 1);
		if (sendto(probe->fd, &payload, sizeof(payload), 0,
			   (struct sockaddr *)&probe->vips[vip], probe->address_length) < 0)
			atomic_fetch_add(&header->send_errors, 1);
		vip = vip + 1 == header->vips ? 0 : vip + 1;
		next += header->interval_ns;
		if (next < now)
			next = now + header->interval_ns;
	}
}

int main(int argc, char **argv)
{
	const char *out = NULL, *vip = NULL, *vips_file = NULL, *port = "7777";
	int64_t interval_us = 200;
	int64_t seconds = 0;
	int priority = 0;
	struct header header = {.magic = {'T', 'B', 'P', 'R', 'O', 'B', 'E', '1'}};
	struct probe probe = {.header = &header};

	for (int i = 1; i < argc; i++) {
		if (i + 1 == argc)
			usage(usage_text);
		if (!strcmp(argv[i], "--out"))
			out = argv[++i];
		else if (!strcmp(argv[i], "--vip"))
			vip = argv[++i];
		else if (!strcmp(argv[i], "--vips-file"))
			vips_file = argv[++i];
		else if (!strcmp(argv[i], "--port"))
			port = argv[++i];
		else if (!strcmp(argv[i], "--interval-us"))
			interval_us = parse_number(argv[++i], "--interval-us", 20, 10000000);
		else if (!strcmp(argv[i], "--seconds"))
			seconds = parse_number(argv[++i], "--seconds", 0, 86400);
		else if (!strcmp(argv[i], "--fifo"))
			priority = (int)parse_number(argv[++i], "--fifo", 0, 98);
		else
			usage(usage_text);
	}
	if (!out || !vip == !vips_file)
		usage(usage_text);

	probe.vips = calloc(VIPS_MAX, sizeof(*probe.vips));
	if (!probe.vips)
		die("calloc");
	if (vip)
		add_vip(&probe, vip, port);
	else
		add_vips_from(&probe, vips_file, port);
	if (!header.vips)
		usage("no VIP to probe");

	header.header_bytes = HEADER_BYTES;
	header.interval_ns = interval_us * NS_PER_US;
	header.capacity = (seconds ? seconds : 3600) * NS_PER_S / header.interval_ns + 1;
	header.started_ns = clock_ns(TOOL_CLOCK) + WARM_UP_NS;
	probe.run = (uint32_t)header.started_ns ^ (uint32_t)getpid() << 20;
	probe.fd = open_socket(probe.vips[0].ss_family);
	char *at = map_file(out, header.capacity);
	/* The magic comes last: who reads it reads a whole header. */
	memcpy(at + sizeof(header.magic), (char *)&header + sizeof(header.magic),
	       sizeof(header) - sizeof(header.magic));
	atomic_thread_fence(memory_order_release);
	memcpy(at, header.magic, sizeof(header.magic));
	probe.header = (struct header *)at;
	probe.records = (struct record *)(at + HEADER_BYTES);

	tool_stop_on_signals();
	pthread_t receiver;
	errno = pthread_create(&receiver, NULL, receive, &probe);
	if (errno)
		die("pthread_create");
	/* After the thread was made: only the sender is in a hurry. */
	set_fifo(priority);
	sleep_until_ns(header.started_ns);
	send_all(&probe, seconds ? header.started_ns + seconds * NS_PER_S : 0);

	/* The last answers are still on their way. */
	sleep_until_ns(clock_ns(TOOL_CLOCK) + 20 * 1000 * NS_PER_US);
	atomic_store(&probe.sender_done, true);
	pthread_join(receiver, NULL);
	harvest(&probe);
	atomic_store(&probe.header->finished, 1);
	return 0;
}

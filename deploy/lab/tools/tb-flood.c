// SPDX-License-Identifier: Apache-2.0
/*
 * tb-flood: sends given frames over and over, at a given rate, for a given time.
 *
 * What the frames are is none of its business (twinlab/flood.py makes them: forged heartbeats,
 * recorded ones, unrelated ones).  The file holds frames of equal length, one after the other.  With
 * --count-at, a 64-bit big-endian number at that offset grows with each frame, so that forged frames
 * look as fresh as they can.  Sent from the switch's side of a cable they reach the node as if a
 * station in its network had sent them, at the least cost for the machine.
 *
 * Prints the number of frames sent when it ends, and of those that the device had no room for.
 */
#include "tool.h"

#include <arpa/inet.h>
#include <endian.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define FRAMES_MAX 4096
#define LENGTH_MAX 1514
#define ROUND_NS (500 * NS_PER_US)
#define SECONDS_MAX 120

static const char usage_text[] =
	"usage: tb-flood --device IFACE --frames FILE --length BYTES --rate FRAMES_PER_SECOND\n"
	"                --seconds N [--count-at OFFSET --count-from N]";

struct flood {
	unsigned char *frames;
	size_t length;
	size_t count;
	int64_t count_at;
	uint64_t number;
	size_t next;
	int fd;
};

static void read_frames(struct flood *flood, const char *path)
{
	FILE *file = fopen(path, "re");

	flood->frames = malloc(FRAMES_MAX * flood->length);
	if (!file || !flood->frames)
		die(path);
	flood->count = fread(flood->frames, flood->length, FRAMES_MAX, file);
	fclose(file);
	if (!flood->count)
		usage("the file holds no frame of that length");
}

static int open_device(const char *device)
{
	int on = 1;
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_ifindex = (int)if_nametoindex(device),
	};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (!address.sll_ifindex || fd < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die(device);
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)))
		die("PACKET_QDISC_BYPASS");
	return fd;
}

/* Sends up to BATCH frames; returns how many went out. */
static int send_batch(struct flood *flood, int wanted)
{
	static unsigned char copies[BATCH][LENGTH_MAX];
	static struct iovec vectors[BATCH];
	static struct mmsghdr messages[BATCH];

	for (int i = 0; i < wanted; i++) {
		memcpy(copies[i], flood->frames + flood->next * flood->length, flood->length);
		if (flood->count_at >= 0) {
			uint64_t number = htobe64(flood->number++);

			memcpy(copies[i] + flood->count_at, &number, sizeof(number));
		}
		flood->next = (flood->next + 1) % flood->count;
		vectors[i] = (struct iovec){copies[i], flood->length};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
	}
	return sendmmsg(flood->fd, messages, (unsigned int)wanted, 0);
}

int main(int argc, char **argv)
{
	struct flood flood = {.count_at = -1, .number = 1};
	const char *device = NULL, *path = NULL;
	int64_t rate = 0, seconds = 0;

	for (int i = 1; i < argc; i++) {
		if (i + 1 == argc)
			usage(usage_text);
		if (!strcmp(argv[i], "--device"))
			device = argv[++i];
		else if (!strcmp(argv[i], "--frames"))
			path = argv[++i];
		else if (!strcmp(argv[i], "--length"))
			flood.length = (size_t)parse_number(argv[++i], "--length", 14, LENGTH_MAX);
		else if (!strcmp(argv[i], "--rate"))
			rate = parse_number(argv[++i], "--rate", 1, 5000000);
		else if (!strcmp(argv[i], "--seconds"))
			seconds = parse_number(argv[++i], "--seconds", 1, SECONDS_MAX);
		else if (!strcmp(argv[i], "--count-at"))
			flood.count_at = parse_number(argv[++i], "--count-at", 0, LENGTH_MAX - 8);
		else if (!strcmp(argv[i], "--count-from"))
			flood.number =
				(uint64_t)parse_number(argv[++i], "--count-from", 0, INT64_MAX);
		else
			usage(usage_text);
	}
	if (!device || !path || !flood.length || !rate || !seconds ||
	    flood.count_at > (int64_t)flood.length - 8)
		usage(usage_text);
	read_frames(&flood, path);
	flood.fd = open_device(device);
	tool_stop_on_signals();

	int64_t begun = clock_ns(TOOL_CLOCK);
	int64_t until = begun + seconds * NS_PER_S;
	int64_t sent = 0, refused = 0;
	for (int64_t now = begun; now < until && !tool_stopped; now = clock_ns(TOOL_CLOCK)) {
		/* What is owed by now; a sender that was late catches up, the rate is a mean. */
		int64_t owed = (now - begun) * rate / NS_PER_S - sent;

		while (owed > 0 && !tool_stopped) {
			int wanted = owed < BATCH ? (int)owed : BATCH;
			int done = send_batch(&flood, wanted);

			if (done <= 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
				die("sendmmsg");
			/* A batch ends at the first frame that the device had no room for. */
			if (done > 0 ? done < wanted : errno == ENOBUFS)
				refused++;
			sent += done > 0 ? done : 0;
			owed -= done > 0 ? done : 1;
		}
		sleep_until_ns(now + ROUND_NS);
	}
	printf("%lld %lld\n", (long long)sent, (long long)refused);
	return 0;
}

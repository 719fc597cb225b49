// SPDX-License-Identifier: Apache-2.0
/*
 * tb-flood: sends given frames out of one interface at a given rate, for a given time, and says how many.
 *
 * For the question what forged and replayed heartbeats do to a pair.  The frames come from a file (see
 * twinbench/forge.py): for each a little-endian 16-bit length, a 16-bit offset and the frame.  With an
 * offset other than zero the eight bytes there are different in each frame sent, so that no two forged
 * MACs are alike; without one the frame goes out as it is: a replay.
 *
 * Bounded by construction: it refuses to run outside a namespace whose loopback bears the lab's mark, for
 * longer than a minute, or faster than a million frames a second.
 */
#include "tool.h"

#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAMES_MAX 4096
#define FRAME_MAX 1514
#define BATCH 32
#define SECONDS_MAX 60
#define RATE_MAX 1000000
#define MARK "twinbeat-lab"

static const char usage_text[] =
	"usage: tb-flood --interface NAME --frames FILE --rate PER_SECOND --seconds N";

struct frame {
	uint16_t length;
	uint16_t vary;
	uint8_t data[FRAME_MAX];
	int64_t sent;
};

static struct frame *frames;
static int frame_count;

/* The lab marks its namespaces in the alias of `lo`; a flood anywhere else is a mistake. */
static void insist_on_lab(void)
{
	char alias[64] = "";
	int fd = open("/sys/class/net/lo/ifalias", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		ssize_t got = read(fd, alias, sizeof(alias) - 1);

		alias[got > 0 ? got : 0] = '\0';
		close(fd);
	}
	if (strncmp(alias, MARK, strlen(MARK))) {
		fprintf(stderr, "this is not a namespace of the lab\n");
		exit(2);
	}
}

static void read_frames(const char *path)
{
	FILE *file = fopen(path, "re");
	uint16_t head[2];

	frames = calloc(FRAMES_MAX, sizeof(*frames));
	if (!file || !frames)
		die(path);
	while (frame_count < FRAMES_MAX && fread(head, sizeof(head), 1, file) == 1) {
		struct frame *frame = &frames[frame_count++];

		frame->length = head[0];
		frame->vary = head[1];
		if (frame->length < ETH_HLEN || frame->length > FRAME_MAX ||
		    (frame->vary && frame->vary + 8 > frame->length) ||
		    fread(frame->data, frame->length, 1, file) != 1)
			usage("the file of frames is malformed");
	}
	fclose(file);
	if (!frame_count)
		usage("no frame to send");
}

static int open_socket(const char *interface)
{
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_ifindex = (int)if_nametoindex(interface),
	};
	int on = 1;
	/* Protocol 0: this socket only sends. */
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die(interface);
	return fd;
}

/* Sends up to `wanted` frames from the place where the last call stopped; returns how many went out. */
static int send_batch(int fd, int wanted)
{
	static struct mmsghdr messages[BATCH];
	static struct iovec vectors[BATCH];
	static uint8_t copies[BATCH][FRAME_MAX];
	static uint64_t number = 0x9e3779b97f4a7c15u;
	static int next;

	for (int i = 0; i < wanted; i++) {
		const struct frame *frame = &frames[(next + i) % frame_count];

		memcpy(copies[i], frame->data, frame->length);
		if (frame->vary) {
			number = number * 6364136223846793005u + 1442695040888963407u;
			memcpy(copies[i] + frame->vary, &number, sizeof(number));
		}
		vectors[i] = (struct iovec){copies[i], frame->length};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
	}
	int sent = sendmmsg(fd, messages, (unsigned int)wanted, 0);

	for (int i = 0; i < sent; i++)
		frames[(next + i) % frame_count].sent++;
	if (sent > 0)
		next = (next + sent) % frame_count;
	return sent;
}

int main(int argc, char **argv)
{
	const char *interface = NULL, *path = NULL;
	int64_t rate = 0, seconds = 0;

	for (int i = 1; i < argc; i++) {
		if (i + 1 == argc)
			usage(usage_text);
		if (!strcmp(argv[i], "--interface"))
			interface = argv[++i];
		else if (!strcmp(argv[i], "--frames"))
			path = argv[++i];
		else if (!strcmp(argv[i], "--rate"))
			rate = parse_number(argv[++i], "--rate", 1, RATE_MAX);
		else if (!strcmp(argv[i], "--seconds"))
			seconds = parse_number(argv[++i], "--seconds", 1, SECONDS_MAX);
		else
			usage(usage_text);
	}
	if (!interface || !path || !rate || !seconds)
		usage(usage_text);
	insist_on_lab();
	read_frames(path);
	int fd = open_socket(interface);

	tool_stop_on_signals();
	set_fifo(0);
	int64_t began = clock_ns(TOOL_CLOCK);
	int64_t until = began + seconds * NS_PER_S;
	int64_t sent = 0, refused = 0, now = began;
	while (!tool_stopped && now < until) {
		/* What is behind the rate is sent at once; what was refused is not made up for. */
		int64_t due = (now - began) / NS_PER_US * rate / 1000000 - sent - refused;

		if (due < BATCH) {
			sleep_until_ns(now + 50 * NS_PER_US);
		} else {
			int went = send_batch(fd, BATCH);

			if (went < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
				die("sendmmsg");
			sent += went > 0 ? went : 0;
			refused += went > 0 ? BATCH - went : BATCH;
		}
		now = clock_ns(TOOL_CLOCK);
	}
	printf("{\"sent\": %lld, \"refused\": %lld, \"elapsed_ns\": %lld, \"by_frame\": [",
	       (long long)sent, (long long)refused, (long long)(now - began));
	for (int i = 0; i < frame_count; i++)
		printf("%s%lld", i ? ", " : "", (long long)frames[i].sent);
	printf("]}\n");
	return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * tb-capture: what came into which switch port, and when.
 *
 * Frames that XDP drops or reflects on a node are invisible to a capture there, so the lab captures
 * where the cables end: on the ports of its switches, inward only.  What is recorded is what the node
 * really put on the wire (a cut node's frames are dropped before they get here).
 *
 * The output is pcapng with one interface per port, named LABEL:PORT, and nanosecond stamps of the
 * kernel (CLOCK_REALTIME); the difference to CLOCK_BOOTTIME is in the section's comment, the number
 * of frames lost in each interface's statistics at the end.  TPACKET_V3 rings keep the loss at zero
 * at any rate a lab can make.  twinlab/capture.py reads the file; so do tshark and tcpdump.
 */
#include "tool.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORTS_MAX 8
/* Many small ones: one is used up in each timeout, and a reader may be kept waiting for all of them. */
#define BLOCK_BYTES (1u << 16)
#define BLOCKS 128u
#define BLOCK_TIMEOUT_MS 10
#define SNAP_DEFAULT 128
#define SNAP_MAX 2048
#define HEARTBEAT_PORT 3003

static const char usage_text[] =
	"usage: tb-capture --out FILE --label NAME --port IFACE [--port IFACE ...] [--snap BYTES]\n"
	"                  [--seconds N] [--without-heartbeats]";

struct port {
	const char *name;
	int fd;
	char *ring;
	unsigned int block;
	uint64_t frames;
	uint64_t lost;
};

/* pcapng: blocks of 32-bit words, their length in front and behind; options end with zero. */
static void put(FILE *out, const void *data, size_t length)
{
	static const char padding[4];

	fwrite(data, 1, length, out);
	fwrite(padding, 1, -length & 3, out);
}

static void put_option(FILE *out, uint16_t code, const void *data, uint16_t length)
{
	uint16_t head[2] = {code, length};

	put(out, head, sizeof(head));
	put(out, data, length);
}

static uint32_t padded(size_t length)
{
	return (uint32_t)((length + 3) & ~(size_t)3);
}

static void put_section(FILE *out)
{
	char comment[64];
	uint16_t length = (uint16_t)snprintf(comment, sizeof(comment), "boottime_offset_ns=%lld",
					     (long long)realtime_offset_ns());
	uint32_t total = 12 + 16 + 4 + padded(length) + 4;
	uint32_t head[] = {0x0a0d0d0a, total, 0x1a2b3c4d, 1, ~0u, ~0u};

	put(out, head, sizeof(head));
	put_option(out, 1, comment, length);
	put_option(out, 0, "", 0);
	put(out, &total, 4);
}

static void put_interface(FILE *out, const char *label, const char *port, uint32_t snap)
{
	char name[64];
	uint16_t length = (uint16_t)snprintf(name, sizeof(name), "%s:%s", label, port);
	uint32_t total = 16 + 4 + padded(length) + 8 + 4 + 4;
	/* Link type 1: Ethernet. */
	uint32_t head[] = {1, total, 1, snap};
	uint8_t nanoseconds = 9;

	put(out, head, sizeof(head));
	put_option(out, 2, name, length);
	put_option(out, 9, &nanoseconds, 1);
	put_option(out, 0, "", 0);
	put(out, &total, 4);
}

static void put_statistics(FILE *out, uint32_t interface, const struct port *port)
{
	uint64_t now = (uint64_t)clock_ns(CLOCK_REALTIME);
	uint32_t total = 20 + 2 * 12 + 4 + 4;
	uint32_t head[] = {5, total, interface, (uint32_t)(now >> 32), (uint32_t)now};

	put(out, head, sizeof(head));
	put_option(out, 4, &port->frames, 8);
	put_option(out, 5, &port->lost, 8);
	put_option(out, 0, "", 0);
	put(out, &total, 4);
}

/* The kernel keeps a VLAN tag beside the frame; it is put back where it was on the wire. */
static void put_packet(FILE *out, uint32_t interface, const struct tpacket3_hdr *packet)
{
	static uint8_t frame[SNAP_MAX + 4];
	const uint8_t *data = (const uint8_t *)packet + packet->tp_mac;
	uint32_t captured = packet->tp_snaplen, original = packet->tp_len;
	uint64_t at = packet->tp_sec * (uint64_t)NS_PER_S + packet->tp_nsec;

	if (packet->tp_status & TP_STATUS_VLAN_VALID && captured >= 12) {
		uint16_t tag[2] = {htons(packet->tp_status & TP_STATUS_VLAN_TPID_VALID
						 ? packet->hv1.tp_vlan_tpid
						 : (uint16_t)ETH_P_8021Q),
				   htons((uint16_t)packet->hv1.tp_vlan_tci)};

		memcpy(frame, data, 12);
		memcpy(frame + 12, tag, 4);
		memcpy(frame + 16, data + 12, captured - 12);
		data = frame;
		captured += 4;
		original += 4;
	}
	uint32_t total = 28 + padded(captured) + 4;
	uint32_t head[] = {6,	     total,   interface, (uint32_t)(at >> 32), (uint32_t)at,
			   captured, original};

	put(out, head, sizeof(head));
	put(out, data, captured);
	put(out, &total, 4);
}

/*
 * Inward only; heartbeats (IPv4, no options, no tag) left out if asked.  Runs in the kernel, so what
 * isn't wanted costs no room in the ring.
 */
static void attach_filter(int fd, uint32_t snap, bool heartbeats)
{
	struct sock_filter inward[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, snap),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_filter inward_without_heartbeats[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 7, 0),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 4),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14 + 9),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 2),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 14 + 20 + 2),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, HEARTBEAT_PORT, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, snap),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog all = {.len = sizeof(inward) / sizeof(*inward), .filter = inward};
	struct sock_fprog some = {
		.len = sizeof(inward_without_heartbeats) / sizeof(*inward_without_heartbeats),
		.filter = inward_without_heartbeats,
	};

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, heartbeats ? &all : &some, sizeof(all)))
		die("filter");
}

static void open_port(struct port *port, uint32_t snap, bool heartbeats)
{
	int version = TPACKET_V3;
	struct tpacket_req3 request = {
		.tp_block_size = BLOCK_BYTES,
		.tp_block_nr = BLOCKS,
		.tp_frame_size = 2048,
		.tp_frame_nr = BLOCK_BYTES / 2048 * BLOCKS,
		.tp_retire_blk_tov = BLOCK_TIMEOUT_MS,
	};
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)if_nametoindex(port->name),
	};

	if (!address.sll_ifindex)
		die(port->name);
	/* Protocol 0: nothing arrives before filter and ring are in place; the bind opens it. */
	port->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (port->fd < 0)
		die("AF_PACKET");
	attach_filter(port->fd, snap, heartbeats);
	if (setsockopt(port->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) ||
	    setsockopt(port->fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)))
		die("TPACKET_V3");
	port->ring = mmap(NULL, (size_t)BLOCK_BYTES * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED,
			  port->fd, 0);
	if (port->ring == MAP_FAILED)
		die("mmap");
	if (bind(port->fd, (struct sockaddr *)&address, sizeof(address)))
		die(port->name);
}

/* What has been captured so far is in the file after each call, for who reads it meanwhile. */
static void drain(FILE *out, uint32_t interface, struct port *port)
{
	for (;;) {
		struct tpacket_block_desc *block =
			(void *)(port->ring + (size_t)port->block * BLOCK_BYTES);

		if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) &
		      TP_STATUS_USER))
			break;
		char *at = (char *)block + block->hdr.bh1.offset_to_first_pkt;

		for (uint32_t i = 0; i < block->hdr.bh1.num_pkts; i++) {
			struct tpacket3_hdr *packet = (void *)at;

			put_packet(out, interface, packet);
			port->frames++;
			at += packet->tp_next_offset;
		}
		__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		port->block = (port->block + 1) % BLOCKS;
	}
	fflush(out);
}

/* Reading the statistics resets them, hence the sum. */
static void count_lost(struct port *port)
{
	struct tpacket_stats_v3 statistics;
	socklen_t length = sizeof(statistics);

	if (!getsockopt(port->fd, SOL_PACKET, PACKET_STATISTICS, &statistics, &length))
		port->lost += statistics.tp_drops;
}

int main(int argc, char **argv)
{
	struct port ports[PORTS_MAX] = {0};
	const char *out_path = NULL, *label = NULL;
	uint32_t count = 0, snap = SNAP_DEFAULT;
	int64_t seconds = 0;
	bool heartbeats = true;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--without-heartbeats")) {
			heartbeats = false;
			continue;
		}
		if (i + 1 == argc)
			usage(usage_text);
		if (!strcmp(argv[i], "--out"))
			out_path = argv[++i];
		else if (!strcmp(argv[i], "--label"))
			label = argv[++i];
		else if (!strcmp(argv[i], "--port") && count < PORTS_MAX)
			ports[count++].name = argv[++i];
		else if (!strcmp(argv[i], "--snap"))
			snap = (uint32_t)parse_number(argv[++i], "--snap", 64, SNAP_MAX);
		else if (!strcmp(argv[i], "--seconds"))
			seconds = parse_number(argv[++i], "--seconds", 1, 86400);
		else
			usage(usage_text);
	}
	if (!out_path || !label || !count)
		usage(usage_text);
	FILE *out = fopen(out_path, "we");
	if (!out)
		die(out_path);

	tool_stop_on_signals();
	put_section(out);
	struct pollfd polled[PORTS_MAX];
	for (uint32_t i = 0; i < count; i++) {
		open_port(&ports[i], snap, heartbeats);
		put_interface(out, label, ports[i].name, snap);
		polled[i] = (struct pollfd){.fd = ports[i].fd, .events = POLLIN};
	}
	printf("ready\n");
	fflush(stdout);

	int64_t until = clock_ns(TOOL_CLOCK) + seconds * NS_PER_S;
	while (!tool_stopped && (!seconds || clock_ns(TOOL_CLOCK) < until)) {
		if (poll(polled, count, 100) < 0 && errno != EINTR)
			die("poll");
		for (uint32_t i = 0; i < count; i++)
			drain(out, i, &ports[i]);
	}
	/* The open block is handed over when its timeout ends. */
	sleep_until_ns(clock_ns(TOOL_CLOCK) + 3 * BLOCK_TIMEOUT_MS * 1000 * NS_PER_US);
	for (uint32_t i = 0; i < count; i++) {
		drain(out, i, &ports[i]);
		count_lost(&ports[i]);
		put_statistics(out, i, &ports[i]);
	}
	if (fclose(out))
		die(out_path);
	return 0;
}

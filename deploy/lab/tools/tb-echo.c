// SPDX-License-Identifier: Apache-2.0
/*
 * tb-echo: sends every datagram back to where it came from, unchanged.
 *
 * The far end of the probes, on both servers.  It sleeps in the kernel between datagrams and takes
 * what has piled up at once, so that it costs little where two CPUs carry the whole lab.
 */
#include "tool.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 32
#define DATAGRAM_MAX 2048

static const char usage_text[] = "usage: tb-echo [--port N] [--fifo PRIORITY]";

/* A server that gets no processor for a moment answers late; it loses nothing meanwhile. */
static void make_room(int fd)
{
	int room = 8 << 20;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)))
		die("SO_RCVBUFFORCE");
}

static int open_socket(uint16_t port)
{
	struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	int off = 0;
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0) {
		/* One socket for both families; where IPv6 is switched off, the bind says so. */
		if (!setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) &&
		    !bind(fd, (struct sockaddr *)&any6, sizeof(any6)))
			return fd;
		close(fd);
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&any4, sizeof(any4)))
		die("cannot listen");
	return fd;
}

int main(int argc, char **argv)
{
	static struct sockaddr_storage peers[BATCH];
	static char buffers[BATCH][DATAGRAM_MAX];
	static struct iovec vectors[BATCH];
	static struct mmsghdr messages[BATCH];
	uint16_t port = 7777;
	int priority = 0;

	for (int i = 1; i < argc; i++) {
		if (i + 1 < argc && !strcmp(argv[i], "--port"))
			port = (uint16_t)parse_number(argv[++i], "--port", 1, 65535);
		else if (i + 1 < argc && !strcmp(argv[i], "--fifo"))
			priority = (int)parse_number(argv[++i], "--fifo", 0, 98);
		else
			usage(usage_text);
	}
	tool_stop_on_signals();
	set_fifo(priority);
	int fd = open_socket(port);

	make_room(fd);
	while (!tool_stopped) {
		for (int i = 0; i < BATCH; i++) {
			vectors[i] = (struct iovec){buffers[i], DATAGRAM_MAX};
			messages[i].msg_hdr = (struct msghdr){
				.msg_name = &peers[i],
				.msg_namelen = sizeof(peers[i]),
				.msg_iov = &vectors[i],
				.msg_iovlen = 1,
			};
		}
		int received = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
		if (received < 0) {
			if (errno == EINTR)
				continue;
			die("recvmmsg");
		}
		for (int i = 0; i < received; i++)
			vectors[i].iov_len = messages[i].msg_len;
		/* An answer that can't be sent is a lost answer; the client counts those. */
		for (int sent = 0; sent < received;) {
			int now = sendmmsg(fd, messages + sent, (unsigned int)(received - sent), 0);

			sent += now > 0 ? now : 1;
		}
	}
	return 0;
}

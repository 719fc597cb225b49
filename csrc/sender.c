// SPDX-License-Identifier: Apache-2.0
#include "sender.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shared.h"

enum {
	CLASS_CS6 = 0xc0,
	SOCKET_PRIORITY =
		6, /* TC_PRIO_INTERACTIVE: the first band of pfifo_fast on the routed way */
	BIND_TO_IFINDEX = 62, /* SO_BINDTOIFINDEX, Linux 5.1; older libc headers lack it */
};

static int set_int(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

int tb_packet_socket(tb_u32 ifindex, bool bypass)
{
	/* Protocol 0: the kernel queues no copy of any received frame here. */
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)ifindex};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (bypass)
		err = set_int(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1);
	if (!err && ifindex != 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		err = -errno;
	if (err) {
		(void)close(fd);
		return err;
	}
	return fd;
}

static int ask_interface(struct tb_sender *sender, tb_u32 ifindex)
{
	struct ifreq request = {.ifr_ifindex = (int)ifindex};
	static const tb_u8 none[6];
	int err = 0;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (ioctl(fd, SIOCGIFNAME, &request) < 0) {
		err = -errno;
		goto out;
	}
	memcpy(sender->name, request.ifr_name, sizeof(sender->name));
	if (memcmp(sender->path.local_mac, none, sizeof(none)) != 0)
		goto out;
	if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
		err = -errno;
	else
		memcpy(sender->path.local_mac, request.ifr_hwaddr.sa_data, 6);
out:
	(void)close(fd);
	return err;
}

static socklen_t socket_address(struct sockaddr_storage *storage, const tb_u8 *address,
				tb_u8 family, tb_u16 port, tb_u32 ifindex)
{
	memset(storage, 0, sizeof(*storage));
	if (family == 4) {
		struct sockaddr_in *in = (struct sockaddr_in *)storage;

		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		memcpy(&in->sin_addr, address, 4);
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)storage;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	memcpy(&in6->sin6_addr, address, 16);
	if (IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr))
		in6->sin6_scope_id = ifindex;
	return sizeof(*in6);
}

static int open_udp(struct tb_sender *sender, tb_u32 ifindex, tb_u16 source_port)
{
	const struct tb_path *path = &sender->path;
	bool v4 = path->family == 4;
	struct sockaddr_storage local, peer;
	socklen_t size = socket_address(&local, path->local, path->family, source_port, ifindex);
	int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err;

	if (fd < 0)
		return -errno;
	(void)set_int(fd, SOL_SOCKET, SO_RCVBUF,
		      0); /* nobody reads here: keep as little as can be */
	(void)socket_address(&peer, path->peer, path->family, path->port, ifindex);
	err = set_int(fd, SOL_SOCKET, SO_PRIORITY, SOCKET_PRIORITY);
	if (!err)
		err = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (!err)
		err = set_int(fd, SOL_SOCKET, BIND_TO_IFINDEX, (int)ifindex);
	if (!err && v4) {
		err = set_int(fd, IPPROTO_IP, IP_TOS, CLASS_CS6);
		if (!err)
			err = set_int(fd, IPPROTO_IP, IP_TTL, path->ttl);
	} else if (!err) {
		err = set_int(fd, IPPROTO_IPV6, IPV6_TCLASS, CLASS_CS6);
		if (!err)
			err = set_int(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, path->ttl);
	}
	if (!err && bind(fd, (struct sockaddr *)&local, size) < 0)
		err = -errno;
	if (!err && connect(fd, (struct sockaddr *)&peer, size) < 0)
		err = -errno;
	if (err) {
		(void)close(fd);
		return err;
	}
	return fd;
}

int tb_sender_open(struct tb_sender *sender, const struct tb_link_setup *setup)
{
	int err;

	memset(sender, 0, sizeof(*sender));
	for (int i = 0; i < TB_UDP_SOCKETS; i++)
		sender->fd[i] = -1;
	sender->mode = setup->mode;
	sender->path = setup->path;
	err = ask_interface(sender, setup->ifindex);
	if (err)
		return err;
	if (setup->mode == TB_MODE_UDP) {
		for (int i = 0; i < TB_UDP_SOCKETS; i++) {
			int fd = open_udp(sender, setup->ifindex, i == 0 ? setup->path.port : 0);

			if (fd < 0)
				return fd;
			sender->fd[i] = fd;
		}
		return 0;
	}
	tb_sender_set_peer_mac(sender, setup->path.peer_mac);
	err = tb_packet_build(&sender->packet, &sender->path);
	if (err)
		return err;
	sender->fd[0] = tb_packet_socket(setup->ifindex, true);
	return sender->fd[0] < 0 ? sender->fd[0] : 0;
}

void tb_sender_close(struct tb_sender *sender)
{
	for (int i = 0; i < TB_UDP_SOCKETS; i++) {
		if (sender->fd[i] >= 0)
			(void)close(sender->fd[i]);
		sender->fd[i] = -1;
	}
}

void tb_sender_set_peer_mac(struct tb_sender *sender, const tb_u8 mac[6])
{
	static const tb_u8 broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	static const tb_u8 none[6];
	tb_u64 word = 0;

	memcpy(&word, memcmp(mac, none, 6) == 0 ? broadcast : mac, 6);
	__atomic_store_n(&sender->peer_mac, word, __ATOMIC_RELAXED);
}

static ssize_t send_ethernet(struct tb_sender *sender, const struct tb_frame *frame, bool spread)
{
	tb_u64 mac = __atomic_load_n(&sender->peer_mac, __ATOMIC_RELAXED);
	tb_u16 source = sender->path.port;

	if (mac != sender->peer_mac_used) {
		tb_u8 bytes[sizeof(mac)];

		memcpy(bytes, &mac, sizeof(bytes));
		tb_packet_set_peer_mac(&sender->packet, bytes);
		sender->peer_mac_used = mac;
	}
	if (spread)
		source = (tb_u16)(TB_SOURCE_PORT_FIRST + sender->turn++ % TB_SOURCE_PORTS);
	tb_packet_finish(&sender->packet, frame, source);
	return send(sender->fd[0], sender->packet.bytes, sender->packet.size, MSG_DONTWAIT);
}

static ssize_t send_udp(struct tb_sender *sender, const struct tb_frame *frame, bool spread)
{
	int fd = sender->fd[spread ? sender->turn++ % TB_UDP_SOCKETS : 0];
	ssize_t sent = send(fd, frame, sizeof(*frame), MSG_DONTWAIT);

	/* What an ICMP said of an earlier frame is told once, instead of sending this one. */
	if (sent < 0 && errno != EAGAIN && errno != ENOBUFS)
		sent = send(fd, frame, sizeof(*frame), MSG_DONTWAIT);
	return sent;
}

int tb_sender_send(struct tb_sender *sender, const struct tb_frame *frame, bool spread)
{
	ssize_t sent;
	int err;

	if (sender->mode == TB_MODE_UDP)
		sent = send_udp(sender, frame, spread);
	else
		sent = send_ethernet(sender, frame, spread);
	if (sent >= 0) {
		tb_add(&sender->counters.sent[frame->type], 1);
		return 0;
	}
	err = errno;
	tb_add(&sender->counters.error[err > 0 && err < TB_ERRNOS ? err : 0], 1);
	return -err;
}

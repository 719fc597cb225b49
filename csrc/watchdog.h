/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's watchdog: a device that resets the machine unless it is pinged in time.
 *
 * It knows the kernel's interface (linux/watchdog.h) and nothing of roles. It never pings by
 * itself: the loop that decides does. Closing the device without a word leaves it running, so the
 * death of the agent is a reset unless a successor comes in time; only tb_watchdog_disarm() stops
 * it, and only where the driver lets itself be stopped.
 */
#ifndef TB_WATCHDOG_H
#define TB_WATCHDOG_H

#include <stddef.h>

#include "tb_abi.h"

enum tb_watchdog_limits { TB_WATCHDOG_NAME = 33 };

/* What the system is asked through. Each returns -1 and sets errno on failure. */
struct tb_watchdog_calls {
	int (*open)(const char *path);
	int (*control)(int fd, unsigned long request, void *argument);
	long (*write)(int fd, const void *bytes, size_t size);
	int (*close)(int fd);
};

/* Zeroed before it is armed; `fd` means something only while it is. */
struct tb_watchdog {
	const struct tb_watchdog_calls *calls; /* NULL = the system's; tests put a recorder here */
	int fd;
	tb_u32 armed;
	tb_u32 timeout_s;		 /* as the driver says; 0 = it doesn't */
	tb_u32 stoppable;		 /* the driver understands the magic close */
	char identity[TB_WATCHDOG_NAME]; /* what the driver calls itself */
};

/*
 * Open the device, which starts it; set its timeout, read back what it became, ping once. A driver
 * rounds the timeout, or keeps its own if it has only one.
 *
 * Returns 0 or -errno: -ENOTTY that is no watchdog, -EINVAL the driver refuses the timeout. After a
 * failure the device is stopped as far as it can be, and closed.
 */
int tb_watchdog_arm(struct tb_watchdog *dog, const char *path, tb_u32 timeout_s);

/* Returns 0 or -errno. */
int tb_watchdog_ping(struct tb_watchdog *dog);

/*
 * Stop the device and close it. Returns 0, or -errno after which it may run on. That a driver was
 * told never to stop (nowayout) can't be seen here.
 */
int tb_watchdog_disarm(struct tb_watchdog *dog);

/* Close the device and leave it running. */
void tb_watchdog_leave(struct tb_watchdog *dog);

#endif /* TB_WATCHDOG_H */

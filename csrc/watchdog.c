// SPDX-License-Identifier: Apache-2.0
#include "watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/watchdog.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int system_open(const char *path)
{
	return open(path, O_WRONLY | O_CLOEXEC);
}

static int system_control(int fd, unsigned long request, void *argument)
{
	return ioctl(fd, request, argument);
}

static long system_write(int fd, const void *bytes, size_t size)
{
	return write(fd, bytes, size);
}

static const struct tb_watchdog_calls system_calls = {
	.open = system_open,
	.control = system_control,
	.write = system_write,
	.close = close,
};

static const struct tb_watchdog_calls *calls_of(const struct tb_watchdog *dog)
{
	return dog->calls ? dog->calls : &system_calls;
}

static int control(struct tb_watchdog *dog, unsigned long request, void *argument)
{
	return calls_of(dog)->control(dog->fd, request, argument) < 0 ? -errno : 0;
}

/* Whoever stops the device has to say so with this character right before closing it. */
static int say_magic(struct tb_watchdog *dog)
{
	long written = calls_of(dog)->write(dog->fd, "V", 1);

	if (written < 0)
		return -errno;
	return written == 1 ? 0 : -EIO;
}

static void take_support(struct tb_watchdog *dog, const struct watchdog_info *info)
{
	dog->stoppable = (info->options & WDIOF_MAGICCLOSE) != 0;
	memcpy(dog->identity, info->identity, TB_WATCHDOG_NAME - 1);
	dog->identity[TB_WATCHDOG_NAME - 1] = '\0';
}

static int set_timeout(struct tb_watchdog *dog, tb_u32 timeout_s)
{
	int seconds = (int)timeout_s;
	int error = control(dog, WDIOC_SETTIMEOUT, &seconds);

	/* A driver with one fixed timeout; what it is comes next. */
	if (error && error != -EOPNOTSUPP && error != -ENOTTY)
		return error;
	if (control(dog, WDIOC_GETTIMEOUT, &seconds) == 0 && seconds > 0)
		dog->timeout_s = (tb_u32)seconds;
	return 0;
}

int tb_watchdog_arm(struct tb_watchdog *dog, const char *path, tb_u32 timeout_s)
{
	struct watchdog_info info = {0};
	int error;

	dog->fd = calls_of(dog)->open(path);
	if (dog->fd < 0)
		return -errno;
	dog->armed = 1;
	dog->timeout_s = 0;
	/* Whatever answers this is a watchdog; nothing is written to what isn't. */
	error = control(dog, WDIOC_GETSUPPORT, &info);
	if (error) {
		tb_watchdog_leave(dog);
		return error;
	}
	take_support(dog, &info);
	error = set_timeout(dog, timeout_s);
	if (error)
		goto out;
	error = tb_watchdog_ping(dog);
out:
	if (error)
		(void)tb_watchdog_disarm(dog);
	return error;
}

int tb_watchdog_ping(struct tb_watchdog *dog)
{
	return dog->armed ? control(dog, WDIOC_KEEPALIVE, NULL) : -EBADF;
}

int tb_watchdog_disarm(struct tb_watchdog *dog)
{
	int said;

	if (!dog->armed)
		return 0;
	said = say_magic(dog);
	tb_watchdog_leave(dog);
	if (said == 0 && !dog->stoppable)
		return -EOPNOTSUPP;
	return said;
}

void tb_watchdog_leave(struct tb_watchdog *dog)
{
	if (!dog->armed)
		return;
	dog->armed = 0;
	(void)calls_of(dog)->close(dog->fd);
	dog->fd = -1;
}

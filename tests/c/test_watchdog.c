// SPDX-License-Identifier: Apache-2.0
/* What a watchdog is told, in which order: a recorder stands in for the system. */
#include <errno.h>
#include <linux/watchdog.h>
#include <string.h>

#include "check.h"
#include "watchdog.h"

enum { FD = 7 };

/* The device: what it was told, one word each, and how it answers. */
static struct {
	char told[256];
	int timeout;
	int rounds_to;
	int fails_open, fails_support, fails_set, fails_get, fails_ping, fails_write;
	unsigned int options;
} device;

static void note(const char *word)
{
	if (device.told[0])
		strcat(device.told, " ");
	strcat(device.told, word);
	CHECK(strlen(device.told) < sizeof(device.told) - 32);
}

static int answer(int error)
{
	if (!error)
		return 0;
	errno = error;
	return -1;
}

static int recorded_open(const char *path)
{
	CHECK(strcmp(path, "/dev/watchdog") == 0);
	note("open");
	return answer(device.fails_open) ? -1 : FD;
}

static int recorded_control(int fd, unsigned long request, void *argument)
{
	CHECK(fd == FD);
	switch (request) {
	case WDIOC_GETSUPPORT: {
		struct watchdog_info info = {.options = device.options};

		note("support");
		/* As long as the field is: no zero at its end. */
		memset(info.identity, 'd', sizeof(info.identity));
		memcpy(argument, &info, sizeof(info));
		return answer(device.fails_support);
	}
	case WDIOC_SETTIMEOUT:
		note(*(int *)argument == 10 ? "set=10" : "set=?");
		if (!device.fails_set)
			device.timeout = device.rounds_to ? device.rounds_to : *(int *)argument;
		return answer(device.fails_set);
	case WDIOC_GETTIMEOUT:
		note("get");
		if (!device.fails_get)
			*(int *)argument = device.timeout;
		return answer(device.fails_get);
	case WDIOC_KEEPALIVE:
		note("ping");
		return answer(device.fails_ping);
	default:
		note("unexpected");
		return -1;
	}
}

static long recorded_write(int fd, const void *bytes, size_t size)
{
	CHECK(fd == FD && size == 1 && *(const char *)bytes == 'V');
	note("V");
	return answer(device.fails_write) ? -1 : 1;
}

static int recorded_close(int fd)
{
	CHECK(fd == FD);
	note("close");
	return 0;
}

static const struct tb_watchdog_calls recorder = {
	.open = recorded_open,
	.control = recorded_control,
	.write = recorded_write,
	.close = recorded_close,
};

static struct tb_watchdog fresh(void)
{
	memset(&device, 0, sizeof(device));
	device.timeout = 60;
	device.options = WDIOF_MAGICCLOSE | WDIOF_SETTIMEOUT | WDIOF_KEEPALIVEPING;
	return (struct tb_watchdog){.calls = &recorder};
}

static int arm(struct tb_watchdog *dog)
{
	return tb_watchdog_arm(dog, "/dev/watchdog", 10);
}

static void told(const char *words)
{
	if (strcmp(device.told, words) != 0)
		fprintf(stderr, "told: %s\n", device.told);
	CHECK(strcmp(device.told, words) == 0);
}

static void is_armed_pinged_and_stopped(void)
{
	struct tb_watchdog dog = fresh();

	CHECK(arm(&dog) == 0);
	told("open support set=10 get ping");
	CHECK(dog.armed && dog.timeout_s == 10 && dog.stoppable);
	CHECK(strlen(dog.identity) == TB_WATCHDOG_NAME - 1);
	CHECK(tb_watchdog_ping(&dog) == 0);
	CHECK(tb_watchdog_disarm(&dog) == 0);
	told("open support set=10 get ping ping V close");
	CHECK(!dog.armed);
	/* Nothing is left to be told to it. */
	CHECK(tb_watchdog_ping(&dog) == -EBADF);
	CHECK(tb_watchdog_disarm(&dog) == 0);
	tb_watchdog_leave(&dog);
	told("open support set=10 get ping ping V close");
}

static void is_left_running_without_the_magic(void)
{
	struct tb_watchdog dog = fresh();

	CHECK(arm(&dog) == 0);
	tb_watchdog_leave(&dog);
	told("open support set=10 get ping close");
	CHECK(!dog.armed);
}

static void tells_the_timeout_that_it_got(void)
{
	struct tb_watchdog dog = fresh();

	device.rounds_to = 16;
	CHECK(arm(&dog) == 0 && dog.timeout_s == 16);

	dog = fresh();
	device.fails_set = EOPNOTSUPP;
	CHECK(arm(&dog) == 0 && dog.timeout_s == 60);

	dog = fresh();
	device.fails_set = ENOTTY;
	device.fails_get = ENOTTY;
	CHECK(arm(&dog) == 0 && dog.timeout_s == 0);
}

static void is_stopped_again_when_it_can_t_be_armed(void)
{
	struct tb_watchdog dog = fresh();

	device.fails_open = EBUSY;
	CHECK(arm(&dog) == -EBUSY && !dog.armed);
	told("open");

	dog = fresh();
	device.fails_support = ENOTTY;
	CHECK(arm(&dog) == -ENOTTY && !dog.armed);
	told("open support close");

	dog = fresh();
	device.fails_set = EINVAL;
	CHECK(arm(&dog) == -EINVAL && !dog.armed);
	told("open support set=10 V close");

	dog = fresh();
	device.fails_ping = EIO;
	CHECK(arm(&dog) == -EIO && !dog.armed);
	told("open support set=10 get ping V close");
}

static void says_when_it_can_t_be_stopped(void)
{
	struct tb_watchdog dog = fresh();

	device.options = WDIOF_SETTIMEOUT;
	CHECK(arm(&dog) == 0 && !dog.stoppable);
	CHECK(tb_watchdog_disarm(&dog) == -EOPNOTSUPP && !dog.armed);
	told("open support set=10 get ping V close");

	dog = fresh();
	CHECK(arm(&dog) == 0);
	device.fails_write = EIO;
	CHECK(tb_watchdog_disarm(&dog) == -EIO && !dog.armed);
	told("open support set=10 get ping V close");
}

static void is_told_of_a_ping_that_failed(void)
{
	struct tb_watchdog dog = fresh();

	CHECK(arm(&dog) == 0);
	device.fails_ping = EIO;
	CHECK(tb_watchdog_ping(&dog) == -EIO && dog.armed);
}

static void is_not_taken_for_a_file(void)
{
	struct tb_watchdog dog = {0};

	CHECK(tb_watchdog_arm(&dog, "/dev/null", 10) == -ENOTTY && !dog.armed);
	CHECK(tb_watchdog_arm(&dog, "/nowhere/watchdog", 10) == -ENOENT && !dog.armed);
}

int main(void)
{
	is_armed_pinged_and_stopped();
	is_left_running_without_the_magic();
	tells_the_timeout_that_it_got();
	is_stopped_again_when_it_can_t_be_armed();
	says_when_it_can_t_be_stopped();
	is_told_of_a_ping_that_failed();
	is_not_taken_for_a_file();
	return 0;
}

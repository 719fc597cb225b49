// SPDX-License-Identifier: Apache-2.0
/*
 * Preloaded into an agent by test_clock_steps.py: the time of day that the C library tells it is apart from the
 * machine's by as many seconds as the file CLOCK_FILE says, a 64-bit number that may change at any moment.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real)(clockid_t clock, struct timespec *now);
static const volatile long long *apart;

__attribute__((constructor)) static void begin(void)
{
	const char *name = getenv("CLOCK_FILE");
	int fd;
	void *file;

	if (real)
		return; /* asked before this library's turn */
	fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
	file = mmap(NULL, sizeof(*apart), PROT_READ, MAP_SHARED, fd, 0);
	if (file == MAP_FAILED)
		abort();
	(void)close(fd);
	apart = file;
	*(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int err;

	if (!real)
		begin();
	err = real(clock, now);
	if (!err && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += *apart;
	return err;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone;
	(void)clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec precise;

	(void)clock_gettime(CLOCK_REALTIME, &precise);
	if (now)
		*now = precise.tv_sec;
	return precise.tv_sec;
}

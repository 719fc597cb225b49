/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's clock, and waiting on a word of memory. */
#ifndef TB_CLOCK_H
#define TB_CLOCK_H

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tb_abi.h"

/* CLOCK_BOOTTIME, as bpf_ktime_get_boot_ns() in the kernel; read without a system call. */
static inline tb_u64 tb_now(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_BOOTTIME, &now);
	return (tb_u64)now.tv_sec * 1000000000ull + (tb_u64)now.tv_nsec;
}

/* Sleep while *word is `value`, at most `timeout_ns`. Wakes early for no reason now and then. */
static inline void tb_wait(tb_u32 *word, tb_u32 value, tb_u64 timeout_ns)
{
	struct timespec timeout = {
		.tv_sec = (time_t)(timeout_ns / 1000000000ull),
		.tv_nsec = (long)(timeout_ns % 1000000000ull),
	};

	(void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &timeout, NULL, 0);
}

/* Change the word and wake everybody who waits on it. */
static inline void tb_ring_bell(tb_u32 *word)
{
	__atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
	(void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#endif /* TB_CLOCK_H */

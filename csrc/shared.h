/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small values between one writer and readers that must never wait: a sequence lock whose reader tries a few
 * times and otherwise keeps what it had.
 *
 * Copies go word by word through relaxed atomics, so that a torn copy is noticed by the sequence and never is
 * undefined behaviour. Sizes are multiples of eight, asserted by whoever uses it.
 */
#ifndef TB_SHARED_H
#define TB_SHARED_H

#include <stdbool.h>
#include <stddef.h>

#include "tb_abi.h"

/* Words of any structure: maps and structures are read through it whatever their declared type is. */
typedef tb_u64 __attribute__((may_alias)) tb_word;

enum { TB_SHARED_TRIES = 4 };

static inline void tb_copy_words(void *to, const void *from, size_t size)
{
	tb_word *target = to;
	const tb_word *source = from;

	for (size_t i = 0; i < size / sizeof(tb_word); i++)
		__atomic_store_n(&target[i], __atomic_load_n(&source[i], __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
}

/* Writers exclude each other by other means. `seq` is odd while the value is being written. */
static inline void tb_shared_write(tb_u64 *seq, void *shared, const void *value, size_t size)
{
	tb_u64 before = __atomic_load_n(seq, __ATOMIC_RELAXED);

	__atomic_store_n(seq, before + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	tb_copy_words(shared, value, size);
	__atomic_store_n(seq, before + 2, __ATOMIC_RELEASE);
}

/*
 * Copy a value that is protected by `seq`. Returns false if a writer was at it all the time: then `value` holds
 * garbage and the caller goes on with an older copy.
 */
static inline bool tb_shared_read(const tb_u64 *seq, void *value, const void *shared, size_t size)
{
	for (int i = 0; i < TB_SHARED_TRIES; i++) {
		tb_u64 before = __atomic_load_n(seq, __ATOMIC_ACQUIRE);

		if (before & 1)
			continue;
		tb_copy_words(value, shared, size);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(seq, __ATOMIC_RELAXED) == before)
			return true;
	}
	return false;
}

/* Add to a word that only this thread writes and others read. */
static inline void tb_add(tb_u64 *word, tb_u64 value)
{
	__atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + value, __ATOMIC_RELAXED);
}

#endif /* TB_SHARED_H */

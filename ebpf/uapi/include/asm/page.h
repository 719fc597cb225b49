/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* bcc's helpers name the page size; no program of ours depends on it. */
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096
#endif

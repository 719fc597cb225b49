/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The first header that bcc includes, in the name of the running kernel's own. Twinbeat's programs use
 * nothing but the stable BPF interface, so this tree replaces the kernel's headers: bcc compiles on any
 * kernel, with none of its headers installed. What bcc's own headers ask for, and no more, is here.
 */
#ifndef TB_UAPI_KCONFIG_H
#define TB_UAPI_KCONFIG_H

#define CONFIG_BPF_SYSCALL 1

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#include <linux/types.h>

#endif

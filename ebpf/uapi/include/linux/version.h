/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * bcc's helpers choose between tracing helpers by the kernel's version, and write it into a section that
 * only kprobes were ever checked against. One constant will do for all kernels.
 */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Empty: bcc brings its own, which knows the helpers of its version. */

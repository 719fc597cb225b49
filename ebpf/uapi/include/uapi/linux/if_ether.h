/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Empty: bcc includes it, and nothing that we use needs it. */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Wrappers for callbacks of struct blk_mq_ops whose arguments differ between
 * kernels. Included by shim/queue.c, which defines the function that they call.
 */
#ifndef ZOSBD2_COMPAT_QUEUE_H
#define ZOSBD2_COMPAT_QUEUE_H

#include <linux/blk-mq.h>

#include "compat_probed.h"

static enum blk_eh_timer_return zosbd2_queue_timeout(struct request *request);

#ifdef HAVE_TIMEOUT_RESERVED
/* No tag of ours is reserved. */
static enum blk_eh_timer_return timeout(struct request *request, bool reserved)
{
	return zosbd2_queue_timeout(request);
}
#else
static enum blk_eh_timer_return timeout(struct request *request)
{
	return zosbd2_queue_timeout(request);
}
#endif

#endif

// SPDX-License-Identifier: GPL-2.0-only
/*
 * In 6.13, and in stable kernels before, lists of requests got a type that
 * knows its tail; before they were a pointer to the first request.
 */
#include <linux/blk-mq.h>

static void probe_queue_rqs(struct rq_list *list)
{
	rq_list_pop(list);
}

const struct blk_mq_ops probe;
const struct blk_mq_ops probe = { .queue_rqs = probe_queue_rqs };

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Since 6.9 blk_mq_alloc_disk() takes the queue's limits. In 6.9 and 6.10 the
 * cache and the kind of medium were still flags of the queue; see
 * queue_limits_features.c.
 */
#include <linux/blk-mq.h>

struct gendisk *probe(struct blk_mq_tag_set *set, struct queue_limits *limits);
struct gendisk *probe(struct blk_mq_tag_set *set, struct queue_limits *limits)
{
	return blk_mq_alloc_disk(set, limits, NULL);
}

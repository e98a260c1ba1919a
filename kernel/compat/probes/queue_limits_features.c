// SPDX-License-Identifier: GPL-2.0-only
/*
 * Up to 6.8 a queue's limits were set one by one after its disk was allocated.
 * Then blk_mq_alloc_disk() took a struct queue_limits, and in 6.11 that struct
 * took over what had been queue flags (BLK_FEAT_*).
 */
#include <linux/blk-mq.h>

struct gendisk *probe(struct blk_mq_tag_set *set);
struct gendisk *probe(struct blk_mq_tag_set *set)
{
	struct queue_limits limits = { .features = BLK_FEAT_IO_STAT };

	return blk_mq_alloc_disk(set, &limits, NULL);
}

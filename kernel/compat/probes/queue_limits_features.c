// SPDX-License-Identifier: GPL-2.0-only
/* In 6.11 struct queue_limits took over what had been flags of the queue (BLK_FEAT_*). */
#include <linux/blk-mq.h>

struct gendisk *probe(struct blk_mq_tag_set *set);
struct gendisk *probe(struct blk_mq_tag_set *set)
{
	struct queue_limits limits = { .features = BLK_FEAT_IO_STAT };

	return blk_mq_alloc_disk(set, &limits, NULL);
}

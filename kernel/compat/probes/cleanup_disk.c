// SPDX-License-Identifier: GPL-2.0-only
/* Until 6.0 put_disk() left the queue of a disk alone: blk_cleanup_disk() ended both. */
#include <linux/blk-mq.h>

void probe(struct gendisk *disk);
void probe(struct gendisk *disk)
{
	blk_cleanup_disk(disk);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * In 6.5 whoever opens a block device exclusively began to say with it what is
 * to be called when the device dies.
 */
#include <linux/blkdev.h>

int probe(struct block_device *bdev, void *holder);
int probe(struct block_device *bdev, void *holder)
{
	return bd_prepare_to_claim(bdev, holder, NULL);
}

// SPDX-License-Identifier: GPL-2.0-only
/* Since 6.5 an exclusive open of a block device takes callbacks for the death of the device. */
#include <linux/blkdev.h>

int probe(struct block_device *bdev, void *holder);
int probe(struct block_device *bdev, void *holder)
{
	return bd_prepare_to_claim(bdev, holder, NULL);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * In 6.5 block drivers stopped seeing the file system's fmode_t: open() takes
 * a gendisk and a blk_mode_t, and release() lost its mode.
 */
#include <linux/blkdev.h>

static int probe_open(struct gendisk *disk, blk_mode_t mode)
{
	return mode & BLK_OPEN_WRITE;
}

const struct block_device_operations probe;
const struct block_device_operations probe = { .open = probe_open };

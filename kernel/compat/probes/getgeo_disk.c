// SPDX-License-Identifier: GPL-2.0-only
/* Newer kernels (seen in 7.2, not in 6.12) ask the disk for its geometry, not a block device. */
#include <linux/blkdev.h>
#include <linux/hdreg.h>

static int probe_getgeo(struct gendisk *disk, struct hd_geometry *geo)
{
	return 0;
}

const struct block_device_operations probe;
const struct block_device_operations probe = { .getgeo = probe_getgeo };

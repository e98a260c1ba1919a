/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Wrappers for callbacks of struct block_device_operations whose arguments
 * differ between kernels. Included by shim/disk.c, which defines the
 * functions that they call.
 */
#ifndef ZOSBD2_COMPAT_DISK_H
#define ZOSBD2_COMPAT_DISK_H

#include <linux/blkdev.h>
#include <linux/hdreg.h>

#include "compat_probed.h"

static int zosbd2_disk_open(struct gendisk *disk);
static int zosbd2_disk_ioctl(struct gendisk *disk, bool may_write, u32 command, u64 argument);
static int zosbd2_disk_getgeo(struct gendisk *disk, struct hd_geometry *geo);

#ifdef HAVE_BLK_MODE_T
static int disk_open(struct gendisk *disk, blk_mode_t mode)
{
	return zosbd2_disk_open(disk);
}

static int disk_ioctl(struct block_device *bdev, blk_mode_t mode, unsigned int command,
		      unsigned long argument)
{
	return zosbd2_disk_ioctl(bdev->bd_disk, mode & BLK_OPEN_WRITE, command, argument);
}
#else
static int disk_open(struct block_device *bdev, fmode_t mode)
{
	return zosbd2_disk_open(bdev->bd_disk);
}

static int disk_ioctl(struct block_device *bdev, fmode_t mode, unsigned int command,
		      unsigned long argument)
{
	return zosbd2_disk_ioctl(bdev->bd_disk, mode & FMODE_WRITE, command, argument);
}
#endif

#ifdef HAVE_GETGEO_DISK
static int disk_getgeo(struct gendisk *disk, struct hd_geometry *geo)
{
	return zosbd2_disk_getgeo(disk, geo);
}
#else
static int disk_getgeo(struct block_device *bdev, struct hd_geometry *geo)
{
	return zosbd2_disk_getgeo(bdev->bd_disk, geo);
}
#endif

#endif

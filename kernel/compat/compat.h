/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The only place that knows kernels differ. Each HAVE_ comes from a probe of
 * that name in probes/, test-compiled against the kernel the module is built
 * for; release numbers are never compared, because distributions backport.
 */
#ifndef ZOSBD2_COMPAT_H
#define ZOSBD2_COMPAT_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>

#include "compat_probed.h"

/* What a disk advertises; zero means the kernel's default or "not offered". */
struct zosbd2_limits {
	bool volatile_cache;
	bool fua;
	bool rotational;
	unsigned int logical_block_size;
	unsigned int physical_block_size;
	unsigned int io_min;
	unsigned int io_opt;
	unsigned int max_hw_sectors;
	unsigned short max_segments;
	unsigned int discard_granularity;
	unsigned int max_discard_sectors;
	unsigned int max_write_zeroes_sectors;
	unsigned int max_secure_erase_sectors;
};

/*
 * Allocates a disk whose queue has these limits: without entropy, buffers
 * aligned to 512 bytes, and requests as large as the limits allow rather than
 * the kernel's smaller default. Returns an ERR_PTR() on failure.
 */
static inline struct gendisk *zosbd2_alloc_disk(struct blk_mq_tag_set *set,
						const struct zosbd2_limits *limits,
						void *queuedata);

#ifndef HAVE_QUEUE_LIMITS_FEATURES
/* Where the cache and the kind of medium are flags of the queue. */
static inline void zosbd2_set_features(struct request_queue *queue,
				       const struct zosbd2_limits *limits)
{
	blk_queue_write_cache(queue, limits->volatile_cache, limits->fua);
	if (!limits->rotational)
		blk_queue_flag_set(QUEUE_FLAG_NONROT, queue);
	blk_queue_flag_clear(QUEUE_FLAG_ADD_RANDOM, queue);
}
#endif

#ifdef HAVE_QUEUE_LIMITS_ARGUMENT
static inline struct gendisk *zosbd2_alloc_disk(struct blk_mq_tag_set *set,
						const struct zosbd2_limits *limits,
						void *queuedata)
{
	struct queue_limits lim = {
#ifdef HAVE_QUEUE_LIMITS_FEATURES
		.features = BLK_FEAT_IO_STAT |
			    (limits->volatile_cache ? BLK_FEAT_WRITE_CACHE : 0) |
			    (limits->fua ? BLK_FEAT_FUA : 0) |
			    (limits->rotational ? BLK_FEAT_ROTATIONAL : 0),
#endif
		.logical_block_size = limits->logical_block_size,
		.physical_block_size = limits->physical_block_size,
		.io_min = limits->io_min,
		.io_opt = limits->io_opt,
		.max_hw_sectors = limits->max_hw_sectors,
		.max_user_sectors = limits->max_hw_sectors,
		.max_segments = limits->max_segments,
		.max_segment_size = UINT_MAX,
		.dma_alignment = SECTOR_SIZE - 1,
		.discard_granularity = limits->discard_granularity,
		.max_hw_discard_sectors = limits->max_discard_sectors,
		.max_discard_segments = 1,
		.max_write_zeroes_sectors = limits->max_write_zeroes_sectors,
		.max_secure_erase_sectors = limits->max_secure_erase_sectors,
	};
	struct gendisk *disk = blk_mq_alloc_disk(set, &lim, queuedata);

#ifndef HAVE_QUEUE_LIMITS_FEATURES
	if (!IS_ERR(disk))
		zosbd2_set_features(disk->queue, limits);
#endif
	return disk;
}
#else
static inline struct gendisk *zosbd2_alloc_disk(struct blk_mq_tag_set *set,
						const struct zosbd2_limits *limits,
						void *queuedata)
{
	unsigned int granularity = limits->discard_granularity >> SECTOR_SHIFT;
	unsigned int discard = limits->max_discard_sectors;
	unsigned int erase = limits->max_secure_erase_sectors;
	struct gendisk *disk = blk_mq_alloc_disk(set, queuedata);
	struct request_queue *queue;

	/*
	 * These kernels merge secure erases up to the limit of discards, so the
	 * smaller limit must do for both. A limit below the granularity would
	 * not limit discards; secure erase is then not supported.
	 */
	if (erase && erase < discard) {
		if (erase < granularity)
			erase = 0;
		else
			discard = erase;
	}
	if (IS_ERR(disk))
		return disk;
	queue = disk->queue;
	blk_queue_logical_block_size(queue, limits->logical_block_size);
	blk_queue_physical_block_size(queue, limits->physical_block_size);
	blk_queue_io_min(queue, limits->io_min);
	blk_queue_io_opt(queue, limits->io_opt);
	blk_queue_max_hw_sectors(queue, limits->max_hw_sectors);
	queue->limits.max_sectors = limits->max_hw_sectors;
	blk_queue_max_segments(queue, limits->max_segments);
	blk_queue_max_segment_size(queue, UINT_MAX);
	blk_queue_dma_alignment(queue, SECTOR_SIZE - 1);
	queue->limits.discard_granularity = limits->discard_granularity;
	blk_queue_max_discard_sectors(queue, discard);
	blk_queue_max_discard_segments(queue, 1);
	blk_queue_max_write_zeroes_sectors(queue, limits->max_write_zeroes_sectors);
	blk_queue_max_secure_erase_sectors(queue, erase);
	zosbd2_set_features(queue, limits);
	return disk;
}
#endif

/*
 * Drops a reference to a disk that no longer has a node, or never had one, and
 * ends its queue. May sleep.
 */
static inline void zosbd2_put_disk(struct gendisk *disk)
{
#ifdef HAVE_CLEANUP_DISK
	blk_cleanup_disk(disk);
#else
	put_disk(disk);
#endif
}

/*
 * Merging, and no scheduler unless it is requested. Stacking: userspace ends
 * requests, so a CPU that goes offline must not wait for the requests of its
 * queue while it holds a lock that userspace needs to end them.
 */
#ifdef HAVE_MQ_F_SHOULD_MERGE
#define ZOSBD2_MQ_MERGE BLK_MQ_F_SHOULD_MERGE
#else
#define ZOSBD2_MQ_MERGE 0
#endif
#define ZOSBD2_TAG_SET_FLAGS \
	(ZOSBD2_MQ_MERGE | BLK_MQ_F_STACKING | BLK_MQ_F_NO_SCHED_BY_DEFAULT)

/*
 * Enters a plugged request into the table that the timeout code uses. Kernels
 * before 6.7 leave that to drivers; later ones do it in blk_mq_start_request().
 */
static inline void zosbd2_rq_list_own(struct request *request)
{
#ifndef HAVE_TAGS_AT_START
	request->mq_hctx->tags->rqs[request->tag] = request;
#endif
}

/*
 * Takes all requests off a submitter's plug list. Returns the oldest, from which
 * @rq_next leads to the others in the order of submission.
 */
#ifdef HAVE_RQ_LIST
static inline struct request *zosbd2_rq_list_take(struct rq_list *list)
{
	struct request *oldest = rq_list_peek(list);

	rq_list_init(list);
	return oldest;
}
#else
static inline struct request *zosbd2_rq_list_take(struct request **list)
{
	struct request *oldest = NULL;
	struct request *request;

	/* A plug adds each request at the head of its list, so the newest comes first. */
	while ((request = rq_list_pop(list))) {
		request->rq_next = oldest;
		oldest = request;
	}
	return oldest;
}
#endif

/*
 * The piece of a bio's data at an iterator. A piece is as long as memory is
 * contiguous if all memory is mapped and needs no cache flush; otherwise it is
 * no longer than a page.
 */
#if defined(CONFIG_HIGHMEM) || ARCH_IMPLEMENTS_FLUSH_DCACHE_PAGE
#define zosbd2_piece bio_iter_iovec
#else
#define zosbd2_piece(bio, iter) mp_bvec_iter_bvec((bio)->bi_io_vec, iter)
#endif

/*
 * Prevents exclusive opens of @bdev until bd_abort_claiming() with the same
 * @holder. Waits for a concurrent claim. Fails with -EBUSY if @bdev is open
 * exclusively. May sleep.
 */
static inline int zosbd2_claim(struct block_device *bdev, void *holder)
{
#ifdef HAVE_HOLDER_OPS
	return bd_prepare_to_claim(bdev, holder, NULL);
#else
	return bd_prepare_to_claim(bdev, holder);
#endif
}

#endif

// SPDX-License-Identifier: GPL-2.0-only
/*
 * A queue: blk-mq on one side, sleeping servers on the other.
 *
 * queue_rq() and commit_rqs() come from submitters in any context that may
 * take a spinlock; the timeout handler comes from kblockd; all else comes from
 * servers in process context.
 */
#include <linux/blkdev.h>
#include <linux/highmem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "../compat/compat.h"
#include "zosbd2.h"

/* A sleeping server; on its stack. @woken is written under the queue's lock. */
struct waiter {
	struct list_head link;
	struct task_struct *task;
	bool woken;
};

static blk_status_t queue_rq(struct blk_mq_hw_ctx *hctx, const struct blk_mq_queue_data *data)
{
	struct zosbd2_queue *queue = hctx->driver_data;
	struct request *request = data->rq;
	enum zosbd2_op op;

	switch (req_op(request)) {
	case REQ_OP_READ:
		op = ZOSBD2_READ;
		break;
	case REQ_OP_WRITE:
		op = ZOSBD2_WRITE;
		break;
	case REQ_OP_DISCARD:
		op = ZOSBD2_DISCARD;
		break;
	default:
		return BLK_STS_NOTSUPP;
	}
	queue->requests[request->tag] = request;
	blk_mq_start_request(request);
	if (zosbd2_rs_queue_submit(queue->engine, request->tag, op,
				   (u64)blk_rq_pos(request) << SECTOR_SHIFT,
				   blk_rq_bytes(request), data->last))
		return BLK_STS_IOERR;
	return BLK_STS_OK;
}

static void commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	struct zosbd2_queue *queue = hctx->driver_data;

	zosbd2_rs_queue_announce(queue->engine);
}

/* The engine ends the request now, or whoever copies its data ends it soon. */
static enum blk_eh_timer_return timeout(struct request *request)
{
	struct zosbd2_queue *queue = request->mq_hctx->driver_data;

	zosbd2_rs_queue_expire(queue->engine, request->tag);
	return BLK_EH_DONE;
}

static int init_hctx(struct blk_mq_hw_ctx *hctx, void *data, unsigned int index)
{
	struct zosbd2_device *device = data;

	hctx->driver_data = &device->queue;
	return 0;
}

const struct blk_mq_ops zosbd2_queue_ops = {
	.queue_rq = queue_rq,
	.commit_rqs = commit_rqs,
	.timeout = timeout,
	.init_hctx = init_hctx,
};

/* Allocates what the queue needs; the device's engine is initialised. */
int zosbd2_queue_setup(struct zosbd2_device *device, u32 depth)
{
	struct zosbd2_queue *queue = &device->queue;
	struct blk_mq_tag_set *set = &device->tag_set;
	int error;

	spin_lock_init(&queue->lock);
	INIT_LIST_HEAD(&queue->waiters);
	queue->engine = device->engine;
	queue->requests = zosbd2_fault(ZOSBD2_FAULT_REQUESTS) ? NULL :
		kvcalloc(depth, sizeof(*queue->requests), GFP_KERNEL);
	if (!queue->requests)
		return -ENOMEM;

	set->ops = &zosbd2_queue_ops;
	set->nr_hw_queues = 1;
	set->queue_depth = depth;
	set->numa_node = NUMA_NO_NODE;
	set->flags = ZOSBD2_TAG_SET_FLAGS;
	set->driver_data = device;
	error = zosbd2_fault(ZOSBD2_FAULT_TAG_SET) ? -ENOMEM : blk_mq_alloc_tag_set(set);
	if (error)
		kvfree(queue->requests);
	return error;
}

void zosbd2_queue_teardown(struct zosbd2_device *device)
{
	blk_mq_free_tag_set(&device->tag_set);
	kvfree(device->queue.requests);
}

unsigned long zosbd2_queue_lock(struct zosbd2_queue *queue) __acquires(&queue->lock)
{
	unsigned long flags;

	spin_lock_irqsave(&queue->lock, flags);
	return flags;
}

void zosbd2_queue_unlock(struct zosbd2_queue *queue, unsigned long flags)
	__releases(&queue->lock)
{
	spin_unlock_irqrestore(&queue->lock, flags);
}

/*
 * Sleeps until woken by zosbd2_queue_wake_one() or _all(), or a signal. Called
 * and returns with the lock held; it is dropped while sleeping. Returns 0 when
 * woken, even if a signal came too, and -EINTR when not.
 */
int zosbd2_queue_sleep(struct zosbd2_queue *queue, unsigned long *flags)
	__must_hold(&queue->lock)
{
	struct waiter waiter = { .task = current };

	lockdep_assert_held(&queue->lock);
	/* The one that slept last is woken first: its memory is warm. */
	list_add(&waiter.link, &queue->waiters);
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (waiter.woken || signal_pending(current))
			break;
		spin_unlock_irqrestore(&queue->lock, *flags);
		schedule();
		spin_lock_irqsave(&queue->lock, *flags);
	}
	__set_current_state(TASK_RUNNING);
	if (waiter.woken)
		return 0;
	list_del(&waiter.link);
	return -EINTR;
}

/* Wakes one sleeping server. The engine knows that there is one. */
void zosbd2_queue_wake_one(struct zosbd2_queue *queue) __must_hold(&queue->lock)
{
	struct waiter *waiter;

	lockdep_assert_held(&queue->lock);
	waiter = list_first_entry_or_null(&queue->waiters, struct waiter, link);
	if (WARN_ON_ONCE(!waiter))
		return;
	list_del(&waiter->link);
	waiter->woken = true;
	wake_up_process(waiter->task);
}

void zosbd2_queue_wake_all(struct zosbd2_queue *queue) __must_hold(&queue->lock)
{
	lockdep_assert_held(&queue->lock);
	while (!list_empty(&queue->waiters))
		zosbd2_queue_wake_one(queue);
}

/*
 * Ends the block request of a tag that the engine has just freed: nobody else
 * does. No lock is held. @error is 0 or a negative errno, which is EIO.
 */
void zosbd2_request_end(struct zosbd2_queue *queue, u32 tag, int error)
{
	/*
	 * A completion may drop the last reference to a file, whose release
	 * may wait for I/O to this very disk. With bottom halves off the
	 * release is left to a worker, and the server is free to serve it.
	 */
	local_bh_disable();
	blk_mq_end_request(queue->requests[tag], error ? BLK_STS_IOERR : BLK_STS_OK);
	local_bh_enable();
}

/*
 * Copies between the request's pages and user memory at @user, from byte @done
 * on, and adds to @done what was copied. The engine has the request COPYING,
 * so the pages stay. Never waits for a page: returns -EFAULT at the first one
 * that is not there, and the caller, with the request unpinned, calls
 * zosbd2_user_fault_in().
 */
int zosbd2_request_copy(struct zosbd2_queue *queue, u32 tag, u64 user, u32 *done, bool to_user)
{
	struct request *request = queue->requests[tag];
	u32 start = *done, at = 0;
	struct req_iterator iterator;
	struct bio_vec segment;

	if (!access_ok((void __user *)(unsigned long)user, blk_rq_bytes(request)))
		return -EFAULT;
	rq_for_each_segment(segment, request, iterator) {
		unsigned long left;
		void __user *peer;
		u32 skip = 0;
		u32 bytes;
		char *page;

		if (at + segment.bv_len <= start) {
			at += segment.bv_len;
			continue;
		}
		if (at < start)
			skip = start - at;
		bytes = segment.bv_len - skip;
		peer = (void __user *)(unsigned long)(user + at + skip);
		page = bvec_kmap_local(&segment);
		pagefault_disable();
		if (to_user)
			left = __copy_to_user_inatomic(peer, page + skip, bytes);
		else
			left = __copy_from_user_inatomic(page + skip, peer, bytes);
		pagefault_enable();
		if (!to_user)
			flush_dcache_page(segment.bv_page);
		kunmap_local(page);
		at += segment.bv_len;
		*done = at - left;
		if (left)
			return -EFAULT;
	}
	return 0;
}

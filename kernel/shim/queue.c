// SPDX-License-Identifier: GPL-2.0-only
/*
 * A queue: blk-mq on one side, sleeping servers on the other.
 *
 * queue_rq(), queue_rqs() and commit_rqs() come from submitters in any context
 * that may take a spinlock; the timeout handler comes from kblockd; all else
 * comes from servers in process context.
 */
#include <linux/blkdev.h>
#include <linux/fault-inject-usercopy.h>
#include <linux/highmem.h>
#include <linux/instrumented.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "../compat/compat.h"
#include "trace.h"
#include "zosbd2.h"

/* A sleeping server; on its stack. @woken is written under the queue's lock. */
struct waiter {
	struct list_head link;
	struct task_struct *task;
	bool woken;
};

/*
 * A flush comes, or the data of a write that needs one (engine/src/steps.rs).
 * Returns when it was submitted, as far as what its submitter may rely on goes.
 */
static u64 begin_step(struct zosbd2_queue *queue, struct request *request, u64 now_ns)
{
	enum zosbd2_step step = ZOSBD2_STEP_FLUSH;

	lockdep_assert_held(&queue->lock);
	if (req_op(request) != REQ_OP_FLUSH)
		step = request->start_time_ns ? ZOSBD2_STEP_WRITE : ZOSBD2_STEP_UNTIMED_WRITE;
	/* For its end. Where there is none, the disk's iostats are off, and nobody else asks. */
	if (!request->start_time_ns)
		request->start_time_ns = now_ns;
	return zosbd2_rs_queue_step_comes(queue->engine, step, now_ns);
}

/* Ends a request that begin_step() was told of. */
static void end_step(struct zosbd2_queue *queue, struct request *request, blk_status_t status)
{
	unsigned long irq_flags;
	bool later = false;

	if (req_op(request) == REQ_OP_FLUSH) {
		/* Its end is only that when the timer, or who counts requests, lets go of it. */
		later = atomic_read(&request->ref) > 1;
	} else {
		spin_lock_irqsave(&queue->lock, irq_flags);
		zosbd2_rs_queue_step_ends(queue->engine, request->start_time_ns);
		spin_unlock_irqrestore(&queue->lock, irq_flags);
	}
	blk_mq_end_request(request, status);
	spin_lock_irqsave(&queue->lock, irq_flags);
	zosbd2_rs_queue_step_over(queue->engine, later ? U64_MAX : ktime_get_ns());
	spin_unlock_irqrestore(&queue->lock, irq_flags);
}

/*
 * Ends a block request. A completion may drop the last reference to a file,
 * whose release may wait for I/O to this very disk. With bottom halves off the
 * release is left to a worker, and the server is free to serve it.
 */
static void end_request(struct zosbd2_queue *queue, struct request *request, blk_status_t status)
{
	local_bh_disable();
	if (request->rq_flags & RQF_FLUSH_SEQ)
		end_step(queue, request, status);
	else
		blk_mq_end_request(request, status);
	local_bh_enable();
}

/* What the engine is told of a request. Returns false for what no queue offers. */
static __always_inline bool describe(const struct request *request, enum zosbd2_op *op,
				     u32 *flags, u64 *offset)
{
	*offset = (u64)blk_rq_pos(request) << SECTOR_SHIFT;
	*flags = request->cmd_flags & REQ_FUA ? ZOSBD2_REQUEST_FUA : 0;
	switch (req_op(request)) {
	case REQ_OP_READ:
		*op = ZOSBD2_READ;
		return true;
	case REQ_OP_WRITE:
		*op = ZOSBD2_WRITE;
		return true;
	case REQ_OP_DISCARD:
		*op = ZOSBD2_DISCARD;
		return true;
	case REQ_OP_FLUSH:
		*op = ZOSBD2_FLUSH;
		/* It is sent with the position of a write that it has no part in. */
		*offset = 0;
		return true;
	case REQ_OP_WRITE_ZEROES:
		*op = ZOSBD2_WRITE_ZEROES;
		if (request->cmd_flags & REQ_NOUNMAP)
			*flags |= ZOSBD2_REQUEST_NO_UNMAP;
		return true;
	case REQ_OP_SECURE_ERASE:
		*op = ZOSBD2_SECURE_ERASE;
		return true;
	default:
		return false;
	}
}

/*
 * Starts a request and gives it to the engine. Its deadline runs from there,
 * and whoever finds it over waits for the lock until the engine knows of the
 * request. @last: no other follows at once. Returns whether the engine took
 * it; if not, it is to be refused. Inlined, as is describe(): a call for each
 * request is what the loop of queue_run() saves.
 */
static __always_inline bool submit(struct zosbd2_queue *queue, struct request *request, bool last)
	__must_hold(&queue->lock)
{
	enum zosbd2_op op;
	u64 offset;
	u64 now_ns;
	int result;
	u32 flags;
	u32 what;

	lockdep_assert_held(&queue->lock);
	if (!describe(request, &op, &flags, &offset))
		return false;
	queue->requests[request->tag] = request;
	blk_mq_start_request(request);
	what = op | flags << ZOSBD2_FLAGS_SHIFT | (last ? ZOSBD2_LAST : 0);
	/* Not there if the disk's iostats are switched off. */
	now_ns = request->start_time_ns ?: ktime_get_ns();
	if (unlikely(request->rq_flags & RQF_FLUSH_SEQ))
		now_ns = begin_step(queue, request, now_ns);
	result = zosbd2_rs_queue_submit(queue->engine, request->tag, what, offset,
					blk_rq_bytes(request), now_ns);
	if (result >= 0)
		trace_zosbd2_queue(queue, request->tag, op, flags, offset, blk_rq_bytes(request));
	if (result > 0)
		zosbd2_queue_wake_one(queue);
	return result >= 0;
}

/*
 * Ends a request that the engine did not take. If it was the last one, the
 * caller makes those before it known, which waited for it.
 */
static void refuse(struct zosbd2_queue *queue, struct request *request)
{
	enum zosbd2_op op;
	u64 offset;
	u32 flags;

	end_request(queue, request,
		    describe(request, &op, &flags, &offset) ? BLK_STS_IOERR : BLK_STS_NOTSUPP);
}

static blk_status_t queue_rq(struct blk_mq_hw_ctx *hctx, const struct blk_mq_queue_data *data)
{
	struct zosbd2_queue *queue = hctx->driver_data;
	unsigned long irq_flags;
	bool taken;

	spin_lock_irqsave(&queue->lock, irq_flags);
	taken = submit(queue, data->rq, data->last);
	spin_unlock_irqrestore(&queue->lock, irq_flags);
	if (unlikely(!taken)) {
		refuse(queue, data->rq);
		if (data->last)
			zosbd2_rs_queue_announce(queue->engine);
	}
	if (data->last)
		zosbd2_queue_wake_pollers(queue);
	return BLK_STS_OK;
}

static void commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	struct zosbd2_queue *queue = hctx->driver_data;

	zosbd2_rs_queue_announce(queue->engine);
	zosbd2_queue_wake_pollers(queue);
}

/*
 * Takes the requests for one queue off the list. A plug holds some tens of
 * requests, and so long interrupts may be off.
 */
static void queue_run(struct blk_mq_hw_ctx *hctx, zosbd2_rq_list *list)
{
	struct zosbd2_queue *queue = hctx->driver_data;
	struct request *refused = NULL;
	unsigned long irq_flags;
	bool last;

	spin_lock_irqsave(&queue->lock, irq_flags);
	do {
		struct request *request = rq_list_pop(list);
		struct request *next = zosbd2_rq_list_peek(list);

		last = !next || next->mq_hctx != hctx;
		/* Older kernels (6.1) leave this to drivers; deadlines go by it. */
		hctx->tags->rqs[request->tag] = request;
		if (unlikely(!submit(queue, request, last))) {
			request->rq_next = refused;
			refused = request;
		}
	} while (!last);
	spin_unlock_irqrestore(&queue->lock, irq_flags);
	if (unlikely(refused)) {
		do {
			struct request *request = refused;

			refused = request->rq_next;
			refuse(queue, request);
		} while (refused);
		zosbd2_rs_queue_announce(queue->engine);
	}
	zosbd2_queue_wake_pollers(queue);
}

/* All that a submitter plugged, at once; takes every request off the list. */
static void queue_rqs(zosbd2_rq_list *list)
{
	struct request *request;

	/* Servers get requests in the order of submission: read-ahead depends on it. */
	zosbd2_rq_list_oldest_first(list);
	while ((request = zosbd2_rq_list_peek(list)))
		queue_run(request->mq_hctx, list);
}

/* Says which request is late, who has it, and what becomes of it. */
static void log_late(struct zosbd2_queue *queue, u32 tag, const struct zosbd2_late *late)
{
	static const char * const ops[] = {
		[ZOSBD2_READ] = "read",
		[ZOSBD2_WRITE] = "write",
		[ZOSBD2_DISCARD] = "discard",
		[ZOSBD2_FLUSH] = "flush",
		[ZOSBD2_WRITE_ZEROES] = "write-zeroes",
		[ZOSBD2_SECURE_ERASE] = "secure-erase",
	};
	static const char * const actions[] = {
		[ZOSBD2_LATE_OVER] = "over",
		[ZOSBD2_LATE_FAILED] = "failed",
		[ZOSBD2_LATE_DOOMED] = "failed",
		[ZOSBD2_LATE_REQUEUED] = "requeued",
		[ZOSBD2_LATE_SERVER_DEAD] = "its server is declared dead",
		[ZOSBD2_LATE_WAITS] = "waits on",
	};
	const char *name = queue->device->disk->disk_name;

	if (!__ratelimit(&queue->device->late_limit))
		return;
	if (late->thread)
		pr_warn("zosbd2: %s: late %s, %u bytes at %llu, tag %u of queue %u, %llu ms old, with thread %u of server %u for %llu ms: %s\n",
			name, ops[late->op], late->length, late->offset, tag, queue->index,
			late->age_ms, late->thread, late->epoch, late->held_ms,
			actions[late->action]);
	else
		pr_warn("zosbd2: %s: late %s, %u bytes at %llu, tag %u of queue %u, %llu ms old, with no server: %s\n",
			name, ops[late->op], late->length, late->offset, tag, queue->index,
			late->age_ms, actions[late->action]);
}

/*
 * The engine ends the request now, or whoever copies its data ends it soon, or
 * its clock starts anew.
 */
static enum blk_eh_timer_return timeout(struct request *request)
{
	struct zosbd2_queue *queue = request->mq_hctx->driver_data;
	u32 tag = request->tag;
	struct zosbd2_late late;
	bool over;

	over = zosbd2_rs_queue_expire(queue->engine, tag, &late);
	if (late.action != ZOSBD2_LATE_OVER)
		log_late(queue, tag, &late);
	if (late.dead)
		zosbd2_device_declare_dead(queue->device, late.dead);
	return over ? BLK_EH_DONE : BLK_EH_RESET_TIMER;
}

static int init_hctx(struct blk_mq_hw_ctx *hctx, void *data, unsigned int index)
{
	struct zosbd2_device *device = data;

	hctx->driver_data = &device->queues[index];
	return 0;
}

const struct blk_mq_ops zosbd2_queue_ops = {
	.queue_rq = queue_rq,
	.commit_rqs = commit_rqs,
	.queue_rqs = queue_rqs,
	.timeout = timeout,
	.init_hctx = init_hctx,
};

/*
 * Allocates a zeroed block that is aligned as ZOSBD2_BLOCK_ALIGN says, which
 * kvzalloc() promises for sizes that are powers of two only. May sleep.
 */
void *zosbd2_alloc_block(size_t bytes)
{
	void *block = kvzalloc(bytes, GFP_KERNEL_ACCOUNT);

	if (WARN_ON_ONCE(!IS_ALIGNED((unsigned long)block, ZOSBD2_BLOCK_ALIGN))) {
		kvfree(block);
		return NULL;
	}
	return block;
}

/*
 * Allocates what the queues need; the device's engine is initialised.
 * @device->queue_count is at most the number of CPUs, and with @depth small
 * enough for the products not to overflow.
 */
int zosbd2_queue_setup(struct zosbd2_device *device, u32 depth)
{
	struct blk_mq_tag_set *set = &device->tag_set;
	struct request **requests;
	u32 index;
	int error;

	device->queues = zosbd2_fault(ZOSBD2_FAULT_QUEUES) ? NULL :
		zosbd2_alloc_block(array_size(device->queue_count, sizeof(*device->queues)));
	if (!device->queues)
		return -ENOMEM;
	requests = zosbd2_fault(ZOSBD2_FAULT_REQUESTS) ? NULL :
		kvcalloc(array_size(device->queue_count, depth), sizeof(*requests),
			 GFP_KERNEL_ACCOUNT);
	if (!requests) {
		error = -ENOMEM;
		goto free_queues;
	}
	for (index = 0; index < device->queue_count; index++) {
		struct zosbd2_queue *queue = &device->queues[index];

		spin_lock_init(&queue->lock);
		INIT_LIST_HEAD(&queue->waiters);
		queue->device = device;
		queue->index = index;
		queue->requests = requests + (size_t)index * depth;
		queue->engine = zosbd2_rs_queue_init(device->engine, index, queue);
	}

	set->ops = &zosbd2_queue_ops;
	set->nr_hw_queues = device->queue_count;
	set->queue_depth = depth;
	set->numa_node = NUMA_NO_NODE;
	set->flags = ZOSBD2_TAG_SET_FLAGS;
	set->driver_data = device;
	error = zosbd2_fault(ZOSBD2_FAULT_TAG_SET) ? -ENOMEM : blk_mq_alloc_tag_set(set);
	if (error)
		goto free_requests;
	return 0;

free_requests:
	kvfree(requests);
free_queues:
	kvfree(device->queues);
	return error;
}

/* Frees what zosbd2_queue_setup() allocated, but for the tag set. */
void zosbd2_queue_teardown(struct zosbd2_device *device)
{
	kvfree(device->queues[0].requests);
	kvfree(device->queues);
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
 * Sleeps until woken by zosbd2_queue_wake_one() or _all(), a signal, or the end
 * of the time @left (zosbd2_timeout()), from which the time slept is taken.
 * Called and returns with the lock held; it is dropped while sleeping. Returns
 * 0 when woken, whatever else happened; otherwise -EINTR or -ETIME.
 */
int zosbd2_queue_sleep(struct zosbd2_queue *queue, unsigned long *flags, long *left)
	__must_hold(&queue->lock)
{
	struct waiter waiter = { .task = current };

	lockdep_assert_held(&queue->lock);
	/* The one that slept last is woken first: its memory is warm. */
	list_add(&waiter.link, &queue->waiters);
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (waiter.woken || signal_pending(current) || !*left)
			break;
		spin_unlock_irqrestore(&queue->lock, *flags);
		*left = schedule_timeout(*left);
		spin_lock_irqsave(&queue->lock, *flags);
	}
	__set_current_state(TASK_RUNNING);
	if (waiter.woken)
		return 0;
	list_del(&waiter.link);
	return signal_pending(current) ? -EINTR : -ETIME;
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

/* Tells those who poll a server descriptor that there is something to see. */
void zosbd2_queue_wake_pollers(struct zosbd2_queue *queue)
{
	struct wait_queue_head *poll = &queue->device->poll;

	/* Full barrier: they enter the list before they look at the queue. */
	if (wq_has_sleeper(poll))
		wake_up_poll(poll, EPOLLIN | EPOLLRDNORM);
}

/*
 * Ends the block request of a tag that the engine has just freed: nobody else
 * does. No lock is held. @error is 0 or a negative errno.
 */
void zosbd2_request_end(struct zosbd2_queue *queue, u32 tag, int error)
{
	trace_zosbd2_end(queue, tag, error);
	end_request(queue, queue->requests[tag], errno_to_blk_status(error));
}

/* As zosbd2_request_end() with success, for several tags at once. */
void zosbd2_requests_end(struct zosbd2_queue *queue, const u16 *tags, u32 count)
{
	DEFINE_IO_COMP_BATCH(batch);
	u32 index;

	/* As in end_request(). */
	local_bh_disable();
	for (index = 0; index < count; index++) {
		struct request *request = queue->requests[tags[index]];

		trace_zosbd2_end(queue, tags[index], 0);
		if (unlikely(request->rq_flags & RQF_FLUSH_SEQ))
			end_step(queue, request, BLK_STS_OK);
		else if (!blk_mq_add_to_batch(request, &batch, 0, blk_mq_end_request_batch))
			blk_mq_end_request(request, BLK_STS_OK);
	}
	if (batch.complete)
		blk_mq_end_request_batch(&batch);
	local_bh_enable();
}

/*
 * Copies between user memory that access_ok() was asked for and a piece of a
 * page. Without the check of what object the piece is part of (hardened
 * usercopy): data of less than a page may well be in a slab, such as the copies
 * of metadata that jbd2 writes, and the block layer vouches for its bounds.
 * Fails on demand as other copies do, where the kernel has fault injection.
 * Returns how many bytes were not copied.
 */
static __always_inline unsigned long copy_part(void __user *peer, void *piece, u32 bytes,
					       bool to_user)
{
	unsigned long left;

	if (should_fail_usercopy())
		return bytes;
	pagefault_disable();
	if (to_user) {
		instrument_copy_to_user(peer, piece, bytes);
		left = raw_copy_to_user(peer, piece, bytes);
	} else {
		instrument_copy_from_user_before(piece, peer, bytes);
		left = raw_copy_from_user(piece, peer, bytes);
		instrument_copy_from_user_after(piece, peer, bytes, left);
	}
	pagefault_enable();
	return left;
}

/*
 * The way of small requests: copies the first @bytes if they are in one piece
 * of one page. False if they are not, or a page is not there; the caller then
 * begins anew.
 */
static __always_inline bool copy_single(struct request *request, u64 user, u32 bytes,
					bool to_user)
{
	struct bio_vec piece = bio_iovec(request->bio);
	unsigned long left;
	void *page;

	if (piece.bv_len < bytes)
		return false;
	page = bvec_kmap_local(&piece);
	left = copy_part((void __user *)(unsigned long)user, page, bytes, to_user);
	if (!to_user)
		flush_dcache_page(piece.bv_page);
	kunmap_local(page);
	return !left;
}

/* The way of all others, as zosbd2_request_copy(). */
static noinline int copy_pieces(struct request *request, u64 user, u32 start, u32 bytes, u32 *done,
				bool to_user)
{
	u32 from = start + *done, end = start + bytes, at = 0;
	struct req_iterator iterator;
	struct bio_vec segment;

	zosbd2_for_each_piece(segment, request, iterator) {
		u32 skip = at < from ? from - at : 0;
		unsigned long left;
		void __user *peer;
		u32 part;
		char *page;

		if (skip >= segment.bv_len) {
			at += segment.bv_len;
			continue;
		}
		at += skip;
		if (at >= end)
			break;
		part = min(segment.bv_len - skip, end - at);
		peer = (void __user *)(unsigned long)(user + (at - start));
		page = bvec_kmap_local(&segment);
		left = copy_part(peer, page + skip, part, to_user);
		if (!to_user)
			flush_dcache_page(segment.bv_page);
		kunmap_local(page);
		at += part;
		*done = at - left - start;
		if (left)
			return -EFAULT;
		if (skip + part < segment.bv_len)
			break;
	}
	return 0;
}

/*
 * Copies @bytes of the request's data, from its byte @start on, to or from user
 * memory at @user. Skips the first @done of them, and adds to @done what was
 * copied. The engine has the request COPYING, so the pages stay. Never waits for
 * a page: returns -EFAULT at the first one that is not there, and the caller,
 * with the request unpinned, calls zosbd2_user_fault_in().
 */
int zosbd2_request_copy(struct zosbd2_queue *queue, u32 tag, u64 user, u32 start, u32 bytes,
			u32 *done, bool to_user)
{
	struct request *request = queue->requests[tag];

	if (!access_ok((void __user *)(unsigned long)user, bytes))
		return -EFAULT;
	return copy_pieces(request, user, start, bytes, done, to_user);
}

static noinline int copy_all_pieces(struct request *request, u64 user, u32 bytes, bool to_user)
{
	u32 done = 0;

	return copy_pieces(request, user, 0, bytes, &done, to_user);
}

/* As zosbd2_request_copy(), of the first @bytes of the request, all or an error. */
int zosbd2_request_copy_all(struct zosbd2_queue *queue, u32 tag, u64 user, u32 bytes, bool to_user)
{
	struct request *request = queue->requests[tag];

	if (!access_ok((void __user *)(unsigned long)user, bytes))
		return -EFAULT;
	if (copy_single(request, user, bytes, to_user))
		return 0;
	return copy_all_pieces(request, user, bytes, to_user);
}

/* Zeroes the request's data from its byte @start on. It is COPYING, as above. */
void zosbd2_request_zero(struct zosbd2_queue *queue, u32 tag, u32 start)
{
	struct request *request = queue->requests[tag];
	struct req_iterator iterator;
	struct bio_vec segment;
	u32 at = 0;

	rq_for_each_segment(segment, request, iterator) {
		u32 skip = at < start ? start - at : 0;

		at += segment.bv_len;
		if (skip >= segment.bv_len)
			continue;
		segment.bv_offset += skip;
		segment.bv_len -= skip;
		memzero_bvec(&segment);
	}
}

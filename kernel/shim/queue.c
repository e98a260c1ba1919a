// SPDX-License-Identifier: GPL-2.0-only
/*
 * A queue: blk-mq on one side, sleeping servers on the other.
 *
 * Submitters call queue_rq(), queue_rqs() and commit_rqs() in process context,
 * where they must not sleep. kblockd calls the timeout handler. Servers call all
 * other functions, in process context.
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
#include "../compat/queue.h"
#include "trace.h"
#include "zosbd2.h"

/*
 * Its works check wake-ups so that requests are served, so they must also run
 * when memory is short.
 */
static struct workqueue_struct *look_queue;

/* A sleeping server, on its stack. @woken and @sent_away change under the queue's lock. */
struct waiter {
	struct list_head link;
	struct task_struct *task;
	bool woken;
	bool sent_away;
};

/*
 * Ends a block request. The completion may drop the last reference to a file,
 * and the release of the file may wait for I/O to this disk. With bottom halves
 * off, a worker makes the release, and the server is free to serve that I/O.
 */
static void end_request(struct request *request, blk_status_t status)
{
	local_bh_disable();
	blk_mq_end_request(request, status);
	local_bh_enable();
}

/*
 * Whether the block layer has set the size of the queue's disk to 0, as it does
 * when a destruction has written out dirty data. The next read would see the
 * end of the file. So a read that ends now fails: a partial copy of the disk
 * must not look complete.
 */
static bool disk_has_ended(struct zosbd2_queue *queue)
{
	struct zosbd2_device *device = queue->device;

	return unlikely(READ_ONCE(device->sealed)) && !get_capacity(device->disk);
}

/*
 * Ends a successful request on a CPU that the block layer chose: in a softirq,
 * or in process context when that CPU has gone offline. The disk may have ended
 * since its server answered.
 */
static void complete_rq(struct request *request)
{
	struct zosbd2_queue *queue = request->mq_hctx->driver_data;
	bool ended = req_op(request) == REQ_OP_READ && disk_has_ended(queue);

	trace_zosbd2_end(queue, request->tag, ended ? -EIO : 0);
	end_request(request, ended ? BLK_STS_IOERR : BLK_STS_OK);
}

/*
 * Passes a successful request to its submitter's CPU, if rq_affinity asks for
 * that. Returns false if the caller must end it. The engine must know when
 * writes to a device with a volatile cache have ended, so the caller ends them.
 * Bottom halves are off: if the thread lost its CPU halfway, the other CPU could
 * go offline with the request on its list, and other disks' requests behind it.
 */
static __always_inline bool end_elsewhere(struct zosbd2_queue *queue, struct request *request)
{
	if (likely(!test_bit(QUEUE_FLAG_SAME_COMP, &request->q->queue_flags)))
		return false;
	if (queue->device->flags & ZOSBD2_VOLATILE_CACHE && op_is_write(req_op(request)))
		return false;
	return blk_mq_complete_request_remote(request);
}

/* Describes a request for the engine. Returns false for an operation that no queue offers. */
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
		/* The flush machinery sets the position of an unrelated write. */
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
 * Submits a started request to the engine. @last: no further request follows at
 * once. Returns which servers to wake, like zosbd2_rs_queue_submit(), or a
 * negative errno if the request must be refused. Inlined, like describe(),
 * because queue_run() exists to save calls per request.
 */
static __always_inline int submit(struct zosbd2_queue *queue, struct request *request, bool last)
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
		return -EOPNOTSUPP;
	queue->requests[request->tag] = request;
	what = op | flags << ZOSBD2_FLAGS_SHIFT | (last ? ZOSBD2_LAST : 0);
	/*
	 * When the request was made, or earlier. A flush always has this time
	 * (engine/src/loss.rs); other requests lack it while the disk's iostats
	 * are off.
	 */
	now_ns = request->start_time_ns ?: ktime_get_ns();
	result = zosbd2_rs_queue_submit(queue->engine, request->tag, what, offset,
					blk_rq_bytes(request), now_ns);
	if (result >= 0)
		trace_zosbd2_queue(queue, request->tag, op, flags, offset, blk_rq_bytes(request));
	return result;
}

/*
 * Ends a request that the engine did not take. If it was the last one, the
 * caller announces the requests before it, which waited for it.
 */
static void refuse(struct request *request)
{
	enum zosbd2_op op;
	u64 offset;
	u32 flags;

	end_request(request, describe(request, &op, &flags, &offset) ? BLK_STS_IOERR :
								       BLK_STS_NOTSUPP);
}

/* Drops the lock after submissions, and wakes the servers in their result. */
static __always_inline void unlock_submitted(struct zosbd2_queue *queue, int result)
	__releases(&queue->lock)
{
	if (likely(result <= 0))
		spin_unlock(&queue->lock);
	else
		zosbd2_queue_unlock(queue, result & (ZOSBD2_LOOK - 1), result & ZOSBD2_LOOK);
}

static blk_status_t queue_rq(struct blk_mq_hw_ctx *hctx, const struct blk_mq_queue_data *data)
{
	struct zosbd2_queue *queue = hctx->driver_data;
	int result;

	/* The timer of a request that the engine does not have yet starts again. */
	blk_mq_start_request(data->rq);
	spin_lock(&queue->lock);
	result = submit(queue, data->rq, data->last);
	unlock_submitted(queue, result);
	if (unlikely(result < 0)) {
		refuse(data->rq);
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
 * Submits the first of these requests, and those that follow for the same queue.
 * They are started. Returns the others.
 */
static struct request *queue_run(struct request *request)
{
	struct blk_mq_hw_ctx *hctx = request->mq_hctx;
	struct zosbd2_queue *queue = hctx->driver_data;
	struct request *refused = NULL;
	struct request *next;
	int result;
	bool last;

	spin_lock(&queue->lock);
	do {
		next = request->rq_next;
		request->rq_next = NULL;
		last = !next || next->mq_hctx != hctx;
		result = submit(queue, request, last);
		if (unlikely(result < 0)) {
			request->rq_next = refused;
			refused = request;
		}
		request = next;
	} while (!last);
	/* Only the last request wakes servers. */
	unlock_submitted(queue, result);
	if (unlikely(refused)) {
		do {
			request = refused;
			refused = request->rq_next;
			refuse(request);
		} while (refused);
		zosbd2_rs_queue_announce(queue->engine);
	}
	zosbd2_queue_wake_pollers(queue);
	return next;
}

/* Submits all plugged requests of a submitter. Takes every request off the list. */
#ifdef HAVE_RQ_LIST
static void queue_rqs(struct rq_list *list)
#else
static void queue_rqs(struct request **list)
#endif
{
	/* Servers get requests in the order of submission, which read-ahead needs. */
	struct request *oldest = zosbd2_rq_list_take(list);
	struct request *request;

	for (request = oldest; request; request = request->rq_next) {
		zosbd2_rq_list_own(request);
		blk_mq_start_request(request);
	}
	while (oldest)
		oldest = queue_run(oldest);
}

/* Logs which request is late, which thread holds it, and what becomes of it. */
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

/* The timeout of requests that start while the device has this deadline; 0 for none. */
unsigned int zosbd2_request_timeout(u32 deadline_ms)
{
	return msecs_to_jiffies(deadline_ms ?: ZOSBD2_NO_DEADLINE_MS);
}

/*
 * The engine ends the request now, or the thread that copies its data ends it
 * soon, or its timer starts again.
 */
static enum blk_eh_timer_return zosbd2_queue_timeout(struct request *request)
{
	struct zosbd2_queue *queue = request->mq_hctx->driver_data;
	u32 tag = request->tag;
	struct zosbd2_late late;
	u32 timer;

	timer = zosbd2_rs_queue_expire(queue->engine, tag, jiffies_to_msecs(request->timeout),
				       &late);
	if (late.action != ZOSBD2_LATE_OVER) {
		log_late(queue, tag, &late);
		if (queue->device->version != 1)
			zosbd2_device_tell_late(queue->device);
	}
	if (late.dead)
		zosbd2_device_declare_dead(queue->device, late.dead);
	if (timer == ZOSBD2_TIMER_OVER)
		return BLK_EH_DONE;
	if (timer == ZOSBD2_TIMER_NEVER)
		request->timeout = zosbd2_request_timeout(0);
	return BLK_EH_RESET_TIMER;
}

static int init_hctx(struct blk_mq_hw_ctx *hctx, void *data, unsigned int index)
{
	struct zosbd2_device *device = data;

	hctx->driver_data = device->queues[index];
	return 0;
}

const struct blk_mq_ops zosbd2_queue_ops = {
	.queue_rq = queue_rq,
	.commit_rqs = commit_rqs,
	.queue_rqs = queue_rqs,
	.complete = complete_rq,
	.timeout = timeout,
	.init_hctx = init_hctx,
};

static void look_work(struct work_struct *work)
{
	struct zosbd2_queue *queue =
		container_of(to_delayed_work(work), struct zosbd2_queue, look);

	zosbd2_rs_queue_look(queue->engine);
}

int zosbd2_queue_init(void)
{
	look_queue = zosbd2_fault(ZOSBD2_FAULT_LOOK_QUEUE) ? NULL :
		alloc_workqueue("zosbd2_look", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	return look_queue ? 0 : -ENOMEM;
}

void zosbd2_queue_exit(void)
{
	destroy_workqueue(look_queue);
}

/*
 * Allocates a zeroed block, aligned to ZOSBD2_BLOCK_ALIGN, if possible on this
 * memory node. kvzalloc_node() guarantees alignment only for sizes that are
 * powers of two. May sleep.
 */
void *zosbd2_alloc_block(size_t bytes, int node)
{
	void *block = kvzalloc_node(bytes, GFP_KERNEL_ACCOUNT, node);

	if (WARN_ON_ONCE(!IS_ALIGNED((unsigned long)block, ZOSBD2_BLOCK_ALIGN))) {
		kvfree(block);
		return NULL;
	}
	return block;
}

/* The memory node of a CPU whose submissions go to this queue. */
static int queue_node(const struct blk_mq_tag_set *set, u32 index)
{
	const unsigned int *queue_of = set->map[HCTX_TYPE_DEFAULT].mq_map;
	unsigned int cpu;

	for_each_possible_cpu(cpu) {
		if (queue_of[cpu] == index)
			return cpu_to_node(cpu);
	}
	return NUMA_NO_NODE;
}

/*
 * Allocates a queue, with the engine's block and the pointers to block requests
 * behind it. @depth is small enough that the sum cannot overflow.
 */
static struct zosbd2_queue *queue_alloc(struct zosbd2_device *device, u32 index, u32 depth)
{
	size_t engine_bytes = zosbd2_rs_queue_bytes(depth);
	struct zosbd2_queue *queue;

	queue = zosbd2_fault(ZOSBD2_FAULT_QUEUE) ? NULL :
		zosbd2_alloc_block(sizeof(*queue) + engine_bytes +
				   depth * sizeof(*queue->requests),
				   queue_node(&device->tag_set, index));
	if (!queue)
		return NULL;
	spin_lock_init(&queue->lock);
	INIT_LIST_HEAD(&queue->waiters);
	INIT_DELAYED_WORK(&queue->look, look_work);
	queue->device = device;
	queue->index = index;
	queue->engine = queue + 1;
	queue->requests = queue->engine + engine_bytes;
	zosbd2_rs_queue_init(queue->engine, device->engine, index, queue);
	return queue;
}

static void free_queues(struct zosbd2_device *device)
{
	u32 index;

	for (index = 0; index < device->queue_count; index++)
		kvfree(device->queues[index]);
	kvfree(device->queues);
}

/*
 * Allocates the tag set and the queues. The device's engine is initialised.
 * @device->queue_count is at most the number of CPUs.
 */
int zosbd2_queue_setup(struct zosbd2_device *device, u32 depth)
{
	struct blk_mq_tag_set *set = &device->tag_set;
	u32 index;
	int error;

	set->ops = &zosbd2_queue_ops;
	set->nr_hw_queues = device->queue_count;
	set->queue_depth = depth;
	set->numa_node = NUMA_NO_NODE;
	set->flags = ZOSBD2_TAG_SET_FLAGS;
	set->driver_data = device;
	error = zosbd2_fault(ZOSBD2_FAULT_TAG_SET) ? -ENOMEM : blk_mq_alloc_tag_set(set);
	if (error)
		return error;
	device->queues = zosbd2_fault(ZOSBD2_FAULT_QUEUES) ? NULL :
		kvcalloc(device->queue_count, sizeof(*device->queues), GFP_KERNEL_ACCOUNT);
	if (!device->queues)
		goto free_tag_set;
	for (index = 0; index < device->queue_count; index++) {
		device->queues[index] = queue_alloc(device, index, depth);
		if (!device->queues[index])
			goto free_queues;
	}
	return 0;

free_queues:
	free_queues(device);
free_tag_set:
	blk_mq_free_tag_set(set);
	return -ENOMEM;
}

/*
 * Frees what zosbd2_queue_setup() allocated, but for the tag set. Nobody submits
 * or serves any more. May sleep.
 */
void zosbd2_queue_teardown(struct zosbd2_device *device)
{
	u32 index;

	might_sleep();
	for (index = 0; index < device->queue_count; index++)
		cancel_delayed_work_sync(&device->queues[index]->look);
	free_queues(device);
}

void zosbd2_queue_lock(struct zosbd2_queue *queue) __acquires(&queue->lock)
{
	spin_lock(&queue->lock);
}

/* Takes the server that fell asleep last off the list: its memory is warm. */
static struct task_struct *wake_next(struct zosbd2_queue *queue, bool sent_away)
	__must_hold(&queue->lock)
{
	struct waiter *waiter;
	struct task_struct *task;

	lockdep_assert_held(&queue->lock);
	waiter = list_first_entry_or_null(&queue->waiters, struct waiter, link);
	if (WARN_ON_ONCE(!waiter))
		return NULL;
	list_del(&waiter->link);
	task = waiter->task;
	waiter->sent_away = sent_away;
	waiter->woken = true;
	return task;
}

/*
 * Drops the lock, and then wakes as many sleeping servers as the engine chose
 * under it. @look: checks on them later. One decision of the engine chooses at
 * most ZOSBD2_MOST_WAKES; if there were several under the lock, the surplus is
 * woken before the lock is dropped.
 */
void zosbd2_queue_unlock(struct zosbd2_queue *queue, u32 servers, bool look)
	__releases(&queue->lock)
{
	struct task_struct *tasks[ZOSBD2_MOST_WAKES];
	u32 count = 0;

	if (likely(!servers && !look)) {
		spin_unlock(&queue->lock);
		return;
	}
	/* A woken server may exit at once; RCU keeps its task. */
	rcu_read_lock();
	while (count < servers) {
		struct task_struct *task = wake_next(queue, false);

		if (!task)
			break;
		if (likely(count < ZOSBD2_MOST_WAKES)) {
			tasks[count++] = task;
		} else {
			wake_up_process(task);
			servers--;
		}
	}
	spin_unlock(&queue->lock);
	while (count)
		wake_up_process(tasks[--count]);
	rcu_read_unlock();
	if (look)
		queue_delayed_work(look_queue, &queue->look, msecs_to_jiffies(ZOSBD2_LOOK_MS));
}

/*
 * Sleeps until woken, a signal, or the end of the time @left
 * (zosbd2_timeout()), from which the slept time is subtracted. Called and
 * returns with the lock held, but drops it while sleeping. Returns ZOSBD2_WOKEN
 * or ZOSBD2_SENT_AWAY if woken, even if a signal came or the time ended as
 * well; otherwise -EINTR or -ETIME.
 */
int zosbd2_queue_sleep(struct zosbd2_queue *queue, long *left) __must_hold(&queue->lock)
{
	struct waiter waiter = { .task = current };

	lockdep_assert_held(&queue->lock);
	list_add(&waiter.link, &queue->waiters);
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (waiter.woken || signal_pending(current) || !*left)
			break;
		spin_unlock(&queue->lock);
		*left = schedule_timeout(*left);
		spin_lock(&queue->lock);
	}
	__set_current_state(TASK_RUNNING);
	if (waiter.woken)
		return waiter.sent_away ? ZOSBD2_SENT_AWAY : ZOSBD2_WOKEN;
	list_del(&waiter.link);
	return signal_pending(current) ? -EINTR : -ETIME;
}

/* Wakes every sleeping server, to be sent away. */
void zosbd2_queue_wake_all(struct zosbd2_queue *queue) __must_hold(&queue->lock)
{
	lockdep_assert_held(&queue->lock);
	while (!list_empty(&queue->waiters))
		wake_up_process(wake_next(queue, true));
}

/*
 * Wakes pollers of the present server's descriptor, because a request is
 * queued. No lock is held.
 */
void zosbd2_queue_wake_pollers(struct zosbd2_queue *queue)
{
	struct zosbd2_server *server;

	rcu_read_lock();
	server = rcu_dereference(queue->device->present);
	/* Full barrier: server_poll() enters the list before it looks at the queue. */
	if (server && wq_has_sleeper(&server->poll))
		wake_up_poll(&server->poll, EPOLLIN | EPOLLRDNORM);
	rcu_read_unlock();
}

/*
 * Ends the block request of a tag that the engine has just freed, so that no
 * other caller can end it. No lock is held. @error is 0 or a negative errno.
 */
void zosbd2_request_end(struct zosbd2_queue *queue, u32 tag, int error)
{
	struct request *request = queue->requests[tag];

	if (!error && req_op(request) == REQ_OP_READ && disk_has_ended(queue))
		error = -EIO;
	/* As in end_request(), and see end_elsewhere(). */
	local_bh_disable();
	if (error || !end_elsewhere(queue, request)) {
		trace_zosbd2_end(queue, tag, error);
		blk_mq_end_request(request, errno_to_blk_status(error));
	}
	local_bh_enable();
}

/* Like zosbd2_request_end() with success, for several tags at once. */
void zosbd2_requests_end(struct zosbd2_queue *queue, const u16 *tags, u32 count)
{
	DEFINE_IO_COMP_BATCH(batch);
	u32 index;

	if (disk_has_ended(queue)) {
		for (index = 0; index < count; index++)
			zosbd2_request_end(queue, tags[index], 0);
		return;
	}
	/* As in end_request(), and see end_elsewhere(). */
	local_bh_disable();
	for (index = 0; index < count; index++) {
		struct request *request = queue->requests[tags[index]];

		if (end_elsewhere(queue, request))
			continue;
		trace_zosbd2_end(queue, tags[index], 0);
		if (!blk_mq_add_to_batch(request, &batch, 0, blk_mq_end_request_batch))
			blk_mq_end_request(request, BLK_STS_OK);
	}
	if (batch.complete)
		blk_mq_end_request_batch(&batch);
	local_bh_enable();
}

/*
 * Copies between user memory that passed access_ok() and a piece of a page. It
 * skips the check of hardened usercopy, which would reject pieces of slab
 * objects: data of less than a page may be in a slab, such as jbd2's copies of
 * metadata, and the block layer guarantees its bounds. Supports fault injection
 * like other copies. Returns the number of bytes that were not copied.
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
 * The fast path for small requests: copies the first @bytes if they are in one
 * piece of one page. Returns false if they are not, or if a page is missing;
 * the caller then starts again.
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

/*
 * Copies @bytes of the request's data between the place and user memory at
 * @user; the first @done bytes are already copied. The place advances with each
 * byte. Returns -EFAULT at the first missing page.
 */
static noinline int copy_pieces(struct request *request, struct zosbd2_place *place, u64 user,
				u32 bytes, u32 *done, bool to_user)
{
	if (!place->bio) {
		place->bio = request->bio;
		place->iter = place->bio->bi_iter;
	}
	while (*done < bytes) {
		struct bio_vec segment;
		unsigned long left;
		u32 copied, part;
		void *page;

		if (!place->iter.bi_size) {
			if (!place->bio->bi_next)
				break;
			place->bio = place->bio->bi_next;
			place->iter = place->bio->bi_iter;
			continue;
		}
		segment = zosbd2_piece(place->bio, place->iter);
		part = min(segment.bv_len, bytes - *done);
		page = bvec_kmap_local(&segment);
		left = copy_part((void __user *)(unsigned long)(user + *done), page, part, to_user);
		if (!to_user)
			flush_dcache_page(segment.bv_page);
		kunmap_local(page);
		copied = part - left;
		bio_advance_iter_single(place->bio, &place->iter, copied);
		*done += copied;
		if (left)
			return -EFAULT;
	}
	return 0;
}

/*
 * Copies @bytes of the request's data to or from user memory at @user, from
 * @place on, where an earlier copy of the same tenure stopped; a place of all
 * zeros is the beginning of the request. Skips the first @done bytes in user
 * memory, and adds the number of copied bytes to @done. The engine has the
 * request COPYING, so the pages stay. Never waits for a page: returns -EFAULT
 * at the first missing page. The caller then unpins the request and calls
 * zosbd2_user_fault_in().
 */
int zosbd2_request_copy(struct zosbd2_queue *queue, u32 tag, struct zosbd2_place *place, u64 user,
			u32 bytes, u32 *done, bool to_user)
{
	struct request *request = queue->requests[tag];

	if (!access_ok((void __user *)(unsigned long)user, bytes))
		return -EFAULT;
	return copy_pieces(request, place, user, bytes, done, to_user);
}

static noinline int copy_all_pieces(struct request *request, u64 user, u32 bytes, bool to_user)
{
	struct zosbd2_place place = {};
	u32 done = 0;

	return copy_pieces(request, &place, user, bytes, &done, to_user);
}

/* Like zosbd2_request_copy(), for the first @bytes of the request. Copies all or fails. */
int zosbd2_request_copy_all(struct zosbd2_queue *queue, u32 tag, u64 user, u32 bytes, bool to_user)
{
	struct request *request = queue->requests[tag];

	if (!access_ok((void __user *)(unsigned long)user, bytes))
		return -EFAULT;
	if (copy_single(request, user, bytes, to_user))
		return 0;
	return copy_all_pieces(request, user, bytes, to_user);
}

/* Zeroes the request's data from its byte @start on. The request is COPYING. */
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

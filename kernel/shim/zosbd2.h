/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The line between the C shim and the Rust glue.
 *
 * Integers, opaque pointers and the structs below cross it, nothing else: no
 * kernel struct is known in Rust, no Rust type in C, and no function pointer
 * crosses. Rust sees a queue and a device as void pointers that it hands back.
 *
 * Error results are 0 or a negative errno.
 */
#ifndef ZOSBD2_H
#define ZOSBD2_H

#include <linux/blk-mq.h>
#include <linux/completion.h>
#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/workqueue.h>

#define ZOSBD2_NAME_BYTES 32

/* Operations, as engine/src/request.rs numbers them. */
enum zosbd2_op {
	ZOSBD2_READ,
	ZOSBD2_WRITE,
	ZOSBD2_DISCARD,
};

/* What the shim needs to make a device; filled by Rust. */
struct zosbd2_params {
	u8 name[ZOSBD2_NAME_BYTES];
	u64 size_bytes;
	u32 block_size;
	u32 max_data_bytes;
	u32 max_discard_bytes;
	u32 timeout_ms;
	u32 depth;
	u32 place;
	u32 handle;
	u32 reserved;
};

/*
 * A queue. @lock covers the engine's queue (@engine), @waiters, and nothing
 * else; it is never held over a copy to or from user memory.
 *
 * @requests: the block request of each tag that is not FREE in the engine.
 */
struct zosbd2_queue {
	spinlock_t lock; /* see above */
	struct list_head waiters;
	void *engine;
	struct request **requests;
};

/*
 * A device. It lives as long as its gendisk: zosbd2_disk_free() is called when
 * the last opener is gone. @engine is Rust's block for the device.
 */
struct zosbd2_device {
	struct gendisk *disk;
	void *engine;
	struct blk_mq_tag_set tag_set;
	struct zosbd2_queue queue;
	struct work_struct teardown;
	struct delayed_work drain;
	struct completion gone;
	u32 place;
	bool sealed;
};

/* Steps of module and device creation that the faults variant can make fail. */
enum zosbd2_fault {
	ZOSBD2_FAULT_NONE,
	ZOSBD2_FAULT_DEVICE,
	ZOSBD2_FAULT_ENGINE,
	ZOSBD2_FAULT_REQUESTS,
	ZOSBD2_FAULT_TAG_SET,
	ZOSBD2_FAULT_DISK,
	ZOSBD2_FAULT_ADD_DISK,
	ZOSBD2_FAULT_BACKTRACE,
};

#ifdef ZOSBD2_FAULTS
bool zosbd2_fault(enum zosbd2_fault step);
#else
static inline bool zosbd2_fault(enum zosbd2_fault step)
{
	return false;
}
#endif

/* disk.c */
int zosbd2_disk_init(void);
void zosbd2_disk_exit(void);

/*
 * queue.c, for disk.c
 */
extern const struct blk_mq_ops zosbd2_queue_ops;
int zosbd2_queue_setup(struct zosbd2_device *device, u32 depth);
void zosbd2_queue_teardown(struct zosbd2_device *device);

/*
 * Shim functions that Rust calls. See the definitions for contracts.
 */
unsigned long zosbd2_queue_lock(struct zosbd2_queue *queue) __acquires(&queue->lock);
void zosbd2_queue_unlock(struct zosbd2_queue *queue, unsigned long flags)
	__releases(&queue->lock);
int zosbd2_queue_sleep(struct zosbd2_queue *queue, unsigned long *flags)
	__must_hold(&queue->lock);
void zosbd2_queue_wake_one(struct zosbd2_queue *queue) __must_hold(&queue->lock);
void zosbd2_queue_wake_all(struct zosbd2_queue *queue) __must_hold(&queue->lock);
void zosbd2_request_end(struct zosbd2_queue *queue, u32 tag, int error);
int zosbd2_request_copy(struct zosbd2_queue *queue, u32 tag, u64 user, u32 *done,
			bool to_user);

int zosbd2_user_read(void *to, u64 user, u32 bytes);
int zosbd2_user_write(u64 user, const void *from, u32 bytes);
int zosbd2_user_clear(u64 user, u32 bytes);
int zosbd2_user_fault_in(u64 user, u32 bytes, bool write);
u32 zosbd2_signal_pending(void);
bool zosbd2_signal_fatal(void);

int zosbd2_registry_lock(void);
void zosbd2_registry_lock_always(void);
void zosbd2_registry_unlock(void);
bool zosbd2_node_exists(const u8 *name);
int zosbd2_device_create(const struct zosbd2_params *params, struct zosbd2_device **device);
void *zosbd2_device_engine(struct zosbd2_device *device);
void zosbd2_device_get(struct zosbd2_device *device);
void zosbd2_device_put(struct zosbd2_device *device);
bool zosbd2_device_seal(struct zosbd2_device *device, bool force);
void zosbd2_device_destroy(struct zosbd2_device *device);
int zosbd2_device_wait_gone(struct zosbd2_device *device);
void zosbd2_backtrace(void);

/*
 * Rust functions that the shim calls (kernel/glue/src).
 */
size_t zosbd2_rs_registry_bytes(u32 max_devices);
void zosbd2_rs_registry_init(void *registry, u32 max_devices);
void zosbd2_rs_registry_remove(void *registry, u32 place);
long zosbd2_rs_control(void *registry, u32 command, u64 argument);

size_t zosbd2_rs_device_bytes(u32 depth);
void zosbd2_rs_device_init(void *engine, const struct zosbd2_params *params,
			   struct zosbd2_queue *queue);
void zosbd2_rs_device_drain(void *engine, u64 now_ms);
u32 zosbd2_rs_device_tick(void *engine, u64 now_ms);
void zosbd2_rs_device_gone(void *engine);

int zosbd2_rs_queue_submit(void *engine, u32 tag, u32 op, u64 offset, u32 length,
			   bool last);
void zosbd2_rs_queue_announce(void *engine);
void zosbd2_rs_queue_expire(void *engine, u32 tag);
long zosbd2_rs_operation(void *engine, bool may_write, u64 argument);

/* The registry's memory, made at module load and initialised by Rust. */
extern void *zosbd2_registry;

#endif

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The boundary between the C shim and the Rust glue.
 *
 * Only integers, opaque pointers and the structs below cross it. Rust knows no
 * kernel struct, C knows no Rust type, and no function pointer crosses. Rust
 * sees a queue and a device as void pointers, and passes them back.
 *
 * Error results are 0 or a negative errno.
 */
#ifndef ZOSBD2_H
#define ZOSBD2_H

#include <linux/atomic.h>
#include <linux/blk-mq.h>
#include <linux/build_bug.h>
#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#define ZOSBD2_NAME_BYTES 32
#define ZOSBD2_SERIAL_BYTES 32
#define ZOSBD2_PROGRAM_BYTES 16

/* What precedes the name of a version 2 device in the name of its disk. */
#define ZOSBD2_DISK_PREFIX "zosbd2-"

/* Alignment of the engine's block and of the queues: no two queues share a cache line. */
#define ZOSBD2_BLOCK_ALIGN 64

/* Operations, as engine/src/request.rs and abi/src/v2.rs number them. */
enum zosbd2_op {
	ZOSBD2_READ,
	ZOSBD2_WRITE,
	ZOSBD2_DISCARD,
	ZOSBD2_FLUSH,
	ZOSBD2_WRITE_ZEROES,
	ZOSBD2_SECURE_ERASE,
};

/* Flags of an operation; numbered as above. */
#define ZOSBD2_REQUEST_FUA 1
#define ZOSBD2_REQUEST_NO_UNMAP 2

/* Bits in the arguments and the result of zosbd2_rs_queue_submit(). */
#define ZOSBD2_FLAGS_SHIFT 8
#define ZOSBD2_LAST BIT(16)
#define ZOSBD2_LOOK BIT(8)

/* Results of zosbd2_queue_sleep(), besides errors. */
#define ZOSBD2_WOKEN 0
#define ZOSBD2_SENT_AWAY 1

/* MOST_WAKES and LOOK_MS of engine/src/queue.rs. */
#define ZOSBD2_MOST_WAKES 8
#define ZOSBD2_LOOK_MS 20

/* NONE_MS of engine/src/deadline.rs: the timeout of a request without a deadline. */
#define ZOSBD2_NO_DEADLINE_MS 1000000000

/* Properties of a disk besides its limits; CREATE_ in abi/src/v2.rs. */
#define ZOSBD2_READ_ONLY 1
#define ZOSBD2_ROTATIONAL 2
#define ZOSBD2_VOLATILE_CACHE 4
#define ZOSBD2_FUA 8
#define ZOSBD2_NO_PARTITION_SCAN 16

/* Parameters for the creation of a device; filled by Rust. */
struct zosbd2_params {
	u8 disk_name[ZOSBD2_NAME_BYTES];
	u8 serial[ZOSBD2_SERIAL_BYTES];
	u64 size_bytes;
	u32 flags;
	u32 version;
	u32 logical_block_size;
	u32 physical_block_size;
	u32 io_min;
	u32 io_opt;
	u32 max_data_bytes;
	u32 discard_granularity;
	u32 max_discard_bytes;
	u32 max_write_zeroes_bytes;
	u32 max_secure_erase_bytes;
	u32 deadline_ms;
	u32 deadline_policy;
	u32 grace_ms;
	u32 queues;
	u32 depth;
	u32 owner_uid;
	u32 place;
	u32 handle;
	u32 reserved;
};

/* What becomes of a request that passed its deadline. */
enum zosbd2_late_action {
	ZOSBD2_LATE_OVER,
	ZOSBD2_LATE_FAILED,
	ZOSBD2_LATE_DOOMED,
	ZOSBD2_LATE_REQUEUED,
	ZOSBD2_LATE_SERVER_DEAD,
	ZOSBD2_LATE_WAITS,
};

/* What becomes of the timer of a request whose timeout has passed. */
enum zosbd2_timer {
	ZOSBD2_TIMER_AGAIN,
	ZOSBD2_TIMER_OVER,
	ZOSBD2_TIMER_NEVER,
};

/*
 * A late request, for the log. Thread @thread of server @epoch holds it; @epoch
 * is 0 if no server does. @dead: the server to be declared dead, 0 for none.
 */
struct zosbd2_late {
	u64 offset;
	u64 age_ms;
	u64 held_ms;
	u32 length;
	u32 op;
	u32 epoch;
	u32 thread;
	u32 action;
	u32 dead;
};

/* Kinds of events, as engine/src/event.rs numbers them. */
enum zosbd2_event_kind {
	ZOSBD2_EVENT_DIED,
	ZOSBD2_EVENT_RECOVERED,
	ZOSBD2_EVENT_FAILED,
	ZOSBD2_EVENT_LATE,
	ZOSBD2_EVENT_CACHE_LOST,
	ZOSBD2_EVENT_UNSERVED,
	ZOSBD2_EVENT_DESTROYED,
};

/* An event of a device of version 2; the fields as in engine/src/event.rs. */
struct zosbd2_event {
	u32 kind;
	u32 epoch;
	u32 process;
	u32 requests;
	u32 ms;
	u8 program[ZOSBD2_PROGRAM_BYTES];
};

/* Result of zosbd2_rs_device_next_event(): an event is to be told. */
#define ZOSBD2_TELL U32_MAX

/*
 * The process that serves a device. @first is its ID in the initial PID
 * namespace, @own in that of the caller; @own is 0 if it has ended.
 */
struct zosbd2_process {
	u32 first;
	u32 own;
	u8 program[ZOSBD2_PROGRAM_BYTES];
};

/* Kinds of reports about a queue. */
enum zosbd2_shown {
	ZOSBD2_SHOWN_STATS,
	ZOSBD2_SHOWN_LATENCY,
	ZOSBD2_SHOWN_REQUESTS,
};

/*
 * A queue. It is one allocation, on the memory node of its CPUs: this, the
 * engine's block (@engine), and @requests. @lock covers the engine's queue and
 * @waiters. It is never held during a copy to or from user memory, and never
 * taken in an interrupt: the block layer calls queue_rq() only in process context.
 *
 * @requests: the block request of each tag that is not FREE in the engine, or
 *	whose request has not ended yet.
 * @look: checks wake-ups under way.
 */
struct zosbd2_queue {
	/* Read by every caller. */
	void *engine;
	struct request **requests;
	struct zosbd2_device *device;
	u32 index;
	struct delayed_work look;
	spinlock_t lock ____cacheline_aligned; /* see above */
	struct list_head waiters;
} ____cacheline_aligned;

/* The engine's block follows in memory. */
static_assert(sizeof(struct zosbd2_queue) % ZOSBD2_BLOCK_ALIGN == 0);

/*
 * A device. Its memory and its place in the registry live until nobody
 * references it: its gendisk until that is freed, every server descriptor, and
 * control calls for their duration. The tag set, which is the largest part, goes
 * with the disk. @engine is Rust's block for the device.
 *
 * @lock: covers the engine's life of the device. Taken after the registry's
 *	lock and before a queue's.
 * @servers: the server descriptors, in the order of their making. Changes under
 *	@servers_lock; read under RCU.
 * @present: the descriptor of the server that gets the requests, on whose poll
 *	head pollers wait; NULL if no descriptor serves. Locked as @servers is.
 * @started: the disk was added. Changes under @lock, false to true.
 * @start_error: why it could not be added. Changes under @lock, once.
 * @late_limit: of the lines in the log about late requests.
 * @process: the process that serves, or that did so last, @program its name, and
 *	@process_epoch the server it serves as. Under @servers_lock.
 * @late: late requests that no event has told of yet.
 * @unseen: the disk is being deleted, and sends no more uevents.
 */
struct zosbd2_device {
	struct kref kref;
	struct gendisk *disk;
	void *engine;
	struct mutex lock; /* see above */
	struct blk_mq_tag_set tag_set;
	struct zosbd2_queue **queues;
	u32 queue_count;
	u32 version;
	u32 flags;
	u32 place;
	u32 handle;
	/* The newest server that bury() has to declare dead. */
	u32 dead;
	bool started;
	bool sealed;
	bool unseen;
	int start_error;
	struct ratelimit_state late_limit;
	spinlock_t servers_lock; /* see above */
	struct list_head servers;
	struct zosbd2_server __rcu *present;
	struct work_struct teardown;
	struct work_struct scan;
	struct delayed_work drain;
	struct delayed_work grace;
	struct work_struct bury;
	struct delayed_work tell;
	struct delayed_work watch;
	atomic_t late;
	struct pid *process;
	u32 process_epoch;
	u8 program[ZOSBD2_PROGRAM_BYTES];
	struct completion gone;
	struct dentry *debug;
	u8 serial[ZOSBD2_SERIAL_BYTES];
};

/*
 * The progress of a copy of a request's data; all zeros at the beginning. It
 * belongs to one tenure of the request, during which the bios do not change.
 * Rust keeps it as ZOSBD2_PLACE_WORDS words.
 */
struct zosbd2_place {
	struct bio *bio;
	struct bvec_iter iter;
};

#define ZOSBD2_PLACE_WORDS 4
static_assert(sizeof(struct zosbd2_place) <= ZOSBD2_PLACE_WORDS * sizeof(u64));

/*
 * A server descriptor: the right to serve until it is closed, or, with @epoch
 * 0, the right to observe. Each descriptor has its own @poll, so that neither
 * an observer nor a server that lost the device takes a wake-up meant for
 * another server.
 */
struct zosbd2_server {
	struct zosbd2_device *device;
	u32 epoch;
	struct wait_queue_head poll;
	struct list_head link;
	struct rcu_head rcu;
};

/* Steps of module and device creation that the faults variant can make fail. */
enum zosbd2_fault {
	ZOSBD2_FAULT_NONE,
	ZOSBD2_FAULT_DEVICE,
	ZOSBD2_FAULT_ENGINE,
	ZOSBD2_FAULT_QUEUE,
	ZOSBD2_FAULT_TAG_SET,
	ZOSBD2_FAULT_DISK,
	ZOSBD2_FAULT_ADD_DISK,
	ZOSBD2_FAULT_BACKTRACE,
	ZOSBD2_FAULT_SERVER,
	ZOSBD2_FAULT_SERVER_FILE,
	ZOSBD2_FAULT_QUEUES,
	ZOSBD2_FAULT_REGISTRY,
	ZOSBD2_FAULT_TEARDOWN_QUEUE,
	ZOSBD2_FAULT_DRAIN_QUEUE,
	ZOSBD2_FAULT_CONTROL,
	ZOSBD2_FAULT_SCAN_QUEUE,
	ZOSBD2_FAULT_OVERRUN,
	ZOSBD2_FAULT_LOOK_QUEUE,
	ZOSBD2_FAULT_EVENT_QUEUE,
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

/* event.c */
int zosbd2_event_init(void);
void zosbd2_event_exit(void);
void zosbd2_event_setup(struct zosbd2_device *device);
void zosbd2_device_tell_late(struct zosbd2_device *device);
void zosbd2_device_tell_last(struct zosbd2_device *device);
void zosbd2_device_watch(struct zosbd2_device *device, u32 ms);

/* user.c */
bool zosbd2_pid_lives(struct pid *pid, enum pid_type type);

/* debug.c */
void zosbd2_debug_init(void);
void zosbd2_debug_exit(void);
void zosbd2_debug_add(struct zosbd2_device *device);
void zosbd2_debug_remove(struct zosbd2_device *device);

/* queue.c, for disk.c */
extern const struct blk_mq_ops zosbd2_queue_ops;
void zosbd2_device_declare_dead(struct zosbd2_device *device, u32 epoch);
unsigned int zosbd2_request_timeout(u32 deadline_ms);
void *zosbd2_alloc_block(size_t bytes, int node);
int zosbd2_queue_init(void);
void zosbd2_queue_exit(void);
int zosbd2_queue_setup(struct zosbd2_device *device, u32 depth);
void zosbd2_queue_teardown(struct zosbd2_device *device);

/*
 * Shim functions that Rust calls. See the definitions for contracts.
 */
void zosbd2_queue_lock(struct zosbd2_queue *queue) __acquires(&queue->lock);
void zosbd2_queue_unlock(struct zosbd2_queue *queue, u32 servers, bool look)
	__releases(&queue->lock);
int zosbd2_queue_sleep(struct zosbd2_queue *queue, long *left) __must_hold(&queue->lock);
void zosbd2_queue_wake_all(struct zosbd2_queue *queue) __must_hold(&queue->lock);
void zosbd2_queue_wake_pollers(struct zosbd2_queue *queue);
void zosbd2_request_end(struct zosbd2_queue *queue, u32 tag, int error);
void zosbd2_requests_end(struct zosbd2_queue *queue, const u16 *tags, u32 count);
int zosbd2_request_copy(struct zosbd2_queue *queue, u32 tag, struct zosbd2_place *place, u64 user,
			u32 bytes, u32 *done, bool to_user);
int zosbd2_request_copy_all(struct zosbd2_queue *queue, u32 tag, u64 user, u32 bytes,
			    bool to_user);
void zosbd2_request_zero(struct zosbd2_queue *queue, u32 tag, u32 start);

bool zosbd2_tracing(void);
void zosbd2_trace_fetch(struct zosbd2_queue *queue, u32 tag, u32 generation, u32 epoch);
void zosbd2_trace_commit(struct zosbd2_queue *queue, u32 tag, u32 generation, u32 epoch,
			 int status);
void zosbd2_trace_requeue(struct zosbd2_queue *queue, u32 tag);
void zosbd2_trace_timeout(struct zosbd2_queue *queue, u32 tag, u32 action);

bool zosbd2_show_begin(void *file, u32 queue);
void zosbd2_show_number(void *file, const char *key, u64 number);
void zosbd2_show_word(void *file, const char *key, const char *word);
void zosbd2_show_end(void *file);

int zosbd2_user_read(void *to, u64 user, u32 bytes);
int zosbd2_user_write(u64 user, const void *from, u32 bytes);
int zosbd2_user_clear(u64 user, u32 bytes);
int zosbd2_user_check(u64 user, u32 bytes);
int zosbd2_user_fault_in(u64 user, u32 bytes, bool write);
int zosbd2_user_tail_is_zero(u64 user, u32 bytes);
u32 zosbd2_signal_pending(void);
bool zosbd2_signal_fatal(void);
bool zosbd2_pause(void);
u32 zosbd2_current_uid(void);
bool zosbd2_may_serve(u32 owner_uid);
long zosbd2_timeout(u32 ms);
u64 zosbd2_now_ns(void);
u32 zosbd2_thread(void);
bool zosbd2_thread_lives(u32 thread);
u32 zosbd2_process(void);
bool zosbd2_process_lives(u32 process);
bool zosbd2_spin(u64 until_ns);
u32 zosbd2_cpus(void);
u32 zosbd2_page_size(void);
void zosbd2_version(u8 *version);

int zosbd2_registry_lock(void);
void zosbd2_registry_lock_always(void);
void zosbd2_registry_unlock(void);
bool zosbd2_node_exists(const u8 *name);
int zosbd2_device_create(const struct zosbd2_params *params, struct zosbd2_device **device);
void *zosbd2_device_engine(struct zosbd2_device *device);
int zosbd2_device_lock(struct zosbd2_device *device);
void zosbd2_device_lock_always(struct zosbd2_device *device);
void zosbd2_device_unlock(struct zosbd2_device *device);
void zosbd2_device_get(struct zosbd2_device *device);
void zosbd2_device_put(struct zosbd2_device *device);
bool zosbd2_device_name_taken(struct zosbd2_device *device);
int zosbd2_device_start(struct zosbd2_device *device);
void zosbd2_device_resize(struct zosbd2_device *device, u64 size_bytes);
void zosbd2_device_hang_up(struct zosbd2_device *device);
u64 zosbd2_device_number(struct zosbd2_device *device);
u32 zosbd2_device_deadline(struct zosbd2_device *device, u32 ms);
void zosbd2_device_begin_grace(struct zosbd2_device *device, u32 ms);
void zosbd2_device_set_deadline(struct zosbd2_device *device, u32 ms);
u32 zosbd2_device_opens(struct zosbd2_device *device);
void zosbd2_device_note_process(struct zosbd2_device *device, u32 epoch);
void zosbd2_device_process(struct zosbd2_device *device, struct zosbd2_process *process);
bool zosbd2_device_process_lives(struct zosbd2_device *device);
void zosbd2_device_tell(struct zosbd2_device *device);
bool zosbd2_device_seal(struct zosbd2_device *device, bool force);
void zosbd2_device_destroy(struct zosbd2_device *device);
int zosbd2_device_wait_gone(struct zosbd2_device *device);
int zosbd2_server_open(struct zosbd2_device *device, struct file **file);
void zosbd2_server_appoint(struct file *file, u32 epoch);
void zosbd2_server_install(int fd, struct file *file);
void zosbd2_server_abandon(int fd, struct file *file);
void zosbd2_backtrace(void);
u32 zosbd2_overrun(void);

/*
 * Rust functions that the shim calls (kernel/glue/src).
 */
size_t zosbd2_rs_registry_bytes(u32 max_devices);
void zosbd2_rs_registry_init(void *registry, u32 max_devices);
void zosbd2_rs_registry_vacate(void *registry, u32 place);
void zosbd2_rs_registry_remove(void *registry, u32 place);
long zosbd2_rs_control(void *registry, u32 command, u64 argument, bool compat);

size_t zosbd2_rs_device_bytes(u32 queues);
size_t zosbd2_rs_queue_bytes(u32 depth);
void zosbd2_rs_device_init(void *engine, const struct zosbd2_params *params,
			   struct zosbd2_device *device);
void zosbd2_rs_queue_init(void *engine, void *device, u32 index, struct zosbd2_queue *queue);
u32 zosbd2_rs_device_drain(void *engine, u64 now_ms);
void zosbd2_rs_device_gone(void *engine);
void zosbd2_rs_device_grace_over(void *engine, void *registry);
u32 zosbd2_rs_device_next_event(void *engine, u64 now_ms, u32 late, struct zosbd2_event *event);
u32 zosbd2_rs_device_watch(void *engine, u64 now_ms);

/*
 * Called with the queue's lock held. Returns how many servers to wake when it
 * is dropped, and ZOSBD2_LOOK. @what is the operation, with its flags from bit
 * 8 on, and ZOSBD2_LAST if no further request follows. Six arguments, so all of
 * them are in registers.
 */
int zosbd2_rs_queue_submit(void *engine, u32 tag, u32 what, u64 offset, u32 length, u64 now_ns);

void zosbd2_rs_queue_announce(void *engine);
void zosbd2_rs_queue_look(void *engine);
u32 zosbd2_rs_queue_expire(void *engine, u32 tag, u32 timeout_ms, struct zosbd2_late *late);
void zosbd2_rs_queue_show(void *engine, void *file, u32 what);
void zosbd2_rs_device_declare_dead(void *engine, void *registry, u32 epoch);
long zosbd2_rs_node(void *engine, bool may_write, u32 command, u64 argument);
long zosbd2_rs_server(void *engine, u32 epoch, u32 command, u64 argument);
u32 zosbd2_rs_server_poll(void *engine, u32 epoch);
void zosbd2_rs_server_closed(void *engine, void *registry, u32 epoch);

/* The registry's memory, allocated at module load and initialised by Rust. */
extern void *zosbd2_registry;

#endif

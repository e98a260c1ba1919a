// SPDX-License-Identifier: GPL-2.0-only
/*
 * A device and its gendisk: create, start, open, destroy.
 *
 * Ownership: zosbd2_device_create() returns a device whose disk is invisible
 * until zosbd2_device_start(). The caller that sealed the device in the
 * registry calls zosbd2_device_destroy(), exactly once. The memory is freed
 * when the last opener has closed the disk and the last reference of
 * zosbd2_device_get() is dropped.
 *
 * A workqueue carries out the destruction, so a caller that is killed while it
 * waits leaves nothing half done. del_gendisk() writes back dirty data and
 * waits for all requests. The drain work bounds that wait: Rust decides when
 * the server has had enough time, and fails the remaining requests.
 */
#include <linux/blkdev.h>
#include <linux/file.h>
#include <linux/fs_struct.h>
#include <linux/hdreg.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/timekeeping.h>

#include "../compat/compat.h"
#include "../compat/disk.h"
#include "zosbd2.h"

/*
 * How many scans run at a time. A scan waits for the disk's server, and holds a
 * kernel thread meanwhile. The default differs between kernels (256, 1024).
 */
#define MAX_SCANS 256

/*
 * Three work queues, so that no work waits behind a work that it has to end. A
 * scan lasts as long as its server does not answer, and a teardown ends scans.
 * del_gendisk() may wait for workers that need memory, so the teardown must not
 * run on a queue that others need to free memory. The drain work must end a
 * teardown even without memory.
 */
static struct workqueue_struct *scan_queue;
static struct workqueue_struct *teardown_queue;
static struct workqueue_struct *drain_queue;

int zosbd2_disk_init(void)
{
	scan_queue = zosbd2_fault(ZOSBD2_FAULT_SCAN_QUEUE) ? NULL :
		alloc_workqueue("zosbd2_scan", WQ_UNBOUND, MAX_SCANS);
	if (!scan_queue)
		return -ENOMEM;
	teardown_queue = zosbd2_fault(ZOSBD2_FAULT_TEARDOWN_QUEUE) ? NULL :
		alloc_workqueue("zosbd2_teardown", WQ_UNBOUND, 0);
	if (!teardown_queue)
		goto destroy_scan;
	drain_queue = zosbd2_fault(ZOSBD2_FAULT_DRAIN_QUEUE) ? NULL :
		alloc_workqueue("zosbd2_drain", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!drain_queue)
		goto destroy_teardown;
	return 0;

destroy_teardown:
	destroy_workqueue(teardown_queue);
destroy_scan:
	destroy_workqueue(scan_queue);
	return -ENOMEM;
}

void zosbd2_disk_exit(void)
{
	destroy_workqueue(scan_queue);
	destroy_workqueue(teardown_queue);
	destroy_workqueue(drain_queue);
}

static u64 now_ms(void)
{
	return ktime_to_ms(ktime_get());
}

/* Called with disk->open_mutex held, like zosbd2_device_seal(). */
static int zosbd2_disk_open(struct gendisk *disk)
{
	struct zosbd2_device *device = disk->private_data;

	return READ_ONCE(device->sealed) ? -ENXIO : 0;
}

static int zosbd2_disk_ioctl(struct gendisk *disk, bool may_write, u32 command, u64 argument)
{
	struct zosbd2_device *device = disk->private_data;
	unsigned int noio;
	long result;

	might_sleep();
	/* Version 2 is served through server descriptors. */
	if (device->version != 1)
		return -ENOTTY;
	/* Allocations for the server must not wait for I/O to its own disk. */
	noio = memalloc_noio_save();
	result = zosbd2_rs_node(device->engine, may_write, command, argument);
	memalloc_noio_restore(noio);
	return result;
}

/* The caller has entered the start of the partition, or zero for the disk. */
static int zosbd2_disk_getgeo(struct gendisk *disk, struct hd_geometry *geo)
{
	geo->heads = 4;
	geo->sectors = 16;
	geo->cylinders = get_capacity(disk) >> 6;
	return 0;
}

/*
 * The device's place in the registry is freed with its memory, so max_devices
 * limits that memory. The module can be unloaded from module_put() on; module
 * exit waits for tasks that are still in this function or in its callers.
 */
static void device_free(struct kref *kref)
{
	struct zosbd2_device *device = container_of(kref, struct zosbd2_device, kref);

	zosbd2_rs_registry_remove(zosbd2_registry, device->place);
	zosbd2_queue_teardown(device);
	kvfree(device->engine);
	put_pid(device->process);
	kfree(device);
	module_put(THIS_MODULE);
}

/* The last reference to a started disk was dropped. May sleep. */
static void disk_free(struct gendisk *disk)
{
	zosbd2_device_put(disk->private_data);
}

static ssize_t serial_show(struct device *dev, struct device_attribute *attribute, char *page)
{
	struct zosbd2_device *device = dev_to_disk(dev)->private_data;

	return sysfs_emit(page, "%.*s\n", ZOSBD2_SERIAL_BYTES, device->serial);
}
static DEVICE_ATTR_RO(serial);

static struct attribute *disk_attrs[] = {
	&dev_attr_serial.attr,
	NULL,
};
ATTRIBUTE_GROUPS(disk);

/*
 * Whether a disk or a partition has the name of this disk. The block layer
 * would refuse the name, too, but sysfs prints a stack trace then. No path is
 * looked up, so no file system can delay the check. May sleep.
 */
static bool name_is_taken(struct gendisk *disk)
{
	struct device *other;

	might_sleep();
	other = class_find_device_by_name(disk_to_dev(disk)->class, disk->disk_name);
	put_device(other);
	return other && other != disk_to_dev(disk);
}

/*
 * Whether START would fail because another disk has the name. The caller holds
 * no lock: dropping the last reference to the other disk may free its device,
 * which takes the registry's lock.
 */
bool zosbd2_device_name_taken(struct zosbd2_device *device)
{
	return name_is_taken(device->disk);
}

static const struct block_device_operations disk_ops = {
	.owner = THIS_MODULE,
	.open = disk_open,
	.ioctl = disk_ioctl,
	.getgeo = disk_getgeo,
	.free_disk = disk_free,
};

static void drain_work(struct work_struct *work)
{
	struct zosbd2_device *device =
		container_of(to_delayed_work(work), struct zosbd2_device, drain);
	u32 next_ms;

	next_ms = zosbd2_rs_device_drain(device->engine, now_ms());
	if (next_ms)
		queue_delayed_work(drain_queue, &device->drain, msecs_to_jiffies(next_ms));
}

static void grace_work(struct work_struct *work)
{
	struct zosbd2_device *device =
		container_of(to_delayed_work(work), struct zosbd2_device, grace);

	zosbd2_rs_device_grace_over(device->engine, zosbd2_registry);
}

static void bury_work(struct work_struct *work)
{
	struct zosbd2_device *device = container_of(work, struct zosbd2_device, bury);

	zosbd2_rs_device_declare_dead(device->engine, zosbd2_registry, READ_ONCE(device->dead));
}

/*
 * Schedules the declaration that the server @epoch and all earlier ones are
 * dead. Called by the timeout handler, which holds a request of the device, so
 * the device exists.
 */
void zosbd2_device_declare_dead(struct zosbd2_device *device, u32 epoch)
{
	/* The timeout handlers of a device's queues run one at a time. */
	if (epoch > READ_ONCE(device->dead))
		WRITE_ONCE(device->dead, epoch);
	queue_work(drain_queue, &device->bury);
}

/*
 * Scans for partitions. START must not do this itself: the scan reads the disk,
 * and the caller of START may be the only serving thread. The disk may be open
 * exclusively by now, and no partition may then appear below its holder.
 */
static void scan_work(struct work_struct *work)
{
	struct zosbd2_device *device = container_of(work, struct zosbd2_device, scan);
	struct gendisk *disk = device->disk;

	if (zosbd2_claim(disk->part0, device))
		return;
	mutex_lock(&disk->open_mutex);
	if (!READ_ONCE(device->sealed))
		bdev_disk_changed(disk, false);
	mutex_unlock(&disk->open_mutex);
	bd_abort_claiming(disk->part0, device);
}

static void teardown_work(struct work_struct *work)
{
	struct zosbd2_device *device = container_of(work, struct zosbd2_device, teardown);
	bool started;

	/*
	 * Same as drain_work(), which may not have run. From now on no START
	 * and no new grace is possible.
	 */
	zosbd2_rs_device_drain(device->engine, now_ms());
	mutex_lock(&device->lock);
	started = device->started;
	mutex_unlock(&device->lock);
	cancel_delayed_work_sync(&device->grace);
	cancel_delayed_work_sync(&device->watch);
	if (started) {
		zosbd2_device_tell_last(device);
		cancel_work_sync(&device->scan);
		del_gendisk(device->disk);
		/* No request is left, so no request can be late. */
		cancel_work_sync(&device->bury);
		/* The disk's queue has left the tag set, and accepts no more requests. */
		blk_mq_free_tag_set(&device->tag_set);
	}
	cancel_delayed_work_sync(&device->drain);
	zosbd2_rs_device_gone(device->engine);
	/* Nothing happens to a device that is gone, so no event can follow. */
	flush_delayed_work(&device->tell);
	zosbd2_device_hang_up(device);
	zosbd2_debug_remove(device);
	zosbd2_rs_registry_vacate(zosbd2_registry, device->place);
	complete_all(&device->gone);
	zosbd2_put_disk(device->disk);
	if (!started) {
		/*
		 * The queue of a disk that was never added leaves the tag set
		 * when the disk is freed.
		 */
		blk_mq_free_tag_set(&device->tag_set);
		zosbd2_device_put(device);
	}
}

/*
 * Creates a device. Its disk is invisible until zosbd2_device_start(). On
 * failure nothing is left. Process context, may sleep.
 */
int zosbd2_device_create(const struct zosbd2_params *params, struct zosbd2_device **result)
{
	const struct zosbd2_limits limits = {
		.volatile_cache = params->flags & ZOSBD2_VOLATILE_CACHE,
		.fua = params->flags & ZOSBD2_FUA,
		.rotational = params->flags & ZOSBD2_ROTATIONAL,
		.logical_block_size = params->logical_block_size,
		.physical_block_size = params->physical_block_size,
		.io_min = params->io_min,
		.io_opt = params->io_opt,
		.max_hw_sectors = params->max_data_bytes >> SECTOR_SHIFT,
		.max_segments = USHRT_MAX,
		.discard_granularity = params->discard_granularity,
		.max_discard_sectors = params->max_discard_bytes >> SECTOR_SHIFT,
		.max_write_zeroes_sectors = params->max_write_zeroes_bytes >> SECTOR_SHIFT,
		.max_secure_erase_sectors = params->max_secure_erase_bytes >> SECTOR_SHIFT,
	};
	struct zosbd2_device *device;
	struct gendisk *disk;
	int error = -ENOMEM;

	might_sleep();
	device = zosbd2_fault(ZOSBD2_FAULT_DEVICE) ? NULL :
		kzalloc(sizeof(*device), GFP_KERNEL_ACCOUNT);
	if (!device)
		return -ENOMEM;
	kref_init(&device->kref);
	mutex_init(&device->lock);
	spin_lock_init(&device->servers_lock);
	INIT_LIST_HEAD(&device->servers);
	init_completion(&device->gone);
	ratelimit_state_init(&device->late_limit, DEFAULT_RATELIMIT_INTERVAL,
			     DEFAULT_RATELIMIT_BURST);
	INIT_WORK(&device->teardown, teardown_work);
	INIT_WORK(&device->scan, scan_work);
	INIT_DELAYED_WORK(&device->drain, drain_work);
	INIT_DELAYED_WORK(&device->grace, grace_work);
	INIT_WORK(&device->bury, bury_work);
	zosbd2_event_setup(device);
	device->version = params->version;
	device->flags = params->flags;
	device->place = params->place;
	device->handle = params->handle;
	device->queue_count = params->queues;
	memcpy(device->serial, params->serial, sizeof(device->serial));

	device->engine = zosbd2_fault(ZOSBD2_FAULT_ENGINE) ? NULL :
		zosbd2_alloc_block(zosbd2_rs_device_bytes(params->queues), NUMA_NO_NODE);
	if (!device->engine)
		goto free_device;
	zosbd2_rs_device_init(device->engine, params, device);
	device->tag_set.timeout = zosbd2_request_timeout(params->deadline_ms);
	error = zosbd2_queue_setup(device, params->depth);
	if (error)
		goto free_engine;

	disk = zosbd2_fault(ZOSBD2_FAULT_DISK) ? ERR_PTR(-ENOMEM) :
		zosbd2_alloc_disk(&device->tag_set, &limits, device);
	if (IS_ERR(disk)) {
		error = PTR_ERR(disk);
		goto undo_queue;
	}
	device->disk = disk;
	/*
	 * rq_affinity begins with 0: requests end in the server's thread, in
	 * batches. 1 and 2 interrupt the submitters' CPUs, which costs more than
	 * the batch does (docs/benchmarks.md).
	 */
	blk_queue_flag_clear(QUEUE_FLAG_SAME_COMP, disk->queue);
	disk->fops = &disk_ops;
	disk->private_data = device;
	strscpy(disk->disk_name, params->disk_name, sizeof(disk->disk_name));
	if (params->version == 1)
		disk->flags |= GENHD_FL_NO_PART;
	/* Version 1 has checked more, because its nodes are directly in /dev. */
	if (params->version != 1 && name_is_taken(disk)) {
		error = -EEXIST;
		goto put_disk;
	}
	/*
	 * scan_work() scans for partitions later. Without a scan the bit stays
	 * set, so that BLKRRPART is refused, too: udev calls it whenever a
	 * writer closes the disk.
	 */
	set_bit(GD_SUPPRESS_PART_SCAN, &disk->state);
	set_capacity(disk, params->size_bytes >> SECTOR_SHIFT);
	if (params->flags & ZOSBD2_READ_ONLY)
		set_disk_ro(disk, true);

	/* device_free() drops this reference. Code of the module may run until then. */
	__module_get(THIS_MODULE);
	zosbd2_debug_add(device);
	*result = device;
	return 0;

put_disk:
	zosbd2_put_disk(disk);
undo_queue:
	blk_mq_free_tag_set(&device->tag_set);
	zosbd2_queue_teardown(device);
free_engine:
	kvfree(device->engine);
free_device:
	kfree(device);
	return error;
}

/*
 * Creates the node of a device that is neither started nor being destroyed, and
 * whose name was just free (zosbd2_device_name_taken()). I/O
 * and opens may come before this returns; it waits for none of them. The block
 * layer accepts a disk only once: after an error every later call returns the
 * same error. The caller holds the device's lock.
 */
int zosbd2_device_start(struct zosbd2_device *device)
{
	struct gendisk *disk = device->disk;
	int error;

	lockdep_assert_held(&device->lock);
	if (device->start_error)
		return device->start_error;
	error = zosbd2_fault(ZOSBD2_FAULT_ADD_DISK) ? -EEXIST :
		device_add_disk(NULL, disk, disk_groups);
	if (error) {
		/*
		 * A failed disk keeps its major number, and the block layer
		 * would warn about that.
		 */
		device->start_error = error;
		return error;
	}
	device->started = true;
	if (!(disk->flags & GENHD_FL_NO_PART) && !(device->flags & ZOSBD2_NO_PARTITION_SCAN)) {
		clear_bit(GD_SUPPRESS_PART_SCAN, &disk->state);
		queue_work(scan_queue, &device->scan);
	}
	if (device->version != 1)
		zosbd2_device_watch(device, 0);
	return 0;
}

/*
 * Changes the size of a device that is not being destroyed. The caller holds
 * the device's lock.
 */
void zosbd2_device_resize(struct zosbd2_device *device, u64 size_bytes)
{
	lockdep_assert_held(&device->lock);
	set_capacity_and_notify(device->disk, size_bytes >> SECTOR_SHIFT);
}

/*
 * Returns the major number, above the minor number of the node; 0 without a
 * node. The caller holds the registry's lock, or has a server descriptor of a
 * live device.
 */
u64 zosbd2_device_number(struct zosbd2_device *device)
{
	struct gendisk *disk = device->disk;

	lockdep_assert_held(&device->lock);
	return device->started ? (u64)disk->major << 32 | disk->first_minor : 0;
}

/*
 * Returns the deadline of requests, which was created as @ms; a write to
 * queue/io_timeout changes it. The device is not being destroyed. The caller
 * holds the device's lock.
 */
u32 zosbd2_device_deadline(struct zosbd2_device *device, u32 ms)
{
	unsigned int timeout = READ_ONCE(device->disk->queue->rq_timeout);

	lockdep_assert_held(&device->lock);
	/* The block layer counts in jiffies. */
	return timeout == msecs_to_jiffies(ms) ? ms : jiffies_to_msecs(timeout);
}

/*
 * Changes the deadline of the requests that start from now on; 0 for none. The
 * block layer keeps the timeout of a request that has started. The device is not
 * being destroyed. The caller holds the device's lock.
 */
void zosbd2_device_set_deadline(struct zosbd2_device *device, u32 ms)
{
	lockdep_assert_held(&device->lock);
	blk_queue_rq_timeout(device->disk->queue, zosbd2_request_timeout(ms));
}

/* How often the disk and its partitions are open. The caller holds the device's lock. */
u32 zosbd2_device_opens(struct zosbd2_device *device)
{
	lockdep_assert_held(&device->lock);
	return disk_openers(device->disk);
}

/* Starts the grace, because the last server is gone. The caller holds the device's lock. */
void zosbd2_device_begin_grace(struct zosbd2_device *device, u32 ms)
{
	lockdep_assert_held(&device->lock);
	mod_delayed_work(drain_queue, &device->grace, msecs_to_jiffies(ms));
}

/* Takes the device's lock. Returns -EINTR if the caller is being killed. */
int zosbd2_device_lock(struct zosbd2_device *device)
{
	might_sleep();
	return mutex_lock_killable(&device->lock);
}

/* Like zosbd2_device_lock(), but not killable. */
void zosbd2_device_lock_always(struct zosbd2_device *device)
{
	might_sleep();
	mutex_lock(&device->lock);
}

void zosbd2_device_unlock(struct zosbd2_device *device)
{
	mutex_unlock(&device->lock);
}

void *zosbd2_device_engine(struct zosbd2_device *device)
{
	return device->engine;
}

/*
 * Takes a reference to the device's memory. The caller has a reference or the
 * registry's lock.
 */
void zosbd2_device_get(struct zosbd2_device *device)
{
	kref_get(&device->kref);
}

/* Drops a reference. May free the device, so may sleep. */
void zosbd2_device_put(struct zosbd2_device *device)
{
	might_sleep();
	kref_put(&device->kref, device_free);
}

/*
 * Refuses opens from now on. Without @force only if the disk is not open:
 * returns false, and changes nothing, if the disk is open or is just being
 * opened or closed. Never waits. The caller holds the registry's lock.
 */
bool zosbd2_device_seal(struct zosbd2_device *device, bool force)
{
	struct gendisk *disk = device->disk;

	if (force) {
		WRITE_ONCE(device->sealed, true);
		return true;
	}
	/* Not mutex_lock(): a last close holds the mutex while it writes back. */
	if (!mutex_trylock(&disk->open_mutex))
		return false;
	if (!disk_openers(disk))
		WRITE_ONCE(device->sealed, true);
	mutex_unlock(&disk->open_mutex);
	return READ_ONCE(device->sealed);
}

/*
 * Starts the destruction of a sealed device. Does not wait. The time for its
 * servers starts now, even if the teardown has to wait for other teardowns.
 */
void zosbd2_device_destroy(struct zosbd2_device *device)
{
	queue_delayed_work(drain_queue, &device->drain, 0);
	queue_work(teardown_queue, &device->teardown);
}

/*
 * Waits until the disk is deleted, the name is free, and the caller's reference
 * is the module's last one. If the disk is not open either, the module can be
 * unloaded next. Returns -ERESTARTSYS if the caller is being killed.
 */
int zosbd2_device_wait_gone(struct zosbd2_device *device)
{
	int error;

	might_sleep();
	error = wait_for_completion_killable(&device->gone);
	if (error)
		return error;
	/* After completing, the work only drops its reference. */
	flush_work(&device->teardown);
	return 0;
}

/*
 * The root of the first process, which the caller puts. The idle task has no
 * such root in newer kernels (7.3), where it stays in an empty file system.
 */
static bool first_root(struct path *root)
{
	struct task_struct *task;
	bool found = false;

	rcu_read_lock();
	task = pid_task(find_pid_ns(1, &init_pid_ns), PIDTYPE_TGID);
	if (task)
		get_task_struct(task);
	rcu_read_unlock();
	if (!task)
		return false;
	task_lock(task);
	if (task->fs) {
		get_fs_root(task->fs, root);
		found = true;
	}
	task_unlock(task);
	put_task_struct(task);
	return found;
}

/*
 * Looks a path up in the first process's root. The caller may have built its
 * own mount namespace, whose file systems may never answer.
 */
static bool path_exists(const char *folder, const u8 *name)
{
	struct file *file;
	struct path root;
	char *full;

	if (!first_root(&root))
		return false;
	full = kasprintf(GFP_KERNEL, "%s%.*s", folder, ZOSBD2_NAME_BYTES - 1, name);
	if (!full) {
		path_put(&root);
		return false;
	}
	file = file_open_root(&root, full, O_PATH | O_NOFOLLOW, 0);
	path_put(&root);
	kfree(full);
	if (IS_ERR(file))
		return false;
	fput(file);
	return true;
}

/*
 * Whether a node or a disk of this name exists, for version 1. The check opens
 * nothing. @name is valid (engine/src/name.rs), so it stays in its folder. A
 * look-up that fails for another reason counts as free; add_disk() decides. No
 * lock is held, because a file system may block the caller.
 */
bool zosbd2_node_exists(const u8 *name)
{
	might_sleep();
	return path_exists("dev/", name) || path_exists("sys/class/block/", name);
}

/* Prints the stack of the caller. Only the faults variant calls it. */
void zosbd2_backtrace(void)
{
	if (zosbd2_fault(ZOSBD2_FAULT_BACKTRACE))
		dump_stack();
}

/*
 * Returns how many bytes beyond the end of its memory the Rust object must
 * read, 0 for none. Only the faults variant calls it.
 */
u32 zosbd2_overrun(void)
{
	return zosbd2_fault(ZOSBD2_FAULT_OVERRUN) ? 1 : 0;
}

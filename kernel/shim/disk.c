// SPDX-License-Identifier: GPL-2.0-only
/*
 * A device and its gendisk: made, started, opened, destroyed.
 *
 * Who owns what: zosbd2_device_create() gives its caller a device whose disk
 * nobody sees until zosbd2_device_start(). It ends by zosbd2_device_destroy(),
 * called exactly once, by whoever sealed it in the registry. The memory lives
 * until the last opener and the last zosbd2_device_get() are gone.
 *
 * Destruction runs on a workqueue, so that a caller who is killed while it
 * waits leaves nothing half done. del_gendisk() writes back what is dirty and
 * waits for all requests; the drain work bounds that wait: Rust decides when
 * the server had its time and fails what is left.
 */
#include <linux/blkdev.h>
#include <linux/file.h>
#include <linux/fs_struct.h>
#include <linux/hdreg.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/timekeeping.h>

#include "../compat/compat.h"
#include "../compat/disk.h"
#include "zosbd2.h"

/*
 * Three, so that no work waits behind one that it is to end. A scan lasts as
 * long as its server does not answer; teardowns end scans. del_gendisk() may
 * wait for workers that need memory, which one that others need to free memory
 * must not; and it is the drain work that makes sure that a teardown ends,
 * memory or not.
 */
static struct workqueue_struct *scan_queue;
static struct workqueue_struct *teardown_queue;
static struct workqueue_struct *drain_queue;

int zosbd2_disk_init(void)
{
	scan_queue = zosbd2_fault(ZOSBD2_FAULT_SCAN_QUEUE) ? NULL :
		alloc_workqueue("zosbd2_scan", WQ_UNBOUND, 0);
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

/* Called with disk->open_mutex held, as zosbd2_device_seal() is. */
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
	/* Version 2 is served through its own descriptors. */
	if (device->version != 1)
		return -ENOTTY;
	/* Memory for the server must not be waited for on our own disk. */
	noio = memalloc_noio_save();
	result = zosbd2_rs_node(device->engine, may_write, command, argument);
	memalloc_noio_restore(noio);
	return result;
}

static int disk_getgeo(struct block_device *bdev, struct hd_geometry *geo)
{
	geo->heads = 4;
	geo->sectors = 16;
	geo->cylinders = bdev_nr_sectors(bdev) >> 6;
	geo->start = 0;
	return 0;
}

/*
 * The device's place in the registry goes with its memory, so that max_devices
 * bounds that memory. The module can be unloaded from module_put() on; module
 * exit waits for whoever is still in here, or in a caller of ours.
 */
static void device_free(struct kref *kref)
{
	struct zosbd2_device *device = container_of(kref, struct zosbd2_device, kref);

	zosbd2_rs_registry_remove(zosbd2_registry, device->place);
	zosbd2_queue_teardown(device);
	kvfree(device->engine);
	kfree(device);
	module_put(THIS_MODULE);
}

/* The last reference to a started disk is gone. May sleep. */
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
 * would refuse it too, but sysfs prints a stack trace then. No path is looked
 * up, so no file system is waited for. May sleep.
 */
static bool name_is_taken(struct gendisk *disk)
{
	struct device *other;

	might_sleep();
	other = class_find_device_by_name(disk_to_dev(disk)->class, disk->disk_name);
	put_device(other);
	return other;
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
 * Declares a server dead soon, and all before it. Called by the timeout handler
 * with a request of the device not ended, so the device is there.
 */
void zosbd2_device_declare_dead(struct zosbd2_device *device, u32 epoch)
{
	/* The handlers of a device's queues take turns (its timeout work). */
	if (epoch > READ_ONCE(device->dead))
		WRITE_ONCE(device->dead, epoch);
	queue_work(drain_queue, &device->bury);
}

/*
 * Looks for partitions. Not in the call that starts the disk: it reads the
 * disk, and the caller may be the only one who serves it. By now somebody may
 * have the disk open exclusively, under whom no partitions must appear.
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

	/* As drain_work() has, or will have. Nobody starts it from now on, nor begins a grace. */
	zosbd2_rs_device_drain(device->engine, now_ms());
	mutex_lock(&device->lock);
	started = device->started;
	mutex_unlock(&device->lock);
	cancel_delayed_work_sync(&device->grace);
	if (started) {
		cancel_work_sync(&device->scan);
		del_gendisk(device->disk);
		/* No request, so nothing is late any more. */
		cancel_work_sync(&device->bury);
		/* The disk's queue has left it, and takes no more requests. */
		blk_mq_free_tag_set(&device->tag_set);
	}
	cancel_delayed_work_sync(&device->drain);
	zosbd2_rs_device_gone(device->engine);
	zosbd2_device_hang_up(device);
	zosbd2_debug_remove(device);
	zosbd2_rs_registry_vacate(zosbd2_registry, device->place);
	complete_all(&device->gone);
	put_disk(device->disk);
	if (!started) {
		/* A disk that was never added makes its queue leave when it is freed. */
		blk_mq_free_tag_set(&device->tag_set);
		zosbd2_device_put(device);
	}
}

/*
 * Makes a device; its disk waits for zosbd2_device_start(). On failure nothing
 * is left. Process context, may sleep.
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
	device->version = params->version;
	device->flags = params->flags;
	device->place = params->place;
	device->handle = params->handle;
	device->queue_count = params->queues;
	memcpy(device->serial, params->serial, sizeof(device->serial));

	device->engine = zosbd2_fault(ZOSBD2_FAULT_ENGINE) ? NULL :
		zosbd2_alloc_block(zosbd2_rs_device_bytes(params->queues, params->depth));
	if (!device->engine)
		goto free_device;
	zosbd2_rs_device_init(device->engine, params, device);
	device->tag_set.timeout = msecs_to_jiffies(params->deadline_ms);
	error = zosbd2_queue_setup(device, params->depth);
	if (error)
		goto free_engine;

	disk = zosbd2_fault(ZOSBD2_FAULT_DISK) ? ERR_PTR(-ENOMEM) :
		zosbd2_alloc_disk(&device->tag_set, &limits, device->queues);
	if (IS_ERR(disk)) {
		error = PTR_ERR(disk);
		goto undo_queue;
	}
	device->disk = disk;
	disk->fops = &disk_ops;
	disk->private_data = device;
	strscpy(disk->disk_name, params->disk_name, sizeof(disk->disk_name));
	if (params->version == 1)
		disk->flags |= GENHD_FL_NO_PART;
	/* Version 1, whose nodes are among all others, has looked at more. */
	if (params->version != 1 && name_is_taken(disk)) {
		error = -EEXIST;
		goto put_disk;
	}
	/*
	 * scan_work() looks for partitions when the time is right. Where nobody
	 * wants that the bit stays, so that BLKRRPART is refused, too: udev uses it
	 * whenever a writer has closed the disk.
	 */
	set_bit(GD_SUPPRESS_PART_SCAN, &disk->state);
	set_capacity(disk, params->size_bytes >> SECTOR_SHIFT);
	if (params->flags & ZOSBD2_READ_ONLY)
		set_disk_ro(disk, true);

	/* Dropped by device_free(): code of ours runs until then. */
	__module_get(THIS_MODULE);
	zosbd2_debug_add(device);
	*result = device;
	return 0;

put_disk:
	put_disk(disk);
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
 * Makes the node of a device that is neither started nor being destroyed. I/O
 * and opens may come before this returns; none is waited for. The block layer
 * takes a disk once only: after an error every other call returns the same. The
 * caller holds the device's lock.
 */
int zosbd2_device_start(struct zosbd2_device *device)
{
	struct gendisk *disk = device->disk;
	int error;

	lockdep_assert_held(&device->lock);
	if (device->start_error)
		return device->start_error;
	if (name_is_taken(disk))
		return -EEXIST;
	error = zosbd2_fault(ZOSBD2_FAULT_ADD_DISK) ? -EEXIST :
		device_add_disk(NULL, disk, disk_groups);
	if (error) {
		/* It keeps a major number, at which the block layer warns. */
		device->start_error = error;
		return error;
	}
	device->started = true;
	if (!(disk->flags & GENHD_FL_NO_PART) && !(device->flags & ZOSBD2_NO_PARTITION_SCAN)) {
		clear_bit(GD_SUPPRESS_PART_SCAN, &disk->state);
		queue_work(scan_queue, &device->scan);
	}
	return 0;
}

/* Changes the size. The caller holds the device's lock; it is not being destroyed. */
void zosbd2_device_resize(struct zosbd2_device *device, u64 size_bytes)
{
	lockdep_assert_held(&device->lock);
	set_capacity_and_notify(device->disk, size_bytes >> SECTOR_SHIFT);
}

/*
 * Major above minor number of the node, 0 if there is none yet. The caller
 * holds the registry's lock or a server descriptor's right to a live device.
 */
u64 zosbd2_device_number(struct zosbd2_device *device)
{
	struct gendisk *disk = device->disk;

	lockdep_assert_held(&device->lock);
	return device->started ? (u64)disk->major << 32 | disk->first_minor : 0;
}

/*
 * The deadline of requests, made as @ms: whoever writes queue/io_timeout changes
 * it. The caller holds the device's lock; it is not being destroyed.
 */
u32 zosbd2_device_deadline(struct zosbd2_device *device, u32 ms)
{
	unsigned int timeout = READ_ONCE(device->disk->queue->rq_timeout);

	lockdep_assert_held(&device->lock);
	/* The block layer counts in jiffies. */
	return timeout == msecs_to_jiffies(ms) ? ms : jiffies_to_msecs(timeout);
}

/* The last server is gone. The caller holds the device's lock. */
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

/* As zosbd2_device_lock(), for those who must finish what they began. */
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

/* Keeps the device's memory. The caller has a reference or the registry's lock. */
void zosbd2_device_get(struct zosbd2_device *device)
{
	kref_get(&device->kref);
}

/* May free the device, so may sleep. */
void zosbd2_device_put(struct zosbd2_device *device)
{
	might_sleep();
	kref_put(&device->kref, device_free);
}

/*
 * Refuses opens from now on. Without @force only if nobody has the disk open:
 * returns false, with nothing changed, if somebody has or is just opening or
 * closing it. Never waits. The caller holds the registry's lock.
 */
bool zosbd2_device_seal(struct zosbd2_device *device, bool force)
{
	struct gendisk *disk = device->disk;

	if (force) {
		WRITE_ONCE(device->sealed, true);
		return true;
	}
	/* Not mutex_lock(): a last close holds it while it writes back. */
	if (!mutex_trylock(&disk->open_mutex))
		return false;
	if (!disk_openers(disk))
		WRITE_ONCE(device->sealed, true);
	mutex_unlock(&disk->open_mutex);
	return READ_ONCE(device->sealed);
}

/*
 * Starts the destruction of a sealed device. Does not wait. Its servers' time
 * runs from now on, even if the teardown has to wait for others to end.
 */
void zosbd2_device_destroy(struct zosbd2_device *device)
{
	queue_delayed_work(drain_queue, &device->drain, 0);
	queue_work(teardown_queue, &device->teardown);
}

/*
 * Waits until the disk is deleted, the name is free, and the caller's reference
 * is the last of ours, so that with nobody else having the disk open the module
 * can be unloaded next. Returns -ERESTARTSYS if the caller is being killed.
 */
int zosbd2_device_wait_gone(struct zosbd2_device *device)
{
	int error;

	might_sleep();
	error = wait_for_completion_killable(&device->gone);
	if (error)
		return error;
	/* What the work still does after completing is to drop its reference. */
	flush_work(&device->teardown);
	return 0;
}

/*
 * In the first process's view: the caller's may be of his own making, and its
 * file systems may never answer. @separator: what stands for the '!' of a disk's
 * name there.
 */
static bool path_exists(const char *folder, const u8 *name, char separator)
{
	struct file *file;
	struct path root;
	char *full;

	full = kasprintf(GFP_KERNEL, "%s%.*s", folder, ZOSBD2_NAME_BYTES - 1, name);
	if (!full)
		return false;
	strreplace(full, '!', separator);
	task_lock(&init_task);
	get_fs_root(init_task.fs, &root);
	task_unlock(&init_task);
	file = file_open_root(&root, full, O_PATH | O_NOFOLLOW, 0);
	path_put(&root);
	kfree(full);
	if (IS_ERR(file))
		return false;
	fput(file);
	return true;
}

/*
 * Whether a node or a disk of this name is there already, for version 1. Looks,
 * but opens nothing. @name is valid (engine/src/name.rs), so it stays in its
 * folder. A look-up that fails for another reason counts as free; add_disk()
 * decides. No lock is held: a file system may keep the caller waiting.
 */
bool zosbd2_node_exists(const u8 *name)
{
	might_sleep();
	return path_exists("dev/", name, '/') || path_exists("sys/class/block/", name, '!');
}

/* Prints the stack of the caller; only the faults variant calls it. */
void zosbd2_backtrace(void)
{
	if (zosbd2_fault(ZOSBD2_FAULT_BACKTRACE))
		dump_stack();
}

/*
 * How many bytes behind the end of its memory the Rust object shall read, 0
 * for none; only the faults variant calls it.
 */
u32 zosbd2_overrun(void)
{
	return zosbd2_fault(ZOSBD2_FAULT_OVERRUN) ? 1 : 0;
}

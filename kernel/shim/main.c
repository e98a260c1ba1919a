// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module: its parameters, the control node, and the registry's lock.
 *
 * The control node handles the ioctls of both versions (docs/abi-v1.md and
 * docs/abi-v2.md); Rust interprets them. An open control node holds a reference
 * to the module, and so does every device until it is freed. So the module
 * cannot be unloaded while a device exists.
 */
#include <linux/compat.h>
#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "zosbd2.h"

#define ZOSBD2_MODULE_VERSION "0.1.0"

static unsigned int max_devices = 1024;
module_param(max_devices, uint, 0444);
MODULE_PARM_DESC(max_devices,
		 "Devices that can exist at once, 1 to 4096 (default 1024); v1 lists show the first 50");

static unsigned int max_minors = 255;
module_param(max_minors, uint, 0);
MODULE_PARM_DESC(max_minors, "Ignored: accepted because the original had it");

static bool debug_logs;
module_param(debug_logs, bool, 0600);
MODULE_PARM_DESC(debug_logs, "Ignored: accepted because the original had it");

static bool data_interrogation;
module_param(data_interrogation, bool, 0600);
MODULE_PARM_DESC(data_interrogation, "Ignored: accepted because the original had it");

#ifdef ZOSBD2_FAULTS
static unsigned int fail_step;
module_param(fail_step, uint, 0600);
MODULE_PARM_DESC(fail_step, "Make this step fail (enum zosbd2_fault), 0 for none");

bool zosbd2_fault(enum zosbd2_fault step)
{
	return READ_ONCE(fail_step) == step;
}
#endif

void *zosbd2_registry;
static DEFINE_MUTEX(registry_lock);

/* Takes the registry's lock. Returns -EINTR if the caller is being killed. */
int zosbd2_registry_lock(void)
{
	might_sleep();
	return mutex_lock_killable(&registry_lock);
}

/* Like zosbd2_registry_lock(), but not killable. */
void zosbd2_registry_lock_always(void)
{
	might_sleep();
	mutex_lock(&registry_lock);
}

void zosbd2_registry_unlock(void)
{
	mutex_unlock(&registry_lock);
}

/* The module's version, for INFO. @version has room for 32 bytes, all zero. */
void zosbd2_version(u8 *version)
{
	strscpy(version, ZOSBD2_MODULE_VERSION, 32);
}

u32 zosbd2_cpus(void)
{
	return nr_cpu_ids;
}

u32 zosbd2_page_size(void)
{
	return PAGE_SIZE;
}

static long control_run(u32 command, u64 argument, bool compat)
{
	/* Allocations for a device must not wait for I/O to a disk of this module. */
	unsigned int noio = memalloc_noio_save();
	long result = zosbd2_rs_control(zosbd2_registry, command, argument, compat);

	memalloc_noio_restore(noio);
	return result;
}

static long control_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	return control_run(command, argument, false);
}

#ifdef CONFIG_COMPAT
static long control_compat_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	return control_run(command, (unsigned long)compat_ptr(argument), true);
}
#endif

static const struct file_operations control_ops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = control_ioctl,
#ifdef CONFIG_COMPAT
	.compat_ioctl = control_compat_ioctl,
#endif
	.llseek = noop_llseek,
};

static struct miscdevice control = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "zosbd2ctl",
	.mode = 0600,
	.fops = &control_ops,
};

static int __init zosbd2_init(void)
{
	int error;

	if (max_devices < 1 || max_devices > 4096) {
		pr_err("zosbd2: max_devices=%u is outside 1..=4096\n", max_devices);
		return -EINVAL;
	}
	zosbd2_registry = zosbd2_fault(ZOSBD2_FAULT_REGISTRY) ? NULL :
		kvzalloc(zosbd2_rs_registry_bytes(max_devices), GFP_KERNEL);
	if (!zosbd2_registry)
		return -ENOMEM;
	zosbd2_rs_registry_init(zosbd2_registry, max_devices);

	error = zosbd2_queue_init();
	if (error)
		goto free_registry;
	error = zosbd2_event_init();
	if (error)
		goto exit_queue;
	error = zosbd2_disk_init();
	if (error)
		goto exit_event;
	zosbd2_debug_init();
	error = zosbd2_fault(ZOSBD2_FAULT_CONTROL) ? -EBUSY : misc_register(&control);
	if (error)
		goto exit_debug;
	return 0;

exit_debug:
	zosbd2_debug_exit();
	zosbd2_disk_exit();
exit_event:
	zosbd2_event_exit();
exit_queue:
	zosbd2_queue_exit();
free_registry:
	kvfree(zosbd2_registry);
	return error;
}

static void __exit zosbd2_exit(void)
{
	misc_deregister(&control);
	zosbd2_debug_exit();
	zosbd2_disk_exit();
	zosbd2_event_exit();
	zosbd2_queue_exit();
	kvfree(zosbd2_registry);
	/*
	 * The last close of a disk that is gone drops the module's last
	 * reference in disk_free(), which has yet to return. The block layer
	 * does not hold a reference to the module there. A work item would not
	 * help, because the function that queues it has to return, too. So wait
	 * until each runnable task has blocked or returned to user mode, which
	 * no task does inside disk_free().
	 */
	synchronize_rcu_tasks();
}

module_init(zosbd2_init);
module_exit(zosbd2_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The zosbd2 authors");
MODULE_DESCRIPTION("Block devices implemented by userspace programs");
MODULE_VERSION(ZOSBD2_MODULE_VERSION);

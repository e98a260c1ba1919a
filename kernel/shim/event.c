// SPDX-License-Identifier: GPL-2.0-only
/*
 * What operators are told: each event of a device is a line in the log, and a
 * uevent "change" of its disk. Rust decides what happened and when it is told
 * (engine/src/event.rs). A worker tells it, because a uevent may sleep and
 * events happen where a submitter or a dying server would wait.
 */
#include <linux/blkdev.h>
#include <linux/jiffies.h>
#include <linux/kobject.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/timekeeping.h>
#include <linux/workqueue.h>

#include "zosbd2.h"

static_assert(ZOSBD2_PROGRAM_BYTES == TASK_COMM_LEN);

/*
 * A queue of its own: a uevent needs memory, and waits for others who send
 * uevents. No work that ends I/O may wait behind that.
 */
static struct workqueue_struct *event_queue;

int zosbd2_event_init(void)
{
	event_queue = zosbd2_fault(ZOSBD2_FAULT_EVENT_QUEUE) ? NULL :
		alloc_workqueue("zosbd2_event", WQ_UNBOUND, 0);
	return event_queue ? 0 : -ENOMEM;
}

void zosbd2_event_exit(void)
{
	destroy_workqueue(event_queue);
}

static u64 now_ms(void)
{
	return ktime_to_ms(ktime_get());
}

/* A late request has a line of its own, which names it (queue.c). */
static void write_line(const struct zosbd2_device *device, const struct zosbd2_event *event)
{
	const char *name = device->disk->disk_name;
	int length = strnlen(event->program, sizeof(event->program));

	switch (event->kind) {
	case ZOSBD2_EVENT_DIED:
		if (event->ms)
			pr_warn("zosbd2: %s: server %u (process %u, %*pE) has died with %u requests; I/O waits for another server, up to %u ms\n",
				name, event->epoch, event->process, length, event->program,
				event->requests, event->ms);
		else
			pr_warn("zosbd2: %s: server %u (process %u, %*pE) has died with %u requests; I/O waits for no other server\n",
				name, event->epoch, event->process, length, event->program,
				event->requests);
		break;
	case ZOSBD2_EVENT_RECOVERED:
		pr_info("zosbd2: %s: recovered by server %u (process %u, %*pE) after %u ms; %u requests wait for it\n",
			name, event->epoch, event->process, length, event->program, event->ms,
			event->requests);
		break;
	case ZOSBD2_EVENT_FAILED:
		pr_warn("zosbd2: %s: no server attached within the grace of %u ms; all I/O fails until one does\n",
			name, event->ms);
		break;
	case ZOSBD2_EVENT_CACHE_LOST:
		pr_warn("zosbd2: %s: writes were lost with the cache of an earlier server; flushes fail until their senders know\n",
			name);
		break;
	case ZOSBD2_EVENT_UNSERVED:
		pr_warn("zosbd2: %s: %u requests wait, and no thread of server %u (last process %u, %*pE) has asked for any for %u ms\n",
			name, event->requests, event->epoch, event->process, length,
			event->program, event->ms);
		break;
	case ZOSBD2_EVENT_DESTROYED:
		pr_info("zosbd2: %s: is being destroyed, while open %u times\n", name,
			event->requests);
		break;
	}
}

static void send_uevent(const struct zosbd2_device *device, const struct zosbd2_event *event)
{
	static const char * const words[] = {
		[ZOSBD2_EVENT_DIED] = "died",
		[ZOSBD2_EVENT_RECOVERED] = "recovered",
		[ZOSBD2_EVENT_FAILED] = "failed",
		[ZOSBD2_EVENT_LATE] = "late",
		[ZOSBD2_EVENT_CACHE_LOST] = "cache-lost",
		[ZOSBD2_EVENT_UNSERVED] = "unserved",
		[ZOSBD2_EVENT_DESTROYED] = "destroyed",
	};
	/* Each has room for the longest name or number. */
	char kind[32], name[48], handle[32], epoch[32], process[32];
	char *variables[6] = {
		kind, name, handle, epoch, event->process ? process : NULL, NULL
	};

	snprintf(kind, sizeof(kind), "ZOSBD2_EVENT=%s", words[event->kind]);
	snprintf(name, sizeof(name), "ZOSBD2_NAME=%s",
		 device->disk->disk_name + strlen(ZOSBD2_DISK_PREFIX));
	snprintf(handle, sizeof(handle), "ZOSBD2_HANDLE=%u", device->handle);
	snprintf(epoch, sizeof(epoch), "ZOSBD2_EPOCH=%u", event->epoch);
	snprintf(process, sizeof(process), "ZOSBD2_PID=%u", event->process);
	/* Nobody may be listening. */
	kobject_uevent_env(&disk_to_dev(device->disk)->kobj, KOBJ_CHANGE, variables);
}

static void tell_work(struct work_struct *work)
{
	struct zosbd2_device *device =
		container_of(to_delayed_work(work), struct zosbd2_device, tell);
	struct zosbd2_event event;
	unsigned int noio;
	u32 next;

	/* The memory for a uevent must not wait for I/O to a disk without a server. */
	noio = memalloc_noio_save();
	for (;;) {
		next = zosbd2_rs_device_next_event(device->engine, now_ms(),
						   atomic_xchg(&device->late, 0), &event);
		if (next != ZOSBD2_TELL)
			break;
		write_line(device, &event);
		if (!READ_ONCE(device->unseen))
			send_uevent(device, &event);
	}
	memalloc_noio_restore(noio);
	if (next)
		queue_delayed_work(event_queue, &device->tell, msecs_to_jiffies(next));
}

static void watch_work(struct work_struct *work)
{
	struct zosbd2_device *device =
		container_of(to_delayed_work(work), struct zosbd2_device, watch);
	u32 next = zosbd2_rs_device_watch(device->engine, now_ms());

	if (next)
		zosbd2_device_watch(device, next);
}

void zosbd2_event_setup(struct zosbd2_device *device)
{
	INIT_DELAYED_WORK(&device->tell, tell_work);
	INIT_DELAYED_WORK(&device->watch, watch_work);
}

/* Tells what Rust has to tell. Any context; the device is started and not gone. */
void zosbd2_device_tell(struct zosbd2_device *device)
{
	mod_delayed_work(event_queue, &device->tell, 0);
}

/* Reports that a request of the device is late. Called by the timeout handler. */
void zosbd2_device_tell_late(struct zosbd2_device *device)
{
	atomic_inc(&device->late);
	zosbd2_device_tell(device);
}

/* Looks at the device after @ms. */
void zosbd2_device_watch(struct zosbd2_device *device, u32 ms)
{
	/* Together with the timers of other devices: the time does not matter much. */
	queue_delayed_work(event_queue, &device->watch,
			   round_jiffies_relative(msecs_to_jiffies(ms)));
}

/*
 * Tells what has happened so far, while the disk is still visible. Afterwards
 * there are only lines in the log.
 */
void zosbd2_device_tell_last(struct zosbd2_device *device)
{
	flush_delayed_work(&device->tell);
	WRITE_ONCE(device->unseen, true);
	flush_delayed_work(&device->tell);
}

/*
 * Records that the calling process serves the device as the server @epoch. A call
 * of an older server, which was under way when a newer one attached, records
 * nothing.
 */
void zosbd2_device_note_process(struct zosbd2_device *device, u32 epoch)
{
	struct pid *process = get_pid(task_tgid(current));
	char program[TASK_COMM_LEN] = {};

	get_task_comm(program, current->group_leader);
	spin_lock(&device->servers_lock);
	if (epoch >= device->process_epoch) {
		swap(device->process, process);
		memcpy(device->program, program, sizeof(device->program));
		device->process_epoch = epoch;
	}
	spin_unlock(&device->servers_lock);
	put_pid(process);
}

/* Describes the process that serves the device, for the calling process. */
void zosbd2_device_process(struct zosbd2_device *device, struct zosbd2_process *process)
{
	spin_lock(&device->servers_lock);
	process->first = pid_nr(device->process);
	process->own = zosbd2_pid_lives(device->process, PIDTYPE_TGID) ?
		pid_vnr(device->process) : 0;
	memcpy(process->program, device->program, sizeof(process->program));
	spin_unlock(&device->servers_lock);
}

/* Whether the process that serves the device, or that did so last, is alive. */
bool zosbd2_device_process_lives(struct zosbd2_device *device)
{
	bool lives;

	spin_lock(&device->servers_lock);
	lives = zosbd2_pid_lives(device->process, PIDTYPE_TGID);
	spin_unlock(&device->servers_lock);
	return lives;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * The calling process: its memory, its signals, its permissions, its time.
 * Process context. Functions that access user memory may sleep, and are called
 * with no lock held.
 *
 * User addresses are integers in Rust; this file checks every address. Fault
 * injection can make every access fail: copies support it by themselves, the
 * other functions call it.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fault-inject-usercopy.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/uidgid.h>

#include "zosbd2.h"

static void __user *user_pointer(u64 user)
{
	return (void __user *)(unsigned long)user;
}

int zosbd2_user_read(void *to, u64 user, u32 bytes)
{
	might_sleep();
	return copy_from_user(to, user_pointer(user), bytes) ? -EFAULT : 0;
}

int zosbd2_user_write(u64 user, const void *from, u32 bytes)
{
	might_sleep();
	return copy_to_user(user_pointer(user), from, bytes) ? -EFAULT : 0;
}

int zosbd2_user_clear(u64 user, u32 bytes)
{
	might_sleep();
	if (should_fail_usercopy())
		return -EFAULT;
	return clear_user(user_pointer(user), bytes) ? -EFAULT : 0;
}

/* Returns -EFAULT if the range is not inside the address space of a process. */
int zosbd2_user_check(u64 user, u32 bytes)
{
	return access_ok(user_pointer(user), bytes) ? 0 : -EFAULT;
}

/*
 * Brings user memory in, without changing it. Returns -EFAULT if it cannot be
 * accessed in that way.
 */
int zosbd2_user_fault_in(u64 user, u32 bytes, bool write)
{
	size_t left;

	might_sleep();
	if (should_fail_usercopy())
		return -EFAULT;
	/* The caller may call this in a loop. */
	cond_resched();
	if (write)
		left = fault_in_safe_writeable((char __user *)user_pointer(user), bytes);
	else
		left = fault_in_readable((const char __user *)user_pointer(user), bytes);
	return left ? -EFAULT : 0;
}

/*
 * Returns the lowest pending signal that is not blocked, or 0 if it is unknown.
 * The signal stays pending: the caller's handler runs on return.
 */
u32 zosbd2_signal_pending(void)
{
	/* Not locked: a hint about signals that only this task can take. */
	u64 pending = READ_ONCE(current->pending.signal.sig[0]) |
		      READ_ONCE(current->signal->shared_pending.signal.sig[0]);

	pending &= ~current->blocked.sig[0];
	return pending ? __ffs64(pending) + 1 : 0;
}

bool zosbd2_signal_fatal(void)
{
	return fatal_signal_pending(current);
}

/*
 * Yields the processor if another task waits for it. Long calls do so between
 * their steps. Returns false if the caller is being killed.
 */
bool zosbd2_pause(void)
{
	cond_resched();
	return !fatal_signal_pending(current);
}

/* Returns 1 if all bytes are zero, 0 if not, or -EFAULT. */
int zosbd2_user_tail_is_zero(u64 user, u32 bytes)
{
	might_sleep();
	if (should_fail_usercopy())
		return -EFAULT;
	return check_zeroed_user(user_pointer(user), bytes);
}

u32 zosbd2_current_uid(void)
{
	return from_kuid(&init_user_ns, current_fsuid());
}

/* Whether the caller may become the server of a device that @owner_uid created. */
bool zosbd2_may_serve(u32 owner_uid)
{
	return zosbd2_current_uid() == owner_uid || capable(CAP_SYS_ADMIN);
}

/* A time limit @ms from now, for zosbd2_queue_sleep(). U32_MAX means no limit. */
long zosbd2_timeout(u32 ms)
{
	return ms == U32_MAX ? MAX_SCHEDULE_TIMEOUT : (long)msecs_to_jiffies(ms);
}

u64 zosbd2_now_ns(void)
{
	return ktime_get_ns();
}

/* The calling thread's ID in the initial PID namespace. */
u32 zosbd2_thread(void)
{
	return task_pid_nr(current);
}

/* The calling process's ID in the initial PID namespace. */
u32 zosbd2_process(void)
{
	return task_tgid_nr(current);
}

/*
 * Whether the thread or the process of @pid is alive: it has begun, and has not
 * begun to exit. A process lives as long as any of its threads does; its first
 * thread may exit before the others. @pid may be NULL.
 */
bool zosbd2_pid_lives(struct pid *pid, enum pid_type type)
{
	struct task_struct *task;
	bool lives = false;

	rcu_read_lock();
	task = pid_task(pid, type);
	if (task && type == PIDTYPE_TGID)
		lives = atomic_read(&task->signal->live) > 0;
	else if (task)
		lives = !(READ_ONCE(task->flags) & PF_EXITING);
	rcu_read_unlock();
	return lives;
}

static bool id_lives(u32 id, enum pid_type type)
{
	bool lives;

	rcu_read_lock();
	lives = zosbd2_pid_lives(find_pid_ns(id, &init_pid_ns), type);
	rcu_read_unlock();
	return lives;
}

/*
 * Whether the thread that zosbd2_thread() returned is alive. Another thread may
 * have its ID by now.
 */
bool zosbd2_thread_lives(u32 thread)
{
	return id_lives(thread, PIDTYPE_PID);
}

/* The same for the process that zosbd2_process() returned. */
bool zosbd2_process_lives(u32 process)
{
	return id_lives(process, PIDTYPE_TGID);
}

/* One turn of a polling loop. Returns false when it is time to stop. */
bool zosbd2_spin(u64 until_ns)
{
	cpu_relax();
	return !need_resched() && !signal_pending(current) && ktime_get_ns() < until_ns;
}

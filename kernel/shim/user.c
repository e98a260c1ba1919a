// SPDX-License-Identifier: GPL-2.0-only
/*
 * The calling process: its memory and its signals. Process context; what
 * touches memory may sleep, and is called with no lock held.
 *
 * User addresses are integers in Rust; every one is checked here.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

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
	return clear_user(user_pointer(user), bytes) ? -EFAULT : 0;
}

/* Brings user memory in, without changing it. -EFAULT if it cannot be used so. */
int zosbd2_user_fault_in(u64 user, u32 bytes, bool write)
{
	size_t left;

	might_sleep();
	if (write)
		left = fault_in_safe_writeable((char __user *)user_pointer(user), bytes);
	else
		left = fault_in_readable((const char __user *)user_pointer(user), bytes);
	return left ? -EFAULT : 0;
}

/*
 * The lowest pending signal that is not blocked, 0 if there is none that can
 * be named. It stays pending: the caller's handler runs on return.
 */
u32 zosbd2_signal_pending(void)
{
	/* Not locked: a hint, about signals that are this task's to take. */
	u64 pending = READ_ONCE(current->pending.signal.sig[0]) |
		      READ_ONCE(current->signal->shared_pending.signal.sig[0]);

	pending &= ~current->blocked.sig[0];
	return pending ? __ffs64(pending) + 1 : 0;
}

bool zosbd2_signal_fatal(void)
{
	return fatal_signal_pending(current);
}

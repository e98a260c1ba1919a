// SPDX-License-Identifier: GPL-2.0-only
/*
 * Server descriptors: files that give the right to serve a device.
 *
 * A descriptor keeps the device's memory, not the disk. Its last close, by any
 * process, is the death of that server. A running call holds the file, so no
 * call is in progress at the last close.
 */
#include <linux/anon_inodes.h>
#include <linux/compat.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/rculist.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "zosbd2.h"

static long server_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct zosbd2_server *server = file->private_data;
	unsigned int noio;
	long result;

	might_sleep();
	/* Allocations for the server must not wait for I/O to its own disk. */
	noio = memalloc_noio_save();
	result = zosbd2_rs_server(server->device->engine, server->epoch, command, argument);
	memalloc_noio_restore(noio);
	return result;
}

#ifdef CONFIG_COMPAT
/* The layouts are the same, because addresses in them are 64-bit integers. */
static long server_compat_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	return server_ioctl(file, command, (unsigned long)compat_ptr(argument));
}
#endif

static __poll_t server_poll(struct file *file, struct poll_table_struct *table)
{
	struct zosbd2_server *server = file->private_data;

	poll_wait(file, &server->poll, table);
	/*
	 * Pairs with the barrier of wq_has_sleeper(): either this poll sees the
	 * queued request, or its submitter sees the poller.
	 */
	smp_mb();
	return (__force __poll_t)zosbd2_rs_server_poll(server->device->engine, server->epoch);
}

/* Takes a descriptor off its device's list, and frees it once nobody can wake its pollers. */
static void server_remove(struct zosbd2_server *server)
{
	struct zosbd2_device *device = server->device;

	spin_lock(&device->servers_lock);
	list_del_rcu(&server->link);
	if (rcu_access_pointer(device->present) == server)
		RCU_INIT_POINTER(device->present, NULL);
	spin_unlock(&device->servers_lock);
	kfree_rcu(server, rcu);
}

static int server_release(struct inode *inode, struct file *file)
{
	struct zosbd2_server *server = file->private_data;
	struct zosbd2_device *device = server->device;

	if (server->epoch)
		zosbd2_rs_server_closed(device->engine, zosbd2_registry, server->epoch);
	server_remove(server);
	zosbd2_device_put(device);
	return 0;
}

/* Wakes the pollers of all descriptors: they may have lost the device, or it is gone. */
void zosbd2_device_hang_up(struct zosbd2_device *device)
{
	struct zosbd2_server *server;

	rcu_read_lock();
	/* Wakes every poller, including exclusive ones. */
	list_for_each_entry_rcu(server, &device->servers, link)
		__wake_up(&server->poll, TASK_NORMAL, 0, poll_to_key(EPOLLHUP));
	rcu_read_unlock();
}

static const struct file_operations server_ops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = server_ioctl,
#ifdef CONFIG_COMPAT
	.compat_ioctl = server_compat_ioctl,
#endif
	.poll = server_poll,
	.release = server_release,
	.llseek = noop_llseek,
};

/*
 * Creates a descriptor without a server, which nobody can use yet. The caller
 * must call zosbd2_server_install() or zosbd2_server_abandon(). Returns the
 * descriptor's number, or a negative errno. Process context.
 */
int zosbd2_server_open(struct zosbd2_device *device, struct file **file)
{
	struct zosbd2_server *server;
	int fd;

	might_sleep();
	server = zosbd2_fault(ZOSBD2_FAULT_SERVER) ? NULL :
		kmalloc(sizeof(*server), GFP_KERNEL_ACCOUNT);
	if (!server)
		return -ENOMEM;
	server->device = device;
	server->epoch = 0;
	init_waitqueue_head(&server->poll);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		goto free_server;
	*file = zosbd2_fault(ZOSBD2_FAULT_SERVER_FILE) ? ERR_PTR(-ENFILE) :
		anon_inode_getfile("[zosbd2]", &server_ops, server, O_RDWR);
	if (IS_ERR(*file)) {
		put_unused_fd(fd);
		fd = PTR_ERR(*file);
		goto free_server;
	}
	zosbd2_device_get(device);
	spin_lock(&device->servers_lock);
	list_add_tail_rcu(&server->link, &device->servers);
	spin_unlock(&device->servers_lock);
	return fd;

free_server:
	kfree(server);
	return fd;
}

/*
 * Makes the file this server's descriptor: its last close is the server's
 * death, and its pollers are woken for requests from now on. The caller holds
 * the device's lock and has not told the queues of the server yet.
 */
void zosbd2_server_appoint(struct file *file, u32 epoch)
{
	struct zosbd2_server *server = file->private_data;
	struct zosbd2_device *device = server->device;

	lockdep_assert_held(&device->lock);
	server->epoch = epoch;
	spin_lock(&device->servers_lock);
	rcu_assign_pointer(device->present, server);
	spin_unlock(&device->servers_lock);
}

/* Gives the descriptor to the process. */
void zosbd2_server_install(int fd, struct file *file)
{
	fd_install(fd, file);
}

/* Drops the descriptor, which the process never sees. It is closed on return to user mode. */
void zosbd2_server_abandon(int fd, struct file *file)
{
	put_unused_fd(fd);
	fput(file);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of a device as text, in debugfs: zosbd2/DISK/stats, latency and
 * requests, where DISK is the disk's name in /sys/block. Programs use the
 * ioctls STATS, LATENCY and REQUESTS instead.
 *
 * A line consists of words KEY=VALUE, separated by one blank, and begins with
 * the queue. The files are for people: they are no stable interface, and change
 * with the module. Rust provides the contents. Only root may read the files.
 * The module works without debugfs.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include "zosbd2.h"

static struct dentry *root;

static int show(struct seq_file *file, enum zosbd2_shown what)
{
	struct zosbd2_device *device = file->private;
	u32 index;

	might_sleep();
	for (index = 0; index < device->queue_count && !seq_has_overflowed(file); index++)
		zosbd2_rs_queue_show(device->queues[index]->engine, file, what);
	return 0;
}

static int stats_show(struct seq_file *file, void *unused)
{
	return show(file, ZOSBD2_SHOWN_STATS);
}
DEFINE_SHOW_ATTRIBUTE(stats);

static int latency_show(struct seq_file *file, void *unused)
{
	return show(file, ZOSBD2_SHOWN_LATENCY);
}
DEFINE_SHOW_ATTRIBUTE(latency);

static int requests_show(struct seq_file *file, void *unused)
{
	return show(file, ZOSBD2_SHOWN_REQUESTS);
}
DEFINE_SHOW_ATTRIBUTE(requests);

/*
 * Begins a line. Returns false if the line is useless, because the buffer is
 * full: seq_file then repeats everything with a larger buffer.
 */
bool zosbd2_show_begin(void *file, u32 queue)
{
	seq_printf(file, "queue=%u", queue);
	return !seq_has_overflowed(file);
}

/* Adds a number to the line. The strings, here and below, belong to Rust. */
void zosbd2_show_number(void *file, const char *key, u64 number)
{
	seq_printf(file, " %s=%llu", key, number);
}

/* Adds a word to the line. */
void zosbd2_show_word(void *file, const char *key, const char *word)
{
	seq_printf(file, " %s=%s", key, word);
}

/* Ends the line. */
void zosbd2_show_end(void *file)
{
	seq_putc(file, '\n');
}

void zosbd2_debug_init(void)
{
	/* debugfs accepts an error as the folder, and then does nothing. */
	root = debugfs_create_dir("zosbd2", NULL);
}

void zosbd2_debug_exit(void)
{
	debugfs_remove(root);
}

/* Shows an initialised device. Process context, may sleep. */
void zosbd2_debug_add(struct zosbd2_device *device)
{
	device->debug = debugfs_create_dir(device->disk->disk_name, root);
	debugfs_create_file("stats", 0400, device->debug, device, &stats_fops);
	debugfs_create_file("latency", 0400, device->debug, device, &latency_fops);
	debugfs_create_file("requests", 0400, device->debug, device, &requests_fops);
}

/* Waits for current readers. There are no readers afterwards. May sleep. */
void zosbd2_debug_remove(struct zosbd2_device *device)
{
	debugfs_remove(device->debug);
}

// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A fixed script of calls with one line of output each. The 32-bit and the 64-bit build of this
 * file must print the same. A line ends with `unexpected` if the outcome is not the one that the
 * interface promises. Needs a machine without other devices. The last line is `end`.
 *
 * cc -std=c11 -pedantic -Wall -Wextra -Werror -O2 -static -m32 -I abi/include -o abi32
 * examples/c/abi32.c
 *
 * Values that differ from run to run are not printed: device numbers, wake-up counters, handles.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zosbd2.h>

#define NAME "abi32"
#define NODE ZOSBD2_V2_NODE_PREFIX NAME
#define MIB (1U << 20)
#define BLOCK 4096
/*
 * Bit set in the address of a static object: an unmapped address, unless the kernel cuts it to 32
 * bits.
 */
#define FAR (1ULL << 44)
#define TIMEOUT_MS 30000

static int control, server, other;

static const char *errno_name(int number)
{
	const char *name = number == 0 ? "ok" : strerrorname_np(number);

	return name ? name : "?";
}

/* Prints one line: the call, its errno or 0, the expected errno, and the output of the call. */
__attribute__((format(printf, 4, 5)))
static void line(const char *name, int got, int wanted, const char *format, ...)
{
	va_list arguments;

	printf("%s: %s", name, errno_name(got));
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	if (got != wanted)
		printf(" unexpected, not %s", errno_name(wanted));
	printf("\n");
}

static void plain(const char *name, int got, int wanted)
{
	line(name, got, wanted, "%s", "");
}

static int failure(int result)
{
	return result < 0 ? errno : 0;
}

/* A call without output, or whose output does not matter. Returns the call's result. */
static int call(const char *name, int fd, unsigned long number, void *argument, int wanted)
{
	int result = ioctl(fd, number, argument);

	plain(name, failure(result), wanted);
	return result;
}

static __u64 address_of(const void *at)
{
	return (uintptr_t)at;
}

/* Calls with sizes that are refused. The argument is valid otherwise. */
static void sizes(const char *name, int fd, unsigned long number, const void *argument, __u32 bytes)
{
	static const char *const kinds[] = { "size 0", "short", "longer, last byte not zero",
					     "longer, first byte not zero" };
	/* The number has the size of the first version. */
	__u32 first = number >> 16 & 0x3fff;
	_Alignas(8) unsigned char longer[256];
	char text[64];
	int kind;

	for (kind = 0; kind < 4; kind++) {
		__u32 size = kind == 0 ? 0 : kind == 1 ? first - 1 : bytes + 20;

		memset(longer, 0, sizeof(longer));
		memcpy(longer, argument, bytes);
		memcpy(longer, &size, sizeof(size));
		if (kind >= 2)
			longer[kind == 2 ? size - 1 : bytes] = 1;
		snprintf(text, sizeof(text), "%s, %s", name, kinds[kind]);
		call(text, fd, number, longer, kind < 2 ? EINVAL : E2BIG);
	}
}

/*
 * An argument that is longer than the kernel knows, with zeros at the end. `argument` receives the
 * result.
 */
static int longer(int fd, unsigned long number, void *argument, __u32 bytes)
{
	_Alignas(8) unsigned char buffer[256] = { 0 };
	__u32 size = bytes + 20;
	int result, error;

	memcpy(buffer, argument, bytes);
	memcpy(buffer, &size, sizeof(size));
	result = ioctl(fd, number, buffer);
	error = errno;
	memcpy(argument, buffer, bytes);
	errno = error;
	return result;
}

static void node(int there)
{
	struct stat status;
	int found = stat(NODE, &status) == 0 && S_ISBLK(status.st_mode);

	printf("node: %d%s\n", found, found == there ? "" : " unexpected");
}

static void info_line(const char *name, int error, const struct zosbd2_v2_info *info)
{
	line(name, error, 0, ", size %u version %u devices %u features %llu operations %llu queues %u depth %u"
	     " block %u io %u batch %u module %.32s", info->size, info->version, info->max_devices,
	     (unsigned long long)info->features, (unsigned long long)info->operations, info->max_queues,
	     info->max_depth, info->max_block_size, info->max_io_bytes, info->max_batch,
	     (const char *)info->module_version);
}

static void info_calls(void)
{
	struct zosbd2_v2_info good = { .size = sizeof(good) }, info = good;
	int result = ioctl(control, ZOSBD2_V2_IOCTL_INFO, &info);

	info_line("info", failure(result), &info);
	info = good;
	result = longer(control, ZOSBD2_V2_IOCTL_INFO, &info, sizeof(info));
	info_line("info, long", failure(result), &info);
	sizes("info", control, ZOSBD2_V2_IOCTL_INFO, &good, sizeof(good));
	info = good;
	info.flags = 1;
	call("info, flags", control, ZOSBD2_V2_IOCTL_INFO, &info, EINVAL);
	info = good;
	info.reserved = 1;
	call("info, reserved", control, ZOSBD2_V2_IOCTL_INFO, &info, EINVAL);
	call("info, no memory", control, ZOSBD2_V2_IOCTL_INFO, NULL, EFAULT);
	call("unknown number", control, ZOSBD2_V2_IOCTL_INFO + 0x3f, &good, ENOTTY);
	call("start on the control node", control, ZOSBD2_V2_IOCTL_START, &good, ENOTTY);
	call("enter on the control node", control, ZOSBD2_V2_IOCTL_ENTER, &good, ENOTTY);
}

/* The device of all following calls. */
static const struct zosbd2_v2_create disk = {
	.size = sizeof(disk), .name = NAME, .serial = "0123456789 abcdef", .size_bytes = MIB,
	.logical_block_size = 512, .physical_block_size = 4096, .io_opt = 65536, .depth = 4, .max_discard_bytes = MIB,
	.max_write_zeroes_bytes = MIB,
	.flags = ZOSBD2_V2_CREATE_VOLATILE_CACHE | ZOSBD2_V2_CREATE_FUA | ZOSBD2_V2_CREATE_NO_PARTITION_SCAN |
		 ZOSBD2_V2_CREATE_AUTO_DESTROY };

/* Tries to create the device above with one invalid field. */
#define REFUSED(field, value, wanted) \
	do { \
		struct zosbd2_v2_create create = disk; \
		create.field = value; \
		call("create, " #field " = " #value, control, ZOSBD2_V2_IOCTL_CREATE, &create, wanted); \
	} while (0)
#define REFUSED_TEXT(field, value, wanted) \
	do { \
		struct zosbd2_v2_create create = disk; \
		static const char text[sizeof(create.field)] = value; \
		memcpy(create.field, text, sizeof(text)); \
		call("create, " #field " = " #value, control, ZOSBD2_V2_IOCTL_CREATE, &create, wanted); \
	} while (0)

static void create_calls(void)
{
	struct zosbd2_v2_create create;

	sizes("create", control, ZOSBD2_V2_IOCTL_CREATE, &disk, sizeof(disk));
	REFUSED(flags, ZOSBD2_V2_CREATE_FLAGS + 1, EINVAL);
	REFUSED(flags, ZOSBD2_V2_CREATE_FUA, EINVAL);
	REFUSED_TEXT(name, "", EINVAL);
	REFUSED_TEXT(name, ".hidden", EINVAL);
	REFUSED_TEXT(name, "a/b", EINVAL);
	REFUSED_TEXT(name, "a b", EINVAL);
	REFUSED_TEXT(name, "a\0b", EINVAL);
	REFUSED_TEXT(name, "a234567890123456789012345", EINVAL);
	REFUSED_TEXT(serial, "a\nb", EINVAL);
	REFUSED_TEXT(serial, "a\0b", EINVAL);
	REFUSED(size_bytes, 0, ERANGE);
	REFUSED(size_bytes, MIB + 511, EINVAL);
	REFUSED(size_bytes, ZOSBD2_V2_MAX_SIZE_BYTES + 512, ERANGE);
	REFUSED(size_bytes, 1ULL << 63, ERANGE);
	REFUSED(logical_block_size, 256, ERANGE);
	REFUSED(logical_block_size, 768, EINVAL);
	REFUSED(logical_block_size, 1 << 20, ERANGE);
	REFUSED(physical_block_size, 256, ERANGE);
	REFUSED(physical_block_size, 4097, EINVAL);
	REFUSED(physical_block_size, 1 << 29, ERANGE);
	REFUSED(io_min, 512, ERANGE);
	REFUSED(io_min, 4097, EINVAL);
	REFUSED(io_opt, 4097, EINVAL);
	REFUSED(io_opt, 1U << 31, ERANGE);
	REFUSED(max_io_bytes, 512, ERANGE);
	REFUSED(max_io_bytes, 8193, EINVAL);
	REFUSED(max_io_bytes, ZOSBD2_V2_MAX_IO_BYTES + 512, ERANGE);
	REFUSED(queues, 1U << 31, ERANGE);
	REFUSED(depth, ZOSBD2_V2_MAX_DEPTH + 1, ERANGE);
	REFUSED(discard_granularity, 768, EINVAL);
	REFUSED(discard_granularity, 256, ERANGE);
	REFUSED(max_discard_bytes, 513, EINVAL);
	REFUSED(max_write_zeroes_bytes, 513, EINVAL);
	REFUSED(max_secure_erase_bytes, 513, EINVAL);
	REFUSED(deadline_ms, ZOSBD2_V2_MAX_MILLISECONDS + 1, ERANGE);
	REFUSED(grace_ms, ZOSBD2_V2_MAX_MILLISECONDS + 1, ERANGE);
	create = disk;
	memset(create.serial, 'x', sizeof(create.serial));
	call("create, serial without end", control, ZOSBD2_V2_IOCTL_CREATE, &create, EINVAL);
	create = disk;
	server = longer(control, ZOSBD2_V2_IOCTL_CREATE, &create, sizeof(create));
	line("create, long", failure(server), 0, ", size %u", create.size);
	create = disk;
	call("create again", control, ZOSBD2_V2_IOCTL_CREATE, &create, EEXIST);
	node(0);
}

static void status_line(const char *name, int fd, const char *device, int wanted)
{
	struct zosbd2_v2_status status = { .size = sizeof(status) };
	int error;

	memcpy(status.name, device, strlen(device));
	error = failure(ioctl(fd, ZOSBD2_V2_IOCTL_STATUS, &status));
	if (error != 0) {
		plain(name, error, wanted);
		return;
	}
	line(name, error, wanted, ", size %u flags %u name %.32s serial %.32s bytes %llu blocks %u %u io %u %u %u"
	     " queues %u %u granularity %u most %u %u %u times %u %u created with %u state %u epoch %u servers %u"
	     " owner %u version %u numbered %d", status.size, status.flags, (const char *)status.name,
	     (const char *)status.serial, (unsigned long long)status.size_bytes, status.logical_block_size,
	     status.physical_block_size, status.io_min, status.io_opt, status.max_io_bytes, status.queues,
	     status.depth, status.discard_granularity, status.max_discard_bytes, status.max_write_zeroes_bytes,
	     status.max_secure_erase_bytes, status.deadline_ms, status.grace_ms, status.create_flags, status.state,
	     status.epoch, status.servers, status.owner_uid, status.version, status.major != 0);
}

static void status_calls(void)
{
	struct zosbd2_v2_status good = { .size = sizeof(good), .name = NAME }, status = good;

	status_line("status", control, NAME, 0);
	status_line("status of the server's own", server, "", 0);
	status_line("status of the server's own by name", server, NAME, 0);
	status_line("status of the server's own by another name", server, "other", EINVAL);
	status_line("status of an unknown device", control, "other", ENOENT);
	status_line("status of no device", control, "", EINVAL);
	sizes("status", control, ZOSBD2_V2_IOCTL_STATUS, &good, sizeof(good));
	sizes("status of the server's own", server, ZOSBD2_V2_IOCTL_STATUS, &good, sizeof(good));
	status.flags = 1;
	call("status, flags", control, ZOSBD2_V2_IOCTL_STATUS, &status, EINVAL);
	status = good;
	line("status, long", failure(longer(control, ZOSBD2_V2_IOCTL_STATUS, &status, sizeof(status))), 0,
	     ", size %u bytes %llu", status.size, (unsigned long long)status.size_bytes);
}

static void list_line(const char *name, __u64 entries, __u32 capacity, int wanted)
{
	struct zosbd2_v2_list list = { .size = sizeof(list), .entries = entries, .capacity = capacity };
	int error = failure(ioctl(control, ZOSBD2_V2_IOCTL_LIST, &list));

	line(name, error, wanted, ", size %u count %u total %u", list.size, list.count, list.total);
}

static void list_calls(void)
{
	static struct zosbd2_v2_list_entry entries[4];
	struct zosbd2_v2_list good = { .size = sizeof(good), .entries = address_of(entries), .capacity = 4 };
	struct zosbd2_v2_list list = good;

	list_line("list", good.entries, 4, 0);
	printf("first entry: version %u name %.32s\n", entries[0].version, (const char *)entries[0].name);
	printf("second entry: version %u name %.32s\n", entries[1].version, (const char *)entries[1].name);
	list_line("list, no room", 0, 0, 0);
	list_line("list, no memory", 0, 4, EFAULT);
	list_line("list, memory far away", good.entries | FAR, 4, EFAULT);
	sizes("list", control, ZOSBD2_V2_IOCTL_LIST, &good, sizeof(good));
	list.flags = 1;
	call("list, flags", control, ZOSBD2_V2_IOCTL_LIST, &list, EINVAL);
	list = good;
	list.reserved = 1;
	call("list, reserved", control, ZOSBD2_V2_IOCTL_LIST, &list, EINVAL);
	list = good;
	line("list, long", failure(longer(control, ZOSBD2_V2_IOCTL_LIST, &list, sizeof(list))), 0,
	     ", size %u count %u", list.size, list.count);
}

static void start_calls(void)
{
	struct zosbd2_v2_start good = { .size = sizeof(good) }, start = good;

	sizes("start", server, ZOSBD2_V2_IOCTL_START, &good, sizeof(good));
	start.flags = 1;
	call("start, flags", server, ZOSBD2_V2_IOCTL_START, &start, EINVAL);
	call("info on the server", server, ZOSBD2_V2_IOCTL_INFO, &start, ENOTTY);
	node(0);
	start = good;
	plain("start, long", failure(longer(server, ZOSBD2_V2_IOCTL_START, &start, sizeof(start))), 0);
	call("start again", server, ZOSBD2_V2_IOCTL_START, &good, EALREADY);
	node(1);
	status_line("status", server, "", 0);
}

static void attach_calls(void)
{
	struct zosbd2_v2_attach good = { .size = sizeof(good), .name = NAME }, attach = good;

	sizes("attach", control, ZOSBD2_V2_IOCTL_ATTACH, &good, sizeof(good));
	attach.flags = ZOSBD2_V2_ATTACH_FLAGS + 1;
	call("attach, flags", control, ZOSBD2_V2_IOCTL_ATTACH, &attach, EINVAL);
	attach = (struct zosbd2_v2_attach){ .size = sizeof(attach), .name = "other" };
	call("attach to an unknown device", control, ZOSBD2_V2_IOCTL_ATTACH, &attach, ENOENT);
	attach = good;
	call("attach to a served device", control, ZOSBD2_V2_IOCTL_ATTACH, &attach, EBUSY);
}

/* One ENTER on the server. */
static int enter(struct zosbd2_v2_enter *argument)
{
	argument->size = sizeof(*argument);
	if (!argument->commit_bytes)
		argument->commit_bytes = sizeof(struct zosbd2_v2_commit);
	if (!argument->request_bytes)
		argument->request_bytes = sizeof(struct zosbd2_v2_request);
	return failure(ioctl(server, ZOSBD2_V2_IOCTL_ENTER, argument));
}

static void enter_line(const char *name, struct zosbd2_v2_enter argument, int wanted)
{
	int error = enter(&argument);

	line(name, error, wanted, ", size %u processed %u refused %u fetched %u", argument.size,
	     argument.processed, argument.refused, argument.fetched);
}

#define ENTER(text, wanted, ...) \
	enter_line("enter, " text, (struct zosbd2_v2_enter){ __VA_ARGS__ }, wanted)
/* Where ENTER puts the requests. */
#define HERE .requests = address_of(requests)

/* One commit, in an ENTER that fetches nothing. */
static void commit_line(const char *name, struct zosbd2_v2_commit commit, int wanted)
{
	struct zosbd2_v2_enter argument = { .commits = address_of(&commit), .commit_count = 1 };
	__s32 before = commit.status;
	int error = enter(&argument);

	printf("commit, %s: %s, processed %u refused %u", name, errno_name(error), argument.processed,
	       argument.refused);
	if (error != 0 || argument.processed != 1 || argument.refused != (wanted != 0))
		printf(" unexpected");
	plain(", status", -(commit.status == before ? 0 : commit.status), wanted);
}

/* Calls while there is no request. */
static void idle_calls(void)
{
	static struct zosbd2_v2_request requests[4];
	static struct zosbd2_v2_commit commits[2];
	struct zosbd2_v2_enter good = { .size = sizeof(good), .commit_bytes = sizeof(commits[0]),
		.request_bytes = sizeof(requests[0]) };
	struct pollfd readiness = { .fd = server, .events = POLLIN };
	int ready;

	sizes("enter", server, ZOSBD2_V2_IOCTL_ENTER, &good, sizeof(good));
	line("enter, long", failure(longer(server, ZOSBD2_V2_IOCTL_ENTER, &good, sizeof(good))), 0, ", size %u",
	     good.size);
	call("enter, no memory", server, ZOSBD2_V2_IOCTL_ENTER, NULL, EFAULT);
	ENTER("nothing to do", 0, .capacity = 0);
	ENTER("flags", EINVAL, .flags = ZOSBD2_V2_ENTER_FLAGS + 1);
	ENTER("buffer count", EINVAL, .buffer_count = ZOSBD2_V2_MAX_BATCH + 1);
	ENTER("arena and buffers", EINVAL, .arena = address_of(commits), .arena_bytes = 1, .buffer_count = 1);
	ENTER("buffers far away", EFAULT, HERE, .capacity = 1, .buffers = address_of(commits) | FAR, .buffer_count = 1);
	ENTER("short commits", EINVAL, .commit_bytes = sizeof(commits[0]) - 1);
	ENTER("long commits", E2BIG, .commit_bytes = ZOSBD2_V2_MAX_ELEMENT_BYTES + 1);
	ENTER("short requests", EINVAL, .request_bytes = sizeof(requests[0]) - 1);
	ENTER("long requests", E2BIG, .request_bytes = ZOSBD2_V2_MAX_ELEMENT_BYTES + 1);
	ENTER("capacity", EINVAL, HERE, .capacity = ZOSBD2_V2_MAX_BATCH + 1);
	ENTER("commit count", EINVAL, .commits = address_of(commits), .commit_count = ZOSBD2_V2_MAX_BATCH + 1);
	ENTER("minimum", EINVAL, HERE, .capacity = 4, .minimum = 5);
	ENTER("spin", EINVAL, .spin_us = ZOSBD2_V2_MAX_SPIN_US + 1);
	ENTER("time limit without the flag", EINVAL, .timeout_ms = 1);
	ENTER("bytes without arena", EINVAL, .arena_bytes = 1);
	ENTER("unknown queue", EINVAL, .queue = 1);
	ENTER("empty queue", 0, HERE, .capacity = 4);
	ENTER("empty queue, time limit", 0, HERE, .capacity = 4, .minimum = 1,
	      .flags = ZOSBD2_V2_ENTER_TIMEOUT, .timeout_ms = 1);
	ENTER("empty queue, no memory", 0, .capacity = 4, .requests = 0);
	ENTER("commits far away", EFAULT, .commit_count = 1, .commits = address_of(commits) | FAR);
	ENTER("no commits", EFAULT, .commit_count = 1, .commits = 0);
	commits[0].handle = commits[1].handle = 0x123456789abcdef0;
	commits[1].flags = ZOSBD2_V2_COMMIT_FLAGS + 1;
	ENTER("stale and wrong", 0, .commits = address_of(commits), .commit_count = 2);
	plain("first commit", -commits[0].status, ESTALE);
	plain("second commit", -commits[1].status, EINVAL);
	ready = poll(&readiness, 1, 0);
	line("poll", failure(ready), 0, ", %d events 0x%x", ready, (unsigned int)readiness.revents);
}

/* Memory of the server and of the child; after the fork each has its own copy. */
static _Alignas(BLOCK) unsigned char memory[2][BLOCK];

static void fill(unsigned char *to, unsigned char with)
{
	memset(to, with, BLOCK);
	to[BLOCK - 1] = (unsigned char)~with;
}

static int filled(const unsigned char *from, unsigned char with)
{
	size_t i;

	for (i = 0; i < BLOCK - 1; i++)
		if (from[i] != with)
			return 0;
	return from[BLOCK - 1] == (unsigned char)~with;
}

/* What the child expects of a step: a number of bytes, or an error. */
static void expect(int step, long long got, long long wanted)
{
	if (got != (wanted < 0 ? -1 : wanted) || (wanted < 0 && errno != -wanted))
		_exit(step);
}

/*
 * The child: submits one request after another, and exits with 0 or the number of the failed step.
 */
static void submit(void)
{
	unsigned char *data = memory[0];
	struct iovec whole = { .iov_base = data, .iov_len = BLOCK };
	__u64 range[2] = { BLOCK, BLOCK };
	int fd = open(NODE, O_RDWR | O_DIRECT);

	expect(1, fd < 0, 0);
	expect(2, lseek(fd, 0, SEEK_END), MIB);
	fill(data, 3);
	expect(3, pwrite(fd, data, BLOCK, 2 * BLOCK), BLOCK);
	fill(data, 0);
	expect(4, pread(fd, data, BLOCK, 2 * BLOCK), BLOCK);
	expect(4, filled(data, 3), 1);
	fill(data, 5);
	expect(5, pwrite(fd, data, BLOCK, 0), BLOCK);
	fill(data, 0);
	expect(6, pread(fd, data, 512, MIB - 512), 512);
	expect(6, data[0] == 3 && data[99] == 3 && data[100] == 0 && data[511] == 0 && data[512] == 0, 1);
	fill(data, 7);
	expect(7, pwrite(fd, data, BLOCK, 0), BLOCK);
	fill(data, 0);
	expect(8, pread(fd, data, BLOCK, 0), BLOCK);
	expect(8, filled(data, 7), 1);
	fill(data, 9);
	expect(9, pwrite(fd, data, BLOCK, 0), BLOCK);
	expect(10, pread(fd, data, BLOCK, 0), -EIO);
	expect(11, pwrite(fd, data, BLOCK, 0), -ENOSPC);
	expect(12, fsync(fd), 0);
	fill(data, 13);
	expect(13, pwritev2(fd, &whole, 1, 0, RWF_DSYNC), BLOCK);
	expect(14, ioctl(fd, BLKDISCARD, range), 0);
	expect(15, ioctl(fd, BLKZEROOUT, range), 0);
	close(fd);
	_exit(0);
}

/* Waits for the child's next request. The commits of the last ENTER are carried out by then. */
static struct zosbd2_v2_request next(__u32 op, void *arena)
{
	static const char *const names[] = { "read", "write", "discard", "flush", "write zeroes", "secure erase" };
	struct zosbd2_v2_request request = { 0 };
	struct zosbd2_v2_enter argument = { .requests = address_of(&request), .capacity = 1, .minimum = 1,
		.arena = address_of(arena), .arena_bytes = arena ? BLOCK : 0, .flags = ZOSBD2_V2_ENTER_TIMEOUT,
		.timeout_ms = TIMEOUT_MS };
	int error = enter(&argument);

	line("fetch", error, 0, ", processed %u fetched %u: %s flags %u offset %llu length %llu data %llu queue %u"
	     " reserved %u%s", argument.processed, argument.fetched,
	     request.op < ZOSBD2_V2_OPERATIONS ? names[request.op] : "?", request.flags,
	     (unsigned long long)request.offset, (unsigned long long)request.length,
	     (unsigned long long)request.data, request.queue, request.reserved,
	     argument.fetched == 1 && request.op == op ? "" : " unexpected");
	/* The device goes with this process, and the child's request with it. */
	if (argument.fetched != 1)
		exit(1);
	return request;
}

#define COMMIT(text, wanted, request, done, ...) \
	commit_line(text, (struct zosbd2_v2_commit){ .handle = (request).handle, .result = done, __VA_ARGS__ }, wanted)

static void serve_reads_and_writes(void)
{
	static struct zosbd2_v2_iovec pieces[3];
	struct zosbd2_v2_request request;

	pieces[0] = (struct zosbd2_v2_iovec){ .address = address_of(memory[1]), .length = 100 };
	pieces[2] = (struct zosbd2_v2_iovec){ .address = address_of(memory[1] + 100), .length = BLOCK - 100 };
	request = next(ZOSBD2_V2_OP_WRITE, NULL);
	COMMIT("write, flags", EINVAL, request, BLOCK, .flags = ZOSBD2_V2_COMMIT_FLAGS + 1);
	COMMIT("write, reserved", EINVAL, request, BLOCK, .reserved = 1);
	COMMIT("write, status", EINVAL, request, BLOCK, .status = 1);
	COMMIT("write, pieces without the flag", EINVAL, request, BLOCK, .iovec_count = 1);
	COMMIT("write, too long", EINVAL, request, BLOCK + 1, .address = 0);
	COMMIT("write, too long by far", EINVAL, request, (1LL << 32) + BLOCK, .address = 0);
	COMMIT("write, no errno", EINVAL, request, -4096, .address = 0);
	COMMIT("write, zero fill", EINVAL, request, BLOCK, .flags = ZOSBD2_V2_COMMIT_ZERO_FILL);
	COMMIT("write, memory far away", EFAULT, request, BLOCK, .address = address_of(memory[1]) | FAR);
	COMMIT("write", 0, request, BLOCK, .address = address_of(memory[1]));
	COMMIT("write again", ESTALE, request, BLOCK, .address = address_of(memory[1]));
	printf("data: %d\n", filled(memory[1], 3));

	request = next(ZOSBD2_V2_OP_READ, NULL);
	COMMIT("read, no memory", EINVAL, request, BLOCK, .address = 0);
	COMMIT("read, memory far away", EFAULT, request, BLOCK, .address = address_of(memory[1]) | FAR);
	COMMIT("read", 0, request, BLOCK, .address = address_of(memory[1]));

	request = next(ZOSBD2_V2_OP_WRITE, memory[0]);
	printf("data: %d\n", filled(memory[0], 5));
	COMMIT("write in the arena", 0, request, BLOCK, .address = 0);

	request = next(ZOSBD2_V2_OP_READ, memory[0]);
	COMMIT("short read", 0, request, 100, .address = address_of(memory[1]),
	       .flags = ZOSBD2_V2_COMMIT_ZERO_FILL);

	memset(memory[1], 0, BLOCK);
	request = next(ZOSBD2_V2_OP_WRITE, NULL);
	COMMIT("write, no pieces", EINVAL, request, BLOCK, .flags = ZOSBD2_V2_COMMIT_IOVEC,
	       .address = address_of(pieces));
	COMMIT("write, pieces far away", EFAULT, request, BLOCK, .flags = ZOSBD2_V2_COMMIT_IOVEC, .iovec_count = 3,
	       .address = address_of(pieces) | FAR);
	COMMIT("write, too few pieces", EINVAL, request, BLOCK, .flags = ZOSBD2_V2_COMMIT_IOVEC, .iovec_count = 2,
	       .address = address_of(pieces));
	COMMIT("write, pieces", 0, request, BLOCK, .flags = ZOSBD2_V2_COMMIT_IOVEC, .iovec_count = 3,
	       .address = address_of(pieces));
	printf("data: %d\n", filled(memory[1], 7));

	request = next(ZOSBD2_V2_OP_READ, NULL);
	COMMIT("read, pieces", 0, request, BLOCK, .flags = ZOSBD2_V2_COMMIT_IOVEC, .iovec_count = 3,
	       .address = address_of(pieces));

	request = next(ZOSBD2_V2_OP_WRITE, NULL);
	COMMIT("write, copy only, too little room", EINVAL, request, BLOCK - 1,
	       .flags = ZOSBD2_V2_COMMIT_COPY_ONLY, .address = address_of(memory[1]));
	COMMIT("write, copy only, room", 0, request, 1LL << 40, .flags = ZOSBD2_V2_COMMIT_COPY_ONLY,
	       .address = address_of(memory[1]));
	memset(memory[1], 0, BLOCK);
	COMMIT("write, copy only", 0, request, BLOCK, .flags = ZOSBD2_V2_COMMIT_COPY_ONLY,
	       .address = address_of(memory[1]));
	printf("data: %d\n", filled(memory[1], 9));
	COMMIT("write, copied before", 0, request, BLOCK, .address = 0);

	request = next(ZOSBD2_V2_OP_READ, NULL);
	COMMIT("failed read", 0, request, -EIO, .address = 0);
	request = next(ZOSBD2_V2_OP_WRITE, NULL);
	COMMIT("failed write", 0, request, -ENOSPC, .address = 0);
}

static void serve_others(void)
{
	static struct zosbd2_v2_request none;
	struct zosbd2_v2_request request;
	struct zosbd2_v2_enter argument = { .capacity = 1, .minimum = 1, .requests = address_of(&none) | FAR,
		.flags = ZOSBD2_V2_ENTER_TIMEOUT, .timeout_ms = TIMEOUT_MS };

	/* Waits until the request exists; ENTER then cannot report it. */
	line("fetch far away", enter(&argument), EFAULT, ", processed %u fetched %u", argument.processed,
	     argument.fetched);
	request = next(ZOSBD2_V2_OP_FLUSH, memory[1]);
	COMMIT("flush, address", EINVAL, request, BLOCK, .address = address_of(memory[1]));
	COMMIT("flush", 0, request, 0, .address = 0);
	request = next(ZOSBD2_V2_OP_WRITE, memory[1]);
	printf("data: %d\n", filled(memory[1], 13));
	COMMIT("durable write", 0, request, BLOCK, .address = 0);
	/* The kernel does not rely on the flag alone. */
	request = next(ZOSBD2_V2_OP_FLUSH, NULL);
	COMMIT("flush after it", 0, request, 0, .address = 0);
	request = next(ZOSBD2_V2_OP_DISCARD, NULL);
	COMMIT("discard", 0, request, BLOCK, .address = 0);
	request = next(ZOSBD2_V2_OP_WRITE_ZEROES, NULL);
	COMMIT("write zeroes", 0, request, BLOCK, .address = 0);
}

static void serve(void)
{
	pid_t child;
	int status;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		close(server);
		submit();
	}
	serve_reads_and_writes();
	serve_others();
	if (child < 0 || waitpid(child, &status, 0) != child)
		status = -1;
	printf("child: 0x%x%s\n", (unsigned int)status, status == 0 ? "" : " unexpected");
}

static void stats_line(const char *name, struct zosbd2_v2_stats stats, int wanted)
{
	int error = failure(ioctl(server, ZOSBD2_V2_IOCTL_STATS, &stats)), op;

	line(name, error, wanted, ", size %u queued %u held %u waiting %u bytes %llu %llu failed %llu expired %llu"
	     " stale %llu", stats.size, stats.queued, stats.held, stats.waiting,
	     (unsigned long long)stats.read_bytes, (unsigned long long)stats.written_bytes,
	     (unsigned long long)stats.failed, (unsigned long long)stats.expired, (unsigned long long)stats.stale);
	for (op = 0; error == 0 && op < ZOSBD2_V2_OPERATIONS; op++)
		printf("operation %d: fetched %llu committed %llu\n", op, (unsigned long long)stats.fetched[op],
		       (unsigned long long)stats.committed[op]);
}

static void stats_calls(void)
{
	struct zosbd2_v2_stats good = { .size = sizeof(good) }, stats = good;

	stats_line("stats", good, 0);
	stats.queue = 1;
	stats_line("stats, unknown queue", stats, EINVAL);
	stats = good;
	stats.flags = 1;
	stats_line("stats, flags", stats, EINVAL);
	sizes("stats", server, ZOSBD2_V2_IOCTL_STATS, &good, sizeof(good));
}

static void resize_line(const char *name, __u64 bytes, int wanted)
{
	struct zosbd2_v2_resize resize = { .size = sizeof(resize), .size_bytes = bytes };

	call(name, server, ZOSBD2_V2_IOCTL_RESIZE, &resize, wanted);
}

/* On a server that has not fetched, or has. */
static void claim_calls(int wanted)
{
	struct zosbd2_v2_claim claim = { .size = sizeof(claim), .flags = ZOSBD2_V2_CLAIM_CACHE };

	call("claim the cache", server, ZOSBD2_V2_IOCTL_CLAIM, &claim, wanted);
	claim.flags = ZOSBD2_V2_CLAIM_FLAGS + 1;
	call("claim, flags", server, ZOSBD2_V2_IOCTL_CLAIM, &claim, EINVAL);
}

static void resize_calls(void)
{
	struct zosbd2_v2_resize good = { .size = sizeof(good), .size_bytes = MIB };

	sizes("resize", server, ZOSBD2_V2_IOCTL_RESIZE, &good, sizeof(good));
	good.flags = 1;
	call("resize, flags", server, ZOSBD2_V2_IOCTL_RESIZE, &good, EINVAL);
	resize_line("resize to nothing", 0, ERANGE);
	resize_line("resize to half a block", MIB + 256, EINVAL);
	resize_line("resize to too much", 1ULL << 63, ERANGE);
	resize_line("resize to 5 GiB", 5ULL << 30, 0);
	status_line("status", server, "", 0);
}

static void take_over(void)
{
	struct zosbd2_v2_attach attach = { .size = sizeof(attach), .name = NAME, .flags = ZOSBD2_V2_ATTACH_TAKE_OVER };
	struct zosbd2_v2_request requests[1];

	other = longer(control, ZOSBD2_V2_IOCTL_ATTACH, &attach, sizeof(attach));
	line("take over, long", failure(other), 0, ", epoch %u", attach.epoch);
	ENTER("taken over", ESHUTDOWN, HERE, .capacity = 1, .minimum = 1);
	status_line("status", control, NAME, 0);
	plain("close the first server", failure(close(server)), 0);
	server = other;
	claim_calls(0);
	ENTER("as the second server", 0, HERE, .capacity = 1);
	claim_calls(EALREADY);
	status_line("status", server, "", 0);
}

static void destroy_calls(void)
{
	struct zosbd2_v2_destroy good = { .size = sizeof(good), .name = NAME }, destroy = good;
	struct zosbd2_v2_request requests[1];
	int fd = open(NODE, O_RDONLY);

	plain("open the node", failure(fd), 0);
	call("destroy while it is open", control, ZOSBD2_V2_IOCTL_DESTROY, &good, EBUSY);
	plain("close the node", failure(close(fd)), 0);
	sizes("destroy", control, ZOSBD2_V2_IOCTL_DESTROY, &good, sizeof(good));
	destroy.flags = ZOSBD2_V2_DESTROY_FLAGS + 1;
	call("destroy, flags", control, ZOSBD2_V2_IOCTL_DESTROY, &destroy, EINVAL);
	destroy = (struct zosbd2_v2_destroy){ .size = sizeof(destroy), .name = "other" };
	call("destroy an unknown device", control, ZOSBD2_V2_IOCTL_DESTROY, &destroy, ENOENT);
	node(1);
	plain("destroy, long", failure(longer(control, ZOSBD2_V2_IOCTL_DESTROY, &good, sizeof(good))), 0);
	node(0);
	ENTER("gone", ENODEV, HERE, .capacity = 1, .minimum = 1);
	resize_line("resize what is gone", MIB, ENODEV);
	good.size = sizeof(good);
	call("destroy again", control, ZOSBD2_V2_IOCTL_DESTROY, &good, ENOENT);
	status_line("status of what is gone", control, NAME, ENOENT);
	list_line("list, empty", 0, 0, 0);
	plain("close the server", failure(close(server)), 0);
}

int main(void)
{
	control = open(ZOSBD2_CONTROL_PATH, O_RDWR | O_CLOEXEC);
	plain("open the control node", failure(control), 0);
	if (control < 0)
		return 1;
	info_calls();
	create_calls();
	if (server < 0)
		return 1;
	status_calls();
	list_calls();
	start_calls();
	attach_calls();
	idle_calls();
	serve();
	stats_calls();
	resize_calls();
	take_over();
	destroy_calls();
	printf("end\n");
	return 0;
}

// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * RAM disk in C, on interface version 2: `ram NAME SIZE_MIB [QUEUES [DEPTH]]` creates and serves
 * /dev/zosbd2-NAME, one thread per queue. It exits with 0 when the device is destroyed. SIGINT and
 * SIGTERM destroy it unless it is in use. The memory is the file /dev/shm/zosbd2-NAME: after the death of
 * this process, I/O waits for 30 s, and the same command goes on with the same data.
 *
 * cc -std=c11 -pedantic -Wall -Wextra -Werror -O2 -pthread -I abi/include -o ram examples/c/ram.c
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zosbd2.h>

#define BATCH 32U

static unsigned char *disk;
static size_t page;
static int server;
static atomic_uint serving, gone;

_Noreturn static void fail(const char *what)
{
	fprintf(stderr, "ram: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Clears memory, and frees whole pages unless they must stay allocated. */
static void clear(unsigned char *from, size_t length, int stay)
{
	size_t head = -(uintptr_t)from & (page - 1);
	size_t whole = length > head && !stay ? (length - head) & ~(page - 1) : 0;

	if (whole == 0 || madvise(from + head, whole, MADV_REMOVE) != 0)
		head = length, whole = 0;
	memset(from, 0, head);
	memset(from + head + whole, 0, length - head - whole);
}

/* The answer to a request. The kernel copies the data, and keeps requests inside the disk. */
static struct zosbd2_v2_commit answer(const struct zosbd2_v2_request *request)
{
	struct zosbd2_v2_commit commit = { .handle = request->handle, .result = (__s64)request->length };

	if (request->op == ZOSBD2_V2_OP_READ || request->op == ZOSBD2_V2_OP_WRITE)
		commit.address = (uintptr_t)(disk + request->offset);
	else if (request->op == ZOSBD2_V2_OP_DISCARD || request->op == ZOSBD2_V2_OP_WRITE_ZEROES)
		clear(disk + request->offset, request->length, request->flags & ZOSBD2_V2_REQUEST_NO_UNMAP);
	else
		commit.result = -EOPNOTSUPP; /* the device does not offer others */
	return commit;
}

/* Serves the queue until the device is gone or another server has taken over. */
static void *serve(void *queue)
{
	struct zosbd2_v2_request requests[BATCH];
	struct zosbd2_v2_commit commits[BATCH];
	struct zosbd2_v2_enter enter = { .size = sizeof(enter), .queue = (__u32)(uintptr_t)queue,
		.requests = (uintptr_t)requests, .request_bytes = sizeof(*requests), .capacity = BATCH, .minimum = 1,
		.commits = (uintptr_t)commits, .commit_bytes = sizeof(*commits) };
	__u32 i;

	/* Allocations must not wait for I/O, because that I/O may be to this disk. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
		fail("prctl(PR_SET_IO_FLUSHER)");
	for (;;) {
		if (ioctl(server, ZOSBD2_V2_IOCTL_ENTER, &enter) != 0) {
			if (errno == EINTR)
				continue; /* nothing was committed: repeat the call */
			if (errno == ENODEV)
				gone = 1; /* the device was destroyed */
			if (errno == ENODEV || errno == ESHUTDOWN)
				break;
			fail("serve");
		}
		for (i = 0; i < enter.processed && enter.refused != 0; i++) {
			errno = -commits[i].status;
			if (errno == ESTALE) /* the handle is stale */
				fprintf(stderr, "ram: a commit came too late\n");
			else if (errno != 0)
				fail("commit (EFAULT: /dev/shm is full)");
		}
		for (i = 0; i < enter.fetched; i++)
			commits[i] = answer(&requests[i]);
		enter.commit_count = enter.fetched;
	}
	serving--;
	kill(getpid(), SIGUSR1); /* main will see the signal */
	return NULL;
}

/* Maps the disk's file, which belongs to one process at a time. */
static void map_file(const char *path, size_t size)
{
	struct stat stat;
	int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (file < 0 || fstat(file, &stat) != 0)
		fail(path);
	if (flock(file, LOCK_EX | LOCK_NB) != 0)
		fail("lock the disk's file (does another process serve it?)");
	if (stat.st_size == 0 && ftruncate(file, (off_t)size) != 0)
		fail(path);
	if (stat.st_size != 0 && (size_t)stat.st_size != size)
		errno = EEXIST, fail("the disk's file has another size");
	disk = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (disk == MAP_FAILED)
		fail("map the disk's file");
}

/* Becomes the server of an existing device that has lost its server, if it is the wanted one. */
static int follow(int control, struct zosbd2_v2_create *create)
{
	struct zosbd2_v2_status status = { .size = sizeof(status) };
	struct zosbd2_v2_attach attach = { .size = sizeof(attach) };
	int number;

	memcpy(status.name, create->name, sizeof(status.name));
	memcpy(attach.name, create->name, sizeof(attach.name));
	if (ioctl(control, ZOSBD2_V2_IOCTL_STATUS, &status) != 0)
		fail("get the status of the existing device");
	if (status.version != 2 || status.size_bytes != create->size_bytes || status.logical_block_size != 512 ||
	    status.serial[0] != 0 || (status.create_flags & ZOSBD2_V2_CREATE_VOLATILE_CACHE) != 0)
		errno = EEXIST, fail("a device of that name exists, and is another one");
	create->queues = status.queues;
	create->handle = attach.handle = status.handle;
	attach.epoch = status.epoch; /* not if another server came in between */
	number = ioctl(control, ZOSBD2_V2_IOCTL_ATTACH, &attach);
	if (number < 0 && errno == EBUSY && status.pid != 0) {
		fprintf(stderr, "ram: attach: the device has a server: process %u (%.*s)\n", status.pid,
			(int)sizeof(status.program), status.program);
		exit(1);
	}
	return number;
}

int main(int argc, char **argv)
{
	struct zosbd2_v2_create create = { .size = sizeof(create), .grace_ms = 30000,
		.max_discard_bytes = 1U << 30, .max_write_zeroes_bytes = 1U << 30 };
	struct zosbd2_v2_destroy destroy = { .size = sizeof(destroy) };
	struct zosbd2_v2_start start = { .size = sizeof(start) };
	unsigned long mib = argc > 2 ? strtoul(argv[2], NULL, 10) : 0, queue;
	int control = open(ZOSBD2_CONTROL_PATH, O_RDWR | O_CLOEXEC), number;
	char path[64];
	pthread_t thread;
	sigset_t signals;

	if (argc < 3 || argc > 5 || strlen(argv[1]) > ZOSBD2_V2_MAX_NAME_BYTES || mib == 0 || mib > SIZE_MAX >> 20)
		return fprintf(stderr, "usage: ram NAME SIZE_MIB [QUEUES [DEPTH]]\n"), 2;
	if (control < 0)
		fail(errno == EACCES || errno == EPERM ? "open " ZOSBD2_CONTROL_PATH " (are you root?)"
		     : access("/sys/module/zosbd2", F_OK) == 0
			     ? "open " ZOSBD2_CONTROL_PATH " (the module is loaded: does the container have the node?)"
			     : "open " ZOSBD2_CONTROL_PATH " (is the kernel module zosbd2 loaded?)");
	page = (size_t)sysconf(_SC_PAGESIZE);
	create.physical_block_size = (__u32)page;
	create.size_bytes = (__u64)mib << 20;
	create.queues = argc > 3 && atoi(argv[3]) != 0 ? (__u32)atoi(argv[3]) : 1;
	create.depth = argc > 4 ? (__u32)atoi(argv[4]) : 0;
	memcpy(create.name, argv[1], strlen(argv[1]));
	memcpy(destroy.name, create.name, sizeof(destroy.name));
	snprintf(path, sizeof(path), "/dev/shm/zosbd2-%s", argv[1]);
	map_file(path, mib << 20);
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &signals, NULL); /* in all threads: the loop below receives them */
	server = ioctl(control, ZOSBD2_V2_IOCTL_CREATE, &create);
	if (server < 0 && errno == EEXIST)
		server = follow(control, &create);
	if (server < 0)
		fail(errno == EBUSY    ? "attach (the device has a server)"
		     : errno == EINVAL ? "create (the name has an invalid character?)"
		     : errno == ERANGE ? "create (the size, the queues or the depth are outside their limits)"
		     : errno == EOVERFLOW ? "create (queues times depth are more than 65536)"
		     : errno == ENOTTY ? "create (the module is older than this program?)"
				       : "create or attach");
	destroy.handle = create.handle; /* the name may be in use again */
	for (queue = 0; queue < create.queues; queue++) {
		serving++;
		errno = pthread_create(&thread, NULL, serve, (void *)(uintptr_t)queue);
		if (errno != 0)
			fail("start a thread");
	}
	if (ioctl(server, ZOSBD2_V2_IOCTL_START, &start) != 0 && errno != EALREADY)
		fail("start");
	printf("serving " ZOSBD2_V2_NODE_PREFIX "%s\n", argv[1]);
	fflush(stdout);
	while (serving != 0) {
		errno = sigwait(&signals, &number);
		if (errno != 0)
			fail("wait for signals");
		if (number != SIGUSR1 && ioctl(control, ZOSBD2_V2_IOCTL_DESTROY, &destroy) != 0 &&
		    errno != ENOENT)
			fprintf(stderr, "ram: destroy: %s\n", strerror(errno));
	}
	if (gone != 0)
		unlink(path);
	return 0;
}

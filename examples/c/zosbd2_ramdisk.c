// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * RAM disk in C, on interface version 1: creates /dev/zosbd2ramdisk (4 GiB, memory allocated as it
 * is written) and serves it with -t N threads. It exits with 0 when the device is destroyed: by -d
 * in another terminal, by SIGINT or SIGTERM, or by another program.
 *
 * cc -Wall -Wextra -Werror -O2 -pthread -I abi/include -o zosbd2_ramdisk
 * examples/c/zosbd2_ramdisk.c
 *
 * It uses only the generated header and ioctl(2). Concurrent requests to one block are not ordered,
 * as on any disk.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zosbd2.h>

#define NAME "zosbd2ramdisk"
#define BLOCKS 1048576ULL
#define SIZE (BLOCKS * ZOSBD2_V1_BLOCK_SIZE)
#define MAX_THREADS 256

static unsigned char *disk;
static int control, node;
static __u32 handle;

static int fail(const char *what)
{
	fprintf(stderr, "zosbd2_ramdisk: %s: %s\n", what, strerror(errno));
	return 1;
}

/* Length of the request, or 0 if it is outside the disk or does not fit the data area. */
static int range(const struct zosbd2_v1_operation *op, __u64 *start, __u64 *length)
{
	__u32 i;

	if (op->head.segment_count == 0 || op->head.segment_count > ZOSBD2_V1_MAX_SEGMENTS)
		return 0;
	*start = op->segments[0].start;
	*length = 0;
	for (i = 0; i < op->head.segment_count; i++) {
		if (*start > SIZE || op->segments[i].start != *start + *length ||
		    op->segments[i].length > SIZE - *start - *length)
			return 0;
		*length += op->segments[i].length;
	}
	return op->head.opcode == ZOSBD2_V1_OP_DISCARD || *length <= ZOSBD2_V1_MAX_DATA_BYTES;
}

/* Carries out the request in op and turns op into the answer. */
static void answer(struct zosbd2_v1_operation *op)
{
	unsigned char *data = (unsigned char *)op + ZOSBD2_V1_OPERATION_DATA_OFFSET;
	__u64 start = 0, length = 0;
	int good = range(op, &start, &length);

	switch (op->head.opcode) {
	case ZOSBD2_V1_OP_READ:
		if (good)
			memcpy(data, disk + start, length);
		op->head.opcode = ZOSBD2_V1_OP_ANSWER_READ;
		break;
	case ZOSBD2_V1_OP_WRITE:
		if (good)
			memcpy(disk + start, data, length);
		op->head.opcode = ZOSBD2_V1_OP_ANSWER_WRITE;
		break;
	case ZOSBD2_V1_OP_DISCARD:
		/* Blocks of the device are pages on every machine that this sample supports. */
		good = good && madvise(disk + start, length, MADV_DONTNEED) == 0;
		op->head.opcode = ZOSBD2_V1_OP_ANSWER_DISCARD;
		break;
	default: /* a notice that needs no answer */
		op->head.opcode = ZOSBD2_V1_OP_FETCH;
		break;
	}
	op->tail.error = good ? 0 : -EIO;
}

/* One serving thread. Returns NULL when the device is gone, and something else after an error. */
static void *serve(void *unused)
{
	struct zosbd2_v1_operation *op = calloc(1, ZOSBD2_V1_OPERATION_BYTES);
	void *result = disk;

	(void)unused;
	if (op)
		op->head.opcode = ZOSBD2_V1_OP_FETCH;
	while (op) {
		op->head.handle = handle;
		if (ioctl(node, ZOSBD2_V1_IOCTL_OPERATION, op) == 0 && op->head.opcode != ZOSBD2_V1_OP_GONE) {
			answer(op);
		} else if (op->head.opcode == ZOSBD2_V1_OP_GONE || errno == ENOENT) {
			result = NULL;
			break;
		} else if (errno != EINTR) {
			break;
		} else if (op->head.opcode == ZOSBD2_V1_OP_NOTHING) {
			/*
			 * The kernel took the answer. An unchanged buffer is sent again as it is.
			 */
			op->head.opcode = ZOSBD2_V1_OP_FETCH;
		}
	}
	if (result)
		fail("serve /dev/" NAME);
	free(op);
	return result;
}

/* Waits for SIGINT or SIGTERM, which every thread blocks, and destroys the device. */
static void *watch(void *signals)
{
	struct zosbd2_v1_destroy_by_handle destroy = { .force = 1 };
	int number;

	for (;;) {
		errno = sigwait(signals, &number);
		if (errno) {
			fail("wait for signals");
			break; /* -d can still destroy the device */
		}
		destroy.handle = handle;
		if (ioctl(control, ZOSBD2_V1_IOCTL_DESTROY_BY_HANDLE, &destroy) != 0 && errno != ENOENT)
			fail("destroy " NAME);
	}
	return NULL;
}

static int serve_all(long threads, sigset_t *signals)
{
	pthread_t thread[MAX_THREADS], watcher;
	void *result;
	long i, started;
	int status = 0;

	node = open("/dev/" NAME, O_RDWR | O_CLOEXEC);
	if (node < 0)
		return fail("open /dev/" NAME);
	errno = pthread_create(&watcher, NULL, watch, signals);
	if (errno)
		return fail("start a thread");
	for (started = 0; started < threads; started++) {
		errno = pthread_create(&thread[started], NULL, serve, NULL);
		if (errno) {
			status = fail("start a thread");
			break;
		}
	}
	if (started > 0) {
		printf("ready /dev/" NAME "\n");
		fflush(stdout);
	}
	for (i = 0; i < started; i++)
		if (pthread_join(thread[i], &result) != 0 || result)
			status = 1;
	return status;
}

int main(int argc, char **argv)
{
	struct zosbd2_v1_create create = { .name = NAME, .block_size = ZOSBD2_V1_BLOCK_SIZE,
					   .block_count = BLOCKS, .timeout_s = 30 };
	struct zosbd2_v1_destroy_by_handle destroy = { .force = 1 };
	struct zosbd2_v1_destroy_by_name own = { .name = NAME, .force = 1 };
	int option, only_destroy = 0, status;
	sigset_t signals;
	long threads = 1;

	while ((option = getopt(argc, argv, "dt:")) != -1) {
		if (option == 'd')
			only_destroy = 1;
		else if (option != 't' || (threads = strtol(optarg, NULL, 10)) < 1 || threads > MAX_THREADS)
			return fprintf(stderr, "usage: zosbd2_ramdisk [-d] [-t THREADS (1 to 256)]\n"), 2;
	}
	control = open(ZOSBD2_CONTROL_PATH, O_RDONLY | O_CLOEXEC);
	if (control < 0)
		return fail("open " ZOSBD2_CONTROL_PATH " (root only; is the kernel module zosbd2 loaded?)");
	if (only_destroy)
		return ioctl(control, ZOSBD2_V1_IOCTL_DESTROY_BY_NAME, &own) != 0 && errno != ENOENT ?
			       fail("destroy " NAME) :
			       0;
	disk = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (disk == MAP_FAILED)
		return fail("get memory for the disk");
	madvise(disk, SIZE, MADV_NOHUGEPAGE); /* fails only without huge pages */
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	/* Blocked before the device exists, so that no signal can leave the device behind. */
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	if (ioctl(control, ZOSBD2_V1_IOCTL_CREATE, &create) != 0)
		return fail("create " NAME);
	handle = destroy.handle = create.handle;
	status = serve_all(threads, &signals);
	if (status) /* the device is useless without its server */
		ioctl(control, ZOSBD2_V1_IOCTL_DESTROY_BY_HANDLE, &destroy);
	return status;
}

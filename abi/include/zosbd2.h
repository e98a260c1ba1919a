/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note OR MIT */
/*
 * zosbd2: Linux block devices in userspace, user/kernel interface.
 *
 * Generated from abi/src by `cargo xtask abi-gen`; do not edit.
 */
#ifndef ZOSBD2_H
#define ZOSBD2_H

#include <linux/types.h>

#ifdef __cplusplus
#define ZOSBD2_ASSERT(condition, text) static_assert(condition, text)
#else
#define ZOSBD2_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/* Path of the control node. */
#define ZOSBD2_CONTROL_PATH "/dev/zosbd2ctl"

/*
 * Interface version 1: that of the original zosbd2, kept so that its programs
 * run unmodified.
 *
 * All ioctl numbers are raw small integers, not _IOC encoded. All integers are
 * in host order. Layouts are those of x86-64 and of every ABI that aligns u64
 * to 8 bytes.
 *
 * The error fields carry 0 or the *negative* errno that the ioctl also returns.
 */

/*
 * Bytes of a name field. A name uses at most ZOSBD2_V1_NAME_BYTES - 1 bytes;
 * the kernel forces the last byte to NUL.
 */
#define ZOSBD2_V1_NAME_BYTES 32

/* The only logical block size, in bytes. */
#define ZOSBD2_V1_BLOCK_SIZE 4096U

/* Smallest device, in blocks of ZOSBD2_V1_BLOCK_SIZE (4 MiB). */
#define ZOSBD2_V1_MIN_BLOCK_COUNT 1024ULL

/* Largest device, in blocks of ZOSBD2_V1_BLOCK_SIZE (12 TiB). */
#define ZOSBD2_V1_MAX_BLOCK_COUNT 3221225472ULL

/* Shortest request timeout, in seconds. */
#define ZOSBD2_V1_MIN_TIMEOUT_S 1U

/* Longest request timeout, in seconds. */
#define ZOSBD2_V1_MAX_TIMEOUT_S 1200U

/* Most segments of one request; also what max_segments 0 or above means. */
#define ZOSBD2_V1_MAX_SEGMENTS 256U

/*
 * Most segments of one request. max_segments 0, or a larger value, means this
 * limit.
 */
#define ZOSBD2_V1_MAX_BATCH_QUEUE 256U

/* Largest accepted batch_queue. The field has no effect. */
#define ZOSBD2_V1_MAX_DATA_BYTES 1048576U

/*
 * Most bytes of one discard request: the largest multiple of
 * ZOSBD2_V1_BLOCK_SIZE that fits 32 bits.
 */
#define ZOSBD2_V1_MAX_DISCARD_BYTES 4294963200U

/* Entries of the fixed array in struct zosbd2_v1_list. */
#define ZOSBD2_V1_LIST_ENTRIES 50

/* Control node: does nothing, returns 0. */
#define ZOSBD2_V1_IOCTL_PING 12U

/* Control node: create a device (struct zosbd2_v1_create, in and out). */
#define ZOSBD2_V1_IOCTL_CREATE 21U

/*
 * Control node: destroy by handle (struct zosbd2_v1_destroy_by_handle, in and
 * out).
 */
#define ZOSBD2_V1_IOCTL_DESTROY_BY_HANDLE 22U

/*
 * Control node: destroy by name (struct zosbd2_v1_destroy_by_name, in and out).
 */
#define ZOSBD2_V1_IOCTL_DESTROY_BY_NAME 23U

/* Control node: destroy all devices (struct zosbd2_v1_destroy_all, in only). */
#define ZOSBD2_V1_IOCTL_DESTROY_ALL 25U

/*
 * Control node: look up a handle by name (struct zosbd2_v1_handle_by_name, in
 * and out).
 */
#define ZOSBD2_V1_IOCTL_HANDLE_BY_NAME 26U

/* Control node: list handles (struct zosbd2_v1_list, out only). */
#define ZOSBD2_V1_IOCTL_LIST 60U

/* Control node: status of one device (struct zosbd2_v1_status, in and out). */
#define ZOSBD2_V1_IOCTL_STATUS 61U

/* Block node: does nothing, returns 0. */
#define ZOSBD2_V1_IOCTL_BLOCK_PING 53U

/*
 * Block node: answer a request and fetch the next (struct zosbd2_v1_operation,
 * in and out).
 */
#define ZOSBD2_V1_IOCTL_OPERATION 58U

/* Server to kernel: no answer, just fetch. */
#define ZOSBD2_V1_OP_FETCH 30U

/* Server to kernel: answer to a read, data area filled; then fetch. */
#define ZOSBD2_V1_OP_ANSWER_READ 31U

/* Server to kernel: answer to a write; then fetch. */
#define ZOSBD2_V1_OP_ANSWER_WRITE 37U

/* Server to kernel: answer to a discard; then fetch. */
#define ZOSBD2_V1_OP_ANSWER_DISCARD 38U

/*
 * Server to kernel: number reserved by the original, never implemented
 * (EINVAL).
 */
#define ZOSBD2_V1_OP_STATUS 39U

/*
 * Kernel to server: nothing to do, fetch again (only together with an error).
 */
#define ZOSBD2_V1_OP_NOTHING 40U

/* Kernel to server: a read request. */
#define ZOSBD2_V1_OP_READ 41U

/* Kernel to server: a write request, data area filled. */
#define ZOSBD2_V1_OP_WRITE 42U

/* Kernel to server: a discard request. */
#define ZOSBD2_V1_OP_DISCARD 43U

/*
 * Both ways: ask for a shutdown notice to be given to one fetcher; that notice.
 */
#define ZOSBD2_V1_OP_SHUTDOWN_NOTICE 6502U

/* Kernel to server: the device is being destroyed, do not call again. */
#define ZOSBD2_V1_OP_GONE 8086U

/* The payload of ZOSBD2_V1_OP_SHUTDOWN_NOTICE, kernel to server. */
#define ZOSBD2_V1_SHUTDOWN_ACTION 86U

/**
 * struct zosbd2_v1_create - Argument of ZOSBD2_V1_IOCTL_CREATE. Callers exist
 * that pass only the first 68 bytes: the kernel reads at most
 * ZOSBD2_V1_CREATE_USED_BYTES and writes only handle and error.
 * @name: Name of the block node, NUL terminated unless all bytes are used.
 * @block_size: Logical block size in bytes: ZOSBD2_V1_BLOCK_SIZE.
 * @reserved: Ignored.
 * @block_count: Size in blocks, ZOSBD2_V1_MIN_BLOCK_COUNT to
 *   ZOSBD2_V1_MAX_BLOCK_COUNT.
 * @timeout_s: Request timeout in seconds, ZOSBD2_V1_MIN_TIMEOUT_S to
 *   ZOSBD2_V1_MAX_TIMEOUT_S.
 * @max_segments: Most segments of one request; 0 or more than
 *   ZOSBD2_V1_MAX_SEGMENTS means ZOSBD2_V1_MAX_SEGMENTS.
 * @batch_queue: 0 to ZOSBD2_V1_MAX_BATCH_QUEUE; no effect.
 * @handle: Out: the handle, on success.
 * @error: Out: 0 or negative errno.
 * @padding: Tail padding; never read nor written by the kernel.
 */
struct zosbd2_v1_create {
	__u8 name[ZOSBD2_V1_NAME_BYTES];
	__u32 block_size;
	__u32 reserved;
	__aligned_u64 block_count;
	__u32 timeout_s;
	__u32 max_segments;
	__u32 batch_queue;
	__u32 handle;
	__s32 error;
	__u32 padding;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_create) == 72,
	      "size of zosbd2_v1_create");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, name) == 0,
	      "offset of zosbd2_v1_create.name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, block_size) == 32,
	      "offset of zosbd2_v1_create.block_size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, reserved) == 36,
	      "offset of zosbd2_v1_create.reserved");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, block_count) == 40,
	      "offset of zosbd2_v1_create.block_count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, timeout_s) == 48,
	      "offset of zosbd2_v1_create.timeout_s");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, max_segments) == 52,
	      "offset of zosbd2_v1_create.max_segments");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, batch_queue) == 56,
	      "offset of zosbd2_v1_create.batch_queue");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, handle) == 60,
	      "offset of zosbd2_v1_create.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, error) == 64,
	      "offset of zosbd2_v1_create.error");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_create, padding) == 68,
	      "offset of zosbd2_v1_create.padding");

/* Bytes of struct zosbd2_v1_create that the kernel may read. */
#define ZOSBD2_V1_CREATE_USED_BYTES 68

/**
 * struct zosbd2_v1_destroy_by_handle - Argument of
 * ZOSBD2_V1_IOCTL_DESTROY_BY_HANDLE.
 * @handle: Handle of the device.
 * @error: Out: 0 or negative errno.
 * @force: 0: fail with EBUSY while the block node is open. Otherwise: destroy
 *   the device even if it is open.
 */
struct zosbd2_v1_destroy_by_handle {
	__u32 handle;
	__s32 error;
	__u32 force;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_destroy_by_handle) == 12,
	      "size of zosbd2_v1_destroy_by_handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_destroy_by_handle, handle) == 0,
	      "offset of zosbd2_v1_destroy_by_handle.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_destroy_by_handle, error) == 4,
	      "offset of zosbd2_v1_destroy_by_handle.error");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_destroy_by_handle, force) == 8,
	      "offset of zosbd2_v1_destroy_by_handle.force");

/**
 * struct zosbd2_v1_destroy_by_name - Argument of
 * ZOSBD2_V1_IOCTL_DESTROY_BY_NAME.
 * @name: Name of the device.
 * @error: Out: 0 or negative errno.
 * @force: As in struct zosbd2_v1_destroy_by_handle.
 */
struct zosbd2_v1_destroy_by_name {
	__u8 name[ZOSBD2_V1_NAME_BYTES];
	__s32 error;
	__u32 force;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_destroy_by_name) == 40,
	      "size of zosbd2_v1_destroy_by_name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_destroy_by_name, name) == 0,
	      "offset of zosbd2_v1_destroy_by_name.name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_destroy_by_name, error) == 32,
	      "offset of zosbd2_v1_destroy_by_name.error");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_destroy_by_name, force) == 36,
	      "offset of zosbd2_v1_destroy_by_name.force");

/**
 * struct zosbd2_v1_destroy_all - Argument of ZOSBD2_V1_IOCTL_DESTROY_ALL.
 * @force: As in struct zosbd2_v1_destroy_by_handle.
 */
struct zosbd2_v1_destroy_all {
	__u32 force;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_destroy_all) == 4,
	      "size of zosbd2_v1_destroy_all");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_destroy_all, force) == 0,
	      "offset of zosbd2_v1_destroy_all.force");

/**
 * struct zosbd2_v1_handle_by_name - Argument of ZOSBD2_V1_IOCTL_HANDLE_BY_NAME.
 * @name: Name of the device.
 * @handle: Out: the handle.
 * @error: Out: 0 or negative errno.
 */
struct zosbd2_v1_handle_by_name {
	__u8 name[ZOSBD2_V1_NAME_BYTES];
	__u32 handle;
	__s32 error;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_handle_by_name) == 40,
	      "size of zosbd2_v1_handle_by_name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_handle_by_name, name) == 0,
	      "offset of zosbd2_v1_handle_by_name.name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_handle_by_name, handle) == 32,
	      "offset of zosbd2_v1_handle_by_name.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_handle_by_name, error) == 36,
	      "offset of zosbd2_v1_handle_by_name.error");

/**
 * struct zosbd2_v1_list - Argument of ZOSBD2_V1_IOCTL_LIST.
 * @count: Used entries of handles.
 * @handles: Handles in the order of creation; the rest is 0.
 */
struct zosbd2_v1_list {
	__u32 count;
	__u32 handles[ZOSBD2_V1_LIST_ENTRIES];
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_list) == 204,
	      "size of zosbd2_v1_list");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_list, count) == 0,
	      "offset of zosbd2_v1_list.count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_list, handles) == 4,
	      "offset of zosbd2_v1_list.handles");

/**
 * struct zosbd2_v1_status - Argument of ZOSBD2_V1_IOCTL_STATUS.
 * @query: In: handle of the device.
 * @reserved: Padding, 0.
 * @size_bytes: Size in bytes.
 * @block_count: Size in blocks.
 * @block_size: Logical block size in bytes.
 * @max_segments: Effective max_segments.
 * @timeout_ms: Request timeout in milliseconds.
 * @handle: Handle of the device.
 * @name: Name of the device.
 */
struct zosbd2_v1_status {
	__u32 query;
	__u32 reserved;
	__aligned_u64 size_bytes;
	__aligned_u64 block_count;
	__u32 block_size;
	__u32 max_segments;
	__u32 timeout_ms;
	__u32 handle;
	__u8 name[ZOSBD2_V1_NAME_BYTES];
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_status) == 72,
	      "size of zosbd2_v1_status");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, query) == 0,
	      "offset of zosbd2_v1_status.query");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, reserved) == 4,
	      "offset of zosbd2_v1_status.reserved");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, size_bytes) == 8,
	      "offset of zosbd2_v1_status.size_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, block_count) == 16,
	      "offset of zosbd2_v1_status.block_count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, block_size) == 24,
	      "offset of zosbd2_v1_status.block_size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, max_segments) == 28,
	      "offset of zosbd2_v1_status.max_segments");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, timeout_ms) == 32,
	      "offset of zosbd2_v1_status.timeout_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, handle) == 36,
	      "offset of zosbd2_v1_status.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_status, name) == 40,
	      "offset of zosbd2_v1_status.name");

/**
 * struct zosbd2_v1_segment - One piece of a request: absolute byte offset on
 * the device and byte length.
 * @start: First byte on the device.
 * @length: Length in bytes.
 */
struct zosbd2_v1_segment {
	__aligned_u64 start;
	__aligned_u64 length;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_segment) == 16,
	      "size of zosbd2_v1_segment");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_segment, start) == 0,
	      "offset of zosbd2_v1_segment.start");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_segment, length) == 8,
	      "offset of zosbd2_v1_segment.length");

/**
 * struct zosbd2_v1_operation_head - The fixed part of struct
 * zosbd2_v1_operation before the segments: what a server writes at most and the
 * kernel fills.
 * @handle: Handle of the device, set by the server on every call; the kernel
 *   returns 0.
 * @reserved0: Padding.
 * @opcode: One of the OP_ numbers.
 * @reserved1: Padding.
 * @data_size: Bytes in the data area (requests: writes and discards); ignored
 *   in answers.
 * @signal_no: With EINTR: the pending signal, 0 when not known.
 * @reserved2: Padding.
 * @total_bytes: Requests: total bytes. ZOSBD2_V1_OP_SHUTDOWN_NOTICE: the action
 *   in the low 32 bits.
 * @segment_count: Requests: used entries of the segment array.
 * @reserved3: Padding.
 */
struct zosbd2_v1_operation_head {
	__u32 handle;
	__u32 reserved0;
	__u32 opcode;
	__u32 reserved1;
	__aligned_u64 data_size;
	__u32 signal_no;
	__u32 reserved2;
	__aligned_u64 total_bytes;
	__u32 segment_count;
	__u32 reserved3;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_operation_head) == 48,
	      "size of zosbd2_v1_operation_head");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, handle) == 0,
	      "offset of zosbd2_v1_operation_head.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, reserved0) == 4,
	      "offset of zosbd2_v1_operation_head.reserved0");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, opcode) == 8,
	      "offset of zosbd2_v1_operation_head.opcode");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, reserved1) == 12,
	      "offset of zosbd2_v1_operation_head.reserved1");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, data_size) == 16,
	      "offset of zosbd2_v1_operation_head.data_size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, signal_no) == 24,
	      "offset of zosbd2_v1_operation_head.signal_no");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, reserved2) == 28,
	      "offset of zosbd2_v1_operation_head.reserved2");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, total_bytes) == 32,
	      "offset of zosbd2_v1_operation_head.total_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, segment_count) == 40,
	      "offset of zosbd2_v1_operation_head.segment_count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_head, reserved3) == 44,
	      "offset of zosbd2_v1_operation_head.reserved3");

/**
 * struct zosbd2_v1_operation_tail - The fixed part of struct
 * zosbd2_v1_operation between the segments and the data area.
 * @error: Answers: 0, or anything else to fail the request with EIO. The kernel
 *   returns 0.
 * @op_id: Names the request; an answer repeats it.
 */
struct zosbd2_v1_operation_tail {
	__s32 error;
	__u32 op_id;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_operation_tail) == 8,
	      "size of zosbd2_v1_operation_tail");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_tail, error) == 0,
	      "offset of zosbd2_v1_operation_tail.error");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation_tail, op_id) == 4,
	      "offset of zosbd2_v1_operation_tail.op_id");

/**
 * struct zosbd2_v1_operation - Argument of ZOSBD2_V1_IOCTL_OPERATION without
 * the data area, which follows at once.
 * @head: What the call is about.
 * @segments: The pieces of a request, ascending and contiguous; unused entries
 *   are 0.
 * @tail: Result and name of the request.
 */
struct zosbd2_v1_operation {
	struct zosbd2_v1_operation_head head;
	struct zosbd2_v1_segment segments[ZOSBD2_V1_MAX_SEGMENTS];
	struct zosbd2_v1_operation_tail tail;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_operation) == 4152,
	      "size of zosbd2_v1_operation");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation, head) == 0,
	      "offset of zosbd2_v1_operation.head");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation, segments) == 48,
	      "offset of zosbd2_v1_operation.segments");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v1_operation, tail) == 4144,
	      "offset of zosbd2_v1_operation.tail");

/* Offset of struct zosbd2_v1_operation.segments. */
#define ZOSBD2_V1_OPERATION_SEGMENTS_OFFSET 48

/* Offset of struct zosbd2_v1_operation.tail. */
#define ZOSBD2_V1_OPERATION_TAIL_OFFSET 4144

/* Offset of the data area. */
#define ZOSBD2_V1_OPERATION_DATA_OFFSET 4152

/* Bytes that a server must supply to ZOSBD2_V1_IOCTL_OPERATION. */
#define ZOSBD2_V1_OPERATION_BYTES 1052728

/*
 * Interface version 2: all operations, many queues, and one call that answers
 * and fetches in batches.
 *
 * A program makes its calls on the control node or on a *server descriptor*,
 * which ZOSBD2_V2_IOCTL_CREATE and ZOSBD2_V2_IOCTL_ATTACH return as the result
 * of the ioctl. The holder of a server descriptor may serve the device. A
 * server descriptor can be polled and passed to other processes. Its last close
 * is the server's death.
 *
 * Every argument begins with its own size in bytes. A size below that of the
 * first version fails with EINVAL. The kernel accepts a longer argument if the
 * bytes that it does not know are zero, and otherwise fails with E2BIG. The
 * size part of an ioctl number is always the size of the first version. Unknown
 * flags, and reserved fields that are not zero, fail with EINVAL. Layouts are
 * the same for 32-bit and 64-bit callers: addresses are 64-bit integers.
 *
 * Offsets and lengths are in bytes. Errors are negative errno values.
 * docs/glossary.md defines the terms.
 */

/*
 * Bytes of a name field; names are at most ZOSBD2_V2_MAX_NAME_BYTES long, and
 * the rest is NUL.
 */
#define ZOSBD2_V2_NAME_BYTES 32

/* Longest name: the disk is called zosbd2-NAME in 31 bytes. */
#define ZOSBD2_V2_MAX_NAME_BYTES 24

/* Bytes of a serial number field, NUL padded. */
#define ZOSBD2_V2_SERIAL_BYTES 32

/* Bytes of the name of a program, NUL padded. */
#define ZOSBD2_V2_PROGRAM_BYTES 16

/*
 * What precedes the name of a device in the path of its block node. The disk's
 * name in sysfs is the same without /dev/.
 */
#define ZOSBD2_V2_NODE_PREFIX "/dev/zosbd2-"

/*
 * Smallest logical block, in bytes; also the granularity of sizes and offsets.
 */
#define ZOSBD2_V2_MIN_BLOCK_SIZE 512U

/*
 * Largest logical block, in bytes, on kernels with 4096-byte pages; struct
 * zosbd2_v2_info.max_block_size has the limit of the running kernel.
 */
#define ZOSBD2_V2_MAX_BLOCK_SIZE 4096U

/* Largest physical block, minimum and optimal I/O size, in bytes. */
#define ZOSBD2_V2_MAX_PHYSICAL_BLOCK_SIZE 268435456U

/*
 * Largest device, in bytes: 8 EiB less 1 MiB, so that every offset is positive.
 */
#define ZOSBD2_V2_MAX_SIZE_BYTES 9223372036853727232ULL

/* Most data of one request, in bytes (32 MiB). */
#define ZOSBD2_V2_MAX_IO_BYTES 33554432U

/* Value of max_io_bytes if CREATE passes 0, in bytes (4 MiB). */
#define ZOSBD2_V2_DEFAULT_IO_BYTES 4194304U

/* Most requests of one queue. */
#define ZOSBD2_V2_MAX_DEPTH 1024U

/* Value of depth if CREATE passes 0. */
#define ZOSBD2_V2_DEFAULT_DEPTH 128U

/*
 * Most tags of one device: the depth, rounded up to a power of two, times the
 * number of queues.
 */
#define ZOSBD2_V2_MAX_TAGS 65536U

/* Most entries of each array of one struct zosbd2_v2_enter. */
#define ZOSBD2_V2_MAX_BATCH 1024U

/* Longest element of the arrays of an struct zosbd2_v2_enter, in bytes. */
#define ZOSBD2_V2_MAX_ELEMENT_BYTES 256U

/* Most iovec entries of one commit. */
#define ZOSBD2_V2_MAX_IOVECS 1024U

/* Longest deadline and longest grace, in milliseconds (one day). */
#define ZOSBD2_V2_MAX_MILLISECONDS 86400000U

/* Longest time that ENTER polls before it sleeps, in microseconds. */
#define ZOSBD2_V2_MAX_SPIN_US 10000U

/* Read: the commit supplies the data. */
#define ZOSBD2_V2_OP_READ 0U

/* Write. */
#define ZOSBD2_V2_OP_WRITE 1U

/*
 * Discard: the contents of the range are no longer needed. The server decides
 * what later reads return.
 */
#define ZOSBD2_V2_OP_DISCARD 2U

/*
 * Flush: every write that was committed before the fetch of this flush must be
 * durable before the flush is committed.
 */
#define ZOSBD2_V2_OP_FLUSH 3U

/* Write zeros: later reads of the range return zeros. */
#define ZOSBD2_V2_OP_WRITE_ZEROES 4U

/* Secure erase: the contents of the range must not be recoverable. */
#define ZOSBD2_V2_OP_SECURE_ERASE 5U

/* Number of operations. */
#define ZOSBD2_V2_OPERATIONS 6

/* Number of buckets of each histogram of struct zosbd2_v2_latency. */
#define ZOSBD2_V2_LATENCY_BUCKETS 32

/* The kernel refuses writes. */
#define ZOSBD2_V2_CREATE_READ_ONLY 1U

/* The kernel advertises the device as rotational. */
#define ZOSBD2_V2_CREATE_ROTATIONAL 2U

/*
 * A committed write may be lost until a flush is committed, so the kernel sends
 * flushes.
 */
#define ZOSBD2_V2_CREATE_VOLATILE_CACHE 4U

/*
 * Writes may carry ZOSBD2_V2_REQUEST_FUA. Allowed only together with
 * ZOSBD2_V2_CREATE_VOLATILE_CACHE. Without this flag the kernel sends a flush
 * after such a write.
 */
#define ZOSBD2_V2_CREATE_FUA 8U

/*
 * The kernel does not look for partitions when the device starts. BLKRRPART
 * still can.
 */
#define ZOSBD2_V2_CREATE_NO_PARTITION_SCAN 16U

/*
 * The kernel destroys the device when the grace ends. Without this flag the
 * device stays and fails all I/O until a server attaches.
 */
#define ZOSBD2_V2_CREATE_AUTO_DESTROY 32U

/* All flags of struct zosbd2_v2_create. */
#define ZOSBD2_V2_CREATE_FLAGS 63U

/*
 * struct zosbd2_v2_create.deadline_policy: a request that passes its deadline
 * fails with EIO.
 */
#define ZOSBD2_V2_DEADLINE_FAIL 0U

/*
 * struct zosbd2_v2_create.deadline_policy: a request that passes its deadline
 * while a server holds it returns to the queue, marked as maybe executed, for
 * another thread or server. No request fails for being late.
 */
#define ZOSBD2_V2_DEADLINE_REQUEUE 1U

/*
 * struct zosbd2_v2_create.deadline_policy: when a request passes its deadline,
 * the kernel declares the server dead: the server that holds the request, or
 * that left it in the queue. The device then behaves as if that server had
 * closed its descriptor.
 */
#define ZOSBD2_V2_DEADLINE_DECLARE_DEAD 2U

/*
 * Become the server although the device has one. The old server gets no more
 * requests, but may commit those it holds.
 */
#define ZOSBD2_V2_ATTACH_TAKE_OVER 1U

/*
 * Return an observer's descriptor, not a server's. STATUS, STATS, LATENCY,
 * REQUESTS and reading BLOB work on it; any other call fails with EPERM. No
 * other flag may be set. Devices of version 1 can be observed, too.
 */
#define ZOSBD2_V2_ATTACH_OBSERVE 2U

/* All flags of struct zosbd2_v2_attach. */
#define ZOSBD2_V2_ATTACH_FLAGS 3U

/*
 * This server has every write that earlier servers committed: their volatile
 * caches survived. Without this claim, if earlier servers had committed writes
 * that no flush had covered, flushes fail from this server's first fetch on,
 * until one has failed that was sent after those writes had ended.
 */
#define ZOSBD2_V2_CLAIM_CACHE 1U

/* All flags of struct zosbd2_v2_claim. */
#define ZOSBD2_V2_CLAIM_FLAGS 1U

/* Destroy the device even if it is open. */
#define ZOSBD2_V2_DESTROY_FORCE 1U

/* All flags of struct zosbd2_v2_destroy. */
#define ZOSBD2_V2_DESTROY_FLAGS 1U

/* The write must be durable when it is committed. */
#define ZOSBD2_V2_REQUEST_FUA 1U

/* The range of a write-zeroes must stay allocated. */
#define ZOSBD2_V2_REQUEST_NO_UNMAP 2U

/*
 * An earlier server, or another thread of this one, held this request and may
 * have executed it.
 */
#define ZOSBD2_V2_REQUEST_MAYBE_EXECUTED 4U

/*
 * The data of this write came with it: it is in the arena or in a buffer of
 * ENTER, as struct zosbd2_v2_request.data says.
 */
#define ZOSBD2_V2_REQUEST_DATA 8U

/*
 * address points to an array of iovec_count struct zosbd2_v2_iovec instead of
 * the data.
 */
#define ZOSBD2_V2_COMMIT_IOVEC 1U

/*
 * A read whose result is less than its length succeeds; the kernel fills the
 * rest with zeros. Without this flag it fails.
 */
#define ZOSBD2_V2_COMMIT_ZERO_FILL 2U

/*
 * Copy the data of a write to address and do not end the request, which stays
 * with the server. result is the room at address, in bytes: at least the length
 * of the request.
 */
#define ZOSBD2_V2_COMMIT_COPY_ONLY 4U

/* All flags of struct zosbd2_v2_commit. */
#define ZOSBD2_V2_COMMIT_FLAGS 7U

/* timeout_ms is valid: ENTER waits no longer than that for minimum requests. */
#define ZOSBD2_V2_ENTER_TIMEOUT 1U

/* All flags of struct zosbd2_v2_enter. */
#define ZOSBD2_V2_ENTER_FLAGS 1U

/* Change the grace. */
#define ZOSBD2_V2_SETTINGS_GRACE 1U

/* Change the deadline. */
#define ZOSBD2_V2_SETTINGS_DEADLINE 2U

/* Change the policy for late requests. */
#define ZOSBD2_V2_SETTINGS_POLICY 4U

/* All flags of struct zosbd2_v2_settings. */
#define ZOSBD2_V2_SETTINGS_FLAGS 7U

/* Replace the blob by the bytes of the argument. */
#define ZOSBD2_V2_BLOB_WRITE 1U

/* All flags of struct zosbd2_v2_blob. */
#define ZOSBD2_V2_BLOB_FLAGS 1U

/* Largest blob, in bytes. */
#define ZOSBD2_V2_BLOB_BYTES 256

/* The request waits in the queue. */
#define ZOSBD2_V2_OUTSTANDING_QUEUED 1U

/* A server holds the request. */
#define ZOSBD2_V2_OUTSTANDING_HELD 2U

/* A server holds the request, and its data is being copied. */
#define ZOSBD2_V2_OUTSTANDING_COPYING 3U

/* The request has failed; it ends when the copy of its data stops. */
#define ZOSBD2_V2_OUTSTANDING_DOOMED 4U

/* Created, but not started: the block node does not exist yet. */
#define ZOSBD2_V2_STATE_CREATED 0U

/* A server is attached. */
#define ZOSBD2_V2_STATE_LIVE 1U

/* No server is attached. I/O waits for one until the grace ends. */
#define ZOSBD2_V2_STATE_ORPHANED 2U

/*
 * No server is attached and the grace has ended. All I/O fails until a server
 * attaches.
 */
#define ZOSBD2_V2_STATE_FAILED 3U

/* The device is being destroyed. */
#define ZOSBD2_V2_STATE_DESTROYED 4U

/* Bytes of struct zosbd2_v2_info. */
#define ZOSBD2_V2_INFO_BYTES 88U

/* Bytes of struct zosbd2_v2_create. */
#define ZOSBD2_V2_CREATE_BYTES 144U

/* Bytes of struct zosbd2_v2_attach. */
#define ZOSBD2_V2_ATTACH_BYTES 48U

/* Bytes of struct zosbd2_v2_destroy. */
#define ZOSBD2_V2_DESTROY_BYTES 48U

/* Bytes of struct zosbd2_v2_list. */
#define ZOSBD2_V2_LIST_BYTES 32U

/* Bytes of struct zosbd2_v2_status. */
#define ZOSBD2_V2_STATUS_BYTES 208U

/*
 * Bytes of the first version of struct zosbd2_v2_status, up to lost: the size
 * in the number of the call.
 */
#define ZOSBD2_V2_STATUS_FIRST_BYTES 176U

/* Bytes of struct zosbd2_v2_settings. */
#define ZOSBD2_V2_SETTINGS_BYTES 64U

/* Bytes of struct zosbd2_v2_start. */
#define ZOSBD2_V2_START_BYTES 8U

/* Bytes of struct zosbd2_v2_resize. */
#define ZOSBD2_V2_RESIZE_BYTES 16U

/* Bytes of struct zosbd2_v2_stats. */
#define ZOSBD2_V2_STATS_BYTES 192U

/* Bytes of struct zosbd2_v2_enter. */
#define ZOSBD2_V2_ENTER_BYTES 96U

/* Bytes of struct zosbd2_v2_commit. */
#define ZOSBD2_V2_COMMIT_BYTES 40U

/* Bytes of struct zosbd2_v2_request. */
#define ZOSBD2_V2_REQUEST_BYTES 48U

/* Bytes of struct zosbd2_v2_claim. */
#define ZOSBD2_V2_CLAIM_BYTES 8U

/* Bytes of struct zosbd2_v2_latency. */
#define ZOSBD2_V2_LATENCY_BYTES 784U

/* Bytes of struct zosbd2_v2_requests. */
#define ZOSBD2_V2_REQUESTS_BYTES 40U

/* Bytes of struct zosbd2_v2_blob. */
#define ZOSBD2_V2_BLOB_ARGUMENT_BYTES 272U

/*
 * Type of all ioctl numbers below. Each number is direction (read and write) <<
 * 30 | size << 16 | type << 8 | number.
 */
#define ZOSBD2_V2_IOCTL_TYPE 189U

/*
 * Control node: get the abilities and limits of the module (struct
 * zosbd2_v2_info, in and out).
 */
#define ZOSBD2_V2_IOCTL_INFO 3227041024U

/*
 * Control node: create a device (struct zosbd2_v2_create, in and out); returns
 * its server descriptor.
 */
#define ZOSBD2_V2_IOCTL_CREATE 3230711041U

/*
 * Control node: become the server of a device (struct zosbd2_v2_attach, in and
 * out); returns a server descriptor.
 */
#define ZOSBD2_V2_IOCTL_ATTACH 3224419586U

/*
 * Control node: destroy a device and wait until it is gone (struct
 * zosbd2_v2_destroy, in).
 */
#define ZOSBD2_V2_IOCTL_DESTROY 3224419587U

/*
 * Control node: list the devices of both versions (struct zosbd2_v2_list, in
 * and out).
 */
#define ZOSBD2_V2_IOCTL_LIST 3223371012U

/*
 * Control node: get the properties and the state of a device (struct
 * zosbd2_v2_status, in and out), by name. Server descriptor: the same for its
 * own device; the name must be empty or that of the device.
 */
#define ZOSBD2_V2_IOCTL_STATUS 3232808197U

/*
 * Control node: change settings of a device in use (struct zosbd2_v2_settings,
 * in), by name. Server descriptor: the same for its own device; the name must
 * be empty or that of the device.
 */
#define ZOSBD2_V2_IOCTL_SETTINGS 3225468166U

/*
 * Server descriptor: create the block node (struct zosbd2_v2_start, in). The
 * call does no I/O on the device, so the only serving thread may make it.
 */
#define ZOSBD2_V2_IOCTL_START 3221798160U

/* Server descriptor: change the size (struct zosbd2_v2_resize, in). */
#define ZOSBD2_V2_IOCTL_RESIZE 3222322449U

/*
 * Server descriptor: get the counters of one queue (struct zosbd2_v2_stats, in
 * and out).
 */
#define ZOSBD2_V2_IOCTL_STATS 3233856786U

/*
 * Server descriptor: answer requests, move their data, fetch more (struct
 * zosbd2_v2_enter, in and out).
 */
#define ZOSBD2_V2_IOCTL_ENTER 3227565331U

/*
 * Server descriptor: get the latency histograms of one queue (struct
 * zosbd2_v2_latency, in and out).
 */
#define ZOSBD2_V2_IOCTL_LATENCY 3272654100U

/*
 * Server descriptor: list the unanswered requests of one queue (struct
 * zosbd2_v2_requests, in and out).
 */
#define ZOSBD2_V2_IOCTL_REQUESTS 3223895317U

/*
 * Server descriptor: read or replace the blob of the device (struct
 * zosbd2_v2_blob, in and out).
 */
#define ZOSBD2_V2_IOCTL_BLOB 3239099670U

/*
 * Server descriptor: state what this server has of the servers before it
 * (struct zosbd2_v2_claim, in).
 */
#define ZOSBD2_V2_IOCTL_CLAIM 3221798168U

/**
 * struct zosbd2_v2_info - Argument of ZOSBD2_V2_IOCTL_INFO.
 * @size: Bytes of this argument.
 * @flags: 0.
 * @version: Out: highest interface version that the module supports.
 * @max_devices: Out: most devices that can exist at once.
 * @features: Out: bit mask of optional features. No bit is assigned yet.
 * @operations: Out: bit n is set if the module knows operation number n.
 * @max_queues: Out: most queues of a device, which is the number of CPUs.
 * @max_depth: Out: most requests of one queue.
 * @max_block_size: Out: largest logical block, in bytes.
 * @max_io_bytes: Out: most data of one request, in bytes.
 * @max_batch: Out: most entries of each array of an struct zosbd2_v2_enter.
 * @reserved: 0.
 * @module_version: Out: version of the module, NUL padded.
 */
struct zosbd2_v2_info {
	__u32 size;
	__u32 flags;
	__u32 version;
	__u32 max_devices;
	__aligned_u64 features;
	__aligned_u64 operations;
	__u32 max_queues;
	__u32 max_depth;
	__u32 max_block_size;
	__u32 max_io_bytes;
	__u32 max_batch;
	__u32 reserved;
	__u8 module_version[32];
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_info) == 88,
	      "size of zosbd2_v2_info");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, size) == 0,
	      "offset of zosbd2_v2_info.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, flags) == 4,
	      "offset of zosbd2_v2_info.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, version) == 8,
	      "offset of zosbd2_v2_info.version");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, max_devices) == 12,
	      "offset of zosbd2_v2_info.max_devices");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, features) == 16,
	      "offset of zosbd2_v2_info.features");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, operations) == 24,
	      "offset of zosbd2_v2_info.operations");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, max_queues) == 32,
	      "offset of zosbd2_v2_info.max_queues");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, max_depth) == 36,
	      "offset of zosbd2_v2_info.max_depth");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, max_block_size) == 40,
	      "offset of zosbd2_v2_info.max_block_size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, max_io_bytes) == 44,
	      "offset of zosbd2_v2_info.max_io_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, max_batch) == 48,
	      "offset of zosbd2_v2_info.max_batch");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, reserved) == 52,
	      "offset of zosbd2_v2_info.reserved");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_info, module_version) == 56,
	      "offset of zosbd2_v2_info.module_version");

/**
 * struct zosbd2_v2_create - Argument of ZOSBD2_V2_IOCTL_CREATE.
 * @size: Bytes of this argument.
 * @flags: CREATE_ flags.
 * @name: Name: letters, digits, ., _, -, + and :. The first character is a
 *   letter or digit. NUL padded.
 * @serial: Serial number, visible in sysfs: printable ASCII, at most
 *   ZOSBD2_V2_SERIAL_BYTES - 1 bytes, NUL padded.
 * @size_bytes: Size in bytes: a multiple of the logical block, at least one
 *   block, at most ZOSBD2_V2_MAX_SIZE_BYTES.
 * @logical_block_size: Logical block size: a power of two,
 *   ZOSBD2_V2_MIN_BLOCK_SIZE to the page size; 0 means 512.
 * @physical_block_size: Physical block size: a power of two, at least the
 *   logical block size; 0 means the logical block size.
 * @io_min: Smallest I/O without extra cost: a multiple of the physical block; 0
 *   means one physical block.
 * @io_opt: Optimal I/O size: a multiple of io_min; 0 means that no size is
 *   better than another.
 * @max_io_bytes: Most data of one request: a multiple of the logical block, at
 *   least a page; 0 means ZOSBD2_V2_DEFAULT_IO_BYTES.
 * @queues: Number of queues, 1 to the number of CPUs; 0 means 1.
 * @depth: Requests per queue, 1 to ZOSBD2_V2_MAX_DEPTH; 0 means
 *   ZOSBD2_V2_DEFAULT_DEPTH.
 * @discard_granularity: Preferred unit of discards: a power of two; 0 means the
 *   physical block.
 * @max_discard_bytes: Longest discard, a multiple of the logical block; 0 means
 *   that the device does not support discards.
 * @max_write_zeroes_bytes: Longest write-zeroes, a multiple of the logical
 *   block; 0 means not supported: the kernel then writes zeros.
 * @max_secure_erase_bytes: Longest secure erase, a multiple of the logical
 *   block; 0 means not supported.
 * @deadline_ms: Deadline: how long after its submission a request must be
 *   committed, in milliseconds; 0 means no deadline.
 * @grace_ms: Grace: how long I/O waits for a new server after the last one has
 *   gone, in milliseconds; 0: I/O fails at once.
 * @handle: Out: handle of the device.
 * @deadline_policy: What the kernel does with a request that passes its
 *   deadline: one of the DEADLINE_ numbers.
 * @reserved: Must be 0.
 */
struct zosbd2_v2_create {
	__u32 size;
	__u32 flags;
	__u8 name[ZOSBD2_V2_NAME_BYTES];
	__u8 serial[ZOSBD2_V2_SERIAL_BYTES];
	__aligned_u64 size_bytes;
	__u32 logical_block_size;
	__u32 physical_block_size;
	__u32 io_min;
	__u32 io_opt;
	__u32 max_io_bytes;
	__u32 queues;
	__u32 depth;
	__u32 discard_granularity;
	__u32 max_discard_bytes;
	__u32 max_write_zeroes_bytes;
	__u32 max_secure_erase_bytes;
	__u32 deadline_ms;
	__u32 grace_ms;
	__u32 handle;
	__u32 deadline_policy;
	__u32 reserved;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_create) == 144,
	      "size of zosbd2_v2_create");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, size) == 0,
	      "offset of zosbd2_v2_create.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, flags) == 4,
	      "offset of zosbd2_v2_create.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, name) == 8,
	      "offset of zosbd2_v2_create.name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, serial) == 40,
	      "offset of zosbd2_v2_create.serial");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, size_bytes) == 72,
	      "offset of zosbd2_v2_create.size_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, logical_block_size) == 80,
	      "offset of zosbd2_v2_create.logical_block_size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, physical_block_size) == 84,
	      "offset of zosbd2_v2_create.physical_block_size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, io_min) == 88,
	      "offset of zosbd2_v2_create.io_min");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, io_opt) == 92,
	      "offset of zosbd2_v2_create.io_opt");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, max_io_bytes) == 96,
	      "offset of zosbd2_v2_create.max_io_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, queues) == 100,
	      "offset of zosbd2_v2_create.queues");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, depth) == 104,
	      "offset of zosbd2_v2_create.depth");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, discard_granularity) == 108,
	      "offset of zosbd2_v2_create.discard_granularity");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, max_discard_bytes) == 112,
	      "offset of zosbd2_v2_create.max_discard_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, max_write_zeroes_bytes) == 116,
	      "offset of zosbd2_v2_create.max_write_zeroes_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, max_secure_erase_bytes) == 120,
	      "offset of zosbd2_v2_create.max_secure_erase_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, deadline_ms) == 124,
	      "offset of zosbd2_v2_create.deadline_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, grace_ms) == 128,
	      "offset of zosbd2_v2_create.grace_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, handle) == 132,
	      "offset of zosbd2_v2_create.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, deadline_policy) == 136,
	      "offset of zosbd2_v2_create.deadline_policy");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_create, reserved) == 140,
	      "offset of zosbd2_v2_create.reserved");

/**
 * struct zosbd2_v2_attach - Argument of ZOSBD2_V2_IOCTL_ATTACH. A name can be
 * used again after its device is gone: handle and epoch identify the device
 * that is meant.
 * @size: Bytes of this argument.
 * @flags: ATTACH_ flags.
 * @name: Name of the device.
 * @handle: In: handle that the device must have, 0 for any; otherwise the call
 *   fails with ESTALE. Out: handle of the device.
 * @epoch: In: epoch that the newest server of the device must have, 0 for any;
 *   otherwise the call fails with ESTALE. Out: epoch of this server; 0 for an
 *   observer. The server that created the device has epoch 1.
 */
struct zosbd2_v2_attach {
	__u32 size;
	__u32 flags;
	__u8 name[ZOSBD2_V2_NAME_BYTES];
	__u32 handle;
	__u32 epoch;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_attach) == 48,
	      "size of zosbd2_v2_attach");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_attach, size) == 0,
	      "offset of zosbd2_v2_attach.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_attach, flags) == 4,
	      "offset of zosbd2_v2_attach.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_attach, name) == 8,
	      "offset of zosbd2_v2_attach.name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_attach, handle) == 40,
	      "offset of zosbd2_v2_attach.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_attach, epoch) == 44,
	      "offset of zosbd2_v2_attach.epoch");

/**
 * struct zosbd2_v2_destroy - Argument of ZOSBD2_V2_IOCTL_DESTROY. A name can be
 * used again after its device is gone: handle and epoch identify the device
 * that is meant.
 * @size: Bytes of this argument.
 * @flags: DESTROY_ flags. Without force the call fails with EBUSY while the
 *   block node is open.
 * @name: Name of the device.
 * @handle: Handle that the device must have, 0 for any; otherwise the call
 *   fails with ESTALE. struct zosbd2_v2_create, struct zosbd2_v2_status and
 *   struct zosbd2_v2_list_entry report it.
 * @epoch: Epoch that the newest server of the device must have, 0 for any;
 *   otherwise the call fails with ESTALE. struct zosbd2_v2_status reports it.
 *   It protects a device that another server has attached to in the meantime.
 */
struct zosbd2_v2_destroy {
	__u32 size;
	__u32 flags;
	__u8 name[ZOSBD2_V2_NAME_BYTES];
	__u32 handle;
	__u32 epoch;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_destroy) == 48,
	      "size of zosbd2_v2_destroy");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_destroy, size) == 0,
	      "offset of zosbd2_v2_destroy.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_destroy, flags) == 4,
	      "offset of zosbd2_v2_destroy.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_destroy, name) == 8,
	      "offset of zosbd2_v2_destroy.name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_destroy, handle) == 40,
	      "offset of zosbd2_v2_destroy.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_destroy, epoch) == 44,
	      "offset of zosbd2_v2_destroy.epoch");

/**
 * struct zosbd2_v2_list - Argument of ZOSBD2_V2_IOCTL_LIST.
 * @size: Bytes of this argument.
 * @flags: Must be 0.
 * @entries: Address of an array of struct zosbd2_v2_list_entry.
 * @capacity: Entries that fit into the array.
 * @count: Out: entries written, in the order of creation.
 * @total: Out: number of existing devices.
 * @reserved: Must be 0.
 */
struct zosbd2_v2_list {
	__u32 size;
	__u32 flags;
	__aligned_u64 entries;
	__u32 capacity;
	__u32 count;
	__u32 total;
	__u32 reserved;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_list) == 32,
	      "size of zosbd2_v2_list");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list, size) == 0,
	      "offset of zosbd2_v2_list.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list, flags) == 4,
	      "offset of zosbd2_v2_list.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list, entries) == 8,
	      "offset of zosbd2_v2_list.entries");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list, capacity) == 16,
	      "offset of zosbd2_v2_list.capacity");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list, count) == 20,
	      "offset of zosbd2_v2_list.count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list, total) == 24,
	      "offset of zosbd2_v2_list.total");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list, reserved) == 28,
	      "offset of zosbd2_v2_list.reserved");

/**
 * struct zosbd2_v2_list_entry - One device in a struct zosbd2_v2_list.
 * @handle: Handle of the device.
 * @version: Interface version of the device: 1 or 2.
 * @name: Name of the device.
 */
struct zosbd2_v2_list_entry {
	__u32 handle;
	__u32 version;
	__u8 name[ZOSBD2_V2_NAME_BYTES];
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_list_entry) == 40,
	      "size of zosbd2_v2_list_entry");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list_entry, handle) == 0,
	      "offset of zosbd2_v2_list_entry.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list_entry, version) == 4,
	      "offset of zosbd2_v2_list_entry.version");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_list_entry, name) == 8,
	      "offset of zosbd2_v2_list_entry.name");

/**
 * struct zosbd2_v2_status - Argument of ZOSBD2_V2_IOCTL_STATUS.
 * @size: Bytes of this argument.
 * @flags: Must be 0.
 * @name: In and out: name of the device.
 * @serial: Out: as in struct zosbd2_v2_create.
 * @size_bytes: Out: current size in bytes.
 * @logical_block_size: Out: as in struct zosbd2_v2_create, with 0 replaced by
 *   its meaning. So are the following fields.
 * @physical_block_size: Out: as in struct zosbd2_v2_create.
 * @io_min: Out: as in struct zosbd2_v2_create.
 * @io_opt: Out: as in struct zosbd2_v2_create.
 * @max_io_bytes: Out: as in struct zosbd2_v2_create.
 * @queues: Out: as in struct zosbd2_v2_create.
 * @depth: Out: as in struct zosbd2_v2_create.
 * @discard_granularity: Out: as in struct zosbd2_v2_create.
 * @max_discard_bytes: Out: as in struct zosbd2_v2_create.
 * @max_write_zeroes_bytes: Out: as in struct zosbd2_v2_create.
 * @max_secure_erase_bytes: Out: as in struct zosbd2_v2_create.
 * @deadline_ms: Out: as in struct zosbd2_v2_create.
 * @grace_ms: Out: as in struct zosbd2_v2_create.
 * @handle: Out: handle of the device.
 * @create_flags: Out: the CREATE_ flags of the device.
 * @state: Out: one of the STATE_ numbers.
 * @epoch: Out: on a server's descriptor, the epoch of this server; otherwise
 *   that of the newest server; 0 if no server ever attached (version 1).
 * @servers: Out: number of open servers, including superseded ones.
 * @owner_uid: Out: user ID of the process that created the device.
 * @version: Out: interface version of the device: 1 or 2.
 * @major: Out: major device number of the block node; 0 before START.
 * @minor: Out: minor device number of the block node; 0 before START.
 * @deadline_policy: Out: as in struct zosbd2_v2_create.
 * @lost: Out: 1 if the next flush will fail because answered writes were lost
 *   with a server's cache, else 0.
 * @pid: Out: the serving process, in the PID namespace of the caller: the
 *   process of the newest server that called ENTER last, or that attached if
 *   none did. 0 if the device has no server, and if that process has ended or
 *   is in another namespace.
 * @opens: Out: how often the block node and its partitions are open now; a
 *   mount counts as one.
 * @threads: Out: threads that wait for requests in ENTER now.
 * @unserved_ms: Out: for how long requests of some queue have been unserved, in
 *   milliseconds: no thread waited in or called ENTER for the queue, and
 *   requests are queued, or held by a process that has ended. The kernel looks
 *   every 2 s, so it is 0 for at least that long.
 * @program: Out: name of that process, even if it has ended, NUL padded; empty
 *   if the device has no server.
 */
struct zosbd2_v2_status {
	__u32 size;
	__u32 flags;
	__u8 name[ZOSBD2_V2_NAME_BYTES];
	__u8 serial[ZOSBD2_V2_SERIAL_BYTES];
	__aligned_u64 size_bytes;
	__u32 logical_block_size;
	__u32 physical_block_size;
	__u32 io_min;
	__u32 io_opt;
	__u32 max_io_bytes;
	__u32 queues;
	__u32 depth;
	__u32 discard_granularity;
	__u32 max_discard_bytes;
	__u32 max_write_zeroes_bytes;
	__u32 max_secure_erase_bytes;
	__u32 deadline_ms;
	__u32 grace_ms;
	__u32 handle;
	__u32 create_flags;
	__u32 state;
	__u32 epoch;
	__u32 servers;
	__u32 owner_uid;
	__u32 version;
	__u32 major;
	__u32 minor;
	__u32 deadline_policy;
	__u32 lost;
	__u32 pid;
	__u32 opens;
	__u32 threads;
	__u32 unserved_ms;
	__u8 program[ZOSBD2_V2_PROGRAM_BYTES];
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_status) == 208,
	      "size of zosbd2_v2_status");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, size) == 0,
	      "offset of zosbd2_v2_status.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, flags) == 4,
	      "offset of zosbd2_v2_status.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, name) == 8,
	      "offset of zosbd2_v2_status.name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, serial) == 40,
	      "offset of zosbd2_v2_status.serial");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, size_bytes) == 72,
	      "offset of zosbd2_v2_status.size_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, logical_block_size) == 80,
	      "offset of zosbd2_v2_status.logical_block_size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, physical_block_size) == 84,
	      "offset of zosbd2_v2_status.physical_block_size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, io_min) == 88,
	      "offset of zosbd2_v2_status.io_min");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, io_opt) == 92,
	      "offset of zosbd2_v2_status.io_opt");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, max_io_bytes) == 96,
	      "offset of zosbd2_v2_status.max_io_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, queues) == 100,
	      "offset of zosbd2_v2_status.queues");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, depth) == 104,
	      "offset of zosbd2_v2_status.depth");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, discard_granularity) == 108,
	      "offset of zosbd2_v2_status.discard_granularity");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, max_discard_bytes) == 112,
	      "offset of zosbd2_v2_status.max_discard_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, max_write_zeroes_bytes) == 116,
	      "offset of zosbd2_v2_status.max_write_zeroes_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, max_secure_erase_bytes) == 120,
	      "offset of zosbd2_v2_status.max_secure_erase_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, deadline_ms) == 124,
	      "offset of zosbd2_v2_status.deadline_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, grace_ms) == 128,
	      "offset of zosbd2_v2_status.grace_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, handle) == 132,
	      "offset of zosbd2_v2_status.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, create_flags) == 136,
	      "offset of zosbd2_v2_status.create_flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, state) == 140,
	      "offset of zosbd2_v2_status.state");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, epoch) == 144,
	      "offset of zosbd2_v2_status.epoch");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, servers) == 148,
	      "offset of zosbd2_v2_status.servers");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, owner_uid) == 152,
	      "offset of zosbd2_v2_status.owner_uid");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, version) == 156,
	      "offset of zosbd2_v2_status.version");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, major) == 160,
	      "offset of zosbd2_v2_status.major");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, minor) == 164,
	      "offset of zosbd2_v2_status.minor");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, deadline_policy) == 168,
	      "offset of zosbd2_v2_status.deadline_policy");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, lost) == 172,
	      "offset of zosbd2_v2_status.lost");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, pid) == 176,
	      "offset of zosbd2_v2_status.pid");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, opens) == 180,
	      "offset of zosbd2_v2_status.opens");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, threads) == 184,
	      "offset of zosbd2_v2_status.threads");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, unserved_ms) == 188,
	      "offset of zosbd2_v2_status.unserved_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_status, program) == 192,
	      "offset of zosbd2_v2_status.program");

/**
 * struct zosbd2_v2_settings - Argument of ZOSBD2_V2_IOCTL_SETTINGS. The flags
 * say which settings change; the fields of the others must be 0. The new grace
 * also counts for a grace that has begun. A new deadline counts for requests
 * that are sent from then on; those sent before keep theirs, or have none if
 * they were sent without one. No request is late while there is no deadline.
 * The new policy counts for all requests.
 * @size: Bytes of this argument.
 * @flags: SETTINGS_ flags.
 * @name: Name of the device.
 * @handle: Handle that the device must have; 0: any.
 * @epoch: Epoch that the device's newest server must have; 0: any.
 * @deadline_ms: New deadline, as in struct zosbd2_v2_create.
 * @deadline_policy: New policy, as in struct zosbd2_v2_create.
 * @grace_ms: New grace, as in struct zosbd2_v2_create.
 * @reserved: Must be 0.
 */
struct zosbd2_v2_settings {
	__u32 size;
	__u32 flags;
	__u8 name[ZOSBD2_V2_NAME_BYTES];
	__u32 handle;
	__u32 epoch;
	__u32 deadline_ms;
	__u32 deadline_policy;
	__u32 grace_ms;
	__u32 reserved;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_settings) == 64,
	      "size of zosbd2_v2_settings");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, size) == 0,
	      "offset of zosbd2_v2_settings.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, flags) == 4,
	      "offset of zosbd2_v2_settings.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, name) == 8,
	      "offset of zosbd2_v2_settings.name");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, handle) == 40,
	      "offset of zosbd2_v2_settings.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, epoch) == 44,
	      "offset of zosbd2_v2_settings.epoch");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, deadline_ms) == 48,
	      "offset of zosbd2_v2_settings.deadline_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, deadline_policy) == 52,
	      "offset of zosbd2_v2_settings.deadline_policy");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, grace_ms) == 56,
	      "offset of zosbd2_v2_settings.grace_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_settings, reserved) == 60,
	      "offset of zosbd2_v2_settings.reserved");

/**
 * struct zosbd2_v2_start - Argument of ZOSBD2_V2_IOCTL_START.
 * @size: Bytes of this argument.
 * @flags: Must be 0.
 */
struct zosbd2_v2_start {
	__u32 size;
	__u32 flags;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_start) == 8,
	      "size of zosbd2_v2_start");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_start, size) == 0,
	      "offset of zosbd2_v2_start.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_start, flags) == 4,
	      "offset of zosbd2_v2_start.flags");

/**
 * struct zosbd2_v2_claim - Argument of ZOSBD2_V2_IOCTL_CLAIM. The newest server
 * may claim until its first fetch, which is the first ENTER whose capacity is
 * not 0; afterwards the call fails with EALREADY. A server often knows only
 * after ATTACH what it has: until its first fetch the server before it may
 * still answer requests, flushes among them.
 * @size: Bytes of this argument.
 * @flags: CLAIM_ flags, at least one.
 */
struct zosbd2_v2_claim {
	__u32 size;
	__u32 flags;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_claim) == 8,
	      "size of zosbd2_v2_claim");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_claim, size) == 0,
	      "offset of zosbd2_v2_claim.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_claim, flags) == 4,
	      "offset of zosbd2_v2_claim.flags");

/**
 * struct zosbd2_v2_resize - Argument of ZOSBD2_V2_IOCTL_RESIZE. Requests
 * submitted before the call may reach beyond the new end.
 * @size: Bytes of this argument.
 * @flags: Must be 0.
 * @size_bytes: New size, as in struct zosbd2_v2_create.
 */
struct zosbd2_v2_resize {
	__u32 size;
	__u32 flags;
	__aligned_u64 size_bytes;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_resize) == 16,
	      "size of zosbd2_v2_resize");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_resize, size) == 0,
	      "offset of zosbd2_v2_resize.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_resize, flags) == 4,
	      "offset of zosbd2_v2_resize.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_resize, size_bytes) == 8,
	      "offset of zosbd2_v2_resize.size_bytes");

/**
 * struct zosbd2_v2_stats - Argument of ZOSBD2_V2_IOCTL_STATS. Counters start at
 * the creation of the device and wrap at 64 bits.
 * @size: Bytes of this argument.
 * @flags: Must be 0.
 * @queue: In: number of the queue.
 * @queued: Out: requests that wait in the queue.
 * @held: Out: requests that a server holds.
 * @waiting: Out: threads that sleep and wait for requests.
 * @fetched: Out: requests fetched, by operation.
 * @committed: Out: requests that succeeded, by operation.
 * @read_bytes: Out: bytes of successful reads.
 * @written_bytes: Out: bytes of successful writes.
 * @failed: Out: requests that a server failed.
 * @expired: Out: requests that passed their deadline.
 * @requeued: Out: requests returned to the queue from a server that died or was
 *   late.
 * @stale: Out: commits refused with ESTALE.
 * @wakeups: Out: wake-ups of sleeping threads.
 * @sleeps: Out: calls of ZOSBD2_V2_IOCTL_ENTER that slept.
 * @lost_flushes: Out: flushes that a server carried out, but that failed
 *   because earlier writes were lost with a server's cache.
 */
struct zosbd2_v2_stats {
	__u32 size;
	__u32 flags;
	__u32 queue;
	__u32 queued;
	__u32 held;
	__u32 waiting;
	__aligned_u64 fetched[ZOSBD2_V2_OPERATIONS];
	__aligned_u64 committed[ZOSBD2_V2_OPERATIONS];
	__aligned_u64 read_bytes;
	__aligned_u64 written_bytes;
	__aligned_u64 failed;
	__aligned_u64 expired;
	__aligned_u64 requeued;
	__aligned_u64 stale;
	__aligned_u64 wakeups;
	__aligned_u64 sleeps;
	__aligned_u64 lost_flushes;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_stats) == 192,
	      "size of zosbd2_v2_stats");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, size) == 0,
	      "offset of zosbd2_v2_stats.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, flags) == 4,
	      "offset of zosbd2_v2_stats.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, queue) == 8,
	      "offset of zosbd2_v2_stats.queue");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, queued) == 12,
	      "offset of zosbd2_v2_stats.queued");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, held) == 16,
	      "offset of zosbd2_v2_stats.held");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, waiting) == 20,
	      "offset of zosbd2_v2_stats.waiting");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, fetched) == 24,
	      "offset of zosbd2_v2_stats.fetched");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, committed) == 72,
	      "offset of zosbd2_v2_stats.committed");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, read_bytes) == 120,
	      "offset of zosbd2_v2_stats.read_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, written_bytes) == 128,
	      "offset of zosbd2_v2_stats.written_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, failed) == 136,
	      "offset of zosbd2_v2_stats.failed");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, expired) == 144,
	      "offset of zosbd2_v2_stats.expired");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, requeued) == 152,
	      "offset of zosbd2_v2_stats.requeued");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, stale) == 160,
	      "offset of zosbd2_v2_stats.stale");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, wakeups) == 168,
	      "offset of zosbd2_v2_stats.wakeups");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, sleeps) == 176,
	      "offset of zosbd2_v2_stats.sleeps");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_stats, lost_flushes) == 184,
	      "offset of zosbd2_v2_stats.lost_flushes");

/**
 * struct zosbd2_v2_latency - Argument of ZOSBD2_V2_IOCTL_LATENCY. An accepted
 * answer counts its request once in each histogram. Bucket 0 counts times below
 * 1024 ns. Bucket n counts times from 2^(9 + n) to below 2^(10 + n) ns; the
 * last bucket also counts all longer times. Counts start at the creation of the
 * device and wrap at 64 bits.
 * @size: Bytes of this argument.
 * @flags: Must be 0.
 * @queue: In: number of the queue.
 * @reserved: Must be 0.
 * @waiting: Out: time from the submission to the fetch by the server that
 *   answered.
 * @serving: Out: time from that fetch to the answer.
 * @total: Out: time from the submission to the answer.
 */
struct zosbd2_v2_latency {
	__u32 size;
	__u32 flags;
	__u32 queue;
	__u32 reserved;
	__aligned_u64 waiting[ZOSBD2_V2_LATENCY_BUCKETS];
	__aligned_u64 serving[ZOSBD2_V2_LATENCY_BUCKETS];
	__aligned_u64 total[ZOSBD2_V2_LATENCY_BUCKETS];
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_latency) == 784,
	      "size of zosbd2_v2_latency");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_latency, size) == 0,
	      "offset of zosbd2_v2_latency.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_latency, flags) == 4,
	      "offset of zosbd2_v2_latency.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_latency, queue) == 8,
	      "offset of zosbd2_v2_latency.queue");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_latency, reserved) == 12,
	      "offset of zosbd2_v2_latency.reserved");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_latency, waiting) == 16,
	      "offset of zosbd2_v2_latency.waiting");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_latency, serving) == 272,
	      "offset of zosbd2_v2_latency.serving");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_latency, total) == 528,
	      "offset of zosbd2_v2_latency.total");

/**
 * struct zosbd2_v2_requests - Argument of ZOSBD2_V2_IOCTL_REQUESTS. The kernel
 * makes the list in several steps; requests may come and go in between.
 * @size: Bytes of this argument.
 * @flags: Must be 0.
 * @queue: In: number of the queue.
 * @age_ms: In: list only requests submitted at least this long ago, in
 *   milliseconds.
 * @entries: Address of an array of struct zosbd2_v2_outstanding.
 * @capacity: Entries that fit into the array.
 * @count: Out: entries written, in the order of their tags.
 * @total: Out: number of unanswered requests of that age.
 * @reserved: Must be 0.
 */
struct zosbd2_v2_requests {
	__u32 size;
	__u32 flags;
	__u32 queue;
	__u32 age_ms;
	__aligned_u64 entries;
	__u32 capacity;
	__u32 count;
	__u32 total;
	__u32 reserved;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_requests) == 40,
	      "size of zosbd2_v2_requests");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, size) == 0,
	      "offset of zosbd2_v2_requests.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, flags) == 4,
	      "offset of zosbd2_v2_requests.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, queue) == 8,
	      "offset of zosbd2_v2_requests.queue");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, age_ms) == 12,
	      "offset of zosbd2_v2_requests.age_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, entries) == 16,
	      "offset of zosbd2_v2_requests.entries");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, capacity) == 24,
	      "offset of zosbd2_v2_requests.capacity");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, count) == 28,
	      "offset of zosbd2_v2_requests.count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, total) == 32,
	      "offset of zosbd2_v2_requests.total");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_requests, reserved) == 36,
	      "offset of zosbd2_v2_requests.reserved");

/**
 * struct zosbd2_v2_outstanding - An unanswered request, as
 * ZOSBD2_V2_IOCTL_REQUESTS lists it.
 * @offset: First byte on the device.
 * @length: Length in bytes; 0 for a flush.
 * @age_ns: Nanoseconds since the submission.
 * @held_ns: Nanoseconds since the fetch; 0 if no server holds the request.
 * @op: One of the OP_ numbers.
 * @flags: ZOSBD2_V2_REQUEST_FUA, ZOSBD2_V2_REQUEST_NO_UNMAP,
 *   ZOSBD2_V2_REQUEST_MAYBE_EXECUTED.
 * @state: ZOSBD2_V2_OUTSTANDING_QUEUED, ZOSBD2_V2_OUTSTANDING_HELD,
 *   ZOSBD2_V2_OUTSTANDING_COPYING or ZOSBD2_V2_OUTSTANDING_DOOMED.
 * @tag: Tag: identifies the request among the unanswered requests of its queue.
 * @epoch: Epoch of the server that holds the request; 0 if none does.
 * @thread: Thread that fetched the request, in the initial PID namespace; 0 if
 *   no server holds the request.
 */
struct zosbd2_v2_outstanding {
	__aligned_u64 offset;
	__aligned_u64 length;
	__aligned_u64 age_ns;
	__aligned_u64 held_ns;
	__u32 op;
	__u32 flags;
	__u32 state;
	__u32 tag;
	__u32 epoch;
	__u32 thread;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_outstanding) == 56,
	      "size of zosbd2_v2_outstanding");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, offset) == 0,
	      "offset of zosbd2_v2_outstanding.offset");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, length) == 8,
	      "offset of zosbd2_v2_outstanding.length");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, age_ns) == 16,
	      "offset of zosbd2_v2_outstanding.age_ns");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, held_ns) == 24,
	      "offset of zosbd2_v2_outstanding.held_ns");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, op) == 32,
	      "offset of zosbd2_v2_outstanding.op");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, flags) == 36,
	      "offset of zosbd2_v2_outstanding.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, state) == 40,
	      "offset of zosbd2_v2_outstanding.state");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, tag) == 44,
	      "offset of zosbd2_v2_outstanding.tag");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, epoch) == 48,
	      "offset of zosbd2_v2_outstanding.epoch");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_outstanding, thread) == 52,
	      "offset of zosbd2_v2_outstanding.thread");

/**
 * struct zosbd2_v2_blob - Argument of ZOSBD2_V2_IOCTL_BLOB. The kernel keeps
 * the blob for the servers of a device, as long as the device exists, and does
 * not interpret it. A server may store there where its journal is, for example.
 * @size: Bytes of this argument.
 * @flags: BLOB_ flags.
 * @length: Used bytes of bytes, at most ZOSBD2_V2_BLOB_BYTES: in with
 *   ZOSBD2_V2_BLOB_WRITE, otherwise out.
 * @reserved: Must be 0.
 * @bytes: The blob: length bytes, then zeros.
 */
struct zosbd2_v2_blob {
	__u32 size;
	__u32 flags;
	__u32 length;
	__u32 reserved;
	__u8 bytes[ZOSBD2_V2_BLOB_BYTES];
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_blob) == 272,
	      "size of zosbd2_v2_blob");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_blob, size) == 0,
	      "offset of zosbd2_v2_blob.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_blob, flags) == 4,
	      "offset of zosbd2_v2_blob.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_blob, length) == 8,
	      "offset of zosbd2_v2_blob.length");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_blob, reserved) == 12,
	      "offset of zosbd2_v2_blob.reserved");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_blob, bytes) == 16,
	      "offset of zosbd2_v2_blob.bytes");

/**
 * struct zosbd2_v2_enter - Argument of ZOSBD2_V2_IOCTL_ENTER.
 *
 * First the kernel carries out the commits, each independently of the others. A
 * refused commit gets its status and leaves its request unchanged. Then the
 * kernel fetches up to capacity requests from the queue, and waits until there
 * are minimum.
 *
 * The call returns fewer than minimum requests when a commit was refused, when
 * the time limit has passed, or when a signal arrives after something was
 * committed or fetched. The call fails only if it fetched nothing: EINTR for a
 * signal if it committed nothing either, ENODEV if the device is gone,
 * ESHUTDOWN if another server has taken over, and EFAULT if an array cannot be
 * accessed. processed and refused are valid even then, unless the argument
 * itself cannot be written.
 *
 * The elements of the two arrays state their sizes, too, so that both can grow.
 * A size below that of the first version fails with EINVAL, one above
 * ZOSBD2_V2_MAX_ELEMENT_BYTES with E2BIG.
 *
 * The data of a write comes with it if there is room: either in an arena, where
 * the data of several writes follow each other, or in a buffer of its own.
 * After the call the fetched requests name the memory that has their data; the
 * rest of the arena, and all buffers that no request names, have undefined
 * contents.
 * @size: Bytes of this argument.
 * @flags: ENTER_ flags.
 * @commits: Address of an array of struct zosbd2_v2_commit.
 * @requests: Address of an array of struct zosbd2_v2_request.
 * @arena: Address of the arena: memory for the data of writes. 0: no arena;
 *   without buffers, the commit of a write says where its data goes.
 * @arena_bytes: Bytes of the arena. A write that does not fit into the free
 *   rest comes without its data.
 * @buffers: Address of an array of struct zosbd2_v2_iovec: buffers for the data
 *   of one write each. A write gets the next unused buffer if its data fits.
 *   Otherwise it comes without its data, and the buffer stays unused.
 * @commit_count: Entries of commits, at most ZOSBD2_V2_MAX_BATCH.
 * @commit_bytes: Bytes of one entry of commits. If the bytes of an entry that
 *   the kernel does not know are not zero, the kernel refuses that commit with
 *   -E2BIG.
 * @capacity: Entries of requests, at most ZOSBD2_V2_MAX_BATCH; 0: fetch
 *   nothing.
 * @request_bytes: Bytes of one entry of requests. The kernel zeroes the bytes
 *   that it does not know.
 * @buffer_count: Entries of buffers, at most ZOSBD2_V2_MAX_BATCH; 0 if there is
 *   an arena.
 * @queue: Queue to fetch from. The commits may belong to any queue.
 * @minimum: Requests to wait for, at most capacity; 0: do not wait.
 * @spin_us: Time to poll before sleeping, in microseconds, at most
 *   ZOSBD2_V2_MAX_SPIN_US.
 * @timeout_ms: With ZOSBD2_V2_ENTER_TIMEOUT: longest wait, in milliseconds.
 * @processed: Out: number of commits, from the first on, that were carried out
 *   or refused.
 * @refused: Out: number of commits that were refused.
 * @fetched: Out: number of requests fetched.
 */
struct zosbd2_v2_enter {
	__u32 size;
	__u32 flags;
	__aligned_u64 commits;
	__aligned_u64 requests;
	__aligned_u64 arena;
	__aligned_u64 arena_bytes;
	__aligned_u64 buffers;
	__u32 commit_count;
	__u32 commit_bytes;
	__u32 capacity;
	__u32 request_bytes;
	__u32 buffer_count;
	__u32 queue;
	__u32 minimum;
	__u32 spin_us;
	__u32 timeout_ms;
	__u32 processed;
	__u32 refused;
	__u32 fetched;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_enter) == 96,
	      "size of zosbd2_v2_enter");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, size) == 0,
	      "offset of zosbd2_v2_enter.size");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, flags) == 4,
	      "offset of zosbd2_v2_enter.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, commits) == 8,
	      "offset of zosbd2_v2_enter.commits");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, requests) == 16,
	      "offset of zosbd2_v2_enter.requests");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, arena) == 24,
	      "offset of zosbd2_v2_enter.arena");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, arena_bytes) == 32,
	      "offset of zosbd2_v2_enter.arena_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, buffers) == 40,
	      "offset of zosbd2_v2_enter.buffers");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, commit_count) == 48,
	      "offset of zosbd2_v2_enter.commit_count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, commit_bytes) == 52,
	      "offset of zosbd2_v2_enter.commit_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, capacity) == 56,
	      "offset of zosbd2_v2_enter.capacity");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, request_bytes) == 60,
	      "offset of zosbd2_v2_enter.request_bytes");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, buffer_count) == 64,
	      "offset of zosbd2_v2_enter.buffer_count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, queue) == 68,
	      "offset of zosbd2_v2_enter.queue");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, minimum) == 72,
	      "offset of zosbd2_v2_enter.minimum");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, spin_us) == 76,
	      "offset of zosbd2_v2_enter.spin_us");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, timeout_ms) == 80,
	      "offset of zosbd2_v2_enter.timeout_ms");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, processed) == 84,
	      "offset of zosbd2_v2_enter.processed");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, refused) == 88,
	      "offset of zosbd2_v2_enter.refused");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_enter, fetched) == 92,
	      "offset of zosbd2_v2_enter.fetched");

/**
 * struct zosbd2_v2_commit - An answer to one request.
 * @handle: Handle of the request.
 * @result: Number of bytes done, or a negative errno (-4095 to -1) to fail the
 *   request. A number below the length of the request fails the request, except
 *   for a read with ZOSBD2_V2_COMMIT_ZERO_FILL. A flush uses 0.
 * @address: Read: address of the data. Write: address to copy the data to, or 0
 *   to copy nothing. Other operations: 0.
 * @iovec_count: With ZOSBD2_V2_COMMIT_IOVEC: number of entries in the array at
 *   address, 1 to ZOSBD2_V2_MAX_IOVECS. Otherwise 0.
 * @flags: COMMIT_ flags.
 * @status: In: 0. Out: written only if the commit is refused. -ESTALE: this
 *   server holds no request of that handle. -EFAULT: the memory cannot be
 *   accessed. -EINVAL: the commit does not suit the request. -E2BIG: the kernel
 *   does not know a part of the commit that is not zero.
 * @reserved: Must be 0.
 */
struct zosbd2_v2_commit {
	__aligned_u64 handle;
	__s64 result;
	__aligned_u64 address;
	__u32 iovec_count;
	__u32 flags;
	__s32 status;
	__u32 reserved;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_commit) == 40,
	      "size of zosbd2_v2_commit");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_commit, handle) == 0,
	      "offset of zosbd2_v2_commit.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_commit, result) == 8,
	      "offset of zosbd2_v2_commit.result");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_commit, address) == 16,
	      "offset of zosbd2_v2_commit.address");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_commit, iovec_count) == 24,
	      "offset of zosbd2_v2_commit.iovec_count");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_commit, flags) == 28,
	      "offset of zosbd2_v2_commit.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_commit, status) == 32,
	      "offset of zosbd2_v2_commit.status");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_commit, reserved) == 36,
	      "offset of zosbd2_v2_commit.reserved");

/**
 * struct zosbd2_v2_iovec - A piece of memory for the data of a commit, or a
 * buffer for the data of a write.
 * @address: Address.
 * @length: Length in bytes.
 */
struct zosbd2_v2_iovec {
	__aligned_u64 address;
	__aligned_u64 length;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_iovec) == 16,
	      "size of zosbd2_v2_iovec");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_iovec, address) == 0,
	      "offset of zosbd2_v2_iovec.address");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_iovec, length) == 8,
	      "offset of zosbd2_v2_iovec.length");

/**
 * struct zosbd2_v2_request - A request that ENTER fetched.
 * @handle: Identifies the request in commits until one commit is accepted.
 *   Servers do not interpret its bits.
 * @offset: First byte on the device.
 * @length: Length in bytes; 0 for a flush.
 * @data: With ZOSBD2_V2_REQUEST_DATA: offset of the data in the arena, or
 *   number of the buffer that has it.
 * @op: One of the OP_ numbers.
 * @flags: REQUEST_ flags.
 * @queue: Queue of the request.
 * @reserved: Must be 0.
 */
struct zosbd2_v2_request {
	__aligned_u64 handle;
	__aligned_u64 offset;
	__aligned_u64 length;
	__aligned_u64 data;
	__u32 op;
	__u32 flags;
	__u32 queue;
	__u32 reserved;
};

ZOSBD2_ASSERT(sizeof(struct zosbd2_v2_request) == 48,
	      "size of zosbd2_v2_request");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_request, handle) == 0,
	      "offset of zosbd2_v2_request.handle");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_request, offset) == 8,
	      "offset of zosbd2_v2_request.offset");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_request, length) == 16,
	      "offset of zosbd2_v2_request.length");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_request, data) == 24,
	      "offset of zosbd2_v2_request.data");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_request, op) == 32,
	      "offset of zosbd2_v2_request.op");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_request, flags) == 36,
	      "offset of zosbd2_v2_request.flags");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_request, queue) == 40,
	      "offset of zosbd2_v2_request.queue");
ZOSBD2_ASSERT(__builtin_offsetof(struct zosbd2_v2_request, reserved) == 44,
	      "offset of zosbd2_v2_request.reserved");

#undef ZOSBD2_ASSERT

#endif /* ZOSBD2_H */

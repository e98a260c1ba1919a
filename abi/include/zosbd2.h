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
 * Bytes of a name field; at most ZOSBD2_V1_NAME_BYTES - 1 are used and the last
 * one is forced to NUL.
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

/* Largest accepted batch_queue; the field has no effect. */
#define ZOSBD2_V1_MAX_BATCH_QUEUE 256U

/*
 * Bytes of the data area: the most data that one read or write request moves.
 */
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
 * @force: 0: refuse with EBUSY while the block node is open. Otherwise: destroy
 *   whoever has it open.
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

#undef ZOSBD2_ASSERT

#endif /* ZOSBD2_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints for the life of each request; docs/recovery.md defines the terms.
 * The fields are a stable interface: names and meanings stay, and new fields are
 * added at the end.
 *
 * zosbd2_queue, _fetch, _requeue and _timeout are written with the queue's lock
 * held, _commit and _end before the block request is ended. So the events of one
 * tag are in the order in which they happened.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM zosbd2

#if !defined(ZOSBD2_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define ZOSBD2_TRACE_H

#include <linux/tracepoint.h>

#include "zosbd2.h"

/* A request was submitted. Offset and length are in bytes. */
TRACE_EVENT(zosbd2_queue,
	    TP_PROTO(const struct zosbd2_queue *queue, u32 tag, u32 op, u32 flags, u64 offset,
		     u32 length),
	    TP_ARGS(queue, tag, op, flags, offset, length),
	    TP_STRUCT__entry(__field(u32, device)
			     __field(u32, queue)
			     __field(u32, tag)
			     __field(u32, op)
			     __field(u32, flags)
			     __field(u32, length)
			     __field(u64, offset)),
	    TP_fast_assign(__entry->device = queue->device->handle;
			   __entry->queue = queue->index;
			   __entry->tag = tag;
			   __entry->op = op;
			   __entry->flags = flags;
			   __entry->length = length;
			   __entry->offset = offset;),
	    TP_printk("device=%u queue=%u tag=%u op=%u flags=%u offset=%llu length=%u",
		      __entry->device, __entry->queue, __entry->tag, __entry->op, __entry->flags,
		      __entry->offset, __entry->length));

/* A server fetched the request: a tenure begins. */
TRACE_EVENT(zosbd2_fetch,
	    TP_PROTO(const struct zosbd2_queue *queue, u32 tag, u32 generation, u32 epoch),
	    TP_ARGS(queue, tag, generation, epoch),
	    TP_STRUCT__entry(__field(u32, device)
			     __field(u32, queue)
			     __field(u32, tag)
			     __field(u32, generation)
			     __field(u32, epoch)),
	    TP_fast_assign(__entry->device = queue->device->handle;
			   __entry->queue = queue->index;
			   __entry->tag = tag;
			   __entry->generation = generation;
			   __entry->epoch = epoch;),
	    TP_printk("device=%u queue=%u tag=%u generation=%u epoch=%u", __entry->device,
		      __entry->queue, __entry->tag, __entry->generation, __entry->epoch));

/* An answer to a tenure. Status 0: accepted, the request ends. Else: refused. */
TRACE_EVENT(zosbd2_commit,
	    TP_PROTO(const struct zosbd2_queue *queue, u32 tag, u32 generation, u32 epoch,
		     int status),
	    TP_ARGS(queue, tag, generation, epoch, status),
	    TP_STRUCT__entry(__field(u32, device)
			     __field(u32, queue)
			     __field(u32, tag)
			     __field(u32, generation)
			     __field(u32, epoch)
			     __field(int, status)),
	    TP_fast_assign(__entry->device = queue->device->handle;
			   __entry->queue = queue->index;
			   __entry->tag = tag;
			   __entry->generation = generation;
			   __entry->epoch = epoch;
			   __entry->status = status;),
	    TP_printk("device=%u queue=%u tag=%u generation=%u epoch=%u status=%d",
		      __entry->device, __entry->queue, __entry->tag, __entry->generation,
		      __entry->epoch, __entry->status));

/* The request ended with 0 or a negative errno, which the submitter gets. */
TRACE_EVENT(zosbd2_end,
	    TP_PROTO(const struct zosbd2_queue *queue, u32 tag, int error),
	    TP_ARGS(queue, tag, error),
	    TP_STRUCT__entry(__field(u32, device)
			     __field(u32, queue)
			     __field(u32, tag)
			     __field(int, error)),
	    TP_fast_assign(__entry->device = queue->device->handle;
			   __entry->queue = queue->index;
			   __entry->tag = tag;
			   __entry->error = error;),
	    TP_printk("device=%u queue=%u tag=%u error=%d", __entry->device, __entry->queue,
		      __entry->tag, __entry->error));

/* The request returned from its server to the queue, as the oldest. */
TRACE_EVENT(zosbd2_requeue,
	    TP_PROTO(const struct zosbd2_queue *queue, u32 tag),
	    TP_ARGS(queue, tag),
	    TP_STRUCT__entry(__field(u32, device)
			     __field(u32, queue)
			     __field(u32, tag)),
	    TP_fast_assign(__entry->device = queue->device->handle;
			   __entry->queue = queue->index;
			   __entry->tag = tag;),
	    TP_printk("device=%u queue=%u tag=%u", __entry->device, __entry->queue, __entry->tag));

/*
 * The deadline of the request passed. action is of enum zosbd2_late_action;
 * after ZOSBD2_LATE_REQUEUED a zosbd2_requeue follows.
 */
TRACE_EVENT(zosbd2_timeout,
	    TP_PROTO(const struct zosbd2_queue *queue, u32 tag, u32 action),
	    TP_ARGS(queue, tag, action),
	    TP_STRUCT__entry(__field(u32, device)
			     __field(u32, queue)
			     __field(u32, tag)
			     __field(u32, action)),
	    TP_fast_assign(__entry->device = queue->device->handle;
			   __entry->queue = queue->index;
			   __entry->tag = tag;
			   __entry->action = action;),
	    TP_printk("device=%u queue=%u tag=%u action=%u", __entry->device, __entry->queue,
		      __entry->tag, __entry->action));

#endif

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>

// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tracepoints, and the functions by which Rust calls some of them. Any context.
 */
#define CREATE_TRACE_POINTS
#include "trace.h"

/* Whether any tracepoint below is enabled. */
bool zosbd2_tracing(void)
{
	return trace_zosbd2_fetch_enabled() || trace_zosbd2_commit_enabled() ||
	       trace_zosbd2_requeue_enabled();
}

void zosbd2_trace_fetch(struct zosbd2_queue *queue, u32 tag, u32 generation, u32 epoch)
{
	trace_zosbd2_fetch(queue, tag, generation, epoch);
}

void zosbd2_trace_commit(struct zosbd2_queue *queue, u32 tag, u32 generation, u32 epoch,
			 int status)
{
	trace_zosbd2_commit(queue, tag, generation, epoch, status);
}

void zosbd2_trace_requeue(struct zosbd2_queue *queue, u32 tag)
{
	trace_zosbd2_requeue(queue, tag);
}

void zosbd2_trace_timeout(struct zosbd2_queue *queue, u32 tag, u32 action)
{
	trace_zosbd2_timeout(queue, tag, action);
}

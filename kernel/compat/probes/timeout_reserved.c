// SPDX-License-Identifier: GPL-2.0-only
/* Until 6.0 the timeout handler was told whether the request had a reserved tag. */
#include <linux/blk-mq.h>

static enum blk_eh_timer_return probe_timeout(struct request *request, bool reserved)
{
	return BLK_EH_DONE;
}

const struct blk_mq_ops probe;
const struct blk_mq_ops probe = { .timeout = probe_timeout };

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Since 6.7 blk_mq_start_request() enters a request into the table that the
 * timeout code uses; before, drivers with queue_rqs() had to do that. The same
 * series removed RQF_MQ_INFLIGHT, which a header can tell.
 */
#include <linux/blk-mq.h>

#ifdef RQF_MQ_INFLIGHT
#error "the driver enters plugged requests into the table"
#endif

extern const int probe;
const int probe = 1;

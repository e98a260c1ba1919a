// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merging of requests had to be asked for by a tag set flag until 6.14, where
 * it became what every driver gets.
 */
#include <linux/blk-mq.h>

unsigned int probe(void);
unsigned int probe(void)
{
	return BLK_MQ_F_SHOULD_MERGE;
}

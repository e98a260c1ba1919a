// SPDX-License-Identifier: GPL-2.0-only
/* Compiles everywhere: tells "this kernel lacks it" from "nothing compiles". */
#include <linux/types.h>

u32 probe(void);
u32 probe(void)
{
	return 0;
}

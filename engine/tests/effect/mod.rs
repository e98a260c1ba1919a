// SPDX-License-Identifier: GPL-2.0-only
//! Effects to compare with. Only a queue can make an [`End`], so these come from separate queues.

use zosbd2_engine::Errno;
use zosbd2_engine::queue::{End, Queue, QueueState, Work};
use zosbd2_engine::request::{Request, Slot};

/// The effect that ends the request of `tag` with `result`.
pub(crate) fn end(tag: u16, result: Result<(), Errno>) -> End {
    let (mut state, mut slots) = (QueueState::default(), vec![Slot::default(); usize::from(tag) + 1]);
    let mut queue = Queue::new(&mut state, &mut slots);
    let _nobody_sleeps = queue.submit(tag, Request::default(), 0, true).expect("it is free");
    let Work::Request(fetched) = queue.fetch(0, 0) else { panic!("nothing to fetch") };
    queue.finish(fetched.handle, result).expect("it is held")
}

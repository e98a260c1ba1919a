// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells a blocking step that nobody waits for its result any more.
//!
//! A future hands its blocking steps to threads of their own. When the future is dropped, its step ends at the next look at
//! the flag, and drops what it has made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that is set once. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    /// The flag of a step whose caller waits until it ends.
    pub(super) fn never() -> Self {
        Self::default()
    }

    #[cfg(any(feature = "tokio", test))]
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocator of the unit tests, which counts the allocations of each thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    static MAPPED: &'static AtomicUsize = Box::leak(Box::default());
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static PAUSED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread so far.
pub(crate) fn counted() -> usize {
    COUNT.get()
}

/// Bytes of the buffers that this thread has mapped, without those that it has unmapped. Other threads may look, too.
pub(crate) fn mapped() -> &'static AtomicUsize {
    MAPPED.with(|mapped| *mapped)
}

/// Counts a buffer that is mapped or, with a false `more`, unmapped.
pub(crate) fn count_mapped(bytes: usize, more: bool) {
    let change = if more { bytes } else { bytes.wrapping_neg() };
    let _ = MAPPED.try_with(|mapped| mapped.fetch_add(change, Ordering::Relaxed));
}

/// Runs something whose allocations do not count, such as the fake kernel.
pub(crate) fn uncounted<T>(run: impl FnOnce() -> T) -> T {
    let before = PAUSED.replace(true);
    let result = run();
    PAUSED.set(before);
    result
}

fn count() {
    // While the thread ends, the values are gone.
    if PAUSED.try_with(Cell::get) == Ok(false) {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: everything is passed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

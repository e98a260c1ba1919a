// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies of bytes that the kernel may access at the same time.
//!
//! The kernel copies from and to a [`Region`](super::Region) when it likes, as another thread would with relaxed atomic accesses to
//! single bytes. So nobody may access these bytes with plain loads and stores, which the compiler may split, repeat, or
//! assume not to change. Here the accesses are relaxed and atomic for each byte: on x86-64 in assembly, because
//! the compiler would copy byte by byte, and elsewhere with [`AtomicU8`](std::sync::atomic::AtomicU8). Nothing is promised of the order of the bytes.

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::arch::asm;

    pub(super) unsafe fn copy(source: *const u8, target: *mut u8, length: usize) {
        // SAFETY: reads and writes the `length` bytes that the caller vouches for, whole words first, and nothing else. The
        // compiler does not see the accesses, so they may stand for relaxed atomic ones to each byte: the processor
        // tears no byte. The direction flag is clear, as Rust demands of all code.
        unsafe {
            asm!(
                "rep movsq",
                "mov rcx, {rest}",
                "rep movsb",
                rest = in(reg) length % 8,
                inout("rcx") length / 8 => _,
                inout("rsi") source => _,
                inout("rdi") target => _,
                options(nostack, preserves_flags),
            );
        }
    }

    pub(super) unsafe fn zero(target: *mut u8, length: usize) {
        // SAFETY: as above; only writes.
        unsafe {
            asm!(
                "rep stosq",
                "mov rcx, {rest}",
                "rep stosb",
                rest = in(reg) length % 8,
                inout("rcx") length / 8 => _,
                inout("rdi") target => _,
                in("rax") 0_u64,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use std::sync::atomic::{AtomicU8, Ordering};

    pub(super) unsafe fn copy(source: *const u8, target: *mut u8, length: usize) {
        for at in 0..length {
            // SAFETY: the caller vouches for both bytes, and for that all other accesses are atomic.
            let (from, to) = unsafe {
                (AtomicU8::from_ptr(source.add(at).cast_mut()), AtomicU8::from_ptr(target.add(at)))
            };
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(super) unsafe fn zero(target: *mut u8, length: usize) {
        for at in 0..length {
            // SAFETY: as above.
            unsafe { AtomicU8::from_ptr(target.add(at)) }.store(0, Ordering::Relaxed);
        }
    }
}

/// Copies bytes.
///
/// # Safety
///
/// `source` can be read and `target` written for `length` bytes, and they do not overlap. Nobody else accesses these bytes
/// meanwhile, except the kernel and this module.
#[inline]
pub(super) unsafe fn copy(source: *const u8, target: *mut u8, length: usize) {
    // SAFETY: the caller's word.
    unsafe { arch::copy(source, target, length) }
}

/// Writes zeros.
///
/// # Safety
///
/// As for [`copy`].
#[inline]
pub(super) unsafe fn zero(target: *mut u8, length: usize) {
    // SAFETY: the caller's word.
    unsafe { arch::zero(target, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_bytes_are_copied_or_zeroed() {
        let data: Vec<u8> = (1..=64).collect();
        for (at, length) in [(0, 0), (0, 1), (1, 7), (3, 8), (5, 9), (0, 64), (7, 40)] {
            let mut found = [0xaa_u8; 66];
            // SAFETY: both ranges are inside of their own arrays.
            unsafe { copy(data[at..].as_ptr(), found[1..].as_mut_ptr(), length) };
            assert_eq!(found[1..=length], data[at..at + length]);
            assert!(found[0] == 0xaa && found[length + 1..].iter().all(|byte| *byte == 0xaa));
            // SAFETY: as above.
            unsafe { zero(found[1..].as_mut_ptr(), length) };
            assert!(found[0] == 0xaa && found[1..=length].iter().all(|byte| *byte == 0));
            assert!(found[length + 1..].iter().all(|byte| *byte == 0xaa));
        }
    }
}

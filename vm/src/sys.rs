// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's time stamp counter. The only unsafe code of the host's half.

use std::time::{Duration, Instant};

/// How long the counter is observed.
const SPAN: Duration = Duration::from_millis(50);
/// Attempts to read the counter and the clock without an interruption in between.
const ATTEMPTS: usize = 50;

/// Ticks of the time stamp counter in a millisecond; `None` if this processor has none.
///
/// A guest that QEMU emulates reads this counter. While the guest boots, the guest's kernel measures the counter's speed.
/// If the host pauses QEMU meanwhile, the result is wrong by a factor of several, and so is the guest's clock until the
/// guest ends.
pub(crate) fn tsc_khz() -> Option<u32> {
    let (time, ticks) = together()?;
    std::thread::sleep(SPAN);
    let (later, more) = together()?;
    let micros = u64::try_from(later.duration_since(time).as_micros()).ok()?;
    let khz = more.checked_sub(ticks)?.checked_mul(1000)?.checked_div(micros)?;
    u32::try_from(khz).ok().filter(|khz| *khz > 0)
}

/// The clock and the counter at the same moment: of several attempts the one that took the least time.
fn together() -> Option<(Instant, u64)> {
    let mut best = None;
    for _ in 0..ATTEMPTS {
        let before = Instant::now();
        let ticks = ticks()?;
        let took = before.elapsed();
        if best.is_none_or(|(least, _, _)| took < least) {
            best = Some((took, before, ticks));
        }
    }
    best.map(|(_, time, ticks)| (time, ticks))
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::unnecessary_wraps, reason = "other processors have no such counter")]
fn ticks() -> Option<u64> {
    // SAFETY: the instruction reads a counter, which every x86-64 processor has, and changes nothing.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (Some(first), Some(second)) = (tsc_khz(), tsc_khz()) else { return };
        assert!(first.abs_diff(second) < first / 200, "{first} and {second} kHz");
    }
}

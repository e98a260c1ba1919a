// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which requests the faults hit, and what goes wrong with these requests.
//!
//! Pure, except for counters. [`Faulty`](crate::Faulty) asks the plan once for each fetched request.
//!
//! Which requests a fault hits depends only on the seed and on the number of earlier matches: the same
//! sequence of requests has the same faults.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use zosbd2::{Errno, Fetched, Operation};

/// Whether something happens before or after the backend carries out the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The backend never gets the request.
    Before,
    /// The backend carries out the request, but its result is dropped.
    After,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Delays the request by this time, or until a stop is requested. The lane does nothing meanwhile, so all
    /// requests of the same batch are late.
    Delay(Duration),
    /// Fails the request without carrying it out. An error that the block layer does not have becomes `EIO`.
    Errno(Errno),
    /// Carries out the first half, in whole logical blocks, and answers with the shorter length. The kernel
    /// turns that into `EIO` for the submitter, so a write is torn. A flush has no length and is never short.
    Short,
    /// Never answers the request. It ends with the device's deadline or with its server.
    Drop(Moment),
    /// Carries out the request and answers twice. The kernel refuses the second answer and counts it
    /// ([`Stats::stale`](zosbd2::Stats::stale)).
    Duplicate,
    /// Kills the process (`SIGKILL`) with this request, and all others that it holds, unanswered.
    Die(Moment),
}

/// Which of the matching requests a fault hits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum When {
    Always,
    Nth(u64),
    Share(f64),
}

/// One thing that goes wrong, and the requests that it is for: all, unless it is told otherwise.
///
/// As text, a fault is its operations, then an optional range, an optional choice and the action, separated by
/// colons:
/// `read:0-1M:nth=3:errno=EIO`.
///
/// | part | values |
/// |---|---|
/// | operations | `any`, or some of `read`, `write`, `discard`, `flush`, `write-zeroes`, `secure-erase`, separated by `+` |
/// | range | `FROM-TO` or `FROM-`, in bytes, or in units of 1024 with `K`, `M`, `G`, `T`, `P`, `E`; up to, not with, TO |
/// | choice | `nth=N` or `share=S` |
/// | action | `delay=TIME` (`s`, `ms`, `us`, `ns`), `errno=NAME` or its number, `short`, `drop`, `drop=after`, `duplicate`, `die`, `die=after` |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// Bit mask of [`Operation`]; 0: all.
    pub(crate) operations: u32,
    /// First byte and end of the range; an end of `u64::MAX` means no end.
    pub(crate) range: Option<(u64, u64)>,
    pub(crate) when: When,
    pub(crate) action: Action,
}

impl Fault {
    /// A fault that hits every request.
    #[must_use]
    pub const fn new(action: Action) -> Self {
        Self { operations: 0, range: None, when: When::Always, action }
    }

    /// Restricts the fault to this operation. Further calls add operations.
    #[must_use]
    pub const fn on(mut self, operation: Operation) -> Self {
        self.operations |= 1 << operation.number();
        self
    }

    /// Restricts the fault to requests that touch any of these bytes. A flush touches none.
    ///
    /// # Panics
    ///
    /// If the range is empty.
    #[must_use]
    pub fn range(mut self, bytes: impl RangeBounds<u64>) -> Self {
        let from = match bytes.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match bytes.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        assert!(from < to, "the range of the fault is empty");
        self.range = Some((from, to));
        self
    }

    /// Hits only the nth matching request, counted from 1.
    ///
    /// # Panics
    ///
    /// If `n` is 0.
    #[must_use]
    pub fn nth(mut self, number: u64) -> Self {
        assert!(number != 0, "the first request is number 1");
        self.when = When::Nth(number);
        self
    }

    /// Hits about this share of the matching requests, 0 to 1. The seed decides which ones.
    ///
    /// # Panics
    ///
    /// If `share` is not in 0 to 1.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        assert!((0.0..=1.0).contains(&share), "a share is from 0 to 1");
        self.when = When::Share(share);
        self
    }

    /// What goes wrong.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    fn matches(&self, op: u32, offset: u64, length: u64) -> bool {
        let operation = self.operations == 0 || 1_u32.checked_shl(op).unwrap_or(0) & self.operations != 0;
        let can = self.action != Action::Short || length != 0;
        let within = self
            .range
            .is_none_or(|(from, to)| length != 0 && offset < to && offset.saturating_add(length) > from);
        operation && can && within
    }
}

/// How often a fault matched, and how often it was injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Matching requests. A request that comes again, after its deadline or the death of a server, counts
    /// again.
    pub matched: u64,
    /// Requests that the fault hit.
    pub injected: u64,
}

#[derive(Debug)]
struct Planned {
    fault: Fault,
    matched: AtomicU64,
    injected: AtomicU64,
}

/// The faults of a device: a [`Layer`](zosbd2::Layer) that [`Builder::layer`](zosbd2::Builder::layer) takes. Clones
/// have the same counts, and are armed and disarmed together.
///
/// Each fault counts its matching requests independently of the other faults. If several faults hit a
/// request, their delays add up, and of the other actions only the first one happens.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    seed: u64,
    armed: Arc<AtomicBool>,
    faults: Vec<Arc<Planned>>,
}

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) delay: Duration,
    /// The action besides the delay.
    pub(crate) action: Option<Action>,
}

impl FaultPlan {
    /// A plan without faults, armed. The seed decides which requests a [`Fault::share`] hits.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, armed: Arc::new(AtomicBool::new(true)), faults: Vec::new() }
    }

    /// Adds a fault.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.faults.push(Arc::new(Planned {
            fault,
            matched: AtomicU64::new(0),
            injected: AtomicU64::new(0),
        }));
        self
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Arms or disarms the plan. While it is disarmed, nothing goes wrong and nothing is counted. A test can
    /// so make a file system first, or check the damage afterwards.
    pub fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::Release);
    }

    /// The faults in their order, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (&Fault, FaultCounts)> {
        self.faults.iter().map(|planned| {
            let [matched, injected] =
                [&planned.matched, &planned.injected].map(|count| count.load(Ordering::Relaxed));
            (&planned.fault, FaultCounts { matched, injected })
        })
    }

    /// Number of injected faults. A request counts once for each fault that hit it.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.counts().map(|(_, counts)| counts.injected).sum()
    }

    /// What goes wrong with this request. Call it once per request, because it counts.
    pub(crate) fn judge(&self, request: &Fetched) -> Verdict {
        let mut verdict = Verdict::default();
        if !self.armed.load(Ordering::Acquire) {
            return verdict;
        }
        let (op, offset, length) = (request.op(), request.offset(), request.length());
        for (index, planned) in (0..).zip(&self.faults) {
            if !planned.fault.matches(op, offset, length) {
                continue;
            }
            let number = planned.matched.fetch_add(1, Ordering::Relaxed) + 1;
            let hit = match planned.fault.when {
                When::Always => true,
                When::Nth(nth) => number == nth,
                When::Share(share) => draw(self.seed, index, number) < share,
            };
            match planned.fault.action {
                _ if !hit => continue,
                Action::Delay(time) => verdict.delay = verdict.delay.saturating_add(time),
                action if verdict.action.is_none() => verdict.action = Some(action),
                // An earlier fault has already chosen the action.
                _ => continue,
            }
            planned.injected.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(fault = %planned.fault, number, op, offset, length, "fault injected");
        }
        verdict
    }
}

/// A number from 0 to below 1 that depends on all three values.
fn draw(seed: u64, fault: u64, number: u64) -> f64 {
    let [seed, fault] = [seed, fault].map(|word| scramble(word.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    let word = scramble(seed ^ fault.rotate_left(32) ^ scramble(number));
    #[expect(clippy::cast_precision_loss, reason = "it has 53 bits")]
    let (part, whole) = ((word >> 11) as f64, (1_u64 << 53) as f64);
    part / whole
}

/// The mixing function of splitmix64.
const fn scramble(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zosbd2::Identity;
    use zosbd2::v2::abi as v2;

    fn request(op: u32, offset: u64, length: u64) -> Fetched {
        let raw = v2::Request { op, offset, length, ..v2::Request::default() };
        Identity::new().request(raw)
    }

    /// The numbers, counted from 1, of the requests that the plan hits among `count` reads of the first
    /// block.
    fn hit(plan: &FaultPlan, count: u64) -> Vec<u64> {
        let read = request(v2::OP_READ, 0, 512);
        (1..=count).filter(|_| plan.judge(&read).action.is_some()).collect()
    }

    #[test]
    fn operation_and_range_choose_requests() {
        let write = Fault::new(Action::Duplicate).on(Operation::Write);
        let both = write.on(Operation::Discard).range(4096..8192);
        let any = Fault::new(Action::Short);
        for (fault, op, offset, length, matches) in [
            (write, v2::OP_WRITE, 0, 512, true),
            (write, v2::OP_READ, 0, 512, false),
            (write, 99, 0, 512, false),
            (both, v2::OP_DISCARD, 0, 4096, false),
            (both, v2::OP_DISCARD, 0, 4608, true),
            (both, v2::OP_WRITE, 7680, 512, true),
            (both, v2::OP_WRITE, 8192, 512, false),
            (both, v2::OP_WRITE_ZEROES, 4096, 512, false),
            (any, v2::OP_SECURE_ERASE, 0, 512, true),
            (any, v2::OP_FLUSH, 0, 0, false),
            (Fault::new(Action::Duplicate), v2::OP_FLUSH, 0, 0, true),
            (Fault::new(Action::Duplicate).range(..), v2::OP_FLUSH, 0, 0, false),
            (Fault::new(Action::Duplicate).range(512..), v2::OP_READ, u64::MAX - 511, 512, true),
            (Fault::new(Action::Duplicate).range(..=512), v2::OP_READ, 512, 512, true),
        ] {
            let is = FaultPlan::new(1).with(fault).judge(&request(op, offset, length)).action.is_some();
            assert_eq!(is, matches, "{fault} on operation {op}, {length} bytes at {offset}");
        }
    }

    #[test]
    fn the_nth_that_matches_is_hit_once() {
        let plan = FaultPlan::new(7).with(Fault::new(Action::Duplicate).on(Operation::Read).nth(3));
        assert_eq!(plan.judge(&request(v2::OP_WRITE, 0, 512)), Verdict::default(), "it does not match");
        assert_eq!(hit(&plan, 10), [3]);
        let counts: Vec<_> = plan.counts().map(|(_, counts)| counts).collect();
        assert_eq!(counts, [FaultCounts { matched: 10, injected: 1 }]);
    }

    #[test]
    fn a_share_is_the_seeds() {
        let plan = |seed| FaultPlan::new(seed).with(Fault::new(Action::Duplicate).share(0.1));
        let hits = hit(&plan(1), 10_000);
        assert_eq!(hits, hit(&plan(1), 10_000), "the same seed");
        assert_ne!(hits, hit(&plan(2), 10_000), "another seed");
        assert!((900..1100).contains(&hits.len()), "{} of 10000", hits.len());
        let fault = |share| FaultPlan::new(1).with(Fault::new(Action::Duplicate).share(share));
        assert_eq!(hit(&fault(0.0), 1000), []);
        assert_eq!(hit(&fault(1.0), 1000).len(), 1000);
    }

    #[test]
    fn faults_draw_apart() {
        let share = |action| Fault::new(action).share(0.5);
        let plan = FaultPlan::new(3)
            .with(share(Action::Delay(Duration::from_millis(1))))
            .with(share(Action::Duplicate));
        let read = request(v2::OP_READ, 0, 512);
        let verdicts: Vec<_> = (0..1000).map(|_| plan.judge(&read)).collect();
        let both = |late, wrong| {
            let is =
                |verdict: &&Verdict| verdict.delay.is_zero() != late && verdict.action.is_some() == wrong;
            verdicts.iter().filter(is).count()
        };
        for (late, wrong) in [(false, false), (false, true), (true, false), (true, true)] {
            assert!((200..300).contains(&both(late, wrong)), "{late} {wrong}: {}", both(late, wrong));
        }
    }

    #[test]
    fn delays_add_up_and_the_first_of_the_rest_happens() {
        let time = Duration::from_millis(20);
        let plan = FaultPlan::new(1)
            .with(Fault::new(Action::Delay(time)))
            .with(Fault::new(Action::Errno(Errno::NOSPC)).nth(2))
            .with(Fault::new(Action::Drop(Moment::After)))
            .with(Fault::new(Action::Delay(time)).nth(1));
        let read = request(v2::OP_READ, 0, 512);
        let first = plan.judge(&read);
        assert_eq!(first, Verdict { delay: 2 * time, action: Some(Action::Drop(Moment::After)) });
        assert_eq!(plan.judge(&read), Verdict { delay: time, action: Some(Action::Errno(Errno::NOSPC)) });
        let injected: Vec<_> = plan.counts().map(|(_, counts)| counts.injected).collect();
        assert_eq!(injected, [2, 1, 1, 1], "the drop had to give way once");
        assert_eq!(plan.injected(), 5);
    }

    #[test]
    fn nothing_happens_while_it_is_not_armed() {
        let plan = FaultPlan::new(1).with(Fault::new(Action::Duplicate).nth(2));
        plan.arm(false);
        assert_eq!(hit(&plan, 5), []);
        plan.arm(true);
        assert_eq!(hit(&plan, 5), [2]);
    }

    #[test]
    #[should_panic(expected = "the range of the fault is empty")]
    fn an_empty_range_is_refused() {
        let _ = Fault::new(Action::Short).range(5..5);
    }
}

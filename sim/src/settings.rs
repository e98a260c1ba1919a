// SPDX-License-Identifier: GPL-2.0-only
//! The settings of one episode: the device, its users, and the rate of faults.

use crate::random::Random;
use zosbd2_engine::device::Policy;

/// Bytes of a block.
pub const BLOCK: u32 = 512;

/// A defect that is planted on purpose, so that the checks must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A server answers flushes without writing its cache to its disk.
    LiesAboutFlush,
    /// A server answers FUA writes that are only in its cache.
    LiesAboutFua,
    /// A server states that its predecessor's cache survived, and has lost it.
    LosesCache,
    /// A server claims the cache of its predecessor, which never fetched and did not have those before it.
    ClaimsTooMuch,
    /// The queues are not told that a server does not have the caches of those before it.
    ForgetsLoss,
    /// A server answers reads with older data.
    StaleReads,
    /// A replaced server continues to write to the disk.
    NotFenced,
    /// The block layer's request of one tag is ended twice.
    EndsTwice,
    /// The block layer's request of one tag is not ended.
    ForgetsEnd,
    /// A wake-up that the engine asked for is not carried out.
    ForgetsWake,
    /// A woken thread leaves without passing the wake-up on.
    ForgetsAnnounce,
    /// Requests of a dead server are not requeued.
    ForgetsTakeBack,
    /// Requests that could not be given to a server return in the wrong order.
    WrongOrder,
    /// A request is ended while its data is copied.
    EndsCopying,
    /// A teardown does not check on its server.
    ForgetsTick,
    /// Pollers are not woken when a copy stops and its request is queued again because its server
    /// was declared dead.
    ForgetsPollers,
    /// A flush counts as made after every loss.
    YoungFlushes,
}

impl Defect {
    /// All defects.
    pub const ALL: [Self; 17] = [
        Self::LiesAboutFlush,
        Self::LiesAboutFua,
        Self::LosesCache,
        Self::ClaimsTooMuch,
        Self::ForgetsLoss,
        Self::StaleReads,
        Self::NotFenced,
        Self::EndsTwice,
        Self::ForgetsEnd,
        Self::ForgetsWake,
        Self::ForgetsAnnounce,
        Self::ForgetsTakeBack,
        Self::WrongOrder,
        Self::EndsCopying,
        Self::ForgetsTick,
        Self::ForgetsPollers,
        Self::YoungFlushes,
    ];
}

/// The settings of an episode.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are chosen independently")]
pub struct Settings {
    /// Interface version: 1 or 2.
    pub version: u32,
    /// Queues of the device.
    pub queues: usize,
    /// Tags per queue.
    pub depth: u16,
    /// Blocks of the device.
    pub blocks: usize,
    /// Threads per server.
    pub threads: usize,
    /// Number of submitters.
    pub submitters: usize,
    /// Most requests that one submitter submits at once.
    pub batch: usize,
    /// Servers have a cache that a crash can lose.
    pub volatile: bool,
    /// Writes may carry FUA.
    pub fua: bool,
    /// What happens to late requests.
    pub policy: Policy,
    /// Deadline of a request; 0: none.
    pub deadline_ms: u32,
    /// Grace of the device.
    pub grace_ms: u32,
    /// Whether the device is destroyed when the grace ends.
    pub auto_destroy: bool,
    /// Steps before the destruction.
    pub steps: u64,
    /// One fault in this many steps, on average.
    pub faults: u64,
    /// Whether the destruction waits for the submitters.
    pub polite: bool,
}

impl Settings {
    /// Random settings.
    #[must_use]
    pub fn random(random: &mut Random) -> Self {
        let version = if random.one_in(5) { 1 } else { 2 };
        let volatile = version == 2 && !random.one_in(3);
        let policies = [Policy::Fail, Policy::Requeue, Policy::DeclareDead];
        Self {
            version,
            queues: if version == 1 { 1 } else { 1 + random.index(3) },
            depth: random.pick(&[1, 2, 3, 4, 6]),
            blocks: random.pick(&[4, 8, 16]),
            threads: 1 + random.index(4),
            submitters: 1 + random.index(5),
            batch: 1 + random.index(4),
            volatile,
            fua: volatile && random.one_in(2),
            policy: if version == 1 { Policy::Fail } else { random.pick(&policies) },
            deadline_ms: if version == 1 { 1000 } else { random.pick(&[0, 50, 500, 5000]) },
            grace_ms: random.pick(&[0, 10, 1000, 30_000]),
            auto_destroy: random.one_in(4),
            steps: 500 + random.below(3000),
            faults: random.pick(&[15, 40, 150, 1000]),
            polite: random.one_in(3),
        }
    }
}

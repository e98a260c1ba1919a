// SPDX-License-Identifier: GPL-2.0-only
//! What one episode is made of: the device, who uses it, and how much goes wrong.

use crate::random::Random;
use zosbd2_engine::device::Policy;

/// Bytes of a block.
pub const BLOCK: u32 = 512;

/// Something that is wrong on purpose, for the checks to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A server answers flushes without writing its cache to its disk.
    LiesAboutFlush,
    /// A server answers durable writes that are in its cache only.
    LiesAboutFua,
    /// A server says that the cache of the one before it survived, and has lost it.
    LosesCache,
    /// A server answers reads with what was there before.
    StaleReads,
    /// A server that was replaced goes on to write to the disk.
    NotFenced,
    /// The block layer's request of one tag is ended twice.
    EndsTwice,
    /// The block layer's request of one tag is not ended.
    ForgetsEnd,
    /// A wake-up that the engine asked for is not carried out.
    ForgetsWake,
    /// Who was woken leaves without passing the wake-up on.
    ForgetsAnnounce,
    /// What a dead server had is not taken back.
    ForgetsTakeBack,
    /// What could not be given to a server goes back in the wrong order.
    WrongOrder,
    /// A request is ended while its data is copied.
    EndsCopying,
    /// A destruction does not look after its server.
    ForgetsTick,
    /// Those who poll are not told when a copy stops and its request, whose server was declared dead meanwhile, is
    /// queued again.
    ForgetsPollers,
    /// A flush counts as old as it is, and not as those who wait for it.
    YoungFlushes,
    /// A flush counts as made when it comes to the driver.
    LateFlushes,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::LiesAboutFlush,
        Self::LiesAboutFua,
        Self::LosesCache,
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
        Self::LateFlushes,
    ];
}

/// What an episode is made of.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is chosen for itself")]
pub struct Settings {
    /// Of the interface: 1 or 2.
    pub version: u32,
    /// Queues of the device.
    pub queues: usize,
    /// Tags of each.
    pub depth: u16,
    /// Blocks of the device.
    pub blocks: usize,
    /// Threads of each server.
    pub threads: usize,
    /// Those who read and write.
    pub submitters: usize,
    /// Most requests that one of them submits at once.
    pub batch: usize,
    /// Servers have a cache that a crash may cost.
    pub volatile: bool,
    /// Writes may ask to be durable.
    pub fua: bool,
    /// What happens to requests that are late.
    pub policy: Policy,
    /// When they are; 0: never.
    pub deadline_ms: u32,
    /// How long a device waits for a server.
    pub grace_ms: u32,
    /// Whether it goes after that.
    pub auto_destroy: bool,
    /// Steps before the destruction.
    pub steps: u64,
    /// One fault in so many steps.
    pub faults: u64,
    /// Whether the destruction waits for the submitters.
    pub polite: bool,
}

impl Settings {
    /// Settings of which everything is possible.
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

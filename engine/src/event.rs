// SPDX-License-Identifier: GPL-2.0-only
//! What operators are told about a device: which events, in which order, and how often.
//!
//! [`Life`](crate::device::Life) and [`watch`](crate::watch) decide that something has happened, [`Board`] when it is told. A server
//! can cause most events at will, so after [`BURST`] events within [`PERIOD_MS`] the others wait, and a newer event
//! replaces a waiting one of the same kind. The last event of each kind is always told.

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The server has died, or was declared dead.
    Died,
    /// A server attached to a device that had none.
    Recovered,
    /// The grace has ended: all I/O fails.
    Failed,
    /// Requests passed their deadline.
    Late,
    /// Answered writes were lost with a server's cache, and the next server does not have that cache.
    CacheLost,
    /// Requests of a queue wait, and nobody serves them.
    Unserved,
    /// The destruction has begun.
    Destroyed,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Died,
        Self::Recovered,
        Self::Failed,
        Self::Late,
        Self::CacheLost,
        Self::Unserved,
        Self::Destroyed,
    ];

    /// Its number at the boundary to the shim.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// A set of kinds: what a change of the device's life has to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct News(u8);

impl News {
    /// Nothing to tell.
    pub const NONE: Self = Self(0);

    /// This set and a kind.
    pub const fn with(self, kind: Kind) -> Self {
        Self(self.0 | Self::bit(kind))
    }

    /// Whether the kind is in the set.
    #[must_use]
    pub const fn has(self, kind: Kind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    /// The kinds in the set, in the order in which they happen.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.has(*kind))
    }

    const fn bit(kind: Kind) -> u8 {
        1_u8.wrapping_shl(kind.number())
    }
}

/// Bytes of a program's name, NUL padded.
pub const PROGRAM_BYTES: usize = 16;

/// An event with its facts. Facts that an event lacks are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// Epoch of the newest server.
    pub epoch: u32,
    /// The serving process, in the first PID namespace, and its name.
    pub process: u32,
    /// See `process`.
    pub program: [u8; PROGRAM_BYTES],
    /// Number of requests concerned.
    pub requests: u32,
    /// A time in milliseconds: died, the grace; recovered, how long there was no server; failed, the grace that has
    /// ended; unserved, since when.
    pub ms: u32,
}

/// Most events of a device in one [`PERIOD_MS`].
pub const BURST: u32 = 10;
/// The period of the limit, in milliseconds.
pub const PERIOD_MS: u64 = 5_000;

/// What to do next about the events of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Nothing waits.
    Nothing,
    /// Tell this event, then ask again.
    Tell(Event),
    /// Ask again after this many milliseconds.
    Wait(u32),
}

/// The events of one device that have not been told yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Board {
    /// The newest event of each kind, with its place in the order.
    waiting: [Option<(u64, Event)>; Kind::ALL.len()],
    order: u64,
    period_began_ms: u64,
    told: u32,
}

impl Board {
    /// An empty board.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: [None; Kind::ALL.len()], order: 0, period_began_ms: 0, told: 0 }
    }

    /// Adds an event. It replaces a waiting event of the same kind.
    pub fn note(&mut self, event: Event) {
        self.order = self.order.wrapping_add(1);
        if let Some(place) = self.waiting.get_mut(event.kind as usize) {
            *place = Some((self.order, event));
        }
    }

    /// The oldest waiting event, if it may be told now. `urgent`: whatever the limit says.
    pub fn next(&mut self, now_ms: u64, urgent: bool) -> Next {
        let oldest =
            self.waiting.iter_mut().filter(|place| place.is_some()).min_by_key(|place| match place {
                Some((order, _)) => *order,
                None => u64::MAX,
            });
        let Some(place) = oldest else { return Next::Nothing };
        let passed = now_ms.saturating_sub(self.period_began_ms);
        if passed >= PERIOD_MS {
            self.period_began_ms = now_ms;
            self.told = 0;
        } else if self.told >= BURST && !urgent {
            return Next::Wait(u32::try_from(PERIOD_MS.saturating_sub(passed)).unwrap_or(u32::MAX));
        }
        self.told = self.told.saturating_add(1);
        match place.take() {
            Some((_, event)) => Next::Tell(event),
            None => Next::Nothing,
        }
    }
}

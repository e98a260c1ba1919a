// SPDX-License-Identifier: GPL-2.0-only
//! The life of a device: its servers, the grace after the last of them, its destruction.
//!
//! ```text
//!              last server closed, or dead         grace over
//!   LIVE ------------------------------> ORPHANED ------------> FAILED
//!    |  ^                                  |   |                 | |
//!    |  +----------------------------------+---)-----------------+ |
//!    |              attach                     |                   |
//!    | destroy                                 | destroy           | destroy
//!    v       server closed, or gives up        v                   |
//!   DRAINING ------------------------------> FAILING <-------------+
//!    |                                         |
//!    |               disk deleted              v
//!    +--------------------------------------> GONE
//! ```
//!
//! * LIVE: served, or not started yet. Devices of version 1, whose servers are not known, are always LIVE
//!   until they are destroyed.
//! * ORPHANED: no server; requests wait for one until the grace is over.
//! * FAILED: no server came; every request ends with `EIO` until one does. Also at once, without a grace.
//! * DRAINING: not listed, not opened any more; what is dirty is written through the server.
//! * FAILING: the server did not keep up, is gone, or never came for a request; every request ends with `EIO`, future ones too.
//! * GONE: no request exists or can come; servers are told to go.

use crate::errno::Errno;

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// In service.
    #[default]
    Live,
    /// Waiting for a server.
    Orphaned,
    /// Without a server for too long.
    Failed,
    /// Being destroyed, with its server still asked.
    Draining,
    /// Being destroyed, without its server.
    Failing,
    /// Destroyed.
    Gone,
}

impl Phase {
    /// Whether requests are queued for servers; otherwise they fail at once.
    #[must_use]
    pub const fn takes_requests(self) -> bool {
        matches!(self, Self::Live | Self::Orphaned | Self::Draining)
    }

    /// Whether the device is there to be used.
    #[must_use]
    pub const fn is_there(self) -> bool {
        matches!(self, Self::Live | Self::Orphaned | Self::Failed)
    }
}

/// Every edge of the drawing as (from, to).
pub const EDGES: &[(Phase, Phase)] = &[
    (Phase::Live, Phase::Orphaned),
    (Phase::Live, Phase::Failed),
    (Phase::Orphaned, Phase::Live),
    (Phase::Orphaned, Phase::Failed),
    (Phase::Failed, Phase::Live),
    (Phase::Live, Phase::Draining),
    (Phase::Live, Phase::Failing),
    (Phase::Orphaned, Phase::Failing),
    (Phase::Failed, Phase::Failing),
    (Phase::Draining, Phase::Failing),
    (Phase::Draining, Phase::Gone),
    (Phase::Failing, Phase::Gone),
];

/// What happens to a request that is not answered within the device's deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// It fails.
    #[default]
    Fail,
    /// It is taken from its server's thread, and another one gets it.
    Requeue,
    /// Its server is dead as far as the device goes, which then does what it does without a server.
    DeclareDead,
}

/// What a device was made with that decides about its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Its servers are known: version 2.
    pub attached: bool,
    /// How long I/O waits for a server, in milliseconds; 0: it fails.
    pub grace_ms: u32,
    /// The device goes when the grace is over.
    pub auto_destroy: bool,
}

/// What the caller must do after a change of a device's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Change {
    /// Nothing.
    None,
    /// Call [`Life::grace_over`] after so many milliseconds.
    Grace(u32),
    /// The phase became one that takes no requests: end those that are queued or held.
    Fail,
    /// As `Fail`, and destroy the device if [`Life::unwanted`] still says so then.
    Destroy,
}

/// The life of one device. Every method is called with the device's lock held; the caller passes a changed
/// [`phase`](Self::phase) on to the queues before he drops it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    phase: Phase,
    terms: Terms,
    started: bool,
    /// The newest server, and whether its descriptor is open.
    epoch: u32,
    serving: bool,
    /// Open descriptors, the newest and older ones.
    servers: u32,
    /// When the last grace that began ends.
    grace_ends_ms: u64,
    drain: Option<Drain>,
}

impl Life {
    /// A device that was just made.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        let mut life = Self {
            phase: Phase::Live,
            terms,
            started: false,
            epoch: 0,
            serving: false,
            servers: 0,
            grace_ends_ms: 0,
            drain: None,
        };
        life.serving = !terms.attached;
        life
    }

    /// Where it is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether it was started.
    #[must_use]
    pub const fn started(&self) -> bool {
        self.started
    }

    /// The newest server, 0 if there was none.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the newest server is the one that the caller means; 0: any.
    ///
    /// # Errors
    ///
    /// `ESTALE` when it is another one.
    pub const fn meant(&self, epoch: u32) -> Result<(), Errno> {
        if epoch == 0 || epoch == self.epoch { Ok(()) } else { Err(Errno::ESTALE) }
    }

    /// Open server descriptors.
    #[must_use]
    pub const fn servers(&self) -> u32 {
        self.servers
    }

    /// Whether the device is still this server's, so that it may change it.
    ///
    /// # Errors
    ///
    /// `ENODEV` when it is being destroyed, `ESHUTDOWN` when another server has taken over, or this one was declared
    /// dead.
    pub const fn may_change(&self, epoch: u32) -> Result<(), Errno> {
        if !self.phase.is_there() {
            Err(Errno::ENODEV)
        } else if epoch == self.epoch && self.serving {
            Ok(())
        } else {
            Err(Errno::ESHUTDOWN)
        }
    }

    /// Whether the device may be started, which the caller then does, and says so by
    /// [`set_started`](Self::set_started).
    ///
    /// # Errors
    ///
    /// `ENODEV` when it is being destroyed, `EALREADY` when it was started before.
    pub const fn may_start(&self) -> Result<(), Errno> {
        if !self.phase.is_there() {
            Err(Errno::ENODEV)
        } else if self.started {
            Err(Errno::EALREADY)
        } else {
            Ok(())
        }
    }

    /// The node was made.
    pub const fn set_started(&mut self) {
        self.started = true;
    }

    /// The epoch of the server that would attach now.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device is being destroyed, `EBUSY` when there is a server and it is not to be
    /// replaced, `EOVERFLOW` after 2^32 - 1 servers.
    pub const fn may_attach(&self, take_over: bool) -> Result<u32, Errno> {
        if !self.phase.is_there() {
            return Err(Errno::ENODEV);
        }
        if self.serving && !take_over {
            return Err(Errno::EBUSY);
        }
        match self.epoch.checked_add(1) {
            Some(epoch) => Ok(epoch),
            None => Err(Errno::EOVERFLOW),
        }
    }

    /// A server attaches: the requests are its from now on. Returns its epoch.
    ///
    /// # Errors
    ///
    /// As [`may_attach`](Self::may_attach).
    pub const fn attach(&mut self, take_over: bool) -> Result<u32, Errno> {
        let epoch = match self.may_attach(take_over) {
            Ok(epoch) => epoch,
            Err(errno) => return Err(errno),
        };
        self.epoch = epoch;
        self.serving = true;
        self.servers = self.servers.wrapping_add(1);
        self.phase = Phase::Live;
        Ok(epoch)
    }

    /// The last descriptor of a server was closed. The requests it held are taken back by the caller.
    pub const fn detach(&mut self, epoch: u32, now_ms: u64) -> Change {
        self.servers = self.servers.saturating_sub(1);
        self.declare_dead(epoch, now_ms)
    }

    /// The server of `epoch` counts as dead, whatever it does, and whoever came before it; its descriptor is open,
    /// or was closed just now. The requests it has are taken back by the caller.
    pub const fn declare_dead(&mut self, epoch: u32, now_ms: u64) -> Change {
        if epoch != self.epoch || !self.serving {
            return Change::None;
        }
        self.serving = false;
        match self.phase {
            // A device that was never started has no user who could wait.
            Phase::Live if self.started && self.terms.grace_ms > 0 => {
                self.phase = Phase::Orphaned;
                self.grace_ends_ms = now_ms.saturating_add(self.terms.grace_ms as u64);
                Change::Grace(self.terms.grace_ms)
            }
            Phase::Live => self.fail(),
            Phase::Draining => {
                self.phase = Phase::Failing;
                Change::Fail
            }
            Phase::Orphaned | Phase::Failed | Phase::Failing | Phase::Gone => Change::None,
        }
    }

    /// A grace that [`detach`](Self::detach) asked for is over. It may have been an earlier one than the one that the
    /// device is in now.
    pub const fn grace_over(&mut self, now_ms: u64) -> Change {
        match self.phase {
            Phase::Orphaned => {
                let left = self.grace_ends_ms.saturating_sub(now_ms);
                if left == 0 {
                    return self.fail();
                }
                // At most what the grace was, unless the clock went back.
                let most = self.terms.grace_ms as u64;
                #[expect(clippy::cast_possible_truncation, reason = "at most a u32")]
                Change::Grace((if left < most { left } else { most }) as u32)
            }
            // A server came in time.
            _ => Change::None,
        }
    }

    const fn fail(&mut self) -> Change {
        self.phase = Phase::Failed;
        if self.unwanted() { Change::Destroy } else { Change::Fail }
    }

    /// Whether nobody serves the device and it is to go in this case.
    #[must_use]
    pub const fn unwanted(&self) -> bool {
        matches!(self.phase, Phase::Failed) && (self.terms.auto_destroy || !self.started)
    }

    /// The destruction begins. `answers`: those accepted until now. `served`: a server has come for requests, and lives as
    /// far as is known; no other one is waited for.
    pub const fn drain(&mut self, now_ms: u64, answers: u64, served: bool) -> Change {
        if !self.phase.is_there() {
            return Change::None;
        }
        self.drain = Some(Drain::begin(now_ms, answers));
        if self.serving && served {
            self.phase = Phase::Draining;
            Change::None
        } else {
            // Nobody can attach any more; and who never asked for a request has had all the time until now.
            self.phase = Phase::Failing;
            Change::Fail
        }
    }

    /// Looks after a destruction; called every [`DRAIN_TICK_MS`] while DRAINING.
    pub const fn tick(&mut self, now_ms: u64, answers: u64, outstanding: u32) -> Change {
        let gives_up = match &mut self.drain {
            Some(drain) => drain.gives_up(now_ms, answers, outstanding),
            None => false,
        };
        if gives_up && matches!(self.phase, Phase::Draining) {
            self.phase = Phase::Failing;
            return Change::Fail;
        }
        Change::None
    }

    /// The disk is deleted.
    pub const fn gone(&mut self) {
        self.phase = Phase::Gone;
    }
}

/// How often a teardown looks at its server's progress, in milliseconds.
pub const DRAIN_TICK_MS: u32 = 100;
/// How long a teardown waits for the next answer while requests are outstanding, in milliseconds.
pub const DRAIN_STALL_MS: u64 = 5_000;
/// How long a teardown lets a server work in all, in milliseconds.
pub const DRAIN_TOTAL_MS: u64 = 60_000;

/// Watches over one teardown. Times are milliseconds of any monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    started_ms: u64,
    progress_ms: u64,
    answers: u64,
}

impl Drain {
    /// A teardown that begins now, with so many answers accepted until now.
    #[must_use]
    pub const fn begin(now_ms: u64, answers: u64) -> Self {
        Self { started_ms: now_ms, progress_ms: now_ms, answers }
    }

    /// Whether to stop asking the server: it owes answers and gave none for [`DRAIN_STALL_MS`], or all of it
    /// takes longer than [`DRAIN_TOTAL_MS`].
    #[must_use]
    pub const fn gives_up(&mut self, now_ms: u64, answers: u64, outstanding: u32) -> bool {
        if answers != self.answers || outstanding == 0 {
            self.answers = answers;
            self.progress_ms = now_ms;
        }
        now_ms.wrapping_sub(self.progress_ms) >= DRAIN_STALL_MS
            || now_ms.wrapping_sub(self.started_ms) >= DRAIN_TOTAL_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_never_used_again() {
        let terms = Terms { attached: true, grace_ms: 1, auto_destroy: false };
        let mut life = Life { epoch: u32::MAX - 1, ..Life::new(terms) };
        life.set_started();
        assert_eq!(life.attach(false), Ok(u32::MAX));
        let servers = life.servers();
        assert_eq!(life.attach(true), Err(Errno::EOVERFLOW));
        assert_eq!((life.phase(), life.epoch(), life.servers()), (Phase::Live, u32::MAX, servers));
        assert_eq!(life.detach(u32::MAX, 5), Change::Grace(1));
        assert_eq!(life.attach(false), Err(Errno::EOVERFLOW));
        assert_eq!((life.phase(), life.servers()), (Phase::Orphaned, 0));
        assert_eq!(life.grace_over(5), Change::Grace(1));
        assert_eq!(life.grace_over(6), Change::Fail);
    }
}

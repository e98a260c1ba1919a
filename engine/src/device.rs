// SPDX-License-Identifier: GPL-2.0-only
//! The life of a device: its servers, the grace after the last one, its destruction.
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
//! * LIVE: served, or not started yet. The servers of version 1 devices are unknown, so these devices are LIVE
//!   until they are destroyed.
//! * ORPHANED: no server; requests wait for one until the grace ends.
//! * FAILED: no server attached in time; every request ends with `EIO` until a server attaches. Without a grace
//!   the device is FAILED at once.
//! * DRAINING: the device cannot be found or opened any more; dirty data is written through the server.
//! * FAILING: the server made no progress, is gone, or never fetched; every request ends with `EIO`, later ones too.
//! * GONE: no request exists or can come; servers get the goodbye.

use crate::errno::Errno;
use crate::event::{Kind, News};

/// Phase of a device's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Served, or not started yet.
    #[default]
    Live,
    /// Waiting for a server.
    Orphaned,
    /// Without a server for too long.
    Failed,
    /// Being destroyed; the server still gets requests.
    Draining,
    /// Being destroyed; all requests fail.
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

    /// Whether the device can be used.
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

/// What happens to a request that passes the device's deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The request fails.
    #[default]
    Fail,
    /// The request returns to the queue, for another thread or server.
    Requeue,
    /// The server is declared dead, and the device behaves as if it had no server.
    DeclareDead,
}

/// Parameters of the creation that concern the device's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Servers attach: version 2.
    pub attached: bool,
    /// How long I/O waits for a server, in milliseconds; 0: I/O fails at once.
    pub grace_ms: u32,
    /// The device is destroyed when the grace ends.
    pub auto_destroy: bool,
}

/// What the caller must do after a change of the device's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Change {
    /// Nothing.
    None,
    /// Call [`Life::grace_over`] after this many milliseconds.
    Grace(u32),
    /// The new phase accepts no requests: end those that are queued or held.
    Fail,
    /// Like `Fail`, and destroy the device if [`Life::unwanted`] is still true then.
    Destroy,
}

/// What the newest server has claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Claim {
    #[default]
    Nothing,
    /// It has the caches of the servers before it.
    Cache,
    /// It has fetched, and can claim nothing any more.
    Over,
}

/// The life of one device. Every method is called with the device's lock held. The caller passes a changed
/// [`phase`](Self::phase) on to the queues before it drops the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    phase: Phase,
    terms: Terms,
    started: bool,
    /// The newest server, and whether it is attached.
    epoch: u32,
    serving: bool,
    claim: Claim,
    /// Open servers, the newest and older ones.
    servers: u32,
    /// When the newest grace began, and when it ends.
    orphaned_ms: u64,
    grace_ends_ms: u64,
    /// What operators have not been told yet.
    news: News,
    drain: Option<Drain>,
}

impl Life {
    /// A new device.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        let mut life = Self {
            phase: Phase::Live,
            terms,
            started: false,
            epoch: 0,
            serving: false,
            claim: Claim::Nothing,
            servers: 0,
            orphaned_ms: 0,
            grace_ends_ms: 0,
            news: News::NONE,
            drain: None,
        };
        life.serving = !terms.attached;
        life
    }

    /// The phase.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the device was started.
    #[must_use]
    pub const fn started(&self) -> bool {
        self.started
    }

    /// Epoch of the newest server, 0 if there was none.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Checks that the newest server is the one that the caller means; 0: any.
    ///
    /// # Errors
    ///
    /// `ESTALE` if it is another one.
    pub const fn meant(&self, epoch: u32) -> Result<(), Errno> {
        if epoch == 0 || epoch == self.epoch { Ok(()) } else { Err(Errno::ESTALE) }
    }

    /// Whether the newest server is attached.
    #[must_use]
    pub const fn serving(&self) -> bool {
        self.serving
    }

    /// How long I/O waits for a server, in milliseconds.
    #[must_use]
    pub const fn grace_ms(&self) -> u32 {
        self.terms.grace_ms
    }

    /// For how long there has been no server, in milliseconds, once it has died.
    #[must_use]
    pub const fn orphaned_for_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.orphaned_ms)
    }

    /// What operators must be told since the last call. Nothing about devices that no one could use yet, and nothing
    /// about version 1, whose servers are unknown.
    pub const fn take_news(&mut self) -> News {
        core::mem::replace(&mut self.news, News::NONE)
    }

    const fn tell(&mut self, kind: Kind) {
        if self.terms.attached && self.started {
            self.news = self.news.with(kind);
        }
    }

    /// Number of open servers.
    #[must_use]
    pub const fn servers(&self) -> u32 {
        self.servers
    }

    /// Checks that this server may change the device.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is being destroyed, `ESHUTDOWN` if another server has taken over or this one
    /// was declared dead.
    pub const fn may_change(&self, epoch: u32) -> Result<(), Errno> {
        if !self.phase.is_there() {
            Err(Errno::ENODEV)
        } else if epoch == self.epoch && self.serving {
            Ok(())
        } else {
            Err(Errno::ESHUTDOWN)
        }
    }

    /// Checks that the device may be started. The caller then starts it and calls
    /// [`set_started`](Self::set_started).
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is being destroyed, `EALREADY` if it was started before.
    pub const fn may_start(&self) -> Result<(), Errno> {
        if !self.phase.is_there() {
            Err(Errno::ENODEV)
        } else if self.started {
            Err(Errno::EALREADY)
        } else {
            Ok(())
        }
    }

    /// The node was created.
    pub const fn set_started(&mut self) {
        self.started = true;
    }

    /// The epoch of the next server to attach.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is being destroyed, `EBUSY` if it has a server and `take_over` is not set,
    /// `EOVERFLOW` after 2^32 - 1 servers.
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

    /// A server attaches and gets all requests from now on. Returns its epoch.
    ///
    /// # Errors
    ///
    /// Like [`may_attach`](Self::may_attach).
    pub const fn attach(&mut self, take_over: bool) -> Result<u32, Errno> {
        let epoch = match self.may_attach(take_over) {
            Ok(epoch) => epoch,
            Err(errno) => return Err(errno),
        };
        self.epoch = epoch;
        self.serving = true;
        self.claim = Claim::Nothing;
        self.servers = self.servers.wrapping_add(1);
        if matches!(self.phase, Phase::Orphaned | Phase::Failed) {
            self.tell(Kind::Recovered);
        }
        self.phase = Phase::Live;
        Ok(epoch)
    }

    /// The server of `epoch` has the caches of the servers before it. It may find that out after it has attached,
    /// because until its first fetch the server before it may be at work.
    ///
    /// # Errors
    ///
    /// Like [`may_change`](Self::may_change); `EALREADY` if it has fetched.
    pub const fn claim_cache(&mut self, epoch: u32) -> Result<(), Errno> {
        if let Err(errno) = self.may_change(epoch) {
            return Err(errno);
        }
        if matches!(self.claim, Claim::Over) {
            return Err(Errno::EALREADY);
        }
        self.claim = Claim::Cache;
        Ok(())
    }

    /// The server of `epoch` is about to fetch, perhaps for the first time. Returns whether the caches of the servers before
    /// it are lost now: the caller then calls [`Queue::lose_cache`](crate::queue::Queue::lose_cache) of each queue,
    /// before anything is fetched.
    #[must_use]
    pub const fn first_fetch(&mut self, epoch: u32) -> bool {
        // A server that lost the device fetches nothing, so it decides nothing.
        if epoch != self.epoch || !self.serving {
            return false;
        }
        let lost = matches!(self.claim, Claim::Nothing);
        self.claim = Claim::Over;
        lost
    }

    /// The last descriptor of a server was closed. The caller requeues the requests that the server held.
    pub const fn detach(&mut self, epoch: u32, now_ms: u64) -> Change {
        self.servers = self.servers.saturating_sub(1);
        self.declare_dead(epoch, now_ms)
    }

    /// Declares the server of `epoch`, and all earlier ones, dead. Its descriptor is open, or was just
    /// closed. The caller requeues the requests that they held.
    pub const fn declare_dead(&mut self, epoch: u32, now_ms: u64) -> Change {
        if epoch != self.epoch || !self.serving {
            return Change::None;
        }
        self.serving = false;
        if matches!(self.phase, Phase::Live | Phase::Draining) {
            self.tell(Kind::Died);
            self.orphaned_ms = now_ms;
        }
        match self.phase {
            // A device that was never started has no user that could wait.
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

    /// A grace of [`detach`](Self::detach) has ended. It may be an earlier grace than the current one.
    pub const fn grace_over(&mut self, now_ms: u64) -> Change {
        match self.phase {
            Phase::Orphaned => {
                let left = self.grace_ends_ms.saturating_sub(now_ms);
                if left == 0 {
                    return self.fail();
                }
                // At most the whole grace, unless the clock went back.
                let most = self.terms.grace_ms as u64;
                #[expect(clippy::cast_possible_truncation, reason = "at most a u32")]
                Change::Grace((if left < most { left } else { most }) as u32)
            }
            // A server attached in time.
            _ => Change::None,
        }
    }

    /// Changes the grace, the present one too, which then ends as if it had begun with this length.
    pub const fn set_grace(&mut self, grace_ms: u32, now_ms: u64) -> Change {
        self.terms.grace_ms = grace_ms;
        if matches!(self.phase, Phase::Orphaned) {
            self.grace_ends_ms = self.orphaned_ms.saturating_add(grace_ms as u64);
        }
        self.grace_over(now_ms)
    }

    const fn fail(&mut self) -> Change {
        self.phase = Phase::Failed;
        self.tell(Kind::Failed);
        if self.unwanted() { Change::Destroy } else { Change::Fail }
    }

    /// Whether the device has no server and was created with auto-destroy for that case.
    #[must_use]
    pub const fn unwanted(&self) -> bool {
        matches!(self.phase, Phase::Failed) && (self.terms.auto_destroy || !self.started)
    }

    /// Begins the destruction. `answers` is the number of answers accepted so far. `served`: a server has
    /// fetched, and is alive as far as is known; a teardown waits for no other server.
    pub const fn drain(&mut self, now_ms: u64, answers: u64, served: bool) -> Change {
        if !self.phase.is_there() {
            return Change::None;
        }
        self.drain = Some(Drain::begin(now_ms, answers));
        self.tell(Kind::Destroyed);
        if self.serving && served {
            self.phase = Phase::Draining;
            Change::None
        } else {
            // No server can attach any more, and a server that never fetched has had its time.
            self.phase = Phase::Failing;
            Change::Fail
        }
    }

    /// Checks the progress of a destruction. Called every [`DRAIN_TICK_MS`] while DRAINING.
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

/// Time between two checks of a teardown, in milliseconds.
pub const DRAIN_TICK_MS: u32 = 100;
/// How long a teardown waits for the next answer while requests are outstanding, in milliseconds.
pub const DRAIN_STALL_MS: u64 = 5_000;
/// How long a teardown gives a server in all, in milliseconds.
pub const DRAIN_TOTAL_MS: u64 = 60_000;

/// Watches the progress of one teardown. Times are milliseconds of any monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    started_ms: u64,
    progress_ms: u64,
    answers: u64,
}

impl Drain {
    /// A teardown that begins now. `answers` is the number of answers accepted so far.
    #[must_use]
    pub const fn begin(now_ms: u64, answers: u64) -> Self {
        Self { started_ms: now_ms, progress_ms: now_ms, answers }
    }

    /// Whether to give up on the server: it owes answers and gave none for [`DRAIN_STALL_MS`], or the
    /// teardown takes longer than [`DRAIN_TOTAL_MS`].
    #[must_use]
    pub const fn gives_up(&mut self, now_ms: u64, answers: u64, outstanding: u32) -> bool {
        if answers != self.answers || outstanding == 0 {
            self.answers = answers;
            self.progress_ms = now_ms;
        }
        // Callers read the clock before they take the device's lock, so this time may be the earlier one.
        now_ms.saturating_sub(self.progress_ms) >= DRAIN_STALL_MS
            || now_ms.saturating_sub(self.started_ms) >= DRAIN_TOTAL_MS
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

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of older servers, before a new one serves.
//!
//! The kernel gives each request to one server, but a backend's store knows nothing of that: an older server that was
//! superseded, or declared dead, may still write what it holds. So a new server serves only when the older ones have
//! let go. The order is:
//!
//! 1. The new server attaches. The kernel gives it all requests from then on.
//! 2. The older server's calls end with `ESHUTDOWN`. It answers what it holds (an answer of a server that was declared
//!    dead is refused), drains its backend, closes its descriptor, releases the locks of its store, and ends.
//!    [`Server::serve`] does the first part and returns [`End::TakenOver`](super::End::TakenOver); dropping the
//!    `Server` and the backend does the rest.
//! 3. The new server waits until no older descriptor is open, with a bound, and shortly for the recorded process.
//! 4. Then it kills the recorded servers that still have an older descriptor, stopped ones too, and waits for their end.
//! 5. If an older descriptor is open after that, it does not serve: the device waits for its next server, and the error
//!    names the processes, or says why they cannot be seen.
//! 6. A server whose cache survives claims it now, before its first fetch: the older servers answer nothing more.
//!
//! Whom the new server kills, and whom it only waits for:
//!
//! | process | |
//! |---|---|
//! | has an older descriptor, and is [recorded](super::peers) as the server of it | waits; kills it if `fence` is set |
//! | has an older descriptor, and is not recorded: a child, a supervisor, one that looks for servers | waits, never kills |
//! | this process itself | waits, never kills |
//! | was the recorded server, and has closed the descriptor | waits up to 1 s for its end, then serves |
//! | cannot be seen | waits, never kills |
//!
//! If another server takes over from the new one, or the device goes, the wait ends with success: serving then ends at
//! once.

use super::abandoned::Abandoned;
use super::peers::{self, Peer, Recorded, Sight};
use super::tell::{Event, Listener};
use super::{Backend, Control, Process, Server, TakeOver, Which};
use crate::{Errno, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant};

/// Default of [`HandOver::patience`].
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed process may take to end.
const LAST: Duration = Duration::from_secs(5);
/// How long to wait for a server that has closed its descriptor. It may have other things to do than this device.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// How long to look for the servers to kill.
const SEARCH: Duration = Duration::from_secs(10);
/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(20);

/// How a server takes over from older ones of its device: see the order in [`take_over`](Self::take_over).
///
/// ```no_run
/// use zosbd2::{Backend, Control, HandOver, ServeOptions, StopToken};
///
/// # fn replace(backend: &impl Backend) -> zosbd2::Result<()> {
/// let server = HandOver::new().take_over(&Control::open()?, "mydisk", backend)?;
/// server.serve(backend, &ServeOptions::default(), &StopToken::new())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HandOver {
    patience: Duration,
    fence: bool,
    listener: Listener,
}

impl Default for HandOver {
    /// Waits 10 s, and then kills.
    fn default() -> Self {
        Self { patience: PATIENCE, fence: true, listener: Listener::default() }
    }
}

#[expect(single_use_lifetimes, reason = "`impl Trait` takes no other yet")]
impl HandOver {
    /// Waits 10 s for older servers, and then kills them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long older servers may take to end by themselves. I/O on the device waits meanwhile.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether to kill (SIGKILL) older servers that do not end in time. Without, they are an error. A process that only
    /// has the descriptor, and is not recorded as the server, is never killed.
    #[must_use]
    pub fn fence(mut self, fence: bool) -> Self {
        self.fence = fence;
        self
    }

    /// Calls `tell` with [`Event::WaitsForServer`] and [`Event::Killed`].
    #[must_use]
    pub fn on_event(mut self, tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(tell);
        self
    }

    pub(super) fn with_listener(mut self, listener: &Listener) -> Self {
        self.listener = self.listener.or(listener);
        self
    }

    /// Attaches to a device, also if it has a live server, and returns when the older servers have let go of it:
    ///
    /// 1. The new server attaches; the kernel gives it all requests from then on.
    /// 2. The older server answers what it holds, drains its backend, closes its descriptor, releases the locks of its
    ///    store, and ends: [`Server::serve`] returns [`End::TakenOver`](super::End::TakenOver).
    /// 3. The new server waits for that, up to [`patience`](Self::patience).
    /// 4. Then it kills the older servers that still have their descriptor, stopped ones too, if that is
    ///    [wanted](Self::fence) and permitted, and waits for their end. Only a recorded server is killed: the process that
    ///    serves with this library, or that STATUS named before the attach.
    /// 5. If [the backend's cache survives](super::Capabilities::cache_survives), the new server
    ///    [claims](Server::claim_cache) it.
    ///
    /// # Errors
    ///
    /// [`Error::OlderServer`] if an older descriptor stays open. The device then waits for its next server, as
    /// after a death. Errors of [`Control::attach`].
    pub fn take_over<'a, B: Backend + ?Sized>(
        &self,
        control: &Control,
        device: impl Into<Which<'a>>,
        backend: &B,
    ) -> Result<Server> {
        let device = device.into();
        let recorded = control.status(device.name()).ok().and_then(|status| Recorded::of(&status));
        let server = control.attach(device, TakeOver::Yes)?;
        self.finish(&server, backend.capabilities().cache_survives, recorded, &Abandoned::never())?;
        Ok(server)
    }

    /// What follows the attach: waits for the older servers, then claims the cache if it survives. `recorded`: the server
    /// that STATUS named before the attach.
    pub(super) fn finish(
        &self,
        server: &Server,
        cache_survives: bool,
        recorded: Option<Recorded>,
        abandoned: &Abandoned,
    ) -> Result<()> {
        self.wait(&Live { server, recorded }, abandoned)?;
        if !cache_survives {
            return Ok(());
        }
        match server.claim_cache() {
            // A device that was destroyed or taken over meanwhile: serving tells.
            Err(Error::Control { source: Errno::NODEV | Errno::SHUTDOWN, .. }) => Ok(()),
            claimed => claimed,
        }
    }

    /// Waits for the end of the servers that are older than this one, which has attached and serves nothing yet: steps 3
    /// and 4 of [`take_over`](Self::take_over). Also for a device whose last server was declared dead and still runs. A server
    /// whose cache survives calls [`Server::claim_cache`] afterwards.
    ///
    /// Kills only servers that serve with this library: what STATUS named before the attach is not known here.
    pub fn wait_for_others(&self, server: &Server) -> Result<()> {
        self.wait(&Live { server, recorded: None }, &Abandoned::never())
    }

    fn wait(&self, device: &impl Others, abandoned: &Abandoned) -> Result<()> {
        let alone = || Ok(device.standing()? != Standing::Beside);
        if alone()? {
            return Ok(());
        }
        let mut older = device.look(peers::PATIENCE).peers;
        // The others only have the descriptor, and may go on living.
        if older.iter().any(Peering::is_recorded) {
            older.retain(Peering::is_recorded);
        }
        self.listener.tell(&Event::WaitsForServer {
            device: device.name(),
            processes: processes(&older),
            patience: self.patience,
        });
        let until = Instant::now() + self.patience;
        if within(until, || Ok(abandoned.is_set() || alone()?))? {
            if abandoned.is_set() {
                return Err(older_server(
                    device,
                    &older,
                    "nobody waits for the take-over any more".to_owned(),
                ));
            }
            if device.standing()? == Standing::Over {
                return Ok(());
            }
            // The process may still write what its own threads hold. If it goes on living, it has let go all the same.
            let until = until.min(Instant::now() + AFTERWARDS);
            within(until, || Ok(older.iter().all(|peer| peer.is_own() || peer.has_ended())))?;
            return Ok(());
        }
        self.fence_off(device)
    }

    /// Kills the recorded servers that have not let go in time.
    fn fence_off(&self, device: &impl Others) -> Result<()> {
        let alone = || Ok(device.standing()? != Standing::Beside);
        let Sight { peers: older, unseen } = device.look(SEARCH);
        let failed = |problem: &str| Err(older_server(device, &older, problem.to_owned()));
        if alone()? {
            return Ok(());
        }
        if older.is_empty() {
            return failed(&format!("it did not end in time, and was not found: {}", unseen.reason()));
        }
        if older.iter().any(Peering::is_own) {
            return failed("it is this process itself");
        }
        if !self.fence {
            return failed("it did not end in time");
        }
        let servers: Vec<_> = older.iter().filter(|peer| peer.is_recorded()).collect();
        if servers.is_empty() {
            return failed(KEEPER);
        }
        for peer in &servers {
            if alone()? {
                return Ok(());
            }
            if peer.kill().is_err() {
                return failed("it did not end in time, and this process may not kill it");
            }
            tracing::warn!(device = device.name(), pid = peer.process().pid, "killed an older server");
            self.listener.tell(&Event::Killed { device: device.name(), process: peer.process().clone() });
        }
        let all_ended = || servers.iter().all(|peer| peer.has_ended());
        if within(Instant::now() + LAST, || Ok(alone()? && all_ended()))? {
            return Ok(());
        }
        if !all_ended() {
            return failed("it was killed and does not end");
        }
        let Sight { peers: left, unseen } = device.look(SEARCH);
        let problem = if left.is_empty() { unseen.reason() } else { KEEPER.to_owned() };
        Err(older_server(device, &left, problem))
    }
}

/// Why a process is not killed that has an older descriptor.
const KEEPER: &str =
    "it is not recorded as that server, so it is not killed: end it, or make it close the descriptor";

fn processes<P: Peering>(peers: &[P]) -> Vec<Process> {
    peers.iter().map(|peer| peer.process().clone()).collect()
}

fn older_server<D: Others>(device: &D, older: &[D::Peer], problem: String) -> Error {
    Error::OlderServer { device: device.name(), processes: processes(older), problem }
}

/// Waits until `done` returns true, and returns false if it has not by then.
fn within(until: Instant, done: impl Fn() -> Result<bool>) -> Result<bool> {
    loop {
        if done()? {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(PERIOD.min(left));
    }
}

/// How a new server stands on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// No other server descriptor is open.
    Alone,
    /// Older servers' descriptors are open.
    Beside,
    /// Another server has taken over, or the device is gone: there is nothing to wait for.
    Over,
}

/// A device with older servers: a real one, or a fake in tests.
trait Others {
    type Peer: Peering;
    fn name(&self) -> String;
    fn standing(&self) -> Result<Standing>;
    /// Looks this long for the processes that have a descriptor of an older server.
    fn look(&self, patience: Duration) -> Sight<Self::Peer>;
}

trait Peering {
    fn process(&self) -> &Process;
    fn is_recorded(&self) -> bool;
    fn has_ended(&self) -> bool;
    fn is_own(&self) -> bool;
    fn kill(&self) -> Result<(), Errno>;
}

/// A process with an older descriptor, and whether it is the server of it.
struct Older {
    peer: Peer,
    recorded: bool,
}

impl Peering for Older {
    fn process(&self) -> &Process {
        &self.peer.process
    }

    fn is_recorded(&self) -> bool {
        self.recorded
    }

    fn has_ended(&self) -> bool {
        self.peer.has_ended()
    }

    fn is_own(&self) -> bool {
        self.peer.is_own()
    }

    fn kill(&self) -> Result<(), Errno> {
        self.peer.kill()
    }
}

struct Live<'a> {
    server: &'a Server,
    recorded: Option<Recorded>,
}

impl Others for Live<'_> {
    type Peer = Older;

    fn name(&self) -> String {
        self.server.name().to_owned()
    }

    fn standing(&self) -> Result<Standing> {
        // The kernel hangs up a server that was superseded or declared dead. STATUS counts newer servers, too.
        let mut polled = [PollFd::new(self.server, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let hung_up = poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP);
        if hung_up {
            return Ok(Standing::Over);
        }
        Ok(if self.server.status()?.servers <= 1 { Standing::Alone } else { Standing::Beside })
    }

    fn look(&self, patience: Duration) -> Sight<Older> {
        let created = self.server.created();
        let Sight { peers, unseen } = peers::look(created.handle, Instant::now() + patience);
        let older = peers.into_iter().filter(|peer| peer.epoch < created.epoch);
        let recorded = |peer: &Peer| peer.is_recorded(self.recorded);
        Sight { peers: older.map(|peer| Older { recorded: recorded(&peer), peer }).collect(), unseen }
    }
}

#[cfg(test)]
mod tests;

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
//! 3. The new server waits until no older descriptor is open, with a bound, and shortly for the processes.
//! 4. Then it kills the processes that still have an older descriptor, stopped ones too, and waits for their end.
//! 5. If that is not possible, it does not serve: the device waits for its next server, and the error names the
//!    processes.
//! 6. A server whose cache survives claims it now, before its first fetch: the older servers answer nothing more.

use super::peers::{Peer, lasting_servers_of};
use super::tell::{Event, Listener};
use super::{Backend, Control, Process, Server, TakeOver, Which};
use crate::{Errno, Error, Result};
use std::time::{Duration, Instant};

/// Default of [`HandOver::patience`].
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed process may take to end.
const LAST: Duration = Duration::from_secs(5);
/// How long to wait for a process that has closed its descriptor. It may have other things to do than this device.
const AFTERWARDS: Duration = Duration::from_secs(1);
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

    /// Whether to kill (SIGKILL) the processes of older servers that do not end in time. Without, they are an error.
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
    /// 4. Then it kills the processes that still have an older descriptor, stopped ones too, if that is
    ///    [wanted](Self::fence) and permitted, and waits for their end.
    ///
    /// 5. If [the backend's cache survives](super::Capabilities::cache_survives), the new server
    ///    [claims](Server::claim_cache) it.
    ///
    /// # Errors
    ///
    /// [`Error::OlderServer`] if an older server cannot be made to end. The device then waits for its next server, as
    /// after a death. Errors of [`Control::attach`].
    pub fn take_over<'a, B: Backend + ?Sized>(
        &self,
        control: &Control,
        device: impl Into<Which<'a>>,
        backend: &B,
    ) -> Result<Server> {
        let server = control.attach(device, TakeOver::Yes)?;
        self.finish(&server, backend.capabilities().cache_survives)?;
        Ok(server)
    }

    /// What follows the attach: waits for the older servers, then claims the cache if it survives.
    pub(super) fn finish(&self, server: &Server, cache_survives: bool) -> Result<()> {
        self.wait_for_others(server)?;
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
    pub fn wait_for_others(&self, server: &Server) -> Result<()> {
        self.wait(&Live(server))
    }

    fn wait(&self, device: &impl Others) -> Result<()> {
        if device.alone()? {
            return Ok(());
        }
        let older = device.older();
        self.listener.tell(&Event::WaitsForServer {
            device: device.name(),
            processes: older.iter().map(|peer| peer.process().clone()).collect(),
            patience: self.patience,
        });
        let until = Instant::now() + self.patience;
        if within(until, || device.alone())? {
            // The process may still write what its own threads hold. If it goes on living, it has let go all the same.
            let until = until.min(Instant::now() + AFTERWARDS);
            within(until, || Ok(older.iter().all(|peer| peer.is_own() || peer.has_ended())))?;
            return Ok(());
        }
        // A process that had no descriptor at first may have got one.
        let older = device.older();
        let failed = |problem| {
            let processes = older.iter().map(|peer| peer.process().clone()).collect();
            Err(Error::OlderServer { device: device.name(), processes, problem })
        };
        if older.is_empty() {
            return if device.alone()? { Ok(()) } else { failed("this process may not see it") };
        }
        if !self.fence {
            return failed("it did not end in time");
        }
        if older.iter().any(Peering::is_own) {
            return failed("it is this process itself");
        }
        for peer in &older {
            if peer.kill().is_err() {
                return failed("it did not end in time, and this process may not kill it");
            }
            tracing::warn!(device = device.name(), pid = peer.process().pid, "killed an older server");
            self.listener.tell(&Event::Killed { device: device.name(), process: peer.process().clone() });
        }
        let ended = || Ok(device.alone()? && older.iter().all(Peering::has_ended));
        if within(Instant::now() + LAST, ended)? { Ok(()) } else { failed("it was killed and does not end") }
    }
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

/// A device with older servers: a real one, or a fake in tests.
trait Others {
    type Peer: Peering;
    fn name(&self) -> String;
    /// Whether no other server descriptor is open.
    fn alone(&self) -> Result<bool>;
    /// The processes that have a descriptor of an older server.
    fn older(&self) -> Vec<Self::Peer>;
}

trait Peering {
    fn process(&self) -> &Process;
    fn has_ended(&self) -> bool;
    fn is_own(&self) -> bool;
    fn kill(&self) -> Result<(), Errno>;
}

impl Peering for Peer {
    fn process(&self) -> &Process {
        &self.process
    }

    fn has_ended(&self) -> bool {
        Peer::has_ended(self)
    }

    fn is_own(&self) -> bool {
        Peer::is_own(self)
    }

    fn kill(&self) -> Result<(), Errno> {
        Peer::kill(self)
    }
}

struct Live<'a>(&'a Server);

impl Others for Live<'_> {
    type Peer = Peer;

    fn name(&self) -> String {
        self.0.name().to_owned()
    }

    fn alone(&self) -> Result<bool> {
        Ok(self.0.status()?.servers <= 1)
    }

    fn older(&self) -> Vec<Peer> {
        let created = self.0.created();
        let mut peers = lasting_servers_of(created.handle);
        peers.retain(|peer| peer.epoch < created.epoch);
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::sync::{Arc, Mutex};

    #[derive(Clone)]
    struct Old {
        process: Process,
        ended: Rc<Cell<bool>>,
        /// Whether a kill ends it; `None`: it may not be killed.
        mortal: Option<bool>,
        own: bool,
    }

    impl Peering for Old {
        fn process(&self) -> &Process {
            &self.process
        }

        fn has_ended(&self) -> bool {
            self.ended.get()
        }

        fn is_own(&self) -> bool {
            self.own
        }

        fn kill(&self) -> Result<(), Errno> {
            let mortal = self.mortal.ok_or(Errno::PERM)?;
            self.ended.set(mortal);
            Ok(())
        }
    }

    /// A device whose older server closes its descriptor after some looks, or when it ends.
    struct Fake {
        looks: RefCell<u32>,
        old: Old,
        visible: bool,
    }

    impl Others for Fake {
        type Peer = Old;

        fn name(&self) -> String {
            "fake".to_owned()
        }

        fn alone(&self) -> Result<bool> {
            let left = self.looks.borrow().saturating_sub(1);
            *self.looks.borrow_mut() = left;
            Ok(left == 0 || self.old.ended.get())
        }

        fn older(&self) -> Vec<Old> {
            if self.visible { vec![self.old.clone()] } else { Vec::new() }
        }
    }

    fn fake(looks: u32, mortal: Option<bool>) -> Fake {
        let process = Process { pid: 7, program: "old".to_owned() };
        let old = Old { process, ended: Rc::new(Cell::new(false)), mortal, own: false };
        Fake { looks: RefCell::new(looks), old, visible: true }
    }

    fn wait(fake: &Fake, fence: bool) -> (Result<()>, Vec<String>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&told);
        let hand_over = HandOver::new()
            .patience(Duration::from_millis(100))
            .fence(fence)
            .on_event(move |event| list.lock().expect("list").push(event.to_string()));
        let result = hand_over.wait(fake);
        let told = told.lock().expect("list").clone();
        (result, told)
    }

    #[test]
    fn a_server_that_is_alone_waits_for_nobody() {
        let (result, told) = wait(&fake(1, None), true);
        result.expect("alone");
        assert!(told.is_empty(), "{told:?}");
    }

    #[test]
    fn an_older_server_that_lets_go_is_not_killed() {
        let old = fake(3, None);
        let (result, told) = wait(&old, true);
        result.expect("it let go");
        assert_eq!(told, ["waiting up to 100ms for the older server of device fake: process 7 (old)"]);
    }

    #[test]
    fn an_older_server_that_stays_is_killed_if_that_is_wanted() {
        let (result, told) = wait(&fake(u32::MAX, Some(true)), true);
        result.expect("killed");
        assert!(told[1].starts_with("killed process 7 (old), an older server of device fake"), "{told:?}");
        let (result, told) = wait(&fake(u32::MAX, Some(true)), false);
        let said = result.expect_err("not to be killed").to_string();
        let wanted =
            "take over device fake: its older server, process 7 (old), still has it: it did not end in time";
        assert_eq!((said.as_str(), told.len()), (wanted, 1));
    }

    #[test]
    fn an_older_server_that_cannot_be_killed_is_named() {
        let (result, _) = wait(&fake(u32::MAX, None), true);
        let said = result.expect_err("not permitted").to_string();
        assert!(said.contains("process 7 (old)") && said.contains("may not kill it"), "{said}");
        let mut own = fake(u32::MAX, Some(true));
        own.old.own = true;
        let said = wait(&own, true).0.expect_err("itself").to_string();
        assert!(said.contains("this process itself"), "{said}");
        let hidden = Fake { visible: false, ..fake(u32::MAX, Some(true)) };
        let said = wait(&hidden, true).0.expect_err("not visible").to_string();
        assert!(said.contains("may not see it"), "{said}");
    }
}

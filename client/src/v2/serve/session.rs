// SPDX-License-Identifier: MIT OR Apache-2.0
//! One serve of one device: starts a thread per lane, watches over the threads, and ends when all have ended.
//!
//! A *lane* serves one queue. Every queue needs one, because nobody else answers its requests. The session does not
//! know what a lane does: it prepares one per thread, lets them work when every queue has one, and counts them.
//!
//! The thread that calls [`run`] waits and decides ([`course`](super::course)). It destroys the device on a stop
//! request while the lanes still serve, so that the kernel can write out dirty data. It returns when all other
//! threads have ended.

use super::course::{self, Course, Step};
use super::notes::Notes;
use super::place::{Deserted, Place};
use super::{End, ServeOptions};
use crate::serving::{CountOut, NoFlusher, OnceFlag, Running, prepare_thread};
use crate::v2::tell::{Event, Frequent, Listener};
use crate::v2::{Channel, Users, channel::Keeper};
use crate::{Errno, Error, Result, StopToken};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::Scope;
use std::time::Duration;

/// Time between two attempts to destroy a device that is in use.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// What the lanes of a session do. Every function is called on the lane's own thread, except `size`.
pub(super) trait Lanes: Sync {
    /// A lane that is ready to work.
    type Lane;

    /// Gets everything that a lane needs, so that working needs nothing more.
    fn prepare(&self, queue: u32) -> Result<Self::Lane>;

    /// Serves until the device is gone or taken over.
    fn work(&self, lane: Self::Lane) -> Result<End>;

    /// Size of the backend.
    fn size(&self) -> u64;
}

/// What the threads of one serve share.
pub(in crate::v2) struct Session<C> {
    pub(in crate::v2) channel: C,
    pub(in crate::v2) stop: StopToken,
    pub(in crate::v2) notes: Arc<Notes>,
    running: Running,
    /// For each queue: the number of lanes that serve it, or may do so.
    lanes: Vec<AtomicUsize>,
    /// Whether each queue has a lane, once all threads were tried.
    all_served: OnceFlag,
    /// Set when the last lane of a queue has failed, or when answers of a lane are lost.
    pub(in crate::v2) deserted: Deserted,
    taken_over: AtomicBool,
}

/// Serves with one thread per lane until the device is gone or taken over. Calls `start` once when all lanes
/// are prepared; if `start` fails, the device is destroyed by force. The argument of `destroy` says whether to
/// use force.
///
/// If a queue has no lane to begin with, nothing is fetched or started, and the device goes to the next server
/// or is destroyed with this one. If the last lane of a queue fails later, all threads leave the device to the
/// next server. So do they if a lane cannot give the answers of other threads. If they cannot leave it for some seconds, the device is destroyed by force.
pub(super) fn run<C: Channel, L: Lanes>(
    session: &Session<C>,
    lanes: &L,
    options: &ServeOptions,
    start: impl FnOnce() -> Result<()>,
    destroy: impl Fn(bool) -> Result<()> + Sync,
) -> Result<End> {
    let size = session.backend_size(|| lanes.size());
    let panicked = std::thread::scope(|scope| {
        let (ready, all_ready) = mpsc::channel();
        for queue in 0..session.channel.status().queues {
            for index in 0..options.threads() {
                session.spawn(scope, lanes, options, (queue, index), ready.clone());
            }
        }
        drop(ready);
        // The loop ends when every thread has dropped its sender, ready or not.
        for () in all_ready {}
        let panicked = session.begin(start, &destroy);
        session.watch(|| lanes.size(), size, &destroy);
        panicked
    });
    if let Some(payload) = panicked {
        resume_unwind(payload);
    }
    session.end()
}

impl<C: Channel> Session<C> {
    pub(super) fn new(channel: C, stop: &StopToken, listener: &Listener) -> Self {
        let status = channel.status();
        let (notes, queues) = (Notes::new(&status.name, listener), status.queues);
        Self {
            channel,
            stop: stop.clone(),
            notes: Arc::new(notes),
            running: Running::default(),
            lanes: (0..queues).map(|_| AtomicUsize::new(0)).collect(),
            all_served: OnceFlag::default(),
            deserted: Deserted::default(),
            taken_over: AtomicBool::new(false),
        }
    }

    fn spawn<'scope, L: Lanes>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        lanes: &'scope L,
        options: &'scope ServeOptions,
        (queue, index): (u32, usize),
        ready: mpsc::Sender<()>,
    ) {
        self.running.begin();
        let name = format!("zosbd2-{queue}.{index}");
        let run = move || {
            let count_out = self.running.count_out(&self.stop);
            if let Some(NoFlusher(error)) = prepare_thread(&self.channel.status().name) {
                let event = |_| Event::NoIoFlusher { device: self.notes.device(), error };
                self.notes.listener().tell_sparingly(Frequent::Flusher, event);
            }
            self.bind(options.cpus_of(queue as usize * options.threads() + index));
            self.lane(lanes, queue, count_out, ready);
        };
        if let Err(source) = std::thread::Builder::new().name(name).spawn_scoped(scope, run) {
            self.running.cancel();
            // The other threads of the queue suffice. The caller gets the error in the end.
            self.notes.note(Error::Spawn { device: self.notes.device(), source });
        }
    }

    /// Prepares a lane, waits for the others, and works.
    fn lane<'a, L: Lanes>(&'a self, lanes: &L, queue: u32, count_out: CountOut<'a>, ready: mpsc::Sender<()>) {
        let lane = match lanes.prepare(queue) {
            Ok(lane) => lane,
            Err(error) => return self.notes.note(error),
        };
        let place = self.counted_place(queue, count_out);
        drop(ready);
        if !self.all_served.wait() {
            return place.end(Some(End::Gone));
        }
        match lanes.work(lane) {
            Ok(end) => place.end(Some(end)),
            Err(error) => {
                self.notes.note(error);
                place.end(None);
            }
        }
    }

    /// Takes a place for a lane of this queue.
    #[cfg(feature = "tokio")]
    pub(super) fn place(&self, queue: u32) -> Place<'_> {
        self.running.begin();
        self.counted_place(queue, self.running.count_out(&self.stop))
    }

    fn counted_place<'a>(&'a self, queue: u32, count_out: CountOut<'a>) -> Place<'a> {
        let lanes = &self.lanes[queue as usize];
        lanes.fetch_add(1, Ordering::Relaxed);
        Place::new(lanes, &self.deserted, &self.taken_over, count_out)
    }

    /// Binds the calling thread to these CPUs, if there are any.
    fn bind(&self, cpus: Option<&Vec<usize>>) {
        let Some(cpus) = cpus else { return };
        let mut set = CpuSet::new();
        for cpu in cpus {
            set.set(*cpu);
        }
        if let Err(source) = sched_setaffinity(None, &set) {
            self.notes.note(Error::Cpus { device: self.notes.device(), source });
        }
    }

    /// Lets the lanes work if every queue has one, and starts the device. Returns the payload of a panic of
    /// `start`.
    pub(super) fn begin(
        &self,
        start: impl FnOnce() -> Result<()>,
        destroy: &impl Fn(bool) -> Result<()>,
    ) -> Option<Box<dyn std::any::Any + Send>> {
        let all_served = self.lanes.iter().all(|lanes| lanes.load(Ordering::Relaxed) > 0);
        self.all_served.set(all_served);
        if !all_served {
            return None;
        }
        match catch_unwind(AssertUnwindSafe(start)) {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => self.notes.note(error),
            Err(payload) => {
                self.destroy(destroy, true);
                return Some(payload);
            }
        }
        self.destroy(destroy, true);
        None
    }

    /// Waits for the end of all lanes, and carries out the steps of the [`Course`] meanwhile. `known` is the
    /// size of the backend when serving began.
    pub(super) fn watch(
        &self,
        size: impl Fn() -> u64,
        mut known: Option<u64>,
        destroy: &(impl Fn(bool) -> Result<()> + Sync),
    ) {
        // Kept until all lanes have ended, so that the next server does not work beside them unless it
        // takes over.
        let mut keeper = None;
        let mut course = Course::new();
        let mut seen = 0;
        std::thread::scope(|scope| {
            loop {
                let unserved = || course.heeds_unserved() && self.deserted.is_set();
                let news = || self.ended() || unserved();
                let requests = match course.patience() {
                    Some(time) => self.stop.wait_for(time, seen, news),
                    None => self.stop.wait(seen, news),
                };
                if self.ended() {
                    return;
                }
                if unserved() || course.retries() {
                    let step = course.step(course::Event::Unserved);
                    if step == Step::Leave && self.leave(&mut course, &mut keeper) == Step::DestroyByForce {
                        self.destroy(destroy, true);
                    }
                }
                let mut step = if requests == seen { course.step(course::Event::Idle) } else { Step::Wait };
                if requests != seen {
                    let forced = self.stop.is_forced();
                    step = course.step(if forced {
                        course::Event::ForceRequest
                    } else {
                        course::Event::StopRequest
                    });
                }
                seen = requests;
                match step {
                    Step::FollowSize => self.follow(&size, &mut known),
                    Step::TellUse => self.tell_use(),
                    Step::DestroyByForce => drop(self.destroy(destroy, true)),
                    Step::DestroyWhenUnused => {
                        // A thread of its own, because this thread must listen for the request to use force.
                        let run = || self.destroy_when_unused(destroy);
                        let thread = std::thread::Builder::new().name("zosbd2-stop".to_owned());
                        if let Err(source) = thread.spawn_scoped(scope, run) {
                            self.notes.note(Error::Spawn { device: self.notes.device(), source });
                            self.destroy_when_unused(destroy);
                        }
                    }
                    Step::Wait | Step::Leave => {}
                }
            }
        });
    }

    /// Tries to leave the device, and tells the outcome to `course`.
    fn leave(&self, course: &mut Course, keeper: &mut Option<Keeper>) -> Step {
        match self.channel.leave() {
            Ok(kept) => {
                let device = self.notes.device();
                tracing::error!(device, "a queue has no thread left, or answers were lost: all threads end");
                self.notes.listener().tell(&Event::Deserted { device: self.notes.device() });
                *keeper = kept;
                course.step(course::Event::Left)
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "a queue has no thread left, but the other threads cannot leave the device"
                );
                course.step(course::Event::LeaveFailed)
            }
        }
    }

    /// Size of the backend. `None` if the backend panics; the panic is noted.
    pub(super) fn backend_size(&self, size: impl Fn() -> u64) -> Option<u64> {
        self.guard("size", size).ok()
    }

    /// Resizes the device if the size of the backend is no longer the `known` one.
    fn follow(&self, size: impl Fn() -> u64, known: &mut Option<u64>) {
        let Some(size) = self.backend_size(size).filter(|size| *known != Some(*size)) else { return };
        *known = Some(size);
        let before = self.channel.size();
        let listener = self.notes.listener();
        match self.channel.resize(size) {
            Ok(()) => {
                tracing::info!(
                    device = self.notes.device(),
                    size,
                    "resized the device, because the size of the backend has changed"
                );
                let shrank = size < before && listener.listens();
                let users = if shrank { self.channel.users() } else { Users::default() };
                listener.tell(&Event::Resized { device: self.notes.device(), before, size, users });
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot resize the device to the size of the backend"
                );
                listener.tell(&Event::NotResized { device: self.notes.device(), size, error });
            }
        }
    }

    /// Tells what keeps the device from being destroyed.
    fn tell_use(&self) {
        let listener = self.notes.listener();
        if listener.listens() {
            listener.tell(&Event::InUse { device: self.notes.device(), users: self.channel.users() });
        }
    }

    /// Destroys the device without force as soon as it is not open. Gives up when a stop request asks for
    /// force.
    fn destroy_when_unused(&self, destroy: &impl Fn(bool) -> Result<()>) {
        let mut told = false;
        while self.destroy(destroy, false) && !self.stop.is_forced() {
            if !told {
                tracing::warn!(
                    device = self.notes.device(),
                    "the device is in use: it will be destroyed when it is closed"
                );
                self.tell_use();
                told = true;
            }
            self.stop.pause_unless(BUSY_PAUSE, || self.ended());
            if self.ended() {
                return;
            }
        }
    }

    /// Destroys the device. Returns true if the device is open.
    fn destroy(&self, destroy: &impl Fn(bool) -> Result<()>, force: bool) -> bool {
        match destroy(force) {
            // Another process destroyed the device first, or another server has it now.
            Ok(()) | Err(Error::Control { source: Errno::NOENT | Errno::NODEV | Errno::STALE, .. }) => false,
            Err(Error::Control { source: Errno::BUSY, .. }) if !force => true,
            Err(error) => {
                self.notes.note(error);
                false
            }
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.running.none()
    }

    /// How serving ended: the first error, if there was one.
    pub(super) fn end(&self) -> Result<End> {
        let end = if self.taken_over.load(Ordering::Relaxed) { End::TakenOver } else { End::Gone };
        self.notes.take().map_or(Ok(end), Err)
    }

    /// Calls the backend. A panic is noted and becomes `EIO`.
    #[inline]
    pub(in crate::v2) fn guard<T>(
        &self,
        operation: &'static str,
        run: impl FnOnce() -> T,
    ) -> Result<T, Errno> {
        catch_unwind(AssertUnwindSafe(run)).map_err(|_| self.notes.panicked(operation, None))
    }
}

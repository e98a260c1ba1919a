// SPDX-License-Identifier: MIT OR Apache-2.0
//! The channel that injects the faults of a plan.
//!
//! ```text
//! lanes -- answers --> drop, repeat, shorten --> kernel
//!       <-- requests -- judge: wait, fail, keep, shorten, mark <--
//! ```
//!
//! What happens before the backend gets a request happens when the request is fetched. What happens after the backend has
//! carried it out happens when it is answered, so the channel records all requests that it has handed out. A lane sees a
//! shortened request as a short one; its kernel sees all of it, and a short answer.
//!
//! Data that the kernel would copy with an answer that it never sees, or sees shortened, is copied by a call of its own,
//! for a shortened request into memory of this channel. All functions may be called from any thread. No lock is held
//! during a call of the kernel or a delay.

use crate::plan::{Action, FaultPlan, Moment};
use rustix::process::{Signal, getpid, kill_process};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zosbd2::{
    Answer, Answers, Batch, Channel, Entered, Errno, Fetch, Fetched, Identity, Keeper, Layer, Result,
    ServerId, Status, StopToken, Users,
};

impl Layer for FaultPlan {
    fn around<'a>(&self, channel: Arc<dyn Channel + 'a>, stop: &StopToken) -> Arc<dyn Channel + 'a> {
        let device = channel.status().name.as_str();
        tracing::warn!(device, seed = self.seed(), "serving with injected faults");
        Arc::new(Faulty::new(channel, self.clone(), stop.clone()))
    }
}

/// A channel that injects faults into the requests of the channel below it.
#[derive(Debug)]
pub struct Faulty<C> {
    below: C,
    plan: FaultPlan,
    stop: StopToken,
    identity: Identity,
    /// The requests that were handed out and not answered, by their handles.
    held: Mutex<HashMap<u64, Held>>,
}

/// A request that was handed out.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// As the channel below handed it out.
    request: Fetched,
    /// What goes wrong with its answer.
    action: Option<Action>,
}

/// Where an answer of a lane went.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// To the channel below, with this number in its batch.
    Below(usize),
    /// It was carried out or refused here.
    Here(Result<(), Errno>),
}

impl<C: Channel> Faulty<C> {
    /// A request on `stop` ends a delay.
    pub fn new(below: C, plan: FaultPlan, stop: StopToken) -> Self {
        Self { below, plan, stop, identity: Identity::new(), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the answers of a lane to the channel below and fetches.
    fn give(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        let mut answers = Answers::with_capacity(batch.len() * 2);
        let mut given = answers.begin(self.below.id());
        let handles: Vec<_> = batch.answers().map(|answer| (answer.handle(), answer.copies_only())).collect();
        let places: Vec<_> = batch.answers().map(|answer| self.pass(&mut given, &answer)).collect();
        let mut entered = self.below.enter(&mut given, fetch);
        let results: Vec<_> = places
            .iter()
            .map_while(|place| match place {
                Place::Below(number) => given.outcome(*number),
                Place::Here(result) => Some(*result),
            })
            .collect();
        let mut held = self.held();
        for (result, (handle, keeps)) in results.iter().zip(handles) {
            batch.process(*result);
            if (result.is_ok() && !keeps) || *result == Err(Errno::STALE) {
                held.remove(&handle);
            }
        }
        entered.processed = results.len();
        entered.refused = results.iter().filter(|result| result.is_err()).count();
        entered
    }

    /// Adds what becomes of an answer to the batch for the channel below.
    fn pass<'b>(&self, given: &mut Batch<'b>, answer: &Answer<'b>) -> Place {
        let place = Place::Below(given.len());
        let Some(Held { request, action }) = self.held().get(&answer.handle()).copied() else {
            return Place::Here(Err(Errno::STALE));
        };
        match action {
            Some(Action::Short) if answer.wants_data() => {
                if let Err(error) = self.move_aside(&request, answer) {
                    return Place::Here(Err(error));
                }
                if answer.copies_only() {
                    return Place::Here(Ok(()));
                }
                given.pass(&request, &answer.without_memory());
            }
            _ if answer.copies_only() => given.pass(&request, answer),
            Some(Action::Duplicate) => {
                given.pass(&request, answer);
                given.pass(&request, answer);
            }
            Some(Action::Drop(Moment::After)) if answer.wants_data() => {
                given.pass(&request, &answer.only_copying());
            }
            Some(Action::Drop(Moment::After)) => return Place::Here(Ok(())),
            Some(Action::Die(Moment::After)) => {
                if answer.wants_data() {
                    let mut answers = Answers::with_capacity(1);
                    let mut copy = answers.begin(self.below.id());
                    copy.pass(&request, &answer.only_copying());
                    self.give_apart(&mut copy);
                }
                die()
            }
            _ => given.pass(&request, answer),
        }
        place
    }

    /// Copies the first part of a write's data into the memory of an answer that is shorter than the write.
    fn move_aside(&self, request: &Fetched, answer: &Answer<'_>) -> Result<(), Errno> {
        let bytes = |length| usize::try_from(length).unwrap_or(usize::MAX);
        let mut data = vec![0; bytes(request.length())];
        let mut answers = Answers::with_capacity(1);
        let mut copy = answers.begin(self.below.id());
        copy.copy(request, &mut data);
        self.give_apart(&mut copy);
        // If the device is gone, so is the request.
        copy.outcome(0).unwrap_or(Err(Errno::STALE))?;
        answer.fill(&data[..bytes(half(request.length(), self.block()))])
    }

    /// Gives answers in calls of their own, unless the device is gone.
    fn give_apart(&self, batch: &mut Batch<'_>) {
        while !batch.is_processed() {
            let entered = self.below.enter(batch, Fetch::nothing());
            if entered.processed == 0 && entered.error != Some(Errno::INTR) {
                return;
            }
        }
    }

    /// Judges the fetched requests. Moves those that the lane gets to the front, and returns their number.
    #[cold]
    fn judge(&self, requests: &mut [Fetched]) -> usize {
        let mut answers = Answers::with_capacity(requests.len());
        let mut failed = answers.begin(self.below.id());
        let mut left = 0;
        for at in 0..requests.len() {
            let request = requests[at];
            let verdict = self.plan.judge(&request);
            if !verdict.delay.is_zero() {
                self.stop.pause(verdict.delay);
            }
            let mut raw = request.raw();
            match verdict.action {
                Some(Action::Errno(error)) => {
                    failed.fail(&request, error);
                    continue;
                }
                Some(Action::Drop(Moment::Before)) => continue,
                Some(Action::Die(Moment::Before)) => die(),
                Some(Action::Short) => {
                    raw.length = half(raw.length, self.block());
                    if raw.length == 0 {
                        failed.short(&request, 0);
                        continue;
                    }
                }
                _ => {}
            }
            self.held().insert(request.handle(), Held { request, action: verdict.action });
            requests[left] = self.identity.request(raw);
            left += 1;
        }
        self.give_apart(&mut failed);
        left
    }

    fn block(&self) -> u64 {
        self.below.status().logical_block_size.max(1).into()
    }
}

/// Half of the length in whole blocks, which may be nothing.
const fn half(length: u64, block: u64) -> u64 {
    length / 2 / block * block
}

impl<C: Channel> Channel for Faulty<C> {
    fn enter(&self, batch: &mut Batch<'_>, mut fetch: Fetch<'_>) -> Entered {
        if !batch.is_for(self.identity.id()) {
            return Entered { error: Some(Errno::INVAL), ..Entered::default() };
        }
        let mut entered = self.give(batch, fetch.again());
        if entered.fetched > 0 {
            let left = self.judge(&mut fetch.requests[..entered.fetched]);
            entered.kept += entered.fetched - left;
            entered.fetched = left;
        }
        entered
    }

    fn id(&self) -> ServerId {
        self.identity.id()
    }

    fn status(&self) -> &Status {
        self.below.status()
    }

    fn size(&self) -> u64 {
        self.below.size()
    }

    fn refresh_size(&self) -> Result<u64> {
        self.below.refresh_size()
    }

    fn resize(&self, size_bytes: u64) -> Result<()> {
        self.below.resize(size_bytes)
    }

    fn users(&self) -> Users {
        self.below.users()
    }

    fn leave(&self) -> Result<Option<Keeper>> {
        self.below.leave()
    }
}

/// Like `kill -9` from outside: nothing is unwound or flushed.
fn die() -> ! {
    // The kill of the own process cannot fail.
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! ENTER of the kernel in memory: carries out answers, and hands out requests.

use super::device::{Device, State};
use crate::Errno;
use crate::v2::{Answer, Batch, Entered, Fetch, Identity};
use std::time::{Duration, Instant};
use zosbd2_abi::v2;

/// One in this many calls that would sleep ends as if a signal had come.
const SIGNALS: u64 = 8;

impl Device {
    /// The call of the server with this epoch.
    pub(super) fn enter(
        &self,
        epoch: u32,
        identity: &Identity,
        batch: &mut Batch<'_>,
        mut fetch: Fetch<'_>,
    ) -> Entered {
        let mut state = self.lock();
        let results: Vec<_> = batch.answers().map(|answer| state.answer(epoch, &answer)).collect();
        for result in &results {
            batch.process(*result);
        }
        let refused = results.iter().filter(|result| result.is_err()).count();
        let mut entered = Entered { processed: results.len(), refused, ..Entered::default() };
        if !results.is_empty() {
            self.wake(state);
            state = self.lock();
        }
        let most = fetch.requests.len();
        if most == 0 {
            entered.error = state.over(epoch).filter(|error| *error == Errno::NODEV);
            return entered;
        }
        if fetch.buffers.is_some() && !fetch.arena.is_empty() || fetch.queue >= state.raw.queues {
            entered.error = Some(Errno::INVAL);
            return entered;
        }
        let minimum = if refused > 0 { 0 } else { most.min(fetch.minimum as usize) };
        let until = fetch.timeout_ms.map(|limit| Instant::now() + Duration::from_millis(u64::from(limit)));
        let mut room = Room::default();
        let mut awake = true;
        loop {
            if let Some(error) = state.over(epoch) {
                entered.error = (entered.fetched == 0).then_some(error);
                return entered;
            }
            entered.fetched += state.fetch(epoch, identity, &mut fetch, entered.fetched, &mut room);
            let timed_out = || until.is_some_and(|until| Instant::now() >= until);
            if entered.fetched >= minimum || timed_out() {
                return entered;
            }
            if std::mem::take(&mut awake) && state.random() % SIGNALS == 0 {
                let idle = entered.processed == 0 && entered.fetched == 0;
                entered.error = idle.then_some(Errno::INTR);
                return entered;
            }
            state.raw.threads += 1;
            state = self.wait(state);
            state.raw.threads -= 1;
        }
    }
}

/// What is used of a call's room for data.
#[derive(Default)]
struct Room {
    arena: usize,
    buffers: usize,
}

impl Room {
    /// Copies the data of a write, if there is room, and returns where it is.
    fn put(&mut self, data: &[u8], fetch: &mut Fetch<'_>) -> Option<u64> {
        if let Some(buffers) = &mut fetch.buffers {
            let number = self.buffers;
            buffers.room(number).filter(|room| *room >= data.len() as u64)?;
            // Without its data if the buffer cannot be accessed; the kernel reports an error then.
            buffers.fill(number, data).ok()?;
            self.buffers += 1;
            return Some(number as u64);
        }
        let at = self.arena;
        fetch.arena.get_mut(at..at.checked_add(data.len())?)?.copy_from_slice(data);
        self.arena += data.len();
        Some(at as u64)
    }
}

impl State {
    /// Hands out what there is and returns its number. `have` requests were handed out before.
    fn fetch(
        &mut self,
        epoch: u32,
        identity: &Identity,
        fetch: &mut Fetch<'_>,
        have: usize,
        room: &mut Room,
    ) -> usize {
        let server = self.server_mut(epoch);
        if !std::mem::replace(&mut server.fetched, true) && !server.claimed && epoch > 1 {
            self.cache.begins_without(epoch);
        }
        let mut count = 0;
        while have + count < fetch.requests.len() {
            let Some(number) = self.queues[fetch.queue as usize].waiting.pop_front() else { break };
            let handle = (number << 24) ^ (self.random() & 0xff_ffff) ^ (u64::from(epoch) << 56);
            let covers = self.cache.covers();
            let Some(request) = self.requests.get_mut(&number) else { continue };
            request.holder = Some((epoch, handle));
            request.covers = covers;
            let mut raw = v2::Request { handle, ..request.raw };
            if raw.op == v2::OP_WRITE {
                if let Some(data) = room.put(&request.data, fetch) {
                    (raw.data, raw.flags) = (data, raw.flags | v2::REQUEST_DATA);
                }
            }
            self.handles.insert(handle, number);
            fetch.requests[have + count] = identity.request(raw);
            count += 1;
        }
        count
    }

    /// Carries out an answer.
    fn answer(&mut self, epoch: u32, answer: &Answer<'_>) -> Result<(), Errno> {
        let number = *self.handles.get(&answer.handle()).ok_or(Errno::STALE)?;
        let request = self.requests.get(&number).ok_or(Errno::STALE)?;
        if request.holder.is_none_or(|(holder, _)| holder != epoch) {
            return Err(Errno::STALE);
        }
        let v2::Request { op, flags, length, .. } = request.raw;
        if answer.copies_only() {
            if op != v2::OP_WRITE || !answer.wants_data() {
                return Err(Errno::INVAL);
            }
            return answer.fill(&request.data);
        }
        let done = match answer.result() {
            Ok(done) if done > length => return Err(Errno::INVAL),
            Ok(done) => done,
            Err(error) => {
                self.finish(number, Err(told(op, error)));
                return Ok(());
            }
        };
        let short = done < length && !answer.fills_with_zeros();
        let mut data = Vec::new();
        match op {
            v2::OP_READ if !answer.has_memory() && done > 0 => return Err(Errno::INVAL),
            v2::OP_READ if !short => {
                data.resize(usize::try_from(length).unwrap_or(0), 0);
                if done > 0 {
                    answer.copy_to(&mut data[..usize::try_from(done).unwrap_or(0)])?;
                }
            }
            v2::OP_WRITE if answer.wants_data() && !short => answer.fill(&request.data)?,
            v2::OP_READ | v2::OP_WRITE => {}
            _ if answer.has_memory() => return Err(Errno::INVAL),
            _ => {}
        }
        let covers = request.covers;
        let result = match op {
            _ if short => Err(Errno::IO),
            v2::OP_FLUSH if !self.cache.flushed(epoch, covers, number) => Err(Errno::IO),
            v2::OP_READ | v2::OP_FLUSH => Ok(data),
            _ => {
                if flags & v2::REQUEST_FUA == 0 {
                    self.cache.written(epoch, self.submitted);
                }
                Ok(data)
            }
        };
        self.finish(number, result);
        Ok(())
    }
}

/// The error that the submitter gets for that of a server.
fn told(op: u32, error: Errno) -> Errno {
    let passes = match error {
        _ if op == v2::OP_FLUSH => false,
        Errno::NODEV | Errno::BADE | Errno::NOLINK | Errno::ILSEQ | Errno::TIMEDOUT | Errno::REMOTEIO => true,
        Errno::NOSPC => op != v2::OP_READ,
        Errno::OPNOTSUPP => !matches!(op, v2::OP_READ | v2::OP_WRITE),
        _ => false,
    };
    if passes { error } else { Errno::IO }
}

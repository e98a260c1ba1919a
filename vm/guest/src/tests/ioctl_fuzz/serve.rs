// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers of version 2: they fetch requests and answer them, usually correctly and soon. They also call ENTER
//! with arguments of any kind.

use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::io::Errno;
use zosbd2::v2::abi;

use super::calls::Call;
use super::memory::DATA;
use super::process::Held;
use super::thread::{Shape, Thread};
use crate::guest::raw::{self, PAGE};

const ENTER: Shape = Shape {
    call: Call::Enter,
    command: abi::IOCTL_ENTER,
    reserved: &[],
    addresses: &[8, 16, 24, 40],
    results: Some(offset_of!(abi::Enter, processed)),
};

/// Entries of each array.
const BATCH: usize = 16;
/// Most calls of a server in one step.
const CALLS: u64 = 16;
/// Most pieces of a commit.
const PIECES: usize = 4;

/// Contents of one ENTER.
#[derive(Debug, Default)]
struct Batch {
    commits: Vec<abi::Commit>,
    /// The request that each commit answers; `None` for a made-up handle.
    requests: Vec<Option<abi::Request>>,
}

impl Thread<'_> {
    /// Serves a device for some calls, as long as there is work.
    pub(super) fn serve(&mut self) {
        let Some(held) = self.server() else { return };
        for _ in 0..=self.random.below(CALLS) {
            match self.work(&held) {
                Ok(()) if held.unanswered().is_empty() && self.random.chance(50) => return,
                Ok(()) | Err(Errno::INTR | Errno::FAULT | Errno::INVAL | Errno::TOOBIG) => {}
                // No more requests will come.
                Err(_) => {
                    if self.random.chance(70) {
                        self.process.forget(&held);
                    }
                    return;
                }
            }
        }
    }

    /// One ENTER on a descriptor, with random contents.
    pub(super) fn enter(&mut self, held: &Held) {
        let commits = (0..self.random.below(4)).map(|_| self.made_up()).collect::<Vec<_>>();
        let requests = vec![None; commits.len()];
        let (minimum, timeout_ms) = (self.random.pick(&[0, 0, 0, 1, 1, 2, 17]), self.random.pick(&[0, 1, 5]));
        let argument = abi::Enter {
            flags: abi::ENTER_TIMEOUT,
            minimum,
            timeout_ms,
            queue: self.random.pick(&[0, 0, 0, 0, 1, 2]),
            spin_us: self.random.pick(&[0, 0, 0, 0, 50, 10_001]),
            ..abi::Enter::default()
        };
        let _counted = self.call(held, &argument, Batch { commits, requests });
    }

    /// Answers some of the unanswered requests and fetches more.
    fn work(&mut self, held: &Arc<Held>) -> Result<(), Errno> {
        let mut batch = Batch::default();
        let most = usize::try_from(self.random.below(BATCH as u64 / 2)).expect("small");
        let taken: Vec<abi::Request> = {
            let mut unanswered = held.unanswered();
            let from = unanswered.len().saturating_sub(most);
            unanswered.drain(from..).collect()
        };
        for (index, request) in taken.into_iter().enumerate() {
            let commit = self.answer(&request, index);
            batch.commits.push(commit);
            batch.requests.push(Some(request));
            if self.random.chance(3) {
                // The same commit twice.
                batch.commits.push(commit);
                batch.requests.push(None);
            }
        }
        if self.random.chance(10) {
            let commit = self.made_up();
            batch.commits.push(commit);
            batch.requests.push(None);
        }
        let queue = u32::try_from(self.random.below(held.queues.into())).expect("small");
        let limited = self.random.chance(98);
        let argument = abi::Enter {
            flags: if limited { abi::ENTER_TIMEOUT } else { 0 },
            queue,
            minimum: self.random.pick(&[0, 1, 1, 2]),
            timeout_ms: if limited { self.random.pick(&[1, 1, 5, 20]) } else { 0 },
            spin_us: self.random.pick(&[0, 0, 0, 50]),
            ..abi::Enter::default()
        };
        self.call(held, &argument, batch)
    }

    /// An ENTER with these commits, and arrays to fetch into. The fetched requests become unanswered.
    fn call(&mut self, held: &Held, argument: &abi::Enter, batch: Batch) -> Result<(), Errno> {
        let place = |base: usize, index: usize, size: u32| base + index * size as usize;
        let mut sent = *argument;
        sent.commit_bytes = self.random.pick(&[40, 40, 40, 41, 64, 80]);
        sent.request_bytes = self.random.pick(&[48, 48, 48, 49, 64, 80]);
        let (commits_at, unknown) = self.put_commits(&batch.commits, sent.commit_bytes);
        let capacity =
            self.random.pick(&[0, 1, 4, BATCH]).max(usize::try_from(argument.minimum).expect("small"));
        let requests_at = self.memory.requests.at_end(place(0, capacity, sent.request_bytes));
        sent.commits = commits_at as u64;
        sent.commit_count = u32::try_from(batch.commits.len()).expect("few");
        sent.requests = requests_at as u64;
        sent.capacity = u32::try_from(capacity).expect("few");
        (sent.arena, sent.arena_bytes) = match self.random.below(4) {
            0 => (0, 0),
            1 => (self.memory.data.at_end(4096) as u64, 4096),
            _ => (self.memory.data.at_end(DATA) as u64, DATA as u64),
        };
        let buffers = if self.random.chance(40) { self.put_buffers(&mut sent) } else { Vec::new() };
        // Memory that cannot be written, or that holds no data.
        if self.random.chance(6) {
            let bad = self.memory.bad(&mut self.random, 4096).0 as u64;
            match self.random.below(3) {
                0 => sent.commits = bad,
                1 => sent.requests = bad,
                _ if sent.buffer_count > 0 => sent.buffers = bad,
                _ => sent.arena = bad,
            }
        }
        let ended = self.issue(held.as_fd(), &ENTER, &sent);
        let result = ended.result.as_ref().map(|_| ()).map_err(|errno| *errno);
        // The results in invalid memory, or in arrays of other sizes, cannot be checked.
        let readable = ended.seen
            && ended.after.commits == commits_at as u64
            && ended.after.requests == requests_at as u64
            && ended.after.commit_count == sent.commit_count
            && ended.after.commit_bytes == sent.commit_bytes
            && ended.after.request_bytes == sent.request_bytes
            && ended.after.capacity == sent.capacity;
        if !readable {
            return result;
        }
        let abi::Enter { processed, refused, fetched, .. } = ended.after;
        // The call was refused as a whole: the result fields are unchanged.
        if matches!(result, Err(Errno::INVAL | Errno::TOOBIG | Errno::PERM)) {
            held.unanswered().extend(batch.requests.into_iter().flatten());
            return result;
        }
        assert!(refused <= processed && processed <= sent.commit_count, "{:?}", ended.after);
        assert!(fetched <= sent.capacity, "{:?}", ended.after);
        assert!(result.is_ok() || fetched == 0, "{result:?}: {:?}", ended.after);
        let mut counted = 0;
        for (index, (commit, request)) in batch.commits.iter().zip(batch.requests).enumerate() {
            let at = place(commits_at, index, sent.commit_bytes);
            let after: abi::Commit = self.memory.commits.get_value(at);
            if index >= usize::try_from(processed).expect("few") {
                held.unanswered().extend(request);
                continue;
            }
            // The kernel writes a status only if it refuses the commit.
            let errno = (after.status != commit.status || commit.status != 0).then_some(after.status);
            let outcome = errno.map_or(Ok(()), |status| Err(Errno::from_raw_os_error(-status)));
            counted += u32::from(outcome.is_err());
            self.ends(Call::Commit, outcome);
            assert!(!unknown[index] || outcome == Err(Errno::TOOBIG), "{after:?}: {outcome:?}");
            let kept = matches!(outcome, Err(Errno::FAULT | Errno::INVAL | Errno::TOOBIG))
                || (outcome.is_ok() && commit.flags & abi::COMMIT_COPY_ONLY != 0);
            if kept {
                held.unanswered().extend(request);
            }
        }
        if result != Err(Errno::FAULT) {
            assert_eq!(counted, refused, "{:?}", ended.after);
        }
        for index in 0..usize::try_from(fetched).expect("few") {
            let at = place(requests_at, index, sent.request_bytes);
            let request: abi::Request = self.memory.requests.get_value(at);
            let known = size_of::<abi::Request>();
            let rest = self.memory.requests.get(at + known, sent.request_bytes as usize - known);
            assert!(rest.iter().all(|byte| *byte == 0), "{rest:02x?}");
            check_request(&request, &ended.after, &buffers);
            if request.flags & abi::REQUEST_DATA != 0 && ended.after.buffer_count > 0 {
                self.ends(Call::Buffered, Ok(()));
            }
            self.process.board.remember(request.handle);
            // Some requests are forgotten: their deadline or the death of this server ends them.
            if self.random.chance(97) {
                held.unanswered().push(request);
            }
        }
        result
    }

    /// Puts entries of `bytes` into memory. Returns their address, and for each entry whether its unknown part is not
    /// zero.
    fn put_commits(&mut self, commits: &[abi::Commit], bytes: u32) -> (usize, Vec<bool>) {
        let size = bytes as usize;
        let base = self.memory.commits.at_end(commits.len() * size);
        let mut unknown = Vec::new();
        for (index, commit) in commits.iter().enumerate() {
            let mut bytes = raw::bytes_of(commit);
            bytes.resize(size, 0);
            unknown.push(size > size_of::<abi::Commit>() && self.random.chance(10));
            if unknown[index] {
                bytes[size - 1] = 1;
            }
            self.memory.commits.put(base + index * size, &bytes);
        }
        (base, unknown)
    }

    /// Replaces the arena by buffers of all lengths, some of them in invalid memory.
    fn put_buffers(&mut self, sent: &mut abi::Enter) -> Vec<abi::Iovec> {
        // Apart from the pieces of commits.
        let at = self.memory.iovecs.at_end(PAGE);
        let mut buffers = Vec::new();
        for index in 0..usize::try_from(self.random.below(BATCH as u64)).expect("few") {
            let length = self.random.pick(&[0, 512, 4096, 4096, 65536]);
            let address = if self.random.chance(97) {
                self.memory.data.at_end(length)
            } else {
                self.memory.bad(&mut self.random, length).0
            };
            let buffer = abi::Iovec { address: address as u64, length: length as u64 };
            self.memory.iovecs.put_value(at + index * size_of::<abi::Iovec>(), &buffer);
            buffers.push(buffer);
        }
        (sent.arena, sent.arena_bytes) = (0, 0);
        (sent.buffers, sent.buffer_count) = (at as u64, u32::try_from(buffers.len()).expect("few"));
        buffers
    }

    /// An answer to a request, usually a correct one.
    fn answer(&mut self, request: &abi::Request, index: usize) -> abi::Commit {
        let mut commit = abi::Commit {
            handle: request.handle,
            result: i64::try_from(request.length).unwrap_or(i64::MAX),
            ..Default::default()
        };
        let bytes = usize::try_from(request.length).unwrap_or(usize::MAX);
        let with_data = request.flags & abi::REQUEST_DATA != 0;
        let address = self.memory.data.at_end(bytes.min(DATA)) as u64;
        let reads = request.op == abi::OP_READ;
        if reads || (request.op == abi::OP_WRITE && !with_data) {
            match self.random.below(10) {
                _ if bytes > DATA && !reads => {}
                1 | 2 if bytes <= DATA => self.scatter(&mut commit, bytes, index),
                3.. if bytes <= DATA => commit.address = address,
                _ if reads => (commit.flags, commit.result) = (abi::COMMIT_ZERO_FILL, 0),
                _ => (commit.flags, commit.address) = (abi::COMMIT_COPY_ONLY, address),
            }
        }
        if self.random.chance(8) {
            commit = abi::Commit {
                handle: request.handle,
                result: self.random.pick(&[-5, -28, -95, -1, -4095, -110]),
                ..Default::default()
            };
        }
        if self.random.chance(12) {
            self.spoil_commit(&mut commit);
        }
        commit
    }

    /// Splits the data into pieces.
    fn scatter(&mut self, commit: &mut abi::Commit, bytes: usize, index: usize) {
        let size = size_of::<abi::Iovec>();
        let base = self.memory.iovecs.at_end((BATCH - index) * PIECES * size);
        let count = 1 + usize::try_from(self.random.below(PIECES as u64)).expect("few");
        let mut left = bytes;
        for piece in 0..count {
            let length = if piece + 1 == count { left } else { left / 2 };
            let address = if self.random.chance(95) {
                self.memory.data.at_end(length.min(DATA))
            } else {
                self.memory.bad(&mut self.random, length).0
            };
            let iovec = abi::Iovec { address: address as u64, length: length as u64 };
            self.memory.iovecs.put_value(base + piece * size, &iovec);
            left -= length;
        }
        commit.flags = abi::COMMIT_IOVEC;
        commit.iovec_count = u32::try_from(count).expect("few");
        commit.address = base as u64;
    }

    /// Makes a commit invalid.
    fn spoil_commit(&mut self, commit: &mut abi::Commit) {
        match self.random.below(10) {
            0 => commit.handle ^= 1 << self.random.below(64),
            1 => commit.handle = self.process.board.remembered(&mut self.random),
            2 | 3 => commit.address = self.memory.bad(&mut self.random, 4096).0 as u64,
            4 => commit.result = self.random.pick(&[0, 1, -4096, i64::MIN, i64::MAX, commit.result + 512]),
            5 => commit.flags ^= 1 << self.random.below(5),
            6 => commit.iovec_count = self.random.pick(&[1, abi::MAX_IOVECS, abi::MAX_IOVECS + 1, u32::MAX]),
            7 => commit.reserved = 1,
            8 => commit.status = -1,
            _ => commit.flags |= 1 << 31,
        }
        // The contents of foreign iovec arrays are unknown.
        if commit.flags & abi::COMMIT_IOVEC != 0 && commit.iovec_count > 0 {
            let base = self.memory.iovecs.at_end(PIECES * size_of::<abi::Iovec>());
            if !self.holds_iovecs(commit.address) {
                commit.address = base as u64;
            }
        }
    }

    /// Whether an address is inside the thread's own iovec array.
    fn holds_iovecs(&self, address: u64) -> bool {
        let all = self.memory.iovecs.at_end(BATCH * PIECES * size_of::<abi::Iovec>()) as u64;
        (all..all + (BATCH * PIECES * size_of::<abi::Iovec>()) as u64).contains(&address)
    }

    /// A commit with a handle of another thread, or with an invented one.
    fn made_up(&mut self) -> abi::Commit {
        let handle = match self.random.below(4) {
            0 => self.random.next(),
            1 => self.random.pick(&[0, 1, u64::MAX]),
            _ => self.process.board.remembered(&mut self.random),
        };
        let result = self.random.pick(&[0, 512, 4096, -5]);
        let address =
            if result > 0 && self.random.chance(80) { self.memory.data.at_end(4096) as u64 } else { 0 };
        let mut commit = abi::Commit { handle, result, address, ..Default::default() };
        if self.random.chance(20) {
            self.spoil_commit(&mut commit);
        }
        commit
    }
}

/// Checks that hold for every request.
fn check_request(request: &abi::Request, sent: &abi::Enter, buffers: &[abi::Iovec]) {
    let known = abi::REQUEST_FUA | abi::REQUEST_NO_UNMAP | abi::REQUEST_MAYBE_EXECUTED | abi::REQUEST_DATA;
    assert!(request.op <= abi::OP_SECURE_ERASE && request.flags & !known == 0, "{request:?}");
    assert_eq!(request.reserved, 0, "{request:?}");
    assert_eq!(request.length == 0, request.op == abi::OP_FLUSH, "{request:?}");
    assert_eq!((request.offset | request.length) % 512, 0, "{request:?}");
    if request.flags & abi::REQUEST_DATA != 0 {
        assert!(request.op == abi::OP_WRITE, "{request:?}");
        if sent.buffer_count == 0 {
            assert!(request.data + request.length <= sent.arena_bytes, "{request:?} of {sent:?}");
        } else {
            assert!(request.data < sent.buffer_count.into(), "{request:?} of {sent:?}");
            // The list may have been changed to an invalid or a longer one.
            let buffer = usize::try_from(request.data).ok().and_then(|number| buffers.get(number));
            assert!(buffer.is_none_or(|buffer| request.length <= buffer.length), "{request:?} of {sent:?}");
        }
    }
}

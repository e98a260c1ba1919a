// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other side of ENTER, for channels that are not the kernel: layers and fakes.
//!
//! Such a channel hands out requests under an [`Identity`] of its own. Batches for another server never reach the
//! kernel ([`ServerFd::enter`](super::ServerFd::enter) refuses them), so a layer may change a request, for example
//! shorten it: the channel itself carries out the answers, or passes them on to the channel below.
//!
//! All functions are safe. The memory of an answer has at least as many bytes as the answer states, because [`Batch`]
//! compared it with the length of the request. It may be written to only if it came from a function of [`Batch`] for
//! writes, which the batch records. The kernel copies the bytes ([`transfer`]), because others may access the bytes of a
//! region at the same time, and because memory that cannot be accessed is an error and no signal.

use super::{Batch, Buffers, Fetched, OWN, ServerId, bytes, status, transfer};
use crate::Errno;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU8;
use zosbd2_abi::v2;

/// The right to hand out requests that are not the kernel's, for a [`Channel`](crate::Channel) of one's own.
#[derive(Debug)]
pub struct Identity(ServerId);

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// Another one with each call.
    #[must_use]
    pub fn new() -> Self {
        Self(ServerId(ServerId::next().0 | OWN))
    }

    /// The channel's [`id`](crate::Channel::id).
    #[must_use]
    pub fn id(&self) -> ServerId {
        self.0
    }

    /// A request to hand out. Its handle must differ from that of every other request of this channel that may be
    /// answered.
    #[must_use]
    pub fn request(&self, raw: v2::Request) -> Fetched {
        Fetched(v2::Request { reserved: self.0.0, ..raw })
    }
}

impl Fetched {
    /// The request in the form of the interface. The reserved field has no meaning.
    #[must_use]
    pub fn raw(&self) -> v2::Request {
        self.0
    }
}

/// An entry of a [`Batch`], as the one sees it who carries it out.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'b> {
    commit: v2::Commit,
    writable: bool,
    memory: PhantomData<&'b [AtomicU8]>,
}

impl Answer<'_> {
    /// Handle of the request.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.commit.handle
    }

    /// Number of bytes that are done, or why the request fails. For an entry that only
    /// [copies](Self::copies_only), the length of the memory.
    pub fn result(&self) -> Result<u64, Errno> {
        let failed = |_| Errno::from_raw_os_error(i32::try_from(-self.commit.result).unwrap_or(i32::MAX));
        u64::try_from(self.commit.result).map_err(failed)
    }

    /// Whether the entry only asks for the data of a write, and the request needs another answer.
    #[must_use]
    pub fn copies_only(&self) -> bool {
        self.commit.flags & v2::COMMIT_COPY_ONLY != 0
    }

    /// Whether a read with fewer bytes than its request has succeeds, and the rest of it reads as zeros.
    #[must_use]
    pub fn fills_with_zeros(&self) -> bool {
        self.commit.flags & v2::COMMIT_ZERO_FILL != 0
    }

    /// Whether the entry names memory: with the data of a read, or for the data of a write.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.commit.address != 0
    }

    /// Whether the entry names memory for the data of a write.
    #[must_use]
    pub fn wants_data(&self) -> bool {
        self.has_memory() && self.writable
    }

    /// Copies the data of a read to `target`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the memory of the answer cannot be read. The kernel refuses such an answer with it.
    ///
    /// # Panics
    ///
    /// If `target` is longer than the memory of the answer.
    pub fn copy_to(&self, target: &mut [u8]) -> Result<(), Errno> {
        transfer::read(self.start(target.len()), target)
    }

    /// Copies the data of a write into the memory of the answer.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the memory of the answer cannot be written to. The kernel refuses such an answer with it.
    ///
    /// # Panics
    ///
    /// If the answer is not one to a write, or if `data` is longer than its memory.
    pub fn fill(&self, data: &[u8]) -> Result<(), Errno> {
        assert!(self.writable, "the answer has no memory for data");
        // SAFETY: the memory is that long and borrowed for `'b`, exclusively or as a region, as the batch recorded. So `data`,
        // a shared reference, is elsewhere.
        unsafe { transfer::write(data, self.start(data.len())) }
    }

    /// The same answer without memory, whose data was moved by other means.
    #[must_use]
    pub fn without_memory(self) -> Self {
        Self { commit: v2::Commit { address: 0, ..self.commit }, writable: false, ..self }
    }

    /// The same, but only asks for the data of the write.
    ///
    /// # Panics
    ///
    /// If the answer has no memory for it.
    #[must_use]
    pub fn only_copying(self) -> Self {
        assert!(self.wants_data(), "the answer has no memory for data");
        Self { commit: v2::Commit { flags: v2::COMMIT_COPY_ONLY, ..self.commit }, ..self }
    }

    /// Address of the memory, which has at least this many bytes.
    fn start(&self, length: usize) -> u64 {
        assert!(self.has_memory() && bytes(length as u64) <= self.commit.result, "the memory is shorter");
        self.commit.address
    }
}

impl<'a> Batch<'a> {
    /// Whether the batch is one of answers to requests of this server.
    #[must_use]
    pub fn is_for(&self, server: ServerId) -> bool {
        self.server == server
    }

    /// The answers that nobody has carried out yet, in their order. If the batch is for the kernel, none wants data.
    pub fn answers(&self) -> impl Iterator<Item = Answer<'_>> {
        let first = self.processed.min(self.entries.len());
        (first..).zip(&self.entries[first..]).map(|(number, commit)| Answer {
            commit: *commit,
            writable: self.writable.binary_search(&number).is_ok(),
            memory: PhantomData,
        })
    }

    /// Marks the first answer that nobody has carried out as carried out or refused.
    pub fn process(&mut self, result: Result<(), Errno>) {
        if let Some(entry) = self.entries.get_mut(self.processed) {
            entry.status = result.map_or_else(|error| -error.raw_os_error(), |()| 0);
            self.processed += 1;
        }
    }

    /// What became of an answer, counted from 0. `None`: nothing yet.
    #[must_use]
    pub fn outcome(&self, number: usize) -> Option<Result<(), Errno>> {
        let entry = self.entries[..self.processed.min(self.entries.len())].get(number)?;
        Some(if entry.status == 0 { Ok(()) } else { Err(status(entry)) })
    }

    /// Adds an answer that was given to another channel. `request` is the request as the server of this batch handed
    /// it out. If fewer bytes are done than it has, it fails.
    ///
    /// # Panics
    ///
    /// If the request is one of another server, or if the memory of the answer is for another operation or is too short
    /// for its data.
    pub fn pass(&mut self, request: &Fetched, answer: &Answer<'a>) {
        let Answer { commit: v2::Commit { result, address, flags, .. }, .. } = *answer;
        assert!(self.server.0 == request.0.reserved, "the request belongs to another server");
        if answer.wants_data() {
            assert!(result >= bytes(request.0.length), "the memory is shorter than the request");
            self.note_writable();
        } else if answer.has_memory() {
            assert!(request.op() == v2::OP_READ, "the memory may only be read");
        }
        let entry = v2::Commit { handle: request.0.handle, result, address, flags, ..v2::Commit::default() };
        self.entries.push(entry);
    }

    /// Answers that only `done` bytes of the request are done, without data; of a read, none. The request fails if it is
    /// not empty.
    pub fn short(&mut self, request: &Fetched, done: u64) {
        self.push(request, bytes(done.min(request.0.length)), 0, 0);
    }
}

impl Buffers<'_> {
    /// Bytes of a buffer.
    #[must_use]
    pub fn room(&self, number: usize) -> Option<u64> {
        self.entries.get(number).map(|buffer| buffer.length)
    }

    /// Copies `data` to the start of a buffer.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the buffer cannot be written to.
    ///
    /// # Panics
    ///
    /// If there is no such buffer, or if it is too short.
    pub fn fill(&mut self, number: usize, data: &[u8]) -> Result<(), Errno> {
        let buffer = self.entries[number];
        assert!(data.len() as u64 <= buffer.length, "the buffer is too short");
        // SAFETY: the buffer is that long and borrowed, exclusively or as a region. So `data`, a shared reference, is elsewhere.
        unsafe { transfer::write(data, buffer.address) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answers, BufferList, Fetch, SparseMemory};

    fn request(identity: &Identity, op: u32, length: u64) -> Fetched {
        identity.request(v2::Request { handle: 7, op, length, ..v2::Request::default() })
    }

    #[test]
    fn a_list_names_its_buffers_in_their_order() {
        let mut list = BufferList::with_capacity(2);
        let (mut first, mut second) = ([0_u8; 4], [0_u8; 6]);
        let mut fetch = Fetch::default();
        let mut buffers = list.begin();
        assert!(buffers.is_empty());
        buffers.push(&mut first);
        buffers.push(&mut []);
        buffers.push(&mut second);
        fetch.buffers = Some(buffers);
        let mut again = fetch.again();
        let buffers = again.buffers.as_mut().expect("a list");
        assert_eq!(buffers.len(), 3);
        assert_eq!([0, 1, 2, 3].map(|number| buffers.room(number)), [Some(4), Some(0), Some(6), None]);
        buffers.fill(2, b"second").expect("writable");
        buffers.fill(0, b"one").expect("writable");
        assert_eq!((&first, &second), (b"one\0", b"second"));
        assert_eq!(list.begin().len(), 0);
    }

    #[test]
    fn an_answer_has_its_memory_and_its_outcome() {
        let identity = Identity::new();
        let [read, write] = [v2::OP_READ, v2::OP_WRITE].map(|op| request(&identity, op, 4));
        let (data, mut target, mut copied) = (*b"data", [0; 4], [0; 8]);
        let mut answers = Answers::with_capacity(4);
        let mut batch = answers.begin(identity.id());
        batch.read(&read, &data);
        batch.copy(&write, &mut copied);
        batch.write(&write, &mut target);
        batch.fail(&read, Errno::NOSPC);
        let mut found = [0; 4];
        let list: Vec<_> = batch.answers().collect();
        list[0].copy_to(&mut found).expect("readable");
        assert_eq!((&found, list[0].result(), list[0].wants_data()), (b"data", Ok(4), false));
        assert!(list[1].copies_only() && list[2].wants_data() && !list[3].has_memory());
        list[1].fill(b"copy").expect("writable");
        list[2].fill(b"more").expect("writable");
        assert_eq!((list[3].result(), list[2].without_memory().has_memory()), (Err(Errno::NOSPC), false));
        drop(list);
        batch.process(Ok(()));
        batch.process(Err(Errno::STALE));
        assert_eq!([0, 1, 2].map(|n| batch.outcome(n)), [Some(Ok(())), Some(Err(Errno::STALE)), None]);
        assert_eq!(batch.answers().count(), 2);
        assert_eq!((&target, &copied), (b"more", b"copy\0\0\0\0"));
    }

    #[test]
    fn an_answer_is_passed_on_with_its_memory() {
        let (upper, lower) = (Identity::new(), Identity::new());
        let mut target = [0; 4];
        let (mut above, mut below) = (Answers::with_capacity(1), Answers::with_capacity(1));
        let mut batch = above.begin(upper.id());
        batch.write(&request(&upper, v2::OP_WRITE, 4), &mut target);
        let mut passed = below.begin(lower.id());
        for answer in batch.answers() {
            passed.pass(&request(&lower, v2::OP_WRITE, 4), &answer);
            passed.pass(&request(&lower, v2::OP_WRITE, 8), &answer.without_memory());
        }
        passed.answers().next().expect("passed").fill(b"data").expect("writable");
        assert_eq!((passed.len(), passed.is_for(lower.id()), batch.is_for(lower.id())), (2, true, false));
        assert_eq!(&target, b"data");
    }

    #[test]
    #[should_panic(expected = "the memory is shorter than the request")]
    fn memory_that_is_too_short_is_not_passed_on() {
        let (upper, lower) = (Identity::new(), Identity::new());
        let mut target = [0; 4];
        let (mut above, mut below) = (Answers::with_capacity(1), Answers::with_capacity(1));
        let mut batch = above.begin(upper.id());
        batch.write(&request(&upper, v2::OP_WRITE, 4), &mut target);
        let answer = batch.answers().next().expect("an answer");
        below.begin(lower.id()).pass(&request(&lower, v2::OP_WRITE, 8), &answer);
    }

    #[test]
    #[should_panic(expected = "the answer has no memory for data")]
    fn the_data_of_a_read_is_not_written_to() {
        let identity = Identity::new();
        let mut answers = Answers::with_capacity(1);
        let mut batch = answers.begin(identity.id());
        batch.read(&request(&identity, v2::OP_READ, 4), b"data");
        let _ = batch.answers().next().expect("an answer").fill(b"more");
    }

    #[test]
    #[should_panic(expected = "the region may only be read")]
    fn zeros_are_not_written_to() {
        let identity = Identity::new();
        let memory = SparseMemory::new(1 << 20).expect("memory");
        let zeros = memory.read_region(0, 4).expect("inside").expect("never written");
        Answers::with_capacity(1)
            .begin(identity.id())
            .write_region(&request(&identity, v2::OP_WRITE, 4), zeros);
    }

    /// Pages behind the end of a file.
    #[test]
    fn memory_that_cannot_be_accessed_is_an_error() {
        let identity = Identity::new();
        let file = tempfile::tempfile_in("/dev/shm").expect("a file");
        let memory = SparseMemory::in_file(file.try_clone().expect("clone"), 8192).expect("memory");
        let mut answers = Answers::with_capacity(2);
        let mut batch = answers.begin(identity.id());
        let region = memory.region(0, 8192).expect("inside");
        batch.read_region(&request(&identity, v2::OP_READ, 8192), region);
        batch.write_region(&request(&identity, v2::OP_WRITE, 8192), region);
        let [read, write] = [0, 1].map(|n| batch.answers().nth(n).expect("an answer"));
        write.fill(&[7; 8192]).expect("writable");
        // The first page is accessible, and the second is not.
        file.set_len(4096).expect("shorter");
        let mut found = [0; 8192];
        assert_eq!(read.copy_to(&mut found), Err(Errno::FAULT));
        assert_eq!(write.fill(&[8; 8192]), Err(Errno::FAULT));
        read.copy_to(&mut found[..4096]).expect("the rest is there");
        assert_eq!(found[..4096], [8; 4096]);
        let mut list = BufferList::with_capacity(1);
        let mut buffers = list.begin();
        buffers.push_region(region);
        assert_eq!(buffers.fill(0, &[9; 8192]), Err(Errno::FAULT));
    }

    /// For the thread sanitizer, too, which sees the accesses of this process.
    #[test]
    fn others_may_access_a_region_meanwhile() {
        const BYTES: usize = 4096;
        let identity = Identity::new();
        let memory = SparseMemory::new(1 << 20).expect("memory");
        memory.write_at(0, &[1; BYTES]).expect("inside");
        std::thread::scope(|scope| {
            for fill in 2..4 {
                let memory = &memory;
                scope.spawn(move || {
                    for _ in 0..200 {
                        memory.write_at(0, &[fill; BYTES]).expect("inside");
                        let mut found = [0; BYTES];
                        memory.read_at(0, &mut found).expect("inside");
                        assert!(found.iter().all(|byte| (1..6).contains(byte)));
                    }
                });
            }
            let mut answers = Answers::with_capacity(2);
            for _ in 0..200 {
                let region = memory.region(0, BYTES).expect("inside");
                let mut batch = answers.begin(identity.id());
                batch.write_region(&request(&identity, v2::OP_WRITE, BYTES as u64), region);
                batch.read_region(&request(&identity, v2::OP_READ, BYTES as u64), region);
                let [write, read] = [0, 1].map(|n| batch.answers().nth(n).expect("an answer"));
                write.fill(&[5; BYTES]).expect("writable");
                let mut found = [0; BYTES];
                read.copy_to(&mut found).expect("readable");
                assert!(found.iter().all(|byte| (1..6).contains(byte)));
            }
        });
    }
}

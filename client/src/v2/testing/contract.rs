// SPDX-License-Identifier: MIT OR Apache-2.0
//! What servers may rely on, as test cases for any kernel: the one in memory and the real one.
//!
//! The library's tests run all [`cases`] on the [`Kernel`](super::Kernel) in memory, the test `v2_contract` on the module
//! in a virtual machine, so that the two do not drift apart. A case panics if the contract is broken. It serves by hand,
//! with one thread, a device of its own name, and destroys the device in the end.

mod hand;

use self::hand::{
    LONG, answer_one, fail_all, fetch, fetch_with, give, give_one, look, marks, offsets, places, read_at,
    submit, write_at,
};
use super::Io;
use crate::v2::{Answers, BufferList, Builder, Channel, Fetch, Fetched, TakeOver, abi};
use crate::{Errno, Result};
use std::time::{Duration, Instant};

/// Waits for the end of a request, and returns the data of a read.
pub type Waiter = Box<dyn FnOnce() -> Result<Vec<u8>, Errno> + Send>;

/// A kernel with a way to create devices and to use them.
pub trait System {
    /// A server. Dropping it is its death.
    type Server: Channel;

    /// Creates and starts a device.
    fn create(&self, builder: &Builder) -> Self::Server;

    /// Attaches to a device.
    fn attach(&self, name: &str, take_over: TakeOver) -> Result<Self::Server>;

    /// States that the server has the cache of those before it.
    fn claim_cache(&self, server: &Self::Server) -> Result<()>;

    /// Number of requests that wait, and of those that are held, in the first queue.
    fn outstanding(&self, server: &Self::Server) -> (usize, usize);

    /// Destroys a device by force, if it exists.
    fn destroy(&self, name: &str);

    /// Submits a request without waiting for it.
    fn submit(&self, name: &str, io: Io) -> Waiter;
}

/// A case.
pub struct Case<S> {
    name: &'static str,
    body: fn(&S, &Builder),
}

impl<S: System> Case<S> {
    /// Its name. That of its device is `contract-NAME`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the case.
    ///
    /// # Panics
    ///
    /// If the contract is broken.
    pub fn run(&self, system: &S) {
        let name = format!("contract-{}", self.name);
        let builder = Builder::new(&name).size_bytes(SIZE).partition_scan(false).max_io_bytes(65536);
        (self.body)(system, &builder);
        system.destroy(&name);
    }
}

/// All cases.
#[must_use]
pub fn cases<S: System>() -> Vec<Case<S>> {
    let case = |name, body| Case { name, body };
    vec![
        case("fifo", fifo),
        case("stale", stale),
        case("threads", threads),
        case("order", order),
        case("copy-only", copy_only),
        case("arena", arena),
        case("buffers", buffers),
        case("short", short),
        case("errors", errors),
        case("timeout", timeout),
        case("death", death),
        case("take-over", take_over),
        case("claim", claim),
        case("lost-cache", lost_cache),
        case("flush-covers", flush_covers),
        case("resize", resize),
        case("destroy", destroyed),
    ]
}

/// Size of the devices.
const SIZE: u64 = 1 << 20;

/// A queue is first in, first out.
fn fifo<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let waiters: Vec<_> = (0..8).map(|n| submit(system, &server, read_at(n * 5 % 8))).collect();
    assert_eq!(system.outstanding(&server), (8, 0));
    let mut requests = fetch(&server, 3);
    assert_eq!(system.outstanding(&server), (5, 3));
    requests.extend(fetch(&server, 5));
    assert_eq!(offsets(&requests), [0, 5, 2, 7, 4, 1, 6, 3]);
    assert_eq!(marks(&requests), [false; 8]);
    assert_eq!(look(&server), (0, None));
    fail_all(&server, &requests, waiters);
}

/// A second answer, and one to a handle that never was, are refused.
fn stale<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let waiter = submit(system, &server, read_at(0));
    let request = fetch(&server, 1)[0];
    let invented = crate::v2::Identity::new()
        .request(abi::Request { handle: !request.handle(), ..abi::Request::default() });
    let data = [7; LONG];
    let mut answers = Answers::with_capacity(4);
    let given = give(&server, &mut answers, |batch| {
        batch.done(&invented);
        batch.read(&request, &data);
        batch.read(&request, &data);
        batch.fail(&request, Errno::IO);
    });
    assert_eq!(given, [Err(Errno::STALE), Ok(()), Err(Errno::STALE), Err(Errno::STALE)]);
    assert_eq!(waiter(), Ok(data.to_vec()));
}

/// Any thread may answer, in any order.
fn threads<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let waiters: Vec<_> = (0..4).map(|n| submit(system, &server, read_at(n))).collect();
    let requests = fetch(&server, 4);
    for (number, request) in requests.iter().enumerate().rev() {
        let server = &server;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let data = [u8::try_from(number).expect("few"); LONG];
                give_one(server, &mut Answers::with_capacity(1), |batch| batch.read(request, &data));
            });
        });
    }
    for (number, waiter) in waiters.into_iter().enumerate() {
        assert_eq!(waiter(), Ok(vec![u8::try_from(number).expect("few"); LONG]));
    }
}

/// The entries of a batch are independent of each other and carried out in their order.
fn order<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let ios = [read_at(0), write_at(1, 1), write_at(2, 2), read_at(3)];
    let waiters = ios.map(|io| submit(system, &server, io));
    let requests = fetch(&server, 4);
    let (data, mut copied) = ([9; LONG], [0; LONG]);
    let mut answers = Answers::with_capacity(8);
    let given = give(&server, &mut answers, |batch| {
        batch.fail(&requests[3], Errno::NODEV);
        batch.done(&requests[3]);
        batch.write(&requests[2], &mut copied);
        batch.read(&requests[0], &data);
        batch.done(&requests[1]);
    });
    assert_eq!(given, [Ok(()), Err(Errno::STALE), Ok(()), Ok(()), Ok(())]);
    let results = waiters.map(|waiter| waiter());
    assert_eq!(results, [Ok(data.to_vec()), Ok(vec![]), Ok(vec![]), Err(Errno::NODEV)]);
    assert_eq!(copied, [2; LONG]);
}

/// The data of a write can be copied first, as often as the server likes, also in the batch of the answer.
fn copy_only<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let waiters = [write_at(1, 5), read_at(0)].map(|io| submit(system, &server, io));
    let requests = fetch(&server, 2);
    assert_eq!(requests[0].flags() & abi::REQUEST_DATA, 0, "there was no room");
    let (mut first, mut second) = ([0; LONG], [0; LONG]);
    give_one(&server, &mut Answers::with_capacity(1), |batch| batch.copy(&requests[0], &mut first));
    assert_eq!(system.outstanding(&server), (0, 2));
    let mut answers = Answers::with_capacity(2);
    let given = give(&server, &mut answers, |batch| {
        batch.copy(&requests[0], &mut second);
        batch.done(&requests[0]);
    });
    assert_eq!((given, first, second), (vec![Ok(()); 2], [5; LONG], [5; LONG]));
    let [written, read] = waiters;
    assert_eq!(written(), Ok(vec![]));
    let mut none = [0; LONG];
    let mut answers = Answers::with_capacity(1);
    let given = give(&server, &mut answers, |batch| batch.copy(&requests[1], &mut none));
    assert_eq!(given, [Err(Errno::INVAL)], "a read has no data");
    fail_all(&server, &requests[1..], vec![read]);
}

/// Data of writes comes in an arena, one behind the other.
fn arena<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let ios = [write_at(0, 1), Io::write(1 << 16, &[2; 2 * LONG]), read_at(0), write_at(5, 3)];
    let waiters: Vec<_> = ios.into_iter().map(|io| submit(system, &server, io)).collect();
    let (mut requests, mut arena) = ([Fetched::EMPTY; 4], [0; 2 * LONG]);
    let fetch = Fetch { requests: &mut requests, arena: &mut arena, ..Fetch::nothing() };
    let requests = fetch_with(&server, 4, fetch);
    assert_eq!(places(requests), [Some(0), None, None, Some(LONG as u64)]);
    fail_all(&server, requests, waiters);
    assert_eq!((&arena[..LONG], &arena[LONG..]), ([1; LONG].as_slice(), [3; LONG].as_slice()));
}

/// Data of writes comes in a list of buffers, in each the data of one write.
fn buffers<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let ios = [Io::write(1 << 16, &[2; 2 * LONG]), write_at(0, 1), read_at(0), write_at(5, 3)];
    let waiters: Vec<_> = ios.into_iter().map(|io| submit(system, &server, io)).collect();
    let (mut first, mut second, mut third) = ([0; LONG], [0; LONG + 1], [0; LONG]);
    let mut requests = [Fetched::EMPTY; 4];
    let mut list = BufferList::with_capacity(3);
    let mut buffers = list.begin();
    buffers.push(&mut first);
    buffers.push(&mut second);
    buffers.push(&mut third);
    let fetch = Fetch { requests: &mut requests, buffers: Some(buffers), ..Fetch::nothing() };
    let requests = fetch_with(&server, 4, fetch);
    assert_eq!(places(requests), [None, Some(0), None, Some(1)]);
    fail_all(&server, requests, waiters);
    assert_eq!((first, &second[..LONG]), ([1; LONG], [3; LONG].as_slice()));
}

/// A short answer fails its request, unless the rest of a read is to be zeros.
fn short<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let waiters = [read_at(0), read_at(1), read_at(2), write_at(3, 1)].map(|io| submit(system, &server, io));
    let requests = fetch(&server, 4);
    let data = [7; 512];
    let mut answers = Answers::with_capacity(4);
    let given = give(&server, &mut answers, |batch| {
        batch.short(&requests[0], 0);
        batch.read_and_zero(&requests[1], &data);
        batch.read_and_zero(&requests[2], &[]);
        batch.short(&requests[3], 512);
    });
    assert_eq!(given, [Ok(()); 4]);
    let filled = [data.as_slice(), &[0; LONG - 512]].concat();
    let results = waiters.map(|waiter| waiter());
    assert_eq!(results, [Err(Errno::IO), Ok(filled), Ok(vec![0; LONG]), Err(Errno::IO)]);
}

/// Errors that have another meaning above the disk become `EIO`.
fn errors<S: System>(system: &S, builder: &Builder) {
    let server = system.create(&builder.clone().volatile_cache(true));
    for (io, op, given, seen) in [
        (read_at(0), abi::OP_READ, Errno::NODEV, Errno::NODEV),
        (read_at(0), abi::OP_READ, Errno::NOSPC, Errno::IO),
        (write_at(0, 1), abi::OP_WRITE, Errno::NOSPC, Errno::NOSPC),
        (write_at(0, 1), abi::OP_WRITE, Errno::AGAIN, Errno::IO),
        (Io::flush(), abi::OP_FLUSH, Errno::OPNOTSUPP, Errno::IO),
    ] {
        let waiter = submit(system, &server, io);
        answer_one(&server, op, Err(given));
        assert_eq!(waiter(), Err(seen), "{given} for operation {op}");
    }
}

/// A call waits no longer than it says.
fn timeout<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let begin = Instant::now();
    loop {
        let mut requests = [Fetched::EMPTY];
        let fetch = Fetch { requests: &mut requests, minimum: 1, timeout_ms: Some(50), ..Fetch::nothing() };
        let entered = server.enter(&mut Answers::with_capacity(0).begin(server.id()), fetch);
        if entered.error == Some(Errno::INTR) {
            continue;
        }
        assert_eq!((entered.fetched, entered.error), (0, None));
        break;
    }
    assert!(begin.elapsed() >= Duration::from_millis(40), "{:?}", begin.elapsed());
}

/// The requests of a dead server go to the next one before all others, marked, with new handles.
fn death<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let waiters: Vec<_> = (0..3).map(|n| submit(system, &server, read_at(n))).collect();
    let held = fetch(&server, 2);
    drop(server);
    let server = system.attach(builder.name(), TakeOver::No).expect("attach");
    let requests = fetch(&server, 3);
    // In the order of their tags, which need not be that of their submission.
    let mut found = offsets(&requests);
    found[..2].sort_unstable();
    assert_eq!((found, marks(&requests)), (vec![0, 1, 2], vec![true, true, false]));
    let mut answers = Answers::with_capacity(1);
    assert_eq!(give(&server, &mut answers, |batch| batch.done(&held[0])), [Err(Errno::STALE)]);
    fail_all(&server, &requests, waiters);
}

/// A server that is taken over gets nothing more, and may answer what it holds.
fn take_over<S: System>(system: &S, builder: &Builder) {
    let old = system.create(builder);
    let waiters: Vec<_> = (0..3).map(|n| submit(system, &old, read_at(n))).collect();
    let held = fetch(&old, 2);
    assert!(system.attach(builder.name(), TakeOver::No).is_err(), "it has a server");
    let new = system.attach(builder.name(), TakeOver::Yes).expect("attach");
    assert_eq!(look(&old), (0, Some(Errno::SHUTDOWN)));
    let third = fetch(&new, 1);
    assert_eq!((offsets(&third), marks(&third)), (vec![2], vec![false]));
    let mut waiters = waiters.into_iter();
    fail_all(&old, &held[..1], waiters.by_ref().take(1).collect());
    drop(old);
    let second = fetch(&new, 1);
    assert_eq!((offsets(&second), marks(&second)), (vec![1], vec![true]));
    fail_all(&new, &[second[0], third[0]], waiters.collect());
}

/// A device with a volatile cache, in which a write was answered before its server died. Returns the next server.
fn after_a_write<S: System>(system: &S, builder: &Builder, flushes: bool) -> S::Server {
    let server = system.create(&builder.clone().volatile_cache(true));
    let mut waiters = vec![submit(system, &server, write_at(0, 1))];
    answer_one(&server, abi::OP_WRITE, Ok(()));
    if flushes {
        waiters.push(submit(system, &server, Io::flush()));
        answer_one(&server, abi::OP_FLUSH, Ok(()));
    }
    for waiter in waiters {
        assert_eq!(waiter(), Ok(vec![]));
    }
    drop(server);
    system.attach(builder.name(), TakeOver::No).expect("attach")
}

/// What a flush ends with that the server carries out.
fn flushed<S: System>(system: &S, server: &S::Server) -> Result<Vec<u8>, Errno> {
    let waiter = submit(system, server, Io::flush());
    answer_one(server, abi::OP_FLUSH, Ok(()));
    waiter()
}

/// A server may claim the cache until its first fetch, and nothing is lost then.
fn claim<S: System>(system: &S, builder: &Builder) {
    let server = after_a_write(system, builder, false);
    system.claim_cache(&server).expect("claim");
    assert_eq!(flushed(system, &server), Ok(vec![]));
    assert!(system.claim_cache(&server).is_err(), "it has fetched");
}

/// Without a claim, flushes fail until the loss is known: two on a quiet disk.
fn lost_cache<S: System>(system: &S, builder: &Builder) {
    let server = after_a_write(system, builder, false);
    let flushes = [(); 4].map(|()| flushed(system, &server));
    assert_eq!(flushes, [Err(Errno::IO), Err(Errno::IO), Ok(vec![]), Ok(vec![])]);
}

/// What a flush has covered is not lost.
fn flush_covers<S: System>(system: &S, builder: &Builder) {
    let server = after_a_write(system, builder, true);
    assert_eq!(flushed(system, &server), Ok(vec![]));
}

/// The size changes while the device is in use.
fn resize<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    server.resize(2 * SIZE).expect("grow");
    assert_eq!((server.size(), server.refresh_size().expect("size")), (2 * SIZE, 2 * SIZE));
    let waiter = submit(system, &server, Io::read(SIZE, LONG as u64));
    let request = answer_one(&server, abi::OP_READ, Err(Errno::IO));
    assert_eq!((request.offset(), waiter()), (SIZE, Err(Errno::IO)));
    server.resize(SIZE).expect("shrink");
    let beyond = system.submit(builder.name(), Io::read(SIZE, LONG as u64));
    assert!(beyond().is_err());
    assert_eq!(look(&server), (0, None));
    assert!(server.resize(SIZE + 1).is_err());
}

/// A destroyed device fails what it has, and every call.
fn destroyed<S: System>(system: &S, builder: &Builder) {
    let server = system.create(builder);
    let waiters: Vec<_> = (0..2).map(|n| submit(system, &server, read_at(n))).collect();
    let held = fetch(&server, 1);
    system.destroy(builder.name());
    for waiter in waiters {
        assert_eq!(waiter(), Err(Errno::IO));
    }
    assert_eq!(look(&server), (0, Some(Errno::NODEV)));
    let mut answers = Answers::with_capacity(1);
    let mut batch = answers.begin(server.id());
    batch.fail(&held[0], Errno::IO);
    let entered = server.enter(&mut batch, Fetch::nothing());
    let refused = batch.outcome(0) == Some(Err(Errno::STALE));
    assert!(refused || entered.error == Some(Errno::NODEV), "{entered:?}");
}

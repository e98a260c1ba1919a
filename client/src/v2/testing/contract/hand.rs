// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server by hand, for the cases: submits, fetches and answers, and panics if that does not go well.

use super::super::Io;
use super::{System, Waiter};
use crate::Errno;
use crate::v2::{Answers, Batch, Channel, Fetch, Fetched, abi};
use std::time::{Duration, Instant};

/// Length of most requests.
pub(super) const LONG: usize = 4096;
/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Submits, and waits until the kernel has the request.
pub(super) fn submit<S: System>(system: &S, server: &S::Server, io: Io) -> Waiter {
    let all = |(waiting, held): (usize, usize)| waiting + held;
    let before = all(system.outstanding(server));
    let waiter = system.submit(&server.status().name, io);
    let begin = Instant::now();
    while all(system.outstanding(server)) <= before {
        assert!(begin.elapsed() < PATIENCE, "the request did not come");
        std::thread::yield_now();
    }
    waiter
}

pub(super) fn read_at(number: u64) -> Io {
    Io::read(number * LONG as u64, LONG as u64)
}

pub(super) fn write_at(number: u64, fill: u8) -> Io {
    Io::write(number * LONG as u64, &[fill; LONG])
}

/// Fetches this many requests, whose data stays where it is.
pub(super) fn fetch(server: &impl Channel, count: usize) -> Vec<Fetched> {
    let mut requests = vec![Fetched::EMPTY; count];
    let mut have = 0;
    let begin = Instant::now();
    while have < count {
        assert!(begin.elapsed() < PATIENCE, "{have} of {count} requests came");
        let fetch = Fetch {
            requests: &mut requests[have..],
            minimum: u32::try_from(count - have).expect("few"),
            timeout_ms: Some(1000),
            ..Fetch::nothing()
        };
        let entered = server.enter(&mut Answers::with_capacity(0).begin(server.id()), fetch);
        assert!(matches!(entered.error, None | Some(Errno::INTR)), "{entered:?}");
        have += entered.fetched;
    }
    requests
}

/// What a call says that fetches without waiting.
pub(super) fn look(server: &impl Channel) -> (usize, Option<Errno>) {
    let fetch = Fetch { requests: &mut [Fetched::EMPTY], ..Fetch::nothing() };
    let entered = server.enter(&mut Answers::with_capacity(0).begin(server.id()), fetch);
    (entered.fetched, entered.error)
}

/// Gives answers, and returns what became of each.
pub(super) fn give<'a>(
    server: &impl Channel,
    answers: &'a mut Answers,
    fill: impl FnOnce(&mut Batch<'a>),
) -> Vec<Result<(), Errno>> {
    let mut batch = answers.begin(server.id());
    fill(&mut batch);
    while !batch.is_processed() {
        let entered = server.enter(&mut batch, Fetch::nothing());
        assert!(entered.processed > 0 || entered.error == Some(Errno::INTR), "{entered:?}");
    }
    (0..batch.len()).filter_map(|number| batch.outcome(number)).collect()
}

/// Gives one answer, which is accepted.
pub(super) fn give_one<'a>(
    server: &impl Channel,
    answers: &'a mut Answers,
    fill: impl FnOnce(&mut Batch<'a>),
) {
    assert_eq!(give(server, answers, fill), [Ok(())]);
}

/// Fetches one request and says that it is done, or has failed. A write's data is not taken.
pub(super) fn answer_one(server: &impl Channel, op: u32, result: Result<(), Errno>) -> Fetched {
    let request = fetch(server, 1)[0];
    assert_eq!(request.op(), op);
    give_one(server, &mut Answers::with_capacity(1), |batch| match result {
        Ok(()) => batch.done(&request),
        Err(error) => batch.fail(&request, error),
    });
    request
}

pub(super) fn offsets(requests: &[Fetched]) -> Vec<u64> {
    requests.iter().map(|request| request.offset() / LONG as u64).collect()
}

pub(super) fn marks(requests: &[Fetched]) -> Vec<bool> {
    requests.iter().map(|request| request.flags() & abi::REQUEST_MAYBE_EXECUTED != 0).collect()
}

pub(super) fn fail_all(server: &impl Channel, requests: &[Fetched], waiters: Vec<Waiter>) {
    let mut answers = Answers::with_capacity(requests.len());
    let given = give(server, &mut answers, |batch| {
        for request in requests {
            batch.fail(request, Errno::IO);
        }
    });
    assert!(given.iter().all(Result::is_ok), "{given:?}");
    for waiter in waiters {
        assert_eq!(waiter(), Err(Errno::IO));
    }
}

/// Fetches with room for data.
pub(super) fn fetch_with<'a>(server: &impl Channel, count: usize, mut fetch: Fetch<'a>) -> &'a mut [Fetched] {
    let mut answers = Answers::with_capacity(0);
    let entered = server.enter(&mut answers.begin(server.id()), fetch.again());
    assert_eq!((entered.fetched, entered.error), (count, None));
    fetch.requests
}

/// Where the data of each write is.
pub(super) fn places(requests: &[Fetched]) -> Vec<Option<u64>> {
    let place = |request: &Fetched| (request.flags() & abi::REQUEST_DATA != 0).then_some(request.data());
    requests.iter().map(place).collect()
}

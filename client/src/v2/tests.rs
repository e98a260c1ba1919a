// SPDX-License-Identifier: MIT OR Apache-2.0
//! The serve loop against a fake kernel, and the checks of builder and options.

mod allocations;
mod asynchronous;
mod declared;
#[cfg(feature = "tokio")]
mod executor;
mod owned;

use super::fake::{Answer, Fake, Spec, Step};
use super::geometry::{Geometry, Wanted};
use super::serve::serve_with;
use super::{
    Answers, Backend, Builder, Capabilities, End, Event, Fetched, Info, Region, ServeOptions, ServerId,
    ThreadModel, UNLIMITED, Zero,
};
use crate::{BadRequest, Errno, Error, Result, SparseMemory, StopToken};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zosbd2_abi::v2;

const SIZE: u64 = 1 << 20;
const MAX_IO: u32 = 16384;
const EIO: i64 = -5;

/// Serves until the script ends.
fn serve(fake: &Fake, backend: &impl Backend) -> Result<End> {
    serve_in_batches(fake, backend, 32)
}

fn serve_in_batches(fake: &Fake, backend: &impl Backend, batch: usize) -> Result<End> {
    let options = ServeOptions::default().batch(batch);
    serve_with(fake, backend, &options, &StopToken::new(), || Ok(()), |_| panic!("no stop was requested"))
}

fn requests(specs: &[Spec]) -> Step {
    Step::Requests(specs.to_vec())
}

/// A store without regions that records its calls.
struct Plain {
    bytes: Mutex<Vec<u8>>,
    diary: Mutex<Vec<String>>,
}

impl Plain {
    fn new() -> Self {
        Self { bytes: Mutex::new(vec![0; 1 << 20]), diary: Mutex::new(Vec::new()) }
    }

    fn note(&self, entry: String) {
        self.diary.lock().expect("diary").push(entry);
    }

    fn diary(&self) -> Vec<String> {
        self.diary.lock().expect("diary").clone()
    }

    fn range(offset: u64, length: usize) -> std::ops::Range<usize> {
        let offset = usize::try_from(offset).expect("offset");
        offset..offset + length
    }
}

impl Backend for Plain {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        buffer.copy_from_slice(&self.bytes.lock().expect("bytes")[Self::range(offset, buffer.len())]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.note(format!("write {offset} {} {fua}", data.len()));
        self.bytes.lock().expect("bytes")[Self::range(offset, data.len())].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        self.note("flush".to_owned());
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.note(format!("discard {offset} {length}"));
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        self.note(format!("zero {offset} {length} {} {}", zero.unmap, zero.fua));
        let length = usize::try_from(length).expect("length");
        self.bytes.lock().expect("bytes")[Self::range(offset, length)].fill(0);
        Ok(())
    }
}

#[test]
fn one_call_answers_a_batch_and_fetches_the_next() {
    let writes = [Spec::write(512, 1024, 7), Spec::write(8192, 512, 8)];
    let reads = [Spec::new(v2::OP_READ, 512, 512), Spec::new(v2::OP_READ, 8192, 1024)];
    for backend in [true, false] {
        let fake = Fake::new(SIZE, MAX_IO, [requests(&writes), requests(&reads)]);
        let end = if backend {
            serve(&fake, &SparseMemory::new(SIZE).expect("memory"))
        } else {
            serve(&fake, &Plain::new())
        };
        assert_eq!(end.expect("served"), End::Gone);
        assert_eq!(fake.results(), [(0, 1024), (1, 512), (2, 512), (3, 1024)]);
        assert_eq!(fake.answers()[2].data, [7; 512]);
        assert_eq!(fake.answers()[3].data, [[8; 512], [0; 512]].concat());
        assert_eq!(fake.calls(), [(2, true), (2, true)]);
        // A backend with regions needs no arena for writes.
        let arena = if backend { 0 } else { MAX_IO as usize };
        assert_eq!(fake.arenas(), [arena; 2]);
    }
}

#[test]
fn every_operation_reaches_the_backend_with_its_flags() {
    let fua = Spec { flags: v2::REQUEST_FUA | v2::REQUEST_MAYBE_EXECUTED, ..Spec::write(0, 512, 1) };
    let keep =
        Spec { flags: v2::REQUEST_NO_UNMAP | v2::REQUEST_FUA, ..Spec::new(v2::OP_WRITE_ZEROES, 0, SIZE) };
    let specs = [
        fua,
        Spec::new(v2::OP_FLUSH, 0, 0),
        Spec::new(v2::OP_DISCARD, 512, SIZE - 512),
        keep,
        Spec::new(v2::OP_WRITE_ZEROES, 0, 512),
        Spec::new(v2::OP_SECURE_ERASE, 0, 512),
    ];
    let fake = Fake::new(SIZE, MAX_IO, [requests(&specs)]);
    let backend = Plain::new();
    serve(&fake, &backend).expect("served");
    let size = i64::try_from(SIZE).expect("size");
    let unsupported = i64::from(-Errno::OPNOTSUPP.raw_os_error());
    assert_eq!(fake.results(), [(0, 512), (1, 0), (2, size - 512), (3, size), (4, 512), (5, unsupported)]);
    let diary = [
        "write 0 512 true",
        "flush",
        "discard 512 1048064",
        "zero 0 1048576 false true",
        "zero 0 512 true false",
    ];
    assert_eq!(backend.diary(), diary);
}

#[test]
fn a_full_buffer_is_handed_over_and_used_again() {
    let specs: Vec<_> = (0..10).map(|at| Spec::new(v2::OP_READ, at * 8192, 8192)).collect();
    let fake = Fake::new(SIZE, MAX_IO, [Step::Requests(specs)]);
    let backend = Plain::new();
    for (at, byte) in backend.bytes.lock().expect("bytes").iter_mut().enumerate() {
        *byte = u8::try_from(at / 8192).expect("128 places");
    }
    serve(&fake, &backend).expect("served");
    assert_eq!(fake.calls(), [(2, false), (2, false), (2, false), (2, false), (2, true)]);
    for (at, answer) in fake.answers().iter().enumerate() {
        assert_eq!(answer.data, [u8::try_from(at).expect("ten"); 8192]);
    }
}

#[test]
fn data_that_did_not_fit_is_asked_for() {
    // The arena has room for the first two; then for two at a time.
    let mut specs: Vec<_> = (1..8).map(|n| Spec::write(u64::from(n) * 8192, 8192, n)).collect();
    specs.push(Spec::new(v2::OP_READ, 0, 512));
    let fake = Fake::new(SIZE, MAX_IO, [Step::Requests(specs)]);
    let backend = Plain::new();
    serve(&fake, &backend).expect("served");
    assert_eq!(fake.answers().len(), 8);
    // Two writes, the read, and the data of two more; and so on.
    assert_eq!(fake.calls(), [(5, false), (4, false), (3, false), (1, true)]);
    let bytes = backend.bytes.lock().expect("bytes");
    for n in 1..8_u8 {
        assert_eq!(bytes[usize::from(n) * 8192..][..8192], [n; 8192]);
    }
}

/// Offers a region for the first half only, and a too long one at 4096.
struct Half {
    memory: SparseMemory,
    writes: AtomicUsize,
}

impl Backend for Half {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.memory.read_at(offset, buffer).map_err(|_| Errno::IO)
    }

    fn write(&self, offset: u64, data: &mut [u8], _: bool) -> Result<(), Errno> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.memory.write_at(offset, data).map_err(|_| Errno::IO)
    }

    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        let extra = usize::from(offset == 4096);
        let region = self.memory.region(offset, length + extra).ok();
        region.filter(|_| offset < SIZE / 2)
    }
}

#[test]
fn a_backend_may_name_memory_for_some_requests() {
    let half = SIZE / 2;
    let fua = Spec { flags: v2::REQUEST_FUA, ..Spec::write(512, 512, 3) };
    let writes = [Spec::write(0, 512, 1), Spec::write(half, 8192, 2), fua, Spec::write(4096, 512, 4)];
    let reads = [0, half, 512].map(|at| Spec::new(v2::OP_READ, at, 512));
    let fake = Fake::new(SIZE, MAX_IO, [requests(&writes), requests(&reads)]);
    let backend = Half { memory: SparseMemory::new(SIZE).expect("memory"), writes: AtomicUsize::new(0) };
    let error = serve(&fake, &backend).expect_err("a region of another length");
    assert_eq!(error.to_string(), "backend of device fake named 513 bytes of memory for 512 at 4096");
    assert_eq!(fake.results(), [(0, 512), (1, 8192), (2, 512), (3, EIO), (4, 512), (5, 512), (6, 512)]);
    let data: Vec<_> = fake.answers().iter().skip(4).map(|answer| answer.data[0]).collect();
    assert_eq!(data, [1, 2, 3]);
    assert_eq!(backend.writes.load(Ordering::Relaxed), 2);
}

/// Panics in everything but writes.
struct Broken;

impl Backend for Broken {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        panic!("planted");
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn region(&self, _: u64, length: usize) -> Option<Region<'_>> {
        assert_ne!(length, 512, "planted");
        None
    }
}

#[test]
fn a_panic_of_the_backend_fails_one_request() {
    let read = Spec::new(v2::OP_READ, 0, 1024);
    let fake = Fake::new(SIZE, MAX_IO, [requests(&[read, Spec::write(0, 512, 1), read])]);
    let error = serve(&fake, &Broken).expect_err("panicked");
    assert_eq!(error.to_string(), "backend of device fake panicked in a region");
    assert_eq!(fake.results(), [(0, EIO), (1, 512), (2, EIO)]);
}

#[test]
fn nonsense_of_the_kernel_fails_and_is_reported() {
    let specs = [
        Spec::new(44, 0, 512),
        Spec::new(v2::OP_READ, 0, 0),
        Spec::new(v2::OP_READ, 1, 512),
        Spec::new(v2::OP_READ, 0, u64::from(MAX_IO) + 512),
        Spec::new(v2::OP_DISCARD, SIZE, 512),
        Spec::write(u64::MAX - 511, 512, 1),
        Spec { flags: v2::REQUEST_DATA, ..Spec::write(0, u64::from(MAX_IO) * 2, 1) },
        Spec::new(v2::OP_READ, 0, 512),
    ];
    let fake = Fake::new(SIZE, MAX_IO, [requests(&specs)]);
    let backend = Plain::new();
    let error = serve(&fake, &backend).expect_err("reported");
    assert!(matches!(error, Error::Request { source: BadRequest::Opcode(44), .. }), "{error}");
    let unsupported = i64::from(-Errno::OPNOTSUPP.raw_os_error());
    let results: Vec<_> = fake.answers().iter().map(|answer| answer.result).collect();
    assert_eq!(results, [unsupported, EIO, EIO, EIO, EIO, EIO, EIO, 512]);
    assert!(backend.diary().is_empty());
}

#[test]
fn a_request_behind_the_end_is_no_error_of_ours() {
    let fake = Fake::new(SIZE, MAX_IO, [requests(&[Spec::new(v2::OP_DISCARD, SIZE, 512)])]);
    serve(&fake, &Plain::new()).expect("it may have come before the device shrank");
    assert_eq!(fake.results(), [(0, EIO)]);
}

/// A backend whose size a test can change.
struct Growing(AtomicU64, SparseMemory);

impl Backend for Growing {
    fn size(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        assert!(offset + buffer.len() as u64 <= self.size());
        self.1.read_at(offset, buffer).map_err(|_| Errno::IO)
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Err(Errno::NOSPC)
    }
}

#[test]
fn growth_is_noticed_even_when_another_process_did_it() {
    let behind = requests(&[Spec::new(v2::OP_READ, SIZE, 512)]);
    let backend = Growing(AtomicU64::new(SIZE), SparseMemory::new(4 * SIZE).expect("memory"));
    let fake = Fake::new(SIZE, MAX_IO, [behind.clone()]);
    fake.true_size.store(2 * SIZE, Ordering::Relaxed);
    serve(&fake, &backend).expect("served");
    assert_eq!(fake.results(), [(0, EIO)], "the backend has not grown");
    backend.0.store(2 * SIZE, Ordering::Relaxed);
    let fake = Fake::new(SIZE, MAX_IO, [behind]);
    fake.true_size.store(2 * SIZE, Ordering::Relaxed);
    serve(&fake, &backend).expect("served");
    assert_eq!(fake.results(), [(0, 512)]);
}

#[test]
fn the_device_gets_the_size_of_the_backend() {
    let backend = Growing(AtomicU64::new(SIZE), SparseMemory::new(4 * SIZE).expect("memory"));
    let fake = Fake::new(SIZE, MAX_IO, []).sleeping(1);
    let stop = StopToken::new();
    let options = ServeOptions::default();
    let destroy = |_| {
        fake.destroy();
        Ok(())
    };
    let served = std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_with(&fake, &backend, &options, &stop, || Ok(()), destroy));
        fake.wait_asleep(1);
        for size in [2 * SIZE, SIZE / 2] {
            backend.0.store(size, Ordering::Relaxed);
            fake.wait_size(size);
        }
        stop.request();
        serving.join().expect("no panic")
    });
    assert_eq!(served.expect("served"), End::Gone);
}

#[test]
fn a_refused_answer_becomes_an_error_and_a_stale_one_is_forgotten() {
    let read = |refuse| Spec { refuse, ..Spec::new(v2::OP_READ, 0, 512) };
    let flush = Spec { refuse: Some(Errno::INVAL), ..Spec::new(v2::OP_FLUSH, 0, 0) };
    let copied = |refuse| Spec { withheld: true, refuse, ..Spec::write(0, 512, 1) };
    let specs = [
        read(Some(Errno::FAULT)),
        read(None),
        read(Some(Errno::STALE)),
        flush,
        copied(Some(Errno::FAULT)),
        copied(None),
        copied(Some(Errno::STALE)),
    ];
    let fake = Fake::new(SIZE, MAX_IO, [requests(&specs), requests(&[read(None)])]);
    let backend = Plain::new();
    let error = serve(&fake, &backend).expect_err("refused");
    assert!(matches!(error, Error::Refused { source: Errno::FAULT, .. }), "{error}");
    assert_eq!(fake.results(), [(0, EIO), (1, 512), (3, EIO), (4, EIO), (5, 512), (7, 512)]);
    assert_eq!(fake.left(), 0);
    assert_eq!(backend.diary(), ["flush", "write 0 512 false"]);
}

#[test]
fn signals_lose_nothing() {
    let reads = requests(&[Spec::new(v2::OP_READ, 0, 512); 5]);
    let steps = [
        Step::Fail(Errno::INTR),
        reads.clone(),
        Step::Fail(Errno::INTR),
        Step::Partial(2),
        Step::Partial(1),
        Step::Fail(Errno::INTR),
        reads,
        Step::FailAfterAnswers(Errno::INTR),
        Step::Partial(0),
    ];
    let fake = Fake::new(SIZE, MAX_IO, steps);
    serve(&fake, &Plain::new()).expect("served");
    let expected: Vec<_> = (0..10).map(|index| (index, 512)).collect();
    assert_eq!(fake.results(), expected);
}

#[test]
fn who_is_taken_over_answers_what_he_has() {
    let reads: Vec<_> = (0..4).map(|at| Spec::new(v2::OP_READ, at * 16384, 16384)).collect();
    let steps = [
        Step::Requests(reads),
        Step::FailAfterAnswers(Errno::SHUTDOWN),
        Step::FailAfterAnswers(Errno::SHUTDOWN),
        Step::Partial(0),
    ];
    let fake = Fake::new(SIZE, MAX_IO, steps);
    assert_eq!(serve(&fake, &Plain::new()).expect("served"), End::TakenOver);
    assert_eq!(fake.answers().len(), 4);
    let fake = Fake::new(SIZE, MAX_IO, [Step::Fail(Errno::SHUTDOWN)]);
    assert_eq!(serve(&fake, &Plain::new()).expect("served"), End::TakenOver);
}

#[test]
fn failed_calls_are_made_again_and_given_up_in_the_end() {
    let read = requests(&[Spec::new(v2::OP_READ, 0, 512)]);
    let fake = Fake::new(SIZE, MAX_IO, [Step::Fail(Errno::NOMEM), read, Step::Fail(Errno::NOMEM)]);
    serve(&fake, &Plain::new()).expect("served");
    assert_eq!(fake.results(), [(0, 512)]);
    let fake = Fake::new(SIZE, MAX_IO, (0..20).map(|_| Step::Fail(Errno::NOMEM)));
    let error = serve(&fake, &Plain::new()).expect_err("gave up");
    assert!(matches!(error, Error::Fetch { source: Errno::NOMEM, .. }), "{error}");
}

/// Destroys the fake as a `Control` does: it fails while the device is open.
fn busy(device: &str) -> Error {
    Error::Control {
        operation: "destroy device",
        object: device.to_owned(),
        hint: "".into(),
        source: Errno::BUSY,
    }
}

#[test]
fn the_first_request_to_stop_waits_until_the_device_is_unused() {
    let fake = Fake::new(SIZE, MAX_IO, []).sleeping(2);
    let stop = StopToken::new();
    stop.request();
    let calls = AtomicUsize::new(0);
    let destroy = |force: bool| {
        assert!(!force);
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(busy("fake"));
        }
        fake.destroy();
        Ok(())
    };
    let started = AtomicUsize::new(0);
    let start = || {
        fake.wait_asleep(6);
        started.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let options = ServeOptions::default().threads_per_queue(3);
    let end = serve_with(&fake, &Plain::new(), &options, &stop, start, destroy).expect("served");
    assert_eq!((end, calls.into_inner(), started.into_inner()), (End::Gone, 2, 1));
}

#[test]
fn only_a_request_for_force_uses_force() {
    let fake = Fake::new(SIZE, MAX_IO, []).sleeping(1);
    let stop = StopToken::new();
    stop.request();
    let calls = AtomicUsize::new(0);
    let destroy = |force: bool| {
        if force {
            assert!(stop.is_forced(), "nobody asked for force");
            fake.destroy();
            return Ok(());
        }
        // Every supervisor repeats SIGTERM.
        stop.request();
        if calls.fetch_add(1, Ordering::Relaxed) == 3 {
            stop.force();
        }
        Err(busy("fake"))
    };
    let options = ServeOptions::default();
    serve_with(&fake, &Plain::new(), &options, &stop, || Ok(()), destroy).expect("served");
    assert_eq!(calls.into_inner(), 4);
}

/// Options whose events go into the list.
fn listening() -> (ServeOptions, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&told);
    let tell = move |event: &Event| list.lock().expect("list").push(event.to_string());
    (ServeOptions::default().on_event(tell), told)
}

#[test]
fn a_stop_while_the_device_is_in_use_is_told() {
    let fake = Fake::new(SIZE, MAX_IO, []).sleeping(1);
    let stop = StopToken::new();
    stop.request();
    let calls = AtomicUsize::new(0);
    let destroy = |_| {
        if calls.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(busy("fake"));
        }
        fake.destroy();
        Ok(())
    };
    let (options, told) = listening();
    serve_with(&fake, &Plain::new(), &options, &stop, || Ok(()), destroy).expect("served");
    let told = told.lock().expect("list").clone();
    let told: Vec<_> = told.iter().filter(|event| !event.contains("IO_FLUSHER")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("device fake is in use (") && told[0].contains("a second SIGINT"),
        "{told:?}"
    );
}

#[test]
fn failures_of_the_backend_are_told_once_and_counted() {
    struct Full;
    impl Backend for Full {
        fn size(&self) -> u64 {
            SIZE
        }
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
            panic!("a bug")
        }
        fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
            Err(Errno::NOSPC)
        }
    }
    let writes = (0..3).map(|at| Spec::write(at * 512, 512, 1)).chain([Spec::new(v2::OP_READ, 4096, 512)]);
    let fake = Fake::new(SIZE, MAX_IO, [Step::Requests(writes.collect())]);
    let (options, told) = listening();
    let end =
        serve_with(&fake, &Full, &options, &StopToken::new(), || Ok(()), |_| panic!("no stop was requested"));
    end.expect_err("the backend panicked");
    options.listener().tell_rest("fake");
    let told = told.lock().expect("list").clone();
    let told: Vec<_> = told.iter().filter(|event| !event.contains("IO_FLUSHER")).collect();
    assert!(
        told[0].starts_with("the backend of device fake failed a write of 512 bytes at 0: No space"),
        "{told:?}"
    );
    assert_eq!(told[1], "backend of device fake panicked in a read of 512 bytes at 4096");
    assert_eq!(told[2..], ["device fake: the backend failed a request, 2 more times"]);
}

#[test]
fn a_device_that_does_not_start_is_destroyed() {
    let fake = Fake::new(SIZE, MAX_IO, []).sleeping(1);
    let destroy = |force: bool| {
        assert!(force);
        fake.destroy();
        Ok(())
    };
    let options = ServeOptions::default();
    let start = || Err(busy("not the device"));
    let error = serve_with(&fake, &Plain::new(), &options, &StopToken::new(), start, destroy)
        .expect_err("did not start");
    assert!(matches!(error, Error::Control { .. }), "{error}");
}

/// Otherwise nobody answers the requests of that queue, and the threads of other queues wait for ever.
#[test]
fn a_device_with_a_queue_that_lost_its_threads_is_left_to_the_next_server() {
    let fake = Fake::new(SIZE, MAX_IO, []).sleeping(3).without_fetches_from(1).stuck(2);
    let forced = AtomicUsize::new(0);
    let destroy = |_| {
        forced.fetch_add(1, Ordering::Relaxed);
        fake.destroy();
        Ok(())
    };
    let options = ServeOptions::default().threads_per_queue(2);
    let error = serve_with(&fake, &Plain::new(), &options, &StopToken::new(), || Ok(()), destroy)
        .expect_err("threads gave up");
    assert!(matches!(error, Error::Fetch { source: Errno::NOMEM, .. }), "{error}");
    assert_eq!((fake.left_to_others(), forced.into_inner()), (1, 0));
}

#[test]
fn a_device_that_cannot_be_left_is_destroyed() {
    let fake = Fake::new(SIZE, MAX_IO, []).sleeping(2).without_fetches_from(1).stuck(usize::MAX);
    let attempts = AtomicUsize::new(0);
    let destroy = |force: bool| {
        assert!(force);
        if attempts.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(busy("fake"));
        }
        fake.destroy();
        Ok(())
    };
    let options = ServeOptions::default();
    let error = serve_with(&fake, &Plain::new(), &options, &StopToken::new(), || Ok(()), destroy)
        .expect_err("a thread gave up");
    assert!(matches!(error, Error::Fetch { source: Errno::NOMEM, .. }), "{error}");
    assert_eq!((fake.left_to_others(), attempts.into_inner()), (0, 2));
}

#[test]
fn nothing_begins_when_a_queue_has_no_thread() {
    let read = requests(&[Spec::new(v2::OP_READ, 0, 512)]);
    let fake = Fake::new(SIZE, MAX_IO, [read]).sleeping(2).without_memory_for("zosbd2-1.");
    let (started, destroyed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = || {
        started.fetch_add(1, Ordering::Relaxed);
        fake.destroy();
        Ok(())
    };
    let destroy = |_| {
        destroyed.fetch_add(1, Ordering::Relaxed);
        fake.destroy();
        Ok(())
    };
    let options = ServeOptions::default().threads_per_queue(2);
    let error =
        serve_with(&fake, &Plain::new(), &options, &StopToken::new(), start, destroy).expect_err("no memory");
    assert!(matches!(error, Error::Buffers { .. }), "{error}");
    // A device that this process created is removed; an attached one is closed.
    assert_eq!((started.into_inner(), destroyed.into_inner(), fake.left_to_others()), (0, 0, 0));
    assert_eq!((fake.arenas(), fake.results()), (vec![], vec![]));
}

#[test]
fn a_queue_with_fewer_threads_than_asked_for_is_served() {
    let read = requests(&[Spec::new(v2::OP_READ, 0, 512)]);
    let fake = Fake::new(SIZE, MAX_IO, [read]).sleeping(2).without_memory_for("zosbd2-1.1");
    let start = || {
        fake.wait_asleep(3);
        fake.destroy();
        Ok(())
    };
    let options = ServeOptions::default().threads_per_queue(2);
    let destroy = |_| panic!("no stop was requested");
    let error = serve_with(&fake, &Plain::new(), &options, &StopToken::new(), start, destroy)
        .expect_err("a thread had no memory");
    assert!(matches!(error, Error::Buffers { .. }), "{error}");
    assert_eq!((fake.results(), fake.left_to_others()), (vec![(0, 512)], 0));
}

#[test]
fn threads_share_the_requests() {
    let steps = (0..500_u64).map(|step| {
        let specs = (0..7).map(|n| match (step + n) % 3 {
            0 => Spec::new(v2::OP_READ, n * 16384, 16384),
            1 => Spec::write(n * 16384, 8192, 1),
            _ => Spec::new(v2::OP_DISCARD, 0, 512),
        });
        if step % 5 == 4 { Step::Fail(Errno::INTR) } else { Step::Requests(specs.collect()) }
    });
    let fake = Fake::new(SIZE, MAX_IO, steps).sleeping(1);
    let stop = StopToken::new();
    let options = ServeOptions::default().threads_per_queue(4).batch(3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fake.wait_asleep(4);
            stop.request();
        });
        let destroy = |_| {
            fake.destroy();
            Ok(())
        };
        serve_with(&fake, &Plain::new(), &options, &stop, || Ok(()), destroy).expect("served");
    });
    let answered: Vec<_> = fake.answers().iter().map(|answer| answer.index).collect();
    assert!(answered.into_iter().eq(0..400 * 7), "each request is answered once");
}

#[test]
fn thread_models_are_kept() {
    struct Single(ThreadModel);
    impl Backend for Single {
        fn size(&self) -> u64 {
            SIZE
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities { threads: self.0, ..Capabilities::default() }
        }
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
            Ok(())
        }
        fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
            Ok(())
        }
    }
    let check = |model, queues, threads| {
        let fake = Fake::new(SIZE, MAX_IO, []).sleeping(queues);
        fake.destroy();
        let options = ServeOptions::default().threads_per_queue(threads);
        let served =
            serve_with(&fake, &Single(model), &options, &StopToken::new(), || Ok(()), |_| panic!("no stop"));
        served.map_err(|error| error.to_string())
    };
    assert!(check(ThreadModel::Any, 3, 2).is_ok());
    assert!(check(ThreadModel::OnePerQueue, 3, 1).is_ok());
    assert!(check(ThreadModel::One, 1, 1).is_ok());
    let queues = "serve device fake: number of queues 2 is too many: the backend allows only one thread";
    assert_eq!(check(ThreadModel::One, 2, 1).expect_err("two threads"), queues);
    let threads = "serve device fake: threads per queue 2 is too many: the backend allows only one thread";
    assert_eq!(check(ThreadModel::OnePerQueue, 3, 2).expect_err("two threads"), threads);
    assert!(check(ThreadModel::One, 1, 2).is_err());
    assert!(check(ThreadModel::Any, 1, 0).is_err());
}

#[test]
fn answers_are_bound_to_server_and_length() {
    let (ours, other) = (ServerId::next(), ServerId::next());
    let raw = v2::Request { handle: 5, length: 512, ..v2::Request::default() };
    let mut answers = Answers::with_capacity(4);
    let give = |answers: &mut Answers, server, length| {
        let data = vec![0; length];
        let request = Fetched::forge(raw, server);
        let mut batch = answers.begin(ours);
        batch.read(&request, &data);
        batch.len()
    };
    assert_eq!(give(&mut answers, ours, 512), 1);
    let mut panics = |server, length| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| give(&mut answers, server, length)))
    };
    assert!(panics(ours, 511).is_err());
    assert!(panics(other, 512).is_err());
    assert!(panics(ours, 513).is_ok());
}

fn info() -> Info {
    Info::from(&v2::Info {
        version: 2,
        max_queues: 8,
        max_depth: v2::MAX_DEPTH,
        max_block_size: 4096,
        max_io_bytes: v2::MAX_IO_BYTES,
        max_batch: v2::MAX_BATCH,
        ..v2::Info::default()
    })
}

#[test]
fn a_builder_takes_from_the_backend_what_is_not_set() {
    let memory = SparseMemory::new(SIZE + 100).expect("memory");
    let raw = Builder::new("d").for_backend(&memory).to_raw(&info()).expect("sensible");
    assert_eq!((raw.size_bytes, raw.logical_block_size, raw.physical_block_size), (SIZE, 512, 4096));
    assert_eq!((raw.flags, raw.grace_ms, raw.deadline_ms, raw.io_min), (0, 30_000, 0, 4096));
    let all = u32::MAX - 511;
    assert_eq!(
        (raw.max_discard_bytes, raw.max_write_zeroes_bytes, raw.max_secure_erase_bytes),
        (all, all, 0)
    );
    let set = Builder::new("d")
        .size_bytes(8192)
        .logical_block_size(4096)
        .max_discard_bytes(0)
        .max_write_zeroes_bytes(8192)
        .max_secure_erase_bytes(UNLIMITED)
        .volatile_cache(true)
        .fua(true)
        .partition_scan(false)
        .auto_destroy(true)
        .deadline(Duration::from_micros(1500))
        .grace(Duration::ZERO)
        .serial("S 1")
        .for_backend(&memory);
    let raw = set.to_raw(&info()).expect("sensible");
    assert_eq!((raw.size_bytes, raw.logical_block_size, raw.io_min), (8192, 4096, 4096));
    assert_eq!((raw.max_discard_bytes, raw.max_write_zeroes_bytes), (0, 8192));
    assert_eq!(raw.max_secure_erase_bytes, 0xFFFF_F000);
    assert_eq!((raw.deadline_ms, raw.grace_ms, raw.serial[..4].as_ref()), (2, 0, &b"S 1\0"[..]));
    let flags = v2::CREATE_VOLATILE_CACHE | v2::CREATE_FUA | v2::CREATE_NO_PARTITION_SCAN;
    assert_eq!(raw.flags, flags | v2::CREATE_AUTO_DESTROY);
}

/// A read-only backend with large blocks.
struct Fixed;

impl Backend for Fixed {
    fn size(&self) -> u64 {
        SIZE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            read_only: true,
            discard: true,
            discard_granularity: 16384,
            logical_block_size: 4096,
            ..Capabilities::default()
        }
    }

    fn read(&self, _: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        buffer.fill(0);
        Ok(())
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Err(Errno::ROFS)
    }
}

fn set_block(builder: Builder) -> Builder {
    builder.logical_block_size(512)
}

#[test]
fn a_backend_that_does_not_suit_the_device_is_refused() {
    let fake = Fake::new(SIZE, MAX_IO, []);
    let error = serve(&fake, &Fixed).expect_err("the device has smaller blocks");
    assert_eq!(
        error.to_string(),
        "serve device fake: logical block size 512 is smaller than the backend's, 4096"
    );
    assert_eq!(fake.results(), []);
}

#[test]
fn what_makes_no_sense_is_named() {
    let disk = || Builder::new("disk").size_bytes(SIZE);
    let day = Duration::from_secs(24 * 60 * 60);
    let cases = [
        (Builder::new("disk"), "size in bytes 0 is outside 512..=9223372036853727232"),
        (disk().size_bytes(513), "size in bytes 513 is not a multiple of the logical block of 512"),
        (disk().logical_block_size(8192), "logical block size 8192 is outside 512..=4096"),
        (disk().logical_block_size(1000), "logical block size 1000 is not a power of two"),
        (
            disk().logical_block_size(4096).physical_block_size(512),
            "physical block size 512 is outside 4096..=268435456",
        ),
        (disk().io_min(256), "minimum I/O 256 is outside 512..=268435456"),
        (disk().io_min(4096).io_opt(6144), "optimal I/O 6144 is not a multiple of the minimum I/O of 4096"),
        (disk().max_io_bytes(512), "largest I/O 512 is outside 4096..=33554432"),
        (disk().max_io_bytes(4097), "largest I/O 4097 is not a multiple of the logical block of 512"),
        (disk().queues(0), "number of queues 0 is outside 1..=8"),
        (disk().queues(9), "number of queues 9 is outside 1..=8"),
        (disk().depth(1025), "depth of the queues 1025 is outside 1..=1024"),
        (disk().fua(true), "FUA yes needs a volatile cache"),
        (disk().discard_granularity(3), "discard granularity 3 is outside 512..=268435456"),
        (disk().max_discard_bytes(100), "longest discard 100 is not a multiple of the logical block of 512"),
        (
            disk().discard_granularity(4096).max_discard_bytes(512),
            "longest discard 512 is outside 4096..=4294967295",
        ),
        (disk().deadline(Duration::ZERO), "deadline in milliseconds 0 is outside 1..=86400000"),
        (
            disk().grace(day + Duration::from_nanos(1)),
            "grace in milliseconds 86400001 is outside 0..=86400000",
        ),
        (disk().serial("ä"), "serial number \"ä\" has a character that is not printable ASCII"),
    ];
    for (builder, problem) in cases {
        let error = builder.to_raw(&info()).expect_err(problem);
        assert_eq!(error.to_string(), format!("create device disk: {problem}"));
    }
    for (change, problem) in [
        (set_block as fn(Builder) -> Builder, "logical block size 512 is smaller than the backend's, 4096"),
        (|builder| builder.read_only(false), "read-only no is not possible with a read-only backend"),
    ] {
        let error = change(Builder::new("disk").for_backend(&Fixed)).to_raw(&info()).expect_err(problem);
        assert_eq!(error.to_string(), format!("create device disk: {problem}"));
    }
    let raw = Builder::new("disk").for_backend(&Fixed).to_raw(&info()).expect("sensible");
    assert_eq!((raw.logical_block_size, raw.discard_granularity), (4096, 16384));
    assert_ne!(raw.flags & v2::CREATE_READ_ONLY, 0);
    let many = disk().queues(8).depth(1024);
    assert!(many.to_raw(&info()).is_ok());
    let wide = Info { max_queues: 128, ..info() };
    let error = many.queues(65).to_raw(&wide).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "create device disk: depth of the queues 1024 makes more than 65536 requests in 65 queues"
    );
    assert!(disk().serial(&"x".repeat(31)).to_raw(&info()).is_ok());
    assert!(disk().serial(&"x".repeat(32)).to_raw(&info()).is_err());
    assert!(matches!(Builder::new("a/b").to_raw(&info()), Err(Error::Name { .. })));
}

/// Numbers around the limits of the valid ranges.
fn number() -> impl Strategy<Value = u64> {
    let edges = vec![0, 1, 512, 4096, 16384, SIZE - 512, SIZE, u64::from(u32::MAX), u64::MAX - 511, u64::MAX];
    prop_oneof![proptest::sample::select(edges), any::<u64>(), (0..2 * SIZE / 512).prop_map(|n| n * 512)]
}

const SLOT: u64 = 16384;
const SLOTS: u64 = SIZE / SLOT;

/// A request inside a slot of its own.
fn spec() -> impl Strategy<Value = (u64, Spec)> {
    let range = (0..32_u64, 1..33_u64).prop_map(|(at, count)| (at * 512, count.min(32 - at) * 512));
    let operation = prop_oneof![
        3 => Just(v2::OP_READ),
        3 => Just(v2::OP_WRITE),
        1 => Just(v2::OP_WRITE_ZEROES),
        1 => Just(v2::OP_FLUSH),
    ];
    let refuse = prop_oneof![12 => Just(None), 1 => Just(Some(Errno::FAULT)), 1 => Just(Some(Errno::STALE))];
    let flags = prop_oneof![3 => Just(0), 1 => Just(v2::REQUEST_FUA)];
    (0..SLOTS, operation, range, any::<u8>(), any::<bool>(), refuse, flags).prop_map(
        |(slot, op, (at, length), fill, withheld, refuse, flags)| {
            let (offset, length) = if op == v2::OP_FLUSH { (0, 0) } else { (slot * SLOT + at, length) };
            (slot, Spec { op, flags, offset, length, fill, withheld, refuse })
        },
    )
}

/// Requests that may be carried out in any order.
fn specs() -> impl Strategy<Value = Vec<Spec>> {
    proptest::collection::vec(spec(), 1..40).prop_map(|specs| {
        let mut slots = std::collections::HashSet::new();
        specs.into_iter().filter(|(slot, _)| slots.insert(*slot)).map(|(_, spec)| spec).collect()
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => specs().prop_map(Step::Requests),
        1 => Just(Step::Fail(Errno::INTR)),
        2 => (1..5_usize).prop_map(Step::Partial),
    ];
    proptest::collection::vec(step, 1..12)
}

/// Place in the script, result, and data if known.
type Expected = (u64, i64, Option<Vec<u8>>);

/// The expected answers, and the known contents afterwards.
fn model(steps: &[Step]) -> (Vec<Expected>, Vec<Option<u8>>) {
    let mut bytes = vec![Some(0_u8); 1 << 20];
    let mut answers = Vec::new();
    let specs = steps.iter().flat_map(|step| match step {
        Step::Requests(specs) => specs.clone(),
        _ => Vec::new(),
    });
    for (index, spec) in specs.enumerate() {
        let range = Plain::range(spec.offset, usize::try_from(spec.length).expect("length"));
        let fill = if spec.op == v2::OP_WRITE { spec.fill } else { 0 };
        let known: Option<Vec<u8>> = bytes[range.clone()].iter().copied().collect();
        if matches!(spec.op, v2::OP_WRITE | v2::OP_WRITE_ZEROES) {
            // It is unknown whether a failed write was carried out.
            bytes[range].fill(if spec.refuse.is_none() { Some(fill) } else { None });
        }
        let data = if spec.op == v2::OP_READ { known } else { Some(Vec::new()) };
        match spec.refuse {
            None => answers.push((index as u64, i64::try_from(spec.length).expect("length"), data)),
            Some(Errno::STALE) => {}
            Some(_) => answers.push((index as u64, EIO, Some(Vec::new()))),
        }
    }
    (answers, bytes)
}

fn check_against_model(steps: Vec<Step>, backend: &impl Backend, batch: usize) -> Result<(), TestCaseError> {
    check(steps, backend, |fake| serve_in_batches(fake, backend, batch))
}

fn check(
    steps: Vec<Step>,
    backend: &impl Backend,
    serve: impl FnOnce(&Arc<Fake>) -> Result<End>,
) -> Result<(), TestCaseError> {
    let (expected, bytes) = model(&steps);
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, steps));
    let served = serve(&fake);
    prop_assert!(matches!(served, Ok(End::Gone) | Err(Error::Refused { .. })), "{served:?}");
    let answers = fake.answers();
    prop_assert_eq!(answers.len(), expected.len());
    for (Answer { index, result, data }, expected) in answers.into_iter().zip(expected) {
        prop_assert_eq!((index, result), (expected.0, expected.1));
        if let Some(expected) = expected.2 {
            prop_assert!(data == expected, "data of request {}", index);
        }
    }
    prop_assert_eq!(fake.left(), 0);
    let mut stored = vec![0; 1 << 20];
    backend.read(0, &mut stored).expect("in range");
    prop_assert!(stored.iter().zip(bytes).all(|(byte, expected)| expected.is_none_or(|e| e == *byte)));
    Ok(())
}

/// Like `Half`, but with correct lengths.
struct Honest(Half);

impl Backend for Honest {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.0.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        Backend::write_zeroes(&self.0.memory, offset, length, zero)
    }

    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        self.0.memory.region(offset, length).ok().filter(|_| offset < SIZE / 2)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn scripts_are_served_as_the_model_says(steps in steps(), batch in 1..40_usize) {
        check_against_model(steps.clone(), &Plain::new(), batch)?;
        let memory = SparseMemory::new(SIZE).expect("memory");
        let half = Half { memory, writes: AtomicUsize::new(0) };
        check_against_model(steps, &Honest(half), batch)?;
    }
}

proptest! {
    #[test]
    fn no_request_of_a_broken_kernel_gets_past_the_check(
        op in prop_oneof![0..7_u32, any::<u32>()],
        offset in number(),
        length in number(),
        data in number(),
        flags in prop_oneof![Just(0), Just(v2::REQUEST_DATA), any::<u32>()],
    ) {
        let geometry = Geometry { size: SIZE, block: 512, max_io: MAX_IO.into() };
        let raw = v2::Request { op, offset, length, data, flags, ..v2::Request::default() };
        let Ok(wanted) = geometry.look(&Fetched::forge(raw, ServerId::next())) else {
            return Ok(());
        };
        if wanted == Wanted::Flush {
            return Ok(());
        }
        prop_assert!(length > 0 && length % 512 == 0 && offset % 512 == 0);
        prop_assert!(offset.checked_add(length).is_some_and(|end| end <= SIZE));
        match wanted {
            Wanted::Read | Wanted::WriteWithoutData => prop_assert!(length <= MAX_IO.into()),
            Wanted::Write(at) => prop_assert!(at as u64 + length <= MAX_IO.into()),
            _ => {}
        }
    }
}

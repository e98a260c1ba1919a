// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blocking backends against the fake kernel: batches, regions, failures, and sizes.

use super::*;

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

/// Names zeros that nobody may write to.
struct Zeros(SparseMemory);

impl Backend for Zeros {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        panic!("all reads have a region");
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        panic!("all writes have a region");
    }

    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        self.0.read_region(offset, length).expect("inside")
    }
}

#[test]
fn a_write_to_memory_that_may_only_be_read_fails() {
    let fake =
        Fake::new(SIZE, MAX_IO, [requests(&[Spec::write(512, 512, 1), Spec::new(v2::OP_READ, 512, 512)])]);
    let error = serve(&fake, &Zeros(SparseMemory::new(SIZE).expect("memory"))).expect_err("read-only");
    let expected =
        "backend of device fake named memory that may only be read for a write of 512 bytes at 512";
    assert_eq!(error.to_string(), expected);
    assert_eq!(fake.results(), [(0, EIO), (1, 512)]);
    assert_eq!(fake.answers()[1].data, [0; 512]);
}

/// The kernel's copy fails, and so does that of a kernel in memory; an access of this process would end it.
#[test]
fn a_file_that_became_shorter_fails_its_requests() {
    let file = tempfile::tempfile_in("/dev/shm").expect("a file");
    let memory = SparseMemory::in_file(file.try_clone().expect("clone"), SIZE).expect("memory");
    memory.write_at(0, &vec![7; 1 << 20]).expect("inside");
    file.set_len(4096).expect("shorter");
    let specs = [0, 8192].map(|at| Spec::new(v2::OP_READ, at, 512));
    let fake = Fake::new(SIZE, MAX_IO, [requests(&specs)]);
    let error = serve(&fake, &memory).expect_err("not there");
    assert!(matches!(error, Error::Refused { source: Errno::FAULT, .. }), "{error}");
    assert_eq!(fake.results(), [(0, 512), (1, EIO)]);
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

#[test]
fn answers_are_bound_to_server_and_length() {
    let (ours, other) = (Identity::new(), Identity::new());
    let raw = v2::Request { handle: 5, length: 512, ..v2::Request::default() };
    let mut answers = Answers::with_capacity(4);
    let give = |answers: &mut Answers, server: &Identity, length| {
        let data = vec![0; length];
        let request = server.request(raw);
        let mut batch = answers.begin(ours.id());
        batch.read(&request, &data);
        batch.len()
    };
    assert_eq!(give(&mut answers, &ours, 512), 1);
    let mut panics = |server, length| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| give(&mut answers, server, length)))
    };
    assert!(panics(&ours, 511).is_err());
    assert!(panics(&other, 512).is_err());
    assert!(panics(&ours, 513).is_ok());
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stops, force, events, starts that fail, queues without threads, and threads that share a queue.

use super::*;

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

// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a backend declares, against what it has; and backends behind references.

use super::*;
use std::sync::atomic::AtomicBool;

/// A backend with a flush of its own.
struct Flushing {
    declared: Capabilities,
    flushed: AtomicBool,
}

impl Flushing {
    fn new(declared: Capabilities) -> Self {
        Self { declared, flushed: AtomicBool::new(false) }
    }
}

impl Backend for Flushing {
    fn size(&self) -> u64 {
        SIZE
    }

    fn capabilities(&self) -> Capabilities {
        self.declared
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        self.flushed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Forwards everything but the capabilities.
struct Around<B>(B);

impl<B: Backend> Backend for Around<B> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.0.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Errno> {
        self.0.flush()
    }
}

#[test]
fn a_flush_that_is_not_declared_is_refused() {
    let text = "serve device fake: volatile cache no means that the kernel sends no flushes, but the backend \
                has a flush of its own: declare `volatile_cache`, or `write_through` if no flush is needed";
    let backend = Flushing::new(Capabilities::default());
    let fake = Fake::new(SIZE, MAX_IO, []).without_cache();
    let error = serve(&fake, &backend).expect_err("not declared");
    assert_eq!(error.to_string(), text);
    let error = serve(&fake, &Around(&backend)).expect_err("not declared");
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_flush_that_is_declared_or_not_there_is_fine() {
    let fake = || Fake::new(SIZE, MAX_IO, []).without_cache();
    let through = Flushing::new(Capabilities::default().write_through(true));
    serve(&fake(), &through).expect("declared");
    let memory = SparseMemory::new(SIZE).expect("memory");
    serve(&fake(), &memory).expect("no flush");
    serve(&fake(), &Around(&memory)).expect("forwards to the default flush");
    let cached = Flushing::new(Capabilities::default().volatile_cache(true));
    serve(&Fake::new(SIZE, MAX_IO, []), &cached).expect("declared");
    assert!(!cached.flushed.into_inner() && !through.flushed.into_inner(), "no need to find out");
}

#[test]
fn references_and_boxes_are_backends() {
    fn size(backend: impl Backend) -> u64 {
        let mut data = vec![5; 512];
        backend.write(512, &mut data, false).expect("write");
        data.fill(0);
        backend.read(512, &mut data).expect("read");
        assert_eq!(data, [5; 512]);
        assert!(backend.read_region(512, 512).is_some());
        backend.discard(0, 4096).expect("discard");
        backend.write_zeroes(0, 4096, Zero::default()).expect("write zeros");
        assert_eq!(backend.secure_erase(0, 512), Err(Errno::OPNOTSUPP));
        assert_eq!(backend.flush(), Err(Errno::OPNOTSUPP));
        assert!(backend.capabilities().discard);
        backend.size()
    }
    let memory = || SparseMemory::new(SIZE).expect("memory");
    assert_eq!(size(&*Box::new(memory())), SIZE);
    assert_eq!(size(Box::new(memory())), SIZE);
    let shared: Arc<dyn Backend + Send> = Arc::new(memory());
    assert_eq!(size(shared), SIZE);
}

#[test]
fn a_slow_backend_takes_one_request_at_a_time() {
    struct Slow(Plain);
    impl Backend for Slow {
        fn size(&self) -> u64 {
            SIZE
        }

        fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
            // Longer than a tick of any kernel: the clock of the pace has that resolution.
            let end = std::time::Instant::now() + Duration::from_millis(25);
            while std::time::Instant::now() < end {
                std::thread::yield_now();
            }
            self.0.read(offset, buffer)
        }

        fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
            self.0.write(offset, data, fua)
        }
    }
    let reads = [Spec::new(v2::OP_READ, 0, 512); 6];
    let fake = Fake::new(SIZE, MAX_IO, [requests(&reads)]);
    let stop = StopToken::new();
    serve_with(&fake, &Slow(Plain::new()), &ServeOptions::default(), &stop, || Ok(()), |_| panic!("no stop"))
        .expect("served");
    assert_eq!(fake.calls(), [(1, true); 6]);
}

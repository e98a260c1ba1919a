// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asynchronous backends and handlers against the suite, served by the library in a kernel in memory.

use std::future::poll_fn;
use std::task::Poll;

use zosbd2::{AsyncBackend, Backend, Blocking, Builder, Capabilities, Errno, ServeOptions, Zero};
use zosbd2_backends::conformance::{Check, run_async, run_backend, run_requests, run_served};
use zosbd2_backends::{Null, Ram};

const SIZE: u64 = 4 << 20;

fn skipped(report: &[Check]) -> Vec<&'static str> {
    report.iter().filter(|check| check.skipped.is_some()).map(|check| check.name).collect()
}

/// Answers each request the second time that it is polled.
struct Later<B> {
    store: B,
    capabilities: Capabilities,
}

async fn later() {
    let mut woken = false;
    poll_fn(|context| {
        if std::mem::replace(&mut woken, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<B: Backend> AsyncBackend for Later<B> {
    fn size(&self) -> u64 {
        self.store.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        later().await;
        self.store.read(offset, buffer)
    }

    async fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        later().await;
        self.store.write(offset, data, fua)
    }

    async fn flush(&self) -> Result<(), Errno> {
        later().await;
        Ok(())
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.store.discard(offset, length)
    }

    async fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        self.store.write_zeroes(offset, length, zero)
    }
}

fn ram() -> Ram {
    Ram::new(SIZE).expect("memory")
}

#[test]
fn an_asynchronous_backend_conforms() {
    let capabilities = ram().capabilities().volatile_cache(true).fua(true);
    let report =
        run_async(&Later { store: ram(), capabilities }, 42).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(skipped(&report), ["outside"]);
    let capabilities = capabilities.read_only(true);
    let report =
        run_async(&Later { store: ram(), capabilities }, 42).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.len() - skipped(&report).len(), 2, "geometry, both_ends: {report:?}");
}

#[test]
fn a_handler_conforms() {
    let report = run_requests(&Blocking(ram()), 42).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(skipped(&report), ["outside"]);
}

#[test]
fn a_backend_conforms() {
    let report = run_backend(&ram(), 42).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(skipped(&report), ["outside"]);
}

#[test]
fn a_backend_with_several_threads_conforms() {
    let ram = ram();
    let builder = Builder::new("ram").queues(2).for_backend(&ram);
    let options = ServeOptions::default().threads_per_queue(2);
    let report = run_served(&builder, 42, |server, stop| server.serve(&ram, &options, stop));
    assert_eq!(skipped(&report.unwrap_or_else(|error| panic!("{error}"))), ["outside"]);
}

#[test]
fn what_is_wrong_is_found() {
    let null = Null::new(SIZE);
    let capabilities = null.capabilities().volatile_cache(true);
    let failure = run_async(&Later { store: null, capabilities }, 42).expect_err("it keeps nothing");
    assert_eq!(failure.check, "what_is_written_is_read");
    let undeclared = Later { store: ram(), capabilities: ram().capabilities() };
    let failure = run_async(&undeclared, 42).expect_err("it does not declare its flush");
    assert_eq!(failure.check, "serve");
    assert!(failure.problem.contains("declare `volatile_cache`"), "{failure}");
    let failure = run_served(&Builder::new("a/b"), 42, |_, _| unreachable!("no device")).expect_err("a name");
    assert_eq!(failure.check, "create");
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Injected faults of asynchronous servers and of owned requests, as submitters see them: errors and delays, as with a
//! blocking backend (`faulty.rs`).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zosbd2::{Blocking, Builder, ServeOptions, StopToken};
use zosbd2_backends::Ram;
use zosbd2_faults::FaultPlan;

use super::super::support::{read_in_thread, write_in_thread};
use super::faulty::{plan as planned, written};
use super::owned::{Paused, Serve, runtime, serve};
use crate::guest::{Context, Need, Test, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_faulty_owned", |context| faulty(context, "owned")).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_async", |context| faulty(context, "async")).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_tokio", |context| faulty(context, "tokio")).needs(&[Need::Module]).timeout(60),
];

const SIZE: u64 = 16 << 20;
/// Long enough for a slow machine to answer the requests that are not delayed.
const LIMIT: Duration = Duration::from_secs(2);

/// Serves a RAM disk with these faults, in one of the forms of serving.
fn server(form: &str, plan: &FaultPlan) -> Serve {
    let (ram, stop) = (Ram::new(SIZE).expect("memory"), StopToken::new());
    let options = ServeOptions::default().layer(plan.clone());
    match form {
        "owned" => {
            Box::new(move |server, ready| server.serve_requests(&Blocking(ram), &options, &stop, ready))
        }
        "async" => Box::new(move |server, ready| server.serve_async(&Paused(ram), &options, &stop, ready)),
        _ => Box::new(move |server, ready| {
            runtime().block_on(server.serve_tokio(Arc::new(Paused(ram)), &options, &stop, ready))
        }),
    }
}

fn faulty(context: &mut Context, form: &str) {
    context.load_module("");
    let plan = planned(
        context.seed(),
        &[
            "read:4K-8K:errno=EIO",
            "read:8K-12K:errno=EILSEQ",
            "write:4K-8K:errno=ENOSPC",
            // The block layer does not have this error.
            "write:8K-12K:errno=EPERM",
            "read:16K-20K:nth=1:delay=300ms",
            "write:20K-24K:nth=1:delay=5s",
        ],
    );
    let ram = Ram::new(SIZE).expect("memory");
    let builder = Builder::new("faulty").partition_scan(false).deadline(LIMIT).for_backend(&ram);
    let (disk, serving) = serve(&builder, server(form, &plan));
    let path = disk.path();
    for (offset, reads, writes) in [
        (0, None, None),
        (4096, Some(Errno::IO), Some(Errno::NOSPC)),
        (8192, Some(Errno::ILSEQ), Some(Errno::IO)),
        (12288, None, None),
    ] {
        assert_eq!(write(&path, offset).err(), writes, "write at {offset}");
        let found = read(&path, offset);
        assert_eq!(found.as_ref().err(), reads.as_ref(), "read at {offset}");
        assert!(found.is_err() || found == Ok(written(offset, 4096)), "wrong bytes at {offset}");
    }
    assert_eq!(write(&path, 16384), Ok(4096));
    let begin = Instant::now();
    assert!(read(&path, 16384) == Ok(written(16384, 4096)));
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    // Too late: the write fails and its answer is stale, but it was carried out.
    assert_eq!(write(&path, 20480), Err(Errno::IO));
    let stats = || disk.server.stats(0).expect("stats");
    wait_until(20, "the late answer", || stats().stale == 1);
    assert!(read(&path, 20480) == Ok(written(20480, 4096)), "it was not carried out");
    let injected: Vec<_> = plan.counts().map(|(_, counts)| counts.injected).collect();
    assert_eq!(injected, [1; 6]);
    assert_eq!((stats().expired, stats().failed), (1, 4));
    disk.destroy_and_join(serving);
}

fn read(path: &Path, offset: u64) -> Result<Vec<u8>, Errno> {
    read_in_thread(path.to_owned(), offset, 4096).join().expect("reader")
}

fn write(path: &Path, offset: u64) -> Result<usize, Errno> {
    write_in_thread(path.to_owned(), offset, offset, 4096).join().expect("writer")
}

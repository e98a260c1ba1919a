// SPDX-License-Identifier: MIT OR Apache-2.0
//! What submitters see of each fault that can be injected, and that harmless faults are invisible.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::fdatasync;
use rustix::io::Errno;
use rustix::process::Signal;
use zosbd2::v2::abi;
use zosbd2::{Backend, Builder, DeadlinePolicy, End, ServeOptions, State, StopToken, TakeOver};
use zosbd2_backends::{FileOptions, Ram, conformance};
use zosbd2_faults::{Fault, FaultPlan};

use super::super::support::{Aligned, TICK, discard, open_direct, read_in_thread, write_in_thread};
use super::support::{Buffered, Disk, Manual, Recorder, Serving, control, join, threads};
use crate::guest::{Context, Mounted, Need, Spawned, Test, drop_caches, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_faulty_errno", errno).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_short", short).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_delay", delay).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_drop", dropped).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_drop_and_requeue", requeued).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_drop_and_declare_dead", declared_dead).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_duplicate", duplicate).needs(&[Need::Module]).timeout(60),
    Test::new("v2_faulty_death", death).needs(&[Need::Module]).timeout(120),
    Test::new("v2_faulty_conformance", conforming).needs(&[Need::Module]).timeout(180),
    Test::new("v2_faulty_under_ext4", under_ext4)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4")])
        .timeout(180),
];

const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;
/// Deadline of the devices with dropped or late requests. It is long enough for a slow machine to answer the other
/// requests.
const LIMIT: Duration = Duration::from_secs(2);

fn fault(text: &str) -> Fault {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// A backend and the faults of its disk.
struct Faulty<B> {
    backend: Arc<B>,
    plan: FaultPlan,
}

impl<B: Backend + Send + 'static> Faulty<B> {
    fn options(&self, serving_threads: usize) -> ServeOptions {
        threads(serving_threads).layer(self.plan.clone())
    }

    fn serve(&self, builder: &Builder, serving_threads: usize) -> (Disk, Serving) {
        Disk::serve(builder, &self.backend, self.options(serving_threads))
    }
}

pub(super) fn plan(seed: u64, faults: &[&str]) -> FaultPlan {
    faults.iter().fold(FaultPlan::new(seed), |plan, text| plan.with(fault(text)))
}

fn with<B: Backend>(backend: B, seed: u64, faults: &[&str]) -> Faulty<B> {
    Faulty { backend: Arc::new(backend), plan: plan(seed, faults) }
}

fn ram() -> Ram {
    Ram::new(SIZE).expect("memory")
}

fn injected<B: Backend>(faulty: &Faulty<B>) -> Vec<u64> {
    faulty.plan.counts().map(|(_, counts)| counts.injected).collect()
}

fn builder() -> Builder {
    Builder::new("faulty").partition_scan(false)
}

fn serve<B: Backend + Send + 'static>(builder: &Builder, faulty: &Faulty<B>) -> (Disk, Serving) {
    faulty.serve(builder, 1)
}

fn read(path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    read_in_thread(path.to_owned(), offset, length).join().expect("reader")
}

fn write(path: &Path, offset: u64, length: usize) -> Result<usize, Errno> {
    write_in_thread(path.to_owned(), offset, offset, length).join().expect("writer")
}

/// The data that [`write`] writes there.
pub(super) fn written(offset: u64, length: usize) -> Vec<u8> {
    let mut data = Aligned::new(length, 0);
    data.fill(offset);
    data.bytes().to_vec()
}

fn errno(context: &mut Context) {
    context.load_module("");
    let recorder = Arc::into_inner(Recorder::new(SIZE, |capabilities| {
        capabilities.volatile_cache = true;
        capabilities.discard = true;
    }));
    let texts = [
        "read:4K-8K:errno=EIO",
        "read:8K-12K:errno=EILSEQ",
        "write:4K-8K:errno=ENOSPC",
        "write:8K-12K:errno=ETIMEDOUT",
        // The block layer does not have this error.
        "write:12K-16K:errno=EPERM",
        "discard:nth=2:errno=EREMOTEIO",
        "flush:nth=2:errno=EIO",
    ];
    let faulty = with(recorder.expect("no other server holds the request"), 1, &texts);
    let (disk, serving) = serve(&builder(), &faulty);
    let path = disk.path();
    for (offset, reads, writes) in [
        (0, None, None),
        (4096, Some(Errno::IO), Some(Errno::NOSPC)),
        (8192, Some(Errno::ILSEQ), Some(Errno::TIMEDOUT)),
        (12288, None, Some(Errno::IO)),
        (16384, None, None),
    ] {
        assert_eq!(write(&path, offset, 4096).err(), writes, "write at {offset}");
        let found = read(&path, offset, 4096);
        assert_eq!(found.as_ref().err(), reads.as_ref(), "read at {offset}");
        if let Ok(found) = found {
            let wanted = if writes.is_some() { vec![0; 4096] } else { written(offset, 4096) };
            assert!(found == wanted, "wrong bytes at {offset}");
        }
    }
    let discards = [(); 3].map(|()| discard(&path, MIB, 4096));
    assert_eq!(discards, [Ok(()), Err(Errno::REMOTEIO), Ok(())]);
    let flushes = [(); 3].map(|()| fdatasync(open_direct(&path)));
    assert_eq!(flushes, [Ok(()), Err(Errno::IO), Ok(())]);
    assert_eq!(injected(&faulty), [1; 7]);
    assert_eq!(disk.server.stats(0).expect("stats").failed, 7);
    disk.destroy_and_join(serving);
}

fn short(context: &mut Context) {
    context.load_module("");
    shorten(&with(ram(), 1, SHORT));
    shorten(&with(Buffered(ram()), 1, SHORT));
}

const SHORT: &[&str] = &["write:nth=2:short", "read:nth=3:short", "discard:nth=1:short"];

/// A torn write, a read, and a discard.
fn shorten<B: Backend + Send + 'static>(faulty: &Faulty<B>) {
    let (disk, serving) = serve(&builder(), faulty);
    let path = disk.path();
    assert_eq!(write(&path, 0, 8192), Ok(8192));
    assert_eq!(write(&path, MIB, 8192), Err(Errno::IO));
    assert!(read(&path, 0, 8192) == Ok(written(0, 8192)));
    let torn = [&written(MIB, 8192)[..4096], &[0; 4096]].concat();
    assert!(read(&path, MIB, 8192) == Ok(torn), "the first half is written");
    assert_eq!(read(&path, 0, 8192), Err(Errno::IO));
    assert_eq!(discard(&path, 0, 8192), Err(Errno::IO));
    let cut = [&[0; 4096], &written(0, 8192)[4096..]].concat();
    assert!(read(&path, 0, 8192) == Ok(cut), "half of the range is discarded");
    assert_eq!(injected(faulty), [1; 3]);
    disk.destroy_and_join(serving);
}

fn delay(context: &mut Context) {
    context.load_module("");
    let faulty = with(ram(), 1, &["read:nth=1:delay=300ms", "write:nth=2:delay=5s"]);
    let (disk, serving) = serve(&builder().deadline(LIMIT), &faulty);
    let path = disk.path();
    assert_eq!(write(&path, 0, 4096), Ok(4096));
    let begin = Instant::now();
    assert!(read(&path, 0, 4096) == Ok(written(0, 4096)));
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    // Too late: the write fails and its answer is stale, but it was carried out.
    assert_eq!(write(&path, 8192, 4096), Err(Errno::IO));
    let stats = || disk.server.stats(0).expect("stats");
    wait_until(20, "the late answer", || stats().stale == 1);
    assert_eq!((stats().expired, stats().failed), (1, 0));
    assert_eq!(injected(&faulty), [1, 1]);
    disk.destroy_and_join(serving);
}

fn with_deadline(policy: DeadlinePolicy) -> Builder {
    builder().deadline(LIMIT).deadline_policy(policy)
}

/// The request is never answered, and the submitter gets an error in time.
fn dropped(context: &mut Context) {
    context.load_module("");
    let faulty = with(ram(), 1, &["write:nth=1:drop", "write:nth=2:drop=after", "read:nth=3:drop"]);
    let (disk, serving) = serve(&with_deadline(DeadlinePolicy::Fail), &faulty);
    let path = disk.path();
    let begin = Instant::now();
    for offset in [0, 8192] {
        assert_eq!(write(&path, offset, 4096), Err(Errno::IO));
    }
    assert!(begin.elapsed() + TICK * 2 >= LIMIT * 2, "{:?}", begin.elapsed());
    assert!(read(&path, 0, 4096) == Ok(vec![0; 4096]), "the first was not carried out");
    assert!(read(&path, 8192, 4096) == Ok(written(8192, 4096)), "the second was");
    assert_eq!(read(&path, 0, 4096), Err(Errno::IO));
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!((stats.expired, stats.stale, stats.held), (3, 0, 0));
    assert_eq!(injected(&faulty), [1; 3]);
    disk.destroy_and_join(serving);

    // Without a deadline the request waits until the device goes.
    let faulty = with(ram(), 1, &["read:drop"]);
    let (disk, serving) = serve(&builder(), &faulty);
    let reader = read_in_thread(disk.path(), 0, 4096);
    wait_until(20, "the read to be dropped", || faulty.plan.injected() == 1);
    assert_eq!(write(&disk.path(), 0, 4096), Ok(4096), "others are served");
    assert!(!reader.is_finished());
    assert_eq!(disk.server.stats(0).expect("stats").held, 1);
    disk.destroy_and_join(serving);
    assert_eq!(reader.join().expect("reader"), Err(Errno::IO));
}

/// The request comes again, to the same or another thread, and the submitter notices nothing.
fn requeued(context: &mut Context) {
    context.load_module("");
    for serving_threads in [1, 2] {
        let faulty = with(ram(), 1, &["write:nth=1:drop=after", "read:nth=1:drop", "read:nth=2:drop"]);
        let builder = with_deadline(DeadlinePolicy::Requeue);
        let (disk, serving) = faulty.serve(&builder, serving_threads);
        let path = disk.path();
        let begin = Instant::now();
        assert_eq!(write(&path, 0, 4096), Ok(4096));
        assert!(read(&path, 0, 4096) == Ok(written(0, 4096)));
        assert!(begin.elapsed() + TICK * 3 >= LIMIT * 3, "{:?}", begin.elapsed());
        let stats = disk.server.stats(0).expect("stats");
        assert_eq!((stats.expired, stats.requeued, stats.stale, stats.failed), (3, 3, 0, 0));
        assert_eq!(injected(&faulty), [1; 3]);
        disk.destroy_and_join(serving);
    }
}

/// Another server gets the request.
fn declared_dead(context: &mut Context) {
    context.load_module("");
    let faulty = with(ram(), 1, &["write:nth=1:drop"]);
    let (disk, serving) = serve(&with_deadline(DeadlinePolicy::DeclareDead), &faulty);
    let path = disk.path();
    let writer = write_in_thread(path.clone(), 0, 0, 4096);
    assert_eq!(join(serving), End::TakenOver);
    assert_eq!(control().status("faulty").expect("status").state, State::Orphaned);
    assert!(!writer.is_finished());
    let server = control().attach("faulty", TakeOver::No).expect("attach");
    let next = Disk { server: Arc::new(server), name: "faulty".to_owned() };
    let serving = next.serve_with(&faulty.backend, faulty.options(1));
    assert_eq!(writer.join().expect("writer"), Ok(4096));
    assert!(read(&path, 0, 4096) == Ok(written(0, 4096)));
    assert_eq!(injected(&faulty), [1]);
    next.destroy_and_join(serving);
    drop(disk);
}

fn duplicate(context: &mut Context) {
    context.load_module("");
    twice(&with(ram(), 1, &["any:duplicate"]));
    twice(&with(Buffered(ram()), 1, &["any:duplicate"]));
}

/// Every answer is given twice, to submitters that send as fast as they can.
fn twice<B: Backend + Send + 'static>(faulty: &Faulty<B>) {
    let (disk, serving) = faulty.serve(&builder().depth(4), 2);
    let path = disk.path();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let path = &path;
            scope.spawn(move || {
                let node = open_direct(path);
                for round in 0..50_u64 {
                    let offset = thread * MIB + round % 4 * 8192;
                    let mut data = Aligned::new(8192, 0);
                    data.fill(thread << 32 | round);
                    assert_eq!(rustix::io::pwrite(&node, data.bytes(), offset), Ok(8192));
                    let mut found = Aligned::new(8192, 0);
                    assert_eq!(rustix::io::pread(&node, found.bytes_mut(), offset), Ok(8192));
                    assert!(found.bytes() == data.bytes(), "round {round}");
                }
            });
        }
    });
    assert_eq!(discard(&path, 0, 8192), Ok(()));
    assert!(read(&path, 0, 8192) == Ok(vec![0; 8192]));
    let stats = || disk.server.stats(0).expect("stats");
    // The second answer comes after the submitter has gone on.
    wait_until(20, "the last answer", || stats().stale == faulty.plan.injected());
    let stats = stats();
    let ended: u64 = stats.operations.iter().map(|counts| counts.committed).sum();
    assert!(ended >= 402, "{stats:?}");
    assert_eq!((stats.stale, stats.failed), (ended, 0));
    disk.destroy_and_join(serving);
}

const FILE: &str = "/run/disk/file";

fn start(context: &Context, faults: &[&str]) -> Spawned {
    let server =
        context.spawn("/proc/self/exe", &[&["--serve-faulty", "faulty", FILE, "1"], faults].concat());
    wait_until(30, "the server to serve", || server.stdout().contains("serving"));
    server
}

/// A write kills the server, before or after it is carried out. The next server gets it, marked, and the submitter
/// waits.
fn death(context: &mut Context) {
    context.load_module("");
    let _store = Mounted::new("store", "/run/disk", "tmpfs", "");
    for (fault, done) in [("write:nth=2:die", false), ("write:nth=2:die=after", true)] {
        File::create(FILE).expect("create").set_len(SIZE).expect("size");
        let mut server = start(context, &[fault]);
        let path = Path::new("/dev/zosbd2-faulty");
        assert_eq!(write(path, 0, 4096), Ok(4096));
        let writer = write_in_thread(path.to_owned(), 8192, 8192, 4096);
        let status = server.wait(60);
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status:?}: {}", server.stderr());
        wait_until(20, "the device to be an orphan", || {
            control().status("faulty").expect("status").state == State::Orphaned
        });
        let mut stored = vec![0; 4096];
        File::open(FILE).and_then(|file| file.read_exact_at(&mut stored, 8192)).expect("read the file");
        assert!(stored == if done { written(8192, 4096) } else { vec![0; 4096] }, "{fault}");
        assert!(!writer.is_finished());
        // A server that looks at the request and leaves.
        let attached = control().attach("faulty", TakeOver::No).expect("attach");
        let disk = Disk { server: Arc::new(attached), name: "faulty".to_owned() };
        let mut manual = Manual::new(&disk);
        let again = manual.fetch_one();
        assert_eq!((again.op(), again.offset()), (abi::OP_WRITE, 8192));
        assert_ne!(again.flags() & abi::REQUEST_MAYBE_EXECUTED, 0);
        drop((disk, manual));
        let mut server = start(context, &[]);
        assert_eq!(writer.join().expect("writer"), Ok(4096));
        for offset in [0, 8192] {
            assert!(read(path, offset, 4096) == Ok(written(offset, 4096)), "{fault}");
        }
        control().destroy("faulty", true).expect("destroy");
        assert!(server.wait(60).success(), "{}", server.stderr());
    }
}

/// The role `--serve-faulty NAME FILE SEED [FAULT]...`: serves the file with these faults. Attaches to the device
/// of that name, or creates it. Prints `serving` when it serves.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [name, file, seed, texts @ ..] = arguments else {
        return Err("usage: --serve-faulty NAME FILE SEED [FAULT]...".into());
    };
    let disk = FileOptions::default().open(Path::new(file))?;
    let mut plan = FaultPlan::new(seed.parse()?);
    for text in texts {
        plan = plan.with(text.parse()?);
    }
    let control = control();
    let server = if control.status(name).is_ok() {
        control.attach_for(*name, TakeOver::No, &disk)?
    } else {
        control.create(&Builder::new(name).for_backend(&disk).partition_scan(false))?
    };
    server.serve_then(&disk, &threads(1).layer(plan), &StopToken::new(), || println!("serving"))?;
    Ok(())
}

/// Late, lost and repeated answers are invisible if late requests are requeued.
fn conforming(context: &mut Context) {
    context.load_module("");
    // The first fault that hits a request counts, so all three drops happen.
    let texts = [
        "any:nth=9:drop=after",
        "any:nth=100:drop",
        "any:nth=1000:drop",
        "any:share=0.1:duplicate",
        "any:share=0.05:delay=2ms",
    ];
    let seed = context.random("faulty").next();
    let faulty = with(Ram::new(64 * MIB).expect("memory"), seed, &texts);
    let builder = with_deadline(DeadlinePolicy::Requeue).queues(2);
    let (disk, serving) = faulty.serve(&builder, 2);
    let target = conformance::Disk::open(&disk.path()).expect("open the disk");
    let report = conformance::run(&target, context.seed()).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.iter().filter(|check| check.skipped.is_some()).all(|check| check.name == "outside"));
    drop(target);
    let counts: Vec<_> = faulty.plan.counts().map(|(fault, counts)| format!("{fault}: {counts:?}")).collect();
    context.say(&format!("seed {seed}: {counts:?}"));
    assert!(injected(&faulty).iter().all(|count| *count > 0), "{counts:?}");
    disk.destroy_and_join(serving);
}

/// Files that are written and synced one after the other, with the results of `fsync`.
fn write_files(folder: &Path, seed: u64, count: usize) -> Vec<(PathBuf, Vec<u8>, std::io::Result<()>)> {
    (0..count)
        .map(|number| {
            let path = folder.join(format!("file-{number}"));
            let mut data = Aligned::new(8192, 0);
            data.fill(seed ^ number as u64);
            let made = File::create_new(&path).and_then(|mut file| {
                file.write_all(data.bytes())?;
                file.sync_all()
            });
            (path, data.bytes().to_vec(), made)
        })
        .collect()
}

/// A share of all writes fails. Data that `fsync` reports as stored exists afterwards, and all calls end.
fn under_ext4(context: &mut Context) {
    const ROUNDS: u64 = 6;
    const FILES: usize = 30;
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let mut random = context.random("ext4");
    let (mut kept, mut told) = (0, 0);
    for round in 0..ROUNDS {
        let seed = random.next();
        let faulty = with(Ram::new(32 * MIB).expect("memory"), seed, &["write:share=0.03:errno=EIO"]);
        faulty.plan.arm(false);
        let (disk, serving) = serve(&builder(), &faulty);
        let path = disk.path();
        let device = path.to_str().expect("a plain path");
        run(60, "mkfs.ext4", &["-q", device]);
        let mounted = Mounted::new(device, "/mnt", "ext4", "");
        faulty.plan.arm(true);
        let files = write_files(mounted.path(), seed, FILES);
        faulty.plan.arm(false);
        mounted.unmount();
        drop_caches();
        let mounted = Mounted::new(device, "/mnt", "ext4", "");
        for (path, data, made) in files {
            match made {
                Ok(()) => {
                    let found = std::fs::read(&path);
                    let found = found.unwrap_or_else(|error| {
                        panic!("round {round}, seed {seed}: {} is lost: {error}", path.display())
                    });
                    assert!(found == data, "round {round}, seed {seed}: {} is wrong", path.display());
                    kept += 1;
                }
                Err(_) => told += 1,
            }
        }
        mounted.unmount();
        disk.destroy_and_join(serving);
    }
    context.say(&format!("{kept} files kept, {told} times told"));
    assert!(kept > 0 && told > 0, "{kept} files kept, {told} times told");
}

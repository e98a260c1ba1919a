// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory runs short while a disk is served: writes end, their data is right, and the module allocates nothing.
//!
//! The guest is small, and a process beside the server (the hog) takes the memory that the page cache would use.
//! All memory then comes from reclaim, and most of that is dirty pages which only the server can write out. The
//! server's file is on a second disk, so the server dirties the page cache, too.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::nice;
use zosbd2::State;

use super::support::control;
use crate::guest::raw::{PAGE, Pages};
use crate::guest::{
    Context, Mounted, Need, Random, Test, drop_caches, memory_mib, run, wait_until, write_text,
};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_memory_pressure", |context| pressure(context, "file", 4096)).needs(SMALL).timeout(1800),
    Test::new("v2_memory_pressure_direct", |context| pressure(context, "direct", 1024))
        .needs(SMALL)
        .timeout(600),
    Test::new("v2_swap_on_a_raw_store", swap).needs(SWAPS).timeout(900),
];

const SWAPS: &[Need] = &[
    Need::Module,
    Need::Memory(512),
    Need::Disk(5),
    Need::KernelModule("virtio_blk"),
    Need::Tool("mkswap"),
    Need::Tool("swapon"),
    Need::Path("/proc/swaps"),
];

const SMALL: &[Need] = &[
    Need::Module,
    Need::Memory(512),
    Need::Disk(5),
    Need::KernelModule("virtio_blk"),
    Need::Tool("mkfs.ext4"),
    Need::Tool("e2fsck"),
];
const MIB: u64 = 1 << 20;
/// Size of the disk, which fits on the second one.
const SIZE: u64 = 4608 * MIB;
/// Number of files that are written at once.
const FILES: u64 = 4;
/// MiB that the hog leaves to other processes.
const LEFT: u64 = 64;
/// Time between two MiB that the hog frees.
const PAUSE: Duration = Duration::from_millis(10);
const NAME: &str = "pressed";
const DEVICE: &str = "/dev/zosbd2-pressed";

/// The role `--hog MIB`: takes all memory but this much, and from then on allocates and frees around that mark.
/// Prints `holding` when it has reached the mark. It is the first process to be killed when memory is exhausted,
/// and the last to get a processor.
pub(crate) fn hog_role(left: &str) -> Result<(), Box<dyn std::error::Error>> {
    let left: u64 = left.parse()?;
    std::fs::write("/proc/self/oom_score_adj", "1000")?;
    nice(19)?;
    let mut held = VecDeque::new();
    let mut holding = false;
    loop {
        if counter("/proc/meminfo", "MemAvailable:") / 1024 > left {
            let pages = Pages::new(1 << 20);
            let start = pages.at_end(1 << 20);
            (0..1 << 20).step_by(PAGE).for_each(|offset| pages.put(start + offset, &[1]));
            held.push_back(pages);
        } else {
            if !holding {
                println!("holding {} MiB", held.len());
                holding = true;
            }
            held.pop_front();
            // Other processes, and other machines, need the processors.
            std::thread::sleep(PAUSE);
        }
    }
}

/// The role `--swapper MIB ROUNDS`: fills more memory than the guest has, then reads and changes all of it
/// ROUNDS times. Prints `right`, or what was wrong.
pub(crate) fn swapper_role(mib: &str, rounds: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (mib, rounds): (usize, u64) = (mib.parse()?, rounds.parse()?);
    std::fs::write("/proc/self/oom_score_adj", "500")?;
    let mut wanted = vec![0; 1 << 20];
    let mut memory = Vec::new();
    for round in 0..rounds {
        for place in 0..mib {
            if round == 0 {
                memory.push(Pages::new(1 << 20));
            } else {
                stream(round - 1, place as u64).fill(&mut wanted);
                let pages = &memory[place];
                if pages.get(pages.at_end(1 << 20), 1 << 20) != wanted {
                    return Err(format!("MiB {place} is wrong in round {round}").into());
                }
            }
            stream(round, place as u64).fill(&mut wanted);
            let pages = &memory[place];
            pages.put(pages.at_end(1 << 20), &wanted);
        }
        println!("round {round}");
    }
    println!("right");
    Ok(())
}

/// The sum of the counters whose names have this prefix, in a file of `NAME NUMBER` lines.
fn counter(path: &str, beginning: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    let lines = text.lines().filter(|line| line.starts_with(beginning));
    let number = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    lines.map(|line| number(line).unwrap_or_else(|| panic!("{path} has a line \"{line}\""))).sum()
}

/// Pages scanned by allocations that found no memory, and the number of such allocations.
fn direct_reclaim() -> (u64, u64) {
    (counter("/proc/vmstat", "pgscan_direct "), counter("/proc/vmstat", "allocstall_"))
}

/// The contents of one file, as a stream.
fn stream(seed: u64, file: u64) -> Random {
    Random::named(seed, &format!("file {file}"))
}

/// Runs `each` for all files at once, with the streams of their contents.
fn for_each_file(seed: u64, each: impl Fn(&Path, Random) + Sync) {
    std::thread::scope(|scope| {
        for file in 0..FILES {
            let each = &each;
            scope.spawn(move || each(Path::new(&format!("/mnt/{file}")), stream(seed, file)));
        }
    });
}

fn pressure(context: &mut Context, kind: &str, mib: u64) {
    // Fewer on a slower guest, such as with the debug kernel, where memory then may suffice.
    let (whole, mib) = (mib, context.share(mib));
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let second = context.load_disk();
    // The kernel must kill neither this process nor the server.
    write_text("/proc/self/oom_score_adj", "-1000");
    run(120, "mkfs.ext4", &["-q", "-m", "0", second]);
    let below = Mounted::new(second, "/run/disk", "ext4", "");
    File::create("/run/disk/file").and_then(|file| file.set_len(SIZE)).expect("make the disk's file");
    let serve = ["--serve-v2", kind, NAME, "2", "2", "/run/disk/file"];
    let mut server = context.spawn("/proc/self/exe", &serve);
    wait_until(60, "the server to serve", || {
        assert!(server.running(), "the server ended: {}", server.stderr());
        server.stdout().contains("serving")
    });
    run(120, "mkfs.ext4", &["-q", "-m", "0", DEVICE]);
    let mounted = Mounted::new(DEVICE, "/mnt", "ext4", "errors=remount-ro");
    let mut hog = context.spawn("/proc/self/exe", &["--hog", &LEFT.to_string()]);
    wait_until(120, "the hog to hold", || hog.running() && hog.stdout().contains("holding"));

    let (seed, each) = (context.seed(), mib / FILES);
    let (before, start) = (direct_reclaim(), Instant::now());
    for_each_file(seed, |path, stream| write(path, stream, each));
    rustix::fs::sync();
    let (after, took) = (direct_reclaim(), start.elapsed());
    let (scanned, stalls) = (after.0 - before.0, after.1 - before.1);
    let start = Instant::now();
    drop_caches();
    for_each_file(seed, |path, stream| compare(path, stream, each));
    let held = hog.stdout();
    context.say(&format!(
        "{kind}: {mib} MiB written in {:.0} s and read in {:.0} s, the hog {}; {stalls} stalls, {scanned} pages scanned",
        took.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        held.trim(),
    ));
    assert!(hog.running(), "the hog was killed: it left too little");
    drop(hog);
    let short = stalls > 0 && scanned > 0;
    assert!(short || mib < whole, "memory was not short: {stalls} stalls, {scanned} pages scanned");

    let status = control().observe(NAME).and_then(|observer| observer.status()).expect("status");
    assert_eq!((status.state, status.epoch, status.lost), (State::Live, 1, false));
    for place in ["/mnt", "/run/disk"] {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
        let line = mounts.lines().find(|line| line.contains(&format!(" {place} "))).expect("mounted");
        assert!(line.contains(" ext4 rw,"), "{line}");
    }
    mounted.unmount();
    run(300, "e2fsck", &["-f", "-n", DEVICE]);
    control().destroy(NAME, false).expect("destroy");
    assert!(server.wait(60).success(), "{}", server.stderr());
    below.unmount();
    run(300, "e2fsck", &["-f", "-n", second]);
}

fn write(path: &Path, mut stream: Random, mib: u64) {
    let mut file = File::create(path).expect("create a file");
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..mib {
        stream.fill(&mut chunk);
        file.write_all(&chunk).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}

fn compare(path: &Path, mut stream: Random, mib: u64) {
    let mut file = File::open(path).expect("open a file");
    let (mut chunk, mut expected) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for index in 0..mib {
        stream.fill(&mut expected);
        file.read_exact(&mut chunk).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        if chunk != expected {
            let wrong = chunk.iter().zip(&expected).position(|(is, should)| is != should).unwrap_or(0);
            panic!("{}: wrong from byte {} on", path.display(), index * MIB + wrong as u64);
        }
    }
    assert_eq!(file.read(&mut chunk).expect("read the end"), 0, "{} is too long", path.display());
}

/// The system swaps to a disk whose store is a separate device, and whose server is locked into memory. All
/// rounds end, and every page comes back unchanged.
fn swap(context: &mut Context) {
    const ROUNDS: &str = "2";
    // More than there is, so that it must go out and come back.
    let memory = memory_mib() * 5 / 4;
    context.load_module("");
    let store = context.load_disk();
    write_text("/proc/self/oom_score_adj", "-1000");
    let mut server = context.spawn("/proc/self/exe", &["--serve-v2", "locked", NAME, "2", "2", store]);
    wait_until(60, "the server to serve", || {
        assert!(server.running(), "the server ended: {}", server.stderr());
        server.stdout().contains("serving")
    });
    run(60, "mkswap", &[DEVICE]);
    run(60, "swapon", &[DEVICE]);
    let moved = || (counter("/proc/vmstat", "pswpout "), counter("/proc/vmstat", "pswpin "));
    let (before, start) = (moved(), Instant::now());
    let mut swapper = context.spawn("/proc/self/exe", &["--swapper", &memory.to_string(), ROUNDS]);
    let status = swapper.wait(600);
    assert!(status.success(), "{status}: {}{}", swapper.stdout(), swapper.stderr());
    let after = moved();
    let (out, back) = (after.0 - before.0, after.1 - before.1);
    context.say(&format!(
        "{memory} MiB of memory filled {ROUNDS} times in {:.0} s: {} MiB went out, {} MiB came back",
        start.elapsed().as_secs_f64(),
        out * PAGE as u64 / MIB,
        back * PAGE as u64 / MIB,
    ));
    assert!(swapper.stdout().contains("right") && server.running(), "{}", server.stderr());
    assert!(out * PAGE as u64 >= 200 * MIB && back * PAGE as u64 >= 200 * MIB, "{out} and {back} pages");
    drop(swapper);
    run(300, "swapoff", &[DEVICE]);
    let status = control().observe(NAME).and_then(|observer| observer.status()).expect("status");
    assert_eq!((status.state, status.epoch, status.lost), (State::Live, 1, false));
    control().destroy(NAME, false).expect("destroy");
    assert!(server.wait(60).success(), "{}", server.stderr());
}

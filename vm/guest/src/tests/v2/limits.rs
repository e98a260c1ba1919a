// SPDX-License-Identifier: MIT OR Apache-2.0
//! A full store, and a process with limits: each refusal reaches the submitter as an error, or the caller as
//! an error that names the resource, and never the server as a signal. Reads allocate no memory.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use zosbd2::{Backend, Builder, Errno, MemoryLock, ServeOptions, State};
use zosbd2_backends::{FileOptions, Null, Ram};

use super::super::support::{discard, range_ioctl, read_in_thread, write_in_thread};
use super::support::{Disk, control, refused, threads};
use crate::guest::{Context, Mounted, Need, Spawned, Test, raw, read_trimmed, sys, wait_until};

const NEEDS: &[Need] = &[Need::Module];

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_shared_memory_full_of_zeroes", full_of_zeroes).needs(NEEDS).timeout(120),
    Test::new("v2_shared_memory_full_of_writes", full_of_writes).needs(NEEDS).timeout(120),
    Test::new("v2_shared_memory_of_huge_pages", huge_pages)
        .needs(&[Need::Module, Need::Path("/proc/sys/vm/nr_hugepages")])
        .timeout(60),
    Test::new("v2_file_on_a_full_file_system", full_file_system).needs(NEEDS).timeout(60),
    Test::new("v2_reading_shared_memory_takes_none", reading_shared).needs(NEEDS).timeout(90),
    Test::new("v2_reading_own_memory_takes_none", reading_own).needs(NEEDS).timeout(90),
    Test::new("v2_limit_of_file_size", file_size).needs(NEEDS).timeout(90),
    Test::new("v2_limit_of_file_size_for_shared_memory", file_size_of_memory).needs(NEEDS).timeout(60),
    Test::new("v2_pipe_that_nobody_reads", broken_pipe).needs(NEEDS).timeout(60),
    Test::new("v2_limits_are_named", limits_are_named).needs(NEEDS).timeout(120),
    Test::new("v2_terminal_that_closes", hang_up).needs(NEEDS).timeout(60),
];

const MIB: u64 = 1 << 20;
/// Length of a request in these tests.
const CHUNK: usize = 65536;

/// A backend that writes its data to a pipe without a reader.
#[derive(Debug)]
struct Piped(File);

impl Backend for Piped {
    fn size(&self) -> u64 {
        MIB
    }

    fn read(&self, _: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        buffer.fill(0);
        Ok(())
    }

    fn write(&self, _: u64, data: &mut [u8], _: bool) -> Result<(), Errno> {
        (&self.0).write_all(data).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

fn limit(resource: Resource, most: u64) -> Result<(), Errno> {
    setrlimit(resource, Rlimit { current: Some(most), maximum: getrlimit(resource).maximum })
}

/// The role `--serve-limited KIND NAME ...`. Prints `serving` when the node exists.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let ready = |_: &Path| println!("serving");
    let [kind, name, rest @ ..] = arguments else { return Err("usage: KIND NAME ...".into()) };
    let builder = Builder::new(name).partition_scan(false);
    match (*kind, rest) {
        ("shared", [file, mib]) => {
            builder.serve_then(&Ram::shared(Path::new(file), mib.parse::<u64>()? * MIB)?, ready)?;
        }
        ("shared-within", [file, mib, most]) => {
            limit(Resource::Fsize, most.parse()?)?;
            builder.serve_then(&Ram::shared(Path::new(file), mib.parse::<u64>()? * MIB)?, ready)?;
        }
        ("file-within", [file, most]) => {
            limit(Resource::Fsize, most.parse()?)?;
            builder.serve_then(&FileOptions::default().open(Path::new(file))?, ready)?;
        }
        ("pipe", []) => {
            // As in a program in another language than Rust.
            sys::default_sigpipe()?;
            let (reader, writer) = rustix::pipe::pipe()?;
            drop(reader);
            builder.serve_then(&Piped(File::from(writer)), ready)?;
        }
        ("descriptors", [file]) => {
            limit(Resource::Nofile, 3)?;
            builder.serve_then(&FileOptions::default().open(Path::new(file))?, ready)?;
        }
        ("address-space", []) => {
            let null = Null::new(MIB);
            let pages: u64 = read_trimmed("/proc/self/statm").split(' ').next().ok_or("statm")?.parse()?;
            limit(Resource::As, pages * 4096 + 24 * MIB)?;
            builder.max_io_bytes(32 << 20).serve_then(&null, ready)?;
        }
        ("locked-memory", []) => {
            let mut sets = capabilities(None)?;
            for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
                set.remove(CapabilitySet::IPC_LOCK);
            }
            set_capabilities(None, sets)?;
            limit(Resource::Memlock, 65536)?;
            let options = ServeOptions::default().memory_lock(MemoryLock::All);
            builder.serving(options).serve_then(&Null::new(MIB), ready)?;
        }
        _ => return Err(format!("there is no role {arguments:?}").into()),
    }
    Ok(())
}

fn start(context: &Context, arguments: &[&str]) -> Spawned {
    let mut server = context.spawn("/proc/self/exe", &[&["--serve-limited"], arguments].concat());
    wait_until(30, "the server to serve", || {
        assert!(server.running(), "it ended: {}", server.stderr());
        server.stdout().contains("serving")
    });
    server
}

fn node(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/zosbd2-{name}"))
}

fn write(name: &str, offset: u64) -> Result<usize, Errno> {
    write_in_thread(node(name), offset, offset, CHUNK).join().expect("the writer")
}

/// Reads a chunk. Returns whether it is all zeros.
fn read(name: &str, offset: u64) -> Result<bool, Errno> {
    let bytes = read_in_thread(node(name), offset, CHUNK).join().expect("the reader")?;
    Ok(bytes.len() == CHUNK && bytes.iter().all(|byte| *byte == 0))
}

#[track_caller]
fn lives(server: &mut Spawned) {
    assert!(server.running(), "the server ended: {}, {}", server.wait(1), server.stderr());
}

fn end(name: &str, mut server: Spawned) {
    lives(&mut server);
    control().destroy(name, true).expect("destroy");
    assert!(server.wait(30).success(), "{}", server.stderr());
}

const FILE: &str = "/run/memory/disk";
/// Size of the disk, whose file system has room for 16 MiB.
const SIZE: u64 = 64 * MIB;

fn memory() -> Mounted {
    Mounted::new("memory", "/run/memory", "tmpfs", "size=16m")
}

fn used() -> u64 {
    std::fs::metadata(FILE).expect("the file").blocks()
}

/// Checks a disk whose store is full: only operations that need room fail, with ENOSPC. `place` is unwritten,
/// and the first MiB is written.
fn use_what_is_full(server: &mut Spawned, name: &str, place: u64) {
    assert_eq!(write(name, place), Err(Errno::NOSPC));
    assert_eq!(range_ioctl(&node(name), raw::BLKZEROOUT, 40 * MIB, MIB), Err(Errno::NOSPC));
    let before = used();
    assert_eq!(read(name, 60 * MIB), Ok(true), "what was never written");
    assert_eq!(discard(&node(name), 60 * MIB + 512, 1024), Ok(()), "a part of a page that is not there");
    assert_eq!(used(), before);
    assert_eq!(write(name, 0), Ok(CHUNK), "over what is there");
    assert_eq!(read(name, 0), Ok(false));
    assert_eq!(discard(&node(name), 0, MIB), Ok(()));
    assert_eq!(read(name, 0), Ok(true));
    assert_eq!(write(name, place), Ok(CHUNK), "there is room again");
    assert_eq!(read(name, place), Ok(false));
    // Less than a MiB is left.
    assert_eq!(range_ioctl(&node(name), raw::BLKZEROOUT, 0, MIB), Err(Errno::NOSPC));
    lives(server);
}

fn full_of_zeroes(context: &mut Context) {
    context.load_module("");
    let memory = memory();
    let mut server = start(context, &["shared", "tight", FILE, "64"]);
    assert_eq!(range_ioctl(&node("tight"), raw::BLKZEROOUT, 0, 60 * MIB), Err(Errno::NOSPC));
    lives(&mut server);
    use_what_is_full(&mut server, "tight", 50 * MIB);
    end("tight", server);
    // The next server also finds the store full.
    let mut server = start(context, &["shared", "next", FILE, "64"]);
    assert_eq!(read("next", 63 * MIB), Ok(true));
    use_what_is_full(&mut server, "next", 52 * MIB);
    end("next", server);
    memory.unmount();
}

fn full_of_writes(context: &mut Context) {
    context.load_module("");
    let memory = memory();
    let mut server = start(context, &["shared", "tight", FILE, "64"]);
    let mut random = context.random("places");
    let chunks = SIZE / CHUNK as u64;
    // Every other chunk, from a random one on.
    let first = random.below(chunks);
    let ends: Vec<_> =
        (0..chunks / 2).map(|index| write("tight", (first + 2 * index) % chunks * CHUNK as u64)).collect();
    let written = ends.iter().filter(|end| **end == Ok(CHUNK)).count();
    context.say(&format!("{written} of {} chunks of 64 KiB found room", ends.len()));
    assert!(ends.iter().all(|end| [Ok(CHUNK), Err(Errno::NOSPC)].contains(end)), "{ends:?}");
    // 16 MiB, less the file system's own data and the first page.
    assert!((200..=256).contains(&written), "{written} chunks");
    lives(&mut server);
    for chunk in 0..chunks {
        read("tight", chunk * CHUNK as u64).unwrap_or_else(|error| panic!("read chunk {chunk}: {error}"));
    }
    end("tight", server);
    memory.unmount();
}

/// hugetlbfs files cannot be written by a system call, and a full hugetlbfs causes a signal, so they are
/// refused.
fn huge_pages(context: &mut Context) {
    context.load_module("");
    let memory = Mounted::new("none", "/run/memory", "hugetlbfs", "");
    let mut server = context.spawn("/proc/self/exe", &["--serve-limited", "shared", "huge", FILE, "64"]);
    let status = server.wait(30);
    let said = server.stderr();
    assert!(status.code() == Some(1) && said.contains("hugetlbfs"), "{status}: {said}");
    drop(server);
    memory.unmount();
}

/// A sparse file on a file system without room for its data.
fn full_file_system(context: &mut Context) {
    context.load_module("");
    let memory = memory();
    File::create(FILE).and_then(|file| file.set_len(SIZE)).expect("make the file");
    let mut server = context.spawn("/proc/self/exe", &["--serve-v2", "file", "sparse", "1", "1", FILE]);
    wait_until(30, "the server to serve", || server.running() && server.stdout().contains("serving"));
    // The kernel asks for zeros whose space stays allocated.
    assert_eq!(range_ioctl(&node("sparse"), raw::BLKZEROOUT, 0, 60 * MIB), Err(Errno::NOSPC));
    assert_eq!(discard(&node("sparse"), 0, SIZE), Ok(()));
    let ends: Vec<_> = (0..512).map(|chunk| write("sparse", chunk * CHUNK as u64)).collect();
    assert!(ends.contains(&Ok(CHUNK)) && ends.contains(&Err(Errno::NOSPC)), "{ends:?}");
    assert!(ends.iter().all(|end| [Ok(CHUNK), Err(Errno::NOSPC)].contains(end)), "{ends:?}");
    assert_eq!((read("sparse", 0), read("sparse", 60 * MIB)), (Ok(false), Ok(true)));
    assert_eq!(discard(&node("sparse"), 0, MIB), Ok(()));
    assert_eq!(write("sparse", 50 * MIB), Ok(CHUNK), "there is room again");
    end("sparse", server);
    memory.unmount();
}

fn reading_shared(context: &mut Context) {
    context.load_module("");
    let memory = memory();
    let server = start(context, &["shared", "sparse", FILE, "64"]);
    assert_eq!(write("sparse", 5 * MIB), Ok(CHUNK));
    let before = used();
    for offset in (0..SIZE).step_by(1 << 20) {
        let bytes =
            read_in_thread(node("sparse"), offset, 1 << 20).join().expect("the reader").expect("read");
        assert_eq!(bytes.iter().all(|byte| *byte == 0), offset != 5 * MIB, "at {offset}");
    }
    assert_eq!(used(), before, "blocks of 512 bytes");
    end("sparse", server);
    memory.unmount();
}

/// KiB of page tables of this process.
fn page_tables() -> u64 {
    let status = read_trimmed("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Reads do not allocate page tables either, which the kernel would never free.
fn reading_own(context: &mut Context) {
    const PLACES: u64 = 2048;
    context.load_module("");
    let size = PLACES * 2 * MIB;
    let ram = Arc::new(Ram::new(size).expect("memory"));
    let (disk, serving) = Disk::serve(&Builder::new("own").partition_scan(false), &ram, threads(1));
    let node = super::super::support::open_direct(&disk.path());
    let mut buffer = super::super::support::Aligned::new(4096, 0);
    buffer.fill(1);
    assert_eq!(rustix::io::pwrite(&node, buffer.bytes(), 7 * MIB), Ok(4096));
    let mut check = |place: u64| {
        assert_eq!(rustix::io::pread(&node, buffer.bytes_mut(), place), Ok(4096));
        assert_eq!(buffer.bytes().iter().all(|byte| *byte == 0), place != 7 * MIB, "at {place}");
    };
    check(0);
    let before = page_tables();
    for place in 0..PLACES {
        check(place * 2 * MIB + MIB);
    }
    let grown = page_tables() - before;
    context.say(&format!("reading one block of each of {PLACES} places took {grown} KiB of page tables"));
    // Each place would allocate 4 KiB.
    assert!(grown < PLACES / 2, "{grown} KiB of page tables");
    drop(node);
    disk.destroy_and_join(serving);
}

fn file_size(context: &mut Context) {
    context.load_module("");
    let mounted = Mounted::new("store", "/run/store", "tmpfs", "");
    let file = "/run/store/file";
    File::create(file).and_then(|file| file.set_len(16 * MIB)).expect("make the file");
    let most = (4 * MIB).to_string();
    let mut server = start(context, &["file-within", "within", file, &most]);
    assert_eq!(write("within", 0), Ok(CHUNK));
    for round in 0..3 {
        // Completely and partly beyond the limit.
        assert_eq!(write("within", 8 * MIB), Err(Errno::IO), "round {round}");
        assert_eq!(write("within", 4 * MIB - 4096), Err(Errno::IO), "round {round}");
        lives(&mut server);
    }
    assert_eq!(write("within", 0), Ok(CHUNK));
    assert_eq!((read("within", 0), read("within", 8 * MIB)), (Ok(false), Ok(true)));
    assert_eq!(discard(&node("within"), 8 * MIB, MIB), Ok(()));
    let zeroed = range_ioctl(&node("within"), raw::BLKZEROOUT, 8 * MIB, MIB);
    context.say(&format!("zeros behind the limit: {zeroed:?}"));
    end("within", server);
    mounted.unmount();
}

fn file_size_of_memory(context: &mut Context) {
    context.load_module("");
    let memory = memory();
    for mib in ["8", "64"] {
        let most = (4 * MIB).to_string();
        let arguments = ["--serve-limited", "shared-within", "within", FILE, mib, &most];
        let mut server = context.spawn("/proc/self/exe", &arguments);
        let (status, said) = (server.wait(30), server.stderr());
        assert!(status.code() == Some(1) && said.contains("RLIMIT_FSIZE"), "{status}: {said}");
    }
    memory.unmount();
}

fn broken_pipe(context: &mut Context) {
    context.load_module("");
    let mut server = start(context, &["pipe", "piped"]);
    for _ in 0..3 {
        assert_eq!(write("piped", 0), Err(Errno::IO));
        lives(&mut server);
    }
    assert_eq!(read("piped", 0), Ok(true));
    end("piped", server);
}

/// If a limit prevents serving, the error names the limit, and no device is left.
fn limits_are_named(context: &mut Context) {
    context.load_module("");
    let file = "/tmp/file";
    File::create(file).and_then(|file| file.set_len(MIB)).expect("make the file");
    for (arguments, parts) in [
        (&["descriptors", "poor", file][..], &["open /tmp/file", "Too many open files"][..]),
        (&["address-space", "poor"], &["device poor", "bytes of memory", "Cannot allocate memory"]),
        (&["locked-memory", "poor"], &["lock the memory of the process (see RLIMIT_MEMLOCK)"]),
    ] {
        let mut server = context.spawn("/proc/self/exe", &[&["--serve-limited"], arguments].concat());
        let (status, said) = (server.wait(30), server.stderr());
        context.say(&format!("{arguments:?}: {}", said.trim()));
        assert_eq!(status.code(), Some(1), "{arguments:?}: {status}: {said}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
        assert_eq!(refused(control().destroy("poor", true)), Errno::NOENT, "{arguments:?}");
    }
}

/// A server that was started from a terminal dies with the terminal, like any program; the disk waits for the
/// next server.
fn hang_up(context: &mut Context) {
    context.load_module("");
    let memory = memory();
    let mut server = start(context, &["shared", "session", FILE, "8"]);
    server.signal(Signal::HUP);
    assert_eq!(server.wait(30).signal(), Some(Signal::HUP.as_raw()));
    let observer = control().observe("session").expect("it is there");
    assert_eq!(observer.status().expect("status").state, State::Orphaned);
    let next = control().attach("session", zosbd2::TakeOver::No).expect("attach");
    assert_eq!(next.status().expect("status").state, State::Live);
    drop(next);
    control().destroy("session", true).expect("destroy");
    memory.unmount();
}

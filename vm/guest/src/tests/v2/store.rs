// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk has the properties of its store: block size, alignment, read-only, discard, rotational, cache.
//! Stores are files on several file systems, and block devices with sectors of 512 and of 4096 bytes.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use zosbd2::{Backend, Builder, Errno, ServeOptions, StopToken};
use zosbd2_backends::{FileDisk, FileOptions, conformance};

use super::super::support::{Aligned, discard, open_direct, range_ioctl};
use super::support::{Disk, control, threads};
use crate::guest::{Context, Mounted, Need, Spawned, Test, raw, read_trimmed, run, wait_until, write_text};

const NEEDS: &[Need] = &[Need::Module, Need::Tool("losetup")];

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_store_direct_ext4_on_4096", |context| {
        direct_on_4096(context, "ext4", &["mkfs.ext4", "-q"]);
    })
    .needs(NEEDS)
    .timeout(180),
    Test::new("v2_store_direct_xfs_on_4096", |context| {
        direct_on_4096(context, "xfs", &["mkfs.xfs", "-q", "-f"]);
    })
    .needs(NEEDS)
    .timeout(240),
    Test::new("v2_store_direct_device_of_4096", |context| device_of_4096(context, true))
        .needs(NEEDS)
        .timeout(180),
    Test::new("v2_store_buffered_device_of_4096", |context| device_of_4096(context, false))
        .needs(NEEDS)
        .timeout(180),
    Test::new("v2_store_without_direct_io", without_direct).needs(NEEDS).timeout(60),
    Test::new("v2_store_smaller_blocks_are_refused", smaller_blocks).needs(NEEDS).timeout(60),
    Test::new("v2_store_waits_for_a_look", waits_for_a_look).needs(&[Need::Module]).timeout(60),
    Test::new("v2_store_names_its_holder", names_the_holder).needs(&[Need::Module]).timeout(60),
    Test::new("v2_store_read_only", read_only).needs(NEEDS).timeout(60),
    Test::new("v2_store_that_seeks", seeks).needs(NEEDS).timeout(60),
    Test::new("v2_store_without_discard", without_discard).needs(NEEDS).timeout(60),
    Test::new("v2_store_cache_and_size", cache_and_size).needs(NEEDS).timeout(60),
];

const MIB: u64 = 1 << 20;
const LOOP: &str = "/dev/loop0";

/// A loop device with its data in memory.
#[derive(Debug)]
struct Loop {
    base: Mounted,
}

impl Loop {
    fn new(context: &mut Context, mib: u64, options: &[&str]) -> Self {
        context.load_kernel_module("loop", "");
        let base = Mounted::new("base", "/run/base", "tmpfs", "size=900m");
        File::create("/run/base/image").expect("create").set_len(mib * MIB).expect("size");
        run(30, "losetup", &[options, &[LOOP, "/run/base/image"]].concat());
        Self { base }
    }

    fn end(self) {
        run(30, "losetup", &["-d", LOOP]);
        drop(self.base);
    }
}

fn blocks_of(file: &FileDisk) -> u32 {
    file.capabilities().logical_block_size
}

/// Runs the conformance suite on a disk with this store. Only the checks that the block layer prevents may be
/// skipped.
fn conform(context: &Context, file: FileDisk) {
    let block = blocks_of(&file).to_string();
    let builder = Builder::new("store").partition_scan(false);
    let (disk, serving) = Disk::serve(&builder, &Arc::new(file), threads(2));
    assert_eq!(disk.setting("queue/logical_block_size"), block);
    let target = conformance::Disk::open(&disk.path()).expect("open the disk");
    let report = conformance::run(&target, context.seed()).unwrap_or_else(|failure| panic!("{failure}"));
    drop(target);
    disk.destroy_and_join(serving);
    let skipped: Vec<_> =
        report.iter().filter(|check| check.skipped.is_some()).map(|check| check.name).collect();
    assert_eq!(skipped, ["outside"]);
}

/// Blocks that are written, zeroed and discarded one by one, at random places.
fn use_each_block(context: &Context, file: FileDisk) {
    const BLOCKS: usize = 16;
    let (size, block) = (file.size(), blocks_of(&file) as usize);
    let mut random = context.random("blocks");
    let builder = Builder::new("each").partition_scan(false);
    let (disk, serving) = Disk::serve(&builder, &Arc::new(file), threads(1));
    assert_eq!(disk.setting("queue/logical_block_size"), block.to_string());
    assert_eq!(disk.setting("size"), (size / 512).to_string());
    let node = open_direct(&disk.path());
    let mut data = Aligned::new(BLOCKS * block, 0);
    data.fill(context.seed());
    let mut back = Aligned::new(BLOCKS * block, 0);
    let last = size / block as u64 - BLOCKS as u64;
    for index in 0..BLOCKS {
        let start = if index == 0 { last } else { random.below(last) } * block as u64;
        let offset = start + (index * block) as u64;
        for (at, bytes) in data.bytes().chunks(block).enumerate() {
            assert_eq!(rustix::io::pwrite(&node, bytes, start + (at * block) as u64), Ok(block));
        }
        assert_eq!(
            range_ioctl(&disk.path(), raw::BLKZEROOUT, offset, block as u64),
            Ok(()),
            "zeros at {offset}"
        );
        assert_eq!(rustix::io::pread(&node, back.bytes_mut(), start), Ok(BLOCKS * block));
        let mut wanted = data.bytes().to_vec();
        wanted[index * block..][..block].fill(0);
        assert!(back.bytes() == wanted, "blocks from {start} on");
        assert_eq!(discard(&disk.path(), offset, block as u64), Ok(()), "discard at {offset}");
    }
    drop(node);
    disk.destroy_and_join(serving);
}

/// A sparse file shows the unit of its file system only when blocks are allocated.
fn direct_on_4096(context: &mut Context, kind: &str, make: &[&str]) {
    context.load_module("");
    context.load_kernel_module(kind, "");
    let device = Loop::new(context, 400, &["-b", "4096"]);
    run(120, make[0], &[&make[1..], &[LOOP]].concat());
    let mounted = Mounted::new(LOOP, "/run/disk", kind, "");
    for (name, bytes) in [("sparse", 32 * MIB), ("tail", 32 * MIB + 1000)] {
        let path = mounted.path().join(name);
        File::create(&path).expect("create").set_len(bytes).expect("size");
        let file = FileOptions::default().direct(true).open(&path).expect("open");
        assert_eq!((blocks_of(&file), file.size()), (4096, 32 * MIB), "{name}");
        use_each_block(context, file);
    }
    // A file shorter than a block cannot be a disk.
    let path = mounted.path().join("short");
    std::fs::write(&path, [1; 1000]).expect("write");
    let refused = FileOptions::default().direct(true).open(&path).expect_err("shorter than a block");
    assert!(refused.to_string().contains("shorter than a block of 4096 bytes"), "{refused}");
    mounted.unmount();
    device.end();
    // The same file system on small sectors has small blocks.
    context.load_kernel_module("brd", "rd_nr=1 rd_size=409600");
    run(120, make[0], &[&make[1..], &["/dev/ram0"]].concat());
    let mounted = Mounted::new("/dev/ram0", "/run/disk", kind, "");
    let path = mounted.path().join("sparse");
    File::create(&path).expect("create").set_len(32 * MIB).expect("size");
    let file = FileOptions::default().direct(true).open(&path).expect("open");
    let sectors = read_trimmed("/sys/block/ram0/queue/logical_block_size");
    assert_eq!(blocks_of(&file).to_string(), sectors);
    drop(file);
    mounted.unmount();
}

fn device_of_4096(context: &mut Context, direct: bool) {
    context.load_module("");
    let device = Loop::new(context, 64, &["-b", "4096"]);
    let open = || FileOptions::default().direct(direct).open(Path::new(LOOP)).expect("open");
    assert_eq!(blocks_of(&open()), 4096);
    conform(context, open());
    use_each_block(context, open());
    device.end();
}

/// If a file system reports that a file has no direct I/O, the disk must not use it.
fn without_direct(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let memory = Mounted::new("memory", "/run/memory", "tmpfs", "");
    let path = memory.path().join("file");
    File::create(&path).expect("create").set_len(MIB).expect("size");
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("small");
    let possible = File::options().read(true).custom_flags(flags).open(&path).is_ok();
    let opened = FileOptions::default().direct(true).open(&path);
    context.say(&format!("direct I/O on tmpfs: {possible}"));
    match opened {
        Ok(file) => assert_eq!((possible, blocks_of(&file)), (true, 4096), "nobody says what it needs"),
        Err(error) => {
            let said = error.to_string();
            assert!(!possible && said.contains("cannot be read and written directly"), "{said}");
        }
    }
    memory.unmount();
    let device = Loop::new(context, 64, &[]);
    run(60, "mkfs.ext4", &["-q", LOOP]);
    let mounted = Mounted::new(LOOP, "/run/disk", "ext4", "data=journal");
    let path = mounted.path().join("file");
    File::create(&path).expect("create").set_len(MIB).expect("size");
    let refused = FileOptions::default().direct(true).open(&path).expect_err("data goes through the journal");
    assert!(refused.to_string().contains("cannot be read and written directly"), "{refused}");
    mounted.unmount();
    device.end();
}

/// Blocks smaller than the store's are refused everywhere.
fn smaller_blocks(context: &mut Context) {
    context.load_module("");
    let device = Loop::new(context, 16, &["-b", "4096"]);
    let path = Path::new(LOOP);
    for (direct, block) in [(false, 512), (false, 2048), (true, 1024)] {
        let options = FileOptions::default().direct(direct).logical_block_size(block);
        let refused = options.open(path).expect_err("smaller than the device's");
        let wanted = format!("{LOOP}: logical block size {block} is not a power of two from 4096 to 4096");
        assert_eq!(refused.to_string(), wanted);
    }
    let file = FileOptions::default().open(path).expect("open");
    let builder = Builder::new("small").partition_scan(false);
    let refused = control().create(&builder.clone().for_backend(&file).logical_block_size(512)).map(drop);
    let said = refused.expect_err("smaller than the backend's").to_string();
    assert!(said.contains("logical block size 512 is smaller than the backend's, 4096"), "{said}");
    // A device that was created for another store.
    let server = control().create(&builder.size_bytes(16 * MIB)).expect("create");
    let ended = server.serve(&file, &ServeOptions::default(), &StopToken::new());
    let said = ended.expect_err("the device lets smaller blocks through").to_string();
    assert!(said.contains("logical block size 512 is smaller than the backend's, 4096"), "{said}");
    control().destroy("small", true).expect("destroy");
    drop(file);
    device.end();
}

/// udev probes a device with a shared lock, and partitioning programs use an exclusive one.
fn waits_for_a_look(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("brd", "rd_nr=1 rd_size=16384");
    let file = Path::new("/tmp/looked-at");
    File::create(file).expect("create").set_len(MIB).expect("size");
    for path in [Path::new("/dev/ram0"), file] {
        for (operation, time) in
            [(FlockOperation::NonBlockingLockShared, 300), (FlockOperation::NonBlockingLockExclusive, 1200)]
        {
            let looker = File::open(path).expect("open");
            flock(&looker, operation).expect("lock");
            let until = Instant::now() + Duration::from_millis(time);
            let looking = std::thread::spawn(move || {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
                drop(looker);
            });
            let opened = FileOptions::default().open(path);
            looking.join().expect("the one who looks");
            let opened = opened.unwrap_or_else(|error| panic!("{operation:?} of {time} ms: {error}"));
            assert!(Instant::now() >= until, "two have {}", path.display());
            drop(opened);
        }
    }
}

/// The error names a process that keeps its lock.
fn names_the_holder(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("brd", "rd_nr=1 rd_size=16384");
    let mut server =
        context.spawn("/proc/self/exe", &["--serve-v2", "file", "holder", "1", "1", "/dev/ram0"]);
    wait_for_server(&mut server);
    let begin = Instant::now();
    let refused = FileOptions::default().open(Path::new("/dev/ram0")).expect_err("another server has it");
    context.say(&format!("after {:?}: {refused}", begin.elapsed()));
    let (said, pid) = (refused.to_string(), server.id());
    assert!(said.contains("/dev/ram0 is in use by process") && said.contains(&format!(" {pid} (")), "{said}");
    control().destroy("holder", true).expect("destroy");
    assert!(server.wait(30).success(), "{}", server.stderr());
}

fn wait_for_server(server: &mut Spawned) {
    wait_until(30, "the server to serve", || {
        assert!(server.running(), "it ended: {}", server.stderr());
        server.stdout().contains("serving")
    });
}

/// A read-only store makes a read-only disk.
fn read_only(context: &mut Context) {
    context.load_module("");
    let device = Loop::new(context, 16, &["-r"]);
    context.load_kernel_module("brd", "rd_nr=1 rd_size=16384");
    let node = File::open("/dev/ram0").expect("open");
    let pages = raw::Pages::new(4);
    let at = pages.at_end(4);
    pages.put(at, &1_i32.to_ne_bytes());
    raw::ioctl(node.as_fd(), raw::BLKROSET, at).expect("make it read-only");
    drop(node);
    for (store, direct) in [(LOOP, false), (LOOP, true), ("/dev/ram0", false)] {
        let file = FileOptions::default().direct(direct).open(Path::new(store)).expect("open");
        let builder = Builder::new("fixed").partition_scan(false);
        let refused = control().create(&builder.clone().for_backend(&file).read_only(false)).map(drop);
        let said = refused.expect_err("it cannot be written").to_string();
        assert!(said.contains("is not possible with a read-only backend"), "{said}");
        // A device that was created for another store.
        let server = control().create(&builder.clone().size_bytes(16 * MIB)).expect("create");
        let ended = server.serve(&file, &ServeOptions::default(), &StopToken::new());
        let said = ended.expect_err("it cannot be written").to_string();
        assert!(said.contains("is not possible with a read-only backend"), "{said}");
        control().destroy("fixed", true).expect("destroy");
        drop(server);
        let (disk, serving) = Disk::serve(&builder, &Arc::new(file), threads(1));
        assert_eq!(disk.setting("ro"), "1", "{store}");
        let node = File::options().read(true).write(true).open(disk.path());
        let written = node.and_then(|node| node.write_at(&[1; 4096], 0));
        let errno = written.expect_err("it cannot be written").raw_os_error();
        assert_ne!(errno, Some(Errno::IO.raw_os_error()), "{store}: refused before the server");
        let mut byte = [9];
        File::open(disk.path()).and_then(|node| node.read_exact_at(&mut byte, 5)).expect("read");
        assert_eq!(byte, [0]);
        disk.destroy_and_join(serving);
    }
    device.end();
}

/// A rotational store: a whole device, a partition, a file.
fn seeks(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let device = Loop::new(context, 64, &[]);
    run(30, "losetup", &["-d", LOOP]);
    // One partition, of all but the first MiB.
    let mut table = [0; 512];
    table[450] = 0x83;
    table[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    table[458..462].copy_from_slice(&(63 * 2048_u32).to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    let image = File::options().write(true).open("/run/base/image").expect("open");
    image.write_all_at(&table, 0).expect("write the table");
    run(30, "losetup", &["-P", LOOP, "/run/base/image"]);
    let partition = "/dev/loop0p1";
    wait_until(20, "the partition to appear", || Path::new(partition).exists());
    for rotational in ["1", "0"] {
        write_text("/sys/block/loop0/queue/rotational", rotational);
        for store in [LOOP, partition] {
            let file = FileOptions::default().open(Path::new(store)).expect("open");
            assert_rotational(file, store, rotational);
        }
    }
    write_text("/sys/block/loop0/queue/rotational", "1");
    run(60, "mkfs.ext4", &["-q", partition]);
    let mounted = Mounted::new(partition, "/run/disk", "ext4", "");
    let path = mounted.path().join("file");
    File::create(&path).expect("create").set_len(MIB).expect("size");
    assert_rotational(FileOptions::default().open(&path).expect("open"), "a file", "1");
    mounted.unmount();
    device.end();
}

fn assert_rotational(file: FileDisk, store: &str, rotational: &str) {
    let (disk, serving) =
        Disk::serve(&Builder::new("turns").partition_scan(false), &Arc::new(file), threads(1));
    assert_eq!(disk.setting("queue/rotational"), rotational, "{store}");
    disk.destroy_and_join(serving);
}

/// A disk offers discards only if the store supports them, with the store's granularity, and then they free
/// space.
fn without_discard(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let plain = Mounted::new("plain", "/run/plain", "ramfs", "");
    let path = plain.path().join("file");
    std::fs::write(&path, vec![7; 1 << 20]).expect("write");
    let file = FileOptions::default().open(&path).expect("open");
    // They do not fail: zeros are written if no hole can be punched.
    assert_eq!(file.discard(512, 1024), Ok(()));
    let builder = Builder::new("holes").partition_scan(false);
    let (disk, serving) = Disk::serve(&builder, &Arc::new(file), threads(1));
    assert_eq!(disk.setting("queue/discard_max_bytes"), "0");
    assert_eq!(discard(&disk.path(), 0, 4096), Err(Errno::OPNOTSUPP));
    assert_eq!(range_ioctl(&disk.path(), raw::BLKZEROOUT, 512, 1024), Ok(()));
    let mut back = [1; 2048];
    File::open(disk.path()).and_then(|node| node.read_exact_at(&mut back, 0)).expect("read");
    assert!(back[512..1536].iter().all(|byte| *byte == 0) && back[1536..].iter().all(|byte| *byte == 7));
    disk.destroy_and_join(serving);
    plain.unmount();

    let device = Loop::new(context, 64, &[]);
    for block in ["1024", "4096"] {
        run(60, "mkfs.ext4", &["-q", "-F", "-b", block, LOOP]);
        let mounted = Mounted::new(LOOP, "/run/disk", "ext4", "");
        let path = mounted.path().join("file");
        File::create(&path).expect("create").set_len(MIB).expect("size");
        let file = Arc::new(FileOptions::default().open(&path).expect("open"));
        let (disk, serving) = Disk::serve(&builder, &file, threads(1));
        assert_eq!(disk.server.created().discard_granularity.to_string(), block);
        assert_ne!(disk.setting("queue/discard_max_bytes"), "0");
        // No piece is too small.
        assert_eq!(discard(&disk.path(), 512, 512), Ok(()));
        disk.destroy_and_join(serving);
        drop(file);
        mounted.unmount();
    }
    let file = FileOptions::default().open(Path::new(LOOP)).expect("open");
    let (disk, serving) = Disk::serve(&builder, &Arc::new(file), threads(1));
    let used =
        || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata("/run/base/image").expect("image"));
    let node = open_direct(&disk.path());
    let mut data = Aligned::new(1 << 20, 0);
    data.fill(1);
    assert_eq!(rustix::io::pwrite(&node, data.bytes(), 8 * MIB), Ok(1 << 20));
    rustix::fs::fsync(&node).expect("flush");
    let before = used();
    assert_eq!(discard(&disk.path(), 8 * MIB, MIB), Ok(()));
    assert!(used() + 2048 <= before, "{before} blocks before, {} after", used());
    drop(node);
    disk.destroy_and_join(serving);
    device.end();
}

/// A write-through store needs no flushes, unless the page cache is in between. The disk follows the size of
/// a growing device.
fn cache_and_size(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("brd", "rd_nr=1 rd_size=16384");
    assert_eq!(read_trimmed("/sys/block/ram0/queue/write_cache"), "write through");
    let device = Loop::new(context, 16, &[]);
    assert_eq!(read_trimmed("/sys/block/loop0/queue/write_cache"), "write back");
    for (store, direct, cache) in [
        ("/dev/ram0", true, "write through"),
        ("/dev/ram0", false, "write back"),
        (LOOP, true, "write back"),
        (LOOP, false, "write back"),
    ] {
        let file = FileOptions::default().direct(direct).open(Path::new(store)).expect("open");
        let builder = Builder::new("cached").partition_scan(false);
        let (disk, serving) = Disk::serve(&builder, &Arc::new(file), threads(1));
        assert_eq!(disk.setting("queue/write_cache"), cache, "{store}, direct: {direct}");
        if store == LOOP && !direct {
            let image = File::options().write(true).open("/run/base/image").expect("open");
            image.set_len(24 * MIB).expect("grow");
            run(30, "losetup", &["-c", LOOP]);
            let sectors = (24 * MIB / 512).to_string();
            wait_until(20, "the disk follows its device", || disk.setting("size") == sectors);
        }
        disk.destroy_and_join(serving);
    }
    // A device that sends no flushes is refused for a store with a cache.
    let file = FileOptions::default().open(Path::new(LOOP)).expect("open");
    let builder = Builder::new("uncached").partition_scan(false);
    let made = control().create(&builder.clone().for_backend(&file).volatile_cache(false)).map(drop);
    let server = control().create(&builder.size_bytes(16 * MIB)).expect("create");
    let outcome = server.serve(&file, &ServeOptions::default(), &StopToken::new()).map(drop);
    for refused in [made, outcome] {
        let said = refused.expect_err("it sends no flushes").to_string();
        assert!(said.contains("volatile cache no is not possible with a backend that has one"), "{said}");
    }
    control().destroy(&server, true).expect("destroy");
    drop(file);
    device.end();
}

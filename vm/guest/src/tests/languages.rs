// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples of version 2: the smallest one, those in C and Python, and 32-bit programs.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::guest::{Context, Mounted, Need, Test, drop_caches, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("smallest_example", smallest)
        .needs(&[Need::Module, Need::Program("hello_disk"), Need::Tool("mkfs.ext4")])
        .timeout(60),
    Test::new("ram_in_c", ram_in_c)
        .needs(&[Need::Module, Need::Program("ram-c"), Need::Tool("mkfs.ext4"), Need::Tool("blkdiscard")])
        .timeout(120),
    Test::new("ram_in_c_32", ram_in_c_32)
        .needs(&[Need::Module, Need::Program("ram-c32"), Need::Tool("mkfs.ext4"), Need::Tool("blkdiscard")])
        .timeout(120),
    Test::new("ram_in_python", ram_in_python)
        .needs(&[
            Need::Module,
            Need::Program("ram.py"),
            Need::Program("python3"),
            Need::Tool("mkfs.ext4"),
            Need::Tool("blkdiscard"),
        ])
        .timeout(180),
    Test::new("same_answers_to_32_bit_callers", same_answers)
        .needs(&[Need::Module, Need::Program("abi64"), Need::Program("abi32")])
        .timeout(120),
];

/// Lines that examples/c/abi32.c prints.
const LINES: usize = 241;

/// The program that README.md shows.
fn smallest(context: &mut Context) {
    const NODE: &str = "/dev/zosbd2-hello";
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let mut server = context.spawn("hello_disk", &[]);
    wait_until(30, "the server to serve", || {
        let serving = server.stderr().contains("serving /dev/zosbd2-hello\n");
        assert!(serving || server.running(), "it ended: {}", server.stderr());
        serving
    });
    run(60, "mkfs.ext4", &["-q", NODE]);
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
    let data = context.random("hello").bytes(1 << 20);
    write_durably(&mounted.path().join("file"), &data);
    drop_caches();
    assert!(std::fs::read(mounted.path().join("file")).expect("read a file") == data, "the file differs");
    // The same program again, while the disk is mounted.
    server.signal(rustix::process::Signal::KILL);
    server.wait(20);
    let mut server = context.spawn("hello_disk", &[]);
    let other = context.random("again").bytes(1 << 20);
    write_durably(&mounted.path().join("other"), &other);
    assert!(server.stderr().contains("in place of its last server"), "{}", server.stderr());
    mounted.unmount();
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
    for (name, data) in [("file", data), ("other", other)] {
        assert!(std::fs::read(mounted.path().join(name)).expect("read a file") == data, "{name} differs");
    }
    mounted.unmount();
    run(30, "e2fsck", &["-f", "-n", NODE]);
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait(20).success(), "the server did not exit with 0: {}", server.stderr());
    assert!(!Path::new(NODE).exists(), "the server left its device");
}

fn ram_in_c(context: &mut Context) {
    ram(context, "ram-c", &[]);
}

fn ram_in_c_32(context: &mut Context) {
    ram(context, "ram-c32", &[]);
}

fn ram_in_python(context: &mut Context) {
    ram(context, "python3", &["/bin/ram.py"]);
}

/// One queue, then as many as there are processors.
fn ram(context: &mut Context, program: &str, before: &[&str]) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let processors = std::thread::available_parallelism().expect("the number of processors").to_string();
    for queues in [&["64"][..], &["64", &processors, "16"]] {
        serve(context, program, &[before, &["ram"], queues].concat());
    }
}

fn serve(context: &Context, program: &str, arguments: &[&str]) {
    const NODE: &str = "/dev/zosbd2-ram";
    let mut server = context.spawn(program, arguments);
    wait_until(30, "the server to serve", || {
        let serving = server.stdout().contains("serving /dev/zosbd2-ram\n");
        assert!(serving || server.running(), "it ended: {}", server.stderr());
        serving
    });
    run(60, "mkfs.ext4", &["-q", "-F", "-b", "1024", NODE]);
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
    let mut random = context.random(program);
    let mut sums = Vec::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| change_folders(mounted.path(), &done));
        for index in 0..20_usize {
            let mut data = vec![0; index * 40_961];
            random.fill(&mut data);
            write_durably(&mounted.path().join(index.to_string()), &data);
            sums.push(sum(&data));
        }
        done.store(true, Ordering::Relaxed);
    });
    // The same program again, while the disk is mounted.
    server.signal(rustix::process::Signal::KILL);
    server.wait(20);
    let mut server = context.spawn(program, arguments);
    write_durably(&mounted.path().join("again"), &[7; 5000]);
    mounted.unmount();
    drop_caches();
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
    for (index, sum_before) in sums.iter().enumerate() {
        let data = std::fs::read(mounted.path().join(index.to_string())).expect("read a file");
        assert!(sum(&data) == *sum_before, "file {index} differs");
    }
    // The server does not destroy a device in use.
    server.signal(rustix::process::Signal::TERM);
    wait_until(20, "the server to refuse", || server.stderr().contains("destroy: "));
    mounted.unmount();
    run(30, "e2fsck", &["-f", "-n", NODE]);
    run(30, "blkdiscard", &[NODE]);
    drop_caches();
    let left = std::fs::read(NODE).expect("read it all");
    assert!(left.len() == 64 << 20 && left.iter().all(|byte| *byte == 0), "something is left");
    assert!(server.running(), "it ended: {}", server.stderr());
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait(20).success(), "the server did not exit with 0: {}", server.stderr());
    assert!(!Path::new(NODE).exists(), "the server left its device");
}

/// Changes folders while other threads sync, so that the journal has to write copies of blocks that are changing.
/// The copies share pages, because the file system's blocks are smaller than pages.
fn change_folders(folder: &Path, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        for index in 0..50 {
            std::fs::write(folder.join(format!("passing-{index}")), b"").expect("make a file");
        }
        for index in 0..50 {
            std::fs::remove_file(folder.join(format!("passing-{index}"))).expect("remove a file");
        }
    }
}

fn write_durably(path: &Path, data: &[u8]) {
    let mut file = File::create(path).expect("make a file");
    file.write_all(data).expect("write a file");
    file.sync_all().expect("sync a file");
}

fn sum(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

/// Both builds run the same script: results, refusals and moved data are the same.
fn same_answers(context: &mut Context) {
    context.load_module("");
    let said = ["abi64", "abi32"].map(|program| run(60, program, &[]).stdout);
    let lines = said.each_ref().map(|text| text.lines().collect::<Vec<_>>());
    for (number, (wide, narrow)) in lines[0].iter().zip(&lines[1]).enumerate() {
        assert_eq!(wide, narrow, "line {number}: 64 bits and 32 bits");
    }
    for line in &lines[0] {
        assert!(!line.contains("unexpected"), "{line}");
    }
    assert_eq!(lines.map(|lines| lines.len()), [LINES; 2]);
    assert!(said[0].ends_with("\nend\n"), "it ended early");
}

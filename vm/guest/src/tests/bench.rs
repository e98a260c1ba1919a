// SPDX-License-Identifier: MIT OR Apache-2.0
//! The benchmark of `cargo xtask bench`: fio on every device, in one boot. These are no tests: they only run if
//! named.
//!
//! Each row goes to the host as `DEVICE RW BS QD JOBS VCPUS IOPS KIB_PER_S`, and a device that is not available as
//! `missing DEVICE REASON`. A region of each device is written once before the measurement, so that no row pays
//! for the first access to memory. `--set device=A,B` limits the run to devices whose names begin with A or B, and
//! `--set depth=A,B` to rows of these depths.

pub(crate) mod hold;

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use crate::guest::{Context, Mounted, Need, Spawned, Test, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("bench_v1", bench_v1)
        .needs(&[
            Need::Module,
            Need::Tool("fio"),
            Need::Tool("losetup"),
            Need::Program("zosbd2_sample_ramdisk"),
        ])
        .timeout(600)
        .hidden(),
    Test::new("bench_v2", bench_v2).needs(&[Need::Tool("fio"), Need::Tool("losetup")]).timeout(1500).hidden(),
    Test::new("bench_hold", bench_hold).needs(&[Need::Module, Need::Tool("fio")]).timeout(600).hidden(),
];

/// Folder for the files of file-backed devices. A file has [`SIZE`] MiB.
const STORE: &str = "/run/store";
const SIZE: &str = "256m";

/// One row: fio's name, block size in bytes, depth of each job, jobs.
#[derive(Clone, Copy, Debug)]
struct Workload {
    rw: &'static str,
    bytes: u32,
    depth: u32,
    jobs: u32,
    /// Submits as many requests as `depth` at once, and waits for all of them: the server is idle before each
    /// burst. The row's name gets the prefix `burst-`.
    burst: bool,
}

/// The rows that a form measures for each device, and fio's options, which are the same for all devices.
#[derive(Debug)]
struct Form {
    workloads: Vec<Workload>,
    options: &'static [&'static str],
}

impl Form {
    fn v1() -> Self {
        let random = [1, 32].map(|depth| ["randread", "randwrite"].map(|rw| (rw, 4096, depth)));
        let sequential = [("read", 1 << 20, 4), ("write", 1 << 20, 4)];
        let all = random.into_iter().flatten().chain(sequential);
        let workloads =
            all.map(|(rw, bytes, depth)| Workload { rw, bytes, depth, jobs: 1, burst: false }).collect();
        Self { workloads, options: &["--runtime=1s", "--ramp_time=200ms"] }
    }

    fn v2() -> Self {
        let mut workloads = Vec::new();
        for jobs in [1, 2] {
            for depth in [1, 8, 32, 128] {
                workloads.extend(["randread", "randwrite"].map(|rw| Workload {
                    rw,
                    bytes: 4096,
                    depth,
                    jobs,
                    burst: false,
                }));
            }
        }
        for (bytes, depth) in [(64 << 10, 8), (1 << 20, 4)] {
            workloads.extend(["read", "write"].map(|rw| Workload {
                rw,
                bytes,
                depth,
                jobs: 1,
                burst: false,
            }));
        }
        workloads.extend(["randread", "randwrite"].map(|rw| Workload {
            rw,
            bytes: 4096,
            depth: 32,
            jobs: 1,
            burst: true,
        }));
        // Each job is bound to a processor of its own. Otherwise the scheduler's choice differs from run to run,
        // and rows of two jobs differ by a third. Servers run on any processor.
        let options =
            &["--runtime=400ms", "--ramp_time=100ms", "--cpus_allowed=0,1", "--cpus_allowed_policy=split"];
        Self { workloads, options }
    }

    fn hold() -> Self {
        let workload = |bytes, depth| Workload { rw: "randwrite", bytes, depth, jobs: 1, burst: false };
        let workloads = [4096, 64 << 10].map(|bytes| [1, 32].map(|depth| workload(bytes, depth)));
        Self { workloads: workloads.into_iter().flatten().collect(), options: Self::v2().options }
    }

    fn measure(&self, context: &Context, device: &str, node: &str) {
        wait_until(20, "the node", || Path::new(node).exists());
        let file = format!("--filename={node}");
        let common = [
            "--name=bench",
            "--ioengine=libaio",
            "--direct=1",
            "--size=200m",
            "--thread",
            "--norandommap",
            "--group_reporting",
            &file,
        ];
        run(60, "fio", &[&common[..], &["--rw=write", "--bs=1m", "--iodepth=4"]].concat());
        let vcpus = available_parallelism().expect("the number of processors");
        let depths = context.setting("depth");
        let chosen =
            |depth: u32| depths.is_none_or(|only| only.split(',').any(|one| one == depth.to_string()));
        for Workload { rw, bytes, depth, jobs, burst } in
            self.workloads.iter().filter(|workload| chosen(workload.depth))
        {
            let mut own = vec![
                format!("--rw={rw}"),
                format!("--bs={bytes}"),
                format!("--iodepth={depth}"),
                format!("--numjobs={jobs}"),
            ];
            let name = if *burst { format!("burst-{rw}") } else { (*rw).to_owned() };
            if *burst {
                own.push(format!("--iodepth_batch_submit={depth}"));
                own.push(format!("--iodepth_batch_complete_min={depth}"));
            }
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            let timed = ["--time_based", "--output-format=terse", "--terse-version=3"];
            let output = run(60, "fio", &[&common[..], self.options, &timed, &own].concat()).stdout;
            let line = output.lines().find(|line| line.starts_with("3;")).expect("fio's terse line");
            let fields: Vec<&str> = line.split(';').collect();
            let number = |at: usize| fields[at].parse::<u64>().expect("a number in fio's terse line");
            // Values of reads; the same values of writes follow 41 fields later.
            let (bandwidth, iops) = (number(6) + number(47), number(7) + number(48));
            assert!(iops > 0, "{device} {name}: fio did nothing:\n{output}");
            context.data(&format!("{device} {name} {bytes} {depth} {jobs} {vcpus} {iops} {bandwidth}"));
            context.say(&format!("{device} {name} {bytes} at depth {depth}, {jobs} jobs: {iops} IOPS"));
        }
    }
}

fn wanted(context: &Context, device: &str) -> bool {
    let among = |only: &str| only.split(',').any(|beginning| device.starts_with(beginning));
    context.setting("device").is_none_or(among)
}

fn bench_v1(context: &mut Context) {
    let form = Form::v1();
    let _shm = Mounted::new("shm", "/dev/shm", "tmpfs", "");
    for (device, go) in KERNELS {
        if wanted(context, device) {
            go(context, &form, device);
        }
    }
    context.load_module("");
    for threads in ["1", "4", "16"] {
        let device = format!("v1-{threads}");
        if !wanted(context, &device) {
            continue;
        }
        let mut server = context.spawn("zosbd2_sample_ramdisk", &["-t", threads]);
        wait_until(20, "the server to print that it is ready", || server.stdout().contains("ready"));
        form.measure(context, &device, "/dev/zosbd2ramdisk");
        run(20, "zosbd2_sample_ramdisk", &["-d"]);
        assert!(server.wait(20).success());
    }
}

/// Starts a device of this name, measures it, and removes it.
type Go = fn(&mut Context, &Form, &str);

/// The kernel's own devices.
const KERNELS: [(&str, Go); 3] = [("null_blk", null_blk), ("brd", brd), ("loop", kernel_loop)];

/// Devices of other projects, and their requirements that not every machine meets.
const PEERS: [(&str, Go, &[Need]); 3] = [
    ("ublk-null", ublk_null, &[Need::KernelModule("ublk_drv"), Need::Tool("rublk")]),
    ("ublk-loop", ublk_loop, &[Need::KernelModule("ublk_drv"), Need::Tool("rublk")]),
    ("nbd", nbd, &[Need::KernelModule("nbd"), Need::Tool("nbdkit"), Need::Tool("nbd-client")]),
];

/// Devices of this project: the backend, the number of queues, and the number of threads of each queue.
const OURS: [(&str, &str, &str, &str); 9] = [
    ("null", "null", "1", "1"),
    ("null-owned", "owned", "1", "1"),
    ("null-async", "async", "1", "1"),
    ("null-tokio", "tokio", "1", "1"),
    ("ram", "ram", "1", "1"),
    ("file", "file", "1", "1"),
    ("ram-4", "ram", "1", "4"),
    ("ram-2", "ram", "1", "2"),
    ("ram-2q", "ram", "2", "1"),
];

fn bench_v2(context: &mut Context) {
    let form = Form::v2();
    for (device, go) in KERNELS {
        if wanted(context, device) {
            go(context, &form, device);
        }
    }
    for (device, go, needs) in PEERS {
        if !wanted(context, device) {
            continue;
        }
        let unmet: Vec<String> = needs.iter().filter_map(|need| need.unmet(context)).collect();
        if unmet.is_empty() {
            go(context, &form, device);
        } else {
            context.data(&format!("missing {device} {}", unmet.join(", ")));
        }
    }
    if OURS.iter().any(|(device, ..)| wanted(context, device)) {
        context.load_module("");
    }
    for (device, backend, queues, threads) in OURS {
        if wanted(context, device) {
            ours(context, &form, device, [backend, queues, threads]);
        }
    }
}

/// The ways in which a server that holds the data of writes gets it into memory of its own.
fn bench_hold(context: &mut Context) {
    let form = Form::hold();
    if wanted(context, "null_blk") {
        null_blk(context, &form, "null_blk");
    }
    context.load_module("");
    for way in ["arena", "commit", "copy", "list"] {
        let device = format!("hold-{way}");
        if wanted(context, &device) {
            served(context, &form, &device, &["--hold", way, &format!("bench-{device}")]);
        }
    }
}

fn null_blk(context: &mut Context, form: &Form, device: &str) {
    let parameters = "nr_devices=1 queue_mode=2 irqmode=0 gb=4 submit_queues=1 hw_queue_depth=256";
    context.load_kernel_module("null_blk", parameters);
    form.measure(context, device, "/dev/nullb0");
}

fn brd(context: &mut Context, form: &Form, device: &str) {
    context.load_kernel_module("brd", "rd_nr=1 rd_size=262144");
    form.measure(context, device, "/dev/ram0");
}

fn kernel_loop(context: &mut Context, form: &Form, device: &str) {
    context.load_kernel_module("loop", "");
    let (_store, file) = file_on_tmpfs();
    run(10, "losetup", &["/dev/loop0", &file]);
    form.measure(context, device, "/dev/loop0");
    run(10, "losetup", &["-d", "/dev/loop0"]);
}

/// A written file of [`SIZE`] MiB. Its memory is freed when the mount is dropped.
fn file_on_tmpfs() -> (Mounted, String) {
    let store = Mounted::new("store", STORE, "tmpfs", "");
    let file = format!("{STORE}/file");
    let name = format!("--filename={file}");
    run(10, "fio", &["--name=fill", &name, &format!("--size={SIZE}"), "--rw=write", "--bs=1m"]);
    (store, file)
}

fn ublk_null(context: &mut Context, form: &Form, device: &str) {
    rublk(context, form, device, &["null"]);
}

fn ublk_loop(context: &mut Context, form: &Form, device: &str) {
    let (_store, file) = file_on_tmpfs();
    rublk(context, form, device, &["loop", "--file", &file]);
}

/// One queue, as deep as that of `null_blk`. Its thread may run anywhere: by default rublk binds it to a random
/// processor, which may be the job's. The buffers have 1 MiB, so that the kernel does not split requests that
/// other devices get whole. They are locked, because otherwise rows pay for the first access to whichever of the
/// 256 buffers are used.
fn rublk(context: &mut Context, form: &Form, device: &str, target: &[&str]) {
    context.load_kernel_module("ublk_drv", "");
    let options = [
        "--number=0",
        "--queue=1",
        "--depth=256",
        "--io-buf-size=1048576",
        "--multi-cpus-affinity",
        "--mlock",
    ];
    let mut server =
        context.spawn("rublk", &[&["add"], target, &options, &["--foreground", "--quiet"]].concat());
    form.measure(context, device, "/dev/ublkb0");
    run(20, "rublk", &["del", "--number=0"]);
    assert!(server.wait(20).success(), "rublk: {}", server.stderr());
}

fn nbd(context: &mut Context, form: &Form, device: &str) {
    let socket = "/run/nbd.sock";
    context.load_kernel_module("nbd", "nbds_max=1");
    let memory = ["memory", &format!("size={SIZE}"), "allocator=malloc"];
    let mut server = context.spawn("nbdkit", &[&["--foreground", "--unix", socket], &memory[..]].concat());
    wait_until(20, "nbdkit's socket", || Path::new(socket).exists());
    run(20, "nbd-client", &["-unix", socket, "/dev/nbd0"]);
    form.measure(context, device, "/dev/nbd0");
    run(20, "nbd-client", &["-d", "/dev/nbd0"]);
    server.signal(rustix::process::Signal::TERM);
    server.wait(20);
    // The socket is in use until the server has closed its end.
    fs::remove_file(socket).expect("remove the socket");
}

fn ours(context: &mut Context, form: &Form, device: &str, [backend, queues, threads]: [&str; 3]) {
    let store = (backend == "file").then(file_on_tmpfs);
    let name = format!("bench-{device}");
    let mut words = vec!["--serve-v2", backend, &name, queues, threads];
    words.extend(store.iter().map(|(_, file)| file.as_str()));
    served(context, form, device, &words);
}

/// Measures the device `bench-DEVICE`, which this role creates. It prints `serving` when the node exists.
fn served(context: &mut Context, form: &Form, device: &str, words: &[&str]) {
    let name = format!("bench-{device}");
    let mut server = context.spawn("/proc/self/exe", words);
    let says = |server: &Spawned| server.stdout().lines().any(|line| line == "serving");
    wait_until(20, "the server to print that it serves", || {
        assert!(server.running() || says(&server), "{} has ended: {}", words.join(" "), server.stderr());
        says(&server)
    });
    form.measure(context, device, &format!("/dev/zosbd2-{name}"));
    run(20, "/proc/self/exe", &["--destroy-v2", &name]);
    assert!(server.wait(20).success(), "{}: {}", words.join(" "), server.stderr());
}

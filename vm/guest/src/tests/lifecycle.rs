// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices come and go, whatever their servers, submitters and mounts do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zosbd2::SparseMemory;
use zosbd2::v1::{Control, CreateOptions, DeviceName};

use super::protocol::wait_in_flight;
use super::support::{
    Aligned, BLOCK, Disk, FileStore, Manual, TICK, join, open_direct, read_in_thread, spawn_server,
    write_in_thread,
};
use crate::guest::{Context, Kmsg, Mounted, Need, Patience, Test, drop_caches, raw, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("fifty_devices", fifty_devices).needs(&[Need::Module]).timeout(120),
    Test::new("goodbye_to_16_workers_in_4_processes", goodbye).needs(&[Need::Module]).timeout(60),
    Test::new("destroy_under_40_readers", destroy_under_readers).needs(&[Need::Module]).timeout(120),
    Test::new("destroy_while_mounted", destroy_while_mounted)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4"), Need::Tool("e2fsck")])
        .timeout(120),
    Test::new("destroy_while_mounted_with_dead_server", destroy_with_dead_server)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4")])
        .timeout(120),
    Test::new("destroy_without_force", destroy_without_force).needs(&[Need::Module]).timeout(60),
    Test::new("destroy_all", destroy_all).needs(&[Need::Module]).timeout(60),
    Test::new("churn_200_rounds", churn).needs(&[Need::Module]).timeout(180),
    Test::new("rmmod_is_refused_while_a_device_lives", rmmod_refused).needs(&[Need::Module]).timeout(60),
    Test::new("rmmod_leaves_a_device_between_two_servers", between_servers)
        .needs(&[Need::Module])
        .timeout(60),
    Test::new("insmod_rmmod_100", insmod_rmmod).needs(&[Need::Module]).timeout(120),
    Test::new("submitter_can_be_killed", submitter_killed).needs(&[Need::Module]).timeout(60),
    Test::new("server_memory_that_never_comes", memory_never_comes).needs(&[Need::Module]).timeout(90),
    Test::new("create_unwinds_every_step", create_unwinds)
        .needs(&[Need::Module, Need::Variant("faults")])
        .timeout(60),
    Test::new("load_unwinds_every_step", load_unwinds)
        .needs(&[Need::Module, Need::Variant("faults")])
        .timeout(60),
    Test::new("name_clash", name_clash).needs(&[Need::Module]).timeout(60),
    Test::new("kasan_checks_the_rust_object", kasan_in_rust)
        .needs(&[Need::Module, Need::Variant("faults"), Need::DebugKernel])
        .allows(&["BUG: KASAN: stack-out-of-bounds in "]),
    Test::new("rust_frames_in_backtrace", rust_frames)
        .needs(&[Need::Module, Need::Variant("faults")])
        .timeout(60),
];

/// Fifty devices at once, each written and read back, created and destroyed in random order. Another one is
/// refused.
fn fifty_devices(context: &mut Context) {
    context.load_module("max_devices=50");
    let mut random = context.random("order");
    let mut disks: Vec<_> = (0..50)
        .map(|index| {
            let disk = Disk::create(&format!("many{index}"), 1024);
            let server = disk.serve_memory(1);
            (index, disk, server)
        })
        .collect();
    let control = Control::open().expect("control");
    assert_eq!(control.list().expect("list").len(), 50);
    let error =
        control.create(&CreateOptions::new("one-more", 1024).expect("options")).expect_err("the 51st");
    assert!(error.to_string().contains("one-more"), "{error}");
    let mut create =
        zosbd2_abi::v1::Create { block_size: 4096, block_count: 1024, timeout_s: 1, ..Default::default() };
    create.name[..4].copy_from_slice(b"more");
    assert_eq!(control.create_raw(&mut create), Err(Errno::INVAL), "the 51st");
    random.shuffle(&mut disks);
    for (index, disk, _) in &disks {
        let mut buffer = Aligned::new(65536, 0);
        buffer.fill(*index);
        assert_eq!(rustix::io::pwrite(open_direct(&disk.path()), buffer.bytes(), 4096 * index), Ok(65536));
    }
    random.shuffle(&mut disks);
    for (index, disk, server) in disks {
        let (mut wanted, mut found) = (Aligned::new(65536, 0), Aligned::new(65536, 0));
        wanted.fill(index);
        assert_eq!(rustix::io::pread(open_direct(&disk.path()), found.bytes_mut(), 4096 * index), Ok(65536));
        assert!(wanted.bytes() == found.bytes(), "device {index} has another's data");
        disk.destroy_and_join(server);
    }
    assert_eq!(control.list().expect("list"), []);
}

fn goodbye(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("bye", 1024);
    let mut servers: Vec<_> = (0..4).map(|_| spawn_server("bye", 4, Path::new("/tmp/store"))).collect();
    assert_eq!(
        read_in_thread(disk.path(), 0, BLOCK).join().expect("reader").map(|data| data.len()),
        Ok(BLOCK)
    );
    disk.destroy();
    // Goodbye or ENOENT: every process ends by itself, with success.
    for server in &mut servers {
        let mut status = None;
        wait_until(10, "a server to end", || {
            status = server.try_wait().expect("wait");
            status.is_some()
        });
        assert!(status.expect("ended").success(), "{status:?}");
    }
}

fn destroy_under_readers(context: &mut Context) {
    context.load_module("");
    for round in 0..5 {
        let disk = Disk::create("under", 4096);
        let server = disk.serve_memory(2);
        let stop = Arc::new(AtomicBool::new(false));
        let started = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let readers: Vec<_> = (0..40_u64)
            .map(|index| {
                let (path, stop, started) = (disk.path(), Arc::clone(&stop), Arc::clone(&started));
                std::thread::spawn(move || {
                    let node = open_direct(&path);
                    let mut buffer = Aligned::new(16384, 0);
                    let mut counted = false;
                    while !stop.load(Ordering::Relaxed) {
                        match rustix::io::pread(&node, buffer.bytes_mut(), (index % 16) << 16) {
                            Ok(16384) if !counted => {
                                started.fetch_add(1, Ordering::Relaxed);
                                counted = true;
                            }
                            Ok(16384) => {}
                            // The disk has no bytes left, or is gone.
                            Ok(0) | Err(Errno::IO | Errno::NXIO | Errno::NODEV) => return,
                            other => panic!("{other:?}"),
                        }
                    }
                })
            })
            .collect();
        wait_until(30, "all readers to read", || started.load(Ordering::Relaxed) == 40);
        let (begin, mut bound) = (Instant::now(), Patience::seconds(60));
        disk.destroy();
        assert!(!bound.over(), "round {round}: {:?}", begin.elapsed());
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("a reader");
        }
        join(server);
    }
}

/// With a live server, no write from before the destroy is lost, synced or not.
fn destroy_while_mounted(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let store = Path::new("/tmp/mounted");
    let disk = Disk::create("mounted", 16384);
    let backend = Arc::new(FileStore::open(store, 64 << 20));
    let server = disk.serve(&backend, 2);
    run(30, "mkfs.ext4", &["-q", "-F", "/dev/mounted"]);
    let mounted = Mounted::new("/dev/mounted", "/mnt", "ext4", "");
    for index in 0..16_u8 {
        std::fs::write(format!("/mnt/file{index}"), vec![index; 1 << 20]).expect("write");
    }
    disk.destroy();
    join(server);
    assert!(!Path::new("/dev/mounted").exists(), "the node is still there");
    mounted.unmount();
    // The same bytes on a new device.
    let disk = Disk::create("mounted", 16384);
    let server = disk.serve(&backend, 2);
    run(30, "e2fsck", &["-p", "/dev/mounted"]);
    run(30, "e2fsck", &["-f", "-n", "/dev/mounted"]);
    let mounted = Mounted::new("/dev/mounted", "/mnt", "ext4", "");
    for index in 0..16_u8 {
        let data = std::fs::read(format!("/mnt/file{index}")).expect("read");
        assert!(data.len() == 1 << 20 && data.iter().all(|byte| *byte == index), "file{index} was lost");
    }
    mounted.unmount();
    disk.destroy_and_join(server);
}

/// The module does not destroy a device whose server is dead and that is not open: the next server serves it.
/// To unload the module, destroy the device first.
fn between_servers(context: &mut Context) {
    context.load_module("");
    let path = Disk::create("between", 1024).path();
    for _ in 0..2 {
        let mut server = spawn_server("between", 1, Path::new("/tmp/between"));
        assert_eq!(read_in_thread(path.clone(), 0, BLOCK).join().expect("reader"), Ok(vec![0; BLOCK]));
        server.kill().expect("kill");
        server.wait().expect("wait");
        let refused = context.try_unload_module().expect_err("a device is there");
        assert_eq!(refused.raw_os_error(), Some(Errno::AGAIN.raw_os_error()), "{refused}");
        assert!(path.exists());
    }
    Control::open().expect("open the control node").destroy_all(false).expect("nobody has it open");
    context.unload_module();
}

/// With a dead server the destroy ends, too, in bounded time.
fn destroy_with_dead_server(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let options = CreateOptions::new("dead", 16384).expect("options").timeout(Duration::from_secs(600));
    let disk = Disk::create_with(&options);
    let mut server = spawn_server("dead", 2, Path::new("/tmp/dead"));
    run(30, "mkfs.ext4", &["-q", "-F", "/dev/dead"]);
    let mounted = Mounted::new("/dev/dead", "/mnt", "ext4", "");
    std::fs::write("/mnt/file", vec![1; 16 << 20]).expect("write");
    server.kill().expect("kill");
    server.wait().expect("wait");
    let reader = read_in_thread(disk.path(), 32 << 20, BLOCK);
    wait_in_flight("dead", 1);
    let (begin, mut bound) = (Instant::now(), Patience::seconds(70));
    disk.destroy();
    assert!(!bound.over(), "destroy took {:?}", begin.elapsed());
    assert_eq!(reader.join().expect("reader"), Err(Errno::IO));
    mounted.unmount();
    assert_eq!(disk.control.list().expect("list"), []);
}

fn destroy_without_force(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("busy", 1024);
    let node = std::fs::File::open(disk.path()).expect("open");
    let mut by_handle = zosbd2_abi::v1::DestroyByHandle { handle: disk.handle.raw(), error: 1, force: 0 };
    assert_eq!(disk.control.destroy_by_handle_raw(&mut by_handle), Err(Errno::BUSY));
    assert_eq!(by_handle.error, -16);
    let mut by_name = zosbd2_abi::v1::DestroyByName { error: 1, ..Default::default() };
    by_name.name[..4].copy_from_slice(b"busy");
    assert_eq!(disk.control.destroy_by_name_raw(&mut by_name), Err(Errno::BUSY));
    assert_eq!(by_name.error, -16);
    assert_eq!(disk.control.list().expect("list"), [disk.handle], "refused, and yet gone");
    drop(node);
    wait_until(10, "the device to be closed", || match disk.control.destroy_by_name_raw(&mut by_name) {
        Ok(()) => true,
        Err(errno) => {
            assert_eq!(errno, Errno::BUSY);
            false
        }
    });
    assert_eq!(by_name.error, 0);
    assert_eq!(disk.control.destroy_by_name_raw(&mut by_name), Err(Errno::NOENT));
    assert_eq!(by_name.error, -2);
    assert_eq!(disk.control.destroy_by_handle_raw(&mut by_handle), Err(Errno::NOENT));
    assert_eq!(by_handle.error, -2);
}

/// Busy devices do not protect others. Success if there are no devices.
fn destroy_all(context: &mut Context) {
    context.load_module("");
    let control = Control::open().expect("control");
    control.destroy_all(false).expect("nothing to do");
    control.destroy_all(true).expect("nothing to do");
    let disks: Vec<_> = (0..4).map(|index| Disk::create(&format!("all{index}"), 1024)).collect();
    let node = std::fs::File::open(disks[0].path()).expect("open");
    wait_until(10, "all but the busy one to go", || {
        let error = control.destroy_all(false).expect_err("one is busy");
        assert!(error.to_string().contains("in use"), "{error}");
        control.list().expect("list") == [disks[0].handle]
    });
    drop(node);
    let server = disks[0].serve_memory(3);
    control.destroy_all(true).expect("destroy all");
    join(server);
    assert_eq!(control.list().expect("list"), []);
}

/// Create, I/O and destroy in several threads, beside lists and statuses, on few names.
fn churn(context: &mut Context) {
    context.load_module("");
    let stop = Arc::new(AtomicBool::new(false));
    let watchers: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let control = Control::open().expect("control");
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    for handle in control.list().expect("list") {
                        // The device is gone meanwhile, or the status is correct.
                        if let Ok(status) = control.status(handle) {
                            assert_eq!(status.size_bytes, 4 << 20);
                            seen += 1;
                        }
                    }
                }
                seen
            })
        })
        .collect();
    let workers: Vec<_> = (0..4_u64)
        .map(|worker| {
            std::thread::spawn(move || {
                for round in 0..50 {
                    // Two workers share each name, so that creates clash.
                    let name = format!("churn{}", worker % 2);
                    let control = Control::open().expect("control");
                    let options = CreateOptions::new(&name, 1024).expect("options");
                    let handle = loop {
                        match control.create(&options) {
                            Ok(handle) => break handle,
                            Err(error) => assert!(error.to_string().contains("exists"), "{error}"),
                        }
                    };
                    let disk = Disk { control, name: DeviceName::new(&name).expect("name"), handle };
                    let server = disk.serve(&Arc::new(SparseMemory::new(4 << 20).expect("memory")), 2);
                    if round % 2 == 0 {
                        let data = read_in_thread(disk.path(), 0, 65536).join().expect("reader");
                        assert_eq!(data.map(|data| data.len()), Ok(65536));
                        disk.destroy_and_join(server);
                    } else {
                        let reader = read_in_thread(disk.path(), 0, 1 << 20);
                        disk.destroy_and_join(server);
                        // The read is served, fails, or comes too late, but it ends.
                        let _any = reader.join();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("a worker");
    }
    stop.store(true, Ordering::Relaxed);
    for watcher in watchers {
        assert!(watcher.join().expect("a watcher") > 0, "nothing was ever listed");
    }
}

fn rmmod_refused(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("pins", 1024);
    let refused = context.try_unload_module().expect_err("unloaded under a device");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::AGAIN));
    let server = disk.serve_memory(1);
    let node = std::fs::File::open(disk.path()).expect("open");
    disk.destroy_and_join(server);
    assert!(context.try_unload_module().is_err(), "unloaded under an open node");
    drop(node);
    drop(disk);
    wait_until(10, "the last reference to go", || context.try_unload_module().is_ok());
}

fn insmod_rmmod(context: &mut Context) {
    for round in 0..100 {
        context.load_module(if round % 2 == 0 { "" } else { "max_devices=1" });
        let control = Control::open().expect("control");
        if round % 10 == 0 {
            let disk = Disk::create("short", 1024);
            let server = disk.serve_memory(1);
            disk.destroy_and_join(server);
        }
        drop(control);
        wait_until(10, "the module to unload", || context.try_unload_module().is_ok());
    }
}

/// A killed submitter ends as soon as its request does, and one kill suffices.
fn submitter_killed(context: &mut Context) {
    context.load_module("");
    let options = CreateOptions::new("kill", 1024).expect("options").timeout(Duration::from_secs(3));
    let disk = Disk::create_with(&options);
    let mut child = std::process::Command::new("/proc/self/exe")
        .args(["--read", "/dev/kill"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("start a reader");
    let mut server = Manual::new(&disk);
    server.fetch();
    child.kill().expect("kill");
    let mut status = None;
    wait_until(20, "the killed reader to end", || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    let signal = std::os::unix::process::ExitStatusExt::signal(&status.expect("ended"));
    assert_eq!(signal, Some(libc::SIGKILL), "the reader ended, but not by the kill");
    drop(server);
    disk.destroy();
}

/// A server whose data area never comes delays nobody: the request that it fetched ends at its deadline, and a
/// destroy ends.
fn memory_never_comes(context: &mut Context) {
    use zosbd2_abi::v1 as abi;
    context.load_module("");
    let options = CreateOptions::new("never", 1024).expect("options").timeout(Duration::from_secs(2));
    let disk = Disk::create_with(&options);
    let whole = abi::OPERATION_BYTES.next_multiple_of(raw::PAGE);
    let pages = Arc::new(raw::Pages::new(whole));
    let at = pages.at_end(whole);
    // The pages of the head exist before the rest is withheld.
    let mut head = vec![0; abi::OPERATION_DATA_OFFSET];
    head[..4].copy_from_slice(&disk.handle.raw().to_ne_bytes());
    head[8..12].copy_from_slice(&abi::OP_FETCH.to_ne_bytes());
    pages.put(at, &head);
    let guard = pages.withhold().expect("userfaultfd");
    let node = std::fs::File::options().read(true).write(true).open(disk.path()).expect("open");
    let server = std::thread::spawn({
        let pages = Arc::clone(&pages);
        move || {
            let _keep = &pages;
            raw::ioctl(std::os::fd::AsFd::as_fd(&node), abi::IOCTL_OPERATION, at)
        }
    });
    let begin = Instant::now();
    let writer = write_in_thread(disk.path(), 0, 1, 65536);
    assert_eq!(
        writer.join().expect("writer"),
        Err(Errno::IO),
        "the deadline of a request that cannot be copied"
    );
    assert!(begin.elapsed() + TICK >= Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(!server.is_finished(), "the server did not wait for its memory");
    let (begin, mut bound) = (Instant::now(), Patience::seconds(30));
    disk.destroy();
    assert!(!bound.over(), "{:?}", begin.elapsed());
    drop(guard);
    // Goodbye if the server slept before the write came, otherwise the error with the same meaning.
    match server.join().expect("server") {
        Ok(_) => {
            assert_eq!(pages.get(at + 8, 4), abi::OP_GONE.to_ne_bytes(), "the call returned something else");
        }
        Err(errno) => assert_eq!(errno, Errno::NOENT),
    }
}

/// Whichever step of a create fails, no name, node or memory is left, and the next create succeeds.
fn create_unwinds(context: &mut Context) {
    context.load_module("");
    let control = Control::open().expect("control");
    let parameter = "/sys/module/zosbd2/parameters/fail_step";
    for (step, errno) in [
        (1, Errno::NOMEM),
        (2, Errno::NOMEM),
        (3, Errno::NOMEM),
        (4, Errno::NOMEM),
        (5, Errno::NOMEM),
        (6, Errno::EXIST),
        (10, Errno::NOMEM),
    ] {
        for _ in 0..3 {
            std::fs::write(parameter, step.to_string()).expect("set the fault");
            let mut create = zosbd2_abi::v1::Create {
                block_size: 4096,
                block_count: 1024,
                timeout_s: 1,
                handle: 77,
                ..Default::default()
            };
            create.name[..6].copy_from_slice(b"unwind");
            assert_eq!(control.create_raw(&mut create), Err(errno), "step {step}");
            assert_eq!((create.error, create.handle), (-errno.raw_os_error(), 77), "step {step}");
            assert_eq!(control.list().expect("list"), []);
            assert!(!Path::new("/dev/unwind").exists() && !Path::new("/sys/block/unwind").exists());
            std::fs::write(parameter, "0").expect("clear the fault");
            let disk = Disk::create("unwind", 1024);
            let server = disk.serve_memory(1);
            disk.destroy_and_join(server);
        }
    }
}

/// Whichever step of a load fails, nothing is left, and the next load succeeds.
fn load_unwinds(context: &mut Context) {
    let no_memory = [11, 12, 13, 15, 18].map(|step| (step, Errno::NOMEM));
    for (step, errno) in no_memory.into_iter().chain([(14, Errno::BUSY)]) {
        let refused = context.try_load_module(&format!("fail_step={step}")).expect_err("a refused load");
        assert_eq!(refused.raw_os_error(), Some(errno.raw_os_error()), "step {step}: {refused}");
        for path in ["/sys/module/zosbd2", zosbd2_abi::CONTROL_PATH, "/sys/kernel/debug/zosbd2"] {
            assert!(!Path::new(path).exists(), "step {step}: {path} is left");
        }
        context.load_module("");
        Disk::create("unwind", 1024).destroy();
        context.unload_module();
    }
}

/// A create with a name in use is refused, whether a device of this project, another node, or a disk without a
/// node uses it.
fn name_clash(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("taken", 1024);
    let control = Control::open().expect("control");
    let create = |name: &str| {
        let mut create = zosbd2_abi::v1::Create {
            block_size: 4096,
            block_count: 1024,
            timeout_s: 1,
            ..Default::default()
        };
        create.name[..name.len()].copy_from_slice(name.as_bytes());
        let result = control.create_raw(&mut create);
        (result, create.error)
    };
    assert_eq!(create("taken"), (Err(Errno::EXIST), -17));
    assert_eq!(create("null"), (Err(Errno::EXIST), -17));
    context.load_kernel_module("brd", "rd_nr=1 rd_size=1024");
    assert_eq!(create("ram0"), (Err(Errno::EXIST), -17));
    for node in ["/dev/taken", "/dev/ram0"] {
        std::fs::remove_file(node).expect("remove the node");
        assert_eq!(create(&node[5..]), (Err(Errno::EXIST), -17), "{node} is missing, its disk is not");
    }
    // The check opens nothing (a FIFO would block for ever) and leaves nothing behind.
    rustix::fs::mknodat(rustix::fs::CWD, "/dev/pipe", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("make a FIFO");
    assert_eq!(create("pipe"), (Err(Errno::EXIST), -17));
    std::fs::remove_file("/dev/pipe").expect("remove");
    // A device of version 2 has the name of its disk from its creation on, before there is a node.
    let node = zosbd2::Control::open().expect("control");
    let other = node.create(&zosbd2::Builder::new("flat").size_bytes(1 << 20)).expect("create");
    assert_eq!(create("zosbd2-flat"), (Err(Errno::EXIST), -17));
    node.destroy("flat", true).expect("destroy");
    drop(other);
    assert_eq!(control.list().expect("list"), [disk.handle]);
    disk.destroy();
    // The failed creates used no handles.
    let next = Disk::create("taken", 1024);
    assert_eq!(next.handle.raw(), disk.handle.raw() + 2);
    next.destroy();
    let first = Disk::create("zosbd2-flat", 1024);
    let refused = node
        .create(&zosbd2::Builder::new("flat").size_bytes(1 << 20))
        .expect_err("its disk has the name of another");
    assert!(refused.to_string().contains("another disk has that name"), "{refused}");
    first.destroy();
    drop_caches();
}

/// KASAN reports a read of the Rust object beyond the end of an array.
fn kasan_in_rust(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("overrun", 1024);
    let node = std::fs::File::open(disk.path()).expect("open");
    let mut kernel = Kmsg::new();
    let mut call = |step: &str| {
        std::fs::write("/sys/module/zosbd2/parameters/fail_step", step).expect("choose a step");
        let result = raw::ioctl(std::os::fd::AsFd::as_fd(&node), zosbd2_abi::v1::IOCTL_OPERATION, 0);
        assert_eq!(result, Err(Errno::BADF));
        kernel.lines().join("\n")
    };
    let log = call("0");
    assert!(!log.contains("KASAN"), "nothing was wrong yet:\n{log}");
    let log = call("16");
    let report = log.find("BUG: KASAN: stack-out-of-bounds in ").map(|start| &log[start..]);
    let report = report.unwrap_or_else(|| panic!("KASAN has seen nothing:\n{log}"));
    // The function is inlined into another one of its module in some builds.
    for wanted in ["zosbd2_glue2v19operation", "Read of size 8"] {
        assert!(report.contains(wanted), "{wanted} is not in the report:\n{report}");
    }
    call("0");
    drop(node);
    disk.destroy();
}

/// The unwinder walks through Rust frames without guessing, and finds the entry point above them.
fn rust_frames(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("trace", 1024);
    let mut kernel = Kmsg::new();
    std::fs::write("/sys/module/zosbd2/parameters/fail_step", "7").expect("ask for a backtrace");
    let node = std::fs::File::open(disk.path()).expect("open");
    let result = raw::ioctl(std::os::fd::AsFd::as_fd(&node), zosbd2_abi::v1::IOCTL_OPERATION, 0);
    assert_eq!(result, Err(Errno::BADF));
    std::fs::write("/sys/module/zosbd2/parameters/fail_step", "0").expect("no more");
    let log = kernel.lines().join("\n");
    let start = log.rfind("Call Trace").expect("no backtrace in the kernel's log");
    let trace = &log[start..];
    let end = trace.find("</TASK>").unwrap_or(trace.len());
    let trace = &trace[..end];
    // Entries that the unwinder is sure of have no question mark; stale words on the stack are printed with one.
    let mut frames = trace.lines().filter(|line| !line.contains("? "));
    // The inner Rust function by its mangled name. zosbd2_backtrace() itself only jumps on.
    for wanted in ["9operation", "zosbd2_rs_node", "disk_ioctl", "do_syscall_64"] {
        let found = frames.any(|line| line.contains(wanted));
        assert!(found, "{wanted} is not in the backtrace, or was guessed:\n{trace}");
    }
    drop(node);
    disk.destroy();
}

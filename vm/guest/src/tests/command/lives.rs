// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks of all kinds are made, lose their servers, get others, and are removed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::json;

use super::{Stage, exists, fails, has, kill_server, listed, ok, show};
use crate::guest::{Context, Mounted, drop_caches, run, wait_until};

/// Each kind of disk is made, listed and removed; what JSON says of it is true.
pub(super) fn kinds(context: &mut Context) {
    let stage = Stage::new(context);
    let file = "/run/store/my disk.img";
    let node = ok(&["add", "file", file, "--create", "--size", "64M", "--serial", "S1", "--mode", "0640"]);
    assert_eq!(node, "/dev/zosbd2-my-disk");
    run(60, "mkfs.ext4", &["-q", &node]);
    let mounted = Mounted::new(&node, "/mnt", "ext4", "");
    let facts = json!({
        "node": node,
        "size": 64 << 20,
        "state": "live",
        "interface": 2,
        "backend": "file",
        "source": file,
        "persistent": false,
        "server-program": "zosbd2",
        "opens": 1,
        "mountpoints": ["/mnt"],
        "late": 0,
    });
    has(&listed("my-disk"), &facts);
    has(&show("my-disk"), &facts);
    let (configuration, log) = ("/run/zosbd2/my-disk.toml", "/run/zosbd2/my-disk.log");
    let facts = json!({
        "serial": "S1",
        "configuration": configuration,
        "log": log,
        "epoch": 1,
        "logical-block-size": 512,
        "queues": 1,
        "grace": 30_000,
    });
    has(&show("my-disk"), &facts);
    let text = ok(&["show", "my-disk"]);
    for line in ["State               live: served", "mounted on /mnt", "/run/zosbd2/my-disk.log"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    mounted.unmount();

    assert_eq!(ok(&["add", "ram", "16M", "-b", "4096"]), "/dev/zosbd2-ram0");
    assert_eq!(ok(&["add", "null", "1T", "-n", "n+1-x", "-q", "2"]), "/dev/zosbd2-n+1-x");
    has(&show("ram0"), &json!({"logical-block-size": 4096, "backend": "ram", "size": 16 << 20}));
    has(&show("n+1-x"), &json!({"queues": 2, "backend": "null", "size": 1_u64 << 40}));
    // The program names its device itself.
    assert_eq!(ok(&["add", "exec", "-n", "hello", "--", "hello_disk"]), "/dev/zosbd2-hello");
    has(
        &listed("hello"),
        &json!({"backend": "exec", "source": "hello_disk", "server-program": "hello_disk"}),
    );
    let table = ok(&["list"]);
    let heading: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    let wanted = ["NAME", "SIZE", "STATE", "BACKEND", "SOURCE", "SERVER-PID", "OPEN", "MOUNTPOINT", "LATE"];
    assert_eq!(heading, wanted);
    assert_eq!(
        ok(&["list", "-n", "-o", "name,size"]),
        "hello    64M\nmy-disk  64M\nn+1-x     1T\nram0     16M"
    );

    // A program that dies is started again.
    let program = || listed("hello")["server-pid"].clone();
    let before = program();
    kill_server("hello");
    wait_until(30, "another server", || listed("hello")["state"] == "live");
    assert_ne!(program(), before);

    ok(&["remove", "--all"]);
    assert_eq!(super::json(&["list"]), json!([]));
    fails(3, &["show", "ram0"], &["there is no device ram0", "zosbd2 list"]);
    let _ = fs::remove_file("/hello.img");
    stage.end();
}

/// Content survives the death of a server, and I/O goes on while servers change.
pub(super) fn recover_and_upgrade(context: &mut Context) {
    const BLOCK: usize = 4096;
    let stage = Stage::new(context);
    let data = context.random("data").bytes(3 << 20);
    ok(&["add", "file", "/run/store/a.img", "--create", "--size", "32M", "-n", "a"]);
    ok(&["add", "ram", "32M", "-n", "r"]);
    for name in ["a", "r"] {
        let node = format!("/dev/zosbd2-{name}");
        run(60, "mkfs.ext4", &["-q", &node]);
        let mounted = Mounted::new(&node, "/mnt", "ext4", "");
        fs::write("/mnt/file", &data).expect("write");
        drop_caches();
        kill_server(name);
        assert_eq!(show(name)["state"], "orphaned");
        fails(1, &["upgrade", name], &["has no server", "zosbd2 recover"]);
        fails(4, &["remove", name], &["mounted on /mnt", "zosbd2 recover", "--force"]);
        assert_eq!(ok(&["recover", name]), node);
        assert!(fs::read("/mnt/file").expect("read") == data, "{name}: the file differs");
        assert_eq!(show(name)["epoch"], 2);
        fails(1, &["recover", name], &["has a server: process", "zosbd2 upgrade"]);
        mounted.unmount();
    }

    let node = File::options().read(true).write(true).open("/dev/zosbd2-a").expect("open");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut rounds = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let byte = u8::try_from(rounds % 251).expect("small");
                node.write_all_at(&[byte; BLOCK], 8 << 20).expect("write");
                node.sync_data().expect("sync");
                rustix::fs::fadvise(&node, 0, None, rustix::fs::Advice::DontNeed).expect("drop the cache");
                let mut read = [0; BLOCK];
                node.read_exact_at(&mut read, 8 << 20).expect("read");
                assert!(read == [byte; BLOCK], "what was written is not read");
                rounds += 1;
            }
            rounds
        });
        for epoch in 3..6 {
            let before = show("a")["server-pid"].clone();
            ok(&["upgrade", "a"]);
            let after = show("a");
            assert_eq!(after["epoch"], epoch);
            assert_ne!(after["server-pid"], before);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(worker.join().expect("the worker") > 0);
    });
    drop(node);
    ok(&["upgrade", "--all"]);
    has(&show("a"), &json!({"epoch": 6}));
    has(&show("r"), &json!({"epoch": 3}));
    // SIGTERM to a server of an unused disk ends the disk.
    let mut foreground = context.spawn("zosbd2", &["add", "null", "1M", "-n", "front", "-f"]);
    wait_until(30, "the disk", || foreground.stdout().contains("/dev/zosbd2-front"));
    foreground.signal(Signal::TERM);
    assert!(foreground.wait(30).success(), "{}", foreground.stderr());
    assert!(!exists("/dev/zosbd2-front"));
    // The next disk of a name has nothing of the last one, whose server died before it was removed.
    let write = |byte| {
        let node = File::options().read(true).write(true).open("/dev/zosbd2-r").expect("open");
        let mut before = [1; BLOCK];
        node.read_exact_at(&mut before, 16 << 20).expect("read");
        node.write_all_at(&[byte; BLOCK], 16 << 20).expect("write");
        node.sync_data().expect("sync");
        before
    };
    write(7);
    kill_server("r");
    ok(&["remove", "r"]);
    assert!(!exists("/dev/shm/zosbd2-r"));
    ok(&["add", "ram", "32M", "-n", "r"]);
    assert!(write(8) == [0; BLOCK], "a new disk has old bytes");
    ok(&["remove", "a", "r"]);
    stage.end();
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters, unanswered requests, sizes and settings.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Stage, fails, has, json as facts_of, kill_server, listed, ok, show};
use crate::guest::{Context, Mounted, read_trimmed, run, wait_until};

const MIB: u64 = 1 << 20;

/// The counters of a disk.
fn counted(name: &str) -> Value {
    let report = facts_of(&["stat", name]);
    assert!(report["seconds"].is_null(), "{report}");
    report["disks"][0].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// What `stat` counts and `requests` lists is what happens.
pub(super) fn numbers(context: &mut Context) {
    let stage = Stage::new(context);
    ok(&["add", "null", "64M", "-n", "n", "--fault", "write:33554432-34603008:delay=3s"]);
    let before = counted("n");
    let node =
        File::options().read(true).write(true).custom_flags(flags()).open("/dev/zosbd2-n").expect("open");
    let mut buffer = Box::new(Buffer([7; 8192]));
    for index in 0..10 {
        node.write_all_at(&buffer.0[..4096], index * 4096).expect("write");
    }
    for index in 0..5 {
        node.read_exact_at(&mut buffer.0, index * 8192).expect("read");
    }
    let after = counted("n");
    let more = |key: &str| number(&after[key]) - number(&before[key]);
    assert_eq!((more("writes"), more("written-bytes")), (10, 40_960));
    assert_eq!((more("reads"), more("read-bytes")), (5, 40_960));
    assert_eq!((more("late"), more("stale"), number(&after["in-flight"])), (0, 0, 0));
    let answered = ["reads", "writes", "other-operations"].map(|key| number(&after[key])).iter().sum::<u64>();
    for kind in ["waiting", "serving", "total"] {
        let times = &after[kind];
        let sum: u64 = times["buckets"].as_array().expect("buckets").iter().map(number).sum();
        assert_eq!(sum, answered, "{kind}: {after}");
        assert!(number(&times["p50"]) <= number(&times["p99"]), "{times}");
    }
    for words in [&["stat", "n"][..], &["stat", "-i", "0.1", "-c", "2"], &["stat", "--histogram"]] {
        assert!(ok(words).contains('n'), "{words:?}");
    }
    let lines = ok(&["stat", "n", "-i", "0.1", "-c", "3", "--json"]);
    assert_eq!(lines.lines().count(), 3);
    for line in lines.lines() {
        let report: Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.1), "{line}");
        assert_eq!(report["disks"][0]["writes"], 0, "{line}");
    }

    assert_eq!(facts_of(&["requests"]), json!([]));
    let server = show("n")["server-pid"].clone();
    let pid = i32::try_from(number(&server)).ok().and_then(Pid::from_raw).expect("a process");
    let signal = |signal| kill_process(pid, signal).expect("signal the server");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                node.write_all_at(&buffer.0[..4096], 32 * MIB).expect("write");
            }
        });
        let held = || facts_of(&["requests", "n"])[0].clone();
        // A server that is stopped while it has a request keeps the request.
        wait_until(60, "a request that a server has", || {
            if held()["state"] != "held" {
                return false;
            }
            signal(Signal::STOP);
            let kept = held()["state"] == "held";
            if !kept {
                signal(Signal::CONT);
            }
            kept
        });
        stop.store(true, Ordering::Relaxed);
        let request = held();
        let facts = json!({
            "disk": "n",
            "operation": "write",
            "offset": 32 * MIB,
            "length": 4096,
            "maybe-executed": false,
        });
        has(&request, &facts);
        let holder = &request["holder"];
        has(holder, &json!({"process": server, "program": "zosbd2", "server": 1}));
        assert!(request["age"].as_f64() >= holder["since"].as_f64(), "{request}");
        assert_eq!(counted("n")["in-flight"], 1);
        let text = ok(&["requests", "--older", "1ms"]);
        assert!(text.contains("(zosbd2)") && text.contains("33554432"), "{text}");
        assert_eq!(ok(&["requests", "--older", "1h"]).lines().count(), 1, "only the heading");
        signal(Signal::CONT);
    });
    drop(node);
    ok(&["remove", "n"]);
    stage.end();
}

fn flags() -> i32 {
    i32::try_from(OFlags::DIRECT.bits()).expect("small")
}

/// A buffer for direct I/O.
#[repr(align(4096))]
struct Buffer([u8; 8192]);

/// Sizes and settings change while a disk is mounted, and stay.
pub(super) fn size_and_settings(context: &mut Context) {
    let stage = Stage::new(context);
    let node = ok(&["add", "file", "/run/store/a.img", "--create", "--size", "32M"]);
    run(60, "mkfs.ext4", &["-q", &node]);
    let mounted = Mounted::new(&node, "/mnt", "ext4", "");
    let mut file = File::create("/mnt/file").expect("create");
    file.write_all(b"before").expect("write");
    ok(&["resize", "a", "+32M"]);
    has(&listed("a"), &json!({"size": 64 * MIB}));
    assert_eq!(read_trimmed("/sys/block/zosbd2-a/size"), "131072");
    ok(&["resize", "a", "96M"]);
    assert_eq!(fs::metadata("/run/store/a.img").expect("metadata").len(), 96 * MIB);
    file.write_all(b"after").expect("write");
    file.sync_all().expect("sync");
    fails(2, &["resize", "a", "64M"], &["the last 33554432 bytes are lost", "--shrink"]);
    fails(4, &["resize", "a", "64M", "--shrink"], &["mounted on /mnt", "--force"]);
    fails(2, &["resize", "a", "+1"], &["no multiple of its logical block of 512"]);
    assert_eq!(fs::metadata("/run/store/a.img").expect("metadata").len(), 96 * MIB);
    drop(file);
    mounted.unmount();
    ok(&["resize", "a", "64M", "--shrink"]);
    assert_eq!(listed("a")["size"], 64 * MIB);
    let mounted = Mounted::new(&node, "/mnt", "ext4", "");
    assert_eq!(fs::read("/mnt/file").expect("read"), b"beforeafter");

    ok(&["set", "a", "grace=7s", "deadline=90s", "policy=requeue"]);
    let are = |grace: u64, deadline: u64, policy: &str| {
        has(&show("a"), &json!({"grace": grace, "deadline": deadline, "policy": policy}));
    };
    are(7_000, 90_000, "requeue");
    let text = fs::read_to_string("/run/zosbd2/a.toml").expect("read");
    assert!(text.contains("grace = \"7s\"") && text.contains("deadline = \"1m 30s\""), "{text}");
    kill_server("a");
    ok(&["recover", "a"]);
    are(7_000, 90_000, "requeue");
    ok(&["set", "a", "deadline=0", "policy=eio"]);
    are(7_000, 0, "eio");
    mounted.unmount();
    // A new device has the settings of the configuration.
    let kept = fs::read("/run/zosbd2/a.toml").expect("read");
    ok(&["remove", "a"]);
    fs::write("/run/zosbd2/a.toml", kept).expect("write");
    ok(&["recover", "a"]);
    are(7_000, 0, "eio");
    fails(2, &["set", "a", "grace=2days"], &["grace"]);

    ok(&["add", "ram", "1M", "-n", "r"]);
    fails(1, &["resize", "r", "2M"], &["a ram disk cannot change its size", "remove the disk and add it"]);
    ok(&["remove", "a", "r"]);
    stage.end();
}

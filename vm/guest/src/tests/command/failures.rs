// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit codes and sentences, and what `gc` and `remove` leave alone.

use std::fs::{self, File};

use rustix::process::Signal;

use super::{Stage, exists, fails, has, json, kill_server, ok, show};
use crate::guest::{Context, Mounted, run, wait_until};

/// Each mistake has its exit code, and a sentence that names the way out.
pub(super) fn failures(context: &mut Context) {
    fails(1, &["list"], &["open /dev/zosbd2ctl", "is the kernel module zosbd2 loaded?", "modprobe"]);
    fails(1, &["add", "null", "1M"], &["is the kernel module zosbd2 loaded?"]);
    let stage = Stage::new(context);
    for words in [
        &["add", "file", "/run/store/x.img", "--create"][..],
        &["add", "ram", "lots"],
        &["add", "ram", "1M", "--grace", "soon"],
        &["add", "null", "1M", "--fault", "x"],
        &["set", "x", "queues=2"],
        &["list", "-o", "colour"],
        &["fly"],
    ] {
        let code = super::zosbd2(words).status.code();
        assert_eq!(code, Some(2), "{words:?}");
    }
    fails(1, &["add", "file", "/run/store/none.img"], &["/run/store/none.img", "No such file"]);
    for words in [
        &["show", "x"][..],
        &["remove", "x"],
        &["recover", "x"],
        &["upgrade", "x"],
        &["stat", "x"],
        &["requests", "x"],
        &["set", "x", "grace=1s"],
        &["resize", "x", "1G"],
    ] {
        fails(3, words, &["there is no device x"]);
    }

    // The name is taken: by a served disk, by one without a server, and by a configuration.
    ok(&["add", "file", "/run/store/a.img", "--create", "--size", "32M"]);
    let again: &[&str] = &["add", "null", "1M", "-n", "a"];
    fails(4, again, &["is served by process", "(zosbd2)", "--name"]);
    let node = "/dev/zosbd2-a";
    run(60, "mkfs.ext4", &["-q", node]);
    let mounted = Mounted::new(node, "/mnt/a", "ext4", "");
    fails(4, &["remove", "a"], &["it is in use", "mounted on /mnt/a", "--wait"]);
    fails(1, &["add", "file", "/run/store/a.img", "-n", "b"], &["/run/store/a.img", "in use by"]);
    mounted.unmount();
    let held = File::open(node).expect("open");
    fails(4, &["remove", "a"], &["open in process"]);
    let mut waiting = context.spawn("zosbd2", &["remove", "--wait", "a"]);
    assert!(waiting.running());
    drop(held);
    assert!(waiting.wait(30).success(), "{}", waiting.stderr());
    ok(&["add", "null", "1M", "-n", "a"]);
    kill_server("a");
    fails(4, again, &["has lost its server", "zosbd2 recover a", "zosbd2 remove a"]);
    ok(&["remove", "a"]);
    fs::create_dir_all("/etc/zosbd2").expect("a folder");
    fs::write("/etc/zosbd2/a.toml", "backend = \"null\"\nsize = \"1M\"\n").expect("write");
    fails(4, again, &["/etc/zosbd2/a.toml describes a disk of that name", "--forget a"]);
    // A disk that is only configured.
    let absent = show("a");
    has(&absent, &serde_json::json!({"state": "absent", "persistent": true, "size": null}));
    assert!(absent.get("epoch").is_none(), "{absent}");
    assert!(ok(&["show", "a"]).contains("zosbd2 recover"));
    assert_eq!(ok(&["recover", "a"]), node);
    assert!(super::zosbd2(&["remove", "a"]).stderr.contains("comes back at boot"));
    ok(&["remove", "--forget", "a"]);
    assert!(!exists("/etc/zosbd2/a.toml"));
    fs::write("/etc/zosbd2/bad.toml", "backend = \"null\"\nsise = \"1M\"\n").expect("write");
    fails(2, &["show", "bad"], &["/etc/zosbd2/bad.toml", "sise"]);
    fails(2, &["recover", "bad"], &["/etc/zosbd2/bad.toml", "sise"]);
    fs::remove_file("/etc/zosbd2/bad.toml").expect("remove");
    fs::remove_dir("/etc/zosbd2").expect("remove");

    // The suite overwrites only what it may.
    ok(&["add", "ram", "32M", "-n", "c"]);
    run(60, "mkfs.ext4", &["-q", "/dev/zosbd2-c"]);
    fails(2, &["conformance", "/dev/zosbd2-c"], &["ext file system", "--yes-destroy-data"]);
    let mounted = Mounted::new("/dev/zosbd2-c", "/mnt/c", "ext4", "");
    fails(4, &["conformance", "--yes-destroy-data", "/dev/zosbd2-c"], &["is in use", "/mnt/c"]);
    mounted.unmount();
    let said = ok(&["conformance", "--yes-destroy-data", "--seed", "7", "/dev/zosbd2-c"]);
    assert!(said.contains("with --seed 7") && said.contains("/dev/zosbd2-c conforms"), "{said}");
    fails(3, &["conformance", "/dev/none"], &["/dev/none"]);
    ok(&["remove", "c"]);
    // The logs of servers that did not start.
    let left = json(&["gc", "--yes"]);
    assert!(left.as_array().expect("a list").iter().all(|it| it["kind"] == "file"), "{left}");
    stage.end();
}

/// `gc` removes what nobody serves and uses, and nothing else.
pub(super) fn gc(context: &mut Context) {
    let stage = Stage::new(context);
    let mut events = context.spawn("zosbd2", &["events", "--json"]);
    wait_until(30, "the watch", || events.stderr().contains("watching"));
    // Devices of a program that is not of this command: in use, unused, and served.
    let mut used = context.spawn("hello_disk", &[]);
    wait_until(30, "the disk", || exists("/dev/zosbd2-hello"));
    run(60, "mkfs.ext4", &["-q", "/dev/zosbd2-hello"]);
    let mounted = Mounted::new("/dev/zosbd2-hello", "/mnt", "ext4", "");
    assert_eq!(json(&["gc"]), serde_json::json!([]), "a served disk is no garbage");
    assert_eq!(ok(&["gc", "--yes"]), "");
    used.signal(Signal::KILL);
    used.wait(20);
    assert_eq!(json(&["gc", "--yes"]), serde_json::json!([]), "a mounted disk is no garbage");
    assert_eq!(show("hello")["state"], "orphaned");
    fails(1, &["recover", "hello"], &["was not made by `zosbd2 add`"]);
    // A configured disk without a server.
    ok(&["add", "null", "1M", "-n", "mine"]);
    kill_server("mine");
    assert_eq!(json(&["gc", "--yes"]), serde_json::json!([]), "a configured disk is no garbage");

    let mut served = context.spawn("hello_disk", &[]);
    wait_until(30, "the server", || show("hello")["state"] == "live");
    mounted.unmount();
    served.signal(Signal::KILL);
    served.wait(20);
    fs::write("/run/zosbd2/old.log", "").expect("write");
    fs::write("/dev/shm/zosbd2-old", "").expect("write");
    fs::write("/dev/shm/other", "").expect("write");
    let open = File::create("/dev/shm/zosbd2-starts").expect("create");
    let listed = json(&["gc"]);
    let paths: Vec<&str> =
        listed.as_array().expect("a list").iter().filter_map(|it| it["path"].as_str()).collect();
    assert_eq!(paths, ["/dev/zosbd2-hello", "/dev/shm/zosbd2-old", "/run/zosbd2/old.log"]);
    assert!(listed.as_array().expect("a list").iter().all(|it| it["removed"] == false), "{listed}");
    assert!(exists("/dev/zosbd2-hello"), "without --yes, gc removes nothing");
    let text = super::zosbd2(&["gc"]);
    assert!(text.stderr.contains("zosbd2 gc --yes"), "{}", text.stderr);
    let removed = json(&["gc", "--yes"]);
    assert!(removed.as_array().expect("a list").iter().all(|it| it["removed"] == true), "{removed}");
    for path in paths {
        assert!(!exists(path), "{path} is left");
    }
    assert!(exists("/dev/shm/other") && exists("/dev/shm/zosbd2-starts") && exists("/dev/zosbd2-mine"));
    drop(open);
    ok(&["remove", "mine"]);
    let died = |line: &str| line.contains("\"event\":\"died\"") && line.contains("\"name\":\"hello\"");
    wait_until(20, "the events", || events.stdout().lines().filter(|line| died(line)).count() == 2);
    let seen = |event: &str, name: &str| {
        let words = [format!("\"event\":\"{event}\""), format!("\"name\":\"{name}\"")];
        events.stdout().lines().any(|line| words.iter().all(|word| line.contains(word)))
    };
    for (event, name) in
        [("added", "hello"), ("recovered", "hello"), ("removed", "hello"), ("removed", "mine")]
    {
        wait_until(20, &format!("{event} {name}"), || seen(event, name));
    }
    let text = events.stdout();
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(event["text"].is_string() && event["time"].is_string(), "{line}");
    }
    events.signal(Signal::TERM);
    events.wait(20);
    for file in ["/dev/shm/other", "/dev/shm/zosbd2-starts", "/hello.img"] {
        fs::remove_file(file).expect("remove");
    }
    stage.end();
}

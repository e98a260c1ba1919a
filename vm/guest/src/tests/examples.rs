// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples that encrypt, mirror, and read from a web server.

use std::fs::{File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::{MountFlags, mount_remount};
use rustix::process::Signal;

use crate::guest::{Context, Mounted, Need, Spawned, Test, drop_caches, read_trimmed, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("example_crypt_disk", crypt)
        .needs(&[Need::Module, Need::Program("crypt_disk"), Need::Tool("mkfs.ext4")])
        .timeout(90),
    Test::new("example_mirror_disk", mirror)
        .needs(&[Need::Module, Need::Program("mirror_disk"), Need::Tool("mkfs.ext4")])
        .timeout(120),
    Test::new("example_http_disk", http)
        .needs(&[Need::Module, Need::Program("http_disk"), Need::Tool("mkfs.ext4")])
        .timeout(90),
];

const MIB: u64 = 1 << 20;

/// Starts a program, and waits until it serves.
fn serve(context: &Context, program: &str, arguments: &[&str]) -> Spawned {
    let mut server = context.spawn(program, arguments);
    says(&mut server, "serving /dev/zosbd2-");
    server
}

#[track_caller]
fn says(server: &mut Spawned, text: &str) {
    wait_until(30, text, || {
        let said = server.stderr().contains(text);
        assert!(said || server.running(), "it ended: {}", server.stderr());
        said
    });
}

#[track_caller]
fn end(mut server: Spawned) {
    server.signal(Signal::TERM);
    assert!(server.wait(30).success(), "the server did not exit with 0: {}", server.stderr());
}

fn write_durably(path: &Path, data: &[u8]) {
    let mut file = File::create(path).expect("make a file");
    file.write_all(data).expect("write a file");
    file.sync_all().expect("sync a file");
}

fn is(path: &Path, data: &[u8]) {
    assert!(std::fs::read(path).expect("read a file") == data, "{} differs", path.display());
}

fn crypt(context: &mut Context) {
    const NODE: &str = "/dev/zosbd2-crypt";
    const TEXT: &[u8] = b"a secret of sixteen or more bytes ";
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let memory = Mounted::new("store", "/run/disk", "tmpfs", "");
    let (store, key, wrong) = ("/run/disk/store", "/run/disk/key", "/run/disk/wrong");
    File::create(store).expect("create").set_len(32 * MIB).expect("size");
    for key in [key, wrong] {
        std::fs::write(key, context.random(key).bytes(64)).expect("write a key");
        std::fs::set_permissions(key, Permissions::from_mode(0o600)).expect("permissions");
    }
    let mut server = serve(context, "crypt_disk", &[store, key]);
    run(60, "mkfs.ext4", &["-q", NODE]);
    let text = TEXT.repeat(30_000);
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
    write_durably(&mounted.path().join("file"), &text);
    mounted.unmount();
    drop_caches();
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
    is(&mounted.path().join("file"), &text);
    // Only the same key goes on with a disk in use.
    server.signal(Signal::KILL);
    server.wait(20);
    let refused = context.spawn("crypt_disk", &[store, wrong]).finish(30);
    assert!(!refused.status.success() && refused.stderr.contains("its identity is"), "{}", refused.stderr);
    let server = serve(context, "crypt_disk", &[store, key]);
    drop_caches();
    is(&mounted.path().join("file"), &text);
    mounted.unmount();
    end(server);
    let stored = std::fs::read(store).expect("read the store");
    assert!(!stored.windows(16).any(|part| part == &TEXT[..16]), "the store has plain text");
    let server = serve(context, "crypt_disk", &[store, wrong]);
    assert!(Mounted::attempt(NODE, "/mnt", "ext4", "").is_err(), "the wrong key shows a file system");
    end(server);
    memory.unmount();
}

fn mirror(context: &mut Context) {
    const NODE: &str = "/dev/zosbd2-mirror";
    const SIZE: u64 = 48 * MIB;
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let big = Mounted::new("big", "/run/big", "tmpfs", "");
    let small = Mounted::new("small", "/run/small", "tmpfs", "size=16m");
    let legs = ["/run/big/leg", "/run/small/leg"];
    run(30, "mirror_disk", &["create", "48", legs[0], legs[1]]);
    let mut server = serve(context, "mirror_disk", &legs);
    run(60, "mkfs.ext4", &["-q", NODE]);
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
    let data = context.random("data").bytes(24 << 20);
    write_durably(&mounted.path().join("file"), &data);
    says(&mut server, "the mirror is degraded: a write of /run/small/leg failed (No space left on device");
    drop_caches();
    is(&mounted.path().join("file"), &data);
    // The leg has no room for a copy either, so the disk stays degraded, under a mounted file system.
    server.signal(Signal::KILL);
    server.wait(20);
    let server = serve(context, "mirror_disk", &legs);
    assert!(server.stderr().contains("degraded: the copy failed (No space left"), "{}", server.stderr());
    write_durably(&mounted.path().join("other"), &data[..100_000]);
    mounted.unmount();
    end(server);
    let alone = context.spawn("mirror_disk", &["/run/big/none", legs[1]]).finish(30);
    assert!(!alone.status.success(), "a leg that missed writes was served: {}", alone.stderr);
    mount_remount("/run/small", MountFlags::empty(), c"size=64m").expect("remount");
    let server = serve(context, "mirror_disk", &legs);
    assert!(server.stderr().contains("/run/small/leg gets a copy of /run/big/leg"), "{}", server.stderr());
    end(server);
    let read = |leg: &str| {
        let mut data = Vec::new();
        File::open(leg).expect("open").take(SIZE).read_to_end(&mut data).expect("read");
        data
    };
    assert!(read(legs[0]) == read(legs[1]), "the legs differ");
    let server = serve(context, "mirror_disk", &["alone", legs[1]]);
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
    is(&mounted.path().join("file"), &data);
    is(&mounted.path().join("other"), &data[..100_000]);
    mounted.unmount();
    end(server);
    small.unmount();
    big.unmount();
}

/// Answers requests for ranges of a file, as another version of it after `changed`.
fn answer(image: &File, mut stream: &TcpStream, changed: &AtomicBool) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(first) = lines.next() {
        let head = first?.starts_with("HEAD");
        let mut range = None;
        for line in &mut lines {
            let line = line?.to_ascii_lowercase();
            match line.strip_prefix("range: bytes=").and_then(|range| range.split_once('-')) {
                Some((from, to)) => range = from.parse::<u64>().ok().zip(to.parse::<u64>().ok()),
                None if line.is_empty() => break,
                None => {}
            }
        }
        let length = image.metadata()?.len();
        let tag = if changed.load(Ordering::Relaxed) { "two" } else { "one" };
        let (from, to) = range.unwrap_or((0, length - 1));
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        let mut data = vec![0; if head { 0 } else { usize::try_from(to - from + 1).expect("small") }];
        image.read_exact_at(&mut data, from)?;
        write!(
            stream,
            "HTTP/1.1 {status}\r\nETag: \"{tag}\"\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\
             Content-Range: bytes {from}-{to}/{length}\r\n\r\n",
            to - from + 1
        )?;
        stream.write_all(&data)?;
    }
    Ok(())
}

fn http(context: &mut Context) {
    const NODE: &str = "/dev/zosbd2-http";
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let memory = Mounted::new("store", "/run/disk", "tmpfs", "");
    std::fs::create_dir("/run/disk/tree").expect("a folder");
    let data = context.random("data").bytes(5 << 20);
    std::fs::write("/run/disk/tree/file", &data).expect("write a file");
    run(60, "mkfs.ext4", &["-q", "-d", "/run/disk/tree", "/run/disk/image", "16m"]);
    let image = Arc::new(File::open("/run/disk/image").expect("open"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}/image", listener.local_addr().expect("an address"));
    let changed = Arc::new(AtomicBool::new(false));
    let is_changed = changed.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (image, changed) = (image.clone(), is_changed.clone());
            std::thread::spawn(move || answer(&image, &stream, &changed));
        }
    });
    let mut server = serve(context, "http_disk", &[&url, "1"]);
    let mounted = Mounted::new(NODE, "/mnt", "ext4", "ro");
    is(&mounted.path().join("file"), &data);
    // The same command line goes on with the mounted disk, and answers the read that waits.
    drop_caches();
    server.stop();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| is(&mounted.path().join("file"), &data));
        let observer = zosbd2::Control::open().and_then(|control| control.observe("http")).expect("observe");
        wait_until(20, "a read to wait", || {
            observer.stats(0).is_ok_and(|stats| stats.queued + stats.held > 0)
        });
        server.signal(Signal::KILL);
        server.wait(20);
        server = serve(context, "http_disk", &[&url, "1"]);
        says(&mut server, "in place of its last server");
        reading.join().expect("the reader");
    });
    mounted.unmount();
    assert_eq!(read_trimmed("/sys/block/zosbd2-http/ro"), "1");
    let node = File::open(NODE).expect("open the disk");
    let read = |offset| node.read_exact_at(&mut [0; 4096], offset);
    assert!(read(0).is_ok());
    changed.store(true, Ordering::Relaxed);
    drop_caches();
    // What was not used for some time is not in the cache of one MiB.
    let failed = (0..16).filter(|mib| read(mib * MIB).is_err()).count();
    assert!(failed >= 12, "{failed}: data of two versions was mixed");
    says(&mut server, "reads fail: the bytes from ");
    says(&mut server, "the file has changed");
    says(&mut server, "the backend of device http failed a read");
    drop(node);
    end(server);
    // The threads of the web server have the image open: the mount goes with the test.
    drop(memory);
}

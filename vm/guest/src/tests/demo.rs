// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demonstration of `cargo xtask demo`: a RAM disk from insmod to rmmod, each step with its time.
//!
//! It is no test: it only runs if named, in the guest or, with `--demo MODULE TREE...`, on a machine that may load
//! modules. The trees have at least 100 MB in at least 1000 files, and every file is compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::guest::{
    Context, Mounted, Need, Spawned, Step, Test, command, drop_caches, load_file, run, try_unload, wait_until,
};

pub(super) const TESTS: &[Test] = &[Test::new("demo", demo)
    .needs(&[Need::Module, Need::Tool("mkfs.ext4"), Need::Program("zosbd2_sample_ramdisk"), Need::Path(TREE)])
    .timeout(240)
    .hidden()];

/// The tree in the guest.
const TREE: &str = "/tree";
const NODE: &str = "/dev/zosbd2ramdisk";

fn demo(context: &mut Context) {
    steps(&mut |text| context.say(text), zosbd2_vm_guest::protocol::MODULE, &[TREE], "/mnt");
}

/// The role `--demo`: the same steps outside the virtual machine.
pub(crate) fn native(module: &str, trees: &[&str]) {
    let folder = "/run/zosbd2-demo";
    steps(&mut |text| println!("{text}"), module, trees, folder);
    let _ = fs::remove_dir(folder);
}

fn steps(say: &mut dyn FnMut(&str), module: &str, trees: &[&str], folder: &str) {
    let begin = Instant::now();
    let mut step = |what: &str, work: &mut dyn FnMut(&mut Tell<'_>)| {
        let start = Instant::now();
        let own = Step::begin(what);
        work(&mut Tell { step: &own, what, files: 0, told: start });
        say(&format!("{:>6.2} s  {what}", start.elapsed().as_secs_f64()));
    };
    let mut sums = Vec::new();
    step("read what will be copied", &mut |tell| {
        sums = trees.iter().map(|tree| checksums(Path::new(tree), tell)).collect();
    });
    let files: usize = sums.iter().map(BTreeMap::len).sum();
    let bytes: u64 = sums.iter().flat_map(BTreeMap::values).map(|(length, _)| length).sum();
    assert!(files >= 1000 && bytes >= 100_000_000, "the tree is too small: {files} files, {bytes} bytes");
    let mut server = None;
    let mut mounted = None;
    step("insmod zosbd2.ko", &mut |_| {
        load_file(module, "");
    });
    step("zosbd2_sample_ramdisk -t 2", &mut |_| {
        let started = Spawned::start(command("zosbd2_sample_ramdisk", &["-t", "2"]));
        wait_until(20, "the server to print that it is ready", || started.stdout().contains("ready"));
        server = Some(started);
    });
    step("mkfs.ext4", &mut |_| {
        run(60, "mkfs.ext4", &["-q", "-F", NODE]);
    });
    step("mount", &mut |_| mounted = Some(Mounted::new(NODE, folder, "ext4", "")));
    step(&format!("copy {files} files, {} MB", bytes / 1_000_000), &mut |tell| {
        for (index, tree) in trees.iter().enumerate() {
            copy(Path::new(tree), &Path::new(folder).join(index.to_string()), tell);
        }
    });
    step("umount", &mut |_| mounted.take().expect("mounted").unmount());
    step("drop caches", &mut |_| drop_caches());
    step("mount again", &mut |_| mounted = Some(Mounted::new(NODE, folder, "ext4", "")));
    step("compare every checksum", &mut |tell| {
        for (index, sums) in sums.iter().enumerate() {
            let found = checksums(&Path::new(folder).join(index.to_string()), tell);
            assert!(found == *sums, "the copy of {} differs: {} files", trees[index], found.len());
        }
    });
    step("fstrim", &mut |_| {
        run(60, "fstrim", &[folder]);
    });
    step("umount", &mut |_| mounted.take().expect("mounted").unmount());
    step("e2fsck -f -n", &mut |_| {
        run(60, "e2fsck", &["-f", "-n", NODE]);
    });
    step("zosbd2_sample_ramdisk -d", &mut |_| {
        run(60, "zosbd2_sample_ramdisk", &["-d"]);
    });
    step("the server exits with 0", &mut |_| {
        assert!(server.as_mut().expect("started").wait(20).success(), "the server failed");
    });
    step("rmmod zosbd2", &mut |_| {
        wait_until(20, "the module to unload", || try_unload("zosbd2").is_ok());
    });
    say(&format!("demo passed in {:.1} s", begin.elapsed().as_secs_f64()));
}

/// Reports the progress of a step.
struct Tell<'a> {
    step: &'a Step,
    what: &'a str,
    files: usize,
    told: Instant,
}

impl Tell<'_> {
    /// One more file of this step is done.
    fn file(&mut self) {
        self.files += 1;
        if self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            self.step.tell(&format!("{}: {} files done", self.what, self.files));
        }
    }
}

/// Length and checksum of every file below a folder, by relative path.
fn checksums(folder: &Path, tell: &mut Tell<'_>) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut sums = BTreeMap::new();
    let mut buffer = vec![0; 1 << 16];
    walk(folder, &mut |path| {
        let mut file = File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        let (mut length, mut sum) = (0_u64, 0xcbf2_9ce4_8422_2325_u64);
        loop {
            let count =
                file.read(&mut buffer).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
            if count == 0 {
                break;
            }
            length += count as u64;
            // FNV-1a over words: good enough to notice a difference.
            for chunk in buffer[..count].chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        let name = path.strip_prefix(folder).expect("below the folder").to_owned();
        sums.insert(name, (length, sum));
        tell.file();
    });
    sums
}

/// Calls `visit` for every regular file below a folder. Links are skipped.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("list {}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("list {}: {error}", folder.display()));
        let kind = entry.file_type().expect("the kind of a file");
        if kind.is_dir() {
            walk(&entry.path(), visit);
        } else if kind.is_file() {
            visit(&entry.path());
        }
    }
}

fn copy(from: &Path, to: &Path, tell: &mut Tell<'_>) {
    walk(from, &mut |path| {
        let target = to.join(path.strip_prefix(from).expect("below the folder"));
        let parent = target.parent().expect("in a folder");
        fs::create_dir_all(parent).unwrap_or_else(|error| panic!("make {}: {error}", parent.display()));
        fs::copy(path, &target).unwrap_or_else(|error| panic!("copy to {}: {error}", target.display()));
        tell.file();
    });
}

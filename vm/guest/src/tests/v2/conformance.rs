// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program `zosbd2-conformance`: what it tests, and what it refuses.

use zosbd2::Builder;

use super::partitions::partitioned;
use super::support::{Disk, threads};
use crate::guest::{Context, Mounted, Need, Spawned, Test, command, run};

pub(super) const TESTS: &[Test] = &[Test::new("v2_conformance_program", program)
    .needs(&[Need::Module, Need::Program(PROGRAM), Need::Tool("mkfs.ext4"), Need::KernelModule("brd")])
    .timeout(120)];

const PROGRAM: &str = "zosbd2-conformance";

/// What the program complains about. It must fail with this exit code.
fn complaint(code: i32, arguments: &[&str]) -> String {
    let finished = Spawned::start(command(PROGRAM, arguments)).finish(60);
    assert_eq!(finished.status.code(), Some(code), "{arguments:?}: {}{}", finished.stdout, finished.stderr);
    finished.stderr
}

fn program(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("brd", "rd_nr=1 rd_size=65536");
    let (disk, serving) = Disk::serve(&Builder::new("program"), &partitioned(64 << 20, 1), threads(2));
    let node = disk.path().display().to_string();
    let partition =
        format!("{node}{}", if node.ends_with(|c: char| c.is_ascii_digit()) { "p1" } else { "1" });
    disk.wait_for_partition(&partition);

    let said = run(60, PROGRAM, &["--seed", "7", &partition]).stdout;
    assert!(said.contains(&format!("overwriting data of {partition}, with --seed 7")), "{said}");
    assert!(said.ends_with(&format!("{partition} conforms: 11 checks passed, 1 do not apply\n")), "{said}");
    let said = run(60, PROGRAM, &["/dev/ram0", "--overwrite-any-disk"]).stdout;
    assert!(said.contains("/dev/ram0 conforms"), "{said}");

    let said = complaint(1, &["/dev/ram0"]);
    assert!(said.contains("/dev/ram0 is not a disk of zosbd2"), "{said}");
    let said = complaint(1, &["/dev/null"]);
    assert!(said.contains("/dev/null is not a block device"), "{said}");
    let said = complaint(2, &[]);
    assert!(said.contains("NODE is missing"), "{said}");

    run(60, "mkfs.ext4", &["-q", &partition]);
    let mounted = Mounted::new(&partition, "/mnt", "ext4", "");
    let said = complaint(1, &[&partition]);
    assert!(said.contains(&format!("{partition} is in use: it is mounted at /mnt")), "{said}");
    let said = complaint(1, &[&node]);
    assert!(said.contains(&format!("{node} is in use: one of its partitions")), "{said}");
    mounted.unmount();
    disk.destroy_and_join(serving);
}

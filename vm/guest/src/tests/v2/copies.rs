// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program that copies a disk must not take a partial copy for a complete one if the disk is destroyed
//! meanwhile.

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::super::support::{Aligned, open_direct, read_in_thread, write_in_thread};
use super::support::{control, plain_by_hand};
use crate::guest::{Context, Need, Test, wait_until};

pub(super) const TESTS: &[Test] =
    &[Test::new("v2_reader_of_a_destroyed_disk_sees_an_error", reader).needs(&[Need::Module]).timeout(60)];

/// The block layer sets the size to 0 while reads are in flight, so the next read would find the end of the
/// file. The reads fail although the server answers them; an answered write succeeds.
fn reader(context: &mut Context) {
    context.load_module("");
    // In the server's thread, and on the submitter's CPU.
    for affinity in ["0", "2"] {
        read_and_destroy(affinity);
    }
}

fn read_and_destroy(affinity: &str) {
    let (disk, mut server) = plain_by_hand("copied");
    std::fs::write(disk.sysfs().join("queue/rq_affinity"), affinity).expect("set rq_affinity");
    let node = open_direct(&disk.path());
    let reads = [0, 8192, 16384].map(|at| read_in_thread(disk.path(), at, 4096));
    let mut held = server.fetch(0, 3, 3).expect("fetch");
    let write = write_in_thread(disk.path(), 32768, 7, 4096);
    held.push(server.fetch_one());
    let destroyer = std::thread::spawn({
        let disk = disk.clone();
        move || control().destroy(&*disk.server, true)
    });
    wait_until(20, "the size to be taken away", || {
        rustix::fs::seek(&node, SeekFrom::End(0)).expect("seek") == 0
    });
    // One by one, and several in one call.
    server.complete(&held[0]);
    let refused = server.answer(|batch| {
        for request in &held[1..3] {
            batch.read(request, &[5; 4096]);
        }
    });
    assert_eq!(refused, []);
    server.complete(&held[3]);
    for read in reads {
        assert_eq!(
            read.join().expect("reader"),
            Err(Errno::IO),
            "not the data, and then the end of the file"
        );
    }
    assert_eq!(write.join().expect("writer"), Ok(4096));
    destroyer.join().expect("destroyer").expect("destroy");
    // No module can change this: a program without a read in flight finds the end of the file.
    let mut buffer = Aligned::new(4096, 0);
    assert_eq!(rustix::io::pread(&node, buffer.bytes_mut(), 0), Ok(0));
}

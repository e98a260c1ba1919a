// SPDX-License-Identifier: MIT OR Apache-2.0
//! On which processor a request ends: the setting `rq_affinity` of its queue decides, as for other disks.

use std::path::Path;
use std::thread::JoinHandle;

use zosbd2_abi::v1::{OP_ANSWER_WRITE, OP_WRITE};

use super::super::support::{Aligned, Disk as Disk1, Manual as Manual1, open_direct, stat};
use super::support::{by_hand, plain};
use crate::guest::block_trace::Ends;
use crate::guest::processor;
use crate::guest::{Context, Need, Test, wait_until, write_text};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_requests_end_where_rq_affinity_says", v2).needs(NEEDS).timeout(60),
    Test::new("requests_end_where_rq_affinity_says", v1).needs(NEEDS).timeout(60),
];

const NEEDS: &[Need] = &[
    Need::Module,
    Need::Path("/sys/kernel/tracing/instances"),
    Need::Path("/sys/kernel/tracing/events/block/block_rq_complete"),
];

/// The processor of the submitters, and that of the server.
const SUBMITTER: usize = 0;
const SERVER: usize = 1;

/// `rq_affinity`, and where requests end then. 0 is the default; 1 is for processors without a common cache.
const SETTINGS: [(&str, usize); 2] = [("0", SERVER), ("2", SUBMITTER)];

fn submit(path: &Path, write: bool) -> JoinHandle<usize> {
    let path = path.to_owned();
    std::thread::spawn(move || {
        processor::bind(SUBMITTER);
        let node = open_direct(&path);
        let mut data = Aligned::new(4096, 0);
        let done = if write {
            rustix::io::pwrite(&node, data.bytes(), 0)
        } else {
            rustix::io::pread(&node, data.bytes_mut(), 0)
        };
        done.expect("I/O")
    })
}

fn v2(context: &mut Context) {
    context.load_module("");
    processor::bind(SERVER);
    for cached in [false, true] {
        let mut builder = plain("ends");
        if cached {
            builder = builder.volatile_cache(true);
        }
        let (disk, mut server) = by_hand(&builder);
        assert_eq!(disk.setting("queue/rq_affinity"), "0");
        for (affinity, expected) in SETTINGS {
            write_text(&disk.sysfs().join("queue/rq_affinity").to_string_lossy(), affinity);
            for write in [false, true] {
                let ends = Ends::new();
                let submitter = submit(&disk.path(), write);
                let request = server.fetch_one();
                server.complete(&request);
                assert_eq!(submitter.join().expect("submitter"), 4096);
                // The module must know when a write has ended that may be only in the server's cache.
                let expected = if write && cached { SERVER } else { expected };
                assert_eq!(ends.take(), [expected], "rq_affinity {affinity}, write {write}, cache {cached}");
            }
        }
        disk.destroy(true);
        wait_until(20, "the disk to go", || !disk.path().exists());
    }
}

fn v1(context: &mut Context) {
    context.load_module("");
    processor::bind(SERVER);
    let disk = Disk1::create("ends", 1024);
    let mut server = Manual1::new(&disk);
    for (affinity, expected) in SETTINGS {
        write_text("/sys/block/ends/queue/rq_affinity", affinity);
        let ends = Ends::new();
        let before = stat("ends");
        let submitter = submit(&disk.path(), true);
        let (opcode, op_id) = server.fetch();
        assert_eq!(opcode, OP_WRITE);
        server.answer(OP_ANSWER_WRITE, op_id, 0).expect("an answer");
        assert_eq!(submitter.join().expect("submitter"), 4096);
        assert_eq!(stat("ends")[4], before[4] + 1, "one write");
        assert_eq!(ends.take(), [expected], "rq_affinity {affinity}");
    }
    disk.destroy();
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server gets requests in the order of their submission.

use std::os::fd::AsFd as _;

use zosbd2::v2::abi;

use super::super::support::open_direct;
use super::support::plain_by_hand;
use crate::guest::aio::Reads;
use crate::guest::{Context, Need, Test};

pub(super) const TESTS: &[Test] =
    &[Test::new("v2_plugged_requests_come_in_order", plugged).needs(&[Need::Module]).timeout(60)];

/// Distance between the reads, so that they are not adjacent.
const STRIDE: u64 = 8192;

/// The plugged requests of one submitter reach the server oldest first, whichever way the kernel keeps a
/// plug's list, also if the server fetches only a part of them at a time.
fn plugged(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("plugged");
    let node = open_direct(&disk.path());
    for (count, at_once) in [(2, 2), (3, 1), (16, 16), (24, 32), (31, 5)] {
        let offsets: Vec<u64> = (0..count).map(|index| index * STRIDE).collect();
        let reads = Reads::submit(node.as_fd(), &offsets);
        let mut came = Vec::new();
        while came.len() < offsets.len() {
            for request in server.fetch(0, at_once, 1).expect("fetch") {
                assert_eq!(request.op(), abi::OP_READ);
                came.push(request.offset());
                server.complete(&request);
            }
        }
        assert_eq!(came, offsets, "{count} reads of one plug, fetched {at_once} at a time");
        assert!(reads.wait().iter().all(|read| *read == Ok(4096)));
    }
    drop(node);
    disk.destroy(true);
}

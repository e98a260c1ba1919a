// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that holds the data of each write in memory of its own until it answers, for the benchmark of the ways in
//! which data gets there.

use std::hint::black_box;

use zosbd2::v2::abi;
use zosbd2::{Answers, BufferList, Builder, Control, Errno, Fetch, Fetched, Server};

/// Size of the device.
const SIZE: u64 = 256 << 20;
/// Most requests of one call.
const BATCH: usize = 32;
/// Bytes of a buffer, and of the longest request.
const LENGTH: usize = 64 << 10;

static ZEROS: [u8; LENGTH] = [0; LENGTH];

/// How the data of a write gets into its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It stays in the arena: no buffer has it, so requests must be answered before the next fetch.
    Arena,
    /// A commit that only copies.
    Commit,
    /// The server copies it from the arena.
    Copy,
    /// ENTER takes a list of buffers.
    List,
}

/// The role `--hold WAY NAME`: creates a device and serves it on one thread until it is destroyed. Prints `serving`
/// when the node exists.
pub(crate) fn role(way: &str, name: &str) -> Result<(), Box<dyn std::error::Error>> {
    let way = match way {
        "arena" => Way::Arena,
        "commit" => Way::Commit,
        "copy" => Way::Copy,
        "list" => Way::List,
        other => return Err(format!("no way: {other}").into()),
    };
    let length = u32::try_from(LENGTH)?;
    let builder = Builder::new(name).size_bytes(SIZE).depth(256).max_io_bytes(length).partition_scan(false);
    let server = Control::open()?.create(&builder)?;
    server.start()?;
    println!("serving");
    Ok(serve(way, &server)?)
}

fn serve(way: Way, server: &Server) -> Result<(), Errno> {
    // Written, so that no request pays for the first access.
    let mut arena = vec![1_u8; BATCH * LENGTH];
    let mut buffers: Vec<Vec<u8>> = (0..BATCH).map(|_| vec![1; LENGTH]).collect();
    let mut list = BufferList::with_capacity(BATCH);
    let mut answers = Answers::with_capacity(BATCH);
    let mut requests = [Fetched::EMPTY; BATCH];
    let mut fetched = 0;
    loop {
        let mut batch = server.batch(&mut answers);
        for request in &requests[..fetched] {
            if request.op() == abi::OP_READ {
                batch.read(request, &ZEROS);
            } else {
                batch.done(request);
            }
        }
        let mut fetch = Fetch { requests: &mut requests, minimum: 1, ..Fetch::default() };
        match way {
            Way::Arena | Way::Copy => fetch.arena = &mut arena,
            Way::Commit => {}
            Way::List => {
                let mut offered = list.begin();
                for buffer in &mut buffers {
                    offered.push(buffer);
                }
                fetch.buffers = Some(offered);
            }
        }
        let entered = server.enter(&mut batch, fetch);
        match entered.error {
            None => assert_eq!(entered.refused, 0, "a commit was refused"),
            Some(Errno::NODEV) => return Ok(()),
            Some(errno) => return Err(errno),
        }
        fetched = entered.fetched;
        let writes = requests[..fetched].iter().filter(|request| request.op() == abi::OP_WRITE);
        match way {
            Way::Arena | Way::List => {
                assert!(writes.clone().all(|write| write.flags() & abi::REQUEST_DATA != 0), "no data");
            }
            Way::Copy => {
                for (write, buffer) in writes.zip(&mut buffers) {
                    let place = |bytes: u64| usize::try_from(bytes).expect("in memory");
                    let (from, length) = (place(write.data()), place(write.length()));
                    buffer[..length].copy_from_slice(&arena[from..from + length]);
                }
            }
            Way::Commit => {
                let mut batch = server.batch(&mut answers);
                for (write, buffer) in writes.zip(&mut buffers) {
                    batch.copy(write, buffer);
                }
                if !batch.is_empty() {
                    let entered = server.enter(&mut batch, Fetch::nothing());
                    assert_eq!((entered.refused, entered.error), (0, None), "a copy was refused");
                }
            }
        }
        black_box(&mut buffers);
    }
}

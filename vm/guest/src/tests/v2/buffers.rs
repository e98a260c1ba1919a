// SPDX-License-Identifier: MIT OR Apache-2.0
//! ENTER with a list of buffers: each write gets the next one if its data fits.

use rustix::io::Errno;
use zosbd2::v2::abi;
use zosbd2::{Answers, BufferList, Fetch, Fetched};

use super::super::support::{Aligned, write_in_thread};
use super::hostile::{commit_raw, enter};
use super::support::{Disk, plain_by_hand};
use crate::guest::raw::{PAGE, Pages};
use crate::guest::{Context, Need, Test, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_enter_with_buffers_of_any_length", lengths).needs(&[Need::Module]).timeout(60),
    Test::new("v2_enter_with_buffers_that_are_not_there", not_there).needs(&[Need::Module]).timeout(60),
    Test::new("v2_enter_with_many_buffers", many).needs(&[Need::Module]).timeout(60),
];

const ENTRY: usize = size_of::<abi::Iovec>();

/// A disk that is served by raw calls. All writes have a page, and the seed of their data is the number of their
/// page on the disk.
struct Scene {
    disk: Disk,
    /// The list of buffers, which ends at the end of its memory.
    list: Pages,
    places: Pages,
    memory: Pages,
}

/// Pages of memory for buffers.
const ROOM: usize = 16;

impl Scene {
    fn new(context: &mut Context, name: &str) -> Self {
        context.load_module("");
        let (disk, _) = plain_by_hand(name);
        Self { disk, list: Pages::new(PAGE), places: Pages::new(PAGE), memory: Pages::new(ROOM * PAGE) }
    }

    /// Address of a page of the memory for buffers.
    fn room(&self, number: usize) -> usize {
        self.memory.at_end(ROOM * PAGE) + number * PAGE
    }

    fn put(&self, buffers: &[abi::Iovec]) -> u64 {
        let at = self.list.at_end(size_of_val(buffers));
        for (index, buffer) in buffers.iter().enumerate() {
            self.list.put_value(at + index * ENTRY, buffer);
        }
        at as u64
    }

    fn queued(&self, count: u32) {
        wait_until(20, "the writes", || self.disk.server.stats(0).expect("stats").queued == count);
    }

    /// Fetches without waiting. The array of requests ends at the end of its memory.
    fn fetch(
        &self,
        capacity: u32,
        buffers: u64,
        buffer_count: u32,
    ) -> (Result<i32, Errno>, Vec<abi::Request>) {
        let requests = self.places.at_end(capacity as usize * size_of::<abi::Request>());
        let argument = abi::Enter {
            requests: requests as u64,
            capacity,
            buffers,
            buffer_count,
            ..abi::Enter::default()
        };
        let (result, after) = enter(&self.disk.server, &argument);
        let get = |index: u32| self.places.get_value(requests + index as usize * size_of::<abi::Request>());
        (result, (0..after.fetched).map(get).collect())
    }

    fn finish(&self, requests: &[abi::Request]) {
        for request in requests {
            let entry = abi::Commit { handle: request.handle, result: 4096, ..abi::Commit::default() };
            assert_eq!(commit_raw(&self.disk.server, &self.places, &[entry]), [0]);
        }
    }
}

/// The data of a write of this page of the disk.
fn data(page: u64) -> Aligned {
    let mut data = Aligned::new(PAGE, 0);
    data.fill(page);
    data
}

/// Number of the buffer that has the data of a write.
fn given(request: &abi::Request) -> Option<usize> {
    let number = usize::try_from(request.data).expect("a number");
    (request.flags & abi::REQUEST_DATA != 0).then_some(number)
}

fn lengths(context: &mut Context) {
    let scene = Scene::new(context, "lengths");
    // The lengths of the buffers, and which buffer each of three writes gets.
    let cases: [(&[u64], [Option<usize>; 3]); 8] = [
        (&[4096, 4096, 4096], [Some(0), Some(1), Some(2)]),
        (&[8192, u64::MAX, 1 << 32], [Some(0), Some(1), Some(2)]),
        (&[4096], [Some(0), None, None]),
        (&[4095, 4096], [None, None, None]),
        (&[0, 4096], [None, None, None]),
        (&[4096, 0, 4096], [Some(0), None, None]),
        (&[4096, 4096, 4096, 4096], [Some(0), Some(1), Some(2)]),
        (&[], [None, None, None]),
    ];
    for (lengths, wanted) in cases {
        let writes: Vec<_> =
            (1..4).map(|page| write_in_thread(scene.disk.path(), page * 4096, page, PAGE)).collect();
        scene.queued(3);
        let buffers: Vec<_> = lengths
            .iter()
            .enumerate()
            .map(|(number, length)| abi::Iovec { address: scene.room(number) as u64, length: *length })
            .collect();
        scene.memory.put(scene.room(0), &vec![0xee; ROOM * PAGE]);
        let count = u32::try_from(buffers.len()).expect("few");
        let (result, requests) = scene.fetch(3, scene.put(&buffers), count);
        assert_eq!((result, requests.len()), (Ok(0), 3), "{lengths:?}");
        for (request, wanted) in requests.iter().zip(wanted) {
            assert_eq!(given(request), wanted, "{lengths:?}: {request:?}");
        }
        for number in 0..ROOM {
            let got = scene.memory.get(scene.room(number), PAGE);
            match requests.iter().find(|request| given(request) == Some(number)) {
                Some(request) => {
                    assert!(got == data(request.offset / 4096).bytes(), "{lengths:?}: {request:?}");
                }
                None => assert!(got.iter().all(|byte| *byte == 0xee), "{lengths:?}: {number} is not used"),
            }
        }
        scene.finish(&requests);
        for write in writes {
            assert_eq!(write.join().expect("writer"), Ok(PAGE));
        }
    }
    scene.disk.destroy(true);
}

/// Lists and buffers that cannot be accessed: the call fails, and no request is lost.
fn not_there(context: &mut Context) {
    const KERNEL: u64 = 0xffff_8880_0000_0000;
    let scene = Scene::new(context, "absent");
    let good = abi::Iovec { address: scene.room(0) as u64, length: 4096 };
    let writes: Vec<_> =
        (1..3).map(|page| write_in_thread(scene.disk.path(), page * 4096, page, PAGE)).collect();
    scene.queued(2);
    for address in [0, 4096, 1 << 47, KERNEL, u64::MAX - 4095, scene.memory.at_end(2048) as u64] {
        let (result, requests) = scene.fetch(2, scene.put(&[good, abi::Iovec { address, ..good }]), 2);
        assert_eq!((result, requests.len()), (Err(Errno::FAULT), 0), "a buffer at {address:#x}");
        let stats = scene.disk.server.stats(0).expect("stats");
        assert_eq!((stats.queued, stats.held), (2, 0), "a buffer at {address:#x}");
    }
    for at in [0, 8, KERNEL, u64::MAX - 15, scene.list.at_end(ENTRY) as u64 + 8] {
        assert_eq!(scene.fetch(2, at, 2), (Err(Errno::FAULT), Vec::new()), "a list at {at:#x}");
    }
    let at = scene.put(&[good]);
    assert_eq!(scene.fetch(2, at, 2), (Err(Errno::FAULT), Vec::new()), "a list that ends");
    // No more entries are read than requests can be fetched.
    let (result, requests) = scene.fetch(1, at, abi::MAX_BATCH);
    assert_eq!((result, requests.len()), (Ok(0), 1));
    assert_eq!(given(&requests[0]), Some(0));
    scene.finish(&requests);
    // A list that cannot be read fails the call before its commits are carried out.
    let (result, requests) = scene.fetch(1, 0, 0);
    assert_eq!((result, requests.len()), (Ok(0), 1));
    let commits = Pages::new(PAGE);
    let commit = commits.at_end(size_of::<abi::Commit>());
    commits.put_value(
        commit,
        &abi::Commit { handle: requests[0].handle, result: 4096, ..abi::Commit::default() },
    );
    let both = abi::Enter {
        commits: commit as u64,
        commit_count: 1,
        requests: scene.places.at_end(size_of::<abi::Request>()) as u64,
        capacity: 1,
        buffer_count: 1,
        ..abi::Enter::default()
    };
    let (result, after) = enter(&scene.disk.server, &both);
    assert_eq!((result, after.processed), (Err(Errno::FAULT), 0));
    scene.finish(&requests);
    for write in writes {
        assert_eq!(write.join().expect("writer"), Ok(PAGE));
    }
    // The list is in the memory of both buffers: the kernel uses its copy of the list.
    let writes: Vec<_> =
        (1..3).map(|page| write_in_thread(scene.disk.path(), page * 4096, page, PAGE)).collect();
    scene.queued(2);
    let own = abi::Iovec { address: scene.list.at_end(PAGE) as u64, length: 4096 };
    let (result, requests) = scene.fetch(2, scene.put(&[own, own]), 2);
    assert_eq!((result, requests.len()), (Ok(0), 2));
    assert_eq!([given(&requests[0]), given(&requests[1])], [Some(0), Some(1)]);
    scene.finish(&requests);
    for write in writes {
        assert_eq!(write.join().expect("writer"), Ok(PAGE));
    }
    scene.disk.destroy(true);
}

/// More writes than the kernel reads entries at once, through the library. Every fifth buffer is too short for the write
/// that comes, which gets its data later.
fn many(context: &mut Context) {
    const WRITES: usize = 40;
    let scene = Scene::new(context, "many");
    let writes: Vec<_> = (0..WRITES as u64)
        .map(|page| {
            write_in_thread(scene.disk.path(), page * 8192, page, if page % 5 == 4 { 8192 } else { PAGE })
        })
        .collect();
    scene.queued(40);
    let mut answers = Answers::with_capacity(WRITES);
    let mut list = BufferList::with_capacity(WRITES);
    let mut memory = vec![vec![0; PAGE]; WRITES];
    let mut requests = [Fetched::EMPTY; WRITES];
    let mut buffers = list.begin();
    for buffer in &mut memory {
        buffers.push(buffer);
    }
    let fetch = Fetch { requests: &mut requests, buffers: Some(buffers), ..Fetch::default() };
    let entered = scene.disk.server.enter(&mut scene.disk.server.batch(&mut answers), fetch);
    assert_eq!((entered.fetched, entered.error), (WRITES, None));
    let mut late: Vec<_> = requests.iter().filter(|request| request.length() > 4096).collect();
    assert_eq!(late.len(), WRITES / 5);
    let given = requests.iter().filter(|request| request.flags() & abi::REQUEST_DATA != 0);
    for (number, request) in (0..).zip(given) {
        assert_eq!((request.data(), request.length()), (number, 4096));
        let got = &memory[usize::try_from(number).expect("a number")];
        assert!(got == data(request.offset() / 8192).bytes(), "{request:?}");
        late.push(request);
    }
    assert_eq!(late.len(), WRITES);
    let mut rest = vec![vec![0; 8192]; WRITES / 5];
    let mut batch = scene.disk.server.batch(&mut answers);
    for (request, rest) in late.iter().zip(&mut rest) {
        batch.copy(request, rest);
    }
    for request in &late {
        batch.done(request);
    }
    let entered = scene.disk.server.enter(&mut batch, Fetch::nothing());
    assert_eq!((entered.processed, entered.refused), (WRITES + WRITES / 5, 0));
    for (request, rest) in late.iter().zip(&rest) {
        let mut wanted = Aligned::new(8192, 0);
        wanted.fill(request.offset() / 8192);
        assert!(rest == wanted.bytes(), "{request:?}");
    }
    for write in writes {
        assert!(write.join().expect("writer").is_ok());
    }
    scene.disk.destroy(true);
}

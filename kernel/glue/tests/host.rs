// SPDX-License-Identifier: GPL-2.0-only
//! The glue on the host, with a fake shim. Miri and the address sanitizer check what the kernel's own
//! checkers cannot see (`cargo xtask miri`, and `make test`).

mod shim;

use shim::{
    Ended, Module, address, become_process, call, close, end_process, ended, expire, late_call, operation,
    page_out, pass, poll, show, submit, time_out, watch,
};
use zosbd2_abi::{v1, v2};
use zosbd2_engine::deadline::NONE_MS;
use zosbd2_engine::event::Kind;
use zosbd2_glue::shim::timer;

const MIB: u64 = 1 << 20;

fn name<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}

/// Creates a device and starts it. Returns its server descriptor.
fn create(module: &Module, text: &str, change: impl FnOnce(&mut v2::Create)) -> usize {
    let mut create = v2::Create {
        size: v2::CREATE_BYTES,
        name: name(text),
        size_bytes: MIB,
        queues: 3,
        depth: 5,
        ..v2::Create::default()
    };
    change(&mut create);
    let fd = module.control(v2::IOCTL_CREATE, &mut create);
    let fd = usize::try_from(fd).expect("a descriptor");
    assert_eq!(call(fd, v2::IOCTL_START, &mut v2::Start { size: v2::START_BYTES, flags: 0 }), 0);
    fd
}

fn destroy(module: &Module, text: &str) -> isize {
    let flags = v2::DESTROY_FORCE;
    let mut destroy =
        v2::Destroy { size: v2::DESTROY_BYTES, flags, name: name(text), ..v2::Destroy::default() };
    module.control(v2::IOCTL_DESTROY, &mut destroy)
}

/// Result of one ENTER: requests, and the arena.
struct Batch {
    requests: Vec<v2::Request>,
    arena: Vec<u8>,
}

/// Answers, then fetches up to `capacity` requests of a queue, without waiting.
fn enter(fd: usize, queue: u32, commits: &mut [v2::Commit], capacity: usize) -> (isize, Batch) {
    enter_into(fd, queue, commits, capacity, vec![0; 64 * 1024], |_| ())
}

fn enter_into(
    fd: usize,
    queue: u32,
    commits: &mut [v2::Commit],
    capacity: usize,
    mut arena: Vec<u8>,
    prepare: impl FnOnce(&mut [u8]),
) -> (isize, Batch) {
    let mut requests = vec![v2::Request::default(); capacity];
    prepare(&mut arena);
    let mut enter = v2::Enter {
        size: v2::ENTER_BYTES,
        flags: v2::ENTER_TIMEOUT,
        commits: address(commits),
        requests: address(requests.as_mut_slice()),
        arena: address(arena.as_mut_slice()),
        arena_bytes: arena.len() as u64,
        commit_count: u32::try_from(commits.len()).expect("few"),
        capacity: u32::try_from(capacity).expect("few"),
        queue,
        ..v2::Enter::default()
    };
    let code = call(fd, v2::IOCTL_ENTER, &mut enter);
    assert_eq!(enter.processed as usize, commits.len());
    requests.truncate(enter.fetched as usize);
    (code, Batch { requests, arena })
}

/// The answer of a server that carried the request out; its data is at `address`.
fn done(request: &v2::Request, address: u64) -> v2::Commit {
    let result = i64::try_from(request.length).expect("short");
    v2::Commit { handle: request.handle, result, address, ..v2::Commit::default() }
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| seed.wrapping_add(u8::try_from(index % 251).expect("small"))).collect()
}

#[test]
fn every_tag_of_every_queue_is_served() {
    let module = Module::load(3);
    let fd = create(&module, "each", |create| create.flags = v2::CREATE_VOLATILE_CACHE | v2::CREATE_FUA);
    for queue in 0..3_u32 {
        let at = queue as usize;
        let ops = [v2::OP_READ, v2::OP_WRITE, v2::OP_FLUSH, v2::OP_WRITE, v2::OP_READ];
        for (tag, op) in ops.into_iter().enumerate() {
            let length = if op == v2::OP_FLUSH { 0 } else { 512 * (tag + 1) };
            let data = if op == v2::OP_WRITE { pattern(7, length) } else { vec![0xee; length] };
            assert_eq!(submit(0, at, tag, (op, 4096 * tag as u64), data), 0);
        }
        assert_eq!(poll(fd), 0x41, "there is something to fetch");
        // Fewer than are queued, then the rest.
        let (code, mut batch) = enter(fd, queue, &mut [], 4);
        let (again, rest) = enter(fd, queue, &mut [], 4);
        assert_eq!((code, again, batch.requests.len(), rest.requests.len()), (0, 0, 4, 1));
        batch.requests.extend(rest.requests);
        assert!(batch.requests.iter().map(|request| request.op).eq(ops));
        let mut commits = Vec::new();
        let mut data: Vec<Vec<u8>> = Vec::new();
        for (tag, request) in batch.requests.iter().enumerate() {
            if request.op == v2::OP_WRITE {
                assert_ne!(request.flags & v2::REQUEST_DATA, 0);
                let start = usize::try_from(request.data).expect("in the arena");
                assert_eq!(batch.arena[start..][..512 * (tag + 1)], pattern(7, 512 * (tag + 1)));
            }
            let read = request.op == v2::OP_READ;
            data.push(pattern(u8::try_from(tag).expect("small"), 512 * (tag + 1)));
            let address = if read { address(data[tag].as_mut_slice()) } else { 0 };
            commits.push(done(request, address));
        }
        let (code, nothing) = enter(fd, queue, &mut commits, 0);
        assert_eq!((code, nothing.requests.len()), (0, 0));
        let mut ended = ended(0, at);
        ended.sort_by_key(|end| end.tag);
        for (tag, end) in ended.iter().enumerate() {
            let data = match ops[tag] {
                v2::OP_FLUSH => Vec::new(),
                v2::OP_WRITE => pattern(7, 512 * (tag + 1)),
                _ => pattern(u8::try_from(tag).expect("small"), 512 * (tag + 1)),
            };
            assert_eq!(*end, Ended { tag, error: 0, data });
        }
        assert_eq!(ended.len(), 5);
        // Each handle is used up.
        let (code, _) = enter(fd, queue, &mut commits, 0);
        assert_eq!(code, 0);
        assert!(commits.iter().all(|commit| commit.status == -116), "{commits:?}");
        assert!(shim::ended(0, at).is_empty());
    }
    let mut stats = v2::Stats { size: v2::STATS_BYTES, queue: 2, ..v2::Stats::default() };
    assert_eq!(call(fd, v2::IOCTL_STATS, &mut stats), 0);
    assert_eq!((stats.committed[0], stats.committed[1], stats.stale), (2, 2, 5));
    assert!(show(0, 2, 0).contains("queue=2 op=read fetched=2 committed=2\n"));
    let totals = show(0, 2, 1);
    let totals = totals.lines().filter_map(|line| line.rsplit_once(" total=")?.1.parse::<u32>().ok());
    assert_eq!(totals.sum::<u32>(), 5);
    let mut stats = v2::Stats { size: v2::STATS_BYTES, queue: 3, ..v2::Stats::default() };
    assert_eq!(call(fd, v2::IOCTL_STATS, &mut stats), -22, "there is no such queue");
    assert_eq!(destroy(&module, "each"), 0);
    assert_eq!(poll(fd), 0x10);
    close(fd);
}

/// Elements that are longer than the kernel knows: the unknown part of a commit must be zero, and that of a request is
/// zeroed.
#[test]
fn elements_may_be_longer() {
    const PLACE: usize = 64;
    let module = Module::load(1);
    let fd = create(&module, "longer", |create| (create.queues, create.depth) = (1, 32));
    for tag in 0..20 {
        assert_eq!(submit(0, 0, tag, (v2::OP_WRITE, 0), pattern(1, 512)), 0);
    }
    let mut places = vec![0xee_u8; 20 * PLACE];
    let mut enter = v2::Enter {
        requests: address(places.as_mut_slice()),
        request_bytes: 64,
        capacity: 20,
        ..v2::Enter::default()
    };
    assert_eq!(call(fd, v2::IOCTL_ENTER, &mut enter), 0);
    assert_eq!(enter.fetched, 20);
    let mut commits = vec![0_u8; 20 * PLACE];
    for (place, commit) in places.chunks(PLACE).zip(commits.chunks_mut(PLACE)) {
        assert_eq!(place[48..], [0; 16]);
        commit[..8].copy_from_slice(&place[..8]);
        commit[8..16].copy_from_slice(&512_i64.to_ne_bytes());
    }
    for index in [0, 17, 18, 19] {
        commits[index * PLACE + 63] = 1;
    }
    let mut enter = v2::Enter {
        commits: address(commits.as_mut_slice()),
        commit_bytes: 64,
        commit_count: 20,
        ..v2::Enter::default()
    };
    assert_eq!(call(fd, v2::IOCTL_ENTER, &mut enter), 0);
    assert_eq!((enter.processed, enter.refused), (20, 4));
    for (index, commit) in commits.chunks(PLACE).enumerate() {
        let status = i32::from_ne_bytes(commit[32..36].try_into().expect("four bytes"));
        assert_eq!(status, if [0, 17, 18, 19].contains(&index) { -7 } else { 0 }, "entry {index}");
    }
    assert_eq!(ended(0, 0).len(), 16);
    assert_eq!(destroy(&module, "longer"), 0);
    close(fd);
}

/// Each write gets the next buffer if its data fits; otherwise the buffer stays for the next write.
#[test]
fn writes_get_buffers() {
    let module = Module::load(1);
    let fd = create(&module, "buffers", |create| (create.queues, create.depth) = (1, 64));
    // Two of three requests are writes, some of which are long.
    let requests = (0..40).map(|tag| {
        let length = if tag % 7 == 3 { 2048 } else { 512 };
        (if tag % 3 == 1 { v2::OP_READ } else { v2::OP_WRITE }, length)
    });
    let requests: Vec<(u32, usize)> = requests.collect();
    let seed = |tag: usize| u8::try_from(tag).expect("small");
    for (tag, (op, length)) in requests.iter().enumerate() {
        let data = if *op == v2::OP_WRITE { pattern(seed(tag), *length) } else { vec![0; *length] };
        assert_eq!(submit(0, 0, tag, (*op, 0), data), 0);
    }
    // The fifth buffer is long, and the last ones are empty.
    let mut memory: Vec<Vec<u8>> = (0..24)
        .map(|number| vec![0xee; [512, 4096, 0][usize::from(number == 4) + 2 * usize::from(number > 21)]])
        .collect();
    let mut list: Vec<v2::Iovec> = memory
        .iter_mut()
        .map(|buffer| v2::Iovec { address: address(buffer.as_mut_slice()), length: buffer.len() as u64 })
        .collect();
    let mut got = vec![v2::Request::default(); 64];
    let mut enter = v2::Enter {
        requests: address(got.as_mut_slice()),
        capacity: 64,
        buffers: address(list.as_mut_slice()),
        buffer_count: 24,
        ..v2::Enter::default()
    };
    assert_eq!(call(fd, v2::IOCTL_ENTER, &mut enter), 0);
    assert_eq!(enter.fetched, 40);
    let mut next = 0;
    for (tag, ((op, length), request)) in requests.iter().zip(&got).enumerate() {
        assert_eq!((request.op, request.length), (*op, *length as u64));
        let fits = *op == v2::OP_WRITE && *length <= memory[next].len();
        assert_eq!(request.flags & v2::REQUEST_DATA != 0, fits, "request {tag}");
        if fits {
            assert_eq!(request.data, next as u64);
            assert_eq!(memory[next][..*length], pattern(seed(tag), *length));
            assert!(memory[next][*length..].iter().all(|byte| *byte == 0xee));
            next += 1;
        }
    }
    assert_eq!(next, 22, "all buffers but the empty ones");
    assert_eq!(destroy(&module, "buffers"), 0);
    close(fd);
}

#[test]
fn memory_that_is_not_there_is_brought_in() {
    let module = Module::load(1);
    let fd = create(&module, "absent", |create| (create.queues, create.grace_ms) = (1, 1000));
    for (tag, op) in [v2::OP_WRITE, v2::OP_READ, v2::OP_READ, v2::OP_WRITE].into_iter().enumerate() {
        assert_eq!(submit(0, 0, tag, (op, 0), pattern(9, 1024)), 0);
    }
    let (code, batch) = enter_into(fd, 0, &mut [], 8, vec![0; 4096], page_out);
    assert_eq!((code, batch.requests.len()), (0, 4));
    let start = usize::try_from(batch.requests[3].data).expect("in the arena");
    assert_eq!(batch.arena[start..][..1024], pattern(9, 1024));
    // One read in one piece, one in two pieces with the rest zeroed; a write's data is copied once more.
    let (mut whole, mut first, mut second) = (pattern(1, 1024), pattern(2, 100), pattern(3, 300));
    let (mut written, mut again) = (vec![0; 1024], vec![0; 1024]);
    let mut pieces = [
        v2::Iovec { address: address(first.as_mut_slice()), length: 100 },
        v2::Iovec { address: address(second.as_mut_slice()), length: 300 },
    ];
    let mut commits = [
        v2::Commit {
            flags: v2::COMMIT_COPY_ONLY,
            ..done(&batch.requests[0], address(written.as_mut_slice()))
        },
        done(&batch.requests[1], address(whole.as_mut_slice())),
        v2::Commit {
            flags: v2::COMMIT_IOVEC | v2::COMMIT_ZERO_FILL,
            iovec_count: 2,
            result: 400,
            ..done(&batch.requests[2], address(&mut pieces))
        },
        done(&batch.requests[3], address(again.as_mut_slice())),
    ];
    page_out(&mut whole);
    assert_eq!(enter(fd, 0, &mut commits, 0).0, 0);
    assert!(commits.iter().all(|commit| commit.status == 0), "{commits:?}");
    assert_eq!((&written, &again), (&pattern(9, 1024), &pattern(9, 1024)));
    let mut ends = ended(0, 0);
    ends.sort_by_key(|end| end.tag);
    assert_eq!(ends[0], Ended { tag: 1, error: 0, data: pattern(1, 1024) });
    let joined = [pattern(2, 100), pattern(3, 300), vec![0; 624]].concat();
    assert_eq!(ends[1], Ended { tag: 2, error: 0, data: joined });
    assert_eq!(ends.len(), 3);
    assert!(show(0, 0, 2).contains("tag=0 op=write"), "the server has it yet");
    // Inaccessible memory; the request stays with its server.
    let mut commits = [done(&batch.requests[0], u64::MAX)];
    commits[0].flags = v2::COMMIT_COPY_ONLY;
    commits[0].address = 0;
    assert_eq!(enter(fd, 0, &mut commits, 0).0, 0);
    assert_eq!(commits[0].status, -22);
    close(fd);
    assert_eq!(ended(0, 0), [], "it waits for another server, or the end");
    assert_eq!(destroy(&module, "absent"), 0);
}

#[test]
fn a_successor_gets_what_a_dead_server_had() {
    let module = Module::load(2);
    let fd = create(&module, "heir", |create| {
        create.grace_ms = 1000;
        create.deadline_ms = 50;
    });
    for tag in 0..3 {
        assert_eq!(submit(0, 1, tag, (v2::OP_READ, 0), vec![0; 512]), 0);
    }
    let (_, batch) = enter(fd, 1, &mut [], 2);
    assert_eq!(batch.requests.len(), 2);
    close(fd);
    let mut attach = v2::Attach { size: v2::ATTACH_BYTES, name: name("heir"), ..v2::Attach::default() };
    let fd = usize::try_from(module.control(v2::IOCTL_ATTACH, &mut attach)).expect("a descriptor");
    assert_eq!(attach.epoch, 2);
    let (_, batch) = enter(fd, 1, &mut [], 3);
    let marks: Vec<_> = batch.requests.iter().map(|request| request.flags).collect();
    assert_eq!(marks, [v2::REQUEST_MAYBE_EXECUTED, v2::REQUEST_MAYBE_EXECUTED, 0]);
    // One request is late, one is answered, one exists when the device goes.
    pass(100_000_000);
    assert!(expire(0, 1, 2));
    assert!(!expire(0, 1, 4), "no such request");
    let mut commits = [v2::Commit { result: -84, ..done(&batch.requests[0], 0) }];
    assert_eq!(enter(fd, 1, &mut commits, 0).0, 0);
    let ends = ended(0, 1);
    assert_eq!(ends.iter().map(|end| (end.tag, end.error)).collect::<Vec<_>>(), [(2, -5), (0, -84)]);
    let mut status = v2::Status { size: v2::STATUS_BYTES, name: name("heir"), ..v2::Status::default() };
    assert_eq!(module.control(v2::IOCTL_STATUS, &mut status), 0);
    assert_eq!((status.epoch, status.servers, status.queues, status.major), (2, 1, 3, 259));
    assert_eq!(destroy(&module, "heir"), 0);
    assert_eq!(ended(0, 1), [Ended { tag: 1, error: -5, data: vec![0; 512] }]);
    close(fd);
}

#[test]
fn a_request_keeps_the_deadline_that_it_was_sent_with() {
    let module = Module::load(1);
    let fd = create(&module, "timed", |_| ());
    let set = |deadline_ms: u32| {
        let (size, flags) = (v2::SETTINGS_BYTES, v2::SETTINGS_DEADLINE);
        let mut asked = v2::Settings { size, flags, deadline_ms, ..v2::Settings::default() };
        assert_eq!(call(fd, v2::IOCTL_SETTINGS, &mut asked), 0);
    };
    for tag in 0..2 {
        assert_eq!(submit(0, 0, tag, (v2::OP_READ, 0), vec![0; 512]), 0);
    }
    assert_eq!(enter(fd, 0, &mut [], 1).1.requests.len(), 1);
    // The block layer stores a timeout in each request when the request starts. Both started without a deadline.
    for deadline_ms in [0, 1, 60_000, 0, 1] {
        set(deadline_ms);
        pass(100_000_000_000);
        assert_eq!(time_out(0, 0, 0, NONE_MS), timer::NEVER, "held, {deadline_ms} ms");
        assert_eq!(time_out(0, 0, 1, NONE_MS), timer::NEVER, "queued, {deadline_ms} ms");
    }
    assert_eq!(ended(0, 0), []);
    // Sent with a deadline of 50 ms: without effect while there is none, whatever a new one is.
    set(0);
    assert_eq!(time_out(0, 0, 1, 50), timer::NEVER);
    set(60_000);
    assert_eq!((time_out(0, 0, 1, 50), time_out(0, 0, 4, 50)), (timer::OVER, timer::AGAIN));
    assert_eq!(ended(0, 0).iter().map(|end| (end.tag, end.error)).collect::<Vec<_>>(), [(1, -5)]);
    assert_eq!(destroy(&module, "timed"), 0);
    close(fd);
}

/// The numbers of requests in the events "unserved" that looks every second tell in a minute. Another queue is served
/// meanwhile.
fn unserved(served: Option<(usize, u32)>) -> Vec<u32> {
    let mut told = Vec::new();
    for _ in 0..60 {
        pass(1_000_000_000);
        if let Some((fd, queue)) = served {
            assert_eq!(submit(0, queue as usize, 0, (v2::OP_WRITE, 0), vec![0; 512]), 0);
            let (_, batch) = enter(fd, queue, &mut [], 1);
            enter(fd, queue, &mut [done(&batch.requests[0], 0)], 0);
            ended(0, queue as usize);
        }
        for event in watch(0) {
            assert_eq!(event.kind, Kind::Unserved.number());
            told.push(event.requests);
        }
    }
    told
}

#[test]
fn each_queue_is_watched_by_itself() {
    let module = Module::load(1);
    let fd = create(&module, "lanes", |create| create.grace_ms = 1000);
    for tag in 1..3 {
        assert_eq!(submit(0, 1, tag, (v2::OP_READ, 0), vec![0; 512]), 0);
    }
    assert_eq!(unserved(Some((fd, 0))), [2], "another queue is served");
    // A server that is merely slow.
    assert_eq!(enter(fd, 1, &mut [], 2).1.requests.len(), 2);
    assert_eq!(unserved(None), []);
    assert_eq!(unserved(Some((fd, 0))), []);
    // Another process serves another queue, and has none of these requests; the thread that has them lives.
    become_process(2);
    assert_eq!(unserved(Some((fd, 0))), []);
    end_process(2);
    assert_eq!(unserved(None), []);
    // Another process, a fork, has the descriptor of those that ended.
    end_process(1);
    assert_eq!(unserved(None), [2]);
    let mut status = v2::Status { size: v2::STATUS_BYTES, name: name("lanes"), ..v2::Status::default() };
    assert_eq!(module.control(v2::IOCTL_STATUS, &mut status), 0);
    assert_eq!((status.pid, status.threads), (0, 0));
    assert!(status.unserved_ms >= 55_000, "{status:?}");
    // The fork begins to serve.
    become_process(3);
    assert_eq!(unserved(Some((fd, 0))), [], "it may answer those requests, too");
    assert_eq!(destroy(&module, "lanes"), 0);
    close(fd);
}

/// A server's first fetch decides what is lost with older caches, also if the requests cannot be written. A call that fails
/// before it fetches decides nothing.
#[test]
fn a_first_fetch_decides_even_if_it_fails() {
    const NOWHERE: u64 = 0;
    let module = Module::load(1);
    for claims in [true, false] {
        let old = create(&module, "claim", |create| create.flags = v2::CREATE_VOLATILE_CACHE);
        let number = usize::from(!claims);
        assert_eq!(submit(number, 0, 0, (v2::OP_WRITE, 0), pattern(1, 512)), 0);
        let (_, batch) = enter(old, 0, &mut [], 1);
        assert_eq!(enter(old, 0, &mut [done(&batch.requests[0], 0)], 0).0, 0);
        let (size, flags) = (v2::ATTACH_BYTES, v2::ATTACH_TAKE_OVER);
        let mut attach = v2::Attach { size, flags, name: name("claim"), ..v2::Attach::default() };
        let new = usize::try_from(module.control(v2::IOCTL_ATTACH, &mut attach)).expect("a descriptor");
        let claim =
            || call(new, v2::IOCTL_CLAIM, &mut v2::Claim { size: v2::CLAIM_BYTES, flags: v2::CLAIM_CACHE });
        let lost = || {
            let mut status =
                v2::Status { size: v2::STATUS_BYTES, name: name("claim"), ..v2::Status::default() };
            assert_eq!(module.control(v2::IOCTL_STATUS, &mut status), 0);
            status.lost != 0
        };
        assert_eq!(submit(number, 0, 1, (v2::OP_READ, 0), vec![0; 512]), 0);
        let fetch = v2::Enter { size: v2::ENTER_BYTES, capacity: 1, ..v2::Enter::default() };
        let early = [
            v2::Enter { commits: NOWHERE, commit_count: 1, ..fetch },
            v2::Enter { buffers: NOWHERE, buffer_count: 1, ..fetch },
        ];
        for mut enter in early {
            assert_eq!((call(new, v2::IOCTL_ENTER, &mut enter), lost()), (-14, false));
        }
        if claims {
            assert_eq!(claim(), 0);
        }
        let mut first = v2::Enter { requests: NOWHERE, ..fetch };
        assert_eq!((call(new, v2::IOCTL_ENTER, &mut first), lost()), (-14, !claims));
        assert_eq!(claim(), -114, "it has fetched");
        assert_eq!(enter(new, 0, &mut [], 1).1.requests.len(), 1, "the request has returned to the queue");
        close(old);
        assert_eq!(destroy(&module, "claim"), 0);
        close(new);
    }
}

#[test]
fn status_names_the_process_of_the_newest_server() {
    let module = Module::load(1);
    become_process(1);
    let old = create(&module, "named", |_| ());
    let mut status = v2::Status { size: v2::STATUS_BYTES, name: name("named"), ..v2::Status::default() };
    let mut process = || {
        assert_eq!(module.control(v2::IOCTL_STATUS, &mut status), 0);
        status.pid
    };
    assert_eq!(process(), 1, "the process that attached");
    become_process(2);
    assert_eq!((enter(old, 0, &mut [], 1).0, process()), (0, 2), "the process that called last");
    let mut attach = v2::Attach {
        size: v2::ATTACH_BYTES,
        flags: v2::ATTACH_TAKE_OVER,
        name: name("named"),
        ..v2::Attach::default()
    };
    become_process(3);
    let new = usize::try_from(module.control(v2::IOCTL_ATTACH, &mut attach)).expect("a descriptor");
    assert_eq!(process(), 3);
    become_process(2);
    assert_eq!((enter(old, 0, &mut [], 1).0, process()), (-108, 3), "a call of the old server");
    late_call(0, 1);
    assert_eq!(process(), 3, "a call of the old server that was under way");
    become_process(3);
    assert_eq!((enter(new, 0, &mut [], 1).0, process()), (0, 3));
    become_process(4);
    assert_eq!((enter(new, 0, &mut [], 1).0, process()), (0, 4));
    close(old);
    assert_eq!(destroy(&module, "named"), 0);
    close(new);
}

#[test]
fn devices_come_and_go() {
    let module = Module::load(2);
    let first = create(&module, "one", |_| ());
    let second = create(&module, "two", |create| create.flags = v2::CREATE_AUTO_DESTROY);
    let mut third = v2::Create { size: v2::CREATE_BYTES, size_bytes: MIB, ..v2::Create::default() };
    third.name = name("three");
    assert_eq!(module.control(v2::IOCTL_CREATE, &mut third), -28, "there are two places");
    let mut entries = [v2::ListEntry::default(); 4];
    let mut list =
        v2::List { size: v2::LIST_BYTES, entries: address(&mut entries), capacity: 4, ..v2::List::default() };
    assert_eq!(module.control(v2::IOCTL_LIST, &mut list), 0);
    assert_eq!((list.count, list.total, entries[1].name), (2, 2, name("two")));
    // The device goes with its server.
    close(second);
    third.flags = v2::CREATE_AUTO_DESTROY;
    let third = usize::try_from(module.control(v2::IOCTL_CREATE, &mut third)).expect("the place is free");
    assert_eq!(destroy(&module, "two"), -2);
    assert_eq!(destroy(&module, "one"), 0);
    assert_eq!(destroy(&module, "one"), -2);
    close(first);
    // The device was never started.
    close(third);
}

#[test]
fn version_1_answers_and_fetches() {
    let module = Module::load(2);
    let mut create = v1::Create {
        name: name("old"),
        block_size: v1::BLOCK_SIZE,
        block_count: v1::MIN_BLOCK_COUNT,
        timeout_s: 10,
        max_segments: 32,
        ..v1::Create::default()
    };
    assert_eq!((module.control(v1::IOCTL_CREATE, &mut create), create.error), (0, 0));
    let data = pattern(5, 8192);
    assert_eq!(submit(0, 0, 3, (v2::OP_WRITE, 4096), data.clone()), 0);
    assert_eq!(submit(0, 0, 4, (v2::OP_READ, 0), vec![0; 4096]), 0);
    let mut buffer = vec![0_u8; v1::OPERATION_BYTES];
    let words = |buffer: &mut [u8], opcode: u32| {
        buffer[..4].copy_from_slice(&create.handle.to_ne_bytes());
        buffer[8..12].copy_from_slice(&opcode.to_ne_bytes());
    };
    let opcode = |buffer: &[u8]| u32::from_ne_bytes(buffer[8..12].try_into().expect("four"));
    words(&mut buffer, v1::OP_FETCH);
    assert_eq!(operation(0, buffer.as_mut_slice()), 0);
    assert_eq!(opcode(&buffer), v1::OP_WRITE);
    assert_eq!(buffer[v1::OPERATION_DATA_OFFSET..][..8192], data);
    words(&mut buffer, v1::OP_ANSWER_WRITE);
    assert_eq!(operation(0, buffer.as_mut_slice()), 0);
    assert_eq!(ended(0, 0), [Ended { tag: 3, error: 0, data }]);
    assert_eq!(opcode(&buffer), v1::OP_READ);
    let read = pattern(6, 4096);
    buffer[v1::OPERATION_DATA_OFFSET..][..4096].copy_from_slice(&read);
    page_out(&mut buffer[v1::OPERATION_DATA_OFFSET..][..4096]);
    words(&mut buffer, v1::OP_ANSWER_READ);
    // Nothing is left to fetch.
    assert_eq!(operation(0, buffer.as_mut_slice()), -4);
    assert_eq!(ended(0, 0), [Ended { tag: 4, error: 0, data: read }]);
    let mut all = v1::DestroyAll { force: 1 };
    assert_eq!(module.control(v1::IOCTL_DESTROY_ALL, &mut all), 0);
    let mut query = v1::HandleByName { name: name("old"), ..v1::HandleByName::default() };
    assert_eq!((module.control(v1::IOCTL_HANDLE_BY_NAME, &mut query), query.error), (-2, -2));
}

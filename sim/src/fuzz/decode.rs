// SPDX-License-Identifier: GPL-2.0-only
//! The code that decodes data of another process: the arguments of both versions on the kernel's
//! side, and the kernel's data on the library's side. Nothing may panic, and accepted input must
//! satisfy the documented guarantees.

use super::Bytes;
use zosbd2_abi::{v1, v2};
use zosbd2_engine::Errno;
use zosbd2_engine::name::Name;
use zosbd2_engine::request::{Op, Request};
use zosbd2_engine::v1::{Call, Params, request_head, segment, segment_count};
use zosbd2_engine::v2::{
    Handles, Machine, Plan, Way, check_commit, check_create, check_enter, check_size, decode_handle, plan,
    tag_bits,
};

/// The target.
///
/// # Panics
///
/// On a defect.
pub fn decode(data: &[u8]) {
    let mut bytes = Bytes(data);
    match bytes.below(9) {
        0 => names(&mut bytes),
        1 => create_v1(&mut bytes),
        2 => create_v2(&mut bytes),
        3 => commit(&mut bytes),
        4 => enter(&mut bytes),
        5 => handles(&mut bytes),
        6 => requests_v1(&mut bytes),
        7 => status(&mut bytes),
        _ => lists(&mut bytes),
    }
}

fn names(bytes: &mut Bytes<'_>) {
    let field = bytes.array();
    if let Ok(name) = Name::from_field(&field) {
        let text = name.bytes().split(|byte| *byte == 0).next().unwrap_or_default();
        assert!(!text.is_empty() && text.len() < v1::NAME_BYTES && text != b"." && text != b"..");
        assert!(text.iter().all(|byte| *byte >= 0x20 && !b"/!\x7f".contains(byte)));
    }
    if let Ok(name) = Name::from_v2_field(&field) {
        assert_eq!(Name::from_field(&field), Ok(name), "stricter than version 1");
        let disk = name.disk_name(2);
        assert!(disk.starts_with(b"zosbd2-") && disk[v2::NAME_BYTES - 1] == 0);
    }
}

fn create_v1(bytes: &mut Bytes<'_>) {
    let create = v1::Create {
        name: bytes.array(),
        block_size: bytes.one_of(&[v1::BLOCK_SIZE, 512, 0]),
        block_count: bytes.u64(),
        timeout_s: bytes.u32(),
        max_segments: bytes.u32(),
        batch_queue: bytes.u32(),
        ..v1::Create::default()
    };
    if let Ok(params) = Params::check(&create) {
        assert!((1..=v1::MAX_SEGMENTS).contains(&params.max_segments));
        assert!(params.max_data_bytes() <= v1::MAX_DATA_BYTES && params.timeout_ms >= 1000);
        let status = params.status(7);
        assert_eq!(status.size_bytes / u64::from(v1::BLOCK_SIZE), create.block_count);
    }
}

fn create_v2(bytes: &mut Bytes<'_>) {
    let create = v2::Create {
        size: v2::CREATE_BYTES,
        flags: bytes.u8().into(),
        name: bytes.array(),
        serial: bytes.array(),
        size_bytes: bytes.u64(),
        logical_block_size: bytes.u32(),
        physical_block_size: bytes.u32(),
        io_min: bytes.u32(),
        io_opt: bytes.u32(),
        max_io_bytes: bytes.u32(),
        queues: bytes.u32(),
        depth: bytes.u32(),
        discard_granularity: bytes.u32(),
        max_discard_bytes: bytes.u32(),
        max_write_zeroes_bytes: bytes.u32(),
        max_secure_erase_bytes: bytes.u32(),
        deadline_ms: bytes.u32(),
        grace_ms: bytes.u32(),
        handle: bytes.u32(),
        deadline_policy: bytes.u32(),
        reserved: bytes.u32(),
    };
    let machine = Machine { cpus: 1 + bytes.u32() % (1 << 20), page_bytes: 4096 };
    let Ok((_, full)) = check_create(&create, machine) else { return };
    assert_eq!(check_create(&full, machine).map(|(_, again)| again), Ok(full), "what is full stays as it is");
    assert_eq!(check_size(full.size_bytes, full.logical_block_size), Ok(()));
    assert!(full.logical_block_size.is_power_of_two() && full.physical_block_size.is_power_of_two());
    assert!(full.queues << tag_bits(full.depth) <= v2::MAX_TAGS);
    assert!(full.max_io_bytes >= machine.page_bytes && full.max_io_bytes <= v2::MAX_IO_BYTES);
}

fn request(bytes: &mut Bytes<'_>) -> Request {
    let op = Op::from_number(bytes.below(6).into()).unwrap_or_default();
    Request { op, flags: bytes.below(8), offset: bytes.u64(), length: bytes.u32() }
}

fn commit(bytes: &mut Bytes<'_>) {
    let request = request(bytes);
    let whole = i64::from(request.length);
    let any = bytes.u64().cast_signed();
    let commit = v2::Commit {
        handle: bytes.u64(),
        result: bytes.one_of(&[whole, any, any % 5000, whole.wrapping_add(any % 3)]),
        address: bytes.one_of(&[0, any.cast_unsigned()]),
        iovec_count: bytes.one_of(&[0, 0, 1, v2::MAX_IOVECS, v2::MAX_IOVECS + 1]),
        flags: bytes.below(16).into(),
        status: bytes.below(3).into(),
        reserved: bytes.below(2).into(),
    };
    if check_commit(&commit).is_err() {
        return;
    }
    assert!(commit.flags & !v2::COMMIT_FLAGS == 0 && commit.reserved == 0 && commit.status == 0);
    match plan(&request, &commit) {
        Ok(Plan::Finish(Ok(()))) => {
            assert!(commit.result >= whole && request.op != Op::Read && commit.address == 0);
        }
        Ok(Plan::Finish(Err(errno))) => {
            let short = errno == Errno::EIO && commit.result < whole;
            assert!(short || i64::from(errno.negative()) == commit.result);
        }
        Ok(Plan::Copy(data)) => {
            assert!(data.bytes <= request.length && (commit.address != 0 || data.bytes == 0));
            let keeps = commit.flags & v2::COMMIT_COPY_ONLY != 0;
            match data.way {
                Way::In => assert!(request.op == Op::Read && data.bytes == request.length),
                Way::InAndZero => assert!(request.op == Op::Read && data.bytes < request.length),
                Way::Out => assert!(request.op == Op::Write && data.bytes == request.length && !keeps),
                Way::OutAndKeep => assert!(request.op == Op::Write && data.bytes == request.length && keeps),
            }
        }
        Err(errno) => assert_eq!(errno, Errno::EINVAL),
    }
}

fn enter(bytes: &mut Bytes<'_>) {
    let enter = v2::Enter {
        flags: bytes.below(3).into(),
        commits: bytes.u64(),
        requests: bytes.u64(),
        arena: bytes.u64(),
        arena_bytes: bytes.u64(),
        buffers: bytes.u64(),
        commit_count: bytes.u32(),
        commit_bytes: bytes.one_of(&[v2::COMMIT_BYTES, v2::COMMIT_BYTES - 1, 256, 257, 0]),
        capacity: bytes.u32(),
        request_bytes: bytes.one_of(&[v2::REQUEST_BYTES, v2::REQUEST_BYTES - 1, 256, 257, 0]),
        buffer_count: bytes.u32(),
        queue: bytes.u32(),
        minimum: bytes.u32(),
        spin_us: bytes.u32(),
        timeout_ms: bytes.u32(),
        ..v2::Enter::default()
    };
    if check_enter(&enter).is_ok() {
        assert!(enter.capacity <= v2::MAX_BATCH && enter.commit_count <= v2::MAX_BATCH);
        assert!(enter.buffer_count <= if enter.arena_bytes == 0 { v2::MAX_BATCH } else { 0 });
        assert!((v2::COMMIT_BYTES..=v2::MAX_ELEMENT_BYTES).contains(&enter.commit_bytes));
        assert!((v2::REQUEST_BYTES..=v2::MAX_ELEMENT_BYTES).contains(&enter.request_bytes));
        assert!(enter.minimum <= enter.capacity && enter.spin_us <= v2::MAX_SPIN_US);
    }
}

fn handles(bytes: &mut Bytes<'_>) {
    let (raw, epoch, bits) = (bytes.u64(), bytes.u32(), u32::from(bytes.below(17)));
    if let Some((queue, handle)) = decode_handle(raw, epoch, bits) {
        assert_eq!(handle.epoch(), epoch);
        assert!(u32::from(handle.tag()) < 1 << bits);
        assert_eq!(Handles::new(epoch, queue, bits).encode(handle), raw);
    }
}

fn requests_v1(bytes: &mut Bytes<'_>) {
    let opcode = bytes.u32();
    if let Ok(call) = Call::decode(opcode) {
        assert!((30..=38).contains(&opcode) || call == Call::Notice);
    }
    let op = bytes.one_of(&[Op::Read, Op::Write, Op::Discard]);
    // Cut as the block layer cuts it.
    let blocks = 1 + bytes.u32() % v1::MAX_SEGMENTS;
    let request = Request { op, flags: 0, offset: bytes.u64() >> 1, length: blocks * v1::BLOCK_SIZE };
    let count = segment_count(&request);
    assert!(count <= v1::MAX_SEGMENTS && request_head(&request).segment_count == count);
    let sum: u64 = (0..count).map(|index| segment(&request, index).length).sum();
    assert_eq!(sum, u64::from(request.length));
    assert_eq!(segment(&request, count), v1::Segment::default());
    assert_eq!(segment(&request, bytes.u32().saturating_add(count)).length, 0);
}

fn status(bytes: &mut Bytes<'_>) {
    let raw = v2::Status {
        size: v2::STATUS_BYTES,
        name: bytes.array(),
        serial: bytes.array(),
        state: bytes.u32(),
        deadline_policy: bytes.u32(),
        deadline_ms: bytes.u32(),
        grace_ms: bytes.u32(),
        major: bytes.u32(),
        minor: bytes.u32(),
        version: bytes.u32(),
        size_bytes: bytes.u64(),
        ..v2::Status::default()
    };
    let status = zosbd2::Status::from(&raw);
    assert!(status.path().starts_with("/dev"));
    assert_eq!(status.deadline.is_some(), raw.deadline_ms != 0);
    assert_eq!(u32::from(status.deadline_policy), raw.deadline_policy);
    assert!(!status.name.contains('\0') && !status.serial.contains('\0'));
}

fn lists(bytes: &mut Bytes<'_>) {
    let entry = v2::ListEntry { handle: bytes.u32(), version: bytes.u32(), name: bytes.array() };
    assert!(!zosbd2::Listed::from(&entry).name.contains('\0'));
    let raw = v2::Outstanding {
        offset: bytes.u64(),
        length: bytes.u64(),
        age_ns: bytes.u64(),
        held_ns: bytes.u64(),
        op: bytes.u32(),
        flags: bytes.u32(),
        state: bytes.u32(),
        tag: bytes.u32(),
        epoch: bytes.u32(),
        thread: bytes.u32(),
    };
    let outstanding = zosbd2::Outstanding::from(&raw);
    assert_eq!(outstanding.holder.is_none(), raw.state == v2::OUTSTANDING_QUEUED);
    let info = v2::Info { module_version: bytes.array(), ..v2::Info::default() };
    assert!(!zosbd2::Info::from(&info).module_version.contains('\0'));
}

// SPDX-License-Identifier: GPL-2.0-only
//! The engine's smaller parts: names, the registry, the teardown's patience, and version 1's translations.

use zosbd2_abi::v1 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::device::{DRAIN_STALL_MS, DRAIN_TOTAL_MS, Drain};
use zosbd2_engine::name::Name;
use zosbd2_engine::registry::{Place, Registry, RegistryState};
use zosbd2_engine::request::{Op, Request};
use zosbd2_engine::v1::{Call, Params, plain_head, request_head, segment, segment_count};

fn field(bytes: &[u8]) -> [u8; 32] {
    let mut field = [0; 32];
    field[..bytes.len()].copy_from_slice(bytes);
    field
}

#[test]
fn names_of_every_length_and_byte() {
    assert_eq!(Name::from_field(&field(b"")), Err(Errno::EINVAL));
    for length in 1..=32 {
        let name = Name::from_field(&field(&vec![b'a'; length])).expect("a name");
        assert_eq!(name.bytes().iter().filter(|byte| **byte != 0).count(), length.min(31));
    }
    for byte in 1..=255_u8 {
        let refused = byte < 0x20 || matches!(byte, 0x7f | b'/' | b'!');
        for position in 0..31 {
            let mut bytes = [b'x'; 31];
            bytes[position] = byte;
            assert_eq!(Name::from_field(&field(&bytes)).is_err(), refused, "{byte:#x} at {position}");
        }
        assert_eq!(Name::from_field(&field(&[byte])).is_err(), refused || byte == b'.', "{byte:#x} alone");
    }
    for (name, valid) in [(".", false), ("..", false), ("...", true), (".a", true), ("..a", true)] {
        assert_eq!(Name::from_field(&field(name.as_bytes())).is_ok(), valid, "{name}");
    }
    // What comes behind the first NUL is nobody's business.
    assert_eq!(Name::from_field(&field(b"a\0/")), Name::from_field(&field(b"a")));
    let mut beyond = field(&[b'b'; 31]);
    beyond[31] = b'/';
    assert!(Name::from_field(&beyond).is_ok(), "byte 31 is forced to NUL");
}

fn name(text: &str) -> Name {
    Name::from_field(&field(text.as_bytes())).expect("a name")
}

#[test]
fn the_registry_numbers_lists_and_hides() {
    let (mut state, mut places) = (RegistryState::default(), [Place::default(); 3]);
    let mut registry = Registry::new(&mut state, &mut places);
    let ids: Vec<_> = ["a", "b", "c"].map(|text| registry.reserve(name(text)).expect("room")).to_vec();
    assert_eq!(registry.reserve(name("d")), Err(Errno::EINVAL), "no room");
    assert_eq!(registry.after(0), None, "reserved is not visible");
    // Numbers in the order of the checks, not of the reservations.
    assert_eq!((registry.number(ids[1]), registry.number(ids[0]), registry.number(ids[2])), (1, 2, 3));
    for (index, id) in ids.iter().enumerate() {
        registry.publish(*id, 100 + index as u64);
    }
    let order: Vec<u64> = std::iter::successors(registry.after(0), |found| registry.after(found.order))
        .map(|found| found.device)
        .collect();
    assert_eq!(order, [100, 101, 102]);
    assert_eq!(registry.by_handle(2).expect("found").device, 100);
    assert_eq!(registry.by_name(&name("c")).expect("found").handle, 3);
    assert_eq!(
        (registry.by_handle(0), registry.by_handle(4), registry.by_name(&name("d"))),
        (None, None, None)
    );

    registry.seal(ids[1]);
    assert_eq!((registry.by_handle(1), registry.by_name(&name("b"))), (None, None));
    assert_eq!(registry.sealed_after(0).expect("sealed").device, 101);
    registry.remove(ids[0]);
    assert_eq!(
        registry.reserve(name("b")),
        Err(Errno::EEXIST),
        "the name is free only when the device is gone"
    );
    registry.remove(ids[1]);
    let again = registry.reserve(name("b")).expect("free again");
    assert_eq!(registry.number(again), 4, "handles are not used again");
}

#[test]
fn handles_go_up_by_one() {
    let (mut state, mut places) = (RegistryState::default(), [Place::default(); 1]);
    let mut registry = Registry::new(&mut state, &mut places);
    for handle in 1..1000 {
        let id = registry.reserve(name("again")).expect("room");
        assert_eq!(registry.number(id), handle);
        registry.publish(id, 1);
        registry.remove(id);
        assert_eq!((registry.by_handle(handle), registry.after(0)), (None, None));
    }
}

#[test]
fn a_drain_ends_by_stall_and_in_all() {
    let mut drain = Drain::begin(1000, 0);
    assert!(!drain.gives_up(1000, 0, 5));
    assert!(!drain.gives_up(999 + DRAIN_STALL_MS, 0, 5));
    assert!(drain.gives_up(1000 + DRAIN_STALL_MS, 0, 5), "no answer for so long");
    // Every answer starts the wait anew, and an idle server owes none.
    let mut drain = Drain::begin(0, 7);
    let mut now = 0;
    for answers in 8..18 {
        now += DRAIN_STALL_MS - 1;
        assert_eq!(drain.gives_up(now, answers, 1), now >= DRAIN_TOTAL_MS, "at {now} ms");
    }
    let mut drain = Drain::begin(0, 0);
    assert!(!drain.gives_up(DRAIN_TOTAL_MS - 1, 0, 0));
    assert!(drain.gives_up(DRAIN_TOTAL_MS, 0, 0), "all of it takes too long");
    // The clock may wrap.
    let mut drain = Drain::begin(u64::MAX - 10, 0);
    assert!(!drain.gives_up(10, 0, 1));
}

fn create() -> abi::Create {
    abi::Create {
        name: field(b"disk"),
        block_size: 4096,
        block_count: 1024,
        timeout_s: 30,
        ..Default::default()
    }
}

type Change = fn(&mut abi::Create);

#[test]
fn creates_are_checked_in_order() {
    let params = Params::check(&create()).expect("valid");
    assert_eq!((params.timeout_ms, params.max_segments, params.max_data_bytes()), (30_000, 256, 1 << 20));
    let spoil: [(Change, Errno); 5] = [
        (|create| create.block_size = 512, Errno::EINVAL),
        (|create| create.block_count = 1023, Errno::ERANGE),
        (|create| create.timeout_s = 0, Errno::ERANGE),
        (|create| create.batch_queue = 257, Errno::ERANGE),
        (|create| create.name = field(b""), Errno::EINVAL),
    ];
    for (index, (_, wanted)) in spoil.iter().enumerate() {
        let mut spoiled = create();
        for (change, _) in &spoil[index..] {
            change(&mut spoiled);
        }
        assert_eq!(Params::check(&spoiled), Err(*wanted), "the first of the mistakes from {index} on");
    }
    for (seconds, valid) in [(0, false), (1, true), (1200, true), (1201, false), (4_294_969, false)] {
        let checked = Params::check(&abi::Create { timeout_s: seconds, ..create() });
        assert_eq!(checked.map(|params| params.timeout_ms).ok(), valid.then_some(seconds.wrapping_mul(1000)));
    }
    for (blocks, valid) in [(1023, false), (1024, true), (3_221_225_472, true), (3_221_225_473, false)] {
        assert_eq!(
            Params::check(&abi::Create { block_count: blocks, ..create() }).is_ok(),
            valid,
            "{blocks}"
        );
    }
    for (asked, got) in [(0, 256), (1, 1), (255, 255), (256, 256), (257, 256), (u32::MAX, 256)] {
        let params = Params::check(&abi::Create { max_segments: asked, ..create() }).expect("valid");
        assert_eq!((params.max_segments, params.max_data_bytes()), (got, got * 4096));
    }
}

#[test]
fn opcodes_of_servers_are_known_and_no_others() {
    for opcode in (0..=65535).chain([u32::MAX]) {
        let wanted = match opcode {
            30 => Ok(Call::Fetch),
            31 => Ok(Call::Answer(Op::Read)),
            37 => Ok(Call::Answer(Op::Write)),
            38 => Ok(Call::Answer(Op::Discard)),
            6502 => Ok(Call::Notice),
            _ => Err(Errno::EINVAL),
        };
        assert_eq!(Call::decode(opcode), wanted, "{opcode}");
    }
}

#[test]
fn requests_are_cut_into_blocks() {
    assert_eq!(abi::MAX_DISCARD_BYTES, 4_294_963_200, "4 GiB - 4096");
    for (op, length, count) in [
        (Op::Read, 4096, 1),
        (Op::Write, 8192, 2),
        (Op::Read, 1 << 20, 256),
        (Op::Discard, 4096, 1),
        (Op::Discard, abi::MAX_DISCARD_BYTES, 1),
    ] {
        let request = Request { op, offset: 1 << 40, length };
        assert_eq!(segment_count(&request), count);
        let mut at = request.offset;
        for index in 0..count {
            let piece = segment(&request, index);
            assert_eq!(piece.start, at);
            assert!(op == Op::Discard || piece.length == 4096);
            at += piece.length;
        }
        assert_eq!(at, request.offset + u64::from(length));
        assert_eq!(segment(&request, count), abi::Segment::default(), "nothing behind the last");
        let head = request_head(&request);
        assert_eq!((head.handle, head.signal_no, head.segment_count), (0, 0, count));
        assert_eq!(head.total_bytes, u64::from(length));
        let (opcode, data) = match op {
            Op::Read => (41, 0),
            Op::Write => (42, u64::from(length)),
            Op::Discard => (43, u64::from(length)),
        };
        assert_eq!((head.opcode, head.data_size), (opcode, data));
    }
    assert_eq!(plain_head(abi::OP_SHUTDOWN_NOTICE, 0).total_bytes, 86);
    assert_eq!((plain_head(40, 15).opcode, plain_head(40, 15).signal_no), (40, 15));
}

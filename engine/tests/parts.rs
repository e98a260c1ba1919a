// SPDX-License-Identifier: GPL-2.0-only
//! The engine's smaller parts: names, the registry, a device's life, and the translations of both versions.

use zosbd2_abi::{v1 as abi, v2 as abi2};
use zosbd2_engine::Errno;
use zosbd2_engine::device::{Change, DRAIN_STALL_MS, DRAIN_TOTAL_MS, Drain, Life, Phase, Terms};
use zosbd2_engine::name::Name;
use zosbd2_engine::registry::{Place, PlaceId, Registry, RegistryState};
use zosbd2_engine::request::{FUA, MAYBE_EXECUTED, NO_UNMAP, Op, Request};
use zosbd2_engine::v1::{Call, Params, plain_head, request_head, segment, segment_count};
use zosbd2_engine::v2::{
    Handles, Machine, Move, Plan, Way, check_commit, check_create, check_enter, check_size, decode_handle,
    describe, plan, tag_bits,
};

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
    // Bytes behind the first NUL are ignored.
    assert_eq!(Name::from_field(&field(b"a\0/")), Name::from_field(&field(b"a")));
    let mut beyond = field(&[b'b'; 31]);
    beyond[31] = b'/';
    assert!(Name::from_field(&beyond).is_ok(), "byte 31 is forced to NUL");
}

#[test]
fn names_of_version_2_of_every_length_and_byte() {
    for length in 0..=32 {
        let checked = Name::from_v2_field(&field(&vec![b'a'; length]));
        assert_eq!(checked.is_ok(), (1..=24).contains(&length), "{length} bytes");
        let Ok(name) = checked else {
            assert_eq!(checked, Err(Errno::EINVAL));
            continue;
        };
        assert_eq!(name.bytes(), &field(&vec![b'a'; length]));
        assert_eq!(name.disk_name(2), field(&[b"zosbd2-".to_vec(), vec![b'a'; length]].concat()));
        assert_eq!(name.disk_name(2)[31], 0);
        assert_eq!(Name::from_field(name.bytes()), Ok(name), "a name of version 1 too");
    }
    for byte in 0..=255_u8 {
        let letter = byte.is_ascii_lowercase() || byte.is_ascii_uppercase() || byte.is_ascii_digit();
        let inside = letter || b"._-+:".contains(&byte);
        for position in 0..24 {
            let mut bytes = [b'x'; 24];
            bytes[position] = byte;
            let valid = if position == 0 { letter } else { inside || byte == 0 && position == 23 };
            assert_eq!(Name::from_v2_field(&field(&bytes)).is_ok(), valid, "{byte:#x} at {position}");
        }
        // Bytes behind the end must be NUL, in the whole field.
        for position in 2..32 {
            let mut bytes = field(b"x");
            bytes[position] = byte;
            assert_eq!(
                Name::from_v2_field(&bytes).is_ok(),
                byte == 0,
                "{byte:#x} behind the end, at {position}"
            );
        }
    }
    assert_eq!(
        Name::from_v2_field(&field(b"a.b_c-d+e:F9")).expect("a name").bytes(),
        &field(b"a.b_c-d+e:F9")
    );
}

fn name(text: &str) -> Name {
    Name::from_field(&field(text.as_bytes())).expect("a name")
}

#[test]
fn the_registry_numbers_lists_and_hides() {
    let (mut state, mut places) = (RegistryState::default(), [Place::default(); 3]);
    let mut registry = Registry::new(&mut state, &mut places);
    let ids: Vec<_> = ["a", "b", "c"].map(|text| registry.reserve(name(text), 1).expect("room")).to_vec();
    assert_eq!(registry.reserve(name("d"), 2), Err(Errno::ENOSPC), "no room");
    assert_eq!(registry.after(0), None, "reserved is not visible");
    // Handles in the order of the checks, not of the reservations.
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

    // The name may belong to another device by now.
    assert_eq!(registry.meant(&name("c"), 0).map(|found| found.device), Ok(102));
    assert_eq!(registry.meant(&name("c"), 3).map(|found| found.device), Ok(102));
    for handle in [1, 2, 4, u32::MAX] {
        assert_eq!(registry.meant(&name("c"), handle), Err(Errno::ESTALE), "{handle}");
    }
    assert_eq!(registry.meant(&name("d"), 3), Err(Errno::ENOENT));

    assert!(registry.seal(ids[1]));
    assert_eq!(registry.meant(&name("b"), 1), Err(Errno::ENOENT), "it goes already");
    assert_eq!((registry.by_handle(1), registry.by_name(&name("b"))), (None, None));
    assert_eq!(registry.sealed_after(0).expect("sealed").device, 101);
    registry.remove(ids[0]);
    assert_eq!(
        registry.reserve(name("b"), 2),
        Err(Errno::EEXIST),
        "the name is free only when the device is gone"
    );
    assert!(registry.seal(ids[2]));
    registry.vacate(ids[2]);
    assert_eq!(
        (registry.by_handle(3), registry.sealed_after(0).map(|found| found.device)),
        (None, Some(101))
    );
    let same = registry.reserve(name("c"), 2).expect("the name is free, and there is a place");
    assert_eq!(registry.reserve(name("d"), 1), Err(Errno::ENOSPC), "the place of the vacated one is not");
    registry.remove(same);
    registry.remove(ids[1]);
    let again = registry.reserve(name("b"), 1).expect("free again");
    assert_eq!(registry.number(again), 4, "handles are not used again");
}

#[test]
fn the_registry_knows_versions_and_counts() {
    let (mut state, mut places) = (RegistryState::default(), [Place::default(); 4]);
    let mut registry = Registry::new(&mut state, &mut places);
    assert_eq!(registry.count(), 0);
    let one = registry.reserve(name("one"), 1).expect("room");
    let two = registry.reserve(name("two"), 2).expect("room");
    for version in [1, 2] {
        assert_eq!(
            registry.reserve(name("one"), version),
            Err(Errno::EEXIST),
            "both versions share the names"
        );
    }
    for (text, version) in [("zosbd2-two", 1), ("two", 1)] {
        assert_eq!(
            registry.reserve(name(text), version),
            Err(Errno::EEXIST),
            "{text}: the disk's name is in use"
        );
    }
    for (text, version) in [("zosbd2-two", 2), ("zosbd2-one", 1)] {
        let id = registry.reserve(name(text), version).expect("no disk has that name");
        registry.remove(id);
    }
    let own = registry.reserve(name("zosbd2-three"), 1).expect("room");
    assert_eq!(registry.reserve(name("three"), 2), Err(Errno::EEXIST), "version 1 has the disk's name");
    registry.vacate(own);
    let three = registry.reserve(name("three"), 2).expect("free again");
    registry.remove(three);
    registry.remove(own);
    assert_eq!(registry.count(), 0, "nothing is there yet");
    for (count, id) in [(1, one), (2, two)] {
        registry.number(id);
        registry.publish(id, 7);
        assert_eq!(registry.count(), count);
    }
    assert_eq!(registry.by_name(&name("one")).expect("found").version, 1);
    let found = registry.by_name(&name("two")).expect("found");
    assert_eq!((found.version, found.handle, found.device, found.name), (2, 2, 7, name("two")));
    assert_eq!(registry.after(1), Some(found));
    assert_eq!(PlaceId::from_raw(found.place.to_raw()), two);
    assert!(registry.seal(one));
    assert_eq!((registry.count(), registry.sealed_after(0).expect("sealed").version), (1, 1));
    registry.remove(one);
    registry.remove(two);
    assert_eq!((registry.count(), registry.after(0), registry.sealed_after(0)), (0, None, None));
    // An invalid number names no place.
    let nowhere = PlaceId::from_raw(4);
    assert_eq!(registry.number(nowhere), 3);
    registry.publish(nowhere, 1);
    assert!(!registry.seal(nowhere));
    registry.remove(nowhere);
    assert_eq!((registry.count(), registry.sealed_after(0)), (0, None));
}

#[test]
fn no_places_no_devices() {
    let (mut state, mut places) = (RegistryState::default(), []);
    let mut registry = Registry::new(&mut state, &mut places);
    assert_eq!(registry.reserve(name("a"), 2), Err(Errno::ENOSPC));
}

#[test]
fn handles_go_up_by_one() {
    let (mut state, mut places) = (RegistryState::default(), [Place::default(); 1]);
    let mut registry = Registry::new(&mut state, &mut places);
    for handle in 1..1000 {
        let id = registry.reserve(name("again"), 1).expect("room");
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
    // Every answer restarts the wait, and an idle server owes none.
    let mut drain = Drain::begin(0, 7);
    let mut now = 0;
    for answers in 8..18 {
        now += DRAIN_STALL_MS - 1;
        assert_eq!(drain.gives_up(now, answers, 1), now >= DRAIN_TOTAL_MS, "at {now} ms");
    }
    let mut drain = Drain::begin(0, 0);
    assert!(!drain.gives_up(DRAIN_TOTAL_MS - 1, 0, 0));
    assert!(drain.gives_up(DRAIN_TOTAL_MS, 0, 0), "all of it takes too long");
    // Two workers read the clock, and the one that read it last was first to take the lock.
    let mut drain = Drain::begin(1001, 0);
    assert!(!drain.gives_up(1000, 0, 1), "it began just now");
    assert!(drain.gives_up(1001 + DRAIN_STALL_MS, 0, 1));
}

/// A started device that had two servers, of which the older one is still open, in each phase.
fn life_in(phase: Phase) -> Life {
    let terms = Terms { attached: true, grace_ms: 100, auto_destroy: false };
    let mut life = Life::new(terms);
    assert_eq!((life.attach(true), life.attach(true)), (Ok(1), Ok(2)));
    assert_eq!(
        [0, 1, 2, 3].map(|epoch| life.meant(epoch).err()),
        [None, Some(Errno::ESTALE), None, Some(Errno::ESTALE)]
    );
    life.set_started();
    match phase {
        Phase::Live => {}
        Phase::Orphaned | Phase::Failed => {
            assert_eq!(life.detach(2, 0), Change::Grace(100));
            if phase == Phase::Failed {
                assert_eq!(life.grace_over(u64::MAX), Change::Fail);
            }
        }
        Phase::Draining | Phase::Failing | Phase::Gone => {
            assert_eq!(life.drain(0, 0, true), Change::None);
            match phase {
                Phase::Failing => assert_eq!(life.tick(DRAIN_STALL_MS, 0, 1), Change::Fail),
                Phase::Gone => life.gone(),
                _ => {}
            }
        }
    }
    assert_eq!(life.phase(), phase);
    life
}

#[test]
fn every_call_in_every_phase_of_a_life() {
    use Phase::{Draining, Failed, Failing, Gone, Live, Orphaned};
    let changed = |phase: Phase, call: &dyn Fn(&mut Life) -> Change| {
        let mut life = life_in(phase);
        let change = call(&mut life);
        (change, life.phase())
    };
    for (phase, grace, newest, drain, tick) in [
        (
            Live,
            (Change::None, Live),
            (Change::Grace(100), Orphaned),
            (Change::None, Draining),
            (Change::None, Live),
        ),
        (
            Orphaned,
            (Change::Fail, Failed),
            (Change::None, Orphaned),
            (Change::Fail, Failing),
            (Change::None, Orphaned),
        ),
        (
            Failed,
            (Change::None, Failed),
            (Change::None, Failed),
            (Change::Fail, Failing),
            (Change::None, Failed),
        ),
        (
            Draining,
            (Change::None, Draining),
            (Change::Fail, Failing),
            (Change::None, Draining),
            (Change::Fail, Failing),
        ),
        (
            Failing,
            (Change::None, Failing),
            (Change::None, Failing),
            (Change::None, Failing),
            (Change::None, Failing),
        ),
        (Gone, (Change::None, Gone), (Change::None, Gone), (Change::None, Gone), (Change::None, Gone)),
    ] {
        assert_eq!(changed(phase, &|life| life.grace_over(u64::MAX)), grace, "grace over, {phase:?}");
        assert_eq!(changed(phase, &|life| life.detach(2, 0)), newest, "the newest server leaves, {phase:?}");
        assert_eq!(changed(phase, &|life| life.detach(1, 0)), (Change::None, phase), "an older one leaves");
        assert_eq!(changed(phase, &|life| life.drain(1, 1, true)), drain, "destroyed, {phase:?}");
        let late = changed(phase, &|life| life.tick(DRAIN_TOTAL_MS, 1, 0));
        assert_eq!(late, tick, "looked after late, {phase:?}");
        let early = changed(phase, &|life| life.tick(1, 0, 1));
        assert_eq!(early, (Change::None, phase), "looked after early");
        let is_there = matches!(phase, Live | Orphaned | Failed);
        assert_eq!(phase.is_there(), is_there);
        for take_over in [false, true] {
            let mut life = life_in(phase);
            let may = life.may_attach(take_over);
            let attached = life.attach(take_over);
            assert_eq!(may, attached);
            if !is_there {
                assert_eq!(attached, Err(Errno::ENODEV));
            } else if phase == Live && !take_over {
                assert_eq!(attached, Err(Errno::EBUSY));
            } else {
                assert_eq!((attached, life.phase(), life.epoch()), (Ok(3), Live, 3));
                continue;
            }
            assert_eq!((life.phase(), life.epoch()), (phase, 2));
        }
        let refused = if is_there { Errno::EALREADY } else { Errno::ENODEV };
        assert_eq!(life_in(phase).may_start(), Err(refused));
        // The second of two servers is the newest, as long as it exists.
        let newest = match phase {
            Live => Ok(()),
            Orphaned | Failed => Err(Errno::ESHUTDOWN),
            Draining | Failing | Gone => Err(Errno::ENODEV),
        };
        let older = if is_there { Err(Errno::ESHUTDOWN) } else { newest };
        assert_eq!([1, 2].map(|epoch| life_in(phase).may_change(epoch)), [older, newest], "{phase:?}");
        assert!(!life_in(phase).unwanted());
    }
}

#[test]
fn servers_come_and_go() {
    let terms = Terms { attached: true, grace_ms: 5, auto_destroy: true };
    let mut life = Life::new(terms);
    assert_eq!((life.phase(), life.epoch(), life.servers(), life.started()), (Phase::Live, 0, 0, false));
    assert_eq!((life.detach(0, 0), life.phase()), (Change::None, Phase::Live), "there was none to leave");
    assert_eq!((life.attach(false), life.attach(false)), (Ok(1), Err(Errno::EBUSY)));
    assert_eq!(life.may_start(), Ok(()));
    life.set_started();
    assert_eq!((life.started(), life.may_start()), (true, Err(Errno::EALREADY)));
    assert_eq!((life.attach(true), life.servers()), (Ok(2), 2));
    // The newest server leaves before the older one, which still gets nothing.
    assert_eq!((life.detach(2, 0), life.servers(), life.phase()), (Change::Grace(5), 1, Phase::Orphaned));
    assert_eq!((life.attach(false), life.servers(), life.phase()), (Ok(3), 2, Phase::Live));
    assert_eq!((life.detach(1, 0), life.servers(), life.phase()), (Change::None, 1, Phase::Live));
    assert_eq!((life.detach(3, 0), life.servers(), life.phase()), (Change::Grace(5), 0, Phase::Orphaned));
    assert!(!life.unwanted(), "the grace lasts");
    assert_eq!((life.grace_over(u64::MAX), life.unwanted()), (Change::Destroy, true));
    assert_eq!((life.attach(false), life.unwanted()), (Ok(4), false), "a server came in the last moment");
    assert_eq!((life.grace_over(u64::MAX), life.phase()), (Change::None, Phase::Live));
    assert_eq!(life.drain(0, 0, true), Change::None, "destroyed while it is served");
    assert_eq!((life.detach(4, 0), life.phase(), life.servers()), (Change::Fail, Phase::Failing, 0));
    life.gone();
    assert_eq!((life.phase(), life.unwanted()), (Phase::Gone, false));
}

/// A server may claim its predecessors' caches until it fetches. What nobody has claimed is lost with the first fetch
/// of the newest server, and not before.
#[test]
fn caches_are_claimed_before_the_first_fetch() {
    let terms = Terms { attached: true, grace_ms: 5, auto_destroy: false };
    let mut life = Life::new(terms);
    assert_eq!((life.claim_cache(0), life.first_fetch(0)), (Err(Errno::ESHUTDOWN), false), "no server yet");
    assert_eq!(life.attach(false), Ok(1));
    life.set_started();
    assert_eq!([life.first_fetch(1), life.first_fetch(1)], [true, false]);
    assert_eq!(life.claim_cache(1), Err(Errno::EALREADY));
    // Claimed, as often as it likes.
    assert_eq!(life.attach(true), Ok(2));
    assert_eq!(
        [life.claim_cache(1), life.claim_cache(2), life.claim_cache(2)],
        [Err(Errno::ESHUTDOWN), Ok(()), Ok(())]
    );
    assert_eq!([life.first_fetch(1), life.first_fetch(2), life.first_fetch(2)], [false; 3]);
    assert_eq!(life.claim_cache(2), Err(Errno::EALREADY));
    // A claim ends with its server, and a server that never fetches decides nothing.
    assert_eq!((life.attach(true), life.claim_cache(3)), (Ok(3), Ok(())));
    assert_eq!((life.attach(true), life.first_fetch(3)), (Ok(4), false));
    assert_eq!(life.detach(4, 0), Change::Grace(5));
    assert_eq!((life.claim_cache(4), life.first_fetch(4)), (Err(Errno::ESHUTDOWN), false), "dead");
    assert_eq!((life.attach(false), life.first_fetch(5)), (Ok(5), true));
    // While the device is destroyed nobody can claim, and the first fetch still decides.
    assert_eq!((life.attach(true), life.drain(0, 0, true)), (Ok(6), Change::None));
    assert_eq!((life.claim_cache(6), life.first_fetch(6)), (Err(Errno::ENODEV), true));
}

#[test]
fn a_device_that_nobody_serves_is_unwanted_or_not() {
    for (started, grace_ms, auto_destroy, change) in [
        (false, 0, false, Change::Destroy),
        (false, 9, false, Change::Destroy),
        (false, 9, true, Change::Destroy),
        (true, 0, false, Change::Fail),
        (true, 0, true, Change::Destroy),
        (true, 9, true, Change::Grace(9)),
        (true, 9, false, Change::Grace(9)),
    ] {
        let mut life = Life::new(Terms { attached: true, grace_ms, auto_destroy });
        assert!(!life.unwanted(), "just made");
        assert_eq!(life.attach(false), Ok(1));
        if started {
            life.set_started();
        }
        assert_eq!(life.detach(1, 0), change);
        assert_eq!(life.unwanted(), change == Change::Destroy);
        let waits = matches!(change, Change::Grace(_));
        assert_eq!(life.phase(), if waits { Phase::Orphaned } else { Phase::Failed });
    }
    // Started by the holder of an older server's descriptor.
    let mut life = Life::new(Terms { attached: true, grace_ms: 0, auto_destroy: false });
    assert_eq!((life.attach(false), life.attach(true), life.detach(2, 0)), (Ok(1), Ok(2), Change::Destroy));
    assert_eq!(life.may_start(), Ok(()));
    life.set_started();
    assert!(!life.unwanted());
}

#[test]
fn patience_is_for_a_server_that_has_come() {
    // The server never fetched, so the teardown does not wait for it.
    for attached in [false, true] {
        let mut life = Life::new(Terms { attached, grace_ms: 5, auto_destroy: false });
        assert_eq!(life.attach(false).is_ok(), attached);
        life.set_started();
        assert_eq!((life.drain(0, 0, false), life.phase()), (Change::Fail, Phase::Failing));
        assert_eq!(
            (life.tick(DRAIN_TOTAL_MS, 0, 1), life.drain(1, 0, true)),
            (Change::None, Change::None),
            "once"
        );
    }
    // Version 1: the server is found dead while the teardown waits for it.
    let mut life = Life::new(Terms::default());
    life.set_started();
    assert_eq!((life.drain(0, 0, true), life.phase()), (Change::None, Phase::Draining));
    assert_eq!((life.declare_dead(0, 1), life.phase()), (Change::Fail, Phase::Failing));
    // Without a server it does not matter whether there was one.
    for served in [false, true] {
        for phase in [Phase::Orphaned, Phase::Failed] {
            let mut life = life_in(phase);
            assert_eq!((life.drain(1, 1, served), life.phase()), (Change::Fail, Phase::Failing));
        }
    }
}

#[test]
fn a_device_of_version_1_is_served_by_whoever_opens_it() {
    let mut life = Life::new(Terms::default());
    assert_eq!((life.attach(false), life.epoch(), life.servers()), (Err(Errno::EBUSY), 0, 0));
    assert_eq!((life.drain(0, 0, true), life.phase()), (Change::None, Phase::Draining));
    // The server has time as long as it answers, and a second begin gives it no more.
    assert_eq!(life.tick(DRAIN_STALL_MS - 1, 1, 1), Change::None);
    assert_eq!(life.tick(2 * DRAIN_STALL_MS - 2, 1, 1), Change::None);
    assert_eq!(life.drain(2 * DRAIN_STALL_MS - 2, 1, true), Change::None);
    assert_eq!((life.tick(2 * DRAIN_STALL_MS - 1, 1, 1), life.phase()), (Change::Fail, Phase::Failing));
    assert_eq!(life.tick(3 * DRAIN_TOTAL_MS, 1, 1), Change::None, "once");
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

type Spoil = fn(&mut abi::Create);

#[test]
fn creates_are_checked_in_order() {
    let params = Params::check(&create()).expect("valid");
    assert_eq!((params.timeout_ms, params.max_segments, params.max_data_bytes()), (30_000, 256, 1 << 20));
    let spoil: [(Spoil, Errno); 5] = [
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
        // These do not occur; they would be taken for a discard.
        (Op::Flush, 4096, 1),
        (Op::WriteZeroes, 8192, 1),
        (Op::SecureErase, 8192, 1),
        (Op::Discard, abi::MAX_DISCARD_BYTES, 1),
    ] {
        let request = Request { op, flags: 0, offset: 1 << 40, length };
        assert_eq!(segment_count(&request), count);
        let mut at = request.offset;
        for index in 0..count {
            let piece = segment(&request, index);
            assert_eq!(piece.start, at);
            assert!(!matches!(op, Op::Read | Op::Write) || piece.length == 4096);
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
            _ => (43, u64::from(length)),
        };
        assert_eq!((head.opcode, head.data_size), (opcode, data));
    }
    assert_eq!(plain_head(abi::OP_SHUTDOWN_NOTICE, 0).total_bytes, 86);
    assert_eq!((plain_head(40, 15).opcode, plain_head(40, 15).signal_no), (40, 15));
}

#[test]
fn error_numbers_of_results() {
    for (result, wanted) in [
        (0, None),
        (1, None),
        (-1, Some(1)),
        (-5, Some(5)),
        (-4095, Some(4095)),
        (-4096, None),
        (i64::from(i32::MIN), None),
        (i64::MIN, None),
        (i64::MAX, None),
    ] {
        let errno = Errno::from_result(result);
        assert_eq!(errno.map(Errno::get), wanted, "{result}");
        assert_eq!(errno.map(|errno| i64::from(errno.negative())), wanted.map(|_| result));
        if let Some(errno) = errno {
            assert_eq!(Errno::from_negative(errno.negative()), Some(errno));
        }
    }
    assert_eq!((Errno::from_negative(0), Errno::from_negative(5)), (None, None));
}

#[test]
fn operations_have_the_numbers_of_the_interface() {
    let ops = [Op::Read, Op::Write, Op::Discard, Op::Flush, Op::WriteZeroes, Op::SecureErase];
    assert_eq!(ops.len(), Op::COUNT);
    for (number, op) in (0..).zip(ops) {
        assert_eq!((Op::from_number(number), op as u32), (Some(op), number));
    }
    for number in [6, 7, 255, 256, u32::MAX] {
        assert_eq!(Op::from_number(number), None);
    }
}

const MACHINE: Machine = Machine { cpus: 8, page_bytes: 4096 };

fn create_2() -> abi2::Create {
    abi2::Create { name: field(b"disk"), size_bytes: 1 << 30, ..Default::default() }
}

fn check(create: &abi2::Create) -> Result<abi2::Create, Errno> {
    check_create(create, MACHINE).map(|(_, full)| full)
}

#[test]
fn a_create_that_says_little_gets_the_defaults() {
    let asked = abi2::Create { size: 136, handle: 77, flags: 32, deadline_ms: 3, grace_ms: 4, ..create_2() };
    let (name, full) = check_create(&asked, MACHINE).expect("valid");
    assert_eq!(name.bytes(), &field(b"disk"));
    let wanted = abi2::Create {
        logical_block_size: 512,
        physical_block_size: 512,
        io_min: 512,
        max_io_bytes: 4 << 20,
        queues: 1,
        depth: 128,
        discard_granularity: 512,
        ..asked
    };
    assert_eq!(full, wanted);
    assert_eq!(check(&full), Ok(full), "what was filled in may be asked for");
    let coarse = abi2::Create { logical_block_size: 1024, physical_block_size: 4096, ..create_2() };
    let full = check(&coarse).expect("valid");
    assert_eq!((full.io_min, full.io_opt, full.discard_granularity), (4096, 0, 4096));
    let full = check(&abi2::Create { logical_block_size: 4096, ..create_2() }).expect("valid");
    assert_eq!((full.physical_block_size, full.io_min, full.discard_granularity), (4096, 4096, 4096));
}

type Field = fn(&mut abi2::Create) -> &mut u32;

/// Sets one field of `base` to each value and checks the result.
fn sets(what: &str, base: &abi2::Create, field: Field, cases: &[(u32, Result<u32, Errno>)]) {
    for (value, wanted) in cases {
        let mut create = *base;
        *field(&mut create) = *value;
        let checked = check(&create).map(|mut full| *field(&mut full));
        assert_eq!(checked, *wanted, "{what} {value}");
    }
}

const RANGE: Result<u32, Errno> = Err(Errno::ERANGE);
const INVAL: Result<u32, Errno> = Err(Errno::EINVAL);
const LARGEST: u32 = 1 << 28;

#[test]
fn block_and_io_sizes_at_their_extremes() {
    let base = create_2();
    let coarse = abi2::Create { logical_block_size: 4096, ..base };
    let logical: Field = |create| &mut create.logical_block_size;
    sets("logical", &base, logical, &[(0, Ok(512)), (1, RANGE), (511, RANGE), (512, Ok(512)), (513, INVAL)]);
    sets("logical", &base, logical, &[(1024, Ok(1024)), (1536, INVAL), (2048, Ok(2048)), (4096, Ok(4096))]);
    sets("logical", &base, logical, &[(4097, RANGE), (8192, RANGE), (u32::MAX, RANGE)]);

    let physical: Field = |create| &mut create.physical_block_size;
    sets(
        "physical",
        &base,
        physical,
        &[(0, Ok(512)), (256, RANGE), (511, RANGE), (512, Ok(512)), (768, INVAL)],
    );
    sets("physical", &base, physical, &[(LARGEST, Ok(LARGEST)), (LARGEST - 512, INVAL)]);
    sets("physical", &base, physical, &[(LARGEST + 1, RANGE), (2 * LARGEST, RANGE), (u32::MAX, RANGE)]);
    sets("physical", &coarse, physical, &[(0, Ok(4096)), (2048, RANGE), (4096, Ok(4096)), (8192, Ok(8192))]);

    let io_min: Field = |create| &mut create.io_min;
    sets(
        "io_min",
        &base,
        io_min,
        &[(0, Ok(512)), (511, RANGE), (512, Ok(512)), (513, INVAL), (1536, Ok(1536))],
    );
    sets("io_min", &base, io_min, &[(LARGEST, Ok(LARGEST)), (LARGEST + 512, RANGE), (u32::MAX, RANGE)]);
    let physical_4096 = abi2::Create { physical_block_size: 4096, ..base };
    sets("io_min", &physical_4096, io_min, &[(0, Ok(4096)), (512, RANGE), (4608, INVAL), (12288, Ok(12288))]);

    let io_opt: Field = |create| &mut create.io_opt;
    sets("io_opt", &base, io_opt, &[(0, Ok(0)), (1, INVAL), (511, INVAL), (512, Ok(512)), (513, INVAL)]);
    sets("io_opt", &base, io_opt, &[(LARGEST, Ok(LARGEST)), (LARGEST + 512, RANGE), (u32::MAX, RANGE)]);
    let io_min_1536 = abi2::Create { io_min: 1536, ..base };
    sets("io_opt", &io_min_1536, io_opt, &[(0, Ok(0)), (512, INVAL), (1536, Ok(1536)), (2048, INVAL)]);

    let max_io: Field = |create| &mut create.max_io_bytes;
    sets("max_io", &base, max_io, &[(0, Ok(4 << 20)), (512, RANGE), (4095, RANGE), (4096, Ok(4096))]);
    sets("max_io", &base, max_io, &[(4097, INVAL), (4608, Ok(4608)), (32 << 20, Ok(32 << 20))]);
    sets("max_io", &base, max_io, &[((32 << 20) + 1, RANGE), ((32 << 20) + 512, RANGE), (u32::MAX, RANGE)]);
    sets("max_io", &coarse, max_io, &[(4608, INVAL), (8192, Ok(8192)), ((32 << 20) - 512, INVAL)]);

    // A machine with large pages.
    let large = Machine { cpus: 8, page_bytes: 65536 };
    for (logical, max_io, valid) in [
        (65536, 0, true),
        (65537, 0, false),
        (1 << 17, 0, false),
        (512, 65536, true),
        (512, 65536 - 512, false),
        (65536, 65536 + 512, false),
    ] {
        let asked = abi2::Create { logical_block_size: logical, max_io_bytes: max_io, ..base };
        assert_eq!(check_create(&asked, large).is_ok(), valid, "{logical} {max_io}");
    }
}

#[test]
fn other_numbers_at_their_extremes() {
    let base = create_2();
    let coarse = abi2::Create { logical_block_size: 4096, ..base };
    let queues: Field = |create| &mut create.queues;
    sets("queues", &base, queues, &[(0, Ok(1)), (1, Ok(1)), (8, Ok(8)), (9, RANGE), (u32::MAX, RANGE)]);
    let depth: Field = |create| &mut create.depth;
    sets("depth", &base, depth, &[(0, Ok(128)), (1, Ok(1)), (3, Ok(3)), (1023, Ok(1023)), (1024, Ok(1024))]);
    sets("depth", &base, depth, &[(1025, RANGE), (1 << 16, RANGE), (u32::MAX, RANGE)]);

    let granularity: Field = |create| &mut create.discard_granularity;
    sets("granularity", &base, granularity, &[(0, Ok(512)), (256, RANGE), (512, Ok(512)), (513, INVAL)]);
    sets("granularity", &base, granularity, &[(1536, INVAL), (LARGEST, Ok(LARGEST)), (LARGEST + 1, RANGE)]);
    sets("granularity", &base, granularity, &[(2 * LARGEST, RANGE), (u32::MAX, RANGE)]);
    sets("granularity", &coarse, granularity, &[(0, Ok(4096)), (2048, RANGE), (4096, Ok(4096))]);

    let lengths: [Field; 3] = [
        |create| &mut create.max_discard_bytes,
        |create| &mut create.max_write_zeroes_bytes,
        |create| &mut create.max_secure_erase_bytes,
    ];
    for length in lengths {
        sets("length", &base, length, &[(0, Ok(0)), (1, INVAL), (511, INVAL), (512, Ok(512)), (513, INVAL)]);
        sets("length", &base, length, &[(u32::MAX - 511, Ok(u32::MAX - 511)), (u32::MAX, INVAL)]);
        sets("length", &coarse, length, &[(512, INVAL), (4096, Ok(4096)), (u32::MAX - 511, INVAL)]);
    }
    let times: [Field; 2] = [|create| &mut create.deadline_ms, |create| &mut create.grace_ms];
    for time in times {
        sets("time", &base, time, &[(0, Ok(0)), (1, Ok(1)), (86_400_000, Ok(86_400_000))]);
        sets("time", &base, time, &[(86_400_001, RANGE), (u32::MAX, RANGE)]);
    }
    let number: Field = |create| &mut create.handle;
    sets("number", &base, number, &[(0, Ok(0)), (1, Ok(1)), (u32::MAX, Ok(u32::MAX))]);

    let most = (1 << 63) - (1 << 20);
    for (size, logical, wanted) in [
        (0, 512, Err(Errno::ERANGE)),
        (1, 512, Err(Errno::EINVAL)),
        (511, 512, Err(Errno::EINVAL)),
        (512, 512, Ok(())),
        (513, 512, Err(Errno::EINVAL)),
        (512, 4096, Err(Errno::EINVAL)),
        (4096, 4096, Ok(())),
        (most, 512, Ok(())),
        (most, 4096, Ok(())),
        (most + 1, 512, Err(Errno::ERANGE)),
        (most + 512, 512, Err(Errno::ERANGE)),
        (most - 512, 4096, Err(Errno::EINVAL)),
        (1 << 63, 512, Err(Errno::ERANGE)),
        (u64::MAX, 512, Err(Errno::ERANGE)),
    ] {
        assert_eq!(check_size(size, logical), wanted, "{size} in blocks of {logical}");
        let asked = abi2::Create { size_bytes: size, logical_block_size: logical, ..base };
        assert_eq!(check(&asked).map(|_| ()), wanted, "{size} in blocks of {logical}");
    }
}

#[test]
fn flags_names_and_serials_of_a_create() {
    for flags in 0..128 {
        let valid = flags < 64 && (flags & 8 == 0 || flags & 4 != 0);
        let checked = check(&abi2::Create { flags, ..create_2() });
        assert_eq!(checked.map(|full| full.flags), if valid { Ok(flags) } else { INVAL }, "flags {flags:#x}");
    }
    for bit in 6..32 {
        assert!(check(&abi2::Create { flags: 1 << bit, ..create_2() }).is_err(), "bit {bit}");
    }
    for wrong in [&b""[..], b"-a", b"a/b", b"a b", &[b'a'; 25]] {
        assert_eq!(check(&abi2::Create { name: field(wrong), ..create_2() }), Err(Errno::EINVAL));
    }
    let with = |serial| check(&abi2::Create { serial, ..create_2() }).map(|full| full.serial);
    for length in 0..=32 {
        let serial = field(&vec![b'S'; length]);
        assert_eq!(with(serial), if length < 32 { Ok(serial) } else { Err(Errno::EINVAL) }, "{length} bytes");
    }
    for byte in 0..=255_u8 {
        let printable = (b' '..=b'~').contains(&byte);
        for position in 0..31 {
            let mut bytes = [b'S'; 31];
            bytes[position] = byte;
            let valid = printable || byte == 0 && position == 30;
            assert_eq!(with(field(&bytes)).is_ok(), valid, "{byte:#x} at {position}");
        }
        for position in 2..32 {
            let mut serial = field(b"S");
            serial[position] = byte;
            assert_eq!(with(serial).is_ok(), byte == 0, "{byte:#x} behind the end, at {position}");
        }
    }
}

#[test]
fn tags_of_a_device_fit_a_handle() {
    let machine = Machine { cpus: u32::MAX, page_bytes: 4096 };
    let with = |queues, depth| {
        let checked = check_create(&abi2::Create { queues, depth, ..create_2() }, machine);
        checked.map(|(_, full)| assert_eq!((full.queues, full.depth), (queues, depth)))
    };
    for depth in 1..=1024_u32 {
        let bits = tag_bits(depth);
        assert!(depth <= 1 << bits && (bits == 0 || depth > 1 << (bits - 1)), "{depth} in {bits} bits");
        // Queue numbers have 16 bits.
        let most = (65536 >> bits).min(65535);
        assert_eq!(with(most, depth), Ok(()), "{most} queues of {depth}");
        let more = (65536 >> bits) + 1;
        for queues in [more, 2 * more, 1 << 20, 1 << 22, (1 << 22) + 1, 1 << 31, (1 << 31) + 1, u32::MAX] {
            assert_eq!(with(queues, depth), Err(Errno::EOVERFLOW), "{queues} queues of {depth}");
        }
        for queue in 0..most {
            for tag in [0, depth / 2, depth - 1] {
                let index = u64::from(queue << bits | tag);
                let raw = 0xabcd << 48 | u64::from(0xdead_0000 | queue) << 16 | index;
                let (found, handle) = decode_handle(raw, 0xabcd, bits).expect("its own");
                assert_eq!((found, u32::from(handle.tag())), (queue, tag));
                assert_eq!(Handles::new(0xabcd, queue, bits).encode(handle), raw);
            }
        }
    }
    for (depth, bits) in
        [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (1 << 31, 31), ((1 << 31) + 1, 32), (u32::MAX, 32)]
    {
        assert_eq!(tag_bits(depth), bits, "{depth}");
    }
}

#[test]
fn a_handle_is_its_servers_alone() {
    let decode = |epoch| decode_handle(0x0102_8000_0001_00ff, epoch, 4);
    let (queue, handle) = decode(0x0102).expect("its own");
    assert_eq!((queue, handle.tag()), (15, 15));
    for epoch in (0..=0xffff).filter(|epoch| *epoch != 0x0102) {
        assert_eq!(decode(epoch), None, "{epoch}");
    }
    // After 65536 servers a handle may have the same number, but it is another one.
    let (_, later) = decode(0x0001_0102).expect("its own");
    assert_ne!(later, handle);
    let handles = [0x0102, 0x0001_0102].map(|epoch| Handles::new(epoch, queue, 4));
    assert_eq!(handles[1].encode(later), handles[0].encode(handle));
    for (handles, own) in handles.iter().zip([handle, later]) {
        assert_eq!(handles.decode(0x0102_8000_0001_00ff), Some(own));
        for raw in [0x0102_8000_0001_00ef, 0x0102_8000_0001_01ff, 0x0103_8000_0001_00ff] {
            assert_eq!(handles.decode(raw), None, "{raw:x}");
        }
    }
    for (bits, queue, tag) in [(0, 0xff, 0), (1, 0x7f, 1), (8, 0, 0xff), (10, 0, 0xff), (16, 0, 0xff)] {
        let (found, handle) = decode_handle(0xff, 0, bits).expect("of epoch 0");
        assert_eq!((found, handle.tag()), (queue, tag), "{bits} bits");
    }
}

#[test]
fn a_request_is_described() {
    let handles = Handles::new(3, 5, 4);
    let handle = handles.decode(0x0003_0000_0007_0000 | 5 << 4 | 9).expect("its own");
    let ops = [Op::Read, Op::Write, Op::Discard, Op::Flush, Op::WriteZeroes, Op::SecureErase];
    for (number, op) in (0..).zip(ops) {
        for flags in 0..8 {
            let request = Request { op, flags, offset: u64::MAX - 511, length: u32::MAX };
            let wanted = abi2::Request {
                handle: 0x0003_0000_0007_0059,
                offset: u64::MAX - 511,
                length: u64::from(u32::MAX),
                data: 0,
                op: number,
                flags: flags.into(),
                queue: 5,
                reserved: 0,
            };
            assert_eq!(describe(&handles, handle, &request, None), wanted);
            for data in [0, 4096, u64::MAX] {
                let wanted = abi2::Request { data, flags: u32::from(flags) | 8, ..wanted };
                assert_eq!(describe(&handles, handle, &request, Some(data)), wanted);
            }
        }
    }
    assert_eq!((FUA, NO_UNMAP, MAYBE_EXECUTED), (1, 2, 4));
}

#[test]
fn commits_are_checked_alone() {
    for flags in (0..16).chain([1 << 30, 1 << 31, u32::MAX]) {
        for iovec_count in [0, 1, 2, 1023, 1024, 1025, u32::MAX] {
            for (address, reserved, status) in
                [(0, 0, 0), (1, 0, 0), (u64::MAX, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, -1)]
            {
                let commit =
                    abi2::Commit { flags, iovec_count, address, reserved, status, ..Default::default() };
                let scattered = flags & 1 != 0;
                let pieces = if scattered {
                    (1..=1024).contains(&iovec_count) && address != 0
                } else {
                    iovec_count == 0
                };
                let valid = flags < 8 && pieces && reserved == 0 && status == 0;
                assert_eq!(check_commit(&commit).is_ok(), valid, "{commit:?}");
                if !valid {
                    assert_eq!(check_commit(&commit), Err(Errno::EINVAL));
                }
            }
        }
    }
    let any = abi2::Commit { handle: u64::MAX, result: i64::MIN, ..Default::default() };
    assert_eq!(check_commit(&any), Ok(()), "these are judged with the request");
}

const fn copy(bytes: u32, way: Way) -> Plan {
    Plan::Copy(Move { bytes, way })
}

/// The required effect of an answer, case by case as in `abi::v2::Commit`.
fn due(request: &Request, commit: &abi2::Commit) -> Option<Plan> {
    let (data, zero_fill, only) = (commit.address != 0, commit.flags & 2 != 0, commit.flags & 4 != 0);
    let asked = i64::from(request.length);
    let failed = Plan::Finish(Err(Errno::EIO));
    match (request.op, only, zero_fill) {
        (Op::Write, true, false) => {
            return (data && commit.result >= asked).then_some(copy(request.length, Way::OutAndKeep));
        }
        (_, true, _) => return None,
        (Op::Read, ..) => {}
        (_, _, true) => return None,
        _ => {}
    }
    if commit.result < -4095 || commit.result > asked {
        return None;
    }
    if commit.result < 0 {
        // tests/failures.rs tests which errors pass.
        let passes = commit.result == -28 && !matches!(request.op, Op::Read | Op::Flush);
        return Some(if passes { Plan::Finish(Err(Errno::ENOSPC)) } else { failed });
    }
    let full = commit.result == asked;
    match request.op {
        Op::Read if commit.result > 0 && !data => None,
        Op::Read if full || zero_fill => {
            Some(copy(u32::try_from(commit.result).ok()?, if full { Way::In } else { Way::InAndZero }))
        }
        Op::Read => Some(failed),
        Op::Write if !full => Some(failed),
        Op::Write if data => Some(copy(request.length, Way::Out)),
        _ if data => None,
        _ => Some(if full { Plan::Finish(Ok(())) } else { failed }),
    }
}

#[test]
fn every_answer_to_every_request() {
    let ops = [Op::Read, Op::Write, Op::Discard, Op::Flush, Op::WriteZeroes, Op::SecureErase];
    let mut met = Vec::new();
    for (op, length) in
        ops.into_iter().flat_map(|op| [0, 1, 4096, 1 << 31, u32::MAX].map(|length| (op, length)))
    {
        let request = Request { op, flags: 0, offset: 512, length };
        let most = i64::from(length);
        let results = [i64::MIN, -4097, -4096, -4095, -28, -5, -1, 0, 1, most - 1, most, most + 1, i64::MAX];
        let wide = [1 << 32, (1 << 32) + most, (1 << 32) | 1, -(1 << 32), -(1 << 32) - 5];
        for result in results.into_iter().chain(wide) {
            for (address, flags) in
                [0, 1, u64::MAX].into_iter().flat_map(|at| (0..8).map(move |flags| (at, flags)))
            {
                let commit = abi2::Commit { result, address, flags, ..Default::default() };
                let planned = plan(&request, &commit);
                assert_eq!(
                    planned,
                    due(&request, &commit).ok_or(Errno::EINVAL),
                    "{commit:?} for {request:?}"
                );
                let marked = Request { flags: FUA | NO_UNMAP | MAYBE_EXECUTED, ..request };
                assert_eq!(plan(&marked, &commit), planned, "flags make no difference");
                let kind = match planned {
                    Ok(Plan::Finish(_)) => (op, None),
                    Ok(Plan::Copy(data)) => (op, Some(data.way)),
                    Err(_) => continue,
                };
                if !met.contains(&kind) {
                    met.push(kind);
                }
            }
        }
    }
    assert_eq!(met.len(), 3 + 3 + 4, "every kind of plan of every operation");
}

#[test]
fn answers_as_servers_give_them() {
    let request = |op, length| Request { op, flags: 0, offset: 0, length };
    let (read, write, flush) = (request(Op::Read, 8192), request(Op::Write, 8192), request(Op::Flush, 0));
    let answer = |request, result, address, flags| {
        plan(request, &abi2::Commit { result, address, flags, ..Default::default() })
    };
    let failed = Ok(Plan::Finish(Err(Errno::EIO)));
    assert_eq!(answer(&read, 8192, 4096, 0), Ok(copy(8192, Way::In)));
    assert_eq!(answer(&read, 512, 4096, 0), failed);
    assert_eq!(answer(&read, 512, 4096, abi2::COMMIT_ZERO_FILL), Ok(copy(512, Way::InAndZero)));
    assert_eq!(answer(&read, 0, 0, abi2::COMMIT_ZERO_FILL), Ok(copy(0, Way::InAndZero)));
    assert_eq!(answer(&read, 8192, 0, 0), Err(Errno::EINVAL));
    assert_eq!(answer(&read, -121, 0, 0), Ok(Plan::Finish(Err(Errno::EREMOTEIO))));
    assert_eq!(answer(&write, 8192, 0, 0), Ok(Plan::Finish(Ok(()))));
    assert_eq!(answer(&write, 8192, 4096, 0), Ok(copy(8192, Way::Out)));
    for (room, enough) in [(8192, true), (1 << 40, true), (8191, false), (0, false), (-1, false)] {
        let wanted = if enough { Ok(copy(8192, Way::OutAndKeep)) } else { Err(Errno::EINVAL) };
        assert_eq!(answer(&write, room, 4096, abi2::COMMIT_COPY_ONLY), wanted, "room for {room} bytes");
    }
    assert_eq!(answer(&write, 8191, 0, 0), failed);
    assert_eq!(answer(&write, 8193, 0, 0), Err(Errno::EINVAL));
    assert_eq!(answer(&flush, 0, 0, 0), Ok(Plan::Finish(Ok(()))));
    assert_eq!(answer(&flush, 1, 0, 0), Err(Errno::EINVAL));
}

type Alter = fn(&mut abi2::Enter);

#[test]
fn enters_are_checked() {
    let valid: [Alter; 20] = [
        |_| {},
        |enter| enter.size = u32::MAX,
        |enter| enter.commit_count = 1024,
        |enter| enter.capacity = 1024,
        |enter| (enter.capacity, enter.minimum) = (1, 1),
        |enter| (enter.capacity, enter.minimum) = (1024, 1024),
        |enter| enter.queue = u32::MAX,
        |enter| enter.spin_us = 10_000,
        |enter| (enter.flags, enter.timeout_ms) = (1, 0),
        |enter| (enter.flags, enter.timeout_ms) = (1, u32::MAX),
        |enter| enter.arena = u64::MAX,
        |enter| (enter.arena, enter.arena_bytes) = (1, 1),
        |enter| (enter.arena, enter.arena_bytes) = (u64::MAX, u64::MAX),
        |enter| (enter.commits, enter.requests) = (u64::MAX, u64::MAX),
        |enter| (enter.processed, enter.refused, enter.fetched) = (u32::MAX, u32::MAX, u32::MAX),
        |enter| (enter.commit_bytes, enter.request_bytes) = (41, 49),
        |enter| (enter.buffers, enter.buffer_count) = (0, 1024),
        |enter| (enter.buffers, enter.arena, enter.arena_bytes) = (u64::MAX, 1, 1),
        |enter| (enter.arena, enter.buffer_count) = (u64::MAX, 1),
        |enter| (enter.commit_bytes, enter.request_bytes) = (256, 256),
    ];
    for (index, alter) in valid.iter().enumerate() {
        let mut enter = abi2::Enter::default();
        alter(&mut enter);
        assert_eq!(check_enter(&enter), Ok(()), "valid {index}");
    }
    let wrong: [Alter; 17] = [
        |enter| enter.flags = 2,
        |enter| enter.flags = 1 << 31,
        |enter| enter.buffer_count = 1025,
        |enter| enter.buffer_count = u32::MAX,
        |enter| (enter.arena, enter.arena_bytes, enter.buffer_count) = (1, 1, 1),
        |enter| enter.commit_count = 1025,
        |enter| enter.commit_count = u32::MAX,
        |enter| enter.capacity = 1025,
        |enter| enter.capacity = u32::MAX,
        |enter| enter.minimum = 1,
        |enter| (enter.capacity, enter.minimum) = (7, 8),
        |enter| enter.spin_us = 10_001,
        |enter| enter.spin_us = u32::MAX,
        |enter| enter.timeout_ms = 1,
        |enter| enter.timeout_ms = u32::MAX,
        |enter| enter.arena_bytes = 1,
        |enter| enter.arena_bytes = u64::MAX,
    ];
    for (index, alter) in wrong.iter().enumerate() {
        let mut enter = abi2::Enter::default();
        alter(&mut enter);
        assert_eq!(check_enter(&enter), Err(Errno::EINVAL), "wrong {index}");
    }
    // The sizes of the arrays' elements: those of the first version are the least.
    let sizes = [
        (0, Err(Errno::EINVAL)),
        (39, Err(Errno::EINVAL)),
        (257, Err(Errno::E2BIG)),
        (u32::MAX, Err(Errno::E2BIG)),
    ];
    for (bytes, wanted) in sizes {
        assert_eq!(check_enter(&abi2::Enter { commit_bytes: bytes, ..abi2::Enter::default() }), wanted);
        assert_eq!(check_enter(&abi2::Enter { request_bytes: bytes, ..abi2::Enter::default() }), wanted);
    }
    let short = abi2::Enter { request_bytes: 47, ..abi2::Enter::default() };
    assert_eq!(check_enter(&short), Err(Errno::EINVAL));
}

#[test]
fn settings_are_checked() {
    use zosbd2_abi::v2::{self, Settings};
    let all = Settings {
        flags: v2::SETTINGS_FLAGS,
        deadline_ms: v2::MAX_MILLISECONDS,
        deadline_policy: v2::DEADLINE_DECLARE_DEAD,
        grace_ms: v2::MAX_MILLISECONDS,
        ..Settings::default()
    };
    for (settings, wanted) in [
        (Settings::default(), Ok(())),
        (all, Ok(())),
        (Settings { flags: v2::SETTINGS_FLAGS, ..Settings::default() }, Ok(())),
        (Settings { flags: 8, ..Settings::default() }, Err(Errno::EINVAL)),
        (Settings { reserved: 1, ..all }, Err(Errno::EINVAL)),
        (Settings { deadline_policy: 3, ..all }, Err(Errno::EINVAL)),
        (Settings { deadline_ms: v2::MAX_MILLISECONDS + 1, ..all }, Err(Errno::ERANGE)),
        (Settings { grace_ms: v2::MAX_MILLISECONDS + 1, ..all }, Err(Errno::ERANGE)),
        (Settings { flags: v2::SETTINGS_DEADLINE | v2::SETTINGS_POLICY, ..all }, Err(Errno::EINVAL)),
        (Settings { flags: v2::SETTINGS_GRACE | v2::SETTINGS_POLICY, ..all }, Err(Errno::EINVAL)),
        (Settings { flags: v2::SETTINGS_GRACE | v2::SETTINGS_DEADLINE, ..all }, Err(Errno::EINVAL)),
    ] {
        assert_eq!(zosbd2_engine::v2::check_settings(&settings), wanted, "{settings:?}");
    }
}

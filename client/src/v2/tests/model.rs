// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random scripts against a model, and random requests against the check.

use super::*;

/// Numbers around the limits of the valid ranges.
fn number() -> impl Strategy<Value = u64> {
    let edges = vec![0, 1, 512, 4096, 16384, SIZE - 512, SIZE, u64::from(u32::MAX), u64::MAX - 511, u64::MAX];
    prop_oneof![proptest::sample::select(edges), any::<u64>(), (0..2 * SIZE / 512).prop_map(|n| n * 512)]
}

const SLOT: u64 = 16384;
const SLOTS: u64 = SIZE / SLOT;

/// A request inside a slot of its own.
fn spec() -> impl Strategy<Value = (u64, Spec)> {
    let range = (0..32_u64, 1..33_u64).prop_map(|(at, count)| (at * 512, count.min(32 - at) * 512));
    let operation = prop_oneof![
        3 => Just(v2::OP_READ),
        3 => Just(v2::OP_WRITE),
        1 => Just(v2::OP_WRITE_ZEROES),
        1 => Just(v2::OP_FLUSH),
    ];
    let refuse = prop_oneof![12 => Just(None), 1 => Just(Some(Errno::FAULT)), 1 => Just(Some(Errno::STALE))];
    let flags = prop_oneof![3 => Just(0), 1 => Just(v2::REQUEST_FUA)];
    (0..SLOTS, operation, range, any::<u8>(), any::<bool>(), refuse, flags).prop_map(
        |(slot, op, (at, length), fill, withheld, refuse, flags)| {
            let (offset, length) = if op == v2::OP_FLUSH { (0, 0) } else { (slot * SLOT + at, length) };
            (slot, Spec { op, flags, offset, length, fill, withheld, refuse })
        },
    )
}

/// Requests that may be carried out in any order.
fn specs() -> impl Strategy<Value = Vec<Spec>> {
    proptest::collection::vec(spec(), 1..40).prop_map(|specs| {
        let mut slots = std::collections::HashSet::new();
        specs.into_iter().filter(|(slot, _)| slots.insert(*slot)).map(|(_, spec)| spec).collect()
    })
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => specs().prop_map(Step::Requests),
        1 => Just(Step::Fail(Errno::INTR)),
        2 => (1..5_usize).prop_map(Step::Partial),
    ];
    proptest::collection::vec(step, 1..12)
}

/// Place in the script, result, and data if known.
type Expected = (u64, i64, Option<Vec<u8>>);

/// The expected answers, and the known contents afterwards.
fn model(steps: &[Step]) -> (Vec<Expected>, Vec<Option<u8>>) {
    let mut bytes = vec![Some(0_u8); 1 << 20];
    let mut answers = Vec::new();
    let specs = steps.iter().flat_map(|step| match step {
        Step::Requests(specs) => specs.clone(),
        _ => Vec::new(),
    });
    for (index, spec) in specs.enumerate() {
        let range = Plain::range(spec.offset, usize::try_from(spec.length).expect("length"));
        let fill = if spec.op == v2::OP_WRITE { spec.fill } else { 0 };
        let known: Option<Vec<u8>> = bytes[range.clone()].iter().copied().collect();
        if matches!(spec.op, v2::OP_WRITE | v2::OP_WRITE_ZEROES) {
            // It is unknown whether a failed write was carried out.
            bytes[range].fill(if spec.refuse.is_none() { Some(fill) } else { None });
        }
        let data = if spec.op == v2::OP_READ { known } else { Some(Vec::new()) };
        match spec.refuse {
            None => answers.push((index as u64, i64::try_from(spec.length).expect("length"), data)),
            Some(Errno::STALE) => {}
            Some(_) => answers.push((index as u64, EIO, Some(Vec::new()))),
        }
    }
    (answers, bytes)
}

fn check_against_model(steps: Vec<Step>, backend: &impl Backend, batch: usize) -> Result<(), TestCaseError> {
    check(steps, backend, |fake| serve_in_batches(fake, backend, batch))
}

pub(super) fn check(
    steps: Vec<Step>,
    backend: &impl Backend,
    serve: impl FnOnce(&Arc<Fake>) -> Result<End>,
) -> Result<(), TestCaseError> {
    let (expected, bytes) = model(&steps);
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, steps));
    let served = serve(&fake);
    prop_assert!(matches!(served, Ok(End::Gone) | Err(Error::Refused { .. })), "{served:?}");
    let answers = fake.answers();
    prop_assert_eq!(answers.len(), expected.len());
    for (Answer { index, result, data }, expected) in answers.into_iter().zip(expected) {
        prop_assert_eq!((index, result), (expected.0, expected.1));
        if let Some(expected) = expected.2 {
            prop_assert!(data == expected, "data of request {}", index);
        }
    }
    prop_assert_eq!(fake.left(), 0);
    let mut stored = vec![0; 1 << 20];
    backend.read(0, &mut stored).expect("in range");
    prop_assert!(stored.iter().zip(bytes).all(|(byte, expected)| expected.is_none_or(|e| e == *byte)));
    Ok(())
}

/// Like `Half`, but with correct lengths.
struct Honest(Half);

impl Backend for Honest {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.0.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        Backend::write_zeroes(&self.0.memory, offset, length, zero)
    }

    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        self.0.memory.region(offset, length).ok().filter(|_| offset < SIZE / 2)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn scripts_are_served_as_the_model_says(steps in steps(), batch in 1..40_usize) {
        check_against_model(steps.clone(), &Plain::new(), batch)?;
        let memory = SparseMemory::new(SIZE).expect("memory");
        let half = Half { memory, writes: AtomicUsize::new(0) };
        check_against_model(steps, &Honest(half), batch)?;
    }
}

proptest! {
    #[test]
    fn no_request_of_a_broken_kernel_gets_past_the_check(
        op in prop_oneof![0..7_u32, any::<u32>()],
        offset in number(),
        length in number(),
        data in number(),
        flags in prop_oneof![Just(0), Just(v2::REQUEST_DATA), any::<u32>()],
    ) {
        let geometry = Geometry { size: SIZE, block: 512, max_io: MAX_IO.into(), buffers: false };
        let raw = v2::Request { op, offset, length, data, flags, ..v2::Request::default() };
        let Ok(wanted) = geometry.look(&Identity::new().request(raw)) else {
            return Ok(());
        };
        if wanted == Wanted::Flush {
            return Ok(());
        }
        prop_assert!(length > 0 && length % 512 == 0 && offset % 512 == 0);
        prop_assert!(offset.checked_add(length).is_some_and(|end| end <= SIZE));
        match wanted {
            Wanted::Read | Wanted::WriteWithoutData => prop_assert!(length <= MAX_IO.into()),
            Wanted::Write(at) => prop_assert!(at as u64 + length <= MAX_IO.into()),
            _ => {}
        }
    }
}

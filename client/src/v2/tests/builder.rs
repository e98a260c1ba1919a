// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a builder takes from its backend, and what it refuses.

use super::*;
use crate::AsyncBackend;

fn info() -> Info {
    Info::from(&v2::Info {
        version: 2,
        max_queues: 8,
        max_depth: v2::MAX_DEPTH,
        max_block_size: 4096,
        max_io_bytes: v2::MAX_IO_BYTES,
        max_batch: v2::MAX_BATCH,
        ..v2::Info::default()
    })
}

#[test]
fn a_builder_takes_from_the_backend_what_is_not_set() {
    let memory = SparseMemory::new(SIZE + 100).expect("memory");
    let raw = Builder::new("d").for_backend(&memory).to_raw(&info()).expect("sensible");
    assert_eq!((raw.size_bytes, raw.logical_block_size, raw.physical_block_size), (SIZE, 512, 4096));
    assert_eq!((raw.flags, raw.grace_ms, raw.deadline_ms, raw.io_min), (0, 30_000, 0, 4096));
    let all = u32::MAX - 511;
    assert_eq!(
        (raw.max_discard_bytes, raw.max_write_zeroes_bytes, raw.max_secure_erase_bytes),
        (all, all, 0)
    );
    let set = Builder::new("d")
        .size_bytes(8192)
        .logical_block_size(4096)
        .max_discard_bytes(0)
        .max_write_zeroes_bytes(8192)
        .max_secure_erase_bytes(UNLIMITED)
        .volatile_cache(true)
        .fua(true)
        .partition_scan(false)
        .auto_destroy(true)
        .deadline(Duration::from_micros(1500))
        .grace(Duration::ZERO)
        .serial("S 1")
        .for_backend(&memory);
    let raw = set.to_raw(&info()).expect("sensible");
    assert_eq!((raw.size_bytes, raw.logical_block_size, raw.io_min), (8192, 4096, 4096));
    assert_eq!((raw.max_discard_bytes, raw.max_write_zeroes_bytes), (0, 8192));
    assert_eq!(raw.max_secure_erase_bytes, 0xFFFF_F000);
    assert_eq!((raw.deadline_ms, raw.grace_ms, raw.serial[..4].as_ref()), (2, 0, &b"S 1\0"[..]));
    let flags = v2::CREATE_VOLATILE_CACHE | v2::CREATE_FUA | v2::CREATE_NO_PARTITION_SCAN;
    assert_eq!(raw.flags, flags | v2::CREATE_AUTO_DESTROY);
}

/// A read-only backend with large blocks.
struct Fixed;

impl Backend for Fixed {
    fn size(&self) -> u64 {
        SIZE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            read_only: true,
            discard: true,
            discard_granularity: 16384,
            logical_block_size: 4096,
            ..Capabilities::default()
        }
    }

    fn read(&self, _: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        buffer.fill(0);
        Ok(())
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Err(Errno::ROFS)
    }
}

fn set_block(builder: Builder) -> Builder {
    builder.logical_block_size(512)
}

#[test]
fn a_backend_that_does_not_suit_the_device_is_refused() {
    let fake = Fake::new(SIZE, MAX_IO, []);
    let error = serve(&fake, &Fixed).expect_err("the device has smaller blocks");
    assert_eq!(
        error.to_string(),
        "serve device fake: logical block size 512 is smaller than the backend's, 4096"
    );
    assert_eq!(fake.results(), []);
}

#[test]
fn what_makes_no_sense_is_named() {
    let disk = || Builder::new("disk").size_bytes(SIZE);
    let day = Duration::from_secs(24 * 60 * 60);
    let cases = [
        (Builder::new("disk"), "size in bytes 0 is outside 512..=9223372036853727232"),
        (disk().size_bytes(513), "size in bytes 513 is not a multiple of the logical block of 512"),
        (disk().logical_block_size(8192), "logical block size 8192 is outside 512..=4096"),
        (disk().logical_block_size(1000), "logical block size 1000 is not a power of two"),
        (
            disk().logical_block_size(4096).physical_block_size(512),
            "physical block size 512 is outside 4096..=268435456",
        ),
        (disk().io_min(256), "minimum I/O 256 is outside 512..=268435456"),
        (disk().io_min(4096).io_opt(6144), "optimal I/O 6144 is not a multiple of the minimum I/O of 4096"),
        (disk().max_io_bytes(512), "largest I/O 512 is outside 4096..=33554432"),
        (disk().max_io_bytes(4097), "largest I/O 4097 is not a multiple of the logical block of 512"),
        (disk().queues(0), "number of queues 0 is outside 1..=8"),
        (disk().queues(9), "number of queues 9 is outside 1..=8"),
        (disk().depth(1025), "depth of the queues 1025 is outside 1..=1024"),
        (disk().fua(true), "FUA yes needs a volatile cache"),
        (disk().discard_granularity(3), "discard granularity 3 is outside 512..=268435456"),
        (disk().max_discard_bytes(100), "longest discard 100 is not a multiple of the logical block of 512"),
        (
            disk().discard_granularity(4096).max_discard_bytes(512),
            "longest discard 512 is outside 4096..=4294967295",
        ),
        (disk().deadline(Duration::ZERO), "deadline in milliseconds 0 is outside 1..=86400000"),
        (
            disk().grace(day + Duration::from_nanos(1)),
            "grace in milliseconds 86400001 is outside 0..=86400000",
        ),
        (disk().serial("ä"), "serial number \"ä\" has a character that is not printable ASCII"),
    ];
    for (builder, problem) in cases {
        let error = builder.to_raw(&info()).expect_err(problem);
        assert_eq!(error.to_string(), format!("create device disk: {problem}"));
    }
    for (change, problem) in [
        (set_block as fn(Builder) -> Builder, "logical block size 512 is smaller than the backend's, 4096"),
        (|builder| builder.read_only(false), "read-only no is not possible with a read-only backend"),
    ] {
        let error = change(Builder::new("disk").for_backend(&Fixed)).to_raw(&info()).expect_err(problem);
        assert_eq!(error.to_string(), format!("create device disk: {problem}"));
    }
    let raw = Builder::new("disk").for_backend(&Fixed).to_raw(&info()).expect("sensible");
    assert_eq!((raw.logical_block_size, raw.discard_granularity), (4096, 16384));
    assert_ne!(raw.flags & v2::CREATE_READ_ONLY, 0);
    let many = disk().queues(8).depth(1024);
    assert!(many.to_raw(&info()).is_ok());
    let wide = Info { max_queues: 128, ..info() };
    let error = many.queues(65).to_raw(&wide).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "create device disk: depth of the queues 1024 makes more than 65536 requests in 65 queues"
    );
    assert!(disk().serial(&"x".repeat(31)).to_raw(&info()).is_ok());
    assert!(disk().serial(&"x".repeat(32)).to_raw(&info()).is_err());
    assert!(matches!(Builder::new("a/b").to_raw(&info()), Err(Error::Name { .. })));
}

/// Flushes, and does not declare it.
struct Undeclared;

impl Backend for Undeclared {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
}

impl AsyncBackend for Undeclared {
    fn size(&self) -> u64 {
        SIZE
    }

    async fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// Without the module, the first error would be that of the control node, and with it, a device would be created.
#[test]
fn own_mistakes_are_told_before_the_module_is_needed() {
    let stop = StopToken::new();
    let memory = SparseMemory::new(SIZE).expect("memory");
    let serve = |builder: Builder| builder.serve_until(&memory, &stop, |_| panic!("ready"));
    let no_flush = "volatile cache no means that the kernel sends no flushes";
    let cases = [
        (serve(Builder::new("a/b")), "has a character other than letters, digits and ._-+:"),
        (serve(Builder::new("disk").size_bytes(0)), "size in bytes 0 is outside"),
        (
            serve(Builder::new("disk").logical_block_size(1000)),
            "logical block size 1000 is not a power of two",
        ),
        (serve(Builder::new("disk").queues(0)), "number of queues 0 is outside"),
        (serve(Builder::new("disk").identity(&[1; 257])), "bytes of the identity 257 is outside 0..=256"),
        (serve(Builder::new("disk").serving(ServeOptions::default().batch(0))), "batch 0 is outside"),
        (Builder::new("disk").serve_until(&Undeclared, &stop, |_| panic!("ready")), no_flush),
        (Builder::new("disk").serve_async(&Undeclared), no_flush),
    ];
    for (result, problem) in cases {
        let said = result.expect_err(problem).to_string();
        assert!(said.contains(problem), "{problem} is not in: {said}");
    }
    let declared = Builder::new("disk").volatile_cache(true);
    declared.check(SIZE, Undeclared.declared(), || panic!("no need to find out")).expect("sensible");
}

impl Undeclared {
    fn declared(&self) -> Capabilities {
        Backend::capabilities(self)
    }
}

/// The callback that was set last counts, and layers that were set before are outside.
#[test]
fn options_keep_what_the_builder_has() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hear = |name: &'static str| {
        let heard = heard.clone();
        move |_: &Event| heard.lock().expect("list").push(name)
    };
    let event = || Event::TakenOver { device: "disk".to_owned() };
    let tell = |builder: Builder| {
        let checked = builder.check(SIZE, Capabilities::default(), || true).expect("sensible");
        checked.options().listener().tell(&event());
        std::mem::take(&mut *heard.lock().expect("list"))
    };
    let options = || ServeOptions::default().on_event(hear("options"));
    let disk = || Builder::new("disk").on_event(hear("builder"));
    assert_eq!(tell(disk()), ["builder"]);
    assert_eq!(tell(disk().serving(ServeOptions::default())), ["builder"]);
    assert_eq!(tell(disk().serving(options())), ["options"]);
    assert_eq!(tell(Builder::new("disk").serving(options()).on_event(hear("last"))), ["last"]);
}

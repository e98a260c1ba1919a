// SPDX-License-Identifier: MIT OR Apache-2.0
//! Invalid input of every kind: it causes an error, and nothing else.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;
use zosbd2::v1::Control;
use zosbd2_abi::v1 as abi;

use super::support::{BLOCK, Disk, Manual, read_in_thread, write_in_thread};
use crate::guest::{Context, Need, Test, raw};

pub(super) const TESTS: &[Test] = &[
    Test::new("control_structs_at_page_end", structs_at_page_end).needs(&[Need::Module]).timeout(60),
    Test::new("bad_pointers", bad_pointers).needs(&[Need::Module]).timeout(60),
    Test::new("operation_buffer_at_page_end", buffer_at_page_end).needs(&[Need::Module]).timeout(60),
    Test::new("all_opcodes_and_ioctls", all_opcodes_and_ioctls).needs(&[Need::Module]).timeout(120),
    Test::new("names_of_every_length_and_byte", names).needs(&[Need::Module]).timeout(300),
    Test::new("create_errors_in_order", create_errors_in_order).needs(&[Need::Module]).timeout(60),
    Test::new("list_and_status", list_and_status).needs(&[Need::Module]).timeout(60),
    Test::new("limits_in_sysfs", limits_in_sysfs).needs(&[Need::Module]).timeout(60),
    Test::new("module_parameters", module_parameters).needs(&[Need::Module]).timeout(60),
];

fn control_node() -> File {
    File::open(zosbd2_abi::CONTROL_PATH).expect("open the control node")
}

fn create(name: &[u8]) -> abi::Create {
    let mut create = abi::Create {
        block_size: abi::BLOCK_SIZE,
        block_count: 1024,
        timeout_s: 1,
        ..abi::Create::default()
    };
    create.name[..name.len()].copy_from_slice(name);
    create
}

/// The bytes of a create.
fn create_bytes(create: &abi::Create) -> Vec<u8> {
    let mut bytes = create.name.to_vec();
    for word in [create.block_size, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(create.block_count.to_ne_bytes());
    for word in [create.timeout_s, create.max_segments, create.batch_queue, create.handle] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(create.error.to_ne_bytes());
    assert_eq!(bytes.len(), abi::CREATE_USED_BYTES);
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn error(bytes: &[u8], at: usize) -> i32 {
    i32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Every struct in its exact size, directly before an unmapped page.
fn structs_at_page_end(context: &mut Context) {
    context.load_module("");
    let control = control_node();
    let pages = raw::Pages::new(raw::PAGE);
    let call = |command: u32, argument: &[u8]| {
        let at = pages.at_end(argument.len());
        pages.put(at, argument);
        let result = raw::ioctl(control.as_fd(), command, at);
        (result, pages.get(at, argument.len()))
    };
    let (result, bytes) = call(abi::IOCTL_CREATE, &create_bytes(&create(b"edge")));
    assert_eq!(result, Ok(0), "create with 68 bytes");
    let handle = word(&bytes, 60);
    assert_eq!((handle, word(&bytes, 64)), (1, 0));
    // With more room, the kernel still writes nothing beyond byte 67.
    let at = pages.at_end(208);
    pages.put(at, &[0x5a; 208]);
    pages.put(at, &create_bytes(&create(b"edge")));
    assert_eq!(raw::ioctl(control.as_fd(), abi::IOCTL_CREATE, at), Err(Errno::EXIST));
    let bytes = pages.get(at, 208);
    assert_eq!(error(&bytes, 64), -17);
    assert!(bytes[68..].iter().all(|byte| *byte == 0x5a), "written behind the struct");

    let mut by_name = [0; 40];
    by_name[..4].copy_from_slice(b"edge");
    let (result, bytes) = call(abi::IOCTL_HANDLE_BY_NAME, &by_name);
    assert_eq!((result, word(&bytes, 32), word(&bytes, 36)), (Ok(0), handle, 0));
    let (result, bytes) = call(abi::IOCTL_LIST, &[0xff; 204]);
    assert_eq!((result, word(&bytes, 0), word(&bytes, 4)), (Ok(0), 1, handle));
    assert!(bytes[8..].iter().all(|byte| *byte == 0), "the unused entries of the list are not zero");
    let mut status = [0xff; 72];
    status[..4].copy_from_slice(&handle.to_ne_bytes());
    let (result, bytes) = call(abi::IOCTL_STATUS, &status);
    assert_eq!((result, word(&bytes, 36), &bytes[40..45]), (Ok(0), handle, b"edge\0".as_slice()));
    status[..4].copy_from_slice(&99_u32.to_ne_bytes());
    let (result, bytes) = call(abi::IOCTL_STATUS, &status);
    assert_eq!(result, Err(Errno::NOENT));
    assert!(bytes == status, "the buffer of an unknown handle was touched");
    assert_eq!(call(abi::IOCTL_PING, &[0]).0, Ok(0));

    let mut by_handle = [0_u8; 12];
    by_handle[..4].copy_from_slice(&99_u32.to_ne_bytes());
    let (result, bytes) = call(abi::IOCTL_DESTROY_BY_HANDLE, &by_handle);
    assert_eq!((result, error(&bytes, 4)), (Err(Errno::NOENT), -2));
    by_name[36] = 1;
    let (result, bytes) = call(abi::IOCTL_DESTROY_BY_NAME, &by_name);
    assert_eq!((result, word(&bytes, 32)), (Ok(0), 0));
    let (result, bytes) = call(abi::IOCTL_DESTROY_BY_NAME, &by_name);
    assert_eq!((result, error(&bytes, 32)), (Err(Errno::NOENT), -2));
    assert_eq!(call(abi::IOCTL_DESTROY_ALL, &1_u32.to_ne_bytes()).0, Ok(0));
}

const COMMANDS: [u32; 7] = [
    abi::IOCTL_CREATE,
    abi::IOCTL_DESTROY_BY_HANDLE,
    abi::IOCTL_DESTROY_BY_NAME,
    abi::IOCTL_DESTROY_ALL,
    abi::IOCTL_HANDLE_BY_NAME,
    abi::IOCTL_LIST,
    abi::IOCTL_STATUS,
];

/// NULL, unmapped, kernel and wrapping addresses; structs cut off by the end of memory; read-only memory.
fn bad_pointers(context: &mut Context) {
    context.load_module("");
    let control = control_node();
    let disk = Disk::create("pointers", 1024);
    let node = File::options().read(true).write(true).open(disk.path()).expect("open");
    let pages = raw::Pages::new(raw::PAGE);
    let addresses = [
        0,
        1,
        pages.at_end(0),
        pages.at_end(1),
        pages.at_end(3),
        usize::MAX,
        usize::MAX - 100,
        1 << 63,
        0xffff_8880_0000_0000,
    ];
    for address in addresses {
        for command in COMMANDS {
            assert_eq!(
                raw::ioctl(control.as_fd(), command, address),
                Err(Errno::INVAL),
                "{command} at {address:#x}"
            );
        }
        let result = raw::ioctl(node.as_fd(), abi::IOCTL_OPERATION, address);
        assert_eq!(result, Err(Errno::NOMEM), "operation at {address:#x}");
        assert_eq!(raw::ioctl(control.as_fd(), abi::IOCTL_PING, address), Ok(0));
        assert_eq!(raw::ioctl(node.as_fd(), abi::IOCTL_BLOCK_PING, address), Ok(0));
    }
    // One byte short of each struct.
    for (command, size) in COMMANDS.into_iter().zip([68, 12, 40, 4, 40, 204, 72]) {
        let at = pages.at_end(size - 1);
        pages.put(at, &vec![0; size - 1]);
        let result = raw::ioctl(control.as_fd(), command, at);
        // The kernel reads a status argument before it writes it, so the unknown handle 0 is reported first.
        let wanted = if command == abi::IOCTL_STATUS { Errno::NOENT } else { Errno::INVAL };
        assert_eq!(result, Err(wanted), "{command} with {} bytes", size - 1);
    }
    // A create whose result cannot be written leaves no device.
    let at = pages.at_end(68);
    pages.put(at, &create_bytes(&create(b"untold")));
    pages.forbid_writing();
    assert_eq!(raw::ioctl(control.as_fd(), abi::IOCTL_CREATE, at), Err(Errno::INVAL));
    let handles = Control::open().expect("control").list().expect("list");
    assert_eq!(handles, [disk.handle], "a device that no caller was told of");
    drop(node);
    disk.destroy();
}

/// A buffer without a data area. Reads can be fetched. A write returns to the queue and is not lost. An answer
/// whose data is missing leaves the request with the server.
fn buffer_at_page_end(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("short", 1024);
    let node = File::options().read(true).write(true).open(disk.path()).expect("open");
    for mapped in
        [16, 48, abi::OPERATION_TAIL_OFFSET, abi::OPERATION_DATA_OFFSET, abi::OPERATION_DATA_OFFSET + 512]
    {
        let pages = raw::Pages::new(2 * raw::PAGE);
        let at = pages.at_end(mapped);
        let set = |opcode: u32, id: u32| {
            pages.put(at, &disk.handle.raw().to_ne_bytes());
            pages.put(at + 8, &opcode.to_ne_bytes());
            if mapped >= abi::OPERATION_DATA_OFFSET {
                pages.put(at + abi::OPERATION_TAIL_OFFSET, &0_u32.to_ne_bytes());
                pages.put(at + abi::OPERATION_TAIL_OFFSET + 4, &id.to_ne_bytes());
            }
        };
        let writer = write_in_thread(disk.path(), 0, 3, BLOCK);
        set(abi::OP_FETCH, 0);
        assert_eq!(call(node.as_fd(), at), Err(Errno::NOMEM), "fetch of a write with {mapped} bytes");
        let mut server = Manual::new(&disk);
        let (opcode, id) = server.fetch();
        assert_eq!(opcode, abi::OP_WRITE, "the write was lost");
        assert_eq!(server.answer(abi::OP_ANSWER_WRITE, id, 0), Ok(None));
        assert_eq!(writer.join().expect("writer"), Ok(BLOCK));

        let reader = read_in_thread(disk.path(), 0, BLOCK);
        let (_, id) = server.fetch();
        set(abi::OP_ANSWER_READ, id);
        assert_eq!(call(node.as_fd(), at), Err(Errno::NOMEM), "answer with {mapped} bytes");
        assert!(!reader.is_finished(), "ended by an answer without data");
        server.buffer.data_mut().fill(0x17);
        assert_eq!(server.answer(abi::OP_ANSWER_READ, id, 0), Ok(None), "the right answer");
        assert!(reader.join().expect("reader").expect("read").iter().all(|byte| *byte == 0x17));
    }
    drop(node);
    disk.destroy();
}

fn call(node: BorrowedFd<'_>, at: usize) -> Result<i32, Errno> {
    raw::ioctl(node, abi::IOCTL_OPERATION, at)
}

/// Every number from 0 to 65535 as ioctl of both nodes and as opcode, with memory of zeros and of noise.
fn all_opcodes_and_ioctls(context: &mut Context) {
    context.load_module("");
    let control = control_node();
    let disk = Disk::create("numbers", 1024);
    let node = File::options().read(true).write(true).open(disk.path()).expect("open");
    let pages = raw::Pages::new(abi::OPERATION_BYTES);
    let mut random = context.random("noise");
    let noise: Vec<u8> = (0..raw::PAGE).map(|_| random.below(256).to_le_bytes()[0]).collect();
    let at = pages.at_end(abi::OPERATION_BYTES);
    for number in 0..=65535_u32 {
        pages.put(at, &noise);
        let result = raw::ioctl(control.as_fd(), number, at);
        match number {
            abi::IOCTL_PING | abi::IOCTL_LIST | abi::IOCTL_DESTROY_ALL => {
                assert_eq!(result, Ok(0), "control {number}");
            }
            abi::IOCTL_CREATE => assert_eq!(result, Err(Errno::INVAL)),
            abi::IOCTL_STATUS | abi::IOCTL_DESTROY_BY_HANDLE => assert_eq!(result, Err(Errno::NOENT)),
            abi::IOCTL_HANDLE_BY_NAME | abi::IOCTL_DESTROY_BY_NAME => assert!(result.is_err()),
            // Ioctls of the kernel that exist for every file (FIOCLEX and the like).
            0x5450..=0x5460 | 0x5421 | 0x541b | 1 | 2 => {}
            // Version 2 has its own error, even if only the size in the number is wrong.
            0xbd00..=0xbdff => assert_eq!(result, Err(Errno::NOTTY), "control {number:#x}"),
            _ => assert_eq!(result, Err(Errno::INVAL), "control {number:#x}"),
        }
    }
    // Destroy-all was one of the numbers.
    drop(node);
    let disk = Disk::create("numbers", 1024);
    let node = File::options().read(true).write(true).open(disk.path()).expect("open");
    for number in 0..=65535_u32 {
        // The block layer's own numbers (0x12xx, HDIO, FIO...) and those of this project are left out; other tests
        // cover them.
        let own = [abi::IOCTL_BLOCK_PING, abi::IOCTL_OPERATION].contains(&number);
        if own || matches!(number >> 8, 0x12 | 0x03 | 0x54 | 0x53 | 0x22) || number < 3 {
            continue;
        }
        pages.put(at, &noise);
        let result = raw::ioctl(node.as_fd(), number, at);
        assert!(matches!(result, Err(Errno::INVAL | Errno::NOTTY)), "block {number:#x}: {result:?}");
    }
    let servers = [
        abi::OP_FETCH,
        abi::OP_ANSWER_READ,
        abi::OP_ANSWER_WRITE,
        abi::OP_ANSWER_DISCARD,
        abi::OP_SHUTDOWN_NOTICE,
    ];
    for opcode in (0..=65535_u32).chain([u32::MAX, 1 << 31]).filter(|opcode| !servers.contains(opcode)) {
        pages.put(at, &disk.handle.raw().to_ne_bytes());
        pages.put(at + 8, &opcode.to_ne_bytes());
        let before = pages.get(at, 64);
        assert_eq!(raw::ioctl(node.as_fd(), abi::IOCTL_OPERATION, at), Err(Errno::INVAL), "opcode {opcode}");
        assert!(before == pages.get(at, 64), "opcode {opcode} changed the buffer");
    }
    drop(node);
    disk.destroy();
}

/// Every length from 0 to 32, and every byte at every kind of place; with the debug kernel one byte in several
/// ([`Context::share`]), and the bytes at which the rule changes.
fn names(context: &mut Context) {
    context.load_module("");
    let control = Control::open().expect("control");
    let attempt = |name: &[u8]| {
        let mut argument = create(&[]);
        argument.name[..name.len().min(32)].copy_from_slice(&name[..name.len().min(32)]);
        let result = control.create_raw(&mut argument);
        assert_eq!(argument.error, result.map_or_else(|errno| -errno.raw_os_error(), |()| 0));
        if result.is_ok() {
            let mut status = abi::Status { query: argument.handle, ..abi::Status::default() };
            control.status_raw(&mut status).expect("status");
            let mut destroy = abi::DestroyByName { force: 1, name: argument.name, ..Default::default() };
            control.destroy_by_name_raw(&mut destroy).expect("destroy by the name it was created with");
            return Ok(status.name);
        }
        result.map(|()| [0; 32])
    };
    assert_eq!(attempt(b""), Err(Errno::INVAL));
    for length in 1..=32 {
        let stored = attempt(&vec![b'n'; length]).expect("a name of this length");
        let wanted = length.min(31);
        assert!(
            stored[..wanted].iter().all(|byte| *byte == b'n')
                && stored[wanted..].iter().all(|byte| *byte == 0)
        );
    }
    let step = usize::try_from(255 / context.share(255)).expect("a step");
    let edges = [0x1f, 0x20, b'!', b'/', 0x7e, 0x7f, 0x80, 0xff];
    for byte in (1..=255_u8).step_by(step).chain(edges) {
        let refused = byte < 0x20 || byte == 0x7f || byte == b'/' || byte == b'!';
        for name in [vec![byte, b'x'], vec![b'x', byte], vec![b'x', byte, b'y']] {
            let result = attempt(&name);
            assert_eq!(result.is_err(), refused, "byte {byte:#x}: {result:?}");
            assert!(result.is_ok() || result == Err(Errno::INVAL), "byte {byte:#x}: {result:?}");
        }
    }
    for name in [&b"."[..], b"..", b"../tmp/zz", b"sub/dir", b"/etc/passwd"] {
        assert_eq!(attempt(name), Err(Errno::INVAL), "{}", String::from_utf8_lossy(name));
    }
    assert!(attempt(b"...").is_ok() && attempt(b"sp ace").is_ok() && attempt(b"%s%n%d").is_ok());
    assert_eq!(control.list().expect("list"), []);
}

/// Of several mistakes the kernel reports the first one in the interface's order. Output fields stay unchanged.
fn create_errors_in_order(context: &mut Context) {
    context.load_module("");
    let control = Control::open().expect("control");
    let attempt = |change: &dyn Fn(&mut abi::Create)| {
        let mut argument = abi::Create { handle: 4711, ..create(b"order") };
        change(&mut argument);
        let result = control.create_raw(&mut argument);
        assert_eq!(argument.error, result.map_or_else(|errno| -errno.raw_os_error(), |()| 0));
        assert_eq!(argument.handle, 4711, "a failed create gave a handle");
        result.expect_err("a mistake")
    };
    for size in [0, 1, 512, 4095, 4097, 8192, u32::MAX] {
        let error =
            attempt(&|create| (create.block_size, create.block_count, create.timeout_s) = (size, 0, 0));
        assert_eq!(error, Errno::INVAL, "block size {size}");
    }
    for count in [0, 1023, 3_221_225_473, u64::MAX] {
        let error = attempt(&|create| (create.block_count, create.name[0]) = (count, 0));
        assert_eq!(error, Errno::RANGE, "block count {count}");
    }
    for seconds in [0, 1201, u32::MAX] {
        let error = attempt(&|create| (create.timeout_s, create.name[0]) = (seconds, 0));
        assert_eq!(error, Errno::RANGE, "timeout {seconds}");
    }
    for batch in [257, u32::MAX] {
        let error = attempt(&|create| (create.batch_queue, create.name[0]) = (batch, 0));
        assert_eq!(error, Errno::RANGE, "batch queue {batch}");
    }
    assert_eq!(attempt(&|create| create.name[0] = 0), Errno::INVAL);
    assert_eq!(attempt(&|create| create.name[..5].copy_from_slice(b"null\0")), Errno::EXIST);
    // The limits themselves are valid, and none of the failed calls used a handle.
    for (number, (count, seconds, batch)) in
        [(1024, 1, 0), (3_221_225_472, 1200, 256)].into_iter().enumerate()
    {
        let mut argument =
            abi::Create { block_count: count, timeout_s: seconds, batch_queue: batch, ..create(b"limit") };
        control.create_raw(&mut argument).expect("at the limit");
        assert_eq!(argument.handle as usize, number + 1);
        control.destroy(zosbd2::v1::Handle::from_raw(argument.handle), true).expect("destroy");
    }
}

fn list_and_status(context: &mut Context) {
    context.load_module("");
    let disks: Vec<_> = (0..5).map(|index| Disk::create(&format!("list{index}"), 1024 + index)).collect();
    let control = Control::open().expect("control");
    disks[2].destroy();
    let again = Disk::create("list2", 5000);
    let order: Vec<_> = [&disks[0], &disks[1], &disks[3], &disks[4], &again].map(|disk| disk.handle).to_vec();
    assert_eq!(control.list().expect("list"), order, "not in the order of creation");
    for (disk, blocks) in [(&disks[0], 1024), (&disks[4], 1028), (&again, 5000)] {
        let mut status = abi::Status { query: disk.handle.raw(), ..abi::Status::default() };
        control.status_raw(&mut status).expect("status");
        let mut name = [0; 32];
        name[..disk.name.as_str().len()].copy_from_slice(disk.name.as_str().as_bytes());
        let wanted = abi::Status {
            query: disk.handle.raw(),
            reserved: 0,
            size_bytes: blocks * 4096,
            block_count: blocks,
            block_size: 4096,
            max_segments: 256,
            timeout_ms: 30_000,
            handle: disk.handle.raw(),
            name,
        };
        assert_eq!(status, wanted);
        assert_eq!(control.handle_by_name(&disk.name).expect("look up"), disk.handle);
    }
    let mut query = abi::HandleByName { handle: 9, ..Default::default() };
    assert_eq!(control.handle_by_name_raw(&mut query), Err(Errno::INVAL), "an empty name");
    query.name[..7].copy_from_slice(b"unknown");
    assert_eq!(control.handle_by_name_raw(&mut query), Err(Errno::NOENT));
    assert_eq!(query.error, -2);
    control.destroy_all(true).expect("destroy all");
    assert_eq!(control.list().expect("list"), []);
}

fn limits_in_sysfs(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("limits", 1 << 20);
    for (setting, wanted) in [
        ("logical_block_size", "4096"),
        ("physical_block_size", "4096"),
        ("minimum_io_size", "4096"),
        ("max_hw_sectors_kb", "1024"),
        ("max_sectors_kb", "1024"),
        ("discard_granularity", "4096"),
        ("discard_max_bytes", "4294963200"),
        ("write_zeroes_max_bytes", "0"),
        ("write_cache", "write through"),
        ("fua", "0"),
        ("dma_alignment", "511"),
        ("iostats", "1"),
        ("add_random", "0"),
        ("rotational", "0"),
    ] {
        assert_eq!(super::support::queue_setting("limits", setting), wanted, "{setting}");
    }
    assert!(super::support::queue_setting("limits", "scheduler").contains("[none]"));
    let read = |file: &str| std::fs::read_to_string(format!("/sys/block/limits/{file}")).expect("sysfs");
    assert_eq!((read("size").trim(), read("ro").trim()), ("8388608", "0"));
    // A limit set through sysfs is obeyed.
    std::fs::write("/sys/block/limits/queue/max_sectors_kb", "64").expect("set");
    let mut server = Manual::new(&disk);
    let reader = read_in_thread(disk.path(), 0, 65536 + BLOCK);
    let (_, id) = server.fetch();
    let mut sizes = vec![server.buffer.total_bytes()];
    if server.answer(abi::OP_ANSWER_READ, id, -5).expect("answer").is_none() {
        server.fetch();
    }
    sizes.push(server.buffer.total_bytes());
    let id = server.buffer.op_id();
    server.answer(abi::OP_ANSWER_READ, id, -5).expect("answer");
    assert_eq!(sizes, [65536, BLOCK as u64], "the limit of 64 KiB was not obeyed");
    assert_eq!(reader.join().expect("reader"), Err(Errno::IO));
    drop(server);
    disk.destroy();
}

/// The limit of devices is a parameter; the original's parameters are accepted.
fn module_parameters(context: &mut Context) {
    for refused in ["max_devices=0", "max_devices=4097"] {
        assert!(context.try_load_module(refused).is_err(), "{refused}");
    }
    context.load_module("max_devices=60 max_minors=255 debug_logs=1 data_interrogation=1");
    let disks: Vec<_> = (0..60).map(|index| Disk::create(&format!("p{index}"), 1024)).collect();
    let control = Control::open().expect("control");
    assert_eq!(control.create_raw(&mut create(b"p60")), Err(Errno::INVAL), "the 61st");
    assert_eq!(control.list().expect("list").len(), 50, "a version 1 list has 50 entries");
    for disk in &disks {
        assert_eq!(control.handle_by_name(&disk.name).expect("look up"), disk.handle);
    }
    control.destroy_all(true).expect("destroy all");
    assert_eq!(control.list().expect("list"), []);
}

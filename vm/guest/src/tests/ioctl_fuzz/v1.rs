// SPDX-License-Identifier: MIT OR Apache-2.0
//! Version 1: calls on the control node, and servers on the node of a disk.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;
use zosbd2_abi::v1 as abi;

use super::calls::Call;
use super::process::Node;
use super::thread::Thread;
use crate::guest::raw::{self, PAGE, Pages, Plain};

/// Most calls of a server in one step.
const CALLS: u64 = 6;

impl Thread<'_> {
    /// One call on the control node.
    pub(super) fn control_1(&mut self) {
        let node = Node::any(&mut self.random);
        let name = if self.random.chance(95) { node.field() } else { noise_name(&self.random.bytes(32)) };
        let force = u32::from(self.random.chance(60));
        match self.random.below(16) {
            0..4 => self.create_1(),
            4 => {
                let handle = self.handle_1();
                let destroy = abi::DestroyByHandle { handle, error: 7, force };
                self.call_1(Call::DestroyByHandle1, abi::IOCTL_DESTROY_BY_HANDLE, &destroy);
            }
            5 => {
                let destroy = abi::DestroyByName { name, error: 7, force };
                self.call_1(Call::DestroyByName1, abi::IOCTL_DESTROY_BY_NAME, &destroy);
            }
            6 if self.random.chance(50) => {
                self.call_1(Call::DestroyAll1, abi::IOCTL_DESTROY_ALL, &abi::DestroyAll { force });
            }
            7 | 8 => {
                let query = abi::HandleByName { name, handle: 4711, error: 7 };
                self.call_1(Call::HandleByName1, abi::IOCTL_HANDLE_BY_NAME, &query);
            }
            9 | 10 => {
                let list = abi::List { count: u32::MAX, handles: [u32::MAX; abi::LIST_ENTRIES] };
                if let Some(after) = self.call_1(Call::List1, abi::IOCTL_LIST, &list) {
                    let count = usize::try_from(after.count).expect("small");
                    assert!(after.handles[..count].iter().all(|handle| *handle != 0), "{after:?}");
                    assert!(after.handles[count..].iter().all(|handle| *handle == 0), "{after:?}");
                }
            }
            11 | 12 => {
                let query = self.handle_1();
                let status = abi::Status { query, ..abi::Status::default() };
                if let Some(after) = self.call_1(Call::Status1, abi::IOCTL_STATUS, &status) {
                    assert_eq!((after.handle, after.reserved, after.block_size), (query, 0, abi::BLOCK_SIZE));
                }
            }
            13 => {
                self.begins(Call::Ping1);
                let result = raw::ioctl(self.process.control.as_fd(), abi::IOCTL_PING, 0).map(|_| ());
                self.ends(Call::Ping1, result);
            }
            _ => self.serve_1(),
        }
    }

    fn create_1(&mut self) {
        let node =
            if self.random.chance(90) { Node::v1(&mut self.random) } else { Node::any(&mut self.random) };
        let mut create = abi::Create {
            name: node.field(),
            block_size: abi::BLOCK_SIZE,
            block_count: 1024,
            timeout_s: 1,
            max_segments: self.random.pick(&[0, 1, 16, 256, u32::MAX]),
            batch_queue: self.random.pick(&[0, 1, 256]),
            handle: 4711,
            error: 7,
            ..abi::Create::default()
        };
        match self.random.below(12) {
            0 => create.block_size = self.random.pick(&[0, 512, 4097]),
            1 => create.block_count = self.random.pick(&[0, 1023, u64::MAX]),
            2 => create.timeout_s = self.random.pick(&[0, 1201]),
            3 => create.batch_queue = self.random.pick(&[257, u32::MAX]),
            4 => create.name = noise_name(&self.random.bytes(32)),
            _ => {}
        }
        self.call_1(Call::Create1, abi::IOCTL_CREATE, &create);
    }

    /// A handle that may belong to a device.
    fn handle_1(&mut self) -> u32 {
        if self.random.chance(20) {
            return self.random.pick(&[0, 1, u32::MAX, 4711]);
        }
        let query = abi::HandleByName { name: Node::v1(&mut self.random).field(), ..Default::default() };
        let found = self.call_1(Call::HandleByName1, abi::IOCTL_HANDLE_BY_NAME, &query);
        found.map_or(0, |found| found.handle)
    }

    /// A call with this argument, sometimes in invalid memory. Returns the argument after a successful call.
    fn call_1<T: Plain>(&mut self, call: Call, command: u32, argument: &T) -> Option<T> {
        let own = self.memory.argument.at_end(size_of::<T>());
        self.memory.argument.put_value(own, argument);
        let bad = self.random.chance(8);
        let at = if bad { self.memory.bad(&mut self.random, size_of::<T>()).0 } else { own };
        self.begins(call);
        let result = raw::ioctl(self.process.control.as_fd(), command, at).map(|_| ());
        self.ends(call, result);
        (result.is_ok() && !bad).then(|| self.memory.argument.get_value(own))
    }

    /// Serves a disk for some calls, with correct and wrong answers.
    pub(super) fn serve_1(&mut self) {
        let Some(node) = self.some_node(Node::v1) else { return };
        self.begins(Call::Open);
        let writes = self.random.chance(95);
        let opened = File::options().read(true).write(writes).open(node.path());
        let opened = opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        self.ends(Call::Open, opened.as_ref().map(|_| ()).map_err(|errno| *errno));
        let Ok(file) = opened else { return };
        let query = abi::HandleByName { name: node.field(), ..Default::default() };
        let found = self.call_1(Call::HandleByName1, abi::IOCTL_HANDLE_BY_NAME, &query);
        let handle = found.map_or(0, |found| found.handle);
        let buffer = Pages::new(abi::OPERATION_BYTES);
        let whole = buffer.at_end(abi::OPERATION_BYTES);
        // Opcode of the answer, op id of the request.
        let mut answer: Option<(u32, u32)> = None;
        for _ in 0..=self.random.below(CALLS) {
            if self.random.chance(5) {
                self.begins(Call::BlockPing1);
                let result = raw::ioctl(file.as_fd(), abi::IOCTL_BLOCK_PING, 0).map(|_| ());
                self.ends(Call::BlockPing1, result);
            }
            let mut handle = handle;
            let (mut opcode, mut op_id) = answer.unwrap_or((abi::OP_FETCH, 0));
            match self.random.below(40) {
                0 => handle ^= 1,
                1 => opcode = self.random.pick(&[abi::OP_STATUS, 0, u32::MAX, abi::OP_NOTHING]),
                2 => {
                    opcode = self.random.pick(&[
                        abi::OP_ANSWER_READ,
                        abi::OP_ANSWER_WRITE,
                        abi::OP_ANSWER_DISCARD,
                        abi::OP_SHUTDOWN_NOTICE,
                    ]);
                }
                3 => op_id = self.random.pick(&[op_id ^ 1, op_id.wrapping_add(1 << 16), u32::MAX]),
                _ => {}
            }
            // Sometimes the data area is missing, or even the tail.
            let missing =
                if self.random.chance(5) { self.random.pick(&[abi::OPERATION_BYTES / 2, PAGE]) } else { 0 };
            let at = whole + missing;
            buffer.put(at, &u64::from(handle).to_ne_bytes());
            buffer.put(at + 8, &u64::from(opcode).to_ne_bytes());
            let error = if self.random.chance(90) { 0_i32 } else { -5 };
            buffer.put(at + abi::OPERATION_TAIL_OFFSET, &error.to_ne_bytes());
            buffer.put(at + abi::OPERATION_TAIL_OFFSET + 4, &op_id.to_ne_bytes());
            let call = if opcode == abi::OP_FETCH { Call::Fetch1 } else { Call::Answer1 };
            self.begins(call);
            let result = raw::ioctl(file.as_fd(), abi::IOCTL_OPERATION, at).map(|_| ());
            self.ends(call, result);
            if result.is_err() {
                // The server still holds the request, or a signal came: the answer may be repeated.
                if matches!(result, Err(Errno::INTR | Errno::NOMEM | Errno::INVAL)) {
                    continue;
                }
                return;
            }
            answer = self.fetched_1(&buffer, at);
        }
        if self.random.chance(70) {
            if let Some((opcode, op_id)) = answer {
                self.answer_1(file.as_fd(), handle, &buffer, opcode, op_id);
            }
        }
    }

    /// The last answer of a step. The call fetches as well; the notice requested before makes it return.
    fn answer_1(&self, file: BorrowedFd<'_>, handle: u32, buffer: &Pages, opcode: u32, op_id: u32) {
        let at = buffer.at_end(abi::OPERATION_BYTES);
        buffer.put(at, &u64::from(handle).to_ne_bytes());
        buffer.put(at + 8, &u64::from(opcode).to_ne_bytes());
        buffer.put(at + abi::OPERATION_TAIL_OFFSET, &u64::from(op_id).wrapping_shl(32).to_ne_bytes());
        self.begins(Call::Answer1);
        let result = raw::ioctl(file, abi::IOCTL_OPERATION, at).map(|_| ());
        self.ends(Call::Answer1, result);
    }

    /// Reads the result of a call: opcode of its answer, and op id.
    fn fetched_1(&self, buffer: &Pages, at: usize) -> Option<(u32, u32)> {
        let word = |at| u32::from_ne_bytes(buffer.get(at, 4).try_into().expect("four bytes"));
        let (opcode, segments) = (word(at + 8), word(at + 40));
        assert!(word(at) == 0 && word(at + abi::OPERATION_TAIL_OFFSET) == 0, "handle or error is not 0");
        assert!(segments <= abi::MAX_SEGMENTS, "{segments} segments");
        let answer = match opcode {
            abi::OP_READ => abi::OP_ANSWER_READ,
            abi::OP_WRITE => abi::OP_ANSWER_WRITE,
            abi::OP_DISCARD => abi::OP_ANSWER_DISCARD,
            abi::OP_SHUTDOWN_NOTICE | abi::OP_GONE => return None,
            _ => panic!("a fetch brought opcode {opcode} for thread {}", self.slot),
        };
        assert!(segments > 0, "a request without a segment");
        Some((answer, word(at + abi::OPERATION_TAIL_OFFSET + 4)))
    }
}

/// Random bytes as a name, but never a valid name: the fuzzer creates no nodes in `/dev` with unknown names.
fn noise_name(bytes: &[u8]) -> [u8; abi::NAME_BYTES] {
    let mut name: [u8; abi::NAME_BYTES] = bytes.try_into().expect("as long as a name");
    name[0] = b'/';
    name
}

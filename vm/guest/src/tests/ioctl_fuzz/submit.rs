// SPDX-License-Identifier: MIT OR Apache-2.0
//! Submitters: I/O and the block layer's own ioctls on any nodes. The servers decide the outcome.

use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::super::support::Aligned;
use super::calls::Call;
use super::process::Node;
use super::thread::Thread;
use crate::guest::raw;

const BLKRRPART: u32 = 0x125f;
const BLKFLSBUF: u32 = 0x1261;
const BLKDISCARD: u32 = 0x1277;
const BLKSECDISCARD: u32 = 0x127d;
const BLKZEROOUT: u32 = 0x127f;

/// Offsets are below this.
const RANGE: u64 = 1 << 20;

impl Thread<'_> {
    /// Maps a disk as memory for later calls, in place of the previous one.
    pub(super) fn map(&mut self) {
        let Some(node) = self.some_node(Node::any) else { return self.memory.unmap() };
        self.begins(Call::Map);
        let result = self.memory.map(&node);
        self.ends(Call::Map, result);
    }

    /// Opens a disk, uses it and closes it.
    pub(super) fn submit(&mut self) {
        let Some(node) = self.some_node(Node::any) else { return };
        let mut flags = OFlags::CLOEXEC
            | self.random.pick(&[OFlags::RDWR, OFlags::RDWR, OFlags::RDWR, OFlags::RDWR, OFlags::RDONLY]);
        let direct = self.random.chance(60);
        flags |= if direct { OFlags::DIRECT } else { OFlags::empty() };
        flags |= if self.random.chance(3) { OFlags::EXCL } else { OFlags::empty() };
        self.begins(Call::Open);
        let opened = open(node.path(), flags, Mode::empty());
        self.ends(Call::Open, opened.as_ref().map(|_| ()).map_err(|errno| *errno));
        let Ok(file) = opened else { return };
        for _ in 0..=self.random.below(10) {
            // The block layer usually refuses direct I/O and ranges that are not whole blocks.
            let unit = self.random.pick(&[4096, 4096, 4096, 512, 1]);
            let offset = self.random.below(RANGE / unit) * unit;
            let length = self.random.pick(&[4096, 4096, 8192, 65536, 131_072, unit]);
            let bytes = usize::try_from(length).expect("small");
            let range = |call, command| (call, Some((command, offset, length)));
            let (call, ranged) = match self.random.below(20) {
                0..8 => (Call::Read, None),
                8..14 => (Call::Write, None),
                14 => (Call::Sync, None),
                15 => range(Call::Discard, BLKDISCARD),
                16 => range(Call::WriteZeroes, BLKZEROOUT),
                17 => range(Call::SecureErase, BLKSECDISCARD),
                18 => range(Call::Rescan, BLKRRPART),
                _ => range(Call::FlushBuffers, BLKFLSBUF),
            };
            let mut buffer = Aligned::new(bytes, 0);
            self.begins(call);
            let result = match (call, ranged) {
                (Call::Read, _) => rustix::io::pread(&file, buffer.bytes_mut(), offset).map(|_| ()),
                (Call::Write, _) => rustix::io::pwrite(&file, buffer.bytes(), offset).map(|_| ()),
                (_, Some((command, offset, length))) => self.range(file.as_fd(), command, offset, length),
                _ => rustix::fs::fsync(&file),
            };
            self.ends(call, result);
            // The disk is gone.
            if result == Err(Errno::NXIO) || result == Err(Errno::NODEV) {
                return;
            }
        }
        if self.random.chance(10) {
            self.unknown_to_node(file.as_fd(), node.version);
        }
    }

    /// An ioctl of the block layer that takes a range, or nothing.
    fn range(
        &self,
        file: std::os::fd::BorrowedFd<'_>,
        command: u32,
        offset: u64,
        length: u64,
    ) -> Result<(), Errno> {
        let at = self.memory.argument.at_end(16);
        self.memory.argument.put(at, &offset.to_ne_bytes());
        self.memory.argument.put(at + 8, &length.to_ne_bytes());
        raw::ioctl(file, command, at).map(|_| ())
    }

    /// Ioctl numbers of this project that the node does not know.
    fn unknown_to_node(&mut self, file: std::os::fd::BorrowedFd<'_>, version: u32) {
        use zosbd2_abi::{v1, v2};
        let at = self.memory.argument.at_end(512);
        self.memory.argument.put(at, &self.random.bytes(512));
        let mut commands =
            vec![v2::IOCTL_ENTER, v2::IOCTL_CREATE, v2::IOCTL_START, v1::IOCTL_CREATE, v1::IOCTL_STATUS];
        if version == 2 {
            commands.extend([v1::IOCTL_OPERATION, v1::IOCTL_BLOCK_PING]);
        }
        let command = self.random.pick(&commands);
        self.begins(Call::UnknownBlock);
        let result = raw::ioctl(file, command, at).map(|_| ());
        self.ends(Call::UnknownBlock, result);
    }
}

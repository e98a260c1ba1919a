// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux native asynchronous I/O (`io_submit`): several reads in one system call, which the kernel plugs.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use super::raw::{PAGE, Pages, last_errno};

/// `IOCB_CMD_PREAD`.
const READ: u16 = 0;

/// Reads of one page each that are in flight.
///
/// Dropping the value waits for all of them, because the kernel writes into their memory.
#[derive(Debug)]
pub(crate) struct Reads {
    context: libc::c_ulong,
    pages: Pages,
    under_way: usize,
}

impl Reads {
    /// Submits a read of a page at each offset, all in one call. The file must be open for direct I/O;
    /// otherwise the call waits for each read.
    pub(crate) fn submit(fd: BorrowedFd<'_>, offsets: &[u64]) -> Self {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's ID into a word of this function.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, offsets.len(), &raw mut context) };
        assert_eq!(made, 0, "io_setup: {}", last_errno());
        let mut reads = Self { context, pages: Pages::new(offsets.len() * PAGE), under_way: 0 };
        let first = reads.pages.at_end(offsets.len() * PAGE);
        let mut blocks: Vec<libc::iocb> = Vec::with_capacity(offsets.len());
        for (index, offset) in offsets.iter().enumerate() {
            // SAFETY: zero is a valid value of every field.
            let mut block: libc::iocb = unsafe { std::mem::zeroed() };
            block.aio_lio_opcode = READ;
            block.aio_fildes = fd.as_raw_fd().unsigned_abs();
            block.aio_buf = (first + index * PAGE) as u64;
            block.aio_nbytes = PAGE as u64;
            block.aio_offset = i64::try_from(*offset).expect("an offset");
            block.aio_data = index as u64;
            blocks.push(block);
        }
        let list: Vec<*mut libc::iocb> = blocks.iter_mut().map(ptr::from_mut).collect();
        // SAFETY: the control blocks live until the call has copied them. The memory that they name lives in
        // `reads`, whose drop waits for the reads.
        let submitted = unsafe { libc::syscall(libc::SYS_io_submit, context, list.len(), list.as_ptr()) };
        assert!(submitted >= 0, "io_submit: {}", last_errno());
        reads.under_way = usize::try_from(submitted).expect("not negative");
        assert_eq!(reads.under_way, offsets.len(), "io_submit took a part of the reads");
        reads
    }

    /// Waits for all reads. Returns the number of read bytes of each, in the order of the offsets.
    pub(crate) fn wait(mut self) -> Vec<Result<usize, Errno>> {
        let mut results = vec![Err(Errno::INPROGRESS); self.under_way];
        for (index, result) in self.collect() {
            results[index] = result;
        }
        results
    }

    fn collect(&mut self) -> Vec<(usize, Result<usize, Errno>)> {
        let mut ends = Vec::new();
        while self.under_way > 0 {
            // An event: the data of the control block, its address, the result, and a second one.
            let mut events = vec![[0_i64; 4]; self.under_way];
            // SAFETY: the kernel writes at most as many events as there is room for.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    1,
                    events.len(),
                    events.as_mut_ptr(),
                    ptr::null_mut::<libc::timespec>(),
                )
            };
            let Ok(got) = usize::try_from(got) else {
                assert_eq!(last_errno(), Errno::INTR, "io_getevents");
                continue;
            };
            for [index, _, result, _] in events.drain(..got) {
                let errno = || Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO));
                let index = usize::try_from(index).expect("an index");
                ends.push((index, usize::try_from(result).map_err(|_| errno())));
            }
            self.under_way -= got;
        }
        ends
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        // SAFETY: the context belongs to this value; the call waits for reads in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations that no safe library offers: ioctls with any number and any address, memory that ends at an unmapped
//! page, memory that never comes, and signal handlers that count.
//!
//! The ioctls pass addresses to the kernel that may be invalid on purpose. The functions are safe as long as the
//! kernel can only write into [`Pages`] or nowhere. So an address is either inside [`Pages`] or below the first
//! page.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;

/// Size of a page.
pub(crate) const PAGE: usize = 4096;

/// Makes a block device read-only, or not.
pub(crate) const BLKROSET: u32 = 0x125d;
/// Discards a range of a block device.
pub(crate) const BLKDISCARD: u32 = 0x1277;
/// Writes zeros to a range of a block device.
pub(crate) const BLKZEROOUT: u32 = 0x127f;

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// An ioctl whose argument is a number: an unmapped address, or one inside [`Pages`].
pub(crate) fn ioctl(fd: BorrowedFd<'_>, command: u32, argument: usize) -> Result<i32, Errno> {
    // SAFETY: by the rule of the module header the kernel can only write to pages that nothing else uses.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(command), argument) } {
        result if result < 0 => Err(last_errno()),
        result => Ok(result),
    }
}

/// Takes ownership of the descriptor `fd` that an ioctl has just opened.
pub(crate) fn own(fd: i32) -> OwnedFd {
    // SAFETY: the caller promises that the descriptor is open and has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Like [`ioctl`], for a call of version 2 that returns a server descriptor.
pub(crate) fn ioctl_for_descriptor(
    fd: BorrowedFd<'_>,
    command: u32,
    argument: usize,
) -> Result<OwnedFd, Errno> {
    let calls = [zosbd2_abi::v2::IOCTL_CREATE, zosbd2_abi::v2::IOCTL_ATTACH];
    assert!(calls.contains(&command), "{command:#x} returns no descriptor");
    ioctl(fd, command, argument).map(own)
}

/// A mapping followed by a page that is not mapped.
#[derive(Debug)]
pub(crate) struct Pages {
    base: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: plain memory, to which no reference is ever made.
unsafe impl Send for Pages {}
// SAFETY: as above; accesses go through copies, and tests do not race on them.
unsafe impl Sync for Pages {}

impl Pages {
    /// At least this many bytes, followed by an unmapped page.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.next_multiple_of(PAGE);
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping anywhere.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes + PAGE, protection, flags, -1, 0) };
        assert!(base != libc::MAP_FAILED, "map {bytes} bytes: {}", last_errno());
        // SAFETY: the mapping is one page longer than `bytes`.
        let last = unsafe { base.byte_add(bytes) };
        // SAFETY: the last page of the mapping just made.
        let result = unsafe { libc::munmap(last, PAGE) };
        assert_eq!(result, 0, "unmap the page behind: {}", last_errno());
        Self { base, bytes }
    }

    /// The last page that a process can have.
    pub(crate) fn last() -> Self {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
        );
        // With five levels of page tables, and with four. The next page does not belong to user space.
        for bits in [56, 47] {
            let wanted = ptr::without_provenance_mut((1 << bits) - 2 * PAGE);
            // SAFETY: a new anonymous mapping, which replaces none.
            let base = unsafe { libc::mmap(wanted, PAGE, protection, flags, -1, 0) };
            if base != libc::MAP_FAILED {
                assert_eq!(base, wanted, "mapped elsewhere");
                return Self { base, bytes: PAGE };
            }
        }
        panic!("map the last page: {}", last_errno());
    }

    /// The address from which `bytes` bytes reach up to the unmapped page.
    pub(crate) fn at_end(&self, bytes: usize) -> usize {
        assert!(bytes <= self.bytes, "{bytes} bytes do not fit");
        self.base.addr() + self.bytes - bytes
    }

    /// Puts bytes at an address inside.
    pub(crate) fn put(&self, address: usize, bytes: &[u8]) {
        let at = self.check(address, bytes.len());
        // SAFETY: inside the mapping; `bytes` is elsewhere.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }

    /// Takes bytes from an address inside.
    pub(crate) fn get(&self, address: usize, bytes: usize) -> Vec<u8> {
        let at = self.check(address, bytes);
        let mut copy = vec![0; bytes];
        // SAFETY: inside the mapping; `copy` is elsewhere.
        unsafe { ptr::copy_nonoverlapping(at, copy.as_mut_ptr(), bytes) };
        copy
    }

    /// Makes the mapping read-only.
    pub(crate) fn forbid_writing(&self) {
        // SAFETY: the whole mapping. Writes through `put` would fault, and tests make none afterwards.
        let result = unsafe { libc::mprotect(self.base, self.bytes, libc::PROT_READ) };
        assert_eq!(result, 0, "protect: {}", last_errno());
    }

    /// Withholds every unused page: a thread that touches one waits until the returned descriptor is closed, or
    /// until it is killed.
    pub(crate) fn withhold(&self) -> Result<OwnedFd, Errno> {
        const MODE_MISSING: u64 = 1;
        self.hand_over_faults(MODE_MISSING)
    }

    /// Write-protects every used page: a thread that writes one waits until the returned descriptor is closed, or
    /// until it is killed. The descriptor polls readable while a thread waits.
    pub(crate) fn withhold_from_writers(&self) -> Result<OwnedFd, Errno> {
        const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
        const MODE_WP: u64 = 2;
        const PROTECT: u64 = 1;
        let fd = self.hand_over_faults(MODE_WP)?;
        userfault(&fd, UFFDIO_WRITEPROTECT, [self.base.addr() as u64, self.bytes as u64, PROTECT])?;
        Ok(fd)
    }

    /// Page faults of this mode wait for the returned descriptor, which answers none.
    fn hand_over_faults(&self, mode: u64) -> Result<OwnedFd, Errno> {
        const UFFDIO_API: u64 = 0xc018_aa3f;
        const UFFDIO_REGISTER: u64 = 0xc020_aa00;
        const API: u64 = 0xaa;
        // SAFETY: the call takes only flags.
        let result = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let raw = i32::try_from(result).map_err(|_| Errno::IO)?;
        if raw < 0 {
            return Err(last_errno());
        }
        // SAFETY: a descriptor just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        userfault(&fd, UFFDIO_API, [API, 0, 0])?;
        userfault(&fd, UFFDIO_REGISTER, [self.base.addr() as u64, self.bytes as u64, mode, 0])?;
        Ok(fd)
    }

    fn check(&self, address: usize, bytes: usize) -> *mut u8 {
        let offset = address.checked_sub(self.base.addr()).expect("address below the pages");
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} reach behind the pages");
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.byte_add(offset) }.cast()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and nobody uses it any more.
        unsafe { libc::munmap(self.base, self.bytes) };
    }
}

/// A call of userfaultfd(2) whose argument has `WORDS` words, as its number must say, too.
fn userfault<const WORDS: usize>(
    fd: &OwnedFd,
    command: u64,
    mut argument: [u64; WORDS],
) -> Result<(), Errno> {
    assert_eq!(command >> 16 & 0x3fff, size_of_val(&argument) as u64, "the size in {command:#x}");
    // SAFETY: the call reads and writes the argument, whose size was just compared with the size in the number.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), command, argument.as_mut_ptr()) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Types that consist of bytes without padding, for which every bit pattern is valid.
///
/// # Safety
///
/// The type must be such a type.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($version:ident: $($name:ident)*) => { $(
        // SAFETY: integers only, no padding (sizes asserted in abi).
        unsafe impl Plain for zosbd2_abi::$version::$name {}
    )* };
}

plain!(v1: Create DestroyByHandle DestroyByName DestroyAll HandleByName List Status);
plain!(v2: Info Create Attach Destroy List ListEntry Status Start Resize Claim Stats Enter Commit Iovec Request);
plain!(v2: Latency Requests Outstanding Blob Settings);

/// The bytes of a value.
pub(crate) fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
    // SAFETY: `value` is that long and has no padding (`Plain`).
    unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// The value of bytes.
pub(crate) fn value_of<T: Plain>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>());
    // SAFETY: that many bytes are there, and any will do (`Plain`).
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

impl Pages {
    /// Puts a value at an address inside.
    pub(crate) fn put_value<T: Plain>(&self, address: usize, value: &T) {
        self.put(address, &bytes_of(value));
    }

    /// Takes a value from an address inside.
    pub(crate) fn get_value<T: Plain>(&self, address: usize) -> T {
        value_of(&self.get(address, size_of::<T>()))
    }
}

/// A shared mapping of a file, to which no reference is ever made.
#[derive(Debug)]
pub(crate) struct FilePages {
    base: *mut libc::c_void,
    bytes: usize,
}

impl FilePages {
    #[track_caller]
    pub(crate) fn new(file: BorrowedFd<'_>, bytes: usize) -> Self {
        Self::attempt(file, bytes).unwrap_or_else(|errno| panic!("map a file: {errno}"))
    }

    /// Like [`new`](Self::new), but returns the kernel's error.
    pub(crate) fn attempt(file: BorrowedFd<'_>, bytes: usize) -> Result<Self, Errno> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping anywhere.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED { Err(last_errno()) } else { Ok(Self { base, bytes }) }
    }

    pub(crate) fn address(&self) -> usize {
        self.base.addr()
    }

    /// Puts a value at an offset inside.
    pub(crate) fn put_value<T: Plain>(&self, offset: usize, value: &T) {
        assert!(offset + size_of::<T>() <= self.bytes, "{offset} is behind the pages");
        // SAFETY: within the mapping, as just checked.
        let at = unsafe { self.base.byte_add(offset) }.cast::<T>();
        // SAFETY: as above; no reference to the mapping is ever made.
        unsafe { at.write_unaligned(*value) };
    }
}

impl Drop for FilePages {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and nobody uses it any more.
        unsafe { libc::munmap(self.base, self.bytes) };
    }
}

/// Words of a file that several processes map and share.
#[derive(Debug)]
pub(crate) struct SharedWords {
    base: *mut libc::c_void,
    count: usize,
}

// SAFETY: plain memory that is only accessed as atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps this many words of a file and extends the file to that length. The file must keep that length.
    pub(crate) fn new(file: &std::fs::File, count: usize) -> Self {
        let bytes = count * size_of::<AtomicU64>();
        file.set_len(bytes as u64).expect("make a file longer");
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping anywhere.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert!(base != libc::MAP_FAILED, "map a file: {}", last_errno());
        Self { base, count }
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has that length, begins at a page and lives as long as `self`. Other processes, too,
        // access it only as atomics.
        unsafe { std::slice::from_raw_parts(self.base.cast(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value; `words` lends it for no longer than `self` lives.
        unsafe { libc::munmap(self.base, self.count * size_of::<AtomicU64>()) };
    }
}

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Installs a handler that counts, without `SA_RESTART`.
pub(crate) fn count_signal(signal: i32) {
    // SAFETY: zero is a valid value of every field.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as *const () as usize;
    // SAFETY: the handler only touches an atomic.
    let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0, "sigaction: {}", last_errno());
}

/// How often the counting handler ran.
pub(crate) fn signals_handled() -> u32 {
    HANDLED.load(Ordering::SeqCst)
}

/// Sends a signal to one thread of this process, if the thread still exists.
pub(crate) fn signal_thread(thread: i32, signal: i32) {
    // SAFETY: numbers only.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, signal) };
    assert!(result == 0 || last_errno() == Errno::SRCH, "tgkill: {}", last_errno());
}

/// The number of the calling thread.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: no argument.
    unsafe { libc::gettid() }
}

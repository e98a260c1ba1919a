// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest needs of the kernel that no safe crate has. The only unsafe code of the package.

use rustix::ioctl::{Setter, ioctl};
use rustix::mount::MountPropagationFlags;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io;
use std::net::UdpSocket;

/// Gives the calling thread a view of the mounts of its own: what it mounts nobody else sees.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: the table of descriptors stays shared, which is what the function's promise is about.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// `struct ifreq` as `SIOCSIFFLAGS` reads it: the name, then a union that begins with the flags.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

const SIOCSIFFLAGS: u32 = 0x8914;
const UP_AND_RUNNING: i16 = 0x1 | 0x40;

/// Switches the loopback interface on.
pub(crate) fn loopback_up() -> io::Result<()> {
    // Any socket gives access to the interfaces.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut request = InterfaceFlags { name: [0; 16], flags: UP_AND_RUNNING, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq` (40 bytes on x86-64, as InterfaceFlags) and writes nothing.
    let setter = unsafe { Setter::<SIOCSIFFLAGS, InterfaceFlags>::new(request) };
    // SAFETY: the opcode and its argument's type are those that `setter` was made for, above.
    unsafe { ioctl(&socket, setter) }?;
    Ok(())
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel interfaces of the guest that no safe crate offers. Unsafe code is only here, in `raw`, in `aio` and in `processor`.

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl};
use rustix::mount::MountPropagationFlags;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io;
use std::net::UdpSocket;

/// Gives the calling thread its own mount namespace: no other thread sees what it mounts.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared, which is the only thing that the function's safety rule is about.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// Forks a child that sleeps until it is killed. Returns its process ID.
pub(crate) fn fork_sleeper() -> i32 {
    // SAFETY: the child makes one system call, again and again, which is allowed after a fork with threads.
    let pid = unsafe { libc::fork() };
    if pid != 0 {
        return pid;
    }
    loop {
        // SAFETY: waits for signals; no memory is involved.
        unsafe { libc::pause() };
    }
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

/// Makes every `ioctl` of the calling thread, and of threads that it starts, fail with this error before the
/// kernel looks at the call. Other threads are not affected.
pub(crate) fn fail_ioctls(error: Errno) -> io::Result<()> {
    let instruction = |code: u32, k, jf| {
        let code = u16::try_from(code).expect("codes have 16 bits");
        libc::sock_filter { code, jt: 0, jf, k }
    };
    let number = u32::try_from(libc::SYS_ioctl).expect("a small number");
    let error = u32::try_from(error.raw_os_error()).expect("a positive number");
    let refuse = libc::SECCOMP_RET_ERRNO | error;
    let mut filter = [
        // The number of the system call is the first field of `struct seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 1),
        instruction(libc::BPF_RET | libc::BPF_K, refuse, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which points to as many instructions as it states, and keeps no
    // pointer to it.
    let code =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes SIGPIPE end this process, as in programs of languages that do not change the signal.
pub(crate) fn default_sigpipe() -> io::Result<()> {
    // SAFETY: no handler is set. This program neither uses the default action nor relies on the old one.
    if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

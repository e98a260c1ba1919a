// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes server descriptors away from forked children.
//!
//! The kernel notices the death of a server by the last close of its descriptor. A child that a process forks while
//! it serves has the descriptor, but none of the serving threads: if the parent dies then, the device stays live and
//! nobody serves it. So a handler replaces, in the child, each registered descriptor with one that does nothing.
//! The number stays in use, because the child's copy of the owner closes it at some time. The child forgets the
//! registrations: its own children have the replacement, and may have another file under the number.
//!
//! A descriptor is registered from its beginning ([`OwnFd::open`]): opening and registering happen inside of a gate that a
//! fork waits for. The wait is bounded, so a fork never hangs because a call that opens hangs.
//!
//! ```text
//! open:  OPENING + 1, and FORKS = 0 --> open, register --> OPENING - 1
//! fork:  FORKS + 1, wait for OPENING = 0 --> fork --> parent: FORKS - 1
//!                                                 --> child: replace, forget, FORKS = OPENING = 0
//! ```
//!
//! Only fork(3) and its like run the handlers. A child of a raw clone(2), and one that gets the descriptor in another
//! way, keeps it. So does the child of a fork that another thread had begun when this process opened its first descriptor,
//! because the handlers did not exist yet.

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Most registered descriptors. Further ones are not protected.
const PLACES: usize = 4096;

const FREE: i32 = -1;

/// The registered descriptors. The child handler reads it, so it takes no lock.
static REGISTERED: [AtomicI32; PLACES] = [const { AtomicI32::new(FREE) }; PLACES];

/// The descriptor that children get instead.
static SUBSTITUTE: AtomicI32 = AtomicI32::new(FREE);

/// Number of threads that open and register a descriptor.
static OPENING: AtomicU32 = AtomicU32::new(0);

/// Number of forks that are under way.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Longest wait of a fork for a thread that opens, and the other way round.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a wait looks.
const TICK: Duration = Duration::from_micros(100);

/// A descriptor that forked children do not get.
#[derive(Debug)]
pub(crate) struct OwnFd {
    // Dropped first: a number that is closed may not stay registered.
    place: Option<Place>,
    fd: OwnedFd,
}

impl OwnFd {
    /// Opens a descriptor. No child of this process gets it, also none that another thread forks meanwhile.
    pub(crate) fn open<E>(open: impl FnOnce() -> Result<OwnedFd, E>) -> Result<Self, E> {
        // The handlers come first, so that forks see the gate.
        let _ = install();
        let _gate = Gate::enter();
        open().map(Self::from)
    }

    /// Another descriptor of the same file.
    #[cfg(feature = "tokio")]
    pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> std::io::Result<Self> {
        Self::open(|| fd.try_clone_to_owned())
    }

    /// The descriptor, which forked children get from now on.
    pub(crate) fn into_fd(self) -> OwnedFd {
        drop(self.place);
        self.fd
    }
}

/// Takes a descriptor that exists. A child that is forked before keeps it.
impl From<OwnedFd> for OwnFd {
    fn from(fd: OwnedFd) -> Self {
        let place = Place::new(fd.as_fd());
        if let Err(error) = &place {
            tracing::warn!(%error, "a forked child will keep a descriptor");
        }
        Self { place: place.ok(), fd }
    }
}

impl AsFd for OwnFd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for OwnFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Keeps forks away while it exists.
struct Gate;

impl Gate {
    fn enter() -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            // Either this thread sees the fork, or the fork sees this thread: both add before they look.
            OPENING.fetch_add(1, Ordering::SeqCst);
            if FORKS.load(Ordering::SeqCst) == 0 || Instant::now() >= until {
                return Self;
            }
            OPENING.fetch_sub(1, Ordering::SeqCst);
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        OPENING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A file that forked children do not get. A child would keep the locks of the file after the death of this process,
/// so that the next server of the store could not have them.
///
/// In a child, the file is replaced by one that fails every read and write.
#[derive(Debug)]
pub struct OwnFile {
    // Dropped first: a number that is closed may not stay registered.
    _place: Option<Place>,
    file: File,
}

impl From<File> for OwnFile {
    fn from(file: File) -> Self {
        let place = Place::new(file.as_fd());
        if let Err(error) = &place {
            tracing::warn!(%error, "a forked child will keep a file");
        }
        Self { _place: place.ok(), file }
    }
}

impl Deref for OwnFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl AsFd for OwnFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Keeps a descriptor away from forked children until it is dropped: see
/// [`Server::keep_from_children`](crate::Server::keep_from_children).
#[derive(Debug)]
pub struct ForkGuard<'a> {
    _place: Place,
    /// The number must not be closed, and given to another file, while it is registered.
    _fd: BorrowedFd<'a>,
}

impl<'a> ForkGuard<'a> {
    /// Registers the descriptor. An error means that forked children keep it.
    pub(crate) fn new(fd: BorrowedFd<'a>) -> Result<Self, Errno> {
        Ok(Self { _place: Place::new(fd)?, _fd: fd })
    }
}

/// A registered number, until it is dropped. The owner drops it before it closes the number.
#[derive(Debug)]
pub(crate) struct Place {
    place: &'static AtomicI32,
    number: RawFd,
}

impl Place {
    pub(crate) fn new(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        install()?;
        let number = fd.as_raw_fd();
        let taken = |place: &&AtomicI32| {
            place.compare_exchange(FREE, number, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        REGISTERED.iter().find(taken).map(|place| Self { place, number }).ok_or(Errno::NFILE)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // In a forked child the registration is forgotten, and the place may be another number's.
        let _ = self.place.compare_exchange(self.number, FREE, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Installs the handlers, once.
fn install() -> Result<(), Errno> {
    static INSTALLED: OnceLock<Result<(), Errno>> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let substitute = eventfd(0, EventfdFlags::CLOEXEC)?;
        // It stays open as long as the process.
        SUBSTITUTE.store(substitute.into_raw_fd(), Ordering::Release);
        // SAFETY: the handlers are functions without arguments that live as long as the program: this code is
        // linked into the program, or into a library whose handlers libc removes when it is unloaded.
        match unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) } {
            0 => Ok(()),
            error => Err(Errno::from_raw_os_error(error)),
        }
    })
}

/// Runs before each fork, on its thread: closes the gate, and waits until no thread is inside.
extern "C" fn before_fork() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    let until = Instant::now() + PATIENCE;
    // A handler of a signal may fork on a thread that is inside, and waits in vain.
    while OPENING.load(Ordering::SeqCst) != 0 && Instant::now() < until {
        std::thread::sleep(TICK);
    }
}

/// Runs after each fork in the parent, on its thread: opens the gate.
extern "C" fn in_parent() {
    FORKS.fetch_sub(1, Ordering::SeqCst);
}

/// Runs in each forked child, where only async-signal-safe calls are allowed: other threads may have held any lock at
/// the fork. It reads atomics and calls dup3, which is a system call and nothing else. It keeps errno.
extern "C" fn in_child() {
    // SAFETY: it returns the address of this thread's errno, which is valid as long as the thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: see above; no reference to it exists.
    let before = unsafe { *errno };
    let substitute = SUBSTITUTE.load(Ordering::Acquire);
    // The threads that were counted do not exist here.
    FORKS.store(0, Ordering::SeqCst);
    OPENING.store(0, Ordering::SeqCst);
    for place in &REGISTERED {
        let number = place.swap(FREE, Ordering::AcqRel);
        if number != FREE {
            // SAFETY: replaces the file of a descriptor that is open as long as it is registered, in the child only.
            // All users of the number do system calls on it, which fail on an eventfd or do nothing: ioctls with
            // ENOTTY, reads and writes at an offset with ESPIPE. Both numbers are open, because the child has a copy of the parent's table.
            let replaced = unsafe { libc::dup3(substitute, number, libc::O_CLOEXEC) };
            if replaced < 0 {
                // SAFETY: as above. Nothing can open a file here before the child's copy of the owner closes the
                // number again, or the child calls exec or _exit, unless it opens files itself; a wrong close there
                // is better than a device that nobody serves.
                unsafe { libc::close(number) };
            }
        }
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};

    /// Exit status of a child that exits with 0 if `check` is true. It may only make system calls.
    fn in_forked_child(check: impl Fn() -> bool) -> Option<i32> {
        // SAFETY: the child makes system calls only, and leaves by _exit.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid == 0 {
            let good = check();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        let pid = rustix::process::Pid::from_raw(pid).expect("a child");
        waitpid(Some(pid), WaitOptions::empty()).expect("wait").expect("ended").1.exit_status()
    }

    #[test]
    fn a_child_has_another_file_under_the_registered_number() {
        let (reader, writer) = rustix::pipe::pipe().expect("pipe");
        let takes_a_byte = |fd: BorrowedFd<'_>| rustix::io::write(fd, b"x").is_ok();
        // A pipe takes one byte, an eventfd at least eight.
        let guard = ForkGuard::new(writer.as_fd()).expect("registered");
        let open = || rustix::io::fcntl_getfd(&writer).is_ok();
        assert_eq!(in_forked_child(|| open() && !takes_a_byte(writer.as_fd())), Some(0));
        assert!(takes_a_byte(writer.as_fd()), "the parent lost its descriptor");
        drop(guard);
        assert_eq!(in_forked_child(|| takes_a_byte(writer.as_fd())), Some(0), "it was registered no more");
        let mut bytes = [0; 8];
        assert_eq!(
            rustix::io::read(&reader, &mut bytes),
            Ok(2),
            "one from the parent, one from the second child"
        );
    }

    #[test]
    fn a_child_has_no_lock_of_a_file() {
        let file = tempfile::tempfile().expect("a file");
        let file = OwnFile::from(file);
        let locks = || rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
        assert!(locks());
        let reads = || rustix::io::pread(&file, &mut [0; 1], 0).is_ok();
        assert!(reads());
        assert_eq!(in_forked_child(|| !reads()), Some(0));
    }

    /// The write end of a pipe takes one byte, and what replaces it does not.
    fn is_pipe(number: RawFd) -> bool {
        // SAFETY: the number is open in the tests that use this.
        rustix::io::write(unsafe { BorrowedFd::borrow_raw(number) }, b"x").is_ok()
    }

    #[test]
    fn grandchildren_have_what_the_child_left_them() {
        let (_reader, writer) = rustix::pipe::pipe().expect("pipe");
        let (_other_reader, other) = rustix::pipe::pipe().expect("pipe");
        let own = OwnFd::from(writer);
        let number = own.as_raw_fd();
        let not_there = || in_forked_child(|| !is_pipe(number)) == Some(0);
        assert_eq!(in_forked_child(|| !is_pipe(number) && not_there()), Some(0));
        // The child puts a file of its own under the number.
        let still_there = || {
            // SAFETY: both numbers are open; what is replaced is the child's.
            let replaced = unsafe { libc::dup2(other.as_raw_fd(), number) } == number;
            replaced && in_forked_child(|| is_pipe(number)) == Some(0)
        };
        assert_eq!(in_forked_child(still_there), Some(0));
        assert!(is_pipe(number), "the parent lost its descriptor");
        assert!(is_pipe(own.into_fd().as_raw_fd()));
    }

    #[test]
    fn a_descriptor_is_registered_before_a_fork_sees_it() {
        let (_reader, writer) = rustix::pipe::pipe().expect("pipe");
        let (sender, opened) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| {
                OwnFd::open(|| {
                    let fd = writer.as_fd().try_clone_to_owned()?;
                    sender.send(fd.as_raw_fd()).expect("somebody listens");
                    // The gate is entered again only after that fork.
                    let until = Instant::now() + PATIENCE / 2;
                    while FORKS.load(Ordering::SeqCst) == 0 && Instant::now() < until {
                        std::thread::yield_now();
                    }
                    Ok::<_, std::io::Error>(fd)
                })
            });
            let number = opened.recv().expect("opened");
            assert_eq!(in_forked_child(|| !is_pipe(number)), Some(0));
            let own = opening.join().expect("no panic").expect("opened");
            assert!(is_pipe(own.as_raw_fd()));
        });
    }

    #[test]
    fn a_fork_waits_for_a_hanging_call_only_for_a_while() {
        let gate = Gate::enter();
        let begin = Instant::now();
        assert_eq!(in_forked_child(|| true), Some(0));
        assert!(begin.elapsed() >= PATIENCE && begin.elapsed() < 60 * PATIENCE, "{:?}", begin.elapsed());
        drop(gate);
    }

    #[test]
    fn places_are_used_again() {
        let (_reader, writer) = rustix::pipe::pipe().expect("pipe");
        for _ in 0..2 * PLACES {
            drop(ForkGuard::new(writer.as_fd()).expect("registered"));
        }
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors of this crate. Each error names the operation and the object.
//!
//! `Display` does not repeat the cause, which is `source()`. [`Error::chain`] and `Debug` print the message with
//! all its causes. So a program whose `main` returns an [`Error`] ends with a sentence.

mod memory;
mod request;

use crate::Errno;
use crate::v2::{Difference, Process, Users};
pub use memory::MemoryError;
pub use request::BadRequest;
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// Prints an error with all its causes, separated by colons.
///
/// ```
/// # let error = zosbd2::v2::Control::open_at("/nonexistent".as_ref()).unwrap_err();
/// eprintln!("cannot serve: {}", zosbd2::Chain(&error));
/// ```
#[derive(Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a call on the control node or on a device failed.
///
/// `Debug` prints the same as [`chain`](Self::chain): `main` prints the error that it returns in this form.
#[non_exhaustive]
#[derive(thiserror::Error)]
pub enum Error {
    /// A node could not be opened.
    #[error("open {}{hint}", path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// What the user may do about it, in parentheses, or nothing.
        hint: Cow<'static, str>,
        /// The kernel's error.
        source: Errno,
    },
    /// A node exists but is not of the expected kind.
    #[error("open {}: {problem}", path.display())]
    WrongNode {
        /// The node.
        path: PathBuf,
        /// What is wrong with it.
        problem: Cow<'static, str>,
    },
    /// The kernel would not accept this device name.
    #[error("device name {name:?} {problem}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An option is outside its range. The kernel was not asked.
    #[error("{operation} device {name}: {option} {value} is outside {min}..={max}")]
    Range {
        /// The operation that failed.
        operation: &'static str,
        /// Name of the device.
        name: String,
        /// The option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// Smallest accepted value.
        min: u64,
        /// Largest accepted value.
        max: u64,
    },
    /// An option is not valid, alone or together with another one. The kernel was not asked.
    #[error("{operation} device {name}: {option} {value} {problem}")]
    Option {
        /// The operation that failed.
        operation: &'static str,
        /// Name of the device.
        name: String,
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A descriptor that came from another process is not of the expected kind.
    #[error("take over descriptor: {problem}")]
    WrongDescriptor {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A call on the control node or on a server descriptor failed.
    #[error("{operation} {object}{hint}")]
    Control {
        /// The operation that failed.
        operation: &'static str,
        /// The device or node.
        object: String,
        /// What the error means for this operation, in parentheses, or empty.
        hint: Cow<'static, str>,
        /// The kernel's error.
        source: Errno,
    },
    /// The call that answers a request and fetches the next one failed.
    #[error("fetch a request of device {device}")]
    Fetch {
        /// Name of the device.
        device: String,
        /// The kernel's error.
        source: Errno,
    },
    /// The kernel sent an invalid request. The request can still be answered.
    #[error("request {op_id} of device {device}")]
    Request {
        /// Name of the device.
        device: String,
        /// The request's number.
        op_id: u64,
        /// What is wrong with it.
        source: BadRequest,
    },
    /// The kernel refused the answer to a request. The library then failed the request.
    #[error("answer request {handle:#x} of device {device}")]
    Refused {
        /// Name of the device.
        device: String,
        /// The request's handle.
        handle: u64,
        /// The kernel's error.
        source: Errno,
    },
    /// The backend returned a region of the wrong length. The request failed.
    #[error("backend of device {device} named {given} bytes of memory for {length} at {offset}")]
    Region {
        /// Name of the device.
        device: String,
        /// First byte on the device.
        offset: u64,
        /// Requested length in bytes.
        length: usize,
        /// Length of the region in bytes.
        given: usize,
    },
    /// The backend returned a region for the data of a write that may only be read. The request failed.
    #[error(
        "backend of device {device} named memory that may only be read for a write of {length} bytes at {offset}"
    )]
    ReadOnlyRegion {
        /// Name of the device.
        device: String,
        /// First byte on the device.
        offset: u64,
        /// Requested length in bytes.
        length: usize,
    },
    /// The backend panicked. Its request failed with an I/O error.
    #[error("backend of device {device} panicked in a {operation}{}", Range(*range))]
    BackendPanicked {
        /// Name of the device.
        device: String,
        /// The function of the backend, or the operation of the request.
        operation: &'static str,
        /// First byte and length of the request; `None` if the call was for no request.
        range: Option<(u64, u64)>,
    },
    /// A serving thread has no memory for its buffers.
    #[error("get buffers for a serving thread of device {device}")]
    Buffers {
        /// Name of the device.
        device: String,
        /// The cause.
        source: MemoryError,
    },
    /// A serving thread could not be bound to its CPUs. It serves on any CPU.
    #[error("bind a serving thread of device {device} to its CPUs")]
    Cpus {
        /// Name of the device.
        device: String,
        /// The kernel's error.
        source: Errno,
    },
    /// A device of that name exists, and is another one than the program would create.
    #[error(
        "device {name} exists, but is another one: {}. \
             Serve it with what it was created with, or destroy it first",
        differing(differences)
    )]
    Differs {
        /// Name of the device.
        name: String,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// A device of that name exists and is like the one that the program would create, but neither has an identity.
    #[error(
        "device {name} exists, but nothing tells that it is the disk of this program, because neither has an \
         identity. Give the program one (Builder::identity), or let it follow without one \
         (Builder::follow_without_identity); Control::destroy destroys the device"
    )]
    NoIdentity {
        /// Name of the device.
        name: String,
    },
    /// An older server of the device has not ended and could not be made to end, so this one does not serve.
    #[error(
        "take over device {device}: {} still has the descriptor of its older server: {problem}",
        named(processes)
    )]
    OlderServer {
        /// Name of the device.
        device: String,
        /// The processes that have its descriptor, as far as this process can see.
        processes: Vec<Process>,
        /// Why the older server was not made to end.
        problem: String,
    },
    /// A stop by force destroyed the device while it was in use. Data that was not written yet may be lost.
    #[error("device {device} was destroyed by force while it was in use ({users}): data may be lost")]
    Forced {
        /// Name of the device.
        device: String,
        /// What used the device.
        users: Users,
    },
    /// The memory of the process could not be locked.
    #[error("lock the memory of the process{hint}")]
    LockMemory {
        /// What the user can do about it, in parentheses, or empty.
        hint: &'static str,
        /// The kernel's error.
        source: Errno,
    },
    /// SIGINT and SIGTERM could not be caught.
    #[error("catch signals")]
    Signals {
        /// The system's error.
        source: std::io::Error,
    },
    /// A worker thread could not be started.
    #[error("start a worker thread for device {device}")]
    Spawn {
        /// Name of the device.
        device: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// The message with all its causes.
    #[must_use]
    pub fn chain(&self) -> Chain<'_> {
        Chain(self)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.chain(), f)
    }
}

fn differing(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn named(processes: &[Process]) -> String {
    if processes.is_empty() {
        return "a process that cannot be seen".to_owned();
    }
    processes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// The range of a request, for messages.
pub(crate) struct Range(pub(crate) Option<(u64, u64)>);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None | Some((_, 0)) => Ok(()),
            Some((offset, length)) => write!(f, " of {length} bytes at {offset}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_ends_with_a_sentence() {
        let error =
            Error::Open { path: "/dev/zosbd2ctl".into(), hint: " (hint)".into(), source: Errno::NOENT };
        assert_eq!(error.to_string(), "open /dev/zosbd2ctl (hint)");
        let sentence = "open /dev/zosbd2ctl (hint): No such file or directory (os error 2)";
        assert_eq!(format!("{error:?}"), sentence);
        assert_eq!(error.chain().to_string(), sentence);
        let source = MemoryError::Map { bytes: 7, source: Errno::NOMEM };
        assert_eq!(format!("{source:?}"), "map 7 bytes of memory: Cannot allocate memory (os error 12)");
        let error = Error::Buffers { device: "a".to_owned(), source };
        assert!(
            format!("{error:?}")
                .ends_with("device a: map 7 bytes of memory: Cannot allocate memory (os error 12)")
        );
    }

    #[test]
    fn a_panic_is_reported_with_its_request() {
        let error = |range| Error::BackendPanicked { device: "a".to_owned(), operation: "read", range };
        assert_eq!(error(None).to_string(), "backend of device a panicked in a read");
        let place = error(Some((4096, 512))).to_string();
        assert_eq!(place, "backend of device a panicked in a read of 512 bytes at 4096");
    }
}

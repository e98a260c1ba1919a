// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors of one serve: each is logged and told to the program, and the first is kept for the caller. Other
//! events are told through here, too.

use crate::v2::Fetched;
use crate::v2::geometry::operation_name;
use crate::v2::tell::{Event, Frequent, Listener};
use crate::{Errno, Error};
use std::sync::{Mutex, PoisonError};

/// The first error, and the name of the device that the messages need. Any thread may add an error.
#[derive(Debug)]
pub(in crate::v2) struct Notes {
    device: String,
    first: Mutex<Option<Error>>,
    listener: Listener,
}

impl Notes {
    pub(in crate::v2) fn new(device: &str, listener: &Listener) -> Self {
        Self { device: device.to_owned(), first: Mutex::new(None), listener: listener.clone() }
    }

    /// Name of the device.
    pub(in crate::v2) fn device(&self) -> String {
        self.device.clone()
    }

    /// Where events go.
    pub(in crate::v2) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Logs and tells an error, and keeps it if it is the first.
    #[cold]
    pub(in crate::v2) fn note(&self, error: Error) {
        tracing::error!(error = &error as &dyn std::error::Error, "while serving");
        let error = self.listener.tell_error(error);
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Notes a panic of the backend and returns the error for the submitter.
    #[cold]
    pub(in crate::v2) fn panicked(&self, operation: &'static str, range: Option<(u64, u64)>) -> Errno {
        self.note(Error::BackendPanicked { device: self.device(), operation, range });
        Errno::IO
    }

    /// Tells that the backend failed a request. An operation that it does not support is no failure: the kernel does
    /// without, or does it another way.
    #[cold]
    pub(in crate::v2) fn failed(&self, request: &Fetched, error: Errno) {
        if error == Errno::OPNOTSUPP {
            return;
        }
        let event = |more| Event::BackendFailed {
            device: self.device(),
            operation: operation_name(request.op()),
            range: (request.offset(), request.length()),
            error,
            more,
        };
        self.listener.tell_sparingly(Frequent::Failed, event);
    }

    /// Tells that an answer came too late.
    #[cold]
    pub(in crate::v2) fn too_late(&self) {
        let event = |more| Event::TooLate { device: self.device(), more };
        self.listener.tell_sparingly(Frequent::Late, event);
    }

    /// The first error, once.
    pub(in crate::v2) fn take(&self) -> Option<Error> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors of one serve: each is logged, and the first is kept for the caller.

use crate::{Errno, Error};
use std::sync::{Mutex, PoisonError};

/// The first error, and the name of the device that the messages need. Any thread may add an error.
#[derive(Debug)]
pub(in crate::v2) struct Notes {
    device: String,
    first: Mutex<Option<Error>>,
}

impl Notes {
    pub(in crate::v2) fn new(device: &str) -> Self {
        Self { device: device.to_owned(), first: Mutex::new(None) }
    }

    /// Name of the device.
    pub(in crate::v2) fn device(&self) -> String {
        self.device.clone()
    }

    /// Logs an error, and keeps it if it is the first.
    #[cold]
    pub(in crate::v2) fn note(&self, error: Error) {
        tracing::error!(error = &error as &dyn std::error::Error, "while serving");
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Notes a panic of the backend and returns the error for the submitter.
    #[cold]
    pub(in crate::v2) fn panicked(&self, operation: &'static str) -> Errno {
        self.note(Error::BackendPanicked { device: self.device(), operation });
        Errno::IO
    }

    /// The first error, once.
    pub(in crate::v2) fn take(&self) -> Option<Error> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

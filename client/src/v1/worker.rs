// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thread's side of the protocol: it answers a request and fetches the next one, in one call.
//!
//! A `Worker` belongs to one thread and owns its buffer. The worker holds a fetched request until the request
//! is answered. A request that is never answered fails after the device's timeout. Once the device is gone,
//! every further call returns so at once, without asking the kernel.

use super::request::{self, Extent};
use super::{Channel, OperationBuffer, Segments};
use crate::{BadRequest, Errno, Error, Result};
use zosbd2_abi::v1;

/// Result of a fetch.
#[non_exhaustive]
#[derive(Debug)]
pub enum Event<'a> {
    /// Fill `buffer` with the bytes from `offset` on, then answer.
    Read {
        /// Number of the request.
        op_id: u32,
        /// First byte on the device.
        offset: u64,
        /// The pieces of memory that the kernel will fill. Only tests use them.
        segments: Segments<'a>,
        /// Receives the bytes. It holds older data until it is filled.
        buffer: &'a mut [u8],
    },
    /// Store `data` at `offset`, then answer.
    Write {
        /// Number of the request.
        op_id: u32,
        /// First byte on the device.
        offset: u64,
        /// The pieces of memory that the data came from. Only tests use them.
        segments: Segments<'a>,
        /// The bytes.
        data: &'a [u8],
    },
    /// Discard `length` bytes from `offset` on, then answer.
    Discard {
        /// Number of the request.
        op_id: u32,
        /// First byte on the device.
        offset: u64,
        /// Number of bytes, up to 4 GiB - 4096.
        length: u64,
    },
    /// Some server asked for a shutdown notice. It needs no answer; fetch again.
    ShutdownNotice,
    /// A signal interrupted the sleep; fetch again. If the kernel did not take the answer of this call, the
    /// worker repeats the answer by itself.
    Interrupted {
        /// The signal; 0 if unknown.
        signal: u32,
    },
    /// The device is gone for good.
    Gone,
}

/// A fetched request that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    op_id: u32,
    answer: u32,
}

/// One serving thread.
#[derive(Debug)]
pub struct Worker<'c, C: Channel + ?Sized> {
    channel: &'c C,
    buffer: OperationBuffer,
    pending: Option<Pending>,
    resend: bool,
    gone: bool,
}

impl<'c, C: Channel + ?Sized> Worker<'c, C> {
    /// A worker with its own buffer.
    #[must_use]
    pub fn new(channel: &'c C) -> Self {
        Self { channel, buffer: OperationBuffer::new(), pending: None, resend: false, gone: false }
    }

    /// Sleeps until there is an event. An unanswered request stays unanswered.
    ///
    /// [`Error::Request`] means an invalid request. It can be answered with an error.
    pub fn fetch(&mut self) -> Result<Event<'_>> {
        self.pending = None;
        // If the kernel did not acknowledge the answer of an interrupted call, the same call is made again.
        if !self.resend {
            self.buffer.set_opcode(v1::OP_FETCH);
        }
        self.call()
    }

    /// Answers the request of the last fetch (any error becomes `EIO`) and sleeps until there is an event.
    /// Without such a request it only fetches.
    ///
    /// The data of a read must be in the event's buffer before the call.
    pub fn answer_and_fetch(&mut self, result: Result<(), Errno>) -> Result<Event<'_>> {
        let Some(pending) = self.pending.take() else {
            return self.fetch();
        };
        let error = result.map_or_else(|errno| -errno.raw_os_error(), |()| 0);
        self.buffer.set_opcode(pending.answer);
        self.buffer.set_op_id(pending.op_id);
        self.buffer.set_error(error);
        self.call()
    }

    /// Makes the call. Opcode, number and result are already in the buffer.
    fn call(&mut self) -> Result<Event<'_>> {
        if self.gone {
            return Ok(Event::Gone);
        }
        self.buffer.set_handle(self.channel.handle().raw());
        self.resend = false;
        match self.channel.operation(&mut self.buffer) {
            Ok(()) => self.event(),
            Err(Errno::NOENT) => Ok(self.end()),
            Err(Errno::INTR) => {
                self.resend = self.buffer.opcode() != v1::OP_NOTHING;
                let signal = if self.resend { 0 } else { self.buffer.signal() };
                Ok(Event::Interrupted { signal })
            }
            Err(source) => Err(Error::Fetch { device: self.channel.name().to_string(), source }),
        }
    }

    /// Decodes what the kernel put into the buffer.
    fn event(&mut self) -> Result<Event<'_>> {
        let op_id = self.buffer.op_id();
        match self.buffer.opcode() {
            v1::OP_READ => {
                let Extent { offset, length } = self.take(op_id, v1::OP_ANSWER_READ)?;
                let (segments, data) = self.buffer.split();
                Ok(Event::Read { op_id, offset, segments, buffer: prefix_mut(data, length) })
            }
            v1::OP_WRITE => {
                let Extent { offset, length } = self.take(op_id, v1::OP_ANSWER_WRITE)?;
                let (segments, data) = self.buffer.split();
                Ok(Event::Write { op_id, offset, segments, data: prefix_mut(data, length) })
            }
            v1::OP_DISCARD => {
                let Extent { offset, length } = self.take(op_id, v1::OP_ANSWER_DISCARD)?;
                Ok(Event::Discard { op_id, offset, length })
            }
            v1::OP_SHUTDOWN_NOTICE => Ok(Event::ShutdownNotice),
            v1::OP_NOTHING => Ok(Event::Interrupted { signal: self.buffer.signal() }),
            v1::OP_GONE => Ok(self.end()),
            other => Err(self.bad(op_id, BadRequest::Opcode(other))),
        }
    }

    /// Remembers the request, and returns its range if the request is valid.
    fn take(&mut self, op_id: u32, answer: u32) -> Result<Extent> {
        self.pending = Some(Pending { op_id, answer });
        let has_data = answer != v1::OP_ANSWER_DISCARD;
        request::extent(&self.buffer, self.channel.size_bytes(), has_data)
            .map_err(|source| self.bad(op_id, source))
    }

    fn end(&mut self) -> Event<'static> {
        self.gone = true;
        Event::Gone
    }

    fn bad(&self, op_id: u32, source: BadRequest) -> Error {
        Error::Request { device: self.channel.name().to_string(), op_id: op_id.into(), source }
    }
}

/// The first `length` bytes. `extent` checked that they exist.
fn prefix_mut(data: &mut [u8], length: u64) -> &mut [u8] {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(data.len());
    &mut data[..length]
}

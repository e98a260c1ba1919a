// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thread's side of the protocol: answer a request and fetch the next, in one call.
//!
//! A `Worker` belongs to one thread and owns its buffer. A request handed out by a fetch is the worker's
//! until it is answered; one that is never answered fails after the device's timeout. When the device is
//! gone, every further call says so at once and without asking the kernel.

use super::request::{self, Extent};
use super::{Channel, OperationBuffer, Segments};
use crate::{BadRequest, Errno, Error, Result};
use zosbd2_abi::v1;

/// What a fetch brought.
#[non_exhaustive]
#[derive(Debug)]
pub enum Event<'a> {
    /// Fill `buffer` with the bytes from `offset` on, then answer.
    Read {
        /// Number of the request.
        op_id: u32,
        /// First byte on the device.
        offset: u64,
        /// The pieces of memory that the kernel will fill: of interest to tests alone.
        segments: Segments<'a>,
        /// Where the bytes go. It holds older data until it is filled.
        buffer: &'a mut [u8],
    },
    /// Store `data` at `offset`, then answer.
    Write {
        /// Number of the request.
        op_id: u32,
        /// First byte on the device.
        offset: u64,
        /// The pieces of memory that the data came from: of interest to tests alone.
        segments: Segments<'a>,
        /// The bytes.
        data: &'a [u8],
    },
    /// `length` bytes from `offset` on are of no use any more; answer.
    Discard {
        /// Number of the request.
        op_id: u32,
        /// First byte on the device.
        offset: u64,
        /// Number of bytes; may be up to 4 GiB - 4096.
        length: u64,
    },
    /// Some server asked for a shutdown. No answer; fetch on.
    ShutdownNotice,
    /// A signal interrupted the sleep. Fetch on; if the kernel did not take the answer that the call
    /// carried, the worker gives it again by itself.
    Interrupted {
        /// The signal, 0 when the kernel does not say.
        signal: u32,
    },
    /// The device is gone for good.
    Gone,
}

/// A request that was handed out and not answered.
#[derive(Clone, Copy, Debug)]
struct Pending {
    op_id: u32,
    answer: u32,
}

/// One server thread.
#[derive(Debug)]
pub struct Worker<'c, C: Channel + ?Sized> {
    channel: &'c C,
    buffer: OperationBuffer,
    pending: Option<Pending>,
    resend: bool,
    gone: bool,
}

impl<'c, C: Channel + ?Sized> Worker<'c, C> {
    /// A worker with a buffer of its own.
    #[must_use]
    pub fn new(channel: &'c C) -> Self {
        Self { channel, buffer: OperationBuffer::new(), pending: None, resend: false, gone: false }
    }

    /// Sleeps until there is something to do. A request that was not answered stays unanswered.
    ///
    /// [`Error::Request`] means a request that makes no sense; it can be answered with an error.
    pub fn fetch(&mut self) -> Result<Event<'_>> {
        self.pending = None;
        // An interrupted call whose answer the kernel did not acknowledge is made again as it was.
        if !self.resend {
            self.buffer.set_opcode(v1::OP_FETCH);
        }
        self.call()
    }

    /// Answers the request of the last fetch (an error becomes `EIO` there) and sleeps until there is
    /// something to do. Without such a request it only fetches.
    ///
    /// The data of a read must be in the event's buffer by now.
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

    /// Makes the call with opcode, number and result in place.
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

    /// Looks at what the kernel put into the buffer.
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

    /// Remembers the request, and gives its range if it makes sense.
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

/// The first `length` bytes, of which `extent` made sure that they are there.
fn prefix_mut(data: &mut [u8], length: u64) -> &mut [u8] {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(data.len());
    &mut data[..length]
}

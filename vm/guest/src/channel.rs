// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames between the host and the agent of a Debian system, over a virtio-serial port.
//!
//! The host sends one call at a time: [`Frame::Run`], then its standard input ([`Frame::Input`], [`Frame::InputEnd`]). The
//! agent answers with output, and at last [`Frame::Exit`]. Each frame of a call has the call's number, so leftovers of a
//! call that was given up are recognised. An agent that starts sends [`Frame::Hello`] first.
//!
//! On the port, a frame is [`END`], the escaped bytes (kind, call, length, payload), and [`END`]. A reboot can cut a frame
//! off anywhere: the next [`END`] begins a new one, and a frame of the wrong length is dropped.

/// Delimits frames.
const END: u8 = 0xc0;
/// Precedes an escaped byte.
const ESCAPE: u8 = 0xdb;
/// What an escaped byte is combined with, by exclusive or.
const FLIP: u8 = 0x20;
/// Bytes of kind, call and length.
const HEAD: usize = 9;
/// Most bytes of output or input in one frame.
pub const CHUNK: usize = 16 << 10;
/// Largest payload that a decoder keeps: a frame with more is dropped.
const MOST: usize = 4 << 20;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The agent has started.
    Hello {
        /// The kernel's identifier of this boot.
        boot: String,
        /// The kernel's release.
        release: String,
    },
    /// Run this program with these arguments.
    Run(u32, Vec<String>),
    /// Bytes of the program's standard input.
    Input(u32, Vec<u8>),
    /// The end of the program's standard input.
    InputEnd(u32),
    /// Kill the program and its process group.
    Kill(u32),
    /// Bytes of the program's standard output.
    Output(u32, Vec<u8>),
    /// Bytes of the program's standard error.
    Error(u32, Vec<u8>),
    /// The program has ended, with this status as a shell counts it.
    Exit(u32, u8),
}

impl Frame {
    /// The frame as it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, call, payload) = match self {
            Self::Hello { boot, release } => (0, 0, format!("{boot}\0{release}").into_bytes()),
            Self::Run(call, words) => (1, *call, words.join("\0").into_bytes()),
            Self::Input(call, bytes) => (2, *call, bytes.clone()),
            Self::InputEnd(call) => (3, *call, Vec::new()),
            Self::Kill(call) => (4, *call, Vec::new()),
            Self::Output(call, bytes) => (5, *call, bytes.clone()),
            Self::Error(call, bytes) => (6, *call, bytes.clone()),
            Self::Exit(call, status) => (7, *call, vec![*status]),
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut frame = vec![END];
        let head = [[kind].as_slice(), &call.to_le_bytes(), &length.to_le_bytes()].concat();
        for byte in head.into_iter().chain(payload) {
            if byte == END || byte == ESCAPE {
                frame.extend([ESCAPE, byte ^ FLIP]);
            } else {
                frame.push(byte);
            }
        }
        frame.push(END);
        frame
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, payload) = bytes.split_at_checked(HEAD)?;
        let number = |from: usize| Some(u32::from_le_bytes(head.get(from..from + 4)?.try_into().ok()?));
        let (kind, call, length) = (*head.first()?, number(1)?, number(5)?);
        if payload.len() != usize::try_from(length).ok()? {
            return None;
        }
        let text = || String::from_utf8(payload.to_vec()).ok();
        match kind {
            0 => {
                let text = text()?;
                let (boot, release) = text.split_once('\0')?;
                Some(Self::Hello { boot: boot.to_owned(), release: release.to_owned() })
            }
            1 => Some(Self::Run(call, text()?.split('\0').map(str::to_owned).collect())),
            2 => Some(Self::Input(call, payload.to_vec())),
            3 => Some(Self::InputEnd(call)),
            4 => Some(Self::Kill(call)),
            5 => Some(Self::Output(call, payload.to_vec())),
            6 => Some(Self::Error(call, payload.to_vec())),
            7 => Some(Self::Exit(call, *payload.first()?)),
            _ => None,
        }
    }
}

/// Finds frames in what arrives.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    escaped: bool,
}

impl Decoder {
    /// The frames that these bytes complete.
    pub fn push(&mut self, arrived: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        for byte in arrived {
            match (*byte, self.escaped) {
                (END, _) => {
                    // Empty between the end of a frame and the beginning of the next one.
                    frames.extend(Frame::decode(&self.bytes));
                    self.bytes.clear();
                    self.escaped = false;
                }
                (ESCAPE, false) => self.escaped = true,
                (byte, escaped) => {
                    if self.bytes.len() < HEAD + MOST {
                        self.bytes.push(if escaped { byte ^ FLIP } else { byte });
                    }
                    self.escaped = false;
                }
            }
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Hello { boot: "1-2".into(), release: "6.12".into() },
            Frame::Run(0xc0db_dbc0, vec!["sh".into(), "-c".into(), String::new(), "a\nb".into()]),
            Frame::Input(1, (0..=255).collect()),
            Frame::InputEnd(1),
            Frame::Kill(2),
            Frame::Output(3, vec![END, ESCAPE, END ^ FLIP, 0]),
            Frame::Error(3, Vec::new()),
            Frame::Exit(3, 255),
        ]
    }

    #[test]
    fn frames_survive_the_trip_in_pieces_of_any_size() {
        let bytes: Vec<u8> = frames().iter().flat_map(Frame::encode).collect();
        for size in [1, 2, 3, 7, bytes.len()] {
            let mut decoder = Decoder::default();
            let found: Vec<Frame> = bytes.chunks(size).flat_map(|piece| decoder.push(piece)).collect();
            assert_eq!(found, frames(), "in pieces of {size}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_anywhere_is_dropped_and_the_next_one_is_found() {
        let (cut, next) = (Frame::Output(3, vec![END, 7, ESCAPE, 9]), Frame::InputEnd(4));
        let bytes = cut.encode();
        for length in 0..bytes.len() - 1 {
            let mut decoder = Decoder::default();
            decoder.push(&bytes[..length]);
            assert_eq!(decoder.push(&next.encode()), std::slice::from_ref(&next), "after {length} bytes");
        }
    }

    #[test]
    fn other_bytes_are_dropped() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(b"Debian GNU/Linux 13 login: "), []);
        assert_eq!(decoder.push(&[END, 99, 0, 0, 0, 0, 0, 0, 0, 0, END]), []);
        let too_much = vec![1; HEAD + MOST + 10];
        assert_eq!(decoder.push(&too_much), []);
        assert_eq!(decoder.push(&Frame::Kill(1).encode()), [Frame::Kill(1)]);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HTTP disk against a server that serves ranges, and that can misbehave.

use super::*;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

/// What the server does instead of answering rightly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Answers with the whole file, as servers without ranges do.
    Whole,
    /// Says what it is asked for, and ends early.
    Short,
    /// Ends the connection instead of answering.
    Drop,
    Status(u16),
    /// Answers with another range.
    OtherRange,
    /// Ignores `If-Range`: sends the range of another version.
    OtherVersion,
}

#[derive(Default)]
struct State {
    data: Vec<u8>,
    /// The header that identifies the version.
    version: String,
    /// For the next GETs.
    faults: Vec<Fault>,
    gets: usize,
}

#[derive(Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    url: String,
}

impl Server {
    fn new(length: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/image", listener.local_addr().unwrap());
        let data = (0..length).map(|at| u8::try_from((at / 512 + at) % 251).unwrap()).collect();
        let state = State { data, version: "ETag: \"one\"".to_owned(), ..State::default() };
        let server = Self { state: Arc::new(Mutex::new(state)), url };
        let own = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let own = own.clone();
                std::thread::spawn(move || while own.answer(stream.as_ref().unwrap()).is_some() {});
            }
        });
        server
    }

    /// Answers a request. `None` ends the connection.
    fn answer(&self, mut stream: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next()?.ok()?;
        let (mut range, mut if_range) = (None, None);
        for line in lines {
            let line = line.ok()?.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("range", value)) => range = value.strip_prefix("bytes=").map(str::to_owned),
                Some(("if-range", value)) => if_range = Some(value.to_owned()),
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        let mut state = self.state.lock().unwrap();
        let mut fault = None;
        if request.starts_with("GET") {
            state.gets += 1;
            fault = (!state.faults.is_empty()).then(|| state.faults.remove(0));
        }
        let version = state.version.clone();
        let same = if_range.is_none_or(|asked| version.to_lowercase().contains(&asked));
        let whole = state.data.len();
        let (status, from, to) = match (range, fault) {
            (_, Some(Fault::Drop)) => return None,
            (_, Some(Fault::Status(status))) => (status, 0, 0),
            (Some(range), fault)
                if fault != Some(Fault::Whole) && (same || fault == Some(Fault::OtherVersion)) =>
            {
                let (from, to) = range.split_once('-')?;
                let shift = if fault == Some(Fault::OtherRange) { 512 } else { 0 };
                (206, from.parse::<usize>().ok()? + shift, to.parse::<usize>().ok()? + 1 + shift)
            }
            _ => (200, 0, whole),
        };
        let sent = if fault == Some(Fault::Short) { to - 100 } else { to };
        write!(
            stream,
            "HTTP/1.1 {status} text\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n{version}\r\n",
            to - from
        )
        .ok()?;
        if status == 206 {
            write!(stream, "Content-Range: bytes {from}-{}/{whole}\r\n", to - 1).ok()?;
        }
        stream.write_all(b"\r\n").ok()?;
        if request.starts_with("GET") {
            stream.write_all(&state.data[from..sent]).ok()?;
        }
        (sent == to).then_some(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next GETs go wrong.
    fn faults(&self, faults: &[Fault]) {
        let mut state = self.state();
        state.faults = faults.to_vec();
        state.gets = 0;
    }

    fn disk(&self, blocks: usize) -> HttpDisk {
        HttpDisk::new(Remote::open(&self.url).unwrap(), NonZeroUsize::new(blocks).unwrap())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().max_blocking_threads(CONNECTIONS).build().unwrap()
}

fn read(disk: &HttpDisk, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0xa5; length];
    runtime().block_on(disk.read(offset, &mut buffer)).map(|()| buffer)
}

const MIB: usize = 1 << 20;

#[test]
fn reads_what_the_url_has() {
    let server = Server::new(3 * MIB + 700);
    let disk = server.disk(4);
    assert_eq!(disk.size(), 3 * MIB as u64 + 512);
    let data = server.state().data.clone();
    for (offset, length) in
        [(0, 512), (512, 4096), (usize::try_from(BLOCK).unwrap() - 512, 1024), (0, 3 * MIB), (3 * MIB, 512)]
    {
        assert!(
            read(&disk, offset as u64, length).unwrap() == data[offset..offset + length],
            "{length} at {offset}"
        );
    }
    assert!(disk.capabilities().read_only);
}

#[test]
fn cache_is_bounded_and_keeps_what_was_used_last() {
    let server = Server::new(3 * MIB);
    let disk = server.disk(2);
    server.faults(&[]);
    let block = BLOCK;
    for (number, gets) in [(0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)] {
        read(&disk, number * block, 512).unwrap();
        assert_eq!(server.state().gets, gets, "block {number}");
        assert!(disk.cache.lock().unwrap().len() <= 2);
    }
}

#[test]
fn readers_of_a_block_wait_for_one_fetch() {
    let server = Server::new(MIB);
    let disk = server.disk(4);
    server.faults(&[]);
    let (mut one, mut other) = ([0; 512], [0; 512]);
    runtime().block_on(async {
        let (one, other) = tokio::join!(disk.read(0, &mut one), disk.read(0, &mut other));
        one.and(other).unwrap();
    });
    assert_eq!((server.state().gets, one), (1, other));
}

#[test]
fn another_try_helps() {
    let server = Server::new(MIB);
    let data = server.state().data.clone();
    for fault in [Fault::Short, Fault::Drop, Fault::Status(503), Fault::Status(429)] {
        let disk = server.disk(4);
        server.faults(&[fault; 3]);
        assert!(read(&disk, 0, 4096).unwrap() == data[..4096], "{fault:?}");
        assert_eq!(server.state().gets, 4, "{fault:?}");
    }
}

#[test]
fn tries_are_bounded_and_a_failure_is_not_kept() {
    let server = Server::new(MIB);
    for fault in [Fault::Short, Fault::Drop, Fault::Status(500)] {
        let disk = server.disk(4);
        server.faults(&[fault; TRIES as usize]);
        assert_eq!(read(&disk, 0, 512), Err(Errno::IO), "{fault:?}");
        assert_eq!(server.state().gets, TRIES as usize, "{fault:?}");
        read(&disk, 0, 512).unwrap();
    }
}

#[test]
fn wrong_answers_are_errors() {
    let server = Server::new(MIB);
    for fault in [Fault::Whole, Fault::OtherRange, Fault::Status(404)] {
        let disk = server.disk(4);
        server.faults(&[fault; TRIES as usize]);
        assert_eq!(read(&disk, 0, 512), Err(Errno::IO), "{fault:?}");
    }
}

#[test]
fn a_changed_file_is_an_error() {
    let stamp = |second| format!("Last-Modified: Sun, 29 Nov 2026 21:00:0{second} GMT");
    let tag = |tag| format!("ETag: \"{tag}\"");
    for versions in [[tag(1), tag(2)], [stamp(1), stamp(2)]] {
        for ignores_if_range in [false, true] {
            let server = Server::new(MIB);
            server.state().version.clone_from(&versions[0]);
            let disk = server.disk(4);
            let before = read(&disk, 0, 512).unwrap();
            server.state().version.clone_from(&versions[1]);
            server.state().data.fill(0);
            if ignores_if_range {
                server.faults(&[Fault::OtherVersion; 2 * TRIES as usize]);
            }
            assert_eq!(read(&disk, BLOCK, 512), Err(Errno::IO), "{versions:?}");
            // What is in the cache is of the version that the disk has.
            assert!(read(&disk, 0, 512).unwrap() == before);
            assert!(read(&disk, BLOCK - 512, 1024).is_err(), "old and new data were mixed");
        }
    }
}

#[test]
fn unusable_files_are_refused() {
    let server = Server::new(MIB);
    let refused = || Remote::open(&server.url).err().map(|error| format!("{error:#}")).unwrap_or_default();
    server.faults(&[Fault::Whole; TRIES as usize]);
    assert!(refused().contains("the server has no ranges"));
    server.state().version = "ETag: W/\"weak\"".to_owned();
    assert!(refused().contains("cannot be pinned"));
    server.state().version = "ETag: \"one\"".to_owned();
    server.state().data.truncate(100);
    assert!(refused().contains("less than a sector"));
    assert!(Remote::open("http://127.0.0.1:1/").is_err());
}

#[test]
fn failures_have_a_reason_that_names_the_place() {
    let server = Server::new(MIB);
    let remote = Remote::open(&server.url).unwrap();
    server.faults(&[Fault::Status(404); TRIES as usize]);
    let said = format!("{:#}", remote.fetch(0).unwrap_err());
    assert_eq!(said, format!("the bytes from 0 on of {}: status 404 Not Found", server.url));
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk /dev/zosbd2-http, read-only, until Ctrl-C: the bytes of a URL, fetched as ranges, with a cache of blocks.
//!
//!     http_disk URL [CACHE_MIB]
//!
//! The file is pinned by its `ETag`, or else by its time of change: if it changes, reads of what is not cached fail.

use anyhow::{Context as _, Result, ensure};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::OnceCell;
use ureq::Agent;
use ureq::http::{Response, StatusCode};
use zosbd2::{AsyncBackend, Builder, Capabilities, Errno};

/// Bytes that are fetched and cached together; also the longest request.
const BLOCK: u64 = 256 << 10;
const TRIES: u32 = 4;
/// Requests to the server at a time: a blocking client needs a thread for each.
const CONNECTIONS: usize = 16;

struct Remote {
    agent: Agent,
    url: String,
    length: u64,
    /// The header that identifies the version of the file, and its value.
    version: (&'static str, String),
}

fn header<'r, T>(response: &'r Response<T>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

impl Remote {
    fn open(url: &str) -> Result<Self> {
        let config = Agent::config_builder().http_status_as_error(false).max_idle_connections(CONNECTIONS);
        let agent: Agent = config.timeout_global(Some(Duration::from_secs(10))).build().into();
        let head = agent.head(url).call()?;
        ensure!(head.status() == StatusCode::OK, "status {}", head.status());
        let length = header(&head, "content-length").context("no length")?.parse()?;
        ensure!(length >= 512, "{length} bytes are less than a sector");
        // A weak ETag stays the same for other bytes.
        let strong = header(&head, "etag").filter(|etag| !etag.starts_with("W/")).map(|etag| ("etag", etag));
        let version = strong.or_else(|| Some(("last-modified", header(&head, "last-modified")?)));
        let (name, value) =
            version.context("neither a strong ETag nor a time of change: its bytes cannot be pinned")?;
        let remote = Self { agent, url: url.to_owned(), length, version: (name, value.to_owned()) };
        // A server that ignores ranges is noticed now.
        remote.fetch(0).map(|_| remote)
    }

    fn fetch(&self, offset: u64) -> Result<Vec<u8>> {
        let retry = |attempt: u32| {
            std::thread::sleep(Duration::from_millis(50 << attempt));
            self.try_fetch(offset)
        };
        (1..TRIES)
            .fold(self.try_fetch(offset), |result, attempt| result.or_else(|_| retry(attempt)))
            .with_context(|| format!("the bytes from {offset} on of {}", self.url))
    }

    fn try_fetch(&self, offset: u64) -> Result<Vec<u8>> {
        let end = self.length.min(offset + BLOCK);
        let get = self.agent.get(&self.url).header("range", format!("bytes={offset}-{}", end - 1));
        // If the file is another version, the server answers with all of it, and status 200.
        let mut answer = get.header("if-range", &self.version.1).call()?;
        let status = answer.status();
        ensure!(status != StatusCode::OK, "the file has changed, or the server has no ranges");
        ensure!(status == StatusCode::PARTIAL_CONTENT, "status {status}");
        ensure!(header(&answer, self.version.0) == Some(&self.version.1), "the file has changed");
        let range = format!("bytes {offset}-{}/{}", end - 1, self.length);
        ensure!(header(&answer, "content-range") == Some(&range), "the server answered with another range");
        let data = answer.body_mut().with_config().limit(BLOCK + 1).read_to_vec()?;
        ensure!(data.len() as u64 == end - offset, "{} bytes instead of {range}", data.len());
        Ok(data)
    }
}

struct HttpDisk {
    remote: Arc<Remote>,
    /// A block is empty until it is fetched. All readers of a block wait for one fetch.
    cache: Mutex<LruCache<u64, Arc<OnceCell<Vec<u8>>>>>,
    failing: AtomicBool,
}

impl HttpDisk {
    fn new(remote: Remote, blocks: NonZeroUsize) -> Self {
        let cache = Mutex::new(LruCache::new(blocks));
        Self { remote: Arc::new(remote), cache, failing: AtomicBool::new(false) }
    }

    async fn fetch(&self, number: u64) -> Result<Vec<u8>, Errno> {
        let remote = self.remote.clone();
        let fetching = tokio::task::spawn_blocking(move || remote.fetch(number * BLOCK));
        let result = fetching.await.map_err(|_| Errno::IO)?;
        // The library's event has only the errno. The first failure says why, until a fetch succeeds.
        let failed_before = self.failing.swap(result.is_err(), Ordering::Relaxed);
        result.map_err(|error| {
            if !failed_before {
                eprintln!("reads fail: {error:#}");
            }
            Errno::IO
        })
    }
}

impl AsyncBackend for HttpDisk {
    fn size(&self) -> u64 {
        self.remote.length / 512 * 512
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().read_only(true)
    }

    async fn read(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Errno> {
        while !buffer.is_empty() {
            let (number, start) = (offset / BLOCK, (offset % BLOCK) as usize);
            let block = self.cache.lock().map_err(|_| Errno::IO)?.get_or_insert(number, Arc::default).clone();
            let data = &block.get_or_try_init(|| self.fetch(number)).await?[start..];
            let (part, rest) = buffer.split_at_mut(data.len().min(buffer.len()));
            part.copy_from_slice(&data[..part.len()]);
            offset += part.len() as u64;
            buffer = rest;
        }
        Ok(())
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Err(Errno::ROFS)
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let url = words.next().context("usage: http_disk URL [CACHE_MIB]")?;
    let mib: u64 = words.next().as_deref().unwrap_or("64").parse().context("CACHE_MIB")?;
    let blocks = usize::try_from(mib.saturating_mul((1 << 20) / BLOCK))?;
    let remote = Remote::open(&url).with_context(|| format!("{url} cannot be a disk"))?;
    // A program that is started again must not go on with another version, which would mix with what the system has cached.
    let mut identity = format!("{} {url}", remote.version.1).into_bytes();
    identity.truncate(256);
    let disk = HttpDisk::new(remote, NonZeroUsize::new(blocks).context("CACHE_MIB is 0")?);
    let builder = Builder::new("http").max_io_bytes(u32::try_from(BLOCK)?).identity(&identity);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(CONNECTIONS).build()?;
    runtime.block_on(builder.on_event(|event| eprintln!("{event}")).serve_tokio(Arc::new(disk)))?;
    Ok(())
}

#[cfg(test)]
#[path = "../tests/http_disk.rs"]
mod tests;

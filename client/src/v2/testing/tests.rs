// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel in memory with the library's lanes on it: deaths, take-overs, caches, and the end.

use super::contract::{self, System};
use super::*;
use crate::{
    AsyncBackend, Backend, DeadlinePolicy, End, Error, Handler, Request, ServeOptions, SparseMemory,
    StopToken,
};
use std::time::{Duration, Instant};

const SIZE: u64 = 1 << 20;

fn memory() -> Arc<SparseMemory> {
    Arc::new(SparseMemory::new(SIZE).expect("memory"))
}

fn builder(store: &impl Backend) -> Builder {
    Builder::new("disk").for_backend(store)
}

fn options() -> ServeOptions {
    ServeOptions::default()
}

#[test]
fn a_disk_keeps_what_is_written() {
    let (kernel, store) = (Kernel::new(1), memory());
    let builder = builder(&store).queues(2).max_io_bytes(4096).depth(4);
    let serving = kernel.create(&builder).expect("create").spawn(store, options());
    let disk = kernel.disk("disk").expect("open");
    let data: Vec<u8> = (0..65536_u32).map(|byte| (byte % 251) as u8).collect();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (disk, data) = (disk.on_queue(thread % 2), &data);
            scope.spawn(move || {
                let offset = u64::from(thread) << 17;
                disk.write(offset, data).expect("write");
                let mut found = vec![0; data.len()];
                disk.read(offset, &mut found).expect("read");
                assert!(found == *data, "thread {thread}");
            });
        }
    });
    disk.write_zeroes(512, 1024).expect("write zeros");
    disk.discard(4096, 4096).expect("discard");
    let mut found = vec![1; 8192];
    disk.read(0, &mut found).expect("read");
    assert_eq!((&found[..512], &found[512..1536]), (&data[..512], [0; 1024].as_slice()));
    assert_eq!((&found[1536..4096], &found[4096..]), (&data[1536..4096], [0; 4096].as_slice()));
    assert_eq!(disk.read(SIZE, &mut [0; 512]), Err(Errno::IO));
    assert_eq!(disk.read(1, &mut [0; 512]), Err(Errno::INVAL));
    assert_eq!(disk.secure_erase(0, 512), Err(Errno::OPNOTSUPP));
    let busy = kernel.destroy("disk", false).expect_err("it is open");
    assert!(matches!(busy, Error::Control { source: Errno::BUSY, .. }), "{busy}");
    drop(disk);
    assert_eq!(serving.stop().expect("served"), End::Gone);
    assert!(kernel.status("disk").is_err());
}

/// A handler that answers on a thread for each request.
struct Elsewhere(Arc<SparseMemory>);

impl Handler for Elsewhere {
    fn size(&self) -> u64 {
        SIZE
    }

    fn handle(&self, request: Request) {
        let memory = self.0.clone();
        std::thread::spawn(move || crate::Blocking(memory).handle(request));
    }
}

struct Later(SparseMemory);

impl AsyncBackend for Later {
    fn size(&self) -> u64 {
        SIZE
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        Backend::read(&self.0, offset, buffer)
    }

    async fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        Backend::write(&self.0, offset, data, fua)
    }
}

type Serve = dyn Fn(&Server, &StopToken) -> Result<End> + Send + Sync;

#[test]
fn all_kinds_of_backends_are_served_and_can_die() {
    let kernel = Kernel::new(2);
    let store = memory();
    let serve: [Box<Serve>; 3] = [
        Box::new({
            let store = store.clone();
            move |server, stop| server.serve(&*store, &options(), stop)
        }),
        Box::new({
            let handler = Elsewhere(store.clone());
            move |server, stop| server.serve_requests(&handler, &options(), stop)
        }),
        Box::new({
            let backend = Later(SparseMemory::new(SIZE).expect("memory"));
            move |server, stop| server.serve_async(&backend, &options(), stop)
        }),
    ];
    let start = Builder::new("disk").size_bytes(SIZE);
    for serve in serve.map(Arc::new) {
        let on = |server: Server| {
            let serve = serve.clone();
            server.spawn_with(move |server, stop| serve(server, stop))
        };
        let serving = on(kernel.create(&start).expect("create"));
        let disk = kernel.disk("disk").expect("open");
        let writes: Vec<_> =
            (0..32).map(|n| disk.submit(Io::write(n * 4096, &[5; 4096])).expect("submitted")).collect();
        serving.kill();
        let serving = on(kernel.attach("disk", TakeOver::No).expect("attach"));
        for pending in writes {
            pending.wait().expect("written by one of the two");
        }
        let mut found = vec![0; 32 * 4096];
        disk.read(0, &mut found).expect("read");
        assert!(found.iter().all(|byte| *byte == 5));
        drop(disk);
        assert_eq!(serving.stop().expect("served"), End::Gone);
    }
}

#[test]
fn who_is_taken_over_ends_and_the_next_one_serves() {
    let (kernel, store) = (Kernel::new(3), memory());
    let old = kernel.create(&builder(&store)).expect("create").spawn(store.clone(), options());
    let disk = kernel.disk("disk").expect("open");
    disk.write(0, &[1; 512]).expect("write");
    assert!(kernel.attach("disk", TakeOver::No).is_err(), "it has a server");
    let new = kernel.attach("disk", TakeOver::Yes).expect("attach").spawn(store, options());
    assert_eq!(old.join().expect("served"), End::TakenOver);
    let mut found = [0; 512];
    disk.read(0, &mut found).expect("read");
    assert_eq!(found, [1; 512]);
    drop(disk);
    assert_eq!(new.stop().expect("served"), End::Gone);
}

#[test]
fn grace_and_deadline_end_requests() {
    let (kernel, store) = (Kernel::new(4), memory());
    let brief = Duration::from_millis(100);
    let server = kernel.create(&builder(&store).grace(brief)).expect("create");
    server.start().expect("start");
    let disk = kernel.disk("disk").expect("open");
    let read = disk.submit(Io::read(0, 512)).expect("submitted");
    let begin = Instant::now();
    drop(server);
    assert_eq!(read.wait(), Err(Errno::IO));
    assert!(begin.elapsed() >= brief);
    assert_eq!(kernel.status("disk").expect("status").state, State::Failed);
    kernel.destroy("disk", true).expect("destroy");

    let late = builder(&store).deadline(brief).deadline_policy(DeadlinePolicy::Fail);
    let server = kernel.create(&late).expect("create");
    server.start().expect("start");
    let disk = kernel.disk("disk").expect("open");
    assert_eq!(disk.read(0, &mut [0; 512]), Err(Errno::IO));
    drop((disk, server));
}

#[test]
fn a_store_that_loses_its_cache_is_told_to_the_submitter() {
    let kernel = Kernel::new(5);
    let create = Builder::new("disk").size_bytes(SIZE).volatile_cache(true);
    let store = memory();
    let serving = kernel.create(&create).expect("create").spawn(store.clone(), options());
    let disk = kernel.disk("disk").expect("open");
    disk.write(0, &[1; 512]).expect("write");
    serving.kill();
    let serving = kernel.attach("disk", TakeOver::No).expect("attach").spawn(store, options());
    disk.read(0, &mut [0; 512]).expect("read");
    assert!(kernel.status("disk").expect("status").lost);
    assert_eq!([(); 3].map(|()| disk.flush().is_ok()), [false; 3], "this backend has no flush at all");
    drop(disk);
    assert_eq!(serving.stop().expect("served"), End::Gone);
}

#[test]
fn the_kernel_in_memory_keeps_the_contract() {
    for seed in 0..4 {
        let system = InMemory(Kernel::new(seed));
        for case in contract::cases() {
            case.run(&system);
        }
    }
}

struct InMemory(Kernel);

impl System for InMemory {
    type Server = Server;

    fn create(&self, builder: &Builder) -> Server {
        let server = self.0.create(builder).expect("create");
        server.start().expect("start");
        server
    }

    fn attach(&self, name: &str, take_over: TakeOver) -> Result<Server> {
        self.0.attach(name, take_over)
    }

    fn claim_cache(&self, server: &Server) -> Result<()> {
        server.claim_cache()
    }

    fn outstanding(&self, server: &Server) -> (usize, usize) {
        server.outstanding()
    }

    fn destroy(&self, name: &str) {
        drop(self.0.destroy(name, true));
    }

    fn submit(&self, name: &str, io: Io) -> contract::Waiter {
        let pending = self.0.disk(name).expect("open").submit(io);
        Box::new(move || pending?.wait())
    }
}

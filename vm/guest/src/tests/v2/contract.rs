// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cases of the library's kernel in memory, on the module: the two do not drift apart.

use std::path::PathBuf;

use rustix::fs::fdatasync;
use rustix::io::{pread, pwrite};
use zosbd2::testing::Io;
use zosbd2::testing::contract::{System, Waiter, cases};
use zosbd2::v2::abi;
use zosbd2::{Builder, Errno, Result, Server, TakeOver};

use super::super::support::{Aligned, open_direct};
use super::support::control;
use crate::guest::{Context, Need, Test};

pub(super) const TESTS: &[Test] = &[Test::new("v2_contract", contract).needs(&[Need::Module]).timeout(180)];

struct Module;

impl System for Module {
    type Server = Server;

    fn create(&self, builder: &Builder) -> Server {
        let server = control().create(builder).expect("create");
        server.start().expect("start");
        server
    }

    fn attach(&self, name: &str, take_over: TakeOver) -> Result<Server> {
        control().attach(name, take_over)
    }

    fn claim_cache(&self, server: &Server) -> Result<()> {
        server.claim_cache()
    }

    fn outstanding(&self, server: &Server) -> (usize, usize) {
        let stats = server.stats(0).expect("stats");
        (stats.queued as usize, stats.held as usize)
    }

    fn destroy(&self, name: &str) {
        // One of the cases has destroyed its device.
        let _ = control().destroy(name, true);
    }

    fn submit(&self, name: &str, io: Io) -> Waiter {
        let path = PathBuf::from(format!("{}{name}", abi::NODE_PREFIX));
        let user = std::thread::spawn(move || {
            let node = open_direct(&path);
            let length = usize::try_from(io.length()).expect("a length");
            let mut memory = Aligned::new(length, 0);
            // Beyond the end of the disk, calls are short.
            let whole = |count| if count == length { Ok(()) } else { Err(Errno::IO) };
            match io.op() {
                abi::OP_READ => {
                    pread(&node, memory.bytes_mut(), io.offset()).and_then(whole)?;
                    Ok(memory.bytes().to_vec())
                }
                abi::OP_WRITE => {
                    memory.bytes_mut().copy_from_slice(io.data());
                    pwrite(&node, memory.bytes(), io.offset()).and_then(whole).map(|()| Vec::new())
                }
                abi::OP_FLUSH => fdatasync(&node).map(|()| Vec::new()),
                other => panic!("no case has operation {other}"),
            }
        });
        Box::new(move || user.join().expect("the user of the disk"))
    }
}

fn contract(context: &mut Context) {
    context.load_module("");
    for case in cases() {
        context.say(case.name());
        case.run(&Module);
    }
}

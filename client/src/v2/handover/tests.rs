// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom a new server waits for, whom it kills, and what it says: a table of older processes.

use super::*;
use crate::v2::peers::Unseen;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

#[derive(Clone)]
struct Old {
    process: Process,
    recorded: bool,
    /// Whether a kill ends it; `None`: it may not be killed.
    mortal: Option<bool>,
    own: bool,
    ended: Rc<Cell<bool>>,
    killed: Rc<Cell<bool>>,
}

impl Peering for Old {
    fn process(&self) -> &Process {
        &self.process
    }

    fn is_recorded(&self) -> bool {
        self.recorded
    }

    fn has_ended(&self) -> bool {
        self.ended.get()
    }

    fn is_own(&self) -> bool {
        self.own
    }

    fn kill(&self) -> Result<(), Errno> {
        let mortal = self.mortal.ok_or(Errno::PERM)?;
        self.killed.set(true);
        self.ended.set(mortal);
        Ok(())
    }
}

fn server(pid: u32) -> Old {
    let process = Process { pid, program: "old".to_owned() };
    let (ended, killed) = (Rc::default(), Rc::default());
    Old { process, recorded: true, mortal: Some(true), own: false, ended, killed }
}

fn keeper(pid: u32) -> Old {
    Old { recorded: false, process: Process { pid, program: "keeper".to_owned() }, ..server(pid) }
}

/// A device whose older servers close their descriptors after some looks, or when they end.
struct Fake {
    looks: RefCell<u32>,
    old: Vec<Old>,
    unseen: Unseen,
    /// What the new server is once the looks are over.
    then: Standing,
}

impl Others for Fake {
    type Peer = Old;

    fn name(&self) -> String {
        "fake".to_owned()
    }

    fn standing(&self) -> Result<Standing> {
        let left = self.looks.borrow().saturating_sub(1);
        *self.looks.borrow_mut() = left;
        let ended = !self.old.is_empty() && self.old.iter().all(|old| old.ended.get());
        Ok(if ended || left == 0 { self.then } else { Standing::Beside })
    }

    fn look(&self, _: Duration) -> Sight<Old> {
        let peers = self.old.iter().filter(|old| !old.ended.get()).cloned().collect();
        Sight { peers, unseen: self.unseen.clone() }
    }
}

fn fake(looks: u32, old: impl IntoIterator<Item = Old>) -> Fake {
    Fake {
        looks: RefCell::new(looks),
        old: old.into_iter().collect(),
        unseen: Unseen::default(),
        then: Standing::Alone,
    }
}

fn wait(fake: &Fake, fence: bool) -> (Result<()>, Vec<String>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&told);
    let hand_over = HandOver::new()
        .patience(Duration::from_millis(60))
        .fence(fence)
        .on_event(move |event| list.lock().expect("list").push(event.to_string()));
    let result = hand_over.wait(fake, &Abandoned::never());
    let told = told.lock().expect("list").clone();
    (result, told)
}

/// Never on its own.
const STAYS: u32 = u32::MAX;

#[test]
fn a_server_that_is_alone_waits_for_nobody() {
    let (result, told) = wait(&fake(1, [server(7)]), true);
    result.expect("alone");
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn an_older_server_that_lets_go_is_not_killed() {
    let old = fake(3, [server(7), keeper(8)]);
    let (result, told) = wait(&old, true);
    result.expect("it let go");
    assert_eq!(told, ["waiting up to 60ms for the older server of device fake: process 7 (old)"]);
    assert!(!old.old[0].killed.get());
}

/// The processes that stay, whether to kill, who is killed, and how the error ends.
type Case = (Vec<Old>, bool, &'static [u32], Option<String>);

#[test]
fn only_recorded_servers_are_killed() {
    let immortal = |mortal| Old { mortal, ..server(7) };
    let own = Old { own: true, ..server(7) };
    let named = "take over device fake: process 7 (old) still has the descriptor of its older server: ";
    let kept =
        "process 8 (keeper) still has the descriptor of its older server: it is not recorded as that server";
    let cases: [Case; 9] = [
        (vec![server(7)], true, &[7], None),
        (vec![server(7), server(9)], true, &[7, 9], None),
        (vec![server(7)], false, &[], Some(format!("{named}it did not end in time"))),
        (
            vec![immortal(None)],
            true,
            &[],
            Some(format!("{named}it did not end in time, and this process may not")),
        ),
        (vec![immortal(Some(false))], true, &[7], Some(format!("{named}it was killed and does not end"))),
        (vec![own], true, &[], Some(format!("{named}it is this process itself"))),
        (vec![keeper(8)], true, &[], Some(kept.to_owned())),
        (vec![server(7), keeper(8)], true, &[7], Some(kept.to_owned())),
        (
            vec![],
            true,
            &[],
            Some("a process that cannot be seen still has the descriptor of its older server: it did not end in time, and was not".to_owned()),
        ),
    ];
    for (old, fence, killed, problem) in cases {
        // The wait for the end of a killed process is long, so it is not repeated for each case of that kind.
        let fake = fake(STAYS, old);
        let (result, told) = wait(&fake, fence);
        let dead: Vec<_> =
            fake.old.iter().filter(|old| old.killed.get()).map(|old| old.process.pid).collect();
        assert_eq!(dead, killed, "{told:?}");
        assert_eq!(told.iter().filter(|event| event.starts_with("killed process")).count(), killed.len());
        match (result, problem) {
            (Ok(()), None) => {}
            (Err(error), Some(problem)) => {
                let said = error.to_string();
                assert!(said.contains(&problem), "{problem} is not in: {said}");
            }
            (result, problem) => panic!("{result:?} instead of {problem:?}"),
        }
    }
}

#[test]
fn who_cannot_look_says_why() {
    let unseen = Unseen { unreadable: 3, ..Unseen::default() };
    let fake = Fake { unseen, ..fake(STAYS, []) };
    let said = wait(&fake, true).0.expect_err("not found").to_string();
    assert!(
        said.contains("was not found: this process may not list the descriptors of 3 processes"),
        "{said}"
    );
}

/// STATUS counts newer servers, too: a server that is superseded itself would wait for its successor, and kill it.
#[test]
fn a_server_that_is_superseded_waits_for_nobody() {
    for looks in [1, 3] {
        let fake = Fake { then: Standing::Over, ..fake(looks, [server(7)]) };
        wait(&fake, true).0.expect("nothing to wait for");
        assert!(!fake.old[0].killed.get());
    }
}

#[test]
fn an_abandoned_wait_ends_and_kills_nobody() {
    let fake = fake(STAYS, [server(7)]);
    let abandoned = Abandoned::never();
    abandoned.set();
    let begin = Instant::now();
    HandOver::new().wait(&fake, &abandoned).expect_err("abandoned");
    assert!(begin.elapsed() < PATIENCE && !fake.old[0].killed.get());
}

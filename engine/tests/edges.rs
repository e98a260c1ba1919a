// SPDX-License-Identifier: GPL-2.0-only
//! Each edge of the drawings: the shortest calls that take it, and the resulting effect. The exhaustive
//! search shows that there are no other edges.

mod effect;

use zosbd2_engine::Errno;
use zosbd2_engine::device::{self, Change, DRAIN_TOTAL_MS, Life, Phase, Policy, Terms};
use zosbd2_engine::event::{BURST, Board, Event, Kind, News, Next, PERIOD_MS};
use zosbd2_engine::queue::{
    Answer, Deadline, End, Moment, Overdue, Queue, QueueState, Refused, Surroundings, Wake, Work,
};
use zosbd2_engine::request::{self, FUA, Handle, MAYBE_EXECUTED, Op, Request, Slot, State};

/// The epoch of a queue that has had only one server.
const EPOCH: u32 = 0;
const BYTES: u32 = 4096;

/// A queue with one tag.
struct One {
    state: QueueState,
    slots: [Slot; 1],
    handle: Option<Handle>,
}

impl One {
    fn new() -> Self {
        Self { state: QueueState::default(), slots: [Slot::default()], handle: None }
    }

    fn queue(&mut self) -> Queue<'_> {
        Queue::new(&mut self.state, &mut self.slots)
    }

    fn handle(&self) -> Handle {
        self.handle.expect("fetched")
    }

    fn submit(&mut self, op: Op) {
        let request = Request { op, flags: 0, offset: 0, length: BYTES };
        assert_eq!(self.queue().submit(0, request, 0, true), Ok(Wake::NONE));
    }

    fn fetch(&mut self, room: u64) {
        let Work::Request(fetched) = self.queue().fetch(EPOCH, room) else { panic!("nothing to fetch") };
        self.handle = Some(fetched.handle);
    }

    /// Brings the tag into a state in the shortest way.
    fn in_state(state: State) -> Self {
        let mut one = Self::new();
        match state {
            State::Free => {}
            State::Queued => one.submit(Op::Read),
            State::Held => {
                one.submit(Op::Read);
                one.fetch(0);
            }
            State::Copying | State::Doomed => {
                one.submit(Op::Write);
                one.fetch(BYTES.into());
                if state == State::Doomed {
                    assert_eq!(one.queue().expire(0, at_once(Policy::Fail)), Overdue::Doomed);
                }
            }
        }
        assert_eq!(one.slots[0].state(), state);
        one
    }
}

fn failed() -> End {
    effect::end(0, Err(Errno::EIO))
}

fn done() -> End {
    effect::end(0, Ok(()))
}

/// Each way along an edge: the calls, with their effects.
fn ways(from: State, to: State) -> Vec<fn(&mut One)> {
    match (from, to) {
        (State::Free, State::Queued) => vec![|one| one.submit(Op::Discard)],
        (State::Queued, State::Held) => vec![
            |one| one.fetch(u64::MAX),
            // A write for which there is no room.
            |one| {
                *one = One::new();
                one.submit(Op::Write);
                one.fetch(u64::from(BYTES) - 1);
            },
        ],
        (State::Queued, State::Copying) => vec![|one| {
            *one = One::new();
            one.submit(Op::Write);
            one.fetch(BYTES.into());
        }],
        (State::Queued, State::Free) => vec![
            |one| assert_eq!(one.queue().expire(0, at_once(Policy::Fail)), Overdue::End(failed())),
            // The state of every request when the device fails.
            |one| assert_eq!(one.queue().fail_next(0), Some(failed())),
        ],
        (State::Held, State::Free) => vec![
            |one| assert_eq!(one.queue().expire(0, at_once(Policy::Fail)), Overdue::End(failed())),
            |one| assert_eq!(one.queue().fail_next(0), Some(failed())),
            |one| {
                let handle = one.handle();
                assert_eq!(one.queue().finish(handle, Ok(())), Ok(done()));
            },
            |one| {
                let handle = one.handle();
                let end = effect::end(0, Err(Errno::ENOSPC));
                assert_eq!(one.queue().finish(handle, Err(Errno::ENOSPC)), Ok(end));
            },
            |one| {
                let handle = one.handle();
                let end = Answer::End(failed());
                assert_eq!(one.queue().answer(handle, Op::Read, false), Ok(end));
            },
        ],
        (State::Held, State::Copying) => vec![
            |one| {
                let handle = one.handle();
                let answer = one.queue().answer(handle, Op::Read, true);
                assert!(matches!(answer, Ok(Answer::CopyIn(copied, _)) if copied == handle));
            },
            |one| {
                let handle = one.handle();
                assert_eq!(one.queue().pin(handle), Ok(()));
            },
        ],
        (State::Held, State::Queued) => vec![
            |one| {
                let handle = one.handle();
                assert_eq!(one.queue().unfetch(handle), Wake::NONE);
            },
            |one| assert_eq!(one.queue().requeue(EPOCH, |_| ()), Wake::NONE),
            |one| one.queue().declare_dead(EPOCH, |_| ()),
            |one| assert_eq!(one.queue().expire(0, at_once(Policy::Requeue)), Overdue::Requeued(Wake::NONE)),
        ],
        (State::Copying, State::Queued) => vec![|one| {
            let handle = one.handle();
            one.queue().declare_dead(EPOCH, |tag| panic!("{tag} is being copied"));
            assert_eq!(one.slots[0].state(), State::Copying);
            assert_eq!(one.queue().copied(handle).end(), None);
            assert_eq!(one.queue().copied(handle).end(), None, "it is over");
        }],
        (State::Copying, State::Held) => vec![|one| {
            let handle = one.handle();
            assert_eq!(one.queue().copied(handle).end(), None);
        }],
        (State::Copying, State::Free) => vec![|one| {
            let handle = one.handle();
            assert_eq!(one.queue().answered(handle), Some(done()));
        }],
        (State::Copying, State::Doomed) => vec![
            |one| assert_eq!(one.queue().expire(0, at_once(Policy::Fail)), Overdue::Doomed),
            // Nothing can end yet.
            |one| assert_eq!(one.queue().fail_next(0), None),
        ],
        (State::Doomed, State::Free) => vec![
            |one| {
                let handle = one.handle();
                assert_eq!(one.queue().copied(handle).end(), Some(failed()));
            },
            |one| {
                let handle = one.handle();
                assert_eq!(one.queue().answered(handle), Some(failed()));
            },
        ],
        other => panic!("{other:?} is no edge"),
    }
}

#[test]
fn every_edge_of_a_request_can_be_taken() {
    for &(from, to) in request::EDGES {
        for take in ways(from, to) {
            let mut one = One::in_state(from);
            take(&mut one);
            assert_eq!(one.slots[0].state(), to, "{from:?} to {to:?}");
        }
    }
}

/// A server cannot be given its request while another thread already answers it: the copy is not disturbed.
#[test]
fn what_is_copied_is_not_given_back() {
    for state in [State::Copying, State::Doomed] {
        let mut one = One::in_state(state);
        let handle = one.handle();
        assert_eq!(one.queue().unfetch(handle), Wake::NONE);
        assert_eq!(one.slots[0].state(), state);
        assert_eq!(one.queue().requeue(EPOCH, |_| ()), Wake::NONE);
        assert_eq!(one.slots[0].state(), state);
    }
}

/// A deadline without any time.
const fn at_once(policy: Policy) -> Deadline {
    Deadline { policy, ns: 0 }
}

/// A server is declared dead only for its own time, not for that of its predecessor.
#[test]
fn a_server_has_the_whole_deadline() {
    const DEADLINE: Deadline = Deadline { policy: Policy::DeclareDead, ns: 10 };
    let (mut state, mut slots) = (QueueState::default(), [Slot::default(); 2]);
    let mut at = |now_ns: u64, each: &mut dyn FnMut(&mut Queue<'_>)| {
        let around = Surroundings { moment: Moment { now_ns, thread: 0 }, ..Surroundings::default() };
        each(&mut Queue::new(&mut state, &mut slots).within(around));
    };
    at(0, &mut |queue| {
        queue.attach(1);
        for (tag, now_ns) in [(0, 0), (1, 9)] {
            assert_eq!(queue.submit(tag, Request::default(), now_ns, true), Ok(Wake::NONE));
        }
    });
    at(10, &mut |queue| {
        assert_eq!(queue.expire(0, DEADLINE), Overdue::ServerDead(1));
        queue.declare_dead(1, |_| ());
        queue.set_phase(Phase::Orphaned);
    });
    at(12, &mut |queue| {
        queue.set_phase(Phase::Live);
        queue.attach(2);
    });
    // Queued, or held: this server has not had its 10 ns.
    at(19, &mut |queue| assert_eq!(queue.expire(1, DEADLINE), Overdue::Waits));
    at(20, &mut |queue| {
        assert!(matches!(queue.fetch(2, 0), Work::Request(_)));
        assert_eq!(queue.expire(0, DEADLINE), Overdue::Waits);
    });
    at(21, &mut |queue| assert_eq!(queue.expire(1, DEADLINE), Overdue::Waits));
    at(22, &mut |queue| {
        assert_eq!(queue.expire(0, DEADLINE), Overdue::ServerDead(2), "held");
        assert_eq!(queue.expire(1, DEADLINE), Overdue::ServerDead(2), "queued");
    });
    // A superseded server gets nothing new, so it has held its requests for long.
    at(23, &mut |queue| {
        queue.attach(3);
        assert_eq!(queue.expire(0, DEADLINE), Overdue::ServerDead(2));
        assert_eq!(queue.expire(1, DEADLINE), Overdue::Waits);
    });
}

/// The copy of one tenure does not end that of another.
#[test]
fn a_copy_ends_only_its_own_tenure() {
    let mut one = One::in_state(State::Held);
    let stale = one.handle();
    assert_eq!(one.queue().expire(0, at_once(Policy::Fail)), Overdue::End(failed()));
    one.submit(Op::Write);
    one.fetch(u64::MAX);
    for state in [State::Copying, State::Doomed] {
        assert_eq!(one.slots[0].state(), state);
        assert_eq!(one.queue().copied(stale).end(), None);
        assert_eq!(one.queue().answered(stale), None);
        assert_eq!(one.slots[0].state(), state);
        let overdue = if state == State::Copying { Overdue::Doomed } else { Overdue::Over };
        assert_eq!(one.queue().expire(0, at_once(Policy::Fail)), overdue);
    }
}

/// The server fetches the only tag's request.
fn get(one: &mut One, epoch: u32) -> Request {
    let Work::Request(fetched) = one.queue().fetch(epoch, 0) else { panic!("nothing to fetch") };
    one.handle = Some(fetched.handle);
    fetched.request
}

/// A request of a dead server stays marked as long as it exists, and no longer.
#[test]
fn a_requeued_request_is_marked() {
    let mut one = One::new();
    let asked = Request { op: Op::Write, flags: FUA, offset: 512, length: BYTES };
    let marked = Request { flags: FUA | MAYBE_EXECUTED, ..asked };
    assert_eq!(one.queue().submit(0, asked, 0, true), Ok(Wake::NONE));
    assert_eq!(get(&mut one, EPOCH), asked);
    let handle = one.handle();
    assert_eq!(one.queue().unfetch(handle), Wake::NONE);
    assert_eq!(get(&mut one, EPOCH), asked, "nobody was told of it");
    assert_eq!(one.queue().requeue(EPOCH + 1, |_| ()), Wake::NONE);
    assert_eq!(one.slots[0].state(), State::Held, "it is with another server");
    for server in 1..4 {
        assert_eq!(one.queue().requeue(server - 1, |_| ()), Wake::NONE);
        one.queue().attach(server);
        assert_eq!(one.queue().fetch(server - 1, 0), Work::Superseded);
        assert_eq!(get(&mut one, server), marked);
    }
    let handle = one.handle();
    assert_eq!(one.queue().finish(handle, Ok(())), Ok(done()));
    assert_eq!(one.queue().finish(handle, Ok(())), Err(Refused::Stale));
    assert_eq!(one.queue().counters().requeued, 3);
    assert_eq!(one.queue().submit(0, asked, 0, true), Ok(Wake::NONE));
    assert_eq!(get(&mut one, 3), asked, "another request");
}

/// The queue waits for no thread of an older server: neither for threads that are sent away, nor for one that
/// was woken for an earlier request.
#[test]
fn threads_of_an_older_server_hold_nobody_up() {
    for woken_before in [false, true] {
        let mut one = One::new();
        assert_eq!(one.queue().fetch(0, 0), Work::Nothing);
        one.queue().wait(1);
        if woken_before {
            let request = Request { length: BYTES, ..Request::default() };
            assert_eq!(one.queue().submit(0, request, 0, true), Ok(Wake { servers: 1, look: false }));
            assert_eq!(one.queue().fail_next(0).map(|end| end.use_up().0), Some(0));
        }
        one.queue().attach(1);
        one.queue().wake_all();
        assert_eq!((one.queue().waiting(), one.queue().waking()), (0, 0));
        assert_eq!(one.queue().fetch(1, 0), Work::Nothing);
        one.queue().wait(1);
        let request = Request { length: BYTES, ..Request::default() };
        assert_eq!(one.queue().submit(0, request, 0, true), Ok(Wake { servers: 1, look: false }));
        // The old thread comes late.
        if woken_before {
            one.queue().arrive(0);
        }
        assert_eq!(one.queue().fetch(0, 0), Work::Superseded);
        assert_eq!((one.queue().waiting(), one.queue().waking()), (0, 1));
        one.queue().arrive(1);
        assert_eq!(one.queue().waking(), 0);
    }
}

/// Enough servers are woken for the queued requests, and no more than sleep.
#[test]
fn servers_are_woken_as_the_backlog_needs() {
    for (room, sleepers, queued, servers) in [
        (1, 4, 1, 1),
        (1, 4, 3, 3),
        (1, 4, 32, 4),
        (16, 4, 16, 1),
        (16, 4, 17, 2),
        (64, 4, 64, 1),
        // However many a server takes.
        (1000, 4, 65, 2),
        (1, 20, 32, 8),
    ] {
        let (mut state, mut slots) = (QueueState::default(), [Slot::default(); 65]);
        let mut queue = Queue::new(&mut state, &mut slots);
        for _ in 0..sleepers {
            queue.wait(room);
        }
        let mut woken = Wake::NONE;
        for tag in 0..queued {
            woken = queue.submit(tag, Request::default(), 0, tag + 1 == queued).expect("taken");
        }
        assert_eq!(woken, Wake { servers, look: servers < sleepers }, "{room} {sleepers} {queued}");
        assert_eq!((queue.waiting(), queue.waking()), (sleepers - servers, servers));
        // A repeated announcement only wakes servers that could not be woken at once.
        let more = queue.announce();
        assert_eq!(more.servers, if queued == 32 && room == 1 && sleepers > 8 { 8 } else { 0 });
    }
}

/// The queue counts on a woken server without a processor only from one check to the next.
#[test]
fn a_server_without_a_processor_is_not_waited_for() {
    let (mut state, mut slots) = (QueueState::default(), [Slot::default(); 4]);
    let mut queue = Queue::new(&mut state, &mut slots);
    queue.wait(1);
    queue.wait(1);
    let submit = |queue: &mut Queue<'_>, tag| queue.submit(tag, Request::default(), 0, true).expect("taken");
    assert_eq!(submit(&mut queue, 0), Wake { servers: 1, look: true });
    // An arrival is progress; another one may be on its way.
    queue.arrive(0);
    assert!(matches!(queue.fetch(0, 0), Work::Request(_)));
    assert_eq!(submit(&mut queue, 1), Wake { servers: 1, look: false });
    assert_eq!(queue.look_after(), Wake::NONE, "nobody else sleeps");
    queue.wait(1);
    assert_eq!(submit(&mut queue, 2), Wake { servers: 1, look: false });
    queue.wait(1);
    assert_eq!(queue.announce(), Wake { servers: 0, look: true }, "two are on their way");
    assert_eq!(queue.look_after(), Wake { servers: 1, look: false }, "neither arrived");
    // Late arrivals do no harm.
    for _ in 0..3 {
        queue.arrive(0);
    }
    assert_eq!((queue.waiting(), queue.waking()), (0, 0));
}

const TERMS: Terms = Terms { attached: true, grace_ms: 1000, auto_destroy: false };
const NO_GRACE: Terms = Terms { grace_ms: 0, ..TERMS };

/// A started device with its first server.
fn served(terms: Terms) -> Life {
    let mut life = Life::new(terms);
    assert_eq!(life.attach(false), Ok(1));
    life.set_started();
    life
}

/// Brings a device into a phase in the shortest way.
fn in_phase(phase: Phase) -> Life {
    let mut life = served(TERMS);
    match phase {
        Phase::Live => {}
        Phase::Orphaned => assert_eq!(life.detach(1, 0), Change::Grace(1000)),
        Phase::Failed => {
            life = served(NO_GRACE);
            assert_eq!(life.detach(1, 0), Change::Fail);
        }
        Phase::Draining => assert_eq!(life.drain(0, 0, true), Change::None),
        Phase::Failing => {
            life = Life::new(TERMS);
            assert_eq!(life.drain(0, 0, true), Change::Fail);
        }
        Phase::Gone => {
            life = in_phase(Phase::Draining);
            life.gone();
        }
    }
    assert_eq!(life.phase(), phase);
    life
}

/// Each way along an edge of a device: the calls, with their effects.
fn device_ways(from: Phase, to: Phase) -> Vec<fn(&mut Life)> {
    match (from, to) {
        (Phase::Live, Phase::Orphaned) => vec![|life| assert_eq!(life.detach(1, 0), Change::Grace(1000))],
        (Phase::Live, Phase::Failed) => vec![
            |life| {
                *life = served(NO_GRACE);
                assert_eq!(life.detach(1, 0), Change::Fail);
            },
            |life| {
                *life = served(Terms { auto_destroy: true, ..NO_GRACE });
                assert_eq!(life.detach(1, 0), Change::Destroy);
            },
            // Never started: no submitter could wait for a server.
            |life| {
                *life = Life::new(TERMS);
                assert_eq!((life.attach(false), life.detach(1, 0)), (Ok(1), Change::Destroy));
            },
        ],
        (Phase::Orphaned | Phase::Failed, Phase::Live) => {
            vec![|life| assert_eq!(life.attach(false), Ok(2)), |life| assert_eq!(life.attach(true), Ok(2))]
        }
        (Phase::Orphaned, Phase::Failed) => {
            vec![|life| assert_eq!(life.grace_over(1000), Change::Fail), |life| {
                *life = served(Terms { auto_destroy: true, ..TERMS });
                assert_eq!(life.detach(1, 0), Change::Grace(1000));
                assert_eq!(life.grace_over(1000), Change::Destroy);
            }]
        }
        (Phase::Live, Phase::Draining) => vec![|life| assert_eq!(life.drain(0, 0, true), Change::None)],
        (Phase::Live, Phase::Failing) => vec![|life| {
            *life = Life::new(TERMS);
            assert_eq!(life.drain(0, 0, true), Change::Fail, "it never had a server");
        }],
        (Phase::Orphaned | Phase::Failed, Phase::Failing) => {
            vec![|life| assert_eq!(life.drain(0, 0, true), Change::Fail)]
        }
        (Phase::Draining, Phase::Failing) => vec![
            |life| assert_eq!(life.detach(1, 0), Change::Fail),
            // The server has had its time.
            |life| assert_eq!(life.tick(DRAIN_TOTAL_MS, 0, 1), Change::Fail),
        ],
        (Phase::Draining | Phase::Failing, Phase::Gone) => vec![Life::gone],
        other => panic!("{other:?} is no edge"),
    }
}

#[test]
fn every_edge_of_a_device_can_be_taken() {
    for &(from, to) in device::EDGES {
        for take in device_ways(from, to) {
            let mut life = in_phase(from);
            take(&mut life);
            assert_eq!(life.phase(), to, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn a_device_takes_requests_until_it_fails() {
    for (phase, takes) in [
        (Phase::Live, true),
        (Phase::Orphaned, true),
        (Phase::Failed, false),
        (Phase::Draining, true),
        (Phase::Failing, false),
        (Phase::Gone, false),
    ] {
        assert_eq!(phase.takes_requests(), takes, "{phase:?}");
        let mut one = One::new();
        one.queue().set_phase(phase);
        let submitted = one.queue().submit(0, Request::default(), 0, true);
        assert_eq!(submitted, if takes { Ok(Wake::NONE) } else { Err(Errno::EIO) }, "{phase:?}");
        assert_eq!(one.slots[0].state(), if takes { State::Queued } else { State::Free });
    }
}

#[test]
fn the_drawings_name_every_state() {
    let drawing = |source: &'static str| {
        let start = source.find("```text").expect("a drawing");
        let end = source[start + 7..].find("```").expect("its end");
        &source[start..start + 7 + end]
    };
    let request = drawing(include_str!("../src/request.rs"));
    for name in ["FREE", "QUEUED", "HELD", "COPYING", "DOOMED"] {
        assert!(request.contains(name), "{name} is not drawn");
    }
    let device = drawing(include_str!("../src/device.rs"));
    for name in ["LIVE", "ORPHANED", "FAILED", "DRAINING", "FAILING", "GONE"] {
        assert!(device.contains(name), "{name} is not drawn");
    }
}

/// Which edges are told, and as what.
#[test]
fn operators_are_told_of_the_right_edges() {
    type Case = (Phase, fn(&mut Life) -> Change, Phase, &'static [Kind]);
    let cases: &[Case] = &[
        (Phase::Live, |life| life.detach(1, 0), Phase::Orphaned, &[Kind::Died]),
        (Phase::Live, |life| life.declare_dead(1, 0), Phase::Orphaned, &[Kind::Died]),
        (Phase::Live, |life| life.drain(0, 0, true), Phase::Draining, &[Kind::Destroyed]),
        (Phase::Live, |life| life.drain(0, 0, false), Phase::Failing, &[Kind::Destroyed]),
        (Phase::Orphaned, |life| life.grace_over(1000), Phase::Failed, &[Kind::Failed]),
        (Phase::Orphaned, |life| life.grace_over(999), Phase::Orphaned, &[]),
        (Phase::Orphaned, |life| life.set_grace(0, 0), Phase::Failed, &[Kind::Failed]),
        (Phase::Orphaned, |life| life.drain(0, 0, true), Phase::Failing, &[Kind::Destroyed]),
        (Phase::Failed, |life| life.drain(0, 0, true), Phase::Failing, &[Kind::Destroyed]),
        (Phase::Draining, |life| life.detach(1, 0), Phase::Failing, &[Kind::Died]),
        (Phase::Draining, |life| life.tick(DRAIN_TOTAL_MS, 0, 1), Phase::Failing, &[]),
        (Phase::Draining, |life| life.drain(0, 0, true), Phase::Draining, &[]),
        (Phase::Gone, |life| life.detach(1, 0), Phase::Gone, &[]),
    ];
    for (from, take, to, wanted) in cases {
        let mut life = in_phase(*from);
        let _before = life.take_news();
        let _change = take(&mut life);
        assert_eq!(life.phase(), *to, "from {from:?}");
        assert_eq!(life.take_news().kinds().collect::<Vec<_>>(), *wanted, "{from:?} to {to:?}");
        assert_eq!(life.take_news(), News::NONE, "told once");
    }
    for phase in [Phase::Orphaned, Phase::Failed] {
        let mut life = in_phase(phase);
        let _before = life.take_news();
        assert_eq!(life.attach(false), Ok(2));
        assert_eq!(life.take_news().kinds().collect::<Vec<_>>(), [Kind::Recovered]);
    }
    let mut life = served(NO_GRACE);
    assert_eq!(life.detach(1, 0), Change::Fail);
    assert_eq!(life.take_news().kinds().collect::<Vec<_>>(), [Kind::Died, Kind::Failed]);
}

#[test]
fn nobody_is_told_of_what_changes_nothing() {
    // A take-over, and the end of the server that was followed.
    let mut life = served(TERMS);
    assert_eq!((life.attach(true), life.detach(1, 5)), (Ok(2), Change::None));
    assert_eq!(life.take_news(), News::NONE);
    // A device that was never started, one of version 1, and one that is gone.
    let mut life = Life::new(TERMS);
    assert_eq!((life.attach(false), life.detach(1, 0)), (Ok(1), Change::Destroy));
    let _change = life.drain(0, 0, false);
    assert_eq!(life.take_news(), News::NONE);
    let mut life = Life::new(Terms::default());
    life.set_started();
    assert_eq!(life.drain(0, 0, true), Change::None);
    assert_eq!(life.declare_dead(0, 1), Change::Fail);
    assert_eq!(life.take_news(), News::NONE);
    let mut life = in_phase(Phase::Gone);
    let _before = life.take_news();
    assert_eq!((life.detach(1, 0), life.take_news()), (Change::None, News::NONE));
}

#[test]
fn a_grace_can_be_changed() {
    // Before it begins.
    let mut life = served(TERMS);
    assert_eq!((life.set_grace(50, 7), life.grace_ms()), (Change::None, 50));
    assert_eq!(life.detach(1, 10), Change::Grace(50));
    // While it runs: as if it had begun with that length.
    assert_eq!(life.set_grace(500, 20), Change::Grace(490));
    assert_eq!(life.grace_over(60), Change::Grace(450), "the timer of the old grace");
    assert_eq!(life.set_grace(200, 100), Change::Grace(110));
    let mut over = life;
    assert_eq!((over.set_grace(90, 100), over.phase()), (Change::Fail, Phase::Failed));
    assert_eq!((life.set_grace(0, 100), life.phase()), (Change::Fail, Phase::Failed));
    assert_eq!(life.set_grace(1000, 100), Change::None, "too late");
    assert_eq!((life.attach(false), life.phase()), (Ok(2), Phase::Live));
    let mut life = served(Terms { auto_destroy: true, ..TERMS });
    assert_eq!((life.detach(1, 0), life.set_grace(0, 0)), (Change::Grace(1000), Change::Destroy));
}

fn event(kind: Kind, requests: u32) -> Event {
    Event { kind, epoch: 1, process: 2, program: *b"server\0\0\0\0\0\0\0\0\0\0", requests, ms: 0 }
}

#[test]
fn events_are_told_in_their_order_and_not_too_often() {
    let mut board = Board::new();
    assert_eq!(board.next(0, false), Next::Nothing);
    for kind in [Kind::Recovered, Kind::Died, Kind::Failed] {
        board.note(event(kind, 0));
    }
    // A newer one of the same kind comes in the newer one's place.
    board.note(event(Kind::Recovered, 9));
    for wanted in [event(Kind::Died, 0), event(Kind::Failed, 0), event(Kind::Recovered, 9)] {
        assert_eq!(board.next(1_000_000, false), Next::Tell(wanted));
    }
    assert_eq!(board.next(1_000_000, false), Next::Nothing);
    for number in 3..BURST {
        board.note(event(Kind::Died, number));
        assert_eq!(board.next(1_000_001, false), Next::Tell(event(Kind::Died, number)));
    }
    board.note(event(Kind::Died, 77));
    assert_eq!(board.next(1_000_002, false), Next::Wait(4998));
    board.note(event(Kind::Died, 78));
    let mut urgent = board;
    assert_eq!(urgent.next(1_000_003, true), Next::Tell(event(Kind::Died, 78)));
    assert_eq!(board.next(1_000_000 + PERIOD_MS, false), Next::Tell(event(Kind::Died, 78)));
    assert_eq!(board.next(1_000_000 + PERIOD_MS, false), Next::Nothing);
    // A clock that goes back does not hold events up for longer.
    board.note(event(Kind::Late, 1));
    assert_eq!(board.next(5, false), Next::Tell(event(Kind::Late, 1)));
}

#[test]
fn kinds_have_their_numbers() {
    for (number, kind) in (0..).zip(Kind::ALL) {
        assert_eq!(kind.number(), number);
        assert!(News::NONE.with(kind).has(kind) && !News::NONE.has(kind));
        assert_eq!(News::NONE.with(kind).kinds().collect::<Vec<_>>(), [kind]);
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! A model of the life of requests. The events of the module's tracepoints must follow it.
//!
//! The model has one state for each tag of each queue, and the order of the queued tags:
//!
//! ```text
//!        queue            fetch           commit, status 0         end
//!  FREE --------> QUEUED --------> HELD -------------------> ENDING ----> FREE
//!                  |  ^             |  |                       ^
//!                  |  +-- requeue --+  +--- timeout, failed ---+
//!                  |                        (doomed: later)    |
//!                  +--------------- timeout, failed -----------+
//! ```
//!
//! A request that a teardown, or a device without a server, ends shows as an end with an error from QUEUED or HELD.
//! The events of one tag come in the order in which they happened (`kernel/shim/trace.h`). So do all events of a
//! queue that are written under the queue's lock. An end may come after events of other tags.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Queue { op: u32, flags: u32, offset: u64, length: u32 },
    Fetch { generation: u32, epoch: u32 },
    Commit { generation: u32, epoch: u32, status: i32 },
    End { error: i32 },
    Requeue,
    Timeout { action: u32 },
}

/// An event: one line of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Position in the order of all CPUs.
    pub(crate) at: u64,
    device: u32,
    queue: u32,
    pub(crate) tag: u32,
    pub(crate) what: What,
}

impl Event {
    /// Parses a line of the trace; `None` if it is not an event of zosbd2.
    ///
    /// # Errors
    ///
    /// What is wrong with an event of zosbd2.
    pub(crate) fn parse(line: &str) -> Result<Option<Self>, String> {
        let Some((head, event)) = line.split_once(": zosbd2_") else { return Ok(None) };
        let wrong = |what: &str| format!("{what}: {line}");
        let at = head.split_whitespace().next_back().and_then(|word| word.parse().ok());
        let at = at.ok_or_else(|| wrong("no time"))?;
        let (name, fields) = event.split_once(':').ok_or_else(|| wrong("no fields"))?;
        let field = |key: &str| {
            let mut words = fields.split_whitespace().filter_map(|word| word.split_once('='));
            let value = words.find(|(name, _)| *name == key).map(|(_, value)| value);
            value.ok_or_else(|| wrong(&format!("no {key}")))
        };
        let number = |key: &str| field(key)?.parse::<u32>().map_err(|_| wrong(&format!("bad {key}")));
        let signed = |key: &str| field(key)?.parse::<i32>().map_err(|_| wrong(&format!("bad {key}")));
        let what = match name {
            "queue" => What::Queue {
                op: number("op")?,
                flags: number("flags")?,
                offset: field("offset")?.parse().map_err(|_| wrong("bad offset"))?,
                length: number("length")?,
            },
            "fetch" => What::Fetch { generation: number("generation")?, epoch: number("epoch")? },
            "commit" => What::Commit {
                generation: number("generation")?,
                epoch: number("epoch")?,
                status: signed("status")?,
            },
            "end" => What::End { error: signed("error")? },
            "requeue" => What::Requeue,
            "timeout" => What::Timeout { action: number("action")? },
            _ => return Err(wrong("unknown event")),
        };
        Ok(Some(Self { at, device: number("device")?, queue: number("queue")?, tag: number("tag")?, what }))
    }
}

/// State of a request, as far as the events tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Queued,
    Held {
        generation: u32,
        epoch: u32,
    },
    /// Ends with an error when the copy of its data stops.
    Doomed,
    /// The result is decided: an error, or the server's answer.
    Ending {
        fails: bool,
    },
}

/// `enum zosbd2_late_action`.
const ACTIONS: [&str; 6] = ["over", "failed", "doomed", "requeued", "server dead", "waits"];

#[derive(Debug, Default)]
struct Tag {
    state: State,
    /// Generation of its last tenure.
    generation: Option<u32>,
    /// A younger request was fetched first, so this one may only end.
    passed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    tags: BTreeMap<u32, Tag>,
    /// Queued tags, the oldest first.
    waiting: VecDeque<u32>,
    /// Epoch of the newest server that fetched.
    epoch: u32,
}

impl Queue {
    fn wait_as_oldest(&mut self, number: u32) {
        self.waiting.push_front(number);
    }

    fn waits_no_more(&mut self, number: u32) {
        self.waiting.retain(|waiting| *waiting != number);
    }

    fn take(&mut self, number: u32, what: What) -> Result<(), String> {
        let tag = self.tags.entry(number).or_default();
        let state = tag.state;
        let next = match (what, state) {
            (What::Queue { .. }, State::Free) => {
                tag.passed = false;
                self.waiting.push_back(number);
                State::Queued
            }
            (What::Fetch { generation, epoch }, State::Queued) => {
                if tag.passed {
                    return Err("fetched, after a younger one was".to_owned());
                }
                // Generations wrap.
                let is_newer = |last| (1..1 << 31).contains(&generation.wrapping_sub(last));
                if tag.generation.is_some_and(|last| !is_newer(last)) {
                    return Err(format!("an old generation, after {:?}", tag.generation));
                }
                tag.generation = Some(generation);
                if epoch < self.epoch {
                    return Err(format!("fetched by an old server, after {}", self.epoch));
                }
                self.epoch = epoch;
                while let Some(older) = self.waiting.pop_front() {
                    if older == number {
                        break;
                    }
                    self.tags.entry(older).or_default().passed = true;
                }
                State::Held { generation, epoch }
            }
            (What::Commit { generation, epoch, status: 0 }, State::Held { .. }) => {
                if state != (State::Held { generation, epoch }) {
                    return Err("accepted, with another tenure's handle".to_owned());
                }
                State::Ending { fails: false }
            }
            // The answer was copied and accepted, and the event came later.
            (What::Commit { status, .. }, _) if status != 0 => state,
            (What::Requeue, State::Held { .. }) => {
                self.wait_as_oldest(number);
                State::Queued
            }
            (What::Timeout { action }, _) => match (ACTIONS.get(action as usize).copied(), state) {
                (Some("over"), _) | (Some("server dead" | "waits"), State::Queued | State::Held { .. }) => {
                    state
                }
                // The next event reports it as requeued.
                (Some("requeued"), State::Held { .. }) => state,
                (Some("failed"), State::Queued | State::Held { .. }) => {
                    self.waits_no_more(number);
                    State::Ending { fails: true }
                }
                (Some("doomed"), State::Held { .. }) => State::Doomed,
                _ => return Err("no such timeout in this state".to_owned()),
            },
            (What::End { error: 0 }, State::Ending { fails: false }) => State::Free,
            (What::End { error: 0 }, _) => return Err("success without an accepted answer".to_owned()),
            (What::End { .. }, State::Queued | State::Held { .. } | State::Doomed | State::Ending { .. }) => {
                self.waits_no_more(number);
                State::Free
            }
            _ => return Err("not possible in this state".to_owned()),
        };
        self.tags.entry(number).or_default().state = next;
        Ok(())
    }
}

/// All queues of all devices.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    queues: BTreeMap<(u32, u32), Queue>,
}

/// A deviation of the kernel from the model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Deviation(String);

impl fmt::Display for Deviation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the kernel did not follow the model: {}", self.0)
    }
}

impl Replay {
    /// Takes the next event.
    ///
    /// # Errors
    ///
    /// The model does not allow this event here.
    pub(crate) fn take(&mut self, event: &Event) -> Result<(), Deviation> {
        let queue = self.queues.entry((event.device, event.queue)).or_default();
        let state = queue.tags.get(&event.tag).map(|tag| tag.state).unwrap_or_default();
        queue.take(event.tag, event.what).map_err(|why| Deviation(format!("{why}: {event:?} in {state:?}")))
    }

    /// Checks the end: no more events come, and no device is left.
    ///
    /// # Errors
    ///
    /// A request has not ended.
    pub(crate) fn end(&self) -> Result<(), Deviation> {
        for ((device, queue), state) in &self.queues {
            if let Some((tag, left)) = state.tags.iter().find(|(_, tag)| tag.state != State::Free) {
                return Err(Deviation(format!(
                    "device {device}, queue {queue}, tag {tag} never ended: {left:?}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    fn replay(lines: &[&str]) -> Result<(), String> {
        let mut replay = Replay::default();
        for (at, line) in lines.iter().enumerate() {
            let (name, fields) = line.split_once(' ').unwrap();
            let line = format!("fio-1 [000] d..1.  {at}: zosbd2_{name}: device=1 queue=0 {fields}");
            replay.take(&Event::parse(&line)?.unwrap()).map_err(|deviation| deviation.to_string())?;
        }
        replay.end().map_err(|deviation| deviation.to_string())
    }

    const QUEUE_2: &str = "queue tag=2 op=1 flags=0 offset=8192 length=4096";
    const QUEUE_3: &str = "queue tag=3 op=1 flags=0 offset=8192 length=4096";
    const QUEUE_4: &str = "queue tag=4 op=1 flags=0 offset=8192 length=4096";
    const FETCH: &str = "fetch tag=3 generation=1 epoch=1";
    const COMMIT: &str = "commit tag=3 generation=1 epoch=1 status=0";

    #[test]
    fn lives_of_requests_are_followed() {
        let good: [&[&str]; 9] = [
            &[QUEUE_3, FETCH, COMMIT, "end tag=3 error=0"],
            &[QUEUE_3, FETCH, COMMIT, "end tag=3 error=-5"],
            &[QUEUE_3, "end tag=3 error=-5", QUEUE_3, FETCH, COMMIT, "end tag=3 error=0"],
            &[QUEUE_3, FETCH, "end tag=3 error=-5"],
            &[QUEUE_3, FETCH, "commit tag=3 generation=0 epoch=1 status=-116", COMMIT, "end tag=3 error=0"],
            &[QUEUE_3, FETCH, "timeout tag=3 action=1", "end tag=3 error=-5"],
            &[QUEUE_3, FETCH, "timeout tag=3 action=2", "end tag=3 error=-5"],
            &[QUEUE_3, FETCH, COMMIT, "timeout tag=3 action=0", "end tag=3 error=0"],
            &[
                QUEUE_3,
                QUEUE_4,
                FETCH,
                "requeue tag=3",
                "fetch tag=3 generation=2 epoch=2",
                "end tag=4 error=-5",
                "timeout tag=3 action=3",
                "requeue tag=3",
                "fetch tag=3 generation=3 epoch=2",
                "commit tag=3 generation=3 epoch=2 status=0",
                "end tag=3 error=0",
            ],
        ];
        for lines in good {
            assert_eq!(replay(lines), Ok(()), "{lines:?}");
        }
    }

    #[test]
    fn deviations_are_found() {
        let bad: [(&[&str], &str); 12] = [
            (&[QUEUE_3], "never ended"),
            (&["end tag=3 error=-5"], "not possible"),
            (&[QUEUE_3, QUEUE_3], "not possible"),
            (&[QUEUE_3, "end tag=3 error=0"], "without an accepted"),
            (&[QUEUE_3, FETCH, FETCH], "not possible"),
            (&[QUEUE_3, FETCH, COMMIT, COMMIT], "not possible"),
            (&[QUEUE_3, FETCH, COMMIT, "end tag=3 error=0", "end tag=3 error=0"], "without an accepted"),
            (&[QUEUE_3, FETCH, "commit tag=3 generation=1 epoch=2 status=0"], "another tenure"),
            (&[QUEUE_3, FETCH, "timeout tag=3 action=1", COMMIT], "not possible"),
            (&[QUEUE_3, FETCH, "requeue tag=3", FETCH], "an old generation"),
            (&[QUEUE_2, QUEUE_3, FETCH, "fetch tag=2 generation=1 epoch=1"], "after a younger one"),
            (
                &[QUEUE_3, QUEUE_4, "fetch tag=3 generation=1 epoch=2", "fetch tag=4 generation=1 epoch=1"],
                "an old server",
            ),
        ];
        for (lines, why) in bad {
            let deviation = replay(lines).expect_err("followed");
            assert!(deviation.contains(why), "{deviation}, not {why}");
        }
    }

    #[test]
    fn lines_that_are_none_of_ours_are_passed_over() {
        assert_eq!(Event::parse("# tracer: nop"), Ok(None));
        assert_eq!(Event::parse("x-1 [000] ..... 7: sched_switch: prev=1"), Ok(None));
        assert!(Event::parse("x-1 [000] ..... 7: zosbd2_other: device=1").is_err());
    }

    #[test]
    fn every_field_is_needed() {
        for event in [QUEUE_3, FETCH, COMMIT, "end tag=3 error=0", "requeue tag=3", "timeout tag=3 action=1"]
        {
            let (name, fields) = event.split_once(' ').unwrap();
            let fields: Vec<&str> = ["device=1", "queue=0"].into_iter().chain(fields.split(' ')).collect();
            let parse = |fields: &[&str]| {
                Event::parse(&format!("x-1 [000] ..... 7: zosbd2_{name}: {}", fields.join(" ")))
            };
            assert!(parse(&fields).unwrap().is_some(), "{event}");
            for (index, field) in fields.iter().enumerate() {
                let key = field.split_once('=').unwrap().0;
                let mut wrong = fields.clone();
                let bad = format!("{key}=x");
                wrong[index] = &bad;
                assert!(parse(&wrong).unwrap_err().starts_with(&format!("bad {key}")), "{event}");
                wrong.remove(index);
                assert!(parse(&wrong).unwrap_err().starts_with(&format!("no {key}")), "{event}");
            }
        }
    }
}

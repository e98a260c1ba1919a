// SPDX-License-Identifier: MIT OR Apache-2.0
//! Injects the faults of a [`FaultPlan`] into fetched requests, before the other requests of the batch are
//! served.
//!
//! Each faulty request is taken out of the batch and gets calls of its own. Its data uses the buffer for
//! reads, which is empty at that time. Regions are not used: the functions of the backend carry out a request
//! in part, or without telling the submitter. Backends without a plan never get here.

use super::blocking::Worker;
use crate::v2::geometry::{Wanted, operation_name};
use crate::v2::{Action, Answers, Backend, Batch, Channel, FaultPlan, Fetch, Fetched, Moment, Zero};
use crate::{Errno, Result};
use rustix::process::{Signal, getpid, kill_process};
use zosbd2_abi::v2;

/// Memory for the data of requests.
pub(super) struct Places<'a> {
    /// The data that came with the requests.
    pub(super) arena: &'a mut [u8],
    /// Room for one request.
    pub(super) scratch: &'a mut [u8],
}

impl<C: Channel, B: Backend + ?Sized> Worker<'_, C, B> {
    /// Judges the fetched requests. Moves the requests that are still to be served to the front and returns
    /// their number.
    #[cold]
    pub(super) fn inject(
        &mut self,
        plan: &FaultPlan,
        requests: &mut [Fetched],
        places: &mut Places<'_>,
        answers: &mut Answers,
    ) -> Result<usize> {
        let mut kept = 0;
        for at in 0..requests.len() {
            let request = requests[at];
            let verdict = plan.judge(&request);
            if !verdict.delay.is_zero() {
                self.session.stop.pause(verdict.delay);
            }
            let Some(action) = verdict.action else {
                requests[kept] = request;
                kept += 1;
                continue;
            };
            self.go_wrong(action, &request, places, answers)?;
        }
        Ok(kept)
    }

    fn go_wrong(
        &mut self,
        action: Action,
        request: &Fetched,
        places: &mut Places<'_>,
        answers: &mut Answers,
    ) -> Result<()> {
        let all = request.length();
        let half = (all / 2) & !(self.limits.geometry.block - 1);
        match action {
            Action::Errno(error) => self.tell(answers, |batch| batch.fail(request, error)),
            Action::Drop(Moment::Before) => Ok(()),
            Action::Drop(Moment::After) => self.carry_out(request, all, places, answers).map(drop),
            Action::Die(Moment::Before) => die(),
            Action::Die(Moment::After) => {
                // The result is dropped on purpose.
                let _ = self.carry_out(request, all, places, answers)?;
                die()
            }
            Action::Short => match self.carry_out(request, half, places, answers)? {
                Ok(()) => {
                    let data = (request.op() == v2::OP_READ).then_some(&*places.scratch);
                    self.tell(answers, |batch| batch.short(request, half, data))
                }
                Err(error) => self.tell(answers, |batch| batch.fail(request, error)),
            },
            Action::Duplicate => self.serve_apart(request, 2, places, answers),
            // The plan merges all delays into one pause, so this action does not occur here.
            Action::Delay(_) => self.serve_apart(request, 1, places, answers),
        }
    }

    /// Carries a request out and answers it `times` times.
    fn serve_apart(
        &mut self,
        request: &Fetched,
        times: usize,
        places: &mut Places<'_>,
        answers: &mut Answers,
    ) -> Result<()> {
        let result = self.carry_out(request, request.length(), places, answers)?;
        let data = &*places.scratch;
        self.tell(answers, |batch| {
            for _ in 0..times {
                match result {
                    Ok(()) if request.op() == v2::OP_READ => batch.read(request, data),
                    Ok(()) => batch.done(request),
                    Err(error) => batch.fail(request, error),
                }
            }
        })
    }

    /// Lets the backend do the first `length` bytes of a request. The result of a read is in the scratch
    /// buffer afterwards.
    fn carry_out(
        &mut self,
        request: &Fetched,
        length: u64,
        places: &mut Places<'_>,
        answers: &mut Answers,
    ) -> Result<Result<(), Errno>> {
        let wanted = match self.limits.check(request, || self.backend.size()) {
            Ok(wanted) => wanted,
            Err(error) => return Ok(Err(error)),
        };
        let bytes = |length| usize::try_from(length).unwrap_or(usize::MAX);
        if wanted == Wanted::WriteWithoutData {
            let mut batch = answers.begin(self.session.channel.id());
            batch.copy(request, &mut places.scratch[..bytes(request.length())]);
            let given = self.give(&mut batch, Fetch::nothing())?;
            if given.gone || given.refused != 0 {
                // The request is stale, or the copy of its data failed.
                return Ok(Err(Errno::IO));
            }
        }
        if length == 0 && wanted != Wanted::Flush {
            return Ok(Ok(()));
        }
        let session = self.session;
        let backend = self.backend;
        let offset = request.offset();
        let flag = |flag| request.flags() & flag != 0;
        let fua = flag(v2::REQUEST_FUA);
        let run = || match wanted {
            Wanted::Read => backend.read(offset, &mut places.scratch[..bytes(length)]),
            Wanted::Write(at) => backend.write(offset, &mut places.arena[at..][..bytes(length)], fua),
            Wanted::WriteWithoutData => backend.write(offset, &mut places.scratch[..bytes(length)], fua),
            Wanted::Discard => backend.discard(offset, length),
            Wanted::Flush => backend.flush(),
            Wanted::WriteZeroes => {
                backend.write_zeroes(offset, length, Zero { unmap: !flag(v2::REQUEST_NO_UNMAP), fua })
            }
            Wanted::SecureErase => backend.secure_erase(offset, length),
        };
        Ok(session.guard(operation_name(request.op()), run).unwrap_or_else(Err))
    }

    /// Gives answers in a call of their own.
    fn tell<'b>(&mut self, answers: &'b mut Answers, answer: impl FnOnce(&mut Batch<'b>)) -> Result<()> {
        let mut batch = answers.begin(self.session.channel.id());
        answer(&mut batch);
        let given = self.give(&mut batch, Fetch::nothing())?;
        if given.refused != 0 && !given.gone {
            self.refused(&mut batch, &mut [], false)?;
        }
        Ok(())
    }
}

/// Like `kill -9` from outside: nothing is unwound or flushed.
fn die() -> ! {
    // The kill of the own process cannot fail.
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v2::fake::{Answer, Fake, Spec, Step};
    use crate::v2::serve::serve_with;
    use crate::v2::{Capabilities, End, Fault, Faulty, Operation, Region, ServeOptions};
    use crate::{SparseMemory, StopToken};
    use std::time::{Duration, Instant};

    const SIZE: u64 = 1 << 20;
    const EIO: i64 = -5;

    /// Memory that the kernel may copy to directly, or not.
    struct Store {
        memory: SparseMemory,
        direct: bool,
    }

    impl Store {
        fn byte(&self, offset: u64) -> u8 {
            let mut byte = [0];
            self.memory.read_at(offset, &mut byte).expect("inside");
            byte[0]
        }
    }

    impl Backend for Store {
        fn size(&self) -> u64 {
            SIZE
        }

        fn capabilities(&self) -> Capabilities {
            self.memory.capabilities()
        }

        fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
            Backend::read(&self.memory, offset, buffer)
        }

        fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
            Backend::write(&self.memory, offset, data, fua)
        }

        fn flush(&self) -> Result<(), Errno> {
            Ok(())
        }

        fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
            Backend::discard(&self.memory, offset, length)
        }

        fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
            if self.direct { Backend::region(&self.memory, offset, length) } else { None }
        }
    }

    fn faulty(direct: bool, faults: &[Fault]) -> Faulty<Store> {
        let store = Store { memory: SparseMemory::new(SIZE).expect("memory"), direct };
        faults.iter().fold(Faulty::new(store, 1), |faulty, fault| faulty.with(*fault))
    }

    fn serve(fake: &Fake, backend: &Faulty<Store>, stop: &StopToken) {
        let destroy = |_| {
            fake.destroy();
            Ok(())
        };
        let end = serve_with(fake, backend, &ServeOptions::default(), stop, || Ok(()), destroy);
        assert_eq!(end.expect("served"), End::Gone);
    }

    /// Serves these requests to the end, and checks that none is left.
    fn answers(faulty: &Faulty<Store>, specs: &[Spec]) -> Vec<Answer> {
        let mut fake = Fake::new(SIZE, 16384, [Step::Requests(specs.to_vec())]);
        fake.short = true;
        serve(&fake, faulty, &StopToken::new());
        assert_eq!(fake.left(), 0);
        fake.answers()
    }

    fn results(answers: &[Answer]) -> Vec<i64> {
        answers.iter().map(|answer| answer.result).collect()
    }

    fn injected(faulty: &Faulty<Store>) -> Vec<u64> {
        faulty.plan().counts().map(|(_, counts)| counts.injected).collect()
    }

    #[test]
    fn an_errno_is_the_answer_and_nothing_is_done() {
        for direct in [true, false] {
            let fault = Fault::new(Action::Errno(Errno::NOSPC)).on(Operation::Write).nth(2);
            let faulty = faulty(direct, &[fault]);
            let specs = [Spec::write(0, 512, 1), Spec::write(512, 512, 2), Spec::write(1024, 512, 3)];
            let enospc = i64::from(-Errno::NOSPC.raw_os_error());
            assert_eq!(results(&answers(&faulty, &specs)), [512, enospc, 512]);
            assert_eq!([0, 512, 1024].map(|at| faulty.backend().byte(at)), [1, 0, 3]);
            assert_eq!(injected(&faulty), [1]);
        }
    }

    #[test]
    fn half_is_done_and_said() {
        for (direct, withheld) in [(true, false), (false, false), (false, true)] {
            let faulty = faulty(direct, &[Fault::new(Action::Short)]);
            let specs = [
                Spec { withheld, ..Spec::write(0, 1536, 7) },
                // One block cannot be halved.
                Spec { withheld, ..Spec::write(8192, 512, 7) },
                Spec::new(v2::OP_READ, 0, 1024),
                Spec::new(v2::OP_FLUSH, 0, 0),
                Spec::new(v2::OP_DISCARD, 0, 1024),
            ];
            let answers = answers(&faulty, &specs);
            assert_eq!(results(&answers), [512, 0, 512, 0, 512]);
            assert_eq!(answers[2].data, [], "a short read copies nothing");
            assert_eq!(
                [0, 512, 8192].map(|at| faulty.backend().byte(at)),
                [0, 0, 0],
                "the write was discarded"
            );
            assert_eq!(injected(&faulty), [4], "a flush is never short");
        }
    }

    #[test]
    fn a_torn_write_leaves_its_first_half() {
        for direct in [true, false] {
            let faulty = faulty(direct, &[Fault::new(Action::Short).nth(1)]);
            let specs = [Spec::write(0, 2048, 7), Spec::write(4096, 2048, 8)];
            assert_eq!(results(&answers(&faulty, &specs)), [1024, 2048]);
            let places = [0, 1023, 1024, 2047, 4096, 6143].map(|at| faulty.backend().byte(at));
            assert_eq!(places, [7, 7, 0, 0, 8, 8]);
        }
    }

    #[test]
    fn what_is_dropped_stays_with_the_server() {
        for direct in [true, false] {
            let drop = |moment| Fault::new(Action::Drop(moment)).on(Operation::Write);
            let faulty = faulty(direct, &[drop(Moment::Before).nth(1), drop(Moment::After).nth(2)]);
            let specs = [
                Spec::write(0, 512, 1),
                Spec::write(512, 512, 2),
                Spec::write(1024, 512, 3),
                Spec::new(v2::OP_READ, 512, 512),
            ];
            let fake = Fake::new(SIZE, 16384, [Step::Requests(specs.to_vec())]).sleeping(1);
            let stop = StopToken::new();
            std::thread::scope(|scope| {
                scope.spawn(|| serve(&fake, &faulty, &stop));
                // The server fetches again when all others are answered.
                fake.wait_asleep(1);
                assert_eq!(fake.left(), 2);
                fake.destroy();
                stop.wake();
            });
            assert_eq!(fake.results(), [(2, 512), (3, 512)]);
            assert_eq!([0, 512, 1024].map(|at| faulty.backend().byte(at)), [0, 2, 3]);
            assert_eq!(fake.answers()[1].data, [2; 512]);
        }
    }

    #[test]
    fn the_second_answer_is_refused_and_harmless() {
        for direct in [true, false] {
            let faulty = faulty(direct, &[Fault::new(Action::Duplicate)]);
            let specs = [
                Spec::write(0, 512, 7),
                Spec { withheld: true, ..Spec::write(1024, 512, 8) },
                Spec::new(v2::OP_FLUSH, 0, 0),
                Spec::new(v2::OP_DISCARD, 1024, 512),
                Spec::new(v2::OP_READ, 0, 512),
                // Beyond the end of the device: the request fails in both attempts.
                Spec::new(v2::OP_DISCARD, SIZE, 512),
            ];
            let mut fake = Fake::new(SIZE, 16384, [Step::Requests(specs.to_vec())]);
            fake.short = false;
            serve(&fake, &faulty, &StopToken::new());
            assert_eq!(results(&fake.answers()), [512, 512, 0, 512, 512, EIO]);
            assert_eq!(fake.answers()[4].data, [7; 512]);
            assert_eq!(fake.left(), 0);
            assert_eq!(fake.stale(), 6);
        }
    }

    #[test]
    fn a_delay_makes_the_answer_late() {
        let time = Duration::from_millis(50);
        let late = Fault::new(Action::Delay(time)).on(Operation::Read);
        let faulty = faulty(true, &[late.nth(1), late.nth(2), Fault::new(Action::Errno(Errno::IO)).nth(2)]);
        let read = Spec::new(v2::OP_READ, 0, 512);
        let begin = Instant::now();
        assert_eq!(results(&answers(&faulty, &[read, read, read])), [512, EIO, 512]);
        assert!(begin.elapsed() >= 2 * time, "{:?}", begin.elapsed());
        assert_eq!(injected(&faulty), [1, 1, 1]);
    }

    #[test]
    fn a_request_to_stop_ends_a_delay() {
        let faulty = faulty(true, &[Fault::new(Action::Delay(Duration::from_secs(24 * 60 * 60)))]);
        let read = Spec::new(v2::OP_READ, 0, 512);
        let fake = Fake::new(SIZE, 16384, [Step::Requests(vec![read])]);
        let stop = StopToken::new();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&fake, &faulty, &stop));
            while faulty.plan().injected() == 0 {
                std::thread::yield_now();
            }
            // The pause may begin after the first of them.
            while fake.answers().is_empty() {
                stop.request();
                std::thread::yield_now();
            }
        });
        assert_eq!(fake.results(), [(0, 512)]);
    }
}

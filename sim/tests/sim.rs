// SPDX-License-Identifier: GPL-2.0-only
//! A short run of the simulator with a fixed seed, and a check that it finds every planted defect.

use std::hash::{BuildHasher as _, RandomState};
use zosbd2_sim::run;
use zosbd2_sim::settings::Defect;

/// Steps of the run without a defect.
const STEPS: u64 = 1_000_000;
/// Steps within which each defect must be found.
const DEFECT_STEPS: u64 = 40_000_000;

/// `ZOSBD2_SIM_SEED` repeats a run.
fn seed() -> u64 {
    let given = std::env::var("ZOSBD2_SIM_SEED").ok();
    let seed = given.map_or_else(
        || RandomState::new().hash_one("seed"),
        |seed| seed.parse().expect("ZOSBD2_SIM_SEED is a number"),
    );
    println!("ZOSBD2_SIM_SEED={seed}");
    seed
}

#[test]
fn nothing_is_lost_and_nothing_hangs() {
    let (episodes, counts) = run(seed(), STEPS, None).unwrap_or_else(|found| panic!("{found}"));
    println!("{episodes} episodes: {counts:?}");
    // Low counts would mean that the run tested little.
    for (what, count) in [
        ("requests", counts.finished - counts.failed),
        ("failed requests", counts.failed),
        ("servers", counts.servers),
        ("requests taken back", counts.requeued),
        ("stale answers", counts.stale),
        ("flushes that failed for a lost cache", counts.lost_flushes),
        ("late requests", counts.expired),
    ] {
        assert!(count >= 50, "{count} {what}");
    }
}

/// Parts of the message with which each defect may be found.
const fn says(defect: Defect) -> &'static [&'static str] {
    match defect {
        // If the cache is lost before the lie has taken effect, more than the disk gives the lie
        // away.
        Defect::LiesAboutFlush | Defect::LiesAboutFua => &["on disk, ", "a flush of step"],
        Defect::LosesCache | Defect::ClaimsTooMuch | Defect::ForgetsLoss | Defect::NotFenced => {
            &["on disk, ", "a flush of step", "a read of step"]
        }
        Defect::StaleReads => &["a read of step"],
        Defect::YoungFlushes => &["and nobody was told"],
        Defect::EndsTwice => &["which is not started"],
        Defect::ForgetsEnd => &["is started twice", "takes too long", "no end after", "can go on"],
        Defect::ForgetsWake => &["servers wait, and", "are being woken, and"],
        Defect::ForgetsAnnounce => &["sleep while"],
        Defect::WrongOrder => &["is the oldest"],
        // The copy may have stopped just before, and the copier may have ended the request.
        Defect::EndsCopying => &["while it is copied", "which is not started"],
        // A server that is declared dead, but not for the queue, continues to answer.
        Defect::ForgetsTakeBack => {
            &["takes too long", "no end after", "can go on", "on disk, ", "a flush of step", "a read of step"]
        }
        Defect::ForgetsTick => &["takes too long", "no end after", "can go on"],
        Defect::ForgetsPollers => &["and was not told"],
    }
}

#[test]
fn planted_defects_are_found() {
    let seed = seed();
    for defect in Defect::ALL {
        let Err(found) = run(seed, DEFECT_STEPS, Some(defect)) else {
            panic!("{defect:?} is not found in {DEFECT_STEPS} steps")
        };
        let what = &found.failure.what;
        println!("{defect:?}: found after {} steps: {what}", found.steps);
        assert!(says(defect).iter().any(|words| what.contains(words)), "{defect:?}: {found}");
    }
}

/// A seed determines the whole run.
#[test]
fn a_seed_repeats_a_run() {
    let seed = seed();
    let once = || run(seed, 50_000, None).map(|(episodes, counts)| format!("{episodes} {counts:?}"));
    assert_eq!(once().expect("no failure"), once().expect("no failure"));
}

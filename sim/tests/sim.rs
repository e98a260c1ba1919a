// SPDX-License-Identifier: GPL-2.0-only
//! A short run of the simulator with a seed of its own, and that its checks find what they are there to find.

use std::hash::{BuildHasher as _, RandomState};
use zosbd2_sim::run;
use zosbd2_sim::settings::Defect;

/// Steps of the run, when the engine is right.
const STEPS: u64 = 1_000_000;
/// Steps in which each defect must be found.
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
    // Otherwise little was at stake.
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

/// What is said of each defect, when it is found.
const fn says(defect: Defect) -> &'static [&'static str] {
    match defect {
        // If the cache is lost before the lie has got through, there is more than the disk to tell by.
        Defect::LiesAboutFlush | Defect::LiesAboutFua => &["on disk, ", "a flush of step"],
        Defect::LosesCache | Defect::NotFenced => &["on disk, ", "a flush of step", "a read of step"],
        Defect::StaleReads => &["a read of step"],
        Defect::YoungFlushes | Defect::LateFlushes => &["and nobody was told"],
        Defect::EndsTwice => &["which is not started"],
        Defect::ForgetsEnd => &["is started twice", "takes too long", "no end after", "can go on"],
        Defect::ForgetsWake => &["servers wait, and", "are being woken, and"],
        Defect::ForgetsAnnounce => &["sleep while"],
        Defect::WrongOrder => &["is the oldest"],
        // Or its copy has just stopped, and whoever made it has ended it.
        Defect::EndsCopying => &["while it is copied", "which is not started"],
        // A server that is dead to the others, but not to the queue, goes on to answer.
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

/// A seed decides everything.
#[test]
fn a_seed_repeats_a_run() {
    let seed = seed();
    let once = || run(seed, 50_000, None).map(|(episodes, counts)| format!("{episodes} {counts:?}"));
    assert_eq!(once().expect("no failure"), once().expect("no failure"));
}

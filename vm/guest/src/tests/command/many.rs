// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many disks at once.

use super::{Stage, json, ok};
use crate::guest::{Context, Step};

const THREADS: usize = 10;
const EACH: usize = 10;

/// 100 disks are added in parallel, exist, and are removed in parallel. Nothing is left.
pub(super) fn disks(context: &mut Context) {
    let stage = Stage::new(context);
    let parallel = |act: fn(&str)| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || (0..EACH).for_each(|disk| act(&format!("d{thread}-{disk}"))));
            }
        });
    };
    let step = Step::begin("adding 100 disks");
    parallel(|name| assert_eq!(ok(&["add", "null", "1M", "-n", name]), format!("/dev/zosbd2-{name}")));
    step.tell("listing 100 disks");
    let all = json(&["list"]);
    let all = all.as_array().expect("a list");
    assert_eq!(all.len(), THREADS * EACH);
    assert!(all.iter().all(|disk| disk["state"] == "live"), "{all:?}");
    step.tell("removing 100 disks");
    parallel(|name| drop(ok(&["remove", name])));
    drop(step);
    stage.end();
}

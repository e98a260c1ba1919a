// SPDX-License-Identifier: GPL-2.0-only
//! Runs the fuzz targets over the stored inputs and over some random ones.

use std::path::Path;
use zosbd2_sim::fuzz::TARGETS;
use zosbd2_sim::random::Random;

#[test]
fn the_corpus_is_fine() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let mut count = 0;
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.expect("an entry").path();
            println!("{}", path.display());
            target(&std::fs::read(&path).expect("read an input"));
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}

#[test]
fn noise_is_fine() {
    let seed = 1;
    let mut random = Random::new(seed);
    for _ in 0..20_000 {
        let length = random.index(400);
        let bytes: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
        for (_, target) in TARGETS {
            target(&bytes);
        }
    }
}

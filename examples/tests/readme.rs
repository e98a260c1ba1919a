// SPDX-License-Identifier: MIT OR Apache-2.0
//! README.md shows the source of the example that is built and, in `vm/`, run.

const PROGRAM: &str = include_str!("../src/bin/hello_disk.rs");
const README: &str = include_str!("../../README.md");

#[test]
fn readme_shows_the_smallest_example() {
    let shown = format!("```rust,no_run\n{PROGRAM}```\n");
    assert!(README.contains(&shown), "README.md differs from examples/src/bin/hello_disk.rs");
    assert!(PROGRAM.lines().count() <= 45, "the smallest example has grown too long");
}

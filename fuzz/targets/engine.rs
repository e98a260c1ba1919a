// SPDX-License-Identifier: GPL-2.0-only
//! The fuzz target `engine`; its body is `sim/src/fuzz/engine.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zosbd2_sim::fuzz::engine(data));

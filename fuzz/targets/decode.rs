// SPDX-License-Identifier: GPL-2.0-only
//! The fuzz target `decode`; its body is `sim/src/fuzz/decode.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zosbd2_sim::fuzz::decode(data));

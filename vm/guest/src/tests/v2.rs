// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of interface version 2.

pub(crate) mod again;
mod bounds;
mod buffers;
pub(crate) mod commits;
mod completions;
mod conformance;
mod contract;
mod copies;
pub(crate) mod crash;
pub(crate) mod crews;
mod data;
mod doomed;
mod events;
mod failures;
pub(crate) mod faulty;
mod faulty_async;
mod fences;
pub(crate) mod forms;
mod hand_over;
mod honest;
pub(crate) mod hostile;
mod hotplug;
pub(crate) mod in_flight;
mod inspect;
pub(crate) mod late;
mod life;
pub(crate) mod limits;
mod memory;
mod operations;
mod order;
mod owned;
mod partitions;
mod patience;
pub(crate) mod pressure;
mod races;
pub(crate) mod recovery;
pub(crate) mod server_process;
pub(crate) mod serving;
mod settings;
mod slow_disk;
mod store;
pub(crate) mod support;
pub(crate) mod teardown;
pub(crate) mod unserved;
pub(crate) mod voice;
mod wakeups;
mod which;

use crate::guest::Test;

pub(super) const TABLES: &[&[Test]] = &[
    operations::TESTS,
    order::TESTS,
    owned::TESTS,
    in_flight::TESTS,
    partitions::TESTS,
    bounds::TESTS,
    commits::TESTS,
    completions::TESTS,
    data::TESTS,
    conformance::TESTS,
    contract::TESTS,
    store::TESTS,
    limits::TESTS,
    serving::TESTS,
    wakeups::TESTS,
    crews::TESTS,
    life::TESTS,
    again::TESTS,
    hand_over::TESTS,
    which::TESTS,
    fences::TESTS,
    races::TESTS,
    crash::TESTS,
    honest::TESTS,
    recovery::TESTS,
    forms::TESTS,
    late::TESTS,
    voice::TESTS,
    unserved::TESTS,
    server_process::TESTS,
    events::TESTS,
    doomed::TESTS,
    patience::TESTS,
    copies::TESTS,
    settings::TESTS,
    slow_disk::TESTS,
    teardown::TESTS,
    teardown::stacked::TESTS,
    inspect::TESTS,
    faulty::TESTS,
    faulty_async::TESTS,
    failures::TESTS,
    buffers::TESTS,
    hostile::TESTS,
    hotplug::TESTS,
    memory::TESTS,
    pressure::TESTS,
];

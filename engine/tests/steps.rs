// SPDX-License-Identifier: GPL-2.0-only
//! Since when flushes wait, in the orders in which the block layer can bring them.

use zosbd2_engine::steps::Steps;

/// A flush that met a quiet disk was sent when it was made, however long ago the last one was.
#[test]
fn a_flush_of_a_quiet_disk_is_as_old_as_it_is() {
    let mut steps = Steps::new();
    assert_eq!(steps.flush_comes(10), 10);
    steps.over(12);
    assert_eq!(steps.flush_comes(1000), 1000);
    steps.over(1002);
    // Made when the one before ended: for those who had come while that was under way.
    assert_eq!(steps.flush_comes(1002), 1000);
}

/// Those who wait for the next flush have come since the last one was made.
#[test]
fn a_flush_behind_others_is_as_old_as_the_last() {
    let mut steps = Steps::new();
    assert_eq!(steps.flush_comes(10), 10);
    steps.over(20);
    assert_eq!(steps.flush_comes(20), 10);
    steps.over(30);
    assert_eq!(steps.flush_comes(30), 20);
}

/// A write is answered by the flush after its data.
#[test]
fn a_flush_is_as_old_as_the_data_before_it() {
    let mut steps = Steps::new();
    steps.write_comes(10);
    steps.write_ends(10);
    steps.over(20);
    assert_eq!(steps.flush_comes(20), 10);
    steps.over(25);
    // While another one's data was under way the block layer lost its patience, and made a flush for the others.
    steps.write_comes(30);
    assert_eq!(steps.flush_comes(40), 30);
    steps.write_ends(30);
    steps.over(45);
    steps.over(50);
    assert_eq!(steps.flush_comes(50), 30);
}

/// The timer holds on to a flush that it ended: the next is made when it lets go, and others come and go meanwhile.
#[test]
fn a_flush_that_is_held_on_to_is_not_over() {
    let mut steps = Steps::new();
    assert_eq!(steps.flush_comes(10), 10);
    steps.over_later();
    steps.write_comes(30);
    steps.write_ends(30);
    steps.over(32);
    steps.write_comes(35);
    // Of one who came at 15.
    assert_eq!(steps.flush_comes(40), 10);
    steps.write_ends(35);
    steps.over(42);
    steps.over(45);
    assert_eq!(steps.flush_comes(45), 30);
    steps.over(50);
    assert_eq!(steps.flush_comes(60), 60, "quiet again");
}

/// A work takes flushes to the driver; a write that comes straight overtakes one.
#[test]
fn a_flush_on_its_way_is_overtaken() {
    for writes in 1..4 {
        let mut steps = Steps::new();
        steps.write_comes(10);
        steps.write_ends(10);
        steps.over(21);
        for number in 0..writes {
            let at = 22 + 2 * number;
            steps.write_comes(at);
            if number + 1 < writes {
                steps.write_ends(at);
                steps.over(at + 1);
            }
        }
        // Of one who came at 10. It may count as older: what went on before is kept as one time.
        assert!(steps.flush_comes(20) <= 10, "after {writes}");
        // The next is made after that, for the writes.
        steps.write_ends(22);
        steps.over(30);
        steps.over(31);
        assert!(steps.flush_comes(31) <= 22);
        steps.over(32);
        assert_eq!(steps.flush_comes(100), 100, "quiet again");
    }
}

/// Without a time of its own, data may be that of a write that others wait for since long ago.
#[test]
fn data_without_a_time_is_as_old_as_what_went_before() {
    let mut steps = Steps::new();
    // The flush before the data, for which another one's flush waits from 16 on.
    assert_eq!(steps.flush_comes(10), 10);
    steps.over(15);
    steps.untimed_write_comes();
    steps.write_ends(18);
    steps.over(20);
    assert_eq!(steps.flush_comes(20), 10);
    steps.over(25);
    assert_eq!(steps.flush_comes(30), 30);
}

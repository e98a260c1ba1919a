// SPDX-License-Identifier: GPL-2.0-only
//! What the watch of a device notices: requests that nobody serves, and the loss of a cache.

use zosbd2_engine::watch::{CacheWatch, QueueWatch, Seen, UNSERVED_MS, WATCH_MS};

/// Three requests wait, and no thread does.
const QUEUED: Seen = Seen { queued: 3, held: 0, holder_lives: true, waiting: 0, calls: 7 };
/// A process that has ended held two requests.
const ABANDONED: Seen = Seen { queued: 0, held: 2, holder_lives: false, ..QUEUED };

/// Which queues are unserved.
#[test]
fn requests_that_nobody_serves() {
    let cases = [
        (Seen::default(), 0, "idle"),
        (QUEUED, 3, "queued, and all threads are busy or gone"),
        (Seen { waiting: 1, ..QUEUED }, 0, "a thread waits, and is being woken"),
        (Seen { held: 2, ..QUEUED }, 3, "a slow server; what it holds does not count"),
        (Seen { queued: 0, held: 2, ..QUEUED }, 0, "a slow server that owes nothing else"),
        (ABANDONED, 2, "held by nobody"),
        (Seen { queued: 3, ..ABANDONED }, 5, "queued, and held by nobody"),
        (Seen { waiting: 1, ..ABANDONED }, 0, "another process waits, and may know of them"),
        (Seen { held: 0, ..ABANDONED }, 0, "the process has ended, and owes nothing"),
        (Seen { queued: u32::MAX, ..ABANDONED }, u32::MAX, "a number that is too large"),
    ];
    for (seen, unserved, what) in cases {
        assert_eq!(seen.unserved(), unserved, "{what}");
    }
}

#[test]
fn they_are_told_once_after_a_while() {
    for waits in [QUEUED, ABANDONED] {
        let mut watch = QueueWatch::new();
        assert_eq!(watch.unserved_ms(50, &waits), 0, "no look yet");
        assert!(!watch.look(100, &waits, true));
        assert!(!watch.look(100 + UNSERVED_MS - 1, &waits, true));
        assert_eq!(watch.unserved_ms(600, &waits), 500);
        let mut other = watch;
        assert!(other.look(100 + UNSERVED_MS, &waits, true));
        assert!(!other.look(1_000_000, &waits, true), "once");
        // A thread that called, one that waits, no request, no server.
        for seen in
            [Seen { calls: 8, ..waits }, Seen { waiting: 1, ..waits }, Seen { calls: 7, ..Seen::default() }]
        {
            let mut watch = watch;
            assert_eq!(watch.unserved_ms(9000, &seen), 0);
            assert!(!watch.look(9000, &seen, true));
            assert!(!watch.look(9001, &Seen { calls: 8, ..waits }, true), "it begins anew");
        }
        assert!(!watch.look(9000, &waits, false));
        assert!(!watch.look(9001, &waits, true));
        // Told again after a thread has called.
        assert!(!other.look(2_000_000, &Seen { calls: 9, ..waits }, true));
        assert!(other.look(2_000_000 + UNSERVED_MS, &Seen { calls: 9, ..waits }, true));
    }
}

/// The look after `UNSERVED_MS` comes at most two looks late.
#[test]
fn a_death_while_requests_are_held_is_told_in_time() {
    let slow = Seen { holder_lives: true, ..ABANDONED };
    for died_ms in 0..u64::from(WATCH_MS) {
        let (mut watch, mut now_ms) = (QueueWatch::new(), 0);
        // A server that has been slow for a minute has not been unserved for that time.
        for _ in 0..30 {
            assert!(!watch.look(now_ms, &slow, true));
            now_ms += u64::from(WATCH_MS);
        }
        let died_ms = now_ms - died_ms;
        while !watch.look(now_ms, &ABANDONED, true) {
            now_ms += u64::from(WATCH_MS);
        }
        let after_ms = now_ms - died_ms;
        assert!((UNSERVED_MS..=8000).contains(&after_ms), "told after {after_ms} ms");
    }
}

/// Requests of a stuck server that dies are not told of again.
#[test]
fn a_death_of_a_stuck_server_is_no_second_event() {
    let mut watch = QueueWatch::new();
    let stuck = Seen { held: 2, ..QUEUED };
    assert!(!watch.look(0, &stuck, true));
    assert!(watch.look(UNSERVED_MS, &stuck, true));
    assert!(!watch.look(2 * UNSERVED_MS, &Seen { holder_lives: false, ..stuck }, true));
    assert_eq!(watch.unserved_ms(3 * UNSERVED_MS, &stuck), 3 * UNSERVED_MS);
}

#[test]
fn a_lost_cache_is_noticed() {
    let mut watch = CacheWatch::new();
    let mut look = |served, lost, lost_flushes| watch.look(lost_flushes, served, lost);
    assert!(!look(true, false, 0));
    assert!(!look(false, true, 0), "the server may have the cache");
    assert!(look(true, true, 0));
    assert_eq!(
        (look(true, true, 0), look(true, true, 1), look(true, false, 2)),
        (false, false, false),
        "once"
    );
    assert!(!look(true, false, 2));
    assert!(look(true, true, 2), "another loss");
    assert!(!look(true, false, 2));
    assert!(look(true, false, 4), "over before it was seen");
}

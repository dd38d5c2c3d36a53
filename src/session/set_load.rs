//! Whether a shared set has more to do than its thread can, while a processor has nothing to do.
//!
//! The time is parted into windows. A set is *full* in a window in which its thread has slept for less than a twentieth
//! of it. After two full windows on end in the second of which processors were idle for half of one processor's time,
//! it gives sessions away. One window alone is often a burst; and without an idle processor another thread would only
//! add context switches. It is not looked at again before [`PAUSE`] has passed, so that what was given away shows.
//!
//! Invariant: the kernel is asked for the processors' idle time in full windows only.

use std::time::Duration;

use crate::net::clock::MonotonicTime;

/// The length of a window.
const WINDOW: Duration = Duration::from_millis(200);

/// How long a set keeps its sessions after it has given some away.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct SetLoad {
    since: MonotonicTime,
    slept: Duration,
    /// The processors' idle time when the last window ended, if that was full.
    idle: Option<Duration>,
}

impl SetLoad {
    /// Nothing is known yet.
    pub(super) fn new(now: MonotonicTime) -> SetLoad {
        SetLoad {
            since: now,
            slept: Duration::ZERO,
            idle: None,
        }
    }

    /// The thread has slept so long, and is awake now. True if the set is to give sessions away. `idle_time` is the
    /// idle time of all processors together since some time in the past, if that can be told.
    pub(super) fn woke(
        &mut self,
        slept: Duration,
        now: MonotonicTime,
        idle_time: impl FnOnce() -> Option<Duration>,
    ) -> bool {
        let window = now.since(self.since);
        if window == Duration::ZERO {
            // It is the pause.
            return false;
        }
        self.slept += slept;
        if window < WINDOW {
            return false;
        }
        let full = self.slept * 20 < window;
        let before = self.idle.take();
        if full {
            self.idle = idle_time();
        }
        self.since = now;
        self.slept = Duration::ZERO;
        let (Some(before), Some(idle)) = (before, self.idle) else {
            return false;
        };
        let gives = idle.saturating_sub(before) * 2 >= window;
        if gives {
            self.idle = None;
            self.since = now.after(PAUSE);
        }
        gives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set and the processors' idle time.
    struct Scene {
        load: SetLoad,
        now: MonotonicTime,
        idle: Duration,
    }

    impl Scene {
        fn new() -> Scene {
            let now = MonotonicTime::from_micros(1_000_000);
            Scene {
                load: SetLoad::new(now),
                now,
                idle: Duration::from_secs(100),
            }
        }

        /// A window passes in which the set sleeps, and the processors are idle, so long.
        fn window(&mut self, slept: u64, idle: u64) -> bool {
            self.now = self.now.after(WINDOW);
            self.idle += Duration::from_millis(idle);
            let (slept, idle) = (Duration::from_millis(slept), self.idle);
            self.load.woke(slept, self.now, || Some(idle))
        }
    }

    #[test]
    fn a_set_that_is_full_while_a_processor_is_idle_gives_sessions_away() {
        let mut it = Scene::new();
        assert!(!it.window(0, 200), "once is a burst");
        assert!(it.window(5, 100));
    }

    #[test]
    fn one_that_sleeps_now_and_then_does_not() {
        let mut it = Scene::new();
        for _ in 0..3 {
            assert!(!it.window(0, 200));
            assert!(!it.window(50, 200));
        }
    }

    #[test]
    fn without_an_idle_processor_it_keeps_them() {
        let mut it = Scene::new();
        for _ in 0..5 {
            assert!(!it.window(0, 20));
        }
        assert!(it.window(0, 150), "there is one now");
    }

    #[test]
    fn it_keeps_the_others_for_a_while() {
        let mut it = Scene::new();
        it.window(0, 200);
        assert!(it.window(0, 200));
        for _ in 0..6 {
            assert!(!it.window(0, 200));
        }
        assert!(it.window(0, 200), "it is full all the same");
    }
}

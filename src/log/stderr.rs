//! Lines written to standard error (or anything like it) without waiting long for its reader.
//!
//! A log that goes to a pipe is read by a process that may stop: a suspended terminal, a container
//! runtime with a full disk. A pooler must not stop with them. So each write waits at most
//! [`PATIENCE`] for room; after one such wait in vain no thread waits again until there is room,
//! and the lines lost meanwhile are counted. Their number is logged.
//!
//! Invariant: a line is written whole by one thread, and the lock is held for no longer than one
//! wait. It does not shape records; see `log_format`.

use super::format::{Line, Style};
use log::{Level, Log, Metadata, Record};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

/// How long a line waits for its reader.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// As much as a pipe that polls as writable takes without blocking (`PIPE_BUF` of Linux).
const PIECE: usize = 4096;

/// Log records as lines on `W`.
pub(super) struct Lines<W> {
    style: Style,
    patience: Duration,
    to: Mutex<State<W>>,
}

struct State<W> {
    to: W,
    /// The last write found no room.
    stalled: bool,
    /// Lines lost since the last one that was written.
    lost: u64,
    /// A line was cut off: the next one has to begin with a line's end.
    cut: bool,
}

impl<W: Write + AsFd> Lines<W> {
    /// Records as lines on `to`, of which each waits for room at most `patience`. `style` is for
    /// the lines that this file adds of its own.
    pub(super) fn new(to: W, style: Style, patience: Duration) -> Lines<W> {
        let to = Mutex::new(State {
            to,
            stalled: false,
            lost: 0,
            cut: false,
        });
        Lines {
            style,
            patience,
            to,
        }
    }

    /// Writes one line, or loses it.
    pub(super) fn write(&self, mut line: String) {
        line.push('\n');
        let mut state = self.to.lock();
        if state.lost > 0 || state.cut {
            let mut first = String::new();
            if state.cut {
                first.push('\n');
            }
            let lost = state.lost;
            let mut record = Record::builder();
            record.level(Level::Warn);
            let _ = writeln!(
                first,
                "{}",
                Line::new(
                    self.style,
                    SystemTime::now(),
                    &record
                        .args(format_args!(
                            "{lost} log records lost, since nobody read them"
                        ))
                        .build()
                )
            );
            if !state.write(first.as_bytes(), self.patience) {
                state.lost += 1;
                return;
            }
            state.lost = 0;
            state.cut = false;
        }
        if !state.write(line.as_bytes(), self.patience) {
            state.lost += 1;
        }
    }
}

impl<W: Write + AsFd> State<W> {
    /// Whether all of `bytes` was written, or never can be since the reader is gone for good.
    fn write(&mut self, mut bytes: &[u8], patience: Duration) -> bool {
        let whole = bytes.len();
        let until = Instant::now() + patience;
        while !bytes.is_empty() {
            let until = if self.stalled { Instant::now() } else { until };
            if !self.has_room(until) {
                self.stalled = true;
                self.cut |= bytes.len() < whole;
                return false;
            }
            let piece = bytes.get(..PIECE).unwrap_or(bytes);
            match self.to.write(piece) {
                Ok(0) => return true,
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    self.stalled = false;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    // Writable, yet not: another process was faster. Wait for room again.
                    ErrorKind::WouldBlock if Instant::now() < until => {}
                    ErrorKind::WouldBlock => {
                        self.stalled = true;
                        self.cut |= bytes.len() < whole;
                        return false;
                    }
                    // A closed pipe, a full disk. It can be reported nowhere.
                    _ => return true,
                },
            }
        }
        true
    }

    /// Waits until something can be written, or writing would fail at once.
    fn has_room(&self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut wanted = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut wanted, left) {
                Ok(found) => return found > 0,
                Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
    }
}

impl<W: Write + AsFd + Send> Log for Lines<W> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Formatted before the lock is taken, and whatever could be formatted is written.
        let mut line = String::new();
        let _ = write!(line, "{}", record.args());
        self.write(line);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::pipe;
    use std::fs::File;
    use std::io::Read;

    fn lines(to: File) -> Lines<File> {
        Lines::new(to, Style::Untimed, Duration::from_millis(1))
    }

    fn read(from: &mut File, count: usize) -> String {
        let mut bytes = vec![0; count];
        from.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Writes lines of 1000 bytes until one is lost; how many were not.
    fn fill(lines: &Lines<File>) -> usize {
        for written in 0.. {
            if lines.to.lock().lost > 0 {
                return written - 1;
            }
            lines.write("x".repeat(999));
        }
        0
    }

    #[test]
    fn a_line_arrives_whole_with_its_end() {
        let (mut from, to) = pipe();
        lines(to).write("hello".into());
        assert_eq!(read(&mut from, 6), "hello\n");
    }

    #[test]
    fn a_line_longer_than_the_pipes_atomic_write_arrives_whole() {
        let (mut from, to) = pipe();
        let long = "y".repeat(3 * PIECE + 17);
        lines(to).write(long.clone());
        assert_eq!(read(&mut from, long.len() + 1), long + "\n");
    }

    #[test]
    fn when_nobody_reads_lines_are_lost_not_waited_for_and_then_told() {
        let (mut from, to) = pipe();
        let lines = lines(to);
        let arrived = fill(&lines);
        lines.write("lost".into());
        lines.write("lost".into());
        read(&mut from, arrived * 1000);
        lines.write("found".into());
        let told = "WARN 3 log records lost, since nobody read them\nfound\n";
        assert_eq!(read(&mut from, told.len()), told);
    }

    #[test]
    fn after_one_wait_in_vain_nobody_waits_again() {
        let (_from, to) = pipe();
        let mut lines = lines(to);
        fill(&lines);
        lines.patience = Duration::from_secs(5);
        let began = Instant::now();
        lines.write("lost at once".into());
        assert!(began.elapsed() < lines.patience);
    }

    #[test]
    fn after_a_line_that_was_cut_off_the_next_begins_a_new_one() {
        let (mut from, to) = pipe();
        let lines = lines(to);
        let long = "z".repeat(1 << 20);
        lines.write(long);
        assert!(lines.to.lock().cut);
        let mut part = vec![0; 1 << 20];
        let taken = from.read(&mut part).unwrap();
        assert!(part[..taken].iter().all(|byte| *byte == b'z'));
        lines.write("after".into());
        let told = "\nWARN 1 log records lost, since nobody read them\nafter\n";
        assert_eq!(read(&mut from, told.len()), told);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error_and_no_loss_to_tell() {
        let (from, to) = pipe();
        drop(from);
        let lines = lines(to);
        lines.write("into the void".into());
        assert_eq!(lines.to.lock().lost, 0);
    }
}

//! [`Times`]: how long a thread has computed, and how long it would have if it had had a core.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// A thread's account with the scheduler.
pub(crate) struct Times(File);

impl Times {
    /// The current thread's.
    ///
    /// # Errors
    /// Where the system keeps none: on others than Linux, or without its scheduler's statistics.
    pub(crate) fn of_this_thread() -> io::Result<Times> {
        let times = Times(File::open("/proc/thread-self/schedstat")?);
        times.read()?;
        Ok(times)
    }

    /// How long the thread has run, and how long it has waited for a core.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(crate) fn read(&self) -> io::Result<[Duration; 2]> {
        let mut text = [0; 64];
        let length = self.0.read_at(&mut text, 0)?;
        parse(&text[..length]).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// Two numbers of nanoseconds, and how often the thread has run (Documentation/scheduler/sched-stats.rst).
fn parse(text: &[u8]) -> Option<[Duration; 2]> {
    let text = std::str::from_utf8(text).ok()?;
    let mut numbers = text.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let (ran, waited, turns) = (numbers.next()??, numbers.next()??, numbers.next()??);
    // A thread that asks has had a turn; where nobody counts, there is none.
    (turns > 0).then(|| [ran, waited].map(Duration::from_nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let nanos = Duration::from_nanos;
        assert_eq!(parse(b"3871 2040 12\n"), Some([nanos(3871), nanos(2040)]));
        assert_eq!(parse(b"0 0 1\n"), Some([Duration::ZERO; 2]), "it has just begun");
        for strange in ["", "0 0 0\n", "12\n", "12 3\n", "12 x 1\n", "-1 2 3\n"] {
            assert_eq!(parse(strange.as_bytes()), None, "{strange:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_computes_is_seen_to() {
        let times = Times::of_this_thread().expect("Linux tells");
        let [before, _] = times.read().expect("this thread lives");
        while times.read().expect("this thread lives")[0] == before {
            std::hint::spin_loop();
        }
    }
}

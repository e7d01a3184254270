//! Logs: lines for people or JSON for machines, on standard error.
//!
//! Owns the format, and one rule: nobody else writes lines of his own there, whether a stranger says it, a server or an administrator. What
//! is logged never holds a password: those are in types that show `***`.

use config::{Log, LogFormat, LogLevel};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

use crate::printable::Printable;

/// Starts logging, once.
pub(crate) fn start(options: &Log) {
    let level = match options.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    // A second start is a mistake of ours that costs nothing but its own format.
    let _ = match options.format {
        LogFormat::Text => builder.with_ansi(false).fmt_fields(OneLine::default()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// An event's message and fields, on one line. JSON escapes for itself.
#[derive(Default)]
struct OneLine(DefaultFields);

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> std::fmt::Result {
        let mut text = String::new();
        self.0.format_fields(Writer::new(&mut text), fields)?;
        write!(writer, "{}", Printable(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_a_line() {
        let paper = Paper::default();
        let pen = paper.clone();
        let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(move || pen.clone());
        tracing::subscriber::with_default(builder.fmt_fields(OneLine::default()).finish(), || {
            let said = "x\nforged\r\u{2028}\u{1b}[2J";
            tracing::warn!(said, shown = %said, message = %said);
            tracing::warn!(shown = ?said, "{said}");
        });
        let bytes = paper.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.contains("WARN") && line.contains("x\\nforged\\r")), "{text}");
        assert!(!text.trim_end().contains(|letter: char| letter.is_control() && letter != '\n'), "{text:?}");
    }
}

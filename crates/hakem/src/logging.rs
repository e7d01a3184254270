//! Logs: lines for people or JSON for machines, on standard error.
//!
//! Owns the format. What is logged never holds a password: those are in types that show `***`.

use config::{Log, LogFormat, LogLevel};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

/// Starts logging, once.
pub(crate) fn start(options: &Log) {
    let level = match options.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    // A second start is a mistake of ours that costs nothing but its own format.
    let _ = match options.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

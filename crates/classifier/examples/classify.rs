//! Classifies the statements on standard input, one per line: access, reason, microseconds, effects, hint, text.
//!
//! ```sh
//! echo "select 1" | cargo run -q -p classifier --example classify
//! ```

use classifier::{Access, Classifier, Options};
use std::io::{self, BufRead, Write};
use std::time::Instant;

fn main() -> io::Result<()> {
    let classifier = Classifier::new(Options::default());
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let sql = line?;
        let start = Instant::now();
        let class = classifier.classify_uncached(&sql);
        let micros = start.elapsed().as_micros();
        let access = match class.access {
            Access::Read => "read",
            Access::Write => "write",
        };
        writeln!(out, "{access}\t{}\t{micros}\t{:?}\t{:?}\t{sql}", class.why, class.effects, class.hint)?;
    }
    Ok(())
}

//! The corpus in `tests/corpus`, whose truth was established on a primary and a hot standby: no write is taken for a read, and hardly a read
//! for a write. No catalogue is loaded.

use classifier::{Access, Classifier, Options};
use serde_json::Value;

/// More than these of the reads must be found.
const READS_PERCENT_MIN: usize = 97;

fn check(name: &str, lines: &str) {
    let classifier = Classifier::new(Options::default());
    let (mut reads, mut missed, mut unsafe_reads) = (0, Vec::new(), Vec::new());
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("the corpus is JSON");
        let sql = line["sql"].as_str().expect("a line has a statement");
        let class = classifier.classify(sql);
        match line["truth"].as_str() {
            Some("read") => {
                reads += 1;
                if class.access != Access::Read {
                    missed.push(format!("{}: {sql}", class.why));
                }
            }
            Some("write") if class.access == Access::Read => unsafe_reads.push(sql.to_owned()),
            Some("write") => {}
            other => panic!("{other:?} is no truth"),
        }
    }
    println!("{name}: {} of {reads} reads missed\n{missed:#?}", missed.len());
    assert!(unsafe_reads.is_empty(), "{name}: {unsafe_reads:#?}");
    assert!(missed.len() * 100 < reads * (100 - READS_PERCENT_MIN), "{name}: {} of {reads}: {missed:#?}", missed.len());
}

#[test]
fn recorded() {
    check("recorded", include_str!("../../../tests/corpus/recorded.jsonl"));
}

#[test]
fn manual() {
    check("manual", include_str!("../../../tests/corpus/manual.jsonl"));
}

#[test]
fn versions() {
    check("versions", include_str!("../../../tests/corpus/versions.jsonl"));
}

#[test]
fn adversarial() {
    check("adversarial", include_str!("../../../tests/corpus/adversarial.jsonl"));
}

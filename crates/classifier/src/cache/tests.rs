//! What the caches keep, and what they let go.

use super::*;

const ENTRIES: usize = 1_000;
/// Fewer than the caches hold, and each used more seldom than the caches turn over.
const HOT: usize = 300;

/// Classifies `hot` texts in turn while one client sends a million `unique` ones, and returns how many of the hot ones are still known.
fn pass(
    unique: usize,
    every: usize,
    hot: impl Fn(usize) -> String,
    of: impl Fn(usize) -> String,
    known: impl Fn(&Classifier, &str) -> bool,
) -> usize {
    let classifier = Classifier::new(Options { cache_entries: ENTRIES, ..Options::default() });
    let hot: Vec<String> = (0..HOT).map(hot).collect();
    for text in hot.iter().chain(&hot) {
        classifier.classify(text);
    }
    for at in 0..unique {
        classifier.classify(&of(at));
        if at % every == 0 {
            classifier.classify(&hot[at / every % HOT]);
        }
    }
    assert!(classifier.exact.len() <= ENTRIES + HOT && classifier.shapes.len() <= ENTRIES + HOT, "{classifier:?}");
    assert!(
        classifier.exact.weight() <= (ENTRIES * ENTRY_BYTES) as u64
            && classifier.shapes.weight() <= (ENTRIES * ENTRY_BYTES) as u64
    );
    hot.iter().filter(|text| known(&classifier, text)).count()
}

fn shape_of(text: &str) -> String {
    let lexed = Lexed::new(text);
    shape_key(&lexed, &lexed.statements()).expect("a plain text has a shape")
}

#[test]
fn unique_texts_evict_nobody() {
    let kept = pass(
        1_000_000,
        10,
        |at| format!("select a from t{at}"),
        |at| format!("select {at}"),
        |classifier, text| classifier.exact.peek(text).is_some(),
    );
    assert!(kept * 100 >= HOT * 95, "{kept} of {HOT}");
}

#[test]
fn unique_shapes_evict_nobody() {
    let kept = pass(
        50_000,
        10,
        |at| format!("select a from t{at}"),
        |at| format!("select b{at}"),
        |classifier, text| classifier.shapes.peek(shape_of(text).as_str()).is_some(),
    );
    assert!(kept * 100 >= HOT * 95, "{kept} of {HOT}");
}

#[test]
fn long_keys_count_for_more() {
    let classifier = Classifier::new(Options { cache_entries: ENTRIES, ..Options::default() });
    for at in 0..3 * ENTRIES {
        classifier.classify(&format!("select '{}', {at}", "x".repeat(10_000)));
        classifier.classify(&format!("set a.b = '{}{at}'", "x".repeat(1_000)));
    }
    let bytes = (ENTRIES * ENTRY_BYTES) as u64;
    assert!(classifier.exact.weight() <= bytes && classifier.shapes.weight() <= bytes, "{classifier:?}");
    assert!(classifier.exact.len() < ENTRIES / 2, "{classifier:?}");
}

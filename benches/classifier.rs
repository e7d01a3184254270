//! What classifying costs: a text seen before, a shape seen before, a text never seen. Run with `cargo bench -p classifier`.

mod measure;

use std::hint::black_box;
use std::sync::Arc;

use classifier::{Classifier, Options};
use measure::{Case, measure};

/// A statement of about 200 bytes, as an ORM writes it, with a literal that varies.
fn statement(id: usize) -> String {
    format!(
        "SELECT u.id, u.name, u.email, count(o.id) AS orders FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.state = 'open' \
         WHERE u.id = {id} AND u.deleted_at IS NULL GROUP BY u.id ORDER BY u.name LIMIT 20"
    )
}

fn main() {
    let shared = Arc::new(Classifier::new(Options::default()));
    let first = statement(0);
    shared.classify(&first);
    let (classifier, text) = (shared.clone(), first.clone());
    let exact = move || classifier.classify(black_box(&text));

    let texts: Vec<String> = (1..1_000).map(statement).collect();
    let (classifier, mut at) = (shared.clone(), 0);
    let shape = move || {
        at = (at + 1) % texts.len();
        classifier.classify(black_box(&texts[at]))
    };

    let classifier = shared.clone();
    let miss = move || classifier.classify_uncached(black_box(&first));
    let begin = move || shared.classify_uncached(black_box("BEGIN READ ONLY"));
    measure(vec![
        Case::new("classify/exact", exact),
        Case::new("classify/shape", shape),
        Case::new("classify/miss", miss),
        Case::new("classify/miss-begin", begin),
    ]);
}

//! What classifying costs: a text seen before, a shape seen before, a text never seen. Run with `cargo bench -p classifier`.

use classifier::{Classifier, Options};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

/// A statement of about 200 bytes, as an ORM writes it, with a literal that varies.
fn statement(id: usize) -> String {
    format!(
        "SELECT u.id, u.name, u.email, count(o.id) AS orders FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.state = 'open' \
         WHERE u.id = {id} AND u.deleted_at IS NULL GROUP BY u.id ORDER BY u.name LIMIT 20"
    )
}

fn classifier(c: &mut Criterion) {
    let shared = Classifier::new(Options::default());
    let first = statement(0);
    shared.classify(&first);
    c.bench_function("classify/exact", |b| b.iter(|| shared.classify(black_box(&first))));

    let texts: Vec<String> = (1..1_000).map(statement).collect();
    let mut at = 0;
    c.bench_function("classify/shape", |b| {
        b.iter(|| {
            at = (at + 1) % texts.len();
            shared.classify(black_box(&texts[at]))
        });
    });

    c.bench_function("classify/miss", |b| b.iter(|| shared.classify_uncached(black_box(&first))));
    c.bench_function("classify/miss-begin", |b| b.iter(|| shared.classify_uncached(black_box("BEGIN READ ONLY"))));
}

criterion_group!(benches, classifier);
criterion_main!(benches);

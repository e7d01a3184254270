//! What it costs to walk a server's reply by its headers: the proxy's work per row.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire::frame::Frames;

fn walk(criterion: &mut Criterion) {
    let mut reply = Vec::new();
    wire::backend::put_text_columns(&mut reply, &["abalance"]);
    for _ in 0..1000 {
        wire::backend::put_text_row(&mut reply, &["-1234567"]);
    }
    wire::backend::put_command_complete(&mut reply, "SELECT 1000");
    wire::backend::put_ready(&mut reply, wire::backend::Status::Idle);
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(1003));
    group.bench_function("walk 1003 frames", |bencher| {
        bencher.iter(|| Frames::new(black_box(&reply)).fold(0usize, |sum, frame| sum + usize::from(frame.tag)));
    });
    group.finish();
}

criterion_group!(benches, walk);
criterion_main!(benches);

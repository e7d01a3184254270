//! What it costs to walk a server's reply by its headers: the proxy's work per row.

mod measure;

use std::hint::black_box;

use measure::{Case, measure};
use wire::frame::Frames;

fn main() {
    let mut reply = Vec::new();
    wire::backend::put_text_columns(&mut reply, &["abalance"]);
    for _ in 0..1000 {
        wire::backend::put_text_row(&mut reply, &["-1234567"]);
    }
    wire::backend::put_command_complete(&mut reply, "SELECT 1000");
    wire::backend::put_ready(&mut reply, wire::backend::Status::Idle);
    let walk = move || Frames::new(black_box(&reply)).fold(0usize, |sum, frame| sum + usize::from(frame.tag));
    measure(vec![Case::new("frames/walk 1003", walk)]);
}

//! A client that says or hears a lot, and how long that takes.

use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use tokio::io::AsyncWriteExt;
use wire::backend::tag;
use wire::frontend;

use crate::client::{Client, Door};

/// What is large.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum What {
    /// A result of 1 GB in rows of 1 kB
    Result,
    /// 1 GB of COPY TO STDOUT
    CopyOut,
    /// 100 MB of COPY FROM STDIN into load_lines
    CopyIn,
    /// 10,000 inserts of one row into load_lines, in one pipeline, five times
    Batch,
    /// Texts of 1 MB, a hundred times
    Text,
}

/// Does it; prints the bytes of the larger direction and the seconds.
pub(crate) async fn large(door: &Door, what: What) -> Result<()> {
    let mut client = Client::log_in(door, door.tls()?.as_ref(), BUFFER_BYTES).await?;
    let (before, since) = (client.frames.total, Instant::now());
    let bytes = match what {
        What::Result => {
            ask(&mut client, "select repeat('x', 1000) from generate_series(1, 1000000)").await?;
            client.frames.total - before
        }
        What::CopyOut => {
            ask(&mut client, "copy (select repeat('x', 1000) from generate_series(1, 1000000)) to stdout").await?;
            client.frames.total - before
        }
        What::CopyIn => copy_in(&mut client).await?,
        What::Batch => batch(client).await?,
        What::Text => {
            let text = format!("select length('{}')", "x".repeat(1 << 20));
            for _ in 0..TEXTS {
                ask(&mut client, &text).await?;
            }
            TEXTS * text.len() as u64
        }
    };
    println!("{{\"bytes\": {bytes}, \"seconds\": {:.4}}}", since.elapsed().as_secs_f64());
    Ok(())
}

/// A simple query and its answer.
async fn ask(client: &mut Client, sql: &str) -> Result<()> {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql);
    client.say(&out).await?;
    client.until(tag::READY_FOR_QUERY).await
}

async fn copy_in(client: &mut Client) -> Result<u64> {
    let mut out = Vec::new();
    frontend::put_query(&mut out, "copy load_lines from stdin");
    client.say(&out).await?;
    client.until(tag::COPY_IN_RESPONSE).await?;
    // 64 lines of 1 kB in each CopyData.
    let lines = format!("{}\n", "x".repeat(1023)).repeat(64);
    out.clear();
    put_message(&mut out, b'd', lines.as_bytes());
    for _ in 0..COPIED_BYTES / lines.len() {
        client.say(&out).await?;
    }
    let mut end = Vec::new();
    put_message(&mut end, b'c', b"");
    client.say(&end).await?;
    client.until(tag::READY_FOR_QUERY).await?;
    Ok((COPIED_BYTES / lines.len() * out.len()) as u64)
}

/// Writes while it reads: else both sides would wait for the other to read.
async fn batch(client: Client) -> Result<u64> {
    let Client { stream, mut frames } = client;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"", b"insert into load_lines values ($1)", &[0, 0]);
    let value = "x".repeat(100);
    let mut values = b"\0\0\0\x01".to_vec();
    values.extend_from_slice(&u32::try_from(value.len())?.to_be_bytes());
    values.extend_from_slice(value.as_bytes());
    values.extend_from_slice(b"\0\0");
    for _ in 0..BATCH_ROWS {
        frontend::put_bind(&mut out, b"", b"", &values);
        out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
    }
    frontend::put_sync(&mut out);
    for _ in 0..BATCHES {
        let write = async {
            writer.write_all(&out).await?;
            Ok(writer.flush().await?)
        };
        tokio::try_join!(write, frames.until(tag::READY_FOR_QUERY, &mut reader))?;
    }
    Ok((BATCHES * out.len()) as u64)
}

fn put_message(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(u32::try_from(body.len()).expect("a body of less than 4 GB") + 4).to_be_bytes());
    out.extend_from_slice(body);
}

const BUFFER_BYTES: usize = 256 << 10;
const COPIED_BYTES: usize = 100 << 20;
const TEXTS: u64 = 100;
const BATCHES: usize = 5;
const BATCH_ROWS: usize = 10_000;

//! Many clients at a time: how long each waits for its answers, and how evenly they are served.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::RngExt;
use tokio::task::LocalSet;
use wire::backend::tag;

use crate::client::{Client, Door};

/// Logs in as many clients as each line says, and answers with a line when they are there.
pub(crate) async fn idle(door: &Door) -> Result<()> {
    let mut clients = Vec::new();
    for line in std::io::stdin().lines() {
        let wanted: usize = line?.trim().parse()?;
        clients.append(&mut log_in(door, wanted.saturating_sub(clients.len()), BUFFER_BYTES).await?);
        println!("{{\"clients\": {}}}", clients.len());
    }
    Ok(())
}

/// Has the active ones of the clients ask for so long. Prints what they waited, in µs.
pub(crate) async fn crowd(door: &Door, clients: usize, active: usize, seconds: f64, rows: u32) -> Result<()> {
    let mut clients = log_in(door, clients, BUFFER_BYTES).await?;
    let idle = clients.split_off(active);
    let (begin, end) = (Instant::now() + WARM_UP, Instant::now() + WARM_UP + Duration::from_secs_f64(seconds));
    let local = LocalSet::new();
    let tasks: Vec<_> = clients.into_iter().map(|client| local.spawn_local(ask(client, begin, end, rows))).collect();
    local.await;
    let (mut waits, mut counts) = (Vec::new(), Vec::new());
    for task in tasks {
        let of_one = task.await??;
        counts.push(of_one.len());
        waits.extend(of_one);
    }
    drop(idle);
    waits.sort_unstable();
    let at = |share: f64| waits.get((waits.len() as f64 * share) as usize).copied().unwrap_or(0);
    let mean = waits.len() as f64 / counts.len() as f64;
    let slowest = counts.iter().min().context("somebody asks")?;
    println!(
        "{{\"tps\": {:.1}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}, \"slowest_share\": {:.3}}}",
        waits.len() as f64 / seconds,
        at(0.5),
        at(0.99),
        waits.last().copied().unwrap_or(0),
        *slowest as f64 / mean
    );
    Ok(())
}

/// What a client has waited each time, in µs.
async fn ask(mut client: Client, begin: Instant, end: Instant, rows: u32) -> Result<Vec<u32>> {
    let (mut waits, mut out) = (Vec::new(), Vec::new());
    loop {
        let row = rand::rng().random_range(1..=rows);
        out.clear();
        wire::frontend::put_query(&mut out, &format!("SELECT abalance FROM pgbench_accounts WHERE aid = {row};"));
        let since = Instant::now();
        client.say(&out).await?;
        client.until(tag::READY_FOR_QUERY).await?;
        let now = Instant::now();
        if now >= end {
            return Ok(waits);
        }
        if since >= begin {
            waits.push(u32::try_from((now - since).as_micros())?);
        }
    }
}

/// Several at a time.
async fn log_in(door: &Door, count: usize, buffer_bytes: usize) -> Result<Vec<Client>> {
    let (tls, left) = (door.tls()?, Rc::new(Cell::new(count)));
    let local = LocalSet::new();
    let tasks: Vec<_> = (0..LOGINS_MAX)
        .map(|_| {
            let (door, tls, left) = (door.clone(), tls.clone(), left.clone());
            local.spawn_local(async move {
                let mut clients = Vec::new();
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    clients.push(Client::log_in(&door, tls.as_ref(), buffer_bytes).await?);
                }
                Ok::<_, anyhow::Error>(clients)
            })
        })
        .collect();
    local.await;
    let mut clients = Vec::new();
    for task in tasks {
        clients.append(&mut task.await??);
    }
    Ok(clients)
}

/// Logins under way at a time.
const LOGINS_MAX: usize = 16;

/// How much is read at a time. No message of a login is larger.
const BUFFER_BYTES: usize = 2048;

/// What is not counted.
const WARM_UP: Duration = Duration::from_secs(2);

//! Starts a cluster and keeps it until Ctrl-C, SIGTERM or the end of standard input.
//!
//! `cargo run -p cluster --example cluster -- [--replicas N] [--auth scram|md5|trust] [--async] [--database NAME]
//! [--set NAME=VALUE]... [--detached]`; `--detached` does not watch standard input.

use anyhow::{Context, Result, bail};
use cluster::{Authentication, Cluster, Options};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut options = Options::default();
    let mut detached = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--replicas" => options.replicas = value()?.parse()?,
            "--async" => options.synchronous = false,
            "--detached" => detached = true,
            "--database" => options.database = value()?,
            "--set" => {
                let value = value()?;
                let (name, value) = value.split_once('=').context("--set wants NAME=VALUE")?;
                options.settings.push((name.to_owned(), value.to_owned()));
            }
            "--auth" => {
                options.authentication = match value()?.as_str() {
                    "scram" => Authentication::Scram,
                    "md5" => Authentication::Md5,
                    "trust" => Authentication::Trust,
                    other => bail!("--auth is scram, md5 or trust, not `{other}`"),
                }
            }
            other => bail!("unknown argument `{other}`"),
        }
    }

    let cluster = Cluster::start(options).await?;
    for (i, node) in cluster.nodes().iter().enumerate() {
        println!("{} {}", node.name(), cluster.url(i));
    }
    println!("directory {}", cluster.directory().display());

    let (end_of_input, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    // Detached, the sender is only held, so that the channel never ends.
    let _held = if detached {
        Some(end_of_input)
    } else {
        // A thread, since reading a terminal cannot be cancelled; it does not outlive the process.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = end_of_input.blocking_send(());
        });
        None
    };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = ended.recv() => {}
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    cluster.shutdown().await
}

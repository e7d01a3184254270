//! The Python drivers: scripts in `drivers/`, each of which fails by its exit code.

use crate::harness::{Setup, driver, python};

#[tokio::test]
async fn psycopg() {
    check("psycopg_client.py", "2").await;
}

#[tokio::test]
async fn asyncpg() {
    // A connection for each client of a test: `prepare` ends with Flush, not Sync, and keeps its server until the next Sync.
    check("asyncpg_client.py", "8").await;
}

async fn check(script: &str, pool_size: &str) {
    let stage = Setup::replicas(1).with("pool", "size", pool_size).start().await.unwrap();
    let path = driver(script);
    let output = stage.proxy.client_program(&python(), &["-X", "faulthandler", path.to_str().unwrap()], "").await;
    assert!(output.status.success(), "{script}: {}\n{}\n{}", output.status, output.stdout, output.stderr);
    // A script that ends early must not look like one that passed.
    assert!(output.stdout.ends_with("done\n"), "{script}: {}", output.stdout);
    let reads = stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await;
    assert!(reads > 0.0, "no read went to the replica");
}

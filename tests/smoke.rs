//! psql and pgbench, as a stranger would try them first.

use crate::harness::Setup;

#[tokio::test]
async fn psql_works() {
    let stage = Setup::replicas(1).with("pool", "size", "2").start().await.unwrap();
    assert_eq!(stage.psql("select 1; select 2").await, "1\n2");
    let before = stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await;
    assert!(before >= 2.0, "{before}");
}

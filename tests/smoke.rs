//! psql and pgbench, as a stranger would try them first.

use crate::harness::Setup;

#[tokio::test]
async fn psql_works() {
    // Each psql is a session of its own, and is to see what the one before it wrote.
    let setup = Setup::replicas(1).with("routing", "consistency", "\"global\"");
    let stage = setup.with("pool", "size", "2").start().await.unwrap();

    assert_eq!(stage.psql("select 1; select 2").await, "1\n2");
    // One Query message of several statements: one implicit transaction, of which psql 15 shows every result.
    let several =
        ["-XAtc", "create table t (n int primary key, s text); insert into t values (1, 'a'); select count(*) from t"];
    let output = stage.run("psql", &several, "").await;
    assert_eq!(output.stdout, "CREATE TABLE\nINSERT 0 1\n1\n", "{output:?}");

    // COPY in both directions, with what COPY has to escape.
    stage.psql("copy t from stdin;\n2\ttab\\there\n3\t\\N\n\\.\n").await;
    let copied = stage.psql("copy (select * from t order by n) to stdout").await;
    assert_eq!(copied, "1\ta\n2\ttab\\there\n3\t\\N");
    let output = stage.run("psql", &["-XAtq", "-f", "-"], "copy t from stdin;\nx\ty\n\\.\nselect 'on'").await;
    assert!(output.stderr.contains("invalid input syntax for type integer"), "{output:?}");
    assert_eq!(output.stdout, "on\n", "the connection survives a failed COPY");

    // The many catalog queries behind these.
    for (command, expected) in
        [("\\d t", "t_pkey"), ("\\dt", "public"), ("\\l", "template0"), ("\\du", "Superuser"), ("\\df", "Result")]
    {
        let output = stage.run("psql", &["-Xf", "-"], command).await;
        assert!(output.status.success() && output.stderr.is_empty(), "{command}: {output:?}");
        assert!(output.stdout.contains(expected), "{command}: {}", output.stdout);
    }

    let script = "\\set VERBOSITY verbose\nselect 1/0;\ndo $$ begin raise warning 'beware'; end $$;\nselect 'after'";
    let output = stage.run("psql", &["-XAtq", "-f", "-"], script).await;
    for expected in ["ERROR:  22012: division by zero", "WARNING:  01000: beware"] {
        assert!(output.stderr.contains(expected), "{expected}: {output:?}");
    }
    assert_eq!(output.stdout, "after\n");

    // Larger than what is kept for a retry, in both directions.
    let large = "x".repeat(3 << 20);
    stage.psql(&format!("insert into t values (10, '{large}')")).await;
    assert_eq!(stage.psql("select length(s) from t where n = 10").await, large.len().to_string());
    assert!(stage.psql("select s from t where n = 10").await == large);

    let script = "begin; insert into t values (20); savepoint a; insert into t values (20); rollback to a; commit; select count(*) from t where n = 20";
    let output = stage.run("psql", &["-XAtq", "-f", "-"], script).await;
    assert_eq!(output.stdout, "1\n", "{output:?}");

    let replica = stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await;
    assert!(replica >= 2.0, "no read went to the replica");
}

#[tokio::test]
async fn pgbench_keeps_its_balances() {
    // A thread for each: one that waits to prepare a statement must not keep the server from a transaction of another.
    const CLIENTS: &str = "8";
    const READS: &str = "150";
    const WRITES: &str = "50";
    // Fewer connections than clients: transactions are interleaved on them.
    let stage = Setup::replicas(1).with("pool", "size", "3").start().await.unwrap();
    let output = stage.run("pgbench", &["-i", "-q"], "").await;
    assert!(output.status.success(), "{output:?}");
    stage.cluster.caught_up().await.unwrap();

    for protocol in ["simple", "extended", "prepared"] {
        let before = stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await;
        for script in [&["-S", "-t", READS][..], &["-t", WRITES]] {
            let arguments = [&["-n", "-M", protocol, "-c", CLIENTS, "-j", CLIENTS], script].concat();
            let output = stage.run("pgbench", &arguments, "").await;
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            let none_failed = "number of failed transactions: 0 (0.000%)";
            assert!(output.stdout.contains(none_failed), "{arguments:?}: {output:?}");
        }
        let reads = stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await - before;
        assert!(reads > 0.0, "{protocol}: no read went to the replica");
    }

    // TPC-B: every transaction adds the same to an account, a teller and a branch, and writes it down.
    let sums = "select count(distinct s), (select count(*) from pgbench_history) from (
        select sum(abalance) from pgbench_accounts union all select sum(tbalance) from pgbench_tellers
        union all select sum(bbalance) from pgbench_branches union all select sum(delta) from pgbench_history) as sums (s)";
    assert_eq!(stage.direct(0, sums).await, "1|1200");
}

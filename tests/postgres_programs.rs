//! PostgreSQL's own client programs through the proxy: psql with what it does beside queries, pgbench's pipelines, pg_dump and pg_restore.

use crate::harness::{Setup, Stage};

#[tokio::test]
async fn psql() {
    let stage = Setup::replicas(1).with("pool", "size", "2").start().await.unwrap();
    // Each line of it is answered by one line, but for what is quiet.
    let script = r#"
\set QUIET on
\pset format unaligned
\pset tuples_only on
create table items (id serial primary key, name text, n int);
insert into items (name, n) values ('a', 1), ('b', 2) returning n;
select max(n) as highest from items \gset
\echo highest :highest
select 'select ' || n || ' * 10' from items order by n \gexec
select 1 as one, 'x'::text as two \gdesc
select 1 \; select 2 \; select 3;
\copy items (name, n) from stdin
c	3
d	4
\.
\copy (select name from items order by id) to stdout
copy items (name, n) from stdin with (format csv);
"e, f",5
\.
-- A cursor, for it fetches in parts.
\set FETCH_COUNT 2
select n from items order by n;
\unset FETCH_COUNT
\d items
\dt
\df+ abs
\l
\dx
\sf abs(int)
-- Each statement in a savepoint of its own.
\set ON_ERROR_ROLLBACK on
begin;
insert into items (name, n) values ('g', 6);
select 1/0;
insert into items (name, n) values ('h', 7);
commit;
\set ON_ERROR_ROLLBACK off
select count(*) from items;
\set AUTOCOMMIT off
insert into items (name, n) values ('i', 8);
rollback;
select count(*) from items;
commit;
\set AUTOCOMMIT on
\lo_list
\encoding LATIN1
select length(convert_to(chr(233), 'LATIN1'));
\encoding UTF8
\password_is_no_command
\c
select 'connected again';
\c - - - :port
select 'and again';
select $tag$quoted ; dollar$tag$;
"#;
    let script = script.replace(":port", &stage.proxy.address.port().to_string());
    let output = stage.run("psql", &["-X"], &script).await;
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<&str> = output.stdout.lines().collect();
    let wanted = [
        "1",
        "2",
        "highest 2",
        "10",
        "20",
        "one|integer",
        "two|text",
        "1",
        "2",
        "3",
        "a",
        "b",
        "c",
        "d",
        "1",
        "2",
        "3",
        "4",
        "5",
        "id|integer||not null|nextval('items_id_seq'::regclass)",
    ];
    assert_eq!(lines[..wanted.len()], wanted, "{output:?}");
    for line in ["connected again", "and again", "quoted ; dollar"] {
        assert!(lines.contains(&line), "{line}: {output:?}");
    }
    assert_eq!(lines.iter().filter(|line| **line == "7").count(), 2, "{output:?}");
    let complaints: Vec<&str> = output.stderr.lines().collect();
    let wanted = ["ERROR:  division by zero", r"invalid command \password_is_no_command"];
    assert_eq!(complaints, wanted, "{output:?}");
    let variables = [
        "-X",
        "--single-transaction",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        "insert into items (n) values (9)",
        "-c",
        "select 1/0",
    ];
    assert!(!stage.run("psql", &variables, "").await.status.success());
    assert_eq!(stage.psql("/* hakem: primary */ select count(*) from items where n = 9").await, "0");
}

/// Its pipelines, several clients on fewer servers. `smoke` has what it does by itself.
#[tokio::test]
async fn pgbench_in_pipelines() {
    let stage = Setup::replicas(1).with("pool", "size", "2").start().await.unwrap();
    stage.psql("create table counts (client int, n int); create table accounts (id int primary key, balance int); insert into accounts select n, 0 from generate_series(0, 99) n").await;
    let script = stage.cluster.directory().join("pipeline.sql");
    let text = r"\set id random(0, 99)
\startpipeline
begin;
select balance from accounts where id = :id;
update accounts set balance = balance + 1 where id = :id;
insert into counts values (:client_id, 1);
commit;
select sum(n) from counts where client = :client_id;
select 1;
\endpipeline
\startpipeline
select balance from accounts where id = :id;
\endpipeline
select count(*) from counts where client = :client_id \gset
\if :count = 0
select no_such_column;
\endif
";
    std::fs::write(&script, text).unwrap();
    let path = script.to_str().unwrap();
    for mode in ["extended", "prepared"] {
        let arguments = ["-n", "-M", mode, "-c", "6", "-j", "2", "-t", "50", "-f", path];
        let output = stage.run("pgbench", &arguments, "").await;
        assert!(output.status.success() && output.stdout.contains("processed: 300/300"), "{mode}: {output:?}");
        assert!(output.stdout.contains("failed transactions: 0 "), "{mode}: {output:?}");
    }
    assert_eq!(
        stage.psql("/* hakem: primary */ select count(*), (select sum(balance) from accounts) from counts").await,
        "600|600"
    );
}

/// pg_dump clears search_path for its session; a client that comes after it on the same server must have its own.
#[tokio::test]
async fn dump_and_restore() {
    let stage = Setup::replicas(1).with("pool", "size", "1").start().await.unwrap();
    stage.psql("create schema s; create table s.t (n int primary key, x text); insert into s.t select n, 'row ' || n from generate_series(1, 5000) n; create view s.v as select * from s.t; create table public.t (a int)").await;
    let client = stage.connect().await;
    assert_eq!(client.value("show search_path").await.unwrap(), "\"$user\", public");
    let dump = stage.run("pg_dump", &["--format=plain"], "").await;
    assert!(dump.status.success() && dump.stdout.contains("4999\trow 4999"), "{}", dump.stderr);
    assert_eq!(client.value("show search_path").await.unwrap(), "\"$user\", public");
    client.batch_execute("select * from t").await.unwrap();
    let before = contents(&stage).await;
    stage.psql("drop schema s cascade; drop table t").await;
    let restored = stage.run("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"], &dump.stdout).await;
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(contents(&stage).await, before);
    assert_eq!(client.value("show search_path").await.unwrap(), "\"$user\", public");

    let archive = stage.cluster.directory().join("archive");
    let archive = archive.to_str().unwrap();
    assert!(stage.run("pg_dump", &["--format=custom", "--file", archive], "").await.status.success());
    stage.psql("drop schema s cascade; drop table t").await;
    let restored = stage.run("pg_restore", &["--exit-on-error", "--dbname", "postgres", archive], "").await;
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(contents(&stage).await, before);
    client.batch_execute("/* hakem: primary */ select * from t").await.unwrap();
}

async fn contents(stage: &Stage) -> String {
    stage.psql("/* hakem: primary */ select count(*), sum(n), max(x) from s.v").await
}

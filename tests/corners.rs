//! Corners of the protocol that proxies got wrong, on real servers and byte by byte.

use wire::backend::tag;
use wire::frontend;

use crate::harness::{Setup, Stage};
use crate::raw::{Message, Raw, put_execute, sqlstate, tags, value};

async fn stage(replicas: usize) -> (Stage, Raw) {
    let setup = Setup::replicas(replicas).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let stage = setup.start().await.unwrap();
    let raw = Raw::log_in(&stage.proxy, "postgres").await;
    (stage, raw)
}

fn put(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

/// Messages, one per line of words: `P name sql`, `B portal name`, `D S|P name`, `C S|P name`, `E portal rows`, `S`, `H`, `Q sql`.
pub(crate) fn script(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let name = |at: usize| words.get(at).filter(|word| **word != "-").map_or(&b""[..], |word| word.as_bytes());
        let rest = |from: usize| words.get(from..).unwrap_or_default().join(" ");
        match words[0] {
            "Q" => frontend::put_query(&mut out, &rest(1)),
            "P" => frontend::put_parse(&mut out, name(1), rest(2).as_bytes(), &[0, 0]),
            "B" => frontend::put_bind(&mut out, name(1), name(2), &[0; 6]),
            "D" | "C" => put(&mut out, words[0].as_bytes()[0], &[name(1), name(2), b"\0"].concat()),
            "E" => {
                let rows: u32 = words.get(2).map_or(0, |rows| rows.parse().unwrap());
                put(&mut out, b'E', &[name(1), b"\0", &rows.to_be_bytes()].concat());
            }
            other => put(&mut out, other.as_bytes()[0], b""),
        }
    }
    out
}

/// Says it all at once, and hears as many answers as there are ends of requests.
pub(crate) async fn exchange(raw: &mut Raw, lines: &[&str]) -> Vec<Message> {
    raw.say(&script(lines)).await;
    let mut all = Vec::new();
    for _ in lines.iter().filter(|line| line.starts_with('S') || line.starts_with('Q')) {
        all.extend(raw.until_ready().await);
    }
    all
}

#[tokio::test]
async fn answers_of_every_kind() {
    let (stage, mut raw) = stage(1).await;
    stage.psql("create table t (n int)").await;
    let cases: &[(&[&str], &str)] = &[
        // A statement and a portal of one name.
        (&["P x select 1", "B x x", "D S x", "D P x", "E x", "C P x", "C S x", "S"], "12tTTDC33Z"),
        (&["C S nothing", "C P nothing", "S"], "33Z"),
        // Statements without rows, and rows without columns.
        (&["P - begin", "D S -", "B - -", "D P -", "E -", "S"], "1tn2nCZ"),
        (&["P - commit", "D S -", "B - -", "E -", "S"], "1tn2CZ"),
        (&["P - select", "D S -", "B - -", "D P -", "E -", "S"], "1tT2TDCZ"),
        (&["Q select"], "TDCZ"),
        (&["Q "], "IZ"),
        (&["Q -- nothing"], "IZ"),
        (&["P - /* nothing */", "D S -", "B - -", "D P -", "E -", "S"], "1tn2nIZ"),
        // One implicit transaction, one ReadyForQuery.
        (&["Q select 1; insert into t values (1); select 2"], "TDCCTDCZ"),
        // A notice is not an answer, nor an error.
        (&["Q commit"], "NCZ"),
        (&["Q begin", "Q begin", "Q commit"], "CZNCZCZ"),
        // Portals are fetched in portions, in one transaction.
        (&["P - select generate_series(1, 5)", "B c -", "E c 2", "E c 2", "E c 2", "S"], "12DDsDDsDCZ"),
        (
            &[
                "Q begin",
                "P - select generate_series(1, 5)",
                "B c -",
                "E c 2",
                "S",
                "E c 2",
                "S",
                "E c",
                "S",
                "Q commit",
            ],
            "CZ12DDsZDDsZDCZCZ",
        ),
        // COPY to the client is over when it says so.
        (
            &["P - copy (select generate_series(1, 3)) to stdout", "B - -", "E -", "P - select 1", "B - -", "E -", "S"],
            "12HdddcC12DCZ",
        ),
    ];
    for (lines, expected) in cases {
        let answer = exchange(&mut raw, lines).await;
        assert_eq!(tags(&answer), *expected, "{lines:?}: {answer:?}");
    }
    assert_eq!(stage.direct(0, "select count(*) from t").await, "1");
    let described = exchange(&mut raw, &["Q select"]).await;
    assert_eq!(described[0].body, [0, 0], "a row description of no columns");
}

#[tokio::test]
async fn errors_of_every_kind() {
    let (stage, mut raw) = stage(0).await;
    let cases: &[(&[&str], &str, &str)] = &[
        // Everything up to Sync is discarded, a simple query too.
        (&["P - wrong", "Q create table never (n int)", "P - select 1", "B - -"], "", ""),
        (&["S"], "EZ", "42601"),
        (&["Q select to_regclass('never') is null"], "TDCZ", ""),
        // A portal does not outlive its transaction.
        (&["P - select generate_series(1, 5)", "B c -", "E c 2", "S"], "12DDsZ", ""),
        (&["E c 2", "S"], "EZ", "34000"),
        (&["P s select 1", "P s select 2", "S"], "1EZ", "42P05"),
        (&["P - select 1", "P - select 2", "B - -", "E -", "S"], "112DCZ", ""),
        // The unnamed statement is destroyed by a simple query.
        (&["P - select 1", "S"], "1Z", ""),
        (&["B - -", "E -", "S"], "2DCZ", ""),
        (&["Q select 1", "B - -", "E -", "S"], "TDCZEZ", "26000"),
        // A transaction that has failed understands its end, and nothing at all.
        (&["Q begin", "Q savepoint a", "Q select 1/0", "Q select 1"], "CZCZEZEZ", "22012"),
        (&["Q ", "Q -- nothing"], "IZIZ", ""),
        // PostgreSQL's `exec_bind_message` takes an empty statement for one that does not end the transaction.
        (&["P - -- nothing", "B - -", "E -", "S"], "1EZ", "25P02"),
        (&["P - select 1", "S"], "EZ", "25P02"),
        (&["Q rollback to a", "Q select 1", "Q commit and chain", "Q select 1/0", "Q commit"], "CZTDCZCZEZCZ", "22012"),
        (&["Q begin", "Q discard all"], "CZEZ", "25001"),
        (&["Q rollback", "Q discard all"], "CZCZ", ""),
    ];
    for (lines, expected, code) in cases {
        if expected.is_empty() {
            raw.say(&script(lines)).await;
            continue;
        }
        let answer = exchange(&mut raw, lines).await;
        assert_eq!(tags(&answer), *expected, "{lines:?}: {answer:?}");
        assert_eq!(sqlstate(&answer).unwrap_or_default(), *code, "{lines:?}");
    }
    // An error is told when it happens, without a Sync behind it. PostgreSQL would not wait for the Flush, either: the proxy has nothing
    // to send before a request is whole.
    raw.say(&script(&["P - select 1", "B - -", "P - wrong", "H"])).await;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|message: &Message| message.tag != tag::ERROR_RESPONSE) {
        heard.push(raw.hear().await.unwrap());
    }
    assert_eq!(tags(&heard), "12E");
    assert_eq!(tags(&exchange(&mut raw, &["S"]).await), "Z");
    // A server that is ended in the middle of a result is one error, and one end.
    let long = "select generate_series(1, 1000000000), repeat('x', 1000)";
    raw.say(&script(&[&format!("Q {long}")])).await;
    while raw.hear().await.unwrap().tag != tag::DATA_ROW {}
    stage.direct(0, &format!("select pg_terminate_backend(pid) from pg_stat_activity where query = $$ {long} $$ or query = $${long}$$")).await;
    let rest = loop {
        let message = raw.hear().await.unwrap();
        if message.tag != tag::DATA_ROW {
            break [message, raw.hear().await.unwrap()];
        }
    };
    assert_eq!((tags(&rest).as_str(), sqlstate(&rest).as_deref()), ("EZ", Some("57P01")), "{rest:?}");
    assert_eq!(tags(&exchange(&mut raw, &["Q select 1"]).await), "TDCZ");
}

#[tokio::test]
async fn part_by_part() {
    let (stage, mut raw) = stage(0).await;
    stage.direct(0, "create table t (n int)").await;
    let answers = async |raw: &mut Raw, lines: &[&str], expected: &str| {
        raw.say(&script(lines)).await;
        let mut heard = Vec::new();
        for _ in expected.chars() {
            heard.push(raw.hear().await.unwrap());
        }
        assert_eq!(tags(&heard), expected, "{lines:?}: {heard:?}");
    };
    // A portal lives in autocommit, too, until its Sync: its server is kept.
    answers(&mut raw, &["P - select generate_series(1, 5)", "B c -", "E c 2", "H"], "12DDs").await;
    answers(&mut raw, &["E c 2", "H"], "DDs").await;
    answers(&mut raw, &["E c 0", "S"], "DCZ").await;
    answers(&mut raw, &["E c 0", "S"], "EZ").await;
    // COPY in the extended protocol: data behind the answer, ahead of it, and behind an error.
    let copy = ["P - copy t from stdin", "B - -", "E -", "S"];
    answers(&mut raw, &copy, "12G").await;
    raw.say(b"d\0\0\0\x061\nc\0\0\0\x04").await;
    answers(&mut raw, &["S"], "CZ").await;
    raw.say(&script(&copy[..3])).await;
    raw.say(b"d\0\0\0\x062\nc\0\0\0\x04").await;
    answers(&mut raw, &["S"], "12GCZ").await;
    answers(&mut raw, &["P - copy t from stdin", "B - -", "E -", "H"], "12G").await;
    raw.say(b"d\0\0\0\x06x\n").await;
    raw.say(b"d\0\0\0\x063\nc\0\0\0\x04").await;
    answers(&mut raw, &["S"], "EZ").await;
    raw.say(b"d\0\0\0\x063\nc\0\0\0\x04").await;
    let answer = exchange(&mut raw, &["Q select string_agg(n::text, ' ' order by n) from t"]).await;
    assert_eq!(value(&answer).as_deref(), Some("1 2"));
}

#[tokio::test]
async fn functions_are_called_on_the_primary() {
    let (stage, mut raw) = stage(1).await;
    stage.psql("create table t (n int); create function put(n int) returns int language sql as 'insert into t values (n) returning n'").await;
    let oid: u32 = stage.psql("select 'put(int)'::regprocedure::oid").await.parse().unwrap();
    let call = |oid: u32, argument: &[u8]| {
        let mut body = oid.to_be_bytes().to_vec();
        body.extend_from_slice(b"\0\0\0\x01");
        body.extend_from_slice(&(argument.len() as u32).to_be_bytes());
        body.extend_from_slice(argument);
        body.extend_from_slice(b"\0\0");
        let mut out = Vec::new();
        put(&mut out, b'F', &body);
        out
    };
    raw.say(&call(oid, b"42")).await;
    assert_eq!(tags(&raw.until_ready().await), "VZ");
    raw.say(&call(1, b"42")).await;
    let answer = raw.until_ready().await;
    assert_eq!(tags(&answer), "EZ", "{answer:?}");
    // Between others, in a pipeline.
    let pipeline = [script(&["Q select 1"]), call(oid, b"43"), script(&["Q select count(*) from t"])].concat();
    raw.say(&pipeline).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.extend(raw.until_ready().await);
    }
    assert_eq!(tags(&all), "TDCZVZTDCZ");
    assert_eq!(value(&all[5..]).as_deref(), Some("2"));
}

#[tokio::test]
async fn messages_around_the_sizes_of_buffers() {
    const BUFFER: usize = 32 * 1024;
    let (_stage, mut raw) = stage(1).await;
    let around = [BUFFER / 4, BUFFER / 2, BUFFER, 2 * BUFFER, 4 * BUFFER, 1 << 20];
    let sizes = around.iter().flat_map(|size| [size - 40, size - 6, size - 5, size - 1, *size, size + 1, size + 40]);
    for size in sizes {
        let text = "x".repeat(size);
        let mut out = Vec::new();
        // A large text, large values, and a large result, each behind something small.
        frontend::put_parse(&mut out, b"", format!("select 1 /* {text} */").as_bytes(), &[0, 0]);
        put_execute(&mut out, "");
        frontend::put_parse(&mut out, b"", b"select length($1), $1", &[0, 1, 0, 0, 0, 25]);
        let mut values = vec![0, 0, 0, 1];
        values.extend_from_slice(&(size as u32).to_be_bytes());
        values.extend_from_slice(text.as_bytes());
        values.extend_from_slice(&[0, 0]);
        frontend::put_bind(&mut out, b"", b"", &values);
        out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
        frontend::put_sync(&mut out);
        frontend::put_query(&mut out, &format!("select length('{text}')"));
        raw.say(&out).await;
        let first = raw.until_ready().await;
        assert_eq!(tags(&first), "12DC12DCZ", "{size}");
        assert_eq!(value(&first[4..]), Some(size.to_string()));
        assert!(first[6].body.ends_with(text.as_bytes()), "{size}");
        assert_eq!(value(&raw.until_ready().await), Some(size.to_string()));
    }
}

/// Work that takes long tells of its progress while it works, and not at its end.
#[tokio::test]
async fn notices_come_at_once() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"");
    let stage = setup.start().await.unwrap();
    let body = "begin raise notice 'at work'; perform pg_advisory_xact_lock(7); end";
    stage.psql(&format!("create procedure work() language plpgsql as '{}'", body.replace('\'', "''"))).await;
    let (mut holder, mut raw) =
        (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    for lines in [&["Q call work()"][..], &["P - call work()", "B - -", "E - 0", "S"]] {
        holder.query("begin").await;
        holder.query("select pg_advisory_xact_lock(7)").await;
        raw.say(&script(lines)).await;
        loop {
            let message = raw.hear().await.unwrap();
            if message.tag == tag::NOTICE_RESPONSE {
                break;
            }
            assert!(matches!(message.tag, tag::PARSE_COMPLETE | tag::BIND_COMPLETE), "{message:?}");
        }
        holder.query("commit").await;
        assert_eq!(tags(&raw.until_ready().await), "CZ");
    }
}

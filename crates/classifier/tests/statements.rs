//! What each kind of statement is, as tables of cases. Every fixed mistake leaves a case here.

use classifier::{
    Access, Class, Classifier, Effect, Execution, Hint, Isolation, Options, PinReason, Place, Scope, TransactionAccess,
    TransactionMode, Why,
};
use std::sync::Arc;

/// The class of a statement, the same from the rules and from the caches in any state.
fn classify(sql: &str) -> Arc<Class> {
    let classifier = Classifier::new(Options::default());
    let class = classifier.classify(sql);
    assert_eq!(*class, classifier.classify_uncached(sql), "{sql}");
    assert_eq!(class, classifier.classify(sql), "{sql}");
    class
}

fn read(statements: &[&str]) {
    let refused: Vec<String> = statements
        .iter()
        .map(|sql| (sql, classify(sql)))
        .filter(|(_, class)| class.access != Access::Read || !class.effects.is_empty())
        .map(|(sql, class)| format!("{}: {sql}", class.why))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

fn write(sql: &str, why: Why) {
    let class = classify(sql);
    assert_eq!((class.access, class.why), (Access::Write, why), "{sql}");
}

fn effect(sql: &str, expected: Effect) {
    let class = classify(sql);
    assert_eq!((class.access, &*class.effects), (Access::Write, &[expected][..]), "{sql}");
}

fn plain_write(sql: &str) {
    let class = classify(sql);
    assert_eq!((class.access, &*class.effects), (Access::Write, &[][..]), "{sql}");
}

fn set(sql: &str, name: &str, statement: &str, scope: Scope) {
    effect(sql, Effect::Set { name: name.to_owned(), statement: statement.to_owned(), scope });
}

fn reset(sql: &str, name: &str) {
    effect(sql, Effect::Reset { name: name.to_owned() });
}

fn pin(sql: &str, reason: PinReason) {
    effect(sql, Effect::Pin(reason));
}

fn unseen(sql: &str, names: &[&str]) {
    effect(sql, Effect::SetUnseen(names.iter().map(|name| (*name).to_owned()).collect()));
}

#[test]
fn reads() {
    read(&[
        "select 1",
        "SELECT 1;",
        "/*+ x */ table t",
        "table public.t",
        "values (1, 'a'), (2, 'b')",
        "(select 1)",
        "(select 1) union all (select 2) order by 1",
        "select from t",
        "select array(select a from unnest(t.k) with ordinality cols(id, place) join u on cols.id = u.id order by place) from t",
        "select (information_schema._pg_expandarray(i.indkey)).n from pg_index i",
        "select regtype('int4'), float4send(1.0), tsquery('a'), int4pl(1, 2)",
        "select * from t where id = $1",
        "select t.*, u.name as n from t join u on u.id = t.uid left join v using (a, b) where t.x in (1, 2, 3) and not u.y",
        "select a from t natural join u cross join w, lateral (select 1) l(x)",
        "select count(*), max(x), sum(y) filter (where z > 0) from t group by a having count(*) > 1 order by 1 desc nulls last limit 10 offset 5",
        "select distinct on (a) a, b from t order by a, b",
        "with a as (select 1), b(x, y) as materialized (select 1, 2) select * from a, b",
        "with x(a) as not materialized (values (1)), y(b, c) as ((select 1, 2)) select * from x, (select 1) z(d), y",
        "with recursive r(n) as (values (1) union all select n + 1 from r where n < 10) select sum(n) from r",
        "select x, row_number() over (partition by a order by b rows between unbounded preceding and current row) from t",
        "select rank() over w from t window w as (partition by a)",
        "select percentile_cont(0.5) within group (order by x) from t",
        "select a, b, count(*) from t group by grouping sets ((a, b), (a), ())",
        "select a, count(*) from t group by rollup (a, b), cube (c)",
        "select array[1, 2, 3], array(select 1), row(1, 2), (t.c).f, x[1], x[1:2] from t",
        "select 'x'::regclass, cast(1 as text), 1::numeric(10, 2), date '2020-01-01', interval '1 day', x::geometry(point, 4326)",
        "select * from t where a like 'x%' and b ilike '%y' and c ~ 'z' and d similar to 'w' and e is not distinct from f",
        "select j -> 'a' ->> 'b', j #> '{a}', j @> '{}', j ? 'k', j ?| array['a'] from t",
        "select * from t where a = any (array[1, 2]) and b <> all (select 1) and exists (select from u where u.id = t.id)",
        "select case when a > 1 then 'x' else 'y' end, coalesce(a, b), nullif(a, 0), greatest(1, 2) from t",
        "select extract(year from now()), substring('abc' from 1 for 2), trim(both 'x' from y), position('a' in b), overlay(a placing b from 1) from t",
        "select now() at time zone 'utc', current_timestamp, current_date, localtime, current_user, session_user",
        "select generate_series(1, 10), * from generate_series(1, 3) with ordinality as g(x, n)",
        "select * from unnest(array[1, 2], array['a', 'b']) u(a, b)",
        "select * from jsonb_to_recordset('[]') as x(a int, b text)",
        "select * from t tablesample bernoulli (10) repeatable (1)",
        "select * from only t fetch first 5 rows only",
        "select * from t fetch first 5 rows with ties",
        "select random(), clock_timestamp(), pg_sleep(0), gen_random_uuid(), statement_timestamp()",
        "select pg_catalog.lower(x), \"lower\"(x), LOWER(x), lower /* c */ (x) from t",
        "select current_setting('search_path'), current_setting('app.user', true)",
        "select 1 operator(pg_catalog.+) 2",
        "select U&'d\\0061t', E'a\\'b', $$it's$$, $q$ ; drop table t $q$, B'101', X'1F', N'x'",
        "select 'a' -- comment\n 'b'",
        "select 'insert into t', \"update\" from t -- delete from t",
        "select a.update, delete from a",
        "select 1 /* a /* nested */ ; delete from t */",
        "select a from t union select b from u intersect select c from v except all select d from w",
        "select string_agg(x, ',' order by y), array_agg(distinct z) from t",
        "select c.relname from pg_catalog.pg_class c left join pg_namespace n on n.oid = c.relnamespace where pg_table_is_visible(c.oid)",
        "select * from information_schema.tables, pg_stats, pg_tables, pg_roles, pg_type",
        "show search_path",
        "show timezone",
        "show time zone",
        "SHOW TRANSACTION ISOLATION LEVEL",
        "show server_version",
        "show app.user",
        "explain select 1",
        "explain (analyze, buffers, format json) select 1",
        "explain analyze verbose select * from t",
        "explain (select 1)",
        "copy t to stdout",
        "copy public.t (a, b) to stdout with (format csv)",
        "copy (select * from t) to stdout",
        "declare c cursor for select * from t",
        "declare c no scroll cursor without hold for select * from t",
        "fetch 10 from c",
        "move forward 5 in c",
        "close c",
        "",
        " ; -- nothing",
        "select 1; select 2",
        "select last_value(x) over (order by y) from t",
        "select a from t order by b using <",
        "select * from t where (a, b) in ((1, 2), (3, 4)) and (a, b) = row(1, 2)",
        "select * from (values (1, 'a'), (2, 'b')) as v (id, name)",
        "select * from json_each('{}') e join lateral jsonb_array_elements(e.value::jsonb) x on true",
        "select a as \"Select\", b \"into\" from t",
        "select 1 as one, - 1, + 2, not true, 2 ^ 3, 5 % 2, 1 << 2, ~ 1, |/ 4, @ -1",
    ]);
}

#[test]
fn writes() {
    for sql in [
        "insert into t values (1)",
        "update t set a = 1",
        "delete from t",
        "merge into t using u on t.id = u.id when matched then delete",
        "with u as (update t set a = 1 returning *) select * from u",
        "with a as (with b as (delete from t returning *) select * from b) select * from a",
        "with u as (select 1) insert into t select * from u",
        "select * from (with d as (delete from t returning 1) select * from d) x",
        "with x as (insert into t values (1) returning id) select id from x",
        "WITH/**/x AS NOT MATERIALIZED(UPDATE t SET a=1 RETURNING *)SELECT 1",
        "explain analyze insert into t values (1)",
        "explain (analyze) delete from t",
        "explain analyze with d as (delete from t returning 1) select * from d",
        "copy (insert into t values (1) returning id) to stdout",
        "copy (with d as (delete from t returning 1) select * from d) to stdout",
        "declare c cursor for with d as (delete from t returning 1) select * from d",
    ] {
        write(sql, Why::WritesRows);
    }
    for sql in [
        "select * from t for update",
        "select * from t for no key update",
        "select * from t for share",
        "select * from t for key share skip locked",
        "select * from t for update of t nowait",
        "with x as (select * from t for no key update) select * from x",
        "select * from (select * from t for share) s",
        "select (select id from t limit 1 for update)",
        "select count(*) from (select 1 from t for update) x",
        "select * from t where id in (select id from u for update)",
        "select * from a union (select * from b for update)",
        "declare c cursor for select * from t for update",
        "explain analyze select * from t for update",
        "copy (select * from t for update) to stdout",
        "lock table t",
    ] {
        write(sql, Why::RowLock);
    }
    for sql in ["select * into u from t", "select 1 as a into unlogged u", "explain analyze select * into u from t"] {
        write(sql, Why::SelectInto);
    }
    for sql in [
        "create table t (a int)",
        "create index concurrently i on t (a)",
        "alter system set work_mem = '1MB'",
        "drop table t",
        "truncate t",
        "grant select on t to u",
        "vacuum analyze t",
        "analyze",
        "checkpoint",
        "notify c, 'x'",
        "refresh materialized view m",
        "explain create table t as select 1",
        "create rule r as on insert to t do also (insert into u values (1); notify c)",
        "create function f() returns int begin atomic select 1; end",
    ] {
        write(sql, Why::Utility);
        plain_write(sql);
    }
    write("copy t from stdin", Why::CopyFrom);
    write("copy t (a) from '/tmp/x'", Why::CopyFrom);
    write("copy t to '/tmp/x'", Why::CopyFile);
    write("copy t to program 'cat'", Why::CopyFile);
    write("copy (select 1) to '/tmp/x' with (format csv)", Why::CopyFile);
    write("call p(1)", Why::Procedure);
    write("do $$ begin perform 1; end $$", Why::Procedure);
}

#[test]
fn functions() {
    for sql in [
        "select nextval('s')",
        "select * from nextval('s')",
        "select 1 from t join lateral nextval('s') n on true",
        "select 1 from t order by nextval('s')",
        "select 1 limit nextval('s')",
        "select 1 from t group by nextval('s')",
        "select distinct on (nextval('s')) 1",
        "select distinct on (a) nextval('s') from t",
        "select case when nextval('s') > 0 then 1 end",
        "select array[nextval('s')]",
        "select (array[1])[nextval('s')]",
        "select row(nextval('s'))",
        "select count(*) filter (where nextval('s') > 0) from t",
        "select sum(x) over (partition by nextval('s')) from t",
        "select sum(x) over w from t window w as (order by nextval('s'))",
        "select sum(x order by nextval('s')) from t",
        "values (nextval('s'))",
        "select * from (values (nextval('s'))) v(x)",
        "with x as (select nextval('s')) select * from x",
        "select * from t tablesample bernoulli (nextval('s'))",
        "select nextval('s')::text collate \"C\"",
        "select pg_catalog.nextval('s'), 1",
        "select \"nextval\"('s')",
        "select NextVal /* x */ ('s')",
        "select pg_catalog . nextval ('s')",
        "select setval('s', 1)",
        "select txid_current()",
        "select pg_current_xact_id()",
        "select txid_current_if_assigned()",
        "select pg_advisory_xact_lock(1)",
        "select pg_notify('c', 'x')",
        "select lo_create(0), lo_import('x')",
        "select pg_cancel_backend(1)",
        "select pg_terminate_backend(1)",
        "select pg_export_snapshot()",
        "select pg_promote()",
        "select pg_wal_replay_pause()",
        "select pg_switch_wal()",
        "select query_to_xml('delete from t', true, true, '')",
        "select ts_rewrite('a'::tsquery, 'select 1')",
        "select * from ts_stat('select 1')",
        "select table_to_xml('v', true, true, '')",
        "copy (select nextval('s')) to stdout",
        "explain analyze select nextval('s')",
    ] {
        write(sql, Why::VolatileFunction);
        plain_write(sql);
    }
    for sql in [
        "select my_function(1)",
        "select public.lower(x) from t",
        "select \"Lower\"(x) from t",
        "select * from my_function(1) as f(a)",
        "select a.b.lower(x) from t",
        "select dblink_exec('x', 'delete from t')",
        "select 1 operator(mine.+) 2",
        "select rollup(1)",
        "select * from my_function(1) my_function(a, b)",
        "select my_function(1) from (select 1) my_function(a)",
        "select distinct on (a) my_function(1) from (select 1) my_function(a)",
        "with my_function(a) as (select 1) select my_function(2)",
        "select uuid_generate_v4()",
    ] {
        write(sql, Why::UnknownFunction);
    }
    for sql in [
        "select pg_is_in_recovery()",
        "select inet_server_addr()",
        "select pg_backend_pid()",
        "select pg_last_wal_replay_lsn()",
        "select * from pg_stat_activity",
        "select * from pg_catalog.pg_stat_user_tables",
        "select * from pg_locks",
        "table pg_locks",
        "copy pg_stat_activity to stdout",
        "select * from pg_prepared_statements",
        "select * from pg_cursors",
        "select setting from pg_settings where name = 'x'",
        "select pg_stat_get_wal()",
        "select pg_stat_reset()",
        "select last_value from a_sequence",
        "select * from pg_sequences",
        "show transaction_read_only",
        "show in_hot_standby",
        "show all",
        "show port",
        "select current_setting('transaction_read_only')",
        "select current_setting('in_hot_standby'), current_setting('search_path')",
        "select current_setting(name) from t",
        "select current_setting('transaction' || '_read_only')",
    ] {
        write(sql, Why::NodeDependent);
        plain_write(sql);
    }
}

#[test]
fn doubt_is_a_write() {
    write("garbage", Why::UnknownStatement);
    write("select 'open", Why::ParseFailure);
    write("select /* open", Why::ParseFailure);
    write("select \"open", Why::ParseFailure);
    write("select U&\"d\"('s')", Why::ParseFailure);
    write("selekt 1", Why::UnknownStatement);
    write("\u{0}", Why::ParseFailure);
}

/// sqlparser refuses these; their tokens prove them.
#[test]
fn plain_reads() {
    read(&[
        "select xmlelement(name foo, xmlattributes(1 as a), 'bar')",
        "select * from json_to_record('{}') as (a int)",
        "with x as (table t) select * from x",
        "select * from rows from (generate_series(1, 2), unnest(array[1])) as r(a, b)",
        "select * from t* x",
        "select collation for ('foo')",
        "select * from j1 join j2 using (i) as x where x.i = 1",
        "with recursive s(f, t) as (select * from g union all select g.* from g, s where g.f = s.t) search depth first by f, t set q select * from s",
        "with recursive s as (select 1 as x union all select x + 1 from s) cycle x set c using p select * from s",
        "select a, b from t group by distinct rollup(a, b), cube(b)",
        "select sum(a) over (order by b groups between 1 preceding and 1 following exclude ties) from t",
        "select json_build_array(variadic '{a,b}'::text[])",
        "select (array[1, 2])[1:][:2]",
        "select * from t where a between symmetric 1 and 2",
        "select xmlserialize(content data as character varying(20)) from t",
        "select * from json_table('[]', '$[*]' columns (id for ordinality, a int path '$.a', nested path '$.b' columns (b text path '$')))",
        "select * from t v(a, b), u as w(c, d), f f(e) where xmlexists('//a' passing by ref x)",
        "select",
    ]);
}

/// What tokens alone must not prove.
#[test]
fn not_plain() {
    for (sql, why) in [
        ("select * from rows from (f(1), g(2)) as (a int)", Why::UnknownFunction),
        ("select 1 operator(pg_catalog.+) my_function(1) from rows from (unnest(array[1]))", Why::UnknownFunction),
        ("select * from my_function(1) as (values int)", Why::UnknownFunction),
        ("select a from t group by rollup(a) order by rollup(a)", Why::UnknownFunction),
        ("select a from t group by cube(a) having count(distinct cube(a)) > 1", Why::UnknownFunction),
        ("select 1 operator(mine.+) 2 from t*", Why::UnknownFunction),
        ("select a operator(mine.+) 2 from t*", Why::UnknownFunction),
        ("select (a) operator(mine.+) 2 from t*", Why::UnknownFunction),
        ("select * from t* tablesample my_method(1)", Why::UnknownFunction),
        ("select * from t* order by my_function(1)", Why::UnknownFunction),
        ("select * from t* order by x at time zone my_function(1)", Why::UnknownFunction),
        ("select xmlelement(name foo, my_function(1))", Why::UnknownFunction),
        ("select xmlelement(name foo, nextval('s'))", Why::VolatileFunction),
        ("select * from t* v(a), nextval('s') nextval(a)", Why::VolatileFunction),
        (
            "with recursive s as (select 1 as x union all select x + 1 from s) search depth first by x set q update t set a = 1",
            Why::ParseFailure,
        ),
        (
            "with recursive s as (select 1 as x union all select x + 1 from s) cycle x set c using p delete from t",
            Why::ParseFailure,
        ),
        ("with x as (table t) insert into t select * from x", Why::WritesRows),
        ("select * from t* for share", Why::RowLock),
        ("select xmlelement(name foo); delete from t", Why::MultiStrictest),
        ("select * from t* where (1; delete from t)", Why::ParseFailure),
    ] {
        write(sql, why);
    }
}

/// A backslash in front of a quote: what counts is what either value of `standard_conforming_strings` makes of the text.
#[test]
fn backslashes() {
    read(&[
        r"select 'a\'",
        r"select * from t where a like $1 escape '\'",
        r"select * from t where UPPER(a) LIKE UPPER($1) ESCAPE '\' limit 1",
        r"select 'C:\dir\', 'x' from t",
        // What either value makes of it reads, or leaves a string open.
        r"select '\', nextval(1), '",
        r"select '\', '\' from t",
        r"select E'\'' from t",
    ]);
    for sql in [
        r"select '\', nextval('s'), ''",
        r"select '\'', nextval('s') --'",
        r"select n'\'', nextval('s') --'",
        r#"select '\', 'x', "nextval"('s'), U&"x""#,
        r"select '\'; delete from t; select ''",
        r"select '\', mine(1), ''",
    ] {
        assert_eq!(classify(sql).access, Access::Write, "{sql}");
    }
    // What is a setting to one reading alone cannot be followed.
    pin(r"select '\'', set_config('a.b', 'c', false) --'", PinReason::Other);
    set(r"set a.b = 'c\'", "a.b", r"SET a.b TO E'c\\'", Scope::Session);
    // In SJIS the backslash belongs to the character before, and the string ends at the quote.
    write("select E'\u{3042}\\', nextval(1), '", Why::ParseFailure);
    read(&["select '\u{3042}\\' from t", "select E'\u{3042}' from t"]);
}

#[test]
fn several_statements() {
    write("select 1; delete from t", Why::MultiStrictest);
    write("select 1; selekt", Why::MultiStrictest);
    let class = classify("begin; set a.b = 1; select 1; commit;");
    assert_eq!(class.statements, 4);
    assert_eq!(
        *class.effects,
        [
            Effect::Begin(TransactionMode::default()),
            Effect::Set { name: "a.b".into(), statement: "SET a.b TO 1".into(), scope: Scope::Session },
            Effect::Commit { chain: false },
        ]
    );
    assert_eq!(classify(" ; ").statements, 0);
    assert_eq!(classify("create function f() returns int begin atomic select 1; end; select 1").statements, 2);
}

#[test]
fn transaction_control() {
    let mode = TransactionMode::default;
    let read_only = TransactionMode { access: Some(TransactionAccess::ReadOnly), ..mode() };
    let serializable = TransactionMode { isolation: Some(Isolation::Serializable), ..mode() };
    effect("begin", Effect::Begin(mode()));
    effect("BEGIN WORK", Effect::Begin(mode()));
    effect("begin transaction read only", Effect::Begin(read_only));
    effect("start transaction read only", Effect::Begin(read_only));
    effect("begin isolation level serializable", Effect::Begin(serializable));
    effect(
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE NOT DEFERRABLE",
        Effect::Begin(TransactionMode {
            access: Some(TransactionAccess::ReadWrite),
            isolation: Some(Isolation::RepeatableRead),
            deferrable: Some(false),
        }),
    );
    for sql in ["commit", "end", "commit work", "END TRANSACTION", "commit and no chain"] {
        effect(sql, Effect::Commit { chain: false });
    }
    effect("commit and chain", Effect::Commit { chain: true });
    for sql in ["rollback", "abort", "ROLLBACK WORK", "abort and no chain"] {
        effect(sql, Effect::Rollback { chain: false });
    }
    effect("rollback transaction and chain", Effect::Rollback { chain: true });
    effect("savepoint A", Effect::Savepoint("a".into()));
    effect("savepoint \"A b\"", Effect::Savepoint("A b".into()));
    effect("release a", Effect::Release("a".into()));
    effect("release savepoint a", Effect::Release("a".into()));
    effect("release savepoint", Effect::Release("savepoint".into()));
    effect("rollback to a", Effect::RollbackTo("a".into()));
    effect("rollback work to savepoint a", Effect::RollbackTo("a".into()));
    effect("prepare transaction 'x'", Effect::PrepareTransaction);
    effect("set transaction read only", Effect::SetTransaction(read_only));
    effect("set local transaction_read_only = on", Effect::SetTransaction(read_only));
    effect("set transaction isolation level serializable", Effect::SetTransaction(serializable));
    effect("set transaction_isolation to 'serializable'", Effect::SetTransaction(serializable));
    effect(
        "SET transaction_read_only=0",
        Effect::SetTransaction(TransactionMode { access: Some(TransactionAccess::ReadWrite), ..mode() }),
    );
    for sql in [
        "commit prepared 'x'",
        "rollback prepared 'x'",
        "set transaction snapshot 'x'",
        "set constraints all deferred",
        "begin read",
        "savepoint",
        "commit and",
    ] {
        plain_write(sql);
    }
}

#[test]
fn settings() {
    use Scope::{Local, Session};
    set("set search_path to a, b", "search_path", "SET search_path TO a, b", Session);
    set("SET SESSION Search_Path = A,'b c' , \"D\"", "search_path", "SET search_path TO A, 'b c', \"D\"", Session);
    set("set local work_mem = '1MB'", "work_mem", "SET LOCAL work_mem TO '1MB'", Local);
    set("set app.user to 42 /* x */", "app.user", "SET app.user TO 42", Session);
    set("set geqo_seed = -1.5", "geqo_seed", "SET geqo_seed TO -1.5", Session);
    set("set local x to default", "x", "SET LOCAL x TO DEFAULT".replace("DEFAULT", "default").as_str(), Local);
    set("set names 'utf8'", "client_encoding", "SET client_encoding TO 'utf8'", Session);
    set("set schema 'a'", "search_path", "SET search_path TO 'a'", Session);
    set("set time zone 'UTC'", "timezone", "SET TIME ZONE 'UTC'", Session);
    set("set time zone -7", "timezone", "SET TIME ZONE -7", Session);
    set("set local time zone interval '1' hour", "timezone", "SET LOCAL TIME ZONE interval '1' hour", Local);
    set("set role x", "role", "SET ROLE x", Session);
    set("set role none", "role", "SET ROLE none", Session);
    set("set role to 'x'", "role", "SET role TO 'x'", Session);
    set("set session authorization 'x'", "session_authorization", "SET SESSION AUTHORIZATION 'x'", Session);
    set("set session session authorization x", "session_authorization", "SET SESSION AUTHORIZATION x", Session);
    set("set datestyle = iso, mdy", "datestyle", "SET datestyle TO iso, mdy", Session);
    set(
        "set session characteristics as transaction read only",
        "default_transaction_read_only",
        "SET default_transaction_read_only TO on",
        Session,
    );
    set(
        "set session characteristics as transaction isolation level repeatable read",
        "default_transaction_isolation",
        "SET default_transaction_isolation TO 'repeatable read'",
        Session,
    );
    reset("reset Work_Mem", "work_mem");
    reset("reset app.user", "app.user");
    reset("set work_mem to default", "work_mem");
    reset("reset time zone", "timezone");
    reset("set time zone local", "timezone");
    reset("reset session authorization", "session_authorization");
    reset("set session authorization default", "session_authorization");
    reset("set names default", "client_encoding");
    effect("reset all", Effect::ResetAll);
    pin("set nonsense", PinReason::Other);
    pin("set seed to 0.5", PinReason::Other);
    unseen(
        "set session characteristics as transaction read only, deferrable",
        &["default_transaction_read_only", "default_transaction_deferrable"],
    );
    set(r"set app.x to 'a\b', one", "app.x", r"SET app.x TO E'a\\b' , one", Session);
}

#[test]
fn set_config() {
    use Scope::{Local, Session};
    set(
        "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
        "jit",
        "SET jit TO 'off'",
        Session,
    );
    set(
        "SELECT pg_catalog.set_config('search_path', '', false);",
        "search_path",
        "SELECT pg_catalog.set_config('search_path', '', false)",
        Session,
    );
    set(
        "select set_config('search_path', 'A, \"B c\", d', true)",
        "search_path",
        "SELECT pg_catalog.set_config('search_path', 'A, \"B c\", d', true)",
        Local,
    );
    set("select set_config('app.x', 'it''s', 'f')", "app.x", "SET app.x TO 'it''s'", Session);
    set("select set_config('app.x', $$a\\b$$, false)", "app.x", "SET app.x TO E'a\\\\b'", Session);
    reset("select set_config('jit', null, false)", "jit");
    plain_write("select set_config('role', $1, true), pg_catalog.set_config('request.jwt.claims', $2, true)");
    plain_write("select set_config(k, v, true) from t");
    for sql in [
        "select set_config('a.b', $1, false)",
        "select set_config('a.b', 'c', false) from t",
        "select set_config('a.b', 'c', x)",
        "select * from set_config('a.b', 'c', false)",
        "with x as (select set_config('a.b', 'c', false)) select * from x",
        "insert into t select set_config('A.b', 'c', false)",
        "select set_config('a.b', 'c', false) where false",
    ] {
        unseen(sql, &["a.b"]);
    }
    unseen("select set_config('a.b', 'c', false), set_config('a.d', 'e', false)", &["a.b", "a.d"]);
    unseen("select set_config('search_path', x, false)", &["search_path"]);
    for sql in [
        "select set_config(k, v, true), set_config(k, v, false) from t",
        "select set_config(k, v, f(1, true)) from t",
        "select set_config(name, 'c', false) from t",
        "select set_config('a' || 'b', 'c', false)",
        "select set_config(setting_name => 'a.b', new_value => 'c', is_local => false)",
    ] {
        pin(sql, PinReason::SetConfig);
    }
}

#[test]
fn our_own_settings() {
    let hakem = |name: &str, value: Option<&str>| Effect::Hakem {
        name: name.to_owned(),
        value: value.map(str::to_owned),
        scope: Scope::Session,
    };
    effect("set hakem.route = 'primary'", hakem("route", Some("primary")));
    effect("SET SESSION Hakem.Route TO replica", hakem("route", Some("replica")));
    effect("set hakem.max_lag = '500ms'", hakem("max_lag", Some("500ms")));
    effect("set hakem.pin = on", hakem("pin", Some("on")));
    effect("set hakem.route to default", hakem("route", None));
    effect("reset hakem.route", hakem("route", None));
    effect("show hakem.route", Effect::HakemShow { name: "route".into() });
}

#[test]
fn pins() {
    effect("listen \"C d\"", Effect::Listen("C d".into()));
    effect("LISTEN Channel", Effect::Listen("channel".into()));
    effect("unlisten *", Effect::UnlistenAll);
    effect("unlisten c", Effect::Unlisten("c".into()));
    for sql in [
        "select pg_advisory_lock(1)",
        "select pg_try_advisory_lock(1, 2)",
        "select pg_catalog.pg_advisory_lock_shared(1) from t",
        "with x as (select pg_advisory_lock(1)) select 1",
        "insert into t select pg_try_advisory_lock(1)",
    ] {
        pin(sql, PinReason::AdvisoryLock);
    }
    effect("select pg_advisory_unlock_all()", Effect::Unpin(PinReason::AdvisoryLock));
    effect("select pg_advisory_unlock(1), 2", Effect::Unlocks);
    effect("select 1 from t where pg_advisory_unlock_shared(n)", Effect::Unlocks);
    for sql in [
        "create temp table t (a int)",
        "create local temporary table t as select 1",
        "create or replace temp view v as select 1",
        "create temporary sequence s",
        "select * into temp u from t",
        "select 1 as a into temporary table u",
        "create table pg_temp.t (a int)",
        "select * from pg_temp.t",
    ] {
        pin(sql, PinReason::TempTable);
    }
    effect("discard temp", Effect::Unpin(PinReason::TempTable));
    effect("discard all", Effect::DiscardAll);
    plain_write("discard plans");
    plain_write("discard sequences");
    pin("declare c cursor with hold for select 1", PinReason::HoldCursor);
    effect("close all", Effect::Unpin(PinReason::HoldCursor));
    let prepare =
        |types: &str, body: &str| Effect::Prepare { name: "p".to_owned(), types: types.into(), body: body.into() };
    effect("prepare p as select 1", prepare("", "select 1"));
    effect("PREPARE P (int, text[]) AS  select $1 ;", prepare("(int, text[])", "select $1"));
    let execute = |before: &str, after: &str, plain, pin| {
        let (before, name, after) = (before.into(), "p".to_owned(), after.into());
        Effect::Execute(Box::new(Execution { before, name, after, plain, pin }))
    };
    effect("execute p(1)", execute("execute", "(1)", true, None));
    effect("EXECUTE \"p\" ( 'a', $1 )", execute("EXECUTE", "( 'a', $1 )", true, None));
    effect("execute p(nextval('s'))", execute("execute", "(nextval('s'))", false, None));
    effect(
        "execute p(pg_advisory_lock(1))",
        execute("execute", "(pg_advisory_lock(1))", false, Some(PinReason::AdvisoryLock)),
    );
    effect("explain (analyze) execute p", execute("explain (analyze) execute", "", true, None));
    effect("create table t as execute p(1)", execute("create table t as execute", "(1)", false, None));
    effect(
        "explain (costs off) create table t as execute p",
        execute("explain (costs off) create table t as execute", "", false, None),
    );
    effect(
        "create temp table t as execute p",
        execute("create temp table t as execute", "", false, Some(PinReason::TempTable)),
    );
    effect("deallocate p", Effect::Deallocate("p".to_owned()));
    effect("deallocate prepare P", Effect::Deallocate("p".to_owned()));
    effect("deallocate all", Effect::DeallocateAll);
    effect("deallocate prepare all", Effect::DeallocateAll);
    pin("load 'x'", PinReason::Load);
    pin("select currval('s')", PinReason::SequenceState);
    pin("select lastval()", PinReason::SequenceState);
    pin("select setseed(0.5)", PinReason::Other);
    pin("do $$ begin perform set_config('a.b', 'c', false); end $$", PinReason::Other);
    pin("do $$ begin set search_path to x; end $$", PinReason::Other);
    pin("do language plpgsql 'begin create temp table x (a int); end'", PinReason::Other);
    plain_write("do $$ begin update t set a = 1; end $$");
    plain_write("do $$ begin set local search_path to x; end $$");
}

#[test]
fn hints() {
    let check = |sql: &str, hint, access| {
        let class = classify(sql);
        assert_eq!((class.hint, class.access), (hint, access), "{sql}");
    };
    check("/* hakem: primary */ select 1", Some(Hint::place(Place::Primary)), Access::Read);
    check("delete from t /* hakem: replica */", Some(Hint::place(Place::Replica)), Access::Write);
    check("select '/* hakem: primary */'", None, Access::Read);
}

#[test]
fn words_that_call_functions() {
    for sql in [
        // `makeFuncCall(SystemFuncName(...))`, of the last name of the type.
        "select treat('s'::regclass as nextval)",
        "select treat(1::bigint as pg_advisory_lock)",
        "select isnull(1)",
        "select 1 from t where notnull(a)",
        "select 1 from t where a = 0or f(1)",
        "select 1 from t where a = 0between f(1) and 2",
    ] {
        let class = Classifier::new(Options::default()).classify(sql);
        assert_eq!(class.access, Access::Write, "{sql}");
    }
}

//! What PostgreSQL 16, 17 and 18 have added: functions and syntax, on each of which a server of 15 would stumble.

use classifier::{Access, Classifier, Options, Why};

fn check(expected: Access, statements: &[&str]) {
    let classifier = Classifier::new(Options::default());
    for sql in statements {
        let class = classifier.classify(sql);
        assert_eq!(class.access, expected, "{sql}: {}", class.why);
    }
}

#[test]
fn functions() {
    check(
        Access::Read,
        &[
            "select any_value(a), array_sample(b, 2), array_shuffle(b), array_sort(b), array_reverse(b) from t",
            "select random_normal(0, 1), random(1, 6), erf(1), erfc(1), gamma(2), lgamma(2), crc32('a'), crc32c('a')",
            "select casefold(a), to_bin(5), to_oct(5), uuidv7(), uuid_extract_version(u), system_user from t",
            "select date_add(a, '1 day'), date_subtract(a, '1 day', 'Europe/Paris') from t",
            "select to_regtypemod('varchar(3)'), pg_get_acl('pg_class'::regclass, 1, 0), icu_unicode_version()",
            "select json_agg_strict(a), jsonb_agg_strict(a), json_object_agg_unique_strict(a, b) from t",
            "select has_largeobject_privilege(1, 'select'), pg_split_walfile_name('000000010000000000000001')",
            "select max(row(a, b)), min(b::bytea) from t",
        ],
    );
    check(
        Access::Write,
        &[
            "select pg_restore_relation_stats('relation', 't'::regclass)",
            "select pg_clear_attribute_stats('public', 't', 'a', false)",
            "select pg_log_standby_snapshot()",
            "select pg_sync_replication_slots()",
            "select * from pg_get_loaded_modules()",
            "select * from pg_get_aios()",
            "select pg_numa_available()",
            "select * from pg_get_wal_summarizer_state()",
            "select * from pg_available_wal_summaries()",
            "select * from pg_get_sequence_data('s')",
            "select * from pg_stat_get_backend_io(1)",
            "select * from pg_stat_io",
            "select * from pg_aios",
            "select * from pg_shmem_allocations_numa",
        ],
    );
}

#[test]
fn syntax() {
    check(
        Access::Read,
        &[
            "select 1_000, 0x1F, 0o17, 0b1_01, 1_0.5e1_0",
            "select json_array(1, 2 null on null), json_array(select a from t returning jsonb)",
            "select json_object('a': 1, 'b' value 2 absent on null with unique keys)",
            "select json_arrayagg(a order by b), json_objectagg(a: b) from t",
            "select json_value(a, '$.b' returning int default 1 on empty), json_query(a, '$' with wrapper) from t",
            "select json_exists(a, '$.b' passing 1 as x error on error), json_scalar(1), json_serialize(a) from t",
            "select json('{}' with unique keys), a is json object with unique keys from t",
            "select * from t, json_table(t.a, '$[*]' columns (i for ordinality, b int path '$.b', c text exists)) as j",
            "select * from json_table(a, '$' columns (nested path '$.x[*]' columns (y int path '$'))) j where j.y > 0",
            "select a::xml is document, xmlserialize(document a as text indent) from t",
            "select * from (select 1), (values (2))",
            "select a at local, trim_array(b, 1), a is normalized from t",
            "select any_value(a) filter (where b) over w from t window w as (partition by c)",
            "explain (analyze, serialize text, memory, generic_plan off) select 1",
            "copy (select 1) to stdout (format csv, force_quote *)",
            "with recursive t(n) as (values (1) union all select n + 1 from t) search depth first by n set o \
             cycle n set c using p select * from t",
        ],
    );
    check(
        Access::Write,
        &[
            "merge into t using u on t.a = u.a when matched then delete returning merge_action(), t.*",
            "with m as (merge into t using u on t.a = u.a when not matched by source then delete returning *) table m",
            "insert into t values (1) returning old.a, new.a",
            "update t set a = 1 returning with (old as o, new as n) o.a, n.a",
            "with u as (update t set a = 1 returning old.a as before, new.a as after) select * from u",
            "explain (analyze) merge into t using u on true when matched then do nothing",
            "copy (merge into t using u on true when matched then delete returning 1) to stdout",
            "copy (update t set a = 1 returning old.*) to stdout",
            "select json_object('a': nextval('s'))",
            "select json_array(select nextval('s'))",
            "select * from json_table(lock_it(1), '$' columns (a int path '$'))",
            "select json_value('{}', '$.a' default nextval('s') on empty)",
            "select * from t where 0x1F = pg_advisory_lock(1_000)",
        ],
    );
}

#[test]
fn node_dependent_functions_say_so() {
    let classifier = Classifier::new(Options::default());
    for sql in ["select * from pg_available_extensions", "select * from pg_extension_update_paths('isn')"] {
        assert_eq!(classifier.classify(sql).why, Why::NodeDependent, "{sql}");
    }
}

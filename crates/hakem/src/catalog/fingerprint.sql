-- What changes when anything changes that load.sql reads: of each catalogue, how many rows there are and the sum of the transactions
-- that wrote them. A row is written by a transaction younger than any before, so that no two changes make up for each other.
select concat_ws(' ',
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_proc),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_class
        where relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c') and relpersistence <> 't'),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_type where typtype <> 'c' and typcategory <> 'A'),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_namespace where nspname !~ '^pg_'),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_rewrite),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_policy),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_constraint where contypid <> 0 or contype in ('c', 'f')),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_trigger where not tgisinternal),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_attrdef),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_aggregate),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_operator),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_cast),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_amproc),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_inherits),
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_extension),
    -- Of which types columns are; what belongs to an extension; which indexes are in an order of a user's.
    (select concat_ws(' ', count(*), sum(xmin::text::bigint)) from pg_depend
        where refclassid in ('pg_type'::regclass, 'pg_extension'::regclass, 'pg_opclass'::regclass)))

-- What a database says of its functions, relations, types and operators, in one statement, on PostgreSQL 13 to 18.
--
-- Rows of eight columns, by the first: `n`, there is an object; `c`, it may call a function of PostgreSQL's own; `e`, it evaluates an
-- expression that reads settings; `l`, it locks rows; `u`, it may use another; `w`,
-- writing to it may. An object is a kind and an oid: `f` a function, `r` a relation, `t` a
-- type, `o` an operator, `*` anything at all. What is PostgreSQL's own has an oid below 16384, and dependencies on most of it are not
-- recorded in pg_depend ("pinned"): hence the look into the trees of expressions.
with
-- A row's type, or an array's, is the relation's, or the element's.
kinds as materialized (
    select t.oid, case when t.typrelid <> 0 then 'r' else 't' end as kind, case when t.typrelid <> 0 then t.typrelid else t.oid end as id
    from pg_type t where t.oid >= 16384 and t.typinput <> 'array_in'::regproc
    union all
    select t.typarray, case when t.typrelid <> 0 then 'r' else 't' end, case when t.typrelid <> 0 then t.typrelid else t.oid end
    from pg_type t where t.typarray >= 16384
),
trees as not materialized (
    select 'r' as kind, r.ev_class as id, r.ev_action::text as tree
    from pg_rewrite r join pg_class c on c.oid = r.ev_class
    where c.relkind = 'v' and c.oid >= 16384
    union all
    select 'r', p.polrelid, p.polqual::text from pg_policy p join pg_class c on c.oid = p.polrelid
    where p.polcmd in ('*', 'r') and c.relrowsecurity and p.polqual is not null
    union all
    select 't', contypid, conbin::text from pg_constraint where contypid >= 16384 and conbin is not null
    union all
    select 'f', oid, proargdefaults::text from pg_proc where oid >= 16384 and proargdefaults is not null
),
pieces as materialized (
    select distinct kind, id, split_part(piece, ' ', 1)::oid as fn
    from trees, unnest((string_to_array(tree, '{FUNCEXPR :funcid '))[2:] || case when tree like '%{ROWMARKCLAUSE %' then array['0'] end) as piece
),
called as materialized (
    select kind, id, p.oid, p.proname, p.provolatile
    from pieces join pg_proc p on p.oid = fn
    where p.oid < 16384 and p.provolatile <> 'i'
    union all
    select 'f', a.aggfnoid, p.oid, p.proname, p.provolatile
    from pg_aggregate a join pg_proc p on p.oid in (aggtransfn, aggfinalfn, aggcombinefn, aggmtransfn, aggminvtransfn, aggmfinalfn)
    where a.aggfnoid >= 16384 and p.oid < 16384 and p.provolatile <> 'i'
    union all
    select 'o', o.oid, p.oid, p.proname, p.provolatile
    from pg_operator o join pg_proc p on p.oid = o.oprcode where o.oid >= 16384 and p.oid < 16384 and p.provolatile <> 'i'
),
casts as materialized (
    select case when s.oid is not null then s.kind when t.oid is not null then t.kind when c.castcontext = 'i' then '*' else 't' end as kind,
        coalesce(s.id, t.id, case when c.castcontext = 'i' then 0 else c.casttarget end) as id, c.castfunc
    from pg_cast c left join kinds s on s.oid = c.castsource left join kinds t on t.oid = c.casttarget
    where c.oid >= 16384 and c.castfunc <> 0
)
-- Functions: volatility, whether one argument is enough, a row or another value, extension. Only C can take an `internal`, and no statement
-- can hand one over: those are what indexes, aggregates and the planner call, and extensions do not trouble to mark them.
select 'n'::text as what, 'f'::text as kind, p.oid as id, n.nspname::text as schema, p.proname::text as name,
    case when 2281 = any (p.proargtypes) then 'i' else p.provolatile::text end || case
        when p.pronargs = 0 or p.pronargs - p.pronargdefaults > 1 then '-'
        when p.provariadic <> 0 or exists (select from pg_type a where a.oid = p.proargtypes[0]
            and (a.typtype in ('c', 'd') or a.oid in (2249, 2276, 2283, 2776, 5077, 5079, 5080))) then 'r'
        else 'v' end || coalesce(e.extname, '') as detail, null::text as on_kind, null::oid as on_id
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
left join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e' and d.refclassid = 'pg_extension'::regclass
left join pg_extension e on e.oid = d.refobjid
where p.oid >= 16384 or n.nspname <> 'pg_catalog'
union all
select 'n', 'r', c.oid, n.nspname, c.relname,
    case when c.relkind in ('f', 'S') or c.relpersistence = 'u' then 'p' else '-' end, null, null
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c') and c.relpersistence <> 't'
    and (c.oid >= 16384 or (c.relkind = 'v' and n.nspname = 'pg_catalog'))
union all
select 'n', 't', t.oid, n.nspname, t.typname, '', null, null
from pg_type t join pg_namespace n on n.oid = t.typnamespace join kinds k on k.oid = t.oid and k.kind = 't' and k.id = t.oid
union all
select 'n', 't', t.oid, 'pg_catalog', t.typname, '', null, null
from pg_type t where t.oid < 16384 and exists (select from casts where kind = 't' and id = t.oid)
union all
-- An operator of built-in types only is told by its symbol, as is one for which a built-in value may be turned into its operand.
select 'n', 'o', o.oid, '', o.oprname, case
    when l.oid is null and r.oid is null
        or not exists (select from pg_operator b where b.oid < 16384 and b.oprname = o.oprname)
        or exists (select from pg_cast c where c.casttarget in (o.oprleft, o.oprright) and c.castcontext = 'i' and c.castsource < 16384)
    then 's' else '-' end, null, null
from pg_operator o left join kinds l on l.oid = o.oprleft left join kinds r on r.oid = o.oprright
where o.oid >= 16384
union all
select 'c', kind, id, null, proname, provolatile::text, null, null from called where proname <> 'current_setting'
union all
select 'c', c.kind, c.id, null, p.proname, p.provolatile::text, null, null
from casts c join pg_proc p on p.oid = c.castfunc where p.oid < 16384 and p.provolatile <> 'i'
union all
select 'e', kind, id, null, null, case kind
    when 'r' then coalesce(pg_get_viewdef(id), (select string_agg(pg_get_expr(polqual, polrelid), ' and ') from pg_policy where polrelid = id and polcmd in ('*', 'r')))
    when 't' then (select string_agg(pg_get_expr(conbin, 0), ' and ') from pg_constraint where contypid = id)
    else (select pg_get_expr(proargdefaults, 0) from pg_proc where oid = id) end, null, null
from (select distinct kind, id from called where proname = 'current_setting') as settings
union all
select 'l', kind, id, null, null, null, null, null::oid from pieces where fn = 0
union all
-- Who uses whom: what a rule, a policy or a check depends on, its relation or its domain does.
select distinct 'u', w.kind, w.id, null, null, null,
    coalesce(rt.kind, case d.refclassid when 'pg_proc'::regclass then 'f' when 'pg_operator'::regclass then 'o' when 'pg_class'::regclass then 'r' else 't' end),
    coalesce(rt.id, d.refobjid)
from (
    select 'pg_rewrite'::regclass as classid, r.oid as objid, 'r' as kind, r.ev_class as id
    from pg_rewrite r join pg_class c on c.oid = r.ev_class where c.relkind = 'v' and c.oid >= 16384
    union all
    select 'pg_policy'::regclass, p.oid, 'r', p.polrelid
    from pg_policy p join pg_class c on c.oid = p.polrelid where p.polcmd in ('*', 'r') and c.relrowsecurity
    union all
    select 'pg_constraint'::regclass, oid, 't', contypid from pg_constraint where contypid >= 16384
    union all
    select 'pg_proc'::regclass, oid, 'f', oid from pg_proc where oid >= 16384
    union all
    select 'pg_operator'::regclass, oid, 'o', oid from pg_operator where oid >= 16384
    union all
    -- A base type's functions are C, and read and write texts: how they are marked does not matter.
    select 'pg_type'::regclass, k.oid, k.kind, k.id from kinds k join pg_type t on t.oid = k.oid where k.kind = 't' and t.typtype <> 'b'
    union all
    select 'pg_class'::regclass, oid, 'r', oid from pg_class where relkind in ('r', 'p', 'm', 'f', 'c') and oid >= 16384
) as w join pg_depend d on d.classid = w.classid and d.objid = w.objid
left join kinds rt on d.refclassid = 'pg_type'::regclass and rt.oid = d.refobjid
where d.deptype in ('n', 'a', 'i') and (d.refclassid = 'pg_type'::regclass
    or (d.classid <> 'pg_class'::regclass and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass))
    or (d.classid not in ('pg_class'::regclass, 'pg_type'::regclass) and d.refclassid = 'pg_class'::regclass))
    and coalesce(rt.id, d.refobjid) <> w.id
union all
-- Writing to a relation: its triggers, what its rules, defaults, checks and policies depend on, and what its foreign keys pass on.
select 'w', 'r', tgrelid, null, null, null, 'f', tgfoid from pg_trigger where not tgisinternal and tgenabled <> 'D' and tgfoid >= 16384
union all
select 'w', 'r', confrelid, null, null, null, 'r', conrelid from pg_constraint
where contype = 'f' and conrelid <> confrelid and (confupdtype in ('c', 'n', 'd') or confdeltype in ('c', 'n', 'd'))
union all
select distinct 'w', 'r', w.id, null, null, null,
    case d.refclassid when 'pg_proc'::regclass then 'f' when 'pg_operator'::regclass then 'o' else 'r' end, d.refobjid
from (
    select 'pg_rewrite'::regclass as classid, r.oid as objid, r.ev_class as id
    from pg_rewrite r join pg_class c on c.oid = r.ev_class where c.relkind in ('r', 'p', 'f') and c.oid >= 16384
    union all
    select 'pg_attrdef'::regclass, oid, adrelid from pg_attrdef
    union all
    select 'pg_constraint'::regclass, oid, conrelid from pg_constraint where contype = 'c' and conrelid <> 0
    union all
    select 'pg_policy'::regclass, oid, polrelid from pg_policy
) as w cross join lateral (
    -- By the index on what depends, whatever the planner, without statistics, thinks of another.
    select * from pg_depend d where d.classid = w.classid and d.objid = w.objid offset 0
) as d
where d.deptype = 'n' and d.refobjid >= 16384 and d.refobjid <> w.id
    and (d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
        or (d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass))
union all
select 'u', 'r', i.inhparent, null, null, null, 'r', i.inhrelid
from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relkind in ('r', 'p', 'f')
union all
select 'u', kind, id, null, null, null, 'f', castfunc from casts where castfunc >= 16384
union all
select 'u', k.kind, k.id, null, null, null, 'f', a.amproc from pg_amproc a join kinds k on k.oid = a.amproclefttype where a.amproc >= 16384
union all
-- A user's way to order or hash values of whatever type: of an index, a partition or a range, or by default.
select distinct 'u', c.kind, c.id, null, null, null, 'f', a.amproc
from (
    select coalesce(k.kind, 'r') as kind, coalesce(k.id, i.indrelid, d.objid) as id, d.refobjid as class
    from pg_depend d left join pg_index i on d.classid = 'pg_class'::regclass and i.indexrelid = d.objid
    left join kinds k on d.classid = 'pg_type'::regclass and k.oid = d.objid
    where d.refclassid = 'pg_opclass'::regclass and d.classid in ('pg_class'::regclass, 'pg_type'::regclass)
    union all
    select '*', 0, oid from pg_opclass where oid >= 16384 and opcdefault and opcintype < 16384 and opcmethod in (403, 405)
) as c join pg_opclass o on o.oid = c.class join pg_amproc a on a.amprocfamily = o.opcfamily where a.amproc >= 16384
union all
select 'u', '*', 0, null, null, null, 'o', a.amopopr
from pg_opclass o join pg_amop a on a.amopfamily = o.opcfamily
where o.oid >= 16384 and o.opcdefault and o.opcintype < 16384 and o.opcmethod in (403, 405) and a.amopopr >= 16384
union all
select 'u', k.kind, k.id, null, null, null, 'o', o.oid from pg_operator o join kinds k on k.oid in (o.oprleft, o.oprright) where o.oid >= 16384
union all
select 'u', '*', 0, null, null, null, 'o', o.oid
from pg_operator o left join kinds l on l.oid = o.oprleft left join kinds r on r.oid = o.oprright
where o.oid >= 16384 and l.oid is null and r.oid is null
    and o.oprname in ('=', '<>', '<', '>', '<=', '>=', '~~', '!~~', '~~*', '!~~*', '~', '!~')

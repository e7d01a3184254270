//! [`Facts`]: what was read of a database's system catalogues, and the [`Catalog`] that follows from it.
//!
//! Owns the conclusions: a view is no replica's when a function is none that it calls, through other views, operators, types and policies
//! at any remove. Objects are nodes, known by kind and oid; an edge says that using one may use the other. What may be used by a
//! node that is for the primary, and whatever uses that, is for the primary. Who reads the facts, and how, is not known here.

use crate::builtin;
use crate::catalog::{Calling, Catalog, Rules, Volatility, builtin as calling_builtin, is_node_relation};
use crate::lexer::Lexed;
use crate::query::reads_session_settings;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Facts of one database.
#[derive(Debug, Default)]
pub struct Facts {
    rules: Rules,
    nodes: Vec<Node>,
    places: HashMap<Object, u32>,
    /// Functions that can be called with one value, which is no row.
    of_value: HashSet<Object>,
    schemas: HashSet<Arc<str>>,
    /// What uses, and what is used.
    uses: Vec<(Object, Object)>,
    /// What is for the primary by itself.
    roots: Vec<Object>,
    /// What writing to it uses beside, and what is used: by triggers, rules, defaults, checks, foreign keys.
    fires: Vec<(Object, Object)>,
    /// What is code of a user's, by itself.
    code: Vec<Object>,
    has_set_limit: bool,
}

/// An object of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A function, a procedure or an aggregate.
    Function(u32),
    /// A relation: a table, a view, a sequence, a composite type.
    Relation(u32),
    /// A type that is no relation's, and no array.
    Type(u32),
    /// An operator.
    Operator(u32),
    /// What may be used by any statement at all, and stands in none: an implicit cast between built-in types.
    Anything,
}

/// A function.
#[derive(Debug, Clone, Copy)]
pub struct Function<'a> {
    /// Its schema.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `provolatile`.
    pub volatility: Volatility,
    /// The extension that it belongs to; empty for none.
    pub extension: &'a str,
    /// What it can be called with and nothing else, hence as `argument.name`.
    pub argument: Argument,
}

/// The one argument that a function cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// A row, or what a row can be: a pseudo-type.
    Row,
    /// Anything else.
    Value,
    /// There is none, or there are several.
    NotOne,
}

#[derive(Debug)]
struct Node {
    object: Object,
    schema: Arc<str>,
    name: Box<str>,
    /// Of a function; of an operator, whether its symbol gives it away.
    volatility: Volatility,
    is_named: bool,
}

impl Facts {
    /// None yet. The rules hold for functions at any remove.
    pub fn new(rules: Rules) -> Facts {
        Facts { rules, ..Facts::default() }
    }

    /// There is a function.
    pub fn function(&mut self, oid: u32, function: Function<'_>) {
        let Function { schema, name, extension, argument, .. } = function;
        let volatility = match function.volatility {
            _ if builtin::MISDECLARED.contains(&(extension, name)) => Volatility::Volatile,
            Volatility::Immutable => Volatility::Immutable,
            Volatility::Stable if builtin::TRUSTED_EXTENSIONS.contains(&extension) => Volatility::Immutable,
            Volatility::Volatile if builtin::PURE_EXTENSIONS.contains(&extension) => Volatility::Immutable,
            declared => declared,
        };
        let object = Object::Function(oid);
        if self.rules.calling(schema, name, volatility) != Calling::Harmless {
            self.roots.push(object);
            self.code.push(object);
        }
        if argument == Argument::Value {
            self.of_value.insert(object);
        }
        self.has_set_limit |= extension == "pg_trgm" && name == "set_limit";
        self.node(object, schema, name, volatility, argument == Argument::Row);
    }

    /// There is a relation. `primary`: only the primary can read it, or nobody else should.
    pub fn relation(&mut self, oid: u32, schema: &str, name: &str, primary: bool) {
        let object = Object::Relation(oid);
        if primary || (schema == "pg_catalog" && is_node_relation(name)) {
            self.roots.push(object);
        }
        self.node(object, schema, name, Volatility::Immutable, false);
    }

    /// There is a type.
    pub fn domain(&mut self, oid: u32, schema: &str, name: &str) {
        self.node(Object::Type(oid), schema, name, Volatility::Immutable, false);
    }

    /// There is an operator of a user's. `is_told`: nothing but its symbol tells that it is used; else its operands' types do.
    pub fn operator(&mut self, oid: u32, symbol: &str, is_told: bool) {
        self.node(Object::Operator(oid), "", symbol, Volatility::Immutable, is_told);
    }

    /// Using `user` may use `used`.
    pub fn uses(&mut self, user: Object, used: Object) {
        self.uses.push((user, used));
    }

    /// Writing to `user` may use `used`.
    pub fn fires(&mut self, user: Object, used: Object) {
        self.fires.push((user, used));
    }

    /// Using an object may call a function of PostgreSQL's own.
    pub fn calls(&mut self, user: Object, name: &str, volatility: Volatility) {
        let harmless = match calling_builtin(name) {
            // Which setting it reads is told by `settings`.
            Some(calling) => matches!(calling, Calling::Harmless | Calling::ReadsSetting),
            // What no user calls, such as an aggregate's transition function, is in no list.
            None => volatility == Volatility::Immutable,
        };
        if !harmless {
            self.roots.push(user);
        }
        if name == "set_config" {
            self.code.push(user);
        }
    }

    /// Reading a relation locks rows, which a standby refuses.
    pub fn locks(&mut self, user: Object) {
        self.roots.push(user);
    }

    /// Using an object evaluates this text, in which settings are read.
    pub fn settings(&mut self, user: Object, text: &str) {
        let lexed = Lexed::new(text);
        if lexed.ambiguous || !lexed.statements().iter().all(|statement| reads_session_settings(*statement)) {
            self.roots.push(user);
        }
    }

    /// The conclusions.
    pub fn conclude(mut self) -> Catalog {
        let mut uses = std::mem::take(&mut self.uses);
        let reached = self.reach(&mut uses, &self.roots);
        uses.append(&mut self.fires);
        let unseen = self.reach(&mut uses, &self.code);
        let mut named = HashSet::new();
        let mut catalog = Catalog::with_rules(std::mem::take(&mut self.rules));
        catalog.opaque = reached.contains(&Object::Anything);
        catalog.has_set_limit = self.has_set_limit;
        for node in self.nodes {
            let is_reached = reached.contains(&node.object);
            match node.object {
                Object::Function(_) => {
                    catalog.size.functions += 1;
                    // What its author calls immutable may use another function, or a type, that is not.
                    let believed =
                        catalog.rules.calling(&node.schema, &node.name, node.volatility) == Calling::Harmless;
                    let volatility = if is_reached && believed { Volatility::Volatile } else { node.volatility };
                    if is_reached && node.is_named {
                        catalog.methods.insert(node.name.clone());
                    }
                    if is_reached && self.of_value.contains(&node.object) {
                        catalog.attributes.insert(node.name.clone());
                    }
                    catalog.declare(&node.schema, &node.name, volatility);
                }
                Object::Relation(_) | Object::Type(_) => {
                    catalog.size.relations += usize::from(matches!(node.object, Object::Relation(_)));
                    if unseen.contains(&node.object) {
                        named.extend(spellings(&node).iter().map(|name| Box::from(*name)));
                        named.insert(node.name.clone());
                    }
                    // System views have rules of their own.
                    if is_reached && (&*node.schema != "pg_catalog" || matches!(node.object, Object::Type(_))) {
                        let spellings = spellings(&node);
                        for name in spellings.iter().copied().chain([&*node.name]) {
                            catalog.primary.entry(name.into()).or_default().push(node.schema.clone());
                        }
                    }
                }
                Object::Operator(_) if is_reached && node.is_named => {
                    catalog.operators.insert(node.name);
                }
                Object::Operator(_) | Object::Anything => {}
            }
        }
        catalog.unseen = Some(named);
        for schemas in catalog.primary.values_mut() {
            schemas.sort();
            schemas.dedup();
        }
        catalog
    }

    fn node(&mut self, object: Object, schema: &str, name: &str, volatility: Volatility, is_named: bool) {
        let schema = match self.schemas.get(schema) {
            Some(known) => known.clone(),
            None => {
                let schema: Arc<str> = schema.into();
                self.schemas.insert(schema.clone());
                schema
            }
        };
        let place = self.nodes.len() as u32;
        if self.places.insert(object, place).is_none() {
            self.nodes.push(Node { object, schema, name: name.into(), volatility, is_named });
        }
    }

    /// Everything from which a root can be reached.
    fn reach(&self, uses: &mut [(Object, Object)], roots: &[Object]) -> HashSet<Object> {
        // By what is used.
        uses.sort_unstable_by_key(|(_, used)| *used);
        let mut open = roots.to_vec();
        let mut reached: HashSet<Object> = open.iter().copied().collect();
        while let Some(object) = open.pop() {
            let first = uses.partition_point(|(_, used)| *used < object);
            for (user, _) in uses[first..].iter().take_while(|(_, used)| *used == object) {
                // A rule by name ends the chain.
                if !self.is_ruled_harmless(*user) && reached.insert(*user) {
                    open.push(*user);
                }
            }
        }
        reached
    }

    fn is_ruled_harmless(&self, object: Object) -> bool {
        let Object::Function(_) = object else { return false };
        let Some(node) = self.places.get(&object).and_then(|place| self.nodes.get(*place as usize)) else {
            return false;
        };
        // Only a rule says so of a volatile one.
        self.rules.calling(&node.schema, &node.name, Volatility::Volatile) == Calling::Harmless
    }
}

/// The words by which SQL calls a built-in type beside its name.
fn spellings(node: &Node) -> &'static [&'static str] {
    if &*node.schema != "pg_catalog" {
        return &[];
    }
    match &*node.name {
        "bool" => &["boolean"],
        "int2" => &["smallint"],
        "int4" => &["int", "integer"],
        "int8" => &["bigint"],
        "float4" => &["real", "float"],
        "float8" => &["double", "float"],
        "numeric" => &["decimal", "dec"],
        "bpchar" | "varchar" => &["char", "character", "nchar", "national"],
        "timestamptz" => &["timestamp"],
        "timetz" => &["time"],
        "varbit" => &["bit"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access::{Read, Write};
    use crate::{Classifier, Effect, Options};

    const NEXT: Object = Object::Function(1);

    /// A function for each volatility, and what a test adds.
    fn facts(rules: Rules) -> Facts {
        let mut facts = Facts::new(rules);
        function(&mut facts, 1, "next", Volatility::Volatile);
        function(&mut facts, 2, "reads", Volatility::Stable);
        function(&mut facts, 3, "pure", Volatility::Immutable);
        facts
    }

    fn function(facts: &mut Facts, oid: u32, name: &str, volatility: Volatility) {
        facts.function(oid, Function { schema: "public", name, volatility, extension: "", argument: Argument::Row });
    }

    fn check(facts: Facts, cases: &[(&str, crate::Access)]) {
        let classifier = Classifier::new(Options { catalog: facts.conclude(), ..Options::default() });
        for (sql, access) in cases {
            let class = classifier.classify(sql);
            assert_eq!(class.access, *access, "{sql}: {}", class.why);
        }
    }

    #[test]
    fn functions() {
        let cases = [
            ("select pure(1)", Read),
            ("select reads(1)", Write),
            ("select next(1)", Write),
            ("select public.pure(1)", Read),
            ("select other.pure(1)", Write),
            ("select t.next from t", Write),
            ("select (t).next from t", Write),
            ("select t.pure from t", Read),
            ("select next from t", Read),
        ];
        check(facts(Rules::default()), &cases);
        let trusting = [("select reads(1)", Read), ("select next(1)", Write)];
        check(facts(Rules::new(true, &[], &[])), &trusting);
        let ruled = Rules::new(false, &["public.next".to_owned()], &["pure".to_owned()]);
        check(facts(ruled), &[("select next(1)", Read), ("select pure(1)", Write)]);
    }

    #[test]
    fn views_at_any_remove() {
        let mut facts = facts(Rules::default());
        for (oid, name) in [(10, "base"), (11, "bad"), (12, "worse"), (13, "good"), (14, "asks"), (15, "tells")] {
            facts.relation(oid, "public", name, false);
        }
        facts.relation(20, "pg_catalog", "pg_stat_activity", false);
        facts.uses(Object::Relation(12), Object::Relation(11));
        facts.uses(Object::Relation(11), NEXT);
        facts.uses(Object::Relation(11), Object::Relation(10));
        facts.uses(Object::Relation(13), Object::Relation(10));
        facts.uses(Object::Relation(13), Object::Function(3));
        facts.calls(Object::Relation(13), "lower", Volatility::Immutable);
        facts.calls(Object::Relation(13), "random", Volatility::Volatile);
        facts.calls(Object::Relation(14), "nextval", Volatility::Volatile);
        facts.uses(Object::Relation(15), Object::Relation(20));
        let cases = [
            ("table base", Read),
            ("select * from bad", Write),
            ("select * from worse", Write),
            ("select * from public.worse", Write),
            ("select * from other.worse", Read),
            ("select x.worse from base x", Read),
            ("select * from good", Read),
            ("select * from asks", Write),
            ("select * from tells", Write),
            ("copy bad to stdout", Write),
            ("copy good to stdout", Read),
            ("explain select * from \"worse\"", Write),
        ];
        check(facts, &cases);
    }

    #[test]
    fn a_rule_ends_the_chain() {
        let mut facts =
            facts(Rules::new(false, &["next".to_owned(), "public.middle".to_owned()], &["pure".to_owned()]));
        function(&mut facts, 4, "middle", Volatility::Immutable);
        for (oid, name) in [(10, "over_next"), (11, "over_middle"), (12, "over_pure"), (13, "over_reads")] {
            facts.relation(oid, "public", name, false);
        }
        facts.uses(Object::Relation(10), NEXT);
        facts.uses(Object::Relation(11), Object::Function(4));
        facts.uses(Object::Function(4), Object::Function(2));
        facts.uses(Object::Relation(12), Object::Function(3));
        facts.uses(Object::Relation(13), Object::Function(2));
        let cases = [
            ("select * from over_next", Read),
            ("select * from over_middle", Read),
            ("select middle()", Read),
            ("select * from over_pure", Write),
            ("select * from over_reads", Write),
        ];
        check(facts, &cases);
    }

    #[test]
    fn types_operators_and_casts() {
        let mut facts = facts(Rules::default());
        facts.domain(30, "public", "checked");
        facts.domain(31, "pg_catalog", "int4");
        facts.relation(32, "public", "holder", false);
        facts.relation(33, "public", "free", false);
        facts.operator(40, "%%", true);
        facts.operator(41, "=", false);
        facts.uses(Object::Type(30), NEXT);
        facts.uses(Object::Type(31), NEXT);
        facts.uses(Object::Relation(32), Object::Type(30));
        facts.uses(Object::Operator(40), NEXT);
        facts.uses(Object::Operator(41), NEXT);
        let cases = [
            ("select * from holder", Write),
            ("select * from free", Read),
            ("select '1'::checked", Write),
            ("select '{}'::_checked", Write),
            ("select cast('1' as public.checked)", Write),
            ("select checked('1')", Write),
            ("select a::int from free", Write),
            ("select a::bigint from free", Read),
            ("select a %% b from free", Write),
            ("select a % b from free where a = b", Read),
        ];
        check(facts, &cases);
    }

    #[test]
    fn what_no_statement_shows() {
        let mut facts = facts(Rules::default());
        facts.uses(Object::Anything, NEXT);
        check(facts, &[("select 1", Write), ("show work_mem", Read)]);
    }

    #[test]
    fn settings_that_policies_read() {
        let mut facts = facts(Rules::default());
        for (oid, name) in [(10, "tenants"), (11, "nodes"), (12, "any")] {
            facts.relation(oid, "public", name, false);
        }
        facts.settings(Object::Relation(10), "(tenant = (current_setting('app.tenant'::text, true))::integer)");
        facts.settings(Object::Relation(11), "(current_setting('transaction_read_only'::text) = 'on'::text)");
        facts.settings(Object::Relation(12), "(current_setting(name) = 'on'::text)");
        let cases = [("table tenants", Read), ("table nodes", Write), ("select * from \"any\"", Write)];
        check(facts, &cases);
    }

    #[test]
    fn extensions_that_are_known() {
        let mut facts = Facts::default();
        let function = |name, volatility, extension| Function {
            schema: "public",
            name,
            volatility,
            extension,
            argument: Argument::Value,
        };
        facts.function(1, function("unaccent", Volatility::Stable, "unaccent"));
        facts.function(2, function("crosstab", Volatility::Stable, "tablefunc"));
        facts.function(3, function("uuid_generate_v4", Volatility::Volatile, "uuid-ossp"));
        facts.function(4, function("dblink", Volatility::Volatile, "dblink"));
        facts.function(5, function("isn_weak", Volatility::Immutable, "isn"));
        facts.function(6, function("isn", Volatility::Immutable, "isn"));
        let cases = [
            ("select unaccent('a')", Read),
            ("select * from crosstab('select 1') as t(a int)", Write),
            ("select uuid_generate_v4()", Read),
            ("select dblink('a')", Write),
            ("select isn_weak(true)", Write),
            ("select isn('a')", Read),
        ];
        check(facts, &cases);
    }

    #[test]
    fn pg_trgms_way_to_set_something() {
        let effects = |extension, sql: &str| {
            let mut facts = Facts::default();
            let (schema, volatility, argument) = ("public", Volatility::Volatile, Argument::Value);
            facts.function(1, Function { schema, name: "set_limit", volatility, extension, argument });
            let catalog = facts.conclude();
            Classifier::new(Options { catalog, ..Options::default() }).classify(sql).effects.clone()
        };
        let unseen = |names: &[&str]| [Effect::SetUnseen(names.iter().map(|name| (*name).to_owned()).collect())];
        let limit = "pg_trgm.similarity_threshold";
        assert_eq!(*effects("pg_trgm", "select set_limit(0.5)"), unseen(&[limit]));
        assert_eq!(*effects("pg_trgm", "select (0.5::real).set_limit"), unseen(&[limit]));
        assert_eq!(*effects("pg_trgm", "select set_limit($1), set_config('a.b', $2, false)"), unseen(&["a.b", limit]));
        assert!(effects("", "select set_limit(0.5)").is_empty());
    }

    #[test]
    fn functions_of_one_value() {
        let mut facts = facts(Rules::default());
        for (oid, name, volatility) in [(4, "status", Volatility::Volatile), (5, "double", Volatility::Immutable)] {
            let argument = Argument::Value;
            facts.function(oid, Function { schema: "public", name, volatility, extension: "", argument });
        }
        facts.domain(30, "public", "checked");
        facts.uses(Object::Type(30), NEXT);
        let cases = [
            ("select (x).status from t", Write),
            ("select (1).status", Write),
            ("select a[1].status from t", Write),
            ("select ($1).status", Write),
            ("select g.status from generate_series(1, 3) g", Write),
            ("select g.status from generate_series(1, 3) as g", Write),
            ("select g.status from generate_series(1, 3) g(x)", Write),
            ("select g.status from rows from (generate_series(1, 3)) g", Write),
            ("select generate_series.status from generate_series(1, 3)", Write),
            ("select d.status from current_date d", Write),
            ("select d.status from current_date as d", Write),
            ("select \"current_date\".status from current_date", Write),
            ("select (x).double from t", Read),
            ("select (t).a.status from t", Write),
            ("select (t).a.b.status from t", Write),
            ("select a[1].b.status from t", Write),
            ("select $1.a.status", Write),
            ("select (t).a.double from t", Read),
            ("select s.t.status from s.t", Read),
            ("select t.status from t", Read),
            ("select s.status from (select * from t) s", Read),
            ("select s.status from u join (select * from t) as s on true", Read),
            ("select ('5').checked", Write),
            ("select g.checked from unnest(array['5']) g", Write),
            ("select t.checked from t", Read),
        ];
        check(facts, &cases);
    }

    #[test]
    fn views_that_lock_rows() {
        let mut facts = facts(Rules::default());
        facts.relation(10, "public", "locking", false);
        facts.relation(11, "public", "over", false);
        facts.locks(Object::Relation(10));
        facts.uses(Object::Relation(11), Object::Relation(10));
        check(facts, &[("table locking", Write), ("select * from over o", Write), ("select 1 from t", Read)]);
    }

    /// A hundred thousand objects, a chain of views as long as there are: quickly, and the conclusions are compact.
    #[test]
    fn many() {
        let mut facts = facts(Rules::default());
        for oid in 100..50_100 {
            function(&mut facts, oid, &format!("function_{oid}"), Volatility::Immutable);
            facts.relation(oid, "public", &format!("view_{oid}"), false);
            facts.uses(Object::Relation(oid + 1), Object::Relation(oid));
        }
        facts.uses(Object::Relation(100), NEXT);
        let catalog = facts.conclude();
        assert_eq!((catalog.size().functions, catalog.size().relations), (50_003, 50_000));
        assert_eq!(catalog.primary_names(), 50_000);
        assert!(catalog.is_primary(None, "view_50099"));
    }
}

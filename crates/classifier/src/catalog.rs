//! [`Catalog`]: which functions are harmless, which relations belong to the primary.
//!
//! Without a database it knows PostgreSQL's own names. What a database adds is declared by whoever has read its `pg_proc` and
//! `pg_class`; this crate reads nothing. A changed catalogue needs a new `Classifier`, since classes are cached.

use crate::builtin;
use std::collections::{HashMap, HashSet};

/// What a database has beside PostgreSQL's own functions and relations.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    functions: HashMap<String, HashMap<String, Volatility>>,
    primary_relations: HashSet<String>,
    trust_stable: bool,
}

/// `provolatile`, as declared by whoever wrote the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Volatility {
    /// Taken at its word: it may run on a replica. Declare so too what a rule by name says is harmless.
    Immutable,
    /// May yet call a volatile function: for the primary, unless `trust_stable` is set.
    Stable,
    /// For the primary.
    Volatile,
}

/// What calling a function means for the statement that calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Calling {
    Harmless,
    /// Its answer is decided by its constant argument: `current_setting`.
    ReadsSetting,
    Unknown,
    NodeDependent,
    /// Known to write, or to touch the session.
    Volatile,
}

impl Catalog {
    /// PostgreSQL's own functions alone; any other is unknown, and goes to the primary.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether user functions marked STABLE may run on replicas.
    pub fn trust_stable(&mut self, trust: bool) -> &mut Self {
        self.trust_stable = trust;
        self
    }

    /// Declares a user function, by the names as stored. Of several overloads the strictest counts, and one that bears the name of a
    /// built-in function makes every unqualified call of it as strict, since PostgreSQL may pick either.
    pub fn function(&mut self, schema: &str, name: &str, volatility: Volatility) -> &mut Self {
        let known = self.functions.entry(name.to_owned()).or_default().entry(schema.to_owned()).or_insert(volatility);
        *known = volatility.max(*known);
        self
    }

    /// Declares a relation that only the primary may read: unlogged, foreign, a sequence, a view over a volatile function. It is known by
    /// its bare name: a statement that uses this identifier for anything goes to the primary.
    pub fn primary_relation(&mut self, name: &str) -> &mut Self {
        self.primary_relations.insert(name.to_owned());
        self
    }

    /// What a call of `[schema.]name(...)` means, the names as stored.
    pub(crate) fn calling(&self, schema: Option<&str>, name: &str) -> Calling {
        let declared = self.functions.get(name);
        let user = |volatility: Volatility| match volatility {
            Volatility::Immutable => Calling::Harmless,
            Volatility::Stable if self.trust_stable => Calling::Harmless,
            Volatility::Stable => Calling::Unknown,
            Volatility::Volatile => Calling::Volatile,
        };
        match schema {
            Some("pg_catalog") => builtin(name).unwrap_or(Calling::Unknown),
            Some(schema) => declared.and_then(|overloads| overloads.get(schema)).map_or(Calling::Unknown, |v| user(*v)),
            None => declared
                .into_iter()
                .flat_map(HashMap::values)
                .map(|volatility| user(*volatility))
                .chain(builtin(name))
                .max()
                .unwrap_or(Calling::Unknown),
        }
    }

    /// Whether an identifier names a relation that is for the primary.
    pub(crate) fn is_primary_relation(&self, name: &str) -> bool {
        self.primary_relations.contains(name)
    }
}

/// Whether the identifier is a system view whose rows depend on the node or on the session.
///
/// `pg_sequences` and `last_value` (a column of each sequence) read what a standby knows too early: nextval logs 32 values ahead.
pub(crate) fn is_node_relation(name: &str) -> bool {
    const VIEWS: &[&str] = &[
        "pg_backend_memory_contexts",
        "pg_buffercache",
        "pg_config",
        "pg_cursors",
        "pg_file_settings",
        "pg_hba_file_rules",
        "pg_ident_file_mappings",
        "pg_locks",
        "pg_prepared_statements",
        "pg_prepared_xacts",
        "pg_replication_origin_status",
        "pg_replication_slots",
        "pg_sequences",
        "pg_settings",
        "pg_shmem_allocations",
        "last_value",
    ];
    name.starts_with("pg_stat_") || name.starts_with("pg_statio_") || VIEWS.contains(&name)
}

/// Whether SHOW and `current_setting` of it give the same answer on any server. A dotted name belongs to a user or an extension, and
/// follows the session.
pub(crate) fn is_session_setting(name: &str) -> bool {
    builtin::SESSION_SETTINGS.binary_search(&name).is_ok() || name.contains('.')
}

fn builtin(name: &str) -> Option<Calling> {
    let is_in = |table: &[&str]| table.binary_search(&name).is_ok();
    if is_in(builtin::HARMLESS) || is_in(builtin::VOLATILE_BUT_HARMLESS) {
        Some(Calling::Harmless)
    } else if name == "current_setting" {
        Some(Calling::ReadsSetting)
    } else if is_in(builtin::NODE_DEPENDENT) || name.starts_with("pg_stat_") {
        Some(Calling::NodeDependent)
    } else if is_in(builtin::VOLATILE) {
        Some(Calling::Volatile)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(catalog: &Catalog, schema: Option<&str>, name: &str, expected: Calling) {
        assert_eq!(catalog.calling(schema, name), expected, "{schema:?} {name}");
    }

    #[test]
    fn built_in() {
        let catalog = Catalog::new();
        check(&catalog, None, "lower", Calling::Harmless);
        check(&catalog, None, "random", Calling::Harmless);
        check(&catalog, Some("pg_catalog"), "count", Calling::Harmless);
        check(&catalog, Some("public"), "lower", Calling::Unknown);
        check(&catalog, Some("pg_catalog"), "mine", Calling::Unknown);
        check(&catalog, None, "Lower", Calling::Unknown);
        check(&catalog, None, "nextval", Calling::Volatile);
        check(&catalog, None, "pg_stat_get_wal", Calling::NodeDependent);
        check(&catalog, None, "pg_is_in_recovery", Calling::NodeDependent);
        check(&catalog, None, "current_setting", Calling::ReadsSetting);
    }

    #[test]
    fn declared() {
        let mut catalog = Catalog::new();
        catalog.function("public", "pure", Volatility::Immutable);
        catalog.function("public", "reads", Volatility::Stable);
        catalog.function("public", "lower", Volatility::Volatile);
        catalog.function("public", "twice", Volatility::Volatile).function("public", "twice", Volatility::Immutable);
        check(&catalog, None, "pure", Calling::Harmless);
        check(&catalog, Some("public"), "pure", Calling::Harmless);
        check(&catalog, Some("other"), "pure", Calling::Unknown);
        check(&catalog, None, "reads", Calling::Unknown);
        check(&catalog, None, "lower", Calling::Volatile);
        check(&catalog, Some("pg_catalog"), "lower", Calling::Harmless);
        check(&catalog, None, "twice", Calling::Volatile);
        catalog.trust_stable(true);
        check(&catalog, None, "reads", Calling::Harmless);
    }

    #[test]
    fn settings() {
        for (name, expected) in [
            ("search_path", true),
            ("app.user", true),
            ("transaction_read_only", false),
            ("in_hot_standby", false),
            ("port", false),
        ] {
            assert_eq!(is_session_setting(name), expected, "{name}");
        }
    }
}

//! [`Catalog`]: which functions are harmless, which relations, types and operators belong to the primary.
//!
//! Without a database it knows PostgreSQL's own names. What a database adds is found by [`Facts`](crate::Facts) from what somebody else has
//! read of its system catalogues; this crate reads nothing. A changed catalogue needs a new `Classifier`, since classes are cached.

use crate::builtin;
use crate::operators::OPERATORS;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a database has beside PostgreSQL's own functions and relations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    pub(crate) rules: Rules,
    /// By name: in which schemas, and what of each.
    pub(crate) functions: HashMap<Box<str>, Vec<(Arc<str>, Volatility)>>,
    /// Relations and types by name: in which schemas; in any, if none is named.
    pub(crate) primary: HashMap<Box<str>, Vec<Arc<str>>>,
    /// Functions that are no replica's and can be called with a row alone: `t.f` calls them.
    pub(crate) methods: HashSet<Box<str>>,
    /// Functions that are no replica's and can be called with one value that is no row: `(x).f` calls them.
    pub(crate) attributes: HashSet<Box<str>>,
    /// Operators that call functions that are no replica's.
    pub(crate) operators: HashSet<Box<str>>,
    /// Something that no statement shows calls such a function: nothing is known to be a read.
    pub(crate) opaque: bool,
    /// There is pg_trgm's `set_limit`.
    pub(crate) has_set_limit: bool,
    /// Relations and types that run a user's code when they are read or written, by name; `None` if nobody has read which do.
    pub(crate) unseen: Option<HashSet<Box<str>>>,
    pub(crate) size: Size,
}

/// What a [`Catalog`] was made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Functions of users and extensions, with their overloads.
    pub functions: usize,
    /// Tables, views, sequences and composite types.
    pub relations: usize,
}

/// What an administrator says of functions by name, whatever the database says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    trust_stable: bool,
    /// By name: in which schema, or in any; whether it is harmless.
    named: HashMap<Box<str>, Vec<Rule>>,
}

/// The schema that it is about, if it is about one, and whether the function is harmless.
type Rule = (Option<Box<str>>, bool);

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
    /// A user's: what it does cannot be seen.
    UserVolatile,
}

impl Rules {
    /// Whether functions marked STABLE are harmless; functions that are, and that are not, by `name` or `schema.name` as stored.
    /// What is in both lists is not.
    pub fn new(trust_stable: bool, harmless: &[String], harmful: &[String]) -> Rules {
        let mut named: HashMap<Box<str>, Vec<Rule>> = HashMap::new();
        for (list, is_harmless) in [(harmful, false), (harmless, true)] {
            for rule in list {
                let (schema, name) = match rule.split_once('.') {
                    Some((schema, name)) => (Some(schema.into()), name),
                    None => (None, rule.as_str()),
                };
                named.entry(name.into()).or_default().push((schema, is_harmless));
            }
        }
        Rules { trust_stable, named }
    }

    /// What they say of a function; a rule without a schema is about every schema.
    fn of(&self, schema: Option<&str>, name: &str) -> Option<Calling> {
        let rules = self.named.get(name)?;
        let (_, harmless) = rules.iter().find(|(of, _)| of.is_none() || of.as_deref() == schema)?;
        Some(if *harmless { Calling::Harmless } else { Calling::UserVolatile })
    }

    /// What calling a function means that is declared so.
    pub(crate) fn calling(&self, schema: &str, name: &str, volatility: Volatility) -> Calling {
        self.of(Some(schema), name).unwrap_or(match volatility {
            Volatility::Immutable => Calling::Harmless,
            Volatility::Stable if self.trust_stable => Calling::Harmless,
            Volatility::Stable => Calling::Unknown,
            Volatility::Volatile => Calling::UserVolatile,
        })
    }
}

impl Catalog {
    /// PostgreSQL's own functions alone; any other is unknown, and goes to the primary.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, and what an administrator says.
    pub fn with_rules(rules: Rules) -> Self {
        Catalog { rules, ..Self::default() }
    }

    /// What is left of it when it may be out of date, and the database cannot be asked: no user's function is believed to be harmless
    /// any more. What has become worse since in another way, a standby refuses.
    #[must_use]
    pub fn outdated(&self) -> Catalog {
        let mut catalog = self.clone();
        catalog.functions.values_mut().flatten().for_each(|(_, volatility)| *volatility = Volatility::Volatile);
        catalog.unseen = None;
        catalog
    }

    /// Whether something is harmless here that the other knows for what is not: a replica that has not come to know better may still have
    /// it as the other says.
    pub fn relaxes(&self, other: &Catalog) -> bool {
        let harmless = |catalog: &Catalog, schema: &str, name: &str, volatility: Volatility| {
            catalog.rules.calling(schema, name, volatility) == Calling::Harmless
        };
        let function = |name: &str, schema: &str, volatility: Volatility| {
            let now = self.functions.get(name).into_iter().flatten().find(|(of, _)| **of == *schema);
            !harmless(other, schema, name, volatility)
                && now.is_none_or(|(_, volatility)| harmless(self, schema, name, *volatility))
        };
        other.opaque && !self.opaque
            || other.functions.iter().any(|(name, known)| known.iter().any(|(schema, is)| function(name, schema, *is)))
            || other.primary.keys().any(|name| self.primary.get(name) != other.primary.get(name))
            || !other.methods.is_subset(&self.methods)
            || !other.attributes.is_subset(&self.attributes)
            || !other.operators.is_subset(&self.operators)
    }

    /// Puts other rules in the place of those that it has. What uses a function that they are about is as it was.
    pub fn rule(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// What it was made of.
    pub fn size(&self) -> Size {
        self.size
    }

    /// How many names of relations and types it keeps on the primary.
    pub fn primary_names(&self) -> usize {
        self.primary.len()
    }

    /// Whether something that no statement shows, an implicit cast say, keeps everything on the primary.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// Whether user functions marked STABLE may run on replicas.
    pub fn trust_stable(&mut self, trust: bool) -> &mut Self {
        self.rules.trust_stable = trust;
        self
    }

    /// Declares a user function, by the names as stored. Of several overloads the strictest counts, and one that bears the name of a
    /// built-in function makes every unqualified call of it as strict, since PostgreSQL may pick either.
    pub fn function(&mut self, schema: &str, name: &str, volatility: Volatility) -> &mut Self {
        self.declare(&schema.into(), name, volatility);
        self
    }

    pub(crate) fn declare(&mut self, schema: &Arc<str>, name: &str, volatility: Volatility) {
        let Some(overloads) = self.functions.get_mut(name) else {
            self.functions.insert(name.into(), vec![(schema.clone(), volatility)]);
            return;
        };
        match overloads.binary_search_by(|(known, _)| known.cmp(schema)) {
            Ok(at) => overloads[at].1 = overloads[at].1.max(volatility),
            Err(at) => overloads.insert(at, (schema.clone(), volatility)),
        }
    }

    /// Declares a relation that only the primary may read: unlogged, foreign, a sequence, a view over a volatile function. It is known by
    /// its bare name: a statement that uses this identifier for anything goes to the primary.
    pub fn primary_relation(&mut self, name: &str) -> &mut Self {
        self.primary.insert(name.into(), Vec::new());
        self
    }

    /// What a call of `[schema.]name(...)` means, the names as stored.
    pub(crate) fn calling(&self, schema: Option<&str>, name: &str) -> Calling {
        if let Some(calling) = self.rules.of(schema, name) {
            return calling;
        }
        let declared = self.functions.get(name).into_iter().flatten();
        let declared = declared.filter(|(of, _)| schema.is_none_or(|schema| schema == &**of));
        let declared = declared.map(|(of, volatility)| self.rules.calling(of, name, *volatility));
        let built_in = match schema {
            None | Some("pg_catalog") => builtin(name),
            Some("information_schema") if builtin::INFORMATION_SCHEMA.contains(&name) => Some(Calling::Harmless),
            Some(_) => None,
        };
        // Of rules for one schema each; the name may be called with none.
        let ruled = self.rules.named.get(name).filter(|_| schema.is_none()).into_iter().flatten();
        let ruled = ruled.map(|(_, harmless)| if *harmless { Calling::Harmless } else { Calling::UserVolatile });
        // A type's name with a parenthesis is a cast.
        let cast = self.is_primary(schema, name).then_some(Calling::UserVolatile);
        declared.chain(built_in).chain(ruled).chain(cast).max().unwrap_or(Calling::Unknown)
    }

    /// Whether `[schema.]name` may name a relation or a type that is for the primary.
    pub(crate) fn is_primary(&self, schema: Option<&str>, name: &str) -> bool {
        let is = |name: &str| {
            self.primary.get(name).is_some_and(|schemas| {
                schema.is_none_or(|schema| schemas.is_empty() || schemas.iter().any(|known| **known == *schema))
            })
        };
        // The type of its arrays bears its name behind an underscore.
        !self.primary.is_empty() && (is(name) || name.strip_prefix('_').is_some_and(is))
    }

    /// Whether it is known which relations run a user's code.
    pub(crate) fn knows_unseen(&self) -> bool {
        self.unseen.is_some()
    }

    /// Whether a relation or a type of this name does.
    pub(crate) fn is_unseen(&self, name: &str) -> bool {
        let is = |known: &HashSet<Box<str>>| {
            !known.is_empty()
                && (known.contains(name) || name.strip_prefix('_').is_some_and(|element| known.contains(element)))
        };
        self.unseen.as_ref().is_some_and(is)
    }

    /// What `something.name` calls for the primary, if it calls anything: PostgreSQL lets the dot call any function that takes one
    /// argument. Columns that are named like its own such functions are taken for them.
    pub(crate) fn attribute(&self, name: &str) -> Option<Calling> {
        match self.rules.of(None, name) {
            Some(Calling::Harmless) => None,
            Some(calling) if !self.functions.contains_key(name) => Some(calling),
            _ if self.methods.contains(name) => Some(Calling::UserVolatile),
            _ => builtin_attribute(name),
        }
    }

    /// The same of what is no row, which may also be turned into a type that is for the primary.
    pub(crate) fn attribute_of_value(&self, name: &str) -> Option<Calling> {
        let is_primary = self.attributes.contains(name) || self.is_primary(None, name);
        self.attribute(name).or(is_primary.then_some(Calling::UserVolatile))
    }

    /// Whether some function for the primary is called behind a dot, if the value there is no row.
    pub(crate) fn has_attributes(&self) -> bool {
        !self.attributes.is_empty() || !self.primary.is_empty()
    }

    /// Whether an operator calls a function that is for the primary.
    pub(crate) fn is_primary_operator(&self, operator: &str) -> bool {
        !self.operators.is_empty() && self.operators.contains(if operator == "!=" { "<>" } else { operator })
    }
}

/// Whether the identifier is a system view whose rows depend on the node or on the session.
///
/// `pg_sequences` and the columns of each sequence read what a standby knows too early: nextval logs 32 values ahead.
pub(crate) fn is_node_relation(name: &str) -> bool {
    const VIEWS: &[&str] = &[
        "pg_aios",
        "pg_available_extension_versions",
        "pg_available_extensions",
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
        "pg_shmem_allocations_numa",
        "last_value",
        "log_cnt",
        "is_called",
    ];
    name.starts_with("pg_stat_") || name.starts_with("pg_statio_") || VIEWS.contains(&name)
}

/// Whether SHOW and `current_setting` of it give the same answer on any server. A dotted name belongs to a user or an extension, and
/// follows the session.
pub(crate) fn is_session_setting(name: &str) -> bool {
    builtin::SESSION_SETTINGS.binary_search(&name).is_ok() || name.contains('.')
}

/// What one of PostgreSQL's own functions means that is no replica's, or an extension's that leaves something in the session.
fn builtin_attribute(name: &str) -> Option<Calling> {
    if builtin::VOLATILE.binary_search(&name).is_ok() || builtin::KEEPING_EXTENSIONS.contains(&name) {
        Some(Calling::Volatile)
    } else if builtin::NODE_DEPENDENT.binary_search(&name).is_ok()
        || name.starts_with("pg_stat_")
        || name == "current_setting"
    {
        Some(Calling::NodeDependent)
    } else {
        None
    }
}

/// What calling one of PostgreSQL's own functions means.
pub(crate) fn builtin(name: &str) -> Option<Calling> {
    let is_in = |table: &[&str]| table.binary_search(&name).is_ok();
    if is_in(builtin::HARMLESS) || is_in(builtin::VOLATILE_BUT_HARMLESS) || is_in(OPERATORS) {
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
        check(&catalog, None, "lower", Calling::UserVolatile);
        check(&catalog, Some("pg_catalog"), "lower", Calling::Harmless);
        check(&catalog, None, "twice", Calling::UserVolatile);
        catalog.trust_stable(true);
        check(&catalog, None, "reads", Calling::Harmless);
        let outdated = catalog.outdated();
        check(&outdated, None, "pure", Calling::UserVolatile);
        check(&outdated, None, "upper", Calling::Harmless);
    }

    #[test]
    fn relaxed() {
        let mut before = Catalog::new();
        before.function("public", "f", Volatility::Volatile).function("public", "g", Volatility::Immutable);
        before.primary_relation("t");
        let mut after = before.clone();
        after.function("public", "h", Volatility::Immutable).function("public", "g", Volatility::Volatile);
        after.primary_relation("u");
        assert!(!after.relaxes(&before), "what is new, and what is worse");
        assert!(before.relaxes(&after) && Catalog::new().relaxes(&before) && !before.relaxes(&Catalog::new()));
        let mut better = Catalog::new();
        better.function("public", "f", Volatility::Immutable).primary_relation("t");
        assert!(better.relaxes(&before));
        better.function("public", "f", Volatility::Stable);
        assert!(!better.relaxes(&before));
        assert!(better.clone().trust_stable(true).relaxes(&before));
    }

    #[test]
    fn ruled() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let rules = Rules::new(false, &names(&["public.reads", "any", "both"]), &names(&["both", "a.pure", "random"]));
        for declared in [false, true] {
            let mut catalog = Catalog::with_rules(rules.clone());
            if declared {
                catalog.function("public", "reads", Volatility::Volatile).function("b", "any", Volatility::Stable);
                catalog.function("a", "pure", Volatility::Immutable).function("b", "pure", Volatility::Immutable);
            }
            check(&catalog, None, "reads", Calling::Harmless);
            check(&catalog, Some("public"), "reads", Calling::Harmless);
            check(&catalog, Some("other"), "reads", Calling::Unknown);
            check(&catalog, Some("b"), "any", Calling::Harmless);
            check(&catalog, None, "any", Calling::Harmless);
            check(&catalog, None, "both", Calling::UserVolatile);
            check(&catalog, None, "pure", Calling::UserVolatile);
            check(&catalog, Some("a"), "pure", Calling::UserVolatile);
            check(&catalog, Some("b"), "pure", if declared { Calling::Harmless } else { Calling::Unknown });
            check(&catalog, None, "random", Calling::UserVolatile);
            check(&catalog, Some("pg_catalog"), "random", Calling::UserVolatile);
        }
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

//! [`Classifier`]: the rules behind three bounded caches. It owns no rule.
//!
//! The first cache goes by the exact text. The second goes by the text with its literals blanked, and holds only classes that no literal
//! can change: those without effects, and without functions whose arguments decide. The third holds the same classes, and goes by what a
//! plain text looks like at a glance, which takes a fifth of the time.

use crate::blank::shape;
use crate::catalog::Catalog;
use crate::class::{Access, Class, Effect, Lesson, PinReason, Why};
use crate::glance::{GLANCE_BYTES_MAX, glance};
use crate::lexer::{Backslash, Lexed};
use crate::statement;
use crate::tokens::Tokens;
use crate::verdict::Verdict;
use quick_cache::sync::Cache;
use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::Arc;

/// Classifies query strings; shared between threads, each lookup a short lock of one shard.
pub struct Classifier {
    catalog: Catalog,
    version: u64,
    exact: Cache<Box<str>, Arc<Class>, ByBytes>,
    shapes: Cache<Box<str>, Arc<Class>, ByBytes>,
    glances: Cache<Box<[u8]>, Arc<Class>, ByBytes>,
}

/// What a [`Classifier`] is built from.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many classes of ordinary length each of the three caches may hold.
    pub cache_entries: usize,
    /// The functions and relations of the database.
    pub catalog: Catalog,
    /// By which whoever keeps a class tells that it was this classifier's.
    pub version: u64,
}

/// A longer text is not lexed. It goes to the primary and pins, since it may hold anything.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Default for Options {
    fn default() -> Self {
        Options { cache_entries: 10_000, catalog: Catalog::new(), version: 0 }
    }
}

impl Classifier {
    /// A classifier with empty caches.
    pub fn new(options: Options) -> Self {
        let (entries, bytes) = (options.cache_entries, (options.cache_entries * ENTRY_BYTES) as u64);
        Classifier {
            exact: Cache::with_weighter(entries, bytes, ByBytes),
            shapes: Cache::with_weighter(entries, bytes, ByBytes),
            glances: Cache::with_weighter(entries, bytes, ByBytes),
            catalog: options.catalog,
            version: options.version,
        }
    }

    /// The number that tells its classes from those of the classifiers before it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The functions and relations of the database.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The class of a query string, from the caches where they know it.
    pub fn classify(&self, sql: &str) -> Arc<Class> {
        let cached = sql.len() <= KEY_BYTES_MAX;
        if cached && let Some(class) = self.exact.get(sql) {
            return class;
        }
        if sql.len() > TEXT_BYTES_MAX {
            return Arc::new(too_long());
        }
        let mut room = [0; GLANCE_BYTES_MAX];
        let glance = glance(sql, &mut room);
        if let Some(glance) = glance
            && let Some(class) = self.glances.get(glance)
        {
            return class;
        }
        let lexed = Lexed::new(sql);
        let statements = lexed.statements();
        let shape = shape_key(&lexed, &statements);
        if let Some(shape) = &shape
            && let Some(class) = self.shapes.get(shape.as_str())
        {
            if let Some(glance) = glance {
                self.glances.insert(glance.into(), Arc::clone(&class));
            }
            return class;
        }
        let (class, depends_on_literals) = self.examine(&lexed, &statements);
        let class = Arc::new(class);
        if let Some(shape) = shape
            && class.effects.is_empty()
            && !depends_on_literals
        {
            self.shapes.insert(shape.into_boxed_str(), Arc::clone(&class));
        }
        if cached {
            self.exact.insert(sql.into(), Arc::clone(&class));
        }
        class
    }

    /// The class of a query string, examined afresh.
    pub fn classify_uncached(&self, sql: &str) -> Class {
        if sql.len() > TEXT_BYTES_MAX {
            return too_long();
        }
        let lexed = Lexed::new(sql);
        self.examine(&lexed, &lexed.statements()).0
    }

    /// The class, and whether other literals could change it.
    fn examine(&self, lexed: &Lexed<'_>, statements: &[Tokens<'_>]) -> (Class, bool) {
        let verdicts = self.verdicts(statements);
        let depends_on_literals = verdicts.iter().any(|verdict| verdict.depends_on_literals);
        (self.settle(lexed, class_of(lexed, statements, verdicts)), depends_on_literals)
    }

    /// The class of a text that may be read in two ways: what both readings allow.
    ///
    /// Nobody here knows `standard_conforming_strings`. Where a backslash stands in front of a quote, the text is judged under both of its
    /// values. A reading that leaves a string open is harmless: the server refuses the whole text. Most texts have one such
    /// reading: `LIKE $1 ESCAPE '\'`.
    pub(crate) fn settle(&self, lexed: &Lexed<'_>, class: Class) -> Class {
        let in_doubt = |class: Class| match class.access {
            Access::Read => Class { access: Access::Write, why: Why::ParseFailure, unseen: true, ..class },
            Access::Write => Class { unseen: true, ..class },
        };
        let class = if lexed.doubtful { in_doubt(class) } else { class };
        if !lexed.ambiguous {
            return class;
        }
        let other = Lexed::reading(lexed.sql, Backslash::Escapes);
        if other.is_open() {
            return class;
        }
        let statements = other.statements();
        let other_class = class_of(&other, &statements, self.verdicts(&statements));
        // Of what is written twofold nobody knows a rule.
        let targets = if class.targets == other_class.targets { class.targets.clone() } else { Box::default() };
        let (defines, unseen) = (class.defines || other_class.defines, class.unseen || other_class.unseen);
        let class = Class { defines, unseen, targets, ..class };
        if lexed.is_open() {
            return if other.doubtful { in_doubt(other_class) } else { other_class };
        }
        if class.effects != other_class.effects {
            return Class { effects: Box::new([Effect::Pin(PinReason::Other)]), ..in_doubt(class) };
        }
        if other.doubtful || other_class.access == Access::Write { in_doubt(class) } else { class }
    }

    /// The judgement on each statement.
    pub(crate) fn verdicts(&self, statements: &[Tokens<'_>]) -> Vec<Verdict> {
        let judge =
            if statements.len() <= STATEMENTS_PARSED_MAX { statement::judge } else { statement::judge_unparsed };
        statements.iter().map(|statement| judge(*statement, &self.catalog)).collect()
    }
}

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classifier").field("exact", &self.exact.len()).field("shapes", &self.shapes.len()).finish()
    }
}

/// The class of a string from the verdicts on its statements.
pub(crate) fn class_of(lexed: &Lexed<'_>, statements: &[Tokens<'_>], verdicts: Vec<Verdict>) -> Class {
    let (access, why) = strictest(&verdicts);
    let mut targets = Vec::new();
    if access == Access::Write && statements.len() <= STATEMENTS_PARSED_MAX {
        statements.iter().for_each(|statement| crate::targets::targets(*statement, &mut targets));
        // Whoever writes so much has no rule.
        targets.truncate(if targets.len() > TARGETS_MAX { 0 } else { TARGETS_MAX });
    }
    let (statements, defines) = (verdicts.len(), verdicts.iter().any(|verdict| verdict.defines));
    let unseen = verdicts.iter().any(|verdict| verdict.unseen);
    let effects = verdicts.into_iter().filter_map(|verdict| verdict.effect).collect();
    let (hint, lesson) = (lexed.hint, Lesson::default());
    Class { access, effects, why, statements, defines, unseen, hint, lesson, targets: targets.into() }
}

/// The room that one entry of ordinary length is granted; longer ones count for more.
const ENTRY_BYTES: usize = 512;
/// A longer text is classified afresh each time rather than kept.
const KEY_BYTES_MAX: usize = 16 * 1024;

/// More things that one string writes are not told apart.
const TARGETS_MAX: usize = 64;

/// A string of more statements goes to the primary without a parse of each.
const STATEMENTS_PARSED_MAX: usize = 1_000;

#[derive(Debug, Clone)]
struct ByBytes;

impl<K: Deref<Target: AsRef<[u8]>>> quick_cache::Weighter<K, Arc<Class>> for ByBytes {
    fn weight(&self, key: &K, class: &Arc<Class>) -> u64 {
        let key = (**key).as_ref();
        // What an effect keeps of the text, it keeps twice at most.
        let effects =
            class.effects.len() * size_of::<Effect>() + if class.effects.is_empty() { 0 } else { 2 * key.len() };
        let targets = class.targets.len() * size_of::<crate::Target>();
        (key.len() + effects + targets + size_of::<Class>()).max(ENTRY_BYTES) as u64
    }
}

/// The key of the second cache: the statements' shapes and the hint. `None` if it is too long, or if the text is ambiguous, which its
/// shape does not show.
pub(crate) fn shape_key(lexed: &Lexed<'_>, statements: &[Tokens<'_>]) -> Option<String> {
    if lexed.ambiguous || lexed.doubtful {
        return None;
    }
    let mut key = String::with_capacity((lexed.sql.len() + 8).min(KEY_BYTES_MAX));
    match lexed.hint {
        None => key.push('-'),
        Some(hint) => write!(key, "{hint:?};").expect("a string takes everything"),
    }
    for statement in statements {
        shape(*statement, &mut key);
        key.push(';');
    }
    (key.len() <= KEY_BYTES_MAX).then_some(key)
}

fn strictest(verdicts: &[Verdict]) -> (Access, Why) {
    match verdicts {
        [] => (Access::Read, Why::Empty),
        [one] => (one.access, one.why),
        [first, ..] => match verdicts.iter().all(|verdict| verdict.access == Access::Read) {
            true => (Access::Read, first.why),
            false => (Access::Write, Why::MultiStrictest),
        },
    }
}

pub(crate) fn too_long() -> Class {
    Class {
        access: Access::Write,
        effects: Box::new([Effect::Pin(PinReason::Other)]),
        why: Why::TooComplex,
        statements: 1,
        // It may hold anything.
        defines: true,
        unseen: true,
        hint: None,
        lesson: Lesson::default(),
        targets: Box::default(),
    }
}

#[cfg(test)]
mod tests;

//! A class with its reasons, for people: `hakem classify` and the console show it.
//!
//! The same rules as [`Classifier::classify`], asked afresh and statement by statement. It owns no rule.

use crate::cache::{Classifier, TEXT_BYTES_MAX, class_of, shape_key, too_long};
use crate::class::{Access, Class, Effect, Why};
use crate::lexer::Lexed;
use crate::verdict::Because;

/// Why a string has its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The answer that the proxy goes by.
    pub class: Class,
    /// The statements, one by one; none where the text is too long to be looked into.
    pub statements: Vec<Explained>,
    /// The text under which strings that differ in literals alone share this class; `None` if each has its own.
    pub shape: Option<String>,
    /// Whether a backslash in front of a quote leaves two ways to read the text.
    pub ambiguous: bool,
}

/// One statement of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The statement as written.
    pub sql: String,
    /// Where it may run.
    pub access: Access,
    /// The reason.
    pub why: Why,
    /// The function, relation or word that decided, or the parser's complaint.
    pub because: Option<String>,
    /// What it does to the session.
    pub effect: Option<Effect>,
}

impl Classifier {
    /// The class of a query string, and what led to it.
    pub fn explain(&self, sql: &str) -> Explanation {
        if sql.len() > TEXT_BYTES_MAX {
            return Explanation { class: too_long(), statements: Vec::new(), shape: None, ambiguous: false };
        }
        let lexed = Lexed::new(sql);
        let statements = lexed.statements();
        let verdicts = self.verdicts(&statements);
        let shared = verdicts.iter().all(|verdict| verdict.effect.is_none() && !verdict.depends_on_literals);
        let explained = statements.iter().zip(&verdicts).map(|(statement, verdict)| Explained {
            sql: statement.written(0, statement.len()).to_owned(),
            access: verdict.access,
            why: verdict.why,
            because: verdict.because.as_ref().map(|because| match because {
                Because::Text(range) => sql[range.clone()].to_owned(),
                Because::Parser(complaint) => complaint.clone(),
            }),
            effect: verdict.effect.clone(),
        });
        Explanation {
            statements: explained.collect(),
            shape: shape_key(&lexed, &statements).filter(|_| shared),
            ambiguous: lexed.ambiguous || lexed.doubtful,
            class: self.settle(&lexed, class_of(&lexed, &statements, verdicts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    fn check(sql: &str, expected: &[(Access, Why, Option<&str>)]) {
        let classifier = Classifier::new(Options::default());
        let explanation = classifier.explain(sql);
        assert_eq!(explanation.class, *classifier.classify(sql), "{sql}");
        let found: Vec<_> =
            explanation.statements.iter().map(|one| (one.access, one.why, one.because.as_deref())).collect();
        assert_eq!(found, expected, "{sql}");
    }

    #[test]
    fn what_decided() {
        use Access::{Read, Write};
        check("select 1", &[(Read, Why::Select, None)]);
        check("select pg_catalog.nextval('s')", &[(Write, Why::VolatileFunction, Some("pg_catalog.nextval"))]);
        check("select lower(a), mine(b) from t", &[(Write, Why::UnknownFunction, Some("mine"))]);
        check("table pg_locks", &[(Write, Why::NodeDependent, Some("pg_locks"))]);
        check("select * into u from t", &[(Write, Why::SelectInto, Some("into"))]);
        check(
            "explain select 1; select pg_backend_pid()",
            &[(Read, Why::Explain, None), (Write, Why::NodeDependent, Some("pg_backend_pid"))],
        );
        check("", &[]);
    }

    #[test]
    fn shapes() {
        let shape = |sql: &str| Classifier::new(Options::default()).explain(sql).shape;
        assert_eq!(shape("select 1 /* x */").as_deref(), Some("-select 0;"));
        assert_eq!(shape("set a = 1"), None);
        assert_eq!(shape("select current_setting('timezone')"), None);
    }
}

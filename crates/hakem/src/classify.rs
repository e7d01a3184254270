//! `hakem classify`: what the proxy would take statements for, without a server.
//!
//! Owns the form of questions and answers: a JSON object per line, or one statement for people. What the answer is, the
//! `classifier` crate knows, the same way as for a client's statement.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use classifier::{Catalog, Classifier, Consistency, Explained, Explanation, Options, Rules};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use session::{Affinity, Need, Policy, Route, Session, Settings, Step};
use wire::frame::Frame;
use wire::frontend;

/// What to classify, and how much to say.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Say what decided: each statement, the word or function that decided it, the hint, who would be asked, the shape under which the class
    /// is kept.
    #[arg(long)]
    explain: bool,
    /// The database whose functions and relations the statements are about: postgresql://user:password@host:port/name. Without one,
    /// PostgreSQL's own functions alone are known.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Functions marked STABLE may run on replicas.
    #[arg(long)]
    trust_stable_functions: bool,
    /// A statement. Without one, standard input holds a JSON object per line: {"id": ..., "sql": "..."}.
    sql: Option<String>,
}

/// Answers what the arguments or standard input ask.
///
/// # Errors
/// When a line of the input was no question, or the answers cannot be written.
pub(crate) fn classify(arguments: &Arguments) -> Result<()> {
    let rules = Rules::new(arguments.trust_stable_functions, &[], &[]);
    let catalog = match &arguments.database {
        Some(url) => {
            let database = url.parse().context("--database is no URL of a database")?;
            crate::catalog::ask(database, rules).context("cannot read the database's catalog")?
        }
        None => Catalog::with_rules(rules),
    };
    let classifier = Classifier::new(Options { catalog, ..Options::default() });
    let answered = match &arguments.sql {
        Some(sql) => {
            let mut out = std::io::stdout().lock();
            if arguments.explain {
                tell(&mut out, &classifier.explain(sql), needs(&classifier, sql)).map(|()| 0)
            } else {
                answer(&mut out, None, &classifier, sql, false).map(|()| 0)
            }
        }
        None => lines(std::io::stdin().lock(), std::io::stdout().lock(), &classifier, arguments.explain),
    };
    match answered {
        Ok(0) => Ok(()),
        Ok(bad) => bail!("{bad} line(s) of the input were no question"),
        // Who no longer reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[derive(Deserialize)]
struct Question<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    sql: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    access: &'static str,
    effect: &'static str,
    why: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<Details<'a>>,
}

#[derive(Serialize)]
struct Details<'a> {
    needs: &'static str,
    hint: Option<String>,
    /// It may change what functions and relations there are, or are: reads wait for the primary until that is known.
    defines: bool,
    /// It may run code that sets anything: the connection is reset behind it.
    unseen: bool,
    shape: Option<&'a str>,
    ambiguous: bool,
    statements: Vec<Statement<'a>>,
}

#[derive(Serialize)]
struct Statement<'a> {
    sql: &'a str,
    access: &'static str,
    why: &'static str,
    because: Option<&'a str>,
    effect: Option<String>,
}

#[derive(Serialize)]
struct Complaint<'a> {
    id: Option<&'a RawValue>,
    error: String,
}

/// Answers line by line, in order, and says how many lines were no questions. Empty lines ask nothing.
fn lines(
    mut input: impl BufRead,
    mut out: impl Write,
    classifier: &Classifier,
    explain: bool,
) -> std::io::Result<usize> {
    let mut bad = 0;
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        if !line.trim_ascii().is_empty() {
            match serde_json::from_slice::<Question<'_>>(&line) {
                Ok(question) => {
                    answer(&mut out, Some(question.id.unwrap_or(RawValue::NULL)), classifier, &question.sql, explain)?;
                }
                Err(error) => {
                    bad += 1;
                    write_line(&mut out, &Complaint { id: id_of(&line), error: error.to_string() })?;
                }
            }
        }
        line.clear();
    }
    Ok(bad)
}

/// The id of a line whose other parts are wrong, if it can be made out.
fn id_of(line: &[u8]) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Identified<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    serde_json::from_slice::<Identified<'_>>(line).ok().map(|identified| identified.id)
}

fn answer(
    out: &mut impl Write,
    id: Option<&RawValue>,
    classifier: &Classifier,
    sql: &str,
    explain: bool,
) -> std::io::Result<()> {
    // The way that a client's statement takes, caches and all.
    let class = classifier.classify(sql);
    let explanation = explain.then(|| classifier.explain(sql));
    let explanation = explanation.as_ref().map(|explanation| Details {
        needs: needs(classifier, sql),
        hint: explanation.class.hint.map(|hint| hint.to_string()),
        defines: explanation.class.defines,
        unseen: explanation.class.unseen,
        shape: explanation.shape.as_deref(),
        ambiguous: explanation.ambiguous,
        statements: explanation.statements.iter().map(statement).collect(),
    });
    let (access, effect, why) = (class.access.as_str(), class.effect(), class.why.as_str());
    write_line(out, &Answer { id, access, effect, why, explanation })
}

fn statement(explained: &Explained) -> Statement<'_> {
    Statement {
        sql: &explained.sql,
        access: explained.access.as_str(),
        why: explained.why.as_str(),
        because: explained.because.as_deref(),
        effect: explained.effect.as_ref().map(|effect| format!("{effect:?}")),
    }
}

/// Who would be asked by a session that has just begun, of the default configuration: `primary`, `replica`, or `proxy` if it has the answer.
fn needs(classifier: &Classifier, sql: &str) -> &'static str {
    let policy = Policy {
        split: true,
        route: Route::Auto,
        consistency: Consistency::Session,
        max_lag: Some(Duration::from_secs(1)),
        affinity: Affinity::None,
        pin: false,
        commit_resolution: false,
        transaction_replay: false,
        durability: Arc::new([]),
        keeps_server: false,
        refuses_blocks: false,
        request_max: usize::MAX,
        transaction_max: 0,
        statements_max: usize::MAX,
    };
    let mut query = Vec::new();
    frontend::put_query(&mut query, sql);
    let mut session = Session::new(policy, Settings::default());
    match session.on_client(Frame { tag: frontend::tag::QUERY, whole: &query }, classifier) {
        Ok(Step::Request(intent)) => match intent.need {
            Need::Primary => "primary",
            Need::Replica { .. } => "replica",
        },
        Ok(_) => "proxy",
        Err(_) => "nobody",
    }
}

fn write_line(out: &mut impl Write, answer: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// The explanation for people.
fn tell(out: &mut impl Write, explanation: &Explanation, needs: &str) -> std::io::Result<()> {
    let class = &explanation.class;
    writeln!(out, "access:    {}", class.access.as_str())?;
    writeln!(out, "why:       {}", class.why)?;
    writeln!(out, "effect:    {}", class.effect())?;
    writeln!(out, "needs:     {needs}")?;
    if let Some(hint) = class.hint {
        writeln!(out, "hint:      {hint}")?;
    }
    if explanation.ambiguous {
        writeln!(out, "ambiguous: a backslash in front of a quote")?;
    }
    if let Some(shape) = &explanation.shape {
        writeln!(out, "kept as:   {shape}")?;
    }
    for (at, one) in explanation.statements.iter().enumerate() {
        write!(out, "{:>3}. {}, {}", at + 1, one.access.as_str(), one.why)?;
        if let Some(because) = &one.because {
            write!(out, " ({because})")?;
        }
        if let Some(effect) = &one.effect {
            write!(out, ", {effect:?}")?;
        }
        writeln!(out, ": {}", one.sql)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered, and how many lines were bad.
    fn check(input: &str, expected: &str, bad: usize) {
        let mut out = Vec::new();
        let classifier = Classifier::new(Options::default());
        assert_eq!(lines(input.as_bytes(), &mut out, &classifier, false).expect("memory can be written"), bad);
        assert_eq!(String::from_utf8(out).expect("JSON is text"), expected, "{input}");
    }

    #[test]
    fn answers_in_order_under_their_ids() {
        check(
            concat!(
                r#"{"id": 1, "sql": "select 1"}"#,
                "\r\n\n",
                r#"{"sql": "begin", "id": "b", "more": []}"#,
                "\n",
                r#"{"id": {"a": [12345678901234567890123]}, "sql": "select nextval('s')"}"#,
            ),
            concat!(
                r#"{"id":1,"access":"read","effect":"none","why":"select"}"#,
                "\n",
                r#"{"id":"b","access":"write","effect":"transaction","why":"transaction_control"}"#,
                "\n",
                r#"{"id":{"a": [12345678901234567890123]},"access":"write","effect":"none","why":"volatile_function"}"#,
                "\n",
            ),
            0,
        );
    }

    #[test]
    fn strongest_effect() {
        for (sql, effect) in [
            ("begin; set a.b = 1; commit", "set"),
            ("set a.b = 1; create temp table t (a int)", "pin"),
            ("prepare p as select 1", "prepare"),
            ("listen c", "listen"),
            ("discard all", "discard"),
            ("select pg_advisory_lock(1)", "pin"),
        ] {
            let class = Classifier::new(Options::default()).classify(sql);
            assert_eq!((class.access.as_str(), class.effect()), ("write", effect), "{sql}");
        }
    }

    #[test]
    fn bad_lines_are_told_and_counted() {
        check(
            "nonsense\n{\"id\": 7}\n{\"id\": 8, \"sql\": \"select 1\"}\n",
            concat!(
                r#"{"id":null,"error":"expected ident at line 1 column 2"}"#,
                "\n",
                r#"{"id":7,"error":"missing field `sql` at line 1 column 9"}"#,
                "\n",
                r#"{"id":8,"access":"read","effect":"none","why":"select"}"#,
                "\n",
            ),
            2,
        );
        assert_eq!(Classifier::new(Options::default()).classify("fetch 1 from c").effect(), "cursor");
        let mut out = Vec::new();
        let classifier = Classifier::new(Options::default());
        assert_eq!(lines(&b"{\"id\": 1, \"sql\": \"\xff\"}\n[]"[..], &mut out, &classifier, true).expect("memory"), 2);
    }

    #[test]
    fn who_would_be_asked() {
        let classifier = Classifier::new(Options::default());
        for (sql, expected) in [
            ("select 1", "replica"),
            ("/* hakem: primary */ select 1", "primary"),
            ("/* hakem: replica */ select mine(1)", "replica"),
            ("/* hakem: replica */ select nextval('s')", "primary"),
            ("select mine(1)", "primary"),
            ("begin", "proxy"),
            ("show hakem.route", "proxy"),
            ("begin read only; select 1", "primary"),
            ("select 'a\0'", "nobody"),
        ] {
            assert_eq!(needs(&classifier, sql), expected, "{sql}");
        }
    }

    #[test]
    fn explains_to_people() {
        let mut out = Vec::new();
        let classifier = Classifier::new(Options::default());
        let sql = "/* hakem: replica */ select mine(1); set a.b = 1";
        tell(&mut out, &classifier.explain(sql), needs(&classifier, sql)).expect("memory can be written");
        let text = String::from_utf8(out).expect("text");
        for part in
            ["access:    write", "needs:     primary", "hint:      replica", "unknown_function (mine)", "SET a.b TO 1"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

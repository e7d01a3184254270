//! What a startup packet asks for: who, where, and with which settings.
//!
//! Pure: bytes in, [`Asked`] out. A fuzz target reads this file as well, so that it uses the crate `wire` and nothing of this one.

use wire::backend::Failure;
use wire::startup::SessionStartup;

/// What a startup packet asks for.
pub(crate) struct Asked {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) replication: Option<Replication>,
    /// Settings for the servers.
    pub(crate) settings: Vec<(String, String)>,
    /// Settings for the proxy, without their `hakem.`.
    pub(crate) hakem: Vec<(String, String)>,
}

/// What a startup packet's `replication` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replication {
    /// The WAL, of no database in particular.
    Physical,
    /// The changes of one database, and SQL.
    Logical,
}

impl Asked {
    /// Reads it.
    ///
    /// # Errors
    /// What the client is told: something is no text, no user is named, or the options are none.
    pub(crate) fn read(startup: &SessionStartup<'_>) -> Result<Asked, Failure> {
        let (mut user, mut database, mut replication) = (None, None, None);
        let (mut pairs, mut explicit) = (Vec::new(), Vec::new());
        for (name, value) in &startup.parameters {
            let (name, value) = (text(name)?, text(value)?);
            match name {
                "user" => user = Some(value),
                "database" => database = Some(value),
                "replication" => replication = Replication::read(value)?,
                "options" => pairs.extend(parse_options(value)?),
                name if name.starts_with("_pq_.") => {}
                _ => explicit.push((name.to_owned(), value.to_owned())),
            }
        }
        // Options come first, and what is named by itself counts, wherever it stands in the packet (`process_startup_options`).
        pairs.append(&mut explicit);
        let user = user.filter(|user| !user.is_empty());
        let user =
            user.ok_or_else(|| Failure::fatal("28000", "no PostgreSQL user name specified in startup packet"))?;
        let database = database.filter(|database| !database.is_empty()).unwrap_or(user);
        let (mut settings, mut hakem) = (Vec::with_capacity(pairs.len()), Vec::new());
        for (name, value) in pairs {
            match name.strip_prefix(PROXY_PREFIX) {
                Some(own) => hakem.push((own.to_owned(), value)),
                None => settings.push((name, value)),
            }
        }
        Ok(Asked { user: user.to_owned(), database: database.to_owned(), replication, settings, hakem })
    }
}

fn text(bytes: &[u8]) -> Result<&str, Failure> {
    str::from_utf8(bytes).map_err(|_| Failure::fatal("22021", "a startup parameter is not UTF-8"))
}

impl Replication {
    /// Reads the parameter; `None` is an ordinary connection.
    ///
    /// # Errors
    /// PostgreSQL's own, when it is neither a boolean nor `database`.
    pub(crate) fn read(value: &str) -> Result<Option<Replication>, Failure> {
        if value == "database" {
            return Ok(Some(Replication::Logical));
        }
        match boolean(value) {
            Some(true) => Ok(Some(Replication::Physical)),
            Some(false) => Ok(None),
            None => {
                let text = format!("invalid value for parameter \"replication\": \"{value}\"");
                Err(Failure::fatal("22023", text).hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
            }
        }
    }

    /// As the console shows it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Replication::Physical => "physical",
            Replication::Logical => "logical",
        }
    }

    pub(crate) fn value(self) -> &'static str {
        match self {
            Replication::Physical => "true",
            Replication::Logical => "database",
        }
    }
}

/// The `options` parameter: `-c name=value`, `-cname=value` and `--name=value`, separated by blanks that a backslash takes the
/// meaning from, as in `process_postgres_switches` and `pg_split_opts`.
fn parse_options(text: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut words = vec![];
    let (mut word, mut letters) = (String::new(), text.chars());
    loop {
        match letters.next() {
            Some('\\') => word.extend(letters.next()),
            Some(blank) if blank.is_ascii_whitespace() => words.push(std::mem::take(&mut word)),
            Some(letter) => word.push(letter),
            None => break,
        }
    }
    words.push(word);
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut pairs = Vec::new();
    while let Some(word) = words.next() {
        let invalid = || Failure::fatal("42601", format!("invalid command-line argument for server process: {word}"));
        let pair = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") if word == "-c" => words.next().ok_or_else(invalid)?,
            Some(pair) => pair.to_owned(),
            None => return Err(invalid()),
        };
        let (name, value) = pair.split_once('=').ok_or_else(invalid)?;
        // "--" lets dashes stand for underscores (ParseLongOption).
        pairs.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(pairs)
}

/// As PostgreSQL reads a boolean: any beginning of a word that is no other's.
fn boolean(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Some(false)
    } else {
        None
    }
}

const PROXY_PREFIX: &str = "hakem.";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &str, expected: Option<&[(&str, &str)]>) {
        let found = parse_options(options).ok();
        let expected =
            expected.map(|pairs| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>());
        assert_eq!(found, expected, "{options:?}");
    }

    #[test]
    fn options() {
        check("", Some(&[]));
        check(
            "-c geqo=off -cjit=on --search-path=a,b",
            Some(&[("geqo", "off"), ("jit", "on"), ("search_path", "a,b")]),
        );
        check(r"-c application_name=two\ words\\", Some(&[("application_name", r"two words\")]));
        check("-c hakem.route=primary", Some(&[("hakem.route", "primary")]));
        check("-c DateStyle=ISO+MDY", Some(&[("DateStyle", "ISO+MDY")]));
        for wrong in ["-c", "-c geqo", "--", "geqo=off", "-x"] {
            check(wrong, None);
        }
    }

    #[test]
    fn what_replication_may_be() {
        let check = |value: &str, expected: Option<Option<Replication>>| {
            assert_eq!(Replication::read(value).ok(), expected, "{value:?}");
        };
        for on in ["true", "TRUE", "t", "on", "1", "yes", "y"] {
            check(on, Some(Some(Replication::Physical)));
        }
        for off in ["false", "f", "off", "of", "0", "no", "N"] {
            check(off, Some(None));
        }
        check("database", Some(Some(Replication::Logical)));
        for wrong in ["", "o", "2", "Database", "truely", "databases"] {
            check(wrong, None);
        }
    }
}

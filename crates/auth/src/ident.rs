//! `pg_ident.conf`: which names that a certificate or the operating system gives may log in as which user.
//!
//! Lines of `map system-user database-user`; regular expressions and includes are refused, as in PgBouncer.

use crate::fault::Fault;
use crate::line::{self, Word};

/// The lines of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMaps {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    map: String,
    system_user: String,
    /// `None` is any.
    user: Option<String>,
}

impl UserMaps {
    /// Reads the text of a file; `file` is quoted in faults.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of its lines.
    pub fn parse(text: &str, file: &str) -> Result<UserMaps, Vec<Fault>> {
        let (mut lines, mut faults) = (Vec::new(), Vec::new());
        for (number, text) in line::join(text) {
            match read(&text) {
                Ok(line) => lines.extend(line),
                Err(message) => faults.push(Fault { file: file.to_owned(), line: number, message }),
            }
        }
        if faults.is_empty() { Ok(UserMaps { lines }) } else { Err(faults) }
    }

    /// Whether there is such a map.
    pub fn has(&self, map: &str) -> bool {
        self.lines.iter().any(|line| line.map == map)
    }

    /// Whether somebody whom the system calls `system_user` may log in as `user`. Without a map, the names must be the same.
    pub fn allow(&self, map: Option<&str>, system_user: &str, user: &str) -> bool {
        let Some(map) = map else { return system_user == user };
        self.lines.iter().any(|line| {
            line.map == map
                && line.system_user == system_user
                && line.user.as_deref().is_none_or(|allowed| allowed == user)
        })
    }
}

fn read(text: &str) -> Result<Option<Line>, String> {
    let fields = line::fields(text, &mut |_| Err("a map of user names includes no files".into()))?;
    let words: Vec<Word> = fields.into_iter().flatten().collect();
    match <[Word; 3]>::try_from(words) {
        Err(words) if words.is_empty() => Ok(None),
        Err(_) => Err("broken line: it must be a map's name, a system user and a database user".into()),
        Ok([map, system_user, user]) => {
            if [&system_user, &user].iter().any(|word| !word.quoted && word.text.starts_with(['/', '+'])) {
                return Err("regular expressions and roles' members are not supported".into());
            }
            let user = (user.quoted || user.text != "all").then_some(user.text);
            Ok(Some(Line { map: map.text, system_user: system_user.text, user }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment
m  alice  app   # the rest
m  \"Bob, the builder\" \"all\"
n  carol  all
";

    #[test]
    fn maps() {
        let maps = UserMaps::parse(TEXT, "ident").unwrap();
        let check = |map: Option<&str>, system: &str, user: &str, expected| {
            assert_eq!(maps.allow(map, system, user), expected, "{map:?} {system} {user}");
        };
        check(None, "alice", "alice", true);
        check(None, "alice", "app", false);
        check(Some("m"), "alice", "app", true);
        // A map replaces the rule that the names be the same.
        check(Some("m"), "alice", "alice", false);
        check(Some("m"), "Bob, the builder", "all", true);
        check(Some("m"), "Bob, the builder", "app", false);
        check(Some("n"), "carol", "anybody", true);
        check(Some("n"), "alice", "app", false);
        check(Some("x"), "alice", "alice", false);
        assert!(maps.has("n") && !maps.has("x"));
    }

    #[test]
    fn faults() {
        let check = |text: &str, expected: &str| {
            let faults = UserMaps::parse(text, "f").unwrap_err();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].to_string().contains(expected), "{}", faults[0]);
        };
        check("m a", "f:1: broken line");
        check("\nm a b c", "f:2: broken line");
        check("m /^a b", "not supported");
        check("m a +b", "not supported");
        check("m @a b", "includes no files");
        check("m \"a b", "not closed");
    }
}

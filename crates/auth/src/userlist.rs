//! PgBouncer's `auth_file`: lines of `"user" "secret"`.
//!
//! Owns the grammar, which is PgBouncer's own. What a secret is good for is `secret.rs`'s.

use std::collections::HashMap;

use crate::fault::Fault;
use crate::secret::Secret;

/// Reads the text of an `auth_file`; `file` is only quoted in faults. A user that is listed twice has the later secret, as in
/// PgBouncer. An empty secret is one that nobody can log in with.
///
/// # Errors
/// Every line that is broken. PgBouncer takes the users up to the first of them; a user who is missing for a slip of the pen is
/// found out too late.
pub fn parse_userlist(text: &str, file: &str) -> Result<HashMap<String, Secret>, Vec<Fault>> {
    let (mut users, mut faults) = (HashMap::new(), Vec::new());
    for (at, line) in text.lines().enumerate() {
        let mut fault = |message: &str| {
            faults.push(Fault { file: file.to_owned(), line: at + 1, message: message.to_owned() });
        };
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        // "PgBouncer ignores the rest of the line."
        let fields = line.starts_with('"').then(|| {
            let (user, rest) = take_quoted(line)?;
            let (secret, _) = take_quoted(rest)?;
            Some((user, secret))
        });
        let Some((user, secret)) = fields.flatten() else {
            fault("broken line: it must be \"user\" \"secret\", each in double quotes");
            continue;
        };
        if user.is_empty() || user.len() > NAME_BYTES_MAX {
            fault("the user name must have 1 to 63 bytes");
        } else if secret.len() > SECRET_BYTES_MAX {
            fault("the secret is too long");
        } else if secret.contains('\0') || user.contains('\0') {
            fault("a zero byte is no part of a name or a secret");
        } else {
            match Secret::parse(&secret) {
                Ok(secret) => drop(users.insert(user, secret)),
                Err(error) => fault(&error.to_string()),
            }
        }
    }
    if faults.is_empty() { Ok(users) } else { Err(faults) }
}

/// The next text in double quotes, whatever stands in front of it, and what follows. Two quotes within stand for one.
fn take_quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = &text[text.find('"')? + 1..];
    let mut found = String::new();
    loop {
        let end = rest.find('"')?;
        found.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                found.push('"');
                rest = more;
            }
            None => return Some((found, rest)),
        }
    }
}

/// PostgreSQL's NAMEDATALEN, less the closing zero byte.
const NAME_BYTES_MAX: usize = 63;

/// The longest secret; PgBouncer's MAX_PASSWORD, less the closing zero byte.
const SECRET_BYTES_MAX: usize = 2047;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let users = parse_userlist(text, "userlist.txt").unwrap();
        let expected: HashMap<String, Secret> =
            expected.iter().map(|(user, secret)| ((*user).to_owned(), Secret::parse(secret).unwrap())).collect();
        assert_eq!(users, expected, "{text}");
    }

    #[test]
    fn users() {
        check("", &[]);
        check("; \"old\" \"x\"\n\n   \n", &[]);
        check("\"a\" \"b\"", &[("a", "b")]);
        check("  \"a\"\t\"b\" \"c\" rest ; of the line\r\n\"d\" \"e\"\n", &[("a", "b"), ("d", "e")]);
        // PgBouncer skips whatever stands between the two.
        check("\"a\" password: \"b\"", &[("a", "b")]);
    }

    #[test]
    fn escapes_and_forms() {
        let verifier = "SCRAM-SHA-256$4096:Q8/xR659yt93ETET2427fQ==$\
                        2JQgDdzjtZeyd98SSQ4re/qOpkh5g8ri538ArY/zGyk=:zU/gw0xDF9W3DagC53Mwhe0Gzz7OoEhhxlAn0dAN+8k=";
        check("\"say \"\"hi\"\"\" \"\"\"\"", &[("say \"hi\"", "\"")]);
        check("\"a\" \"\"", &[("a", "")]);
        check("\"a\" \"1\"\n\"a\" \"2\"", &[("a", "2")]);
        check("\"a\" \"md58bbf3f45673bf67d02e4214911f3417f\"", &[("a", "md58bbf3f45673bf67d02e4214911f3417f")]);
        check(&format!("\"a\" \"{verifier}\""), &[("a", verifier)]);
        check("\"Ünï\" \"pässword; with # all\\n\"", &[("Ünï", "pässword; with # all\\n")]);
    }

    #[test]
    fn faults() {
        let check = |text: &str, expected: &[(usize, &str)]| {
            let faults = parse_userlist(text, "f").unwrap_err();
            assert_eq!(faults.len(), expected.len(), "{faults:?}");
            for (fault, (line, part)) in faults.iter().zip(expected) {
                assert!(fault.line == *line && fault.to_string().contains(part), "{fault}");
                assert!(!fault.to_string().contains("hunter2"), "{fault}");
            }
        };
        check("\"a\" \"b\"\na hunter2", &[(2, "f:2: broken line")]);
        check("\"a\" hunter2\n\"a\n\"a\" \"hunter2", &[(1, "broken"), (2, "broken"), (3, "broken")]);
        check("\"\" \"hunter2\"", &[(1, "1 to 63 bytes")]);
        check(&format!("\"{}\" \"hunter2\"", "u".repeat(64)), &[(1, "1 to 63 bytes")]);
        check(&format!("\"a\" \"{}\"", "p".repeat(SECRET_BYTES_MAX + 1)), &[(1, "too long")]);
        check("\"a\" \"SCRAM-SHA-256$hunter2\"", &[(1, "broken verifier")]);
        check("\"a\" \"hunter2\0\"", &[(1, "zero byte")]);
    }

    proptest! {
        #[test]
        fn any_text(text in any::<String>(), quoted in "(\"[a-z\"\n ]{0,5}\" ){0,6}") {
            let _ = parse_userlist(&text, "f");
            let _ = parse_userlist(&quoted, "f");
        }

        #[test]
        fn what_is_written_is_read(user in "[a-z\" ;]{1,20}", secret in "[a-z\" ;]{0,20}") {
            let double = |text: &str| text.replace('"', "\"\"");
            let text = format!("\"{}\" \"{}\"", double(&user), double(&secret));
            prop_assert_eq!(parse_userlist(&text, "f").unwrap(), HashMap::from([(user, Secret::Plain(secret))]));
        }
    }
}

//! Who may log in, and with what: the secrets and rules of the configuration and the files that it names.
//!
//! Owns reading them, again on each reload, and finding a user's secret, in a list or by asking a server (`lookup`). What a secret
//! proves is the crate `auth`'s.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use auth::{Exchange, Fault, Hba, MOCK_SECRET_BYTES, Method, Rule, Secret, UserMaps, Verifier, Visitor};
use config::{AuthMethod, Config, Position, Problem};
use hashbrown::HashMap;

use crate::lookup::{Lookup, LookupError, Place};

/// What is in force until the next reload.
pub(crate) struct Secrets {
    users: HashMap<String, Arc<Known>>,
    method: AuthMethod,
    rules: Hba,
    pub(crate) maps: UserMaps,
    lookup: Option<Lookup>,
    /// Whether most users have verifiers: so an unknown one seems to have one, too.
    has_verifiers: AtomicBool,
    /// The iterations of most verifiers: likewise.
    usual_iterations: AtomicU32,
    /// Those of verifiers that are made here.
    pub(crate) iterations: u32,
    /// From which the salts of unknown users are made up.
    pub(crate) mock_secret: [u8; MOCK_SECRET_BYTES],
    /// It is no other after a restart.
    is_lasting: bool,
    /// The verifiers of all users have been made.
    is_warm: AtomicBool,
}

/// A user's secret, and the verifier to check a SCRAM client against, which is made once.
pub(crate) struct Known {
    pub(crate) secret: Secret,
    verifier: OnceLock<Option<Verifier>>,
}

/// What a client is asked for.
pub(crate) enum Demand<'s> {
    /// This method, without further conditions.
    Method(Method),
    /// What this rule says.
    Rule(&'s Rule),
    /// There are rules, and none fits.
    NoRule,
}

impl Secrets {
    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(crate) fn load(config: &Config) -> Result<Secrets, Vec<Problem>> {
        let auth = &config.auth;
        let mut problems = Vec::new();
        let mut users: HashMap<String, Arc<Known>> = HashMap::new();
        if let Some(file) = &auth.file {
            let listed = read(file).and_then(|text| auth::parse_userlist(&text, file).map_err(faults));
            let listed = listed.unwrap_or_else(|found| noted(&mut problems, found));
            // Nobody logs in with an empty secret: such a user is to look like one who is not there.
            let listed = listed.into_iter().filter(|(_, secret)| *secret != Secret::Plain(String::new()));
            users.extend(listed.map(|(user, secret)| (user, Arc::new(Known::new(secret)))));
        }
        for (user, entry) in &config.users {
            if let Some(password) = &entry.password {
                match Secret::parse(password.expose()) {
                    Ok(secret) => drop(users.insert(user.clone(), Arc::new(Known::new(secret)))),
                    Err(error) => problems.push(problem("[[users]]", None, format!("user {user:?}: {error}"))),
                }
            }
        }
        let mut rules = Hba::default();
        if let Some(file) = auth.hba_file.as_ref().filter(|_| auth.method == AuthMethod::Hba) {
            let parsed = read(file).and_then(|text| Hba::parse(&text, file, &mut read_beside(file)).map_err(faults));
            rules = parsed.unwrap_or_else(|found| noted(&mut problems, found));
        }
        let mut maps = UserMaps::default();
        if let Some(file) = &auth.ident_file {
            let parsed = read(file).and_then(|text| UserMaps::parse(&text, file).map_err(faults));
            maps = parsed.unwrap_or_else(|found| noted(&mut problems, found));
        }
        for rule in rules.rules() {
            if let (Some(map), Some(file)) = (rule.map.as_deref().filter(|map| !maps.has(map)), &auth.hba_file) {
                problems.push(problem(file, Some(rule.line), format!("there is no map of user names {map:?}")));
            }
        }
        let mut lookup = None;
        if let Some(query) = &auth.query {
            let listed = users.get(&query.user).map(|known| &known.secret);
            let password = match (&query.password, listed) {
                (Some(password), _) => Some(password.expose().to_owned()),
                (None, Some(Secret::Plain(password))) => Some(password.clone()),
                (None, Some(Secret::Md5(_) | Secret::Scram(_))) => {
                    let text =
                        "the secret of \"auth_user\" must be a password in plain text, or \"auth_password\" be stated";
                    problems.push(problem("[auth]", None, text.to_owned()));
                    None
                }
                (None, None) => None,
            };
            lookup = Some(Lookup::new(query.clone(), password, config.pool.server_connect_timeout));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let verifiers = users.values().filter(|known| matches!(known.secret, Secret::Scram(_))).count();
        let lasting = lasting(auth);
        let secrets = Secrets {
            has_verifiers: AtomicBool::new(users.is_empty() || 2 * verifiers > users.len()),
            usual_iterations: AtomicU32::new(usual_iterations(&users, auth.scram_iterations)),
            users,
            method: auth.method,
            rules,
            maps,
            lookup,
            iterations: auth.scram_iterations,
            is_lasting: lasting.is_some(),
            is_warm: AtomicBool::new(false),
            mock_secret: lasting.unwrap_or_else(rand::random),
        };
        Ok(secrets)
    }

    /// Keeps what an earlier load has computed and is still right.
    pub(crate) fn inherit(&mut self, old: &Secrets) {
        if !self.is_lasting && !old.is_lasting {
            self.mock_secret = old.mock_secret;
        }
        if (self.iterations, self.mock_secret) != (old.iterations, old.mock_secret) {
            return;
        }
        for (user, known) in &mut self.users {
            if let Some(before) = old.users.get(user).filter(|before| before.secret == known.secret) {
                *known = before.clone();
            }
        }
    }

    /// Makes the verifiers that are not made yet, so that no login shows by the time it takes that it was a user's first. It takes
    /// milliseconds for each.
    pub(crate) fn make_verifiers(&self) {
        for (user, known) in &self.users {
            known.verifier(user, &self.mock_secret, self.iterations);
        }
        self.is_warm.store(true, Ordering::Release);
    }

    /// Whether there is nothing to compute for a user, and would not be for any other: then nothing shows in the time it takes.
    pub(crate) fn are_at_hand(&self, known: Option<&Known>) -> bool {
        self.is_warm.load(Ordering::Acquire) && known.is_none_or(Known::is_at_hand)
    }

    /// What a visitor is asked for.
    pub(crate) fn demand(&self, visitor: &Visitor<'_>) -> Demand<'_> {
        match self.method {
            AuthMethod::ScramSha256 => Demand::Method(Method::ScramSha256),
            AuthMethod::Md5 => Demand::Method(Method::Md5),
            AuthMethod::Password => Demand::Method(Method::Password),
            AuthMethod::Trust => Demand::Method(Method::Trust),
            AuthMethod::Cert => Demand::Method(Method::Cert),
            AuthMethod::Peer => Demand::Method(Method::Peer),
            AuthMethod::Hba => self.rules.find(visitor).map_or(Demand::NoRule, Demand::Rule),
        }
    }

    /// The secret of a user in a list.
    pub(crate) fn listed(&self, user: &str) -> Option<&Arc<Known>> {
        self.users.get(user)
    }

    /// The secret of a user: the one in a list, or the one that a server tells, for which `place` is asked where servers tell at all.
    ///
    /// # Errors
    /// When the server could not be asked.
    pub(crate) async fn find(
        &self,
        place: impl FnOnce() -> Option<Place>,
        user: &str,
    ) -> Result<Option<Arc<Known>>, LookupError> {
        let listed = self.listed(user).cloned();
        let Some(lookup) = &self.lookup else { return Ok(listed) };
        let Some(place) = place() else { return Ok(listed) };
        if listed.is_some() {
            lookup.feign(&place, user).await;
            return Ok(listed);
        }
        let found = lookup.ask(&place, user).await?;
        if let Some(known) = &found {
            self.has_verifiers.store(matches!(known.secret, Secret::Scram(_)), Ordering::Relaxed);
            self.usual_iterations.store(iterations_of(&known.secret, self.iterations), Ordering::Relaxed);
        }
        Ok(found)
    }

    /// What an unknown user is asked for where the method leaves it open.
    pub(crate) fn usual(&self) -> Exchange {
        if self.has_verifiers.load(Ordering::Relaxed) { Exchange::Scram } else { Exchange::Md5 }
    }

    /// How many iterations the verifier of an unknown user seems to have.
    pub(crate) fn usual_iterations(&self) -> u32 {
        self.usual_iterations.load(Ordering::Relaxed)
    }
}

impl Known {
    pub(crate) fn new(secret: Secret) -> Known {
        Known { secret, verifier: OnceLock::new() }
    }

    fn is_at_hand(&self) -> bool {
        !matches!(self.secret, Secret::Plain(_)) || self.verifier.get().is_some()
    }

    /// What a SCRAM client is checked against. Computing it from a password in plain text takes milliseconds.
    pub(crate) fn verifier(
        &self,
        user: &str,
        mock_secret: &[u8; MOCK_SECRET_BYTES],
        iterations: u32,
    ) -> Option<&Verifier> {
        self.verifier.get_or_init(|| self.secret.verifier(&auth::salt_for(mock_secret, user), iterations)).as_ref()
    }
}

/// The secret behind the verifiers of unknown users that is the same after a restart, if there is one. The passwords of the configuration
/// are no source for it: strangers could guess at them.
fn lasting(auth: &config::Auth) -> Option<[u8; MOCK_SECRET_BYTES]> {
    // machine-id(5): not to be shown to strangers itself, but hashed with a key by which applications may be known.
    let machine = || std::fs::read_to_string(MACHINE_ID).ok();
    let source = auth.mock_secret.as_ref().map(|secret| secret.expose().to_owned()).or_else(machine)?;
    // It is empty in an image from which machines are made.
    (!source.trim().is_empty()).then(|| auth::mock_secret(source.trim().as_bytes()))
}

const MACHINE_ID: &str = "/etc/machine-id";

/// The iterations of most users' verifiers.
fn usual_iterations(users: &HashMap<String, Arc<Known>>, own: u32) -> u32 {
    let mut counts = BTreeMap::new();
    for known in users.values() {
        *counts.entry(iterations_of(&known.secret, own)).or_insert(0) += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(own, |(iterations, _)| iterations)
}

fn iterations_of(secret: &Secret, own: u32) -> u32 {
    match secret {
        Secret::Scram(verifier) => verifier.iterations(),
        Secret::Plain(_) | Secret::Md5(_) => own,
    }
}

fn read(file: &str) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(file).map_err(|error| vec![problem(file, None, format!("cannot be read: {error}"))])
}

/// Reads the files that a file names: they stand beside it, as in PostgreSQL.
fn read_beside(file: &str) -> impl FnMut(&str) -> Result<String, String> {
    let directory = std::path::Path::new(file).parent().map(std::path::Path::to_owned).unwrap_or_default();
    move |name| std::fs::read_to_string(directory.join(name)).map_err(|error| error.to_string())
}

fn noted<T: Default>(problems: &mut Vec<Problem>, found: Vec<Problem>) -> T {
    problems.extend(found);
    T::default()
}

fn faults(found: Vec<Fault>) -> Vec<Problem> {
    found.into_iter().map(|Fault { file, line, message }| problem(&file, Some(line), message)).collect()
}

fn problem(file: &str, line: Option<usize>, message: String) -> Problem {
    let position = line.map(|line| Position { line, column: 1 });
    Problem { file: file.to_owned(), position, message, nearest: None }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn secrets(auth: &str, passwords: &[&str]) -> Secrets {
        let mut text =
            format!("[auth]\n{auth}\n[clusters.a]\nservers = [\"a\"]\nprobe_user = \"p\"\n[databases.\"*\"]\n");
        for (number, password) in passwords.iter().enumerate() {
            text += &format!("[[users]]\nname = \"u{number}\"\npassword = {password:?}\n");
        }
        Secrets::load(&crate::run::parse(&text, "test").unwrap()).unwrap()
    }

    /// What is shown of a user who does not exist is the same after a restart.
    #[test]
    fn nobody_stays_nobody() {
        let stated = "mock_secret = \"0123456789abcdef0123456789abcdef\"";
        let before = secrets(stated, &["x"]);
        assert_eq!(before.mock_secret, secrets(stated, &["another"]).mock_secret);
        assert_ne!(before.mock_secret, secrets(&stated.replace('f', "e"), &["x"]).mock_secret);
        // Without anything that lasts, it lasts as long as the program at least.
        let made_up = || Secrets { is_lasting: false, mock_secret: rand::random(), ..secrets("", &["x"]) };
        let (old, mut new) = (made_up(), made_up());
        new.inherit(&old);
        assert_eq!(new.mock_secret, old.mock_secret);
        let mut stated = secrets(stated, &["x"]);
        stated.inherit(&old);
        assert_eq!(stated.mock_secret, before.mock_secret);
    }

    #[test]
    fn nobody_is_like_most() {
        let stored = |iterations: u32| Verifier::from_password(b"x", b"salt", iterations).to_string();
        let check = |passwords: &[&str], expected: u32| {
            assert_eq!(secrets("scram_iterations = 7", passwords).usual_iterations(), expected, "{passwords:?}");
        };
        check(&["plain"], 7);
        check(&[&stored(5)], 5);
        check(&[&stored(5), &stored(6), &stored(5)], 5);
        check(&[&stored(5), "plain", "plain"], 7);
    }

    /// As long as a listed password waits for its verifier, nobody is answered sooner for not having one.
    #[test]
    fn who_is_answered_at_once() {
        let secrets = secrets("scram_iterations = 1", &["plain"]);
        let listed = secrets.users["u0"].clone();
        let stored = Known::new(Secret::Scram(Verifier::from_password(b"x", b"salt", 1)));
        let looked_up = Known::new(Secret::Plain("another".to_owned()));
        let at_hand =
            || [None, Some(&*listed), Some(&stored), Some(&looked_up)].map(|known| secrets.are_at_hand(known));
        assert_eq!(at_hand(), [false; 4]);
        secrets.make_verifiers();
        assert_eq!(at_hand(), [true, true, true, false]);
        looked_up.verifier("u", &secrets.mock_secret, 1);
        assert_eq!(at_hand(), [true; 4]);
    }
}

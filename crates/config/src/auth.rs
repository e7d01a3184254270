//! `[auth]`: how clients prove who they are, and where their secrets are found.
//!
//! Owns the keys. Which files they name, and what is in those, is the caller's business; a password is checked by the crate `auth`.

use std::time::Duration;

use crate::config::CONSOLES;
use crate::reader::Section;
use crate::secret::{self, Secret};
use crate::sections::{self, DURATION_MAX};
use crate::value::Keyword;

/// `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The method asked of every client.
    pub method: AuthMethod,
    /// PgBouncer's list of users with their secrets.
    pub file: Option<String>,
    /// The rules; always there when the method is [`AuthMethod::Hba`].
    pub hba_file: Option<String>,
    /// The maps of user names that the rules refer to.
    pub ident_file: Option<String>,
    /// Where the secrets of users are asked for who are in no list.
    pub query: Option<AuthQuery>,
    /// The iterations of verifiers that are made of plain passwords.
    pub scram_iterations: u32,
    /// What the salts of users are made from who do not exist; without one, whoever reads it finds something that lasts.
    pub mock_secret: Option<Secret>,
    /// How long the answer to an address's first failed login is held back; it doubles with each.
    pub failed_login_delay: Duration,
    /// The longest that it is.
    pub failed_login_delay_max: Duration,
    /// The time after its last failed login when an address is forgotten.
    pub failed_login_forget: Duration,
}

/// How the servers are asked for a user's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthQuery {
    /// The user who asks.
    pub user: String,
    /// The password of that user; without one, it is looked for among those of the clients.
    pub password: Option<Secret>,
    /// The query: a user's name in, the name and the secret out.
    pub query: String,
    /// The database to ask in.
    pub dbname: Option<String>,
    /// How long an answer is believed.
    pub cache: Duration,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// RFC 7677's challenge and response.
    ScramSha256,
    /// A hash of the password, or SCRAM for who has a verifier.
    Md5,
    /// The password itself.
    Password,
    /// Not at all: whoever reaches the port is who he says.
    Trust,
    /// The name in the client's TLS certificate.
    Cert,
    /// The name of the operating system's user, on a Unix socket.
    Peer,
    /// What the rules of a file say.
    Hba,
}

impl Auth {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Auth {
        let millis = Duration::from_millis;
        let auth = Auth {
            method: section.value("method", AuthMethod::ScramSha256),
            file: path(section, "auth_file"),
            hba_file: path(section, "auth_hba_file"),
            ident_file: path(section, "auth_ident_file"),
            query: AuthQuery::read(section),
            scram_iterations: section.within("scram_iterations", 4096, 1..=SCRAM_ITERATIONS_MAX),
            mock_secret: mock_secret(section),
            failed_login_delay: section.within("failed_login_delay", millis(100), Duration::ZERO..=millis(60_000)),
            failed_login_delay_max: section.within(
                "failed_login_delay_max",
                millis(5_000),
                Duration::ZERO..=millis(60_000),
            ),
            failed_login_forget: section.within(
                "failed_login_forget",
                Duration::from_secs(600),
                millis(1)..=DURATION_MAX,
            ),
        };
        if auth.method == AuthMethod::Hba && auth.hba_file.is_none() && section.place_of("auth_hba_file").is_none() {
            let place = section.place_of("method");
            section.problem(place, "\"method\" is \"hba\", so \"auth_hba_file\" must be stated");
        }
        auth
    }

    /// Whether somebody may get in whom `[[users]]` does not name.
    pub(crate) fn admits_unlisted(&self) -> bool {
        self.file.is_some() || self.query.is_some() || !self.needs_password()
    }

    /// Whether every client is asked for a password.
    pub(crate) fn needs_password(&self) -> bool {
        match self.method {
            AuthMethod::ScramSha256 | AuthMethod::Md5 | AuthMethod::Password => true,
            AuthMethod::Trust | AuthMethod::Cert | AuthMethod::Peer | AuthMethod::Hba => false,
        }
    }
}

impl AuthQuery {
    /// PgBouncer's own: it leaves out roles whose password has expired, and those that may not log in.
    pub const DEFAULT: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
                               FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

    /// Whether each database is asked about its own users.
    pub fn asks_each_database(&self) -> bool {
        self.dbname.is_none() && self.query != AuthQuery::DEFAULT
    }

    fn read(section: &mut Section<'_, '_>) -> Option<AuthQuery> {
        let user = sections::optional_name(section, "auth_user");
        let password = sections::plain_password(section, "auth_password");
        let query = section.value("auth_query", AuthQuery::DEFAULT.to_owned());
        let dbname = sections::optional_name(section, "auth_dbname");
        let cache =
            section.within("auth_query_cache", Duration::from_secs(1), Duration::ZERO..=Duration::from_secs(3600));
        if let Some(name) = dbname.as_deref().filter(|name| CONSOLES.contains(name)) {
            let place = section.place_of("auth_dbname");
            section.problem(place, format!("\"auth_dbname\" {name:?} is the admin console's"));
        }
        if query.trim().is_empty() {
            let place = section.place_of("auth_query");
            section.problem(place, "\"auth_query\" must not be empty");
        }
        if user.is_none() {
            for key in ["auth_password", "auth_dbname"] {
                let place = section.place_of(key);
                if place.is_some() {
                    section.problem(place, format!("{key:?} is of no use without \"auth_user\""));
                }
            }
        }
        user.map(|user| AuthQuery { user, password, query, dbname, cache })
    }
}

impl Keyword for AuthMethod {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("scram-sha-256", Self::ScramSha256),
        ("md5", Self::Md5),
        ("password", Self::Password),
        // PgBouncer's word for it.
        ("plain", Self::Password),
        ("trust", Self::Trust),
        ("cert", Self::Cert),
        ("peer", Self::Peer),
        ("hba", Self::Hba),
    ];
}

fn mock_secret(section: &mut Section<'_, '_>) -> Option<Secret> {
    let secret: Option<Secret> = section.optional("mock_secret");
    if secret.as_ref().is_some_and(|secret| secret.expose().len() < MOCK_SECRET_BYTES_MIN) {
        let place = section.place_of("mock_secret");
        section.problem(place, format!("\"mock_secret\" must have {MOCK_SECRET_BYTES_MIN} random characters or more"));
    }
    secret
}

/// A key that names a file.
fn path(section: &mut Section<'_, '_>, key: &'static str) -> Option<String> {
    let path: Option<String> = section.optional(key);
    if path.as_deref() == Some("") {
        let place = section.place_of(key);
        section.problem(place, format!("{key:?} must not be empty: leave it out"));
        return None;
    }
    path
}

/// Why a text cannot be a user's password under this method.
pub(crate) fn password_flaw(password: &Secret, method: AuthMethod) -> Option<&'static str> {
    match (secret::flaw(password.expose()), method) {
        // The hash is good for something there.
        (Some(_), AuthMethod::Md5 | AuthMethod::Password | AuthMethod::Hba) if secret::is_md5(password.expose()) => {
            None
        }
        (flaw, _) => flaw,
    }
}

/// Strangers can check guesses at it.
const MOCK_SECRET_BYTES_MIN: usize = 32;

/// The most iterations: each login of an unknown user may cost as many.
const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;

//! SHOW CONFIG and SET: the configuration's keys as the console names them.
//!
//! Where PgBouncer has a setting of the same meaning it goes by PgBouncer's name, with durations in seconds; else by `section.key`.

use config::Config;

use super::rows::{Row, Value};

/// Every key of the program as a whole, for SHOW CONFIG.
pub(crate) fn shown(config: &Config) -> Vec<Row> {
    let mut rows: Vec<(String, Row)> = Vec::new();
    for setting in &config.settings {
        let Some(section) = section(&setting.section) else { continue };
        let key = (section, setting.key);
        let name = name(key);
        let familiar = !name.contains('.');
        let value = |text: &Option<String>| text.as_deref().map(|text| plain(text, familiar));
        let changeable = if takes_restart(key) || setting.is_secret { "no" } else { "yes" };
        let row: Row = vec![
            name.clone().into(),
            value(&setting.value).into(),
            value(&setting.default).into(),
            Value::from(changeable),
        ];
        rows.push((name, row));
    }
    rows.sort_by(|left, right| left.0.cmp(&right.0));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The key that a name means: PgBouncer's name, `section.key`, or the key alone where only one section has it.
pub(crate) fn find(config: &Config, wanted: &str) -> Option<(&'static str, &'static str)> {
    let wanted = wanted.to_ascii_lowercase();
    let keys = config.settings.iter().filter_map(|setting| Some((section(&setting.section)?, setting.key)));
    let keys: Vec<_> = keys.collect();
    if let Some(key) = keys.iter().find(|key| name(**key) == wanted || format!("{}.{}", key.0, key.1) == wanted) {
        return Some(*key);
    }
    let mut alone = keys.iter().filter(|(_, key)| *key == wanted);
    match (alone.next(), alone.next()) {
        (Some(key), None) => Some(*key),
        _ => None,
    }
}

/// Whether a running program cannot follow a change of this key.
pub(crate) fn takes_restart((section, key): (&str, &str)) -> bool {
    section == "log"
        || matches!((section, key), ("proxy", "listen" | "http_listen" | "workers") | ("routing", "classifier_cache"))
        || key.starts_with("unix_socket_")
}

/// Whether a key's value is nobody's business: what is said at the console is logged, and stands in histories.
pub(crate) fn is_secret(config: &Config, key: (&str, &str)) -> bool {
    let is_key =
        |setting: &config::Setting| section(&setting.section).is_some_and(|section| (section, setting.key) == key);
    config.settings.iter().any(|setting| setting.is_secret && is_key(setting))
}

/// The text of a configuration with one key put at another value, which is given in words.
///
/// # Errors
/// What is wrong with the value.
pub(crate) fn changed(text: &str, (section, key): (&str, &str), value: &str) -> Result<String, String> {
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let toml::Value::Table(entry) = entry else { return Err(format!("[{section}] is not a section")) };
    let mut problem = String::new();
    for candidate in candidates(value) {
        entry.insert(key.to_owned(), candidate);
        let text = toml::to_string(&toml::Table::from_iter([(section.to_owned(), toml::Value::Table(entry.clone()))]));
        let text = text.map_err(|error| error.to_string())?;
        // Of the problems of the whole only those of this section are this value's; the rest is missing here.
        let problems = Config::parse(&text, "SET").err().unwrap_or_default();
        let about = format!("\"{key}\"");
        match problems.into_iter().find(|problem| problem.message.starts_with(&about)) {
            None => return toml::to_string(&table).map_err(|error| error.to_string()),
            Some(found) => {
                if problem.is_empty() {
                    problem = found.message;
                }
            }
        }
    }
    Err(problem)
}

/// What a value may have been meant as: PgBouncer's times are numbers of seconds, its lists have commas.
fn candidates(value: &str) -> Vec<toml::Value> {
    let text = |text: String| toml::Value::String(text);
    let mut candidates = Vec::new();
    if let Ok(number) = value.parse::<i64>() {
        candidates.push(toml::Value::Integer(number));
        candidates.push(text(format!("{number}s")));
        candidates.extend((number == 0 || number == 1).then_some(toml::Value::Boolean(number == 1)));
    } else if let Ok(seconds) = value.parse::<f64>()
        && seconds.is_finite()
        && seconds >= 0.0
    {
        candidates.push(text(format!("{}ms", (seconds * 1000.0).round())));
        candidates.push(toml::Value::Float(seconds));
    }
    if let "true" | "false" | "on" | "off" = value {
        candidates.push(toml::Value::Boolean(matches!(value, "true" | "on")));
    }
    candidates.push(text(value.to_owned()));
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    candidates.push(toml::Value::Array(names.map(|name| text(name.to_owned())).collect()));
    candidates
}

/// The section of a header that is not of one user, cluster or database.
fn section(header: &str) -> Option<&'static str> {
    let name = header.strip_prefix('[')?.strip_suffix(']')?;
    SECTIONS.iter().find(|section| **section == name).copied()
}

fn name((section, key): (&str, &str)) -> String {
    if let Some((_, _, name)) = RENAMED.iter().find(|known| (known.0, known.1) == (section, key)) {
        return (*name).to_owned();
    }
    let shared = SHARED.contains(&key) || key.starts_with("client_tls_") || key.starts_with("server_tls_");
    if shared { key.to_owned() } else { format!("{section}.{key}") }
}

/// TOML without its quotes and brackets; a duration of PgBouncer's in seconds.
fn plain(toml: &str, familiar: bool) -> String {
    let text = toml.trim_matches(['[', ']']).replace('"', "");
    match familiar.then(|| seconds(&text)).flatten() {
        Some(seconds) => seconds,
        None => text,
    }
}

fn seconds(text: &str) -> Option<String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).filter(|at| *at > 0)?;
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Some((number * unit).to_string())
}

const SECTIONS: [&str; 8] = ["proxy", "console", "log", "auth", "tls", "pool", "routing", "topology"];

/// Sections and keys of ours that PgBouncer has under another name.
const RENAMED: [(&str, &str, &str); 10] = [
    ("auth", "method", "auth_type"),
    ("pool", "min_size", "min_pool_size"),
    ("pool", "mode", "pool_mode"),
    ("pool", "prepared_statements_max", "max_prepared_statements"),
    ("pool", "reserve_size", "reserve_pool_size"),
    ("pool", "reserve_timeout", "reserve_pool_timeout"),
    ("pool", "size", "default_pool_size"),
    ("proxy", "tcp_keepalive_count", "tcp_keepcnt"),
    ("proxy", "tcp_keepalive_idle", "tcp_keepidle"),
    ("proxy", "tcp_keepalive_interval", "tcp_keepintvl"),
];

/// Keys of ours that PgBouncer has under the same name, but for those that begin like its TLS settings.
const SHARED: [&str; 50] = [
    "admin_users",
    "application_name_add_host",
    "auth_dbname",
    "auth_file",
    "auth_hba_file",
    "auth_ident_file",
    "auth_query",
    "auth_user",
    "autodb_idle_timeout",
    "cancel_wait_timeout",
    "client_idle_timeout",
    "client_login_timeout",
    "idle_transaction_timeout",
    "log_connections",
    "log_disconnections",
    "log_pooler_errors",
    "max_client_conn",
    "max_db_client_connections",
    "max_db_connections",
    "max_packet_size",
    "max_user_client_connections",
    "max_user_connections",
    "peer_id",
    "pool_idle_timeout",
    "query_timeout",
    "query_wait_notify",
    "query_wait_timeout",
    "scram_iterations",
    "server_check_delay",
    "server_check_query",
    "server_connect_timeout",
    "server_fast_close",
    "server_idle_timeout",
    "server_lifetime",
    "server_login_retry",
    "server_check_delay",
    "server_check_query",
    "server_reset_query",
    "server_reset_query_always",
    "server_round_robin",
    "stats_period",
    "stats_users",
    "tcp_defer_accept",
    "tcp_keepalive",
    "tcp_socket_buffer",
    "tcp_user_timeout",
    "transaction_timeout",
    "unix_socket_dir",
    "unix_socket_group",
    "unix_socket_mode",
];

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const TEXT: &str = "[pool]\nsize = 7\n[clusters.a]\nservers = [\"a\"]\n[databases.\"*\"]\n[[users]]\nname = \"u\"\npassword = \"hidden\"";

    #[test]
    fn values_are_shown_as_pgbouncer_does() {
        let config = Config::parse(TEXT, "test").unwrap();
        let rows = shown(&config);
        let check = |key: &str, value: &str, default: &str, changeable: &'static str| {
            let row = rows.iter().find(|row| row[0] == Value::from(key.to_owned())).unwrap_or_else(|| panic!("{key}"));
            assert_eq!(
                row[1..],
                [Value::from(value.to_owned()), default.to_owned().into(), changeable.into()],
                "{key}"
            );
        };
        check("default_pool_size", "7", "20", "yes");
        check("query_wait_timeout", "120", "120", "yes");
        check("proxy.listen", "127.0.0.1:6432", "127.0.0.1:6432", "no");
        check("topology.probe_interval", "100ms", "100ms", "yes");
        check("admin_users", "", "", "yes");
        assert!(!format!("{rows:?}").contains("hidden"));
        let changeable =
            |name: &str| rows.iter().find(|row| row[0] == Value::from(name.to_owned())).unwrap()[3].clone();
        assert!(config.settings.iter().all(|setting| setting.is_secret || !setting.key.ends_with("password")));
        for secret in ["auth.auth_password", "auth.mock_secret"] {
            assert_eq!(changeable(secret), Value::from("no"), "{secret}");
        }
    }

    #[test]
    fn values_are_taken_as_pgbouncer_does() {
        let config = Config::parse(TEXT, "test").unwrap();
        let set = |name: &str, value: &str| {
            let key = find(&config, name).unwrap_or_else(|| panic!("{name}"));
            changed(TEXT, key, value).map(|text| Config::parse(&text, "test").unwrap())
        };
        assert_eq!(set("default_pool_size", "9").unwrap().pool.size, 9);
        assert_eq!(set("pool.size", "9").unwrap().users["u"].password.as_ref().unwrap().expose(), "hidden");
        assert_eq!(set("max_client_conn", "77").unwrap().proxy.max_client_conn, 77);
        assert_eq!(set("query_wait_timeout", "1.5").unwrap().pool.timeouts.query_wait.unwrap().as_millis(), 1500);
        assert_eq!(set("server_lifetime", "90").unwrap().pool.server_lifetime.as_secs(), 90);
        assert_eq!(set("max_lag", "250ms").unwrap().routing.max_lag.as_millis(), 250);
        assert!(set("pool_mode", "session").is_ok() && set("tcp_keepalive", "0").unwrap().proxy.keepalive.is_none());
        assert_eq!(set("admin_users", "a, b").unwrap().console.admin_users, ["a", "b"]);
        assert!(set("default_pool_size", "0").unwrap_err().contains("size"));
        assert!(set("pool_mode", "whole").unwrap_err().contains("mode"));
        assert!(find(&config, "password").is_none() && find(&config, "nonsense").is_none());
    }
}

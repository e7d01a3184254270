//! What whole files give: a configuration, or their problems.

use super::*;

#[test]
fn least() {
    let text = "[auth]\nmethod = \"trust\"\n[clusters.a]\nservers = [\"db1\"]\n[databases.\"*\"]\n";
    let config = Config::parse(text, "proxy.toml").unwrap();
    assert_eq!(config.databases["*"].cluster, "a");
}

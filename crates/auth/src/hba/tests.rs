//! Whole files, the connections that they decide about, and what is wrong with others.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Hba, Vec<String>> {
    let mut read = |name: &str| match name {
        "users" => Ok("alice\n# comment\n\"Bob B\", carol".to_owned()),
        "nested" => Ok("@users dave".to_owned()),
        "loop" => Ok("@loop".to_owned()),
        // Two to the power of nine of these are within the depth; many such words are not to be tried out.
        "twice" => Ok("@twice @twice".to_owned()),
        "wide" => Ok("@users ".repeat(2000)),
        "empty" => Ok(String::new()),
        _ => Err("no such file".to_owned()),
    };
    Hba::parse(text, "hba", &mut read).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

const LOCAL: Origin = Origin::Local;

fn host(address: &str, encrypted: bool) -> Origin {
    Origin::Host { address: address.parse().unwrap(), encrypted }
}

/// The line of the rule that decides; 0 for none.
#[track_caller]
fn check(text: &str, origin: Origin, database: &str, user: &str, expected: usize) {
    let hba = parse(text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let found = hba.find(&Visitor { origin, database, user, replication: false });
    assert_eq!(found.map_or(0, |rule| rule.line), expected, "{text}: {origin:?} {database} {user}");
}

#[test]
fn first_match_decides() {
    let text = "# TYPE DATABASE USER ADDRESS METHOD
local all all trust
host  app  alice 10.0.0.0/8 scram-sha-256

host  app  alice 10.1.0.0/16 reject
host  all  all   0.0.0.0/0 reject
";
    check(text, LOCAL, "app", "alice", 2);
    check(text, host("10.1.2.3", false), "app", "alice", 3);
    check(text, host("11.1.2.3", false), "app", "alice", 6);
    check(text, host("10.1.2.3", false), "app", "bob", 6);
    check(text, host("::1", false), "app", "alice", 0);
    // A listener of both families shows IPv4 addresses in IPv6 dress.
    check(text, host("::ffff:10.1.2.3", false), "app", "alice", 3);
    check("", host("10.1.2.3", false), "app", "alice", 0);
}

#[test]
fn connections() {
    for (kind, local, plain, encrypted) in
        [("host", 0, 1, 1), ("hostssl", 0, 0, 1), ("hostnossl", 0, 1, 0), ("hostnogssenc", 0, 1, 1)]
    {
        let text = format!("{kind} all all all md5");
        check(&text, LOCAL, "d", "u", local);
        check(&text, host("10.0.0.1", false), "d", "u", plain);
        check(&text, host("::1", true), "d", "u", encrypted);
    }
    check("local all all peer", host("127.0.0.1", true), "d", "u", 0);
}

#[test]
fn databases_and_users() {
    let rule = |databases: &str, users: &str| format!("local {databases} {users} trust");
    check(&rule("app", "all"), LOCAL, "app", "u", 1);
    check(&rule("app", "all"), LOCAL, "App", "u", 0);
    check(&rule("a,b, c", "u"), LOCAL, "b", "u", 1);
    check(&rule("a, b", "x,,u"), LOCAL, "b", "u", 1);
    check(&rule("sameuser", "all"), LOCAL, "u", "u", 1);
    check(&rule("sameuser", "all"), LOCAL, "d", "u", 0);
    check(&rule("replication", "all"), LOCAL, "replication", "u", 0);
    // Quotes take the meaning from a keyword, and keep blanks, commas and marks of comments.
    check(&rule("\"all\"", "all"), LOCAL, "d", "u", 0);
    check(&rule("\"all\"", "all"), LOCAL, "all", "u", 1);
    check(&rule("all", "\"all\""), LOCAL, "d", "u", 0);
    check(&rule("\"replication\"", "all"), LOCAL, "replication", "u", 1);
    check(&rule("\"a b,#\"\"c\"", "all"), LOCAL, "a b,#\"c", "u", 1);
    check(&rule("all", "\"+x\""), LOCAL, "d", "+x", 1);
    check(&rule("all", "@users"), LOCAL, "d", "Bob B", 1);
    check(&rule("all", "@users"), LOCAL, "d", "carol", 1);
    check(&rule("all", "x,@nested"), LOCAL, "d", "dave", 1);
    check(&rule("all", "\"@users\""), LOCAL, "d", "alice", 0);
    check(&rule("all", "@empty"), LOCAL, "d", "alice", 0);
    check("local all \\\nall trust # comment", LOCAL, "d", "u", 1);
}

#[test]
fn replication() {
    let hba = parse("local all all trust\nlocal replication all md5").unwrap();
    let visitor = Visitor { origin: LOCAL, database: "replication", user: "u", replication: true };
    assert_eq!(hba.find(&visitor).map(|rule| rule.line), Some(2));
    let hba = parse("local all,sameuser,d all trust").unwrap();
    assert_eq!(hba.find(&Visitor { database: "d", ..visitor }), None);
}

#[test]
fn addresses() {
    let check = |address: &str, from: &str, expected: usize| {
        check(&format!("host all all {address} md5"), host(from, false), "d", "u", expected);
    };
    check("192.168.1.0/24", "192.168.1.255", 1);
    check("192.168.1.0/24", "192.168.2.0", 0);
    check("192.168.1.77/24", "192.168.1.1", 1);
    check("10.0.0.1/32", "10.0.0.1", 1);
    check("10.0.0.1/32", "10.0.0.2", 0);
    check("0.0.0.0/0", "255.1.2.3", 1);
    check("0.0.0.0/0", "::1", 0);
    check("::/0", "2001:db8::1", 1);
    check("::/0", "10.0.0.1", 0);
    check("2001:db8::/33", "2001:db8:7fff::1", 1);
    check("2001:db8::/33", "2001:db8:8000::1", 0);
    check("::1/128", "::1", 1);
    check("192.168.1.0 255.255.255.0", "192.168.1.9", 1);
    check("192.168.1.0\t255.255.255.0", "192.168.9.1", 0);
    check("fe80:: ffff::", "fe80::9", 1);
    check("all", "1.2.3.4", 1);
}

#[test]
fn methods_and_options() {
    let check = |line: &str, method: Method, map: Option<&str>, certificate: ClientCertificate| {
        let hba = parse(line).unwrap_or_else(|faults| panic!("{faults:?}"));
        let rule = &hba.rules()[0];
        assert_eq!((rule.method, rule.map.as_deref(), rule.client_certificate), (method, map, certificate), "{line}");
    };
    let none = ClientCertificate::NotAsked;
    check("local all all reject", Method::Reject, None, none);
    check("local all all password", Method::Password, None, none);
    check("local all all peer map=m", Method::Peer, Some("m"), none);
    check("local all all ident", Method::Peer, None, none);
    check("hostssl all all all cert map=\"a b\"", Method::Cert, Some("a b"), none);
    check(
        "hostssl all all all cert clientcert=verify-full clientname=CN",
        Method::Cert,
        None,
        ClientCertificate::VerifiedName,
    );
    check(
        "hostssl all all all scram-sha-256 clientcert=verify-ca",
        Method::ScramSha256,
        None,
        ClientCertificate::Verified,
    );
    check("hostssl all all all md5 clientcert=verify-full", Method::Md5, None, ClientCertificate::VerifiedName);
}

#[test]
fn faults() {
    let check = |line: &str, expected: &str| {
        let faults = parse(&format!("\n{line}")).expect_err(line);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("hba:2: ") && faults[0].contains(expected), "{line}: {}", faults[0]);
    };
    check("remote all all md5", "invalid connection type \"remote\"");
    check("hostgssenc all all all md5", "not supported");
    check("local,host all all md5", "multiple values specified for connection type");
    check("local", "end-of-line before database");
    check("local all", "end-of-line before role");
    check("local all all", "end-of-line before authentication method");
    check("host all all", "end-of-line before IP address");
    check("host all all 10.0.0.1", "end-of-line before IP mask");
    check("host all all 10.0.0.1 md5", "invalid IP mask \"md5\"");
    check("host all all 10.0.0.1 ffff::", "do not match");
    check("host all all 10.0.0.0/33 md5", "invalid CIDR mask");
    check("host all all ::/129 md5", "invalid CIDR mask");
    check("host all all 10.0.0.0/ md5", "invalid CIDR mask");
    check("host all all 10.0.0.0/+8 md5", "invalid CIDR mask");
    check("host all all 10.0.0.256/8 md5", "host names are not supported");
    check("host all all db.example.org md5", "host names are not supported");
    check("host all all samenet md5", "\"samenet\" is not supported");
    check("host all all all,all md5", "multiple values specified for IP address");
    check("local samerole all md5", "\"samerole\" is not supported");
    check("local all +staff md5", "\"+role\" is not supported");
    check("local /^a all md5", "regular expressions");
    check("local all /^a md5", "regular expressions");
    check("local all all any", "invalid authentication method \"any\"");
    check("local all all ldap", "\"ldap\" is not supported");
    check("host all all all ident", "\"ident\" is not supported");
    check("host all all all peer", "only supported on local sockets");
    check("host all all all cert", "only supported on hostssl");
    check("local all all md5 map=m", "only valid for authentication methods");
    check("local all all md5 clientcert=verify-ca", "only be configured for \"hostssl\"");
    check("hostssl all all all md5 clientcert=1", "invalid value for clientcert: \"1\"");
    check("hostssl all all all cert clientcert=verify-ca", "only accepts \"verify-full\"");
    check("hostssl all all all cert clientname=DN", "clientname can only be CN");
    check("local all all md5 nonsense", "not in name=value format: nonsense");
    check("local all all md5 a=b", "unrecognized authentication option name: \"a\"");
    check("local all \"all md5", "a quote is not closed");
    check("local all @missing md5", "cannot read \"@missing\": no such file");
    check("local all @loop md5", "include each other");
    check("local all @twice md5", "include each other");
    check("local all @wide md5", "too many files for one line");
    // All of them at once, each at its line.
    let faults = parse("nope\nlocal all all trust\nlocal all all nope").unwrap_err();
    assert_eq!(faults, ["hba:1: invalid connection type \"nope\"", "hba:3: invalid authentication method \"nope\""]);
}

proptest! {
    #[test]
    fn any_text(text in any::<String>(), like in "(local|host|hostssl|#|\"|,| |all|@users|10.0.0.0/8|md5|map=x|\\\\|\n){0,20}") {
        let _ = parse(&text);
        let _ = parse(&like);
    }

    /// A mask is as many leading ones as its length says.
    #[test]
    fn networks_as_counted(address: u32, other: u32, length in 0_u32..=32) {
        let hba = parse(&format!("host all all {}/{length} md5", Ipv4Addr::from(address))).unwrap();
        let origin = Origin::Host { address: Ipv4Addr::from(other).into(), encrypted: false };
        let fits = hba.find(&Visitor { origin, database: "d", user: "u", replication: false }).is_some();
        prop_assert_eq!(fits, (address ^ other).leading_zeros() >= length);
    }

    #[test]
    fn networks_as_counted_v6(address: u128, other: u128, length in 0_u32..=128) {
        // Nothing that is an IPv4 address in disguise.
        let (address, other) = (address | 1 << 127, other | 1 << 127);
        let hba = parse(&format!("host all all {}/{length} md5", Ipv6Addr::from(address))).unwrap();
        let origin = Origin::Host { address: Ipv6Addr::from(other).into(), encrypted: false };
        let fits = hba.find(&Visitor { origin, database: "d", user: "u", replication: false }).is_some();
        prop_assert_eq!(fits, (address ^ other).leading_zeros() >= length);
    }
}

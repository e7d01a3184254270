//! Servers that are honest, servers that break the protocol, and servers that only pretend.

use proptest::prelude::*;

use super::*;
use crate::client::{Account, InitialResponse, NONCE_BYTES, ScramFinal, ScramServer};
use crate::credential::ScramKeys;
use crate::prover::{ITERATIONS_MAX, NONCE_BYTES_MAX};
use crate::scram;
use crate::verifier::Verifier;

const OK: &[u8] = &[0, 0, 0, 0];
const CLEARTEXT: &[u8] = &[0, 0, 0, 3];
const MD5: &[u8] = &[0, 0, 0, 5, 1, 2, 3, 4];
const SCRAM: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256\0\0";

const NONCE: [u8; NONCE_BYTES] = *b"eighteen bytes now";

fn login(password: Option<&str>) -> ServerLogin {
    with(known(password))
}

fn with(credential: Credential) -> ServerLogin {
    ServerLogin::new("user", credential, Cleartext::Refused, NONCE)
}

fn known(password: Option<&str>) -> Credential {
    password.map_or(Credential::None, |password| Credential::Password(password.into()))
}

/// A login, the messages of a server before the last one, and what the last one gives.
#[track_caller]
fn check(login: ServerLogin, messages: &[&[u8]], expected: Result<Step, AuthError>) {
    let mut login = login;
    let (last, before) = messages.split_last().unwrap();
    for message in before {
        login.on_message(message).unwrap();
    }
    assert_eq!(login.on_message(last), expected);
    if expected != Ok(Step::Wait) && !matches!(expected, Ok(Step::Send(_))) {
        assert!(login.on_message(OK).is_err(), "a login that is over stays over");
    }
}

fn sent(payload: &str) -> Result<Step, AuthError> {
    Ok(Step::Send(payload.as_bytes().to_vec()))
}

fn malformed<T>(what: &str) -> Result<T, AuthError> {
    Err(AuthError::ServerMalformed(what.into()))
}

fn unsupported<T>(what: &str) -> Result<T, AuthError> {
    Err(AuthError::ServerUnsupported(what.into()))
}

#[test]
fn methods_without_scram() {
    check(login(None), &[OK], Ok(Step::Done));
    check(login(Some("x")), &[OK], Ok(Step::Done));
    // What PostgreSQL computes for md5(md5("x" "user") salt).
    check(login(Some("x")), &[MD5], sent("md561af308ed0c8b9af0bd038489070c92a\0"));
    check(login(Some("x")), &[MD5, OK], Ok(Step::Done));
    check(login(None), &[MD5], Err(AuthError::NoPassword));
    check(login(Some("x")), &[CLEARTEXT], unsupported("a password in plain text"));
    let hash = || Credential::Md5(md5::hash_of(b"x", "user"));
    check(with(hash()), &[MD5], sent("md561af308ed0c8b9af0bd038489070c92a\0"));
    let allowed = |password| ServerLogin::new("user", known(password), Cleartext::Allowed, NONCE);
    check(allowed(Some("x")), &[CLEARTEXT], sent("x\0"));
    check(allowed(Some("x")), &[CLEARTEXT, OK], Ok(Step::Done));
    check(allowed(None), &[CLEARTEXT], Err(AuthError::NoPassword));
    check(allowed(Some("x")), &[CLEARTEXT, CLEARTEXT], malformed("AuthenticationCleartextPassword was not expected"));
    check(allowed(Some("x")), &[CLEARTEXT, MD5], malformed("AuthenticationMD5Password was not expected"));
}

#[test]
fn requests_that_are_not_supported() {
    check(login(Some("x")), &[&[0, 0, 0, 2]], unsupported("Kerberos"));
    check(login(Some("x")), &[&[0, 0, 0, 7]], unsupported("GSSAPI"));
    check(login(Some("x")), &[&[0, 0, 0, 9]], unsupported("SSPI"));
    check(login(Some("x")), &[&[0, 0, 0, 99]], unsupported("the unknown authentication method 99"));
    check(login(Some("x")), &[&[255; 4]], unsupported("the unknown authentication method -1"));
    check(
        login(Some("x")),
        &[b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0OAUTHBEARER\0\0"],
        unsupported("one of the SASL mechanisms [\"SCRAM-SHA-256-PLUS\", \"OAUTHBEARER\"]"),
    );
}

#[test]
fn requests_that_are_malformed() {
    let cut_off = || malformed("an authentication request is cut off");
    check(login(Some("x")), &[b""], cut_off());
    check(login(Some("x")), &[&[0, 0, 0]], cut_off());
    check(login(Some("x")), &[&[0, 0, 0, 0, 0]], cut_off());
    check(login(Some("x")), &[&[0, 0, 0, 5, 1, 2, 3]], cut_off());
    check(login(Some("x")), &[&[0, 0, 0, 5, 1, 2, 3, 4, 5]], cut_off());
    check(login(Some("x")), &[b"\0\0\0\x0a"], cut_off());
    check(login(Some("x")), &[b"\0\0\0\x0aSCRAM-SHA-256\0"], cut_off());
    check(login(Some("x")), &[b"\0\0\0\x0a\xff\0\0"], cut_off());
    let long = [b"\0\0\0\x0a".to_vec(), vec![b'x'; MESSAGE_BYTES_MAX], b"\0\0".to_vec()].concat();
    check(login(Some("x")), &[&long], malformed("an authentication request is too long"));
    check(login(Some("x")), &[b"\0\0\0\x0bx"], malformed("AuthenticationSASLContinue was not expected"));
    check(login(Some("x")), &[b"\0\0\0\x0cx"], malformed("AuthenticationSASLFinal was not expected"));
    check(login(Some("x")), &[SCRAM, SCRAM], malformed("AuthenticationSASL was not expected"));
    check(login(Some("x")), &[SCRAM, MD5], malformed("AuthenticationMD5Password was not expected"));
    check(login(Some("x")), &[SCRAM, b"\0\0\0\x0cv=x"], malformed("AuthenticationSASLFinal was not expected"));
    check(login(None), &[SCRAM], Err(AuthError::NoPassword));
}

/// A whole exchange with our own other role, and what the login says when the server changes its part of it.
#[test]
fn scram() {
    let check = |password: &str,
                 first: fn(String) -> String,
                 last: fn(String) -> String,
                 expected: Result<(), &str>| match (exchange(password, first, last), expected) {
        (Ok(()), Ok(())) => {}
        (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{error}"),
        (outcome, _) => panic!("{outcome:?} instead of {expected:?}"),
    };
    let same: fn(String) -> String = |message| message;
    check("pencil", same, same, Ok(()));
    check("Pencil", same, same, Err("password authentication failed"));

    let first = |change, expected| check("pencil", change, same, expected);
    first(|_| String::new(), Err("nonce is missing"));
    first(|message| format!("m=x,{message}"), Err("nonce is missing"));
    first(|message| message.replace(",s=", ",x="), Err("salt is missing"));
    first(|message| message.replace(",i=10", ""), Err("iteration count is missing"));
    first(|message| message.replace(",i=10", ",i="), Err("not a positive number"));
    first(|message| message.replace(",i=10", ",i=0"), Err("not a positive number"));
    first(|message| message.replace(",i=10", ",i=-1"), Err("not a positive number"));
    first(|message| message.replace(",i=10", ",i=+1"), Err("not a positive number"));
    first(|message| message.replace(",i=10", ",i=10,x=y"), Err("something follows"));
    // A count that would keep us computing for ever, and one that does not fit.
    first(|message| message.replace(",i=10", &format!(",i={}", ITERATIONS_MAX + 1)), Err("too high"));
    first(|message| message.replace(",i=10", ",i=99999999999"), Err("not a positive number"));
    first(|message| message.replacen("r=", "r=x", 1), Err("not ours"));
    first(|message| message.replacen("r=", "r=\u{7f}", 1), Err("not ours"));
    // No nonce of the server's own: it may be an exchange that somebody has overheard.
    first(|_| format!("r={},s=c2FsdA==,i=10", scram::base64(&NONCE)), Err("not ours"));
    first(|message| message.replace(",s=", &format!("{},s=", "x".repeat(NONCE_BYTES_MAX))), Err("nonce is too long"));
    first(
        |message| message.replace(",s=", &format!("{},s=", "x".repeat(MESSAGE_BYTES_MAX))),
        Err("request is too long"),
    );
    first(|message| message.replace(",s=", ",s=*"), Err("salt is broken"));
    first(|message| message.replace(",s=", ",s=A"), Err("salt is broken"));
    first(|_| format!("r={}x,s=,i=10", scram::base64(&NONCE)), Err("salt is broken"));

    let last = |change, expected| check("pencil", same, change, expected);
    last(|_| String::new(), Err("prove its identity"));
    last(|_| "v=".into(), Err("prove its identity"));
    last(|message| message.replace("v=", "v=A"), Err("prove its identity"));
    last(|_| format!("v={}", scram::base64(&[0; 32])), Err("prove its identity"));
    last(|message| message + ",x=y", Err("prove its identity"));
    last(|_| "e=unknown-user".into(), Err("refused the login: unknown-user"));
}

/// SCRAM pass-through: a client's login has shown the keys, and they log in wherever the same verifier is.
#[test]
fn scram_with_keys() {
    let same: fn(String) -> String = |message| message;
    let try_keys = |password: &str, salt: &str, iterations| {
        let keys = ScramKeys::from_password(password.as_bytes(), salt.as_bytes(), iterations);
        exchange_with(Credential::Keys(keys.into()), same, same)
    };
    assert_eq!(try_keys("pencil", "salt", 10), Ok(()));
    assert_eq!(try_keys("Pencil", "salt", 10), Err(AuthError::WrongPassword));
    // Keys of another verifier of the same password are refused before anything is sent.
    assert_eq!(try_keys("pencil", "Salt", 10), Err(AuthError::OtherVerifier));
    assert_eq!(try_keys("pencil", "salt", 11), Err(AuthError::OtherVerifier));
}

/// Every kind of credential with every method of a server: what does not fit fails, and nothing is sent.
#[test]
fn credentials_and_methods() {
    let keys = || Credential::Keys(ScramKeys::from_password(b"pencil", b"salt", 10).into());
    let hash = || Credential::Md5(md5::hash_of(b"pencil", "user"));
    let mismatched = |asked, known| Err(AuthError::Mismatched { asked, known });
    let allowed = |credential| ServerLogin::new("user", credential, Cleartext::Allowed, NONCE);
    let cleartext = "a password in plain text";
    check(with(keys()), &[OK], Ok(Step::Done));
    check(with(hash()), &[OK], Ok(Step::Done));
    check(with(keys()), &[MD5], mismatched("md5", "SCRAM keys"));
    check(with(hash()), &[SCRAM], mismatched("SCRAM-SHA-256", "an md5 hash"));
    check(with(keys()), &[CLEARTEXT], unsupported(cleartext));
    check(with(hash()), &[CLEARTEXT], unsupported(cleartext));
    check(allowed(keys()), &[CLEARTEXT], mismatched(cleartext, "SCRAM keys"));
    check(allowed(hash()), &[CLEARTEXT], mismatched(cleartext, "an md5 hash"));
    check(allowed(Credential::None), &[SCRAM], Err(AuthError::NoPassword));
}

/// On an encrypted connection the login is bound to the server's certificate, if the server can.
#[test]
fn channel_binding() {
    const BOTH: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    let exchange = |own: Option<u8>, offer: &[u8], servers: Option<u8>| {
        let mut login = login(Some("pencil"));
        if let Some(byte) = own {
            login = login.bound_to(vec![byte; 32]);
        }
        let Step::Send(initial) = login.on_message(offer)? else { panic!("SCRAM starts with a message") };
        let initial = InitialResponse::parse(&initial)?;
        let account = Account::Known(Verifier::from_password(b"pencil", b"salt", 10));
        let server = ScramServer::new(account, servers.map(|byte| vec![byte; 32]));
        let (first, server) = server.on_client_first(initial.mechanism, initial.message.unwrap(), &NONCE)?;
        let Step::Send(proof) = login.on_message(&[b"\0\0\0\x0b", &first[..]].concat())? else {
            panic!("a challenge is answered")
        };
        let last = server.on_client_final(&proof)?.message;
        login.on_message(&[b"\0\0\0\x0c", &last[..]].concat()).map(|_| initial.mechanism.to_owned())
    };
    let (plain, plus) = (Ok("SCRAM-SHA-256".to_owned()), Ok("SCRAM-SHA-256-PLUS".to_owned()));
    assert_eq!(exchange(None, SCRAM, None), plain);
    assert_eq!(exchange(Some(1), BOTH, Some(1)), plus);
    // A server that cannot bind, which is what a certificate without a hash function leads to.
    assert_eq!(exchange(Some(1), SCRAM, None), plain);
    // A man in the middle: with a certificate of his own, or one who hides the server's offer.
    assert_eq!(exchange(Some(1), BOTH, Some(2)), Err(AuthError::ClientUnbound("SCRAM channel binding check failed")));
    assert_eq!(
        exchange(Some(1), SCRAM, Some(1)),
        Err(AuthError::ClientUnbound("SCRAM channel binding negotiation error"))
    );
}

/// A server that says yes before it has shown that it knows the password.
#[test]
fn skipped_signature() {
    check(login(Some("pencil")), &[SCRAM, OK], Err(AuthError::ServerUnproven));
    let mut login = login(Some("pencil"));
    let (server, _) = start(&mut login, |message| message);
    drop(server);
    assert_eq!(login.on_message(OK), Err(AuthError::ServerUnproven));
    assert!(login.on_message(OK).is_err());
}

#[test]
fn debug_hides() {
    let mut login = ServerLogin::new("user", known(Some("pencil")), Cleartext::Allowed, NONCE);
    let step = login.on_message(CLEARTEXT).unwrap();
    assert_eq!(format!("{login:?} {step:?}"), "ServerLogin { user: \"user\", .. } Send(***)");
}

proptest! {
    /// Once the server has chosen SCRAM, nothing but the right signature makes the login succeed.
    #[test]
    fn random_messages(messages in prop::collection::vec((0_u8..14, any::<Vec<u8>>()), 1..4), proof_sent in any::<bool>()) {
        let mut login = login(Some("pencil"));
        if proof_sent {
            start(&mut login, |message| message);
        } else {
            login.on_message(SCRAM).unwrap();
        }
        for (code, body) in messages {
            let outcome = login.on_message(&[&[0, 0, 0, code][..], &body].concat());
            prop_assert!(!matches!(outcome, Ok(Step::Done | Step::Wait)));
        }
    }

    /// The first message may be anything.
    #[test]
    fn random_first(payload in any::<Vec<u8>>()) {
        let _ = login(Some("pencil")).on_message(&payload);
    }
}

/// Runs a login up to its proof; `change` is what the server does to its server-first-message.
fn try_start(login: &mut ServerLogin, change: fn(String) -> String) -> Result<(ScramFinal, Vec<u8>), AuthError> {
    let Step::Send(initial) = login.on_message(SCRAM)? else { panic!("SCRAM starts with a message") };
    let initial = InitialResponse::parse(&initial)?;
    assert_eq!(initial.mechanism, "SCRAM-SHA-256");
    let server = ScramServer::new(Account::Known(Verifier::from_password(b"pencil", b"salt", 10)), None);
    let (first, server) = server.on_client_first(initial.mechanism, initial.message.unwrap(), &[0; NONCE_BYTES])?;
    let first = change(String::from_utf8(first).unwrap());
    let Step::Send(proof) = login.on_message(&[b"\0\0\0\x0b", first.as_bytes()].concat())? else {
        panic!("a challenge is answered")
    };
    Ok((server, proof))
}

fn start(login: &mut ServerLogin, change: fn(String) -> String) -> (ScramFinal, Vec<u8>) {
    try_start(login, change).unwrap()
}

fn exchange(password: &str, first: fn(String) -> String, last: fn(String) -> String) -> Result<(), AuthError> {
    exchange_with(known(Some(password)), first, last)
}

fn exchange_with(
    credential: Credential,
    first: fn(String) -> String,
    last: fn(String) -> String,
) -> Result<(), AuthError> {
    let mut login = with(credential);
    let (server, proof) = try_start(&mut login, first)?;
    let message = last(String::from_utf8(server.on_client_final(&proof)?.message).unwrap());
    assert_eq!(login.on_message(&[b"\0\0\0\x0c", message.as_bytes()].concat())?, Step::Wait);
    assert_eq!(login.on_message(OK)?, Step::Done);
    Ok(())
}

//! Clients that know the password, clients that do not, and clients that do not speak RFC 5802.

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::*;
use crate::verifier::DEFAULT_ITERATIONS;

const NONCE: [u8; NONCE_BYTES] = *b"eighteen bytes now";
const SECRET: [u8; MOCK_SECRET_BYTES] = [7; MOCK_SECRET_BYTES];

/// "3. SCRAM-SHA-256 [...] This is a simple example of a SCRAM-SHA-256 authentication exchange" (RFC 7677).
#[test]
fn rfc_7677_example() {
    let salt = scram::base64_decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let server = ScramServer::new(Account::Known(Verifier::from_password(b"pencil", &salt, 4096)), None);
    let (first, server) =
        server.challenge(SCRAM_SHA_256, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0").unwrap();
    assert_eq!(
        String::from_utf8(first).unwrap(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let last = server.on_client_final(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    );
    assert_eq!(String::from_utf8(last.unwrap().message).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn clients_of_another_implementation() {
    let check = |stored: &str, offered: &[u8], binding: fn() -> ChannelBinding, expected: Result<(), AuthError>| {
        let account = Account::Known(Verifier::from_password(stored.as_bytes(), b"salt", 10));
        let mut client = ScramSha256::new(offered, binding());
        let outcome = ScramServer::new(account, None)
            .on_client_first(SCRAM_SHA_256, client.message(), &NONCE)
            .and_then(|(first, server)| {
                client.update(&first).unwrap();
                server.on_client_final(client.message())
            });
        // The client checks our signature, so that both sides are proved.
        assert_eq!(outcome.map(|proof| client.finish(&proof.message).unwrap()), expected, "{stored:?} {offered:?}");
    };
    let (unsupported, unrequested) = (ChannelBinding::unsupported, ChannelBinding::unrequested);
    check("pencil", b"pencil", unsupported, Ok(()));
    check("pencil", b"pencil", unrequested, Ok(()));
    check("pencil", b"Pencil", unsupported, Err(AuthError::WrongPassword));
    check("pencil", b"", unsupported, Err(AuthError::WrongPassword));
    // The examples of RFC 4013: a soft hyphen is dropped, ª becomes a, Ⅸ becomes IX; prohibited text stays as it is.
    check("I\u{ad}X", b"IX", unsupported, Ok(()));
    check("IX", "\u{2168}".as_bytes(), unsupported, Ok(()));
    check("\u{aa}", b"a", unsupported, Ok(()));
    check("\u{7}", b"\x07", unsupported, Ok(()));
    check("pass\u{7}word", b"password", unsupported, Err(AuthError::WrongPassword));
    check(&"long".repeat(1000), "long".repeat(1000).as_bytes(), unsupported, Ok(()));
    let bound = || ChannelBinding::tls_server_end_point(vec![1; 32]);
    check(
        "pencil",
        b"pencil",
        bound,
        Err(AuthError::ClientMalformed("channel binding data with a mechanism that has none")),
    );
}

/// Nothing that an unknown user sees differs from what a known one with a wrong password sees.
#[test]
fn unknown_user() {
    let attempt = |account| {
        let mut client = ScramSha256::new(b"guess", ChannelBinding::unsupported());
        let (first, server) =
            ScramServer::new(account, None).on_client_first(SCRAM_SHA_256, client.message(), &NONCE).unwrap();
        client.update(&first).unwrap();
        let challenge = String::from_utf8(first).unwrap().split_once(",s=").unwrap().1.to_owned();
        (challenge, server.on_client_final(client.message()))
    };
    let known = Verifier::from_password(b"pencil", &crate::salt_for(&SECRET, "known"), DEFAULT_ITERATIONS);
    let (known, refused) = attempt(Account::Known(known));
    let (unknown, refused_too) = attempt(Account::unknown(&SECRET, "unknown", DEFAULT_ITERATIONS));
    assert_eq!((&refused, &refused_too), (&Err(AuthError::WrongPassword), &Err(AuthError::WrongPassword)));
    assert_eq!(known.len(), unknown.len());
    assert_eq!(known.split_once(',').unwrap().1, unknown.split_once(',').unwrap().1);
    // The salt is a name's own, and stays.
    let again = |secret, user| attempt(Account::unknown(secret, user, DEFAULT_ITERATIONS)).0;
    assert_eq!(unknown, again(&SECRET, "unknown"));
    assert_ne!(unknown, again(&SECRET, "known"));
    assert_ne!(unknown, again(&[8; MOCK_SECRET_BYTES], "unknown"));
}

/// Even a verifier that fits the password lets nobody in as an unknown user.
#[test]
fn unknown_user_never_succeeds() {
    let verifier = Verifier::from_password(b"pencil", b"salt", 10);
    let mut client = ScramSha256::new(b"pencil", ChannelBinding::unsupported());
    let server = ScramServer::new(Account::Unknown(verifier), None);
    let (first, server) = server.on_client_first(SCRAM_SHA_256, client.message(), &NONCE).unwrap();
    client.update(&first).unwrap();
    assert_eq!(server.on_client_final(client.message()), Err(AuthError::WrongPassword));
}

#[test]
fn first_messages() {
    let check = |message: &[u8], expected: Result<(), &str>| {
        let outcome = ScramServer::new(account(), None).on_client_first(SCRAM_SHA_256, message, &NONCE);
        let shown = String::from_utf8_lossy(message);
        match (outcome, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{shown}: {error}"),
            (outcome, _) => panic!("{shown}: {outcome:?}"),
        }
    };
    check(b"n,,n=,r=x", Ok(()));
    check(b"n,,n=user=2Cname,r=x", Ok(()));
    check("n,,n=Jürgen,r=x".as_bytes(), Ok(()));
    check(b"n,,n=,r=x,z=extension,y=", Ok(()));
    check(b"", Err("GS2 header"));
    check(b"x,,n=,r=x", Err("GS2 header"));
    check(b"n,n=,r=x", Err("GS2 header"));
    check(b"n,a=other,n=,r=x", Err("authorization identity"));
    check(b"p=tls-unique,,n=,r=x", Err("unsupported channel-binding type"));
    check(b"p=tls-server-end-point,,n=,r=x", Err("a mechanism that has none"));
    check(b"n,,m=x,n=,r=x", Err("mandatory extension"));
    check(b"n,,r=x", Err("user name is missing"));
    check(b"n,,n=", Err("nonce is missing"));
    check(b"n,,n=,", Err("nonce is missing"));
    check(b"n,,n=,s=x", Err("nonce is missing"));
    check(b"n,,n=,r=", Err("nonce is empty"));
    check(b"n,,n=,r=a\x7fb", Err("not printable"));
    check("n,,n=,r=é".as_bytes(), Err("not printable"));
    check(b"n,,n=,r=x,", Err("extension is malformed"));
    check(b"n,,n=,r=x,zz", Err("extension is malformed"));
    check(b"n,,n=,r=x,1=a", Err("extension is malformed"));
    check(b"n,,n=,r=x\0", Err("not text"));
    check(b"n,,n=,r=\xff", Err("not text"));
    check(format!("n,,n=,r={}", "x".repeat(CLIENT_NONCE_BYTES_MAX)).as_bytes(), Ok(()));
    check(format!("n,,n=,r={}", "x".repeat(CLIENT_NONCE_BYTES_MAX + 1)).as_bytes(), Err("nonce is too long"));
    check(format!("n,,n={},r=x", "u".repeat(MESSAGE_BYTES_MAX - 9)).as_bytes(), Ok(()));
    check(format!("n,,n={},r=x", "u".repeat(MESSAGE_BYTES_MAX - 8)).as_bytes(), Err("message is too long"));
}

/// One right final message, and what becomes of it when a part of it is another.
#[test]
fn final_messages() {
    let check = |from: &str, to: &str, expected: Result<(), &str>| {
        let (server, message) = before_final();
        assert!(message.contains(from), "{from:?} is not in {message}");
        let message = message.replacen(from, to, 1);
        match (server.on_client_final(message.as_bytes()), expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{message}: {error}"),
            (outcome, _) => panic!("{message}: {outcome:?}"),
        }
    };
    check("", "", Ok(()));
    check("c=biws,", "", Err("channel binding is missing"));
    check("c=biws,", "c=eSws,", Err("channel binding differs"));
    check("c=biws,", "c=,", Err("channel binding differs"));
    check(",r=", ",x=", Err("nonce is missing"));
    check("r=abc", "r=abd", Err("nonce is not the one"));
    // Only the client's half: shorter than the nonce, and a prefix of it.
    check(&scram::base64(&NONCE), "", Err("nonce is not the one"));
    check(",p=", "x,p=", Err("nonce is not the one"));
    check(",p=", ",z=,p=", Err("password authentication failed"));
    check(",p=", ",zz,p=", Err("extension is malformed"));
    check(",p=", ",q=", Err("proof is missing"));
    check(",p=", ",p=A", Err("32 bytes in base64"));
    check(",p=", ",p= ", Err("32 bytes in base64"));
    check("c=", "\0c=", Err("not text"));
    let (server, message) = before_final();
    let without_proof = message.rsplit_once(",p=").unwrap().0;
    let proof_of = |server: ScramFinal, proof: &[u8]| {
        server.on_client_final(format!("{without_proof},p={}", scram::base64(proof)).as_bytes())
    };
    assert_eq!(proof_of(server, &[0; 32]), Err(AuthError::WrongPassword));
    let wrong_length = Err(AuthError::ClientMalformed("the proof is not 32 bytes in base64"));
    assert_eq!(proof_of(before_final().0, &[0; 31]), wrong_length);
    assert_eq!(proof_of(before_final().0, &[0; 33]), wrong_length);
    assert_eq!(proof_of(before_final().0, &[]), wrong_length);
    let long = format!("{message}{}", "=".repeat(MESSAGE_BYTES_MAX));
    assert_eq!(
        before_final().0.on_client_final(long.as_bytes()),
        Err(AuthError::ClientMalformed("the message is too long"))
    );
}

/// Which binding goes with which mechanism, on plain connections and on encrypted ones.
#[test]
fn channel_binding() {
    const DATA: [u8; 32] = [1; 32];
    let check = |tls: bool, mechanism: &str, header: &str, expected: Result<(), (&str, &str)>| {
        let server = ScramServer::new(account(), tls.then(|| DATA.to_vec()));
        let first = format!("{header}n=,r=x");
        let outcome = server.on_client_first(mechanism, first.as_bytes(), &NONCE).map(drop);
        let outcome = outcome.map_err(|error| (error.sqlstate(), error.to_string()));
        match (outcome, expected) {
            (Ok(()), Ok(())) => {}
            (Err((code, text)), Err((state, reason))) => {
                assert!(code == state && text.contains(reason), "{tls} {mechanism} {header}: {code} {text}");
            }
            (outcome, _) => panic!("{tls} {mechanism} {header}: {outcome:?}"),
        }
    };
    let (plain, plus, end_point) = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,");
    let malformed = |reason| Err(("08P01", reason));
    check(false, plain, "n,,", Ok(()));
    check(false, plain, "y,,", Ok(()));
    check(false, plain, end_point, malformed("a mechanism that has none"));
    check(false, plus, "n,,", malformed("not offered"));
    check(false, plus, end_point, malformed("not offered"));
    check(true, plain, "n,,", Ok(()));
    check(true, plain, "y,,", Err(("28000", "SCRAM channel binding negotiation error")));
    check(true, plain, end_point, malformed("a mechanism that has none"));
    check(true, plus, end_point, Ok(()));
    check(true, plus, "n,,", malformed("no channel binding data"));
    check(true, plus, "y,,", malformed("no channel binding data"));
    check(true, plus, "p=tls-unique,,", malformed("unsupported channel-binding type"));
    check(true, plus, "p=tls-server-end-point,a=other,", Err(("0A000", "authorization identity")));
    check(true, "PLAIN", "n,,", malformed("not offered"));
    check(true, "", "n,,", malformed("not offered"));
    assert_eq!(ScramServer::new(account(), None).mechanisms(), [plain]);
    assert_eq!(ScramServer::new(account(), Some(DATA.to_vec())).mechanisms(), [plus, plain]);

    // A client of another implementation, bound to this certificate or to another one.
    let bound = |data: [u8; 32]| {
        let mut client = ScramSha256::new(b"pencil", ChannelBinding::tls_server_end_point(data.to_vec()));
        let server = ScramServer::new(account(), Some(DATA.to_vec()));
        let (first, server) = server.on_client_first(plus, client.message(), &NONCE).unwrap();
        client.update(&first).unwrap();
        server.on_client_final(client.message()).map(|proof| client.finish(&proof.message).unwrap())
    };
    assert_eq!(bound(DATA), Ok(()));
    assert_eq!(bound([2; 32]), Err(AuthError::ClientUnbound("SCRAM channel binding check failed")));
}

/// What a proof shows is the keys of the verifier that it was checked against.
#[test]
fn proofs_show_keys() {
    let (server, message) = before_final();
    let proof = server.on_client_final(message.as_bytes()).unwrap();
    assert_eq!(proof.keys, ScramKeys::from_password(b"pencil", b"salt", 1));
    assert!(proof.keys.fit(account().verifier()));
    assert_eq!(format!("{:?}", proof.keys), "ScramKeys(***)");
}

#[test]
fn initial_responses() {
    let check = |payload: &[u8], expected: Option<(&str, Option<&[u8]>)>| {
        let expected = expected.map(|(mechanism, message)| InitialResponse { mechanism, message });
        assert_eq!(InitialResponse::parse(payload).ok(), expected, "{payload:?}");
    };
    check(b"SCRAM-SHA-256\0\0\0\0\x02n,", Some(("SCRAM-SHA-256", Some(b"n,"))));
    check(b"SCRAM-SHA-256\0\0\0\0\0", Some(("SCRAM-SHA-256", Some(b""))));
    check(b"X\0\xff\xff\xff\xff", Some(("X", None)));
    check(b"\0\0\0\0\0", Some(("", Some(b""))));
    check(b"", None);
    check(b"SCRAM-SHA-256", None);
    check(b"SCRAM-SHA-256\0\0\0\0", None);
    check(b"X\0\0\0\0\x02n", None);
    check(b"X\0\0\0\0\x01n,", None);
    check(b"X\0\xff\xff\xff\xffn", None);
    check(b"X\0\xff\xff\xff\xfen", None);
    check(b"X\0\x7f\xff\xff\xffn", None);
    check(b"X\0\x80\0\0\0n", None);
    check(b"\xff\0\0\0\0\0", None);
}

/// Neither role's secrets are in what a log might print.
#[test]
fn debug_hides() {
    let (server, _) = before_final();
    let shown = format!("{server:?} {:?}", ScramServer::new(account(), None));
    assert!(!shown.contains("abc") && !shown.contains("salt") && !shown.contains("stored"), "{shown}");
}

proptest! {
    /// Whatever the bytes are, the server neither panics nor lets anybody in.
    #[test]
    fn random_bytes(first in any::<Vec<u8>>(), last in any::<Vec<u8>>()) {
        prop_assert!(ScramServer::new(account(), None).on_client_first(SCRAM_SHA_256, &first, &NONCE).is_err());
        prop_assert!(before_final().0.on_client_final(&last).is_err());
        let _ = InitialResponse::parse(&first);
    }

    /// The same for text that looks like SCRAM.
    #[test]
    fn random_attributes(first in "[ny],,n=[a-z]{0,4},r=[!-+--~]{1,9}", last in "c=(biws|eSws),r=abc[a-zA-Z0-9+/=]{0,24}(,z=a)?,p=[a-zA-Z0-9+/]{43}=") {
        let (_, server) = ScramServer::new(account(), None).on_client_first(SCRAM_SHA_256, first.as_bytes(), &NONCE).unwrap();
        prop_assert!(server.on_client_final(last.as_bytes()).is_err());
        prop_assert!(before_final().0.on_client_final(last.as_bytes()).is_err());
    }

    /// One byte of the right answer changed is a wrong answer.
    #[test]
    fn one_byte_changed(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let (server, message) = before_final();
        let mut message = message.into_bytes();
        let at = at.index(message.len());
        prop_assume!(message[at] != to);
        message[at] = to;
        prop_assert!(server.on_client_final(&message).is_err());
    }

    /// What somebody in the middle changed of the first message makes the right proof wrong.
    #[test]
    fn one_byte_changed_before(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut first = FIRST.as_bytes().to_vec();
        let at = at.index(first.len());
        prop_assume!(first[at] != to);
        first[at] = to;
        if let Ok((_, server)) = ScramServer::new(account(), None).on_client_first(SCRAM_SHA_256, &first, &NONCE) {
            prop_assert!(server.on_client_final(before_final().1.as_bytes()).is_err());
        }
    }
}

const FIRST: &str = "n,,n=user,r=abc";

fn account() -> Account {
    Account::Known(Verifier::from_password(b"pencil", b"salt", 1))
}

/// A server that waits for the proof, and the right final message for it, computed step by step as RFC 5802 section 3 says.
fn before_final() -> (ScramFinal, String) {
    let (first, server) =
        ScramServer::new(account(), None).on_client_first(SCRAM_SHA_256, FIRST.as_bytes(), &NONCE).unwrap();
    let salted_password = scram::salted_password(b"pencil", b"salt", 1);
    let client_key = scram::hmac(&salted_password, b"Client Key");
    let without_proof = format!("c=biws,r=abc{}", scram::base64(&NONCE));
    let auth_message = format!("n=user,r=abc,{},{without_proof}", String::from_utf8(first).unwrap());
    let signature = scram::hmac(&scram::hash(&client_key), auth_message.as_bytes());
    let message = format!("{without_proof},p={}", scram::base64(&scram::xor(&client_key, &signature)));
    (server, message)
}

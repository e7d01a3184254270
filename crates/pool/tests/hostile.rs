//! Servers that are none: what they send during a login is bounded, is answered with an error that says so, and costs nothing.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use auth::{Credential, ScramKeys};
use pool::{Connection, DialError, Target, Wallet, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SCRAM: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// A message of an announced length.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn sasl_continue(text: &str) -> Vec<u8> {
    message(b'R', &[&11_i32.to_be_bytes()[..], text.as_bytes()].concat())
}

/// Connects to somebody who sends the first of these at once, and each other after hearing from us. Returns the error, and all that
/// the stranger has heard.
async fn meet(credential: Credential, says: &[Vec<u8>]) -> (DialError, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Arc::new(Target {
        whereabouts: Default::default(),
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
        user: "alice".to_owned(),
        wallet: Wallet::new(credential),
        database: "postgres".to_owned(),
        timeout: Duration::from_secs(60),
        keepalive: None,
        tls: None,
    });
    let stranger = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        for words in says {
            stream.read_buf(&mut heard).await.unwrap();
            // Whoever hangs up in the middle has heard enough.
            let _ = stream.write_all(words).await;
        }
        let _ = stream.read_to_end(&mut heard).await;
        heard
    };
    let (outcome, heard) = tokio::join!(dial(&target, (), 0), stranger);
    let made: Result<Connection<()>, DialError> = outcome;
    let Err(error) = made else { panic!("a stranger has let us in") };
    (error, heard)
}

async fn check(says: &[Vec<u8>], expected: &str) {
    let keys = Credential::Keys(ScramKeys::from_password(b"wonderland", b"salt", 1).into());
    for credential in [Credential::None, Credential::Password("wonderland".into()), keys] {
        let without = matches!(credential, Credential::None);
        let (error, heard) = meet(credential, says).await;
        let text = error.to_string();
        // Without a secret, a login may end earlier.
        assert!(text.contains(expected) || (without && text.contains("none is known")), "{text}");
        assert!(text.len() < 200 && !error.is_transient(), "{text}");
        assert!(!String::from_utf8_lossy(&heard).contains("wonderland"));
    }
}

/// CVE-2026-6666: an error need not have a SQLSTATE, nor anything else.
#[tokio::test]
async fn errors_without_a_sqlstate() {
    for (body, expected) in [
        (&b"SFATAL\0Mgo away\0\0"[..], "go away"),
        (b"Mgo away\0\0", "go away"),
        (b"C28\0Mgo away\0\0", "go away"),
        (b"\0", ""),
        (b"", ""),
        (b"M", ""),
        (b"C28000", ""),
    ] {
        check(&[message(b'E', body)], expected).await;
        let (error, _) = meet(Credential::None, &[message(b'E', body)]).await;
        assert!(matches!(error, DialError::Refused { code: None, .. }), "{body:?}: {error:?}");
    }
}

/// A server that is ended as soon as it has let us in says so in the same breath: that is no breach of the protocol, and will pass.
#[tokio::test]
async fn a_farewell_behind_the_end_of_the_login() {
    let ready = message(b'Z', b"I");
    let farewell = message(b'E', b"SFATAL\0C57P01\0Mterminating connection\0\0");
    let (error, _) = meet(Credential::None, &[[OK, &ready, &farewell].concat()]).await;
    assert!(error.is_transient() && error.to_string() == "terminating connection", "{error:?}");
    // Notices may come at any time: "frontends must be prepared to deal with" them.
    let notice = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0");
    let (error, _) = meet(Credential::None, &[[&notice, OK, &notice, &ready, &farewell].concat()]).await;
    assert_eq!(error.to_string(), "terminating connection", "{error:?}");
    let (error, _) = meet(Credential::None, &[[OK, &ready, &ready].concat()]).await;
    assert!(matches!(error, DialError::Protocol(_)), "{error:?}");
}

/// CVE-2026-6664 and 6665: lengths that are lies, and fields that are too long.
#[tokio::test]
async fn oversized_fields() {
    check(&[b"R\x7f\xff\xff\xff".to_vec()], "too large for a login").await;
    check(&[b"R\xff\xff\xff\xff".to_vec()], "impossible length").await;
    check(&[b"R\0\0\0\x03".to_vec()], "impossible length").await;
    check(&[b"E\0\x10\0\0".to_vec()], "too large for a login").await;
    check(&[message(b'R', &[0; 60_000])], "too long").await;
    check(&[message(b'R', b"\0\0\0\x05abc")], "cut off").await;
    check(&[message(b'R', b"\0\0")], "cut off").await;
    check(&[message(b'R', b"\0\0\0\x0aSCRAM-SHA-256")], "cut off").await;
    let nonce = "x".repeat(600);
    check(&[SCRAM.to_vec(), sasl_continue(&format!("r={nonce},s=c2FsdA==,i=1"))], "the nonce is too long").await;
    let nonce = "x".repeat(5000);
    check(&[SCRAM.to_vec(), sasl_continue(&format!("r={nonce},s=c2FsdA==,i=1"))], "too long").await;
    check(&[SCRAM.to_vec(), sasl_continue("r=x,s=c2FsdA==,i=1")], "the nonce is not ours").await;
    check(&[SCRAM.to_vec(), sasl_continue("")], "the nonce is missing").await;
}

/// Who cannot show the signature is not believed, and nobody gets a password in clear text.
#[tokio::test]
async fn pretenders() {
    check(&[SCRAM.to_vec(), OK.to_vec()], "could not prove its identity").await;
    check(&[message(b'R', &3_i32.to_be_bytes())], "a password in plain text").await;
    check(&[[SCRAM, SCRAM].concat()], "not expected").await;
    check(&[message(b'Z', b"I")], "unexpected message").await;
    check(&[[OK, OK].concat()], "unexpected message").await;
}

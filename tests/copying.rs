//! COPY that goes wrong: what the client is still sending must not reach anybody else.

use wire::frontend;

use crate::harness::{Setup, Stage};
use crate::raw::{Raw, sqlstate, tags, value};

async fn stage() -> Stage {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let stage = setup.start().await.unwrap();
    stage.psql("create table numbers (number int)").await;
    stage
}

/// A COPY that the server has refused while the client is in the middle of a CopyData message of 100,000 bytes; the bytes
/// that it still owes.
async fn fails_in_the_middle(client: &mut Raw) -> Vec<u8> {
    let mut query = Vec::new();
    frontend::put_query(&mut query, "copy numbers from stdin");
    client.say(&query).await;
    assert_eq!(client.hear().await.unwrap().tag, b'G');
    // In one write, so that the proxy has begun to pass the second message on when the server refuses the first.
    let mut messages = [copy_data(b"no number\n"), copy_data(&b"12345678\n".repeat(11_111))].concat();
    let rest = messages.split_off(40);
    client.say(&messages).await;
    let answer = client.until_ready().await;
    assert_eq!((tags(&answer).as_str(), sqlstate(&answer).as_deref()), ("EZ", Some("22P02")));
    rest
}

fn copy_data(data: &[u8]) -> Vec<u8> {
    let mut message = vec![frontend::tag::COPY_DATA];
    message.extend_from_slice(&u32::try_from(data.len() + 4).unwrap().to_be_bytes());
    message.extend_from_slice(data);
    message
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_message() {
    let stage = stage().await;
    let mut client = Raw::log_in(&stage.proxy, "postgres").await;
    let mut other = Raw::log_in(&stage.proxy, "postgres").await;
    for _ in 0..3 {
        let rest = fails_in_the_middle(&mut client).await;
        client.say(&rest).await;
        // CopyDone comes late, too, and is not answered.
        client.say(b"c\0\0\0\x04").await;
        assert_eq!(value(&client.query("select 7").await).as_deref(), Some("7"));
        assert_eq!(value(&other.query("select 8").await).as_deref(), Some("8"));
        assert_eq!(value(&other.query("select count(*) from numbers").await).as_deref(), Some("0"));
    }
}

#[tokio::test]
async fn a_client_that_vanishes_in_the_middle_of_a_message() {
    let stage = stage().await;
    let mut other = Raw::log_in(&stage.proxy, "postgres").await;
    for _ in 0..3 {
        let mut client = Raw::log_in(&stage.proxy, "postgres").await;
        fails_in_the_middle(&mut client).await;
        drop(client);
        assert_eq!(value(&other.query("select count(*) from numbers").await).as_deref(), Some("0"));
    }
}

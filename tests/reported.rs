//! What a client is told of its settings (ParameterStatus) is what it has.

use std::collections::BTreeMap;

use wire::backend::{self, tag};
use wire::frontend;

use crate::harness::{Proxy, Setup, until};
use crate::raw::{Message, Raw, put_execute, sqlstate, value};

/// A client that remembers what it was told.
struct Listener {
    raw: Raw,
    told: BTreeMap<String, String>,
}

impl Listener {
    async fn log_in(proxy: &Proxy) -> Listener {
        let mut raw = Raw::open(proxy).await;
        raw.knock("postgres", "postgres").await;
        let greeting = raw.until_ready().await;
        let mut listener = Listener { raw, told: BTreeMap::new() };
        listener.note(&greeting);
        listener
    }

    fn note(&mut self, messages: &[Message]) {
        let parameters = messages.iter().filter(|message| message.tag == tag::PARAMETER_STATUS);
        for (name, value) in parameters.filter_map(|message| backend::parameter_status(&message.body)) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.told.insert(text(name), text(value));
        }
    }

    async fn ask(&mut self, said: &str) -> Vec<Message> {
        let answer = match said.strip_prefix("extended: ") {
            None => self.raw.query(said).await,
            Some(sql) => {
                let mut out = Vec::new();
                frontend::put_parse(&mut out, b"", sql.as_bytes(), &[0, 0]);
                put_execute(&mut out, "");
                frontend::put_sync(&mut out);
                self.raw.say(&out).await;
                self.raw.until_ready().await
            }
        };
        self.note(&answer);
        assert_eq!(sqlstate(&answer), None, "{said}");
        answer
    }

    /// What it was told before it asked is what it gets.
    async fn is_told_the_truth(&mut self, after: &str) {
        for name in ["TimeZone", "DateStyle", "application_name", "session_authorization"] {
            let told = self.told[name].clone();
            let shown = value(&self.ask(&format!("show {name}")).await).unwrap();
            assert_eq!(told, shown, "{name} after {after}");
        }
    }
}

#[tokio::test]
async fn what_a_client_is_told_is_what_it_has() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let stage = setup.start().await.unwrap();
    stage
        .psql(
            "create role other;
             create function meddle() returns text begin atomic
               select set_config('TimeZone', 'Asia/Tehran', false) || set_config('DateStyle', 'German', false); end;
             create procedure proceed() begin atomic select meddle(); end;",
        )
        .await;
    let (mut one, mut two) = (Listener::log_in(&stage.proxy).await, Listener::log_in(&stage.proxy).await);
    // Each by itself: what several of them say is said one after the other.
    let scripts: [&[&str]; 12] = [
        &["select meddle()"],
        &["extended: select meddle()"],
        &["call proceed()"],
        &["set time zone 'Asia/Tokyo'; select meddle()"],
        &["begin", "select meddle()", "commit"],
        &["begin", "select meddle()", "rollback"],
        &["begin", "select meddle()", "set time zone 'Asia/Kabul'", "commit"],
        &["begin; select meddle()", "set datestyle = 'SQL'; commit"],
        &["select pg_advisory_lock(1), meddle()", "select pg_advisory_unlock(1)", "select 1"],
        &["do $$ begin perform meddle(); end $$", "select meddle()"],
        &["select set_config('TimeZone', lower('ASIA/KABUL'), false), meddle()", "select 1"],
        &[
            "set session authorization other",
            "reset session authorization",
            "set application_name = 'x'",
            "discard all",
        ],
    ];
    for script in scripts {
        let after = script.join("; ");
        for said in script {
            one.ask(said).await;
        }
        one.is_told_the_truth(&after).await;
        two.is_told_the_truth(&after).await;
    }
    one.ask("set time zone 'Asia/Tokyo'").await;

    // Defaults that change: the server tells once, whoever has it then.
    for (setting, name, default) in [("datestyle", "DateStyle", "SQL, DMY"), ("timezone", "TimeZone", "Asia/Kabul")] {
        stage.direct(0, &format!("alter system set {setting} = '{default}'")).await;
        stage.direct(0, "select pg_reload_conf()").await;
        // The first one has a time zone of its own, behind which the server does not tell.
        let mut three = Listener::log_in(&stage.proxy).await;
        until("the server to know", async || {
            one.ask("select 1").await;
            three.ask("select 1").await;
            three.told[name] == default
        })
        .await
        .unwrap();
        two.ask("select 1").await;
        assert_eq!(two.told[name], default);
        for listener in [&mut one, &mut two, &mut three] {
            listener.is_told_the_truth(setting).await;
        }
    }
    assert_eq!(one.told["TimeZone"], "Asia/Tokyo");
    one.ask("reset timezone").await;
    one.is_told_the_truth("reset timezone").await;
    assert_eq!(one.told["TimeZone"], "Asia/Kabul");
}

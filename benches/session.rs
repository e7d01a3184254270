//! What the session core costs for a request and its answer: the proxy's own work, without a socket.

mod measure;

use std::hint::black_box;
use std::time::{Duration, Instant};

use classifier::{Classifier, Options};
use measure::{Case, measure};
use session::{Consistency, Policy, Role, Route, ServerMemory, Session, Settings, Step};
use wire::backend::{self, Status, tag};
use wire::frame::Frames;
use wire::frontend;

/// A client that asks the same again and again, and a server that has always the same answer.
struct Conversation {
    session: Session,
    memory: ServerMemory,
    classifier: Classifier,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    now: Instant,
}

impl Conversation {
    fn new() -> Conversation {
        let policy = Policy {
            split: true,
            route: Route::Auto,
            consistency: Consistency::Session,
            max_lag: Some(Duration::from_secs(1)),
            affinity: session::Affinity::None,
            commit_resolution: false,
            transaction_replay: false,
            pin: false,
            durability: std::sync::Arc::new([]),
            keeps_server: false,
            refuses_blocks: false,
            request_max: 1 << 20,
            transaction_max: 1 << 20,
            statements_max: 1 << 30,
        };
        let settings = Settings::new([("application_name", "pgbench"), ("client_encoding", "UTF8")]);
        Conversation {
            session: Session::new(policy, settings),
            memory: ServerMemory::new(200),
            classifier: Classifier::new(Options::default()),
            to_server: Vec::new(),
            to_client: Vec::new(),
            now: Instant::now(),
        }
    }

    /// One request from its first byte to the server's release.
    fn turn(&mut self, request: &[u8], reply: &[u8]) {
        for frame in Frames::new(request) {
            if let Step::Request(intent) = self.session.on_client(frame, &self.classifier).expect("well-formed") {
                black_box(intent);
                self.session.attach(Role::Replica);
                self.session.encode(&mut self.memory, &mut self.to_server);
            }
        }
        for frame in Frames::new(reply) {
            black_box(self.session.on_server(frame.tag, frame.body(), &mut self.memory, self.now));
            if self.session.has_output() {
                self.session.take_output(&mut self.to_client);
            }
        }
        self.session.detach(&mut self.memory);
        self.to_server.clear();
        self.to_client.clear();
    }
}

fn results(out: &mut Vec<u8>) {
    backend::put_text_row(out, &["-1234567"]);
    backend::put_command_complete(out, "SELECT 1");
    backend::put_ready(out, Status::Idle);
}

fn execute(out: &mut Vec<u8>) {
    frontend::put_bind(out, b"", b"P_0", b"\0\0\0\x01\0\0\0\x042345\0\0");
    out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
    frontend::put_sync(out);
}

fn main() {
    let sql = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";
    let statement = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;";

    // The settings of the startup packet are on the server from the first turn on.
    let mut hidden = Vec::new();
    backend::put_command_complete(&mut hidden, "SET");
    backend::put_ready(&mut hidden, Status::Idle);
    let ready_for = |request: &[u8], reply: &[u8]| {
        let mut conversation = Conversation::new();
        conversation.turn(request, &[&hidden, reply].concat());
        assert!(conversation.session.is_quiet());
        conversation
    };

    let (mut request, mut reply) = (Vec::new(), Vec::new());
    frontend::put_query(&mut request, sql);
    backend::put_text_columns(&mut reply, &["abalance"]);
    results(&mut reply);
    let mut conversation = ready_for(&request, &reply);
    let simple = move || conversation.turn(&request, &reply);

    let (mut first, mut first_reply, mut request, mut reply) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    frontend::put_parse(&mut first, b"P_0", statement, &[0, 0]);
    frontend::put_sync(&mut first);
    backend::put_bare(&mut first_reply, tag::PARSE_COMPLETE);
    backend::put_ready(&mut first_reply, Status::Idle);
    execute(&mut request);
    backend::put_bare(&mut reply, tag::BIND_COMPLETE);
    results(&mut reply);
    let mut conversation = ready_for(&first, &first_reply);
    let prepared = move || conversation.turn(&request, &reply);

    let (mut request, mut reply) = (Vec::new(), Vec::new());
    frontend::put_parse(&mut request, b"", statement, &[0, 0]);
    frontend::put_bind(&mut request, b"", b"", b"\0\0\0\x01\0\0\0\x042345\0\0");
    request.extend_from_slice(b"D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0");
    frontend::put_sync(&mut request);
    backend::put_bare(&mut reply, tag::PARSE_COMPLETE);
    backend::put_bare(&mut reply, tag::BIND_COMPLETE);
    backend::put_text_columns(&mut reply, &["abalance"]);
    results(&mut reply);
    let mut conversation = ready_for(&request, &reply);
    let extended = move || conversation.turn(&request, &reply);

    measure(vec![
        Case::new("session/simple", simple),
        Case::new("session/prepared: Bind, Execute, Sync", prepared),
        Case::new("session/extended: Parse, Bind, Describe, Execute, Sync", extended),
    ]);
}

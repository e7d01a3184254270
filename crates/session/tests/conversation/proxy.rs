//! Clients, their sessions and the servers between which bytes are moved, as the relay does; and `check`, which runs a script.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::{Catalog, Classifier, Facts, Options, Rules, Volatility};
use session::{Consistency, Fate, Loss, Need, Policy, Role, Route, ServerMemory, Session, Settings, Step, Verdict};
use wire::backend::Report;
use wire::frame::Frame;
use wire::frontend::tag;

use crate::script::{Names, replies, requests};
use crate::server::{Fault, Faults, Server, What};

/// One line of a script: what a client sends (or `!` and an event), what the servers are sent of it, what the client gets.
pub(crate) type Line = (&'static str, &'static str, &'static str);

/// Runs a script with one client.
pub(crate) fn check(lines: &[Line]) {
    Proxy::new(1).check(lines);
}

pub(crate) struct Proxy {
    classifier: Rc<Classifier>,
    pub(crate) clients: Vec<Client>,
    idle: Vec<Connection>,
    pub(crate) faults: Faults,
    names: Names,
    log: Vec<String>,
    prepared_max: usize,
    now: Instant,
    /// Whether the replica has seen every write.
    fresh: bool,
    /// Whether there is any server.
    up: bool,
    /// What will be found out of a commit that is lost.
    fate: Fate,
    /// What a session that rests has given back; the next one to speak gets it.
    scratch: Option<session::Scratch>,
    /// Decides, by chance, whether a client is listened to before its server; zero listens to the client first.
    pub(crate) order: u64,
    /// How many requests went out ahead of the answers to earlier ones.
    pub(crate) ahead: usize,
    /// The most requests that were on their way at once.
    pub(crate) most_ahead: usize,
    on_their_way: usize,
}

pub(crate) struct Client {
    pub(crate) session: Session,
    lease: Option<Connection>,
    /// Sent by the client, not taken.
    unread: Vec<u8>,
    /// On the way to the client.
    outgoing: Vec<u8>,
    /// At the client.
    received: Vec<u8>,
    pub(crate) closed: bool,
}

struct Connection {
    role: Role,
    server: Server,
    memory: ServerMemory,
    /// How many statements it had when it was given back last.
    kept: usize,
    /// How many were described since.
    described: usize,
}

/// Of a database that has been read, and has nothing.
fn empty() -> Catalog {
    Facts::new(Rules::default()).conclude()
}

pub(crate) fn policy() -> Policy {
    Policy {
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
        statements_max: 1 << 20,
    }
}

impl Proxy {
    pub(crate) fn new(clients: usize) -> Proxy {
        let mut proxy = Proxy {
            classifier: Rc::new(Classifier::new(Options { catalog: empty(), ..Options::default() })),
            clients: Vec::new(),
            idle: Vec::new(),
            faults: Rc::new(RefCell::default()),
            names: Names::default(),
            log: Vec::new(),
            prepared_max: 100,
            now: Instant::now(),
            fresh: true,
            up: true,
            fate: Fate::Unknown,
            scratch: None,
            order: 0,
            ahead: 0,
            most_ahead: 0,
            on_their_way: 0,
        };
        (0..clients).for_each(|_| proxy.connect(policy(), &[]));
        proxy
    }

    /// The same, whose clients want to know what becomes of their commits.
    pub(crate) fn resolving(mut self, resolves: bool) -> Proxy {
        for _ in 0..std::mem::take(&mut self.clients).len() {
            self.connect(Policy { commit_resolution: resolves, ..policy() }, &[]);
        }
        self
    }

    pub(crate) fn prepared_max(mut self, prepared_max: usize) -> Proxy {
        self.prepared_max = prepared_max;
        self
    }

    pub(crate) fn connect(&mut self, policy: Policy, startup: &[(&str, &str)]) {
        let mut session = Session::new(policy, Settings::new(startup.iter().copied()));
        let timezone = startup.iter().find(|(name, _)| *name == "timezone").map_or("default", |(_, value)| value);
        session.greet(Arc::new([(&b"TimeZone"[..], timezone.as_bytes())].into_iter().collect()));
        let (unread, outgoing, received) = (Vec::new(), Vec::new(), Vec::new());
        self.clients.push(Client { session, lease: None, unread, outgoing, received, closed: false });
    }

    /// Runs a script with the first client. A line of `2: ...` is the second one's.
    pub(crate) fn check(&mut self, lines: &[Line]) {
        for (number, (line, to_servers, to_client)) in lines.iter().enumerate() {
            let (client, action) = match line.split_once(": ") {
                Some((client, action)) if client.len() == 1 => (client.parse::<usize>().unwrap() - 1, action),
                _ => (0, *line),
            };
            match action.strip_prefix('!') {
                Some(event) => self.event(client, event),
                None => {
                    self.clients[client].unread.extend(requests(action));
                    self.pump(client);
                }
            }
            let received = replies(&std::mem::take(&mut self.clients[client].received));
            let sent = std::mem::take(&mut self.log).join(" ").replace(TRACE, "trace?");
            assert_eq!((sent.as_str(), received.as_str()), (*to_servers, *to_client), "line {}: {line}", number + 1);
        }
    }

    /// What the client gets for these messages.
    pub(crate) fn exchange(&mut self, client: usize, messages: &[u8]) -> Vec<u8> {
        self.clients[client].unread.extend_from_slice(messages);
        self.pump(client);
        self.log.clear();
        std::mem::take(&mut self.clients[client].received)
    }

    /// `fault ROLE WHAT SQL`, `lose` (the server that the client holds), `stale`, `fresh`, `down`, `up`, `alter` (the table `shifting`), `lag`
    /// (the last such alteration is not on the replica), `immutable NAME` and `volatile NAME` (what the catalogue says of a function),
    /// `definitions COUNT`, `default VALUE` (of any setting, from now on).
    fn event(&mut self, client: usize, event: &str) {
        let words: Vec<&str> = event.splitn(4, ' ').collect();
        match words[0] {
            "fault" => {
                let role = if words[1] == "replica" { Role::Replica } else { Role::Primary };
                let code = |text: &str| -> &'static str { text.to_owned().leak() };
                let what = match words[2].split_once(':').unwrap_or((words[2], "")) {
                    ("error", state) => What::Error(code(state)),
                    ("late-error", state) => What::LateError(code(state)),
                    ("fatal", state) => What::Fatal(code(state)),
                    ("die", _) => What::Die,
                    ("late-die", _) => What::LateDie,
                    ("torn-die", _) => What::TornDie,
                    (other, _) => panic!("no such fault: {other}"),
                };
                self.faults.borrow_mut().faults.push(Fault { role, what, sql: words[3].to_owned() });
            }
            "lose" => {
                self.kill(client);
                self.pump(client);
            }
            "stale" => self.fresh = false,
            "fresh" => self.fresh = true,
            "alter" => self.faults.borrow_mut().alterations += 1,
            "lag" => self.faults.borrow_mut().lag += 1,
            "fate" => {
                self.fate = match words[1] {
                    "committed" => Fate::Committed,
                    "aborted" => Fate::Aborted,
                    _ => Fate::Unknown,
                }
            }
            "default" => self.faults.borrow_mut().default = Some(words[1].to_owned()),
            "down" => self.up = false,
            "up" => self.up = true,
            "immutable" | "volatile" => {
                let volatility = if words[0] == "immutable" { Volatility::Immutable } else { Volatility::Volatile };
                let mut catalog = empty();
                catalog.function("public", words[1], volatility);
                self.classifier = Rc::new(Classifier::new(Options { catalog, ..Options::default() }));
                for client in &mut self.clients {
                    assert!(
                        client.session.is_between(),
                        "nothing may be kept that was judged by the classifier before"
                    );
                    client.session.reclassify(&self.classifier);
                }
            }
            "definitions" => assert_eq!(self.clients[client].session.definitions().to_string(), words[1]),
            "released" => assert!(self.clients[client].lease.is_none(), "the client holds its server"),
            "held" => assert!(self.clients[client].lease.is_some(), "the client holds no server"),
            other => panic!("no such event: {other}"),
        }
    }

    /// The server that a client holds, if it holds one, dies.
    pub(crate) fn kill(&mut self, client: usize) {
        if let Some(connection) = &mut self.clients[client].lease {
            connection.server.dead = true;
        }
    }

    fn checkout(&mut self, need: Need) -> Connection {
        let role = match need {
            Need::Replica { not_before, .. } if self.fresh || not_before.is_none() => Role::Replica,
            _ => Role::Primary,
        };
        self.server(role)
    }

    fn server(&mut self, role: Role) -> Connection {
        match self.idle.iter().position(|connection| connection.role == role) {
            Some(at) => self.idle.remove(at),
            None => {
                let server = Server::new(role, self.faults.clone());
                let mut memory = ServerMemory::new(self.prepared_max);
                memory.report(b"TimeZone", b"default");
                Connection { role, server, memory, kept: 0, described: 0 }
            }
        }
    }

    fn give_back(&mut self, mut connection: Connection, session: &mut Session) {
        session.detach(&mut connection.memory);
        connection.server.is_clean().unwrap();
        assert_eq!(
            connection.memory.prepared(),
            connection.server.prepared(),
            "statements that the server has, {:?}",
            self.log
        );
        // An eviction that was discarded has been counted upon by requests behind it. Statements that are described for one request
        // are there together, and for as long as nothing else is prepared.
        let most = self.prepared_max.max(connection.kept) + self.ahead + std::mem::take(&mut connection.described);
        assert!(connection.server.prepared() <= most, "more statements than allowed");
        connection.kept = connection.server.prepared();
        self.idle.push(connection);
    }

    /// Moves bytes until nothing moves any more.
    fn pump(&mut self, at: usize) {
        loop {
            let mut client = self.clients.remove(at);
            let moved = self.turn(&mut client);
            self.clients.insert(at, client);
            if !moved {
                return;
            }
        }
    }

    fn turn(&mut self, client: &mut Client) -> bool {
        self.now += Duration::from_millis(1);
        if client.closed {
            return false;
        }
        if client.lease.is_some() {
            return self.relay(client);
        }
        client.session.take_output(&mut client.outgoing);
        client.received.append(&mut client.outgoing);
        let step = match client.session.backlog() {
            Some(intent) => Step::Request(intent),
            None => match self.next_step(client) {
                Some(step) => step,
                None => return false,
            },
        };
        match step {
            Step::Request(intent) if self.up => {
                client.lease = Some(self.checkout(intent.need));
                self.on_their_way = 1;
                self.send(client, true);
            }
            Step::Request(_) => client.session.refuse(&wire::backend::Failure::error("57P03", "nobody is there")),
            Step::Terminate => client.closed = true,
            Step::Listen => drop(client.session.listened()),
            Step::Copy => panic!("there is no server to copy to"),
            Step::Later => panic!("there is nothing to wait for"),
            Step::Answered | Step::Gathering => {}
        }
        true
    }

    fn send(&mut self, client: &mut Client, fresh: bool) {
        let connection = client.lease.as_mut().expect("a server is held");
        if fresh {
            client.session.attach(connection.role);
        }
        let mut bytes = Vec::new();
        client.session.encode(&mut connection.memory, &mut bytes);
        self.deliver(client, &bytes);
    }

    fn deliver(&mut self, client: &mut Client, bytes: &[u8]) {
        let connection = client.lease.as_mut().expect("a server is held");
        let mut rest = bytes;
        while !rest.is_empty() {
            let frame = Frame::take(rest).unwrap().expect("the proxy sends whole messages");
            let role = if connection.role == Role::Primary { "p" } else { "r" };
            self.log.push(format!("{role}.{}", self.names.show(frame)));
            connection.described += usize::from(frame.tag == tag::DESCRIBE && frame.body().starts_with(b"S"));
            connection.server.receive(frame);
            rest = &rest[frame.whole.len()..];
        }
    }

    /// What a client without a server says next.
    fn next_step(&mut self, client: &mut Client) -> Option<Step> {
        if client.session.is_bare()
            && let Some(scratch) = self.scratch.take()
        {
            client.session.move_in(scratch);
        }
        let step = take(client, &self.classifier);
        if step.is_none() {
            self.scratch = client.session.move_out().or(self.scratch.take());
        }
        step
    }

    /// One turn with a server: it takes the client's frames, or the server's, in whichever order this proxy has.
    fn relay(&mut self, client: &mut Client) -> bool {
        client.session.take_output(&mut client.outgoing);
        if self.goes_ahead() {
            return self.gather(client) || self.digest(client);
        }
        self.digest(client) || self.gather(client)
    }

    /// Whether the client is listened to first, though its server has something to say.
    fn goes_ahead(&mut self) -> bool {
        // xorshift; zero stays zero.
        self.order ^= self.order << 13;
        self.order ^= self.order >> 7;
        self.order ^= self.order << 17;
        self.order == 0 || !self.order.is_multiple_of(3)
    }

    fn digest(&mut self, client: &mut Client) -> bool {
        let connection = client.lease.as_mut().expect("a server is held");
        if connection.server.sent.is_empty() && connection.server.dead {
            self.lose(client, false, None);
            return true;
        }
        let sent = std::mem::take(&mut connection.server.sent);
        let moved = !sent.is_empty();
        let mut rest = &sent[..];
        let mut some = if self.order == 0 { usize::MAX } else { 1 + (self.order % 5) as usize };
        while let Some(connection) = &mut client.lease {
            let Some(frame) = Frame::take(rest).unwrap() else {
                if !rest.is_empty() {
                    // The beginning of a message, of which there is no more.
                    let verdict = client.session.on_server(rest[0], &rest[5..], &mut connection.memory, self.now);
                    let forwards = verdict == Verdict::Forward;
                    if forwards {
                        client.outgoing.extend_from_slice(rest);
                    }
                    self.lose(client, forwards, None);
                }
                break;
            };
            if some == 0 {
                let mut unread = rest.to_vec();
                unread.append(&mut connection.server.sent);
                connection.server.sent = unread;
                break;
            }
            some -= 1;
            rest = &rest[frame.whole.len()..];
            let verdict = client.session.on_server(frame.tag, frame.body(), &mut connection.memory, self.now);
            if matches!(verdict, Verdict::Ready { .. }) && client.session.has_news(&connection.memory) {
                client.session.tell_news(&connection.memory, &mut client.outgoing, |_, _| {});
            }
            match verdict {
                Verdict::Forward | Verdict::Ready { .. } => client.outgoing.extend_from_slice(frame.whole),
                Verdict::Swallow | Verdict::HiddenReady { .. } => {}
                Verdict::Retry { clean, reason } => {
                    self.log.push(format!("retry.{}", reason.as_str()));
                    client.outgoing.clear();
                    client.session.restart();
                    let connection = client.lease.take().expect("a server is held");
                    if clean {
                        self.give_back(connection, &mut client.session);
                    }
                    client.lease = Some(self.checkout(Need::Primary));
                    self.send(client, true);
                    return true;
                }
                Verdict::Leaving => {
                    let code = Report::new(frame.body()).sqlstate();
                    self.lose(client, false, code);
                    return true;
                }
                Verdict::Diverged => {
                    self.log.push("diverged".to_owned());
                    client.lease = None;
                    client.session.give_up_replay(self.now);
                    client.session.take_output(&mut client.outgoing);
                    client.received.append(&mut client.outgoing);
                    return true;
                }
                Verdict::Broken => {
                    client.lease = None;
                    client.closed = true;
                    return true;
                }
            }
            if let Verdict::Ready { .. } | Verdict::HiddenReady { .. } = verdict {
                self.on_their_way = self.on_their_way.saturating_sub(1);
                // What belongs to another request than the next one is not held back with it.
                client.received.append(&mut client.outgoing);
            }
            client.session.take_output(&mut client.outgoing);
            let mut bytes = Vec::new();
            client.session.take_to_server(&mut bytes);
            self.deliver(client, &bytes);
            if let Verdict::Ready { free: true } | Verdict::HiddenReady { free: true } = verdict {
                assert!(rest.is_empty(), "a free server has nothing more to say");
                let connection = client.lease.take().expect("a server is held");
                self.give_back(connection, &mut client.session);
            }
        }
        if client.session.may_flush() || client.lease.is_none() {
            client.received.append(&mut client.outgoing);
        }
        moved
    }

    fn gather(&mut self, client: &mut Client) -> bool {
        if client.lease.is_none() || !client.session.takes_more() {
            return false;
        }
        let ends_copy = client.unread.first().is_some_and(|tag| *tag != tag::COPY_DATA);
        let frame = Frame::take(&client.unread).unwrap().map(|frame| frame.whole.to_vec());
        let quiet = client.session.is_quiet();
        let Some(step) = take(client, &self.classifier) else { return false };
        match step {
            Step::Later => return false,
            Step::Request(_) => {
                self.on_their_way = if quiet { 1 } else { self.on_their_way + 1 };
                self.most_ahead = self.most_ahead.max(self.on_their_way);
                if quiet {
                    client.received.append(&mut client.outgoing);
                } else {
                    self.ahead += 1;
                }
                self.send(client, false);
            }
            Step::Copy => {
                self.deliver(client, &frame.expect("a frame was taken"));
                if ends_copy {
                    client.session.end_copy_in();
                }
            }
            Step::Terminate => client.closed = true,
            Step::Listen => drop(client.session.listened()),
            Step::Answered if client.session.rests() => {
                client.session.take_output(&mut client.outgoing);
                let connection = client.lease.take().expect("a server is held");
                self.give_back(connection, &mut client.session);
            }
            Step::Answered | Step::Gathering => {}
        }
        true
    }

    fn lose(&mut self, client: &mut Client, inside: bool, code: Option<wire::backend::SqlState>) {
        let lost = client.lease.take();
        let mut loss = client.session.on_lost(inside, code, self.now);
        if let Loss::Resolve(trace) = loss {
            self.log.push(format!("resolve({})", trace.xid.unwrap_or_default()));
            loss = client.session.resolve(self.fate, code, self.now);
        }
        match loss {
            Loss::Retry => {
                self.log.push("retry.lost".to_owned());
                client.outgoing.clear();
                client.session.restart();
                client.lease = Some(self.checkout(Need::Primary));
                self.send(client, true);
            }
            Loss::Replay => {
                self.log.push("replay".to_owned());
                client.received.append(&mut client.outgoing);
                let lost = lost.expect("a server was held");
                let mut connection = self.server(lost.role);
                client.session.reattach(connection.role, &lost.memory, &mut connection.memory);
                client.lease = Some(connection);
                self.send(client, false);
            }
            Loss::Told => {
                client.session.take_output(&mut client.outgoing);
                client.received.append(&mut client.outgoing);
            }
            Loss::Resolve(_) => unreachable!("that has been answered"),
            Loss::Close => {
                client.received.append(&mut client.outgoing);
                client.closed = true;
            }
        }
    }
}

/// The next thing that the client wants.
fn take(client: &mut Client, classifier: &Classifier) -> Option<Step> {
    let frame = Frame::take(&client.unread).unwrap()?;
    let length = frame.whole.len();
    let step = client.session.on_client(frame, classifier).expect("a well-formed message");
    if step != Step::Later {
        client.unread.drain(..length);
    }
    Some(step)
}

/// What the proxy asks behind a request that writes, where it wants to know what becomes of a commit.
const TRACE: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned(), pg_catalog.pg_current_wal_insert_lsn(), \
     pg_catalog.pg_last_wal_replay_lsn(), \
     (pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8";

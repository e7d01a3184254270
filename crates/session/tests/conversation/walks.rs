//! Walks over requests: what the random tests and the fuzzer do. Clients that share servers through the proxy must see what they
//! would see on servers of their own; and bytes that are no requests must do no harm.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use classifier::{Classifier, Options};
use session::{Policy, Role, ServerMemory, Session, Settings, Step};
use wire::frame::{Frame, Frames};

use crate::proxy::{Proxy, policy};
use crate::script::{frame, replies, requests};
use crate::server::{Fault, Server, What};

/// What clients say. Each is a request with an end of its own, or, in the last group, what stands before one.
pub(crate) const REQUESTS: &[&str] = &[
    "Q select 1",
    "Q select 1/0",
    "Q insert into t",
    "Q select 1; insert into t; select 2",
    "Q insert into t; select 1/0; insert into t",
    "Q ",
    "Q nonsense",
    "Q begin",
    "Q begin read only",
    "Q start transaction isolation level serializable",
    "Q commit",
    "Q commit and chain",
    "Q rollback",
    "Q savepoint a",
    "Q savepoint b",
    "Q rollback to a",
    "Q release b",
    "Q set work_mem to 1",
    "Q set work_mem to 2",
    "Q set timezone to here",
    "Q set work_mem to 3; select 1/0",
    "Q begin; set work_mem to 4; commit; select 1/0",
    "Q reset work_mem",
    "Q reset all",
    "Q set role boss",
    "Q set session authorization other",
    "Q show work_mem",
    "Q insert into t; show role",
    "Q insert into t; show session_authorization",
    "Q discard all",
    "Q deallocate all",
    "Q copy t from stdin | d 1 | c",
    "Q copy t from stdin | d 1 | f no | d late | c",
    "P - copy t from stdin | B - | E | d 1 | c | S",
    "P - copy t from stdin | B - | E | d 1 | f no | S",
    "F",
    "S",
    "P - select 1 | B - | D p - | E | S",
    "P - insert into t | B - | E | S",
    "P - set work_mem to 5 | B - | E | S",
    "P - begin | B - | E | P - insert into t | B - | E | S",
    "P - copy t from stdin | B - | E | S | d 1 | c | S",
    "P - copy t from stdin | B - | E | S | f no | S",
    "P s1 select 1 | D s s1 | S",
    // Its shape has to be known before it is sent.
    "P s4 update t returning | D s s4 | S",
    "B s4 | E | S",
    "B s4 | E | H",
    "P s2 insert into t | S",
    "P s3 show work_mem | B s3 | E | S",
    "B s1 | E | S",
    "B s2 | E | S",
    "B s3 | D p - | E | S",
    "D s s1 | S",
    "D s - | S",
    "B - | E | S",
    "C s s1 | S",
    "C s s2 | S",
    "C s s1 | P s1 select 2 | B s1 | E | S",
    "C s s1 | H | S",
    "B s1 p | E p 1 | C p p | S",
    "P - select 3 rows | B - p | E p 2 | S | E p 2 | S",
    "P - select 1 | B - | H | E | H | S",
    "P - wrong | H | B - | Q insert into t | S",
    "E nowhere | P s1 select 9 | C s s2 | S",
    "P s1 select 1",
    "B s1",
    "E",
    "P - wrong",
    "P - set work_mem to 6 | B - | E",
    "C s s3",
    "H",
    "S | Q prepare s1 as select 7",
    "S | Q prepare s2 as insert into t",
    "S | Q prepare s3 as wrong",
    "S | Q execute s1",
    "S | Q execute s2",
    "S | Q execute s3",
    "S | Q deallocate s1",
    "S | Q deallocate s2",
    "P - prepare s2 as insert into t | D s - | B - | D p - | E | S",
    "P - execute s1 | D s - | B - | E | C p - | S | Q select 1",
    "P - execute s2 | B - | E | B s2 | E | S | Q select 1",
    "P - deallocate s1 | D s - | B - | D p - | E | P s1 select 5 | B s1 | E | S",
    "P s4 deallocate s2 | B s4 | E | S",
    "P - deallocate all | B - | E | P s1 select 6 | B s1 | E | S",
    "P - discard all | B - | E | P s1 select 8 | B s1 | E | S",
    "P - prepare s1 as wrong | B - | E | B s1 | E | S",
];

/// A server of one's own.
fn alone(server: &mut Server, bytes: &[u8]) -> String {
    Frames::new(bytes).for_each(|frame| server.receive(frame));
    replies(&std::mem::take(&mut server.sent))
}

/// In a transaction that has failed nothing can be executed: whether that is so for want of the portal, which may have been one of
/// the proxy's own, makes no difference. Nor does it of a request that was sent before it was known that the one ahead had failed: the
/// proxy may have had a statement of it described first.
fn as_good(replies: &str) -> String {
    let mut failed = false;
    let as_good = |word| {
        failed = failed && word != "Z(I)" || word == "Z(E)";
        match word {
            "E(34000)" => "E(25P02)",
            "E(26000)" if failed => "E(25P02)",
            word => word,
        }
    };
    replies.split_whitespace().map(as_good).collect::<Vec<_>>().join(" ")
}

/// Runs requests of several clients through one proxy, and each client's on a server of its own.
pub(crate) fn check(clients: usize, requests_made: &[(usize, usize)], prepared_max: usize) {
    let mut proxy = Proxy::new(clients).prepared_max(prepared_max).resolving(requests_made.len() % 2 == 1);
    let mut own: Vec<Server> = (0..clients).map(|_| Server::new(Role::Primary, Rc::new(RefCell::default()))).collect();
    let mut done = Vec::new();
    // What a client has got since its last request ended, here and there.
    let mut since = vec![(String::new(), String::new()); clients];
    let mut step = |client: usize, line: &str| {
        done.push(format!("{}: {line}", client + 1));
        let bytes = requests(line);
        let (found, expected) = &mut since[client];
        for (all, more) in
            [(&mut *expected, alone(&mut own[client], &bytes)), (found, replies(&proxy.exchange(client, &bytes)))]
        {
            all.push_str(&as_good(&more));
            all.push(' ');
        }
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (found, expected) = (words(found), words(expected));
        // The proxy may wait for the end of a request, which is what every server does for most of its answers.
        if line.ends_with('S') {
            assert_eq!(found, expected, "after {done:#?}");
            since[client] = Default::default();
        } else {
            assert!(expected.starts_with(&found), "{found:?} for {expected:?} after {done:#?}");
        }
    };
    for (client, line) in requests_made {
        step(*client % clients, REQUESTS[line % REQUESTS.len()]);
    }
    // Whatever state they are in, this is the way out, and at the end nobody holds anything.
    for client in 0..clients {
        for line in ["f no | S", "Q rollback", "Q show work_mem", "S"] {
            step(client, line);
        }
    }
    proxy.clients.iter().for_each(|client| {
        assert!(client.session.is_quiet() && !client.session.is_attached(), "{done:#?}");
    });
}

/// Runs requests of several clients through one proxy, several requests of a client at once, and each client's on a server of its
/// own. `order` decides when the proxy listens to whom.
pub(crate) fn check_pipelined(clients: usize, batches: &[(usize, Vec<usize>)], prepared_max: usize, order: u64) {
    let mut proxy = Proxy::new(clients).prepared_max(prepared_max).resolving(order % 4 == 1);
    proxy.order = order;
    let mut own: Vec<Server> = (0..clients).map(|_| Server::new(Role::Primary, Rc::new(RefCell::default()))).collect();
    let mut done = Vec::new();
    let way_out = (0..clients).map(|client| (client, vec!["f no | S", "Q rollback", "Q show work_mem", "S"]));
    let said = batches.iter().map(|(client, lines)| {
        let lines = lines.iter().map(|line| REQUESTS[line % REQUESTS.len()]).chain(["S"]).collect();
        (client % clients, lines)
    });
    for (client, lines) in said.chain(way_out) {
        let lines: Vec<&str> = lines;
        let bytes: Vec<u8> = lines.iter().flat_map(|line| requests(line)).collect();
        done.push(format!("{}: {}", client + 1, lines.join(" || ")));
        let (expected, found) = (alone(&mut own[client], &bytes), replies(&proxy.exchange(client, &bytes)));
        let (expected, found) = (as_good(&expected), as_good(&found));
        // Whether a setting is told before or after what else is said is the server's business.
        assert_eq!(found, expected, "after {done:#?}, order {order}");
    }
    proxy.clients.iter().for_each(|client| {
        assert!(client.session.is_quiet() && !client.session.is_attached(), "{done:#?}");
    });
}

/// What may happen to a client that loses servers.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// It says several of [`WHOLE`] at once.
    Say(Vec<usize>),
    /// Its server dies, if it holds one, before it says the next thing.
    Kill,
    /// The next statement that begins so goes wrong.
    Fault(usize),
}

/// Requests with an end of their own. `insert` is told from all other inserts.
pub(crate) const WHOLE: &[&str] = &[
    "Q select 1",
    "Q select 1/0",
    "Q insert",
    "Q begin",
    "Q begin read only",
    "Q commit",
    "Q rollback",
    "Q select 1; insert; select 2",
    "Q savepoint a",
    "Q rollback to a",
    "Q set work_mem to 1",
    "Q show work_mem",
    "P - select 1 | B - | D p - | E | S",
    "P - select 1 | B - | E | S",
    "P - insert | B - | E | S",
    "P - begin | B - | E | S",
    "P - commit | B - | E | S",
    "P s1 select 1 | D s s1 | S",
    // Its shape has to be known before it is sent.
    "P s4 update t returning | D s s4 | S",
    "B s4 | E | S",
    "P s2 select 1/0 | S",
    "B s1 | E | S",
    "B s2 | E | S",
    "C s s1 | S",
    "P - wrong | S",
    "S",
];

/// What goes wrong with which statements.
pub(crate) const WRONG: &[(Role, What, &str)] = &[
    (Role::Replica, What::Error("40001"), "select"),
    (Role::Replica, What::Error("25006"), "select"),
    (Role::Replica, What::Die, "select"),
    (Role::Replica, What::LateDie, "select"),
    (Role::Replica, What::Fatal("57P01"), "select"),
    (Role::Primary, What::Die, "insert"),
    (Role::Primary, What::Die, "commit"),
    (Role::Primary, What::Die, "update"),
    (Role::Primary, What::LateDie, "select"),
    (Role::Primary, What::Fatal("57P01"), "select"),
    (Role::Primary, What::Error("25006"), "insert"),
];

/// Whatever happens to servers, each request gets one ReadyForQuery, nothing is written twice, and the connection lives.
pub(crate) fn check_losses(events: &[Event], order: u64, transaction_replay: bool) {
    let mut proxy = Proxy::new(0);
    proxy.connect(Policy { transaction_replay, ..policy() }, &[]);
    proxy.order = order;
    let (mut numbered, mut rows) = (0, Vec::new());
    let way_out = [Event::Say(vec![6]), Event::Say(vec![0])];
    for event in events.iter().chain(&way_out) {
        rows.push(format!("{event:?}"));
        match event {
            Event::Say(lines) => {
                let mut bytes = Vec::new();
                let mut owed = 0;
                for line in lines.iter().map(|line| WHOLE[line % WHOLE.len()]) {
                    numbered += 1;
                    bytes.extend(requests(&line.replace("insert", &format!("insert into t values ({numbered})"))));
                    owed += 1;
                }
                let answer = replies(&proxy.exchange(0, &bytes));
                rows.push(answer.clone());
                assert_eq!(answer.matches("Z(").count(), owed, "{rows:#?}, order {order}");
                assert!(answer.is_empty() || answer.ends_with(')'), "{rows:#?}");
            }
            Event::Kill => proxy.kill(0),
            Event::Fault(which) => {
                let (role, what, sql) = WRONG[which % WRONG.len()].clone();
                proxy.faults.borrow_mut().faults = vec![Fault { role, what, sql: sql.to_owned() }];
            }
        }
        let world = proxy.faults.borrow();
        let distinct: std::collections::BTreeSet<&String> = world.inserted.iter().collect();
        assert_eq!(distinct.len(), world.inserted.len(), "written twice: {:?} {rows:#?}", world.inserted);
    }
    assert!(!proxy.clients[0].closed && !proxy.clients[0].session.is_attached(), "{rows:#?}");
}

/// Any bytes, in frames that the session may see. The server's side, too, may be anybody.
pub(crate) fn check_garbage(client: &[(u8, Vec<u8>)], server: &[(u8, Vec<u8>)]) {
    let classifier = Classifier::new(Options::default());
    let mut session = Session::new(policy(), Settings::default());
    let mut memory = ServerMemory::new(2);
    let mut answers = server.iter();
    for (tag, body) in client {
        let mut bytes = Vec::new();
        frame(&mut bytes, *tag, body);
        let taken = Frame::take(&bytes).unwrap().expect("a whole frame");
        let Ok(step) = session.on_client(taken, &classifier) else { return };
        if let Step::Request(_) = step {
            if !session.is_attached() {
                session.attach(Role::Replica);
            }
            session.encode(&mut memory, &mut Vec::new());
        }
        if session.is_attached()
            && let Some((tag, body)) = answers.next()
        {
            let _ = session.on_server(*tag, body, &mut memory, Instant::now());
        }
    }
    let _ = session.on_lost(false, None, Instant::now());
}

//! Walks over requests: what the random tests and the fuzzer do. Clients that share servers through the proxy must see what they
//! would see on servers of their own; and bytes that are no requests must do no harm.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use classifier::{Classifier, Options};
use session::{Role, ServerMemory, Session, Settings, Step};
use wire::frame::{Frame, Frames};

use crate::proxy::{Proxy, policy};
use crate::script::{frame, replies, requests};
use crate::server::Server;

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
];

/// A server of one's own.
fn alone(server: &mut Server, bytes: &[u8]) -> String {
    Frames::new(bytes).for_each(|frame| server.receive(frame));
    replies(&std::mem::take(&mut server.sent))
}

/// Runs requests of several clients through one proxy, and each client's on a server of its own.
pub(crate) fn check(clients: usize, requests_made: &[(usize, usize)], prepared_max: usize) {
    let mut proxy = Proxy::new(clients).prepared_max(prepared_max);
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
            all.push_str(&more);
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

//! What is fuzzed: one function for each target, from bytes to nothing, or to a panic that has found something.
//!
//! Each states more than that nothing panics: what arrives in pieces is read as what arrives at once, nothing is read beyond its
//! end, and a client behind the proxy sees what it would see on a server of its own.

// The model of a server and the walks over it are those of the session's own tests.
#[path = "../../crates/session/tests/conversation/proxy.rs"]
#[expect(dead_code, reason = "the scripts use more of it than the walks do")]
mod proxy;
#[path = "../../crates/session/tests/conversation/script.rs"]
mod script;
#[path = "../../crates/session/tests/conversation/server.rs"]
mod server;
#[path = "../../crates/session/tests/conversation/walks.rs"]
mod walks;

// Pure files of the program itself, which has no library.
#[path = "../../crates/hakem/src/asked.rs"]
#[expect(dead_code, reason = "the program does more with it")]
mod asked;
#[path = "../../crates/hakem/src/console/grammar.rs"]
mod grammar;

use std::sync::OnceLock;

use auth::{
    Account, Cleartext, Credential, Fault, Hba, InitialResponse, NONCE_BYTES, Origin, ScramKeys, ScramServer,
    ServerLogin, Step, UserMaps, Verifier, Visitor, parse_userlist,
};
use classifier::{Access, Classifier};
use wire::backend::{self, Report, Status};
use wire::frame::{Frame, Frames, Header};
use wire::frontend::Frontend;
use wire::startup::Startup;

/// The frame reader and the views of a client's messages.
pub fn frames(data: &[u8]) {
    let mut rest = data;
    loop {
        match Frame::take(rest) {
            Ok(Some(frame)) => {
                assert!(frame.whole.len() >= Header::SIZE && frame.whole.len() <= rest.len());
                assert_eq!(frame.whole[0], frame.tag);
                // Whatever is missing of it, it is not there yet, and what is announced stays the same.
                for length in 0..frame.whole.len().min(PREFIXES_MAX) {
                    assert!(matches!(Frame::take(&rest[..length]), Ok(None)));
                }
                let announced = Header::peek(&rest[..Header::SIZE]);
                assert!(matches!(announced, Ok(Some(header)) if header.length == frame.whole.len()));
                let _ = Frontend::read(frame);
                rest = &rest[frame.whole.len()..];
            }
            Ok(None) => break,
            Err(_) => {
                assert!(rest.len() >= Header::SIZE, "nothing is refused before its length is known");
                break;
            }
        }
    }
    let walked: usize = Frames::new(data).map(|frame| frame.whole.len()).sum();
    assert_eq!(walked, data.len() - rest.len());
}

/// The console's language: what is read is read again as the same when it is written plainly, and acts are nobody's but an administrator's.
pub fn console(data: &[u8]) {
    use grammar::{ACTS, Command, TOPICS};

    let text = String::from_utf8_lossy(data);
    let Ok(command) = Command::read(&text) else { return };
    let quoted = |text: &str, quote: &str| format!("{quote}{}{quote}", text.replace(quote, &quote.repeat(2)));
    let plainly = match &command {
        Command::Show(topic) => {
            format!("show {}", TOPICS.iter().find(|(_, known)| known == topic).expect("a topic has its word").0)
        }
        Command::ShowRoute(sql, database) => {
            let within = database.as_ref().map_or_else(String::new, |name| format!(" in {}", quoted(name, "\"")));
            format!("show route for {}{within}", quoted(sql, "'"))
        }
        Command::Set(key, value) => format!("set {} = {}", quoted(key, "\""), quoted(value, "'")),
        Command::Act(act, argument) => {
            assert!(ACTS.iter().any(|(_, known)| known == act));
            let to = if *act == grammar::Act::Switchover { " to" } else { "" };
            let argument = if argument.is_empty() { String::new() } else { format!(" {}", quoted(argument, "\"")) };
            format!("{}{to}{argument}", act.name())
        }
        _ => {
            assert!(command.is_harmless());
            return;
        }
    };
    assert_eq!(command.is_harmless(), matches!(command, Command::Show(_) | Command::ShowRoute(..)));
    assert_eq!(Command::read(&plainly).as_ref(), Ok(&command), "{plainly:?}");
    assert_eq!(Command::read(&format!(" /* {} */ {plainly} ; ", "x")).as_ref(), Ok(&command), "{plainly:?}");
}

/// What a startup packet asks for: the first byte tells whether the rest is the `options`, or a packet's parameters.
pub fn options(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let read = |parameters: &[u8]| {
        let length = u32::try_from(parameters.len() + 9).expect("inputs are small");
        let packet = [&length.to_be_bytes()[..], &196_608u32.to_be_bytes(), parameters, b"\0"].concat();
        match Startup::take(&packet, packet.len()) {
            Ok(Some((Startup::Session(startup), _))) => Some(asked::Asked::read(&startup)),
            _ => None,
        }
    };
    let with_options = |text: &[u8]| [b"user\0u\0options\0", text, b"\0"].concat();
    let asked = match first % 2 {
        // Texts end with a zero byte in a packet.
        0 => read(&with_options(rest.split(|byte| *byte == 0).next().unwrap_or_default())),
        _ => read(rest),
    };
    let Some(Ok(asked)) = asked else { return };
    assert!(!asked.user.is_empty() && !asked.database.is_empty());
    assert!(asked.settings.iter().all(|(name, _)| !name.starts_with("hakem.")));
    // What is asked for in a packet of its own can be asked for by the options, each letter escaped, and is the same.
    if asked.settings.iter().any(|(name, _)| name.contains(['=', '-'])) {
        return;
    }
    let mut written = String::new();
    for (name, value) in &asked.settings {
        written += " -c ";
        format!("{name}={value}").chars().for_each(|letter| written.extend(['\\', letter]));
    }
    let again = read(&with_options(written.as_bytes()));
    let settings = again.map(|again| again.map(|again| again.settings).map_err(|failure| failure.message));
    assert_eq!(settings, Some(Ok(asked.settings)), "{written:?}");
}

/// The views of a server's messages.
pub fn replies(data: &[u8]) {
    for body in Frames::new(data).map(|frame| frame.body()).chain([data]) {
        let report = Report::new(body);
        let _ = (report.sqlstate(), report.is_fatal(), report.message().len());
        for code in [b'S', b'V', b'C', b'M', b'D', b'H', 0] {
            assert!(report.field(code).is_none_or(|field| field.len() < body.len()));
        }
        let _ = Status::read(body);
        if let Some((name, value)) = backend::parameter_status(body) {
            assert!(name.len() + value.len() + 2 <= body.len());
        }
        let _ = backend::backend_key_data(body);
    }
}

/// The first packet of a connection.
pub fn startup(data: &[u8]) {
    const MAX: usize = 10_000;
    let whole = Startup::take(data, MAX);
    if let Ok(Some((packet, length))) = &whole {
        assert!(*length <= data.len() && *length <= MAX);
        for cut in 0..*length {
            assert!(matches!(Startup::take(&data[..cut], MAX), Ok(None)), "a packet of {length} bytes, of {cut}");
        }
        if let Startup::Session(session) = packet {
            let bytes: usize = session.parameters.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
            assert!(bytes <= *length);
        }
    }
}

/// The session: requests of several clients on shared servers, against the same on servers of their own.
pub fn session(data: &[u8]) {
    let [prepared_max, clients, steps @ ..] = data else { return };
    let clients = 1 + usize::from(clients % 3);
    let step = |bytes: &[u8]| (usize::from(bytes[0]), usize::from(u16::from_le_bytes([bytes[1], bytes[2]])));
    let steps: Vec<_> = steps.chunks_exact(3).take(STEPS_MAX).map(step).collect();
    walks::check(clients, &steps, 1 + usize::from(prepared_max % 4));
}

/// The same with several requests of a client at once.
pub fn pipelines(data: &[u8]) {
    let [prepared_max, clients, order, steps @ ..] = data else { return };
    let clients = 1 + usize::from(clients % 3);
    // A batch: whose, how many requests, which.
    let (mut batches, mut rest) = (Vec::new(), steps);
    while let [client, length, more @ ..] = rest
        && batches.len() < BATCHES_MAX
    {
        let (lines, after) = more.split_at((1 + usize::from(length % 5)).min(more.len()));
        batches.push((usize::from(*client), lines.iter().map(|line| usize::from(*line)).collect()));
        rest = after;
    }
    walks::check_pipelined(clients, &batches, 1 + usize::from(prepared_max % 4), u64::from(*order));
}

/// A client whose servers die or refuse: each request has one end, and nothing is written twice.
pub fn losses(data: &[u8]) {
    let [order, events @ ..] = data else { return };
    let event = |bytes: &[u8]| match bytes[0] % 4 {
        0 => walks::Event::Kill,
        1 => walks::Event::Fault(usize::from(bytes[1])),
        _ => walks::Event::Say(bytes[1..].iter().map(|line| usize::from(*line)).collect()),
    };
    let events: Vec<_> = events.chunks_exact(4).take(BATCHES_MAX).map(event).collect();
    walks::check_losses(&events, u64::from(*order), order & 128 != 0);
}

/// The session between a client and a server neither of which keeps to the protocol.
pub fn conversation(data: &[u8]) {
    // One frame after the other: whose it is, its type, its length, its body.
    let (mut client, mut server) = (Vec::new(), Vec::new());
    let mut rest = data;
    while let [side, tag, length, more @ ..] = rest {
        let (body, after) = more.split_at(usize::from(*length).min(more.len()));
        if side % 2 == 0 { &mut client } else { &mut server }.push((*tag, body.to_vec()));
        rest = after;
    }
    walks::check_garbage(&client, &server);
}

/// Any text as a statement: it is classified, in the same way each time, and text that is no statement is no read.
pub fn classifier(data: &[u8]) {
    let Ok(sql) = std::str::from_utf8(data) else { return };
    static SHARED: OnceLock<Classifier> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Classifier::new(classifier::Options::default()));
    let fresh = Classifier::new(classifier::Options::default()).classify(sql);
    // The caches must not make another statement of it.
    assert_eq!(*shared.classify(sql), *fresh);
    assert_eq!(*shared.classify(sql), *fresh);
    if !fresh.effects.is_empty() {
        assert_eq!(fresh.access, Access::Write, "a statement with effects is no replica's business");
    }
}

/// Any text as a configuration: each problem is told with a line that exists.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(problems) = config::Config::parse(text, "fuzz.toml") {
        assert!(!problems.is_empty());
        problems.iter().for_each(|problem| assert!(!problem.to_string().is_empty()));
    }
}

/// SCRAM in both roles: whoever does not know the password is not let in, and does not let us in.
pub fn scram(data: &[u8]) {
    let mut words = data.split(|byte| *byte == 0xff);
    let (first, last) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    for end_point in [None, Some(vec![1; 32])] {
        let account = Account::Known(Verifier::from_password(b"pencil", b"salt", 1));
        let server = ScramServer::new(account, end_point);
        for mechanism in server.mechanisms() {
            let account = Account::Known(Verifier::from_password(b"pencil", b"salt", 1));
            let end_point = mechanism.ends_with("PLUS").then(|| vec![1; 32]);
            let started = ScramServer::new(account, end_point).on_client_first(mechanism, first, &[7; NONCE_BYTES]);
            if let Ok((_, server)) = started {
                assert!(server.on_client_final(last).is_err(), "a proof was guessed");
            }
        }
    }
    let _ = InitialResponse::parse(data);
    let keys = Credential::Keys(ScramKeys::from_password(b"pencil", b"salt", 1).into());
    for credential in [Credential::None, Credential::Password("pencil".into()), keys] {
        // One server that says anything, and one that has chosen SCRAM.
        let mut login = ServerLogin::new("user", credential.clone(), Cleartext::Refused, [7; NONCE_BYTES]);
        for word in data.split(|byte| *byte == 0xff) {
            let _ = login.on_message(word);
        }
        let mut login = ServerLogin::new("user", credential, Cleartext::Refused, [7; NONCE_BYTES]);
        if login.on_message(b"\0\0\0\x0aSCRAM-SHA-256\0\0").is_ok() {
            for word in data.split(|byte| *byte == 0xff) {
                let step = login.on_message(word);
                assert!(!matches!(step, Ok(Step::Done | Step::Wait)), "a signature was guessed");
            }
        }
    }
}

/// Any text as each of the files that say who gets in: a fault is told with a line that exists, and rules decide.
pub fn hba(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.lines().count();
    let check = |faults: Vec<Fault>| {
        assert!(!faults.is_empty());
        assert!(faults.iter().all(|fault| (1..=lines).contains(&fault.line)));
    };
    // A file may include itself.
    match Hba::parse(text, "hba", &mut |name| if name == "x" { Ok(text.to_owned()) } else { Err("no".into()) }) {
        Ok(hba) => {
            for origin in [Origin::Local, Origin::Host { address: [127, 0, 0, 1].into(), encrypted: true }] {
                for replication in [false, true] {
                    let found = hba.find(&Visitor { origin, database: "a", user: "a", replication });
                    assert!(found.is_none_or(|rule| rule.line <= lines));
                }
            }
        }
        Err(faults) => check(faults),
    }
    match UserMaps::parse(text, "ident") {
        Ok(maps) => assert!(!maps.allow(Some("no such map"), "a", "a") || text.contains("no such map")),
        Err(faults) => check(faults),
    }
    match parse_userlist(text, "users") {
        Ok(users) => assert!(users.len() <= lines),
        Err(faults) => check(faults),
    }
}

/// Beginnings of a frame that are tried.
const PREFIXES_MAX: usize = 64;

/// Steps of a walk: long ones find nothing that short ones do not.
const STEPS_MAX: usize = 80;

/// The same for what is said at once.
const BATCHES_MAX: usize = 30;

//! The answers that need no server: the deferred BEGIN and its end, the proxy's own settings, refusals, and what a transaction
//! whose server is lost still understands.

use std::sync::Arc;

use classifier::{Class, Effect, Scope};
use wire::backend::{self, Failure};
use wire::frame::Frames;
use wire::frontend::{Frontend, Target};

use crate::request::End;
use crate::session::{Progress, Session};
use crate::terms::{Step, Transaction};

impl Session {
    /// Refuses the request: it could not be given a server. The connection goes on, and so does a transaction that has not
    /// begun on any server: it fails.
    pub fn refuse(&mut self, failure: &Failure) {
        // Requests that were to be run again come first.
        let gathered = (std::mem::take(&mut self.request), std::mem::take(&mut self.parsed));
        while let Some(sent) = self.flight.pop_front() {
            (self.request, self.parsed) = (sent.request, sent.parsed);
            self.refuse_one(failure);
        }
        (self.sent, self.flight_bytes, self.waits) = (0, 0, false);
        (self.request, self.parsed) = gathered;
        if self.request.end != End::Open {
            self.refuse_one(failure);
        }
    }

    fn refuse_one(&mut self, failure: &Failure) {
        if let Transaction::Lost { .. } = self.transaction {
            self.answer_lost();
            return;
        }
        failure.put(&mut self.output);
        if let Transaction::Deferred(_) = self.transaction {
            self.transaction = Transaction::Lost { told: true };
        }
        self.conclude_refusal();
    }

    /// After an ErrorResponse of the proxy's own: ReadyForQuery, now or when the Sync comes.
    pub(crate) fn conclude_refusal(&mut self) {
        self.settle_pin();
        let status = self.status();
        match self.request.end {
            End::Ready if !self.request.mixed => backend::put_ready(&mut self.output, status),
            End::Ready | End::Prepared | End::Open | End::Part => self.skips_until_sync = true,
        }
        self.progress = Progress::default();
        self.owed.clear();
        self.clear_request();
    }

    /// Answers a simple query that concerns nobody but the proxy.
    pub(crate) fn answer(&mut self, sql: &[u8], class: &Class) -> Option<Step> {
        if self.asks_for_channels(sql, class) {
            let channels = self.channels().clone();
            backend::put_text_columns(&mut self.output, &["pg_listening_channels"]);
            for channel in channels.iter() {
                backend::put_text_row(&mut self.output, &[channel]);
            }
            backend::put_command_complete(&mut self.output, &format!("SELECT {}", channels.iter().count()));
            self.clear_request();
            return Some(self.answer_ready());
        }
        let [effect] = &*class.effects else { return None };
        if class.statements != 1 || self.refusal.is_some() {
            return None;
        }
        let lost = matches!(self.transaction, Transaction::Lost { .. });
        match (effect, self.transaction) {
            (Effect::Deallocate(_) | Effect::DeallocateAll, _) => {
                if !self.deallocate(effect) {
                    return None;
                }
            }
            (Effect::Begin(mode), Transaction::None)
                if self.lease.role.is_none() && !self.policy.keeps_server && !self.policy.refuses_blocks =>
            {
                backend::put_command_complete(&mut self.output, begin_tag(sql)?);
                self.transaction = Transaction::Deferred(*mode);
            }
            (Effect::Commit { chain: false }, Transaction::Deferred(_)) => {
                backend::put_command_complete(&mut self.output, "COMMIT");
                self.settings.commit();
                self.transaction = Transaction::None;
            }
            (Effect::Commit { chain: true }, Transaction::Deferred(_)) => {
                backend::put_command_complete(&mut self.output, "COMMIT");
                self.settings.commit();
            }
            (Effect::Rollback { chain: true }, Transaction::Deferred(_)) => {
                backend::put_command_complete(&mut self.output, "ROLLBACK");
                self.settings.rollback();
            }
            (Effect::SetTransaction(more), Transaction::Deferred(known)) => {
                self.transaction = Transaction::Deferred(Session::with_modes(known, *more)?);
                backend::put_command_complete(&mut self.output, "SET");
            }
            (Effect::Rollback { chain: false }, Transaction::Deferred(_)) => {
                backend::put_command_complete(&mut self.output, "ROLLBACK");
                self.end_lost();
            }
            (Effect::Hakem { .. } | Effect::HakemShow { .. }, _) if !lost => self.answer_own(effect),
            _ => return None,
        }
        self.clear_request();
        Some(self.answer_ready())
    }

    /// SET, RESET and SHOW of the proxy's own settings. An error of theirs cannot make a transaction on a server fail.
    fn answer_own(&mut self, effect: &Effect) {
        let outside = self.transaction == Transaction::None;
        let answered = match effect {
            _ if self.transaction == (Transaction::Open { failed: true }) => Err(aborted()),
            Effect::Hakem { name, value, scope } => self.set_own(name, value.as_deref(), *scope).map(|command| {
                if outside && *scope == Scope::Local {
                    let text = "SET LOCAL can only be used in transaction blocks";
                    backend::put_warning(&mut self.output, "25P01", text);
                }
                backend::put_command_complete(&mut self.output, command);
            }),
            Effect::HakemShow { name } => self.show_own(name).map(|value| {
                backend::put_text_columns(&mut self.output, &[&format!("hakem.{name}")]);
                backend::put_text_row(&mut self.output, &[&value]);
                backend::put_command_complete(&mut self.output, "SHOW");
            }),
            _ => return,
        };
        if let Err(failure) = answered {
            failure.put(&mut self.output);
        }
        if outside {
            self.settings.commit();
        }
    }

    /// Whether the proxy listens for the session, on a connection that it shares with others: not where the session has one of its
    /// own anyway, nor where notifications would have to be put into another encoding.
    pub(crate) fn hosts_listen(&self) -> bool {
        let encoding = self.settings.current().get("client_encoding");
        !self.policy.keeps_server
            && !self.pins.contains(&classifier::PinReason::Listen)
            && encoding.is_none_or(|statement| {
                let statement = statement.to_ascii_lowercase();
                statement.contains("utf8") || statement.contains("utf-8") || statement.contains("unicode")
            })
    }

    /// Whether a simple query asks for nothing but the channels that the session listens on, which no server of its own knows.
    fn asks_for_channels(&self, sql: &[u8], class: &Class) -> bool {
        let end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';';
        class.effects.is_empty()
            && sql.len() <= CHANNELS.len() + 2
            && sql.get(..CHANNELS.len()).is_some_and(|text| text.eq_ignore_ascii_case(CHANNELS))
            && sql[CHANNELS.len()..].iter().all(end)
            && self.hosts_listen()
            && self.refusal.is_none()
            && !matches!(self.transaction, Transaction::Lost { .. } | Transaction::Open { failed: true })
    }

    /// Whether a simple query is nothing but LISTEN and UNLISTEN, which the proxy answers itself.
    pub(crate) fn answers_listen(&self, class: &Class) -> bool {
        class.statements > 0
            && class.statements == class.effects.len()
            && class.effects.iter().all(is_listen)
            && self.hosts_listen()
            && self.refusal.is_none()
            && !matches!(self.transaction, Transaction::Lost { .. } | Transaction::Open { failed: true })
    }

    /// The channels wanted are listened on: LISTEN is answered.
    pub fn listened(&mut self) -> Step {
        if let Some(class) = self.request.simple.take() {
            self.listen_or_not(&class);
        }
        if self.transaction == Transaction::None {
            self.settings.commit();
        }
        self.clear_request();
        self.answer_ready()
    }

    /// What LISTEN and UNLISTEN do, and CommandComplete for each.
    pub(crate) fn listen_or_not(&mut self, class: &Class) {
        for effect in &class.effects {
            let command = match effect {
                Effect::Listen(channel) => {
                    self.settings.listen(channel);
                    "LISTEN"
                }
                Effect::Unlisten(channel) => {
                    self.settings.unlisten(Some(channel));
                    "UNLISTEN"
                }
                Effect::UnlistenAll => {
                    self.settings.unlisten(None);
                    "UNLISTEN"
                }
                _ => continue,
            };
            backend::put_command_complete(&mut self.output, command);
        }
    }

    pub(crate) fn answer_ready(&mut self) -> Step {
        self.settle_pin();
        let status = self.status();
        backend::put_ready(&mut self.output, status);
        self.clear_request();
        Step::Answered
    }

    /// A request of nothing but Close (of statements) and Sync.
    pub(crate) fn answer_without_server(&mut self) -> Step {
        self.close_statements();
        self.answer_ready()
    }

    pub(crate) fn close_statements(&mut self) {
        let frames = std::mem::take(&mut self.request.frames);
        for frame in Frames::new(&frames) {
            if let Ok(Frontend::Close(Target::Statement(name))) = Frontend::read(frame) {
                self.statements.remove(name);
                backend::put_bare(&mut self.output, backend::tag::CLOSE_COMPLETE);
            }
        }
    }

    pub(crate) fn answer_refusal(&mut self) -> Step {
        if let Some(failure) = self.refusal.take() {
            failure.put(&mut self.output);
        }
        self.conclude_refusal();
        Step::Answered
    }

    /// A request in a transaction whose server is lost: only its end is understood.
    pub(crate) fn answer_lost(&mut self) -> Step {
        let told = matches!(self.transaction, Transaction::Lost { told: true });
        let extended = self.request.simple.is_none();
        let class = match &self.request.simple {
            Some(class) => Some(class.clone()),
            None => self.executed_alone(),
        };
        let effect = class.as_ref().filter(|class| class.statements == 1).and_then(|class| class.effects.first());
        if !told && matches!(effect, Some(Effect::Commit { .. })) {
            // Nobody reads command tags: a COMMIT that says ROLLBACK and nothing else would pass for one.
            crate::loss::lost_in_transaction().put(&mut self.output);
            self.end_lost();
            self.conclude_refusal();
            return Step::Answered;
        }
        if !extended && class.as_ref().is_some_and(|class| class.statements == 0) {
            backend::put_bare(&mut self.output, backend::tag::EMPTY_QUERY_RESPONSE);
            return self.answer_ready();
        }
        if let Some(Effect::Commit { chain: false } | Effect::Rollback { chain: false }) = effect {
            if extended {
                self.answer_extended("ROLLBACK");
            } else {
                backend::put_command_complete(&mut self.output, "ROLLBACK");
            }
            self.end_lost();
            if self.request.end == End::Ready {
                return self.answer_ready();
            }
            self.clear_request();
            return Step::Answered;
        }
        if extended && self.prepares_an_end() {
            self.answer_extended("");
            if self.request.end == End::Ready {
                return self.answer_ready();
            }
            self.clear_request();
            return Step::Answered;
        }
        let failure = if told { aborted() } else { crate::loss::lost_in_transaction() };
        self.transaction = Transaction::Lost { told: true };
        failure.put(&mut self.output);
        self.conclude_refusal();
        Step::Answered
    }

    /// Whether the request does nothing but prepare the statement that ends the transaction, as drivers do on the way to executing it.
    /// PostgreSQL takes that in an aborted transaction (`exec_parse_message`).
    fn prepares_an_end(&self) -> bool {
        let [parsed] = &*self.parsed else { return false };
        let is_end = parsed.class.statements == 1
            && matches!(*parsed.class.effects, [Effect::Commit { .. } | Effect::Rollback { .. }]);
        let mut prepared = None;
        is_end
            && Frames::new(&self.request.frames).all(|frame| match Frontend::read(frame) {
                Ok(Frontend::Parse(parse)) => prepared.replace(parse.name).is_none(),
                Ok(Frontend::Describe(Target::Statement(name))) => prepared == Some(name),
                Ok(Frontend::Bind(_) | Frontend::Execute | Frontend::Close(_) | Frontend::Describe(_)) => false,
                _ => true,
            })
    }

    /// The class of the one statement that an extended request executes.
    fn executed_alone(&self) -> Option<Arc<Class>> {
        let (mut bound, mut executed) = (Vec::new(), 0);
        for frame in Frames::new(&self.request.frames) {
            match Frontend::read(frame) {
                Ok(Frontend::Bind(bind)) => bound.push(bind.statement),
                Ok(Frontend::Execute) => executed += 1,
                _ => {}
            }
        }
        let ([bound], 1) = (&*bound, executed) else { return None };
        match (&*self.parsed, self.statements.get(bound)) {
            ([parsed], _) => Some(parsed.class.clone()),
            ([], Some(statement)) => Some(statement.class.clone()),
            _ => None,
        }
    }

    /// The replies to an extended request whose one statement returns no rows.
    fn answer_extended(&mut self, command: &str) {
        let frames = std::mem::take(&mut self.request.frames);
        for frame in Frames::new(&frames) {
            use backend::tag;
            match Frontend::read(frame) {
                Ok(Frontend::Parse(parse)) => {
                    // There is but one: the statement that is executed.
                    if let Some(statement) = self.parsed.pop() {
                        self.statements.insert(parse.name, statement);
                    }
                    backend::put_bare(&mut self.output, tag::PARSE_COMPLETE);
                }
                Ok(Frontend::Bind(_)) => backend::put_bare(&mut self.output, tag::BIND_COMPLETE),
                Ok(Frontend::Close(target)) => {
                    if let Target::Statement(name) = target {
                        self.statements.remove(name);
                    }
                    backend::put_bare(&mut self.output, tag::CLOSE_COMPLETE);
                }
                Ok(Frontend::Describe(Target::Portal(_))) => backend::put_bare(&mut self.output, tag::NO_DATA),
                Ok(Frontend::Describe(Target::Statement(_))) => {
                    backend::put_no_parameters(&mut self.output);
                    backend::put_bare(&mut self.output, tag::NO_DATA);
                }
                Ok(Frontend::Execute) => backend::put_command_complete(&mut self.output, command),
                _ => {}
            }
        }
    }

    pub(crate) fn end_lost(&mut self) {
        self.settings.rollback();
        self.wrote = false;
        self.defined = false;
        self.transaction = Transaction::None;
    }
}

/// As PostgreSQL words it (`exec_parse_message`).
pub(crate) fn aborted() -> Failure {
    Failure::error("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

/// Whether the proxy can do what the statement does.
pub(crate) fn is_listen(effect: &Effect) -> bool {
    matches!(effect, Effect::Listen(_) | Effect::Unlisten(_) | Effect::UnlistenAll)
}

/// The command tag of BEGIN; `None` when a comment stands in front of it and the server had better say.
fn begin_tag(sql: &[u8]) -> Option<&'static str> {
    let word = sql.trim_ascii_start();
    if word.get(..5)?.eq_ignore_ascii_case(b"begin") {
        Some("BEGIN")
    } else if word.get(..5)?.eq_ignore_ascii_case(b"start") {
        Some("START TRANSACTION")
    } else {
        None
    }
}

const CHANNELS: &[u8] = b"select pg_listening_channels()";

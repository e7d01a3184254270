//! SQL's own PREPARE, EXECUTE and DEALLOCATE: one name space with the protocol's statements, as in PostgreSQL, and like those shared
//! between servers and clients.
//!
//! Owns what becomes of such a statement. In a simple query EXECUTE is sent with the server's name in place of the client's; PREPARE
//! too, unless the server has the statement; DEALLOCATE concerns the client's names alone, and no server. In the extended protocol a
//! server sees EXECUTE only: the others are executed by the proxy when their turn comes (`Form::Own`).
//!
//! Several statements in one string are left alone: a PREPARE among them pins.

use std::sync::Arc;

use classifier::{Access, Class, Classifier, Effect, Execution};
use wire::backend::{self, Failure};
use wire::frame::Frames;
use wire::frontend::{self, Frontend, Parse, Target};

use crate::foreign::classify;
use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::policy::TOKEN;
use crate::session::Session;
use crate::statements::{Form, Prepared, UNKNOWN};
use crate::terms::Transaction;
use crate::token;

/// What a simple query is replaced by.
#[derive(Clone, Debug)]
pub(crate) enum Rewrite {
    /// PREPARE of this statement.
    Prepare(Box<[u8]>, Arc<Prepared>),
    /// EXECUTE of this one, with the text before and after its name.
    Execute(Arc<Prepared>, Arc<Class>),
    /// Itself, behind what gives the server these under their own names.
    Reveal(Box<[Arc<Prepared>]>),
    /// The question for the session's token.
    Token,
}

impl Session {
    /// What a simple query that prepares or executes is to be replaced by, and the class of what is left to do; `None` when it
    /// stays what it is.
    pub(crate) fn rewrite(
        &self,
        sql: &[u8],
        class: &Arc<Class>,
        classifier: &Classifier,
    ) -> Option<(Rewrite, Arc<Class>)> {
        match lone_effect(class)? {
            Effect::Prepare { name, types, body } if !self.names_are_real() => {
                let inner = classify(classifier, body);
                let statement = Prepared::by_sql(sql, body, types, inner.clone(), &self.settings);
                Some((Rewrite::Prepare(name.as_bytes().into(), Arc::new(statement)), inner))
            }
            Effect::Execute(execution) => {
                let target = self.statements.get(execution.name.as_bytes())?;
                if self.goes_by_its_name(target) {
                    return None;
                }
                let derived = derived(execution, &target.class);
                Some((Rewrite::Execute(target.clone(), class.clone()), derived))
            }
            Effect::HakemShow { name } if name == TOKEN => Some((Rewrite::Token, Arc::new(token::class()))),
            _ => None,
        }
    }

    /// The statement of a Parse message whose text is one of these; `None` for any other text.
    pub(crate) fn prepared_by_text(
        &self,
        Parse { sql, types, .. }: Parse<'_>,
        class: &Arc<Class>,
        classifier: &Classifier,
    ) -> Option<Prepared> {
        let own = |inner| Prepared { form: Form::Own(inner), ..Prepared::unnamed(sql, types, class.clone()) };
        match lone_effect(class)? {
            Effect::Prepare { types, body, .. } if !self.names_are_real() => {
                let inner = Prepared::by_sql(sql, body, types, classify(classifier, body), &self.settings);
                Some(own(Some(Arc::new(inner))))
            }
            Effect::Deallocate(_) | Effect::DeallocateAll if !self.names_are_real() => Some(own(None)),
            Effect::HakemShow { name } if name == TOKEN => {
                Some(Prepared::named(token::QUESTION.as_bytes(), types, Arc::new(token::class()), &self.settings))
            }
            Effect::Hakem { .. } | Effect::HakemShow { .. } => Some(own(None)),
            Effect::Execute(execution) => {
                let target = self.gathered(execution.name.as_bytes())?;
                if self.goes_by_its_name(&target) {
                    return None;
                }
                let text = executing(execution, &target);
                let derived = derived(execution, &target.class);
                let statement = Prepared::named(&text, types, derived, &self.settings);
                Some(Prepared { form: Form::Execute(target), ..statement })
            }
            _ => None,
        }
    }

    /// What a name will stand for behind what has been gathered of the request.
    fn gathered(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        let mut found = self.statements.get(name).cloned();
        let mut parsed = self.parsed.iter();
        for frame in Frames::new(&self.request.frames) {
            match Frontend::read(frame) {
                Ok(Frontend::Parse(parse)) => {
                    let statement = parsed.next();
                    if parse.name == name {
                        found = found.or_else(|| statement.cloned());
                    }
                }
                Ok(Frontend::Close(Target::Statement(closed))) if closed == name => found = None,
                _ => {}
            }
        }
        found
    }

    /// Answers DEALLOCATE in a simple query by itself, outside of a failed transaction. `false` when it is a server's business.
    pub(crate) fn deallocate(&mut self, effect: &Effect) -> bool {
        let shared = |name: &str| self.statements.get(name.as_bytes()).is_some_and(|known| !known.is_of_sql());
        if (self.names_are_real() && !matches!(effect, Effect::Deallocate(name) if shared(name)))
            || matches!(self.transaction, Transaction::Open { failed: true } | Transaction::Lost { .. })
        {
            return false;
        }
        match effect {
            Effect::DeallocateAll => {
                self.statements.clear();
                backend::put_command_complete(&mut self.output, "DEALLOCATE ALL");
            }
            Effect::Deallocate(name) if self.statements.remove(name.as_bytes()).is_some() => {
                backend::put_command_complete(&mut self.output, "DEALLOCATE");
            }
            Effect::Deallocate(name) if self.transaction == Transaction::None && self.lease.role.is_none() => {
                missing(name).put(&mut self.output);
            }
            _ => return false,
        }
        true
    }

    /// Whether statements may be on the server under the client's own names: a string of several prepared them.
    pub(crate) fn names_are_real(&self) -> bool {
        self.pins.contains(&classifier::PinReason::SqlPrepare)
    }

    /// Whether EXECUTE finds the statement, if at all, under the client's own name.
    fn goes_by_its_name(&self, statement: &Prepared) -> bool {
        matches!(statement.form, Form::Own(_)) || (statement.is_of_sql() && self.names_are_real())
    }

    /// Writes a simple query that was rewritten. `mark`: where its changes begin.
    pub(crate) fn encode_rewritten(
        &mut self,
        rewrite: &Rewrite,
        mark: usize,
        memory: &mut ServerMemory,
        out: &mut Vec<u8>,
    ) {
        match rewrite {
            Rewrite::Reveal(_) => debug_assert!(false, "is sent as it is"),
            Rewrite::Token => {
                frontend::put_query(out, token::QUESTION);
                self.owe(Owed::Query { mark, instead: None, prepares: None });
            }
            Rewrite::Prepare(name, _) if self.statements.get(name).is_some() => {
                self.doom(taken(name), Owed::Query { mark, instead: None, prepares: None }, out);
            }
            Rewrite::Prepare(name, statement)
                if self.statements.would_exceed(self.policy.statements_max, name, statement) =>
            {
                self.doom(too_many(), Owed::Query { mark, instead: None, prepares: None }, out);
            }
            // It fails, and for that reason.
            Rewrite::Prepare(_, statement) if self.transaction == (Transaction::Open { failed: true }) => {
                frontend::put_query(out, &preparing(statement));
                self.owe(Owed::Query { mark, instead: None, prepares: None });
            }
            Rewrite::Prepare(name, statement) => {
                let own_mark = self.changes.end();
                self.changes.push(name, None);
                self.statements.insert(name, statement.clone());
                if memory.touch(statement.id) {
                    self.owe(Owed::Said { mark, what: Said::Complete("PREPARE") });
                    self.owe(Owed::Sync);
                    return frontend::put_sync(out);
                }
                self.encode_eviction(statement, memory, out);
                frontend::put_query(out, &preparing(statement));
                self.owe(Owed::Query { mark, instead: None, prepares: Some((statement.id, own_mark)) });
            }
            Rewrite::Execute(target, class) => {
                if self.transaction != (Transaction::Open { failed: true }) && !memory.touch(target.id) {
                    self.ensure(target, memory, out);
                    self.owe(Owed::HiddenEnd);
                    frontend::put_sync(out);
                    self.lease.unnamed = false;
                }
                if let Some(Effect::Execute(execution)) = lone_effect(class) {
                    frontend::put_query(out, &executing(execution, target));
                    self.owe(Owed::Query { mark, instead: None, prepares: None });
                }
            }
        }
    }

    /// Executes PREPARE or DEALLOCATE in the extended protocol.
    pub(crate) fn execute_own(&mut self, statement: &Prepared, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let mark = self.changes.end();
        if self.transaction == (Transaction::Open { failed: true }) {
            return self.doom(crate::answer::aborted(), Owed::Bind { id: None }, out);
        }
        let command = match lone_effect(&statement.class) {
            Some(Effect::Prepare { name, .. }) if self.statements.get(name.as_bytes()).is_some() => {
                return self.doom(taken(name.as_bytes()), Owed::Bind { id: None }, out);
            }
            Some(Effect::Prepare { name, .. }) => {
                if let Form::Own(Some(prepared)) = &statement.form {
                    if self.statements.would_exceed(self.policy.statements_max, name.as_bytes(), prepared) {
                        return self.doom(too_many(), Owed::Bind { id: None }, out);
                    }
                    self.changes.push(name.as_bytes(), None);
                    self.statements.insert(name.as_bytes(), prepared.clone());
                    self.ensure(prepared, memory, out);
                }
                "PREPARE"
            }
            Some(Effect::Deallocate(name)) => match self.statements.remove(name.as_bytes()) {
                Some(removed) => {
                    self.changes.push(name.as_bytes(), Some(removed));
                    "DEALLOCATE"
                }
                None => return self.doom(missing(name), Owed::Bind { id: None }, out),
            },
            Some(Effect::Hakem { name, value, scope }) => match self.set_own(name, value.as_deref(), *scope) {
                Ok(command) => command,
                Err(failure) => return self.doom(failure, Owed::Describe { id: None, tells: None }, out),
            },
            Some(Effect::HakemShow { name }) => match self.show_own(name) {
                Ok(value) => {
                    self.owe(Owed::Said { mark, what: Said::Row(value.into()) });
                    "SHOW"
                }
                Err(failure) => return self.doom(failure, Owed::Describe { id: None, tells: None }, out),
            },
            _ => {
                self.forget_names();
                "DEALLOCATE ALL"
            }
        };
        self.owe(Owed::Said { mark, what: Said::Complete(command) });
    }

    /// All of the client's names stand for nothing any more.
    pub(crate) fn forget_names(&mut self) {
        for name in self.statements.names() {
            let removed = self.statements.remove(&name);
            self.changes.push(&name, removed);
        }
    }

    /// Makes the server fail where it would not by itself, and has the client told why it should have.
    pub(crate) fn doom(&mut self, failure: Failure, owed: Owed, out: &mut Vec<u8>) {
        let instead = Some(Box::new(failure));
        match owed {
            Owed::Query { mark, prepares, .. } => {
                frontend::put_query(out, &format!("DEALLOCATE {}", String::from_utf8_lossy(UNKNOWN)));
                self.owe(Owed::Query { mark, instead, prepares });
            }
            _ => {
                frontend::put_describe_statement(out, UNKNOWN);
                self.owe(Owed::Doomed { mark: self.changes.end(), instead });
            }
        }
    }

    /// Prepares by SQL, in the extended protocol, so that no transaction ends by it. Nothing of it is left but the statement.
    pub(crate) fn encode_prepare(&mut self, statement: &Prepared, out: &mut Vec<u8>) {
        frontend::put_parse(out, b"", &preparing(statement), &[0, 0]);
        frontend::put_bind(out, PORTAL, b"", &[0; 6]);
        put_execute(out, PORTAL);
        put_close_portal(out, PORTAL);
        self.lease.unnamed = false;
        self.owe(Owed::HiddenStep);
        self.owe(Owed::HiddenStep);
        self.owe(Owed::HiddenExecute(statement.id));
        self.owe(Owed::HiddenStep);
    }
}

/// What the proxy says itself, in place of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// ParseComplete, BindComplete, CloseComplete or NoData.
    Bare(u8),
    /// ParameterDescription of no parameters.
    NoParameters,
    /// RowDescription of one column.
    Column(Box<str>),
    /// DataRow of one value.
    Row(Box<str>),
    /// CommandComplete.
    Complete(&'static str),
}

impl Said {
    /// What a statement returns that the proxy executes itself.
    pub(crate) fn columns(statement: &Prepared) -> Said {
        match lone_effect(&statement.class) {
            Some(Effect::HakemShow { name }) => Said::Column(format!("hakem.{name}").into()),
            _ => Said::Bare(backend::tag::NO_DATA),
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Said::Bare(tag) => backend::put_bare(out, *tag),
            Said::Column(name) => backend::put_text_columns(out, &[name]),
            Said::Row(value) => backend::put_text_row(out, &[value]),
            Said::NoParameters => backend::put_no_parameters(out),
            Said::Complete(command) => backend::put_command_complete(out, command),
        }
    }
}

/// The effect of a string that is one statement.
pub(crate) fn lone_effect(class: &Class) -> Option<&Effect> {
    class.effects.first().filter(|_| class.statements == 1)
}

/// Whether a statement is about prepared statements.
pub(crate) fn concerns_statements(class: &Class) -> bool {
    let concerns = |effect: &Effect| {
        matches!(effect, Effect::Prepare { .. } | Effect::Execute(_) | Effect::Deallocate(_) | Effect::DeallocateAll)
    };
    class.effects.iter().any(concerns)
}

/// What EXECUTE does: what the prepared statement does, and what its own words do.
fn derived(execution: &Execution, target: &Arc<Class>) -> Arc<Class> {
    if execution.plain && execution.pin.is_none() {
        return target.clone();
    }
    let mut class = Class::clone(target);
    class.access = Access::Write;
    class.statements = 1;
    class.unseen |= !execution.plain;
    if let Some(pin) = execution.pin {
        class.effects = Box::new([Effect::Pin(pin)]);
    }
    Arc::new(class)
}

fn executing(execution: &Execution, target: &Prepared) -> Vec<u8> {
    [&execution.before, &target.id.name().0[..], &execution.after].join(&b' ')
}

pub(crate) fn preparing(statement: &Prepared) -> Vec<u8> {
    let name = statement.id.name();
    [b"PREPARE", &name.0[..], &statement.types, b"AS", &statement.sql].join(&b' ')
}

/// As PostgreSQL words it (`StorePreparedStatement`).
pub(crate) fn taken(name: &[u8]) -> Failure {
    Failure::error("42P05", format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name)))
}

/// The client closes none.
pub(crate) fn too_many() -> Failure {
    Failure::error("54000", "too many prepared statements")
        .hint("Close or deallocate those that are not needed any more, or raise statements_retain_max.")
}

/// As PostgreSQL words it (`FetchPreparedStatement`).
fn missing(name: &str) -> Failure {
    Failure::error("26000", format!("prepared statement \"{name}\" does not exist"))
}

pub(crate) fn put_execute(out: &mut Vec<u8>, portal: &[u8]) {
    out.push(frontend::tag::EXECUTE);
    out.extend_from_slice(&(portal.len() as u32 + 9).to_be_bytes());
    out.extend_from_slice(portal);
    out.extend_from_slice(&[0; 5]);
}

pub(crate) fn put_close_portal(out: &mut Vec<u8>, portal: &[u8]) {
    out.push(frontend::tag::CLOSE);
    out.extend_from_slice(&(portal.len() as u32 + 6).to_be_bytes());
    out.push(b'P');
    out.extend_from_slice(portal);
    out.push(0);
}

/// The portal of the proxy's own.
const PORTAL: &[u8] = b"hakem_prepare";

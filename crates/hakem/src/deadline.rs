//! The time that a client has: `client_login_timeout`, `query_timeout`, `idle_transaction_timeout`, `transaction_timeout` and
//! `client_idle_timeout`.
//!
//! No request registers a timer. A client's slot holds the moment at which its time is up, and while anybody has such a moment, a
//! coarse tick of the worker looks at those who have. Where no timeout is set, no clock is read for it. What happens to a client whose
//! time is up is not decided here.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use session::{Session, Transaction};
use wire::backend::Failure;

use crate::client::Client;
use crate::worker::{Slot, Worker};

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// A connection, to log in.
    Login,
    /// The answer to a request.
    Query,
    /// The client, to go on with its transaction.
    IdleTransaction,
    /// A transaction as a whole.
    Transaction,
    /// The client, to ask for anything.
    ClientIdle,
}

impl Overdue {
    pub(crate) const ALL: [Overdue; 5] =
        [Overdue::Login, Overdue::Query, Overdue::IdleTransaction, Overdue::Transaction, Overdue::ClientIdle];

    /// The setting's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Overdue::Login => "client_login_timeout",
            Overdue::Query => "query_timeout",
            Overdue::IdleTransaction => "idle_transaction_timeout",
            Overdue::Transaction => "transaction_timeout",
            Overdue::ClientIdle => "client_idle_timeout",
        }
    }

    /// What the client is told, in PgBouncer's words and with PostgreSQL's codes.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Overdue::Login => Failure::fatal("08P01", "client_login_timeout"),
            Overdue::Query => Failure::fatal("57014", "query_timeout"),
            Overdue::IdleTransaction => Failure::fatal("25P03", "idle transaction timeout"),
            Overdue::Transaction => Failure::fatal("25P04", "transaction timeout"),
            Overdue::ClientIdle => Failure::fatal("57P05", "client_idle_timeout"),
        }
    }
}

/// When something is due for a client, and whether it is.
pub(crate) struct Alarm<T> {
    at: Cell<Option<(Instant, T)>>,
    rung: Cell<bool>,
}

impl<T> Default for Alarm<T> {
    fn default() -> Alarm<T> {
        Alarm { at: Cell::default(), rung: Cell::default() }
    }
}

impl<T: Copy> Alarm<T> {
    fn set(&self, at: Option<(Instant, T)>) {
        self.at.set(at);
        self.rung.set(false);
    }

    /// Nothing is due.
    pub(crate) fn clear(&self) {
        self.set(None);
    }

    fn is_set(&self) -> bool {
        self.at.get().is_some()
    }

    /// Whether that has come since it was asked last.
    fn rings(&self, now: Instant) -> bool {
        self.at.get().is_some_and(|(at, _)| at <= now) && !self.rung.replace(true)
    }

    /// What is due.
    fn due(&self) -> Option<T> {
        if self.rung.get() { self.at.get().map(|(_, due)| due) } else { None }
    }
}

impl Slot {
    /// What the client has no more time for; else its task is woken when there is something.
    pub(crate) fn overdue(&self, context: &mut Context<'_>) -> Option<Overdue> {
        let due = self.alarm.due();
        if due.is_none() {
            // Also while there is no such moment: it may be set before this is asked again.
            self.attend(context);
        }
        due
    }

    /// Whether it is to be told that it waits. Whoever asks asks for what is overdue, too, and is woken by that.
    pub(crate) fn is_to_be_told(&self) -> bool {
        self.notice.due().is_some()
    }

    /// Wakes the client when something has come. `false` when nothing is to come.
    fn tick(&self, now: Instant) -> bool {
        if self.alarm.rings(now) | self.notice.rings(now) {
            self.wake();
        }
        let is_timed = self.alarm.is_set() || self.notice.is_set();
        self.timed.set(is_timed);
        is_timed
    }
}

impl Client {
    /// A request has come: it has to be answered in time.
    pub(crate) fn time_request(&mut self, now: Instant) {
        let timeouts = &self.tenant.resolved.timeouts;
        let since = *self.transaction_since.get_or_insert(now);
        let query = timeouts.query.map(|timeout| (now + timeout, Overdue::Query));
        let transaction = timeouts.transaction.map(|timeout| (since + timeout, Overdue::Transaction));
        self.set_alarm(earlier(query, transaction));
    }

    /// The same for one that goes to the server that the client holds.
    pub(crate) fn time_next_request(&mut self) {
        let timeouts = &self.tenant.resolved.timeouts;
        match timeouts.query.or(timeouts.transaction) {
            Some(_) => self.time_request(Instant::now()),
            None => self.set_alarm(None),
        }
    }

    /// A request has been answered, or a part of one; the server is still held.
    pub(crate) fn time_answered(&mut self, session: &Session, now: Instant) {
        match session.transaction() {
            _ if !session.is_quiet() => self.time_request(now),
            Transaction::None => {
                self.transaction_since = None;
                self.set_alarm(None);
            }
            _ => self.time_transaction(now),
        }
    }

    /// The client holds no server, and it is its turn.
    pub(crate) fn time_rest(&mut self, session: &Session) {
        let timeouts = &self.tenant.resolved.timeouts;
        if session.transaction() != Transaction::None {
            // One that it has just begun, too: its server knows nothing of it yet, and it is not idle any more.
            return match timeouts.idle_transaction.or(timeouts.transaction) {
                Some(_) => self.time_transaction(Instant::now()),
                None => self.set_alarm(None),
            };
        }
        self.transaction_since = None;
        let idle = timeouts.client_idle.map(|timeout| (Instant::now() + timeout, Overdue::ClientIdle));
        self.set_alarm(idle);
    }

    /// It is the client's turn, in a transaction.
    pub(crate) fn time_transaction(&mut self, now: Instant) {
        let timeouts = &self.tenant.resolved.timeouts;
        let since = *self.transaction_since.get_or_insert(now);
        let idle = timeouts.idle_transaction.map(|timeout| (now + timeout, Overdue::IdleTransaction));
        let transaction = timeouts.transaction.map(|timeout| (since + timeout, Overdue::Transaction));
        self.set_alarm(earlier(idle, transaction));
    }

    fn set_alarm(&self, at: Option<(Instant, Overdue)>) {
        self.worker.set_alarm(&self.slot, at);
    }
}

impl Worker {
    /// Somebody has to log in by then, unless the alarm is cleared.
    pub(crate) fn time_login(self: &Rc<Worker>, slot: &Rc<Slot>, by: Instant) {
        self.set_alarm(slot, Some((by, Overdue::Login)));
    }

    /// A client that waits is to be told so then.
    pub(crate) fn set_notice(self: &Rc<Worker>, slot: &Rc<Slot>, at: Option<Instant>) {
        self.set(slot, &slot.notice, at.map(|at| (at, ())));
    }

    fn set_alarm(self: &Rc<Worker>, slot: &Rc<Slot>, at: Option<(Instant, Overdue)>) {
        self.set(slot, &slot.alarm, at);
    }

    /// Sets an alarm of a slot, and sees to it that somebody looks at it.
    fn set<T: Copy>(self: &Rc<Worker>, slot: &Rc<Slot>, alarm: &Alarm<T>, at: Option<(Instant, T)>) {
        alarm.set(at);
        if at.is_none() || slot.timed.replace(true) {
            return;
        }
        let mut timed = self.timed.borrow_mut();
        if timed.is_empty() {
            drop(tokio::task::spawn_local(tick(self.clone())));
        }
        timed.push(slot.clone());
    }
}

/// Looks at all alarms of a worker for as long as there are any.
async fn tick(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        let mut timed = worker.timed.borrow_mut();
        // Whose client has gone is kept by nobody else.
        timed.retain(|slot| Rc::strong_count(slot) > 1 && slot.tick(now));
        if timed.is_empty() {
            return;
        }
    }
}

fn earlier(one: Option<(Instant, Overdue)>, other: Option<(Instant, Overdue)>) -> Option<(Instant, Overdue)> {
    one.into_iter().chain(other).min_by_key(|(at, _)| *at)
}

/// How late a timeout may be noticed.
const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::Standing;

    #[test]
    fn an_alarm_rings_when_its_time_has_come_and_not_after_it_was_set_again() {
        let (alarm, now) = (Alarm::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(!alarm.is_set() && !alarm.rings(now) && alarm.due().is_none(), "nothing is set");
        alarm.set(Some((now + second, Overdue::Query)));
        assert!(alarm.is_set() && !alarm.rings(now) && alarm.due().is_none());
        assert!(alarm.rings(now + second) && !alarm.rings(now + second), "once");
        assert_eq!(alarm.due(), Some(Overdue::Query));
        alarm.set(Some((now + 3 * second, Overdue::ClientIdle)));
        assert!(!alarm.rings(now + 2 * second) && alarm.due().is_none());
        alarm.clear();
        assert!(!alarm.is_set() && !alarm.rings(now + 4 * second) && alarm.due().is_none());
    }

    #[test]
    fn an_alarm_that_is_set_after_a_look_at_it_wakes_who_has_looked() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (slot, now) = (Slot::new(1, Standing::new(Instant::now()), false), Instant::now());
        let woken = std::sync::Arc::new(Woken(Default::default()));
        let was_woken = || woken.0.swap(false, std::sync::atomic::Ordering::Relaxed);
        let waker = woken.clone().into();
        let mut context = Context::from_waker(&waker);
        assert!(slot.overdue(&mut context).is_none());
        slot.alarm.set(Some((now, Overdue::IdleTransaction)));
        assert!(slot.tick(now) && was_woken());
        assert_eq!(slot.overdue(&mut context), Some(Overdue::IdleTransaction));
        slot.notice.set(Some((now, ())));
        assert!(slot.tick(now) && was_woken() && slot.is_to_be_told());
        slot.alarm.clear();
        slot.notice.clear();
        assert!(!slot.tick(now) && !was_woken(), "nothing is to come");
    }

    #[test]
    fn the_earlier_of_two_counts() {
        let now = Instant::now();
        let (soon, late) = ((now, Overdue::Transaction), (now + Duration::from_secs(1), Overdue::Query));
        assert_eq!(earlier(Some(late), Some(soon)), Some(soon));
        assert_eq!(earlier(None, Some(late)), Some(late));
        assert_eq!(earlier(None, None), None);
    }
}

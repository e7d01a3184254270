//! The time that a client has: `query_timeout`, `idle_transaction_timeout`, `transaction_timeout` and `client_idle_timeout`.
//!
//! No request registers a timer. A client's slot holds the moment at which its time is up, and while anybody has such a moment, a
//! coarse tick of the worker looks at all of them. Where no timeout is set, no clock is read for it. What happens to a client whose
//! time is up is not decided here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use session::{Session, Transaction};
use wire::backend::Failure;

use crate::client::Client;
use crate::worker::Worker;

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
    waker: RefCell<Option<Waker>>,
}

impl<T> Default for Alarm<T> {
    fn default() -> Alarm<T> {
        Alarm { at: Cell::default(), rung: Cell::default(), waker: RefCell::default() }
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

    /// What is due; else the task is woken when that comes.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Option<T> {
        if let Some((_, due)) = self.at.get().filter(|_| self.rung.get()) {
            return Some(due);
        }
        // Also while there is no such moment: it may be set before this is polled again.
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        None
    }

    /// Wakes the client when that has come. `false` when nothing is to come.
    fn tick(&self, now: Instant) -> bool {
        let Some((at, _)) = self.at.get() else { return false };
        if at <= now
            && !self.rung.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
        true
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
        self.worker.set_alarm(&self.slot.alarm, at);
    }
}

impl Worker {
    /// Sets an alarm of one of the worker's slots.
    pub(crate) fn set_alarm<T: Copy>(self: &Rc<Worker>, alarm: &Alarm<T>, at: Option<(Instant, T)>) {
        alarm.set(at);
        if at.is_some() && !self.ticking.replace(true) {
            drop(tokio::task::spawn_local(tick(self.clone())));
        }
    }

    /// An alarm for somebody who has to log in by then, for as long as it is kept.
    pub(crate) fn time_login(self: &Rc<Worker>, by: Instant) -> Rc<Alarm<Overdue>> {
        let alarm = Rc::<Alarm<Overdue>>::default();
        alarm.set(Some((by, Overdue::Login)));
        let mut logins = self.logins.borrow_mut();
        if logins.is_empty() {
            drop(tokio::task::spawn_local(tick_logins(self.clone())));
        }
        logins.push(alarm.clone());
        alarm
    }
}

/// Looks at the alarms of those who log in for as long as there are any. Not with everybody's: there may be thousands of clients that have
/// none, and somebody logs in at all times.
async fn tick_logins(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        let mut logins = worker.logins.borrow_mut();
        logins.retain(|alarm| Rc::strong_count(alarm) > 1 && alarm.tick(now));
        if logins.is_empty() {
            return;
        }
    }
}

/// Looks at all alarms of a worker for as long as there are any.
async fn tick(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(TICK).await;
        let now = Instant::now();
        let mut any = false;
        worker.each_slot(|slot| any |= slot.alarm.tick(now) | slot.notice.tick(now));
        if !any {
            worker.ticking.set(false);
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

    #[test]
    fn an_alarm_rings_when_its_time_has_come_and_not_after_it_was_set_again() {
        let (alarm, now) = (Alarm::default(), Instant::now());
        let mut context = Context::from_waker(Waker::noop());
        let second = Duration::from_secs(1);
        assert!(!alarm.tick(now) && alarm.poll(&mut context).is_none(), "nothing is set");
        alarm.set(Some((now + second, Overdue::Query)));
        assert!(alarm.tick(now) && alarm.poll(&mut context).is_none());
        assert!(alarm.tick(now + second));
        assert_eq!(alarm.poll(&mut context), Some(Overdue::Query));
        alarm.set(Some((now + 3 * second, Overdue::ClientIdle)));
        assert!(alarm.tick(now + 2 * second) && alarm.poll(&mut context).is_none());
        alarm.set(None);
        assert!(!alarm.tick(now + 4 * second) && alarm.poll(&mut context).is_none());
    }

    #[test]
    fn an_alarm_that_is_set_after_a_look_at_it_wakes_who_has_looked() {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (alarm, now) = (Alarm::default(), Instant::now());
        let woken = std::sync::Arc::new(Woken(Default::default()));
        assert!(alarm.poll(&mut Context::from_waker(&woken.clone().into())).is_none());
        alarm.set(Some((now, Overdue::IdleTransaction)));
        assert!(alarm.tick(now) && woken.0.load(std::sync::atomic::Ordering::Relaxed));
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

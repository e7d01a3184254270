//! The lobby: connections that have not logged in yet.
//!
//! Owns their number. They do not count as clients, so that strangers who keep the door open keep nobody out; and when there are too
//! many, the one leaves that has been here longest, of those from the address that has the most. Who waits for *us* stays, and not for a server.
//! Nobody is let in while too many of those who were shown out have not gone yet, since they cost memory as long as they are here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{HashMap, HashSet};
use tokio::sync::Notify;

/// Everybody who has not logged in.
#[derive(Default)]
pub(crate) struct Lobby {
    guests: Mutex<Guests>,
    shown_out: AtomicU64,
    /// Somebody has gone.
    gone: Notify,
}

/// How many of those who were shown out may be here still when the next one is let in.
const LEAVING_MAX: usize = 64;

/// One connection's place in the lobby; free when it is dropped.
pub(crate) struct Seat {
    lobby: Arc<Lobby>,
    number: u64,
    origin: Origin,
    call: Arc<Notify>,
}

/// As long as it lives, the guest waits for us.
pub(crate) struct Served {
    lobby: Arc<Lobby>,
    number: u64,
    origin: Origin,
    call: Arc<Notify>,
}

#[derive(Default)]
struct Guests {
    next: u64,
    /// Those that we wait for, in the order in which they came.
    awaited: HashMap<Origin, BTreeMap<u64, Arc<Notify>>>,
    /// Those that wait for us.
    served: HashSet<u64>,
    count: usize,
    /// Those that were shown out and have not gone.
    leaving: usize,
}

/// Where a connection comes from: an address, or a network that one host may have for itself; `None` for this machine's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(Option<IpAddr>);

impl Lobby {
    /// Takes one more in. When there are `max` already, another is shown out; `None` when all of them wait for us.
    pub(crate) fn enter(self: &Arc<Lobby>, origin: Origin, max: usize) -> Option<Seat> {
        let mut guests = self.lock();
        while guests.count >= max {
            let call = guests.show_out()?;
            self.shown_out.fetch_add(1, Ordering::Relaxed);
            call.notify_one();
        }
        let number = guests.next;
        guests.next += 1;
        guests.count += 1;
        let call = Arc::new(Notify::new());
        guests.awaited.entry(origin).or_default().insert(number, call.clone());
        drop(guests);
        Some(Seat { lobby: self.clone(), number, origin, call })
    }

    /// Waits while too many are on their way out. They leave as soon as they are scheduled, whatever their peers do.
    pub(crate) async fn calm(&self) {
        loop {
            // Made first, so that nobody goes unnoticed.
            let gone = self.gone.notified();
            if self.lock().leaving <= LEAVING_MAX {
                return;
            }
            gone.await;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().count
    }

    /// How many have been shown out so far.
    pub(crate) fn shown_out(&self) -> u64 {
        self.shown_out.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    /// Removes the first of those that we wait for from where most of them come from.
    fn show_out(&mut self) -> Option<Arc<Notify>> {
        let crowd = self.awaited.iter().max_by_key(|(_, crowd)| crowd.len());
        let (&origin, crowd) = crowd?;
        let &number = crowd.first_key_value()?.0;
        self.count -= 1;
        self.leaving += 1;
        self.take(origin, number)
    }

    fn take(&mut self, origin: Origin, number: u64) -> Option<Arc<Notify>> {
        let crowd = self.awaited.get_mut(&origin)?;
        let call = crowd.remove(&number);
        if crowd.is_empty() {
            self.awaited.remove(&origin);
        }
        call
    }
}

impl Seat {
    /// What is notified when the guest has to leave.
    pub(crate) fn call(&self) -> Arc<Notify> {
        self.call.clone()
    }

    /// From now on the guest waits for us, until the answer is dropped.
    pub(crate) fn serve(&self) -> Served {
        let mut guests = self.lobby.lock();
        if guests.take(self.origin, self.number).is_some() {
            guests.served.insert(self.number);
        }
        Served { lobby: self.lobby.clone(), number: self.number, origin: self.origin, call: self.call.clone() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut guests = self.lobby.lock();
        if guests.take(self.origin, self.number).is_some() || guests.served.remove(&self.number) {
            guests.count -= 1;
        } else {
            guests.leaving -= 1;
            self.lobby.gone.notify_waiters();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut guests = self.lobby.lock();
        if guests.served.remove(&self.number) {
            guests.awaited.entry(self.origin).or_default().insert(self.number, self.call.clone());
        }
    }
}

impl Origin {
    /// This machine.
    pub(crate) const HERE: Origin = Origin(None);

    /// An address. Of one of IPv6 it is the first half, since a host may have all of a network.
    pub(crate) fn of(address: IpAddr) -> Origin {
        Origin(Some(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            address => address,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(last: u8) -> Origin {
        Origin::of(IpAddr::from([10, 0, 0, last]))
    }

    fn is_called(seat: &Seat) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(seat.call.notified()).poll(&mut context).is_ready()
    }

    #[test]
    fn the_oldest_of_the_largest_crowd_leaves() {
        let lobby = Arc::<Lobby>::default();
        let enter = |last| lobby.enter(origin(last), 4).expect("somebody can be shown out");
        let guests = [enter(1), enter(2), enter(2), enter(2), enter(1)];
        assert_eq!(guests.iter().map(is_called).collect::<Vec<_>>(), [false, true, false, false, false]);
        assert_eq!((lobby.count(), lobby.shown_out()), (4, 1));
        drop(guests);
        assert_eq!(lobby.count(), 0);
        assert!(lobby.lock().awaited.is_empty());
    }

    #[test]
    fn nobody_is_let_in_while_many_leave() {
        let lobby = Arc::<Lobby>::default();
        let mut guests: Vec<_> = (0..LEAVING_MAX + 2).map(|_| lobby.enter(origin(1), 1).expect("room")).collect();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut calm = std::pin::pin!(lobby.calm());
        assert!(calm.as_mut().poll(&mut context).is_pending());
        drop(guests.pop());
        assert!(calm.as_mut().poll(&mut context).is_pending(), "the one that may stay has gone");
        drop(guests.pop());
        assert!(calm.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn who_waits_for_us_stays() {
        let lobby = Arc::<Lobby>::default();
        let enter = || lobby.enter(origin(1), 2);
        let (first, second) = (enter().expect("room"), enter().expect("room"));
        let (served, also) = (first.serve(), second.serve());
        assert!(enter().is_none());
        drop(also);
        let third = enter().expect("the second can go");
        assert_eq!([&first, &second, &third].map(is_called), [false, true, false]);
        // Also while it is served, or after it was shown out.
        drop((second, first, served));
        assert_eq!(lobby.count(), 1);
        drop(third);
        assert_eq!(lobby.count(), 0);
        assert!(lobby.lock().awaited.is_empty() && lobby.lock().served.is_empty());
    }

    #[test]
    fn origins() {
        let of = |text: &str| Origin::of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}

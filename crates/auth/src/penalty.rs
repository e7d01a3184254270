//! How long an address waits for the answer to a login that has failed: longer with each failure, up to a limit, until it has
//! been good for a while.
//!
//! Only failures wait, as long as they do: who knows his password is let in at once, behind whatever address he sits. Whoever does not
//! wait, and has had no answer for one, leaves the rest to his address: it owes that, and whoever comes next from there waits before he
//! may prove anything. So does an address of which many wait at a time. Owns the table, which is bounded; does not wait itself, and
//! asks no clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// What a failed login costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PenaltyOptions {
    /// The wait after an address's first failure; it doubles with each further one. Nothing disables all waiting.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
    /// The time after its last failure when an address is forgotten.
    pub forget: Duration,
}

/// The addresses that logins have failed from.
#[derive(Debug, Default)]
pub struct Penalties {
    addresses: HashMap<IpAddr, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// Answers that are being held back.
    held: u32,
    /// Until then nobody who comes from there may prove anything.
    owed_until: Instant,
}

impl Penalties {
    /// Notes that a login from `address` has failed, and returns how long its answer is held back; [`Penalties::over`] must say how
    /// that ends. A network of IPv6, which is one customer's, counts as one address.
    pub fn failed(&mut self, address: IpAddr, options: &PenaltyOptions, now: Instant) -> Duration {
        if options.first.is_zero() {
            return Duration::ZERO;
        }
        let key = network(address);
        let is_forgotten = |failures: &Failures| {
            now.saturating_duration_since(failures.last) >= options.forget && failures.owed_until <= now
        };
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&key) {
            self.addresses.retain(|_, failures| !is_forgotten(failures));
            self.evict();
        }
        let fresh = Failures { count: 0, last: now, held: 0, owed_until: now };
        let failures = self.addresses.entry(key).or_insert(fresh);
        if is_forgotten(failures) {
            *failures = Failures { held: failures.held, ..fresh };
        }
        let doublings = failures.count.min(DOUBLINGS_MAX);
        let delay = options.first.saturating_mul(1 << doublings).min(options.max);
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        failures.held = failures.held.saturating_add(1);
        if failures.held > HELD_MAX {
            failures.owe(now + delay);
        }
        delay
    }

    /// An answer is held back no more. Unless the client has waited for it, its address owes the rest, up to `until`.
    pub fn over(&mut self, address: IpAddr, until: Instant, waited: bool) {
        // An address that had to make room is forgotten.
        if let Some(failures) = self.addresses.get_mut(&network(address)) {
            failures.held = failures.held.saturating_sub(1);
            if !waited {
                failures.owe(until);
            }
        }
    }

    /// How long whoever comes from `address` waits before he may prove who he is.
    pub fn owed(&self, address: IpAddr, now: Instant) -> Duration {
        let failures = self.addresses.get(&network(address));
        failures.map_or(Duration::ZERO, |failures| failures.owed_until.saturating_duration_since(now))
    }

    /// How many addresses are remembered.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Makes room: whoever has been good for longest is forgotten.
    fn evict(&mut self) {
        if self.addresses.len() < ADDRESSES_MAX {
            return;
        }
        let oldest = self.addresses.iter().min_by_key(|(_, failures)| failures.last).map(|(address, _)| *address);
        oldest.and_then(|address| self.addresses.remove(&address));
    }
}

impl Failures {
    fn owe(&mut self, until: Instant) {
        self.owed_until = self.owed_until.max(until);
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The most addresses that are remembered.
pub const ADDRESSES_MAX: usize = 10_000;

/// Of one address, so many wait for their answers at a time without more ado.
const HELD_MAX: u32 = 8;

/// Beyond this, doubling would only overflow.
const DOUBLINGS_MAX: u32 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: PenaltyOptions = PenaltyOptions {
        first: Duration::from_millis(100),
        max: Duration::from_secs(5),
        forget: Duration::from_secs(60),
    };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn doubles_up_to_a_limit_and_is_forgotten() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        let mut failed = |from: &str, at: Duration| penalties.failed(address(from), &OPTIONS, now + at).as_millis();
        let second = Duration::from_secs(1);
        let waits: Vec<u128> = (0..8).map(|_| failed("10.0.0.1", second)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        // Another address does not suffer for it.
        assert_eq!(failed("10.0.0.2", second), 100);
        assert_eq!(failed("10.0.0.1", 60 * second), 5000);
        assert_eq!(failed("10.0.0.1", 120 * second), 100);
        for _ in 0..100 {
            assert!(failed("10.0.0.1", 120 * second) <= 5000);
        }
    }

    /// Whoever hangs up instead of waiting is waited for by the next from there, and by nobody else.
    #[test]
    fn who_does_not_wait_leaves_a_debt() {
        let (mut penalties, start) = (Penalties::default(), Instant::now());
        let (here, there, millis) = (address("10.0.0.1"), address("10.0.0.2"), Duration::from_millis);
        let delay = penalties.failed(here, &OPTIONS, start);
        assert_eq!(penalties.owed(here, start), Duration::ZERO, "it waits itself");
        penalties.over(here, start + delay, true);
        assert_eq!(penalties.owed(here, start + millis(50)), Duration::ZERO, "it has waited");
        let delay = penalties.failed(here, &OPTIONS, start);
        penalties.over(here, start + delay, false);
        assert_eq!(penalties.owed(here, start + millis(50)), millis(150));
        assert_eq!(penalties.owed(there, start + millis(50)), Duration::ZERO);
        // A shorter debt is part of a longer one, and none is longer than the limit.
        penalties.over(here, start + millis(100), false);
        assert_eq!(penalties.owed(here, start + millis(50)), millis(150));
        for _ in 0..20 {
            let delay = penalties.failed(here, &OPTIONS, start);
            penalties.over(here, start + delay, false);
        }
        assert_eq!(penalties.owed(here, start), OPTIONS.max);
        assert_eq!(penalties.owed(here, start + OPTIONS.max), Duration::ZERO);
        penalties.over(there, start + delay, false);
        assert_eq!(penalties.len(), 1);
    }

    /// Nor is it any use to leave many waiting.
    #[test]
    fn a_crowd_that_waits_is_in_debt() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        let here = address("10.0.0.1");
        for _ in 0..HELD_MAX {
            penalties.failed(here, &OPTIONS, now);
        }
        assert_eq!(penalties.owed(here, now), Duration::ZERO);
        assert_eq!(penalties.failed(here, &OPTIONS, now), penalties.owed(here, now));
        for _ in 0..=HELD_MAX {
            penalties.over(here, now, true);
        }
        let later = now + OPTIONS.max;
        penalties.failed(here, &OPTIONS, later);
        assert_eq!(penalties.owed(here, later), Duration::ZERO);
    }

    #[test]
    fn networks() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        let mut failed = |from: &str| penalties.failed(address(from), &OPTIONS, now).as_millis();
        assert_eq!(failed("2001:db8::1"), 100);
        assert_eq!(failed("2001:db8::ffff:2"), 200);
        assert_eq!(failed("2001:db8:0:1::1"), 100);
        assert_eq!(failed("192.0.2.1"), 100);
        assert_eq!(failed("::ffff:192.0.2.1"), 200);
    }

    #[test]
    fn can_be_switched_off() {
        let mut penalties = Penalties::default();
        let options = PenaltyOptions { first: Duration::ZERO, ..OPTIONS };
        assert_eq!(penalties.failed(address("10.0.0.1"), &options, Instant::now()), Duration::ZERO);
        assert!(penalties.is_empty());
    }

    /// A crowd of addresses neither grows the table nor wipes out who came last.
    #[test]
    fn bounded() {
        let (mut penalties, start) = (Penalties::default(), Instant::now());
        for number in 0..ADDRESSES_MAX + 10 {
            let from = IpAddr::V4(u32::try_from(number).unwrap().into());
            penalties.failed(from, &OPTIONS, start + Duration::from_micros(number as u64));
        }
        assert_eq!(penalties.len(), ADDRESSES_MAX);
        let mut again = |number: usize| {
            let from = IpAddr::V4(u32::try_from(number).unwrap().into());
            penalties.failed(from, &OPTIONS, start + Duration::from_secs(1)).as_millis()
        };
        assert_eq!(again(ADDRESSES_MAX + 9), 200);
        assert_eq!(again(0), 100);
        // When all have been good for long enough, there is room for all.
        penalties.failed(address("10.0.0.1"), &OPTIONS, start + Duration::from_secs(62));
        assert_eq!(penalties.len(), 1);
    }
}

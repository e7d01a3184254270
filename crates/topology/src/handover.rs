//! When writes wait for a handover that a cluster manager announces, or has planned for a moment.
//!
//! Pure: both clocks come in, the one that only goes forward and the one on the wall, which plans are made by. Who hands over is the
//! board's to say.

use std::time::{Duration, Instant, SystemTime};

use crate::dcs::Announcement;

/// What has been heard of handovers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Handovers {
    /// When one was announced that is still going on.
    announced: Option<Instant>,
}

/// What follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Nothing is to be begun on the primary.
    pub(crate) holds: bool,
    /// After this time it has to be judged again, though nothing is heard; `None` for never.
    pub(crate) again: Option<Duration>,
}

impl Handovers {
    /// Judges what has been heard last. What is announced for too long has come to nothing, and so has what has not begun when it was planned.
    pub(crate) fn judge(&mut self, heard: Option<&Announcement>, now: Instant, wall: SystemTime) -> Judgement {
        let is_announced = heard.is_some_and(|heard| heard.handover.is_some());
        self.announced = self.announced.or(Some(now)).filter(|_| is_announced);
        let announced = self.announced.map_or(Judgement::default(), |since| {
            let left = HANDOVER_MAX.saturating_sub(now.saturating_duration_since(since));
            Judgement::holding(left)
        });
        let planned =
            heard.and_then(Announcement::due).map_or(Judgement::default(), |at| match at.duration_since(wall) {
                Ok(until) if until > LEAD => Judgement { holds: false, again: Some(until - LEAD) },
                Ok(until) => Judgement::holding(until + HANDOVER_MAX),
                Err(late) => Judgement::holding(HANDOVER_MAX.saturating_sub(late.duration())),
            });
        Judgement {
            holds: announced.holds || planned.holds,
            again: announced.again.into_iter().chain(planned.again).min(),
        }
    }
}

impl Judgement {
    fn holding(left: Duration) -> Judgement {
        let holds = !left.is_zero();
        Judgement { holds, again: holds.then_some(left) }
    }
}

/// How long writes wait for a handover that was announced, or after the moment that it was planned for.
const HANDOVER_MAX: Duration = Duration::from_secs(30);

/// How long before the planned moment they begin to: what runs then gets done, and clocks differ.
const LEAD: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcs::{Member, Planned};

    /// The cluster of `a`, the leader, and `b`.
    fn told(change: impl FnOnce(&mut Announcement)) -> Announcement {
        let members = ["a", "b"].map(|name| Member {
            name: name.to_owned(),
            host: name.to_owned(),
            port: 1,
            timeline: Some(1),
            api_url: None,
            running: true,
        });
        let mut told = Announcement { leader: Some(0), members: members.into(), ..Announcement::default() };
        change(&mut told);
        told
    }

    fn planned(from: Option<&str>, to: Option<&str>) -> Announcement {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        told(|told| told.planned = Some(Planned { at, from: from.map(str::to_owned), to: to.map(str::to_owned) }))
    }

    /// At moments in ms, what is heard, and then whether it holds and for how long it stays so.
    fn check(steps: &[(u64, Option<&Announcement>, bool, Option<u64>)]) {
        let (start, mut handovers) = (Instant::now(), Handovers::default());
        for (at, heard, holds, again) in steps {
            let since = Duration::from_millis(*at);
            let judged = handovers.judge(*heard, start + since, SystemTime::UNIX_EPOCH + since);
            let expected = Judgement { holds: *holds, again: again.map(Duration::from_millis) };
            assert_eq!(judged, expected, "at {at}: {heard:?}");
        }
    }

    #[test]
    fn announced() {
        let (calm, handover) = (told(|_| {}), told(|told| told.handover = Some("b".to_owned())));
        check(&[(0, None, false, None), (0, Some(&calm), false, None)]);
        check(&[
            (0, Some(&handover), true, Some(30_000)),
            (29_999, Some(&handover), true, Some(1)),
            (30_000, Some(&handover), false, None),
            (40_000, Some(&handover), false, None),
            (41_000, Some(&calm), false, None),
            (42_000, Some(&handover), true, Some(30_000)),
            (43_000, None, false, None),
        ]);
    }

    #[test]
    fn planned_for_a_moment() {
        let (calm, plan) = (told(|_| {}), planned(Some("a"), Some("b")));
        check(&[
            (0, Some(&plan), false, Some(999_500)),
            (999_499, Some(&plan), false, Some(1)),
            (999_500, Some(&plan), true, Some(30_500)),
            (1_000_000, Some(&plan), true, Some(30_000)),
            (1_029_999, Some(&plan), true, Some(1)),
            (1_030_000, Some(&plan), false, None),
        ]);
        // It is over, or called off.
        check(&[(999_900, Some(&plan), true, Some(30_100)), (1_000_900, Some(&calm), false, None)]);
        // An announced one goes on beside it.
        let both = told(|told| (told.handover, told.planned) = (Some("b".to_owned()), plan.planned.clone()));
        check(&[(0, Some(&both), true, Some(30_000)), (30_000, Some(&both), false, Some(969_500))]);
    }

    #[test]
    fn plans_that_come_to_nothing() {
        let mut paused = planned(None, None);
        check(&[(1_000_000, Some(&paused), true, Some(30_000))]);
        paused.paused = true;
        check(&[(1_000_000, Some(&paused), false, None)]);
        // The leader is another one by now, or it is nobody.
        check(&[(1_000_000, Some(&planned(Some("b"), None)), false, None)]);
        check(&[(1_000_000, Some(&planned(Some("b"), Some("a"))), false, None)]);
        let headless = Announcement { leader: None, ..planned(None, None) };
        check(&[(1_000_000, Some(&headless), false, None)]);
    }
}

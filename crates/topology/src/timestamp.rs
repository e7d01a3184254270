//! Moments as Python writes them (ISO 8601), which is how Patroni states when something is planned.
//!
//! Pure; years from 1970 on.

use std::time::{Duration, SystemTime};

/// Reads `2026-01-01T00:00:00.123456+02:00`; `None` for anything else. A moment without its distance to UTC is none.
pub(crate) fn read(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once(['T', ' '])?;
    let (time, zone) = time.split_at(time.find(['Z', '+', '-'])?);
    let [year, month, day] = numbers(date, '-')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':')?;
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !in_range || !(1970..=9999).contains(&year) {
        return None;
    }
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second - east(zone)?;
    let nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::new(u64::try_from(seconds).ok()?, nanoseconds))
}

/// How many seconds a zone's clocks are ahead.
fn east(zone: &str) -> Option<i64> {
    let (sign, zone) = match zone.split_at_checked(1)? {
        ("Z", "") => return Some(0),
        ("+", zone) => (1, zone),
        ("-", zone) => (-1, zone),
        _ => return None,
    };
    let (hours, minutes) = match zone.len() {
        2 => (zone, "0"),
        4 => zone.split_at_checked(2)?,
        _ => zone.split_once(':')?,
    };
    // Zones of long ago have seconds, too.
    let (minutes, seconds) = minutes.split_once(':').unwrap_or((minutes, "0"));
    Some(sign * ((number(hours)? * 60 + number(minutes)?) * 60 + number(seconds)?))
}

/// Days since 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - DAYS_BEFORE_1970
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let numbers: Vec<i64> = text.split(separator).map(number).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// Digits only: a sign is none.
fn number(text: &str) -> Option<i64> {
    (text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// From 1 March of the year 0.
const DAYS_BEFORE_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected_ms: Option<u64>) {
        let read = read(text).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis());
        assert_eq!(read, expected_ms.map(u128::from), "{text}");
    }

    #[test]
    fn moments() {
        check("1970-01-01T00:00:00+00:00", Some(0));
        check("2000-02-29T00:00:00Z", Some(951_782_400_000));
        check("2000-03-01T00:00:00Z", Some(951_868_800_000));
        check("2026-01-01T00:00:00+00:00", Some(1_767_225_600_000));
        check("2026-12-31 23:59:59.25-02:30", Some(1_798_770_599_250));
        check("2026-01-01T02:00:00.123456+02:00", Some(1_767_225_600_123));
        check("2026-01-01T02:00:00+0200", Some(1_767_225_600_000));
        check("2026-01-01T02:00:00+02", Some(1_767_225_600_000));
        check("2026-01-01T00:00:30+00:00:30", Some(1_767_225_600_000));
    }

    #[test]
    fn no_moments() {
        for text in [
            "",
            "now",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-13-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "2026-01-01T00:00:00+1:x",
            "2026-01-01T00:00:00é",
            "2026-01-01T00:00:00.é+00:00",
            "2026-+1-01T00:00:00Z",
            "99999-01-01T00:00:00Z",
            "2026-01-01T00:00:00Zulu",
        ] {
            check(text, None);
        }
    }
}

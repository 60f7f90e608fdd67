//! The time of now, as heads and log lines spell it. Each thread spells a second once, and copies it until the next one.

use crate::numbers::append_digits;
use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second that both ways of spelling have a word for, since 1970: the year 9999 is nearly over.
const LAST_SECOND: u64 = 253_402_207_200;

/// One second, spelled.
#[derive(Clone, Copy)]
struct Second {
    /// Since 1970; no clock shows the first value.
    number: u64,
    /// `Sun, 06 Nov 1994 08:49:37 GMT`.
    http: [u8; 29],
    /// `1994-11-06T08:49:37`.
    rfc3339: [u8; 19],
}

thread_local! {
    static LATEST: Cell<Second> = const { Cell::new(Second { number: u64::MAX, http: [0; 29], rfc3339: [0; 19] }) };
}

/// Appends the time for the `date` field.
pub(crate) fn append_http_date(out: &mut Vec<u8>) {
    out.extend_from_slice(&second(now()).http);
}

/// Appends the time in UTC with nine decimals, as RFC 3339 has it.
pub(crate) fn append_rfc3339(out: &mut Vec<u8>) {
    let now = now();
    out.extend_from_slice(&second(now).rfc3339);
    out.push(b'.');
    append_digits::<9>(out, now.subsec_nanos());
    out.push(b'Z');
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn second(now: Duration) -> Second {
    let number = now.as_secs().min(LAST_SECOND);
    let latest = LATEST.get();
    if latest.number == number {
        return latest;
    }
    let spelled = Second::spell(number);
    LATEST.set(spelled);
    spelled
}

impl Second {
    fn spell(number: u64) -> Self {
        let mut second = Self { number, http: [0; 29], rfc3339: [0; 19] };
        let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(number));
        // Each fits: the year has four digits.
        let _ = write!(&mut second.http[..], "{date}");
        let timestamp = jiff::Timestamp::from_second(number.cast_signed()).unwrap_or_default();
        let _ = write!(&mut second.rfc3339[..], "{timestamp}");
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spelled(number: u64) -> (String, String) {
        let second = Second::spell(number);
        (String::from_utf8(second.http.to_vec()).unwrap(), String::from_utf8(second.rfc3339.to_vec()).unwrap())
    }

    #[test]
    fn seconds_are_spelled_in_full() {
        let of = |http: &str, rfc3339: &str| (http.to_owned(), rfc3339.to_owned());
        assert_eq!(spelled(0), of("Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00"));
        assert_eq!(spelled(784_111_777), of("Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37"));
        assert_eq!(spelled(LAST_SECOND), of("Thu, 30 Dec 9999 22:00:00 GMT", "9999-12-30T22:00:00"));
    }

    #[test]
    fn the_time_is_that_of_now() {
        let before = jiff::Timestamp::now();
        let (mut date, mut time) = (Vec::new(), Vec::new());
        append_http_date(&mut date);
        append_rfc3339(&mut time);
        let after = jiff::Timestamp::now();
        let time: jiff::Timestamp = std::str::from_utf8(&time).unwrap().parse().unwrap();
        assert!(before <= time && time <= after, "{before} {time} {after}");
        let date = httpdate::parse_http_date(std::str::from_utf8(&date).unwrap()).unwrap();
        let date = date.duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        assert!((before.as_second()..=after.as_second()).contains(&date));
    }

    #[test]
    fn a_second_is_spelled_anew_when_it_is_another_one() {
        for number in [5, 5, 6, 5, u64::MAX] {
            let now = Duration::from_secs(number);
            assert_eq!(second(now).http, Second::spell(number.min(LAST_SECOND)).http);
        }
    }

    proptest! {
        #[test]
        fn any_second_reads_as_itself(number in 0..LAST_SECOND) {
            let (http, rfc3339) = spelled(number);
            let date = httpdate::parse_http_date(&http).unwrap();
            prop_assert_eq!(date, UNIX_EPOCH + Duration::from_secs(number));
            let time: jiff::Timestamp = format!("{rfc3339}Z").parse().unwrap();
            prop_assert_eq!(time.as_second(), number.cast_signed());
        }
    }
}

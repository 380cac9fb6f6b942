//! Points in time as the protocol writes them: RFC 3339 in UTC with nanoseconds.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: i64 = 86_400;

/// A point in time with a resolution of one nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    seconds: i64,
    nanoseconds: u32,
}

/// The parts of a date and time of day in UTC.
struct Civil {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Timestamp {
    /// The beginning of 1970.
    #[cfg(test)]
    pub const EPOCH: Self = Self {
        seconds: 0,
        nanoseconds: 0,
    };

    /// The wall clock's time; a clock set before 1970 reads as 1970.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
        }
    }

    /// The suffix `YYYYMMDD-hhmmss` that a kubelet gives to rotated logs.
    pub fn compact(self) -> String {
        let civil = self.civil();
        format!(
            "{:04}{:02}{:02}-{:02}{:02}{:02}",
            civil.year, civil.month, civil.day, civil.hour, civil.minute, civil.second
        )
    }

    /// Days to a calendar date, after Howard Hinnant's `civil_from_days`.
    fn civil(self) -> Civil {
        let days = self.seconds.div_euclid(SECONDS_PER_DAY) + 719_468;
        let seconds = self.seconds.rem_euclid(SECONDS_PER_DAY) as u32;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        } as u32;
        Civil {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32,
            hour: seconds / 3_600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }

    /// The inverse of `Display`; `None` for anything that is not RFC 3339 in UTC.
    fn parse(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_digit() || b"-:.TZ".contains(&byte);
        if !text.bytes().all(is_plain) {
            return None;
        }
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.split('-');
        let year: i64 = date.next()?.parse().ok()?;
        let month: i64 = date.next()?.parse().ok()?;
        let day: i64 = date.next()?.parse().ok()?;
        let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
        let mut clock = clock.split(':');
        let hour: i64 = clock.next()?.parse().ok()?;
        let minute: i64 = clock.next()?.parse().ok()?;
        let second: i64 = clock.next()?.parse().ok()?;
        if date.next().is_some() || clock.next().is_some() || fraction.len() > 9 {
            return None;
        }
        let is_date =
            (0..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        // A leap second is the next minute's first.
        let is_clock =
            (0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
        if !is_date || !is_clock {
            return None;
        }
        let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
        let shifted_year = year - i64::from(month <= 2);
        let era = shifted_year.div_euclid(400);
        let year_of_era = shifted_year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let seconds = days * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second;
        Some(Self {
            seconds,
            nanoseconds,
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let civil = self.civil();
        write!(
            formatter,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            civil.year,
            civil.month,
            civil.day,
            civil.hour,
            civil.minute,
            civil.second,
            self.nanoseconds
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not RFC 3339 in UTC")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_there_and_back() {
        for text in [
            "1970-01-01T00:00:00.000000000Z",
            "2000-02-29T23:59:59.999999999Z",
            "2026-11-23T10:00:00.000000001Z",
            "2100-03-01T00:00:00.500000000Z",
        ] {
            let time = Timestamp::parse(text).expect(text);
            assert_eq!(time.to_string(), text);
        }
        assert_eq!(
            Timestamp {
                seconds: 1_700_000_000,
                nanoseconds: 0
            }
            .compact(),
            "20231114-221320"
        );
        assert!(Timestamp::parse("yesterday").is_none());
    }

    proptest::proptest! {
        #[test]
        fn every_time_goes_there_and_back(seconds in 0..253_402_300_800_i64, nanoseconds in 0..1_000_000_000_u32) {
            let time = Timestamp { seconds, nanoseconds };
            proptest::prop_assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
        }

        #[test]
        fn what_is_no_time_is_refused(text in "[-+0-9TZ:.]{0,40}|[0-9]{4}-[0-9]{1,20}-[0-9]{1,20}T[0-9]{1,20}:[0-9]+:[-0-9]+Z") {
            if let Some(time) = Timestamp::parse(&text) {
                proptest::prop_assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
            }
        }
    }
}

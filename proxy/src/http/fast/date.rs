//! The `Date` of answers that come without one (RFC 9110 §6.6.1), formatted once a second.

use std::time::{Duration, UNIX_EPOCH};

use crate::time::Timestamp;

/// A date that holds for a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    text: String,
    holds_until: Timestamp,
}

impl Date {
    /// The date at `now`; `unix_ms` is asked for the time of day when the last one does not hold any more.
    pub fn at(&mut self, now: Timestamp, unix_ms: impl FnOnce() -> i64) -> &str {
        if now >= self.holds_until {
            let unix_ms = unix_ms().max(0) as u64;
            self.text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(unix_ms));
            self.holds_until = now + Duration::from_millis(1_000 - unix_ms % 1_000);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_holds_until_the_end_of_its_second() {
        let mut date = Date::default();
        let at = Timestamp::from_millis;
        assert_eq!(date.at(at(100), || 784_111_777_400), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date.at(at(699), || unreachable!()), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date.at(at(700), || 784_111_778_000), "Sun, 06 Nov 1994 08:49:38 GMT");
    }
}

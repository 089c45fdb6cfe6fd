//! One line of the access log. What clients sent is escaped in both forms, so that no request can end a line, begin another, or reach a
//! terminal that shows it.

use std::{fmt::Write, time::Duration};

use super::{
    super::record::{Record, Try},
    Format,
};
use crate::load::Outcome;

/// Writes the line of a request, its end included.
pub fn write(record: &Record, format: Format, out: &mut String) {
    let mut line = Line { format, out, first: true };
    if format == Format::Json {
        line.out.push('{');
    }
    line.fields(record);
    if format == Format::Json {
        line.out.push('}');
    }
    line.out.push('\n');
}

struct Line<'a> {
    format: Format,
    out: &'a mut String,
    first: bool,
}

impl Line<'_> {
    fn fields(&mut self, record: &Record) {
        let end = record.end.as_ref();
        self.text("time", &rfc3339(record.at_unix_ns / 1_000_000));
        if let Some(end) = end {
            self.any("status", end.status.map_or(0, |status| status.as_u16()));
        }
        self.text("method", record.method.as_str());
        self.text("host", &record.host);
        self.text("path", &record.path);
        self.text("protocol", record.protocol);
        self.text("scheme", record.scheme);
        self.text("client", &record.client.to_string());
        self.text("request_id", &record.request_id);
        if let Some(trace) = &record.trace {
            self.text("trace_id", &format!("{:032x}", trace.id));
        }
        self.optional("listener", record.listener.as_deref());
        self.optional("route", record.route.as_deref());
        self.optional("backend", record.backend.as_deref());
        if let Some(end) = end {
            self.optional("blame", end.blame.map(super::super::Blame::as_str));
            self.optional("reason", end.reason);
            self.any("duration_ms", ms(end.took));
        }
        if let Some(head_after) = record.head_after {
            self.any("first_byte_ms", ms(head_after));
        }
        self.any("request_bytes", record.request_bytes);
        self.any("response_bytes", record.response_bytes);
        self.any("attempts", record.tries.len());
        if let Some((last, before)) = record.tries.split_last() {
            self.last_try(last, record);
            if !before.is_empty() {
                self.text("tried", &before.iter().map(gave_up).collect::<Vec<_>>().join(","));
            }
        }
    }

    fn last_try(&mut self, last: &Try, record: &Record) {
        self.text("endpoint", &last.endpoint);
        self.text("address", &last.address);
        self.text("algorithm", last.algorithm);
        self.text("why", last.why.as_str());
        if let Some(weight) = last.weight.filter(|weight| weight.is_finite()) {
            self.any("weight", weight);
        }
        if let Some(score) = last.score.filter(|score| score.is_finite()) {
            self.any("score", score);
        }
        self.any("in_flight", last.in_flight);
        if last.in_flight_all.is_finite() {
            self.any("in_flight_all", last.in_flight_all);
        }
        let ended = last.ended.unwrap_or(record.started);
        self.any("endpoint_ms", ms(ended.since(last.began)));
    }

    fn name(&mut self, name: &str) {
        let first = std::mem::take(&mut self.first);
        match self.format {
            Format::Text if first => {}
            Format::Text => self.out.push(' '),
            Format::Json if first => self.out.push('"'),
            Format::Json => self.out.push_str(",\""),
        }
        self.out.push_str(name);
        self.out.push_str(if self.format == Format::Json { "\":" } else { "=" });
    }

    /// A number, or what else needs no quotes.
    fn any(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        // Writing to a string does not fail.
        let _ = write!(self.out, "{value}");
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@%+,*".contains(&byte);
        if self.format == Format::Text && !value.is_empty() && value.bytes().all(bare) {
            self.out.push_str(value);
        } else {
            quote(value, self.out);
        }
    }
}

/// A try that was not the last.
fn gave_up(tried: &Try) -> String {
    let how = match (tried.failure, tried.outcome) {
        (Some(failure), _) => failure,
        (None, Some(Outcome::Success)) => "answered",
        (None, _) => "failed",
    };
    format!("{}:{how}", tried.endpoint)
}

/// As JSON has it, and with everything escaped that is no visible character.
fn quote(value: &str, out: &mut String) {
    out.push('"');
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // Line and paragraph separators end lines for some; marks of direction make a line read otherwise than it is.
            c if c.is_control()
                || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// In milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// A time in UTC as RFC 3339 has it. Days become a date by H. Hinnant's `civil_from_days`.
fn rfc3339(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let from_march = days + 719_468;
    let (era, day_of_era) = (from_march / 146_097, from_march % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(rfc3339(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn whatever_is_quoted_stays_on_its_line_and_is_read_back(value in any::<String>()) {
            let mut out = String::new();
            quote(&value, &mut out);
            prop_assert!(!out.chars().any(char::is_control));
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), value);
        }
    }
}

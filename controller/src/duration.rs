//! Durations as the Gateway API writes them ([GEP-2257](https://gateway-api.sigs.k8s.io/geps/gep-2257/)): `150ms`, `3m`, `1h30m`.
//! One type for our own policy's fields, so that a duration is checked where it is read and is a number from there on.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What GEP-2257 allows, as the schema of every duration says it.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A duration in whole milliseconds that is written as GEP-2257 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// A text that is not a GEP-2257 duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a duration, expected one such as 150ms, 3m or 1h30m")]
pub struct DurationError {
    text: String,
}

impl Duration {
    /// `ms` milliseconds.
    pub const fn from_millis(ms: u32) -> Self {
        Duration(std::time::Duration::from_millis(ms as u64))
    }

    /// As the standard library has it.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// In milliseconds; what does not fit (49 days and more) becomes the largest number that does.
    pub fn as_millis_u32(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(u32::MAX)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        gateway_api::Duration::from_str(text)
            .ok()
            .and_then(|duration| u64::try_from(duration.as_millis()).ok())
            .map(|ms| Duration(std::time::Duration::from_millis(ms)))
            .ok_or_else(|| DurationError { text: text.to_owned() })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match gateway_api::Duration::try_from(self.0) {
            Ok(duration) => write!(f, "{duration}"),
            Err(_) => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The pattern allows no more; said as well because the API server reckons what a rule costs by it.
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": 28 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected_ms: Option<u64>) {
        let parsed = text.parse::<Duration>().ok().map(|duration| duration.get().as_millis() as u64);
        assert_eq!(parsed, expected_ms, "{text}");
    }

    #[test]
    fn durations_are_read_as_gep_2257_says() {
        check("150ms", Some(150));
        check("1h30m", Some(5_400_000));
        check("0s", Some(0));
        check("1.5s", None);
        check("10", None);
        check("-1s", None);
        check("", None);
        check("100000s", None);
    }

    #[test]
    fn a_duration_is_written_so_that_it_reads_back() {
        for ms in [0, 1, 999, 1000, 61_500, 3_600_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }

    #[test]
    fn the_error_says_what_would_be_right() {
        let error = "soon".parse::<Duration>().unwrap_err();
        assert_eq!(error.to_string(), "\"soon\" is not a duration, expected one such as 150ms, 3m or 1h30m");
    }
}

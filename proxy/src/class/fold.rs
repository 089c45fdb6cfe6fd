//! Which segments of a path are names, and which are values: ids, numbers, dates, tokens. Values are folded, so that `/users/1` and
//! `/users/2` are one kind of request.
//!
//! A segment is a value if any of these holds:
//!
//! | rule | values | names |
//! |---|---|---|
//! | longer than 32 bytes | UUIDs, hashes, tokens | |
//! | anything but letters, digits and `-._~:` | `a%20b`, `me@x.org`, `k=v` | `v1:batch` |
//! | digits and no letters | `7`, `1.5`, `12:30` | |
//! | 3 digits or more | `2024-05-01`, `order-1234` | `v2`, `utf8`, `mp3` |
//! | 8 hexadecimal digits or more, and nothing else | `deadbeef` | `facade` |
//! | 10 bytes or more with large and small letters and 2 digits | `dQw4w9WgXcQ` | `getV2Users` |
//! | 16 bytes or more, of which a third are large and a quarter small letters | `aGVsbG9Xb3JsZEFC` | `getAccountSettings` |
//! | 4 dashes or underscores or more | `how-to-bake-good-bread` | `terms-and-conditions` |
//!
//! What it gets wrong costs little: a value taken for a name makes rare classes, which are not worth one; a name taken for a value
//! lets two kinds of requests share a class.

/// Longest name.
pub const LITERAL_BYTES_MAX: usize = 32;

const DIGIT: u8 = 1;
const HEX: u8 = 2;
const UPPER: u8 = 4;
const LOWER: u8 = 8;
const DASH: u8 = 16;
const MARK: u8 = 32;

/// What each byte may be; 0: what a name does not contain.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'0'..=b'9' => DIGIT | HEX,
            b'a'..=b'f' => LOWER | HEX,
            b'g'..=b'z' => LOWER,
            b'A'..=b'F' => UPPER | HEX,
            b'G'..=b'Z' => UPPER,
            b'-' | b'_' => DASH,
            b'.' | b'~' | b':' => MARK,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

/// Whether a segment of a path is a value. An empty one is not.
#[inline]
pub fn is_value(segment: &str) -> bool {
    let len = segment.len();
    if len > LITERAL_BYTES_MAX {
        return true;
    }
    // Counts of up to 32 side by side in one word, a byte each: one addition a character.
    let mut counts = 0_u64;
    for byte in segment.bytes() {
        let kind = KINDS[usize::from(byte)];
        if kind == 0 {
            return true;
        }
        counts += SPREAD[usize::from(kind)];
    }
    let count = |kind: u8| ((counts >> (8 * kind.trailing_zeros())) & 0xff) as usize;
    let (digits, hex, upper, lower) = (count(DIGIT), count(HEX), count(UPPER), count(LOWER));
    digits >= 3
        || (digits > 0 && upper + lower == 0)
        || (hex >= 8 && hex == len)
        || (len >= 10 && digits >= 2 && upper > 0 && lower > 0)
        || (len >= 16 && 3 * upper >= len && 4 * lower >= len)
        || count(DASH) >= 4
}

/// Each of the lowest six bits of a kind as a count in a byte of its own.
const SPREAD: [u64; 64] = {
    let mut spread = [0; 64];
    let mut kind = 0;
    while kind < 64 {
        let mut bit = 0;
        while bit < 6 {
            if kind & (1 << bit) != 0 {
                spread[kind] |= 1 << (8 * bit);
            }
            bit += 1;
        }
        kind += 1;
    }
    spread
};

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rules of the table above, one by one.
    pub fn is_value_slowly(segment: &str) -> bool {
        let count = |of: fn(char) -> bool| segment.chars().filter(|c| of(*c)).count();
        let digits = count(|c| c.is_ascii_digit());
        let (upper, lower) = (count(|c| c.is_ascii_uppercase()), count(|c| c.is_ascii_lowercase()));
        let len = segment.len();
        let rules = [
            len > 32,
            segment.chars().any(|c| !(c.is_ascii_alphanumeric() || "-._~:".contains(c))),
            digits > 0 && upper + lower == 0,
            digits >= 3,
            len >= 8 && segment.chars().all(|c| c.is_ascii_hexdigit()),
            len >= 10 && upper > 0 && lower > 0 && digits >= 2,
            len >= 16 && upper as f64 / len as f64 >= 1.0 / 3.0 && lower as f64 / len as f64 >= 0.25,
            count(|c| c == '-' || c == '_') >= 4,
        ];
        rules.contains(&true)
    }

    #[test]
    fn ids_numbers_dates_and_tokens_are_values() {
        for value in [
            "7",
            "123456",
            "1.5",
            "12:30",
            "2024-05-01",
            "2024-05-01T12:00:00Z",
            "order-1234",
            "deadbeef",
            "9f8a7c6b",
            "550e8400-e29b-41d4-a716-446655440000",
            "dQw4w9WgXcQ",
            "aGVsbG9Xb3JsZEFC",
            "eyJhbGciOiJIUzI1NiJ9",
            "a%20b",
            "me@example.org",
            "how-to-bake-good-bread",
            "{}",
            "日本",
        ] {
            assert!(is_value(value), "{value}");
        }
    }

    #[test]
    fn words_and_versions_are_names() {
        for name in [
            "",
            "users",
            "v1",
            "v12",
            "oauth2",
            "utf8",
            "facade",
            "v1:batch",
            "index.html",
            "getAccountSettings",
            "getV2Users",
            "terms-and-conditions",
            "~me",
        ] {
            assert!(!is_value(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn one_pass_equals_the_rules_one_by_one(segment in "[a-fA-F0-9gzGZ._~:%é-]{0,40}") {
            prop_assert_eq!(is_value(&segment), is_value_slowly(&segment), "{}", segment);
        }
    }
}

//! Numbers as the API writes them: five significant digits, because a chart needs no more and 5,000 endpoints twice a second
//! should stay small on the wire.

use serde::{Serialize, Serializer};

/// Below this a number is written as 0: nothing that the dashboard shows is that small.
const SMALLEST: f64 = 1e-9;

/// A number that is written with at most five significant digits, whole numbers without a fraction, and as `null` where it
/// is not finite (JSON knows no NaN).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Short(pub f64);

impl Serialize for Short {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded = significant(self.0);
        if !rounded.is_finite() {
            serializer.serialize_none()
        } else if rounded.fract() == 0.0 && rounded.abs() < 1e15 {
            // Exact: a whole number below 2^53.
            serializer.serialize_i64(rounded as i64)
        } else {
            serializer.serialize_f64(rounded)
        }
    }
}

/// `value` rounded to five significant digits.
fn significant(value: f64) -> f64 {
    let size = value.abs();
    if !size.is_finite() {
        return value;
    }
    if size < SMALLEST {
        return 0.0;
    }
    let decimals = 4 - size.log10().floor() as i32;
    // Divide by a whole power of ten on both branches: that is what makes the printed number short.
    if decimals >= 0 {
        let scale = 10f64.powi(decimals);
        (value * scale).round() / scale
    } else {
        let scale = 10f64.powi(-decimals);
        (value / scale).round() * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: f64, json: &str) {
        assert_eq!(serde_json::to_string(&Short(value)).unwrap(), json, "{value}");
    }

    #[test]
    fn numbers_keep_five_significant_digits() {
        check(1.0 / 12.0, "0.083333");
        check(0.000123456789, "0.00012346");
        check(1234.56, "1234.6");
        check(123456.7, "123460");
        check(-42.123456, "-42.123");
    }

    #[test]
    fn whole_numbers_have_no_fraction() {
        check(0.0, "0");
        check(1e-300, "0");
        check(3.0, "3");
        check(-0.0, "0");
        check(99999.9, "100000");
    }

    #[test]
    fn what_is_no_number_is_null() {
        check(f64::NAN, "null");
        check(f64::INFINITY, "null");
    }
}

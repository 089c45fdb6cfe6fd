//! Raw query strings become checked parameters here, once; every refusal names the parameter and what is allowed.

use axum::extract::Query;
use axum::http::Uri;

use crate::error::ApiError;

/// Longest name of a backend or endpoint that is looked up: Kubernetes allows 253 characters a name, and two names and a
/// port make a backend.
const NAME_CHARS_MAX: usize = 600;

/// The parameters of one request.
#[derive(Debug, Default, PartialEq)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the query string of `uri`, which may hold each of `known` once and nothing else.
    pub fn read(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|rejection| ApiError::Query { detail: rejection.body_text() })?;
        for (index, (name, _)) in pairs.iter().enumerate() {
            let fault = if !known.contains(&name.as_str()) {
                "unknown"
            } else if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                "given twice"
            } else {
                continue;
            };
            let allowed = match known {
                [] => "no parameters are allowed here".to_owned(),
                _ => format!("each of {} is allowed once", known.join(", ")),
            };
            return Err(ApiError::Parameter { parameter: name.clone(), fault, allowed });
        }
        Ok(Self(pairs))
    }

    /// A name, if it was given.
    pub fn name(&self, parameter: &str) -> Result<Option<&str>, ApiError> {
        match self.get(parameter) {
            Some(value) if value.is_empty() || value.len() > NAME_CHARS_MAX => Err(ApiError::Value {
                parameter: parameter.to_owned(),
                value: value.chars().take(80).collect(),
                allowed: format!("it must be a name of 1 to {NAME_CHARS_MAX} characters"),
            }),
            value => Ok(value),
        }
    }

    /// A whole number between `min` and `max`, if it was given.
    pub fn whole(&self, parameter: &str, min: i64, max: i64, meaning: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(parameter) else { return Ok(None) };
        match value.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(ApiError::Value {
                parameter: parameter.to_owned(),
                value: value.chars().take(80).collect(),
                allowed: format!("it must be {meaning}, a whole number from {min} to {max}"),
            }),
        }
    }

    fn get(&self, parameter: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == parameter).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: &str) {
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        let outcome = Parameters::read(&uri, &["backend", "since"]).and_then(|parameters| {
            let backend = parameters.name("backend")?.map(str::to_owned);
            Ok((backend, parameters.whole("since", 0, 100, "a time")?))
        });
        let text = match outcome {
            Ok((backend, since)) => {
                format!("{} {}", backend.unwrap_or("-".into()), since.map_or("-".into(), |n| n.to_string()))
            }
            Err(error) => error.to_string(),
        };
        assert!(text.contains(expected), "{query:?}: {text:?} does not contain {expected:?}");
    }

    #[test]
    fn good_queries_are_read() {
        check("", "- -");
        check("backend=default%2Fweb%3A80&since=7", "default/web:80 7");
        check("since=100", "- 100");
    }

    #[test]
    fn bad_queries_name_the_parameter_and_what_is_allowed() {
        check("since=soon", "since=\"soon\" makes no sense: it must be a time, a whole number from 0 to 100");
        check("since=101", "since=\"101\"");
        check("since=", "since=\"\"");
        check("since=-1", "since=\"-1\"");
        check("backend=", "backend=\"\" makes no sense: it must be a name of 1 to 600 characters");
        check("bakend=x", "\"bakend\" is unknown: each of backend, since is allowed once");
        check("since=1&since=2", "\"since\" is given twice");
        check(&format!("backend={}", "x".repeat(601)), "1 to 600 characters");
    }
}

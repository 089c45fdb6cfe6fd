//! The backends file: an endpoint a line, for people and scripts.
//!
//! ```text
//! # host:port, optionally followed by settings
//! 10.0.0.1:8080
//! app-2.internal:8080   zone=eu-1a
//! [fd00::1]:8080        # IPv6 in brackets
//! ```

use std::collections::HashMap;

use crate::address::HostPort;

/// One endpoint of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it is.
    pub address: HostPort,
    /// `zone=`.
    pub zone: Option<String>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Which line, from 1; `None`: the file as a whole.
    pub line: Option<u32>,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Reads a backends file.
///
/// # Errors
/// Everything that is wrong with it. A file without any endpoint is one: it is more likely half-written than meant.
pub fn read(bytes: &[u8]) -> Result<Vec<Line>, Vec<LineError>> {
    let mut lines: Vec<Line> = Vec::new();
    let mut errors = Vec::new();
    let mut seen: HashMap<HostPort, u32> = HashMap::new();
    for (index, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let mut fault = |message: String| errors.push(LineError { line: Some(number), message });
        let Ok(text) = std::str::from_utf8(raw) else {
            fault("is not UTF-8 text".to_owned());
            continue;
        };
        let text = if index == 0 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        match read_line(text) {
            Ok(None) => {}
            Ok(Some(line)) => match seen.get(&line.address) {
                Some(first) => fault(format!("{} stands twice, first in line {first}", line.address)),
                None => {
                    seen.insert(line.address.clone(), number);
                    lines.push(line);
                }
            },
            Err(message) => fault(message),
        }
    }
    if errors.is_empty() && lines.is_empty() {
        errors.push(LineError { line: None, message: "names no endpoint, expected a host:port a line".to_owned() });
    }
    if errors.is_empty() { Ok(lines) } else { Err(errors) }
}

/// One line; `None` where it is blank or a comment.
fn read_line(text: &str) -> Result<Option<Line>, String> {
    let text = text.split('#').next().unwrap_or_default();
    let mut words = text.split_whitespace();
    let Some(address) = words.next() else { return Ok(None) };
    let shortened: String = address.chars().take(100).flat_map(char::escape_debug).collect();
    let address: HostPort = match address.len() <= 300 {
        true => address.parse().map_err(|error: crate::address::HostPortError| error.to_string())?,
        false => {
            return Err(format!(
                "\"{shortened}…\" is too long, expected host:port such as 127.0.0.1:9001 or [::1]:9001"
            ));
        }
    };
    let mut zone = None;
    for word in words {
        match word.split_once('=') {
            Some(("zone", value)) if !value.is_empty() && zone.is_none() => zone = Some(value.to_owned()),
            Some(("zone", "")) => return Err("zone= has no value, expected a zone such as zone=eu-1a".to_owned()),
            Some(("zone", _)) => return Err("zone= stands twice".to_owned()),
            _ => return Err(format!("unknown setting \"{}\", expected zone=NAME", word.escape_debug())),
        }
    }
    Ok(Some(Line { address, zone }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Address and zone of each endpoint, or line and message of each fault.
    type Expected<'a> = Result<&'a [(&'a str, Option<&'a str>)], &'a [(Option<u32>, &'a str)]>;

    fn check(text: &str, expected: Expected<'_>) {
        let found = read(text.as_bytes());
        let found = found
            .map(|lines| lines.into_iter().map(|line| (line.address.to_string(), line.zone)).collect::<Vec<_>>())
            .map_err(|errors| errors.into_iter().map(|error| (error.line, error.message)).collect::<Vec<_>>());
        let owned = |list: &[(&str, Option<&str>)]| {
            list.iter().map(|(a, z)| ((*a).to_owned(), z.map(str::to_owned))).collect::<Vec<_>>()
        };
        let faults = |list: &[(Option<u32>, &str)]| list.iter().map(|(l, m)| (*l, (*m).to_owned())).collect::<Vec<_>>();
        assert_eq!(found, expected.map(owned).map_err(faults), "{text}");
    }

    #[test]
    fn comments_blanks_and_settings_are_read() {
        check(
            "# pods\n10.0.0.1:80\r\n\n  app.internal:81 zone=a # two\n[fd00::1]:82",
            Ok(&[("10.0.0.1:80", None), ("app.internal:81", Some("a")), ("[fd00::1]:82", None)]),
        );
    }

    #[test]
    fn every_bad_line_is_named() {
        check(
            "a:1\nb\na:1\nc:1 weight=2\nd:1 zone=\n",
            Err(&[
                (Some(2), "\"b\" has no port, expected host:port such as 127.0.0.1:9001 or [::1]:9001"),
                (Some(3), "a:1 stands twice, first in line 1"),
                (Some(4), "unknown setting \"weight=2\", expected zone=NAME"),
                (Some(5), "zone= has no value, expected a zone such as zone=eu-1a"),
            ]),
        );
    }

    #[test]
    fn an_empty_file_is_a_fault_and_not_an_empty_list() {
        check("", Err(&[(None, "names no endpoint, expected a host:port a line")]));
        check("# nothing\n\n", Err(&[(None, "names no endpoint, expected a host:port a line")]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }

        #[test]
        fn what_is_written_reads_back(ports in prop::collection::btree_set(1_u16..=u16::MAX, 1..50)) {
            let text: String = ports.iter().map(|port| format!("10.0.0.1:{port}\n")).collect();
            let read = read(text.as_bytes()).unwrap();
            prop_assert_eq!(read.iter().map(|line| line.address.port).collect::<Vec<_>>(), ports.into_iter().collect::<Vec<_>>());
        }
    }
}

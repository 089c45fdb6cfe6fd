//! Event files as TensorBoard reads them: records of `event.proto` (TensorFlow, tensorflow/core/util/event.proto), framed as
//! TFRecords, that is length, masked CRC-32C of the length, data, masked CRC-32C of the data.

use std::io::{self, Read, Write};

use crc_fast::{CrcAlgorithm, checksum};
use prost::Message;

/// What every event file begins with.
const FILE_VERSION: &str = "brain.Event:2";
/// Larger records are no events.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// One event: some numbers at a step.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// The generation.
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

impl Event {
    /// What a file begins with.
    pub fn first(wall_time: f64) -> Self {
        Self { wall_time, step: 0, file_version: Some(FILE_VERSION.to_owned()), summary: None }
    }

    /// Numbers by tag.
    pub fn scalars<'a>(wall_time: f64, step: u64, scalars: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        let value = |(tag, number): (&str, f64)| Value { tag: tag.to_owned(), simple_value: number as f32 };
        let summary = Summary { value: scalars.into_iter().map(value).collect() };
        Self { wall_time, step: step as i64, file_version: None, summary: Some(summary) }
    }

    /// Its numbers by tag.
    pub fn values(&self) -> impl Iterator<Item = (&str, f32)> {
        self.summary.iter().flat_map(|summary| &summary.value).map(|value| (&*value.tag, value.simple_value))
    }

    /// Appends it to a file.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let data = self.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        // One write: a reader never sees half a record of a file that grows.
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked(&length).to_le_bytes());
        record.extend(&data);
        record.extend(masked(&data).to_le_bytes());
        to.write_all(&record)
    }

    /// Reads the next one; `None` at the end, also where the last record was cut off.
    ///
    /// # Errors
    /// Those of the file, and `InvalidData` for what is no event.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem.to_owned());
        let mut head = [0; 12];
        if !fill(from, &mut head)? {
            return Ok(None);
        }
        let mut length = [0; 8];
        length.copy_from_slice(&head[..8]);
        if masked(&length).to_le_bytes() != head[8..] {
            return Err(invalid("the checksum of a record's length is wrong: it is no event file"));
        }
        let length = u64::from_le_bytes(length);
        if length > RECORD_BYTES_MAX {
            return Err(invalid("a record is larger than any event"));
        }
        let mut data = vec![0; length as usize + 4];
        if !fill(from, &mut data)? {
            return Ok(None);
        }
        let (data, checksum) = data.split_at(length as usize);
        if masked(data).to_le_bytes() != checksum {
            return Err(invalid("the checksum of a record is wrong"));
        }
        Self::decode(data).map(Some).map_err(|error| invalid(&error.to_string()))
    }
}

/// Whether there was enough to fill it.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

/// CRC-32C, rotated and offset as TFRecords have it, so that a checksum of data that holds checksums is none of theirs.
fn masked(data: &[u8]) -> u32 {
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, data) as u32;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(events: &[Event]) -> Vec<u8> {
        let mut bytes = Vec::new();
        events.iter().for_each(|event| event.write(&mut bytes).unwrap());
        bytes
    }

    fn read_all(mut bytes: &[u8]) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(event) = Event::read(&mut bytes)? {
            events.push(event);
        }
        Ok(events)
    }

    #[test]
    fn events_come_back_from_a_file_and_half_a_record_is_its_end() {
        let events = [Event::first(12.5), Event::scalars(13.0, 7, [("cost/prior", 0.25), ("cost/policy", -0.5)])];
        let bytes = file(&events);
        assert_eq!(read_all(&bytes).unwrap(), events);
        assert_eq!(read_all(&bytes[..bytes.len() - 3]).unwrap(), events[..1]);
        assert_eq!(events[1].values().collect::<Vec<_>>(), [("cost/prior", 0.25), ("cost/policy", -0.5)]);
    }

    #[test]
    fn a_file_begins_with_the_bytes_that_tensorflow_writes() {
        // `brain.Event:2` at wall time 0, as TensorFlow's EventsWriter frames it: the masked checksum of the length 24 is known.
        let bytes = file(&[Event { wall_time: 1.0, ..Event::first(0.0) }]);
        assert_eq!(bytes[..8], [24, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(bytes[12..21], [9, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(&bytes[23..36], FILE_VERSION.as_bytes());
    }

    #[test]
    fn the_masked_checksum_is_that_of_the_specification() {
        // CRC-32C("123456789") is e3069283 (RFC 3720 and Koopman's catalogue).
        assert_eq!(masked(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let mut bytes = file(&[Event::first(12.5)]);
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        assert!(read_all(&bytes).unwrap_err().to_string().contains("checksum of a record"));
        assert!(read_all(b"no event file at all").unwrap_err().to_string().contains("no event file"));
    }
}

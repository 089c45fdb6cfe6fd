//! The datagram: who says it, and in how many requests of which class that proxy has in flight at which endpoints of some backends.
//! Numbers are little endian; a varint has seven bits a byte, the least significant first.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `TTP` and the version, 1 |
//! | 8, 8, 8 | the sender's key; its epoch; a number that counts up with each datagram |
//! | … | sections, at least one |
//! | 16 | the tag ([`super::mac`]) of all before it |
//!
//! | bytes of a section | what |
//! |---|---|
//! | 8, 8, 8 | [`About`]: backend, generation, numbering |
//! | 4, 4 | the positions `from..to` of which all is told |
//! | 2 | the number of entries |
//! | … | entries by position and class, only where the count is not 0: varint `(position − previous position) << 4 \| class`, varint count |

use super::{About, Counts, mac::TAG_BYTES};
use crate::load::CLASSES_MAX;

/// A datagram is no longer than this: what passes everywhere without being cut up, tunnels included.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;
/// Endpoints that are told as one. However many requests of however many classes they have, they fit into one datagram.
pub const BLOCK: usize = 16;

const MAGIC: [u8; 4] = *b"TTP\x01";
const HEADER_BYTES: usize = MAGIC.len() + 3 * 8;
const SECTION_BYTES: usize = 3 * 8 + 2 * 4 + 2;
const CLASS_BITS: u32 = CLASSES_MAX.ilog2();
/// Endpoints of a backend at most: bounds what a section may claim.
const POSITIONS_MAX: u32 = 1 << 20;

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The proxy's key.
    pub sender: u64,
    /// Its life.
    pub epoch: u64,
    /// Counts up with each datagram of that life.
    pub sequence: u64,
}

/// What is said of some endpoints of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Which backend.
    pub about: About,
    /// The first position that is told.
    pub from: u32,
    /// The first that is no longer told.
    pub to: u32,
    /// What is not 0.
    pub entries: Vec<Entry>,
}

/// So many requests of a class at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Position of the endpoint, within the section's range.
    pub position: u32,
    /// Below [`CLASSES_MAX`].
    pub class: u8,
    /// At least 1.
    pub count: u16,
}

/// A datagram that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a datagram of this version")]
pub struct Malformed;

/// Writes one datagram.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    open: Option<Open>,
}

/// The section that is being written.
#[derive(Debug, Clone, Copy)]
struct Open {
    about: About,
    start: usize,
    to: u32,
    entries: u16,
    /// Position of the last entry.
    last: u32,
}

impl Writer {
    /// A datagram that says nothing yet.
    pub fn new(header: &Header) -> Self {
        let mut bytes = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        bytes.extend(MAGIC);
        bytes.extend([header.sender, header.epoch, header.sequence].into_iter().flat_map(u64::to_le_bytes));
        Self { bytes, open: None }
    }

    /// Whether it says nothing yet.
    pub fn is_empty(&self) -> bool {
        self.open.is_none()
    }

    /// Tells the counts at endpoints from position `from` on, at most [`BLOCK`] of them. If they do not fit it says so and tells none of them.
    pub fn push(&mut self, about: &About, from: u32, counts: &[Counts]) -> bool {
        debug_assert!(counts.len() <= BLOCK, "more than a block may never fit");
        let before = (self.bytes.len(), self.open);
        let mut open = match self.open {
            Some(open) if open.about == *about && open.to == from => open,
            _ => self.begin(about, from),
        };
        for (position, counts) in (from..).zip(counts) {
            for (class, count) in (0..).zip(counts).filter(|(_, count)| **count > 0) {
                let gap = u64::from(position - open.last);
                self.varint(gap << CLASS_BITS | class);
                self.varint(u64::from(*count));
                open.last = position;
                open.entries += 1;
            }
        }
        open.to = from + counts.len() as u32;
        if self.bytes.len() + TAG_BYTES > DATAGRAM_BYTES_MAX {
            self.bytes.truncate(before.0);
            self.open = before.1;
            return false;
        }
        self.bytes[open.start + 28..open.start + 32].copy_from_slice(&open.to.to_le_bytes());
        self.bytes[open.start + 32..open.start + 34].copy_from_slice(&open.entries.to_le_bytes());
        self.open = Some(open);
        true
    }

    /// The datagram, with its tag.
    pub fn finish(mut self, sign: impl FnOnce(&[u8]) -> [u8; TAG_BYTES]) -> Vec<u8> {
        let tag = sign(&self.bytes);
        self.bytes.extend(tag);
        self.bytes
    }

    fn begin(&mut self, about: &About, from: u32) -> Open {
        let start = self.bytes.len();
        self.bytes.extend([about.backend, about.generation, about.numbering].into_iter().flat_map(u64::to_le_bytes));
        self.bytes.extend(from.to_le_bytes());
        // The end and the number of entries come when they are known.
        self.bytes.resize(start + SECTION_BYTES, 0);
        Open { about: *about, start, to: from, entries: 0, last: from }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

/// Who says it: all that can be told before it is known to be true.
///
/// # Errors
/// If it is not a datagram of this version.
pub fn header(datagram: &[u8]) -> Result<Header, Malformed> {
    let mut reader = Reader(datagram);
    let fits = (HEADER_BYTES + SECTION_BYTES + TAG_BYTES..=DATAGRAM_BYTES_MAX).contains(&datagram.len());
    if !fits || reader.bytes::<4>()? != MAGIC {
        return Err(Malformed);
    }
    Ok(Header { sender: reader.u64()?, epoch: reader.u64()?, sequence: reader.u64()? })
}

/// What it says, of the bytes without the tag.
///
/// # Errors
/// If any of it does not hold.
pub fn sections(signed: &[u8]) -> Result<Vec<Section>, Malformed> {
    let mut reader = Reader(signed.get(HEADER_BYTES..).ok_or(Malformed)?);
    let mut sections = Vec::with_capacity(1);
    while !reader.0.is_empty() {
        sections.push(reader.section()?);
    }
    Ok(sections)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        // Five bytes are 35 bits, more than any number here has.
        for shift in 0..5 {
            let [byte] = self.bytes()?;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn section(&mut self) -> Result<Section, Malformed> {
        let about = About { backend: self.u64()?, generation: self.u64()?, numbering: self.u64()? };
        let (from, to) = (u32::from_le_bytes(self.bytes()?), u32::from_le_bytes(self.bytes()?));
        let entries = usize::from(u16::from_le_bytes(self.bytes()?));
        // An entry takes two bytes at least: what claims more than there is costs no memory.
        if from > to || to > POSITIONS_MAX || entries > self.0.len() / 2 {
            return Err(Malformed);
        }
        let mut section = Section { about, from, to, entries: Vec::with_capacity(entries) };
        let mut previous: Option<Entry> = None;
        for _ in 0..entries {
            let (place, count) = (self.varint()?, self.varint()?);
            let position = u64::from(previous.map_or(from, |entry| entry.position)) + (place >> CLASS_BITS);
            let class = (place & (CLASSES_MAX as u64 - 1)) as u8;
            let count = u16::try_from(count).ok().filter(|count| *count > 0).ok_or(Malformed)?;
            let position = u32::try_from(position).ok().filter(|position| *position < to).ok_or(Malformed)?;
            let entry = Entry { position, class, count };
            if previous.is_some_and(|previous| (previous.position, previous.class) >= (position, class)) {
                return Err(Malformed);
            }
            section.entries.push(entry);
            previous = Some(entry);
        }
        Ok(section)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header = Header { sender: 1, epoch: 2, sequence: 3 };
    const ABOUT: About = About { backend: 4, generation: 5, numbering: 6 };

    fn finished(writer: Writer) -> Vec<u8> {
        writer.finish(|_| [7; TAG_BYTES])
    }

    fn read(datagram: &[u8]) -> Result<(Header, Vec<Section>), Malformed> {
        let header = header(datagram)?;
        Ok((header, sections(&datagram[..datagram.len() - TAG_BYTES])?))
    }

    /// Counts at all endpoints, back from the entries.
    fn dense(section: &Section) -> Vec<Counts> {
        let mut counts = vec![[0; CLASSES_MAX]; (section.to - section.from) as usize];
        for entry in &section.entries {
            counts[(entry.position - section.from) as usize][usize::from(entry.class)] = entry.count;
        }
        counts
    }

    fn any_counts() -> impl Strategy<Value = Counts> {
        let count = prop_oneof![8 => Just(0u16), 4 => 0u16..4, 1 => any::<u16>()];
        prop::array::uniform16(count)
    }

    #[test]
    fn a_quiet_backend_of_many_endpoints_takes_one_short_section() {
        let mut writer = Writer::new(&HEADER);
        for from in (0..5_008).step_by(BLOCK) {
            assert!(writer.push(&ABOUT, from, &[[0; CLASSES_MAX]; BLOCK]));
        }
        let datagram = finished(writer);
        assert_eq!(datagram.len(), HEADER_BYTES + SECTION_BYTES + TAG_BYTES);
        let (header, sections) = read(&datagram).unwrap();
        assert_eq!(header, HEADER);
        assert_eq!(sections, [Section { about: ABOUT, from: 0, to: 5_008, entries: Vec::new() }]);
    }

    #[test]
    fn the_fullest_block_fits() {
        let mut writer = Writer::new(&HEADER);
        assert!(writer.push(&ABOUT, 1_000_000, &[[u16::MAX; CLASSES_MAX]; BLOCK]));
        assert!(!writer.push(&ABOUT, 1_000_016, &[[u16::MAX; CLASSES_MAX]; BLOCK]), "but not two");
        let (_, sections) = read(&finished(writer)).unwrap();
        assert_eq!(dense(&sections[0]), [[u16::MAX; CLASSES_MAX]; BLOCK]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            blocks in prop::collection::vec((0u64..3, 0u32..100, prop::collection::vec(any_counts(), 1..=BLOCK)), 1..8)
        ) {
            let mut writer = Writer::new(&HEADER);
            let mut told = Vec::new();
            for (backend, from, counts) in &blocks {
                let about = About { backend: *backend, ..ABOUT };
                if writer.push(&about, *from, counts) {
                    told.extend((*from..).zip(counts).map(|(position, counts)| (*backend, position, *counts)));
                }
            }
            prop_assume!(!writer.is_empty());
            let datagram = finished(writer);
            prop_assert!(datagram.len() <= DATAGRAM_BYTES_MAX);
            let (header, sections) = read(&datagram).unwrap();
            prop_assert_eq!(header, HEADER);
            let heard: Vec<_> = sections
                .iter()
                .flat_map(|s| (s.from..).zip(dense(s)).map(|(position, counts)| (s.about.backend, position, counts)))
                .collect();
            prop_assert_eq!(heard, told);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_hold(mut bytes in prop::collection::vec(any::<u8>(), 0..1_300), ours in any::<bool>()) {
            if ours && bytes.len() >= MAGIC.len() {
                bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
            }
            if let Ok((_, sections)) = read(&bytes) {
                for section in sections {
                    prop_assert!(section.entries.len() * 2 <= bytes.len());
                    prop_assert!(section.entries.iter().all(|e| (section.from..section.to).contains(&e.position) && e.count > 0));
                }
            }
        }

        #[test]
        fn damaged_datagrams_do_no_harm(counts in prop::collection::vec(any_counts(), BLOCK), at in 0usize..1_200, byte in any::<u8>(), cut in 0usize..64) {
            let mut writer = Writer::new(&HEADER);
            prop_assert!(writer.push(&ABOUT, 3, &counts));
            let mut datagram = finished(writer);
            let length = datagram.len();
            datagram[at % length] = byte;
            datagram.truncate(length - cut);
            if let Ok((_, sections)) = read(&datagram) {
                prop_assert!(sections.iter().all(|s| s.entries.iter().all(|e| e.position < s.to && usize::from(e.class) < CLASSES_MAX)));
            }
        }
    }
}

//! What a client makes a connection of HTTP/2 do without asking for anything. Most floods are frames that cost their sender next to nothing,
//! that are answered or looked up one by one, and that carry no content: pings, settings, window updates, priorities, resets, empty data.
//! hyper and h2 bound what such frames may leave behind in memory, but not how many come. Here headers of frames are counted as they pass,
//! against what a client with a purpose needs (RFC 9113 §10.5). Time is an argument; nothing is buffered.

use std::time::Duration;

use super::PREFACE;
use crate::time::Timestamp;

/// Frames without content that a client may send ahead of any need: more than all clients known send at their start.
const IDLE_FRAMES_MAX: u32 = 1_000;
/// So many more each second.
const IDLE_FRAMES_PER_S: u32 = 100;
/// So many more for each frame of an answer, as receivers open windows and measure round trips by what comes.
const IDLE_FRAMES_PER_ANSWER: u32 = 10;
/// So many more for a request or content.
const IDLE_FRAMES_PER_REQUEST: u32 = 2;
/// Streams that a client may reset ahead of any answer (CVE-2023-44487).
const RESETS_MAX: u32 = 500;
/// So many more each second, and one for each answer that was begun.
const RESETS_PER_S: u32 = 100;
/// Bytes of a frame's header.
const HEADER: usize = 9;

/// GOAWAY with ENHANCE_YOUR_CALM; that no stream was processed is not said, as nobody may believe it.
pub const CALM: [u8; HEADER + 8] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb];

/// What a client sent too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// PING, also in answer to none.
    Ping,
    /// SETTINGS.
    Settings,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// PRIORITY, which nobody heeds any more.
    Priority,
    /// RST_STREAM.
    Reset,
    /// DATA without content that ends no stream.
    EmptyData,
    /// Heads: in pieces without end, on streams that are reset at once, or that come to nothing.
    Headers,
    /// Frames of kinds that do not exist.
    Unknown,
}

impl Flood {
    /// As labels of the metric, in the order of the variants.
    pub const NAMES: [&'static str; 8] =
        ["ping", "settings", "window_update", "priority", "reset", "empty_data", "headers", "unknown"];

    /// Its label.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Watches both directions of one connection.
#[derive(Debug)]
pub struct Watch {
    received: Frames,
    sent: Frames,
    idle: Budget,
    resets: Budget,
    /// Of the last frame, whatever it was.
    last: Flood,
    /// What it sent too much of: nobody who passes errors on keeps what is in them.
    flood: Option<Flood>,
}

impl Watch {
    /// Of a connection that begins with the preface.
    pub fn new(now: Timestamp) -> Self {
        Self {
            received: Frames { skip: PREFACE.len(), ..Frames::default() },
            sent: Frames::default(),
            idle: Budget::new(IDLE_FRAMES_MAX, IDLE_FRAMES_PER_S, now),
            resets: Budget::new(RESETS_MAX, RESETS_PER_S, now),
            last: Flood::Headers,
            flood: None,
        }
    }

    /// Bytes came from the client.
    ///
    /// # Errors
    /// What it sent too much of.
    pub fn received(&mut self, bytes: &[u8], now: Timestamp) -> Result<(), Flood> {
        let Self { received, idle, resets, last, .. } = self;
        let passed = received.pass(bytes, |frame| {
            let flood = match (frame.kind, frame.len) {
                (0, 1..) => {
                    // Small ones are h2's to bound: they hold memory.
                    *last = Flood::EmptyData;
                    idle.give(1);
                    return Ok(());
                }
                // It ends a stream, which there are not more of than requests.
                (0, 0) if frame.flags & 1 == 1 => return Ok(()),
                (0, 0) => Flood::EmptyData,
                (1, _) => {
                    *last = Flood::Headers;
                    idle.give(IDLE_FRAMES_PER_REQUEST);
                    return Ok(());
                }
                (2, _) => Flood::Priority,
                (3, _) => Flood::Reset,
                (4, _) => Flood::Settings,
                (6, _) => Flood::Ping,
                (8, _) => Flood::WindowUpdate,
                (9, _) => Flood::Headers,
                _ => Flood::Unknown,
            };
            *last = flood;
            let left = if flood == Flood::Reset { resets.take(now) } else { idle.take(now) };
            if left { Ok(()) } else { Err(flood) }
        });
        self.flood = passed.err();
        passed
    }

    /// What it was cut off for.
    pub fn flood(&self) -> Option<Flood> {
        self.flood
    }

    /// Bytes went to the client.
    pub fn sent(&mut self, bytes: &[u8]) {
        let Self { sent, idle, resets, .. } = self;
        let passed: Result<(), Flood> = sent.pass(bytes, |frame| {
            match (frame.kind, frame.len) {
                (0, 1..) => idle.give(IDLE_FRAMES_PER_ANSWER),
                (1, _) => {
                    idle.give(IDLE_FRAMES_PER_ANSWER);
                    resets.give(1);
                }
                _ => {}
            }
            Ok(())
        });
        debug_assert!(passed.is_ok(), "counting what is sent fails nobody");
    }

    /// What came last: if h2 has had enough of a client, most likely of that.
    pub fn last(&self) -> Flood {
        self.last
    }

    /// Whether what was sent ends with a whole frame.
    pub fn is_between_frames(&self) -> bool {
        self.sent.skip == 0 && self.sent.held == 0
    }
}

/// What may still be sent: a token bucket.
#[derive(Debug)]
struct Budget {
    left: u32,
    max: u32,
    per_s: u32,
    filled_at: Timestamp,
}

impl Budget {
    fn new(max: u32, per_s: u32, now: Timestamp) -> Self {
        Self { left: max, max, per_s, filled_at: now }
    }

    fn give(&mut self, frames: u32) {
        self.left = (self.left + frames).min(self.max);
    }

    fn take(&mut self, now: Timestamp) -> bool {
        if self.left <= self.max / 2 {
            let each = Duration::from_secs(1) / self.per_s;
            let due = now.since(self.filled_at).as_nanos() / each.as_nanos();
            let due = u32::try_from(due).unwrap_or(self.max).min(self.max);
            if due > 0 {
                self.give(due);
                self.filled_at = if due == self.max { now } else { self.filled_at + each * due };
            }
        } else {
            // Time that passed while there was enough is not saved up beyond the maximum.
            self.filled_at = now;
        }
        let enough = self.left > 0;
        self.left = self.left.saturating_sub(1);
        enough
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    len: usize,
    kind: u8,
    flags: u8,
}

/// One direction, cut into frames.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes until the next header.
    skip: usize,
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    held: usize,
}

impl Frames {
    /// Calls `seen` for each frame whose header ends within these bytes.
    fn pass<E>(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame) -> Result<(), E>) -> Result<(), E> {
        loop {
            let step = self.skip.min(bytes.len());
            self.skip -= step;
            bytes = &bytes[step..];
            if bytes.is_empty() {
                return Ok(());
            }
            let step = (HEADER - self.held).min(bytes.len());
            self.header[self.held..self.held + step].copy_from_slice(&bytes[..step]);
            self.held += step;
            bytes = &bytes[step..];
            if self.held < HEADER {
                return Ok(());
            }
            let [a, b, c, kind, flags, ..] = self.header;
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            (self.held, self.skip) = (0, len);
            seen(Frame { len, kind, flags })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let mut frame = (len as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(std::iter::repeat_n(kind, len));
        frame
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + ms)
    }

    fn begun() -> Watch {
        let mut watch = Watch::new(at(0));
        watch.received(PREFACE, at(0)).unwrap();
        watch
    }

    /// How many of these frames are taken, of at most 100,000.
    fn taken(watch: &mut Watch, frame: &[u8], now: Timestamp) -> (usize, Option<Flood>) {
        for number in 0..100_000 {
            if let Err(flood) = watch.received(frame, now) {
                return (number, Some(flood));
            }
        }
        (100_000, None)
    }

    #[test]
    fn frames_without_content_are_taken_up_to_their_number_whatever_their_kind() {
        for (kind, flood) in [
            (6, Flood::Ping),
            (4, Flood::Settings),
            (8, Flood::WindowUpdate),
            (2, Flood::Priority),
            (9, Flood::Headers),
            (0xfa, Flood::Unknown),
        ] {
            assert_eq!(taken(&mut begun(), &frame(kind, 0, 8), at(0)), (IDLE_FRAMES_MAX as usize, Some(flood)));
        }
        assert_eq!(
            taken(&mut begun(), &frame(0, 0, 0), at(0)),
            (IDLE_FRAMES_MAX as usize, Some(Flood::EmptyData)),
            "empty data"
        );
        assert_eq!(taken(&mut begun(), &frame(3, 0, 4), at(0)), (RESETS_MAX as usize, Some(Flood::Reset)));
    }

    #[test]
    fn requests_and_content_are_not_counted() {
        let mut watch = begun();
        for whole in [frame(1, 5, 20), frame(0, 0, 100), frame(0, 1, 0)] {
            assert_eq!(taken(&mut watch, &whole, at(0)), (100_000, None));
        }
    }

    #[test]
    fn a_client_that_is_answered_may_open_windows_and_reset_streams_as_long_as_it_likes() {
        let mut watch = begun();
        for _ in 0..50_000 {
            watch.received(&frame(1, 5, 20), at(0)).unwrap();
            watch.sent(&frame(1, 4, 30));
            watch.sent(&frame(0, 0, 1_000));
            for _ in 0..20 {
                watch.received(&frame(8, 0, 4), at(0)).unwrap();
            }
            watch.received(&frame(3, 0, 4), at(0)).unwrap();
        }
        // Answers to pings and settings earn nothing: they are what is asked for in a flood.
        for _ in 0..50_000 {
            watch.sent(&frame(6, 1, 8));
            watch.sent(&frame(4, 1, 0));
        }
        assert!(taken(&mut watch, &frame(6, 0, 8), at(0)).0 <= IDLE_FRAMES_MAX as usize);
    }

    #[test]
    fn resets_before_any_answer_are_a_flood_and_requests_do_not_hide_it() {
        let mut watch = begun();
        let pair = [frame(1, 5, 20), frame(3, 0, 4)].concat();
        assert_eq!(taken(&mut watch, &pair, at(0)), (RESETS_MAX as usize, Some(Flood::Reset)));
    }

    #[test]
    fn time_gives_back_what_it_gives_and_no_more() {
        let mut watch = begun();
        let ping = frame(6, 0, 0);
        assert_eq!(taken(&mut watch, &ping, at(0)).0, 1_000);
        assert_eq!(taken(&mut watch, &ping, at(1_000)).0, 100);
        assert_eq!(taken(&mut watch, &ping, at(1_500)).0, 50);
        assert_eq!(taken(&mut watch, &ping, at(3_600_000)).0, 1_000);
        // A ping each 20 ms goes on for ever.
        let mut watch = begun();
        for number in 0..20_000 {
            watch.received(&ping, at(20 * number)).unwrap();
        }
    }

    #[test]
    fn what_is_sent_in_time_of_a_flood_is_a_goaway_that_ends_a_frame() {
        let mut watch = begun();
        assert!(watch.is_between_frames());
        watch.sent(&frame(0, 0, 100)[..50]);
        assert!(!watch.is_between_frames());
        watch.sent(&frame(0, 0, 100)[50..]);
        watch.sent(&[0, 0]);
        assert!(!watch.is_between_frames());
        let mut seen = Vec::new();
        let passed: Result<(), ()> = Frames::default().pass(&CALM, |frame| {
            seen.push(frame);
            Ok(())
        });
        passed.unwrap();
        assert_eq!(seen, [Frame { len: 8, kind: 7, flags: 0 }]);
        assert_eq!(CALM.len(), HEADER + 8);
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_they_are_cut(
            frames in prop::collection::vec((any::<u8>(), any::<u8>(), 0usize..300), 0..30),
            cuts in prop::collection::vec(1usize..40, 1..50),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|&(kind, flags, len)| frame(kind, flags, len)).collect();
            let expected: Vec<Frame> = frames.iter().map(|&(kind, flags, len)| Frame { len, kind, flags }).collect();
            let mut seen = Vec::new();
            let mut direction = Frames::default();
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, then) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                let passed: Result<(), ()> = direction.pass(now, |frame| { seen.push(frame); Ok(()) });
                passed.unwrap();
                rest = then;
            }
            prop_assert_eq!(seen, expected);
            prop_assert!(direction.skip == 0 && direction.held == 0);
        }
    }
}

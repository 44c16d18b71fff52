//! Bounded collection of a command's output: its beginning and its end.

use std::collections::VecDeque;

/// Bytes kept from the beginning.
const HEAD: usize = 50 << 10;
/// Bytes kept from the end.
const TAIL: usize = 50 << 10;

/// Keeps the first and last 50 KiB of what is pushed, and counts the rest.
#[derive(Debug, Default)]
pub(crate) struct HeadTail {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl HeadTail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        let rest = &bytes[room..];
        let rest = &rest[rest.len().saturating_sub(TAIL)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// How much was pushed in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The kept text, with a line in the middle that names what was cut; bytes that are not UTF-8 become `U+FFFD`.
    pub(crate) fn into_text(self) -> String {
        let cut = self.total - (self.head.len() + self.tail.len()) as u64;
        let tail: Vec<u8> = self.tail.into();
        if cut == 0 {
            let whole = [self.head, tail].concat();
            return String::from_utf8_lossy(&whole).into_owned();
        }
        format!("{}\n[{cut} bytes cut]\n{}", String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_output_is_kept_whole_even_when_a_character_arrives_in_two_pieces() {
        let mut output = HeadTail::default();
        output.push(&"é".as_bytes()[..1]);
        output.push(&"é".as_bytes()[1..]);
        assert_eq!(output.into_text(), "é");
    }

    #[test]
    fn a_flood_keeps_its_beginning_and_its_end_and_names_what_was_cut() {
        let mut output = HeadTail::default();
        output.push(b"first");
        for _ in 0..1000 {
            output.push(&[b'x'; 1000]);
        }
        output.push(b"last");
        let text = output.into_text();
        assert!(text.starts_with("first") && text.ends_with("last"));
        assert!(text.contains(&format!("[{} bytes cut]", 1_000_009 - HEAD - TAIL)), "{}", text.len());
        assert!(text.len() < HEAD + TAIL + 100);
    }

    #[test]
    fn one_push_longer_than_everything_is_cut_too() {
        let mut output = HeadTail::default();
        output.push(&vec![b'y'; 10 << 20]);
        assert!(output.into_text().len() < HEAD + TAIL + 100);
    }
}

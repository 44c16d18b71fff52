//! Cuts a stream of bytes into the data of server-sent events, wherever the network happened to cut it.
//!
//! Only `data` is kept: the providers name the kind of an event inside their JSON, and some gateways leave the `event`
//! field out.

use bytes::{Buf, Bytes};

/// Assembles events from the chunks of a response body.
///
/// The rules are those of the HTML standard's event streams: lines end in LF, CR or CRLF; an empty line ends an event;
/// the `data` lines of an event are joined by LF; comments and events without data are skipped.
#[derive(Debug)]
pub struct EventReader {
    max_event_bytes: usize,
    chunk: Bytes,
    line: Vec<u8>,
    data: Vec<u8>,
    after_cr: bool,
}

/// Why a stream of bytes is no stream of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// An event, or a line of one, is larger than the reader accepts.
    #[error("an event is larger than {max_bytes} bytes")]
    TooLarge {
        /// What the reader accepts.
        max_bytes: usize,
    },
}

impl EventReader {
    /// A reader that holds at most `max_event_bytes` of one event and as much of one line.
    pub fn new(max_event_bytes: usize) -> Self {
        Self { max_event_bytes, chunk: Bytes::new(), line: Vec::new(), data: Vec::new(), after_cr: false }
    }

    /// Takes the next chunk of the body. [`EventReader::next_event`] must have returned `None` before.
    pub fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the previous chunk is read before the next is fed");
        self.chunk = chunk;
    }

    /// The data of the next event, or `None` when the chunk is used up. It need not be UTF-8: some upstreams cut a character
    /// in two, and each half comes with an event of its own.
    pub fn next_event(&mut self) -> Result<Option<Vec<u8>>, EventError> {
        while self.take_line()? {
            let line = std::mem::take(&mut self.line);
            if line.is_empty() {
                if !self.data.is_empty() {
                    return Ok(Some(self.take_data()));
                }
            } else if let Some(value) = data_of(&line) {
                self.bound(self.data.len() + value.len())?;
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
        }
        Ok(None)
    }

    /// Moves bytes of the chunk to `line`; true when they complete it.
    fn take_line(&mut self) -> Result<bool, EventError> {
        if self.after_cr && !self.chunk.is_empty() {
            self.after_cr = false;
            if self.chunk[0] == b'\n' {
                self.chunk.advance(1);
            }
        }
        let end = self.chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let length = end.unwrap_or(self.chunk.len());
        self.bound(self.line.len() + length)?;
        self.line.extend_from_slice(&self.chunk[..length]);
        if end.is_some() {
            self.after_cr = self.chunk[length] == b'\r';
            self.chunk.advance(length + 1);
        } else {
            self.chunk.clear();
        }
        Ok(end.is_some())
    }

    fn take_data(&mut self) -> Vec<u8> {
        let mut data = std::mem::take(&mut self.data);
        data.pop();
        data
    }

    fn bound(&self, bytes: usize) -> Result<(), EventError> {
        if bytes > self.max_event_bytes {
            return Err(EventError::TooLarge { max_bytes: self.max_event_bytes });
        }
        Ok(())
    }
}

/// The value of a `data` line; `None` for comments and for other fields.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"data")?;
    match rest.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None => rest.is_empty().then_some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]], max: usize) -> Result<Vec<String>, EventError> {
        let mut reader = EventReader::new(max);
        let mut events = Vec::new();
        for chunk in chunks {
            reader.feed(Bytes::copy_from_slice(chunk));
            while let Some(event) = reader.next_event()? {
                events.push(String::from_utf8(event).unwrap());
            }
        }
        Ok(events)
    }

    #[test]
    fn events_are_read_by_the_rules_of_the_standard() {
        let cases: &[(&str, &[&str])] = &[
            ("data: one\n\ndata: two\n\n", &["one", "two"]),
            ("event: ping\ndata: {}\n\n", &["{}"]),
            ("data: crlf\r\n\r\ndata: cr\r\rdata: lf\n\n", &["crlf", "cr", "lf"]),
            ("data: a\ndata: b\n\n", &["a\nb"]),
            ("data:no space\n\ndata:  two spaces\n\n", &["no space", " two spaces"]),
            (": a comment\n\nid: 7\nretry: 3\n\n", &[]),
            ("data\n\n", &[""]),
            ("database: x\n\n", &[]),
            ("data: never ended\n", &[]),
            ("data: Grüße 🦀\n\n", &["Grüße 🦀"]),
        ];
        for (stream, expected) in cases {
            assert_eq!(read(&[stream.as_bytes()], 100).unwrap(), *expected, "{stream:?}");
        }
    }

    #[test]
    fn where_the_network_cuts_the_stream_does_not_matter() {
        let stream = "event: x\r\ndata: Grüße\r\ndata: 🦀\r\n\r\ndata: end\n\n".as_bytes();
        for cut in 0..stream.len() {
            let (head, tail) = stream.split_at(cut);
            assert_eq!(read(&[head, b"", tail], 100).unwrap(), ["Grüße\n🦀", "end"], "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&bytes, 100).unwrap(), ["Grüße\n🦀", "end"]);
    }

    #[test]
    fn an_event_beyond_the_bound_is_an_error() {
        assert_eq!(read(&[b"data: 1234\n\n"], 10).unwrap(), ["1234"]);
        let cases: [&[&[u8]]; 3] =
            [&[b"data: 12345\n\n"], &[b"no line ", b"end in sight"], &[b"data: 1234\ndata: 1234\n", b"data: 1\n\n"]];
        for chunks in cases {
            assert_eq!(read(chunks, 10), Err(EventError::TooLarge { max_bytes: 10 }), "{chunks:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_left_to_the_reader_of_the_data() {
        let mut reader = EventReader::new(100);
        reader.feed(Bytes::from_static(b"data: \xff\n\n"));
        assert_eq!(reader.next_event(), Ok(Some(b"\xff".to_vec())));
    }
}

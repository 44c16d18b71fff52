//! Pure: the frames of a stream of server-sent events, out of the pieces in which they come.

use crate::limits::FRAME_BYTES;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The place to go on after, where it has one.
    pub id: Option<String>,
    /// What it is about.
    pub data: String,
}

/// A frame is larger than any event.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Takes bytes and gives frames. What has not come to its end is not told of.
#[derive(Debug, Default)]
pub struct Frames {
    line: Vec<u8>,
    id: Option<String>,
    data: String,
}

impl Frames {
    /// Takes the next bytes in. The frames that end in them.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, TooLarge> {
        let mut frames = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + self.data.len() + piece.len() > FRAME_BYTES {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                frames.extend(self.line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(frames)
    }

    fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let (id, data) = (self.id.take(), std::mem::take(&mut self.data));
            return (!data.is_empty()).then_some(Frame { id, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" if self.data.is_empty() => value.clone_into(&mut self.data),
            "data" => self.data = format!("{}\n{value}", self.data),
            "id" => self.id = Some(value.to_owned()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": connected\n\nevent: message\nid: 1\ndata: {\"a\": \"ä\"}\n\n:keepalive\n\ndata: b\r\ndata:c\r\n\r\nid: 3\ndata: cut";

    #[test]
    fn frames_are_the_same_in_whatever_pieces_they_come() {
        let frame = |id: Option<&str>, data: &str| Frame { id: id.map(str::to_owned), data: data.to_owned() };
        let wanted = [frame(Some("1"), "{\"a\": \"ä\"}"), frame(None, "b\nc")];
        for size in 1..STREAM.len() {
            let mut frames = Frames::default();
            let told: Vec<_> = STREAM.as_bytes().chunks(size).flat_map(|piece| frames.take(piece).unwrap()).collect();
            assert_eq!(told, wanted, "pieces of {size}");
        }
    }

    #[test]
    fn a_frame_without_an_end_is_refused() {
        let mut frames = Frames::default();
        let piece = vec![b'a'; FRAME_BYTES / 2];
        assert_eq!(frames.take(&piece), Ok(Vec::new()));
        assert_eq!(frames.take(&piece), Ok(Vec::new()));
        assert_eq!(frames.take(b"a"), Err(TooLarge));
    }
}

//! Images and PDFs, which a model is given as they are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// An image or a PDF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// One of those that models' APIs take: `image/png`, `image/jpeg`, `image/gif`, `image/webp`, `application/pdf`.
    pub media_type: String,
    /// The content, in base64.
    pub data: String,
}

/// What a file is that begins so, and the most bytes of it that are read; `None` for text and everything else.
pub(super) fn kind_of(beginning: &[u8]) -> Option<(&'static str, u64)> {
    let image = |kind| Some((kind, MAX_IMAGE));
    match beginning {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => image("image/png"),
        [0xff, 0xd8, 0xff, ..] => image("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => image("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => image("image/webp"),
        [b'%', b'P', b'D', b'F', b'-', ..] => Some((PDF, MAX_PDF)),
        _ => None,
    }
}

/// As many bytes as [`kind_of`] looks at.
pub(super) const BEGINNING: usize = 12;
/// The longest image, in bytes: in base64 it is as long as models' APIs take one.
const MAX_IMAGE: u64 = 3_750_000;
/// The longest PDF, in bytes: in base64 it is within a frame of the init, and three of them within a request to a model.
const MAX_PDF: u64 = 7 << 20;
const PDF: &str = "application/pdf";

impl Media {
    pub(super) fn new(media_type: &str, content: &[u8]) -> Self {
        Self { media_type: media_type.to_owned(), data: STANDARD.encode(content) }
    }

    /// Whether it is what it says: what comes out of a sandbox may be anything.
    pub(super) fn is_whole(&self) -> bool {
        STANDARD.decode(&self.data).is_ok_and(|content| {
            kind_of(&content).is_some_and(|(kind, most)| kind == self.media_type && content.len() as u64 <= most)
        })
    }

    /// Whether it is a PDF and no image.
    pub fn is_pdf(&self) -> bool {
        self.media_type == PDF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_is_its_first_bytes_say() {
        let rows: [(&[u8], Option<&str>); 7] = [
            (b"\x89PNG\r\n\x1a\n rest", Some("image/png")),
            (b"\xff\xd8\xff\xe0 rest", Some("image/jpeg")),
            (b"GIF89a rest", Some("image/gif")),
            (b"RIFF\0\0\0\0WEBP rest", Some("image/webp")),
            (b"%PDF-1.7 rest", Some("application/pdf")),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"GIF", None),
        ];
        for (content, expected) in rows {
            assert_eq!(kind_of(content).map(|(kind, _)| kind), expected, "{content:?}");
            if let Some(kind) = expected {
                assert!(Media::new(kind, content).is_whole());
                assert!(!Media::new("image/bmp", content).is_whole());
            }
        }
        let text = Media { media_type: "image/png".to_owned(), data: "no base64!".to_owned() };
        assert!(!text.is_whole());
        assert!(!Media::new("image/png", b"<script>").is_whole());
    }
}

//! Layers as they come: in files, compressed, named by the digest of what is in them.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use serde::{Deserialize, Deserializer, de};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Error, Result},
    hex,
};

/// A sha256 in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest(String);

impl Digest {
    /// Reads `sha256:…`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let is_hex = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        is_hex.then(|| Self(hex.to_owned()))
    }

    /// Of a text.
    pub(super) fn of(content: &[u8]) -> Self {
        Self(hex::digits(&Sha256::digest(content)))
    }

    /// The digits alone.
    pub(super) fn hex(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| de::Error::custom(format_args!("\"{text}\" is not a sha256 digest")))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// What is said of a layer that is not what it is named by.
pub(super) fn lies(reference: &str, named: &Digest, found: &Digest) -> Error {
    Error::invalid(format_args!(
        "{reference}: what is named {named} is {found}: it was changed or cut off on the way. Nothing of the image was kept"
    ))
}

/// A layer that is read as a tar file.
pub(super) struct Opened {
    reader: Box<dyn Read + Send>,
    /// Where its digest was not checked before: that of the tar file, and what was read of it.
    expected: Option<(Digest, Sha256)>,
}

impl Opened {
    /// Opens a layer. `expected` is the digest of the tar file in it, where it is not known yet to be the right one.
    pub(super) fn new(mut file: impl Read + Seek + Send + 'static, expected: Option<Digest>) -> Result<Self> {
        let mut magic = [0; 4];
        let start = file.stream_position().map_err(Error::internal)?;
        let mut got = 0;
        while got < magic.len() {
            match file.read(&mut magic[got..]).map_err(Error::internal)? {
                0 => break,
                more => got += more,
            }
        }
        file.seek(SeekFrom::Start(start)).map_err(Error::internal)?;
        let file = BufReader::with_capacity(1 << 18, file);
        let reader: Box<dyn Read + Send> = match magic {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let decoder = StreamingDecoder::new(file);
                Box::new(
                    decoder.map_err(|error| Error::invalid(format_args!("a layer cannot be decompressed: {error}")))?,
                )
            }
            _ => Box::new(file),
        };
        Ok(Self { reader, expected: expected.map(|digest| (digest, Sha256::new())) })
    }

    /// That it was what it was said to be. To be asked when it was unpacked.
    pub(super) fn finish(mut self, reference: &str) -> Result<()> {
        if self.expected.is_none() {
            return Ok(());
        }
        // What stands behind the end of the tar file counts too. It is bounded, as padding is.
        let mut rest = (&mut self).take(1 << 20);
        io::copy(&mut rest, &mut io::sink()).map_err(|error| Error::invalid(format_args!("{reference}: {error}")))?;
        match self.expected.take() {
            Some((named, hash)) => {
                let found = Digest(hex::digits(&hash.finalize()));
                if found == named { Ok(()) } else { Err(lies(reference, &named, &found)) }
            }
            None => Ok(()),
        }
    }
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        if let Some((_, hash)) = &mut self.expected {
            hash.update(&buffer[..got]);
        }
        Ok(got)
    }
}

/// A part of a file.
pub(super) struct Part {
    file: File,
    start: u64,
    length: u64,
    at: u64,
}

impl Part {
    pub(super) fn new(file: File, start: u64, length: u64) -> Self {
        Self { file, start, length, at: 0 }
    }

    /// All of it, unless it is longer than `most`.
    pub(super) fn whole(mut self, most: u64, what: &str) -> Result<Vec<u8>> {
        if self.length > most {
            return Err(Error::invalid(format_args!("{what} of the image has more than {most} bytes")));
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content).map_err(Error::internal)?;
        Ok(content)
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let got = std::os::unix::fs::FileExt::read_at(&self.file, &mut buffer[..most], self.start + self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(to) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = to;
        Ok(to)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.at)
    }
}

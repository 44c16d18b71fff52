//! Where in which trace something happens, as W3C Trace Context has it.

use sha2::{Digest, Sha256};

/// A span, and the trace that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    /// Whether spans of the trace are noted.
    pub(super) is_sampled: bool,
}

impl Context {
    /// Where nothing is noted.
    pub const NONE: Self = Self { trace: [0; 16], span: [0; 8], is_sampled: false };

    /// The beginning of the trace of what has this id.
    pub(super) fn of(id: &str) -> Self {
        let digest = Sha256::digest(format!("trace of {id}"));
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&digest[..16]);
        span.copy_from_slice(&digest[16..24]);
        Self { trace, span, is_sampled: true }
    }

    /// Another span of the trace.
    pub(super) fn below(self) -> Self {
        let mut span = [0; 8];
        if self.is_sampled {
            getrandom::fill(&mut span).expect("the operating system gives random bytes");
        }
        Self { span, ..self }
    }

    /// Reads a `traceparent` header: `00-<trace>-<span>-<flags>`, all of it in lower-case hexadecimal. Later versions may have more
    /// behind that.
    pub(super) fn from_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let version = bytes::<1>(parts.next()?)?;
        let (trace, span, flags) = (bytes(parts.next()?)?, bytes(parts.next()?)?, bytes::<1>(parts.next()?)?);
        let is_whole = version != [0xff] && (version != [0] || parts.next().is_none());
        (is_whole && trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, is_sampled: flags[0] & 1 == 1 })
    }
}

fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N || !digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        // The example of the standard.
        let read = Context::from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert_eq!(crate::hex::digits(&read.trace), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((crate::hex::digits(&read.span).as_str(), read.is_sampled), ("b7ad6b7169203331", true));
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-what-the-future-will-be-like";
        assert!(!Context::from_traceparent(later).unwrap().is_sampled);
        for wrong in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
        ] {
            assert_eq!(Context::from_traceparent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_trace_of_an_id_is_the_same_everywhere_and_no_other_s() {
        assert_eq!(Context::of("req_1"), Context::of("req_1"));
        assert_ne!(Context::of("req_1").trace, Context::of("req_2").trace);
    }
}

//! Pure: what stands for what in a message, found however it is cut, and put in its place.
//!
//! On the way to a host the placeholders of its credentials become their values; on the way back the values become the
//! placeholders again. Nothing here knows which host it is, nor keeps more of a message than what may be the beginning of a text
//! that is to be replaced.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use crate::limits::EGRESS_RELEASED;

/// Reads base64 with and without padding, and writes it with padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Secrets that are shorter are not looked for in answers: every text would have them.
pub(super) const LEAST_MASKED: usize = 6;

type Text = Zeroizing<Vec<u8>>;

/// A text that is replaced by another. It does not print.
#[derive(Clone)]
struct Swap {
    from: Text,
    to: Text,
    /// Which credential it is of, by its place among those of the host.
    of: usize,
}

/// Texts that are replaced, each by another.
#[derive(Clone)]
pub(super) struct Swaps {
    /// The longest first.
    all: Vec<Swap>,
    /// The bytes that one of them begins with.
    begins: Box<[bool; 256]>,
}

impl Default for Swaps {
    fn default() -> Self {
        Self { all: Vec::new(), begins: Box::new([false; 256]) }
    }
}

/// What begins at a place of a text.
enum At<'a> {
    Nothing,
    /// All that is left may be the beginning of something.
    Perhaps,
    Swap(&'a Swap),
}

impl Swaps {
    /// Adds that `from` becomes `to`, for the credential at place `of`. A text that is there already stays as it was.
    pub(super) fn add(&mut self, from: &[u8], to: &[u8], of: usize) {
        let Some(first) = from.first() else { return };
        if self.all.iter().any(|known| *known.from == from) {
            return;
        }
        self.begins[usize::from(*first)] = true;
        let at = self.all.partition_point(|known| known.from.len() >= from.len());
        self.all.insert(at, Swap { from: Text::new(from.to_vec()), to: Text::new(to.to_vec()), of });
    }

    /// Adds all of `others`.
    pub(super) fn add_all(&mut self, others: Self) {
        for other in others.all {
            self.add(&other.from, &other.to, other.of);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether nothing that is replaced changes the length of a message.
    pub(super) fn keep_lengths(&self) -> bool {
        self.all.iter().all(|swap| swap.from.len() == swap.to.len())
    }

    fn at(&self, rest: &[u8], is_end: bool) -> At<'_> {
        if !rest.first().is_some_and(|first| self.begins[usize::from(*first)]) {
            return At::Nothing;
        }
        for swap in &self.all {
            if rest.starts_with(&swap.from) {
                return At::Swap(swap);
            }
            // A longer one goes before those that are whole.
            if !is_end && swap.from.starts_with(rest) {
                return At::Perhaps;
            }
        }
        At::Nothing
    }

    /// A whole text with everything replaced; `None` where there is nothing to replace. `found` is told of each credential.
    pub(super) fn replaced(&self, text: &[u8], mut found: impl FnMut(usize)) -> Option<Text> {
        let mut out = Text::new(Vec::new());
        let (mut at, mut copied) = (0, 0);
        while at < text.len() {
            if let At::Swap(swap) = self.at(&text[at..], true) {
                out.extend_from_slice(&text[copied..at]);
                out.extend_from_slice(&swap.to);
                found(swap.of);
                at += swap.from.len();
                copied = at;
            } else {
                at += 1;
            }
        }
        (copied > 0).then(|| {
            out.extend_from_slice(&text[copied..]);
            out
        })
    }

    /// The value of a header with everything replaced, within the base64 of basic authentication (RFC 7617) too; `None` where there
    /// is nothing to replace.
    pub(super) fn in_header(&self, value: &[u8], mut found: impl FnMut(usize)) -> Option<Header> {
        if let Some(whole) = self.replaced(value, &mut found) {
            return Some(Header { value: whole, coded: None });
        }
        let (scheme, coded) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let coded = coded.trim_ascii();
        let decoded = Text::new(BASE64.decode(coded).ok()?);
        let replaced = Text::new(BASE64.encode(self.replaced(&decoded, found)?).into_bytes());
        let value = Text::new([scheme, &replaced].concat());
        Some(Header { value, coded: Some((Text::new(coded.to_vec()), replaced)) })
    }
}

/// The value of a header in which something was replaced.
pub(super) struct Header {
    pub(super) value: Text,
    /// The base64 in it, as it was and as it is.
    pub(super) coded: Option<(Text, Text)>,
}

/// What a secret may look like in an answer: as it is, in JSON, in a URL.
pub(super) fn spellings(secret: &str) -> Vec<Text> {
    let mut all = vec![Text::new(secret.as_bytes().to_vec())];
    let mut add = |text: Text| {
        if !all.contains(&text) {
            all.push(text);
        }
    };
    let mut json = Text::new(Vec::with_capacity(secret.len() * 6 + 2));
    if serde_json::to_writer(&mut *json, secret).is_ok() {
        let inner = json.get(1..json.len() - 1).unwrap_or_default();
        add(Text::new(inner.to_vec()));
        // Some write a slash so, that it ends no script.
        let slashes =
            inner.iter().flat_map(|byte| if *byte == b'/' { &b"\\/"[..] } else { std::slice::from_ref(byte) });
        add(Text::new(slashes.copied().collect()));
    }
    for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
        let mut url = Text::new(Vec::with_capacity(secret.len() * 3));
        for byte in secret.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                url.push(byte);
            } else {
                url.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
            }
        }
        add(url);
    }
    all
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the host: what is replaced is a placeholder.
    Out,
    /// From the host: what is replaced is a secret.
    Back,
}

/// A message that comes in pieces.
pub(super) struct Pieces {
    way: Way,
    /// The end of what has come: the beginning of something, perhaps.
    held: Text,
    /// How much of that was passed on already.
    passed: usize,
}

impl Pieces {
    pub(super) fn new(way: Way) -> Self {
        Self { way, held: Text::new(Vec::new()), passed: 0 }
    }

    /// Whether something waits for what follows, and is so little that it need not: more is hardly there by chance.
    pub(super) fn need_not_wait(&self) -> bool {
        self.held.len() > self.passed && self.held.len() <= EGRESS_RELEASED
    }

    /// Takes in a piece, the last one if it `is_end`. What can be passed on.
    pub(super) fn push(&mut self, swaps: &Swaps, piece: &[u8], is_end: bool, mut found: impl FnMut(usize)) -> Text {
        let mut held = std::mem::replace(&mut self.held, Text::new(Vec::new()));
        let passed = std::mem::take(&mut self.passed);
        let joined;
        let text = if held.is_empty() {
            piece
        } else {
            held.extend_from_slice(piece);
            joined = held;
            &joined[..]
        };
        let mut out = Text::new(Vec::with_capacity(text.len()));
        // Up to `copied` everything is in `out`, or was passed on before.
        let (mut at, mut copied) = (0, passed);
        while at < text.len() {
            match swaps.at(&text[at..], is_end) {
                At::Nothing => at += 1,
                At::Perhaps => {
                    out.extend_from_slice(text.get(copied..at).unwrap_or_default());
                    self.held.extend_from_slice(&text[at..]);
                    self.passed = copied.saturating_sub(at);
                    return out;
                }
                At::Swap(swap) => {
                    let end = at + swap.from.len();
                    if copied <= at {
                        out.extend_from_slice(&text[copied..at]);
                        out.extend_from_slice(&swap.to);
                        found(swap.of);
                    } else if self.way == Way::Back {
                        // Its beginning is gone; its rest is not told.
                        out.extend_from_slice(swap.to.get(copied - at..).unwrap_or_default());
                        found(swap.of);
                    } else {
                        out.extend_from_slice(&text[copied..end]);
                    }
                    (at, copied) = (end, end);
                }
            }
        }
        out.extend_from_slice(text.get(copied..).unwrap_or_default());
        out
    }

    /// Passes on what is held, because nothing follows for now. What it may have been the beginning of is still looked for.
    pub(super) fn release(&mut self) -> Text {
        let out = Text::new(self.held[self.passed..].to_vec());
        self.passed = self.held.len();
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn swaps(pairs: &[(&str, &str)]) -> Swaps {
        let mut swaps = Swaps::default();
        for (i, (from, to)) in pairs.iter().enumerate() {
            swaps.add(from.as_bytes(), to.as_bytes(), i);
        }
        swaps
    }

    /// What a text that is cut at these places becomes, and how often something was found.
    fn cut(swaps: &Swaps, way: Way, text: &[u8], cuts: &[usize]) -> (String, usize) {
        let (mut pieces, mut out, mut count, mut from) = (Pieces::new(way), Vec::new(), 0, 0);
        for to in cuts {
            out.extend_from_slice(&pieces.push(swaps, &text[from..*to], false, |_| count += 1));
            from = *to;
        }
        out.extend_from_slice(&pieces.push(swaps, &text[from..], true, |_| count += 1));
        (String::from_utf8(out).unwrap(), count)
    }

    #[test]
    fn a_text_is_found_wherever_a_message_is_cut() {
        let swaps = swaps(&[("rota_abc", "hush"), ("rota_abcdef", "longer secret"), ("aab", "x")]);
        let text = b"aaab rota_abcd rota_abcdef,rota_ab rota_rota_abc aa";
        let wanted = ("ax hushd longer secret,rota_ab rota_hush aa".to_owned(), 4);
        for i in 0..=text.len() {
            for j in i..=text.len() {
                assert_eq!(cut(&swaps, Way::Out, text, &[i, j]), wanted, "{i} {j}");
            }
        }
        let each: Vec<usize> = (0..text.len()).collect();
        assert_eq!(cut(&swaps, Way::Out, text, &each), wanted);
    }

    #[test]
    fn no_more_is_held_than_what_may_be_a_beginning() {
        let swaps = swaps(&[("secret", "PLACES")]);
        let mut pieces = Pieces::new(Way::Back);
        assert_eq!(**pieces.push(&swaps, b"data: x\n\n", false, |_| {}), *b"data: x\n\n");
        assert!(!pieces.need_not_wait());
        assert_eq!(**pieces.push(&swaps, b"the sec", false, |_| {}), *b"the ");
        assert!(pieces.need_not_wait());
        assert_eq!(**pieces.push(&swaps, b"ond", false, |_| {}), *b"second");
    }

    #[test]
    fn what_was_released_while_nothing_followed_does_not_tell_the_rest() {
        let swaps = swaps(&[("secret-value", "placeholder!")]);
        for at in 1..12 {
            let mut back = Pieces::new(Way::Back);
            let mut out = back.push(&swaps, &b"secret-value"[..at], false, |_| {});
            assert_eq!((out.len(), back.need_not_wait()), (0, at <= EGRESS_RELEASED));
            out.extend_from_slice(&back.release());
            assert!(!back.need_not_wait());
            // In two more pieces, of which the first one decides nothing.
            out.extend_from_slice(&back.push(&swaps, b"", false, |_| {}));
            out.extend_from_slice(&back.push(
                &swaps,
                &[&b"secret-value"[at..], b", secret-value."].concat(),
                true,
                |_| {},
            ));
            let wanted = [&b"secret-value"[..at], &b"placeholder!"[at..], b", placeholder!."].concat();
            assert_eq!(**out, *wanted, "{at}");
            let mut other = Pieces::new(Way::Back);
            other.push(&swaps, &b"secret-value"[..at], false, |_| {});
            other.release();
            assert_eq!(**other.push(&swaps, b"#", true, |_| {}), *b"#", "{at}");
            let mut outward = Pieces::new(Way::Out);
            outward.push(&swaps, &b"secret-value"[..at], false, |_| {});
            outward.release();
            let found = |_| panic!("half of it is gone");
            assert_eq!(**outward.push(&swaps, &b"secret-value"[at..], true, found), b"secret-value"[at..], "{at}");
        }
    }

    #[test]
    fn basic_authentication_is_read_replaced_and_written_again() {
        let swaps = swaps(&[("rota_abc", "hush")]);
        let check = |value: &str, wanted: Option<&str>| {
            let replaced = swaps.in_header(value.as_bytes(), |_| {}).map(|header| header.value);
            assert_eq!(replaced.as_deref().map(Vec::as_slice), wanted.map(str::as_bytes), "{value}");
        };
        let coded = |text: &str| BASE64.encode(text);
        check("Bearer rota_abc", Some("Bearer hush"));
        check("k=rota_abc; l=rota_abc", Some("k=hush; l=hush"));
        check("Bearer other", None);
        check(&format!("Basic {}", coded("git:rota_abc")), Some(&format!("Basic {}", coded("git:hush"))));
        check(&format!("bAsIc {}", coded("rota_abc:")), Some(&format!("bAsIc {}", coded("hush:"))));
        check(
            &format!("Basic {}", coded("g:rota_abc").trim_end_matches('=')),
            Some(&format!("Basic {}", coded("g:hush"))),
        );
        check(&format!("Basic {}", coded("git:other")), None);
        check("Basic ???", None);
        check("Basic", None);
        check(&format!("Bearer {}", coded("git:rota_abc")), None);
    }

    #[test]
    fn a_secret_is_known_in_json_and_in_urls() {
        let known = |secret: &str| -> Vec<String> {
            spellings(secret).iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
        };
        assert_eq!(known("abc-123"), ["abc-123"]);
        assert_eq!(known("a/b\"c"), ["a/b\"c", "a/b\\\"c", "a\\/b\\\"c", "a%2Fb%22c", "a%2fb%22c"]);
    }

    proptest! {
        #[test]
        fn pieces_become_what_the_whole_becomes(text in "[abr_ ]{0,60}", cuts in prop::collection::vec(0..60_usize, 0..8)) {
            let swaps = swaps(&[("ra_", "XX"), ("ra_b", "YYYYYY"), ("aa", "z"), ("_rr_", "")]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let whole = swaps.replaced(text.as_bytes(), |_| {});
            let whole = whole.map_or_else(|| text.clone(), |whole| String::from_utf8(whole.to_vec()).unwrap());
            prop_assert_eq!(cut(&swaps, Way::Out, text.as_bytes(), &cuts).0, whole);
        }
    }
}

//! What was fetched, as text: which characters its bytes are, and what of it a model reads.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use reqwest::Url;

use super::{Failure, markdown, pdf};
use crate::limits::{WEB_PAGE_BYTES, WEB_PAGE_CHARACTERS};

/// A page that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its title, or its URL.
    pub title: String,
    /// Its text, of HTML as Markdown.
    pub text: String,
    /// Whether there is more of it than `text`.
    pub is_cut: bool,
}

impl Page {
    /// The page with at most so many tokens of text. It was recorded that 100 tokens are exactly 339 characters, that nothing
    /// marks the cut, and that no word's end is looked for.
    #[must_use]
    pub fn with_most_tokens(mut self, tokens: i64) -> Self {
        let most = usize::try_from(tokens.saturating_mul(339) / 100).unwrap_or(usize::MAX);
        self.text.truncate(length_of(&self.text, most));
        self
    }
}

/// The bytes of the first `characters` of a text.
fn length_of(text: &str, characters: usize) -> usize {
    text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at)
}

/// What came from a server.
pub(super) struct Fetched {
    pub(super) url: Url,
    pub(super) content_type: Option<String>,
    pub(super) body: Vec<u8>,
    /// Whether there was more of it than is read.
    pub(super) is_cut: bool,
}

enum Kind {
    Html,
    Pdf,
    Text,
}

/// The page that it is. Takes long for a large one.
pub(super) fn read(fetched: Fetched) -> Result<Page, Failure> {
    let Fetched { url, content_type, body, mut is_cut } = fetched;
    let (title, mut text) = match kind(content_type.as_deref(), &body)? {
        Kind::Pdf if is_cut => {
            let most = format_args!("the PDF is larger than {WEB_PAGE_BYTES} bytes, the most that is read");
            return Err(Failure::fetch("content_too_large", most));
        }
        Kind::Pdf => pdf::text(&body)?,
        Kind::Html => {
            let html = decoded(&body, content_type.as_deref(), true);
            let markdown::Markdown { title, text } = markdown::of_html(&html, &url);
            (title, text)
        }
        Kind::Text => (None, decoded(&body, content_type.as_deref(), false)),
    };
    let length = length_of(&text, WEB_PAGE_CHARACTERS);
    is_cut |= length < text.len();
    text.truncate(length);
    if text.trim().is_empty() {
        // Models' APIs refuse blank text.
        "(the page has no text)".clone_into(&mut text);
    }
    Ok(Page { title: title.unwrap_or_else(|| url.to_string()), text, is_cut })
}

fn kind(content_type: Option<&str>, body: &[u8]) -> Result<Kind, Failure> {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_unsaid = essence.is_empty() || essence == "application/octet-stream" || essence == "binary/octet-stream";
    Ok(match &*essence {
        "text/html" | "application/xhtml+xml" => Kind::Html,
        "application/pdf" | "application/x-pdf" => Kind::Pdf,
        "application/json"
        | "application/xml"
        | "application/javascript"
        | "application/x-ndjson"
        | "application/yaml"
        | "application/x-yaml"
        | "application/toml" => Kind::Text,
        other if other.starts_with("text/") || other.ends_with("+json") || other.ends_with("+xml") => Kind::Text,
        _ if is_unsaid && body.starts_with(b"%PDF-") => Kind::Pdf,
        _ if is_unsaid && looks_like_html(body) => Kind::Html,
        _ if is_unsaid && !body.contains(&0) && std::str::from_utf8(&body[..body.len().min(1000)]).is_ok() => {
            Kind::Text
        }
        other => {
            let shown: String = other.chars().take(100).collect();
            let words = format_args!("only pages, text and PDFs are read, and this is \"{shown}\"");
            return Err(Failure::fetch("unsupported_content_type", words));
        }
    })
}

fn looks_like_html(body: &[u8]) -> bool {
    let beginning = String::from_utf8_lossy(&body[..body.len().min(1000)]).to_ascii_lowercase();
    beginning.contains("<!doctype html") || beginning.contains("<html")
}

/// The text of bytes, by what says first how they are to be read: a mark at their beginning, the server, the page, and whether
/// they are UTF-8.
fn decoded(body: &[u8], content_type: Option<&str>, is_html: bool) -> String {
    let of_server = content_type.and_then(charset).and_then(|label| Encoding::for_label(label.as_bytes()));
    let of_page = || {
        let beginning = String::from_utf8_lossy(&body[..body.len().min(2048)]).to_ascii_lowercase();
        is_html.then(|| charset(&beginning).and_then(|label| Encoding::for_label(label.as_bytes()))).flatten()
    };
    let fallback = || {
        let is_utf_8 = |error: std::str::Utf8Error| error.error_len().is_none();
        if std::str::from_utf8(body).map_or_else(is_utf_8, |_| true) { UTF_8 } else { WINDOWS_1252 }
    };
    let encoding = of_server.or_else(of_page).unwrap_or_else(fallback);
    encoding.decode(body).0.into_owned()
}

/// What stands behind `charset=`.
fn charset(text: &str) -> Option<&str> {
    let at = text.to_ascii_lowercase().find("charset")?;
    let rest = text.get(at + "charset".len()..)?.trim_start().strip_prefix('=')?.trim_start();
    let label = rest.trim_start_matches(['"', '\'']);
    let end = label.find(|c: char| !(c.is_ascii_alphanumeric() || "-_:.".contains(c))).unwrap_or(label.len());
    Some(&label[..end]).filter(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(content_type: &str, body: &[u8]) -> Fetched {
        let content_type = Some(content_type.to_owned()).filter(|text| !text.is_empty());
        Fetched { url: Url::parse("https://example.com/a").unwrap(), content_type, body: body.to_vec(), is_cut: false }
    }

    #[test]
    fn text_is_read_in_the_characters_that_are_said_to_be_its() {
        let meta = b"<meta charset=\"iso-8859-2\"><title>t</title><p>\xe8\xf8";
        for (content_type, body, expected) in [
            ("text/plain; charset=utf-8", "é".as_bytes(), "é"),
            ("text/plain; charset=ISO-8859-1", b"\xe9", "é"),
            ("text/plain;charset=\"shift_jis\"", b"\x93\xfa\x96{", "日本"),
            ("text/plain", "日本".as_bytes(), "日本"),
            ("text/plain", b"caf\xe9 au lait", "café au lait"),
            ("text/plain", b"\xff\xfeh\0i\0", "hi"),
            ("text/html", &meta[..], "čř"),
            ("text/html; charset=windows-1251", b"<p>\xcf\xf0", "Пр"),
            ("text/plain; charset=nonsense", "é".as_bytes(), "é"),
        ] {
            assert_eq!(read(fetched(content_type, body)).unwrap().text.trim(), expected, "{content_type}");
        }
    }

    #[test]
    fn pages_text_and_pdfs_are_read_and_nothing_else() {
        for (content_type, body, expected) in [
            ("text/html", "<h1>A</h1>", "# A"),
            ("", "<!DOCTYPE html><h1>A</h1>", "# A"),
            ("application/json", "{\"a\": 1}", "{\"a\": 1}"),
            ("application/ld+json; x=y", "{}", "{}"),
            ("application/octet-stream", "plain", "plain"),
            ("", "<b>", "<b>"),
            ("text/html", "<script>x</script>", "(the page has no text)"),
        ] {
            assert_eq!(
                read(fetched(content_type, body.as_bytes())).unwrap().text.trim(),
                expected,
                "{content_type} {body}"
            );
        }
        for content_type in ["image/png", "application/zip", "video/mp4", ""] {
            let refused = read(fetched(content_type, b"\x89PNG\0")).unwrap_err().to_string();
            assert!(refused.starts_with("Web fetch error: unsupported_content_type — "), "{refused}");
        }
    }

    #[test]
    fn a_page_is_cut_where_it_was_recorded_to_be() {
        let page = Page { title: "t".to_owned(), text: "é".repeat(49_096), is_cut: false };
        for (tokens, characters) in [(100, 339), (1, 3), (1000, 3390), (i64::MAX, 49_096)] {
            let cut = page.clone().with_most_tokens(tokens);
            assert_eq!(cut.text, "é".repeat(characters), "{tokens}");
        }
        let long = "x".repeat(WEB_PAGE_CHARACTERS + 1);
        let page = read(fetched("text/plain", long.as_bytes())).unwrap();
        assert!(page.is_cut && page.text.len() == WEB_PAGE_CHARACTERS);
        let page = read(fetched("text/plain", &long.as_bytes()[1..])).unwrap();
        assert!(!page.is_cut && page.text.len() == WEB_PAGE_CHARACTERS);
    }
}

//! The files of the console.

use std::{io::Read, sync::LazyLock};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use sha2::{Digest, Sha256};

use super::PATH;
use crate::hex;

/// What browsers hold the pages to: nothing but the files of this server is loaded, run, asked or sent to, no markup becomes
/// script, and no other page frames them.
const HEADERS: [(HeaderName, &str); 8] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types svelte-trusted-html",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    // Asked for anew each time, and mostly answered with 304: pages of two versions of the server never mix.
    (header::CACHE_CONTROL, "no-cache"),
];

struct File {
    name: &'static str,
    content_type: &'static str,
    compressed: &'static [u8],
}

/// The page itself comes first: it stands at every path that is no file.
static FILES: [File; 4] = [
    File {
        name: "index.html",
        content_type: "text/html; charset=utf-8",
        compressed: include_bytes!("../../../../console/dist/index.html.gz"),
    },
    File {
        name: "console.js",
        content_type: "text/javascript; charset=utf-8",
        compressed: include_bytes!("../../../../console/dist/console.js.gz"),
    },
    File {
        name: "console.css",
        content_type: "text/css; charset=utf-8",
        compressed: include_bytes!("../../../../console/dist/console.css.gz"),
    },
    File {
        name: "icon.svg",
        content_type: "image/svg+xml",
        compressed: include_bytes!("../../../../console/dist/icon.svg.gz"),
    },
];

static TAGS: LazyLock<[String; FILES.len()]> =
    LazyLock::new(|| std::array::from_fn(|at| format!("\"{}\"", hex::digits(&Sha256::digest(FILES[at].compressed)))));

/// `GET /console` and everything below it. The page finds out from its address what to show.
pub(super) async fn page(uri: Uri, headers: HeaderMap) -> Response {
    let name = uri.path().strip_prefix(PATH).unwrap_or_default().trim_start_matches('/');
    let at = FILES.iter().position(|file| file.name == name).unwrap_or(0);
    let mut response = answer(&FILES[at], &TAGS[at], &headers);
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn answer(file: &File, tag: &str, headers: &HeaderMap) -> Response {
    let says = |name: HeaderName, word: &str| {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| value.contains(word))
    };
    let common = [(header::ETAG, tag), (header::VARY, "accept-encoding")];
    if says(header::IF_NONE_MATCH, tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, file.content_type)];
    if says(header::ACCEPT_ENCODING, "gzip") {
        return (common, content_type, [(header::CONTENT_ENCODING, "gzip")], Body::from(file.compressed))
            .into_response();
    }
    (common, content_type, inflated(file)).into_response()
}

fn inflated(file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(file.compressed).read_to_end(&mut bytes).expect("the build compressed it");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most bytes of the console as it is sent.
    const MOST: usize = 400 * 1024;

    #[test]
    fn the_pages_are_there_and_small() {
        for file in &FILES {
            assert!(!inflated(file).is_empty(), "{} is empty: `make console` builds it", file.name);
        }
        let page = String::from_utf8(inflated(&FILES[0])).unwrap();
        for needed in ["/console/console.js", "/console/console.css", "/console/icon.svg"] {
            assert!(page.contains(needed), "the page loads {needed}: {page}");
        }
        for inline in ["<style", "style=", " onclick", "<script>"] {
            assert!(!page.contains(inline), "{inline} is refused by the policy of the page: {page}");
        }
        let bytes: usize = FILES.iter().map(|file| file.compressed.len()).sum();
        assert!(bytes <= MOST, "the console has {bytes} bytes");
        assert!(inflated(&FILES[1]).len() > 10_000, "the console is whole");
    }
}

//! Answers of other servers, taken down for people without what is secret in them.

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Response, header::CONTENT_TYPE};
use rota_api::{credential::HttpResponse, secret::Secret};
use zeroize::Zeroizing;

use crate::limits::{CAPTURED_BODY_BYTES, MAX_TOKEN_ANSWER_BYTES};

/// What stands in place of a secret.
const MASK: &str = "[secret]";

/// The body of an answer, as far as it is read, and whether it goes on.
pub(super) async fn body(response: &mut Response) -> (Zeroizing<Vec<u8>>, bool) {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TOKEN_ANSWER_BYTES));
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = MAX_TOKEN_ANSWER_BYTES - bytes.len();
                bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    return (bytes, true);
                }
            }
            Ok(None) => return (bytes, false),
            Err(_) => return (bytes, true),
        }
    }
}

/// An answer as it is shown. `is_cut` says that the body goes on after `body`.
pub(super) fn shown(response: &Response, body: &[u8], is_cut: bool, secrets: &[&Secret]) -> HttpResponse {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (body, body_truncated) = scrubbed(&String::from_utf8_lossy(body), is_cut, secrets);
    HttpResponse {
        status_code: response.status().as_u16(),
        content_type: content_type.chars().take(256).collect(),
        body,
        body_truncated,
    }
}

/// `text` without `secrets`, in the forms in which an answer may repeat them, and no longer than is shown.
fn scrubbed(text: &str, is_cut: bool, secrets: &[&Secret]) -> (String, bool) {
    let mut forms: Vec<Zeroizing<String>> = secrets.iter().flat_map(|secret| forms(secret.reveal())).collect();
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    let mut text = text.to_owned();
    if is_cut {
        // What is cut off in the middle of a secret is not known for one.
        let longest = forms.first().map_or(0, |form| form.len());
        let end = text.floor_char_boundary(text.len().saturating_sub(longest));
        text.truncate(end);
    }
    for form in forms.iter().filter(|form| !form.is_empty()) {
        text = text.replace(&***form, MASK);
    }
    let clean = |c: char| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c };
    let text: String = text.chars().map(clean).collect();
    let end = text.floor_char_boundary(CAPTURED_BODY_BYTES);
    let is_cut = is_cut || end < text.len();
    (text[..end].to_owned(), is_cut)
}

fn forms(secret: &str) -> [Zeroizing<String>; 4] {
    let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let json = serde_json::to_string(secret).unwrap_or_default();
    let json = json.trim_matches('"').to_owned();
    [secret.to_owned(), encoded, json, STANDARD.encode(secret)].map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_however_an_answer_repeats_them() {
        let secret = Secret::new("a b\"c/+=".to_owned());
        for text in ["x a b\"c/+= y", "x a+b%22c%2F%2B%3D y", "x a b\\\"c/+= y", "x YSBiImMvKz0= y"] {
            assert_eq!(scrubbed(text, false, &[&secret]), ("x [secret] y".to_owned(), false), "{text}");
        }
    }

    #[test]
    fn what_is_left_of_a_secret_at_the_end_of_what_was_read_is_not_shown() {
        let secret = Secret::new("abcdefghijkl".to_owned());
        let (text, is_cut) = scrubbed("the token is abcdefghijkl and again abcdefgh", true, &[&secret]);
        assert!(is_cut && !text.contains("abc"), "{text}");
    }

    #[test]
    fn a_long_body_is_cut() {
        let (text, is_cut) = scrubbed(&"é".repeat(CAPTURED_BODY_BYTES), false, &[]);
        assert!(is_cut && text.len() <= CAPTURED_BODY_BYTES);
    }
}

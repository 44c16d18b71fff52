//! Signing in with a browser: a cookie that names a key without having it, and the address that makes one.
//!
//! A cookie says which key it stands for and until when, under a signature of this store. [`super::caller`] looks the key up
//! as it does for a request that sends it, so a key that has ended ends what was signed in with it.
//!
//! A browser sends cookies by itself, also for pages of others; `SameSite` does not help against what listens on another port of
//! the same host. So a cookie counts only together with a header that no page of another origin can send, and where the browser
//! says that the request comes from this server's own pages.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use ring::hmac;
use rota_api::{Time, id::ApiKeyId};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    hex,
    limits::{SIGN_IN_ADDRESS_MICROS, SIGN_IN_MICROS},
};

/// The header that the console's own requests have.
pub const CONSOLE: &str = "x-rota-console";

/// What a cookie says, once its signature is found to be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn {
    /// The key that it stands for.
    pub key: ApiKeyId,
    /// When it ends; the key may end earlier.
    pub until: Time,
    /// Whether the key was made for this sign-in, so that nobody has its secret.
    pub owns_key: bool,
}

/// Who has signed in, and who may.
pub struct SignIns {
    /// The name of the cookie. All ports of a host share their cookies, so each store has a name of its own.
    cookie: String,
    /// What signs cookies: the first signs, each is believed.
    keys: Vec<hmac::Key>,
    /// The hash of the word that signs in once, and until when it does.
    word: Mutex<Option<(String, Time)>>,
}

impl fmt::Debug for SignIns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIns").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

impl SignIns {
    /// The sign-ins of a store of `organization`, whose cookies are signed with the first of these `secrets`.
    pub fn new<'a>(organization: &str, secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let store = hex::digits(&Sha256::digest(organization.as_bytes()));
        let keys = secrets.into_iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)).collect();
        Self { cookie: format!("rota_{}", &store[..8]), keys, word: Mutex::default() }
    }

    /// A new word that signs in once, soon after `now`. The one before it does no longer.
    ///
    /// # Errors
    /// When the machine gives no random bytes.
    pub fn new_word(&self, now: Time) -> Result<String> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(Error::internal)?;
        let word = URL_SAFE_NO_PAD.encode(bytes);
        let until = now.plus_micros(SIGN_IN_ADDRESS_MICROS);
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = Some((super::caller::hash(&word), until));
        Ok(word)
    }

    /// Takes a word that signs in, which is used up by that.
    ///
    /// # Errors
    /// 401 when it is not the one that was given last, was used before or has run out.
    pub fn take_word(&self, word: &str, now: Time) -> Result<()> {
        let mut given = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = super::caller::hash(word);
        if given.as_ref().is_some_and(|(known, until)| now < *until && *known == hash) {
            *given = None;
            return Ok(());
        }
        Err(Error::Unauthenticated(
            "this address has been used, or has run out: paste a key, or start the server again for another address",
        ))
    }

    /// When a sign-in at `now` ends.
    pub fn end(now: Time) -> Time {
        now.plus_micros(SIGN_IN_MICROS)
    }

    /// The `Set-Cookie` of a sign-in. A browser that reached the server by TLS keeps it to TLS.
    pub fn set_cookie(&self, signed_in: &SignedIn, now: Time, headers: &HeaderMap) -> Option<String> {
        let said = said(signed_in);
        let tag = hmac::sign(self.keys.first()?, said.as_bytes());
        let seconds = signed_in.until.seconds_since(now).max(0.0).trunc();
        let value = format!("{said}.{}", URL_SAFE_NO_PAD.encode(tag));
        Some(format!("{}={value}; Max-Age={seconds}; {}", self.cookie, attributes(headers)))
    }

    /// The `Set-Cookie` that deletes it.
    pub fn unset_cookie(&self, headers: &HeaderMap) -> String {
        format!("{}=; Max-Age=0; {}", self.cookie, attributes(headers))
    }

    /// Who is signed in, where a request has a cookie.
    ///
    /// # Errors
    /// 401 for a cookie that has ended or is not of this store, and 403 for one that comes with a request of another page.
    pub fn read(&self, headers: &HeaderMap, now: Time) -> Result<Option<SignedIn>> {
        let Some(value) = self.value(headers) else { return Ok(None) };
        check_own_page(headers)?;
        let signed_in = self.verified(value).filter(|signed_in| now < signed_in.until);
        signed_in.map(Some).ok_or(Error::Unauthenticated("the sign-in of this browser has ended: sign in again"))
    }

    fn value<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.cookie).map(|(_, value)| value)
    }

    fn verified(&self, value: &str) -> Option<SignedIn> {
        let (said, tag) = value.rsplit_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        self.keys.iter().find(|key| hmac::verify(key, said.as_bytes(), &tag).is_ok())?;
        let mut parts = said.split('.');
        let (key, until, owns_key) = (parts.next()?, parts.next()?, parts.next()?);
        Some(SignedIn {
            key: key.parse().ok()?,
            until: Time::from_micros(until.parse().ok()?),
            owns_key: owns_key == "own",
        })
    }
}

fn said(signed_in: &SignedIn) -> String {
    let owns_key = if signed_in.owns_key { "own" } else { "theirs" };
    format!("{}.{}.{owns_key}", signed_in.key, signed_in.until.micros())
}

fn attributes(headers: &HeaderMap) -> &'static str {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    if origin.is_some_and(|origin| origin.starts_with("https://")) {
        "Path=/; HttpOnly; SameSite=Strict; Secure"
    } else {
        "Path=/; HttpOnly; SameSite=Strict"
    }
}

/// Holds a request to be one of the console's own pages. Browsers say where a request comes from in `Sec-Fetch-Site`; over plain
/// HTTP from another machine they leave it out, and say the origin of what changes something.
///
/// # Errors
/// 403 for any other.
pub fn check_own_page(headers: &HeaderMap) -> Result<()> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_own = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => origin.split_once("://").is_some_and(|(_, host)| Some(host) == text("host")),
        (None, None) => true,
    };
    if is_own && headers.contains_key(CONSOLE) {
        return Ok(());
    }
    let message =
        format!("a signed-in browser is answered on the pages of this server only, with the header {CONSOLE}");
    Err(Error::Forbidden(message))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rota_api::id::Id;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn cookie_of(sign_ins: &SignIns, signed_in: &SignedIn, now: Time) -> String {
        let set = sign_ins.set_cookie(signed_in, now, &HeaderMap::new()).unwrap();
        set.split_once(';').unwrap().0.to_owned()
    }

    #[test]
    fn a_cookie_counts_as_it_was_signed_and_until_it_ends() {
        let now = Time::from_micros(1_700_000_000_000_000);
        let (one, other) = (SignIns::new("o", [&b"1"[..], b"2"]), SignIns::new("o", [&b"3"[..]]));
        let signed_in = SignedIn { key: ApiKeyId::new(now), until: SignIns::end(now), owns_key: true };
        let cookie = cookie_of(&one, &signed_in, now);
        let read = |sign_ins: &SignIns, cookie: &str, at: Time| {
            sign_ins.read(&headers(&[("cookie", &format!("a=b; {cookie}")), (CONSOLE, "1")]), at)
        };
        assert_eq!(read(&one, &cookie, now).unwrap(), Some(signed_in.clone()));
        // A key that signs no more is still believed.
        assert_eq!(read(&SignIns::new("o", [&b"9"[..], b"1"]), &cookie, now).unwrap(), Some(signed_in.clone()));
        assert!(read(&one, &cookie, signed_in.until).is_err(), "it has ended");
        assert!(read(&other, &cookie, now).is_err(), "of another store");
        for (from, to) in [(".own.", ".theirs."), ("apikey_", "apikey_2"), ("1700", "1900")] {
            let changed = cookie.replace(from, to);
            assert!(changed == cookie || read(&one, &changed, now).is_err(), "{changed}");
        }
        assert_eq!(read(&SignIns::new("p", [&b"1"[..]]), &cookie, now).unwrap(), None, "the cookie has another name");
    }

    #[test]
    fn a_request_of_another_page_is_refused() {
        let check = |pairs: &[(&'static str, &str)], is_own: bool| {
            assert_eq!(check_own_page(&headers(pairs)).is_ok(), is_own, "{pairs:?}");
        };
        let (host, mark) = (("host", "127.0.0.1:7420"), (CONSOLE, "1"));
        check(&[host, mark], true);
        check(&[host], false);
        check(&[host, mark, ("sec-fetch-site", "same-origin")], true);
        check(&[host, ("sec-fetch-site", "same-origin")], false);
        for site in ["same-site", "cross-site", "none"] {
            check(&[host, mark, ("sec-fetch-site", site)], false);
        }
        check(&[host, mark, ("origin", "http://127.0.0.1:7420")], true);
        for origin in ["http://127.0.0.1:8080", "null", "https://example.com"] {
            check(&[host, mark, ("origin", origin)], false);
        }
    }

    #[test]
    fn a_word_signs_in_once_and_for_a_while() {
        let now = Time::from_micros(1_700_000_000_000_000);
        let sign_ins = SignIns::new("o", [&b"1"[..]]);
        assert!(sign_ins.take_word("", now).is_err());
        let first = sign_ins.new_word(now).unwrap();
        let second = sign_ins.new_word(now).unwrap();
        assert!(sign_ins.take_word(&first, now).is_err(), "there is a newer one");
        assert!(sign_ins.take_word(&second, now.plus_micros(SIGN_IN_ADDRESS_MICROS)).is_err(), "it has run out");
        sign_ins.take_word(&second, now).unwrap();
        assert!(sign_ins.take_word(&second, now).is_err(), "it was used");
    }

    #[test]
    fn a_cookie_that_was_set_over_tls_stays_there() {
        let now = Time::from_micros(0);
        let sign_ins = SignIns::new("o", [&b"1"[..]]);
        let signed_in = SignedIn { key: ApiKeyId::new(now), until: SignIns::end(now), owns_key: false };
        for (origin, secure) in [("https://rota.example.com", true), ("http://127.0.0.1:7420", false)] {
            let set = sign_ins.set_cookie(&signed_in, now, &headers(&[("origin", origin)])).unwrap();
            assert!(set.contains("; HttpOnly; SameSite=Strict"), "{set}");
            assert_eq!(set.ends_with("; Secure"), secure, "{set}");
        }
    }
}

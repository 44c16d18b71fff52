//! What a TLS client says first, as far as the gate reads it: the name that it wants to speak with.
//!
//! Nothing is decrypted and nothing is changed: the bytes go on to the host as they came. RFC 8446, section 4.1.2; RFC 6066,
//! section 3 for the name; RFC 9849 for what hides it.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::limits::EGRESS_HELLO_BYTES;

/// The type of a record that carries a handshake.
const HANDSHAKE: u8 = 22;
/// The type of the first message of a handshake.
const CLIENT_HELLO: u8 = 1;
/// Most bytes of a record's content.
const MAX_RECORD: usize = 1 << 14;
/// The extension with the name.
const SERVER_NAME: u16 = 0;
/// The extension with another hello inside that only the host can read.
const ENCRYPTED_HELLO: u16 = 0xfe0d;

/// What a client said first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The name, as it was written.
    pub(super) name: Option<String>,
    /// Whether it may name another host where nobody sees it.
    pub(super) is_encrypted: bool,
}

/// It is no TLS, or none that can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotTls;

/// Reads a whole hello: its bytes, and what it says.
pub(super) async fn read(client: &mut (impl AsyncRead + Unpin)) -> Result<(Vec<u8>, Hello), NotTls> {
    let mut bytes = Vec::new();
    loop {
        if let Some(hello) = parse(&bytes)? {
            return Ok((bytes, hello));
        }
        if bytes.len() >= EGRESS_HELLO_BYTES {
            return Err(NotTls);
        }
        match client.read_buf(&mut bytes).await {
            Ok(got) if got > 0 => {}
            _ => return Err(NotTls),
        }
    }
}

/// What the beginning of a connection says. `None`: more of it is needed.
fn parse(mut bytes: &[u8]) -> Result<Option<Hello>, NotTls> {
    let mut message = Vec::new();
    loop {
        if let [CLIENT_HELLO, a, b, c, body @ ..] = &message[..] {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if length > EGRESS_HELLO_BYTES {
                return Err(NotTls);
            }
            if let Some(body) = body.get(..length) {
                return client_hello(&mut Reader(body)).ok_or(NotTls).map(Some);
            }
        } else if !message.is_empty() && message[0] != CLIENT_HELLO {
            return Err(NotTls);
        }
        match bytes {
            [HANDSHAKE, 3, _, high, low, rest @ ..] => {
                let length = usize::from(*high) << 8 | usize::from(*low);
                if length == 0 || length > MAX_RECORD {
                    return Err(NotTls);
                }
                let Some((content, after)) = rest.split_at_checked(length) else { return Ok(None) };
                message.extend_from_slice(content);
                bytes = after;
            }
            [] | [HANDSHAKE] | [HANDSHAKE, 3] | [HANDSHAKE, 3, _] | [HANDSHAKE, 3, _, _] => return Ok(None),
            _ => return Err(NotTls),
        }
    }
}

fn client_hello(hello: &mut Reader<'_>) -> Option<Hello> {
    hello.take(2 + 32)?; // The version and the random bytes.
    hello.short_vector()?; // The id of an earlier session.
    hello.vector()?; // The ciphers.
    hello.short_vector()?; // The compressions.
    let mut said = Hello { name: None, is_encrypted: false };
    if hello.0.is_empty() {
        return Some(said);
    }
    let mut extensions = Reader(hello.vector()?);
    let mut has_name = false;
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.number()?, extensions.vector()?);
        match kind {
            // Two of them could be read in two ways.
            SERVER_NAME if has_name => return None,
            SERVER_NAME => {
                has_name = true;
                said.name = Some(server_name(content)?);
            }
            ENCRYPTED_HELLO => said.is_encrypted = true,
            _ => {}
        }
    }
    hello.0.is_empty().then_some(said)
}

/// The one host name of the extension.
fn server_name(extension: &[u8]) -> Option<String> {
    let mut extension = Reader(extension);
    let mut list = Reader(extension.vector()?);
    let is_host_name = list.take(1)? == [0];
    let name = list.vector()?;
    let is_all = list.0.is_empty() && extension.0.is_empty();
    (is_host_name && is_all && name.is_ascii()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// Bytes that are taken from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What a length of two bytes stands in front of.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }

    /// The same with a length of one byte.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConnection, pki_types::ServerName};

    use super::*;
    use crate::tls;

    fn hello_for(name: &'static str) -> Vec<u8> {
        let config = Arc::new(tls::client_config().unwrap());
        let mut client = ClientConnection::new(config, ServerName::try_from(name).unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message, in records of `size` bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE, 3, 1, length[0], length[1]], content].concat()
        };
        hello[5..].chunks(size).flat_map(record).collect()
    }

    /// A hello with these extensions.
    fn with_extensions(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let vector = |content: Vec<u8>| [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], &content].concat();
        let extensions =
            extensions.iter().flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &vector(content.clone())].concat());
        let body = [vec![3, 3], vec![7; 32], vec![0], vector(vec![0x13, 1]), vec![1, 0], vector(extensions.collect())];
        let body = body.concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [vec![CLIENT_HELLO, length[1], length[2], length[3]], body].concat();
        [vec![HANDSHAKE, 3, 1], vector(message)].concat()
    }

    fn name(name: &str) -> (u16, Vec<u8>) {
        let length = |plus: usize| u16::try_from(name.len() + plus).unwrap().to_be_bytes().to_vec();
        (SERVER_NAME, [length(3), vec![0], length(0), name.as_bytes().to_vec()].concat())
    }

    #[test]
    fn the_name_is_read_however_the_hello_is_cut() {
        let hello = hello_for("api.example.com");
        let wanted = Hello { name: Some("api.example.com".to_owned()), is_encrypted: false };
        for size in [1, 7, 100, 5000] {
            let bytes = in_records(&hello, size);
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{size} {end}");
            }
            assert_eq!(parse(&bytes).unwrap().unwrap(), wanted, "{size}");
        }
    }

    #[test]
    fn a_hello_without_a_name_has_none_and_one_with_two_is_not_read() {
        let none = Hello { name: None, is_encrypted: false };
        assert_eq!(parse(&hello_for("192.0.2.1")).unwrap().unwrap(), none);
        assert_eq!(parse(&with_extensions(&[])).unwrap().unwrap(), none);
        let one = parse(&with_extensions(&[(10, vec![0, 0]), name("A.example")])).unwrap().unwrap();
        assert_eq!(one.name.as_deref(), Some("A.example"));
        assert_eq!(parse(&with_extensions(&[name("a.example"), name("b.example")])), Err(NotTls));
        let mut two = name("a.example").1;
        two.extend(&name("b.example").1[2..]);
        let length = u16::try_from(two.len() - 2).unwrap().to_be_bytes();
        two[..2].copy_from_slice(&length);
        assert_eq!(parse(&with_extensions(&[(SERVER_NAME, two)])), Err(NotTls));
    }

    #[test]
    fn an_encrypted_hello_is_told() {
        let hello = parse(&with_extensions(&[name("a.example"), (ENCRYPTED_HELLO, vec![0; 40])])).unwrap().unwrap();
        assert!(hello.is_encrypted);
    }

    #[test]
    fn what_is_no_tls_is_told_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-2.0-x\r\n",
            &[HANDSHAKE, 2, 0, 0, 4],
            &[HANDSHAKE, 3, 1, 0xff, 0xff, 0],
            &[HANDSHAKE, 3, 1, 0, 0],
            &[HANDSHAKE, 3, 1, 0, 1, 2],
            &[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(parse(bytes), Err(NotTls), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0..600_usize, changed: u8) {
            let _ = parse(&bytes);
            let mut hello = with_extensions(&[name("a.example"), (5, bytes)]);
            let at = at % hello.len();
            hello[at] = changed;
            let _ = parse(&hello);
        }
    }
}

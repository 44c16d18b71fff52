//! Reads HTTP requests, for servers that the tests stand in for.

use std::collections::HashMap;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A request as it arrived.
pub struct Request {
    /// The method and the path.
    pub line: String,
    /// The headers, by their names in small letters.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: String,
}

/// The next request of a connection; `None` when the client hangs up.
pub async fn read_request(connection: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).expect("UTF-8");
            let fields = head.lines().filter_map(|line| line.split_once(": "));
            let headers: HashMap<_, _> = fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
            let body = &bytes[end + 4..];
            let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a number"));
            if body.len() >= length {
                let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
                return Some(Request { line, headers, body: String::from_utf8(body.to_vec()).expect("UTF-8") });
            }
        }
        if connection.read_buf(&mut bytes).await.unwrap_or_default() == 0 {
            return None;
        }
    }
}

//! Sends spans to the collector, many at a time. What it does not take is dropped and counted: nothing waits for it.

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url, redirect};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Ended, otlp};
use crate::{
    error::{Error, Result},
    limits::{TRACE_BATCH, TRACE_LAST_SEND, TRACE_SEND_EVERY, TRACE_SEND_TIMEOUT},
    telemetry, tls,
};

/// What sends spans.
pub struct Exporter {
    client: Client,
    url: Url,
    headers: HeaderMap,
    node: String,
    ended: mpsc::Receiver<Ended>,
}

impl Exporter {
    pub(super) fn new(endpoint: &str, headers: Option<&str>, node: &str, ended: mpsc::Receiver<Ended>) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format_args!("telemetry.otlp_endpoint: {why}"));
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let url: Url = url.parse().map_err(|_| wrong("is not a URL, as http://127.0.0.1:4318"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(wrong("must begin with http:// or https://; OTLP over gRPC is not spoken"));
        }
        let tls = tls::client_config().map_err(Error::internal)?;
        let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().redirect(redirect::Policy::none());
        let client = client.timeout(TRACE_SEND_TIMEOUT);
        Ok(Self {
            client: client.build().map_err(Error::internal)?,
            url,
            headers: headers.map(named).transpose()?.unwrap_or_default(),
            node: node.to_owned(),
            ended,
        })
    }

    /// Sends what ends until the server stops, and then what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(spans) = self.batch(&stop).await {
            let count = spans.len() as u64;
            let body = otlp::request(&self.node, &spans);
            let request = self.client.post(self.url.clone()).headers(self.headers.clone()).json(&body);
            let last_moment = async {
                stop.cancelled().await;
                sleep(TRACE_LAST_SEND).await;
            };
            let sent = tokio::select! {
                sent = request.send() => sent,
                () = last_moment => return dropped(count),
            };
            let why = match sent {
                Ok(response) if response.status().is_success() => {
                    metrics::counter!("rota_trace_spans_total", "outcome" => "sent").increment(count);
                    continue;
                }
                Ok(response) => format!("it answers {}", response.status()),
                // What it says has the address, in which there may be a key.
                Err(error) => error.without_url().to_string(),
            };
            dropped(count);
            if telemetry::may_tell("traces that are not taken") {
                tracing::warn!(why, spans = count, "the collector of traces does not take them: they are dropped");
            }
        }
    }

    /// The next spans, once there are many or a while has passed; `None` when the server has stopped and none are left.
    async fn batch(&mut self, stop: &CancellationToken) -> Option<Vec<Ended>> {
        let mut spans = Vec::new();
        let count = tokio::select! {
            biased;
            count = self.ended.recv_many(&mut spans, TRACE_BATCH) => count,
            () = stop.cancelled() => 0,
        };
        if count == 0 {
            return None;
        }
        let filling = async {
            while spans.len() < TRACE_BATCH
                && let Some(span) = self.ended.recv().await
            {
                spans.push(span);
            }
        };
        tokio::select! {
            _ = timeout(TRACE_SEND_EVERY, filling) => {}
            () = stop.cancelled() => {}
        }
        Some(spans)
    }
}

/// Counts spans that no collector has.
pub(super) fn dropped(count: u64) {
    metrics::counter!("rota_trace_spans_total", "outcome" => "dropped").increment(count);
}

/// The headers in a variable.
fn named(variable: &str) -> Result<HeaderMap> {
    let text = std::env::var(variable).map_err(|_| "is not set");
    text.and_then(|text| headers(&text)).map_err(|why| {
        Error::invalid(format_args!("telemetry.otlp_headers_env: the environment variable {variable} {why}"))
    })
}

/// `name=value`, with commas between them.
fn headers(text: &str) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("is not made of name=value")?;
        let name: HeaderName = name.trim().parse().map_err(|_| "names something that is no header")?;
        let mut value: HeaderValue = value.trim().parse().map_err(|_| "has a value that no header can have")?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_name_and_value_with_commas_between_them() {
        let read = headers("authorization=Bearer a=b, X-Scope = one,").unwrap();
        assert_eq!(
            (&read["authorization"], &read["x-scope"]),
            (&"Bearer a=b".parse().unwrap(), &"one".parse().unwrap())
        );
        assert!(read["authorization"].is_sensitive());
        for wrong in ["authorization", "a b=c", "a=b\nc"] {
            headers(wrong).unwrap_err();
        }
    }
}

//! One attempt: a signed request, and what its answer means.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode, header::CONTENT_TYPE};

use super::{claim::Claim, next::Ended, sign::signature};
use crate::{
    app::App,
    config::WebhooksConfig,
    error::{Error, Result},
    limits::WEBHOOK_EXCERPT_BYTES,
    outgoing::{self, PrivateAddress},
    resources::webhook_endpoints::secret_key,
    retry_after::retry_after,
};

/// How an attempt ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ended: Ended,
    pub(super) answer: Answer,
}

/// What is kept of an answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The HTTP status, where there was an answer.
    pub(super) status: Option<i64>,
    /// The beginning of the body.
    pub(super) excerpt: Option<String>,
    /// What went wrong.
    pub(super) error: Option<String>,
}

impl Answer {
    fn none(error: String) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    fn so(self, ended: Ended) -> Outcome {
        Outcome { ended, answer: self }
    }
}

/// The client that all attempts share.
///
/// # Errors
/// When TLS cannot be set up.
pub(super) fn client(config: &WebhooksConfig) -> Result<Client> {
    let timeout = Duration::from_secs(config.timeout_seconds.into());
    outgoing::client(config.allow_private)?.timeout(timeout).build().map_err(Error::internal)
}

/// Sends a delivery once.
///
/// # Errors
/// When the endpoint's secret cannot be opened.
pub(super) async fn attempt(app: &App, client: &Client, claim: &Claim) -> Result<Outcome> {
    let config = &app.config.webhooks;
    let timestamp = app.clock.now().micros().div_euclid(1_000_000);
    let seal = app.vault.key(&app.db, &claim.workspace).await?;
    let key = secret_key(&seal, &claim.endpoint, &claim.secret)?;
    let signature = signature(&key, claim.event.as_ref(), timestamp, &claim.payload);
    // What the configuration allows may have changed since the endpoint was created.
    let url = match outgoing::url(&claim.url, config.allow_private) {
        Ok(url) => url,
        Err(error) => return Ok(Answer::none(format!("url: {error}")).so(Ended::Refused)),
    };
    let sent = client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", claim.event.as_ref())
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature)
        .body(claim.payload.clone())
        .send()
        .await;
    Ok(match sent {
        Ok(response) => judge(response).await,
        Err(error) => unanswered(error, config.timeout_seconds),
    })
}

async fn judge(response: Response) -> Outcome {
    let status = response.status();
    let wait = retry_after(response.headers());
    // Also after a success: a connection whose answer is read can be used again.
    let excerpt = excerpt(response).await;
    let answer = |error: Option<String>| Answer {
        status: Some(status.as_u16().into()),
        excerpt: excerpt.filter(|_| error.is_some()),
        error,
    };
    if status.is_success() {
        answer(None).so(Ended::Accepted)
    } else if status.is_redirection() {
        let error = format!("url: it answered {status}, and redirects are not followed; set the URL that it leads to");
        answer(Some(error)).so(Ended::Refused)
    } else if status == StatusCode::GONE {
        let error = "url: it answered 410 Gone: nothing is to be sent there any more; set another URL";
        answer(Some(error.to_owned())).so(Ended::Refused)
    } else {
        let wait_micros = wait.and_then(|wait| i64::try_from(wait.as_micros()).ok());
        let ended = wait_micros.map_or(Ended::Failed, |wait_micros| Ended::Postponed { wait_micros });
        answer(Some(format!("the endpoint answered {status}"))).so(ended)
    }
}

/// The beginning of a body as text, without characters that a terminal or a store could stumble over.
async fn excerpt(mut response: Response) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < WEBHOOK_EXCERPT_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(WEBHOOK_EXCERPT_BYTES - bytes.len())]);
    }
    let clean = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    let text: String = String::from_utf8_lossy(&bytes).chars().map(clean).collect();
    (!text.is_empty()).then_some(text)
}

fn unanswered(error: reqwest::Error, timeout_seconds: u32) -> Outcome {
    if let Some(private) = PrivateAddress::of(&error) {
        return Answer::none(format!("url: {private}")).so(Ended::Refused);
    }
    if error.is_timeout() {
        return Answer::none(format!("no answer within {timeout_seconds} s")).so(Ended::Failed);
    }
    Answer::none(outgoing::causes(error)).so(Ended::Failed)
}

//! What servers on one database tell each other: that something has changed, so that nobody has to wait for its next look.
//!
//! A hint may be lost. It is sent with NOTIFY, from outside the transactions that it speaks of, because a transaction that
//! notifies holds back the commits of all others; and several at a time, because each costs every listener a wake-up.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_postgres::{Client, Error as Failure};

use super::{super::Notice, connect::Connector, pause};
use crate::{
    error::{Error, Result},
    limits, telemetry,
};

/// Nothing depends on a hint, so nobody waits until it is on the disk.
const LISTEN: &str = "SET synchronous_commit = off; LISTEN rota";
const TELL: &str = "SELECT pg_notify('rota', $1)";

type Publish = Arc<dyn Fn(&Notice) + Send + Sync>;

/// Where committed notices go.
#[derive(Clone)]
pub(super) struct Hints(mpsc::Sender<Notice>);

impl Hints {
    /// Tells the other servers, some time soon. What does not fit into the queue is left out.
    pub(super) fn send(&self, notices: Vec<Notice>) {
        for notice in notices {
            drop(self.0.try_send(notice));
        }
    }
}

/// Begins to listen to the other servers, and to tell them. Ends when every [`Hints`] is dropped.
#[allow(clippy::disallowed_methods, reason = "it ends with the writers, which shutdown waits for")]
pub(super) fn start(connector: Connector, publish: Publish) -> Result<Hints> {
    let mut own = [0; 8];
    getrandom::fill(&mut own).map_err(Error::internal)?;
    let own = format!("{:016x}", u64::from_be_bytes(own));
    let (sender, said) = mpsc::channel(limits::HINT_QUEUE);
    tokio::spawn(exchange(connector, publish, own, said));
    Ok(Hints(sender))
}

async fn exchange(connector: Connector, publish: Publish, own: String, mut said: mpsc::Receiver<Notice>) {
    let mut tries = 1;
    while !(said.is_closed() && said.is_empty()) {
        match listen(&connector, publish.clone(), own.clone()).await {
            Ok((client, closed)) => {
                tries = 1;
                if let Err(error) = tell(&client, closed, &own, &mut said).await {
                    tracing::debug!(%error, "a hint was not sent");
                }
            }
            Err(error) => {
                if telemetry::may_tell("hints of other servers") {
                    tracing::warn!(%error, "no connection to hear from other servers; trying again");
                }
                sleep(pause(tries)).await;
                tries = (tries + 1).min(limits::DATABASE_TRIES);
            }
        }
    }
}

/// A connection that listens, and what ends when it does.
async fn listen(connector: &Connector, publish: Publish, own: String) -> Result<(Client, oneshot::Receiver<()>)> {
    let (open, closed) = oneshot::channel();
    let client = connector.connect(move |notification| {
        // Dropped with this closure, when the connection ends.
        let _: &oneshot::Sender<()> = &open;
        for notice in read(notification.payload(), &own) {
            publish(&notice);
        }
    });
    let client = client.await?;
    client.batch_execute(LISTEN).await?;
    Ok((client, closed))
}

/// What a hint says, unless it is this server's own.
fn read(payload: &str, own: &str) -> Vec<Notice> {
    let mut words = payload.split(' ');
    if words.next() == Some(own) { Vec::new() } else { words.filter_map(Notice::from_hint).collect() }
}

/// Passes on what is said until nothing can be said any more, or the connection ends.
async fn tell(
    client: &Client,
    mut closed: oneshot::Receiver<()>,
    own: &str,
    said: &mut mpsc::Receiver<Notice>,
) -> Result<(), Failure> {
    let mut notices = Vec::new();
    loop {
        let count = tokio::select! {
            count = said.recv_many(&mut notices, limits::HINTS_AT_ONCE) => count,
            _ = &mut closed => return Ok(()),
        };
        if count == 0 {
            return Ok(());
        }
        let different: BTreeSet<String> = notices.drain(..).map(|notice| notice.hint()).collect();
        let payload = different.into_iter().fold(own.to_owned(), |payload, hint| payload + " " + &hint);
        client.execute(TELL, &[&payload]).await?;
        sleep(limits::HINT_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use rota_api::id::{Id, SessionId};

    use super::*;

    #[test]
    fn a_hint_is_read_as_it_was_written_by_everybody_but_its_author() {
        let session = || SessionId::trusted("sesn_1".to_owned());
        let notices = [Notice::SessionChanged(session()), Notice::SessionRunnable, Notice::SessionDeleted(session())];
        let payload = notices.iter().fold("me".to_owned(), |payload, notice| payload + " " + &notice.hint());
        assert_eq!(read(&payload, "other"), notices);
        assert_eq!(read(&payload, "me"), []);
    }

    #[test]
    fn a_full_hint_is_within_what_a_notification_can_carry() {
        let session = SessionId::new(rota_api::Time::from_micros(0));
        let longest = Notice::SessionDeleted(session).hint().len() + 1;
        assert!(16 + limits::HINTS_AT_ONCE * longest < 8000);
    }
}

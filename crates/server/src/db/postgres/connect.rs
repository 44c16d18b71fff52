//! How connections to PostgreSQL are made: address, encryption, settings.

use std::{future::poll_fn, net::IpAddr, pin::pin};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error as Failure, NoTls, Notification,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::dialect;
use crate::{
    error::{Error, Result},
    limits, tls,
};

/// Makes connections to one database.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Config,
    tls: Option<ClientConfig>,
}

impl Connector {
    /// Reads a URL. Without `sslmode`, connections are encrypted, and the server's certificate is checked, unless the
    /// server is on this machine.
    ///
    /// # Errors
    /// When it is not the URL of a database.
    pub(crate) fn new(url: &str) -> Result<Self> {
        let mut config: Config = url.parse().map_err(|error| {
            Error::invalid(format_args!("database: not a URL such as postgres://user:password@host:port/name: {error}"))
        })?;
        if config.get_ssl_mode() == SslMode::Prefer {
            let is_local = config.get_hosts().iter().all(is_local);
            config.ssl_mode(if is_local { SslMode::Disable } else { SslMode::Require });
        }
        config.application_name("rota");
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(limits::DATABASE_CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(limits::DATABASE_SILENCE);
        }
        let tls = if config.get_ssl_mode() == SslMode::Disable {
            None
        } else {
            let mut tls = tls::client_config().map_err(Error::internal)?;
            tls.alpn_protocols.clear();
            Some(tls)
        };
        Ok(Self { config, tls })
    }

    /// Opens a connection, which is driven by the runtime that this is called in until the client is dropped. What the
    /// database tells unasked goes to `notified`.
    pub(super) async fn connect(&self, notified: impl FnMut(Notification) + Send + 'static) -> Result<Client, Failure> {
        let client = match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                drive(connection, notified);
                client
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(MakeRustlsConnect::new(tls.clone())).await?;
                drive(connection, notified);
                client
            }
        };
        client.batch_execute(dialect::POSTGRES_SETTINGS).await?;
        Ok(client)
    }
}

/// A socket file, or an address of this machine.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

#[allow(clippy::disallowed_methods, reason = "it ends when its client is dropped, which shutdown does")]
fn drive<S, T>(connection: Connection<S, T>, mut notified: impl FnMut(Notification) + Send + 'static)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let mut connection = pin!(connection);
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => notified(notification),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a connection to the database ended");
                    return;
                }
            }
        }
    });
}

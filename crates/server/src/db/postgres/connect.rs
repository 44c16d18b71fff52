//! How connections to PostgreSQL are made: address, encryption, settings.

use std::{error::Error as _, future::poll_fn, io, net::IpAddr, pin::pin};

use rustls::{CertificateError, ClientConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error as Failure, NoTls, Notification,
    config::{Host, SslMode},
    error::SqlState,
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
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(Error::invalid(
                "database: names no host; it is a URL such as postgres://user:password@host:port/name",
            ));
        }
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

    /// Where the database is, without what opens it.
    pub(super) fn place(&self) -> String {
        format!("postgres://{}/{}", self.address(), self.config.get_dbname().unwrap_or_default())
    }

    /// Opens a connection, which is driven by the runtime that this is called in until the client is dropped. What the
    /// database tells unasked goes to `notified`.
    ///
    /// # Errors
    /// When there is none within the time for it. The message says where, why, and what to do, and has no password.
    pub(super) async fn connect(&self, notified: impl FnMut(Notification) + Send + 'static) -> Result<Client> {
        let hosts = self.config.get_hosts().len().max(1) as u32;
        let each = self.config.get_connect_timeout().copied().unwrap_or(limits::DATABASE_CONNECT_TIMEOUT);
        let (cause, remedy) = match timeout(each * hosts, self.open(notified)).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(failure)) => (cause(&failure), remedy(&failure)),
            Err(_) => ("it does not answer".to_owned(), UNREACHABLE),
        };
        let (name, at) = (self.config.get_dbname().unwrap_or("its default"), self.address());
        Err(Error::Database(format!("cannot connect to the database {name} at {at}: {cause}; {remedy}").into()))
    }

    fn address(&self) -> String {
        let ports = self.config.get_ports().iter().chain(std::iter::repeat(&5432));
        let addresses = self.config.get_hosts().iter().zip(ports).map(|(host, port)| match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(folder) => folder.display().to_string(),
        });
        addresses.collect::<Vec<_>>().join(",")
    }

    async fn open(&self, notified: impl FnMut(Notification) + Send + 'static) -> Result<Client, Failure> {
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

const UNREACHABLE: &str = "check that PostgreSQL runs there, and the host and the port in the URL";
const UNTRUSTED: &str =
    "add the certificate of its authority to those that this machine trusts, or name its file in SSL_CERT_FILE";
const MISNAMED: &str = "name it in the URL as its certificate does";
const UNENCRYPTED: &str = "turn `ssl` on there, or add `?sslmode=disable` to the URL if nobody can listen in between";

fn cause(failure: &Failure) -> String {
    match (failure.as_db_error(), failure.source()) {
        (Some(told), _) => format!("{} ({})", told.message(), told.code().code()),
        (None, Some(source)) => format!("{failure}: {source}"),
        (None, None) => failure.to_string(),
    }
}

/// What an operator can do about a connection that could not be opened.
fn remedy(failure: &Failure) -> &'static str {
    const REMEDIES: [(SqlState, &str); 4] = [
        (SqlState::INVALID_PASSWORD, "check the user and the password in the URL"),
        (SqlState::INVALID_AUTHORIZATION_SPECIFICATION, "check the user in the URL, and whom pg_hba.conf lets in"),
        (SqlState::INVALID_CATALOG_NAME, "make it with `createdb`, or check the name in the URL"),
        (SqlState::TOO_MANY_CONNECTIONS, "raise max_connections there; a server of Rota needs ten"),
    ];
    if let Some(code) = failure.code() {
        return REMEDIES.iter().find(|(of, _)| of == code).map_or("see the log of PostgreSQL", |(_, remedy)| remedy);
    }
    let io = failure.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io.map(|error| error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())) {
        Some(Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }))) => MISNAMED,
        Some(Some(_)) => UNTRUSTED,
        Some(None) => UNREACHABLE,
        None if failure.to_string().contains("TLS") => UNENCRYPTED,
        None => "check the URL",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_holds_no_secret() {
        for (url, place) in [
            ("postgres://rota:secret@db.internal/rota", "postgres://db.internal:5432/rota"),
            ("postgres://rota:secret@db.internal:6432/rota?sslmode=disable", "postgres://db.internal:6432/rota"),
            ("postgres://rota@a:1,b:2/rota?password=secret", "postgres://a:1,b:2/rota"),
            ("postgres://rota:secret@%2Frun%2Fpostgresql/rota", "postgres:///run/postgresql/rota"),
        ] {
            assert_eq!(Connector::new(url).unwrap().place(), place);
        }
    }
}

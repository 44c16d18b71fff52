//! How a server comes to its database: over TLS, or not at all, and then it says what to do. Each is a process of its own:
//! what it trusts is a setting of its environment. On SQLite there is nothing to test here.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use tempfile::TempDir;

use crate::{
    database::{self, Database, NEEDED},
    process::Server,
    receiver::CERTIFICATE,
};

const PASSWORD: &str = "correct-horse";

/// A server that is not started yet. It trusts the certificate of the tests if `trusting`.
fn server(folder: &Path, url: &str, trusting: bool) -> Server {
    let mut server = Server::new(folder, &["--database", url, "--concurrency", "0"]);
    server.authorities = trusting.then(|| CERTIFICATE.into());
    server
}

/// A database and the port of its server, which lets the role `password_only` in with [`PASSWORD`]. `None` when tests run
/// on SQLite.
fn database_with_password() -> Option<(Database, String)> {
    let database = Database::create()?;
    database.run(&format!(
        "DO $$ BEGIN CREATE ROLE password_only LOGIN PASSWORD '{PASSWORD}'; EXCEPTION WHEN OTHERS THEN END $$;
         GRANT ALL ON SCHEMA public TO password_only"
    ));
    let port = database::address()?.rsplit_once(':')?.1.to_owned();
    Some((database, port))
}

/// The port of what answers, as a PostgreSQL server without TLS does, that it has none.
fn without_tls() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        client.write_all(b"N").unwrap();
        // Until the client has gone.
        drop(client.read(&mut [0]));
    });
    port
}

/// A port on which nobody listens.
fn nowhere() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
fn a_server_that_cannot_use_its_database_says_why_and_what_to_do_but_no_password() {
    let (database, port) = database_with_password().expect(NEEDED);
    let name = database.name();
    let (nowhere, without_tls) = (nowhere(), without_tls());
    // What comes after the password, whether the certificate is trusted, why, and what to do.
    let cases = [
        (format!("r@127.0.0.1:{port}/{name}"), false, "authentication failed", "check the user and the password"),
        (format!("@127.0.0.1:{port}/missing"), false, "\"missing\" does not exist", "make it with `createdb`"),
        (format!("@127.0.0.1:{nowhere}/{name}"), false, "Connection refused", "check that PostgreSQL runs there"),
        (
            format!("@127.0.0.1:{without_tls}/{name}?sslmode=require"),
            true,
            "does not support TLS",
            "turn `ssl` on there",
        ),
        (format!("@localhost:{port}/{name}?sslmode=require"), false, "UnknownIssuer", "SSL_CERT_FILE"),
        (format!("@127.0.0.1:{port}/{name}?sslmode=require"), true, "not valid for name", "as its certificate does"),
        (format!("@127.0.0.1:{port}/{name}?sslmode=must"), false, "not a URL", "postgres://user:password@host"),
    ];
    for (rest, trusting, why, remedy) in cases {
        let folder = TempDir::new().unwrap();
        let server = server(folder.path(), &format!("postgres://password_only:{PASSWORD}{rest}"), trusting);
        let output = server.command().output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{rest}: {said}");
        assert!(said.starts_with("error: ") && said.contains(why) && said.contains(remedy), "{rest}: {said}");
        assert!(!said.contains(PASSWORD) && output.stdout.is_empty(), "{said}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_server_reaches_its_database_over_tls_under_a_private_authority() {
    let (database, port) = database_with_password().expect(NEEDED);
    let url = format!("postgres://password_only:{PASSWORD}@localhost:{port}/{}?sslmode=require", database.name());
    let folder = TempDir::new().unwrap();
    let mut server = server(folder.path(), &url, true);
    server.start().await;
    database.run(
        "DO $$ BEGIN
             ASSERT (SELECT count(*) > 0 AND bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                     WHERE datname = current_database() AND application_name = 'rota');
         END $$",
    );
}

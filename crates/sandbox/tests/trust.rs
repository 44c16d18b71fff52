//! What a sandbox is started with beside its session's files: variables, and whom its programs trust.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod inside;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rota_sandbox::{Authorities, Config, Embedded, Setup};

use inside::bash;

/// Only what bash itself can do: a root file system may have nothing else.
const LOOK: &str = "for f in $SSL_CERT_FILE /etc/ssl/certs/ca-certificates.crt; do [ -e $f ] && echo \"$(<$f)\"; done; \
    echo $CURL_CA_BUNDLE ${JAVA_TOOL_OPTIONS#*=}; for f in $SSL_CERT_FILE /run/rota/new /etc/ssl/certs/ca-certificates.crt; do \
    (echo x > $f) 2>/dev/null && echo wrote $f; done; echo $KEY $LANG ${PATH:0:4}";

fn setup() -> Setup {
    let environment = [("KEY", "rota_placeholder"), ("LANG", "xx")];
    Setup {
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        authorities: Some(Authorities { pem: "of this sandbox".to_owned(), keystore: b"for Java".to_vec() }),
        companion: Some(Arc::new(7_u32)),
        ..Setup::default()
    }
}

async fn look(config: Config) -> String {
    let embedded = Embedded::new(config).unwrap();
    let sandbox = embedded.open_with("s", setup()).await.unwrap();
    assert_eq!(sandbox.companion().unwrap().downcast_ref(), Some(&7_u32));
    let other = embedded.open_with("s", Setup::default()).await.unwrap();
    assert!(other.companion().is_some(), "one that runs keeps its own");
    let said = bash(&sandbox, LOOK).await.content;
    embedded.shutdown().await;
    said
}

#[tokio::test]
async fn programs_find_their_variables_and_whom_to_trust_and_change_neither() {
    let folder = tempfile::tempdir().unwrap();
    let said = look(inside::config(folder.path())).await;
    let has_usual = Path::new("/etc/ssl/certs/ca-certificates.crt").is_file();
    let files = if has_usual { "of this sandbox\nof this sandbox\n" } else { "of this sandbox\n" };
    let wanted = "/run/rota/authorities.pem /run/rota/authorities.jks\nrota_placeholder xx /usr";
    assert_eq!(said.trim(), format!("{files}{wanted}"));
    let plain = Embedded::new(inside::config(folder.path())).unwrap();
    let sandbox = plain.open("other").await.unwrap();
    let said = bash(&sandbox, "echo [$SSL_CERT_FILE$KEY]; [ -e /run/rota ] && echo there; true").await.content;
    assert_eq!(said.trim(), "[]");
    plain.shutdown().await;
}

#[tokio::test]
async fn in_a_root_file_system_of_the_operator_s_they_stand_before_its_own_which_stay() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let into = |path: &str| {
        let target = root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        target
    };
    let libraries = Command::new("ldd").arg("/bin/bash").output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain(["/bin/bash"]) {
        fs::copy(path, into(path)).unwrap();
    }
    let usual = into("/etc/ssl/certs/ca-certificates.crt");
    fs::write(&usual, "of the image").unwrap();
    for path in ["dev", "proc", "tmp", "workspace"] {
        fs::create_dir_all(root.path().join(path)).unwrap();
    }
    let config = Config { root_fs: Some(root.path().to_owned()), ..inside::config(folder.path()) };
    let said = look(config).await;
    let wanted = "of this sandbox\nof this sandbox\n/run/rota/authorities.pem /run/rota/authorities.jks\nrota_placeholder xx /usr";
    assert_eq!(said.trim(), wanted);
    assert_eq!(fs::read_to_string(&usual).unwrap(), "of the image");
}

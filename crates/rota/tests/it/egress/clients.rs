//! Programs of all kinds that fetch packages, call and talk through the gate: from open hosts whose TLS passes unread, and from
//! hosts that want a secret, of which the sandbox has only the placeholder.

use std::{fs, path::Path, process::Command, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{egress, limited, parts};
use crate::{
    client::Api,
    given::{id, script},
    indexes::{self, CARGO, GO, HELLO, NPM, PIP},
    secure::Secure,
    server::{PATIENCE, Rota},
    stream::text,
    vaults::{credentials, variable, vault},
};

const SECRET: &str = "hush-0123456789-0123456789-0123456789-value";
const WATCH: &str = include_str!("watch.py");
const SPEAK: &str = include_str!("speak.py");

/// Whom to trust where nothing is opened, for each program by its own variable.
const TRUSTING: &str = "for v in PIP_CERT SSL_CERT_FILE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS NPM_CONFIG_CAFILE \
     CARGO_HTTP_CAINFO GRPC_DEFAULT_SSL_ROOTS_FILE_PATH; do export $v=/workspace/authority.pem; done; ";

fn basic(password: &str) -> String {
    STANDARD.encode(format!("bot:{password}"))
}

/// The first result of a session: package managers may take long on a machine at work.
pub(super) async fn said(api: &Api, session: &Value) -> String {
    said_at(api, session, 0).await
}

/// The same of the call at `place`.
pub(super) async fn said_at(api: &Api, session: &Value, place: usize) -> String {
    let path = format!("/v1/sessions/{}/events?limit=100", id(session));
    let looking = async {
        loop {
            let page = api.get(&path).await;
            let events = page["data"].as_array().unwrap();
            if let Some(result) = events.iter().filter(|event| event["type"] == "agent.tool_result").nth(place) {
                return text(result).to_owned();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(6 * PATIENCE, looking).await.expect("a result")
}

/// Has `command` run where `host` is open to everybody, and where it wants `authorization` and the command has a placeholder of
/// the secret in `$API_KEY`. Both print `wanted`. What the second one printed.
async fn works_with_and_without_a_secret(host: &str, authorization: &str, command: &str, wanted: &str) -> String {
    let hosts = Secure::start(&[host]).await;
    indexes::publish(&hosts);
    let authority = hosts.authority.file();
    let rota = Rota::with(|config| {
        config.network.open = vec!["127.0.0.1".to_owned()];
        config.network.hosts = hosts.hosts(&[host]).into_iter().collect();
        config.network.authorities = Some(authority.clone());
    })
    .await;
    let api = &rota.api;
    let pem = fs::read_to_string(authority).unwrap();
    let open = script(&format!("cat > authority.pem <<'END'\n{pem}END\n{TRUSTING}{command} 2>&1"));
    let session = parts(api, limited(&[host])).await.session_with(api, open).await;
    let printed = said(api, &session).await;
    assert!(printed.contains(wanted), "without a secret: {printed}");
    let rows = api.once(&egress(&session), |page| !page["data"].as_array().unwrap().is_empty()).await;
    assert!(rows["data"].as_array().unwrap().iter().all(|row| row["credentials"] == json!([])), "{rows}");

    hosts.wants(host, authorization);
    indexes::cargo_wants_tokens(&hosts);
    let vault = vault(api, "keys").await;
    let networking = json!({"type": "limited", "allowed_hosts": [host]});
    let changes = json!({"secret_value": SECRET, "networking": networking});
    let credential = api.post(&credentials(&vault), variable("API_KEY", &changes)).await;
    let coded = basic(SECRET);
    let halves = [SECRET.split_at(20), coded.split_at(30)].map(|(one, two)| format!("'{one}' '{two}'")).join(" ");
    let look =
        format!("echo environ: $(cat /proc/[0-9]*/environ /run/rota/* 2>/dev/null | grep -ac '{}')", &SECRET[..20]);
    let watched = format!(
        "cat > watch.py <<'END_OF_PROGRAM'\n{WATCH}END_OF_PROGRAM\ncat > do.sh <<'END_OF_COMMAND'\n{command}\nEND_OF_COMMAND\n\
         /usr/bin/python3 watch.py '. ./do.sh' {halves} 2>&1; {look}"
    );
    let changes = json!({"vault_ids": [id(&vault)], "initial_events": [script(&watched)]});
    let session = parts(api, limited(&[host])).await.session(api, changes).await;
    let printed = said(api, &session).await;
    assert!(printed.contains(wanted), "with a secret: {printed}\n{:?}", hosts.seen());
    assert!(printed.contains("memory: []\nenviron: 0\n"), "with a secret: {printed}");
    assert!(hosts.seen().iter().any(|request| request.contains(&format!("authorization: {authorization}\n"))));
    let used = |page: &Value| {
        let rows = page["data"].as_array().unwrap().iter();
        rows.flat_map(|row| row["credentials"].as_array().unwrap()).any(|of| of["credential_id"] == credential["id"])
    };
    api.once(&egress(&session), used).await;
    let events = api.get(&format!("/v1/sessions/{}/events?limit=1000", id(&session))).await.to_string();
    for text in [SECRET, &coded] {
        assert!(!events.contains(text), "{events}");
        nowhere(text, &rota.server.app().config.data);
    }
    printed
}

/// That a text is in no file of a server: its store, and the files of its sessions.
fn nowhere(text: &str, folder: &Path) {
    let found = Command::new("grep").args(["-rlaF", text]).arg(folder).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[tokio::test]
#[cfg_attr(not(pip), ignore = "needs pip: apt install python3-pip")]
async fn pip_installs_from_an_index() {
    let command = "/usr/bin/python3 -m pip install -q --no-input --disable-pip-version-check --no-cache-dir --target made \
        --index-url https://${API_KEY:+bot:$API_KEY@}pip.example/simple/ rota-greeting && \
        PYTHONPATH=made /usr/bin/python3 -c 'import rota_greeting; rota_greeting.main()'";
    works_with_and_without_a_secret(PIP, &format!("Basic {}", basic(SECRET)), command, HELLO).await;
}

#[tokio::test]
#[cfg_attr(not(npm), ignore = "needs npm: apt install npm")]
async fn npm_installs_from_a_registry() {
    let command = "mkdir n && cd n && echo 'registry=https://npm.example/' > .npmrc && \
        { [ -z \"$API_KEY\" ] || echo '//npm.example/:_authToken=${API_KEY}' >> .npmrc; } && echo '{}' > package.json && \
        npm install --no-audit --no-fund --loglevel=error rota-greeting && node -e 'require(\"rota-greeting\")()'";
    works_with_and_without_a_secret(NPM, &format!("Bearer {SECRET}"), command, HELLO).await;
}

#[tokio::test]
#[cfg_attr(not(cargo_inside), ignore = "needs a cargo below /usr: apt install cargo-web")]
async fn cargo_adds_and_builds_from_a_registry() {
    let command = "export CARGO_HOME=/workspace/cargo && mkdir -p cargo && printf '[registries.house]\\nindex = \"sparse+https://\
        cargo.example/index/\"\\n[registry]\\nglobal-credential-providers = [\"cargo:token\"]\\n' > cargo/config.toml && \
        { [ -z \"$API_KEY\" ] || export CARGO_REGISTRIES_HOUSE_TOKEN=$API_KEY; } && /usr/bin/cargo init -q --vcs none --name hello c && \
        cd c && /usr/bin/cargo add -q --registry house rota-greeting && \
        echo 'fn main() { println!(\"{}\", rota_greeting::HELLO) }' > src/main.rs && /usr/bin/cargo run -q";
    works_with_and_without_a_secret(CARGO, SECRET, command, HELLO).await;
}

#[tokio::test]
#[cfg_attr(not(go_inside), ignore = "needs Go in /usr/local/go")]
async fn go_gets_from_a_proxy() {
    let command = "export GOPROXY=https://${API_KEY:+bot:$API_KEY@}go.example GOSUMDB=off GOTOOLCHAIN=local GOFLAGS=-modcacherw \
        GOPATH=/workspace/gopath GOCACHE=/workspace/gocache PATH=$PATH:/usr/local/go/bin && mkdir g && cd g && go mod init hello && \
        go get rota.example/greeting@v1.0.0 && cat $(go list -m -f '{{.Dir}}' rota.example/greeting)/greeting.go";
    works_with_and_without_a_secret(GO, &format!("Basic {}", basic(SECRET)), command, HELLO).await;
}

#[tokio::test]
#[cfg_attr(not(grpc), ignore = "needs gRPC for Python: apt install python3-grpcio")]
async fn grpc_calls_and_talks_message_by_message() {
    let command = format!("cat > speak.py <<'END_OF_CLIENT'\n{SPEAK}END_OF_CLIENT\n/usr/bin/python3 speak.py");
    let wanted = "first\nsecond\nthird\n[]";
    let printed = works_with_and_without_a_secret("grpc.example", &format!("Bearer {SECRET}"), &command, wanted).await;
    assert!(printed.contains("one message authorized by Bearer rota_"), "{printed}");
}

#[tokio::test]
#[cfg_attr(not(node), ignore = "needs Node.js: apt install nodejs")]
async fn a_web_socket_is_opened_with_a_secret_in_its_handshake() {
    let command = "cat > w.js <<'END_OF_CLIENT'
const key = process.env.API_KEY;
const socket = new WebSocket('wss://ws.example/socket', {headers: key ? {Authorization: `Bearer ${key}`} : {}});
socket.onopen = () => socket.send('one message');
socket.onmessage = (message) => { console.log('back:', message.data); socket.close(); };
socket.onerror = (error) => console.log(error.message);
END_OF_CLIENT
node --experimental-websocket w.js";
    works_with_and_without_a_secret("ws.example", &format!("Bearer {SECRET}"), command, "back: one message").await;
}

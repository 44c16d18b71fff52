//! Credentials of vaults in sandboxes: what stands for them inside, where the secret goes, and where it does not.

use std::{path::Path, process::Command};

use rota_server::config::Config;
use serde_json::{Value, json};

use super::{limited, log, parts, process_with, result, result_at, unrestricted, users};
use crate::{
    client::Api,
    git_server::{GitServer, Manner, TOKEN},
    given::{agent, id, over, script},
    secure::{Secure, TestAuthority},
    server::{Rota, appears},
    stream::{first, text},
    upstream::{Reply, Upstream},
    vaults::{credentials, path, variable, vault},
    web::Web,
};

/// The value of a credential: as long as a placeholder can be.
pub(super) const SECRET: &str = "hush-0123456789-0123456789-0123456789-value";
pub(super) const NAMES: [&str; 3] = ["api.example", "other.example", "never.example"];

/// Looks through the memory of every process that may be looked into, for two texts behind each other.
const SCAN: &str = "import glob, os, re, sys
looked, found = 0, []
for folder in glob.glob('/proc/[0-9]*'):
    if folder.endswith('/%d' % os.getpid()): continue
    try:
        maps, memory = open(folder + '/maps').read(), open(folder + '/mem', 'rb', 0)
    except OSError: continue
    for line in maps.splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        try:
            memory.seek(start)
            content = memory.read(end - start)
        except (OSError, ValueError, OverflowError): continue
        looked += 1
        at = content.find(sys.argv[1].encode())
        while at >= 0:
            if content[at + 20:].startswith(sys.argv[2].encode()): found.append(folder)
            at = content.find(sys.argv[1].encode(), at + 1)
print('looked, found' if looked > 5 else 'nothing was looked into', found)
";

pub(super) async fn rota(hosts: &Secure, configure: impl FnOnce(&mut Config)) -> Rota {
    Rota::with(|config| {
        config.network.open = vec!["127.0.0.1".to_owned()];
        config.network.hosts = hosts.hosts(&NAMES).into_iter().collect();
        config.network.authorities = Some(hosts.authority.file());
        config.network.never_open = vec!["never.example".to_owned()];
        configure(config);
    })
    .await
}

/// A vault with the variable `API_KEY` for `api.example`, but for `changes`, and its credential.
pub(super) async fn keys(api: &Api, changes: &Value) -> (Value, Value) {
    let vault = vault(api, "keys").await;
    let limited = json!({"type": "limited", "allowed_hosts": ["api.example"]});
    let usual = over(json!({"secret_value": SECRET, "networking": limited}), changes);
    let credential = api.post(&credentials(&vault), variable("API_KEY", &usual)).await;
    (vault, credential)
}

/// A session with these vaults, after `command`, and what that said.
pub(super) async fn session(api: &Api, networking: Value, vaults: &[&Value], command: &str) -> (Value, String) {
    let vaults: Vec<&str> = vaults.iter().map(|vault| id(vault)).collect();
    let changes = json!({"vault_ids": vaults, "initial_events": [script(command)]});
    let session = parts(api, networking).await.session(api, changes).await;
    let events = api.stream_from(id(&session), 0).await.turn().await;
    let said = text(first(&events, "agent.tool_result")).to_owned();
    (session, said)
}

/// What a further command of a session says, which is its call at `place`.
async fn further(api: &Api, session: &Value, place: usize, command: &str) -> String {
    api.events(id(session), json!([script(command)])).await;
    result_at(api, session, place).await
}

#[tokio::test]
async fn a_secret_goes_to_its_host_in_headers_and_is_nowhere_else() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, credential) = keys(api, &json!({})).await;
    let command = "echo $API_KEY; curl -sS -H \"Authorization: Bearer $API_KEY\" -H \"X-Two: a=$API_KEY;b=$API_KEY\" \
        \"https://api.example/echo?k=$API_KEY\" -d \"body=$API_KEY\"; echo; curl -sS -u \"git:$API_KEY\" https://api.example/basic";
    let (session, said) = session(api, limited(&["*.example"]), &[&keys], command).await;
    let placeholder = said.lines().next().unwrap().to_owned();
    assert_eq!(placeholder.len(), SECRET.len());
    assert!(!said.contains(SECRET), "{said}");
    assert!(said.contains(&format!("authorization: Bearer {placeholder}\n")), "{said}");
    let seen = hosts.seen();
    assert!(seen[0].contains(&format!("authorization: Bearer {SECRET}\n")), "{seen:?}");
    assert!(seen[0].contains(&format!("x-two: a={SECRET};b={SECRET}\n")), "{seen:?}");
    assert!(seen[0].contains(&format!("?k={placeholder}")), "not in a query: {seen:?}");
    assert!(seen[0].ends_with(&format!("body={placeholder}")), "not in a body: {seen:?}");
    let coded = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("git:{text}"));
    assert!(seen[1].contains(&format!("authorization: Basic {}\n", coded(SECRET))), "{seen:?}");
    assert!(said.contains(&format!("authorization: Basic {}\n", coded(&placeholder))), "the echo is masked: {said}");
    let rows = log(api, &session, 2).await;
    let times: Vec<&Value> = rows.iter().flat_map(|row| row["credentials"].as_array().unwrap()).collect();
    assert_eq!(times.iter().map(|told| told["times"].as_i64().unwrap()).sum::<i64>(), 4, "{rows:?}");
    assert!(times.iter().all(|told| told["credential_id"] == credential["id"]), "{rows:?}");
    let scan =
        format!("cat > scan.py <<'END'\n{SCAN}END\n/usr/bin/python3 scan.py '{}' '{}'", &SECRET[..20], &SECRET[20..]);
    assert_eq!(further(api, &session, 1, &scan).await.trim(), "looked, found []");
    // Everything that a program inside can look at, and what the server tells.
    let look = format!(
        "cat /proc/[0-9]*/environ /run/rota/* 2>/dev/null | grep -c '{half}'; grep -rl '{half}' /workspace /tmp /root 2>/dev/null; \
         env | grep -c '{half}'; true",
        half = &SECRET[..20]
    );
    assert_eq!(further(api, &session, 2, &look).await.trim(), "0\n0");
    let told = api.get(&format!("/v1/sessions/{}/events?limit=1000", id(&session))).await.to_string();
    assert!(!told.contains(SECRET), "{told}");
}

#[tokio::test]
async fn a_secret_goes_to_no_other_host_nor_in_clear() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, _) =
        keys(api, &json!({"networking": {"type": "unrestricted"}, "injection_location": {"header": true}})).await;
    let (narrow, _) = self::keys(api, &json!({})).await;
    let curl = "curl -sS -H \"Authorization: $API_KEY\"";
    // never.example is never opened, so its own certificate arrives inside, where nobody trusts it.
    let command = format!(
        "echo $API_KEY; {curl} http://api.example/clear; {curl} -k https://never.example/never; {curl} -L \
         https://other.example/to/never.example; {curl} -kL --location-trusted https://other.example/to/never.example"
    );
    let (_, said) = session(api, limited(&["*.example"]), &[&keys], &command).await;
    let placeholder = said.lines().next().unwrap();
    assert!(said.contains("SSL certificate problem"), "{said}");
    let seen = hosts.seen();
    assert_eq!(seen.len(), 5, "{seen:?}");
    for (i, is_secret) in [(0, false), (1, false), (2, true), (3, true), (4, false)] {
        let wanted = if is_secret { SECRET } else { placeholder };
        assert!(seen[i].contains(&format!("authorization: {wanted}\n")), "{i}: {seen:?}");
    }
    let command = format!(
        "echo $API_KEY; {curl} -k https://other.example/a; {curl} -kL --location-trusted https://api.example/to/other.example"
    );
    let (_, said) = session(api, unrestricted(), &[&narrow], &command).await;
    let placeholder = said.lines().next().unwrap();
    let seen = hosts.seen();
    for (i, is_secret) in [(5, false), (6, true), (7, false)] {
        let wanted = if is_secret { SECRET } else { placeholder };
        assert!(seen[i].contains(&format!("authorization: {wanted}\n")), "{i}: {seen:?}");
    }
}

#[tokio::test]
async fn answers_are_masked_however_they_come() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, _) = keys(api, &json!({})).await;
    let curl = "curl -sS -H \"Authorization: Bearer $API_KEY\"";
    let command = format!(
        "echo $API_KEY; {curl} https://api.example/pieces; echo; {curl} -D - https://api.example/header; \
         {curl} --compressed https://api.example/gzip; echo; {curl} https://api.example/gzip; echo; {curl} https://api.example/odd; \
         {curl} --http1.1 https://api.example/pieces"
    );
    let (session, said) = session(api, limited(&["api.example"]), &[&keys], &command).await;
    let placeholder = said.lines().next().unwrap();
    assert!(!said.contains("hush-"), "{said}");
    assert_eq!(said.matches(&format!("authorization: Bearer {placeholder}")).count(), 4, "{said}");
    assert!(said.contains(&format!("x-echo: Bearer {placeholder}")), "{said}");
    assert!(said.contains("compressed its answer in a way that was not asked for"), "{said}");
    let seen = hosts.seen();
    assert!(seen.iter().all(|request| request.contains("accept-encoding: identity\n")), "{seen:?}");
    let rows = log(api, &session, 6).await;
    assert!(rows.iter().any(|row| row["reason"] == "unreadable_answer"), "{rows:?}");
}

#[tokio::test]
async fn a_body_has_the_secret_where_the_credential_asks_for_it() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    for secret in [SECRET, "short-one"] {
        let (keys, _) =
            keys(api, &json!({"secret_value": secret, "injection_location": {"body": true, "header": false}})).await;
        let before = hosts.seen().len();
        let command = "echo $API_KEY; (head -c 100000 /dev/zero | tr '\\0' x; printf %s $API_KEY; printf end) > body; \
            for v in 1.1 2; do curl -sS --http$v -H \"X-Key: $API_KEY\" --data-binary @body https://api.example/e | wc -c; done; \
            curl -sS -H 'Content-Encoding: odd' --data-binary @body https://api.example/e > /dev/null";
        let (_, said) = session(api, limited(&["api.example"]), &[&keys], command).await;
        let placeholder = said.lines().next().unwrap();
        let seen = &hosts.seen()[before..];
        for request in &seen[..2] {
            assert!(request.ends_with(&format!("xxx{secret}end")), "{}", &request[request.len() - 80..]);
            assert!(request.contains(&format!("x-key: {placeholder}\n")), "not in a header");
        }
        assert!(seen[2].ends_with(&format!("xxx{placeholder}end")), "nobody looks into what is coded");
        let has_length = seen[0].contains("content-length: ");
        assert_eq!(has_length, secret == SECRET, "{}", &seen[0][..300]);
    }
}

#[tokio::test]
async fn both_versions_of_http_and_web_sockets_pass_an_opened_connection() {
    let hosts = Secure::start(&NAMES).await;
    let old = Secure::speaking(&["old.example"], &["http/1.1"]).await;
    let both = tempfile::NamedTempFile::new().unwrap();
    let pem = |hosts: &Secure| std::fs::read_to_string(hosts.authority.file()).unwrap();
    std::fs::write(both.path(), pem(&hosts) + &pem(&old)).unwrap();
    let rota = rota(&hosts, |config| {
        config.network.authorities = Some(both.path().to_owned());
        config.network.hosts.extend(old.hosts(&["old.example"]));
    })
    .await;
    let api = &rota.api;
    let (keys, _) = keys(api, &json!({"networking": {"type": "unrestricted"}})).await;
    let socket = "import socket, ssl, os
s = ssl.create_default_context().wrap_socket(socket.create_connection(('api.example', 443)), server_hostname='api.example')
s.sendall(('GET /socket HTTP/1.1\\r\\nHost: api.example\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nAuthorization: ' + os.environ['API_KEY'] + '\\r\\n\\r\\n').encode())
got = b''
while not got.endswith(b'\\r\\n\\r\\n'): got += s.recv(1)
s.sendall(b'echo this')
print(got.split()[1].decode(), s.recv(9).decode())
";
    let command = format!(
        "w='%{{http_version}} %{{http_code}}\\n'; for h in api old; do for v in 1.1 2; do \
         curl -sS --http$v -o /dev/null -w \"$w\" -H \"K: $API_KEY\" https://$h.example/; done; done; \
         curl -sS -o /dev/null -o /dev/null -w \"$w\" -H \"K: $API_KEY\" https://api.example/[1-2]; \
         cat > s.py <<'END'\n{socket}END\n/usr/bin/python3 s.py"
    );
    let (_, said) = session(api, unrestricted(), &[&keys], &command).await;
    assert_eq!(said.trim(), "1.1 200\n2 200\n1.1 200\n1.1 200\n2 200\n2 200\n101 echo this");
    let all: Vec<String> = hosts.seen().into_iter().chain(old.seen()).collect();
    assert_eq!(all.len(), 7);
    assert!(all.iter().all(|request| request.contains(SECRET)), "{all:?}");
}

#[tokio::test]
async fn a_host_that_is_not_trusted_gets_nothing() {
    let hosts = Secure::start(&["another.example"]).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, _) = keys(api, &json!({})).await;
    let command =
        "curl -sS -H \"K: $API_KEY\" https://api.example/; curl -sSk --http1.1 -H \"K: $API_KEY\" https://api.example/";
    let (session, said) = session(api, limited(&["api.example"]), &[&keys], command).await;
    assert_eq!(said.matches("The certificate of api.example is not one that the server trusts").count(), 2, "{said}");
    assert!(hosts.seen().is_empty());
    let rows = log(api, &session, 2).await;
    for row in &rows {
        assert_eq!((&row["outcome"], &row["reason"]), (&json!("failed"), &json!("not_trusted")), "{row}");
        assert_eq!(row["credentials"], json!([]));
    }
}

#[tokio::test]
async fn another_host_cannot_be_named_on_an_opened_connection() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, _) = keys(api, &json!({})).await;
    let command = "for v in 1.1 2; do curl -sS --http$v -H 'Host: other.example' -H \"K: $API_KEY\" https://api.example/; done; \
        curl -sS --http1.1 --request-target https://other.example/ -H \"K: $API_KEY\" https://api.example/; \
        curl -sS -X CONNECT --http1.1 https://api.example/; curl -sS --connect-to other.example:443:api.example:443 \
        -H \"K: $API_KEY\" https://other.example/ 2>&1 | head -1";
    let (_, said) = session(api, limited(&["*.example"]), &[&keys], command).await;
    assert_eq!(said.matches("The request is not for api.example").count(), 2, "{said}");
    assert_eq!(said.matches("There is no proxy here").count(), 2, "{said}");
    assert!(said.contains("unrecognized name"), "{said}");
    assert!(hosts.seen().is_empty(), "{:?}", hosts.seen());
}

#[tokio::test]
async fn the_first_vault_wins_and_changes_count_for_new_connections() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (one, first_credential) = keys(api, &json!({"secret_value": "hush-of-the-first-vault"})).await;
    let (two, _) = keys(api, &json!({"secret_value": "hush-of-the-second-vault"})).await;
    let ask = "echo $API_KEY; curl -sS -H \"K: $API_KEY\" https://api.example/ > /dev/null";
    let (session, said) = session(api, limited(&["api.example"]), &[&one, &two], ask).await;
    let last = || hosts.seen().last().unwrap().clone();
    assert!(last().contains("k: hush-of-the-first-vault\n"), "{}", last());
    let rotated =
        json!({"auth": {"type": "environment_variable", "secret_value": "hush-rotated-and-much-longer-than-before"}});
    api.post(&format!("{}/{}", credentials(&one), id(&first_credential)), rotated).await;
    assert_eq!(further(api, &session, 1, ask).await, said, "the placeholder stays");
    assert!(last().contains("k: hush-rotated-and-much-longer-than-before\n"), "{}", last());
    // Another sandbox of the session has the same one.
    rota.server.app().sandboxes.end(&id(&session).parse().unwrap()).await;
    assert!(further(api, &session, 2, ask).await.ends_with(&said));
    assert!(last().contains("k: hush-rotated"), "{}", last());
    api.call(&format!("{}/archive", path(&one))).await;
    // No credential of this sandbox is for the host any more, so nobody but curl itself looks at the certificate.
    let unopened = ask.replace("curl -sS", "curl -sSk");
    assert_eq!(further(api, &session, 3, &unopened).await, said, "the variable stays in a shell that runs");
    assert!(last().contains(&format!("k: {said}")), "and stands for nothing: {}", last());
    rota.server.app().sandboxes.end(&id(&session).parse().unwrap()).await;
    let other = further(api, &session, 4, ask).await;
    assert!(!other.contains(said.trim()), "a new sandbox has that of the second vault: {other}");
    assert!(last().contains("k: hush-of-the-second-vault\n"), "{}", last());
}

#[tokio::test]
async fn sessions_share_neither_placeholders_nor_authorities() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, _) = keys(api, &json!({})).await;
    let show =
        "echo $API_KEY; sha256sum < $SSL_CERT_FILE; tail -30 $SSL_CERT_FILE > /workspace/bundle; cat /workspace/bundle";
    let (_, one) = session(api, limited(&["api.example"]), &[&keys], show).await;
    let placeholder = one.lines().next().unwrap().to_owned();
    let authority = &one[one.rfind("-----BEGIN").unwrap()..];
    let command = format!(
        "echo $API_KEY; sha256sum < $SSL_CERT_FILE; curl -sS -H 'K: {placeholder}' https://api.example/; cat > other <<'END'\n\
         {authority}\nEND\ncurl -sS --cacert other https://api.example/ 2>&1 | head -1"
    );
    let (session_of_two, two) = session(api, limited(&["api.example"]), &[&keys], &command).await;
    let (mut first, mut second) = (one.lines(), two.lines());
    for what in ["placeholders", "authorities"] {
        assert_ne!(first.next(), second.next(), "{what}");
    }
    assert!(hosts.seen()[0].contains(&format!("k: {placeholder}\n")), "that of another session is nothing here");
    assert!(two.contains("SSL certificate problem"), "{two}");
    let rows = log(api, &session_of_two, 2).await;
    assert!(rows.iter().any(|row| row["reason"] == "certificate_refused"), "{rows:?}");
    let (_, without) = session(api, limited(&["api.example"]), &[], "env | grep -c -e CERT -e CA_; ls /run/rota").await;
    assert!(without.starts_with("0\n") && without.contains("No such file"), "{without}");
}

/// A git host at `git.example` and a port of the operator's, and a server that reaches it.
pub(super) async fn with_git(manner: Manner) -> (GitServer, TestAuthority, Rota) {
    let authority = TestAuthority::new();
    let host = GitServer::named("git.example", authority.server(&["git.example"], &["http/1.1"]), manner).await;
    let port: u16 = host.host.rsplit(':').next().unwrap().parse().unwrap();
    let rota = Rota::with(|config| {
        config.network.open = vec!["127.0.0.1".to_owned()];
        config.network.ports = vec![port];
        config.network.hosts.insert("git.example".to_owned(), vec!["127.0.0.1".to_owned()]);
        config.network.hosts.insert("git.example:443".to_owned(), vec![format!("127.0.0.1:{port}")]);
        config.network.authorities = Some(authority.file());
        config.git.hosts = vec![host.host.clone()];
        config.git.allow_private = true;
        config.git.authorities = Some(authority.file());
    })
    .await;
    (host, authority, rota)
}

#[tokio::test]
async fn git_clones_fetches_and_pushes_with_a_token_of_a_vault() {
    let (host, _authority, rota) = with_git(Manner::Private).await;
    host.repository("o/app", |folder| std::fs::write(folder.join("file"), "in it").unwrap());
    let api = &rota.api;
    let networking = json!({"type": "limited", "allowed_hosts": ["git.example"]});
    let (keys, _) = keys(api, &json!({"secret_value": TOKEN, "networking": networking})).await;
    let command = "git clone -q https://x-access-token:$API_KEY@git.example/o/app.git && cd app && cat file && git config user.name a && \
        git config user.email a@b && echo more > more && git add more && git commit -qm more && git push -q 2>&1 && git fetch -q && \
        git status -sb | head -1; git ls-remote https://git.example/o/app.git 2>&1 | tail -1";
    let (_, said) = session(api, limited(&["git.example"]), &[&keys], command).await;
    assert!(said.starts_with("in it## main...origin/main\n"), "{said}");
    assert!(said.contains("could not read Username"), "who does not say it is not let in: {said}");
}

#[tokio::test]
async fn git_pushes_to_a_repository_of_the_session_without_having_its_token() {
    let (host, _authority, rota) = with_git(Manner::Private).await;
    host.repository("o/app", |folder| std::fs::write(folder.join("file"), "in it").unwrap());
    let api = &rota.api;
    let parts = parts(api, limited(&["git.example"])).await;
    let resource = json!({"type": "github_repository", "url": host.url("o/app"), "authorization_token": TOKEN});
    let look = format!(
        "grep -rc '{TOKEN}' .git/config; env | grep -c '{TOKEN}'; cat /proc/[0-9]*/environ 2>/dev/null | grep -c '{TOKEN}'; true"
    );
    let command = format!(
        "cd app && echo more > more && git add more && git commit -qm more && git push -q origin HEAD:main 2>&1; git fetch -q 2>&1; \
         git status -sb | head -1; {look}"
    );
    let session = parts.session(api, json!({"resources": [resource], "initial_events": [script(&command)]})).await;
    let events = api.stream_from(id(&session), 0).await.turn().await;
    let said = text(first(&events, "agent.tool_result"));
    assert_eq!(said.trim(), "## main...origin/main\n0\n0\n0", "{said}");
    host.answers(Manner::ReadOnly);
    let refused = "cd /workspace/app; echo x > x; git add x; git commit -qm x; git push origin HEAD:main";
    let said = further(api, &session, 1, refused).await;
    assert!(said.contains("You may read here, and not push: ask the owner."), "{said}");
    let shown = &session["resources"][0];
    let rows = log(api, &session, 2).await;
    assert!(rows.iter().any(|row| row["credentials"][0]["credential_id"] == shown["id"]), "{rows:?}");
}

#[tokio::test]
async fn an_agent_is_told_of_its_variables_and_their_hosts() {
    let upstream = Upstream::start([Reply::Message(vec![json!({"type": "text", "text": "hi"})])]).await;
    let rota = Rota::with(|config| config.models = vec![upstream.model()]).await;
    let api = &rota.api;
    let (keys, _) = keys(api, &json!({})).await;
    let mut parts = parts(api, unrestricted()).await;
    parts.agent = agent(api, json!({"model": "house"})).await;
    let changes = json!({"vault_ids": [id(&keys)], "initial_events": [crate::given::message("hello")]});
    let session = parts.session(api, changes).await;
    api.stream_from(id(&session), 0).await.turn().await;
    let system = upstream.asked()[0]["system"].to_string();
    assert!(system.contains("- `$API_KEY`: in headers to api.example") && !system.contains(SECRET), "{system}");
}

/// Runs as another process, so that its memory, its log and its store can be looked through.
#[tokio::test]
async fn a_server_that_is_killed_keeps_placeholders_and_leaves_no_secret_behind() {
    let hosts = Secure::start(&NAMES).await;
    for user in users() {
        let web = Web::start().await;
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("authority.pem");
        std::fs::copy(hosts.authority.file(), &authority).unwrap();
        let more = format!("authorities = {:?}", authority.to_str().unwrap());
        let (mut server, client) = process_with(folder.path(), &web, user, &more, &hosts.hosts(&["api.example"])).await;
        let agent = client
            .post("/v1/agents", &json!({"name": "a", "model": "playbook", "tools": [crate::given::toolset()]}))
            .await;
        let environment = client.post("/v1/environments", &json!({"name": "e"})).await;
        let vault = client.post("/v1/vaults", &json!({"display_name": "v"})).await;
        let networking = json!({"type": "limited", "allowed_hosts": ["api.example"]});
        let body = variable("API_KEY", &json!({"secret_value": SECRET, "networking": networking}));
        client.post(&credentials(&vault), &body).await;
        let command = script("echo $API_KEY; curl -sS -H \"K: $API_KEY\" https://api.example/ | grep ^k:");
        let body = json!({"agent": id(&agent), "environment_id": id(&environment), "vault_ids": [id(&vault)],
            "initial_events": [command]});
        let session = id(&client.post("/v1/sessions", &body).await).to_owned();
        let before = result(&client, &session, 0).await;
        let placeholder = before.lines().next().unwrap().to_owned();
        assert_eq!(before.trim(), format!("{placeholder}\nk: {placeholder}"), "{user:?}");
        server.kill();
        nowhere(folder.path());
        server.start().await;
        let again = json!({"events": [command]});
        client.post(&format!("/v1/sessions/{session}/events"), &again).await;
        let after = result(&client, &session, 1).await;
        assert!(after.ends_with(&before), "{user:?}: {after}");
        assert!(hosts.seen().last().unwrap().contains(&format!("k: {SECRET}\n")));
        server.kill();
        nowhere(folder.path());
    }
}

/// That the secret is in no file of a server: its store, its log, the files of its sessions.
fn nowhere(folder: &Path) {
    assert!(folder.join("log").metadata().unwrap().len() > 1000, "there is a log");
    let found = Command::new("grep").args(["-rlaF", SECRET]).arg(folder).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[tokio::test]
async fn a_connection_keeps_the_secret_that_it_began_with() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, credential) = keys(api, &json!({})).await;
    let program = "import http.client, os, time
def ask(connection):
    connection.request('GET', '/', headers={'K': os.environ['API_KEY']})
    connection.getresponse().read()
old = http.client.HTTPSConnection('api.example')
ask(old)
open('started', 'w').close()
while not os.path.exists('go'): time.sleep(0.02)
ask(old)
ask(http.client.HTTPSConnection('api.example'))
";
    let command = script(&format!("cat > a.py <<'END'\n{program}END\n/usr/bin/python3 a.py && echo done"));
    let changes = json!({"vault_ids": [id(&keys)], "initial_events": [command]});
    let session = parts(api, limited(&["api.example"])).await.session(api, changes).await;
    appears(rota.workspace_file(id(&session), "started")).await;
    let rotated = json!({"auth": {"type": "environment_variable", "secret_value": "hush-rotated-while-open"}});
    api.post(&format!("{}/{}", credentials(&keys), id(&credential)), rotated).await;
    std::fs::write(rota.workspace_file(id(&session), "go"), "").unwrap();
    let events = api.stream_from(id(&session), 0).await.turn().await;
    assert_eq!(text(first(&events, "agent.tool_result")).trim(), "done");
    let seen = hosts.seen();
    for (request, wanted) in seen.iter().zip([SECRET, SECRET, "hush-rotated-while-open"]) {
        assert!(request.contains(&format!("k: {wanted}\n")), "{wanted}: {request}");
    }
    assert_eq!(seen.len(), 3);
}

/// Programs with their own ideas of TLS and HTTP. One that this machine does not have is left out, and said to be.
#[tokio::test]
async fn programs_of_all_kinds_use_a_secret_and_trust_the_opened_host() {
    let clients = [
        ("/usr/bin/curl", "curl -sS -H \"K: $API_KEY\" https://api.example/"),
        ("/usr/bin/wget", "wget -qO- --header \"K: $API_KEY\" https://api.example/"),
        (
            "/usr/bin/python3",
            "/usr/bin/python3 -c 'import os, urllib.request as u
print(u.urlopen(u.Request(\"https://api.example/\", headers={\"K\": os.environ[\"API_KEY\"]})).read().decode())'",
        ),
        (
            "/usr/bin/node",
            "node -e 'fetch(\"https://api.example/\", {headers: {K: process.env.API_KEY}}).then(r => r.text()).then(console.log)'",
        ),
        (
            "/usr/bin/openssl",
            "printf 'GET / HTTP/1.1\\r\\nHost: api.example\\r\\nK: %s\\r\\nConnection: close\\r\\n\\r\\n' \"$API_KEY\" | openssl s_client \
             -quiet -verify_return_error -verify_hostname api.example -connect api.example:443 -servername api.example 2>/dev/null",
        ),
        (
            "/usr/bin/javac",
            "cat > T.java <<'END'
import java.net.URI; import java.net.http.*;
public class T { public static void main(String[] a) throws Exception {
  var q = HttpRequest.newBuilder(URI.create(\"https://api.example/\")).header(\"K\", System.getenv(\"API_KEY\")).build();
  System.out.println(HttpClient.newHttpClient().send(q, HttpResponse.BodyHandlers.ofString()).body()); } }
END
java -XX:-UsePerfData -Xmx256m T.java 2>&1",
        ),
    ];
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, _) = keys(api, &json!({})).await;
    let (session, placeholder) = session(api, limited(&["api.example"]), &[&keys], "printf %s $API_KEY").await;
    let mut place = 0;
    for (program, command) in clients {
        if !Path::new(program).exists() {
            eprintln!("skipped: {program}, which this machine does not have");
            continue;
        }
        place += 1;
        let before = hosts.seen().len();
        let said = further(api, &session, place, command).await;
        assert!(said.to_lowercase().contains(&format!("k: {}", placeholder.to_lowercase())), "{program}: {said}");
        let seen = &hosts.seen()[before..];
        assert!(seen.len() == 1 && seen[0].contains(&format!("k: {SECRET}\n")), "{program}: {seen:?}");
    }
}

//! Secrets in the store: sealed under a key that is in no store, and in clear nowhere.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rota_server::{
    db::Tx,
    vault::{Rotation, prepare, rotate},
};
use serde_json::{Value, json};

use crate::{
    client::{Api, ENDPOINTS},
    database::NEEDED,
    given::{Parts, id, over},
    oauth_server::{Grant, OAuthServer},
    process::{self, Client, Server, create_key},
    receiver::Receiver,
    server::{Rota, VAULT_KEY},
    vaults::{bearer, credentials, variable, vault},
};

/// The error of a start.
async fn refusal(rota: &Config) -> String {
    rota_server::serve(rota.0.clone(), rota.1.clone()).await.err().expect("it does not start").to_string()
}

/// What a server is started with.
struct Config(rota_server::config::Config, rota_server::clock::Clock);

#[tokio::test]
async fn a_start_without_the_stores_own_key_is_refused_with_what_to_do() {
    let rota = Rota::without_engine().await;
    let config = Config(rota.server.app().config.clone(), rota.clock.clone());
    let key = config.0.data.join(VAULT_KEY);
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    rota.server.stop().await;

    let away = key.with_extension("away");
    fs::rename(&key, &away).unwrap();
    let refused = refusal(&config).await;
    assert!(refused.contains(&format!("and {} is missing. Put the right key there", key.display())), "{refused}");
    assert!(!key.exists(), "none is made for a store that has one");

    let other = process::rota().args(["vault", "new-key"]).output().unwrap().stdout;
    fs::write(&key, &other).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = refusal(&config).await;
    assert!(refused.contains("are sealed with the vault key") && refused.contains(" has the key "), "{refused}");
    let secret = String::from_utf8(other).unwrap();
    assert!(!refused.contains(secret.trim().rsplit('-').next().unwrap()), "{refused}");

    fs::rename(&away, &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = refusal(&config).await;
    assert!(refused.contains("everybody can read") && refused.contains("chmod o= "), "{refused}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    rota_server::serve(config.0, config.1).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_key_can_be_given_by_a_file_and_is_not_made_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("given");
    let config = rota_server::config::Config {
        data: folder.path().join("data"),
        listen: "127.0.0.1:0".to_owned(),
        vault: rota_server::config::VaultConfig { key_file: Some(file.clone()), ..Default::default() },
        ..Default::default()
    };
    let config = Config(config, rota_server::clock::Clock::System);
    assert_eq!(refusal(&config).await, format!("vault: {} is missing", file.display()));
    fs::write(&file, process::rota().args(["vault", "new-key"]).output().unwrap().stdout).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    rota_server::serve(config.0.clone(), config.1).await.unwrap().stop().await;
    assert!(!config.0.data.join(VAULT_KEY).exists());
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// That none of `secrets` is in `bytes`, as it is or in base64.
fn is_clean(place: &str, bytes: &[u8], secrets: &[String]) {
    for secret in secrets {
        for form in [secret.clone(), STANDARD.encode(secret)] {
            let found = bytes.windows(form.len()).any(|window| window == form.as_bytes());
            assert!(!found, "{secret} is in {place}");
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_clear_in_the_store_the_log_the_answers_the_metrics_or_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("rota.toml");
    fs::write(&config, "[webhooks]\nallow_private = true\n[vault]\nallow_private = true\n").unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut server = Server::new(&data, &["--concurrency", "0", "--config", config.to_str().unwrap()]);
    server.log = Some(folder.path().join("log"));
    let key = create_key(&data, &[]);
    server.start().await;
    let client = Client::new(server.address, key);

    let receiver = Receiver::start().await;
    let endpoint =
        client.post(ENDPOINTS, &json!({"url": receiver.url, "enabled_events": ["vault_credential.created"]})).await;
    let signing = endpoint["signing_secret"].as_str().unwrap().to_owned();
    let oauth = OAuthServer::start("hush-none").await;
    let vault = client.post("/v1/vaults", &json!({"display_name": "v"})).await;
    let all = credentials(&vault);
    client.post(&all, &variable("KEY", &json!({}))).await;
    let archived = client.post(&all, &bearer("https://archived.example.com")).await;
    client.answer(client.request(reqwest::Method::POST, &format!("{all}/{}/archive", id(&archived)))).await;
    let body = oauth.credential_with(
        "hush-access",
        "hush-refresh",
        None,
        &json!({"type": "client_secret_post", "client_secret": "hush-client"}),
    );
    let credential = client.post(&all, &body).await;
    let at = format!("{all}/{}", id(&credential));
    client.post(&at, &json!({"auth": {"type": "mcp_oauth", "access_token": "hush-second"}})).await;
    // Refused with the token, with its client's secret, and then renewed.
    let validate = format!("{at}/mcp_oauth_validate");
    oauth.grants(Grant::Status(
        400,
        "",
        json!({"error": "invalid_grant", "of": ["hush-refresh", "hush-client"]}).to_string(),
    ));
    oauth.grants(Grant::Tokens(json!({"access_token": "hush-third", "refresh_token": "hush-next"})));
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(client.answer(client.request(reqwest::Method::POST, &validate)).await.to_string());
    }
    for path in ["/v1/vaults", &all, &at, ENDPOINTS, &format!("{ENDPOINTS}/{}/deliveries", id(&endpoint))] {
        answers.push(client.get(path).await.to_string());
    }
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(rota_server::tls::client_config().unwrap())
        .no_proxy()
        .build()
        .unwrap();
    let metrics = http.get(format!("{}/metrics", client.base)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("rota_credential_refreshes_total"), "the exchanges are counted");

    let names = ["variable", "bearer", "access", "second", "third", "refresh", "next", "client"];
    let mut secrets: Vec<String> = names.iter().map(|name| format!("hush-{name}")).collect();
    secrets.push(signing.strip_prefix("whsec_").unwrap().to_owned());
    let master = fs::read_to_string(data.join(VAULT_KEY)).unwrap();
    secrets.push(master.lines().last().unwrap().rsplit('-').next().unwrap().to_owned());
    for answer in &answers {
        is_clean("an answer", answer.as_bytes(), &secrets);
    }
    is_clean("the metrics", metrics.as_bytes(), &secrets);
    let process = Path::new("/proc").join(server.pid().unwrap().to_string());
    for name in ["environ", "cmdline"] {
        is_clean(name, &fs::read(process.join(name)).unwrap(), &secrets);
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(
        core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["1", "1"],
        "no core dump, not even to a program"
    );
    // As a crash leaves it, and after a start that has put the log of writes into the store.
    for _ in 0..2 {
        server.kill();
        for file in files(&data).iter().filter(|file| !file.ends_with(VAULT_KEY)) {
            is_clean(&file.display().to_string(), &fs::read(file).unwrap(), &secrets);
        }
        is_clean("the log", &fs::read(folder.path().join("log")).unwrap(), &secrets);
        server.start().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn no_secret_is_in_clear_in_postgresql() {
    let rota = Rota::without_engine().await;
    let database = rota.database().expect(NEEDED);
    let vault = vault(&rota.api, "v").await;
    rota.api.post(&credentials(&vault), bearer("https://m.example.com")).await;
    rota.api.post(&credentials(&vault), variable("KEY", &json!({}))).await;
    let endpoint = json!({"url": "https://hooks.example.com", "enabled_events": ["vault.created"]});
    let secret = rota.api.post(ENDPOINTS, endpoint).await["signing_secret"].as_str().unwrap().replace("whsec_", "");
    database.run(&format!(
        "DO $$ BEGIN
            IF EXISTS (SELECT 1 FROM credentials c WHERE c::text LIKE '%hush%')
                OR EXISTS (SELECT 1 FROM webhook_endpoints e WHERE e::text LIKE '%{secret}%')
            THEN RAISE EXCEPTION 'a secret is in clear'; END IF;
        END $$"
    ));
}

/// A credential in a new vault, of an MCP server that takes only its token.
struct Kept {
    _server: OAuthServer,
    validate: String,
}

impl Kept {
    async fn new(api: &Api) -> Self {
        let server = OAuthServer::start("hush-kept").await;
        let vault = vault(api, "kept").await;
        let auth = json!({"type": "mcp_oauth", "mcp_server_url": server.mcp(), "access_token": "hush-kept"});
        let credential = api.post(&credentials(&vault), json!({ "auth": auth })).await;
        let validate = format!("{}/{}/mcp_oauth_validate", credentials(&vault), id(&credential));
        Self { _server: server, validate }
    }

    /// That its secret can be opened and is what it was.
    async fn is_whole(&self, api: &Api) {
        assert_eq!(api.call(&self.validate).await["status"], "valid");
    }
}

fn at_home(config: &mut rota_server::config::Config) {
    config.engine.concurrency = 0;
    config.vault.allow_private = true;
}

fn keys_in(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().filter(|line| line.starts_with("rota-vault-")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_key_changes_while_the_server_runs_and_a_change_that_was_cut_off_goes_on() {
    let rota = Rota::with(at_home).await;
    let (config, db) = (rota.server.app().config.clone(), rota.server.app().db.clone());
    let file = config.data.join(VAULT_KEY);
    let kept = Kept::new(&rota.api).await;
    let first = keys_in(&file);

    // Cut off after the new key is in the file: what prepare leaves.
    let Rotation::Prepared { next } = prepare(&config, &db).await.unwrap() else { panic!("it is prepared") };
    assert_eq!(prepare(&config, &db).await.unwrap(), Rotation::Prepared { next: next.clone() }, "twice is once");
    let both = fs::read(&file).unwrap();
    assert_eq!(keys_in(&file)[1..], first);
    drop(db);
    let rota = rota.restart().await;
    let db = rota.server.app().db.clone();
    let beside = rota.other_workspace().await;
    let between = Kept::new(&beside).await;
    assert_eq!(
        rotate(&config, &db).await.unwrap(),
        Rotation::Done { current: next.clone(), wrapped: 2, are_old_gone: true }
    );
    let second = keys_in(&file);
    assert_eq!((second.len(), fs::metadata(&file).unwrap().mode() & 0o777), (1, 0o600));
    assert_ne!(second, first);
    kept.is_whole(&rota.api).await;

    // A server that runs meets the new key with the first secret of a new workspace.
    let third = rota.api.with_key(new_workspace(&rota, "third").await);
    let after = Kept::new(&third).await;

    // Cut off before the old key is out of the file.
    fs::write(&file, &both).unwrap();
    drop(db);
    let rota = rota.restart().await;
    let db = rota.server.app().db.clone();
    assert_eq!(rotate(&config, &db).await.unwrap(), Rotation::Completed { current: next });
    assert_eq!(keys_in(&file), second);
    drop(db);
    let rota = rota.restart().await;
    for (kept, api) in
        [(&kept, &rota.api), (&between, &beside.at(rota.server.address)), (&after, &third.at(rota.server.address))]
    {
        kept.is_whole(api).await;
    }
    // The old key opens nothing any more.
    let (config, clock) = (config.clone(), rota.clock.clone());
    let old = String::from_utf8(both).unwrap();
    let old = old.lines().last().unwrap();
    rota.restart_after(
        async {
            fs::write(&file, old).unwrap();
            let refused = Box::pin(refusal(&Config(config, clock))).await;
            assert!(refused.contains("are sealed with the vault key"), "{refused}");
            fs::write(&file, &second[0]).unwrap();
        },
        |_| {},
    )
    .await;
}

async fn new_workspace(rota: &Rota, name: &'static str) -> String {
    let create = move |tx: &mut Tx<'_>| rota_server::resources::api_keys::create_key(tx, Some(name), "a key", None);
    rota.server.app().db.write(create).await.unwrap().key
}

#[tokio::test]
async fn the_command_changes_the_key_of_a_server_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::new(folder.path(), &["--concurrency", "0"]);
    let key = create_key(folder.path(), &[]);
    server.start().await;
    let client = Client::new(server.address, key);
    let vault = client.post("/v1/vaults", &json!({"display_name": "v"})).await;
    client.post(&credentials(&vault), &variable("KEY", &json!({}))).await;
    let before = keys_in(&folder.path().join(VAULT_KEY));
    let mut command = process::rota();
    let output = command.args(["vault", "rotate-key", "--json", "--data"]).arg(folder.path()).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["state"], &said["data_keys"]), (&json!("done"), &json!(1)));
    assert_ne!(keys_in(&folder.path().join(VAULT_KEY)), before);
    client.post(&credentials(&vault), &variable("OTHER", &json!({}))).await;
    server.kill();
    server.start().await;
    client.post(&credentials(&vault), &variable("THIRD", &json!({}))).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn two_servers_with_a_key_file_each_go_on_through_a_change_of_the_key() {
    let one = Rota::with(at_home).await;
    let (config, db) = (one.server.app().config.clone(), one.server.app().db.clone());
    let folder = tempfile::tempdir().unwrap();
    let (own, copy) = (config.data.join(VAULT_KEY), folder.path().join("copy"));
    fs::copy(&own, &copy).unwrap();
    let two = one.beside(|config| config.vault.key_file = Some(copy.clone())).await.expect(NEEDED);
    let kept = Kept::new(&one.api).await;
    prepare(&config, &db).await.unwrap();
    fs::copy(&own, &copy).unwrap();
    let rotating = rotate(&config, &db);
    // Data keys are made at both servers meanwhile.
    let mut keys = Vec::new();
    for name in ["a", "b", "c", "d"] {
        keys.push(new_workspace(&one, name).await);
    }
    let making = async {
        let mut all = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let api = if i % 2 == 0 { one.api.with_key(key.clone()) } else { two.api.with_key(key.clone()) };
            all.push((Kept::new(&api).await, key.clone()));
        }
        all
    };
    let (rotated, all) = futures_util::future::join(rotating, making).await;
    assert!(matches!(rotated.unwrap(), Rotation::Done { .. }));
    fs::copy(&own, &copy).unwrap();
    for server in [&one, &two] {
        kept.is_whole(&server.api).await;
        for (kept, key) in &all {
            kept.is_whole(&server.api.with_key(key.clone())).await;
        }
    }
}

#[tokio::test]
async fn a_signing_secret_that_an_earlier_version_left_in_clear_is_sealed_at_the_start_and_goes_on() {
    let rota = Rota::receiving(|config| config.engine.concurrency = 0).await;
    let mut receiver = Receiver::start().await;
    let wanted = json!({"url": receiver.url, "enabled_events": ["vault.created"]});
    let endpoint = rota.api.post(ENDPOINTS, wanted).await;
    let secret = endpoint["signing_secret"].as_str().unwrap().to_owned();
    let clear = secret.strip_prefix("whsec_").unwrap().to_owned();
    let sql = format!("UPDATE webhook_endpoints SET secret = '{clear}'");
    rota.server.app().db.write(move |tx: &mut Tx<'_>| tx.execute(&sql, &[])).await.unwrap();
    let rota = rota.restart().await;
    vault(&rota.api, "v").await;
    assert!(receiver.next().await.is_signed_with(&secret));
    let stored = |tx: &mut Tx<'_>| tx.one("SELECT secret FROM webhook_endpoints", &[], |row| row.text(0));
    let stored = rota.server.app().db.read(stored).await.unwrap().unwrap();
    assert!(!stored.contains(&clear));
    if rota.database().is_none() {
        let data = rota.server.app().config.data.clone();
        let looked = async {
            for file in files(&data) {
                is_clean(&file.display().to_string(), &fs::read(&file).unwrap(), std::slice::from_ref(&clear));
            }
        };
        rota.restart_after(looked, |_| {}).await;
    }
}

#[tokio::test]
async fn a_run_with_a_vault_leaves_nothing_of_its_secrets_in_the_session() {
    let rota = Rota::with(|config| config.engine.concurrency = 4).await;
    let api = &rota.api;
    let vault = vault(api, "v").await;
    api.post(&credentials(&vault), variable("KEY", &json!({}))).await;
    let parts = Parts::new(api).await;
    let changes =
        json!({"vault_ids": [id(&vault)], "initial_events": [crate::given::script("env; cat /proc/*/environ")]});
    let session = parts.session(api, over(json!({}), &changes)).await;
    let events = api.stream_from(id(&session), 0).await.turn().await;
    assert!(!events.is_empty());
    let log = api.get(&format!("/v1/sessions/{}/events?limit=100", id(&session))).await.to_string();
    is_clean("the session", log.as_bytes(), &["hush-variable".to_owned()]);
}

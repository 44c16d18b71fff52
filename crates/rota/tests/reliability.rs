//! Sessions at work through every trouble that a server can meet: afterwards each is at rest, takes an interrupt, can be
//! archived and deleted, and no call that may change something ran twice.
//!
//! ```sh
//! make reliability
//! tests/with-postgres cargo test --release -p rota --test reliability -- --ignored --nocapture --test-threads 1
//! ```
//!
//! Those named `on_postgresql_…` need the server of `ROTA_TEST_DATABASE`, the full disk needs root: without, they fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "it/database.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod database;
#[path = "reliability/disk.rs"]
mod disk;
#[allow(dead_code, reason = "shared with other test binaries")]
mod process;
#[path = "it/proxy.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod proxy;
#[path = "it/request.rs"]
#[allow(dead_code, reason = "shared with other test binaries")]
mod request;
#[path = "reliability/slow_model.rs"]
mod slow_model;
#[path = "reliability/work.rs"]
mod work;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use rota_server::config::DatabaseUrl;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::sleep;

use database::{Database, NEEDED};
use disk::Disk;
use process::{Client, Server, create_key};
use proxy::{Cut, Proxy};
use slow_model::SlowModel;
use work::Work;

/// Sessions of each kind.
const SESSIONS: usize = 6;

/// A server on SQLite or on a database, and sessions at work on it.
struct Scene {
    server: Server,
    folder: TempDir,
    work: Work,
}

impl Scene {
    /// A server with the store at `url`, or SQLite in its folder.
    async fn start(url: Option<&DatabaseUrl>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = create_key(folder.path(), &store(url));
        let model = SlowModel::start().await;
        let server = serve(folder.path(), &model, url).await;
        let work = Work::new(Client::new(server.address, key), model);
        Self { server, folder, work }
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    async fn with_work_under_way(mut self) -> Self {
        self.work.start(SESSIONS).await;
        self.work.is_under_way(&[self.folder.path()]).await;
        self
    }

    async fn ends_well(&self) {
        self.work.comes_to_a_good_end(&[self.data()], &[]).await;
    }
}

fn store(url: Option<&DatabaseUrl>) -> Vec<&str> {
    url.iter().flat_map(|url| ["--database", &url.0]).collect()
}

async fn serve(data: &Path, model: &SlowModel, url: Option<&DatabaseUrl>) -> Server {
    let options = work::options(data, model);
    let options: Vec<&str> = options.iter().map(String::as_str).chain(store(url)).collect();
    let mut server = Server::new(data, &options);
    server.start().await;
    server
}

fn signal(server: &Server, signal: Signal) {
    let pid = Pid::from_raw(server.pid().unwrap().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn a_server_that_is_killed_with_sixty_sessions_in_commands_ends_none_of_its_own_when_it_is_back() {
    let database = Database::create();
    let url = database.as_ref().map(Database::url);
    let mut scene = Scene::start(url.as_ref()).await;
    scene.work.start_busy(60, 20).await;
    for _ in 0..3 {
        sleep(Duration::from_secs(3)).await;
        scene.server.kill();
        scene.server.start().await;
    }
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn on_postgresql_sessions_outlast_an_outage_of_the_database() {
    for seconds in [5, 22, 60] {
        let (proxy, database) = (Proxy::start().expect(NEEDED), Database::create().expect(NEEDED));
        let scene = Scene::start(Some(&proxy.url(&database.url()))).await.with_work_under_way().await;
        proxy.close();
        sleep(Duration::from_secs(1)).await;
        scene.work.go_on(&[scene.data()]);
        sleep(Duration::from_secs(seconds - 1)).await;
        proxy.open();
        scene.ends_well().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn on_postgresql_sessions_outlast_commits_that_are_cut() {
    let (proxy, database) = (Proxy::start().expect(NEEDED), Database::create().expect(NEEDED));
    let mut scene = Scene::start(Some(&proxy.url(&database.url()))).await;
    scene.work.start_busy(SESSIONS * 2, 20).await;
    for number in 0..40 {
        proxy.cut_next_commit(if number % 2 == 0 { Cut::Before } else { Cut::After });
        sleep(Duration::from_millis(300)).await;
    }
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes, and restarts the database"]
async fn on_postgresql_sessions_outlast_a_restart_of_the_database() {
    for mode in ["fast", "immediate"] {
        let database = Database::create().expect(NEEDED);
        let url = database.url();
        let mut scene = Scene::start(Some(&url)).await.with_work_under_way().await;
        scene.work.start_busy(SESSIONS, 20).await;
        scene.work.go_on(&[scene.data()]);
        restart_postgres(&url, mode).await;
        scene.ends_well().await;
    }
}

/// Restarts the database's server as whoever owns its files.
async fn restart_postgres(url: &DatabaseUrl, mode: &str) {
    let (client, connection) = tokio_postgres::connect(&url.0, tokio_postgres::NoTls).await.unwrap();
    let asking = async { client.query_one("SHOW data_directory", &[]).await.unwrap().get::<_, String>(0) };
    let data = tokio::select! {
        data = asking => data,
        lost = connection => panic!("{lost:?}"),
    };
    let owner = fs::metadata(&data).unwrap().uid().to_string();
    let mut restart = Command::new("setpriv");
    restart.args(["--reuid", &owner, "--clear-groups", "pg_ctl", "--pgdata", &data, "--mode", mode, "--wait"]);
    restart.args(["--log", &format!("{data}/log.txt"), "restart"]);
    let restarted = tokio::task::spawn_blocking(move || restart.status().unwrap()).await.unwrap();
    assert!(restarted.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn sessions_outlast_a_full_disk() {
    let disk = Disk::mount(32).expect("only root can make a small file system");
    let mut scene = Scene::start(None).await;
    scene.server.kill();
    disk.takes_the_store(scene.data());
    scene.server.start().await;
    let mut scene = scene.with_work_under_way().await;
    scene.work.start_busy(SESSIONS, 20).await;
    disk.fill();
    scene.work.go_on(&[scene.data()]);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) {
        sleep(Duration::from_millis(500)).await;
        if begin.elapsed() > Duration::from_secs(2) {
            assert_eq!(scene.work.http_status("/readyz").await, Some(StatusCode::INTERNAL_SERVER_ERROR));
        }
    }
    disk.free();
    scene.ends_well().await;
    scene.server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn sessions_outlast_a_server_that_is_frozen_for_a_minute() {
    let database = Database::create();
    let url = database.as_ref().map(Database::url);
    let scene = Scene::start(url.as_ref()).await.with_work_under_way().await;
    signal(&scene.server, Signal::STOP);
    scene.work.go_on(&[scene.data()]);
    sleep(Duration::from_mins(1)).await;
    signal(&scene.server, Signal::CONT);
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes minutes"]
async fn on_postgresql_sessions_of_a_frozen_server_go_on_with_another_one() {
    let database = Database::create().expect(NEEDED);
    let url = database.url();
    let frozen = Scene::start(Some(&url)).await.with_work_under_way().await;
    let folder = tempfile::tempdir().unwrap();
    process::share_vault_key(frozen.data(), folder.path());
    let other = serve(folder.path(), frozen.work.model(), Some(&url)).await;
    signal(&frozen.server, Signal::STOP);
    frozen.work.go_on(&[frozen.data()]);
    // Until the other server no longer waits for it, and a while longer.
    sleep(Duration::from_secs(90)).await;
    let before = frozen.work.ran(frozen.data());
    signal(&frozen.server, Signal::CONT);
    let work = frozen.work.at(other.address);
    work.comes_to_a_good_end(&[folder.path()], &before).await;
}

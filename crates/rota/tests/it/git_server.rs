//! A git host over HTTPS: git's own `http-backend` behind TLS, which answers as the test says. It keeps large objects (git-lfs)
//! too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::ServerConfig;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::receiver;

/// The token that a host takes which wants one.
pub const TOKEN: &str = "hush-token-of-a-repository";

/// How a host answers from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// To everybody.
    Open,
    /// To who has [`TOKEN`], and to others that they must say who they are.
    Private,
    /// The same, but nobody may push.
    ReadOnly,
    /// With a status.
    Status(u16),
    /// With a redirect to what is at this URL.
    Redirect(String),
    /// Openly, but not by the newer protocol, in which every commit can be asked for.
    NoCommitsById,
    /// Openly, but it hangs up in the middle of a pack.
    Cut,
    /// Not at all to who asks for a pack, and openly to others.
    Hang,
}

/// A running host. It ends when it is dropped.
pub struct GitServer {
    /// Its name and port.
    pub host: String,
    root: TempDir,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl GitServer {
    /// A host without repositories.
    pub async fn start(manner: Manner) -> Self {
        Self::named("localhost", receiver::tls(), manner).await
    }

    /// The same by another name, with a certificate for that.
    pub async fn named(name: &str, tls: Arc<ServerConfig>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("{name}:{}", listener.local_addr().unwrap().port());
        let root = TempDir::new().unwrap();
        let (manner, asked) = (Arc::new(Mutex::new(manner)), Arc::default());
        let mut serving = JoinSet::new();
        let tls = TlsAcceptor::from(tls);
        serving.spawn(serve(listener, tls, root.path().to_owned(), Arc::clone(&manner), Arc::clone(&asked)));
        Self { host, root, manner, asked, _serving: serving }
    }

    /// Answers in another way from now on.
    pub fn answers(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// The lines of the requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The URL of a repository.
    pub fn url(&self, name: &str) -> String {
        format!("https://{}/{name}", self.host)
    }

    /// Makes a repository of what `fill` puts into a folder, in a commit on `main`.
    pub fn repository(&self, name: &str, fill: impl FnOnce(&Path)) -> Repository {
        let bare = self.root.path().join(format!("{name}.git"));
        fs::create_dir_all(&bare).unwrap();
        let repository = Repository { bare, work: TempDir::new().unwrap() };
        git(&repository.bare, &["init", "--quiet", "--bare", "--initial-branch=main"]);
        git(&repository.bare, &["config", "http.receivepack", "true"]);
        git(repository.work.path(), &["init", "--quiet", "--initial-branch=main"]);
        repository.commit("main", "first", fill);
        repository
    }
}

/// A repository of a host.
pub struct Repository {
    bare: PathBuf,
    work: TempDir,
}

impl Repository {
    /// Adds a commit to a branch, which is made when it is missing. Its id.
    pub fn commit(&self, branch: &str, message: &str, fill: impl FnOnce(&Path)) -> String {
        let work = self.work.path();
        git(work, &["checkout", "--quiet", "-B", branch]);
        fill(work);
        git(work, &["add", "--all", "--force"]);
        git(work, &["commit", "--quiet", "--allow-empty", "--message", message]);
        self.push(branch)
    }

    /// Adds a commit whose tree is made by hand: of entries as `git mktree` reads them. Its id.
    pub fn commit_tree(&self, branch: &str, entries: &[(&str, &str, &str)]) -> String {
        let work = self.work.path();
        let lines: Vec<String> =
            entries.iter().map(|(mode, name, object)| format!("{mode} {} {object}\t{name}\n", kind(mode))).collect();
        let tree = fed(work, &["mktree", "--missing"], lines.concat().as_bytes());
        let commit = git(work, &["commit-tree", "-m", "by hand", &tree]);
        git(work, &["update-ref", &format!("refs/heads/{branch}"), &commit]);
        git(work, &["push", "--quiet", "--force", self.bare.to_str().unwrap(), branch]);
        commit
    }

    /// Keeps a file, for a tree that is made by hand. Its id.
    pub fn blob(&self, content: &str) -> String {
        fed(self.work.path(), &["hash-object", "-w", "--stdin"], content.as_bytes())
    }

    /// Keeps a tree. Its id.
    pub fn tree(&self, mode: &str, name: &str, object: &str) -> String {
        fed(self.work.path(), &["mktree", "--missing"], format!("{mode} {} {object}\t{name}\n", kind(mode)).as_bytes())
    }

    fn push(&self, branch: &str) -> String {
        git(self.work.path(), &["push", "--quiet", "--force", self.bare.to_str().unwrap(), branch]);
        git(self.work.path(), &["rev-parse", "HEAD"])
    }
}

fn kind(mode: &str) -> &'static str {
    if mode.starts_with('4') { "tree" } else { "blob" }
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(folder).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("HOME", "/nonexistent")]);
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "A user").env(format!("GIT_{who}_EMAIL"), "user@example.com");
    }
    command
}

/// Runs git in a folder. What it prints.
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    fed(folder, arguments, b"")
}

fn fed(folder: &Path, arguments: &[&str], input: &[u8]) -> String {
    let mut child = command(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("these tests need git: apt install git");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    root: PathBuf,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        let (tls, root, manner, asked) = (tls.clone(), root.clone(), manner.clone(), asked.clone());
        connections.spawn(async move {
            // A client that does not trust the certificate ends the handshake.
            let Ok(mut connection) = tls.accept(connection).await else { return };
            let Some(request) = read(&mut connection).await else { return };
            asked.lock().unwrap().push(request.line.clone());
            let manner = manner.lock().unwrap().clone();
            answer(connection, &root, &manner, &request).await;
        });
    }
}

struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// The first request of a connection; the answer closes it.
async fn read(connection: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let mut request = Request { line, headers: headers.collect(), body: bytes[end + 4..].to_vec() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while request.body.len() < length {
        if connection.read_buf(&mut request.body).await.ok()? == 0 {
            return None;
        }
    }
    Some(request)
}

async fn answer(mut connection: impl AsyncWrite + Unpin, root: &Path, manner: &Manner, request: &Request) {
    let is_pack = request.line.starts_with("POST ") && request.body.windows(5).any(|five| five == b"want ");
    let allowed = format!("Basic {}", STANDARD.encode(format!("x-access-token:{TOKEN}")));
    let bytes = match manner {
        Manner::Status(status) => head(*status, ""),
        Manner::Redirect(url) => head(302, &format!("location: {url}\r\n")),
        Manner::Private | Manner::ReadOnly if request.header("authorization") != Some(&allowed) => {
            head(401, "www-authenticate: Basic realm=\"git\"\r\n")
        }
        Manner::ReadOnly if request.line.contains("git-receive-pack") => {
            let words = "You may read here, and not push: ask the owner.\n";
            let length = words.len();
            format!("HTTP/1.1 403 x\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{words}").into_bytes()
        }
        Manner::ReadOnly if is_upload(request) => {
            let words = json!({"message": "You may read here, and not push: ask the owner."}).to_string();
            whole("403 x", LARGE_OBJECTS, words.as_bytes())
        }
        Manner::Hang if is_pack => std::future::pending().await,
        _ if request.line.contains("/lfs/") => large_objects(root, request),
        _ => backend(root, request, *manner != Manner::NoCommitsById).await,
    };
    let cut = if *manner == Manner::Cut && is_pack { bytes.len() / 2 } else { bytes.len() };
    // A client may well hang up before it has read everything.
    drop(connection.write_all(&bytes[..cut]).await);
    if cut == bytes.len() {
        drop(connection.shutdown().await);
    }
}

fn head(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} x\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
}

/// The type of what is said of large objects.
const LARGE_OBJECTS: &str = "application/vnd.git-lfs+json";

fn whole(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Whether large objects are to be taken.
fn is_upload(request: &Request) -> bool {
    let asked = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    request.line.ends_with("/info/lfs/objects/batch") && asked["operation"] == "upload"
}

/// Where objects are to be sent or fetched, and the objects themselves (the API of git-lfs, "basic transfers"). As some hosts do,
/// it gives what it was asked with for the requests that follow.
fn large_objects(root: &Path, request: &Request) -> Vec<u8> {
    let (method, target) = request.line.split_once(' ').unwrap();
    let name = target.rsplit('/').next().unwrap();
    let kept = |name: &str| root.join(format!("object-{name}"));
    match method {
        "PUT" => {
            fs::write(kept(name), &request.body).unwrap();
            whole("200 OK", LARGE_OBJECTS, b"{}")
        }
        "GET" if kept(name).exists() => whole("200 OK", "application/octet-stream", &fs::read(kept(name)).unwrap()),
        "POST" if target.ends_with("/info/lfs/objects/batch") => {
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            let place =
                format!("https://{}{}", request.header("host").unwrap(), target.replace("/info/lfs/objects/batch", ""));
            let header = json!({"Authorization": request.header("authorization")});
            let object = |object: &Value| {
                let href = format!("{place}/lfs/objects/{}", object["oid"].as_str().unwrap());
                let action = json!({"href": href, "header": header});
                let operation = asked["operation"].as_str().unwrap();
                json!({"oid": object["oid"], "size": object["size"], "actions": {operation: action}})
            };
            let objects: Vec<Value> = asked["objects"].as_array().unwrap().iter().map(object).collect();
            let told = json!({"transfer": "basic", "objects": objects}).to_string();
            whole("200 OK", LARGE_OBJECTS, told.as_bytes())
        }
        _ => whole("404 x", LARGE_OBJECTS, b"{\"message\": \"not found\"}"),
    }
}

/// What git's own program answers (RFC 3875).
async fn backend(root: &Path, request: &Request, with_protocol: bool) -> Vec<u8> {
    let (method, target) = request.line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut command = tokio::process::Command::from(command(root));
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    // Who was let in may push.
    command.env("REMOTE_USER", "x-access-token");
    command.env("REQUEST_METHOD", method).env("PATH_INFO", path).env("QUERY_STRING", query);
    for (name, header) in [
        ("CONTENT_TYPE", "content-type"),
        ("CONTENT_LENGTH", "content-length"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        if name != "GIT_PROTOCOL" || with_protocol {
            command.envs(request.header(header).map(|value| (name, value)));
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may have said no before it reads.
    let writing = async {
        drop(input.write_all(&request.body).await);
        drop(input);
    };
    let ((), output) = tokio::join!(writing, child.wait_with_output());
    let output = output.unwrap().stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let fields = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = fields.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let mut answer =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n", output.len() - end - 4);
    for line in fields.lines().filter(|line| !line.starts_with("Status: ")) {
        answer += &format!("{line}\r\n");
    }
    [answer.as_bytes(), b"\r\n", &output[end + 4..]].concat()
}

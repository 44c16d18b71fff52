//! Names that change what they stand for, and names that are hidden, missing, or another one than was asked for.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use super::{
    limited, log, run_at,
    secrets::{NAMES, SECRET, keys, rota, session},
    unrestricted,
};
use crate::{
    process::{Client, Server, create_key},
    secure::Secure,
};

const HELLOS: &str = include_str!("hellos.py");
const OTHER_HOST: &str = "The request is not for api.example, which is the host that was connected to: its Host header names \
                          another one, or none.";
const REACHED: &str = "GET HTTP/2.0 https://api.example/";

/// What each must come to where the network is limited, and the session has a credential for `api.example`.
const IN_LIMITED: &[(&str, &str)] = &[
    ("hidden", "alert access denied"),
    ("hidden_unopened", "alert access denied"),
    ("unnamed", "alert unrecognized name"),
    ("named_otherwise", "alert unrecognized name"),
    ("same", REACHED),
    ("both", REACHED),
    ("host_alone", REACHED),
    ("neither", OTHER_HOST),
    ("authority_other", OTHER_HOST),
    ("authority_other_host_same", OTHER_HOST),
    ("host_other", OTHER_HOST),
    ("port_other", OTHER_HOST),
    ("user", OTHER_HOST),
    (
        "second",
        "GET HTTP/2.0 https://api.example/ | The request is not for api.example, which is the host that was connected to: its Host \
         header names another one, or none. | GET HTTP/2.0 https://api.example/",
    ),
    ("connect", "There is no proxy here: connect to the host itself, and send it the path alone."),
];

/// The same where it is not. On an opened connection nobody reads what is hidden: the name that can be seen counts.
const IN_UNRESTRICTED: &[(&str, &str)] = &[
    ("hidden", "server hello"),
    ("hidden_unopened", "server hello"),
    ("unnamed", "alert unrecognized name"),
    ("named_otherwise", "alert unrecognized name"),
];

#[tokio::test]
async fn a_hidden_a_missing_or_another_name_is_refused_at_opened_hosts_too() {
    let hosts = Secure::start(&NAMES).await;
    let rota = rota(&hosts, |_| {}).await;
    let api = &rota.api;
    let (keys, _) = keys(api, &json!({})).await;
    for (networking, arguments, wanted) in
        [(limited(&["*.example"]), "limited", IN_LIMITED), (unrestricted(), "unrestricted", IN_UNRESTRICTED)]
    {
        let command =
            format!("cat > h.py <<'END_OF_PROGRAM'\n{HELLOS}\nEND_OF_PROGRAM\n/usr/bin/python3 h.py {arguments} 2>&1");
        let (of, said) = session(api, networking, &[&keys], &command).await;
        let answers: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(' ')).collect();
        for (attempt, wanted) in wanted {
            assert_eq!(answers.get(attempt), Some(wanted), "{arguments} {attempt}: {said}");
        }
        if arguments == "limited" {
            let rows = log(api, &of, wanted.len()).await;
            let hidden = rows.iter().filter(|row| row["reason"] == "name_encrypted").count();
            assert_eq!(hidden, 2, "{rows:?}");
        }
    }
    for request in hosts.seen() {
        assert!(request.starts_with(REACHED) && request.contains(SECRET), "{request}");
    }
}

/// What the addresses of names are: a server of names that changes its mind with each question.
struct Resolver {
    allowed: Ipv4Addr,
    denied: Ipv4Addr,
    asked: Mutex<HashMap<String, usize>>,
}

impl Resolver {
    /// `both…` stands for the two at once, `r<n>…` for one after the other beginning with either, and others for the allowed one
    /// first.
    fn addresses(&self, name: &str) -> Vec<Ipv4Addr> {
        let mut asked = self.asked.lock().unwrap();
        let times = asked.entry(name.to_owned()).or_default();
        *times += 1;
        if name.starts_with("both") {
            return vec![self.denied, self.allowed];
        }
        let number = name.strip_prefix('r').and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        if (*times + number.unwrap_or(1)).is_multiple_of(2) { vec![self.allowed] } else { vec![self.denied] }
    }

    /// The answer to a question that has no more than one name.
    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let (mut at, mut labels) = (12, Vec::new());
        while question[at] != 0 {
            let end = at + 1 + usize::from(question[at]);
            labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
            at = end;
        }
        let is_v4 = question[at + 1..at + 3] == [0, 1];
        let addresses = if is_v4 { self.addresses(&labels.join(".")) } else { Vec::new() };
        let counts = [0, 1, 0, addresses.len() as u8, 0, 0, 0, 0];
        let mut answer = [&question[..2], &[0x81, 0x80], &counts, &question[12..at + 5]].concat();
        for address in addresses {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            answer.extend(address.octets());
        }
        answer
    }
}

/// A host that says one word to every request. How many connections it has had.
async fn host(at: Ipv4Addr, word: &'static str, serving: &mut JoinSet<()>) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind((at, 80)).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    serving.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", word.len());
            // The request is short, and comes in one piece.
            drop(stream.read(&mut [0; 4096]).await);
            drop(stream.write_all(format!("{head}{word}").as_bytes()).await);
        }
    });
    count
}

/// Only root can give a server a resolver of its own, and have one at port 53.
#[tokio::test]
async fn a_name_that_changes_its_address_reaches_only_what_was_checked() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a server with a resolver of its own, because these tests do not run as root");
        return;
    }
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let at = |last: u8| Ipv4Addr::new(127, 53 + last, high, low.max(1));
    let resolver = Arc::new(Resolver { allowed: at(1), denied: at(2), asked: Mutex::default() });
    let socket = UdpSocket::bind((at(0), 53)).await.unwrap();
    let mut serving = JoinSet::new();
    let reached = host(at(1), "reached\n", &mut serving).await;
    let never = host(at(2), "never\n", &mut serving).await;
    let answering = resolver.clone();
    serving.spawn(async move {
        let mut question = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut question).await.unwrap();
            drop(socket.send_to(&answering.answer(&question[..length]), client).await);
        }
    });

    let folder = tempfile::tempdir().unwrap();
    let (data, config, resolv) =
        (folder.path().join("data"), folder.path().join("rota.toml"), folder.path().join("resolv.conf"));
    fs::create_dir(&data).unwrap();
    fs::write(&config, format!("[network]\nopen = [\"{}\"]\n", at(1))).unwrap();
    fs::write(&resolv, format!("nameserver {}\n", IpAddr::from(at(0)))).unwrap();
    let mut server = Server::new(&data, &["--config", config.to_str().unwrap()]);
    server.resolver = Some(resolv);
    let key = create_key(&data, &[]);
    server.start().await;
    let client = Client::new(server.address, key);
    // The last name is connected to when what it stood for is no longer remembered.
    let command = "address=$(/usr/bin/python3 -c 'import socket; print(socket.gethostbyname(\"later.test\"))'); \
        for i in $(seq 10); do for t in 1 2; do curl -s http://r$i.test/ | head -1; done; done; \
        for i in 1 2 3; do echo both $(curl -s http://both$i.test/); done; sleep 11; \
        for i in 1 2 3; do curl -sS --resolve later.test:80:$address http://later.test/ 2>&1 | head -1; done";
    let (said, _) = run_at(&client, &unrestricted(), command).await;
    let private = "Destination IP is in a private/reserved range";
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 26, "{said}");
    assert!(lines.iter().all(|line| ["reached", "both reached", private].contains(line)), "{said}");
    assert_eq!(lines[20..23], ["both reached"; 3], "{said}");
    assert!(lines[..20].contains(&"reached") && lines[..20].contains(&private), "{said}");
    assert_eq!(
        lines[23..26].iter().filter(|line| **line == "reached").count(),
        1,
        "it changes with each question: {said}"
    );
    assert!(reached.load(Ordering::Relaxed) > 0);
    assert_eq!(never.load(Ordering::Relaxed), 0, "{said}");
}

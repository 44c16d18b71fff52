//! The gate: the one way out of a sandbox.
//!
//! In the sandbox's network namespace every address is its own, and the listeners there were handed to this server. So
//! whatever a sandbox connects to arrives here, and nothing else leaves it. The gate answers questions for names with
//! addresses of its own (`names.rs`, `dns.rs`), so it knows which name a connection is for; it asks the policy of the session
//! (`policy.rs`), holds what is said on the connection to that name (`web.rs`, `hello.rs`), resolves it itself and dials an
//! address that it has checked (`dial.rs`). Where the session has a credential for the host, TLS ends here (`authority.rs`), and
//! secrets are put into requests and masked in answers (`opened.rs`, `placement.rs`, `body.rs`). Each connection is a row of the egress log (`record.rs`, `log.rs`).
//!
//! Everything that a sandbox sends is hostile: it is bounded, and what one session does costs only its own.

mod authority;
mod body;
mod dial;
mod dns;
mod flow;
mod hello;
mod keystore;
mod log;
mod names;
mod opened;
mod placement;
mod policy;
mod record;
mod setup;
mod splice;
mod tunnel;
mod web;

pub use log::Writer;
pub use policy::Policy;

use std::{
    io,
    net::TcpListener as StdTcpListener,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use rota_api::{
    egress::EgressReason,
    environment::LimitedNetwork,
    id::{SessionId, WorkspaceId},
};
use rota_sandbox::{Listeners, Sandbox};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::{Clock, Stopwatch},
    config::NetworkConfig,
    db::Db,
    error::{Error, Result},
    limits::{ACCEPT_RETRY, EGRESS_BURST, EGRESS_CONNECTIONS_OF_ONE, EGRESS_IDLE, EGRESS_LOOKUPS_OF_ONE, EGRESS_RATE},
    places::Places,
    resources::egress_log,
    tls,
    vault::Vault,
};
use authority::Authority;
use dial::Dialer;
use flow::{Budget, Metered};
use log::Log;
use names::{Names, Target};
use record::Connection;

/// The port of HTTP, and that of HTTPS; the gate always serves them.
pub const WEB_PORTS: [u16; 2] = [80, 443];

/// The gate of this server. Clones are the same one.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    config: NetworkConfig,
    dialer: Dialer,
    /// One for each connection. Workspaces share them.
    places: Arc<Places>,
    /// Connections of one session.
    connections_of_one: usize,
    log: Log,
    db: Db,
    vault: Arc<Vault>,
    /// Hosts whose TLS is never opened.
    never_open: LimitedNetwork,
    /// Authorities of the operator's, and all that are trusted once they were needed.
    authorities: Vec<CertificateDer<'static>>,
    roots: OnceLock<Arc<RootCertStore>>,
    /// Those of the machine, and the same in PEM, once they were needed.
    machine: OnceLock<(Vec<CertificateDer<'static>>, String)>,
    clock: Clock,
    sessions: TaskTracker,
    stop: CancellationToken,
}

impl Gate {
    /// The gate of a server that itself listens at `own_ports`, with so many connections, and what writes its log.
    ///
    /// # Errors
    /// When the configuration names something that is no network, host or address.
    pub fn new(
        config: &NetworkConfig,
        own_ports: Vec<u16>,
        connections: usize,
        (db, vault): (Db, Arc<Vault>),
        clock: Clock,
        stop: CancellationToken,
    ) -> Result<(Self, Writer)> {
        let (log, writer) = log::open();
        let gate = Inner {
            config: config.clone(),
            dialer: Dialer::new(config, own_ports)?,
            places: Places::new(connections),
            connections_of_one: EGRESS_CONNECTIONS_OF_ONE.min(connections / 8).max(1),
            log,
            db,
            vault,
            never_open: LimitedNetwork { allowed_hosts: config.never_open.clone(), ..LimitedNetwork::default() },
            authorities: authorities(config)?,
            roots: OnceLock::new(),
            machine: OnceLock::new(),
            clock,
            sessions: TaskTracker::new(),
            stop,
        };
        Ok((Self(Arc::new(gate)), writer))
    }

    /// Writes the log until the server stops.
    pub fn write_log(&self, writer: Writer) -> impl Future<Output = ()> + Send + 'static {
        let gate = self.0.clone();
        writer.run(gate.db.clone(), gate.clock.clone(), gate.stop.clone(), gate.sessions.clone())
    }

    /// The policy of a session, where the operator allows a network at all.
    pub fn policy(&self, of_session: Policy) -> Policy {
        if self.0.config.enabled { of_session } else { Policy::Off }
    }

    /// Attends to the network of a sandbox that was just opened, until it ends. Does nothing for one that has somebody already.
    pub fn attend(&self, sandbox: &Sandbox, workspace: &WorkspaceId, session: &SessionId, policy: &Policy) {
        let Some(listeners) = sandbox.take_listeners() else { return };
        let session = Arc::new(Session {
            gate: self.0.clone(),
            workspace: workspace.clone(),
            id: session.clone(),
            policy: policy.clone(),
            authority: sandbox.companion().and_then(|companion| companion.downcast::<Authority>().ok()),
            ipv6: listeners.ipv6,
            names: Mutex::default(),
            budget: Arc::new(Budget::new(self.0.config.session_bytes())),
            connections: Arc::new(Semaphore::new(self.0.connections_of_one)),
            lookups: Semaphore::new(EGRESS_LOOKUPS_OF_ONE),
            pace: Mutex::new(Pace::new()),
        });
        let (ended, stop) = (sandbox.ended(), self.0.stop.clone());
        self.0.sessions.spawn(async move {
            // What is under way ends with its listeners.
            tokio::select! {
                () = serve(session, listeners) => {}
                () = ended => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// The operator's authorities.
fn authorities(config: &NetworkConfig) -> Result<Vec<CertificateDer<'static>>> {
    let Some(path) = &config.authorities else { return Ok(Vec::new()) };
    let wrong = |error: &dyn std::fmt::Display| {
        Error::invalid(format_args!("network.authorities: {}: {error}", path.display()))
    };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    let found: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    if found.is_empty() { Err(wrong(&"there is no certificate in it")) } else { Ok(found) }
}

impl Inner {
    fn is_never_opened(&self, host: &str) -> bool {
        self.never_open.allows(host)
    }

    /// What hosts of opened connections are verified by.
    fn roots(&self) -> Arc<RootCertStore> {
        let all = self.roots.get_or_init(|| {
            let mut roots = tls::roots();
            roots.add_parsable_certificates(self.authorities.iter().cloned());
            Arc::new(roots)
        });
        all.clone()
    }
}

/// The network of one sandbox.
struct Session {
    gate: Arc<Inner>,
    workspace: WorkspaceId,
    id: SessionId,
    policy: Policy,
    /// What its sandbox trusts, where it was started with credentials.
    authority: Option<Arc<Authority>>,
    ipv6: bool,
    names: Mutex<Names>,
    budget: Arc<Budget>,
    connections: Arc<Semaphore>,
    lookups: Semaphore,
    pace: Mutex<Pace>,
}

async fn serve(session: Arc<Session>, listeners: Listeners) {
    let Listeners { names, names_by_tcp, ports, .. } = listeners;
    let mut tasks = JoinSet::new();
    tasks.spawn(dns::by_udp(session.clone(), names));
    tasks.spawn(dns::by_tcp(session.clone(), names_by_tcp));
    for (port, listener) in ports {
        tasks.spawn(accept(session.clone(), port, listener));
    }
    session.count_earlier().await;
    while let Some(ended) = tasks.join_next().await {
        if let Ok(Err(error)) = ended {
            tracing::error!(session_id = %session.id, %error, "a listener of a sandbox's network broke");
        }
    }
}

/// Takes connections to a port for as long as the sandbox is there.
async fn accept(session: Arc<Session>, port: u16, listener: StdTcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_RETRY).await;
            continue;
        };
        // Those beyond the bounds wait, the first one here and the others in the queue of the listener.
        session.wait_for_turn().await;
        let Ok(of_session) = session.connections.clone().acquire_owned().await else { return Ok(()) };
        let of_all = session.gate.places.take(&session.workspace).await;
        let (session, sessions) = (session.clone(), session.gate.sessions.clone());
        // The log waits for its end, however it ends.
        connections.spawn(sessions.track_future(async move {
            session.connection(port, stream).await;
            drop((of_session, of_all));
        }));
    }
}

impl Session {
    async fn connection(self: Arc<Self>, port: u16, stream: TcpStream) {
        // It is gone already when it has no address.
        let Ok(address) = stream.local_addr() else { return };
        let _ = stream.set_nodelay(true);
        let target = self.names().target(address.ip().to_canonical());
        let connection = Connection::new(self.clone(), target, port);
        let stream = Metered::new(stream, connection.flow.clone());
        let served = async {
            match port {
                80 => web::serve(&self, &connection, stream, &web::Leg::default(), None).await,
                443 => tunnel::tls(&self, &connection, stream).await,
                _ => match self.opened(&connection.target, port).await {
                    None => tunnel::plain(&self, &connection, stream).await,
                    Some(_) => tunnel::tls(&self, &connection, stream).await,
                },
            }
        };
        tokio::select! {
            () = served => {}
            () = connection.flow.silence(EGRESS_IDLE) => connection.refuse(EgressReason::TimedOut),
        }
        if self.budget.is_used_up() {
            connection.refuse(EgressReason::BytesUsedUp);
        }
    }

    /// Whether the session may reach what a connection is for.
    fn admits(&self, target: &Target) -> std::result::Result<(), EgressReason> {
        if self.budget.is_used_up() {
            return Err(EgressReason::BytesUsedUp);
        }
        match target {
            Target::Name(name) if self.policy.allows(name) => Ok(()),
            Target::Address(address) if self.policy.allows(&address.to_string()) => Ok(()),
            Target::Forgotten(_) => Err(EgressReason::NameForgotten),
            Target::Name(_) | Target::Address(_) => Err(EgressReason::HostNotAllowed),
        }
    }

    /// Connects to what a connection is for.
    async fn dial(&self, target: &Target, port: u16) -> std::result::Result<TcpStream, EgressReason> {
        let addresses = match target {
            Target::Name(name) => {
                let fresh = self.names().fresh(name);
                match fresh {
                    Some(addresses) => addresses.into_iter().map(|address| (address.ip(), port).into()).collect(),
                    None => dns::resolve(self, name, port).await?,
                }
            }
            Target::Address(address) => vec![(*address, port).into()],
            Target::Forgotten(_) => return Err(EgressReason::NameForgotten),
        };
        self.gate.dialer.connect(&addresses).await
    }

    /// What the session moved before this sandbox counts too.
    async fn count_earlier(&self) {
        let (workspace, id) = (self.workspace.clone(), self.id.clone());
        match self.gate.db.read(move |tx| egress_log::bytes(tx, &workspace, &id)).await {
            Ok(bytes) => self.budget.use_up(bytes.unsigned_abs()),
            Err(error) => tracing::warn!(session_id = %self.id, %error, "what a session moved before is not known"),
        }
    }

    /// Returns when one more connection may be made, and counts it.
    async fn wait_for_turn(&self) {
        loop {
            let wait = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take();
            match wait {
                None => return,
                Some(wait) => sleep(wait).await,
            }
        }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often connections may be made: a number at once, and so many a second after that.
struct Pace {
    left: f64,
    since: Stopwatch,
}

impl Pace {
    fn new() -> Self {
        Self { left: EGRESS_BURST, since: Stopwatch::start() }
    }

    /// Takes one; or says how long to wait.
    fn take(&mut self) -> Option<Duration> {
        self.left = (self.left + self.since.seconds() * EGRESS_RATE).min(EGRESS_BURST);
        self.since = Stopwatch::start();
        if self.left >= 1.0 {
            self.left -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64((1.0 - self.left) / EGRESS_RATE))
    }
}

//! What the machine is, and who uses it while something is measured. Linux only: it reads `/proc`.

use std::{fs, io, ops::AddAssign, time::Instant};

/// Clock ticks a second in `/proc`: a constant of the kernel's interface on every architecture that Rota runs on.
const TICKS: f64 = 100.0;
/// The share of the machine that others may use before a measurement counts as disturbed.
const QUIET: f64 = 0.05;

/// The processor, the kernel, the load.
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or_default();
    format!("{count} x {}, Linux {}, load {load}", model.unwrap_or("unknown"), kernel.trim())
}

/// Shares of the whole machine's processor time, from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    /// This program: the load.
    pub load: f64,
    /// The server.
    pub server: f64,
    /// Everybody else, and what a hypervisor gave to other machines.
    pub others: f64,
}

impl Shares {
    /// Whether others used enough of the machine to change a figure.
    pub fn disturbed(self) -> bool {
        self.others > QUIET
    }
}

/// Processor time that was used within some time, in ticks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    own: f64,
    server: f64,
    machine: f64,
    available: f64,
}

impl Used {
    pub fn shares(self) -> Shares {
        let [load, server, machine] = [self.own, self.server, self.machine].map(|ticks| ticks / self.available);
        Shares { load, server, others: (machine - load - server).max(0.0) }
    }
}

impl AddAssign for Used {
    fn add_assign(&mut self, more: Self) {
        self.own += more.own;
        self.server += more.server;
        self.machine += more.machine;
        self.available += more.available;
    }
}

/// Counts processor time from its making on.
pub struct Watch {
    server: Option<u32>,
    since: Instant,
    own: f64,
    of_server: f64,
    machine: f64,
}

impl Watch {
    /// Begins to count, for `server` as well as for this program.
    pub fn start(server: Option<u32>) -> Self {
        let (own, of_server, machine) = now(server);
        Self { server, since: Instant::now(), own, of_server, machine }
    }

    /// What was used since.
    pub fn used(&self) -> Used {
        let (own, server, machine) = now(self.server);
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Used {
            own: own - self.own,
            server: server - self.of_server,
            machine: machine - self.machine,
            available: self.since.elapsed().as_secs_f64() * TICKS * processors,
        }
    }
}

fn now(server: Option<u32>) -> (f64, f64, f64) {
    (of_process("self"), server.map_or(0.0, |pid| of_process(&pid.to_string())), of_machine())
}

/// Processor time of this program and of all that it started and that has ended, in seconds.
pub fn spent() -> f64 {
    times_of("self", 4) / TICKS
}

/// User and system time of a process.
fn of_process(pid: &str) -> f64 {
    times_of(pid, 2)
}

/// The first `count` of the times of a process: user and system, and the same of its children.
fn times_of(pid: &str, count: usize) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    fields.split(' ').skip(11).take(count).filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// User, nice, system and stolen time. Interrupts belong to nobody: they are left out.
fn of_machine() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.lines().next().unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
    [0, 1, 2, 7].iter().filter_map(|field| fields.get(*field)).sum()
}

/// Begins to count the most memory that a process has used, `VmHWM`, from what it uses now.
pub fn forget_peak(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// A line of `/proc/PID/status` in MiB: `VmRSS` is the memory in use now, `VmHWM` the most so far.
pub fn memory_mib(pid: u32, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    value.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

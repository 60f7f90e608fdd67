//! Who is measured: the gateway, nginx and HAProxy, each told to do the same.

use crate::Result;
use crate::load::Turn;
use crate::payload::{Asker, KEY, PASSED, Question};
use crate::process::Process;
use crate::upstream::{Upstream, Wire};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::timeout;

/// How long a program may take to open its port.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one may take to give an answer, on a machine that is busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const NO_ANSWER: &str = "nothing was answered";
/// How often a port is tried that is not open yet.
const PORT_INTERVAL: Duration = Duration::from_micros(200);

/// Who stands between client and upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contestant {
    Gateway,
    Nginx,
    HaProxy,
    /// Nobody.
    Direct,
}

impl Contestant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Direct => "direct",
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Nginx => Some("nginx"),
            Self::HaProxy => Some("haproxy"),
            Self::Gateway | Self::Direct => None,
        }
    }

    /// What clients ask of it.
    pub(crate) fn question(self, body_bytes: usize, stream: bool) -> Question {
        let asker = if self == Self::Direct { Asker::Direct } else { Asker::Client };
        Question::of(asker, body_bytes, stream)
    }

    /// What its program says of its version, where it is installed.
    pub(crate) fn version(self) -> Option<String> {
        let output = Command::new(self.program()?).arg("-v").output().ok()?;
        let said = String::from_utf8([output.stdout, output.stderr].concat()).ok()?;
        said.lines().next().map(str::to_owned)
    }
}

/// What starts contestants.
#[derive(Clone)]
pub(crate) struct Stable {
    pub(crate) gateway: PathBuf,
    /// A program before the gateway's name, and its arguments.
    pub(crate) wrapper: Vec<String>,
}

/// A contestant that runs.
pub(crate) struct Running {
    pub(crate) contestant: Contestant,
    pub(crate) address: SocketAddr,
    pub(crate) process: Option<Process>,
    /// From its start until its port was open.
    pub(crate) opened_after: Duration,
    /// From its start until it had given its first answer.
    pub(crate) answered_after: Duration,
    _folder: TempDir,
}

impl Running {
    /// CPU time that it has used so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.process.as_ref().map(Process::cpu_time).unwrap_or_default()
    }

    /// Fails when somebody with another key is let through, on a connection of his own or behind one who has the key.
    pub(crate) async fn check_key(&self) -> Result<()> {
        let turn = Turn::new(self.address, self.contestant.question(1024, false));
        let of_stranger = Question::of(Asker::Stranger, 1024, false);
        for first in [None, Some(&turn.question)] {
            let status = timeout(ANSWER_TIMEOUT, turn.status_behind(first, &of_stranger)).await;
            self.check_refusal(status.unwrap_or_else(|_| Err(NO_ANSWER.to_owned())))?;
        }
        Ok(())
    }

    fn check_refusal(&self, status: std::result::Result<u16, String>) -> Result<()> {
        match status {
            Ok(401) => Ok(()),
            Ok(status) => Err(format!("{}: a wrong key gets {status}", self.contestant.name()).into()),
            Err(fault) => Err(format!("{}: {fault}", self.contestant.name()).into()),
        }
    }
}

impl Stable {
    /// Starts a contestant on these CPUs and waits for its first answer.
    pub(crate) async fn start(
        &self,
        contestant: Contestant,
        upstream: &Upstream,
        wire: Wire,
        cpus: &[usize],
    ) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let address = match contestant {
            Contestant::Direct => upstream.address(Wire::Plain),
            _ => free_address()?,
        };
        let mut command = match contestant {
            Contestant::Gateway => Some(self.gateway_command(upstream, wire, address)),
            Contestant::Nginx => Some(nginx_command(upstream, wire, address, folder.path(), cpus.len())?),
            Contestant::HaProxy => Some(haproxy_command(upstream, wire, address, folder.path(), cpus.len())?),
            Contestant::Direct => None,
        };
        let question = contestant.question(1024, false);
        upstream.expect(&question, None)?;
        let turn = Rc::new(Turn::new(address, question));
        let begun = Instant::now();
        let mut process =
            command.as_mut().map(|command| Process::start(command.stdin(Stdio::null()), cpus)).transpose()?;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(process) = &mut process {
                process.check()?;
            }
            if begun.elapsed() > START_TIMEOUT * if self.wrapper.is_empty() { 1 } else { 6 } {
                return Err(format!("{} does not open its port", contestant.name()).into());
            }
            tokio::time::sleep(PORT_INTERVAL).await;
        }
        let opened_after = begun.elapsed();
        let asking = timeout(ANSWER_TIMEOUT, turn.ask_once()).await.unwrap_or_else(|_| Err(NO_ANSWER.to_owned()));
        asking.map_err(|fault| format!("{}: {fault}", contestant.name()))?;
        let answered_after = begun.elapsed();
        Ok(Running { contestant, address, process, opened_after, answered_after, _folder: folder })
    }

    fn gateway_command(&self, upstream: &Upstream, wire: Wire, address: SocketAddr) -> Command {
        let mut words: Vec<PathBuf> = self.wrapper.iter().map(PathBuf::from).collect();
        words.push(self.gateway.clone());
        let mut command = Command::new(&words[0]);
        let of_upstream = upstream.address(wire);
        let base_url = match wire {
            Wire::Plain => format!("http://{of_upstream}"),
            Wire::Tls | Wire::Tls1 => format!("https://localhost:{}", of_upstream.port()),
        };
        command
            .args(&words[1..])
            .env_clear()
            .env("PORT", address.port().to_string())
            .env("HOST", address.ip().to_string())
            .env("API_KEYS_JSON", format!(r#"[{{"id":"bench","key":"{KEY}"}}]"#))
            .env("GOOGLE_CLOUD_PROJECT", "bench")
            .env("GOOGLE_VERTEX_BASE_URL", base_url)
            .env("GCE_METADATA_HOST", upstream.metadata().to_string())
            .env("SSL_CERT_FILE", upstream.authority());
        command
    }
}

fn nginx_command(upstream: &Upstream, wire: Wire, address: SocketAddr, folder: &Path, cores: usize) -> Result<Command> {
    let scheme = if wire == Wire::Plain { "http" } else { "https" };
    let user = String::from_utf8(Command::new("id").arg("-un").output()?.stdout)?;
    let conf = fill(include_str!("../nginx.conf"), upstream, wire, address, folder)
        .replace("@CORES@", &cores.to_string())
        .replace("@SCHEME@", scheme)
        .replace("@USER@", user.trim());
    let file = folder.join("nginx.conf");
    fs::write(&file, conf)?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg("stderr").arg("-c").arg(file);
    Ok(command)
}

fn haproxy_command(
    upstream: &Upstream,
    wire: Wire,
    address: SocketAddr,
    folder: &Path,
    cores: usize,
) -> Result<Command> {
    let verified = format!("ssl verify required ca-file {} sni str(localhost)", upstream.authority().display());
    let tls = match wire {
        Wire::Plain => String::new(),
        Wire::Tls => format!("{verified} alpn h2,http/1.1"),
        Wire::Tls1 => verified,
    };
    let conf = fill(include_str!("../haproxy.cfg"), upstream, wire, address, folder)
        .replace("@CORES@", &cores.to_string())
        .replace("@TLS@", &tls);
    let file = folder.join("haproxy.cfg");
    fs::write(&file, conf)?;
    let mut command = Command::new("haproxy");
    command.arg("-q").arg("-f").arg(file);
    Ok(command)
}

fn fill(template: &str, upstream: &Upstream, wire: Wire, address: SocketAddr, folder: &Path) -> String {
    template
        .replace("@LISTEN@", &address.to_string())
        .replace("@UPSTREAM@", &upstream.address(wire).to_string())
        .replace("@PATH@", PASSED.path)
        .replace("@KEY@", KEY)
        .replace("@BEARER@", PASSED.bearer)
        .replace("@AUTHORITY@", &upstream.authority().display().to_string())
        .replace("@FOLDER@", &folder.display().to_string())
}

/// An address that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

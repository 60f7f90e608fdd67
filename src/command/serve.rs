//! `ai-proxy serve`, and what `dev` shares with it.

use super::runtime::Runtimes;
use super::{EXIT_CONFIG, fail, hardening, proxy, refuse_certificates, refuse_configuration};
use crate::App;
use crate::config::{Config, Environment, Problem};
use crate::log::{Log, Severity};
use crate::server::{self, Port, Service};
use crate::tls::Handshakes;
use crate::workers::Workers;
use crate::{metadata, upstream};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: u32 = 4096;
/// A silent client is asked after this long whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often it is asked again; after a few times without an answer the kernel ends the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Runs the gateway until it is told to stop.
pub(super) fn run() -> ExitCode {
    let environment = Environment::of_process();
    if let Err(error) = proxy::bypass(&environment) {
        return fail(&format!("cannot start again with NO_PROXY: {error}"));
    }
    let gaps = hardening::apply();
    let config = match Config::parse(&environment) {
        Ok(config) => config,
        Err(problems) => return refuse_configuration(&problems),
    };
    // It may hold keys, of which nothing but digests is needed any more.
    drop(environment);
    let runtimes = match Runtimes::start() {
        Ok(runtimes) => runtimes,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let handles = runtimes.handles();
    runtimes.block_on_gateway(serve(config, &gaps, handles, |_| {}))
}

/// Serves a configuration on these runtimes, of which the first is the caller's. `gaps` are protections that the system
/// refused. `announce` is called with the address when the port is open, before the first request is taken.
///
/// # Errors
/// The exit code, after having said why.
pub(super) async fn serve(
    mut config: Config,
    gaps: &[String],
    runtimes: Vec<Handle>,
    announce: impl FnOnce(SocketAddr),
) -> Result<Log, ExitCode> {
    let project = match config.project.take() {
        Some(project) => project,
        None => match metadata::project_at_start(&config.metadata_host).await {
            Some(project) => project,
            None => {
                let message = "is required: no metadata server answered that could tell";
                refuse_configuration(&[Problem { variable: "GOOGLE_CLOUD_PROJECT".into(), message: message.into() }]);
                return Err(ExitCode::from(EXIT_CONFIG));
            }
        },
    };
    // Google's library looks for them too, and cannot do without.
    let tls = upstream::tls_config().map_err(refuse_certificates)?;
    let (listener, address) = listen("PORT", config.listen).map_err(|message| fail(&message))?;
    // With a port that the system has chosen.
    config.listen = address;
    let redirect = match config.redirect_port {
        Some(port) => {
            let address = SocketAddr::new(address.ip(), port);
            Some(listen("HTTP_REDIRECT_PORT", address).map_err(|message| fail(&message))?)
        }
        None => None,
    };
    let metrics = match config.metrics_port {
        Some(port) => {
            let address = SocketAddr::new(address.ip(), port);
            Some(listen("METRICS_PORT", address).map_err(|message| fail(&message))?)
        }
        None => None,
    };
    let mut signals = Signals::new().map_err(|error| fail(&format!("cannot listen to signals: {error}")))?;

    announce(address);
    let log = Log::to_stdout();
    log_panics(log.clone());
    gaps.iter().for_each(|gap| log.event(Severity::Warning, gap));
    let tls_ends_here = config.tls.is_some();
    let handshakes = config.tls.take().map(|source| Handshakes::start(source, &tls, log.clone())).transpose();
    let handshakes = handshakes.map_err(|message| fail(&message))?.map(Arc::new);
    let apps = App::for_each(runtimes, config, &project, &tls, tls_ends_here, log.clone()).await;
    let workers = Workers::new(apps.map_err(|message| fail(&message))?);
    log.listening(if handshakes.is_some() { "https" } else { "http" }, &address.to_string());
    let mut ports = vec![Port { listener, service: Service::Gateway, tls: handshakes }];
    if let Some((listener, address)) = redirect {
        log.event(Severity::Info, &format!("redirecting to https from http://{address}"));
        ports.push(Port { listener, service: Service::Redirect, tls: None });
    }
    if let Some((listener, address)) = metrics {
        log.event(Severity::Info, &format!("metrics at http://{address}/metrics"));
        ports.push(Port { listener, service: Service::Metrics, tls: None });
    }
    let shutdown = async {
        signals.next().await;
        // A second signal does not wait.
        tokio::spawn(async move {
            signals.next().await;
            std::process::exit(1);
        });
    };
    server::serve(workers, ports, shutdown).await;
    log.event(Severity::Info, "stopped");
    Ok(log)
}

/// SIGTERM, as platforms send it, or SIGINT, as Ctrl-C does.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Opens a port. Tells it with the address it has got, or why not, naming the variable.
pub(super) fn listen(variable: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let open = || {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        // So that a restart does not wait for the old connections' ghosts.
        socket.set_reuseaddr(true)?;
        // Connections have these from their port, so that none needs calls of its own. Without the first Nagle's algorithm
        // holds small pieces back for up to 40 ms.
        socket.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    open().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("{variable}: {address} is in use by another program"),
        _ => format!("HOST, {variable}: cannot listen on {address}: {error}"),
    })
}

/// A panic is a bug of ours: it is logged by its place. Its message stays out, since it could quote a request.
fn log_panics(log: Log) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        log.event(Severity::Error, &format!("internal error{place}: please report it"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[tokio::test]
    async fn connections_have_their_options_from_the_port() {
        for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let (listener, address) = listen("PORT", SocketAddr::new(ip, 0)).unwrap();
            let _client = std::net::TcpStream::connect(address).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            assert!(stream.nodelay().unwrap(), "{ip}");
            assert!(SockRef::from(&stream).keepalive().unwrap(), "{ip}");
        }
    }
}

//! The accept loops, and how they stop.

use crate::App;
use crate::access_log::{Record, RequestId};
use crate::connections::{Connections, Place};
use crate::error::ApiError;
use crate::http1::{Connection, Exchange, Head, Next};
use crate::log::Severity;
use crate::tls::Handshakes;
use crate::transport::Transport;
use crate::{metrics, redirect, routes};
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// A silent client is asked after this long whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often it is asked again; after a few times without an answer the kernel ends the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Rest after a failed accept: out of descriptors, most likely, and some may come free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// How long a refused connection has to ask, and to take its answer.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long cut requests have for their last bytes.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Running,
    /// No new requests; running ones finish.
    Draining,
    /// Running requests are cut.
    Cutting,
}

/// What every connection watches.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Phase>);

impl Stop {
    /// The phase at this moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the stop has come so far.
    pub async fn reached(&mut self, phase: Phase) {
        // The sender lives as long as the accept loop; without it everything ends anyway.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}

/// A port that is open.
pub struct Port {
    /// The port.
    pub listener: TcpListener,
    /// What is spoken there.
    pub service: Service,
    /// TLS, where it ends here.
    pub tls: Option<Arc<Handshakes>>,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// All routes.
    Gateway,
    /// Browsers are sent to https.
    Redirect,
    /// Metrics, without a key.
    Metrics,
}

/// Serves until `shutdown` resolves, then drains.
pub async fn serve(app: Arc<App>, ports: Vec<Port>, shutdown: impl Future<Output = ()>) {
    let (phase, watcher) = watch::channel(Phase::Running);
    let stop = Stop(watcher);
    // Every connection holds a sender: when the last is gone, the receiver says so.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    for port in ports {
        tokio::spawn(accept(app.clone(), port, stop.clone(), alive.clone()));
    }
    drop(alive);
    shutdown.await;
    // Connections are told together with the ports, so that whoever finds a port closed gets no answer any more that
    // invites another request.
    phase.send_replace(Phase::Draining);
    app.log.event(Severity::Info, "stopping: running requests may finish");
    if timeout(app.shutdown_grace, all_gone.recv()).await.is_err() {
        phase.send_replace(Phase::Cutting);
        let _ = timeout(CUT_TIMEOUT, all_gone.recv()).await;
    }
}

/// Takes connections at one port until the stop.
async fn accept(app: Arc<App>, port: Port, mut stop: Stop, alive: mpsc::Sender<()>) {
    let mut stopping = stop.clone();
    let mut stopping = std::pin::pin!(stopping.reached(Phase::Draining));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => return,
            accepted = port.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Without a place, and without a lane to say so, it is closed here.
                let Some(place) = app.connections.find_place(port.service, &app.log) else { continue };
                prepare(&stream);
                let (app, stop, alive) = (app.clone(), stop.clone(), alive.clone());
                let (service, tls) = (port.service, port.tls.clone());
                match place {
                    Place::Served(place) => tokio::spawn(async move {
                        // Metrics have places of their own.
                        let among = (service != Service::Metrics).then_some(&*app.connections);
                        if let Some(transport) = secure(tls, stream, stop.clone(), among).await {
                            carry(app, transport, service, stop).await;
                        }
                        drop((place, alive));
                    }),
                    Place::Refused(lane) => tokio::spawn(async move {
                        let rest = tls.as_ref().map(|_| sleep(REFUSAL_TIMEOUT));
                        let refusing = async {
                            if let Some(transport) = secure(tls, stream, stop.clone(), None).await {
                                refuse(app, transport, service, stop).await;
                            }
                        };
                        let _ = timeout(REFUSAL_TIMEOUT, refusing).await;
                        drop(alive);
                        // Handshakes cost those who are served: with a rest for each lane there are not many a second.
                        if let Some(rest) = rest {
                            rest.await;
                        }
                        drop(lane);
                    }),
                };
            }
            // The client went away before it was accepted: nothing is short.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            }
            Err(error) => {
                app.connections.tell_failed_accept(&error, &app.log);
                tokio::select! {
                    () = stop.reached(Phase::Draining) => return,
                    () = sleep(ACCEPT_BACKOFF) => {}
                }
            }
        }
    }
}

/// What the connection's bytes are carried by. `None` when there was no handshake, or a stop came first, or its place
/// `among` others is needed more.
async fn secure(
    tls: Option<Arc<Handshakes>>,
    stream: TcpStream,
    mut stop: Stop,
    among: Option<&Connections>,
) -> Option<Transport> {
    let Some(tls) = tls else { return Some(Transport::Plain(stream)) };
    let should_leave = async {
        match among {
            Some(connections) => connections.unheard_should_leave().await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        stream = Box::pin(tls.shake(stream)) => stream.map(|stream| Transport::Tls(Box::new(stream))),
        () = Box::pin(should_leave) => None,
        () = stop.reached(Phase::Draining) => None,
    }
}

fn prepare(stream: &TcpStream) {
    // Without it Nagle's algorithm holds small pieces back for up to 40 ms. Failures show on first use.
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// One connection from its first request to its last.
async fn carry(app: Arc<App>, transport: Transport, service: Service, stop: Stop) {
    let _open = app.metrics.connection();
    let among = (service != Service::Metrics).then(|| app.connections.clone());
    let mut connection = Connection::new(transport, stop, among);
    loop {
        let head = connection.next_head().await;
        if matches!(head, Ok(None)) {
            return;
        }
        // In a box, so that a connection which waits for a request is small.
        match Box::pin(exchange(&app, &mut connection, Some(service), head)).await {
            Next::RequestAfter(unread) if connection.discard(unread).await => {}
            Next::RequestAfter(_) | Next::Close => return connection.close().await,
            Next::Drop => return,
            Next::Abort => return connection.abort(),
        }
    }
}

/// One request of a connection for which there is no place. Probes are answered as ever: a gateway that is full is not
/// broken, and must not be taken for it.
async fn refuse(app: Arc<App>, transport: Transport, service: Service, stop: Stop) {
    let mut connection = Connection::new(transport, stop, None);
    let mut head = connection.next_head().await;
    if matches!(head, Ok(None)) {
        return;
    }
    let mut service = Some(service);
    if let Ok(Some(head)) = &mut head {
        head.keep_alive = false;
        service = service.filter(|service| *service == Service::Gateway && routes::is_probe(head));
    }
    match Box::pin(exchange(&app, &mut connection, service, head)).await {
        Next::Abort => connection.abort(),
        Next::Drop => {}
        Next::Close | Next::RequestAfter(_) => connection.close().await,
    }
}

/// One request and its answer; without a service, that there is no place. Its log line is written when this ends.
async fn exchange(
    app: &Arc<App>,
    connection: &mut Connection,
    service: Option<Service>,
    head: Result<Option<Head>, ApiError>,
) -> Next {
    let mut record =
        Record::start(app.log.clone(), app.metrics.clone(), app.project.clone(), RequestId::next(app.process));
    let (head, unreadable) = match head {
        Ok(head) => (head.unwrap_or_else(Head::unreadable), None),
        Err(error) => (Head::unreadable(), Some(error)),
    };
    record.note_head(&head);
    let mut exchange = Exchange::new(connection, head, record, &app.cors);
    let result = match unreadable {
        None => match service {
            Some(Service::Gateway) => routes::answer(app, &mut exchange).await,
            Some(Service::Redirect) => redirect::answer(app, &mut exchange).await,
            Some(Service::Metrics) => metrics::answer(app, &mut exchange).await,
            None => Err(ApiError::TooManyConnections.into()),
        },
        Some(error) => Err(error.into()),
    };
    exchange.finish(result).await
}

//! The accept loops, and how they stop.

use crate::App;
use crate::access_log::Record;
use crate::connections::{Connections, Place};
use crate::error::ApiError;
use crate::http1::{Connection, Exchange, Head, Next};
use crate::log::Severity;
use crate::tls::Handshakes;
use crate::transport::Transport;
use crate::workers::Workers;
use crate::{metrics, redirect, routes};
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

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

/// How far the stop has come, for all who have to know.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// A [`Phase`] as a number; it only grows.
    phase: AtomicU8,
    grows: Notify,
}

impl Stop {
    /// The phase at this moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Cutting,
        }
    }

    fn proceed_to(&self, phase: Phase) {
        self.0.phase.fetch_max(phase as u8, Ordering::Release);
        self.0.grows.notify_waiters();
    }

    /// Waits until the stop has come so far.
    pub async fn reached(&self, phase: Phase) {
        loop {
            // What grows from here on is heard, also before this is waited for.
            let grows = self.0.grows.notified();
            if self.phase() >= phase {
                return;
            }
            grows.await;
        }
    }
}

/// One task's eye on the stop. The task is registered once, however often it asks.
pub struct Lookout {
    stop: Stop,
    /// Resolves when the stop comes further than it was.
    next: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Who is woken by that, and in which phase it asked.
    registered: Option<(Phase, Waker)>,
}

impl Lookout {
    /// An eye that has not been used yet.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        let next = stop.clone();
        Self { stop, next: Box::pin(async move { next.reached(Phase::Draining).await }), registered: None }
    }

    /// The phase at this moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.stop.phase()
    }

    /// Ready when the stop has come so far.
    pub fn poll_reached(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = self.stop.phase();
            if now >= phase {
                return Poll::Ready(());
            }
            if matches!(&self.registered, Some((asked, waker)) if *asked == now && waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            if self.next.as_mut().poll(cx).is_pending() {
                self.registered = Some((now, cx.waker().clone()));
                return Poll::Pending;
            }
            let next = self.stop.clone();
            self.next = Box::pin(async move { next.reached(Phase::Cutting).await });
        }
    }

    /// Waits until the stop has come so far.
    pub async fn reached(&mut self, phase: Phase) {
        poll_fn(|cx| self.poll_reached(phase, cx)).await;
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
pub(crate) async fn serve(workers: Workers, ports: Vec<Port>, shutdown: impl Future<Output = ()>) {
    let workers = Arc::new(workers);
    let app = workers.app().clone();
    let stop = Stop::default();
    // Every connection holds a sender: when the last is gone, the receiver says so.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    for port in ports {
        tokio::spawn(accept(workers.clone(), port, stop.clone(), alive.clone()));
    }
    drop(alive);
    shutdown.await;
    // Connections are told together with the ports, so that whoever finds a port closed gets no answer any more that
    // invites another request.
    stop.proceed_to(Phase::Draining);
    app.log.event(Severity::Info, "stopping: running requests may finish");
    if timeout(app.shutdown_grace, all_gone.recv()).await.is_err() {
        stop.proceed_to(Phase::Cutting);
        let _ = timeout(CUT_TIMEOUT, all_gone.recv()).await;
    }
}

/// Takes connections at one port until the stop.
async fn accept(workers: Arc<Workers>, port: Port, stop: Stop, alive: mpsc::Sender<()>) {
    let app = workers.app();
    let mut stopping = pin!(stop.reached(Phase::Draining));
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
                let (stop, alive) = (stop.clone(), alive.clone());
                let (service, tls) = (port.service, port.tls.clone());
                match place {
                    Place::Served(place) => workers.serve(stream, move |app, stream| async move {
                        // Metrics have places of their own.
                        let among = (service != Service::Metrics).then_some(&*app.connections);
                        if let Some(transport) = secure(tls, stream, stop.clone(), among).await {
                            carry(app, transport, service, stop).await;
                        }
                        drop((place, alive));
                    }),
                    Place::Refused(lane) => workers.serve(stream, move |app, stream| async move {
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
                    () = &mut stopping => return,
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
    stop: Stop,
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

/// One connection from its first request to its last.
async fn carry(app: Arc<App>, transport: Transport, service: Service, stop: Stop) {
    let _open = app.writer.metrics().connection();
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
    let mut record = Record::start(&app.writer);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_looks_out_is_woken_once_for_each_phase() {
        let stop = Stop::default();
        let mut lookout = Lookout::new(stop.clone());
        let (one, two) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let (first, second) = (Waker::from(one.clone()), Waker::from(two.clone()));
        let mut is_reached = |phase, waker| lookout.poll_reached(phase, &mut Context::from_waker(waker)).is_ready();
        let woken = || (one.0.load(Ordering::Relaxed), two.0.load(Ordering::Relaxed));
        for waker in [&first, &first, &second, &second] {
            assert!(!is_reached(Phase::Cutting, waker));
        }
        stop.proceed_to(Phase::Draining);
        assert_eq!(woken(), (0, 1), "the last who asked");
        assert!(is_reached(Phase::Draining, &second) && !is_reached(Phase::Cutting, &second));
        assert!(!is_reached(Phase::Cutting, &second));
        stop.proceed_to(Phase::Cutting);
        assert_eq!(woken(), (0, 2));
        assert!(is_reached(Phase::Cutting, &second));
        stop.proceed_to(Phase::Draining);
        assert_eq!(stop.phase(), Phase::Cutting, "there is no way back");
    }

    #[test]
    fn a_stop_that_comes_between_two_looks_is_seen() {
        let stop = Stop::default();
        let mut lookout = Lookout::new(stop.clone());
        let mut cx = Context::from_waker(Waker::noop());
        stop.proceed_to(Phase::Draining);
        assert!(lookout.poll_reached(Phase::Cutting, &mut cx).is_pending());
        stop.proceed_to(Phase::Cutting);
        assert!(lookout.poll_reached(Phase::Cutting, &mut cx).is_ready());
        assert!(pin!(stop.reached(Phase::Draining)).poll(&mut cx).is_ready());
    }
}

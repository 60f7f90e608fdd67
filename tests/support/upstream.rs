//! A scripted HTTP/1.1 server that records the raw bytes of every request.
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::gateway::Target;
use super::{Watched, show};

/// A request as it stood on the wire.
#[derive(Clone)]
pub(crate) struct Recorded {
    pub(crate) connection: usize,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "on connection {}: {} {}", self.connection, show(&self.head), show(&self.body))
    }
}

impl Recorded {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Names in lower case with their values, in the order of the wire.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let lines = self.head.trim_end().split("\r\n").skip(1);
        lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers().into_iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }
}

/// How the gateway left a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Closed,
    Reset,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: Vec<Recorded>,
    /// One for each connection: how the gateway left it, if it did.
    pub(crate) connections: Vec<Option<Left>>,
    forgets: bool,
    forgotten: usize,
}

type Script = dyn Fn(&mut Exchange<'_>) + Send + Sync;
type Streams = Arc<Mutex<HashMap<usize, TcpStream>>>;
type Step = Box<dyn FnOnce(&mut Exchange<'_>) + Send>;

/// The server. It lives until it is dropped; then all its connections are closed.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Watched<Seen>,
    steps: Arc<Mutex<VecDeque<Step>>>,
    streams: Streams,
    stopping: Arc<AtomicBool>,
    /// Has the listener.
    accepting: Option<JoinHandle<()>>,
}

impl Target for Upstream {
    fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Upstream {
    /// Every request is answered by `script`.
    pub(crate) fn new(script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(script), Arc::default(), Self::listener(), true)
    }

    /// As [`Self::new`], but requests are forgotten: there may be a million.
    pub(crate) fn forgetful(script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(script), Arc::default(), Self::listener(), false)
    }

    /// As [`Self::new`], at a certain address.
    pub(crate) fn at(address: SocketAddr, script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        Self::start(Arc::new(script), Arc::default(), listener, true)
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("a free port")
    }

    /// Requests are answered by the steps given with [`Self::then`], in turn; further ones by `{}`.
    pub(crate) fn queued() -> Self {
        let steps: Arc<Mutex<VecDeque<Step>>> = Arc::default();
        let queue = Arc::clone(&steps);
        let script = move |exchange: &mut Exchange<'_>| {
            let step = lock(&queue).pop_front();
            match step {
                Some(step) => step(exchange),
                None => exchange.json("{}"),
            }
        };
        Self::start(Arc::new(script), steps, Self::listener(), true)
    }

    pub(crate) fn then(&self, step: impl FnOnce(&mut Exchange<'_>) + Send + 'static) {
        lock(&self.steps).push_back(Box::new(step));
    }

    fn start(script: Arc<Script>, steps: Arc<Mutex<VecDeque<Step>>>, listener: TcpListener, records: bool) -> Self {
        let address = listener.local_addr().expect("a bound address");
        let seen: Watched<Seen> = Watched::new(Seen { forgets: !records, ..Seen::default() });
        let streams: Streams = Arc::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let mut upstream = Self {
            address,
            seen: seen.clone(),
            steps,
            streams: Arc::clone(&streams),
            stopping: Arc::clone(&stopping),
            accepting: None,
        };
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                stream.set_nodelay(true).expect("nodelay can be set");
                let copy = stream.try_clone().expect("a socket can be cloned");
                let connection = seen.change(|seen| {
                    seen.connections.push(None);
                    seen.connections.len() - 1
                });
                lock(&streams).insert(connection, copy);
                let (script, seen, streams) = (Arc::clone(&script), seen.clone(), Arc::clone(&streams));
                std::thread::spawn(move || {
                    serve(stream, connection, &*script, &seen, &streams);
                    lock(&streams).remove(&connection);
                });
            }
        });
        upstream.accepting = Some(accepting);
        upstream
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.seen.read(|seen| seen.requests.clone())
    }

    /// Waits for the `n`th request (from 0).
    #[track_caller]
    pub(crate) fn wait_request(&self, n: usize) -> Recorded {
        self.seen.wait("a request to reach upstream", |seen| seen.requests.get(n).cloned())
    }

    /// The only request there was.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Recorded {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.read(|seen| seen.connections.len())
    }

    /// Waits until the gateway left the `n`th connection (from 0).
    #[track_caller]
    pub(crate) fn wait_left(&self, n: usize) -> Left {
        self.seen.wait("the gateway to leave a connection", |seen| seen.connections.get(n).copied().flatten())
    }

    /// Closes every connection from upstream's side.
    pub(crate) fn close_connections(&self) {
        for (_, stream) in lock(&self.streams).drain() {
            // One that the gateway left already cannot be shut down; that is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let woken = TcpStream::connect(self.address).is_ok();
        // The port is closed when this is over, not some time afterwards.
        if let Some(accepting) = self.accepting.take().filter(|_| woken) {
            let _ = accepting.join();
        }
        self.close_connections();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, connection: usize, script: &Script, seen: &Watched<Seen>, streams: &Streams) {
    let mut buffer = Vec::new();
    loop {
        let request = match read_request(&mut stream, &mut buffer, connection) {
            Ok(request) => request,
            Err(left) => {
                seen.change(|seen| seen.connections[connection] = Some(left));
                return;
            }
        };
        let number = seen.change(|seen| {
            if seen.forgets {
                seen.forgotten += 1;
                return seen.forgotten - 1;
            }
            seen.requests.push(request.clone());
            seen.requests.len() - 1
        });
        let mut exchange = Exchange { request, number, stream: &mut stream, streams, over: false };
        script(&mut exchange);
        if exchange.over {
            return;
        }
    }
}

fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Result<Recorded, Left> {
    let mut piece = vec![0; 64 * 1024];
    let mut fill = |buffer: &mut Vec<u8>| match stream.read(&mut piece) {
        Ok(0) => Err(Left::Closed),
        Ok(length) => {
            buffer.extend_from_slice(&piece[..length]);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(Left::Reset),
        Err(_) => Err(Left::Closed),
    };
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        fill(buffer)?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut request = Recorded { connection, head, body: Vec::new() };
    let length: usize = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        fill(buffer)?;
    }
    request.body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    Ok(request)
}

/// One request and the raw answer to it. When the script returns, the next request of the connection is read, and with
/// it the connection's end is seen.
pub(crate) struct Exchange<'a> {
    pub(crate) request: Recorded,
    /// The number of the request, over all connections, from 0.
    pub(crate) number: usize,
    stream: &'a mut TcpStream,
    streams: &'a Streams,
    over: bool,
}

impl Exchange<'_> {
    /// Sends bytes as they are, at once; says whether the connection took them.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    /// A complete 200 answer of type JSON.
    pub(crate) fn json(&mut self, body: impl AsRef<[u8]>) {
        self.answer("200 OK", "content-type: application/json\r\n", body);
    }

    /// A complete counted answer; `headers` are whole lines.
    pub(crate) fn answer(&mut self, status: &str, headers: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        self.send(bytes);
    }

    /// The head of a chunked event stream.
    pub(crate) fn sse_head(&mut self) {
        self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    /// One chunk.
    pub(crate) fn chunk(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.send(chunk)
    }

    /// The regular end of a chunked body.
    pub(crate) fn last_chunk(&mut self) {
        self.send("0\r\n\r\n");
    }

    /// A whole event stream, one chunk for each piece.
    pub(crate) fn sse<B: AsRef<[u8]>>(&mut self, pieces: impl IntoIterator<Item = B>) {
        self.sse_head();
        for piece in pieces {
            self.chunk(piece);
        }
        self.last_chunk();
    }

    /// Closes the connection in an orderly way.
    pub(crate) fn close(&mut self) {
        self.over = true;
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Resets the connection as soon as the script returns.
    pub(crate) fn reset(&mut self) {
        self.over = true;
        let socket = socket2::SockRef::from(&*self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("linger can be set");
        // The last handle's close is what resets.
        lock(self.streams).remove(&self.request.connection);
    }
}

/// A listener that accepts connections and never says a word; it may close them at once.
pub(crate) struct Hold {
    pub(crate) address: SocketAddr,
    seen: Watched<Seen>,
    stopping: Arc<AtomicBool>,
}

impl Target for Hold {
    fn base_url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Hold {
    /// Keeps its connections open.
    pub(crate) fn start() -> Self {
        Self::listen(false)
    }

    /// Closes its connections as soon as they are accepted.
    pub(crate) fn closing() -> Self {
        Self::listen(true)
    }

    fn listen(closing: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let seen: Watched<Seen> = Watched::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let hold = Self { address, seen: seen.clone(), stopping: Arc::clone(&stopping) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let connection = seen.change(|seen| {
                    seen.connections.push(None);
                    seen.connections.len() - 1
                });
                if closing {
                    continue;
                }
                let seen = seen.clone();
                std::thread::spawn(move || {
                    let mut sink = Vec::new();
                    let left = if stream.read_to_end(&mut sink).is_ok() { Left::Closed } else { Left::Reset };
                    seen.change(|seen| seen.connections[connection] = Some(left));
                });
            }
        });
        hold
    }

    #[track_caller]
    pub(crate) fn wait_connection(&self) {
        self.wait_connections(1);
    }

    /// Waits until there were `n` connections in all.
    #[track_caller]
    pub(crate) fn wait_connections(&self, n: usize) {
        self.seen.wait("the gateway to connect", |seen| (seen.connections.len() >= n).then_some(()));
    }

    /// All connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.seen.read(|seen| seen.connections.len())
    }

    /// Connections that the gateway has not left.
    pub(crate) fn open(&self) -> usize {
        self.seen.read(|seen| seen.connections.iter().filter(|left| left.is_none()).count())
    }

    #[track_caller]
    pub(crate) fn wait_left(&self) {
        self.seen.wait("the gateway to leave the connection", |seen| seen.connections.first().copied().flatten());
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept loop
    }
}

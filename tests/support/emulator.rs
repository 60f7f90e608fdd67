//! `ai-proxy emulator` as a child process, with its control endpoint.
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::gateway::{Builder, Target};
use super::{Client, DEADLINE, Gateway, Request, Response};

const BINARY: &str = env!("CARGO_BIN_EXE_ai-proxy");

/// A running emulator of the gateway's default project. It is killed when it is dropped.
pub(crate) struct Emulator {
    pub(crate) address: SocketAddr,
    child: Child,
    certificate: Option<PathBuf>,
    _directory: TempDir,
}

impl Target for Emulator {
    fn base_url(&self) -> String {
        match self.certificate {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    fn certificates(&self) -> Option<PathBuf> {
        self.certificate.clone()
    }
}

impl Emulator {
    /// Plain HTTP/1.1 towards the gateway.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::launch(arguments, &[], false)
    }

    /// The same, with further settings.
    #[track_caller]
    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::launch(arguments, environment, false)
    }

    /// TLS, and so HTTP/2, towards the gateway; the control endpoint is there without it.
    #[track_caller]
    pub(crate) fn start_tls(arguments: &[&str]) -> Self {
        Self::launch(arguments, &[], true)
    }

    #[track_caller]
    fn launch(arguments: &[&str], environment: &[(&str, &str)], tls: bool) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let certificate = tls.then(|| directory.path().join("certificate.pem"));
        let mut command = Command::new(BINARY);
        command.arg("emulator").args(arguments).env_clear();
        command.env("PORT", "0").env("GOOGLE_CLOUD_PROJECT", "test-project");
        command.envs(environment.iter().copied());
        if let Some(file) = &certificate {
            command.arg("--tls").arg(file);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut banner = String::new();
        while !banner.contains("GCE_METADATA_HOST=") {
            if stdout.read_line(&mut banner).expect("the banner is text") == 0 {
                panic!("the emulator does not start: {banner}");
            }
        }
        // What follows fits into the pipe; read it all the same.
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let address = banner.rsplit("GCE_METADATA_HOST=").next().expect("a part").trim();
        Self { address: address.parse().expect("an address"), child, certificate, _directory: directory }
    }

    /// A gateway in front of it that takes its tokens from it too.
    pub(crate) fn gateway(&self) -> Builder {
        Gateway::before(self).env("GCE_METADATA_HOST", &self.address.to_string())
    }

    /// One request to it, without the gateway.
    #[track_caller]
    pub(crate) fn request(&self, request: &Request) -> Response {
        Client::connect(self.address).request(request)
    }

    /// What the control endpoint says.
    #[track_caller]
    pub(crate) fn control(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let mut request = Request::new(method, &format!("/_emulator/{path}")).host("localhost");
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = self.request(&request);
        assert_eq!(answer.status, 200, "{path}: {}", super::show(&answer.body));
        answer.json()
    }

    /// Has the next calls answered by a scenario.
    #[track_caller]
    pub(crate) fn next(&self, scenario: &str, calls: u64) {
        self.control("POST", "next", Some(serde_json::json!({"scenario": scenario, "calls": calls})));
    }

    /// The number that the next exchange gets.
    #[track_caller]
    pub(crate) fn next_number(&self) -> u64 {
        self.control("GET", &format!("exchanges?since={}", u64::MAX), None)["next"].as_u64().expect("a number")
    }

    /// The chats since an exchange's number, when all of them have ended.
    #[track_caller]
    pub(crate) fn chats_since(&self, number: u64) -> Vec<Value> {
        until("every exchange to end", || {
            let told = self.control("GET", &format!("exchanges?since={number}"), None);
            let mut exchanges = told["exchanges"].as_array().expect("a list").clone();
            exchanges.retain(|exchange| exchange["path"] == super::UPSTREAM_PATH);
            let ended = !exchanges.is_empty() && exchanges.iter().all(|exchange| !exchange["ended"].is_null());
            ended.then_some(exchanges)
        })
    }

    /// Sends a signal, by its name, and waits for the end; says whether it was a good one.
    pub(crate) fn stop(mut self, signal: &str) -> bool {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
        self.child.wait().expect("a child has a status").success()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// Asks again and again, for what another process has to get to by itself.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

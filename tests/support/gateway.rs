//! The gateway as a child process with an environment of its own.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::metrics::scrape;
use super::secrets::{Given, assert_not_on_command_lines};
use super::{Client, DEADLINE, DISABLED_KEY, KEY, Metadata, Request, Response, SECOND_KEY, Watched};

const BINARY: &str = env!("CARGO_BIN_EXE_ai-proxy");

/// Something the gateway can take for Vertex AI.
pub(crate) trait Target {
    fn base_url(&self) -> String;

    /// A file with the certificate authority to trust.
    fn certificates(&self) -> Option<PathBuf> {
        None
    }
}

impl Target for &str {
    fn base_url(&self) -> String {
        (*self).to_owned()
    }
}

/// The library that tells programs another time, where it is installed.
pub(crate) fn faketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut files = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.exists())?.to_str().map(ToOwned::to_owned)
}

/// The keys that every gateway here knows.
pub(crate) fn keys_json() -> String {
    serde_json::json!([
        {"id": "tester", "key": KEY},
        {"id": "second", "key": SECOND_KEY},
        {"id": "retired", "key": DISABLED_KEY, "enabled": false},
    ])
    .to_string()
}

/// Runs the binary to its end with exactly this environment.
#[track_caller]
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    run_with_input(arguments, environment, "")
}

/// The same with something to read on stdin.
#[track_caller]
pub(crate) fn run_with_input(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    // Before it runs: what it writes into the file itself, it may show.
    let given = Given::of(environment.iter().copied(), input);
    let home = TempDir::new().expect("a temporary directory");
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().env("HOME", home.path()).envs(environment.iter().copied());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    // Whoever does not read it has ended before; its pipe is closed here in any case.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let both = |out: &(Vec<u8>, bool)| out.1.then(|| out.0.clone());
    let (Some(stdout), Some(stderr)) = (stdout.wait_for(DEADLINE, both), stderr.wait_for(DEADLINE, both)) else {
        child.kill().expect("a child can be killed");
        panic!("{arguments:?} does not end");
    };
    given.assert_kept(&stdout, &format!("stdout of {arguments:?}"));
    given.assert_kept(&stderr, &format!("stderr of {arguments:?}"));
    Output { status: child.wait().expect("a child has a status"), stdout, stderr }
}

fn is_listening(line: &str) -> bool {
    line.contains("\"listening on http")
}

/// Status (0 is none) and outcome of a request's line.
fn way_of(line: &str) -> Option<(u64, String)> {
    let line: Value = serde_json::from_str(line).ok()?;
    Some((line["status"].as_u64().unwrap_or(0), line["outcome"].as_str()?.to_owned()))
}

/// Reads to the end on a thread; the flag says that the end was reached.
fn collect(source: Option<impl Read + Send + 'static>) -> Watched<(Vec<u8>, bool)> {
    let collected: Watched<(Vec<u8>, bool)> = Watched::default();
    let (mut source, target) = (source.expect("a pipe"), collected.clone());
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = source.read(&mut piece) {
            target.change(|(bytes, _)| bytes.extend_from_slice(&piece[..length]));
        }
        target.change(|(_, ended)| *ended = true);
    });
    collected
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    /// With [`Reader::Tally`], how many requests ended in which way, instead of their lines.
    tally: BTreeMap<(u64, String), usize>,
    /// What came of a last line that has no end.
    torn: String,
    ended: bool,
}

/// The first CPU that the tests may use.
fn first_cpu() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("Linux tells");
    list.trim().split(['-', ',']).next().expect("one at least").to_owned()
}

/// What the test does with the gateway's stdout once it listens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Eager,
    Tally,
    Gone,
    Stuck,
}

/// What a gateway is started with.
pub(crate) struct Builder {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    metadata: Option<Metadata>,
    home: TempDir,
    stdout: Reader,
    /// Soft and hard limit of open files.
    descriptors: Option<(usize, usize)>,
    /// A file in the place of `/etc/hosts`.
    hosts: Option<PathBuf>,
    on_one_cpu: bool,
}

impl Builder {
    /// With nothing from the environment of the tests.
    fn of(arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().copied().map(str::to_owned).collect(),
            environment: BTreeMap::new(),
            metadata: None,
            home: TempDir::new().expect("a temporary directory"),
            stdout: Reader::Eager,
            descriptors: None,
            hosts: None,
            on_one_cpu: false,
        }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Uses this metadata server instead of one of the gateway's own.
    pub(crate) fn metadata(mut self, metadata: &Metadata) -> Self {
        self.metadata = None;
        self.env("GCE_METADATA_HOST", &metadata.address.to_string())
    }

    /// Writes a file into the gateway's home and names it in a variable.
    pub(crate) fn file(self, variable: &str, content: &str) -> Self {
        let path = self.home.path().join(format!("{variable}.json"));
        std::fs::write(&path, content).expect("a file can be written");
        let path = path.to_str().expect("the path is text").to_owned();
        self.env(variable, &path)
    }

    /// Writes a file at a path below the gateway's home.
    pub(crate) fn home_file(self, path: &str, content: &str) -> Self {
        let path = self.home.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a path below home")).expect("a directory can be made");
        std::fs::write(path, content).expect("a file can be written");
        self
    }

    /// Starts it with these limits of open files, the soft and the hard one.
    pub(crate) fn descriptors(mut self, soft: usize, hard: usize) -> Self {
        self.descriptors = Some((soft, hard));
        self
    }

    /// Starts it with this file in the place of `/etc/hosts`.
    pub(crate) fn hosts(mut self, file: &Path) -> Self {
        self.hosts = Some(file.to_owned());
        self
    }

    /// Starts it on one CPU, and so with one thread that serves and one set of connections to upstream.
    pub(crate) fn on_one_cpu(mut self) -> Self {
        self.on_one_cpu = true;
        self
    }

    /// Nobody reads stdout any more once the gateway listens.
    pub(crate) fn close_stdout(mut self) -> Self {
        self.stdout = Reader::Gone;
        self
    }

    /// Lines of requests are counted and forgotten: there may be a million.
    pub(crate) fn tally(mut self) -> Self {
        self.stdout = Reader::Tally;
        self
    }

    /// Time passes so many times as fast for the gateway, by libfaketime.
    pub(crate) fn hasten(self, times: u32) -> Self {
        let library = faketime().expect("the test has asked for it");
        self.env("LD_PRELOAD", &library).env("FAKETIME", &format!("+0 x{times}"))
    }

    /// The gateway's wall clock is off by what stands in this file, by libfaketime; time passes as ever.
    pub(crate) fn wall_clock(self, file: &Path) -> Self {
        let library = faketime().expect("the test has asked for it");
        let file = file.to_str().expect("the path is text");
        self.env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }

    /// Stdout stays open and is not read any more once the gateway listens.
    pub(crate) fn block_stdout(mut self) -> Self {
        self.stdout = Reader::Stuck;
        self
    }

    /// Starts the gateway and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Gateway {
        let mut command = match (self.descriptors, &self.hosts) {
            (None, None) if self.on_one_cpu => {
                let mut pinned = Command::new("/usr/bin/taskset");
                pinned.args(["--cpu-list", &first_cpu(), BINARY]);
                pinned
            }
            (Some((soft, hard)), _) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\""), BINARY]);
                shell
            }
            (None, Some(hosts)) => {
                let mut apart = Command::new("/usr/bin/unshare");
                let mount = format!("mount --bind '{}' /etc/hosts && exec \"$0\" \"$@\"", hosts.display());
                apart.args(["-Urm", "/bin/sh", "-c", &format!("PATH=/usr/bin:/bin:/sbin {mount}"), BINARY]);
                apart
            }
            (None, None) => Command::new(BINARY),
        };
        command.args(&self.arguments).env_clear().env("HOME", self.home.path()).envs(&self.environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let given = Given::of(self.environment.iter().map(|(name, value)| (&**name, &**value)), "");
        let mut child = command.spawn().expect("the binary runs");
        assert_not_on_command_lines(child.id());
        let output: Watched<Lines> = Watched::default();
        let (lines, source) = (output.clone(), child.stdout.take().expect("a pipe"));
        let reader = self.stdout;
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while let Ok(1..) = source.read_until(b'\n', &mut line) {
                let is_whole = line.ends_with(b"\n");
                let line = String::from_utf8_lossy(&std::mem::take(&mut line)).trim_end_matches('\n').to_owned();
                if !is_whole {
                    lines.change(|output| output.torn = line);
                    break;
                }
                let listening = is_listening(&line);
                if reader == Reader::Tally
                    && let Some(way) = way_of(&line)
                {
                    lines.change(|output| *output.tally.entry(way).or_default() += 1);
                    continue;
                }
                lines.change(|output| output.lines.push(line));
                if listening && matches!(reader, Reader::Gone | Reader::Stuck) {
                    break;
                }
            }
            lines.change(|output| output.ended = true);
            if reader == Reader::Stuck {
                std::mem::forget(source); // open, and unread, until the test process ends
            }
        });
        let stderr = collect(child.stderr.take());
        let mut gateway = Gateway {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            child: Some(child),
            output,
            stderr,
            metadata: self.metadata,
            lenient: false,
            given,
            _home: self.home,
        };
        let listening = gateway.output.wait_for(DEADLINE, |output| {
            let line = output.lines.iter().find(|line| is_listening(line));
            line.cloned().or_else(|| output.ended.then(String::new))
        });
        let Some(line) = listening.filter(|line| !line.is_empty()) else {
            gateway.lenient = true;
            panic!("the gateway does not listen: {:?} {}", gateway.lines(), gateway.stderr_text());
        };
        let line: Value = serde_json::from_str(&line).expect("the line is JSON");
        let address = line["address"].as_str().expect("the line has an address");
        let urls = ["http", "https"].map(|scheme| format!("listening on {scheme}://{address}"));
        assert!(urls.iter().any(|url| line["message"] == **url), "{line}");
        gateway.address = address.parse().expect("an address");
        gateway
    }
}

/// A running gateway. When it is dropped it is killed, and its output is judged: JSON lines on stdout, nothing on stderr.
/// No secret of the tests may stand in any of it, nor on its command line, whatever the test was about.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    child: Option<Child>,
    output: Watched<Lines>,
    stderr: Watched<(Vec<u8>, bool)>,
    metadata: Option<Metadata>,
    lenient: bool,
    given: Given,
    _home: TempDir,
}

impl Gateway {
    /// A gateway in front of `upstream`, with a metadata server of its own unless another is given.
    pub(crate) fn before(upstream: &impl Target) -> Builder {
        let metadata = Metadata::start();
        let mut builder = Builder::of(&[])
            .env("PORT", "0")
            .env("HOST", "127.0.0.1")
            .env("GOOGLE_CLOUD_PROJECT", "test-project")
            .env("API_KEYS_JSON", &keys_json())
            .env("GOOGLE_VERTEX_BASE_URL", &upstream.base_url())
            .env("GCE_METADATA_HOST", &metadata.address.to_string());
        builder.metadata = Some(metadata);
        match upstream.certificates() {
            Some(path) => builder.env("SSL_CERT_FILE", path.to_str().expect("the path is text")),
            None => builder,
        }
    }

    /// `ai-proxy dev` with options; what it says first is no log.
    #[track_caller]
    pub(crate) fn dev(arguments: &[&str]) -> Self {
        let builder = Builder::of(&[&["dev"], arguments].concat());
        builder.env("PORT", "0").env("API_KEYS_JSON", &keys_json()).start().lenient()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn request(&self, request: &Request) -> Response {
        self.client().request(request)
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        self.request(&Request::get(target))
    }

    /// A chat request with a valid key, on a connection of its own.
    #[track_caller]
    pub(crate) fn chat(&self, body: impl AsRef<[u8]>) -> Response {
        self.request(&Request::chat(body))
    }

    /// The port of `METRICS_PORT`.
    #[track_caller]
    pub(crate) fn metrics_port(&self) -> SocketAddr {
        let line = self.wait_for_message("metrics at http://", 0);
        let message = line["message"].as_str().expect("a message");
        let address = message.strip_prefix("metrics at http://").and_then(|rest| rest.strip_suffix("/metrics"));
        address.and_then(|address| address.parse().ok()).expect("an address")
    }

    /// What the metrics port says, by name and labels.
    #[track_caller]
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        scrape(self.metrics_port())
    }

    /// The metadata server that came with this gateway.
    pub(crate) fn metadata(&self) -> &Metadata {
        self.metadata.as_ref().expect("the test did not bring its own")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the gateway runs").id()
    }

    /// Resident memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the gateway runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }

    /// All lines of stdout so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.output.read(|output| output.lines.clone())
    }

    pub(crate) fn stderr_text(&self) -> String {
        self.stderr.read(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, what: &str, found: impl Fn(&Value) -> bool) -> Value {
        self.output.wait(&format!("a log line: {what}"), |output| {
            output.lines.iter().filter_map(|line| serde_json::from_str(line).ok()).find(|line| found(line))
        })
    }

    /// How many requests ended with which status (0 is none) and outcome, with [`Builder::tally`].
    pub(crate) fn requests_by_end(&self) -> BTreeMap<(u64, String), usize> {
        self.output.read(|output| output.tally.clone())
    }

    /// Whether the log has so many of such lines by the end of the time.
    pub(crate) fn wait_for_logs_within(&self, limit: Duration, count: usize, found: impl Fn(&Value) -> bool) -> bool {
        let is_there = |output: &Lines| {
            let lines = output.lines.iter().filter_map(|line| serde_json::from_str(line).ok());
            (lines.filter(&found).count() >= count).then_some(())
        };
        self.output.wait_for(limit, is_there).is_some()
    }

    /// The `n`th line of the log (from 0) whose message begins so.
    #[track_caller]
    pub(crate) fn wait_for_message(&self, beginning: &str, n: usize) -> Value {
        self.output.wait(&format!("a log line: {beginning}"), |output| {
            let lines = output.lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(beginning))).nth(n)
        })
    }

    /// The log line of the request that `response` answered.
    #[track_caller]
    pub(crate) fn log_of(&self, response: &Response) -> Value {
        let id = response.header("x-request-id").expect("every answer has an id").to_owned();
        self.wait_for_log(&format!("request {id}"), |line| line["request_id"] == id && !line["outcome"].is_null())
    }

    /// The `n`th log line of a request (from 0).
    #[track_caller]
    pub(crate) fn wait_for_access(&self, n: usize) -> Value {
        self.output.wait("the log line of a request", |output| {
            let lines = output.lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.filter(|line| !line["outcome"].is_null()).nth(n)
        })
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill runs").success(), "the gateway is gone already");
    }

    /// Waits until the process ended.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        // The end of stderr is the end of the process; nobody else holds it.
        let ended = self.stderr.wait_for(DEADLINE, |(_, ended)| ended.then_some(()));
        assert!(ended.is_some(), "the gateway does not end: {:?}", self.lines());
        let ended = self.output.wait_for(DEADLINE, |output| output.ended.then_some(()));
        assert!(ended.is_some(), "stdout stays open");
        self.child.as_mut().expect("the gateway ran").wait().expect("a child has a status")
    }

    /// The child's own check of its output is switched off, for tests that spoil it.
    pub(crate) fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    fn judge_output(&self) {
        for line in self.lines() {
            let parsed: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("no JSON line ({error}): {line}"));
            for field in ["severity", "message", "time"] {
                assert!(parsed[field].is_string(), "a line without {field}: {line}");
            }
        }
        assert_eq!(self.stderr_text(), "", "everything belongs on stdout while serving");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let mut was_killed = false;
        if let Some(mut child) = self.child.take() {
            assert_not_on_command_lines(child.id());
            was_killed = matches!(child.try_wait(), Ok(None));
            let _ = child.kill(); // it may have ended by itself
            let _ = child.wait();
        }
        let _ = self.output.wait_for(DEADLINE, |output| output.ended.then_some(()));
        let _ = self.stderr.wait_for(DEADLINE, |(_, ended)| ended.then_some(()));
        if std::thread::panicking() {
            let lines = self.lines();
            let last = &lines[lines.len().saturating_sub(6)..];
            eprintln!("the gateway's last lines:\n{}\nits stderr: {}", last.join("\n"), self.stderr_text());
        } else {
            let torn = self.output.read(|output| output.torn.clone());
            self.given.assert_kept(self.lines().join("\n") + &torn, "stdout of a gateway");
            self.given.assert_kept(self.stderr_text(), "stderr of a gateway");
            if !self.lenient {
                self.judge_output();
                // Whoever is killed may be in the middle of a write.
                assert!(was_killed || torn.is_empty(), "no whole line: {torn}");
            }
        }
    }
}

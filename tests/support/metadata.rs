//! A stub of Google's metadata server, and of an OAuth token endpoint.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Gate, Watched};

/// The service account that it plays.
pub(crate) const ACCOUNT: &str = "gateway@test-project.iam.gserviceaccount.com";
const TOKEN_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
const PROJECT_PATH: &str = "/computeMetadata/v1/project/project-id";

/// How the stub answers requests for a token.
#[derive(Clone)]
pub(crate) enum TokenAnswer {
    /// `ya29.test-N`, where N counts the tokens given out.
    Token { expires_in: u64 },
    /// A status with a body.
    Error(u16, &'static str),
    /// A token once the gate is open; what was held then gets one.
    Held(Gate),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Calls for a token, answered or not.
    pub(crate) token_calls: usize,
    pub(crate) tokens_given: usize,
    /// Heads of all requests.
    pub(crate) heads: Vec<String>,
    /// Bodies of calls to the OAuth endpoint.
    pub(crate) oauth_bodies: Vec<String>,
}

/// The stub; it stops when it is dropped.
pub(crate) struct Metadata {
    pub(crate) address: SocketAddr,
    seen: Watched<Seen>,
    answer: Watched<TokenAnswer>,
    stopping: Arc<AtomicBool>,
}

impl Metadata {
    /// Gives out tokens that live for an hour.
    pub(crate) fn start() -> Self {
        Self::answering(TokenAnswer::Token { expires_in: 3599 })
    }

    pub(crate) fn answering(answer: TokenAnswer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let metadata = Self {
            address,
            seen: Watched::default(),
            answer: Watched::new(answer),
            stopping: Arc::new(AtomicBool::new(false)),
        };
        let (seen, answer, stopping) = (metadata.seen.clone(), metadata.answer.clone(), Arc::clone(&metadata.stopping));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &seen, &answer));
            }
        });
        metadata
    }

    /// Answers differently from now on.
    pub(crate) fn answer(&self, answer: TokenAnswer) {
        self.answer.change(|current| *current = answer);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.read(Clone::clone)
    }

    /// Waits for the `n`th call for a token (from 1).
    #[track_caller]
    pub(crate) fn wait_token_calls(&self, n: usize) {
        self.seen.wait("a call for a token", |seen| (seen.token_calls >= n).then_some(()));
    }

    /// Waits until `n` tokens have been given out.
    #[track_caller]
    pub(crate) fn wait_tokens_given(&self, n: usize) {
        self.seen.wait("a token", |seen| (seen.tokens_given >= n).then_some(()));
    }

    /// Where a credentials file sends its refresh token.
    pub(crate) fn oauth_uri(&self) -> String {
        format!("http://{}/oauth/token", self.address)
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept loop
    }
}

fn serve(stream: TcpStream, seen: &Watched<Seen>, answer: &Watched<TokenAnswer>) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match reader.read_line(&mut head) {
                Ok(length) if length > 0 => {}
                _ => return,
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        seen.change(|seen| seen.heads.push(head.clone()));
        let target = head.split(' ').nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let (status, kind, text) = match path {
            TOKEN_PATH if !lower.contains("metadata-flavor: google\r\n") => (403, "text/html", "no flavor".to_owned()),
            TOKEN_PATH => token(seen, answer),
            "/oauth/token" => {
                seen.change(|seen| seen.oauth_bodies.push(String::from_utf8_lossy(&body).into_owned()));
                token(seen, answer)
            }
            PROJECT_PATH => (200, "application/text", "metadata-project".to_owned()),
            "/computeMetadata/v1/instance/service-accounts/default/email" => {
                (200, "application/text", ACCOUNT.to_owned())
            }
            "/computeMetadata/v1/universe/universe_domain" => (200, "application/text", "googleapis.com".to_owned()),
            "/" | "/computeMetadata/v1/" => (200, "application/text", "computeMetadata/\n".to_owned()),
            _ => (404, "text/html", "not found".to_owned()),
        };
        let answer = format!(
            "HTTP/1.1 {status} Status\r\nmetadata-flavor: Google\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn token(seen: &Watched<Seen>, answer: &Watched<TokenAnswer>) -> (u16, &'static str, String) {
    seen.change(|seen| seen.token_calls += 1);
    let expires_in = match answer.read(Clone::clone) {
        TokenAnswer::Error(status, body) => return (status, "application/json", body.to_owned()),
        TokenAnswer::Token { expires_in } => expires_in,
        TokenAnswer::Held(gate) => {
            gate.wait();
            3599
        }
    };
    let number = seen.change(|seen| {
        seen.tokens_given += 1;
        seen.tokens_given
    });
    let token = format!(r#"{{"access_token":"ya29.test-{number}","expires_in":{expires_in},"token_type":"Bearer"}}"#);
    (200, "application/json", token)
}

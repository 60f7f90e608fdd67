//! What the emulator has received and sent, for tests to look at: the last exchanges, within bounds, without secrets.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, StatusCode, request};
use ring::digest::{Context, SHA256, digest};
use serde::Serialize;

/// So many exchanges are remembered.
const MOST_EXCHANGES: usize = 1000;
/// So many bytes of bodies, in all.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// So many bytes of one body; its length and digest are those of all of it.
const MOST_BODY_BYTES: usize = 256 * 1024;
/// Header fields that are shown as they are: none of them is made to hold a secret. Of all others there is a digest.
const HARMLESS: [&str; 18] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "metadata-flavor",
    "te",
    "traceparent",
    "transfer-encoding",
    "user-agent",
    "x-goog-user-project",
    "x-request-id",
    "x-server-timeout",
];
/// And those that begin so.
const HARMLESS_FAMILIES: [&str; 2] = ["x-stainless-", "x-vertex-ai-"];

/// The last exchanges.
#[derive(Debug, Default)]
pub(super) struct Journal {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    exchanges: VecDeque<Noted>,
    next: u64,
    bytes: usize,
}

/// One exchange.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Noted {
    /// Counted from 0.
    number: u64,
    /// The client's connection, counted from 1.
    connection: u64,
    protocol: String,
    method: String,
    /// Without its query, which may hold a secret.
    path: String,
    headers: Vec<(String, String)>,
    request: Body,
    /// The scenario that applied.
    scenario: Option<String>,
    status: Option<u16>,
    answer: Body,
    /// `None` while it runs.
    ended: Option<Ended>,
}

/// One body.
#[derive(Clone, Debug, Default, Serialize)]
struct Body {
    bytes: u64,
    sha256: String,
    /// The first part of it, as text.
    text: String,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ended {
    /// Regularly.
    Complete,
    /// By the emulator, on purpose.
    Cut,
    /// By the client.
    Abandoned,
}

impl Journal {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request's head. The answer is told to what is returned.
    pub(super) fn begin(self: &Arc<Self>, connection: u64, head: &request::Parts) -> Recorder {
        let mut kept = self.kept();
        let number = kept.next;
        kept.next += 1;
        kept.exchanges.push_back(Noted {
            number,
            connection,
            protocol: format!("{:?}", head.version),
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            headers: headers(&head.headers),
            request: Body::default(),
            scenario: None,
            status: None,
            answer: Body::default(),
            ended: None,
        });
        kept.shorten();
        Recorder {
            journal: self.clone(),
            number,
            is_secret: !is_of_chats(head.uri.path()),
            context: Context::new(&SHA256),
            answer: Body::default(),
            first: Vec::new(),
            ended: Ended::Abandoned,
        }
    }

    /// The exchanges that are remembered, from a number on.
    pub(super) fn since(&self, number: u64) -> Vec<Noted> {
        self.kept().exchanges.iter().filter(|noted| noted.number >= number).cloned().collect()
    }

    /// The number that the next exchange gets.
    pub(super) fn next(&self) -> u64 {
        self.kept().next
    }

    /// How many exchanges run.
    pub(super) fn running(&self) -> usize {
        self.kept().exchanges.iter().filter(|noted| noted.ended.is_none()).count()
    }

    /// Forgets all of them.
    pub(super) fn clear(&self) {
        let mut kept = self.kept();
        kept.exchanges.clear();
        kept.bytes = 0;
    }
}

impl Kept {
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Noted)) {
        // They stand in order, but for those that were forgotten.
        let Ok(at) = self.exchanges.binary_search_by_key(&number, |noted| noted.number) else { return };
        let noted = &mut self.exchanges[at];
        self.bytes -= noted.size();
        change(noted);
        self.bytes += noted.size();
        self.shorten();
    }

    fn shorten(&mut self) {
        while self.exchanges.len() > MOST_EXCHANGES || self.bytes > MOST_BYTES {
            let Some(oldest) = self.exchanges.pop_front() else { return };
            self.bytes -= oldest.size();
        }
    }
}

impl Noted {
    fn size(&self) -> usize {
        self.request.text.len() + self.answer.text.len()
    }
}

fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let shown = |name: &str, value: &[u8]| {
        if HARMLESS.contains(&name) || HARMLESS_FAMILIES.iter().any(|family| name.starts_with(family)) {
            String::from_utf8_lossy(value).into_owned()
        } else {
            format!("sha256:{}", hexadecimal(digest(&SHA256, value).as_ref()))
        }
    };
    headers.iter().map(|(name, value)| (name.to_string(), shown(name.as_str(), value.as_bytes()))).collect()
}

/// Where chats go. Everywhere else tokens may be asked for and given, however the path is spelled.
fn is_of_chats(path: &str) -> bool {
    path.ends_with("/chat/completions")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Takes down one exchange; dropping it ends that.
pub(super) struct Recorder {
    journal: Arc<Journal>,
    number: u64,
    /// Of both bodies only length and digest are told.
    is_secret: bool,
    context: Context,
    answer: Body,
    first: Vec<u8>,
    ended: Ended,
}

impl Recorder {
    /// Notes the request's body.
    pub(super) fn received(&self, body: &[u8]) {
        let shown = if self.is_secret { &[] } else { &body[..body.len().min(MOST_BODY_BYTES)] };
        let request = Body {
            bytes: body.len() as u64,
            sha256: hexadecimal(digest(&SHA256, body).as_ref()),
            text: String::from_utf8_lossy(shown).into_owned(),
        };
        self.journal.kept().change(self.number, |noted| noted.request = request);
    }

    /// Notes which scenario applied.
    pub(super) fn scenario(&self, name: &str) {
        self.journal.kept().change(self.number, |noted| noted.scenario = Some(name.to_owned()));
    }

    /// Notes the status of the answer.
    pub(super) fn status(&self, status: StatusCode) {
        self.journal.kept().change(self.number, |noted| noted.status = Some(status.as_u16()));
    }

    /// Notes a piece of the answer.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.answer.bytes += bytes.len() as u64;
        let room = if self.is_secret { 0 } else { MOST_BODY_BYTES - self.first.len() };
        self.first.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Notes how the answer ended.
    pub(super) fn ended(&mut self, how: Ended) {
        self.ended = how;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut answer = std::mem::take(&mut self.answer);
        answer.sha256 = hexadecimal(self.context.clone().finish().as_ref());
        answer.text = String::from_utf8_lossy(&self.first).into_owned();
        let ended = self.ended;
        self.journal.kept().change(self.number, |noted| {
            noted.answer = answer;
            noted.ended = Some(ended);
        });
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head() -> request::Parts {
        Request::post("/v1/x/chat/completions?key=canary")
            .header("Authorization", "Bearer canary")
            .header("api-key", "canary")
            .header("x-serverless-authorization", "Bearer canary")
            .header("x-amz-security-token", "canary")
            .header("x-goog-iap-jwt-assertion", "canary")
            .header("x-access-token", "canary")
            .header("x-client-secret", "canary")
            .header("referer", "https://x.example/?key=canary")
            .header("x-stainless-lang", "python")
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    #[test]
    fn secrets_are_digests() {
        let journal = Arc::new(Journal::default());
        let mut recorder = journal.begin(7, &head());
        recorder.received(b"a prompt");
        recorder.sent(b"ab");
        recorder.sent(b"c");
        recorder.ended(Ended::Complete);
        drop(recorder);
        for path in [
            "/token",
            "//token",
            "/token/",
            "/Token",
            "/v1/token",
            "/v1/projects/-/serviceAccounts/a@b:generateAccessToken",
            "/computeMetadata/v1/instance/service-accounts/default/token",
            "/computeMetadata/v1/instance/service-accounts/default/identity",
        ] {
            let mut recorder = journal.begin(7, &Request::post(path).body(()).unwrap().into_parts().0);
            recorder.received(b"assertion=canary");
            recorder.sent(b"access_token=canary");
        }
        let noted = serde_json::to_string(&journal.since(0)).unwrap();
        assert!(!noted.contains("canary"), "{noted}");
        assert!(
            noted.contains(r#""path":"/v1/x/chat/completions""#) && noted.contains(r#""ended":"complete""#),
            "{noted}"
        );
        assert!(noted.contains("a prompt") && noted.contains(r#"["x-stainless-lang","python"]"#), "{noted}");
        // The digest of "abc", as the standard gives it.
        assert!(noted.contains("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "{noted}");
    }

    #[test]
    fn memory_is_bounded() {
        let journal = Arc::new(Journal::default());
        let body = vec![b'x'; 2 * MOST_BODY_BYTES];
        for _ in 0..3 * MOST_BYTES / MOST_BODY_BYTES {
            let mut recorder = journal.begin(1, &head());
            recorder.received(&body);
            recorder.sent(&body);
        }
        let kept = journal.kept();
        assert!(kept.bytes <= MOST_BYTES && kept.bytes >= MOST_BYTES / 2, "{}", kept.bytes);
        let counted: usize = kept.exchanges.iter().map(Noted::size).sum();
        assert_eq!(counted, kept.bytes);
        assert!(kept.exchanges.iter().all(|noted| noted.request.bytes == body.len() as u64));
        drop(kept);
        let long_ago = journal.begin(1, &head());
        for _ in 0..2 * MOST_EXCHANGES {
            journal.begin(1, &head());
        }
        assert_eq!(journal.since(0).len(), MOST_EXCHANGES);
        // One that was forgotten is no trouble.
        drop(long_ago);
        journal.clear();
        assert_eq!(journal.kept().bytes, 0);
    }
}

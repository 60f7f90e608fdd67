//! `check --live --record DIR`: writes down how the endpoint answers, in the form that the emulator replays, and what was
//! seen in it for people.
//!
//! The questions are fixed ones of the doctor's own, about what Google's pages leave open; nothing of them is written
//! but model and streaming. Of the answers the form is: `redact` takes out what they say and whose they are, before anything
//! else looks at them.

mod observe;
mod questions;
mod redact;

pub(super) use redact::Redaction;

use super::probe::{self, Answered, Outcome};
use super::report::Finding;
use crate::models::Model;
use crate::relay::is_event_stream;
use crate::upstream::Vertex;
use ai_proxy_emulator::replay::{self, End, Exchange, Piece, VERSION};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, HeaderName, HeaderValue};
use redact::Form;
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What people read.
const OBSERVED: &str = "observed.md";
/// The path of all questions, as a captured exchange has it.
const PATH: &str = "/v1/projects/PROJECT/locations/LOCATION/endpoints/openapi/chat/completions";
/// Header fields whose values say nothing about anybody, where they are as they are known. Of all others only the name is written.
const HARMLESS_FIELDS: [&str; 14] = [
    "alt-svc",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "expires",
    "pragma",
    "retry-after",
    "server",
    "transfer-encoding",
    "vary",
    "x-content-type-options",
    "x-frame-options",
    "x-xss-protection",
];

/// Whether a value has only words that such fields are known to have, and numbers that are nobody's.
fn is_of_closed_shape(value: &str) -> bool {
    const WORDS: &str = " application json text event-stream html plain charset utf utf-8 private no-cache no-store \
        must-revalidate max-age s-maxage public no-transform chunked gzip br deflate identity nosniff sameorigin deny \
        mode block h2 h3 ma scaffolding on httpserver2 esf gws origin x-origin referer accept-encoding ";
    let is_known = |word: &str| {
        let is_number = word.len() <= 10 && word.bytes().all(|byte| byte.is_ascii_digit());
        is_number || WORDS.contains(&format!(" {} ", word.to_ascii_lowercase()))
    };
    value.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').all(is_known)
}

/// A folder that is being filled.
#[derive(Debug)]
pub(super) struct Recording {
    folder: PathBuf,
    observed: String,
    /// Answers, in all.
    written: usize,
}

impl Recording {
    /// Makes the folder. One that holds something is left alone: captures of two days must not mix.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn begin(folder: &Path) -> Result<Self, String> {
        let unusable = |error: io::Error| format!("{}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(unusable)?;
        if fs::read_dir(folder).map_err(unusable)?.next().is_some() {
            return Err(format!("{}: is not empty", folder.display()));
        }
        let observed = format!(
            "# What was seen\n\nBy ai-proxy {}, {}. `ai-proxy emulator --replay DIR` answers from the files beside this one.\n\n{}\n",
            env!("CARGO_PKG_VERSION"),
            jiff::Timestamp::now().strftime("%Y-%m-%d"),
            observe::HEAD,
        );
        Ok(Self { folder: folder.to_owned(), observed, written: 0 })
    }

    /// Asks a model everything, and writes down the answers. `number` keeps files of aliases apart.
    pub(super) async fn record(
        &mut self,
        vertex: &Vertex,
        (number, model, location): (usize, &Model, usize),
        redaction: &Redaction,
    ) -> Finding {
        let check = format!("{} recorded", model.alias);
        let (mut written, mut without) = (0, 0);
        for (at, question) in questions::ALL.iter().enumerate() {
            let asked = question.asked(&model.vertex_id);
            let name = format!("{:02}-{}-{:02}-{}", number + 1, file_name(&model.alias), at + 1, question.name);
            let (answered, end) = match probe::put(vertex, location, &asked).await {
                Outcome::Answered(answered) => (answered, End::Complete),
                Outcome::Broken(Some(answered)) => (*answered, End::Cut),
                outcome @ (Outcome::Broken(None) | Outcome::Failed(_)) => {
                    without += 1;
                    // Causes may name hosts: the code has to do.
                    let why = match outcome {
                        Outcome::Failed(failure) => failure.error.status_and_code().1,
                        _ => "no answer in time",
                    };
                    let _ = writeln!(self.observed, "| {name} | {} | - | {why} |", question.open);
                    continue;
                }
            };
            let answered = redacted(answered, &model.vertex_id, redaction);
            let exchange = captured(&asked, &answered, end);
            let _ = writeln!(self.observed, "| {name} | {} | {} |", question.open, observe::row(&answered, end));
            let mut text = serde_json::to_string_pretty(&exchange).expect("strings and numbers always serialise");
            text.push('\n');
            if let Err(error) = fs::write(self.folder.join(format!("{name}.json")), text) {
                return self.cannot_write(&check, &error);
            }
            written += 1;
            self.written += 1;
        }
        if let Err(error) = fs::write(self.folder.join(OBSERVED), format!("{}\n{}", self.observed, observe::NOT_ASKED))
        {
            return self.cannot_write(&check, &error);
        }
        let detail = format!("{written} answers in {}", self.folder.display());
        if without == 0 {
            Finding::ok(&check, detail)
        } else {
            let remedy =
                format!("see {}; an empty folder and another try may get them", self.folder.join(OBSERVED).display());
            Finding::warning(&check, format!("{detail}; {without} questions got none"), remedy)
        }
    }

    /// A recording that was asked for and holds nothing.
    pub(super) fn nothing(&self) -> Finding {
        let detail = format!("no alias answered at its first location: {} has no answers", self.folder.display());
        Finding::failure("recorded", detail, "mend what failed above, and try again")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.written == 0
    }

    fn cannot_write(&self, check: &str, error: &io::Error) -> Finding {
        let detail = format!("cannot write into {}: {error}", self.folder.display());
        Finding::failure(check, detail, "give --record another folder")
    }
}

/// An alias as a part of a file's name.
fn file_name(alias: &str) -> String {
    alias.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// An answer without what it says and whose it is.
fn redacted(answered: Answered, model: &str, redaction: &Redaction) -> Answered {
    let is_plain = answered.headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity");
    let form = match is_event_stream(&answered.headers) {
        _ if !is_plain => Form::Opaque,
        true => Form::Events,
        false => Form::Text,
    };
    let body = redaction.body(&answered.body, form, model).into();
    let headers = fields(&answered.headers, redaction);
    Answered { headers, body, ..answered }
}

/// An exchange as a file has it.
fn captured(asked: &Value, answered: &Answered, end: End) -> Exchange {
    let mut from = 0;
    let mut frames = Vec::with_capacity(answered.pieces.len());
    for piece in &answered.pieces {
        let after_ms = u64::try_from(piece.after.as_millis()).unwrap_or(u64::MAX);
        let to = from + piece.length;
        frames.push(Piece::of(after_ms, &answered.body[from..to]));
        from = to;
    }
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    Exchange {
        version: VERSION,
        request: replay::Request {
            method: "POST".to_owned(),
            path: PATH.to_owned(),
            model: asked["model"].as_str().map(str::to_owned),
            stream: Some(asked["stream"] == true),
        },
        response: replay::Answer {
            status: answered.status,
            headers: answered.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            frames,
            end,
        },
    }
}

/// Header fields, of most of which only the names are left; and of those that name somebody nothing.
fn fields(headers: &HeaderMap, redaction: &Redaction) -> HeaderMap {
    let mut told = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let is_harmless = name.as_str().starts_with("x-vertex-ai-")
            || HARMLESS_FIELDS.contains(&name.as_str()) && value.to_str().is_ok_and(is_of_closed_shape);
        let value = value.to_str().ok().filter(|text| is_harmless && !redaction.is_named_in(text));
        let value = value.map_or_else(
            || HeaderValue::from_static("REDACTED"),
            |text| HeaderValue::from_str(text).expect("it was one before"),
        );
        let name =
            if redaction.is_named_in(name.as_str()) { HeaderName::from_static("x-redacted") } else { name.clone() };
        told.append(name, value);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_may_tell_somebody_keep_their_names_only() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "text/event-stream".parse().unwrap());
        headers.insert("set-cookie", "canary".parse().unwrap());
        headers.insert("content-length", "100".parse().unwrap());
        headers.insert("server", "canary".parse().unwrap());
        headers.insert("cache-control", "private, max-age=0, jane=canary".parse().unwrap());
        headers.insert("alt-svc", "h3=\":443\"; ma=2592000".parse().unwrap());
        headers.insert("x-canary-project", "1".parse().unwrap());
        headers.insert("x-vertex-ai-billed-to", "Canary_Project".parse().unwrap());
        let told = fields(&headers, &Redaction::new("canary-project", None));
        assert_eq!(told["content-type"], "text/event-stream");
        assert_eq!(told["content-length"], "100");
        assert_eq!(told["alt-svc"], "h3=\":443\"; ma=2592000");
        for name in ["server", "cache-control", "set-cookie", "x-redacted", "x-vertex-ai-billed-to"] {
            assert!(told.contains_key(name), "{name}");
        }
        assert!(!format!("{told:?}").to_lowercase().contains("canary"), "{told:?}");
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Recording::begin(&folder.path().join("new/deep")).is_ok());
        assert!(Recording::begin(folder.path()).unwrap_err().ends_with("is not empty"));
        assert_eq!(file_name("a/b:c"), "a_b_c");
    }
}

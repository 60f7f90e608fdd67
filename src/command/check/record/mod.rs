//! `check --live --record DIR`: writes down how the endpoint answers, in the form that the emulator replays, and what was
//! seen in it for people.
//!
//! The questions are fixed ones of the doctor's own, about what Google's pages leave open; nothing of them is written
//! but model and streaming. Of the answers everything is, apart from what says whose they are: `redact` takes that out.

mod observe;
mod questions;
mod redact;

pub(super) use redact::Redaction;

use super::probe::{self, Answered, Outcome};
use super::report::Finding;
use crate::emulator::replay::{self, End, Exchange, Piece, VERSION};
use crate::models::Model;
use crate::upstream::Vertex;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What people read.
const OBSERVED: &str = "observed.md";
/// The path of all questions, as a captured exchange has it.
const PATH: &str = "/v1/projects/PROJECT/locations/LOCATION/endpoints/openapi/chat/completions";
/// Header fields whose values say nothing about anybody. Of all others only the name is written.
const HARMLESS_FIELDS: [&str; 14] = [
    "alt-svc",
    "cache-control",
    "content-disposition",
    "content-encoding",
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

/// A folder that is being filled.
#[derive(Debug)]
pub(super) struct Recording {
    folder: PathBuf,
    observed: String,
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
        Ok(Self { folder: folder.to_owned(), observed })
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
                    let why = match outcome {
                        Outcome::Failed(failure) => failure.for_log(),
                        _ => "no answer in time".to_owned(),
                    };
                    let why = redaction.text(&why);
                    let _ = writeln!(self.observed, "| {name} | {} | - | {why} |", question.open);
                    continue;
                }
            };
            let exchange = captured(&asked, &answered, end, redaction);
            let _ = writeln!(self.observed, "| {name} | {} | {} |", question.open, observe::row(&answered, end));
            let mut text = serde_json::to_string_pretty(&exchange).expect("strings and numbers always serialise");
            text.push('\n');
            if let Err(error) = fs::write(self.folder.join(format!("{name}.json")), text) {
                return self.cannot_write(&check, &error);
            }
            written += 1;
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

    fn cannot_write(&self, check: &str, error: &io::Error) -> Finding {
        let detail = format!("cannot write into {}: {error}", self.folder.display());
        Finding::failure(check, detail, "give --record another folder")
    }
}

/// An alias as a part of a file's name.
fn file_name(alias: &str) -> String {
    alias.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// An exchange as a file has it.
fn captured(asked: &Value, answered: &Answered, end: End, redaction: &Redaction) -> Exchange {
    let ends: Vec<usize> = answered
        .pieces
        .iter()
        .scan(0, |end, piece| {
            *end += piece.length;
            Some(*end)
        })
        .collect();
    let (body, ends) = redaction.apply(&answered.body, &ends);
    let mut from = 0;
    let mut frames = Vec::with_capacity(ends.len());
    for (piece, end) in answered.pieces.iter().zip(ends) {
        let after_ms = u64::try_from(piece.after.as_millis()).unwrap_or(u64::MAX);
        frames.push(Piece::of(after_ms, &body[from..end]));
        from = end;
    }
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
            headers: fields(&answered.headers, body.len()),
            frames,
            end,
        },
    }
}

fn fields(headers: &HeaderMap, length: usize) -> Vec<(String, String)> {
    let shown = |name: &str, value: &[u8]| {
        if name == CONTENT_LENGTH {
            // What was redacted may be shorter.
            length.to_string()
        } else if HARMLESS_FIELDS.contains(&name) || name.starts_with("x-vertex-ai-") {
            value
                .iter()
                .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' })
                .collect()
        } else {
            "REDACTED".to_owned()
        }
    };
    headers.iter().map(|(name, value)| (name.to_string(), shown(name.as_str(), value.as_bytes()))).collect()
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
        let told = fields(&headers, 7);
        assert!(told.contains(&("content-type".to_owned(), "text/event-stream".to_owned())));
        assert!(told.contains(&("set-cookie".to_owned(), "REDACTED".to_owned())));
        assert!(told.contains(&("content-length".to_owned(), "7".to_owned())));
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Recording::begin(&folder.path().join("new/deep")).is_ok());
        assert!(Recording::begin(folder.path()).unwrap_err().ends_with("is not empty"));
        assert_eq!(file_name("a/b:c"), "a_b_c");
    }
}

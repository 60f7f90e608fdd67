//! `ai-proxy keys …`: makes keys and edits the file that holds them, for people.

use super::{EXIT_ARGUMENTS, EXIT_CONFIG, fail, refuse_configuration, say};
use crate::config::Environment;
use crate::keys::{
    Document, EditError, Entry, FileError, KeyDigest, KeyList, Limits, LockedFile, NewEntry, NewKey, parse_time, read,
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::fmt::Write;
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zeroize::Zeroizing;

/// Whose key it is when nobody says.
const DEFAULT_ID: &str = "my-laptop";
/// A pasted key with its line end is far shorter, in bytes.
const MAX_TYPED_BYTES: u64 = 64 * 1024;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    New,
    Hash,
    List,
    Disable,
    Enable,
    Rotate,
    Prune,
}

impl Action {
    fn find(word: &str) -> Option<Self> {
        Some(match word {
            "new" => Self::New,
            "hash" => Self::Hash,
            "list" => Self::List,
            "disable" => Self::Disable,
            "enable" => Self::Enable,
            "rotate" => Self::Rotate,
            "prune" => Self::Prune,
            _ => return None,
        })
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::New => &[
                "file",
                "hashed",
                "plain",
                "expires",
                "models",
                "metrics",
                "rpm",
                "max-concurrent",
                "tokens-per-day",
                "tokens-if-unknown",
            ],
            Self::Rotate => &["file", "hashed", "plain", "expires", "overlap"],
            Self::Disable | Self::Enable => &["file", "key"],
            Self::List => &["file", "json"],
            Self::Hash | Self::Prune => &["file"],
        }
    }
}

/// The words after `keys`.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    action: Action,
    id: Option<String>,
    file: Option<PathBuf>,
    /// Whether the entry holds the digest or the key; a file's default is the digest.
    hashed: Option<bool>,
    /// The digits that a digest begins with.
    key: Option<String>,
    expires: Option<Expiry>,
    overlap: Option<SignedDuration>,
    models: Option<Vec<String>>,
    metrics: bool,
    limits: Limits,
    /// A list for programs.
    json: bool,
}

/// What `--expires` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    Never,
    At(Timestamp),
    After(SignedDuration),
}

impl Request {
    /// Reads the words after `keys`; `None` when they ask for help.
    ///
    /// # Errors
    /// A sentence about the word that does not fit.
    pub(super) fn parse(words: &mut lexopt::Parser) -> Result<Option<Self>, lexopt::Error> {
        use lexopt::prelude::{Long, Short, Value, ValueExt};
        let mut positional = Vec::new();
        let mut options = Vec::new();
        let mut request = Self {
            action: Action::List,
            id: None,
            file: None,
            hashed: None,
            key: None,
            expires: None,
            overlap: None,
            models: None,
            metrics: false,
            limits: Limits::default(),
            json: false,
        };
        while let Some(word) = words.next()? {
            let name = match word {
                Long("help") | Short('h') => return Ok(None),
                Value(value) => {
                    positional.push(value.string()?);
                    continue;
                }
                Long(name) => name.to_owned(),
                other => return Err(other.unexpected()),
            };
            match &*name {
                "file" => request.file = Some(words.value()?.into()),
                "hashed" => request.hashed = Some(true),
                "plain" => request.hashed = Some(false),
                "key" => request.key = Some(words.value()?.string()?),
                "expires" => request.expires = Some(words.value()?.parse_with(parse_expiry)?),
                "overlap" => request.overlap = Some(words.value()?.parse_with(parse_span)?),
                "models" => {
                    let aliases = words.value()?.string()?;
                    request.models = Some(aliases.split(',').map(|alias| alias.trim().to_owned()).collect());
                }
                "metrics" => request.metrics = true,
                "json" => request.json = true,
                "rpm" => request.limits.rpm = Some(words.value()?.parse()?),
                "max-concurrent" => request.limits.max_concurrent = Some(words.value()?.parse()?),
                "tokens-per-day" => request.limits.tokens_per_day = Some(words.value()?.parse()?),
                "tokens-if-unknown" => request.limits.tokens_if_unknown = Some(words.value()?.parse()?),
                _ => return Err(Long(&name).unexpected()),
            }
            if options.contains(&name) {
                return Err(format!("--{name} stands twice").into());
            }
            options.push(name);
        }
        if options.iter().any(|name| name == "hashed") && options.iter().any(|name| name == "plain") {
            return Err("--hashed and --plain contradict each other".into());
        }
        let mut positional = positional.into_iter();
        let action = positional.next();
        let Some(found) = action.as_deref().and_then(Action::find) else {
            return Err("what about the keys? one of: new, hash, list, disable, enable, rotate, prune".into());
        };
        request.action = found;
        let action = action.unwrap_or_default();
        if let Some(name) = options.iter().find(|name| !found.options().contains(&&***name)) {
            return Err(format!("'keys {action}' has no option --{name}").into());
        }
        request.id = positional.next();
        let takes_id = !matches!(request.action, Action::List | Action::Prune);
        let needs_id = matches!(request.action, Action::Disable | Action::Enable | Action::Rotate);
        if let Some(word) = positional.next().or_else(|| request.id.clone().filter(|_| !takes_id)) {
            return Err(format!("'{word}' is one argument too many; see 'ai-proxy --help'").into());
        }
        if needs_id && request.id.is_none() {
            return Err(format!("'keys {action}' needs the ID of an entry").into());
        }
        Ok(Some(request))
    }

    /// Does it.
    pub(super) fn run(mut self) -> ExitCode {
        if self.file.is_none() {
            match Environment::of_process().text("API_KEYS_FILE") {
                Ok(file) => self.file = file.map(PathBuf::from),
                Err(problem) => return refuse_configuration(&[problem]),
            }
        }
        let done = match (self.action, self.file.clone()) {
            (Action::New, None) => self.print_new(),
            (Action::Hash, None) if self.id.is_none() => print_hash(),
            (Action::Hash, _) if self.id.as_deref() == Some("-") => print_hash(),
            (_, None) => Err(Failure::Arguments("which file? --file FILE, or API_KEYS_FILE in the environment".into())),
            (Action::List, Some(file)) => list(&file, self.json),
            (_, Some(file)) => self.edit(&file),
        };
        match done {
            Ok(told) => say(&told),
            Err(failure) => failure.tell(),
        }
    }

    /// Makes a key that is in no file.
    fn print_new(&self) -> Result<String, Failure> {
        let (key, entry) = self.new_entry(self.hashed.unwrap_or(false))?;
        // Judged as the gateway will.
        KeyList::parse(&format!("[{entry}]")).map_err(|problems| Failure::Arguments(problems.join("; ")))?;
        Ok(format!(
            "key    {}\nentry  {entry}\n\nThe key is shown only now. Add the entry to the array in API_KEYS_FILE, which a running gateway takes up by itself,\nor in API_KEYS_JSON, and restart it.\n",
            key.reveal()
        ))
    }

    /// A new key and its entry, with all that the options say.
    fn new_entry(&self, hashed: bool) -> Result<(NewKey, String), Failure> {
        let key = NewKey::generate().map_err(|_| Failure::Failed("the system gives no random bytes".into()))?;
        let mut entry = NewEntry::new(self.id.as_deref().unwrap_or(DEFAULT_ID), key.secret(hashed));
        entry.expires_at = self.expires_at()?;
        entry.models.clone_from(&self.models);
        entry.metrics = self.metrics;
        entry.limits = self.limits;
        let json = entry.to_json();
        Ok((key, json))
    }

    fn expires_at(&self) -> Result<Option<Timestamp>, Failure> {
        match self.expires {
            None | Some(Expiry::Never) => Ok(None),
            Some(Expiry::At(time)) => Ok(Some(time)),
            Some(Expiry::After(span)) => in_time(span).map(Some),
        }
    }

    /// Changes the file, under a lock, in one step.
    fn edit(&self, path: &Path) -> Result<String, Failure> {
        let of_file = |error| Failure::of_file(path, error);
        let file = LockedFile::open(path).map_err(of_file)?;
        let old = file.read().map_err(of_file)?;
        let of_edit = |error| match error {
            EditError::Invalid(problems) => Failure::Invalid(path.to_owned(), problems),
            nothing_left => Failure::Failed(nothing_left.to_string()),
        };
        let (document, told) = match (old, self.action) {
            (None, Action::New) => {
                let (key, entry) = self.new_entry(self.hashed.unwrap_or(true))?;
                let document = Document::with_entry(&entry).map_err(|error| Failure::Arguments(error.to_string()))?;
                (document, self.told_new(&key, &entry))
            }
            (None, _) => return Err(of_file(FileError::Unreadable(io::ErrorKind::NotFound))),
            (Some(text), action) => {
                let before = text.clone();
                let mut document = Document::parse(text).map_err(of_edit)?;
                let told = match action {
                    Action::New => self.add(&mut document)?,
                    Action::Hash => self.hash(&mut document)?,
                    Action::Disable => self.disable(&mut document)?,
                    Action::Enable => self.enable(&mut document)?,
                    Action::Rotate => self.rotate(&mut document)?,
                    Action::Prune | Action::List => prune(&mut document).map_err(of_edit)?,
                };
                if document.text() == *before {
                    return Ok(told);
                }
                (document, told)
            }
        };
        file.replace(document.text()).map_err(of_file)?;
        let mut told = format!("{told}{} has {} now.", path.display(), count(document.entries().len()));
        if !document.entries().iter().any(|entry| entry.enabled) {
            told.push_str(" None is enabled: a running gateway lets nobody in, and none starts with it.");
        }
        told.push('\n');
        Ok(told)
    }

    fn told_new(&self, key: &NewKey, entry: &str) -> String {
        let stored = if self.hashed.unwrap_or(true) { "The file has only its digest. " } else { "" };
        // An entry with the key in it shows it a second time, which is once too often.
        let entry = if self.hashed.unwrap_or(true) { format!("entry  {entry}\n") } else { String::new() };
        format!("key    {}\n{entry}\nThe key is shown only now. {stored}", key.reveal())
    }

    fn add(&self, document: &mut Document) -> Result<String, Failure> {
        let id = self.id.as_deref().unwrap_or(DEFAULT_ID);
        if document.entries().iter().any(|entry| entry.id == id) {
            return Err(Failure::Failed(format!(
                "{} is in the file already; 'keys rotate' gives it another key",
                shown(id)
            )));
        }
        let (key, entry) = self.new_entry(self.hashed.unwrap_or(true))?;
        document.push(&entry).map_err(|error| Failure::Arguments(error.to_string()))?;
        Ok(self.told_new(&key, &entry))
    }

    /// The entries that are meant, by id and where it is given by the digest's first digits.
    fn chosen(&self, document: &Document) -> Result<Vec<usize>, Failure> {
        let id = self.id.as_deref().unwrap_or_default();
        let indices = |matches: &dyn Fn(&Entry) -> bool| -> Vec<usize> {
            let entries = document.entries().iter().enumerate();
            entries.filter(|(_, entry)| matches(entry)).map(|(index, _)| index).collect()
        };
        let of_id = indices(&|entry| entry.id == id);
        if of_id.is_empty() {
            return Err(Failure::Failed(format!("there is no entry with the id {}", shown(id))));
        }
        let Some(prefix) = &self.key else { return Ok(of_id) };
        let chosen = indices(&|entry| entry.id == id && entry.digest.to_hex().starts_with(&**prefix));
        match (prefix.len() >= 4, chosen.len()) {
            (true, 1) => Ok(chosen),
            (false, _) => {
                Err(Failure::Arguments("--key needs four digits of a digest at least; 'keys list' shows eight".into()))
            }
            (true, 0) => Err(Failure::Failed(format!("{} has no key whose digest begins so", shown(id)))),
            (true, _) => Err(Failure::Failed("more than one digest begins so".into())),
        }
    }

    fn disable(&self, document: &mut Document) -> Result<String, Failure> {
        let mut told = String::new();
        for index in self.chosen(document)? {
            if document.entries()[index].enabled {
                set(document, index, "enabled", "false")?;
                let _ = writeln!(told, "{} is disabled.", named(&document.entries()[index]));
            } else {
                let _ = writeln!(told, "{} was disabled before.", named(&document.entries()[index]));
            }
        }
        Ok(told)
    }

    fn enable(&self, document: &mut Document) -> Result<String, Failure> {
        let chosen = self.chosen(document)?;
        let disabled: Vec<usize> = chosen.into_iter().filter(|index| !document.entries()[*index].enabled).collect();
        match disabled[..] {
            [] => Ok(format!("{} was enabled before.\n", shown(self.id.as_deref().unwrap_or_default()))),
            [index] => {
                set(document, index, "enabled", "true")?;
                let entry = &document.entries()[index];
                let expired = if entry.is_expired(Timestamp::now()) { ", but its time is over" } else { "" };
                Ok(format!("{} is enabled{expired}.\n", named(entry)))
            }
            // One of them may be disabled because it was stolen.
            _ => {
                let names: Vec<String> =
                    disabled.iter().map(|index| document.entries()[*index].digest.prefix()).collect();
                Err(Failure::Arguments(format!("which of its keys? --key {}", names.join(" or "))))
            }
        }
    }

    /// A further key for an id, which may all that its newest enabled one may.
    fn rotate(&self, document: &mut Document) -> Result<String, Failure> {
        let now = Timestamp::now();
        let alive: Vec<usize> = self
            .chosen(document)?
            .into_iter()
            .filter(|index| document.entries()[*index].enabled && !document.entries()[*index].is_expired(now))
            .collect();
        let Some(newest) = alive.last().map(|index| document.entries()[*index].clone()) else {
            let id = shown(self.id.as_deref().unwrap_or_default());
            return Err(Failure::Failed(format!("{id} has no key that works, so there is nothing to rotate")));
        };
        if let (Some(end), None) = (newest.expires_at, self.expires) {
            return Err(Failure::Arguments(format!(
                "the present key expires at {end}; say with --expires when the new one does, or --expires never"
            )));
        }
        let hashed = self.hashed.unwrap_or(true);
        let key = NewKey::generate().map_err(|_| Failure::Failed("the system gives no random bytes".into()))?;
        let mut entry = NewEntry::new(&newest.id, key.secret(hashed));
        entry.expires_at = self.expires_at()?;
        entry.models.clone_from(&newest.models);
        entry.metrics = newest.metrics;
        entry.limits = newest.limits;
        let entry = entry.to_json();
        let mut told = self.told_new(&key, &entry);
        let end = self.overlap.map(in_time).transpose()?;
        for index in alive {
            let old = document.entries()[index].clone();
            match end {
                Some(end) if old.expires_at.is_none_or(|earlier| earlier > end) => {
                    set(document, index, "expires_at", &format!("\"{end}\""))?;
                    let _ = write!(told, "\n{} works until {end}.", named(&old));
                }
                Some(_) => {}
                None => {
                    let _ = write!(
                        told,
                        "\n{} works on. When nobody uses it any more: ai-proxy keys disable {} --key {}",
                        named(&old),
                        shown(&old.id),
                        old.digest.prefix()
                    );
                }
            }
        }
        document.push(&entry).map_err(|error| Failure::Failed(error.to_string()))?;
        told.push('\n');
        Ok(told)
    }

    /// Puts digests in the place of keys.
    fn hash(&self, document: &mut Document) -> Result<String, Failure> {
        if self.id.is_some() {
            self.chosen(document)?;
        }
        let meant = |entry: &Entry| self.id.as_ref().is_none_or(|id| entry.id == *id);
        let done = document.hash(meant).map_err(|error| Failure::Failed(error.to_string()))?;
        let keys = if done == 1 { "1 key is".to_owned() } else { format!("{done} keys are") };
        Ok(format!(
            "{keys} a digest now, and whoever reads the file has no use of it. The keys themselves stay valid.\n"
        ))
    }
}

fn set(document: &mut Document, index: usize, field: &str, value: &str) -> Result<(), Failure> {
    document.set(index, field, value).map_err(|error| Failure::Failed(error.to_string()))
}

fn prune(document: &mut Document) -> Result<String, EditError> {
    let now = Timestamp::now();
    let over = |entry: &Entry| !entry.enabled || entry.is_expired(now);
    let told: String = document
        .entries()
        .iter()
        .filter(|entry| over(entry))
        .map(|entry| format!("{} is removed: it was {}.\n", named(entry), state(entry, now)))
        .collect();
    if told.is_empty() {
        return Ok("There is nothing to remove: no key is disabled or expired.\n".into());
    }
    document.remove(over)?;
    Ok(told)
}

/// An entry as a program reads it from a list.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    state: &'static str,
    /// The first digits, as `--key` takes them.
    sha256: String,
    /// `key` or `digest`.
    stored: &'static str,
    expires_at: Option<Timestamp>,
    /// `None` stands for all.
    models: Option<&'a [String]>,
    metrics: bool,
    rpm: Option<u32>,
    max_concurrent: Option<u32>,
    tokens_per_day: Option<u64>,
    tokens_if_unknown: Option<u64>,
}

impl<'a> Listed<'a> {
    fn new(entry: &'a Entry, now: Timestamp) -> Self {
        let Limits { rpm, max_concurrent, tokens_per_day, tokens_if_unknown } = entry.limits;
        Self {
            id: &entry.id,
            state: state(entry, now),
            sha256: entry.digest.prefix(),
            stored: if entry.is_hashed { "digest" } else { "key" },
            expires_at: entry.expires_at,
            models: entry.models.as_deref(),
            metrics: entry.metrics,
            rpm,
            max_concurrent,
            tokens_per_day,
            tokens_if_unknown,
        }
    }

    fn cells(&self) -> [String; 11] {
        fn or_dash(value: Option<impl ToString>) -> String {
            value.map_or_else(|| "-".to_owned(), |value| value.to_string())
        }
        [
            shown(self.id),
            self.state.to_owned(),
            self.sha256.clone(),
            self.stored.to_owned(),
            or_dash(self.expires_at),
            or_dash(self.rpm),
            or_dash(self.max_concurrent),
            or_dash(self.tokens_per_day),
            or_dash(self.tokens_if_unknown),
            if self.metrics { "yes" } else { "-" }.to_owned(),
            self.models.map_or_else(|| "all".to_owned(), |models| shown(&models.join(","))),
        ]
    }
}

/// The entries of a file as a table, or for programs as a JSON array, without a key.
fn list(path: &Path, as_json: bool) -> Result<String, Failure> {
    let text = read(path).map_err(|error| Failure::of_file(path, error))?;
    let list = KeyList::parse(&text).map_err(|problems| Failure::Invalid(path.to_owned(), problems))?;
    let now = Timestamp::now();
    let listed: Vec<Listed<'_>> = list.entries().iter().map(|entry| Listed::new(entry, now)).collect();
    if as_json {
        let json = serde_json::to_string_pretty(&listed).expect("strings and numbers always serialise");
        return Ok(json + "\n");
    }
    let head = [
        "ID",
        "STATE",
        "SHA-256",
        "STORED",
        "EXPIRES",
        "RPM",
        "CONCURRENT",
        "TOKENS/DAY",
        "IF UNKNOWN",
        "METRICS",
        "MODELS",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(listed.iter().map(Listed::cells));
    let widths: Vec<usize> =
        (0..head.len()).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut table = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        table.push_str(line.trim_end());
        table.push('\n');
    }
    Ok(table)
}

/// The digest of a key that is typed or piped: arguments can be seen by everybody on the machine.
fn print_hash() -> Result<String, Failure> {
    let mut input = io::stdin().lock();
    if input.is_terminal() {
        eprintln!("Paste the key and press Enter:");
    }
    let mut line = Zeroizing::new(Vec::new());
    io::Read::take(&mut input, MAX_TYPED_BYTES)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::Failed(format!("stdin cannot be read: {}", error.kind())))?;
    let key = line.trim_ascii();
    // Judged as a list would be that has it.
    let entry = std::str::from_utf8(key).ok().map(|key| serde_json::json!([{ "id": "x", "key": key }]).to_string());
    let judged = entry.map(Zeroizing::new).map(|entry| KeyList::parse(&entry));
    match judged {
        Some(Ok(_)) => Ok(format!("{}\n", KeyDigest::of(key).to_hex())),
        Some(Err(problems)) => Err(Failure::Arguments(problems.join("; ").replace("entry 1: 'key'", "the key"))),
        None => Err(Failure::Arguments("the key has a character that a header cannot carry".into())),
    }
}

/// Why nothing was done.
enum Failure {
    Arguments(String),
    Failed(String),
    /// The file is no list of keys.
    Invalid(PathBuf, Vec<String>),
}

impl Failure {
    fn of_file(path: &Path, error: FileError) -> Self {
        match error {
            FileError::Unreadable(_) | FileError::Locked | FileError::Unwritable(_) => {
                Self::Failed(format!("{} {error}", path.display()))
            }
            _ => Self::Invalid(path.to_owned(), vec![error.to_string()]),
        }
    }

    fn tell(self) -> ExitCode {
        match self {
            Self::Arguments(message) => {
                eprintln!("ai-proxy: {message}");
                ExitCode::from(EXIT_ARGUMENTS)
            }
            Self::Failed(message) => fail(&message),
            Self::Invalid(path, problems) => {
                for problem in problems {
                    eprintln!("{}: {problem}", path.display());
                }
                ExitCode::from(EXIT_CONFIG)
            }
        }
    }
}

fn state(entry: &Entry, now: Timestamp) -> &'static str {
    match (entry.enabled, entry.is_expired(now)) {
        (false, _) => "disabled",
        (true, true) => "expired",
        (true, false) => "enabled",
    }
}

fn named(entry: &Entry) -> String {
    format!("The key {} of {}", entry.digest.prefix(), shown(&entry.id))
}

/// Text of a file for a terminal: quoted where it could be mistaken for something else.
fn shown(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-@+:/,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

fn count(entries: usize) -> String {
    if entries == 1 { "1 entry".into() } else { format!("{entries} entries") }
}

/// The time after a span from now, in whole seconds.
fn in_time(span: SignedDuration) -> Result<Timestamp, Failure> {
    Timestamp::from_second(Timestamp::now().as_second().saturating_add(span.as_secs()))
        .map_err(|_| Failure::Arguments("that is too far away".into()))
}

fn parse_expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry::Never);
    }
    let time = parse_time(text).map(Expiry::At);
    time.or_else(|| parse_span(text).ok().map(Expiry::After))
        .ok_or_else(|| "a time by RFC 3339 such as 2030-12-31T23:59:59Z, a span such as 90d, or never".into())
}

/// A whole number with a unit, such as `24h`.
fn parse_span(text: &str) -> Result<SignedDuration, String> {
    let parse = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return None,
        };
        let number: u32 = Some(number).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
        Some(SignedDuration::from_secs(i64::from(number) * seconds))
    };
    parse().ok_or_else(|| "a whole number with a unit: s, m, h, d or w, such as 24h".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(words: &[&str]) -> Result<Option<Request>, String> {
        Request::parse(&mut lexopt::Parser::from_args(words)).map_err(|error| error.to_string())
    }

    #[test]
    fn words() {
        let request = parse(&["new", "ci", "--rpm=60", "--expires", "90d", "--models", "flash, pro", "--plain"]);
        let request = request.unwrap().unwrap();
        assert_eq!((request.action, request.id.as_deref(), request.hashed), (Action::New, Some("ci"), Some(false)));
        assert_eq!(request.expires, Some(Expiry::After(SignedDuration::from_hours(90 * 24))));
        assert_eq!(request.models, Some(vec!["flash".to_owned(), "pro".to_owned()]));
        assert_eq!(parse(&["list", "--help"]).unwrap(), None);
        for bad in [
            &["new", "a", "b"][..],
            &[],
            &["old"],
            &["list", "x"],
            &["disable"],
            &["rotate", "--overlap", "24h"],
            &["rotate", "a", "--overlap", "24"],
            &["rotate", "a", "--rpm", "5"],
            &["new", "--rpm", "many"],
            &["new", "--rpm", "1", "--rpm", "2"],
            &["new", "--hashed", "--plain"],
            &["new", "--expires", "tomorrow"],
            &["new", "-x"],
            &["new", "--file"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans() {
        assert_eq!(parse_span("24h"), Ok(SignedDuration::from_hours(24)));
        assert_eq!(parse_span("0s"), Ok(SignedDuration::ZERO));
        for bad in ["", "h", "24", "-1h", "+1h", "1.5h", "1y", "99999999999h", "1ä"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_cannot_draw_on_a_terminal() {
        assert_eq!(shown("team-a@example.com"), "team-a@example.com");
        assert_eq!(shown("a b"), "\"a b\"");
        assert!(shown("\u{202e}abc").starts_with("\"\\u{202e}"));
    }

    proptest! {
        #[test]
        fn no_words_make_the_parser_panic(words in proptest::collection::vec(".{0,12}", 0..6)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let _ = parse(&words);
            words.iter().for_each(|word| drop((parse_span(word), parse_expiry(word))));
        }
    }
}

//! What a prompt holds that an argument could be: numbers, quoted strings, dates, addresses, paths, names.
//!
//! Facts are taken in the order in which they stand, each once, so that `add(a, b)` gets two different numbers.

use std::collections::BTreeMap;

use serde_json::Value;

/// Longer prompts are read up to here; what a model is to do stands in far less.
const READ_BYTES: usize = 64 * 1024;
/// Facts of one kind beyond this are not kept.
const MOST: usize = 1_000;

/// Words that begin a sentence in capitals without being a name.
const STARTERS: [&str; 62] = [
    "a",
    "add",
    "after",
    "all",
    "an",
    "and",
    "are",
    "as",
    "at",
    "book",
    "by",
    "calculate",
    "call",
    "can",
    "compute",
    "convert",
    "could",
    "create",
    "delete",
    "describe",
    "do",
    "does",
    "explain",
    "fetch",
    "find",
    "for",
    "from",
    "get",
    "give",
    "how",
    "i",
    "if",
    "in",
    "is",
    "list",
    "look",
    "make",
    "my",
    "now",
    "on",
    "open",
    "please",
    "put",
    "read",
    "run",
    "say",
    "search",
    "send",
    "show",
    "tell",
    "the",
    "then",
    "to",
    "translate",
    "use",
    "what",
    "when",
    "where",
    "which",
    "who",
    "why",
    "write",
];

/// The kinds of facts that are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `2026-05-17`, with or without a time.
    Date,
    /// `ada@example.com`
    Email,
    /// One or several capitalised words.
    Name,
    /// `src/main.rs`, `notes.txt`
    Path,
    /// Anything in quotation marks or backticks.
    Quoted,
    /// `https://…`
    Url,
}

/// What a prompt holds, and what of it is still to be used.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    text: String,
    lower: String,
    numbers: Vec<(f64, bool)>,
    texts: BTreeMap<Kind, Vec<(String, bool)>>,
    known: BTreeMap<String, Value>,
}

impl Facts {
    /// Reads a prompt.
    pub(super) fn read(prompt: &str) -> Self {
        let mut end = prompt.len().min(READ_BYTES);
        while !prompt.is_char_boundary(end) {
            end -= 1;
        }
        let text = prompt[..end].trim().to_owned();
        let mut facts = Self { lower: text.to_lowercase(), ..Self::default() };
        for quoted in quoted(&text) {
            facts.keep(Kind::Quoted, quoted);
        }
        facts.read_words(&text);
        facts.text = text;
        facts
    }

    /// Adds what a tool has answered: the fields of an object by name, anything else as more text.
    pub(super) fn learn(&mut self, result: &str) {
        match serde_json::from_str::<Value>(result) {
            Ok(Value::Object(fields)) => self.known.extend(fields),
            _ => {
                let mut other = Self::read(result);
                // A result is more to the point than the question.
                other.numbers.append(&mut self.numbers);
                self.numbers = other.numbers;
                for (kind, texts) in other.texts {
                    self.texts.entry(kind).or_default().extend(texts);
                }
            }
        }
    }

    /// The prompt itself.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A value that a tool gave under this name.
    pub(super) fn known(&self, name: &str) -> Option<&Value> {
        self.known.get(name)
    }

    /// Whether the prompt holds this, as whole words and in any case.
    pub(super) fn mentions(&self, words: &str) -> bool {
        let words = words.to_lowercase().replace(['_', '-'], " ");
        let words = words.trim();
        !words.is_empty()
            && self.lower.match_indices(words).any(|(at, found)| {
                let before = self.lower[..at].chars().next_back();
                let after = self.lower[at + found.len()..].chars().next();
                !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
            })
    }

    /// How many numbers are left.
    pub(super) fn numbers_left(&self) -> usize {
        self.numbers.iter().filter(|(_, taken)| !taken).count()
    }

    /// Takes the next number that is good enough.
    pub(super) fn take_number(&mut self, good: impl Fn(f64) -> bool) -> Option<f64> {
        let (number, taken) = self.numbers.iter_mut().find(|(number, taken)| !*taken && good(*number))?;
        *taken = true;
        Some(*number)
    }

    /// Whether a fact of this kind is left.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.count(kind) > 0
    }

    /// How many facts of this kind are left.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.texts.get(&kind).map_or(0, |texts| texts.iter().filter(|(_, taken)| !taken).count())
    }

    /// Takes the next fact of this kind.
    pub(super) fn take(&mut self, kind: Kind) -> Option<String> {
        let (text, taken) = self.texts.get_mut(&kind)?.iter_mut().find(|(_, taken)| !*taken)?;
        *taken = true;
        Some(text.clone())
    }

    /// Takes the name that stands after one of these words: `from Paris`.
    pub(super) fn take_name_after(&mut self, words: &[&str]) -> Option<String> {
        let lower = &self.lower;
        let names = self.texts.get_mut(&Kind::Name)?;
        let (name, taken) = names.iter_mut().find(|(name, taken)| {
            !*taken && words.iter().any(|word| lower.contains(&format!(" {word} {}", name.to_lowercase())))
        })?;
        *taken = true;
        Some(name.clone())
    }

    /// The first fact of this kind, used or not.
    pub(super) fn first(&self, kind: Kind) -> Option<&str> {
        let (text, _) = self.texts.get(&kind)?.first()?;
        Some(text)
    }

    fn keep(&mut self, kind: Kind, text: impl Into<String>) {
        let texts = self.texts.entry(kind).or_default();
        let text = text.into();
        if texts.len() < MOST && texts.iter().all(|(known, _)| *known != text) {
            texts.push((text, false));
        }
    }

    fn read_words(&mut self, text: &str) {
        let mut name: Vec<&str> = Vec::new();
        let mut name_starts_sentence = false;
        let mut late_names = Vec::new();
        let mut sentence_start = true;
        for raw in text.split_whitespace() {
            let word = raw.trim_matches(|c: char| !(c.is_alphanumeric() || "/~.+-_$@".contains(c)));
            let word = word.trim_end_matches(['.', '-', '+']);
            let ends_sentence = raw.ends_with(['.', '?', '!', ':', ';']);
            let capitalised = word.chars().next().is_some_and(char::is_uppercase)
                && word.chars().all(|c| c.is_alphanumeric() || "'’-.".contains(c));
            let is_name = capitalised
                && !(word.len() == 1 || word.starts_with("I'") || word.starts_with("I’"))
                && !(sentence_start && STARTERS.contains(&word.to_lowercase().as_str()));
            if !is_name && !name.is_empty() {
                self.keep_name(&name, name_starts_sentence, &mut late_names);
                name.clear();
            }
            if is_name {
                if name.is_empty() {
                    name_starts_sentence = sentence_start;
                }
                name.push(word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")).unwrap_or(word));
                if raw.ends_with([',', '.', '?', '!', ';', ':', ')', '"']) {
                    self.keep_name(&name, name_starts_sentence, &mut late_names);
                    name.clear();
                }
            } else if let Some(kind) = kind_of(word) {
                self.keep(kind, word);
            } else {
                self.read_numbers(raw);
            }
            sentence_start = ends_sentence;
        }
        if !name.is_empty() {
            self.keep_name(&name, name_starts_sentence, &mut late_names);
        }
        // A capital that begins a sentence is a weak sign of a name: it counts where there is no better one.
        if !self.has(Kind::Name) {
            for name in late_names {
                self.keep(Kind::Name, name);
            }
        }
    }

    fn keep_name(&mut self, words: &[&str], starts_sentence: bool, late: &mut Vec<String>) {
        let name = words.join(" ");
        if starts_sentence && words.len() == 1 {
            late.push(name);
        } else {
            self.keep(Kind::Name, name);
        }
    }

    /// The numbers in a word: `2024`, `-3.5`, `1,776`, `$12`, `2+3`; not those in `gpt4`.
    fn read_numbers(&mut self, word: &str) {
        let bytes = word.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let before = word[..at].chars().next_back();
            let starts = bytes[at].is_ascii_digit() && !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
            if !starts {
                // On to the next character, over the rest of this one.
                at += 1;
                while !word.is_char_boundary(at) {
                    at += 1;
                }
                continue;
            }
            let mut digits = String::new();
            // A minus belongs to the number unless it stands between two.
            if before == Some('-') && !word[..at - 1].ends_with(|c: char| c.is_alphanumeric() || c == ')') {
                digits.push('-');
            }
            while at < bytes.len() {
                let followed = bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
                match bytes[at] {
                    digit if digit.is_ascii_digit() => digits.push(char::from(digit)),
                    b'.' if followed && !digits.contains('.') => digits.push('.'),
                    // A thousands separator has three digits after it; a list has blanks.
                    b',' if bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count() == 3 => {}
                    _ => break,
                }
                at += 1;
            }
            if let Ok(number) = digits.parse::<f64>()
                && number.is_finite()
                && self.numbers.len() < MOST
            {
                self.numbers.push((number, false));
            }
        }
    }
}

/// What a single word is, where its form says so.
fn kind_of(word: &str) -> Option<Kind> {
    if word.contains("://") {
        return Some(Kind::Url);
    }
    if let Some((user, host)) = word.split_once('@')
        && !user.is_empty()
        && host.contains('.')
    {
        return Some(Kind::Email);
    }
    if is_date(word) {
        return Some(Kind::Date);
    }
    let is_path_char = |c: char| c.is_alphanumeric() || "/._-~+@".contains(c);
    if word.chars().all(is_path_char) && word.contains(char::is_alphabetic) {
        if word.contains('/') {
            return Some(Kind::Path);
        }
        if let Some((stem, extension)) = word.rsplit_once('.')
            && !stem.is_empty()
            && (1..=5).contains(&extension.len())
            && extension.starts_with(|c: char| c.is_ascii_alphabetic())
            && extension.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Some(Kind::Path);
        }
    }
    None
}

/// Whether this is a day as ISO 8601 writes it, with or without a time after it.
pub(super) fn is_date(word: &str) -> bool {
    let (day, rest) = match word.as_bytes() {
        bytes if bytes.len() >= 10 => bytes.split_at(10),
        _ => return false,
    };
    day.iter().enumerate().all(|(at, byte)| match at {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    }) && (rest.is_empty() || rest[0] == b'T')
}

/// The texts in quotation marks and backticks, in order.
fn quoted(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut before = None;
    while let Some((at, open)) = rest.char_indices().find(|(_, c)| "\"'`“„«‘".contains(*c)) {
        let close = match open {
            '“' => '”',
            '„' => '“',
            '«' => '»',
            '‘' => '’',
            same => same,
        };
        let last = rest[..at].chars().next_back().or(before);
        let inner = &rest[at + open.len_utf8()..];
        // An apostrophe stands inside a word.
        let opens = open != '\'' || !last.is_some_and(char::is_alphanumeric);
        let end = inner
            .char_indices()
            .find(|(at, c)| *c == close && (close != '\'' || !inner[at + 1..].starts_with(char::is_alphanumeric)));
        if opens && let Some((end, _)) = end {
            if end > 0 {
                found.push(&inner[..end]);
            }
            rest = &inner[end + close.len_utf8()..];
            before = Some(close);
        } else {
            rest = inner;
            before = Some(open);
        }
        if found.len() >= MOST {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<f64> {
        Facts::read(text).numbers.iter().map(|(n, _)| *n).collect()
    }

    fn texts(text: &str, kind: Kind) -> Vec<String> {
        let facts = Facts::read(text);
        let texts = facts.texts.get(&kind).cloned().unwrap_or_default();
        texts.into_iter().map(|(text, _)| text).collect()
    }

    #[test]
    fn numbers_are_found_in_order() {
        assert_eq!(numbers("What is 2024 plus 1776?"), [2024.0, 1776.0]);
        assert_eq!(numbers("-3.5 and (4) and $1,250.75, 50%"), [-3.5, 4.0, 1250.75, 50.0]);
        assert_eq!(numbers("2+3, 10-4 and 1,2"), [2.0, 3.0, 10.0, 4.0, 1.0, 2.0]);
        assert_eq!(numbers("gpt4 on 2026-05-17 at a1b2"), Vec::<f64>::new());
        assert_eq!(numbers("5."), [5.0]);
        assert_eq!(numbers("５ ½ é7"), Vec::<f64>::new());
    }

    #[test]
    fn texts_are_found_by_kind() {
        let prompt = "Email \"the report\" to ada@example.com, see https://example.com/x and `ls -la` by 2026-05-17.";
        assert_eq!(texts(prompt, Kind::Quoted), ["the report", "ls -la"]);
        assert_eq!(texts(prompt, Kind::Email), ["ada@example.com"]);
        assert_eq!(texts(prompt, Kind::Url), ["https://example.com/x"]);
        assert_eq!(texts(prompt, Kind::Date), ["2026-05-17"]);
        assert_eq!(texts("Read src/main.rs and notes.txt.", Kind::Path), ["src/main.rs", "notes.txt"]);
        assert_eq!(texts("It's Ada's 'own' book", Kind::Quoted), ["own"]);
        assert_eq!(texts("Quote \"unclosed", Kind::Quoted), Vec::<String>::new());
    }

    #[test]
    fn names_are_capitalised_words() {
        assert_eq!(
            texts("What is the weather in San Francisco, Paris and London?", Kind::Name),
            ["San Francisco", "Paris", "London"]
        );
        assert_eq!(texts("Oslo weather", Kind::Name), ["Oslo"]);
        assert_eq!(texts("Describe Ada's plan. Fly to Rome.", Kind::Name), ["Ada", "Rome"]);
        let mut facts = Facts::read("Fly from Berlin to Rome.");
        assert_eq!(facts.take_name_after(&["to"]), Some("Rome".to_owned()));
        assert_eq!(facts.take(Kind::Name), Some("Berlin".to_owned()));
        assert_eq!(facts.take(Kind::Name), None);
    }

    #[test]
    fn words_are_whole() {
        let facts = Facts::read("Use Celsius, please");
        assert!(facts.mentions("celsius"));
        assert!(!facts.mentions("cel"));
        assert!(!facts.mentions(""));
    }
}

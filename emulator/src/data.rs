//! Files of data that people write: what is wrong is told with the file's name and the field's.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::library::Unusable;
use super::place;

/// Reads a value from JSON. `judge` sees it first, for what serde would have no plain words for: it tells the field, and
/// what is wrong with it.
pub(super) fn read<T: DeserializeOwned>(
    file: &str,
    bytes: &[u8],
    judge: fn(&Value) -> Result<(), (String, String)>,
) -> Result<T, Unusable> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| unusable(file, "", &error))?;
    let fault = |(field, problem)| Unusable { file: file.to_owned(), field, problem };
    if !value.is_object() {
        return Err(fault(("the file".to_owned(), format!("must be an object, and is {}", kind_of(&value)))));
    }
    judge(&value).map_err(fault)?;
    // Again from the bytes: only so a field that stands twice is noticed.
    serde_json::from_slice(bytes)
        .map_err(|error| unusable(file, &place::field_at(bytes, error.line(), error.column()), &error))
}

fn unusable(file: &str, path: &str, error: &serde_json::Error) -> Unusable {
    let message = error.to_string();
    // The place stands at the end of serde's message too.
    let problem = message.split(" at line ").next().unwrap_or_default().to_owned();
    // Serde names the field in words, and as the place what it stands in.
    let named = [("missing field `", "is missing"), ("duplicate field `", "stands twice")].into_iter().find_map(
        |(words, problem)| {
            let name = name_behind(&message, words)?;
            Some((name, problem.to_owned()))
        },
    );
    let (field, problem) = match (named, path) {
        (Some((name, problem)), "") => (name.to_owned(), problem),
        (Some((name, problem)), _) if path.ends_with(name) => (path.to_owned(), problem),
        (Some((name, problem)), _) => (format!("{path}.{name}"), problem),
        (None, "") => (format!("line {}, column {}", error.line(), error.column()), problem),
        (None, _) => (path.to_owned(), problem),
    };
    Unusable { file: file.to_owned(), field, problem }
}

/// The name behind these words.
fn name_behind<'a>(message: &'a str, words: &str) -> Option<&'a str> {
    message.strip_prefix(words)?.split('`').next()
}

/// What a value is, for people.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Judges a choice: an object with exactly one of these fields, or one of these words alone.
///
/// # Errors
/// What is wrong with it.
pub(super) fn judge_choice(value: &Value, fields: &[&str], words: &[&str]) -> Result<(), String> {
    let quoted = |names: &[&str]| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let words_too = if words.is_empty() { String::new() } else { format!(", or be one of {}", quoted(words)) };
    let allowed = format!("must have exactly one of {}{words_too}", quoted(fields));
    match value {
        Value::String(word) if words.contains(&word.as_str()) => Ok(()),
        Value::Object(found) => {
            let names: Vec<&str> = found.keys().map(String::as_str).collect();
            match &names[..] {
                [one] if fields.contains(one) => Ok(()),
                [] => Err(format!("{allowed}, and has none")),
                _ => Err(format!("{allowed}, and has {}", quoted(&names))),
            }
        }
        other => Err(format!("{allowed}, and is {}", kind_of(other))),
    }
}

/// The names and contents of a folder's `*.json` files, by name, of which none has more than so many MiB.
pub(super) fn json_files(folder: &Path, most_mib: u64) -> Result<Vec<(String, Vec<u8>)>, Unusable> {
    let failed = |file: &Path, error: std::io::Error| Unusable {
        file: file.display().to_string(),
        field: "the file".to_owned(),
        problem: format!("cannot be read: {error}"),
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            // Reading a pipe would wait for whoever writes into it.
            let metadata = fs::metadata(&path).map_err(|error| failed(&path, error))?;
            let refused = |problem| {
                let (file, field) = (path.display().to_string(), "the file".to_owned());
                Err(Unusable { file, field, problem })
            };
            if !metadata.is_file() {
                return refused("must be a regular file".to_owned());
            }
            if metadata.len() > most_mib * 1024 * 1024 {
                return refused(format!("must have no more than {most_mib} MiB"));
            }
            let bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
            Ok((path.display().to_string(), bytes))
        })
        .collect()
}

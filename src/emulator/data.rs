//! Files of data that people write: what is wrong is told with the file's name and the field's.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::library::Unusable;

/// Reads a value from JSON.
pub(super) fn read<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, Unusable> {
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        // A step that is not known is a question mark.
        let known = path.trim_end_matches(['.', '?']);
        unusable(file, (!known.is_empty()).then(|| known.to_owned()), error.inner())
    })?;
    source.end().map_err(|error| unusable(file, None, &error))?;
    Ok(value)
}

fn unusable(file: &str, path: Option<String>, error: &serde_json::Error) -> Unusable {
    let place = format!("line {}, column {}", error.line(), error.column());
    let message = error.to_string();
    // The place stands at the end of serde's message too.
    let problem = message.split(" at line ").next().unwrap_or_default().to_owned();
    Unusable { file: file.to_owned(), field: path.unwrap_or(place), problem }
}

/// The names and contents of a folder's `*.json` files, by name.
pub(super) fn json_files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Unusable> {
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
            let bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
            Ok((path.display().to_string(), bytes))
        })
        .collect()
}

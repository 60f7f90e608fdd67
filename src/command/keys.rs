//! `ai-proxy keys new`: makes a key. Nothing is stored or edited.

use super::{EXIT_ARGUMENTS, fail, say};
use crate::keys::{Keys, NewKey};
use std::process::ExitCode;

/// Prints a new key and its entry.
pub(super) fn new(id: &str) -> ExitCode {
    let Ok(key) = NewKey::generate() else { return fail("the system gives no random bytes") };
    let entry = key.entry(id);
    if let Err(problems) = Keys::parse(&format!("[{entry}]")) {
        eprintln!("ai-proxy: {}", problems.join("; "));
        return ExitCode::from(EXIT_ARGUMENTS);
    }
    say(&format!(
        "key    {}\nentry  {entry}\n\nThe key is shown only now. Add the entry to the array in API_KEYS_JSON and restart the gateway.\n",
        key.reveal()
    ))
}

//! Issued keys: who may use the gateway, for which models and how much.
//!
//! `entry` reads the list, `table` looks a presented key up in it, `limits` counts what an id does, `watch` takes up a
//! changed file; `generate`, `edit` and `file` are for the commands that change a list. Keys are held as digests only.

mod digest;
mod edit;
mod entry;
mod file;
mod generate;
mod limits;
mod table;
mod watch;

pub use digest::KeyDigest;
pub use edit::{Document, EditError};
pub(crate) use entry::place;
pub use entry::{Entry, KeyList, NewEntry, Secret, parse_time};
pub use file::{FileError, LockedFile, read};
pub use generate::NewKey;
pub use limits::{Admission, FIELD_NAMES, Limits};
pub use table::{Key, Keys, KeysOfThread, Reloads};
pub use watch::{KeysFile, watch};

//! The profile that the release build is made with: how often each branch was taken while a gateway was asked as usual.
//! What is asked here decides what is laid out for speed; the rest is small.

use crate::Result;
use crate::contestant::Contestant;
use crate::lab::{Effort, Lab};
use crate::parts;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Branches are counted here, and not timed.
pub(crate) const EFFORT: Effort = Effort { needs_quiet: false, ..Effort::QUICK };
/// What is asked, by the parts that measure it. Of events there are fewer in a second than of requests, so they have more.
const TRAFFIC: [&str; 10] = [
    "json-plain",
    "json-tls",
    "sse-plain",
    "sse-tls",
    "sse-plain",
    "sse-tls",
    "sse-plain",
    "sse-tls",
    "bodies-plain",
    "bodies-tls",
];
/// A function with so many branches is large.
const LARGE_BRANCHES: usize = 8;

/// Asks a gateway that counts its branches, and writes into this folder what the compiler can read.
pub(crate) async fn write(mut lab: Lab, folder: &Path) -> Result<String> {
    let compiler = Compiler::here()?;
    let counts = tempfile::tempdir()?;
    // One file for each program, to which all of its processes add.
    let variable = format!("LLVM_PROFILE_FILE={}", counts.path().join("%m.profraw").display());
    lab.stable.wrapper = vec!["env".to_owned(), variable];
    lab.contestants = vec![Contestant::Gateway];
    for part in TRAFFIC {
        parts::run(part, &lab).await?;
    }
    if fs::read_dir(counts.path())?.next().is_none() {
        return Err("the gateway has counted nothing: build/rustc had no part in it".into());
    }
    let text = counts.path().join("text");
    compiler.merge(&["--text".as_ref(), counts.path().as_os_str()], &text)?;
    let (lean, functions) = lean(&fs::read_to_string(&text)?);
    fs::write(&text, lean)?;
    let profile = counts.path().join("profile");
    compiler.merge(&[text.as_os_str()], &profile)?;
    remove_profiles(folder)?;
    let file = folder.join(compiler.profile_name());
    fs::copy(profile, &file)?;
    Ok(format!("{}: {functions} functions\n", file.display()))
}

/// Removes those of other compilers too: there is one.
fn remove_profiles(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "profdata") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The compiler that a profile is for, and its tool for profiles.
struct Compiler {
    release: String,
    llvm: String,
    merger: PathBuf,
}

impl Compiler {
    fn here() -> Result<Self> {
        let said = said_by_rustc(&["-vV"])?;
        let value = |name: &str| said.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        let (Some(release), Some(llvm), Some(host)) = (value("release:"), value("LLVM version:"), value("host:"))
        else {
            return Err("rustc -vV does not say its version".into());
        };
        let root = said_by_rustc(&["--print", "sysroot"])?;
        let of_rustup = Path::new(root.trim()).join("lib/rustlib").join(host).join("bin/llvm-profdata");
        let major = llvm.split('.').next().unwrap_or_default();
        let debians = PathBuf::from(format!("llvm-profdata-{major}"));
        let merger = if of_rustup.is_file() { of_rustup } else { debians };
        let compiler = Self { release, llvm, merger };
        // Before anything is asked.
        compiler.run(&["merge".as_ref(), "--help".as_ref()])?;
        Ok(compiler)
    }

    /// As `build/rustc` looks for it.
    fn profile_name(&self) -> String {
        format!("profile-{}-llvm-{}.profdata", self.release, self.llvm)
    }

    /// Makes one profile of others.
    fn merge(&self, words: &[&OsStr], into: &Path) -> Result<()> {
        self.run(&[&["merge".as_ref(), "-o".as_ref(), into.as_os_str()], words].concat())
    }

    fn run(&self, words: &[&OsStr]) -> Result<()> {
        let output = Command::new(&self.merger).args(words).output();
        let output = output.map_err(|error| {
            let name = self.merger.display();
            format!(
                "{name}: {error}; `rustup component add llvm-tools` has it, and Debian's package llvm of that number"
            )
        })?;
        if !output.status.success() {
            return Err(format!("{}: {}", self.merger.display(), String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(())
    }
}

fn said_by_rustc(words: &[&str]) -> Result<String> {
    let output = Command::new("rustc").args(words).output().map_err(|error| format!("rustc: {error}"))?;
    Ok(String::from_utf8(output.stdout)?)
}

/// A profile in LLVM's text form without the small functions that never ran, and how many are left. Of a large one the
/// compiler has to know that it never runs: without a word it takes it for one that may, and makes it larger than it does
/// without any profile.
fn lean(text: &str) -> (String, usize) {
    let (mut lean, mut functions) = (String::new(), 0);
    for paragraph in text.split("\n\n") {
        let mut lines: Vec<&str> = paragraph.lines().collect();
        // The first paragraph begins with what kind of profile it is.
        let about = lines.iter().take_while(|line| line.starts_with([':', '#'])).count();
        lines.drain(..about).for_each(|line| lean.extend([line, "\n"]));
        let Some(counts) = lines.iter().position(|line| *line == "# Counter Values:") else { continue };
        let end = counts + 1 + lines[counts + 1..].iter().take_while(|line| line.parse::<u64>().is_ok()).count();
        let has_run = lines[counts + 1..end].iter().any(|count| *count != "0");
        if !has_run {
            // Behind them is what was counted of values.
            lines.truncate(end);
        }
        if has_run || end - counts > LARGE_BRANCHES {
            functions += 1;
            lines.iter().for_each(|line| lean.extend([*line, "\n"]));
            lean.push('\n');
        }
    }
    (lean, functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, counts: &[u64], rest: &str) -> String {
        let lines: String = counts.iter().map(|count| format!("{count}\n")).collect();
        format!("{name}\n# Func Hash:\n7\n# Num Counters:\n{}\n# Counter Values:\n{lines}{rest}\n", counts.len())
    }

    #[test]
    fn small_functions_that_never_ran_go() {
        const KIND: &str = "# IR level Instrumentation Flag\n:ir\n";
        const VALUES: &str = "# Num Value Kinds:\n1\n# ValueKind = IPVK_MemOPSize:\n1\n# NumValueSites:\n1\n0\n";
        let ran = function("ran", &[0, 3], VALUES);
        let large = [0; LARGE_BRANCHES];
        let profile = [KIND, &ran, &function("small", &[0, 0], VALUES), &function("large", &large, VALUES)].concat();
        assert_eq!(lean(&profile), ([KIND, &ran, &function("large", &large, "")].concat(), 2));
        assert_eq!(lean(KIND), (KIND.to_owned(), 0));
    }
}

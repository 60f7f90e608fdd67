//! The order of functions in the release build. Those that a start and requests reach are put side by side, since the
//! kernel maps a program's file in pieces of 64 KiB: strewn over all of it, they make most of it resident.

use crate::Result;
use crate::callgrind::{self, Asked};
use crate::lab::Lab;
use crate::upstream::Wire;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// How often each thing is asked.
const COUNT: u64 = 20;
/// What is reached by whom, those first that all need. After a start and some chats a gateway is idle.
const GROUPS: [(&str, &[(Asked, Wire)]); 3] = [
    ("A start and chats", &[(Asked::Small, Wire::Plain)]),
    ("The same over TLS", &[(Asked::Small, Wire::Tls)]),
    (
        "Streams and large bodies",
        &[(Asked::Event, Wire::Plain), (Asked::Event, Wire::Tls), (Asked::Large, Wire::Plain)],
    ),
];
/// *ring*'s assembly for keys' digests and for TLS, of which valgrind sees what a CPU without VAES runs. It has one section
/// for each file.
const ASSEMBLY: [&str; 7] = ["sha256", "sha512", "aes-gcm-avx2", "aesni", "ghash", "p256-x86_64-asm", "x86_64-mont"];

/// Sees what is reached and writes it down as a script for the linker. Needs a gateway that has its symbols.
pub(crate) async fn write(lab: &Lab, file: &Path) -> Result<String> {
    let symbols = Symbols::of(&lab.stable.gateway)?;
    let mut known = BTreeSet::new();
    let mut groups = Vec::new();
    for (name, cases) in GROUPS {
        let mut group = reached(lab, &symbols, cases).await?;
        group.retain(|pattern| known.insert(pattern.clone()));
        groups.push((name, group));
    }
    if known.is_empty() {
        return Err("no function has a name: build the gateway with KEEP_NAMES=1".into());
    }
    std::fs::write(file, script(&groups))?;
    Ok(groups.iter().map(|(name, group)| format!("{name}: {} functions\n", group.len())).collect())
}

fn script(groups: &[(&str, BTreeSet<String>)]) -> String {
    let mut script = String::from(
        "/* Written by `make order`: functions that a start and requests reach, to be put side by side in the program.\n   \
         Without what compilers add to tell equal names apart, so that it outlives them; one that is gone does no harm. */\n\
         SECTIONS {\n  .text : {\n    /* Assembly of ring. */\n",
    );
    ASSEMBLY.iter().for_each(|name| script.push_str(&format!("    *:*-{name}*-elf.o(.text)\n")));
    for (name, patterns) in groups {
        script.push_str(&format!("    /* {name}. */\n"));
        patterns.iter().for_each(|it| script.push_str(&format!("    *(.text*.{it} .text*.{it}.llvm.*)\n")));
    }
    script.push_str("  }\n}\nINSERT BEFORE .fini;\n");
    script
}

/// Patterns for all names of the functions that are reached.
async fn reached(lab: &Lab, symbols: &Symbols, cases: &[(Asked, Wire)]) -> Result<BTreeSet<String>> {
    let options = ["--demangle=no", "--compress-strings=no", "--compress-pos=no"];
    let mut patterns = BTreeSet::new();
    for &(asked, wire) in cases {
        let profile = callgrind::run(lab, asked, wire, COUNT, &options).await?.profile()?;
        let names = functions(&profile, &lab.stable.gateway.to_string_lossy());
        patterns.extend(names.into_iter().flat_map(|name| symbols.beside(name)).map(pattern));
    }
    Ok(patterns)
}

/// The functions of one program in a profile.
fn functions<'a>(profile: &'a str, program: &str) -> BTreeSet<&'a str> {
    let mut is_of_program = false;
    let mut names = BTreeSet::new();
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            is_of_program = object == program;
        } else if let Some(name) = line.strip_prefix("fn=").filter(|_| is_of_program) {
            // Of a recursion the depth stands behind it.
            names.insert(name.split_once('\'').map_or(name, |(name, _)| name));
        }
    }
    names
}

/// Which names a place in the program has: of equal functions there is one, with the names of all.
struct Symbols {
    places: BTreeMap<String, BTreeSet<u64>>,
    names: BTreeMap<u64, BTreeSet<String>>,
}

impl Symbols {
    fn of(program: &Path) -> Result<Self> {
        let output = Command::new("nm").arg(program).output()?;
        Ok(Self::read(&String::from_utf8(output.stdout)?))
    }

    /// Reads lines of an address in hex, a letter for the kind, and a name.
    fn read(listing: &str) -> Self {
        let mut symbols = Self { places: BTreeMap::new(), names: BTreeMap::new() };
        for line in listing.lines() {
            let mut words = line.split(' ');
            if let (Some(place), Some("t" | "T" | "w" | "W"), Some(name)) = (words.next(), words.next(), words.next())
                && let Ok(place) = u64::from_str_radix(place, 16)
            {
                symbols.places.entry(name.to_owned()).or_default().insert(place);
                symbols.names.entry(place).or_default().insert(name.to_owned());
            }
        }
        symbols
    }

    fn beside(&self, name: &str) -> impl Iterator<Item = &str> {
        let places = self.places.get(name).into_iter().flatten();
        places.filter_map(|place| self.names.get(place)).flatten().map(String::as_str)
    }
}

/// A name without what each compiler, each version of a crate and each build may write otherwise: the hash at the end of
/// an old name, those of crates within a new one, and the suffix of LLVM.
fn pattern(name: &str) -> String {
    let name = name.split_once(".llvm.").map_or(name, |(name, _)| name);
    if let Some(end) = name.starts_with("_ZN").then(|| name.rfind("17h")).flatten() {
        return format!("{}17h*", &name[..end]);
    }
    if !name.starts_with("_R") {
        return name.to_owned();
    }
    let mut parts = name.split("Cs");
    let mut pattern = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let hash = part.find(|c: char| !c.is_ascii_alphanumeric()).filter(|&end| part[end..].starts_with('_'));
        pattern.push_str("Cs");
        pattern.push_str(&hash.map_or_else(|| part.to_owned(), |end| format!("*{}", &part[end..])));
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_left_out() {
        assert_eq!(pattern("_ZN3foo3bar17h0123456789abcdefE"), "_ZN3foo3bar17h*");
        assert_eq!(pattern("_ZN3foo3bar17h0123456789abcdefE.llvm.42"), "_ZN3foo3bar17h*");
        assert_eq!(pattern("_RNvNtCsjrHSEGnQ3l9_3std3barCs1Z_5alloc"), "_RNvNtCs*_3std3barCs*_5alloc");
        assert_eq!(pattern("_RNvCs"), "_RNvCs");
        assert_eq!(pattern("malloc"), "malloc");
    }

    #[test]
    fn only_the_program_itself_counts() {
        let profile = "ob=/lib/libc.so\nfn=memcpy\nob=/a/b\nfl=x\nfn=one\n1 2\ncfn=two\nfn=three'2\n";
        assert_eq!(functions(profile, "/a/b"), BTreeSet::from(["one", "three"]));
    }

    #[test]
    fn a_function_has_all_its_names() {
        let symbols = Symbols::read("0010 t one\n0010 T two\n0020 t three\n         U puts\n0030 d data\n");
        assert_eq!(symbols.beside("one").collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(symbols.beside("data").count() + symbols.beside("puts").count(), 0);
    }
}

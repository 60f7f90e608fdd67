//! A short run of the fuzz targets, which takes no more than a stable compiler: their seeds, and inputs made of these.
//!
//! The same bytes in each run, so that a failure is one of the change that is tested. `make fuzz` searches for real, led
//! by what the code does with an input; what it finds becomes a seed.
mod support;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use support::show;

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a crate of its own to libFuzzer")]
mod targets;

/// Inputs that are made for each target: a few seconds of a debug build.
const INPUTS: usize = 40_000;
/// Most changes of one input.
const MOST_CHANGES: usize = 6;
/// Longest input, in bytes: what a parser gets wrong it gets wrong in few.
const LONGEST: usize = 2_000;

/// Splitmix64: a few lines, and the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    fn one_of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder().join("seeds").join(target)).expect("there are seeds").flatten();
    let mut paths: Vec<_> = files.map(|file| file.path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "{target} has few seeds");
    paths.iter().map(|path| fs::read(path).expect("a seed can be read")).collect()
}

/// The words of libFuzzer's dictionary.
fn dictionary() -> Vec<Vec<u8>> {
    let text = fs::read_to_string(folder().join("dictionary")).expect("there is one");
    let words = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let words: Vec<_> = words
        .map(|line| unescape(line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).expect("quotes")))
        .collect();
    assert!(words.len() > 20);
    words
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("two digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
                after
            }
            (b'\\', [escaped, after @ ..]) => {
                bytes.push(*escaped);
                after
            }
            (byte, after) => {
                bytes.push(*byte);
                after
            }
        };
    }
    bytes
}

fn changed(random: &mut Random, seeds: &[Vec<u8>], words: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.one_of(seeds).clone();
    for _ in 0..=random.below(MOST_CHANGES) {
        let at = random.below(input.len() + 1);
        let to = at + random.below(input.len() - at + 1).min(1 + random.below(30));
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 => drop(input.drain(at..to)),
            2 => {
                let twice = input[at..to].to_vec();
                input.splice(at..at, twice);
            }
            3 => input.truncate(at),
            4 => {
                let other = random.one_of(seeds);
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            5 => drop(input.splice(at..to, random.one_of(words).iter().copied())),
            _ => drop(input.splice(at..at, random.one_of(words).iter().copied())),
        }
    }
    input.truncate(LONGEST);
    input
}

#[track_caller]
fn try_out(target: &str, check: fn(&[u8])) {
    let (seeds, words) = (seeds(target), dictionary());
    let mut random = Random(0);
    let made = (0..INPUTS).map(|_| changed(&mut random, &seeds, &words));
    for input in seeds.iter().cloned().chain(made) {
        assert!(catch_unwind(|| check(&input)).is_ok(), "{target} fails with: {}", show(&input));
    }
}

#[test]
fn answer_head() {
    try_out("answer_head", targets::answer_head::check);
}

#[test]
fn chunked() {
    try_out("chunked", targets::chunked::check);
}

#[test]
fn error_body() {
    try_out("error_body", targets::error_body::check);
}

#[test]
fn frames() {
    try_out("frames", targets::frames::check);
}

#[test]
fn head() {
    try_out("head", targets::head::check);
}

#[test]
fn header_block() {
    try_out("header_block", targets::header_block::check);
}

#[test]
fn keys_file() {
    try_out("keys_file", targets::keys_file::check);
}

#[test]
fn model() {
    try_out("model", targets::model::check);
}

#[test]
fn signatures() {
    try_out("signatures", targets::signatures::check);
}

#[test]
fn tail() {
    try_out("tail", targets::tail::check);
}

#[test]
fn tap() {
    try_out("tap", targets::tap::check);
}

/// Else `make fuzz` would do less than this.
#[test]
fn every_target_is_known_to_both() {
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).expect("there is one");
    let mut binaries: Vec<_> = manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/")).collect();
    binaries.sort_unstable();
    let tried = include_str!("fuzz.rs").lines().filter_map(|line| line.trim().strip_prefix("try_out(\""));
    let tried: Vec<_> = tried.filter_map(|line| Some(format!("{}.rs\"", line.split_once('"')?.0))).collect();
    assert_eq!(binaries, tried);
}

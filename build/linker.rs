//! What the linker is told of the release build for Linux. Without it the program is the same, but larger when it runs.

use crate::variable;
use std::path::Path;
use std::process::Command;

/// Functions that a start and requests reach stand side by side: the kernel maps a program in pieces of 64 KiB.
const ORDER: &str = "build/order.ld";
/// The first glibc that reads relocations in their packed form, a tenth of the plain one.
const PACKED_RELOCATIONS: (u32, u32) = (2, 36);

/// Set, it leaves the names of functions in the program, for `make order` and callgrind.
const KEEP_NAMES: &str = "KEEP_NAMES";

/// Speaks to the linker that comes with Rust, or to GNU's. Whoever has chosen another is only asked to leave names out: not
/// all know scripts.
pub(crate) fn tell() {
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    println!("cargo:rerun-if-env-changed={KEEP_NAMES}");
    if variable("PROFILE") != "release" {
        return;
    }
    let system = optional("CARGO_CFG_TARGET_OS");
    if variable("DEBUG") == "false" && optional(KEEP_NAMES).is_empty() {
        match &*system {
            "linux" => println!("cargo:rustc-link-arg-bins=-Wl,--strip-all"),
            "macos" => println!("cargo:rustc-link-arg-bins=-Wl,-x"),
            _ => {}
        }
    }
    if system != "linux" || optional("CARGO_CFG_TARGET_ENV") != "gnu" || is_chosen() {
        return;
    }
    println!("cargo:rustc-link-arg-bins=-T");
    println!("cargo:rustc-link-arg-bins={}", Path::new(&variable("CARGO_MANIFEST_DIR")).join(ORDER).display());
    // As with its functions: built with one glibc, a program runs with that and later ones.
    if variable("HOST") == variable("TARGET") && glibc().is_some_and(|version| version >= PACKED_RELOCATIONS) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Whether somebody has said which linker it is to be: `-Clinker=…` and what begins so, or `-Clink-arg=-fuse-ld=…`.
fn is_chosen() -> bool {
    let flags = optional("CARGO_ENCODED_RUSTFLAGS");
    let mut flags = flags.split('\x1f').map(|flag| flag.trim_start_matches("-C").trim_start());
    flags.any(|flag| flag.starts_with("linker") || flag.contains("-fuse-ld")) || !optional("RUSTC_LINKER").is_empty()
}

/// The version of the glibc here: `getconf` says "glibc 2.36".
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
fn optional(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

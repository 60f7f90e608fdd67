//! `build/rustc`, which Cargo calls in place of the compiler, tried with a compiler that only says how it was called.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const WRAPPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/build/rustc");
const PROFILE: &str = "profile-1.2.3-llvm-4.5.6.profdata";

/// A folder with the wrapper, a profile for one version of the compiler, that compiler, and a program that calls it.
fn folder(version: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix("a folder ").tempdir().expect("a folder");
    let compiler = format!(
        "#!/bin/bash\nif [ \"$*\" = -vV ]; then printf 'release: {version}\nLLVM version: 4.5.6\n'; \
         else printf '<%s>' \"$@\"; env | grep '^A-B='; fi\n"
    );
    program(&folder, "wrapper", &fs::read_to_string(WRAPPER).expect("the wrapper"));
    program(&folder, "rustc", &compiler);
    program(&folder, "between", "#!/bin/bash\nexec \"$@\"\n");
    fs::write(folder.path().join(PROFILE), "").expect("a file");
    folder
}

fn program(folder: &TempDir, name: &str, text: &str) {
    let file = folder.path().join(name);
    fs::write(&file, text).expect("a file");
    fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("a program");
}

/// What the compiler is told in place of these words.
fn told(folder: &TempDir, before: &[&str], package: &str, words: &[&str]) -> String {
    let mut command = Command::new(folder.path().join("wrapper"));
    command.args(before.iter().map(|name| folder.path().join(name))).arg(folder.path().join("rustc")).args(words);
    command.env("CARGO_PKG_NAME", package).env("CARGO_PKG_VERSION", "7.8.9");
    // Shells know no such names, and some drop them.
    command.env("A-B", "x");
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout).replace(&*folder.path().to_string_lossy(), "FOLDER");
    let Some((words, "x")) = told.trim_end().split_once("A-B=") else {
        panic!("a variable is lost: {told}");
    };
    words.to_owned()
}

#[test]
fn the_release_build_has_its_profile() {
    let folder = folder("1.2.3");
    let profiled = format!("<-Cprofile-use=FOLDER/{PROFILE}><-Cllvm-args=-no-pgo-warn-mismatch>");
    for (lto, before) in [("linker-plugin-lto", &[][..]), ("lto=fat", &[]), ("lto=fat", &["between"])] {
        let words = ["--crate-name", "x", "a b.rs", "-C", lto, "-C", "metadata=0123", "-C", "extra-filename=-4567"];
        let of = |package| told(&folder, before, package, &words);
        let rest =
            |name: &str| format!("<--crate-name><x><a b.rs><-C><{lto}><-C><metadata={name}><-C><extra-filename=-4567>");
        assert_eq!(of("ai-proxy"), rest("ai-proxy") + &profiled);
        assert_eq!(of("ai-proxy-emulator"), rest("ai-proxy-emulator") + &profiled);
        // There may be two versions of one crate.
        assert_eq!(of("tokio"), rest("tokio-7.8.9"));
    }
}

#[test]
fn the_program_that_counts() {
    let folder = folder("1.2.3");
    let words = ["-C", "lto=fat", "-C", "metadata=0", "--out-dir", "/a b/target/counting/release/deps"];
    let rest = "<-C><lto=fat><-C><metadata=NAME><--out-dir></a b/target/counting/release/deps>";
    let of = |package| told(&folder, &[], package, &words);
    assert_eq!(of("ai-proxy"), rest.replace("NAME", "ai-proxy") + "<-Cprofile-generate>");
    assert_eq!(of("tokio"), rest.replace("NAME", "tokio-7.8.9"));
}

#[test]
fn every_other_build_is_what_cargo_says() {
    let words = ["x.rs", "-C", "opt-level=3", "-C", "metadata=0123", "", "--out-dir", "target/counting/release/deps"];
    let as_they_are = "<x.rs><-C><opt-level=3><-C><metadata=0123><><--out-dir><target/counting/release/deps>";
    assert_eq!(told(&folder("1.2.3"), &[], "ai-proxy", &words), as_they_are);
    assert_eq!(told(&folder("1.2.3"), &[], "", &["-C", "lto=fat", "-"]), "<-C><lto=fat><->");
}

#[test]
fn another_compiler_builds_without() {
    let words = ["--crate-name", "metadata=x", "-C", "lto=fat", "-C", "metadata=0"];
    let named = "<--crate-name><metadata=x><-C><lto=fat><-C><metadata=ai-proxy>";
    assert_eq!(told(&folder("1.2.4"), &[], "ai-proxy", &words), named);
    // It does not say what it is.
    let folder = folder("1.2.3");
    program(&folder, "rustc", "#!/bin/bash\n[[ $1 != -vV ]] || exit 1\nprintf '<%s>' \"$@\"; env | grep '^A-B='\n");
    assert_eq!(told(&folder, &[], "ai-proxy", &words), named);
}

#[test]
fn the_image_is_built_by_the_compiler_that_the_profile_is_for() {
    let root = Path::new(WRAPPER).parent().and_then(Path::parent).unwrap();
    let names: Vec<_> = fs::read_dir(root.join("build")).unwrap().map(|it| it.unwrap().file_name()).collect();
    let profiles: Vec<_> = names.iter().filter_map(|name| name.to_str()?.strip_prefix("profile-")).collect();
    let dockerfile = fs::read_to_string(root.join("Dockerfile")).unwrap();
    let image = dockerfile.lines().find_map(|line| line.strip_prefix("FROM rust:")).unwrap();
    let (version, _) = image.split_once('-').unwrap();
    let is_for_it = |profile: &str| profile.strip_prefix(version).is_some_and(|rest| rest.starts_with("-llvm-"));
    assert!(matches!(profiles[..], [only] if is_for_it(only)), "{profiles:?} for rust {version}");
}

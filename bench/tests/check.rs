//! Whether the benchmark itself works: a tiny run against the debug binary. Its figures mean nothing; that there are
//! some, and that every byte was right on both sides, is what counts.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BENCH: &str = env!("CARGO_BIN_EXE_ai-proxy-bench");

/// The gateway's debug binary, which `cargo test --workspace` builds beside this one.
fn gateway() -> PathBuf {
    let path = Path::new(BENCH).with_file_name("ai-proxy");
    assert!(path.is_file(), "{} is missing: cargo build, or cargo test --workspace", path.display());
    path
}

fn run(words: &[&str]) -> Output {
    Command::new(BENCH).args(words).output().expect("the benchmark starts")
}

#[test]
fn its_parts_give_figures_and_every_byte_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("bench.json");
    let (gateway, output) = (gateway().display().to_string(), output.display().to_string());
    let parts = [
        "json-plain",
        "json-tls",
        "sse-plain",
        "sse-tls",
        "bodies-plain",
        "bodies-tls",
        "memory-plain",
        "memory-tls",
        "latency-plain",
        "cores",
        "soak",
        "size",
    ];
    let options = ["--gateway", &gateway, "--output", &output, "check"];
    let ran = run(&[&options[..], &parts].concat());
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&output).unwrap()).unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(report["machine"]["cpus"], cpus);
    for program in ["gateway", "nginx", "haproxy", "rustc"] {
        assert!(!report["versions"][program].as_str().unwrap().is_empty(), "{program}");
    }
    for part in parts {
        let figures = report["figures"][part].as_array().unwrap_or_else(|| panic!("no figures of {part}"));
        assert!(!figures.is_empty(), "{part}");
        for figure in figures.iter().filter(|figure| figure["rounds"].get("gateway").is_some()) {
            assert!(figure["medians"]["gateway"].is_f64(), "{figure}");
        }
    }
    let table = String::from_utf8(ran.stdout).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("json_1k.plain.saturated.cpu ")).count();
    assert_eq!(rows, 1, "{table}");
}

#[test]
fn wrong_words_are_refused() {
    let gateway = gateway().display().to_string();
    for words in [
        &[][..],
        &["what"],
        &["check", "what"],
        &["--what"],
        &["--gateway", "/nonexistent", "check"],
        &["--gateway", "/etc/passwd", "check", "size"],
        &["--gateway", &gateway, "instructions", "size"],
        &["--gateway", &gateway, "--output", BENCH, "check", "size"],
        &["--gateway", &gateway, "--output", "/dev/null/x", "check", "size"],
        &["--output", BENCH, "table"],
    ] {
        let ran = run(words);
        assert!(!ran.status.success() && ran.stdout.is_empty(), "{words:?}");
        assert!(String::from_utf8_lossy(&ran.stderr).starts_with("ai-proxy-bench: "), "{words:?}");
    }
    assert!(run(&["--help"]).status.success());
}

/// One that passes everything on as it is: no key is looked at, no model named, no bearer attached.
#[test]
fn who_only_passes_bytes_on_is_no_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let (pretender, output) = (folder.path().join("pretender"), folder.path().join("bench.json"));
    let program = r#"#!/usr/bin/env python3
import os, socket, sys, threading
if "--version" in sys.argv:
    sys.exit(print("ai-proxy 0.0.0"))
def pump(one, other):
    while piece := one.recv(65536):
        other.sendall(piece)
    other.shutdown(socket.SHUT_WR)
host, port = os.environ["GOOGLE_VERTEX_BASE_URL"].removeprefix("http://").rsplit(":", 1)
listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
while True:
    client, upstream = listener.accept()[0], socket.create_connection((host, int(port)))
    for ends in [(client, upstream), (upstream, client)]:
        threading.Thread(target=pump, args=ends, daemon=True).start()
"#;
    std::fs::write(&pretender, program).unwrap();
    std::fs::set_permissions(&pretender, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (pretender, output) = (pretender.display().to_string(), output.display().to_string());
    let ran = run(&["--gateway", &pretender, "--output", &output, "check", "json-plain"]);
    assert!(!ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(said.contains("gateway: "), "{said}");
}

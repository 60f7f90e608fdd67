//! The size of the binary and the number of crates in it.

use crate::Result;
use crate::figure::{Figure, Goal};
use crate::lab::Lab;
use std::collections::BTreeSet;
use std::process::Command;

pub(crate) fn run(lab: &Lab) -> Result<Vec<Figure>> {
    let bytes = std::fs::metadata(&lab.stable.gateway)?.len();
    let arguments = ["tree", "--locked", "--package", "ai-proxy", "--edges", "normal", "--prefix", "none"];
    let output = Command::new("cargo").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    if !output.status.success() {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let tree = String::from_utf8(output.stdout)?;
    // Name and version; what is repeated is marked behind them.
    let crates: BTreeSet<_> = tree.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
    Ok(vec![
        Figure::of_gateway("size.binary", "MB", bytes as f64 / 1e6).goal(Goal::AtMost(8.0)),
        Figure::of_gateway("size.crates", "", crates.len() as f64).goal(Goal::AtMost(199.0)),
    ])
}

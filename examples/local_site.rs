//! Writes `html/`: the runbook for reading without a gateway. `make html` runs it.

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("html");
    for (name, content) in ai_proxy::pages::local_site::files() {
        fs::write(folder.join(name), content)?;
        println!("html/{name}");
    }
    Ok(())
}

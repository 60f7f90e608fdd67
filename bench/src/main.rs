//! Measures the gateway beside nginx and HAProxy. `README.md` says what the figures mean.

mod callgrind;
mod contestant;
mod figure;
mod head;
mod idle;
mod lab;
mod load;
mod machine;
mod order;
mod parts;
mod payload;
mod process;
mod profile;
mod report;
mod statistics;
mod upstream;

use lab::{Effort, Lab};
use machine::Machine;
use parts::Instructions;
use report::{Kept, Report};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
ai-proxy-bench: measures ai-proxy beside nginx and HAProxy

Usage:
  ai-proxy-bench [OPTIONS] full|quick|check [PART]...   measure all parts, or these; goals that are missed are told
                                                        in the table, and fail nothing
  ai-proxy-bench [OPTIONS] instructions                 count instructions, compare with the baseline
  ai-proxy-bench [OPTIONS] baseline                     count instructions, make them the baseline
  ai-proxy-bench [OPTIONS] order                        write build/order.ld, the order of functions
  ai-proxy-bench [OPTIONS] profile                      write build/profile-….profdata, what the release build is made with
  ai-proxy-bench [OPTIONS] table [PART]...              show what was measured

Options:
  --gateway FILE   the binary to measure [ai-proxy beside this program]
  --output FILE    where figures are kept [target/bench.json; of quick and check bench-quick.json, bench-check.json];
                   parts that it has of the same build are not run again
  --fresh          run them again

'check' shows only whether the benchmark works; its figures mean nothing.
";

/// The CPU of the programs under test, and the one of clients and upstream.
const PROXY_CPU: usize = 0;
const BENCH_CPU: usize = 1;
/// Clients hold a descriptor for every stream, upstream where it has no HTTP/2, and a contestant one for each of these.
const DESCRIPTORS: u64 = 20_000;

struct Words {
    gateway: PathBuf,
    output: Option<PathBuf>,
    fresh: bool,
    values: Vec<String>,
}

fn main() -> ExitCode {
    let words = match read_words() {
        Ok(Some(words)) => words,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&format!("{error}; see --help"), 2),
    };
    match run(&words) {
        Ok(code) => code,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("ai-proxy-bench: {message}");
    ExitCode::from(code)
}

fn read_words() -> Result<Option<Words>> {
    use lexopt::prelude::{Long, Short, Value, ValueExt};
    let beside = std::env::current_exe()?.with_file_name("ai-proxy");
    let mut words = Words { gateway: beside, output: None, fresh: false, values: Vec::new() };
    let mut parser = lexopt::Parser::from_env();
    while let Some(word) = parser.next()? {
        match word {
            Long("help") | Short('h') => return Ok(None),
            Long("gateway") => words.gateway = parser.value()?.into(),
            Long("output") => words.output = Some(parser.value()?.into()),
            Long("fresh") => words.fresh = true,
            Value(value) => words.values.push(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if words.values.is_empty() { Err("what to do is missing".into()) } else { Ok(Some(words)) }
}

fn run(words: &Words) -> Result<ExitCode> {
    let (command, parts) = words.values.split_first().ok_or("what to do is missing")?;
    let output = words.output.clone().unwrap_or_else(|| match command.as_str() {
        kind @ ("quick" | "check") => format!("target/bench-{kind}.json").into(),
        _ => "target/bench.json".into(),
    });
    if let (upstream::COMMAND, [authority]) = (command.as_str(), parts) {
        return on_one_thread(upstream::serve(Path::new(authority))).map(|()| ExitCode::SUCCESS);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    if command == "table" {
        let report = Report::load(&output)?.ok_or_else(|| format!("{}: nothing was measured yet", output.display()))?;
        print!("{}", report.table(&parts));
        return Ok(ExitCode::SUCCESS);
    }
    let effort = match command.as_str() {
        "full" | "instructions" | "baseline" | "order" => Effort::FULL,
        "profile" => profile::EFFORT,
        "quick" => Effort::QUICK,
        "check" => Effort::CHECK,
        other => return Err(format!("'{other}' is no command; see --help").into()),
    };
    let takes_parts = matches!(command.as_str(), "full" | "quick" | "check");
    if !(takes_parts || parts.is_empty()) {
        return Err(format!("'{command}' takes no parts").into());
    }
    if let Some(unknown) = parts.iter().find(|name| !parts::exists(name)) {
        return Err(format!("there is no part '{unknown}'; there are {}", parts::NAMES.join(", ")).into());
    }
    if !words.gateway.is_file() {
        return Err(
            format!("there is no gateway at {}: build it, or name it with --gateway", words.gateway.display()).into()
        );
    }
    let gateway = words.gateway.canonicalize()?;
    // One that counts its branches would leave a file of them here.
    if command != "profile" && !machine::version(&gateway).starts_with("ai-proxy ") {
        return Err(format!("{} does not say that it is ai-proxy", gateway.display()).into());
    }
    let machine = Machine::here();
    if getrlimit(Resource::Nofile).current.is_some_and(|limit| limit < DESCRIPTORS) {
        let raised = Rlimit { current: Some(DESCRIPTORS), maximum: getrlimit(Resource::Nofile).maximum };
        // Where this is not allowed, the part that needs it says so.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    // With one CPU everything shares it, and only CPU times mean anything.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let bench_cpu = if cpus > BENCH_CPU { BENCH_CPU } else { PROXY_CPU };
    process::pin(&[bench_cpu])?;
    on_one_thread(async {
        let lab = Lab::new(gateway, effort, vec![PROXY_CPU], vec![bench_cpu])?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Whoever runs this under nohup wants it to go on.
        let mut hang_up = if process::ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
        let measuring = async {
            match command.as_str() {
                "instructions" | "baseline" => instructions(&lab, command == "baseline").await,
                "order" => order(&lab).await,
                "profile" => profile(lab).await,
                _ => {
                    let _kept = Kept::take(&output)?;
                    let mut report = Report::new(command, machine, &lab.stable.gateway);
                    if let Some(earlier) = Report::load(&output)? {
                        report.continue_from(earlier);
                    }
                    measure(&lab, report, &output, words.fresh, &parts).await
                }
            }
        };
        // Whatever was started ends when this does.
        tokio::select! {
            done = measuring => done,
            _ = interrupt.recv() => Err("stopped".into()),
            _ = terminate.recv() => Err("stopped".into()),
            () = async {
                match &mut hang_up {
                    Some(hang_up) => _ = hang_up.recv().await,
                    None => std::future::pending().await,
                }
            } => Err("stopped".into()),
        }
    })
}

/// One thread for clients and upstream: the cheapest way, and they are never the ones who are measured.
fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn measure(lab: &Lab, mut report: Report, output: &Path, fresh: bool, parts: &[&str]) -> Result<ExitCode> {
    let wanted = if parts.is_empty() { parts::NAMES.to_vec() } else { parts.to_vec() };
    for name in &wanted {
        if fresh || !report.figures.contains_key(*name) {
            eprintln!("measuring {name}");
            report.figures.insert((*name).to_owned(), parts::run(name, lab).await?);
            report.save(output)?;
        }
    }
    print!("{}", report.table(&wanted));
    Ok(ExitCode::SUCCESS)
}

async fn instructions(lab: &Lab, make_baseline: bool) -> Result<ExitCode> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let counted = Instructions::count(lab).await?;
    if make_baseline {
        counted.save(&file)?;
    }
    let (lines, all_within) = counted.compare(&Instructions::load(&file)?);
    print!("{lines}");
    Ok(if all_within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn order(lab: &Lab) -> Result<ExitCode> {
    print!("{}", order::write(lab, &build_folder().join("order.ld")).await?);
    Ok(ExitCode::SUCCESS)
}

async fn profile(lab: Lab) -> Result<ExitCode> {
    print!("{}", profile::write(lab, &build_folder()).await?);
    Ok(ExitCode::SUCCESS)
}

/// What the gateway is built with.
fn build_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("build")
}

//! What a second core brings.
//!
//! Clients and upstream need as much of a machine as the program between them, and a small machine has no third core for
//! them. So they take turns with the program: while it is stopped, all clients ask; then it has the cores for itself
//! until it has nothing left to do; while it is stopped again, upstream answers all; then it has the cores for itself
//! once more; and the clients read. What counts is the time by the clock for which it had the cores, so that a core that
//! waits for another one, or gets less to do, is seen.

use super::in_turn;
use crate::Result;
use crate::contestant::{Contestant, Running};
use crate::figure::{Figure, Goal};
use crate::idle::IdleWatch;
use crate::lab::Lab;
use crate::load::{Batch, Turn};
use crate::payload::Question;
use crate::process::Threads;
use crate::statistics::median;
use crate::upstream::Wire;
use std::time::{Duration, Instant};

/// Batches that are not counted, at the beginning of a turn: connections to upstream are opened, buffers grow.
const WARM_UP: usize = 3;
/// The time that a turn has for each of its batches.
const BATCH: Duration = Duration::from_millis(100);
/// How long a program may take for a half of a batch.
const RUN_TIMEOUT: Duration = Duration::from_secs(2);
/// All is written that upstream has to say, so long after the last question came.
const SETTLE: Duration = Duration::from_millis(5);
/// Upstream gets no more questions when none came for so long.
const STUCK: Duration = Duration::from_millis(100);
/// Batches that may be left without a result.
const MAX_WITHOUT: usize = 20;

pub(crate) async fn run(lab: &Lab) -> Result<Vec<Figure>> {
    let cpus = lab.all_cpus();
    if cpus.len() < 2 {
        return Err("with one CPU nothing can be said of a second one".into());
    }
    let mut figures = Vec::new();
    for wire in [Wire::Plain, Wire::Tls] {
        let name = format!("cores.{}", wire.name());
        let mut factor = Figure::new(format!("{name}.two_to_one"), "times").goal(Goal::AtLeast(1.8));
        let mut of_processes = Figure::new(format!("{name}.two_processes_to_one"), "times");
        let mut rates = ["one", "two"].map(|cores| Figure::new(format!("{name}.{cores}"), "requests/s"));
        let mut sharing = Figure::new(format!("{name}.cpu_of_sharing"), "times");
        let mut all = Vec::new();
        for cpus in [&cpus[..1], &cpus[..2]] {
            all.push(vec![lab.stable.start(Contestant::Gateway, &lab.upstream, wire, cpus).await?]);
        }
        let mut processes = Vec::new();
        for cpu in &cpus[..2] {
            processes.push(lab.stable.start(Contestant::Gateway, &lab.upstream, wire, &[*cpu]).await?);
        }
        all.push(processes);
        for round in 0..lab.effort.rounds {
            let (mut rate, mut cpu) = ([0.0; 3], [0.0; 3]);
            for at in in_turn(&[0, 1, 2], round).copied() {
                (rate[at], cpu[at]) = turn(lab, &all[at], &cpus[..if at == 0 { 1 } else { 2 }]).await?;
            }
            factor.note(Contestant::Gateway, rate[1] / rate[0]);
            of_processes.note(Contestant::Gateway, rate[2] / rate[0]);
            sharing.note(Contestant::Gateway, cpu[1] / cpu[2]);
            for (figure, rate) in rates.iter_mut().zip(rate) {
                figure.note(Contestant::Gateway, rate);
            }
        }
        figures.extend([factor, of_processes, sharing].into_iter().chain(rates));
    }
    Ok(figures)
}

/// Requests in a second of the time for which this had the cores, be it one process or two; and the CPU time for each, in
/// seconds.
async fn turn(lab: &Lab, running: &[Running], cpus: &[usize]) -> Result<(f64, f64)> {
    let question = Question::new(1024, false);
    lab.upstream.expect(&question, None)?;
    let targets: Vec<_> = running.iter().map(|running| running.address).collect();
    let turn = Turn::new(targets[0], question);
    let clients = lab.effort.streams * cpus.len();
    let mut batch = Batch::open(&targets, clients).await?;
    let processes: Vec<_> = running.iter().filter_map(|running| running.process.as_ref()).collect();
    let threads = processes.iter().map(|process| process.threads()).collect::<Result<Vec<_>>>()?;
    let watch = IdleWatch::of(cpus)?;
    let cpu_time = || processes.iter().map(|process| process.cpu_time()).sum::<Duration>();
    let run = || -> Result<Option<Duration>> {
        let before = cpu_time();
        let taken = watch.until_idle(RUN_TIMEOUT, || go_on(&threads))?;
        if taken.is_none() && cpu_time() - before > RUN_TIMEOUT.mul_f64(0.9) {
            return Err("the gateway finds no end".into());
        }
        // On a machine that always has other things to do, no end is seen.
        Ok(taken.or(Some(RUN_TIMEOUT).filter(|_| !lab.effort.needs_quiet)))
    };
    let wanted = (lab.effort.turn.as_secs_f64() / BATCH.as_secs_f64()).ceil() as usize;
    let (mut taken, mut cpu, mut without) = (Vec::new(), Vec::new(), [0; 2]);
    for number in 0.. {
        if let ([threads], true) = (&threads[..], number == WARM_UP && cpus.len() > 1) {
            // Woken all at once from a CPU that is busy, they begin on the same one, and the scheduler takes longer to
            // change that than a batch takes.
            threads.spread(cpus)?;
        }
        let (before, cpu_before) = (lab.upstream.counts()?.requests.get(), cpu_time());
        pause(&threads)?;
        batch.ask(&turn).await?;
        let first = run()?;
        pause(&threads)?;
        let mut is_whole = all_come(lab, before + clients as u64).await?;
        let second = if is_whole { run()? } else { None };
        pause(&threads)?;
        let mut reading = std::pin::pin!(batch.read_answers(&turn));
        // All answers are there, or the program would go on in time that is not counted.
        match tokio::time::timeout(STUCK, &mut reading).await {
            Ok(read) => read?,
            Err(_) => {
                is_whole = false;
                go_on(&threads)?;
                reading.await?;
            }
        }
        go_on(&threads)?;
        lab.judge(&turn, &running[0])?;
        match (first, second) {
            _ if number < WARM_UP => {}
            (Some(first), Some(second)) if is_whole => {
                taken.push((first + second).as_secs_f64());
                cpu.push((cpu_time() - cpu_before).as_secs_f64() / clients as f64);
            }
            // Upstream cannot have all at once as long as buffers have not grown.
            (Some(_), _) if !is_whole => without[0] += 1,
            _ => without[1] += 1,
        }
        if without[0] > MAX_WITHOUT {
            return Err("the gateway: upstream does not get all at once".into());
        }
        if without[1] > MAX_WITHOUT {
            return Err("the machine is too busy with other things".into());
        }
        if taken.len() == wanted {
            break;
        }
    }
    Ok((clients as f64 / median(&taken).unwrap_or(f64::INFINITY), median(&cpu).unwrap_or(f64::INFINITY)))
}

fn pause(threads: &[Threads]) -> Result<()> {
    threads.iter().try_for_each(Threads::pause)
}

fn go_on(threads: &[Threads]) -> Result<()> {
    threads.iter().try_for_each(Threads::go_on)
}

/// Lets upstream have what is there, and answer; whether it has come to so many questions then.
async fn all_come(lab: &Lab, requests: u64) -> Result<bool> {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = lab.upstream.counts()?.requests.get();
        if now >= requests {
            tokio::time::sleep(SETTLE).await;
            return Ok(true);
        }
        if now > seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > STUCK {
            return Ok(false);
        }
    }
}

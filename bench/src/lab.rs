//! One run's equipment, and how one turn is measured with it.

use crate::Result;
use crate::contestant::{Contestant, Running, Stable};
use crate::load::{Closed, Open, Slots, Streams, StreamsPlan, Turn};
use crate::payload::Question;
use crate::process::cpu_time_of;
use crate::upstream::{StreamShape, Upstream, Wire};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often a turn is tried on a machine that is busy with other things.
const MAX_ATTEMPTS: usize = 20;
/// How long a program may take to give the next answer, of its first ones or its last, on a machine that is busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A turn where many are taken within some seconds: at 1,000 a second a hundred questions are recorded in it.
const SLOT: Duration = Duration::from_millis(110);
const SLOT_WARM_UP: Duration = Duration::from_millis(10);
/// How often it is looked whether an answer has come that is waited for.
const ANSWER_INTERVAL: Duration = Duration::from_millis(1);

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// How long one turn is measured.
    pub(crate) turn: Duration,
    /// How long load runs before that.
    pub(crate) warm_up: Duration,
    /// Streams at one time, where their cost is measured.
    pub(crate) streams: usize,
    /// Streams at one time, where memory is measured.
    pub(crate) memory_streams: &'static [usize],
    /// How long after the last stream memory is looked at again.
    pub(crate) memory_rest: Duration,
    /// Bytes of large bodies.
    pub(crate) bodies: &'static [usize],
    /// Questions a second, where a rate is fixed.
    pub(crate) rate: u32,
    /// Starts of each program.
    pub(crate) starts: usize,
    /// Requests, where nothing may grow with them.
    pub(crate) soak: u64,
    /// Whether a turn counts only if the machine let the clients ask in time.
    pub(crate) needs_quiet: bool,
}

impl Effort {
    /// Some minutes for each part.
    pub(crate) const FULL: Self = Self {
        rounds: 7,
        turn: Duration::from_millis(1000),
        warm_up: Duration::from_millis(250),
        streams: 1000,
        memory_streams: &[100, 1000, 9000],
        memory_rest: Duration::from_secs(60),
        bodies: &[100_000, 1_000_000, 10_000_000],
        rate: 15_000,
        starts: 15,
        soak: 1_000_000,
        needs_quiet: true,
    };
    /// Two minutes for all parts.
    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        turn: Duration::from_millis(400),
        warm_up: Duration::from_millis(150),
        memory_streams: &[1000],
        memory_rest: Duration::from_secs(2),
        bodies: &[1_000_000],
        starts: 5,
        soak: 50_000,
        ..Self::FULL
    };
    /// Whether the benchmark itself works; its figures mean nothing.
    pub(crate) const CHECK: Self = Self {
        rounds: 1,
        turn: Duration::from_millis(100),
        warm_up: Duration::from_millis(400),
        streams: 20,
        memory_streams: &[50],
        memory_rest: Duration::ZERO,
        bodies: &[1_000_000],
        rate: 500,
        starts: 1,
        soak: 500,
        needs_quiet: false,
    };
}

pub(crate) struct Lab {
    pub(crate) upstream: Upstream,
    pub(crate) stable: Stable,
    pub(crate) effort: Effort,
    /// The CPUs of the programs under test.
    pub(crate) cpus: Vec<usize>,
    /// The CPU of clients and upstream.
    pub(crate) bench_cpus: Vec<usize>,
    pub(crate) contestants: Vec<Contestant>,
}

/// What a turn asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// So many clients, each of which asks as soon as it has its answer.
    Saturating { clients: usize },
    /// So many questions a second.
    Rate(u32),
}

/// What was seen in one turn.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    /// Whole answers or events.
    pub(crate) done: f64,
    /// CPU time of the program.
    pub(crate) cpu: Duration,
    /// CPU time of clients and upstream.
    pub(crate) bench_cpu: Duration,
    pub(crate) wall: Duration,
    /// In nanoseconds, in order.
    pub(crate) latencies: Vec<u64>,
    /// The same of each slot, where several took turns.
    pub(crate) slots: Vec<Vec<u64>>,
    /// In nanoseconds, in order.
    pub(crate) first_bytes: Vec<u64>,
}

/// What a sample is counted from.
struct Begun {
    at: Instant,
    cpu: Duration,
    done: u64,
    bench_cpu: Duration,
}

impl Sample {
    /// CPU microseconds for each answer or event.
    pub(crate) fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.done
    }

    /// Answers a second, by the clock.
    pub(crate) fn rate(&self) -> f64 {
        self.done / self.wall.as_secs_f64()
    }

    /// The part of a core that the program used.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64()
    }

    /// The same with the latencies of the turn, whose last answers have come.
    fn with_latencies(mut self, turn: &Turn) -> Self {
        self.latencies = turn.notes.latencies.take();
        let mut begin = 0;
        for end in turn.notes.slot_ends.take() {
            let mut slot = self.latencies[begin..end].to_vec();
            slot.sort_unstable();
            self.slots.push(slot);
            begin = end;
        }
        self.latencies.sort_unstable();
        self
    }

    /// The part of a core that clients and upstream used.
    pub(crate) fn bench_busy(&self) -> f64 {
        self.bench_cpu.as_secs_f64() / self.wall.as_secs_f64()
    }
}

impl Lab {
    pub(crate) fn new(gateway: PathBuf, effort: Effort, cpus: Vec<usize>, bench_cpus: Vec<usize>) -> Result<Self> {
        let installed = [Contestant::Nginx, Contestant::HaProxy];
        let others = installed.into_iter().filter(|contestant| contestant.version().is_some());
        Ok(Self {
            upstream: Upstream::here()?,
            stable: Stable { gateway, wrapper: Vec::new() },
            effort,
            cpus,
            bench_cpus,
            contestants: [Contestant::Gateway].into_iter().chain(others).collect(),
        })
    }

    /// The same equipment, with an upstream in a process of its own.
    pub(crate) fn with_upstream_apart(&self) -> Result<Self> {
        Ok(Self {
            upstream: Upstream::apart(&self.bench_cpus)?,
            stable: self.stable.clone(),
            cpus: self.cpus.clone(),
            bench_cpus: self.bench_cpus.clone(),
            contestants: self.contestants.clone(),
            ..*self
        })
    }

    /// The CPUs of the programs under test and those of clients and upstream.
    pub(crate) fn all_cpus(&self) -> Vec<usize> {
        self.cpus.iter().chain(&self.bench_cpus).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(crate) async fn start(&self, contestant: Contestant, wire: Wire) -> Result<Running> {
        self.stable.start(contestant, &self.upstream, wire, &self.cpus).await
    }

    pub(crate) async fn start_all(&self, wire: Wire) -> Result<Vec<Running>> {
        let mut running = Vec::new();
        for contestant in &self.contestants {
            let started = self.start(*contestant, wire).await?;
            started.check_key().await?;
            running.push(started);
        }
        Ok(running)
    }

    /// One turn of questions without a stream; once more where the machine did something else in between.
    pub(crate) async fn turn(&self, running: &Running, body_bytes: usize, load: Load) -> Result<Sample> {
        for _ in 0..MAX_ATTEMPTS {
            if let Some(sample) = self.undisturbed_turn(running, body_bytes, load).await? {
                return Ok(sample);
            }
            eprintln!("once more: the machine gave the clients no time");
        }
        Err("the machine is too busy with other things".into())
    }

    async fn undisturbed_turn(&self, running: &Running, body_bytes: usize, load: Load) -> Result<Option<Sample>> {
        let question = running.contestant.question(body_bytes, false);
        self.upstream.expect(&question, None)?;
        let turn = Rc::new(Turn::new(running.address, question));
        let sample = match load {
            Load::Saturating { clients } => {
                let clients = Closed::start(&turn, clients);
                let sample = self.measure(&turn, running).await?;
                self.last_answers(running, clients.end()).await?;
                sample.with_latencies(&turn)
            }
            Load::Rate(rate) => {
                let clients = Open::start(&turn, rate, None);
                let sample = self.measure(&turn, running).await?;
                self.last_answers(running, clients.end()).await?;
                sample.with_latencies(&turn)
            }
        };
        self.judge(&turn, running)?;
        Ok(Some(sample).filter(|_| !(turn.notes.paused.get() && self.effort.needs_quiet)))
    }

    /// So many questions a second for each of these in short turns, many times around: all of them have the same machine,
    /// with all that it does beside.
    pub(crate) async fn turns_around(
        &self,
        running: &[&Running],
        body_bytes: usize,
        rate: u32,
        length: Duration,
    ) -> Result<Vec<Sample>> {
        for _ in 0..MAX_ATTEMPTS {
            if let Some(samples) = self.undisturbed_turns_around(running, body_bytes, rate, length).await? {
                return Ok(samples);
            }
            eprintln!("once more: the machine gave the clients no time");
        }
        Err("the machine is too busy with other things".into())
    }

    async fn undisturbed_turns_around(
        &self,
        running: &[&Running],
        body_bytes: usize,
        rate: u32,
        length: Duration,
    ) -> Result<Option<Vec<Sample>>> {
        self.upstream.expect(&Question::new(body_bytes, false), None)?;
        let (mut all, count) = (Vec::new(), running.len());
        for (number, running) in running.iter().enumerate() {
            let turn = Rc::new(Turn::new(running.address, running.contestant.question(body_bytes, false)));
            let slots = Slots { length: SLOT, warm_up: SLOT_WARM_UP, number: number as u32, of: count as u32 };
            all.push((*running, turn.clone(), Open::start(&turn, rate, Some(slots))));
        }
        for (running, turn, _) in &all {
            self.answer_after(0, turn, running).await?;
        }
        tokio::time::sleep(self.effort.warm_up).await;
        let begun: Vec<_> = all.iter().map(|(running, turn, _)| self.begin(turn, running)).collect();
        tokio::time::sleep(length).await;
        let mut samples = Vec::new();
        for ((running, turn, _), begun) in all.iter().zip(&begun) {
            self.answer_after(begun.done, turn, running).await?;
            samples.push(self.finish(begun, turn, running));
        }
        let (mut whole, mut was_paused) = (Vec::new(), false);
        for ((running, turn, clients), sample) in all.into_iter().zip(samples) {
            self.last_answers(running, clients.end()).await?;
            self.judge(&turn, running)?;
            was_paused |= turn.notes.paused.get();
            whole.push(sample.with_latencies(&turn));
        }
        Ok(Some(whole).filter(|_| !(was_paused && self.effort.needs_quiet)))
    }

    /// One turn of streams, which have all begun before it is measured and end after it, regularly.
    pub(crate) async fn turn_of_streams(&self, running: &Running, interval: Duration) -> Result<Sample> {
        let question = running.contestant.question(1024, true);
        let ramp = self.effort.turn / 2;
        let whole = ramp + self.effort.warm_up + self.effort.turn + interval * 2;
        let events = (whole.as_secs_f64() / interval.as_secs_f64()).ceil() as u64;
        self.upstream.expect(&question, Some(StreamShape { events, interval }))?;
        let turn = Rc::new(Turn::new(running.address, question));
        let streams = Streams::start(&turn, StreamsPlan { count: self.effort.streams, ramp });
        tokio::time::sleep(ramp).await;
        let sample = self.measure(&turn, running).await?;
        self.last_answers(running, streams.end()).await?;
        self.judge(&turn, running)?;
        let (ended, asked) = (turn.notes.ended.get(), self.effort.streams as u64);
        if ended != asked {
            return Err(format!("{}: {ended} of {asked} streams came to their end", running.contestant.name()).into());
        }
        let mut sample = sample.with_latencies(&turn);
        sample.first_bytes = turn.notes.first_bytes.take();
        sample.first_bytes.sort_unstable();
        Ok(sample)
    }

    /// What is seen from the first answer on, after the warm-up: what it takes to get there is no part of a turn.
    async fn measure(&self, turn: &Turn, running: &Running) -> Result<Sample> {
        self.answer_after(0, turn, running).await?;
        tokio::time::sleep(self.effort.warm_up).await;
        let begun = self.begin(turn, running);
        tokio::time::sleep(self.effort.turn).await;
        // A machine with other things to do may have given the program no time so far.
        self.answer_after(begun.done, turn, running).await?;
        Ok(self.finish(&begun, turn, running))
    }

    fn begin(&self, turn: &Turn, running: &Running) -> Begun {
        turn.notes.recording.set(true);
        Begun {
            at: Instant::now(),
            cpu: running.cpu_time(),
            done: turn.notes.done.get(),
            bench_cpu: self.own_cpu_time(),
        }
    }

    fn finish(&self, begun: &Begun, turn: &Turn, running: &Running) -> Sample {
        let notes = &turn.notes;
        let (wall, cpu) = (begun.at.elapsed(), running.cpu_time().saturating_sub(begun.cpu));
        let done = (notes.done.get() - begun.done) as f64;
        let bench_cpu = self.own_cpu_time().saturating_sub(begun.bench_cpu);
        notes.recording.set(false);
        Sample { done, cpu, bench_cpu, wall, ..Sample::default() }
    }

    /// CPU time of clients and upstream.
    fn own_cpu_time(&self) -> Duration {
        cpu_time_of(std::process::id()) + self.upstream.own_cpu_time()
    }

    /// Waits until more than so many answers have come.
    async fn answer_after(&self, done: u64, turn: &Turn, running: &Running) -> Result<()> {
        let begun = Instant::now();
        while turn.notes.done.get() <= done {
            self.judge(turn, running)?;
            if begun.elapsed() > ANSWER_TIMEOUT {
                return Err(format!("{}: nothing was answered", running.contestant.name()).into());
            }
            tokio::time::sleep(ANSWER_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until all that was asked is answered.
    async fn last_answers(&self, running: &Running, answers: impl Future<Output = ()>) -> Result<()> {
        let in_time = tokio::time::timeout(ANSWER_TIMEOUT, answers).await;
        in_time.map_err(|_| format!("{}: the last answers never came", running.contestant.name()).into())
    }

    /// Fails when a byte was wrong on either side.
    pub(crate) fn judge(&self, turn: &Turn, running: &Running) -> Result<()> {
        if let Some(fault) = turn.notes.fault.borrow().as_ref() {
            return Err(format!("{}: {fault}", running.contestant.name()).into());
        }
        match self.upstream.counts()?.wrong.get() {
            0 => Ok(()),
            wrong => Err(format!("{}: upstream got {wrong} wrong requests", running.contestant.name()).into()),
        }
    }
}

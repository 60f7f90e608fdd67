//! Who used what, from the log: the ledger of a gateway without a database.
//!
//! `source` takes a log apart into entries, `entry` reads them, the [`Ledger`] adds them up by whatever was asked for,
//! with `histogram` and `prices`, and `report` prints the sums. Memory grows with the number of groups only.

mod entry;
mod histogram;
mod prices;
mod report;
mod source;

pub use prices::Prices;

use crate::tokens::{self, Tokens};
use entry::{Chat, Entry};
use histogram::Histogram;
use jiff::Timestamp;
use source::Entries;
use std::collections::HashMap;
use std::fmt::Write;
use std::io::{self, BufRead};

/// More groups are not kept: no team has as many keys, but a hostile log could.
const MAX_GROUPS: usize = 100_000;
/// Joins the parts of a group's name; no log line has it unescaped.
const SEPARATOR: char = '\0';

/// By what requests are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The month in which they ended, in UTC.
    Month,
    /// The day.
    Day,
    /// The hour.
    Hour,
    /// The key's id.
    Key,
    /// The alias.
    Alias,
    /// The Vertex id.
    Model,
    /// The status.
    Status,
    /// How they ended.
    Outcome,
}

impl Dimension {
    const ALL: [Self; 8] =
        [Self::Month, Self::Day, Self::Hour, Self::Key, Self::Alias, Self::Model, Self::Status, Self::Outcome];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Key => "key",
            Self::Alias => "alias",
            Self::Model => "model",
            Self::Status => "status",
            Self::Outcome => "outcome",
        }
    }

    /// Reads a list such as `key,day`; `total` stands for none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        if text == "total" {
            return Ok(Vec::new());
        }
        let mut list = Vec::new();
        for name in text.split(',') {
            let Some(dimension) = Self::ALL.into_iter().find(|known| known.name() == name) else {
                let names = Self::ALL.map(Self::name).join(", ");
                return Err(format!("'{name}' is none of {names}, total"));
            };
            if list.contains(&dimension) {
                return Err(format!("'{name}' stands twice"));
            }
            list.push(dimension);
        }
        Ok(list)
    }
}

/// What is asked of a log.
#[derive(Clone, Debug)]
pub struct Question {
    /// By what the sums are grouped.
    pub by: Vec<Dimension>,
    /// Only requests that ended then or later.
    pub since: Option<Timestamp>,
    /// Only requests that ended before.
    pub until: Option<Timestamp>,
    /// What tokens cost.
    pub prices: Prices,
}

/// The sums of a log.
#[derive(Debug)]
pub struct Ledger {
    question: Question,
    groups: HashMap<String, Sums>,
    total: Sums,
    entries: EntryCounts,
    /// The group under way, to spare an allocation for each request.
    name: String,
    /// The last day that was spelled out, since midnight of 1970.
    day: (i64, String),
}

/// How many entries a log had.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct EntryCounts {
    /// All that were not blank.
    read: u64,
    /// Chats that are in the sums.
    chats: u64,
    /// Chats before `since` or after `until`.
    out_of_range: u64,
    /// Requests to other routes, which cost nothing.
    other_requests: u64,
    /// What is no request of a gateway.
    skipped: u64,
}

/// The sums of a group.
#[derive(Clone, Debug, Default)]
struct Sums {
    requests: u64,
    /// By the gateway or by upstream: the client's fault.
    errors_4xx: u64,
    errors_5xx: u64,
    /// Answers that ended early, but not by their client.
    broken: u64,
    hung_up: u64,
    /// Requests that may have cost tokens nobody told.
    unknown_usage: u64,
    prompt: u64,
    cached: u64,
    answer: u64,
    thinking: u64,
    /// Requests whose usage is known, but not its price.
    unpriced: u64,
    cost: f64,
    duration: Histogram,
    first_byte: Histogram,
}

impl Sums {
    fn add(&mut self, chat: &Chat<'_>, cost: Option<f64>) {
        self.requests += 1;
        match chat.status {
            Some(500..) => self.errors_5xx += 1,
            Some(400..) => self.errors_4xx += 1,
            _ => match &*chat.outcome {
                "client_hung_up" => self.hung_up += 1,
                "upstream_broke" | "cut_by_shutdown" | "internal_error" => self.broken += 1,
                _ => {}
            },
        }
        match &chat.tokens {
            Some(tokens) => {
                let sums = [&mut self.prompt, &mut self.cached, &mut self.answer, &mut self.thinking];
                let counts = [tokens.prompt, tokens.cached, tokens.answer, tokens.thinking];
                for (sum, count) in sums.into_iter().zip(counts) {
                    *sum = sum.saturating_add(count.unwrap_or(0));
                }
                match cost {
                    Some(cost) => self.cost += cost,
                    None => self.unpriced += 1,
                }
            }
            None => {
                let may_have_cost = tokens::may_have_cost(chat.status, chat.error.as_deref());
                self.unknown_usage += u64::from(chat.alias.is_some() && may_have_cost);
            }
        }
        if matches!(chat.status, Some(200..=299)) {
            self.duration.add(chat.duration);
            if let Some(first_byte) = chat.first_byte {
                self.first_byte.add(first_byte);
            }
        }
    }

    fn errors(&self) -> u64 {
        self.errors_4xx + self.errors_5xx + self.broken
    }

    /// The cost, if at least something of it is known.
    fn known_cost(&self) -> Option<f64> {
        let nothing_known = self.cost == 0.0 && (self.unpriced > 0 || self.unknown_usage > 0);
        (!nothing_known).then_some(self.cost)
    }
}

impl Ledger {
    /// A ledger without entries.
    #[must_use]
    pub fn new(question: Question) -> Self {
        Self {
            question,
            groups: HashMap::new(),
            total: Sums::default(),
            entries: EntryCounts::default(),
            name: String::new(),
            day: (i64::MIN, String::new()),
        }
    }

    /// Reads a whole log. `progress` is told now and then how many entries there were in all, and how many bytes of this
    /// log were read.
    ///
    /// # Errors
    /// When reading fails.
    pub fn read(&mut self, log: impl BufRead, mut progress: impl FnMut(u64, u64)) -> io::Result<()> {
        const PROGRESS_ENTRIES: u64 = 4096;
        let mut entries = Entries::new(log);
        while let Some(entry) = entries.next()? {
            self.add(entry);
            if self.entries.read.is_multiple_of(PROGRESS_ENTRIES) {
                progress(self.entries.read, entries.read_bytes());
            }
        }
        progress(self.entries.read, entries.read_bytes());
        Ok(())
    }

    /// Adds one entry.
    fn add(&mut self, entry: &[u8]) {
        self.entries.read += 1;
        let chat = match Entry::parse(entry) {
            Entry::Chat(chat) => chat,
            Entry::OtherRequest => return self.entries.other_requests += 1,
            Entry::Foreign => return self.entries.skipped += 1,
        };
        let is_before = self.question.since.is_some_and(|since| chat.time < since);
        if is_before || self.question.until.is_some_and(|until| chat.time >= until) {
            self.entries.out_of_range += 1;
            return;
        }
        self.entries.chats += 1;
        let price = |tokens: &Tokens| self.question.prices.cost(chat.alias.as_deref(), chat.model.as_deref(), tokens);
        let cost = chat.tokens.as_ref().and_then(price);
        self.total.add(&chat, cost);
        self.spell_name(&chat);
        if let Some(sums) = self.groups.get_mut(&self.name) {
            sums.add(&chat, cost);
        } else {
            if self.groups.len() >= MAX_GROUPS {
                let names = vec!["(others)"; self.question.by.len()];
                self.name = names.join(&SEPARATOR.to_string());
            }
            self.groups.entry(self.name.clone()).or_default().add(&chat, cost);
        }
    }

    /// Spells the group of a chat into `name`.
    fn spell_name(&mut self, chat: &Chat<'_>) {
        let second = chat.time.as_second();
        let day = second.div_euclid(86_400);
        if self.day.0 != day {
            let text = chat.time.to_string();
            self.day = (day, text.split('T').next().unwrap_or_default().to_owned());
        }
        let (name, date) = (&mut self.name, &self.day.1);
        name.clear();
        for (number, dimension) in self.question.by.iter().enumerate() {
            if number > 0 {
                name.push(SEPARATOR);
            }
            let text = match dimension {
                Dimension::Month => date.rsplit_once('-').map(|(month, _)| month),
                Dimension::Day => Some(&**date),
                Dimension::Key => chat.key.as_deref(),
                Dimension::Alias => chat.alias.as_deref(),
                Dimension::Model => chat.model.as_deref(),
                Dimension::Outcome => Some(&*chat.outcome),
                Dimension::Hour => {
                    let _ = write!(name, "{date}T{:02}", second.rem_euclid(86_400) / 3600);
                    continue;
                }
                Dimension::Status => {
                    let _ = chat.status.map_or(Ok(()), |status| write!(name, "{status}"));
                    continue;
                }
            };
            name.push_str(text.unwrap_or_default());
        }
    }
}

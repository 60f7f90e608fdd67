//! How much the owner of a key may do, and what it has done: counted by id, in this process alone.
//!
//! An id's keys share one [`Account`], so that a rotation with overlap doubles nothing; each key is judged by the numbers
//! of its own entry. Everything of an account stands behind one lock that is held for well under a microsecond, and
//! which only requests of that id ever take.

use crate::error::ApiError;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The window that `rpm` is about.
const MINUTE: Duration = Duration::from_secs(60);
/// The day that `tokens_per_day` is about, in seconds.
const DAY_SECONDS: i64 = 86_400;
/// When a running request ends, nobody knows: the shortest wait that can be told.
const WAIT_FOR_SLOT: Duration = Duration::from_secs(1);

/// The numbers of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Requests that may be admitted in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u32>,
    /// Requests that may run at one time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Tokens that may be used in a day, by UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    /// What an answer counts for among those whose usage never came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_if_unknown: Option<u64>,
}

impl Limits {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What an id has done of late.
#[derive(Debug)]
pub(super) struct Account {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When requests were admitted in the last minute, since the account began; the oldest first.
    admitted: VecDeque<Duration>,
    /// How many of them can matter: the largest `rpm` among the id's keys.
    kept: usize,
    running: u32,
    /// The day that `tokens` is about, counted from 1970.
    day: i64,
    tokens: u64,
}

/// The two clocks: one that never jumps for minutes, and UTC for days.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) utc: Timestamp,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), utc: Timestamp::now() }
    }

    fn day(&self) -> i64 {
        self.utc.as_second().div_euclid(DAY_SECONDS)
    }

    fn until_tomorrow(&self) -> Duration {
        let seconds = DAY_SECONDS - self.utc.as_second().rem_euclid(DAY_SECONDS);
        Duration::from_secs(seconds.unsigned_abs())
    }
}

impl Account {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many admissions have to be remembered.
    pub(super) fn keep(&self, admissions: u32) {
        let mut state = self.lock();
        // A limit that is lowered and raised again has forgotten nothing in between.
        state.kept = state.admitted.len().max(admissions as usize);
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_idle(&self, now: Now) -> bool {
        let mut state = self.lock();
        state.forget_old(now.instant.saturating_duration_since(self.began));
        state.running == 0 && state.admitted.is_empty() && (state.tokens == 0 || state.day != now.day())
    }

    /// Judges a request by the numbers of its key, and counts it if it may go on. What is refused is not counted.
    pub(super) fn admit(self: &Arc<Self>, limits: Limits, now: Now) -> (Admission, Result<(), ApiError>) {
        let mut state = self.lock();
        // Whoever came first to the lock may have read the clock second.
        let at =
            now.instant.saturating_duration_since(self.began).max(state.admitted.back().copied().unwrap_or_default());
        state.forget_old(at);
        state.turn_to(now.day());
        let verdict = state.judge(limits, at, now);
        let slot = verdict.is_ok().then(|| {
            state.admitted.push_back(at);
            state.trim();
            state.running += 1;
            Slot(self.clone())
        });
        let requests = limits.rpm.map(|limit| Quota {
            limit: u64::from(limit),
            remaining: u64::from(limit).saturating_sub(state.admitted.len() as u64),
            reset: state.admitted.back().map_or(Duration::ZERO, |newest| (*newest + MINUTE).saturating_sub(at)),
        });
        let tokens = limits.tokens_per_day.map(|limit| Quota {
            limit,
            remaining: limit.saturating_sub(state.tokens),
            reset: if state.tokens == 0 { Duration::ZERO } else { now.until_tomorrow() },
        });
        let if_unknown = limits.tokens_if_unknown.unwrap_or(0);
        (Admission { account: self.clone(), slot, requests, tokens, charged: 0, if_unknown }, verdict)
    }

    fn charge(&self, tokens: u64, now: Now) {
        let mut state = self.lock();
        state.turn_to(now.day());
        state.tokens = state.tokens.saturating_add(tokens);
    }
}

impl State {
    /// The longest wait is told first.
    fn judge(&self, limits: Limits, at: Duration, now: Now) -> Result<(), ApiError> {
        if let Some(limit) = limits.tokens_per_day.filter(|limit| self.tokens >= *limit) {
            return Err(ApiError::TokensUsedUp { limit, wait: now.until_tomorrow() });
        }
        // The request that has to leave the window before another one fits in.
        let in_the_way = limits.rpm.and_then(|limit| {
            let index = self.admitted.len().checked_sub(limit as usize)?;
            Some((limit, *self.admitted.get(index)?))
        });
        if let Some((limit, admitted)) = in_the_way {
            return Err(ApiError::TooManyRequests { limit, wait: (admitted + MINUTE).saturating_sub(at) });
        }
        match limits.max_concurrent.filter(|limit| self.running >= *limit) {
            Some(limit) => Err(ApiError::TooManyRunning { limit, wait: WAIT_FOR_SLOT }),
            None => Ok(()),
        }
    }

    fn forget_old(&mut self, at: Duration) {
        while self.admitted.front().is_some_and(|admitted| *admitted + MINUTE <= at) {
            self.admitted.pop_front();
        }
        if self.admitted.is_empty() {
            self.admitted = VecDeque::new();
        }
    }

    fn trim(&mut self) {
        let excess = self.admitted.len().saturating_sub(self.kept);
        self.admitted.drain(..excess);
    }

    /// A clock that was set back over midnight stays on the later day: nothing is forgiven by that. One that was days
    /// ahead is no reason to wait for days.
    fn turn_to(&mut self, day: i64) {
        if day > self.day || day < self.day - 1 {
            (self.day, self.tokens) = (day, 0);
        }
    }
}

/// A request of an id whose doings are counted.
#[derive(Debug)]
pub struct Admission {
    account: Arc<Account>,
    slot: Option<Slot>,
    requests: Option<Quota>,
    tokens: Option<Quota>,
    charged: u64,
    /// What it counts for if nobody tells.
    if_unknown: u64,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota {
    limit: u64,
    remaining: u64,
    reset: Duration,
}

/// The names of the header fields, for pages of other origins.
pub const FIELD_NAMES: &str = "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

impl Admission {
    /// Writes OpenAI's header fields for the limits that the key has.
    pub fn write_fields(&self, out: &mut Vec<u8>) {
        let quotas = [("requests", self.requests), ("tokens", self.tokens)];
        for (what, quota) in quotas.into_iter().filter_map(|(what, quota)| Some((what, quota?))) {
            let Quota { limit, remaining, reset } = quota;
            let mut fields = String::with_capacity(160);
            let _ = write!(
                fields,
                "x-ratelimit-limit-{what}: {limit}\r\nx-ratelimit-remaining-{what}: {remaining}\r\nx-ratelimit-reset-{what}: {}\r\n",
                GoDuration(reset)
            );
            out.extend_from_slice(fields.as_bytes());
        }
    }

    /// Counts what the answer has used so far; told again, only what is more.
    pub fn charge(&mut self, tokens: u64) {
        let more = tokens.saturating_sub(self.charged);
        if more > 0 {
            self.charged = tokens;
            self.account.charge(more, Now::read());
        }
    }

    /// Counts an answer whose usage never came as the key's owner wants it to be.
    pub fn charge_unknown(&mut self) {
        self.charge(self.if_unknown);
    }

    /// The request no longer runs. Dropping the admission does the same.
    pub fn release(&mut self) {
        self.slot = None;
    }
}

/// One running request.
#[derive(Debug)]
struct Slot(Arc<Account>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

/// A duration as OpenAI writes it, rounded up: `17ms`, `1s`, `6m0s`, `13h5m12s`.
struct GoDuration(Duration);

impl std::fmt::Display for GoDuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milliseconds = self.0.as_nanos().div_ceil(1_000_000);
        if milliseconds == 0 {
            return f.write_str("0s");
        }
        if milliseconds < 1000 {
            return write!(f, "{milliseconds}ms");
        }
        let seconds = milliseconds.div_ceil(1000);
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOON: i64 = 20_000 * DAY_SECONDS + 12 * 3600;

    fn now(account: &Account, millisecond: u64) -> Now {
        let since = Duration::from_millis(millisecond);
        Now { instant: account.began + since, utc: Timestamp::from_second(NOON + since.as_secs() as i64).unwrap() }
    }

    fn account(kept: u32) -> Arc<Account> {
        let account = Arc::new(Account::new());
        account.keep(kept);
        account
    }

    fn rpm(limit: u32) -> Limits {
        Limits { rpm: Some(limit), ..Limits::default() }
    }

    #[test]
    fn no_minute_has_more_requests_than_its_limit() {
        let account = account(2);
        let admit = |at| account.admit(rpm(2), now(&account, at)).1;
        assert!(admit(0).is_ok() && admit(50_000).is_ok());
        let refusal = admit(50_001).unwrap_err();
        assert!(
            matches!(refusal, ApiError::TooManyRequests { limit: 2, wait } if wait == Duration::from_millis(9_999))
        );
        assert_eq!(refusal.retry_after().map(|wait| crate::error::seconds(&wait)), Some(10));
        assert!(admit(59_999).is_err() && admit(60_000).is_ok(), "the first one is a minute old");
        assert!(admit(109_999).is_err() && admit(110_000).is_ok());
    }

    #[test]
    fn what_is_left_is_told_in_openais_words() {
        let account = account(3);
        let limits = Limits { tokens_per_day: Some(1000), ..rpm(3) };
        let (admission, verdict) = account.admit(limits, now(&account, 0));
        verdict.unwrap();
        let told = |admission: &Admission| {
            let mut out = Vec::new();
            admission.write_fields(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            told(&admission),
            "x-ratelimit-limit-requests: 3\r\nx-ratelimit-remaining-requests: 2\r\nx-ratelimit-reset-requests: 1m0s\r\n\
             x-ratelimit-limit-tokens: 1000\r\nx-ratelimit-remaining-tokens: 1000\r\nx-ratelimit-reset-tokens: 0s\r\n"
        );
        account.charge(400, now(&account, 1000));
        let (admission, _) = account.admit(limits, now(&account, 12_000));
        let said = told(&admission);
        assert!(said.contains("remaining-tokens: 600\r\nx-ratelimit-reset-tokens: 11h59m48s"), "{said}");
        assert!(FIELD_NAMES.split(", ").all(|name| said.contains(&format!("{name}: "))));
        let (admission, _) =
            account.admit(Limits { max_concurrent: Some(9), ..Limits::default() }, now(&account, 13_000));
        assert_eq!(told(&admission), "", "OpenAI has no header for these");
    }

    #[test]
    fn a_slot_is_free_when_its_request_has_ended() {
        let account = account(0);
        let limits = Limits { max_concurrent: Some(1), ..Limits::default() };
        let admit = || account.admit(limits, now(&account, 0));
        let (mut first, verdict) = admit();
        verdict.unwrap();
        assert!(matches!(admit().1, Err(ApiError::TooManyRunning { limit: 1, .. })));
        first.release();
        let (second, verdict) = admit();
        verdict.unwrap();
        drop(first);
        assert!(admit().1.is_err(), "a slot is given back once");
        drop(second);
        assert!(admit().1.is_ok());
    }

    #[test]
    fn tokens_come_back_at_midnight() {
        let account = account(0);
        let limits = Limits { tokens_per_day: Some(10), ..Limits::default() };
        let admit = |at| account.admit(limits, now(&account, at)).1;
        account.charge(9, now(&account, 0));
        assert!(admit(0).is_ok());
        account.charge(5, now(&account, 0));
        let midnight = 12 * 3600 * 1000;
        assert!(
            matches!(admit(midnight - 1000), Err(ApiError::TokensUsedUp { wait, .. }) if wait == Duration::from_secs(1))
        );
        assert!(admit(midnight).is_ok());
        account.charge(u64::MAX, now(&account, midnight));
        account.charge(1, now(&account, midnight));
        assert!(admit(midnight).is_err());
        assert!(admit(0).is_err(), "a clock that is set back forgives nothing");
        let day = 24 * 3600 * 1000;
        account.charge(10, now(&account, 100 * day));
        assert!(admit(100 * day).is_err() && admit(day).is_ok(), "nor is a wrong one waited for");
    }

    #[test]
    fn keys_of_one_id_share_what_it_did_and_have_their_own_numbers() {
        let account = account(3);
        let admit = |limits, at| account.admit(limits, now(&account, at)).1.is_ok();
        assert!(admit(rpm(3), 0) && admit(Limits::default(), 1) && !admit(rpm(1), 2));
        assert!(admit(rpm(3), 3) && !admit(rpm(3), 4));
        // One without limits goes on, and what it does is seen by the others.
        assert!((5..1000).all(|at| admit(Limits::default(), at)));
        assert!(!admit(rpm(3), 60_996) && admit(rpm(3), 60_997));
        assert_eq!(account.lock().admitted.len(), 3, "no more is remembered than can matter");
        account.keep(1);
        account.keep(3);
        assert!(!admit(rpm(3), 60_997), "nothing is forgotten while a limit is lower");
    }

    #[test]
    fn an_account_is_idle_when_nothing_would_be_lost() {
        let account = account(1);
        assert!(account.is_idle(now(&account, 0)));
        let admission = account.admit(rpm(1), now(&account, 0)).0;
        account.lock().admitted.clear();
        assert!(!account.is_idle(now(&account, 0)), "it runs");
        account.lock().admitted.push_back(Duration::ZERO);
        drop(admission);
        assert!(!account.is_idle(now(&account, 59_999)) && account.is_idle(now(&account, 60_000)));
        account.charge(1, now(&account, 0));
        assert!(!account.is_idle(now(&account, 60_000)) && account.is_idle(now(&account, 12 * 3600 * 1000)));
    }

    #[test]
    fn durations_are_openais() {
        for (milliseconds, text) in [
            (0, "0s"),
            (17, "17ms"),
            (1000, "1s"),
            (1001, "2s"),
            (59_999, "1m0s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
            (86_400_000, "24h0m0s"),
        ] {
            assert_eq!(GoDuration(Duration::from_millis(milliseconds)).to_string(), text);
        }
        assert_eq!(GoDuration(Duration::from_nanos(1)).to_string(), "1ms");
    }

    proptest! {
        #[test]
        fn admitted_is_exactly_what_the_limit_allows(
            limit in 1u32..6,
            steps in proptest::collection::vec(0u64..40_000, 1..60),
        ) {
            let account = account(limit);
            let (mut at, mut admitted) = (0, Vec::<u64>::new());
            for step in steps {
                at += step;
                let in_window = admitted.iter().filter(|earlier| *earlier + 60_000 > at).count();
                let (_, verdict) = account.admit(rpm(limit), now(&account, at));
                prop_assert_eq!(verdict.is_ok(), in_window < limit as usize);
                if verdict.is_ok() {
                    admitted.push(at);
                }
            }
        }
    }
}

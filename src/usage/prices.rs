//! What tokens cost, by a dated list that can be replaced. An estimate: the bill is Google's.

use crate::tokens::Tokens;
use serde::Deserialize;
use std::collections::HashMap;

/// The list that comes with the program.
const EMBEDDED: &str = include_str!("prices.json");
/// Prices are for so many tokens.
const PER_TOKENS: f64 = 1_000_000.0;

/// A list of prices.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// The day on which they were looked up.
    pub date: String,
    /// Where.
    #[serde(default)]
    pub source: String,
    /// Their currency, by its ISO code.
    pub currency: String,
    /// By Vertex id or by alias.
    models: HashMap<String, Price>,
}

/// Of a million tokens of one model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    input: f64,
    /// The same as `input` where it is left out.
    cached_input: Option<f64>,
    /// Thinking is billed so too.
    output: f64,
    /// What the whole request costs instead when its prompt is long.
    long_prompts: Option<LongPrompts>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LongPrompts {
    over_tokens: u64,
    input: f64,
    cached_input: Option<f64>,
    output: f64,
}

impl Prices {
    /// The list that comes with the program.
    #[must_use]
    pub fn embedded() -> Self {
        serde_json::from_str(EMBEDDED).expect("a test parses the embedded list")
    }

    /// The list of a file in place of the embedded one; models that it does not name keep their embedded price, if the
    /// currency is the same.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut prices: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let all = prices.models.values().flat_map(|price| {
            let long = price.long_prompts.as_ref();
            let longs = long.map(|long| [Some(long.input), long.cached_input, Some(long.output)]);
            [Some(price.input), price.cached_input, Some(price.output)].into_iter().chain(longs.into_iter().flatten())
        });
        if all.flatten().any(|price| !price.is_finite() || price < 0.0) {
            return Err("a price is negative".to_owned());
        }
        let embedded = Self::embedded();
        if embedded.currency == prices.currency {
            for (model, price) in embedded.models {
                prices.models.entry(model).or_insert(price);
            }
        }
        Ok(prices)
    }

    /// What the tokens cost, by the price of the alias, or else of the model; `None` where there is none.
    #[must_use]
    pub fn cost(&self, alias: Option<&str>, model: Option<&str>, tokens: &Tokens) -> Option<f64> {
        let price = [alias, model].into_iter().flatten().find_map(|name| self.models.get(name))?;
        let prompt = tokens.prompt.unwrap_or(0);
        let (input, cached_input, output) = match &price.long_prompts {
            Some(long) if prompt > long.over_tokens => (long.input, long.cached_input, long.output),
            _ => (price.input, price.cached_input, price.output),
        };
        let cached = tokens.cached.unwrap_or(0).min(prompt);
        let cost = (prompt - cached) as f64 * input
            + cached as f64 * cached_input.unwrap_or(input)
            + tokens.output() as f64 * output;
        Some(cost / PER_TOKENS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(prompt: u64, cached: u64, answer: u64, thinking: u64) -> Tokens {
        Tokens { prompt: Some(prompt), cached: Some(cached), answer: Some(answer), thinking: Some(thinking) }
    }

    fn assert_cost(cost: Option<f64>, expected: f64) {
        assert!((cost.unwrap() - expected).abs() < 1e-9, "{cost:?} instead of {expected}");
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        let prices = Prices::embedded();
        let flash = Some("google/gemini-2.5-flash");
        assert_cost(prices.cost(Some("flash"), flash, &tokens(1_000_000, 0, 0, 0)), 0.30);
        assert_cost(prices.cost(None, flash, &tokens(1_000_000, 1_000_000, 0, 0)), 0.03);
        assert_cost(prices.cost(None, flash, &tokens(0, 0, 1_000_000, 0)), 2.50);
        assert_cost(prices.cost(None, flash, &tokens(0, 0, 0, 1_000_000)), 2.50);
        assert_cost(prices.cost(None, flash, &Tokens { prompt: Some(1000), ..Tokens::default() }), 0.0003);
        assert_eq!(prices.cost(Some("flash"), None, &tokens(1, 0, 0, 0)), None);
        assert_eq!(prices.cost(None, Some("google/gemini-2.5-flash-001"), &tokens(1, 0, 0, 0)), None);
    }

    #[test]
    fn a_long_prompt_makes_the_whole_request_dearer() {
        let prices = Prices::embedded();
        let pro = Some("google/gemini-3.1-pro-preview");
        assert_cost(prices.cost(None, pro, &tokens(200_000, 0, 1000, 0)), 0.4 + 0.012);
        assert_cost(prices.cost(None, pro, &tokens(200_001, 100_000, 1000, 1000)), 0.400_004 + 0.04 + 0.036);
    }

    #[test]
    fn a_file_comes_before_the_embedded_list() {
        let prices = Prices::parse(
            r#"{"date":"2027-01-01","currency":"USD","models":{"flash":{"input":1,"output":2},"google/x":{"input":0,"output":0}}}"#,
        )
        .unwrap();
        let million = tokens(1_000_000, 500_000, 0, 0);
        assert_cost(prices.cost(Some("flash"), Some("google/gemini-2.5-flash"), &million), 1.0);
        assert_cost(prices.cost(Some("other"), Some("google/gemini-2.5-flash"), &million), 0.165);
        let euros = r#"{"date":"2027-01-01","currency":"EUR","models":{"flash":{"input":1,"output":2}}}"#;
        assert_eq!(Prices::parse(euros).unwrap().cost(None, Some("google/gemini-2.5-flash"), &million), None);
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"date":"x","currency":"USD","models":{"a":{"input":1}}}"#,
            r#"{"date":"x","currency":"USD","models":{"a":{"input":-1,"output":1}}}"#,
            r#"{"date":"x","currency":"USD","models":{"a":{"input":1,"output":1,"typo":1}}}"#,
            r#"{"date":"x","currency":"USD","models":{"a":{"input":1,"output":1,"long_prompts":{"over_tokens":1,"input":1,"output":-2}}}}"#,
        ] {
            assert!(Prices::parse(bad).is_err(), "{bad}");
        }
    }
}

//! A value that satisfies a JSON schema, filled from the facts of a prompt as far as they fit.
//!
//! Bounded in depth and size whatever the schema: references may lead in circles.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::facts::{self, Facts, Kind};
use super::pattern::Pattern;

/// Values within values, and schemas that only lead to others.
const DEPTH: usize = 32;
/// Values and properties looked at in all.
const BUDGET: usize = 20_000;
/// Items made for `minItems`, and characters for `minLength`, at most.
const MOST_ITEMS: u64 = 256;
const MOST_CHARS: u64 = 4_096;
/// Choices of an `enum` that are looked at.
const MOST_CHOICES: usize = 1_000;
/// A text taken from the prompt where nothing better fits.
const PROMPT_CHARS: usize = 400;

/// Makes a value for `schema`, in which `$ref` points into the schema itself.
pub(super) fn fill(schema: &Value, facts: &mut Facts) -> Value {
    let mut filler = Filler { root: schema, facts, open: Vec::new(), budget: BUDGET };
    filler.value(schema, "", 0)
}

/// Whether a prompt lacks what a call needs and nobody should make up: a file, an address, a text to be written there.
pub(super) fn lacks_facts(schema: &Value, facts: &Facts) -> bool {
    let properties = schema.get("properties").and_then(Value::as_object);
    let wanted: Vec<Wanted> = required(schema)
        .filter_map(|name| {
            let property = properties?.get(name)?;
            if property.get("default").is_some() || property.get("enum").is_some() {
                return None;
            }
            let format = property.get("format").and_then(Value::as_str).unwrap_or_default();
            Some(Wanted::named(format, name))
        })
        .collect();
    let has_path = facts.has(Kind::Path) || facts.has(Kind::Quoted);
    let writes = wanted.contains(&Wanted::Path) && wanted.contains(&Wanted::Text);
    wanted.iter().any(|wanted| match wanted {
        Wanted::Email | Wanted::Url => wanted.fact().is_some_and(|kind| !facts.has(kind)),
        Wanted::Path => !has_path,
        // What goes into a file is never guessed: there may be something in it already.
        Wanted::Text => writes && !facts.has(Kind::Quoted),
        _ => false,
    })
}

/// How many numbers the required part of a schema asks for.
pub(super) fn numbers_required(schema: &Value) -> usize {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return 0;
    };
    required(schema)
        .filter_map(|name| properties.get(name))
        .filter(|property| {
            let items = property.get("items").unwrap_or(property);
            property.get("default").is_none()
                && ["integer", "number"].iter().any(|kind| {
                    items.get("type").and_then(Value::as_str).is_some_and(|given| given.eq_ignore_ascii_case(kind))
                })
        })
        .count()
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    let names = schema.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

struct Filler<'s, 'f> {
    root: &'s Value,
    facts: &'f mut Facts,
    /// References being followed; meeting one again is a circle.
    open: Vec<&'s str>,
    budget: usize,
}

/// A schema with its references, `allOf` and chosen branches folded in.
#[derive(Default)]
struct Merged<'s> {
    keywords: BTreeMap<&'s str, &'s Value>,
    properties: BTreeMap<&'s str, &'s Value>,
    required: Vec<&'s str>,
    /// One branch of the schema is null.
    nullable: bool,
}

impl<'s> Merged<'s> {
    fn get(&self, keyword: &str) -> Option<&'s Value> {
        self.keywords.get(keyword).copied()
    }

    fn number(&self, keyword: &str) -> Option<f64> {
        self.get(keyword)?.as_f64()
    }

    fn count(&self, keyword: &str) -> Option<u64> {
        let value = self.get(keyword)?;
        // Google's own schemas spell counts as strings.
        value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
    }

    /// The type in lower case; where none is given, what the other keywords speak of.
    fn kind(&self) -> &'static str {
        let known = |name: &str| {
            ["string", "number", "integer", "boolean", "array", "object", "null"]
                .into_iter()
                .find(|kind| name.eq_ignore_ascii_case(kind))
        };
        let given = match self.get("type") {
            Some(Value::String(name)) => known(name),
            Some(Value::Array(names)) => {
                let mut kinds = names.iter().filter_map(Value::as_str).filter_map(known);
                let first = kinds.next();
                match first {
                    Some("null") => kinds.next().or(first),
                    other => other,
                }
            }
            _ => None,
        };
        if let Some(kind) = given {
            return kind;
        }
        let speaks_of = |keywords: &[&str]| keywords.iter().any(|keyword| self.keywords.contains_key(keyword));
        if !self.properties.is_empty() || !self.required.is_empty() || speaks_of(&["additionalProperties"]) {
            "object"
        } else if speaks_of(&["items", "prefixItems", "minItems", "maxItems"]) {
            "array"
        } else if speaks_of(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]) {
            "number"
        } else if self.nullable {
            "null"
        } else {
            "string"
        }
    }

    fn is_nullable(&self) -> bool {
        self.nullable
            || self.get("nullable") == Some(&Value::Bool(true))
            || self
                .get("type")
                .and_then(Value::as_array)
                .is_some_and(|kinds| kinds.iter().any(|kind| kind.as_str() == Some("null")))
    }

    fn choices(&self) -> Option<&'s [Value]> {
        let choices = self.get("enum")?.as_array()?;
        (!choices.is_empty()).then(|| &choices[..choices.len().min(MOST_CHOICES)])
    }
}

impl<'s> Filler<'s, '_> {
    fn value(&mut self, schema: &'s Value, name: &str, depth: usize) -> Value {
        if depth > DEPTH || !self.spend(1) {
            return Value::Null;
        }
        let open = self.open.len();
        let mut merged = Merged::default();
        self.merge(schema, &mut merged, depth);
        let value = self.merged_value(&merged, name, depth);
        self.open.truncate(open);
        value
    }

    fn spend(&mut self, cost: usize) -> bool {
        let affordable = self.budget >= cost;
        self.budget = self.budget.saturating_sub(cost);
        affordable
    }

    /// Folds a schema and all that it refers to into one.
    fn merge(&mut self, schema: &'s Value, into: &mut Merged<'s>, depth: usize) {
        let Some(fields) = schema.as_object() else {
            return;
        };
        if depth > DEPTH || !self.spend(1 + fields.len()) {
            return;
        }
        if let Some(target) = fields.get("$ref").and_then(Value::as_str)
            && let Some(found) = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer))
        {
            let circular = self.open.contains(&target);
            self.open.push(target);
            if !circular || depth < DEPTH / 2 {
                self.merge(found, into, depth + 1);
            }
        }
        for part in fields.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.merge(part, into, depth + 1);
        }
        for (keyword, value) in fields {
            match (keyword.as_str(), value) {
                ("$ref" | "allOf" | "anyOf" | "oneOf" | "$defs" | "definitions", _) => {}
                ("properties", Value::Object(properties)) => {
                    if self.spend(properties.len()) {
                        into.properties.extend(properties.iter().map(|(name, schema)| (name.as_str(), schema)));
                    }
                }
                ("required", _) => {
                    for name in required(schema) {
                        if self.spend(1) && !into.required.contains(&name) {
                            into.required.push(name);
                        }
                    }
                }
                (keyword, value) => {
                    into.keywords.insert(keyword, value);
                }
            }
        }
        for choice in ["anyOf", "oneOf"] {
            if let Some(branches) = fields.get(choice).and_then(Value::as_array)
                && self.spend(branches.len())
            {
                into.nullable |= branches.iter().any(is_null);
                if let Some(branch) = self.choose(branches) {
                    self.merge(branch, into, depth + 1);
                }
            }
        }
    }

    /// The first branch that is neither null nor the way round in a circle.
    fn choose(&self, branches: &'s [Value]) -> Option<&'s Value> {
        let circular = |branch: &Value| self.leads_back(branch);
        branches
            .iter()
            .find(|branch| !is_null(branch) && !circular(branch))
            .or_else(|| branches.iter().find(|branch| is_null(branch)))
            .or_else(|| branches.first())
    }

    fn leads_back(&self, schema: &Value) -> bool {
        let target = |schema: &Value| {
            schema.get("$ref").and_then(Value::as_str).is_some_and(|target| self.open.contains(&target))
        };
        target(schema)
            || ["anyOf", "oneOf", "allOf"].iter().any(|keyword| {
                schema
                    .get(keyword)
                    .and_then(Value::as_array)
                    .is_some_and(|parts| !parts.is_empty() && parts.iter().all(|part| target(part) || is_null(part)))
            })
    }

    fn merged_value(&mut self, schema: &Merged<'s>, name: &str, depth: usize) -> Value {
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(choices) = schema.choices() {
            return self.pick(schema, choices);
        }
        let kind = schema.kind();
        if let Some(known) = self.facts.known(name)
            && fits(known, kind)
        {
            return known.clone();
        }
        let has_fact = self.has_fact(schema, name);
        if !has_fact {
            if let Some(default) = schema.get("default") {
                return default.clone();
            }
            if schema.is_nullable() && depth > 0 {
                return Value::Null;
            }
        }
        match kind {
            "null" => Value::Null,
            "boolean" => Value::Bool(!self.facts.mentions(&format!("no {name}"))),
            "integer" => self.number(schema, true),
            "number" => self.number(schema, false),
            "array" => self.array(schema, name, depth),
            "object" => self.object(schema, depth),
            _ => Value::String(self.string(schema, name)),
        }
    }

    /// The choice that the prompt mentions, else the default, else the first.
    fn pick(&self, schema: &Merged<'s>, choices: &'s [Value]) -> Value {
        let mentioned = choices.iter().find(|choice| match choice {
            Value::String(text) => self.facts.mentions(text),
            Value::Number(number) => self.facts.mentions(&number.to_string()),
            _ => false,
        });
        let default = schema.get("default").filter(|default| choices.contains(default));
        let plain = choices.iter().find(|choice| !choice.is_null());
        mentioned.or(default).or(plain).cloned().unwrap_or_default()
    }

    /// Whether the prompt speaks of this value, so that an optional one is worth giving.
    fn has_fact(&self, schema: &Merged<'s>, name: &str) -> bool {
        if let Some(choices) = schema.choices() {
            return choices.iter().filter_map(Value::as_str).any(|choice| self.facts.mentions(choice));
        }
        if self.facts.known(name).is_some() {
            return true;
        }
        let wanted = Wanted::of(schema, name);
        match schema.kind() {
            "string" => match wanted.fact() {
                Some(kind) => self.facts.has(kind),
                None => {
                    wanted == Wanted::Command && self.facts.has(Kind::Quoted)
                        || self.facts.mentions(name) && self.facts.has(Kind::Quoted)
                }
            },
            "integer" | "number" => {
                // Without a default a required number has nothing better than the next one.
                self.facts.numbers_left() > 0 && self.facts.mentions(name)
            }
            "boolean" => self.facts.mentions(name),
            "array" => {
                let numeric = schema
                    .get("items")
                    .and_then(|items| items.get("type"))
                    .and_then(Value::as_str)
                    .is_some_and(|kind| kind == "number" || kind == "integer");
                if numeric { self.facts.numbers_left() > 0 } else { self.facts.mentions(name) }
            }
            _ => false,
        }
    }

    fn number(&mut self, schema: &Merged<'s>, whole: bool) -> Value {
        let bounds = Bounds::of(schema, whole);
        let number = self.facts.take_number(|number| bounds.holds(number)).unwrap_or_else(|| bounds.nearest(1.0));
        number_value(number)
    }

    fn array(&mut self, schema: &Merged<'s>, name: &str, depth: usize) -> Value {
        static ANYTHING: Value = Value::Bool(true);
        let first = schema.get("prefixItems").or_else(|| schema.get("items").filter(|items| items.is_array()));
        let first = first.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let items = schema.get("items").filter(|items| !items.is_array()).unwrap_or(&ANYTHING);
        let least = schema.count("minItems").unwrap_or(0);
        let most = schema.count("maxItems").unwrap_or(u64::MAX).min(MOST_ITEMS);
        let mut values = Vec::new();
        for item in first.iter().take(usize::try_from(most).unwrap_or(usize::MAX)) {
            values.push(self.value(item, name, depth + 1));
        }
        let kind = items.get("type").and_then(Value::as_str).unwrap_or_default();
        let plain = items.get("enum").is_none() && items.get("const").is_none();
        let facts = match kind {
            "number" | "integer" => self.facts.numbers_left(),
            "string" if plain => self.facts.count(Kind::Quoted).max(1),
            _ => 1,
        } as u64;
        // A circle ends where it may.
        let wanted = if self.leads_back(items) || !first.is_empty() { least } else { facts.max(least) };
        let singular = name.strip_suffix('s').unwrap_or(name);
        while (values.len() as u64) < wanted.min(most) && self.budget > 0 {
            values.push(self.value(items, singular, depth + 1));
        }
        Value::Array(values)
    }

    fn object(&mut self, schema: &Merged<'s>, depth: usize) -> Value {
        static ANYTHING: Value = Value::Bool(true);
        let mut fields = Map::new();
        // Required ones first, in their order: it is the order of the function's parameters.
        for name in &schema.required {
            let property = schema
                .properties
                .get(name)
                .copied()
                .or_else(|| schema.get("additionalProperties"))
                .unwrap_or(&ANYTHING);
            let value = self.value(property, name, depth + 1);
            fields.insert((*name).to_owned(), value);
        }
        for (name, property) in &schema.properties {
            if fields.contains_key(*name) || self.leads_back(property) || !self.spend(1) {
                continue;
            }
            let open = self.open.len();
            let mut merged = Merged::default();
            self.merge(property, &mut merged, depth + 1);
            if self.has_fact(&merged, name) {
                let value = self.merged_value(&merged, name, depth + 1);
                fields.insert((*name).to_owned(), value);
            }
            self.open.truncate(open);
        }
        Value::Object(fields)
    }

    fn string(&mut self, schema: &Merged<'s>, name: &str) -> String {
        let pattern = schema.get("pattern").and_then(Value::as_str).and_then(Pattern::parse);
        let least = schema.count("minLength").unwrap_or(0).min(MOST_CHARS);
        let most = schema.count("maxLength").unwrap_or(u64::MAX);
        let mut text = self.plain_string(schema, name);
        if text.chars().count() as u64 > most {
            text = text.chars().take(usize::try_from(most).unwrap_or(usize::MAX)).collect();
        }
        let missing = least.saturating_sub(text.chars().count() as u64);
        text.extend((0..missing).map(|_| 'x'));
        match pattern {
            Some(pattern) if !pattern.matches(&text) => pattern.example().unwrap_or(text),
            _ => text,
        }
    }

    fn plain_string(&mut self, schema: &Merged<'s>, name: &str) -> String {
        let wanted = Wanted::of(schema, name);
        let given = || {
            let examples = schema.get("examples").and_then(Value::as_array);
            let example = examples.and_then(|all| all.first()).or_else(|| schema.get("example"));
            schema.get("default").or(example).and_then(Value::as_str).map(str::to_owned)
        };
        let otherwise = |text: &str| given().unwrap_or_else(|| text.to_owned());
        let facts = &mut *self.facts;
        match wanted {
            Wanted::Date => facts.take(Kind::Date).map_or_else(today, |date| date.chars().take(10).collect()),
            Wanted::DateTime => match facts.take(Kind::Date) {
                Some(date) if date.len() > 10 => date,
                Some(date) => format!("{date}T00:00:00Z"),
                None => format!("{}T00:00:00Z", today()),
            },
            Wanted::Time => otherwise("12:00:00"),
            Wanted::Email => facts.take(Kind::Email).unwrap_or_else(|| otherwise("someone@example.com")),
            Wanted::Url => facts.take(Kind::Url).unwrap_or_else(|| otherwise("https://example.com/")),
            Wanted::Fixed(text) => otherwise(text),
            Wanted::Path => {
                facts.take(Kind::Path).or_else(|| facts.take(Kind::Quoted)).unwrap_or_else(|| otherwise("example.txt"))
            }
            Wanted::Folder => facts.take(Kind::Path).unwrap_or_else(|| otherwise(".")),
            Wanted::PlaceFrom => facts
                .take_name_after(&["from"])
                .or_else(|| facts.take(Kind::Name))
                .unwrap_or_else(|| otherwise("Berlin")),
            Wanted::PlaceTo => facts
                .take_name_after(&["to", "into"])
                .or_else(|| facts.take(Kind::Name))
                .unwrap_or_else(|| otherwise("Paris")),
            Wanted::Name => facts
                .take(Kind::Name)
                .or_else(|| facts.take(Kind::Quoted))
                .or_else(|| facts.first(Kind::Name).map(str::to_owned))
                .unwrap_or_else(|| otherwise("Paris")),
            // Never the prompt itself: whatever runs the command would run it.
            Wanted::Command => facts.take(Kind::Quoted).unwrap_or_else(|| otherwise("ls")),
            Wanted::Expression => {
                arithmetic(facts.text()).or_else(|| facts.take(Kind::Quoted)).unwrap_or_else(|| otherwise("1 + 1"))
            }
            Wanted::Text => facts.take(Kind::Quoted).or_else(given).unwrap_or_else(|| short(facts.text())),
            Wanted::Anything => facts
                .take(Kind::Quoted)
                .or_else(|| facts.take(Kind::Name))
                .or_else(given)
                .unwrap_or_else(|| short(facts.text())),
        }
    }
}

/// What a string is to be, judged by its format and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Anything,
    Command,
    Date,
    DateTime,
    Email,
    Expression,
    Fixed(&'static str),
    Folder,
    Name,
    Path,
    PlaceFrom,
    PlaceTo,
    Text,
    Time,
    Url,
}

impl Wanted {
    fn of(schema: &Merged<'_>, name: &str) -> Self {
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        Self::named(format, name)
    }

    fn named(format: &str, name: &str) -> Self {
        match format {
            "date" => return Self::Date,
            "date-time" => return Self::DateTime,
            "time" => return Self::Time,
            "email" | "idn-email" => return Self::Email,
            "uri" | "url" | "iri" | "uri-reference" => return Self::Url,
            "uuid" => return Self::Fixed("3b241101-e2bb-4255-8caf-4136c566a962"),
            "ipv4" => return Self::Fixed("192.0.2.1"),
            "ipv6" => return Self::Fixed("2001:db8::1"),
            "hostname" => return Self::Fixed("example.com"),
            "duration" => return Self::Fixed("PT1H"),
            _ => {}
        }
        // The last word says what it is: `start_date`, `file_path`.
        let words = words(name);
        for word in words.iter().rev() {
            match word.as_str() {
                "date" | "day" | "deadline" | "birthday" => return Self::Date,
                "email" | "mail" | "recipient" => return Self::Email,
                "url" | "uri" | "link" | "website" => return Self::Url,
                "path" | "file" | "filename" | "filepath" => return Self::Path,
                "dir" | "directory" | "folder" | "cwd" | "workdir" => return Self::Folder,
                "origin" | "departure" => return Self::PlaceFrom,
                "destination" | "arrival" => return Self::PlaceTo,
                "city" | "location" | "place" | "country" | "town" | "region" | "capital" | "person" | "author"
                | "symbol" | "ticker" | "currency" => return Self::Name,
                "command" | "cmd" | "script" | "shell" => return Self::Command,
                "expression" | "formula" | "equation" => return Self::Expression,
                "content" | "text" | "message" | "query" | "question" | "prompt" | "input" | "body" | "subject"
                | "topic" | "description" | "summary" | "title" | "answer" | "note" | "task" => return Self::Text,
                _ => {}
            }
        }
        match words.first().map(String::as_str) {
            Some("from") => Self::PlaceFrom,
            Some("to") => Self::PlaceTo,
            _ => Self::Anything,
        }
    }

    /// The kind of fact without which there is nothing to say.
    fn fact(self) -> Option<Kind> {
        Some(match self {
            Self::Date | Self::DateTime => Kind::Date,
            Self::Email => Kind::Email,
            Self::Url => Kind::Url,
            Self::Path | Self::Folder => Kind::Path,
            Self::Name | Self::PlaceFrom | Self::PlaceTo => Kind::Name,
            _ => return None,
        })
    }
}

/// The words of a name in any case: `getWeather`, `get_weather`.
pub(super) fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut after_lower = false;
    for char in name.chars() {
        if !char.is_alphanumeric() || (char.is_uppercase() && after_lower) {
            words.push(std::mem::take(&mut word));
        }
        if char.is_alphanumeric() {
            word.extend(char.to_lowercase());
        }
        after_lower = char.is_lowercase() || char.is_ascii_digit();
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// The range of a number.
#[derive(Debug)]
struct Bounds {
    low: f64,
    high: f64,
    /// The number lies above this, or below that, and is not the same.
    above: f64,
    below: f64,
    step: Option<f64>,
}

impl Bounds {
    fn of(schema: &Merged<'_>, whole: bool) -> Self {
        let low = schema.number("minimum").unwrap_or(f64::NEG_INFINITY);
        let high = schema.number("maximum").unwrap_or(f64::INFINITY);
        // Older schemas say `true`, and mean the other bound.
        let exclusive = |keyword, bound: f64| match schema.get(keyword) {
            Some(Value::Bool(true)) => Some(bound),
            Some(value) => value.as_f64(),
            None => None,
        };
        Self {
            low,
            high,
            above: exclusive("exclusiveMinimum", low).unwrap_or(f64::NEG_INFINITY),
            below: exclusive("exclusiveMaximum", high).unwrap_or(f64::INFINITY),
            step: schema.number("multipleOf").filter(|step| *step > 0.0).or(whole.then_some(1.0)),
        }
    }

    fn holds(&self, number: f64) -> bool {
        (self.low..=self.high).contains(&number)
            && (self.above == f64::NEG_INFINITY || number > self.above)
            && (self.below == f64::INFINITY || number < self.below)
            && self.step.is_none_or(|step| {
                let parts = number / step;
                (parts - parts.round()).abs() < 1e-9
            })
    }

    /// A number in the range, this one if it may be.
    fn nearest(&self, number: f64) -> f64 {
        let (low, high) = (self.low.max(self.above), self.high.min(self.below));
        // How far to stay from a bound that is not in the range.
        let room = self.step.unwrap_or(if (high - low).is_finite() { (high - low) / 4.0 } else { 0.5 });
        // Not `clamp`, which panics where a schema's bounds cross.
        let number = number.min(self.high).min(self.below - room).max(self.low).max(self.above + room);
        match self.step {
            Some(step) => {
                let up = (number / step).ceil() * step;
                if up > high { (number / step).floor() * step } else { up }
            }
            None => number,
        }
    }
}

/// A JSON number, without a fraction where it has none.
pub(super) fn number_value(number: f64) -> Value {
    // Beyond this a float no longer tells neighbours apart.
    if number.fract() == 0.0 && number.abs() < 9.0e15 {
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::from(0), Value::Number)
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str).is_some_and(|kind| kind.eq_ignore_ascii_case("null"))
        || schema.get("const") == Some(&Value::Null)
}

fn fits(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        // What is inside may be anything; only plain values are taken over.
        _ => false,
    }
}

fn today() -> String {
    jiff::Timestamp::now().to_string().chars().take(10).collect()
}

fn short(text: &str) -> String {
    text.chars().take(PROMPT_CHARS).collect()
}

/// The arithmetic in a prompt as an expression: "What is 3 plus 4?" is `3 + 4`.
fn arithmetic(text: &str) -> Option<String> {
    let mut terms: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word = word.trim_end_matches(['?', '!', ',', ';', '=']);
        let word = word.strip_suffix('.').unwrap_or(word);
        let operator = match word.to_lowercase().as_str() {
            "plus" | "+" => Some("+"),
            "minus" | "-" => Some("-"),
            "times" | "*" | "x" | "×" => Some("*"),
            "divided" | "over" | "/" | "÷" => Some("/"),
            "by" if terms.last().is_some_and(|term| term == "/") => continue,
            _ => None,
        };
        let is_term = word.bytes().any(|b| b.is_ascii_digit())
            && word.bytes().all(|b| b.is_ascii_digit() || b"+-*/().,%^".contains(&b))
            && !facts::is_date(word);
        match operator {
            Some(operator) if !terms.is_empty() => terms.push(operator.to_owned()),
            _ if is_term => terms.push(word.replace(',', "")),
            _ if terms.len() > 2 => break,
            _ => terms.clear(),
        }
    }
    while terms.last().is_some_and(|term| "+-*/".contains(term.as_str())) {
        terms.pop();
    }
    let has_operator = terms.len() > 1 || terms.first().is_some_and(|term| term.contains(['+', '*', '/', '^']));
    has_operator.then(|| terms.join(" "))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Judges a value by a schema, independently of how values are made.
    pub(in super::super) fn satisfies(value: &Value, schema: &Value, root: &Value) -> bool {
        let Some(fields) = schema.as_object() else {
            return true;
        };
        let all = |keyword: &str| fields.get(keyword).and_then(Value::as_array).into_iter().flatten();
        if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
            let found = root.pointer(target.trim_start_matches('#')).unwrap();
            if !satisfies(value, found, root) {
                return false;
            }
        }
        let kind_ok = match fields.get("type") {
            None => true,
            Some(Value::Array(kinds)) => kinds.iter().any(|kind| is_kind(value, kind.as_str().unwrap())),
            Some(kind) => is_kind(value, &kind.as_str().unwrap().to_lowercase()),
        };
        let mut ok = kind_ok
            && all("allOf").all(|part| satisfies(value, part, root))
            && (fields.get("enum").is_none() || all("enum").any(|choice| choice == value))
            && fields.get("const").is_none_or(|constant| constant == value);
        for keyword in ["anyOf", "oneOf"] {
            ok &= fields.get(keyword).is_none() || all(keyword).any(|part| satisfies(value, part, root));
        }
        if let Some(number) = value.as_f64() {
            let bound = |keyword| fields.get(keyword).and_then(Value::as_f64);
            ok &= bound("minimum").is_none_or(|low| number >= low)
                && bound("maximum").is_none_or(|high| number <= high)
                && bound("exclusiveMinimum").is_none_or(|low| number > low)
                && bound("exclusiveMaximum").is_none_or(|high| number < high)
                && bound("multipleOf").is_none_or(|step| (number / step).fract() == 0.0);
        }
        if let Some(text) = value.as_str() {
            let length = text.chars().count() as u64;
            let bound = |keyword| fields.get(keyword).and_then(Value::as_u64);
            ok &= bound("minLength").is_none_or(|least| length >= least)
                && bound("maxLength").is_none_or(|most| length <= most);
            if let Some(pattern) = fields.get("pattern").and_then(Value::as_str) {
                ok &= Pattern::parse(pattern).unwrap().matches(text);
            }
        }
        if let Some(items) = value.as_array() {
            let bound = |keyword| fields.get(keyword).and_then(Value::as_u64);
            ok &= bound("minItems").is_none_or(|least| items.len() as u64 >= least)
                && bound("maxItems").is_none_or(|most| items.len() as u64 <= most)
                && fields.get("items").is_none_or(|schema| items.iter().all(|item| satisfies(item, schema, root)));
        }
        if let Some(object) = value.as_object() {
            ok &= required(schema).all(|name| object.contains_key(name));
            for (name, value) in object {
                if let Some(property) = schema.pointer(&format!("/properties/{name}")) {
                    ok &= satisfies(value, property, root);
                } else if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                    ok = false;
                }
            }
        }
        ok
    }

    fn is_kind(value: &Value, kind: &str) -> bool {
        match kind {
            "null" => value.is_null(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => fits(value, kind),
        }
    }

    fn filled(schema: &Value, prompt: &str) -> Value {
        fill(schema, &mut Facts::read(prompt))
    }

    #[test]
    fn values_satisfy_their_schemas() {
        for schema in [
            json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "number"}}, "required": ["a", "b"]}),
            json!({"type": "integer", "minimum": 5, "maximum": 9}),
            json!({"type": "integer", "exclusiveMinimum": 5, "multipleOf": 4}),
            json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
            json!({"type": "number", "maximum": -2.5}),
            json!({"type": "string", "minLength": 300}),
            json!({"type": "string", "maxLength": 3}),
            json!({"type": "string", "pattern": "^[A-Z]{3}-\\d+$"}),
            json!({"type": "array", "items": {"type": "string"}, "minItems": 3}),
            json!({"type": "array", "items": {"type": "integer"}, "maxItems": 1}),
            json!({"enum": ["x", 5, null]}),
            json!({"const": {"deep": [1]}}),
            json!({"type": ["string", "null"]}),
            json!({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 3}]}),
            json!({"oneOf": [{"$ref": "#/$defs/cat"}, {"type": "string"}], "$defs": {"cat": {"type": "object",
                "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind", "lives"],
                "additionalProperties": false}}}),
            json!({"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}]}),
            json!({"type": "object", "properties": {"inner": {"type": "object", "properties": {"when": {"type": "string",
                "format": "date"}}, "required": ["when"]}}, "required": ["inner"]}),
            json!({"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]}),
            json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["next", "children", "v"],
                "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}}),
        ] {
            for prompt in ["", "Say hi.", "7 and 2.5, \"quoted\" for Paris on 2026-05-17"] {
                let value = filled(&schema, prompt);
                assert!(satisfies(&value, &schema, &schema), "{schema} -> {value}");
            }
        }
    }

    #[test]
    fn schemas_without_end_end() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]}),
            json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
            json!({"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}),
            json!({"type": "array", "items": {"$ref": "#"}, "minItems": 4_000_000_000_u32}),
            json!({"type": "string", "minLength": 4_000_000_000_u32}),
            json!({"$ref": "#/nowhere"}),
            json!({"$ref": "https://example.com/elsewhere"}),
            json!({"type": "integer", "minimum": 9, "maximum": 1}),
            json!({"type": 5, "properties": [], "required": {}, "enum": [], "anyOf": {}, "items": 3}),
            json!([]),
            json!(true),
        ] {
            filled(&schema, "1 2 3");
        }
    }

    #[test]
    fn arguments_come_from_the_prompt() {
        let add = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"]});
        assert_eq!(filled(&add, "What is 2024 plus 1776?"), json!({"a": 2024, "b": 1776}));

        let subtract = json!({"type": "object", "properties": {"minuend": {"type": "number"},
            "decrement": {"type": "number"}}, "required": ["minuend", "decrement"]});
        assert_eq!(filled(&subtract, "10.5 minus 4"), json!({"minuend": 10.5, "decrement": 4}));

        let weather = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}, "required": ["city"]});
        assert_eq!(filled(&weather, "What's the weather in Paris?"), json!({"city": "Paris"}));
        assert_eq!(
            filled(&weather, "Weather in San Francisco in fahrenheit, for 3 days"),
            json!({"city": "San Francisco", "unit": "fahrenheit", "days": 3})
        );

        let strict = json!({"type": "object", "properties": {"city": {"type": "string"},
            "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "limit": {"type": "integer", "default": 10}},
            "required": ["city", "unit", "limit"]});
        assert_eq!(filled(&strict, "Is it 20 degrees in Oslo?"), json!({"city": "Oslo", "unit": null, "limit": 10}));

        let sum = json!({"type": "object", "properties": {"numbers": {"type": "array", "items": {"type": "number"}}},
            "required": ["numbers"]});
        assert_eq!(filled(&sum, "Sum 1, 2, 3 and 4.5"), json!({"numbers": [1, 2, 3, 4.5]}));

        let book = json!({"type": "object", "properties": {"origin": {"type": "string"},
            "destination": {"type": "string"}, "date": {"type": "string"}}, "required": ["destination", "origin"]});
        assert_eq!(
            filled(&book, "Book a flight from Berlin to Rome on 2026-05-17."),
            json!({"origin": "Berlin", "destination": "Rome", "date": "2026-05-17"})
        );

        let shell = json!({"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]});
        assert_eq!(filled(&shell, "Run `uname -a` for me"), json!({"cmd": "uname -a"}));
        assert_eq!(filled(&shell, "Delete everything"), json!({"cmd": "ls"}));
    }

    #[test]
    fn files_are_not_made_up() {
        let write = json!({"type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
            "required": ["path", "content"]});
        let lacks = |prompt| lacks_facts(&write, &Facts::read(prompt));
        assert!(lacks("Write a story"));
        assert!(lacks("Write a summary of README.md"));
        assert!(!lacks("Write \"hello\" to notes.txt"));
    }

    fn any_schema() -> impl Strategy<Value = Value> {
        let keyword = prop::sample::select(vec![
            "type",
            "properties",
            "required",
            "items",
            "prefixItems",
            "enum",
            "const",
            "anyOf",
            "oneOf",
            "allOf",
            "$ref",
            "$defs",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
            "minItems",
            "maxItems",
            "minLength",
            "maxLength",
            "pattern",
            "format",
            "default",
            "additionalProperties",
            "nullable",
        ]);
        let text = prop::sample::select(vec![
            "string",
            "integer",
            "number",
            "array",
            "object",
            "null",
            "boolean",
            "#",
            "#/properties/type",
            "#/$defs",
            "#/items",
            "date",
            "^[a-z]{3}$",
            "((a*)*)*",
            "path",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-5.0..5.0).prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(keyword.clone(), inner, 0..6)
                    .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn no_schema_and_no_prompt_panics(schema in any_schema(), prompt in "(?s).{0,60}") {
            lacks_facts(&schema, &Facts::read(&prompt));
            numbers_required(&schema);
            filled(&schema, &prompt);
        }

        #[test]
        fn no_text_panics(text in "[-a-zA-Z0-9 .,'\"`“”/@:+*?(){}\\[\\]|\\\\^$é世🎉\n]{0,60}") {
            let mut facts = Facts::read(&text);
            facts.learn(&text);
            arithmetic(&text);
            words(&text);
            if let Some(pattern) = Pattern::parse(&text) {
                pattern.matches(&text);
                pattern.example();
            }
        }
    }

    #[test]
    fn arithmetic_becomes_an_expression() {
        assert_eq!(arithmetic("What is 2024 plus 1776?").as_deref(), Some("2024 + 1776"));
        assert_eq!(arithmetic("Compute (3+4)*2.").as_deref(), Some("(3+4)*2"));
        assert_eq!(arithmetic("12 divided by 4, please").as_deref(), Some("12 / 4"));
        assert_eq!(arithmetic("I have 3 cats"), None);
    }
}

//! Functions: which of them a prompt asks for, and what is said of their results.

use std::collections::BTreeSet;

use serde_json::Value;

use super::facts::Facts;
use super::schema;
use super::vertex::{Chat, Message, Role, Tool, ToolChoice, current_turn};

/// Fewer points than this, and a function does not fit.
const FITTING: usize = 3;
/// A word of the prompt in the function's name.
const NAME_POINTS: usize = 3;
/// A word of the prompt among the parameters, however many.
const PARAMETER_POINTS: usize = 2;
/// A word of the prompt in the description; as many points at most for all. Descriptions are long, and share words
/// with anything.
const DESCRIPTION_POINTS: usize = 2;
/// The prompt has the numbers that the function needs.
const NUMBER_POINTS: usize = 3;
/// Descriptions are read up to here.
const DESCRIPTION_WORDS: usize = 200;

/// Words that say nothing about what is wanted.
const EMPTY_WORDS: [&str; 62] = [
    "a", "about", "all", "an", "and", "any", "are", "as", "at", "be", "by", "call", "can", "do", "does", "for", "from",
    "function", "get", "give", "given", "have", "how", "i", "if", "in", "is", "it", "its", "me", "my", "need", "not",
    "now", "of", "on", "one", "or", "please", "return", "say", "tell", "that", "the", "them", "then", "there", "this",
    "to", "tool", "two", "use", "used", "want", "what", "when", "which", "will", "with", "you", "your", "x",
];

/// Words that mean the same; a function's name and a prompt seldom choose the same one.
const SYNONYMS: [&[&str]; 10] = [
    &["add", "adds", "adding", "addition", "plus", "sum", "sums", "total", "+"],
    &["subtract", "subtraction", "minus", "less", "difference", "-"],
    &["multiply", "multiplied", "multiplication", "times", "product", "*", "×"],
    &["divide", "divided", "division", "quotient", "/", "÷"],
    &["calculate", "calculator", "compute", "evaluate", "math", "arithmetic"],
    &["run", "running", "execute", "exec", "shell", "bash", "terminal"],
    &["write", "create", "save"],
    &["read", "open", "show", "print"],
    &["search", "find", "lookup", "grep"],
    &["weather", "temperature", "forecast", "rain", "sunny"],
];

/// The function that is to be called now, if one is.
pub(super) fn choose<'a>(chat: &'a Chat, prompt: &str) -> Option<&'a Tool> {
    let answered = chat.messages[current_turn(&chat.messages)..].iter().any(|message| message.role == Role::Tool);
    if answered {
        return None;
    }
    let must = match &chat.tool_choice {
        ToolChoice::None => return None,
        ToolChoice::Named(name) => return chat.tools.iter().find(|tool| tool.name == *name),
        ToolChoice::Required => true,
        ToolChoice::Auto => false,
    };
    let facts = Facts::read(prompt);
    let words = meanings(facts.text(), usize::MAX);
    let mut best: Option<(usize, &Tool)> = None;
    for tool in &chat.tools {
        if !must && schema::lacks_facts(&tool.parameters, &facts) {
            continue;
        }
        let points = points(tool, &words, &facts);
        // The first of equals.
        if best.is_none_or(|(most, _)| points > most) {
            best = Some((points, tool));
        }
    }
    best.filter(|(points, _)| must || *points >= FITTING).map(|(_, tool)| tool)
}

fn points(tool: &Tool, prompt: &BTreeSet<String>, facts: &Facts) -> usize {
    let name = schema::words(&tool.name).join(" ");
    let mut points = NAME_POINTS * meanings(&name, usize::MAX).intersection(prompt).count();
    let described = meanings(&tool.description, DESCRIPTION_WORDS);
    points += described.intersection(prompt).count().min(DESCRIPTION_POINTS);
    let parameters = tool.parameters.get("properties").and_then(Value::as_object);
    let named = parameters.into_iter().flatten().any(|(name, _)| {
        let words = schema::words(name).join(" ");
        meanings(&words, usize::MAX).intersection(prompt).next().is_some()
    });
    points += if named { PARAMETER_POINTS } else { 0 };
    let numbers = schema::numbers_required(&tool.parameters);
    if numbers > 0 && facts.numbers_left() >= numbers {
        points += NUMBER_POINTS;
    }
    points
}

/// The words of a text that mean something, each in one form.
fn meanings(text: &str, most: usize) -> BTreeSet<String> {
    let lower = text.to_lowercase();
    let between_numbers = |c: char| c.is_whitespace() || c.is_ascii_digit();
    lower
        .split(between_numbers)
        .map(|word| match word.trim_matches(|c: char| !c.is_alphanumeric()) {
            // An operator is a word of its own.
            "" => word,
            trimmed => trimmed,
        })
        .flat_map(|word| match word {
            "+" | "-" | "*" | "/" | "×" | "÷" => vec![word],
            _ => word.split(|c: char| !c.is_alphanumeric()).collect(),
        })
        .filter(|word| !word.is_empty() && !EMPTY_WORDS.contains(word))
        .take(most)
        .map(meaning)
        .collect()
}

fn meaning(word: &str) -> String {
    if let Some(same) = SYNONYMS.iter().find(|same| same.contains(&word)) {
        return format!("={}", same[0]);
    }
    // `files`, `filing` and `file` come to the same.
    let mut stem = word;
    for ending in ["s", "ing", "ed", "e"] {
        if let Some(shorter) = stem.strip_suffix(ending)
            && shorter.chars().count() >= 3
            && !shorter.ends_with('s')
        {
            stem = shorter;
        }
    }
    stem.to_owned()
}

/// The arguments of `count` calls of a function, filled from the prompt.
pub(super) fn arguments(tool: &Tool, prompt: &str, count: usize) -> Vec<String> {
    let mut facts = Facts::read(prompt);
    (0..count)
        .map(|_| match schema::fill(&tool.parameters, &mut facts) {
            Value::Object(arguments) => Value::Object(arguments).to_string(),
            // A function without parameters.
            _ => "{}".to_owned(),
        })
        .collect()
}

/// Whether the request lets this function be called.
pub(super) fn may_call(chat: &Chat, name: &str) -> bool {
    let chosen = match &chat.tool_choice {
        ToolChoice::None => false,
        ToolChoice::Named(chosen) => chosen == name,
        ToolChoice::Required | ToolChoice::Auto => true,
    };
    chosen && chat.tools.iter().any(|tool| tool.name == name)
}

/// How many steps of the current turn are over: calls whose answers have come, however many at once.
pub(super) fn steps_over(chat: &Chat) -> usize {
    let answers = |message: &Message| message.role == Role::Tool;
    let turn = &chat.messages[current_turn(&chat.messages)..];
    turn.iter().zip(turn.iter().skip(1)).filter(|(before, message)| answers(message) && !answers(before)).count()
}

/// What the functions of the current turn have answered, with their names.
pub(super) fn results(chat: &Chat) -> Vec<(String, &str)> {
    let turn = &chat.messages[current_turn(&chat.messages)..];
    let mut results = Vec::new();
    let mut step: &[_] = &[];
    let mut answered = 0;
    for message in turn {
        match message.role {
            Role::Assistant => {
                step = &message.calls;
                answered = 0;
            }
            Role::Tool => {
                let named = step
                    .iter()
                    .find(|call| message.answers.as_ref().is_some_and(|id| !id.is_empty() && *id == call.id))
                    .or_else(|| step.get(answered));
                answered += 1;
                results.push((name_of(message, named.map(|call| call.name.as_str())), message.text.as_str()));
            }
            Role::System | Role::Developer | Role::User => {}
        }
    }
    results
}

fn name_of(message: &Message, call: Option<&str>) -> String {
    call.filter(|name| !name.is_empty()).or(message.name.as_deref()).unwrap_or("the function").to_owned()
}

/// One sentence for each result.
pub(super) fn tell(results: &[(String, &str)]) -> String {
    let sentences: Vec<String> = results
        .iter()
        .map(|(name, result)| {
            let value = plain(result);
            let number = value.parse::<f64>().is_ok();
            let meaning = meanings(&schema::words(name).join(" "), usize::MAX);
            let operation = ["sum", "difference", "product", "quotient"]
                .into_iter()
                .zip(["=add", "=subtract", "=multiply", "=divide"])
                .find(|(_, operation)| number && meaning.contains(*operation));
            let end = if value.ends_with(['.', '!', '?']) { "" } else { "." };
            match operation {
                Some((noun, _)) => format!("The {noun} is {value}{end}"),
                None => format!("The result of {name} is: {value}{end}"),
            }
        })
        .collect();
    sentences.join(" ")
}

/// A result as one would say it: `{"result": 3800.0}` is `3800`, and of a shell's only what the command has printed.
pub(super) fn plain(result: &str) -> String {
    let text = printed(result).trim();
    let value = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(fields)) if fields.len() == 1 => fields.into_iter().next().map(|(_, value)| value),
        Ok(value) => Some(value),
        Err(_) => None,
    };
    match value {
        Some(Value::Number(number)) => match number.as_f64() {
            Some(float) if number.is_f64() => schema::number_value(float).to_string(),
            _ => number.to_string(),
        },
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Null) => "nothing".to_owned(),
        _ if text.is_empty() => "nothing".to_owned(),
        _ => text.to_owned(),
    }
}

/// What stands after the lines that some shell functions put first: `Wall time: 0.1 seconds`, others, and `Output:`.
fn printed(result: &str) -> &str {
    match result.split_once("\nOutput:\n") {
        Some((head, output)) if head.lines().any(|line| line.starts_with("Wall time: ")) => output,
        _ => result,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::vertex::tests::chat;
    use super::*;

    fn tools() -> Value {
        let numbers = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"]});
        json!([
            {"type": "function", "function": {"name": "multiply", "description": "Multiply two integers.",
                "parameters": numbers}},
            {"type": "function", "function": {"name": "add", "description": "Add two integers and return the sum.",
                "parameters": numbers}},
            {"type": "function", "function": {"name": "get_weather", "description": "Current weather in a city",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
            {"type": "function", "function": {"name": "read", "description":
                "Read the contents of a file. Say which with path. Files may be text or images.",
                "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}},
            {"type": "function", "function": {"name": "ping"}},
        ])
    }

    fn chosen(prompt: &str, choice: Value) -> Option<String> {
        let chat = chat(json!({"model": "google/gemini-2.5-flash", "tools": tools(), "tool_choice": choice,
            "messages": [{"role": "user", "content": prompt}]}))
        .unwrap();
        choose(&chat, prompt).map(|tool| tool.name.clone())
    }

    #[test]
    fn the_fitting_function_is_chosen() {
        let auto = |prompt| chosen(prompt, json!("auto"));
        assert_eq!(auto("What is 2024 plus 1776?").as_deref(), Some("add"));
        assert_eq!(auto("2024+1776").as_deref(), Some("add"));
        assert_eq!(auto("What is 6 times 7?").as_deref(), Some("multiply"));
        assert_eq!(auto("What's the weather in Paris?").as_deref(), Some("get_weather"));
        assert_eq!(auto("Is it sunny in Paris?").as_deref(), Some("get_weather"));
        assert_eq!(auto("Read src/main.rs").as_deref(), Some("read"));
        assert_eq!(auto("Please ping it").as_deref(), Some("ping"));
        for prompt in
            ["Read it to me", "Say hi.", "", "Who wrote Faust?", "Describe a rainy evening in three paragraphs."]
        {
            assert_eq!(auto(prompt), None, "{prompt}");
        }
    }

    #[test]
    fn tool_choice_is_respected() {
        assert_eq!(chosen("What is 2 plus 3?", json!("none")), None);
        assert_eq!(chosen("Say hi.", json!("required")).as_deref(), Some("multiply"));
        assert_eq!(chosen("What is 2 plus 3?", json!("required")).as_deref(), Some("add"));
        let named = json!({"type": "function", "function": {"name": "ping"}});
        assert_eq!(chosen("What is 2 plus 3?", named).as_deref(), Some("ping"));
    }

    #[test]
    fn results_are_told() {
        let told = |name: &str, result| tell(&[(name.to_owned(), result)]);
        assert_eq!(told("add", "3800"), "The sum is 3800.");
        assert_eq!(told("add_numbers", "3800.0"), "The sum is 3800.");
        assert_eq!(told("add", "{\"result\": 3800}"), "The sum is 3800.");
        assert_eq!(told("add_note", "\"done\""), "The result of add_note is: done.");
        assert_eq!(told("get_weather", "It's sunny."), "The result of get_weather is: It's sunny.");
        assert_eq!(told("lookup", "{\"a\":1,\"b\":2}"), "The result of lookup is: {\"a\":1,\"b\":2}.");
        assert_eq!(told("ping", ""), "The result of ping is: nothing.");
        let printed = "Chunk ID: 1f2e\nWall time: 0.1 seconds\nProcess exited with code 0\nOutput:\nOutput:\n7\n";
        assert_eq!(told("exec_command", printed), "The result of exec_command is: Output:\n7.");
        assert_eq!(told("read", "Title\nOutput:\nx"), "The result of read is: Title\nOutput:\nx.");
        let two = [("add".to_owned(), "3"), ("ping".to_owned(), "pong")];
        assert_eq!(tell(&two), "The sum is 3. The result of ping is: pong.");
    }

    #[test]
    fn steps_of_a_turn_are_counted() {
        let user = json!({"role": "user", "content": "x"});
        let calls = |count: usize| {
            let call = json!({"id": "1", "type": "function", "function": {"name": "ping", "arguments": "{}"}});
            json!({"role": "assistant", "tool_calls": vec![call; count]})
        };
        let answer = json!({"role": "tool", "tool_call_id": "1", "content": "x"});
        let over = |messages: &[&Value]| {
            steps_over(&chat(json!({"model": "google/gemini-2.5-flash", "messages": messages})).unwrap())
        };
        assert_eq!(over(&[&user]), 0);
        assert_eq!(over(&[&user, &calls(1), &answer]), 1);
        assert_eq!(over(&[&user, &calls(2), &answer, &answer, &calls(1), &answer]), 2);
        assert_eq!(over(&[&user, &calls(1), &answer, &user]), 0);
    }

    #[test]
    fn arguments_are_objects() {
        let chat = chat(json!({"model": "google/gemini-2.5-flash", "tools": tools(),
            "messages": [{"role": "user", "content": "x"}]}))
        .unwrap();
        assert_eq!(arguments(&chat.tools[1], "What is 2024 plus 1776?", 1), [r#"{"a":2024,"b":1776}"#]);
        assert_eq!(arguments(&chat.tools[4], "Ping 5", 1), ["{}"]);
        assert_eq!(
            arguments(&chat.tools[2], "Weather in Paris and Rome", 2),
            [r#"{"city":"Paris"}"#, r#"{"city":"Rome"}"#]
        );
    }
}

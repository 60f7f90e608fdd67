//! What is asked: one question for each thing that Google's pages leave open. Together they cost some thousand tokens.

use serde_json::{Value, json};

/// Enough for a function call of a model that thinks a little.
const MAX_TOKENS: u32 = 1024;

/// What is said in them, which an answer may repeat.
const PROMPTS: [&str; 3] =
    ["Say ok.", "What is the weather in Paris?", "What is the weather in Paris and the weather in Rome?"];

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    /// Part of the file's name.
    pub(super) name: &'static str,
    /// What its answer decides.
    pub(super) open: &'static str,
    /// Further fields of a chat that says "Say ok."; `model` and `messages` are replaced.
    fields: fn(&str) -> Value,
}

impl Question {
    /// The body of the request.
    pub(super) fn asked(&self, vertex_id: &str) -> Value {
        let mut body = json!({"model": vertex_id, "messages": [{"role": "user", "content": PROMPTS[0]}],
            "max_tokens": MAX_TOKENS, "stream": false});
        if let Value::Object(fields) = (self.fields)(vertex_id) {
            for (name, value) in fields {
                body[name] = value;
            }
        }
        body
    }
}

/// All of them. The first two are what `check --live` itself asks, so that it can be run against what was recorded.
pub(super) const ALL: &[Question] = &[
    Question {
        name: "chat",
        open: "indentation, header fields, an answer without room",
        fields: |_| json!({"max_tokens": 1}),
    },
    Question {
        name: "stream",
        open: "line ends, a stream without room",
        fields: |_| json!({"max_tokens": 1, "stream": true}),
    },
    Question { name: "text-stream", open: "deltas, place of usage", fields: |_| json!({"stream": true}) },
    Question {
        name: "usage",
        open: "what `include_usage` changes",
        fields: |_| json!({"stream": true, "stream_options": {"include_usage": true}}),
    },
    Question { name: "tool", open: "function calls, signatures", fields: |_| tool(false, PROMPTS[1], json!({})) },
    Question { name: "tool-stream", open: "calls in deltas, `index`", fields: |_| tool(true, PROMPTS[1], json!({})) },
    Question {
        name: "parallel-tools",
        open: "parallel calls in deltas",
        fields: |_| tool(true, PROMPTS[2], json!({})),
    },
    Question {
        name: "streamed-arguments",
        open: "fragments of arguments",
        fields: |_| tool(true, PROMPTS[1], json!({"stream_function_call_arguments": true})),
    },
    Question {
        name: "thoughts",
        open: "how thoughts are told",
        fields: |_| json!({"stream": true, "extra_body": {"google": {"thinking_config": {"include_thoughts": true}}}}),
    },
    Question {
        name: "developer",
        open: "whether role developer is taken",
        fields: |_| json!({"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": PROMPTS[0]}]}),
    },
    Question {
        name: "unknown-fields",
        open: "whether unknown fields are ignored",
        fields: |_| json!({"store": false, "parallel_tool_calls": true, "no_such_field": 1}),
    },
    Question {
        name: "schema-reference",
        open: "whether `$ref` is taken in a schema",
        fields: |_| {
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {
                "type": "object", "properties": {"word": {"$ref": "#/$defs/word"}}, "required": ["word"],
                "$defs": {"word": {"type": "string"}}}}}})
        },
    },
    Question { name: "signature-missing", open: "the words for a missing signature", fields: |_| history(None) },
    Question {
        name: "signature-dummy",
        open: "whether the dummy is taken as it is",
        fields: |_| history(Some("skip_thought_signature_validator")),
    },
    Question {
        name: "signature-dummy-base64",
        open: "whether the dummy is taken in base64",
        fields: |_| history(Some("c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=")),
    },
    Question {
        name: "signature-corrupted",
        open: "the words for a corrupted signature",
        fields: |_| history(Some("bm8gc2lnbmF0dXJl")),
    },
    Question { name: "bare-model", open: "shape of a 400", fields: |id| json!({"model": bare(id)}) },
    Question {
        name: "bare-model-stream",
        open: "shape of a 400 to a stream",
        fields: |id| json!({"model": bare(id), "stream": true}),
    },
    Question { name: "no-such-model", open: "shape of a 404", fields: |_| json!({"model": "google/no-such-model"}) },
    Question { name: "bad-value", open: "words for a bad value", fields: |_| json!({"temperature": 99}) },
    Question {
        name: "no-effort",
        open: "whether thinking can be switched off",
        fields: |_| json!({"reasoning_effort": "none"}),
    },
];

fn bare(vertex_id: &str) -> &str {
    vertex_id.rsplit('/').next().unwrap_or(vertex_id)
}

fn weather() -> Value {
    json!([{"type": "function", "function": {"name": "get_weather", "description": "Tells the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])
}

fn tool(stream: bool, content: &str, google: Value) -> Value {
    let mut fields = json!({"stream": stream, "tools": weather(), "tool_choice": "required",
        "messages": [{"role": "user", "content": content}]});
    if google != json!({}) {
        fields["extra_body"] = json!({ "google": google });
    }
    fields
}

/// A function was called and has answered; the call comes back with this signature.
fn history(signature: Option<&str>) -> Value {
    let mut call = json!({"id": "call-1", "type": "function",
        "function": {"name": "get_weather", "arguments": "{\"city\":\"Paris\"}"}});
    if let Some(signature) = signature {
        call["extra_content"] = json!({"google": {"thought_signature": signature}});
    }
    json!({"tools": weather(), "messages": [
        {"role": "user", "content": PROMPTS[1]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-1", "content": "Rain."},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn questions_have_names_of_their_own_and_fill_a_row() {
        let names: BTreeSet<&str> = ALL.iter().map(|question| question.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|question| !question.open.contains('|')));
        let asked = ALL[1].asked("google/m");
        assert_eq!((&asked["stream"], &asked["max_tokens"]), (&json!(true), &json!(1)));
    }
}

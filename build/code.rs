//! Colours for code: each word gets one of a few classes, which `site.css` knows.

use std::sync::LazyLock;
use syntect::easy::ScopeRegionIterator;
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxSet};

static SYNTAXES: LazyLock<SyntaxSet> = LazyLock::new(SyntaxSet::load_defaults_newlines);

/// What a scope looks like; the first that fits the innermost scope decides. An empty class is plain text.
static CLASSES: LazyLock<Vec<(Scope, &str)>> = LazyLock::new(|| {
    let classes = [
        ("comment", "c"),
        ("string.quoted.double.json", "s"),
        ("punctuation.definition.string", "s"),
        ("string", "s"),
        ("constant.character.escape", "s"),
        ("constant", "n"),
        ("punctuation.definition.variable", "v"),
        ("variable.other.readwrite", "v"),
        ("variable.parameter.option", "o"),
        ("punctuation.definition.parameter", "o"),
        ("variable.function", "f"),
        ("support.function", "f"),
        ("entity.name", "f"),
        ("keyword.operator", ""),
        ("keyword", "k"),
        ("storage", "k"),
    ];
    classes.iter().map(|(scope, class)| (Scope::new(scope).expect("a scope"), *class)).collect()
});

/// Languages by the names that fences give them. Others have no colours.
fn syntax(language: &str) -> Option<&'static str> {
    match language {
        "bash" => Some("sh"),
        "python" => Some("py"),
        "js" => Some("js"),
        "json" => Some("json"),
        "yaml" => Some("yaml"),
        _ => None,
    }
}

/// A fenced block as HTML.
pub(crate) fn block(language: &str, source: &str) -> String {
    format!("<pre><code class=\"language-{language}\">{}</code></pre>\n", highlighted(language, source.trim_end()))
}

/// Colours the blocks that stand as `<pre><code class="language-…">` without any markup in a template.
pub(crate) fn highlight_blocks(html: &str) -> String {
    const START: &str = "<pre data-language=\"";
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(at) = rest.find(START) {
        let (before, after) = rest.split_at(at);
        let (language, after) = after[START.len()..].split_once("\">").expect("the tag ends");
        let (source, after) = after.split_once("</pre>").expect("the block ends");
        out.push_str(before);
        out.push_str(block(language, source).trim_end());
        rest = after;
    }
    out.push_str(rest);
    out
}

fn highlighted(language: &str, source: &str) -> String {
    let Some(syntax) = syntax(language).and_then(|extension| SYNTAXES.find_syntax_by_extension(extension)) else {
        return escaped(source);
    };
    // A value that is filled in later is one word for every syntax.
    let source = source.replace("{{", "\u{e000}").replace("}}", "\u{e001}");
    let mut state = ParseState::new(syntax);
    let mut stack = ScopeStack::new();
    // Neighbours of one class share a span.
    let mut words: Vec<(&str, String)> = Vec::new();
    for line in source.split_inclusive('\n') {
        let operations = state.parse_line(line, &SYNTAXES).expect("the syntaxes that come with syntect work");
        for (text, operation) in ScopeRegionIterator::new(&operations, line) {
            stack.apply(operation).expect("scopes are balanced");
            if text.is_empty() {
                continue;
            }
            let class = if text.trim().is_empty() { "" } else { class_of(&stack) };
            match words.last_mut() {
                Some((last, word)) if *last == class => word.push_str(text),
                _ => words.push((class, text.to_owned())),
            }
        }
    }
    let html: String = words
        .iter()
        .map(|(class, text)| match *class {
            "" => escaped(text),
            class => format!("<span class=\"{class}\">{}</span>", escaped(text)),
        })
        .collect();
    html.replace('\u{e000}', "{{").replace('\u{e001}', "}}")
}

fn class_of(stack: &ScopeStack) -> &'static str {
    let inside = stack.as_slice().iter().rev();
    inside
        .flat_map(|scope| CLASSES.iter().find(|(prefix, _)| prefix.is_prefix_of(*scope)))
        .map(|(_, class)| *class)
        .next()
        .unwrap_or("")
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

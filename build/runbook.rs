//! The runbook: `docs/runbook/*.md`, in the order of their names, as one page.
//!
//! `README.md` is its beginning. A file's first heading is `# N. Title`; its name without the number is the section's
//! anchor. A link to another file of the runbook becomes one to its section; a link to any other file of the repository,
//! which a page cannot lead to, becomes its words.

use crate::code;
use pulldown_cmark::{CodeBlockKind, CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};
use std::cell::RefCell;
use std::fs;
use std::path::Path;

/// The rendered runbook.
pub(crate) struct Runbook {
    /// Links to all sections.
    pub(crate) contents: String,
    /// The page's main part.
    pub(crate) html: String,
}

impl Runbook {
    pub(crate) fn read(folder: &Path) -> Self {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a folder can be read").file_name().into_string().expect("names are UTF-8"))
            .filter(|name| name.ends_with(".md") && name != "README.md")
            .collect();
        names.sort();
        let introduction = Section::new(folder, "", None);
        let mut html = format!(
            "<section class=\"introduction\">\n{}</section>\n",
            introduction.render(&crate::read(&folder.join("README.md"))).html
        );
        let mut contents = String::from("<ol>\n");
        for (index, name) in names.iter().enumerate() {
            let anchor = anchor_of(name).unwrap_or_else(|| panic!("{name}: not named NN-title.md"));
            let section = Section::new(folder, anchor, Some(index + 1));
            let rendered = section.render(&crate::read(&folder.join(name)));
            contents.push_str(&format!(
                "<li><a href=\"#{anchor}\"><span class=\"number\">{}</span> {}</a>{}</li>\n",
                index + 1,
                rendered.title,
                rendered.contents
            ));
            html.push_str(&format!("<section aria-labelledby=\"{anchor}\">\n{}</section>\n", rendered.html));
        }
        contents.push_str("</ol>");
        Self { contents, html }
    }
}

struct Section<'a> {
    folder: &'a Path,
    anchor: &'a str,
    number: Option<usize>,
    /// Whether each link that has begun leads somewhere.
    open_links: RefCell<Vec<bool>>,
}

struct Rendered {
    title: String,
    /// Links to its parts, if it has some.
    contents: String,
    html: String,
}

impl<'a> Section<'a> {
    fn new(folder: &'a Path, anchor: &'a str, number: Option<usize>) -> Self {
        Self { folder, anchor, number, open_links: RefCell::default() }
    }

    fn render(&self, markdown: &str) -> Rendered {
        let mut title = String::new();
        let mut parts = String::new();
        let mut out: Vec<Event<'_>> = Vec::new();
        let mut events = Parser::new_ext(markdown, Options::ENABLE_TABLES);
        while let Some(event) = events.next() {
            match event {
                // Comments: marks for the tests.
                Event::Html(_)
                | Event::InlineHtml(_)
                | Event::Start(Tag::HtmlBlock)
                | Event::End(TagEnd::HtmlBlock) => {}
                Event::Start(Tag::Heading { level, .. }) => {
                    let inner = take_until(&mut events, TagEnd::Heading(level));
                    let (heading, text) = self.heading(level, inner);
                    if level == HeadingLevel::H1 {
                        assert!(title.is_empty(), "{}: two first headings", self.anchor);
                        title = text;
                    } else if level == HeadingLevel::H2 {
                        let anchor = self.anchor_in(&text);
                        parts.push_str(&format!("<li><a href=\"#{anchor}\">{}</a></li>\n", code::escaped(&text)));
                    }
                    out.push(Event::Html(heading.into()));
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    let inner = take_until(&mut events, TagEnd::CodeBlock);
                    let CodeBlockKind::Fenced(language) = kind else {
                        panic!("{}: a block of code without a fence", self.anchor)
                    };
                    assert!(!language.is_empty(), "{}: a block of code without a language", self.anchor);
                    out.push(Event::Html(code::block(&language, &text_of(&inner)).into()));
                }
                Event::Start(Tag::Table(_)) => {
                    let inner = take_until(&mut events, TagEnd::Table);
                    out.push(Event::Html(self.table(inner).into()));
                }
                Event::Start(Tag::Image { dest_url, title, .. }) => {
                    let words = text_of(&take_until(&mut events, TagEnd::Image));
                    out.push(Event::Html(self.diagram(&dest_url, &words, &title).into()));
                }
                event => out.extend(self.inline(event)),
            }
        }
        let mut html = rendered(out);
        html = html.replace("<p><figure", "<figure").replace("</figure>\n</p>", "</figure>");
        let contents = if parts.is_empty() { parts } else { format!("\n<ol>\n{parts}</ol>\n") };
        Rendered { title, contents, html }
    }

    /// A heading with its anchor, and its title without number.
    fn heading(&self, level: HeadingLevel, inner: Vec<Event<'_>>) -> (String, String) {
        let words = text_of(&inner);
        let rendered = rendered(inner);
        if level == HeadingLevel::H1 {
            let Some(number) = self.number else {
                return (format!("<h1>{rendered}</h1>\n"), rendered);
            };
            let title = rendered
                .strip_prefix(&format!("{number}. "))
                .unwrap_or_else(|| panic!("{}: the first heading must begin with '{number}. '", self.anchor))
                .to_owned();
            let heading = format!(
                "<h2 id=\"{0}\"><span class=\"number\">{number}</span> {title}{1}</h2>\n",
                self.anchor,
                link_to(self.anchor, &words)
            );
            return (heading, title);
        }
        let anchor = self.anchor_in(&words);
        let level = level as usize + 1;
        let heading = format!("<h{level} id=\"{anchor}\">{rendered}{}</h{level}>\n", link_to(&anchor, &words));
        (heading, words)
    }

    fn anchor_in(&self, heading: &str) -> String {
        format!("{}-{}", self.anchor, slug(heading))
    }

    /// A table, whose cells know their column's title: on a phone a row becomes a card.
    fn table(&self, events: Vec<Event<'_>>) -> String {
        let mut titles: Vec<String> = Vec::new();
        let mut html = String::from("<table>\n");
        let mut column = 0;
        let mut in_head = false;
        let mut cell: Vec<Event<'_>> = Vec::new();
        for event in events {
            match event {
                Event::Start(Tag::TableHead) => {
                    in_head = true;
                    html.push_str("<thead><tr>");
                }
                Event::End(TagEnd::TableHead) => {
                    in_head = false;
                    html.push_str("</tr></thead>\n<tbody>\n");
                }
                Event::Start(Tag::TableRow) => {
                    column = 0;
                    html.push_str("<tr>");
                }
                Event::End(TagEnd::TableRow) => html.push_str("</tr>\n"),
                Event::Start(Tag::TableCell) => cell.clear(),
                Event::End(TagEnd::TableCell) if in_head => {
                    let title = rendered(std::mem::take(&mut cell));
                    html.push_str(&if title.is_empty() {
                        "<td></td>".into()
                    } else {
                        format!("<th scope=\"col\">{title}</th>")
                    });
                    titles.push(title);
                }
                Event::End(TagEnd::TableCell) => {
                    let inner = rendered(std::mem::take(&mut cell));
                    // With two columns it is clear which is which.
                    match titles
                        .get(column)
                        .filter(|title| column > 0 && titles.len() > 2 && !inner.is_empty() && !title.contains('<'))
                    {
                        Some(title) => html.push_str(&format!("<td data-column=\"{title}\">{inner}</td>")),
                        None => html.push_str(&format!("<td>{inner}</td>")),
                    }
                    column += 1;
                }
                event => cell.extend(self.inline(event)),
            }
        }
        // Rows that are filled in.
        html = html.replace("<tr><td>{{aliases}}</td><td></td><td></td></tr>\n", "{{aliases}}");
        html + "</tbody>\n</table>\n"
    }

    /// What needs a look wherever text may stand.
    fn inline<'e>(&self, event: Event<'e>) -> Option<Event<'e>> {
        match event {
            Event::Start(Tag::Link { dest_url, .. }) => {
                // One without a target is its words.
                let link = self.target(&dest_url).map(|target| format!("<a href=\"{}\">", code::escaped(&target)));
                self.open_links.borrow_mut().push(link.is_some());
                link.map(|link| Event::Html(link.into()))
            }
            Event::End(TagEnd::Link) => {
                let is_link = self.open_links.borrow_mut().pop().expect("a link that ends has begun");
                is_link.then(|| Event::Html("</a>".into()))
            }
            // Where a long word may be broken.
            Event::Code(text) if text.len() > 16 && !text.contains("{{") => {
                let text = code::escaped(&text).replace('_', "_<wbr>").replace('/', "/<wbr>");
                Some(Event::Html(format!("<code>{text}</code>").into()))
            }
            event => Some(event),
        }
    }

    /// The diagram itself, not a reference to it: so it takes the page's colours.
    fn diagram(&self, file: &str, words: &str, caption: &str) -> String {
        let svg = crate::read(&self.folder.join(file));
        let (start, rest) = svg.split_once("<style>").expect("a diagram has a style");
        let (_, shapes) = rest.split_once("</style>\n").expect("the style ends");
        let (_, tag) = start.split_once("<svg xmlns=\"http://www.w3.org/2000/svg\"").expect("a diagram is an svg");
        assert!(!words.is_empty(), "{file}: a diagram needs its words");
        let name = file.trim_end_matches(".svg");
        format!(
            "<figure class=\"drawing\" id=\"diagram-{name}\"><svg role=\"img\" aria-label=\"{}\"{tag}{shapes}<figcaption>{}</figcaption></figure>\n",
            code::escaped(words),
            code::escaped(caption)
        )
    }

    fn target(&self, link: &str) -> Option<String> {
        if link.starts_with("https://") || link.starts_with('#') && self.anchor.is_empty() {
            return Some(link.to_owned());
        }
        let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
        let anchor = if file.is_empty() { Some(self.anchor) } else { anchor_of(file) };
        match (anchor, fragment) {
            (Some(anchor), "") => Some(format!("#{anchor}")),
            (Some(anchor), fragment) => Some(format!("#{anchor}-{fragment}")),
            (None, _) => None,
        }
    }
}

/// `06-quick-start.md` is `quick-start`; a path elsewhere is nothing.
fn anchor_of(file: &str) -> Option<&str> {
    let (number, name) = file.strip_suffix(".md")?.split_once('-')?;
    (number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

fn link_to(anchor: &str, words: &str) -> String {
    format!(" <a class=\"anchor\" href=\"#{anchor}\" aria-label=\"Link to: {}\">#</a>", code::escaped(words))
}

fn rendered(events: Vec<Event<'_>>) -> String {
    let mut out = String::new();
    html::push_html(&mut out, events.into_iter());
    out
}

/// As GitHub makes anchors of headings.
fn slug(words: &str) -> String {
    let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn take_until<'a>(events: &mut Parser<'a>, end: TagEnd) -> Vec<Event<'a>> {
    events.by_ref().take_while(|event| *event != Event::End(end)).collect()
}

fn text_of(events: &[Event<'_>]) -> String {
    let words = events.iter().map(|event| match event {
        Event::Text(text) | Event::Code(text) => text.clone(),
        Event::SoftBreak => CowStr::Borrowed(" "),
        _ => CowStr::Borrowed(""),
    });
    words.collect::<Vec<_>>().concat()
}

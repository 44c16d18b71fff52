//! Pure: HTML as Markdown, for a model to read: headings, lists, links, tables, quotes and code. Nothing else of a page is kept.
//!
//! A page is written token by token and no tree is made of it: whatever it is, that takes time and memory by its length alone.

use html5gum::{DefaultEmitter, HtmlString, StartTag, Token, Tokenizer};
use reqwest::Url;

/// What a page says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Markdown {
    /// Its title, where it has one.
    pub(super) title: Option<String>,
    /// Its text.
    pub(super) text: String,
}

/// The page at `url`, from which its links start.
pub(super) fn of_html(html: &str, url: &Url) -> Markdown {
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    let mut tokens = Tokenizer::new_with_emitter(html, emitter);
    let mut writer = Writer::new(url);
    while let Some(Ok(token)) = tokens.next() {
        match token {
            Token::StartTag(tag) => writer.start(&tag),
            Token::EndTag(tag) => writer.end(&tag.name),
            Token::String(text) => writer.text(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    writer.finish()
}

/// What is no text of a page, with all that is inside.
const SKIPPED: [&[u8]; 11] = [
    b"script",
    b"style",
    b"noscript",
    b"template",
    b"svg",
    b"math",
    b"iframe",
    b"object",
    b"canvas",
    b"audio",
    b"video",
];
/// What begins on a line of its own, and what is behind it too.
const BLOCKS: [&[u8]; 22] = [
    b"div",
    b"section",
    b"article",
    b"main",
    b"header",
    b"footer",
    b"aside",
    b"nav",
    b"figure",
    b"figcaption",
    b"form",
    b"fieldset",
    b"address",
    b"details",
    b"summary",
    b"dl",
    b"dt",
    b"dd",
    b"center",
    b"body",
    b"option",
    b"caption",
];
/// How deep lists and quotes are shown to be.
const DEPTH: usize = 20;

/// Writes the Markdown.
#[allow(clippy::struct_excessive_bools, reason = "each is another thing that may be open")]
struct Writer {
    base: Url,
    has_base: bool,
    title: Option<String>,
    in_title: bool,
    /// What is skipped, and how many of its kind are open.
    skipped: Option<(HtmlString, usize)>,
    out: String,
    /// A blank that is written before the next word.
    blank: bool,
    /// Ends of lines that are written before the next word.
    lines: usize,
    /// The lists that are open, the outermost first; of one that is numbered the last number.
    lists: Vec<Option<usize>>,
    quotes: usize,
    preformatted: bool,
    /// The link that is open, and where its text begins.
    link: Option<(String, usize)>,
    /// The row of a table that is open.
    row: Option<Row>,
    /// Whether the table that is open has no row yet.
    is_first_row: bool,
}

#[derive(Default)]
struct Row {
    cells: usize,
}

impl Writer {
    fn new(url: &Url) -> Self {
        Self {
            base: url.clone(),
            has_base: false,
            title: None,
            in_title: false,
            skipped: None,
            out: String::new(),
            blank: false,
            lines: 0,
            lists: Vec::new(),
            quotes: 0,
            preformatted: false,
            link: None,
            row: None,
            is_first_row: false,
        }
    }

    fn finish(mut self) -> Markdown {
        self.end_link();
        if self.preformatted {
            self.out.push_str("\n```");
        }
        let title = self.title.map(|title| title.split_whitespace().collect::<Vec<_>>().join(" "));
        Markdown { title: title.filter(|title| !title.is_empty()), text: self.out.trim().to_owned() }
    }

    fn text(&mut self, text: &str) {
        if self.skipped.is_some() {
            return;
        }
        if self.in_title {
            self.title.get_or_insert_default().push_str(text);
            return;
        }
        if self.preformatted {
            self.out.push_str(text);
            return;
        }
        let mut words = text.split(char::is_whitespace);
        if let Some(first) = words.next().filter(|first| !first.is_empty()) {
            self.word(first);
        }
        for word in words {
            self.blank = true;
            if !word.is_empty() {
                self.word(word);
            }
        }
    }

    /// Writes what is on one line, behind what is due before it.
    fn word(&mut self, word: &str) {
        self.due();
        self.out.push_str(word);
    }

    fn due(&mut self) {
        let (lines, blank) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.blank));
        if lines > 0 {
            let before = "> ".repeat(self.quotes.min(DEPTH));
            if self.out.is_empty() {
                self.out.push_str(&before);
            } else {
                (0..lines).for_each(|_| self.out.extend(["\n", &before]));
            }
            self.out.push_str(&"  ".repeat(self.lists.len().min(DEPTH).saturating_sub(1)));
        } else if blank && !self.out.is_empty() && !self.out.ends_with([' ', '\n']) {
            self.out.push(' ');
        }
    }

    /// What follows begins a line, behind an empty one where `lines` is 2. Within a row of a table there is but one line.
    fn block(&mut self, lines: usize) {
        if self.row.is_some() {
            self.blank = true;
        } else {
            self.lines = self.lines.max(lines);
        }
    }

    fn start(&mut self, tag: &StartTag<()>) {
        let name: &[u8] = &tag.name;
        if let Some((skipped, open)) = &mut self.skipped {
            if skipped.as_slice() == name && !tag.self_closing {
                *open += 1;
            }
            return;
        }
        match name {
            b"title" => self.in_title = self.title.is_none(),
            b"base" if !self.has_base => {
                if let Some(base) = attribute(tag, b"href").and_then(|href| self.base.join(&href).ok()) {
                    (self.base, self.has_base) = (base, true);
                }
            }
            b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" => {
                self.block(2);
                let level = usize::from(name[1] - b'0');
                if self.row.is_none() {
                    self.word(&"#".repeat(level));
                }
                self.blank = true;
            }
            b"p" => self.block(2),
            b"br" if self.preformatted => self.out.push('\n'),
            b"br" => self.block(1),
            b"hr" => {
                self.block(2);
                if self.row.is_none() {
                    self.word("---");
                }
                self.block(2);
            }
            b"ul" | b"ol" => {
                self.block(if self.lists.is_empty() { 2 } else { 1 });
                self.lists.push((name == b"ol").then_some(0));
            }
            b"li" => {
                self.block(1);
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{number}.")
                    }
                    _ => "-".to_owned(),
                };
                if self.row.is_none() {
                    self.word(&mark);
                }
                self.blank = true;
            }
            b"blockquote" => {
                self.block(2);
                self.quotes += 1;
            }
            b"pre" if self.row.is_none() && !self.preformatted => {
                self.block(2);
                self.word("```\n");
                self.preformatted = true;
            }
            b"code" | b"kbd" | b"samp" | b"tt" if !self.preformatted => self.word("`"),
            b"a" => {
                self.end_link();
                if let Some(href) = attribute(tag, b"href").and_then(|href| self.address(&href)) {
                    self.due();
                    self.link = Some((href, self.out.len()));
                }
            }
            b"img" => self.image(tag),
            b"table" => {
                self.block(2);
                self.is_first_row = true;
            }
            b"tr" => {
                self.end_row();
                self.block(1);
                self.row = Some(Row::default());
            }
            b"td" | b"th" => {
                if let Some(row) = &mut self.row {
                    row.cells += 1;
                    let begins = row.cells == 1;
                    if begins {
                        self.due();
                    }
                    self.end_link();
                    self.out.push_str(if begins { "| " } else { " | " });
                    self.blank = false;
                }
            }
            name if BLOCKS.contains(&name) => self.block(1),
            name if SKIPPED.contains(&name) && !tag.self_closing => {
                self.end_link();
                self.skipped = Some((tag.name.clone(), 1));
            }
            _ => {}
        }
    }

    fn end(&mut self, name: &HtmlString) {
        if let Some((skipped, open)) = &mut self.skipped {
            if skipped == name {
                *open -= 1;
                if *open == 0 {
                    self.skipped = None;
                }
            }
            return;
        }
        match name.as_slice() {
            b"title" => self.in_title = false,
            b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" | b"p" => self.block(2),
            b"ul" | b"ol" => {
                self.lists.pop();
                self.block(if self.lists.is_empty() { 2 } else { 1 });
            }
            b"blockquote" => {
                self.quotes = self.quotes.saturating_sub(1);
                self.block(2);
            }
            b"pre" if self.preformatted => {
                self.preformatted = false;
                let end = if self.out.ends_with('\n') { "```" } else { "\n```" };
                self.out.push_str(end);
                self.block(2);
            }
            b"code" | b"kbd" | b"samp" | b"tt" if !self.preformatted => {
                self.blank = false;
                self.out.push('`');
            }
            b"a" => self.end_link(),
            b"tr" => self.end_row(),
            b"table" => {
                self.end_row();
                self.block(2);
            }
            name if BLOCKS.contains(&name) || name == b"li" => self.block(1),
            _ => {}
        }
    }

    fn end_row(&mut self) {
        self.end_link();
        let Some(Row { cells }) = self.row.take() else { return };
        if cells > 0 {
            self.out.push_str(" |");
            if std::mem::take(&mut self.is_first_row) {
                self.out.push_str("\n|");
                self.out.push_str(&" --- |".repeat(cells));
            }
        }
        self.blank = false;
        self.block(1);
    }

    /// Makes a link of what was written since it began.
    fn end_link(&mut self) {
        let Some((href, at)) = self.link.take() else { return };
        if self.out[at..].trim().is_empty() {
            return;
        }
        let begins = at + self.out[at..].len() - self.out[at..].trim_start().len();
        self.out.insert(begins, '[');
        self.out.push_str("](");
        self.out.push_str(&href);
        self.out.push(')');
    }

    fn image(&mut self, tag: &StartTag<()>) {
        let Some(words) = attribute(tag, b"alt") else { return };
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        if words.is_empty() {
            return;
        }
        match attribute(tag, b"src").and_then(|src| self.address(&src)) {
            // There are no links within links.
            Some(src) if self.link.is_none() => self.word(&format!("![{words}]({src})")),
            _ => self.word(&words),
        }
    }

    /// A link as an address of its own; `None` for those that lead nowhere, or into the page.
    fn address(&self, link: &str) -> Option<String> {
        if link.trim().starts_with('#') {
            return None;
        }
        let url = self.base.join(link.trim()).ok()?;
        matches!(url.scheme(), "http" | "https" | "mailto").then(|| url.to_string())
    }
}

fn attribute(tag: &StartTag<()>, name: &[u8]) -> Option<String> {
    let value = tag.attributes.iter().find(|(key, _)| key.as_slice() == name)?.1;
    Some(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(html: &str) -> Markdown {
        of_html(html, &Url::parse("https://example.com/docs/page.html").unwrap())
    }

    #[test]
    fn what_a_page_says_is_markdown() {
        let rows = [
            ("<h1>One</h1><p>Some <b>bold</b>\n  words.</p><h3>Two</h3>", "# One\n\nSome bold words.\n\n### Two"),
            ("<p>a<p>b<div>c</div>d<br>e", "a\n\nb\nc\nd\ne"),
            ("<ul><li>a<li>b<ol><li>c</li><li>d</li></ol></li></ul>e", "- a\n- b\n  1. c\n  2. d\n\ne"),
            (
                "<a href=other.html>x</a> <a href='/y?a=1&amp;b=2'> y </a>.",
                "[x](https://example.com/docs/other.html) [y](https://example.com/y?a=1&b=2) .",
            ),
            ("<a href='#top'>up</a> <a href='javascript:x()'>js</a> <a href=x><img src=i.png></a>", "up js"),
            ("<a href=x>open <p>and closed", "[open\n\nand closed](https://example.com/docs/x)"),
            ("<base href=https://other.example/b/><a href=c>c</a>", "[c](https://other.example/b/c)"),
            ("<img src=i.png alt='A cat'><img src=j.png>", "![A cat](https://example.com/docs/i.png)"),
            ("<pre><code>if a &lt; b:\n    c\n</code></pre>after", "```\nif a < b:\n    c\n```\n\nafter"),
            ("use <code>x</code>, not <kbd>y</kbd>", "use `x`, not `y`"),
            ("<blockquote>said<p>twice</blockquote>end", "> said\n> \n> twice\n\nend"),
            (
                "<table><tr><th>a</th><th>b</th></tr><tr><td>1<p>2</td><td><a href=/x>3</a></td></tr></table>z",
                "| a | b |\n| --- | --- |\n| 1 2 | [3](https://example.com/x) |\n\nz",
            ),
            (
                "a<script>var x = '<p>no</p>';</script>b<style>c{}</style><svg><title>no</title></svg><noscript>no</noscript>",
                "ab",
            ),
            ("<!-- no --><!doctype html>yes", "yes"),
            ("<hr>", "---"),
            ("&eacute;&#x2014;&nbsp;x", "é— x"),
            ("", ""),
        ];
        for (html, expected) in rows {
            assert_eq!(read(html).text, expected, "{html}");
        }
        let titled = read("<head><title> The \n page </title></head><body>text");
        assert_eq!((titled.title.as_deref(), &*titled.text), (Some("The page"), "text"));
        assert_eq!(read("<title></title>x").title, None);
    }

    #[test]
    fn no_page_takes_more_than_its_length() {
        // A tree of these would be ten thousand levels deep, or more.
        for piece in [
            "<div>",
            "<span><div></span>",
            "<b a='1'><p>",
            "<ul><li>",
            "<blockquote>x",
            "<table><tr><td>",
            "<a href=x>y",
            "<svg>",
            "<pre>",
        ] {
            let html = piece.repeat(10_000);
            let text = read(&html).text;
            assert!(text.len() <= 100 * html.len(), "{piece}: {}", text.len());
        }
        for cut in ["<", "<a", "<a href='", "<!--", "&", "<script>", "<title>", "</", "<table><tr><td>x"] {
            read(cut);
        }
    }
}

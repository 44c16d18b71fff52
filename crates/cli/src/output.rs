//! What is written, and how a command ends: tables for people, JSON for scripts, codes that say what happened.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    process::ExitCode,
};

use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::client::Error;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked for.
    Done = 0,
    /// It did not, or what it was about has failed.
    Failed = 1,
    /// It was called wrongly: an option, a name that several things have, a profile that is not there.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// The server does not take the key, or does not let it do this.
    Refused = 4,
    /// No server answers, or it has gone away.
    Unreachable = 5,
    /// A session that was followed waits for an answer.
    Waiting = 6,
    /// With `--dry-run`: something would change.
    Changes = 7,
}

impl Exit {
    /// All of them, with what they say.
    pub const ALL: [(Exit, &str); 8] = [
        (Exit::Done, "done"),
        (Exit::Failed, "it failed, or what it was about has failed"),
        (Exit::Usage, "wrong arguments, or a name that several things have"),
        (Exit::NotFound, "there is no such thing"),
        (Exit::Refused, "the server does not take the key, or does not let it do this"),
        (Exit::Unreachable, "no server answers at the address"),
        (Exit::Waiting, "a session that was followed waits for an answer"),
        (Exit::Changes, "with --dry-run: something would change"),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Standard output, as one command writes to it.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// Whether scripts read it.
    pub json: bool,
    colours: bool,
    width: Option<usize>,
}

/// A colour of text on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// That of the terminal.
    Plain,
    /// Of headers and what stands beside something.
    Dim,
    /// Of what is well.
    Green,
    /// Of what needs somebody.
    Yellow,
    /// Of what has failed.
    Red,
    /// Of what is called.
    Blue,
    /// Of what somebody said.
    Bold,
}

impl Out {
    /// Colours and the width of the terminal where it is one; neither elsewhere. `NO_COLOR` and a terminal that is `dumb` have no
    /// colours.
    pub fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let size = is_terminal.then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten();
        let width = size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        Self { json, colours: is_terminal && !json && !is_dumb && !set("NO_COLOR"), width }
    }

    /// The columns of the terminal, where it is one.
    pub fn columns(&self) -> Option<usize> {
        self.width
    }

    /// The rows of the terminal.
    pub fn rows(&self) -> usize {
        rustix::termios::tcgetwinsize(io::stdout()).map_or(24, |size| usize::from(size.ws_row).max(2))
    }

    /// Says on standard error that a list has more than it shows.
    pub fn more(&self, is_cut: bool, words: &str) {
        if is_cut {
            eprintln!("{words}");
        }
    }

    /// As it is for a reader that is no terminal.
    pub fn plain() -> Self {
        Self { json: false, colours: false, width: None }
    }

    /// Writes a text, as it is.
    ///
    /// # Errors
    /// [`Error::Closed`] when nobody reads any more.
    pub fn write(&self, text: &str) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::writing)
    }

    /// Writes a line.
    ///
    /// # Errors
    /// [`Error::Closed`] when nobody reads any more.
    pub fn line(&self, line: &str) -> Result<(), Error> {
        self.write(&format!("{line}\n"))
    }

    /// Writes a value as one line of JSON.
    ///
    /// # Errors
    /// [`Error::Closed`] when nobody reads any more.
    pub fn value(&self, value: &Value) -> Result<(), Error> {
        self.line(&json(value))
    }

    /// Writes a table.
    ///
    /// # Errors
    /// [`Error::Closed`] when nobody reads any more.
    pub fn table(&self, table: &Table) -> Result<(), Error> {
        self.write(&table.draw(self))
    }

    /// A text in a colour, where there are some. What is in it is not made harmless: see [`clean`].
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            _ if !self.colours => return text.to_owned(),
            Colour::Plain => return text.to_owned(),
            Colour::Dim => "2",
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Red => "31",
            Colour::Blue => "34",
            Colour::Bold => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A value as one line of JSON that does nothing to a terminal: also what JSON lets stand is escaped.
pub fn json(value: &Value) -> String {
    // Outside of its texts JSON has no such characters.
    escape(
        &value.to_string(),
        |_| false,
        |out, c| {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| write!(out, "\\u{unit:04x}").expect("a String takes it"));
        },
    )
    .into_owned()
}

/// A text of others as a terminal may have it: lines and tabs stay, and what would move its cursor, change its colours or turn
/// the direction of text is shown instead of done.
pub fn clean(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\n' || c == '\t', show)
}

/// The same in one line.
pub fn clean_line(text: &str) -> Cow<'_, str> {
    match escape(text, |c| c == '\n' || c == '\t', show) {
        Cow::Borrowed(text) if !text.contains(['\n', '\t']) => Cow::Borrowed(text),
        text => {
            let parts = text.split(['\n', '\t']).map(str::trim).filter(|part| !part.is_empty());
            Cow::Owned(parts.collect::<Vec<_>>().join(" "))
        }
    }
}

fn show(out: &mut String, c: char) {
    out.extend(c.escape_unicode());
}

fn escape(text: &str, keep: impl Fn(char) -> bool, put: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let acts = |c: char| acts(c) && !keep(c);
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) { put(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Whether a terminal, or whoever shows text, does something at a character instead of showing it: controls, line and paragraph
/// separators, marks that turn the direction, characters without width that hide between others, tags.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A time of the API in the zone of whoever reads it, to the second; what is none, as it is.
pub fn time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// A cost in millionths of a cent, in dollars.
pub fn cost(cost: &Value) -> String {
    match cost["micro_cents"].as_i64() {
        Some(micro_cents) => format!("${:.4}", micro_cents as f64 / 1e8),
        None => String::new(),
    }
}

/// Rows under headers. The last column is cut to the terminal's width; elsewhere nothing is cut.
#[derive(Debug, Default)]
pub struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A text in a colour.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    /// A text, made harmless and put into one line.
    pub fn new(colour: Colour, text: &str) -> Self {
        Self { text: clean_line(text).into_owned(), colour }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Colour::Plain, text.as_ref())
    }
}

/// What stands between columns.
const GAP: &str = "  ";
/// A column is not cut below this.
const LEAST_WIDTH: usize = 12;

impl Table {
    /// A table without rows.
    pub fn new<const N: usize>(headers: [&'static str; N]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, which has as many cells as there are headers.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.headers.len());
        self.rows.push(cells.into());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, with a line break after each row.
    pub fn draw(&self, out: &Out) -> String {
        let headers: Vec<Cell> = self.headers.iter().map(|header| Cell::new(Colour::Dim, header)).collect();
        let all = || std::iter::once(&headers).chain(&self.rows);
        let last = self.headers.len().saturating_sub(1);
        let widths: Vec<usize> =
            (0..last).map(|column| all().map(|row| row[column].text.width()).max().unwrap_or(0)).collect();
        let before: usize = widths.iter().map(|width| width + GAP.len()).sum();
        let room = out.width.map(|width| width.saturating_sub(before).max(LEAST_WIDTH));
        let mut text = String::new();
        for row in all() {
            for (cell, width) in row.iter().zip(&widths) {
                let pad = width - cell.text.width();
                let painted = out.paint(cell.colour, &cell.text);
                write!(text, "{painted}{:pad$}{GAP}", "").expect("a String takes it");
            }
            if let Some(cell) = row.get(last) {
                let shown = room.map_or(Cow::Borrowed(&*cell.text), |room| cut(&cell.text, room));
                text += &out.paint(cell.colour, &shown);
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

/// A text of at most `width` columns; one that is longer ends in an ellipsis.
pub fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return Cow::Borrowed(text);
    }
    let mut room = width.saturating_sub(1);
    let mut short = String::new();
    for c in text.chars() {
        let Some(left) = room.checked_sub(c.width().unwrap_or(0)) else { break };
        room = left;
        short.push(c);
    }
    short.push('…');
    Cow::Owned(short)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_act_on_a_terminal_is_shown_instead() {
        for (text, shown) in [
            ("plain, äöü 漢字 👍🏽", "plain, äöü 漢字 👍🏽"),
            ("\x1b[31mred\x1b]0;title\x07", "\\u{1b}[31mred\\u{1b}]0;title\\u{7}"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\r\nb\tc", "a\\u{d}\nb\tc"),
            ("right\u{202e}left", "right\\u{202e}left"),
            ("\u{8}\u{7f}", "\\u{8}\\u{7f}"),
        ] {
            assert_eq!(clean(text), shown);
        }
        assert_eq!(clean_line("a\n\n b\tc"), "a b c");
    }

    #[test]
    fn json_stays_the_same_value_and_acts_on_no_terminal() {
        let value = json!({"a": "\x1b[2J \u{9b} \u{202e} \u{e0041} ä", "b": [1, null]});
        let line = super::json(&value);
        assert!(!line.chars().any(acts), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }

    #[test]
    fn a_table_is_as_wide_as_the_terminal_and_elsewhere_whole() {
        let mut table = Table::new(["ID", "NAME"]);
        table.row(["1".into(), "a name that is long".into()]);
        table.row(["漢字".into(), "b".into()]);
        assert_eq!(table.draw(&Out::plain()), "ID    NAME\n1     a name that is long\n漢字  b\n");
        let narrow = Out { width: Some(20), ..Out::plain() };
        assert_eq!(table.draw(&narrow), "ID    NAME\n1     a name that i…\n漢字  b\n");
    }

    #[test]
    fn each_code_is_named_once() {
        for (place, (exit, _)) in Exit::ALL.iter().enumerate() {
            assert_eq!(*exit as usize, place);
        }
    }
}

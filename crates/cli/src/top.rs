//! `rota top`: what goes on, drawn anew every two seconds until it is ended.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    time::interval,
};

use crate::{
    client::{Client, Error, Result},
    limits::{REFRESH, ROWS},
    output::{Colour, Exit, Out, clean_line, cut},
    overview::{at_work, needs, sessions},
    profile::{ServerArgs, Target},
};

/// Where to look.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A screen of its own without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// The screen that was there before, and its cursor.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first place of the screen.
const HOME: &str = "\x1b[H";
/// The rest of the line is empty.
const END_OF_LINE: &str = "\x1b[K";
/// The rest of the screen is empty.
const END_OF_SCREEN: &str = "\x1b[J";

/// Gives the terminal back, however the command ends.
struct Screen;

impl Screen {
    fn enter() -> Result<Self> {
        Out::plain().write(ENTER)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(LEAVE.as_bytes()).and_then(|()| stdout.flush());
    }
}

/// Draws until it is interrupted.
pub async fn top(args: TopArgs) -> Result<Exit> {
    if args.server.json || !io::stdout().is_terminal() {
        let words = "`rota top` draws on a terminal; `rota ps --json` and `rota attention --json` are for scripts";
        return Err(Error::Usage(words.to_owned()));
    }
    let client = Client::new(Target::find(&args.server)?)?;
    let signals = |kind| signal(kind).map_err(|error| Error::Failed(format!("signals cannot be waited for: {error}")));
    let (mut interrupted, mut ended, mut hung_up) =
        (signals(SignalKind::interrupt())?, signals(SignalKind::terminate())?, signals(SignalKind::hangup())?);
    // What is wrong with the address or the key is told on the screen that stays.
    let mut page = look(&client, &Out::new(false)).await?;
    let screen = Screen::enter()?;
    let mut tick = interval(REFRESH);
    let drawing = async {
        loop {
            draw(&client, &page)?;
            tick.tick().await;
            page = match look(&client, &Out::new(false)).await {
                Ok(page) => page,
                Err(error @ Error::Unreachable { .. }) => {
                    let told = Out::new(false).paint(Colour::Red, &format!("{error}. Trying again."));
                    format!("{told}\n")
                }
                Err(error) => return Err(error),
            };
        }
    };
    let outcome = select! {
        outcome = drawing => outcome,
        _ = interrupted.recv() => Ok(Exit::Done),
        _ = ended.recv() => Ok(Exit::Done),
        _ = hung_up.recv() => Ok(Exit::Done),
    };
    drop(screen);
    outcome
}

async fn look(client: &Client, out: &Out) -> Result<String> {
    let attention = client.get("/rota/v1/attention", &[]).await?;
    let items = attention["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let at_work = at_work(client, ROWS).await?;
    let many = |count: usize, is_cut: bool| format!("{count}{}", if is_cut { "+" } else { "" });
    let mut page = format!(
        "{} at work or waiting, {} that need somebody\n\n",
        many(at_work.data.len(), at_work.is_cut),
        many(items.len(), attention["is_cut"] == true)
    );
    if !items.is_empty() {
        page += &needs(items).draw(out);
        page.push('\n');
    }
    if !at_work.data.is_empty() {
        page += &sessions(&at_work.data).draw(out);
    }
    Ok(page)
}

/// Draws what fits on the screen, over what was there.
fn draw(client: &Client, page: &str) -> Result<()> {
    let out = Out::new(false);
    let head = format!("rota top  {}  (Ctrl-C ends it)", clean_line(client.base()));
    let head = out.paint(Colour::Bold, &cut(&head, out.columns().unwrap_or(80)));
    let lines = std::iter::once(&*head).chain(page.lines()).take(out.rows().saturating_sub(1));
    let drawn = lines.fold(String::new(), |drawn, line| drawn + line + END_OF_LINE + "\r\n");
    out.write(&format!("{HOME}{drawn}{END_OF_SCREEN}"))
}

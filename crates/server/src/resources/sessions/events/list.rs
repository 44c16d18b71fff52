//! The history of a session: its log, then what still waits to be taken up.

use rota_api::{Time, event::TYPES};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    View, check_session,
    log::{wire, wire_waiting},
};
use crate::{
    db::{Row, Select, Tx, Val},
    error::{Error, Result},
    limits::PAGE_BYTES,
    page::{Order, Page, Paging, Rows},
    request::{CallerOrWorker, Query},
};

/// An event of a list and its place there.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Listed {
    json: Box<RawValue>,
    #[serde(skip)]
    key: String,
}

impl Listed {
    fn bytes(&self) -> usize {
        self.json.get().len()
    }
}

/// Which events are listed.
pub(super) struct Filter {
    view: View,
    types: Vec<&'static str>,
    // Comparison and time, against processed_at.
    processed: Vec<(&'static str, Time)>,
}

impl Filter {
    /// Everything that a view shows.
    pub(super) fn of(view: View) -> Self {
        Self { view, types: Vec::new(), processed: Vec::new() }
    }

    pub(super) fn read(query: &Query, view: View) -> Result<Self> {
        let types = query.any_of("types", TYPES, TYPES.len())?;
        let mut processed = Vec::new();
        for (name, comparison) in
            [("created_at[gt]", ">"), ("created_at[gte]", ">="), ("created_at[lt]", "<"), ("created_at[lte]", "<=")]
        {
            processed.extend(query.time(name)?.map(|at| (comparison, at)));
        }
        Ok(Self { view, types, processed })
    }
}

/// The two parts of a history. What waits has not been processed, so it stands after the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Log,
    Waiting,
}

pub(super) fn page(
    tx: &mut Tx<'_>,
    caller: &CallerOrWorker,
    session: &str,
    filter: &Filter,
    paging: &Paging,
) -> Result<Page<Listed>> {
    check_session(tx, caller, session)?;
    let parts = match paging.reading() {
        Order::Asc => [Part::Log, Part::Waiting],
        Order::Desc => [Part::Waiting, Part::Log],
    };
    let cursor = paging.after().map(place).transpose()?;
    let mut page = Rows { rows: Vec::new(), more: false };
    let from = cursor.map_or(0, |(part, _)| parts.iter().position(|p| *p == part).unwrap_or(0));
    for part in &parts[from..] {
        let after = cursor.filter(|(p, _)| p == part).map(|(_, key)| key);
        let used: usize = page.rows.iter().map(Listed::bytes).sum();
        let bytes = PAGE_BYTES.saturating_sub(used);
        let room = (paging.limit - page.rows.len() as i64, bytes);
        let read = read(tx, session, *part, filter, paging.reading(), after, room)?;
        // The first one is read in any case.
        if used > 0 && read.rows.first().is_some_and(|first| first.bytes() > bytes) {
            page.more = true;
            break;
        }
        page.rows.extend(read.rows);
        page.more = read.more;
        if page.more {
            break;
        }
    }
    Ok(paging.page(page, |listed| listed.key.clone()))
}

fn place(key: &str) -> Result<(Part, i64)> {
    let invalid = || Error::invalid("page: Invalid page cursor.");
    let (part, number) = key.split_at_checked(1).ok_or_else(invalid)?;
    let part = if part == "l" { Part::Log } else { Part::Waiting };
    Ok((part, number.parse().map_err(|_| invalid())?))
}

fn read(
    tx: &mut Tx<'_>,
    session: &str,
    part: Part,
    filter: &Filter,
    order: Order,
    after: Option<i64>,
    room: (i64, usize),
) -> Result<Rows<Listed>> {
    let (mut select, key) = match part {
        Part::Log => {
            (Select::new("SELECT seq, body, processed_at FROM session_events WHERE session_id = $1", session), "seq")
        }
        // What has not been processed is in no range of times.
        Part::Waiting if !filter.processed.is_empty() => return Ok(Rows { rows: Vec::new(), more: false }),
        Part::Waiting => {
            (Select::new("SELECT place, body, type FROM session_inputs WHERE session_id = $1", session), "place")
        }
    };
    for (comparison, at) in &filter.processed {
        select.int(&format!("processed_at {comparison}"), Some(at.micros()));
    }
    select.any_of("type", &filter.types);
    if filter.view == View::Thread {
        select.when(true, &format!("type NOT IN ('{}')", View::OF_THE_SESSION.join("', '")));
    }
    select.rows(tx, key, order, after.map(Val::Int), room, |row| listed(row, part))
}

fn listed(row: &Row<'_>, part: Part) -> Result<Listed> {
    Ok(match part {
        Part::Log => Listed { json: wire(&row.text(1)?, Some(row.time(2)?))?, key: format!("l{}", row.int(0)?) },
        Part::Waiting => Listed { json: wire_waiting(&row.text(2)?, &row.text(1)?)?, key: format!("w{}", row.int(0)?) },
    })
}

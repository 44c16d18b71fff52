//! Previews of schedules: what an expression means, before a deployment uses it.

use axum::extract::State;
use jiff::tz::Offset;
use rota_api::{
    Time,
    schedule::{ClockNote, ClockNoteType, Occurrence, SchedulePreview},
};

use crate::{
    app::App,
    error::{Error, Result},
    limits::{MAX_PREVIEW_NOTES, MAX_PREVIEW_OCCURRENCES, PREVIEW_OCCURRENCES},
    request::{Caller, Json, Query},
    scheduler::{
        cron::Cron,
        preview::{self, Step},
    },
};

/// `GET /rota/v1/schedules/preview`. A schedule that a deployment would not be given is refused with the same words.
pub async fn preview(State(app): State<App>, _: Caller, query: Query) -> Result<Json<SchedulePreview>> {
    let required = |name| query.text(name).ok_or_else(|| Error::invalid(format_args!("{name}: Field required")));
    let (expression, timezone) = (required("expression")?, required("timezone")?);
    let after = query.time("after")?.unwrap_or_else(|| app.clock.now());
    let count = query.integer("count", 1, MAX_PREVIEW_OCCURRENCES)?.unwrap_or(PREVIEW_OCCURRENCES);
    query.finish()?;
    let cron = Cron::validate(expression, timezone, after.timestamp())
        .map_err(|error| Error::invalid(error.to_string().replacen("schedule.", "", 1)))?;
    let found = preview::preview(&cron, after.timestamp(), count as usize, MAX_PREVIEW_NOTES);
    let occurrences = found.occurrences.into_iter();
    Ok(Json(SchedulePreview {
        r#type: "schedule_preview",
        expression: expression.to_owned(),
        timezone: timezone.to_owned(),
        occurrences: occurrences
            .map(|(at, offset)| Occurrence { at: at.into(), local: at.display_with_offset(offset).to_string() })
            .collect(),
        notes: found.steps.iter().map(|step| note(step, timezone)).collect(),
    }))
}

fn note(step: &Step, timezone: &str) -> ClockNote {
    let shown = |offset: Offset| offset.to_datetime(step.at);
    let (from, to) = (shown(step.before), shown(step.after));
    let times = match step.count {
        1 => step.first.to_string(),
        count => format!("the {count} times from {} to {}", step.first, step.last),
    };
    let (r#type, moves, effect) = if step.skips() {
        let effect =
            if step.count == 1 { "does not exist, and does not fire" } else { "do not exist, and do not fire" };
        (ClockNoteType::SkippedLocalTime, "forward", effect)
    } else {
        let effect = if step.count == 1 { "occurs twice, and fires twice" } else { "occur twice, and fire twice" };
        (ClockNoteType::RepeatedLocalTime, "back", effect)
    };
    ClockNote {
        r#type,
        at: Time::from(step.at),
        clock_before: step.at.display_with_offset(step.before).to_string(),
        clock_after: step.at.display_with_offset(step.after).to_string(),
        first_local: step.first.to_string(),
        last_local: step.last.to_string(),
        count: step.count,
        message: format!("the clock in {timezone} goes {moves} from {from} to {to}: {times} {effect}"),
    }
}

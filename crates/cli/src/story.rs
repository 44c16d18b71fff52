//! The events of a session as people read them: what is said as text, calls and their results in a line each.

use serde_json::Value;

use crate::{
    client::Result,
    find::text,
    limits::LINE_CHARS,
    output::{Colour, Out, clean, clean_line, cut},
};

/// Writes events as they come.
#[derive(Debug)]
pub struct Story {
    out: Out,
    session: String,
    drawing: Option<Drawing>,
}

/// A message that is being written.
#[derive(Debug)]
struct Drawing {
    event: String,
    block: u64,
    written: String,
}

impl Story {
    /// Of a session.
    pub fn new(out: Out, session: &str) -> Self {
        Self { out, session: session.to_owned(), drawing: None }
    }

    /// Writes what an event of the log, or of a message in the making, adds.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn tell(&mut self, event: &Value) -> Result<()> {
        if self.out.json {
            return self.out.value(event);
        }
        match text(event, "type") {
            "event_delta" => self.piece(event),
            "agent.message" => self.message(event),
            "event_start" | "span.model_request_end" | "session.thread_status_idle" | "session.usage" => Ok(()),
            _ => {
                let Some(told) = told(&self.out, &self.session, event) else { return Ok(()) };
                self.break_off()?;
                self.out.write(&told)
            }
        }
    }

    /// Ends the line of a message that will not come to its end.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn break_off(&mut self) -> Result<()> {
        match self.drawing.take() {
            Some(_) => self.out.line(&self.out.paint(Colour::Dim, " … (cut off)")),
            None => Ok(()),
        }
    }

    fn piece(&mut self, event: &Value) -> Result<()> {
        let (id, delta) = (text(event, "event_id"), &event["delta"]);
        let block = delta["index"].as_u64().unwrap_or(0);
        let more = text(&delta["content"], "text");
        if self.drawing.as_ref().is_some_and(|drawing| drawing.event != id) {
            self.break_off()?;
        }
        let begun = || Drawing { event: id.to_owned(), block, written: String::new() };
        let drawing = self.drawing.get_or_insert_with(begun);
        let between = if drawing.block < block { "\n" } else { "" };
        drawing.block = block;
        drawing.written += between;
        drawing.written += more;
        self.out.write(&format!("{between}{}", clean(more)))
    }

    fn message(&mut self, event: &Value) -> Result<()> {
        let whole = said(&event["content"]);
        if self.drawing.as_ref().is_some_and(|drawing| drawing.event != text(event, "id")) {
            self.break_off()?;
        }
        let rest = match self.drawing.take() {
            None => Some(&*whole),
            Some(drawing) => whole.strip_prefix(&*drawing.written),
        };
        match rest {
            Some(rest) => self.out.line(&clean(rest)),
            None => self.out.line(&format!("\n{}", clean(&whole))),
        }
    }
}

/// The texts of content blocks, and what stands for the others.
pub fn said(content: &Value) -> String {
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let block = |block: &Value| match text(block, "type") {
        "text" => text(block, "text").to_owned(),
        other => format!("({other})"),
    };
    blocks.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// What a call is about, in a line: the one text that it has, or its arguments.
pub fn arguments(call: &Value) -> String {
    let input = &call["input"];
    let only = input.as_object().filter(|fields| fields.len() == 1).and_then(|fields| fields.values().next());
    only.and_then(Value::as_str).map_or_else(|| input.to_string(), str::to_owned)
}

/// The name of what a call calls.
pub fn callee(call: &Value) -> String {
    match call["mcp_server_name"].as_str() {
        Some(server) => format!("{server}/{}", text(call, "name")),
        None => text(call, "name").to_owned(),
    }
}

fn line(out: &Out, colour: Colour, line: &str) -> String {
    let line = clean_line(line);
    format!("{}\n", out.paint(colour, &cut(&line, out.columns().unwrap_or(LINE_CHARS))))
}

/// What an event says, in whole lines. `None`: nothing to people.
fn told(out: &Out, session: &str, event: &Value) -> Option<String> {
    let kind = text(event, "type");
    Some(match kind {
        "user.message" | "system.message" => {
            let mut told = String::new();
            for said in said(&event["content"]).lines() {
                told += &out.paint(Colour::Bold, &format!("> {}", clean(said)));
                told.push('\n');
            }
            told
        }
        "user.define_outcome" => line(out, Colour::Bold, &format!("> outcome: {}", text(event, "description"))),
        "user.interrupt" => line(out, Colour::Yellow, "> interrupt"),
        "user.tool_confirmation" => line(out, Colour::Bold, &format!("> {}", text(event, "result"))),
        "agent.tool_use" | "agent.mcp_tool_use" | "agent.custom_tool_use" => {
            let mut told = line(out, Colour::Blue, &format!("→ {}  {}", callee(event), arguments(event)));
            if event["evaluated_permission"] == "ask" {
                let words = format!("  waits: rota approve {session} {}", text(event, "id"));
                told += &format!("{}\n", out.paint(Colour::Yellow, &clean_line(&words)));
            }
            told
        }
        "agent.tool_result" | "agent.mcp_tool_result" | "user.custom_tool_result" | "user.tool_result" => {
            let has_failed = event["is_error"] == true;
            let said = said(&event["content"]);
            let mut lines = said.lines().filter(|line| !line.trim().is_empty());
            let first = lines.next().unwrap_or("(nothing)");
            let more = lines.count();
            let more = if more == 0 { String::new() } else { format!("  (+{more} lines)") };
            let (colour, mark) = if has_failed { (Colour::Red, "← failed: ") } else { (Colour::Dim, "← ") };
            line(out, colour, &format!("{mark}{first}{more}"))
        }
        "session.error" => {
            let error = &event["error"];
            let words = format!("error: {} ({})\n", text(error, "message"), text(error, "type"));
            out.paint(Colour::Red, &clean(&words))
        }
        "session.status_rescheduled" => line(out, Colour::Yellow, "· tries again soon"),
        "session.status_terminated" => line(out, Colour::Red, "· the session has ended for good"),
        "session.deleted" => line(out, Colour::Red, "· the session was deleted"),
        "session.status_idle" => {
            let reason = text(&event["stop_reason"], "type");
            let colour = match reason {
                "end_turn" => Colour::Dim,
                "requires_action" => Colour::Yellow,
                _ => Colour::Red,
            };
            line(out, colour, &format!("· rests: {reason}"))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_wrote_does_not_act_on_a_terminal() {
        let evil = "\x1b]0;owned\x07\x1b[2J\u{9b}31m\u{202e}";
        let content = json!([{"type": "text", "text": evil}]);
        for event in [
            json!({"type": "user.message", "content": content}),
            json!({"type": "system.message", "content": content}),
            json!({"type": "user.define_outcome", "description": evil}),
            json!({"type": "user.tool_confirmation", "result": evil}),
            json!({"type": "agent.tool_use", "id": evil, "name": evil, "input": {"command": evil}, "evaluated_permission": "ask"}),
            json!({"type": "agent.mcp_tool_use", "id": "a", "mcp_server_name": evil, "name": evil, "input": {evil: 1, "b": 2}}),
            json!({"type": "agent.tool_result", "content": content, "is_error": true}),
            json!({"type": "session.error", "error": {"type": evil, "message": evil}}),
            json!({"type": "session.status_idle", "stop_reason": {"type": evil}}),
        ] {
            let told = told(&Out::plain(), "sesn_1", &event).unwrap();
            let acts: Vec<char> = told.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
            assert!(acts.is_empty() && told.contains("u{1b}"), "{event}: {told:?}");
        }
    }

    #[test]
    fn calls_and_results_have_a_line_each() {
        for (event, wanted) in [
            (json!({"type": "agent.tool_use", "name": "bash", "input": {"command": "a\nb"}}), "→ bash  a b\n"),
            (
                json!({"type": "agent.mcp_tool_use", "mcp_server_name": "s", "name": "t", "input": {"a": 1}}),
                "→ s/t  {\"a\":1}\n",
            ),
            (
                json!({"type": "agent.tool_result", "is_error": false, "content": [{"type": "text", "text": "\na\nb\nc"}]}),
                "← a  (+2 lines)\n",
            ),
            (
                json!({"type": "agent.tool_result", "is_error": true, "content": [{"type": "image"}]}),
                "← failed: (image)\n",
            ),
            (json!({"type": "agent.tool_result", "is_error": false, "content": []}), "← (nothing)\n"),
            (json!({"type": "session.status_idle", "stop_reason": {"type": "end_turn"}}), "· rests: end_turn\n"),
        ] {
            assert_eq!(told(&Out::plain(), "sesn_1", &event).unwrap(), wanted);
        }
        let asks =
            json!({"type": "agent.tool_use", "id": "sevt_1", "name": "a", "input": {}, "evaluated_permission": "ask"});
        assert!(told(&Out::plain(), "sesn_1", &asks).unwrap().ends_with("  waits: rota approve sesn_1 sevt_1\n"));
    }
}

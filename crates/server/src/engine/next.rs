//! Says what a session does next. Pure.

use rota_api::id::EventId;

use super::fold::{Call, Stage, State};
use crate::{limits, resources::sessions::events::log::Input};

/// What to do next.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Take up the first `count` inputs, the last of which is an interrupt, and end the turn there.
    Interrupt {
        /// How many.
        count: usize,
    },
    /// Close calls without running them.
    Close(Vec<(EventId, Closing)>),
    /// Run these calls, at least one: several only where none of them changes anything.
    Run(Vec<Call>),
    /// Wait for the client to answer what waits.
    Wait,
    /// Take up what waits and send the conversation to the model.
    Ask,
    /// The agent has made more requests in this turn than it may.
    GiveUp,
    /// The turn has ended.
    Rest,
}

/// Why a call is closed without being run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// The client denied it.
    Denied {
        /// The tool.
        tool: String,
        /// The client's reason.
        message: Option<String>,
    },
    /// It may have been running when the server ended; whether it did anything is unknown.
    Unknown,
}

/// What surrounds a session at this moment.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// What the client has sent that is not in the log yet.
    pub inputs: &'a [Input],
    /// Whether a runner before this one ended in the middle of the turn, so that calls may have been started.
    pub recovering: bool,
    /// Whether the tools run at a worker of the user and not here.
    pub self_hosted: bool,
    /// Whether a call changes nothing, so that it may run again.
    pub is_read_only: fn(&Call) -> bool,
}

impl Surroundings<'_> {
    /// Whether a worker of the user runs a call.
    fn is_of_a_worker(&self, call: &Call) -> bool {
        self.self_hosted && call.is_of_a_worker()
    }
}

/// What to do next.
pub fn next(state: &State, around: Surroundings<'_>) -> Action {
    let is_interrupt = |input: &Input| input.is_interrupt;
    if let Some(place) = around.inputs.iter().position(is_interrupt) {
        return Action::Interrupt { count: place + 1 };
    }
    let closed = closings(state, around);
    if !closed.is_empty() {
        return Action::Close(closed);
    }
    let runnable = runnable(state, around);
    if !runnable.is_empty() {
        return Action::Run(runnable);
    }
    if !state.calls.is_empty() {
        return Action::Wait;
    }
    if !state.unanswered && around.inputs.is_empty() {
        return Action::Rest;
    }
    if state.requests >= limits::MAX_TURN_REQUESTS || state.seq >= limits::MAX_SESSION_EVENTS {
        return Action::GiveUp;
    }
    Action::Ask
}

/// The first call that may run, and with it those behind it up to one that may change something, if it changes nothing itself.
fn runnable(state: &State, around: Surroundings<'_>) -> Vec<Call> {
    let mut allowed =
        state.calls.iter().filter(|call| call.stage == Stage::Allowed && !around.is_of_a_worker(call)).peekable();
    let Some(first) = allowed.next_if(|call| !(around.is_read_only)(call)) else {
        return allowed.take_while(|call| (around.is_read_only)(call)).take(limits::CALLS_AT_ONCE).cloned().collect();
    };
    vec![first.clone()]
}

fn closings(state: &State, around: Surroundings<'_>) -> Vec<(EventId, Closing)> {
    let closing = |call: &Call| match &call.stage {
        Stage::Denied { message } => Some(Closing::Denied { tool: call.name.clone(), message: message.clone() }),
        Stage::Allowed if around.recovering && !around.is_of_a_worker(call) && !(around.is_read_only)(call) => {
            Some(Closing::Unknown)
        }
        _ => None,
    };
    state.calls.iter().filter_map(|call| closing(call).map(|closing| (call.id.clone(), closing))).collect()
}

#[cfg(test)]
mod tests {
    use rota_api::event::{Confirmation, EventBody, ModelUsage, Permission, StopReason};
    use serde_json::json;

    use super::*;
    use crate::engine::fold::tests::{fold, id};

    fn message() -> EventBody {
        EventBody::UserMessage { content: vec![json!({"type": "text", "text": "hi"})] }
    }

    fn call(name: &str, permission: Permission) -> EventBody {
        EventBody::AgentToolUse {
            name: name.to_owned(),
            input: serde_json::Map::new(),
            evaluated_permission: permission,
            evaluation: None,
        }
    }

    fn custom() -> EventBody {
        EventBody::AgentCustomToolUse { name: "weather".to_owned(), input: serde_json::Map::new() }
    }

    fn answered() -> EventBody {
        EventBody::ModelRequestEnd {
            model_request_start_id: id(0),
            is_error: false,
            model_usage: ModelUsage::default(),
        }
    }

    fn confirm(seq: i64, result: Confirmation) -> EventBody {
        EventBody::UserToolConfirmation { tool_use_id: id(seq).to_string(), result, deny_message: None }
    }

    fn result(seq: i64) -> EventBody {
        EventBody::AgentToolResult { tool_use_id: id(seq), content: vec![], is_error: false }
    }

    fn around(inputs: &[Input]) -> Surroundings<'_> {
        Surroundings { inputs, recovering: false, self_hosted: false, is_read_only: |call| call.name == "read" }
    }

    fn run(state: &State, seq: i64) -> Action {
        Action::Run(vec![state.calls.iter().find(|call| call.id == id(seq)).unwrap().clone()])
    }

    #[test]
    fn the_log_decides_what_comes_next() {
        use Permission::{Allow, Ask};

        type Expect = fn(&State) -> Action;
        let rows: Vec<(&str, Vec<EventBody>, Expect)> = vec![
            ("nothing was said", vec![], |_| Action::Rest),
            ("a message wants an answer", vec![message()], |_| Action::Ask),
            ("an answer ends the turn", vec![message(), answered()], |_| Action::Rest),
            ("an allowed call runs", vec![message(), answered(), call("bash", Allow)], |s| run(s, 3)),
            ("an asked call waits", vec![message(), answered(), call("bash", Ask)], |_| Action::Wait),
            ("a custom call waits", vec![message(), answered(), custom()], |_| Action::Wait),
            (
                "an allowed call does not wait for an asked one",
                vec![message(), answered(), call("bash", Ask), call("bash", Allow)],
                |s| run(s, 4),
            ),
            (
                "a confirmed call runs",
                vec![message(), answered(), call("bash", Ask), confirm(3, Confirmation::Allow)],
                |s| run(s, 3),
            ),
            (
                "a denied call is closed",
                vec![message(), answered(), call("bash", Ask), confirm(3, Confirmation::Deny)],
                |_| Action::Close(vec![(id(3), Closing::Denied { tool: "bash".to_owned(), message: None })]),
            ),
            ("results go back to the model", vec![message(), answered(), call("bash", Allow), result(3)], |_| {
                Action::Ask
            }),
            (
                "an interrupt ends the turn",
                vec![message(), EventBody::UserInterrupt { session_thread_id: None }],
                |_| Action::Rest,
            ),
            (
                "after an interrupt a new message is answered",
                vec![message(), EventBody::UserInterrupt { session_thread_id: None }, message()],
                |_| Action::Ask,
            ),
            (
                "a turn that died is not taken up again",
                vec![
                    message(),
                    EventBody::StatusIdle { stop_reason: StopReason::RetriesExhausted, stop_details: None },
                ],
                |_| Action::Rest,
            ),
        ];
        for (name, log, expect) in rows {
            let state = fold(log);
            assert_eq!(next(&state, around(&[])), expect(&state), "{name}");
        }
    }

    #[test]
    fn calls_that_change_nothing_run_side_by_side_up_to_one_that_may_change_something() {
        use Permission::{Allow, Ask};

        type Calls<'a> = &'a [(&'a str, Permission)];

        let rows: [(Calls<'_>, &[i64]); 7] = [
            (&[("read", Allow), ("read", Allow), ("read", Allow)], &[3, 4, 5]),
            (&[("read", Allow), ("read", Allow), ("bash", Allow), ("read", Allow)], &[3, 4]),
            (&[("bash", Allow), ("read", Allow)], &[3]),
            (&[("bash", Allow), ("bash", Allow)], &[3]),
            (&[("read", Allow), ("bash", Ask), ("read", Allow)], &[3, 5]),
            (&[("bash", Ask), ("bash", Allow), ("read", Allow)], &[4]),
            (&[("read", Ask), ("bash", Ask)], &[]),
        ];
        for (calls, expected) in rows {
            let made = calls.iter().map(|(name, permission)| call(name, *permission));
            let state = fold([message(), answered()].into_iter().chain(made).collect());
            let run = match next(&state, around(&[])) {
                Action::Run(calls) => calls.into_iter().map(|call| call.id).collect(),
                action => {
                    assert_eq!(action, Action::Wait);
                    Vec::new()
                }
            };
            assert_eq!(run, expected.iter().map(|seq| id(*seq)).collect::<Vec<_>>(), "{calls:?}");
        }
        let many = (0..20).map(|_| call("read", Allow));
        let state = fold([message(), answered()].into_iter().chain(many).collect());
        let Action::Run(run) = next(&state, around(&[])) else { panic!("they may run") };
        assert_eq!(run.len(), limits::CALLS_AT_ONCE);
    }

    #[test]
    fn after_a_crash_only_what_changes_nothing_runs_again() {
        let recovering = Surroundings { recovering: true, ..around(&[]) };
        let state = fold(vec![message(), answered(), call("bash", Permission::Allow), call("read", Permission::Allow)]);
        assert_eq!(next(&state, recovering), Action::Close(vec![(id(3), Closing::Unknown)]));
        let state = fold(vec![message(), answered(), call("read", Permission::Allow)]);
        assert_eq!(next(&state, recovering), run(&state, 3));
        let state = fold(vec![message(), answered(), call("bash", Permission::Ask), custom()]);
        assert_eq!(next(&state, recovering), Action::Wait, "what waits for the client was not started");
    }

    #[test]
    fn an_interrupt_that_waits_comes_before_everything_else() {
        let inputs = [(1, false), (2, true), (3, false)];
        let inputs = inputs.map(|(place, is_interrupt)| Input { place, is_interrupt, bytes: 1, request: None });
        let state = fold(vec![message(), answered(), call("bash", Permission::Allow)]);
        assert_eq!(next(&state, around(&inputs)), Action::Interrupt { count: 2 });
    }

    #[test]
    fn at_a_self_hosted_environment_the_worker_runs_the_calls() {
        let state = fold(vec![message(), answered(), call("bash", Permission::Allow)]);
        let worker = Surroundings { self_hosted: true, recovering: true, ..around(&[]) };
        assert_eq!(next(&state, worker), Action::Wait);
        let state =
            fold(vec![message(), answered(), call("bash", Permission::Allow), call("web_fetch", Permission::Allow)]);
        let worker = Surroundings { recovering: false, ..worker };
        assert_eq!(next(&state, worker), run(&state, 4), "web tools are the server's, and wait for no worker");
    }

    #[test]
    fn a_call_of_an_mcp_server_runs_here_and_never_again_whatever_its_name_is() {
        let read = EventBody::AgentMcpToolUse {
            mcp_server_name: "files".to_owned(),
            name: "read".to_owned(),
            input: serde_json::Map::new(),
            evaluated_permission: Permission::Allow,
            evaluation: None,
        };
        let state = fold(vec![message(), answered(), read]);
        let worker = Surroundings { self_hosted: true, ..around(&[]) };
        assert_eq!(next(&state, worker), run(&state, 3));
        let recovering = Surroundings { recovering: true, is_read_only: crate::engine::tools::is_read_only, ..worker };
        assert_eq!(next(&state, recovering), Action::Close(vec![(id(3), Closing::Unknown)]));
    }

    #[test]
    fn an_interrupt_closes_custom_calls_for_the_model() {
        let state = fold(vec![message(), answered(), custom(), EventBody::UserInterrupt { session_thread_id: None }]);
        assert!(state.calls.is_empty());
        let last = serde_json::to_value(&state.messages.last().unwrap().content).unwrap();
        assert_eq!(last[0]["content"][0]["text"], crate::model::INTERRUPTED);
    }
}

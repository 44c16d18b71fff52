//! A model that is no model: it runs the blocks that a message spells out, in order, and reports how each one went.
//!
//! The same conversation always gets the same reply, so a deployment whose agent names this provider does scheduled
//! work with no language model, and a test can script a whole session.
//!
//! # Writing a playbook
//!
//! A playbook is a message with fenced code blocks. What stands between them is for the reader.
//!
//! ````markdown
//! Back up the notes, then look at what is there.
//!
//! ```bash
//! tar -czf /mnt/session/outputs/notes.tar.gz notes
//! ```
//!
//! ```glob
//! {"pattern": "*.tar.gz", "path": "/mnt/session/outputs"}
//! ```
//! ````
//!
//! - A block labelled `bash`, `sh` or `shell` is a script for the `bash` tool.
//! - A block labelled with the name of another tool of the agent, built in or custom, holds the arguments of one call:
//!   a JSON object.
//! - Every other block is left alone: one without a label, or with that of a language. The report names these labels,
//!   so that a misspelled one does not go unseen.
//! - Fences are those of CommonMark: three or more backticks or tildes, indented by at most three spaces, closed by a
//!   fence of the same character that is at least as long. The label is the first word after the opening fence. A fence
//!   does not reach from one text block of a message into the next.
//!
//! # Running one
//!
//! Each request makes one call, so each block sees what the ones before it left behind. A block that fails does not stop
//! those after it; commands that must stop together belong into one block, joined by `&&`. A block that cannot be called
//! (its fence is not closed, it is empty, its arguments are no JSON object, the agent has no `bash`) is reported and
//! skipped.
//!
//! Messages that wait together are one playbook, and one that arrives while blocks are still to run adds its blocks at
//! the end. An interrupt ends the playbook: what the messages before it asked for is not taken up again.
//!
//! The report lists the blocks with `ok` or `failed` and the end of what each returned; a shell's exit status stands in
//! there as the tool gave it. It is as long as it needs to be, up to a fixed bound and not to the request's
//! `max_tokens`. A message without a block to run is answered with a short description of this format.
//!
//! # Dreams
//!
//! A dream is no playbook: asked to look after a memory store, it writes each part of a transcript into a memory of its own,
//! `/sessions/{session}/{part}.md`, and runs no blocks.
//!
//! # Tokens
//!
//! Tokens are counted as bytes of JSON divided by four, rounded up: the system prompt, the tools and the messages are
//! the input, the content of the reply is the output. Nothing is cached.

use std::{
    collections::{BTreeSet, HashMap},
    future,
};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Block, Delta, DeltaSink, INTERRUPTED, Message, Model, ModelReply, ModelRequest, Refusal, ReplyFuture, Role, Stop,
    Usage, dreaming,
};
use crate::json_size::json_size;

/// Most bytes of what a block returned that the report repeats.
const OUTPUT_BYTES: usize = 4 << 10;

/// Most bytes of what all blocks returned that the report repeats; each block has an equal share.
const REPORT_BYTES: usize = 64 << 10;

/// Most bytes of text in one delta.
const DELTA_BYTES: usize = 256;

/// How many bytes count as one token.
const TOKEN_BYTES: u64 = 4;

/// The tool that runs shell blocks.
const BASH: &str = "bash";

/// The answer to a message without a block to run.
const FORMAT: &str = "There is nothing to run in this message. I am the playbook: I run the fenced blocks of a message \
in order and report how each one went. Label a block `bash`, `sh` or `shell` to run it in the shell, or with the name \
of another tool to call that tool with the JSON object in the block:\n\n```bash\nuname -a\n```\n";

/// The built-in provider that runs the blocks of a message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Playbook;

impl Model for Playbook {
    fn reply<'a>(&'a self, request: &'a ModelRequest, deltas: DeltaSink<'a>) -> ReplyFuture<'a> {
        Box::pin(future::ready(Ok(reply(request, deltas))))
    }
}

/// The part of the conversation that is still being answered.
#[derive(Default)]
struct Turn<'a> {
    /// What the user wrote.
    texts: Vec<&'a str>,
    /// The ids of the calls made, oldest first.
    calls: Vec<&'a str>,
    /// How the calls ended, by id.
    endings: HashMap<&'a str, Ending>,
    /// Calls of the whole conversation.
    calls_ever: usize,
}

/// How a block of the message ended.
#[derive(Clone)]
enum Ending {
    Ok(String),
    Failed(String),
    NotRun(String),
}

/// What a block of the message asks for.
enum Step<'a> {
    Call { tool: &'a str, input: Box<RawValue> },
    Unfit { label: &'a str, reason: String },
    LeftAlone { label: &'a str },
}

/// A fenced block of a message.
struct Fenced<'a> {
    label: &'a str,
    content: String,
    closed: bool,
}

/// An opening fence.
struct Fence<'a> {
    indent: usize,
    mark: char,
    length: usize,
    label: &'a str,
}

#[derive(Serialize)]
struct BashInput<'a> {
    command: &'a str,
}

fn reply(request: &ModelRequest, deltas: DeltaSink<'_>) -> ModelReply {
    let turn = Turn::of(&request.messages);
    let blocks: Vec<Fenced<'_>> = turn.texts.iter().flat_map(|text| fenced_blocks(text)).collect();
    let steps: Vec<Step<'_>> = blocks.iter().filter_map(|block| step(block, request)).collect();
    let mut calls = steps.iter().filter_map(|step| match step {
        Step::Call { tool, input } => Some((*tool, input)),
        _ => None,
    });
    let (block, stop) = if let Some(block) = dreaming::playbook(request) {
        let stop = if matches!(block, Block::ToolUse { .. }) { Stop::ToolUse } else { Stop::EndTurn };
        (block, stop)
    } else if let Some((tool, input)) = calls.nth(turn.calls.len()) {
        let id = format!("toolu_playbook_{}", turn.calls_ever + 1);
        (Block::ToolUse { id, name: tool.to_owned(), input: input.clone() }, Stop::ToolUse)
    } else {
        let text = report(&steps, &turn);
        stream(&text, deltas);
        (Block::Text { text }, Stop::EndTurn)
    };
    let content = vec![block];
    let usage = Usage {
        input_tokens: tokens(&(&request.system, &request.tools, &request.messages)),
        output_tokens: tokens(&content),
        ..Usage::default()
    };
    ModelReply { content, stop, refusal: Refusal::default(), usage }
}

impl<'a> Turn<'a> {
    fn of(messages: &'a [Message]) -> Self {
        let mut turn = Self::default();
        for message in messages {
            match message.role {
                Role::Assistant => turn.hear(&message.content),
                Role::User => message.content.iter().for_each(|block| turn.take(block)),
                Role::System => {}
            }
        }
        turn
    }

    fn hear(&mut self, reply: &'a [Block]) {
        let before = self.calls.len();
        self.calls.extend(reply.iter().filter_map(|block| match block {
            Block::ToolUse { id, .. } => Some(id.as_str()),
            _ => None,
        }));
        let calls = self.calls.len() - before;
        self.calls_ever += calls;
        if calls == 0 {
            self.end();
        }
    }

    fn take(&mut self, block: &'a Block) {
        match block {
            Block::Text { text } => self.texts.push(text),
            Block::ToolResult { content, is_error: true, .. } if is_interruption(content) => self.end(),
            Block::ToolResult { tool_use_id, content, is_error } => {
                let ending = if *is_error { Ending::Failed } else { Ending::Ok };
                self.endings.insert(tool_use_id, ending(text_of(content)));
            }
            Block::ToolUse { .. } | Block::UnreadableCall { .. } | Block::Thought(_) | Block::Verbatim(_) => {}
        }
    }

    fn end(&mut self) {
        *self = Self { calls_ever: self.calls_ever, ..Self::default() };
    }
}

fn text_of(content: &[Block]) -> String {
    let texts: Vec<&str> = content
        .iter()
        .map(|block| match block {
            Block::Text { text } => text.trim_end(),
            _ => "(content that is not text)",
        })
        .collect();
    texts.join("\n")
}

fn is_interruption(content: &[Block]) -> bool {
    matches!(content, [Block::Text { text }] if text == INTERRUPTED)
}

/// What the block asks for; `None` for one without a label.
fn step<'a>(block: &'a Fenced<'_>, request: &'a ModelRequest) -> Option<Step<'a>> {
    let label = block.label;
    let is_shell = matches!(label, BASH | "sh" | "shell");
    let tool = if is_shell { BASH } else { label };
    let offered = request.tools.iter().any(|offered| offered.name == tool);
    if label.is_empty() {
        return None;
    }
    if !offered && !is_shell {
        return Some(Step::LeftAlone { label });
    }
    let input = if !offered {
        Err("the agent has no `bash` tool".to_owned())
    } else if !block.closed {
        Err("its fence is not closed".to_owned())
    } else if block.content.trim().is_empty() {
        Err("it is empty".to_owned())
    } else if is_shell {
        Ok(to_raw_value(&BashInput { command: &block.content }).expect("a string is JSON"))
    } else {
        arguments(&block.content)
    };
    Some(match input {
        Ok(input) => Step::Call { tool, input },
        Err(reason) => Step::Unfit { label, reason },
    })
}

fn arguments(content: &str) -> Result<Box<RawValue>, String> {
    match serde_json::from_str::<Box<RawValue>>(content) {
        Ok(arguments) if arguments.get().starts_with('{') => Ok(arguments),
        Ok(_) => Err("its arguments are JSON but not an object".to_owned()),
        Err(error) => Err(format!("its arguments are not JSON: {error}")),
    }
}

fn fenced_blocks(text: &str) -> Vec<Fenced<'_>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(fence) = Fence::opening(line) else { continue };
        let mut content = Vec::new();
        let mut closed = false;
        for line in lines.by_ref() {
            closed = fence.is_closed_by(line);
            if closed {
                break;
            }
            content.push(fence.without_indent(line));
        }
        blocks.push(Fenced { label: fence.label, content: content.join("\n"), closed });
    }
    blocks
}

impl<'a> Fence<'a> {
    fn opening(line: &'a str) -> Option<Self> {
        let unindented = line.trim_start_matches(' ');
        let indent = line.len() - unindented.len();
        let mark = unindented.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
        let info = unindented.trim_start_matches(mark);
        let length = unindented.len() - info.len();
        // Backticks after the fence make it inline code.
        if indent > 3 || length < 3 || (mark == '`' && info.contains('`')) {
            return None;
        }
        Some(Self { indent, mark, length, label: info.split_whitespace().next().unwrap_or("") })
    }

    fn is_closed_by(&self, line: &str) -> bool {
        let unindented = line.trim_start_matches(' ');
        let rest = unindented.trim_start_matches(self.mark);
        line.len() - unindented.len() <= 3 && unindented.len() - rest.len() >= self.length && rest.trim().is_empty()
    }

    fn without_indent<'l>(&self, line: &'l str) -> &'l str {
        let indent = line.len() - line.trim_start_matches(' ').len();
        &line[indent.min(self.indent)..]
    }
}

/// Every block with how it ended, or [`FORMAT`] when there is none.
fn report(steps: &[Step<'_>], turn: &Turn<'_>) -> String {
    let mut calls = turn.calls.iter();
    let mut left_alone = BTreeSet::new();
    let mut endings = Vec::new();
    for step in steps {
        match step {
            Step::Call { tool, .. } => {
                let ending = calls.next().and_then(|id| turn.endings.get(id)).cloned();
                endings.push((*tool, ending.unwrap_or_else(|| Ending::Failed("(no result)".to_owned()))));
            }
            Step::Unfit { label, reason } => endings.push((*label, Ending::NotRun(reason.clone()))),
            Step::LeftAlone { label } => {
                left_alone.insert(*label);
            }
        }
    }
    let head = if endings.is_empty() { FORMAT.to_owned() } else { summary(&endings) };
    let output_bytes = OUTPUT_BYTES.min(REPORT_BYTES / turn.calls.len().max(1));
    let details = endings.iter().zip(1..).map(|((label, ending), number)| match ending {
        Ending::Ok(output) => format!("\nBlock {number}, {label}: ok\n{}", quoted(output, output_bytes)),
        Ending::Failed(output) => format!("\nBlock {number}, {label}: failed\n{}", quoted(output, output_bytes)),
        Ending::NotRun(reason) => format!("\nBlock {number}, {label}: not run, because {reason}\n"),
    });
    let details: String = details.collect();
    head + &details + &unknown(&left_alone)
}

/// Names the labels that no tool has; nothing when there are none.
fn unknown(labels: &BTreeSet<&str>) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
    format!("\nLeft alone, because no tool of the agent has that name: {}.\n", labels.join(", "))
}

fn summary(endings: &[(&str, Ending)]) -> String {
    let count = |wanted: fn(&Ending) -> bool| endings.iter().filter(|(_, ending)| wanted(ending)).count();
    let ok = count(|ending| matches!(ending, Ending::Ok(_)));
    let failed = count(|ending| matches!(ending, Ending::Failed(_)));
    let not_run = count(|ending| matches!(ending, Ending::NotRun(_)));
    format!("{ok} ok, {failed} failed, {not_run} not run.\n")
}

/// The end of `output` in a fence that it cannot close; nothing for no output.
fn quoted(output: &str, max_bytes: usize) -> String {
    if output.is_empty() {
        return String::new();
    }
    let start = output.ceil_char_boundary(output.len().saturating_sub(max_bytes));
    let (left_out, end) = output.split_at(start);
    let note = if left_out.is_empty() { String::new() } else { format!("({} bytes left out)\n", left_out.len()) };
    let longest = end.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{note}{end}\n{fence}\n")
}

/// Sends the text piece by piece, as a model would.
fn stream(text: &str, deltas: DeltaSink<'_>) {
    deltas(Delta::TextStart);
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(DELTA_BYTES));
        deltas(Delta::Text(piece.to_owned()));
        rest = after;
    }
}

fn tokens(content: &impl Serialize) -> u64 {
    let bytes = json_size(content).expect("messages and tools are JSON");
    (bytes as u64).div_ceil(TOKEN_BYTES)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::ToolDefinition;

    const TOOLS: [&str; 3] = ["bash", "write", "lookup"];

    fn tool(name: &&str) -> ToolDefinition {
        let input_schema = to_raw_value(&json!({"type": "object"})).unwrap();
        ToolDefinition { name: (*name).to_owned(), description: "does it".to_owned(), input_schema }
    }

    fn text(text: &str) -> Block {
        Block::Text { text: text.to_owned() }
    }

    fn says(texts: &[&str]) -> Message {
        Message { role: Role::User, content: texts.iter().map(|said| text(said)).collect() }
    }

    fn request(messages: Vec<Message>) -> ModelRequest {
        ModelRequest {
            model: "playbook".to_owned(),
            effort: None,
            speed: None,
            inference_geo: None,
            max_tokens: 1000,
            system: None,
            messages,
            tools: TOOLS.iter().map(tool).collect(),
        }
    }

    fn answer(request: &ModelRequest) -> ModelReply {
        reply(request, &mut |_| {})
    }

    /// The calls of a conversation in which each call is answered with its number, and the report that ends it.
    fn run(request: &mut ModelRequest) -> (Vec<(String, Value)>, String) {
        let mut calls = Vec::new();
        loop {
            let reply = answer(request);
            match &reply.content[..] {
                [Block::ToolUse { id, name, input }] => {
                    assert_eq!(reply.stop, Stop::ToolUse);
                    calls.push((name.clone(), serde_json::from_str(input.get()).unwrap()));
                    let result = result(id, &format!("output {}", calls.len()), false);
                    request.messages.push(Message { role: Role::Assistant, content: reply.content });
                    request.messages.push(Message { role: Role::User, content: vec![result] });
                }
                [Block::Text { text }] => {
                    assert_eq!(reply.stop, Stop::EndTurn);
                    let report = text.clone();
                    request.messages.push(Message { role: Role::Assistant, content: reply.content });
                    return (calls, report);
                }
                other => panic!("neither a call nor a text: {other:?}"),
            }
        }
    }

    fn result(id: &str, output: &str, is_error: bool) -> Block {
        Block::ToolResult { tool_use_id: id.to_owned(), content: vec![text(output)], is_error }
    }

    fn bash(command: &str) -> (String, Value) {
        ("bash".to_owned(), json!({"command": command}))
    }

    #[test]
    fn blocks_become_calls_in_order() {
        let call = |tool: &str, input| (tool.to_owned(), input);
        let cases = [
            ("```bash\nls\n```", vec![bash("ls")]),
            ("```sh\na\n\nb\n```\nthen\n```shell\nc\n```", vec![bash("a\n\nb"), bash("c")]),
            ("```bash title=x\r\nls\r\npwd\r\n```\r\n", vec![bash("ls\npwd")]),
            ("~~~bash\necho '```'\n~~~", vec![bash("echo '```'")]),
            ("````bash\n```\nx\n```\n````", vec![bash("```\nx\n```")]),
            ("1. Do\n  ```bash\n  if x; then\n    y\n  fi\n  ```", vec![bash("if x; then\n  y\nfi")]),
            ("```bash\necho \"ü\"\n```", vec![bash("echo \"ü\"")]),
            ("```bash\na\n    ```\n``` b\n  ````  \nc", vec![bash("a\n    ```\n``` b")]),
            ("```write\n{\"path\": \"a\", \"n\": 1}\n```", vec![call("write", json!({"path": "a", "n": 1}))]),
            (
                "```lookup\n{}\n```\n```bash\nx\n```\n```lookup\n{\"k\": 2}\n```",
                vec![call("lookup", json!({})), bash("x"), call("lookup", json!({"k": 2}))],
            ),
        ];
        for (message, expected) in cases {
            let (calls, report) = run(&mut request(vec![says(&[message])]));
            assert_eq!(calls, expected, "{message}");
            assert!(report.starts_with(&format!("{} ok, 0 failed, 0 not run.", expected.len())), "{report}");
        }
    }

    #[test]
    fn blocks_that_nothing_can_run_are_not_called() {
        let cases = [
            ("hello", "There is nothing to run"),
            ("```\nls\n```", "There is nothing to run"),
            ("    ```bash\n    ls\n    ```", "There is nothing to run"),
            ("``bash\nls\n``", "There is nothing to run"),
            ("``` bash ``` is inline code\nls\n```", "There is nothing to run"),
            ("```python\n1\n```\n```wirte\n{}\n```\n```python\n```", "has that name: `python`, `wirte`."),
            ("```bash\nls", "Block 1, bash: not run, because its fence is not closed\n"),
            ("````bash\nls\n```\n", "Block 1, bash: not run, because its fence is not closed\n"),
            ("```sh\n \n```", "Block 1, sh: not run, because it is empty\n"),
            ("```write\n{path: 1}\n```", "Block 1, write: not run, because its arguments are not JSON: key must be"),
            ("```write\n{} {}\n```", "Block 1, write: not run, because its arguments are not JSON: trailing"),
            ("```write\n[1]\n```", "Block 1, write: not run, because its arguments are JSON but not an object\n"),
        ];
        for (message, expected) in cases {
            let (calls, report) = run(&mut request(vec![says(&[message])]));
            assert_eq!(calls, [], "{message}");
            assert!(report.contains(expected), "{report}\n does not say: {expected}");
        }
    }

    #[test]
    fn an_agent_without_bash_is_told_so() {
        let mut request = request(vec![says(&["```bash\nls\n```\n```write\n{}\n```"])]);
        request.tools.retain(|tool| tool.name != "bash");
        let (calls, report) = run(&mut request);
        assert_eq!(calls, [("write".to_owned(), json!({}))]);
        assert_eq!(
            report,
            "1 ok, 0 failed, 1 not run.\n\n\
            Block 1, bash: not run, because the agent has no `bash` tool\n\n\
            Block 2, write: ok\n```text\noutput 1\n```\n"
        );
    }

    #[test]
    fn the_report_says_how_each_block_went() {
        let mut request = request(vec![says(&["```bash\na\n```\n```bash\nb\n```\n```write\nx\n```\n```bash\nc\n```"])]);
        let image = Block::Verbatim(to_raw_value(&json!({"type": "image"})).unwrap());
        let outputs =
            [(vec![text("one\n"), image], false), (vec![text("no such file\nexit status 2")], true), (vec![], false)];
        for (content, is_error) in outputs {
            let call = answer(&request).content;
            let [Block::ToolUse { id, .. }] = &call[..] else { panic!("no call: {call:?}") };
            let result = Block::ToolResult { tool_use_id: id.clone(), content, is_error };
            request.messages.push(Message { role: Role::Assistant, content: call });
            request.messages.push(Message { role: Role::User, content: vec![result] });
        }
        let (calls, report) = run(&mut request);
        assert_eq!(calls, []);
        assert_eq!(
            report,
            "2 ok, 1 failed, 1 not run.\n\n\
            Block 1, bash: ok\n```text\none\n(content that is not text)\n```\n\n\
            Block 2, bash: failed\n```text\nno such file\nexit status 2\n```\n\n\
            Block 3, write: not run, because its arguments are not JSON: expected value at line 1 column 1\n\n\
            Block 4, bash: ok\n"
        );
    }

    #[test]
    fn messages_that_wait_together_are_one_playbook() {
        let mut request = request(vec![says(&["```bash\na\n```", "```bash\nb\n"]), says(&["```bash\nc\n```"])]);
        let (calls, report) = run(&mut request);
        assert_eq!(calls, [bash("a"), bash("c")]);
        assert!(report.contains("Block 2, bash: not run"), "{report}");
    }

    #[test]
    fn a_finished_playbook_is_not_run_again() {
        let mut request = request(vec![says(&["```bash\na\n```"])]);
        run(&mut request);
        request.messages.push(says(&["```bash\nb\n```"]));
        assert_eq!(run(&mut request).0, [bash("b")]);
        request.messages.push(says(&["thanks"]));
        assert!(run(&mut request).1.starts_with("There is nothing to run"));
    }

    #[test]
    fn a_message_that_arrives_midway_adds_its_blocks() {
        let mut request = request(vec![says(&["```bash\na\n```\n```bash\nb\n```"])]);
        let call = answer(&request).content;
        request.messages.push(Message { role: Role::Assistant, content: call });
        let arrived = vec![result("toolu_playbook_1", "done", false), text("```bash\nc\n```")];
        request.messages.push(Message { role: Role::User, content: arrived });
        assert_eq!(run(&mut request).0, [bash("b"), bash("c")]);
    }

    #[test]
    fn an_interrupt_ends_the_playbook() {
        let cases =
            [(INTERRUPTED, true, vec![]), (INTERRUPTED, false, vec![bash("b")]), ("oops", true, vec![bash("b")])];
        for (output, is_error, left) in cases {
            let mut request = request(vec![says(&["```bash\na\n```\n```bash\nb\n```"])]);
            let call = answer(&request).content;
            request.messages.push(Message { role: Role::Assistant, content: call });
            let arrived = vec![result("toolu_playbook_1", output, is_error), text("```bash\nc\n```")];
            request.messages.push(Message { role: Role::User, content: arrived });
            assert_eq!(run(&mut request).0, [left, vec![bash("c")]].concat());
        }
    }

    #[test]
    fn no_two_calls_of_a_conversation_share_an_id() {
        let mut request = request(vec![says(&["```bash\na\n```\n```bash\na\n```"])]);
        run(&mut request);
        request.messages.push(says(&["```bash\na\n```"]));
        run(&mut request);
        let ids: BTreeSet<&str> = request
            .messages
            .iter()
            .flat_map(|message| &message.content)
            .filter_map(|block| match block {
                Block::ToolUse { id, .. } => Some(id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn long_output_is_cut_at_its_start_and_cannot_close_its_fence() {
        let cases = [
            (String::new(), String::new()),
            ("a ```` b".to_owned(), "`````text\na ```` b\n`````\n".to_owned()),
            ("x".repeat(10), format!("```text\n{}\n```\n", "x".repeat(10))),
            ("0123456789end".to_owned(), "```text\n(3 bytes left out)\n3456789end\n```\n".to_owned()),
            ("üüüüüüend".to_owned(), "```text\n(6 bytes left out)\nüüüend\n```\n".to_owned()),
        ];
        for (output, expected) in cases {
            assert_eq!(quoted(&output, 10), expected);
        }
    }

    #[test]
    fn many_long_outputs_share_the_report() {
        let blocks = REPORT_BYTES / OUTPUT_BYTES * 4;
        let turns = (0..blocks).map(|_| "```bash\nx\n```\n").collect::<String>();
        let mut request = request(vec![says(&[&turns])]);
        for n in 1..=blocks {
            let call = answer(&request).content;
            request.messages.push(Message { role: Role::Assistant, content: call });
            let output = vec![result(&format!("toolu_playbook_{n}"), &"x".repeat(2 * OUTPUT_BYTES), false)];
            request.messages.push(Message { role: Role::User, content: output });
        }
        let report = run(&mut request).1;
        let repeated = report.matches('x').count();
        assert!((REPORT_BYTES..REPORT_BYTES + 1000).contains(&repeated), "{repeated} bytes of output");
    }

    #[test]
    fn the_report_arrives_piece_by_piece() {
        let request = request(vec![says(&["hello"])]);
        let mut deltas = Vec::new();
        let reply = reply(&request, &mut |delta| deltas.push(delta));
        assert_eq!(deltas.remove(0), Delta::TextStart);
        assert!(deltas.len() > 1, "{deltas:?}");
        let pieces = deltas.into_iter().map(|delta| match delta {
            Delta::Text(text) => text,
            other => panic!("{other:?} within a text"),
        });
        let [Block::Text { text }] = &reply.content[..] else { panic!("no text: {reply:?}") };
        assert_eq!(pieces.collect::<String>(), *text);
    }

    #[test]
    fn tokens_are_counted_from_the_json() {
        let mut request = request(vec![says(&["```bash\nls\n```"])]);
        request.tools.truncate(1);
        let input = r#"[null,[{"name":"bash","description":"does it","input_schema":{"type":"object"}}],[{"role":"user","content":[{"type":"text","text":"```bash\nls\n```"}]}]]"#;
        let output = r#"[{"type":"tool_use","id":"toolu_playbook_1","name":"bash","input":{"command":"ls"}}]"#;
        let usage = answer(&request).usage;
        assert_eq!(usage.input_tokens, (input.len() as u64).div_ceil(4));
        assert_eq!(usage.output_tokens, (output.len() as u64).div_ceil(4));
    }
}

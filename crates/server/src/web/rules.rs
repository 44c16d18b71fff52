//! Pure: which URLs may be fetched, and which results of a search are shown.

use std::collections::HashMap;

use reqwest::Url;
use rota_api::agent::{BuiltInTool, Tool, UrlFilter, UrlSource};
use serde_json::Value;

use super::Failure;
use crate::model::{Block, Message, Role};

/// The lists of domains of a tool. At most one of them is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Domains<'a> {
    /// The only ones.
    pub allowed: Option<&'a [String]>,
    /// All others.
    pub blocked: Option<&'a [String]>,
}

impl Domains<'_> {
    /// Whether a URL is of a domain that may be asked.
    pub fn admit(self, url: &Url) -> bool {
        self.allowed.is_none_or(|list| list.iter().any(|domain| is_below(url, domain)))
            && !self.blocked.is_some_and(|list| list.iter().any(|domain| is_below(url, domain)))
    }

    /// # Errors
    /// When it is of another one.
    pub(super) fn check(self, url: &Url) -> Result<(), Failure> {
        if self.admit(url) {
            return Ok(());
        }
        let host = url.host_str().unwrap_or_default();
        let why = if self.blocked.is_some() {
            "is a domain this agent is blocked from fetching (blocked_domains)"
        } else {
            "is not one of the domains this agent may fetch (allowed_domains)"
        };
        let end = "Retrying this or other URLs on that domain will not work.";
        Err(Failure::fetch("url_not_allowed", format_args!("{host} {why}. {end}")))
    }
}

/// Whether a URL is at `domain` or below it. Of a domain with a path behind it, which lists of `web_search` may have, the URL's path
/// begins with that.
fn is_below(url: &Url, domain: &str) -> bool {
    let (name, path) = domain.split_once('/').map_or((domain, None), |(name, path)| (name, Some(path)));
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let is_of_name = host.strip_suffix(&name).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    let Some(path) = path.map(|path| path.trim_end_matches('/')) else { return is_of_name };
    let below = url.path()[1..].strip_prefix(path);
    is_of_name && below.is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// Whether the conversation has shown `url` in a place that `sources` lets count: what a user wrote, and the agent's own
/// instructions with it; results of the client's tools; results of searches and fetches.
pub fn is_shown(
    url: &str,
    system: Option<&str>,
    messages: &[Message],
    tools: &[Tool],
    sources: Option<&Value>,
) -> bool {
    let Some(wanted) = Wanted::new(url) else { return false };
    let counts = |source: UrlSource, tool: &str| {
        let filter = sources.map_or(&Value::Null, |sources| &sources[source.as_str()]);
        let listed = || {
            filter["tools"]
                .as_array()
                .is_some_and(|tools| tools.iter().any(|listed| listed["name"].as_str() == Some(tool)))
        };
        match filter["type"].as_str().and_then(UrlFilter::from_name) {
            None | Some(UrlFilter::All) => true,
            Some(UrlFilter::None) => false,
            Some(UrlFilter::Only) => listed(),
            Some(UrlFilter::Except) => !listed(),
        }
    };
    if counts(UrlSource::UserInput, "") && system.is_some_and(|system| wanted.is_in(system)) {
        return true;
    }
    let mut callers: HashMap<&str, &str> = HashMap::new();
    for message in messages {
        for block in &message.content {
            let found = match block {
                Block::ToolUse { id, name, .. } => {
                    callers.insert(id, name);
                    false
                }
                Block::Text { text } => {
                    message.role != Role::Assistant && counts(UrlSource::UserInput, "") && wanted.is_in(text)
                }
                Block::ToolResult { tool_use_id, content, .. } => {
                    let tool = callers.get(tool_use_id.as_str()).copied().unwrap_or_default();
                    source_of(tools, tool).is_some_and(|source| counts(source, tool))
                        && content.iter().any(|block| wanted.is_in_block(block))
                }
                Block::Thought(_) | Block::Verbatim(_) | Block::UnreadableCall { .. } => false,
            };
            if found {
                return true;
            }
        }
    }
    false
}

/// What the results of a tool are; `None` for those that show no URL which may be fetched. What runs in a sandbox prints what it
/// likes.
fn source_of(tools: &[Tool], name: &str) -> Option<UrlSource> {
    if BuiltInTool::from_name(name).is_some_and(|tool| BuiltInTool::WEB.contains(&tool)) {
        return Some(UrlSource::ServerToolResults);
    }
    let is_custom = tools.iter().any(|tool| matches!(tool, Tool::Custom(custom) if custom.name == name));
    is_custom.then_some(UrlSource::ClientToolResults)
}

/// A URL that is looked for, in small letters, without its scheme, its fragment and the slash of an empty path: users write
/// `Example.com`.
struct Wanted(String);

impl Wanted {
    fn new(url: &str) -> Option<Self> {
        let (_, rest) = url.trim().split_once("://")?;
        let rest = rest.split('#').next().unwrap_or_default();
        let rest = rest.strip_suffix('/').filter(|host| !host.contains('/')).unwrap_or(rest);
        (!rest.is_empty()).then(|| Self(rest.to_ascii_lowercase()))
    }

    fn is_in_block(&self, block: &Block) -> bool {
        match block {
            Block::Text { text } => self.is_in(text),
            Block::Verbatim(raw) => serde_json::from_str(raw.get()).is_ok_and(|value| self.is_in_value(&value)),
            Block::ToolUse { .. } | Block::ToolResult { .. } | Block::Thought(_) | Block::UnreadableCall { .. } => {
                false
            }
        }
    }

    fn is_in_value(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.is_in(text),
            Value::Array(items) => items.iter().any(|item| self.is_in_value(item)),
            Value::Object(fields) => fields.values().any(|field| self.is_in_value(field)),
            _ => false,
        }
    }

    /// Whether it stands in a text, whole: not as a part of a longer URL.
    fn is_in(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        text.match_indices(&self.0).any(|(at, found)| {
            let (before, after) = (&text[..at], &text[at + found.len()..]);
            let begins =
                before.ends_with("://") || !before.ends_with(|c: char| c.is_alphanumeric() || "-_.@/:%".contains(c));
            begins && ends(after)
        })
    }
}

/// Whether a URL ends where this begins. Marks that end a sentence, and what closes a bracket, may stand behind one.
fn ends(after: &str) -> bool {
    let after = after.strip_prefix('/').unwrap_or(after);
    let rest = &after[..after.find(|c: char| !is_of_url(c)).unwrap_or(after.len())];
    after.starts_with('#') || rest.chars().all(|c| ".,;:!?)]}'*_~".contains(c)) || rest.starts_with("](")
}

fn is_of_url(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !"<>\"`|\\^{}".contains(c)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_domain_stands_for_itself_and_what_is_below_it() {
        for (text, domain, expected) in [
            ("https://example.com/a", "example.com", true),
            ("https://docs.EXAMPLE.com/", "Example.com", true),
            ("https://example.com./", "example.com", true),
            ("https://notexample.com/", "example.com", false),
            ("https://example.com.evil.org/", "example.com", false),
            ("https://example.com/docs/a", "example.com/docs", true),
            ("https://example.com/docs", "example.com/docs/", true),
            ("https://example.com/docsx", "example.com/docs", false),
            ("https://example.com/", "example.com/", true),
        ] {
            assert_eq!(is_below(&url(text), domain), expected, "{text} {domain}");
        }
        let list = ["example.com".to_owned()];
        let blocked = Domains { blocked: Some(&list), ..Domains::default() };
        assert_eq!(
            blocked.check(&url("https://example.com/a")).unwrap_err().to_string(),
            "Web fetch error: url_not_allowed — example.com is a domain this agent is blocked from fetching (blocked_domains). \
             Retrying this or other URLs on that domain will not work."
        );
        assert!(blocked.check(&url("https://example.org/")).is_ok());
        let allowed = Domains { allowed: Some(&list), ..Domains::default() };
        assert!(allowed.check(&url("https://a.example.com/")).is_ok());
        assert!(allowed.check(&url("https://example.org/")).unwrap_err().to_string().contains("(allowed_domains)"));
    }

    #[test]
    fn a_url_is_shown_where_it_stands_whole() {
        let wanted = "https://example.com/a/b?c=d";
        for (text, expected) in [
            ("https://example.com/a/b?c=d", true),
            ("see https://example.com/a/b?c=d.", true),
            ("(https://example.com/a/b?c=d)", true),
            ("[b](https://example.com/a/b?c=d), and", true),
            ("<https://example.com/a/b?c=d>", true),
            ("http://example.com/a/b?c=d#part", true),
            ("example.com/a/b?c=d\nnext", true),
            ("https://example.com/a/b?c=d&e=f", false),
            ("https://example.com/a/b?c=de", false),
            ("https://www.example.com/a/b?c=d", false),
            ("https://example.com/a/b", false),
            ("https://evil.org/example.com/a/b?c=d", false),
            ("https://me@example.com/a/b?c=d", false),
            ("HTTPS://EXAMPLE.com/a/b?c=d", true),
            ("nothing", false),
        ] {
            assert_eq!(Wanted::new(wanted).unwrap().is_in(text), expected, "{text}");
        }
        for (wanted, text, expected) in [
            ("https://example.com", "look at example.com, please", true),
            ("https://example.com/", "https://example.com", true),
            ("https://example.com", "https://example.com/", true),
            ("https://example.com/a#b", "https://example.com/a", true),
            ("https://example.com", "https://example.com/secret", false),
            ("https://example.com", "https://example.com.evil.org", false),
            ("https://example.com", "write to me@example.com", false),
        ] {
            assert_eq!(Wanted::new(wanted).unwrap().is_in(text), expected, "{wanted} in {text}");
        }
        for none in ["example.com", "", "https://", "https://#a"] {
            assert!(Wanted::new(none).is_none(), "{none}");
        }
    }

    fn result(of: &str, content: &Value) -> Block {
        let content = vec![Block::Verbatim(serde_json::value::to_raw_value(content).unwrap())];
        Block::ToolResult { tool_use_id: of.to_owned(), content, is_error: false }
    }

    fn call(id: &str, name: &str) -> Block {
        let input = serde_json::value::to_raw_value(&json!({"url": "https://called.example/"})).unwrap();
        Block::ToolUse { id: id.to_owned(), name: name.to_owned(), input }
    }

    #[test]
    fn only_urls_that_the_conversation_has_shown_may_be_fetched_and_sources_narrow_that() {
        let text = |text: &str| Block::Text { text: text.to_owned() };
        let message = |role, content| Message { role, content };
        let messages = [
            message(Role::User, vec![text("see https://user.example/")]),
            message(
                Role::Assistant,
                vec![
                    text("https://said.example/"),
                    call("1", "web_search"),
                    call("2", "web_fetch"),
                    call("3", "bash"),
                    call("4", "weather"),
                    call("5", "mcp"),
                ],
            ),
            message(
                Role::User,
                vec![
                    result("1", &json!({"type": "search_result", "source": "https://found.example/a", "title": "t"})),
                    result(
                        "2",
                        &json!({"type": "document", "source": {"type": "text", "data": "[x](https://linked.example/)"}}),
                    ),
                    result("3", &json!({"type": "text", "text": "https://printed.example/"})),
                    result("4", &json!({"type": "text", "text": "https://custom.example/"})),
                    result("5", &json!({"type": "text", "text": "https://unknown.example/"})),
                ],
            ),
            message(Role::System, vec![text("https://system.example/")]),
        ];
        let tools: Vec<Tool> = serde_json::from_value(
            json!([{"type": "custom", "name": "weather", "description": "x", "input_schema": {"type": "object"}}]),
        )
        .unwrap();
        let own = Some("Read https://own.example/ first.");
        let shown = |sources: Option<&Value>| -> Vec<&str> {
            let names = [
                "own",
                "user",
                "said",
                "called",
                "found.example/a",
                "linked",
                "printed",
                "custom",
                "unknown",
                "system",
            ];
            let is_shown = |name: &&str| {
                let url =
                    if name.contains('.') { format!("https://{name}") } else { format!("https://{name}.example") };
                is_shown(&url, own, &messages, &tools, sources)
            };
            names.into_iter().filter(is_shown).collect()
        };
        assert_eq!(shown(None), ["own", "user", "found.example/a", "linked", "custom", "system"]);
        let only = |name: &str| json!({"type": "only", "tools": [{"type": "tool_reference", "name": name}]});
        let except = |name: &str| json!({"type": "except", "tools": [{"type": "tool_reference", "name": name}]});
        let none = json!({"type": "none"});
        for (sources, expected) in [
            (json!({"user_input": none}), &["found.example/a", "linked", "custom"][..]),
            (json!({"server_tool_results": none}), &["own", "user", "custom", "system"]),
            (
                json!({"server_tool_results": only("web_search"), "client_tool_results": none, "user_input": none}),
                &["found.example/a"],
            ),
            (json!({"server_tool_results": except("web_search"), "user_input": none}), &["linked", "custom"]),
            (json!({"client_tool_results": except("weather"), "user_input": none}), &["found.example/a", "linked"]),
            (
                json!({"client_tool_results": only("weather"), "server_tool_results": {"type": "all"}, "user_input": none}),
                &["found.example/a", "linked", "custom"],
            ),
        ] {
            assert_eq!(shown(Some(&sources)), expected, "{sources}");
        }
    }
}

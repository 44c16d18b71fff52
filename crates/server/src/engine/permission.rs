//! Whether a call of a tool runs, waits for a person or is refused. Pure.

use rota_api::{
    agent::{BuiltInTool, PermissionPolicy, Tool, built_in, of_mcp_server},
    event::{AutoPermission, Evaluation, Permission},
};

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client runs it.
    Custom,
    /// A built-in tool, allowed or asked about.
    BuiltIn(Permission, Evaluation),
    /// The agent has no such tool.
    Unknown,
}

/// Built-in tools that change nothing: the `auto` policy lets them run.
const HARMLESS: [BuiltInTool; 3] = [BuiltInTool::Read, BuiltInTool::Glob, BuiltInTool::Grep];

/// Judges a call of the tool `name`.
pub(super) fn judge(tools: &[Tool], name: &str) -> Verdict {
    if tools.iter().any(|tool| matches!(tool, Tool::Custom(custom) if custom.name == name)) {
        return Verdict::Custom;
    }
    let Some(tool) = BuiltInTool::from_name(name) else { return Verdict::Unknown };
    match built_in(tools, tool) {
        None => Verdict::Unknown,
        Some(policy) => {
            let (permission, evaluation) = evaluate(policy, HARMLESS.contains(&tool));
            Verdict::BuiltIn(permission, evaluation)
        }
    }
}

/// Judges a call of the tool `name` of an MCP server; `None` when it is switched off. What a server says of its tools is no
/// reason to let one run.
pub(super) fn judge_mcp(tools: &[Tool], server: &str, name: &str) -> Option<(Permission, Evaluation)> {
    of_mcp_server(tools, server, name).map(|policy| evaluate(policy, false))
}

fn evaluate(policy: PermissionPolicy, is_harmless: bool) -> (Permission, Evaluation) {
    match policy {
        PermissionPolicy::AlwaysAllow => (Permission::Allow, Evaluation::AlwaysAllow),
        PermissionPolicy::AlwaysAsk => (Permission::Ask, Evaluation::AlwaysAsk),
        PermissionPolicy::Auto if is_harmless => {
            (Permission::Allow, Evaluation::Auto { evaluated_permission: AutoPermission::Allow })
        }
        PermissionPolicy::Auto => {
            let evaluated_permission = AutoPermission::Ask { reason_code: "indeterminate".to_owned() };
            (Permission::Ask, Evaluation::Auto { evaluated_permission })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_most_specific_policy_decides() {
        let tools: Vec<Tool> = serde_json::from_value(json!([
            {"type": "agent_toolset_20260401",
             "default_config": {"enabled": true, "permission_policy": {"type": "auto"}},
             "configs": [
                {"name": "bash", "type": "bash", "enabled": true, "permission_policy": {"type": "always_ask"}},
                {"name": "write", "type": "write", "enabled": true, "permission_policy": {"type": "always_allow"}},
                {"name": "grep", "type": "grep", "enabled": false, "permission_policy": {"type": "always_allow"}}]},
            {"type": "custom", "name": "weather", "description": "x", "input_schema": {"type": "object"}}
        ]))
        .unwrap();
        let permission = |name| match judge(&tools, name) {
            Verdict::BuiltIn(permission, _) => Some(permission),
            _ => None,
        };
        assert_eq!(permission("bash"), Some(Permission::Ask));
        assert_eq!(permission("write"), Some(Permission::Allow));
        assert_eq!(permission("read"), Some(Permission::Allow), "auto lets harmless tools run");
        assert_eq!(permission("edit"), Some(Permission::Ask), "auto asks about the others");
        assert_eq!(judge(&tools, "grep"), Verdict::Unknown, "a tool that is switched off is not there");
        assert_eq!(judge(&tools, "weather"), Verdict::Custom);
        assert_eq!(judge(&[], "bash"), Verdict::Unknown);
    }
    #[test]
    fn a_tool_of_an_mcp_server_asks_unless_its_toolset_says_otherwise() {
        let tools: Vec<Tool> = serde_json::from_value(json!([
            {"type": "mcp_toolset", "mcp_server_name": "a",
             "default_config": {"enabled": true, "permission_policy": {"type": "always_ask"}},
             "configs": [
                {"name": "look", "enabled": true, "permission_policy": {"type": "always_allow"}},
                {"name": "judged", "enabled": true, "permission_policy": {"type": "auto"}},
                {"name": "off", "enabled": false, "permission_policy": {"type": "always_allow"}}]},
            {"type": "mcp_toolset", "mcp_server_name": "b",
             "default_config": {"enabled": false, "permission_policy": {"type": "always_ask"}},
             "configs": [{"name": "look", "enabled": true, "permission_policy": {"type": "always_ask"}}]}
        ]))
        .unwrap();
        let rows = [
            ("a", "look", Some(Permission::Allow)),
            ("a", "judged", Some(Permission::Ask)),
            ("a", "off", None),
            ("a", "anything", Some(Permission::Ask)),
            ("b", "look", Some(Permission::Ask)),
            ("b", "anything", None),
            ("c", "look", None),
        ];
        for (server, name, expect) in rows {
            let judged = judge_mcp(&tools, server, name).map(|(permission, _)| permission);
            assert_eq!(judged, expect, "{name} of {server}");
        }
    }
}

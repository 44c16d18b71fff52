//! Whether a call of a tool runs, waits for a person or is refused. Pure.

use rota_api::{
    agent::{BuiltInTool, PermissionPolicy, Tool, built_in},
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
        Some(PermissionPolicy::AlwaysAllow) => Verdict::BuiltIn(Permission::Allow, Evaluation::AlwaysAllow),
        Some(PermissionPolicy::AlwaysAsk) => Verdict::BuiltIn(Permission::Ask, Evaluation::AlwaysAsk),
        Some(PermissionPolicy::Auto) if HARMLESS.contains(&tool) => {
            Verdict::BuiltIn(Permission::Allow, Evaluation::Auto { evaluated_permission: AutoPermission::Allow })
        }
        Some(PermissionPolicy::Auto) => {
            let evaluated_permission = AutoPermission::Ask { reason_code: "indeterminate".to_owned() };
            Verdict::BuiltIn(Permission::Ask, Evaluation::Auto { evaluated_permission })
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
}

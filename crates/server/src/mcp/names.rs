//! Pure: the names under which a model sees the tools of MCP servers.
//!
//! Recorded: `mcp__{server}__{tool}`. The APIs of models take names of 1 to 64 letters, digits, `_` and `-`, and no two tools of one
//! name; servers and their tools may be named otherwise. A name that would not do, or could be read in two ways, is made of what
//! is left of both names and ends in a digest of them. It depends on nothing else, so that a call keeps its name for as long as
//! its session is there.

use sha2::{Digest, Sha256};

use crate::{
    hex,
    limits::{MCP_NAME_CHARS, MCP_NAME_DIGITS},
};

/// What every such name begins with. No custom tool has a name that does.
pub(super) const PREFIX: &str = "mcp__";

/// The name of the tool `tool` of the MCP server `server`.
pub fn name_for_model(server: &str, tool: &str) -> String {
    let plain = format!("{PREFIX}{server}__{tool}");
    // Otherwise two servers could have tools of one name: `a` has `b__c`, and `a__b` has `c`.
    let is_clear = !server.contains("__") && !server.ends_with('_');
    if is_clear && plain.len() <= MCP_NAME_CHARS && plain.chars().all(is_allowed) {
        return plain;
    }
    let digest = Sha256::new().chain_update(server).chain_update([0]).chain_update(tool).finalize();
    let digest = &hex::digits(&digest)[..MCP_NAME_DIGITS];
    let mut name: String = plain.chars().map(|c| if is_allowed(c) { c } else { '_' }).collect();
    name.truncate(MCP_NAME_CHARS - MCP_NAME_DIGITS - 1);
    format!("{name}_{digest}")
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_as_recorded_where_a_model_takes_it() {
        for (server, tool, name) in [
            ("tracker", "search", "mcp__tracker__search"),
            ("my-tracker_2", "issues_list", "mcp__my-tracker_2__issues_list"),
            ("tracker", "a__b", "mcp__tracker__a__b"),
            ("_", "x", "mcp_____x_"),
        ] {
            assert!(
                name_for_model(server, tool).starts_with(name),
                "{server} {tool}: {}",
                name_for_model(server, tool)
            );
        }
        let longest = "x".repeat(MCP_NAME_CHARS - "mcp__a__".len());
        assert_eq!(name_for_model("a", &longest), format!("mcp__a__{longest}"));
        assert_ne!(name_for_model("a", &format!("{longest}y")), name_for_model("a", &format!("{longest}z")));
    }

    #[test]
    fn what_could_be_read_in_two_ways_has_two_names() {
        let pairs = [
            ("a", "b__c"),
            ("a__b", "c"),
            ("a_", "_c"),
            ("a", "__c"),
            ("a", "_c"),
            ("a_", "c"),
            ("München", "straße"),
            ("M_nchen", "stra_e"),
            ("a b", "c"),
            ("a_b", "c"),
            ("a.b", "c"),
        ];
        let names: BTreeSet<String> = pairs.iter().map(|(server, tool)| name_for_model(server, tool)).collect();
        assert_eq!(names.len(), pairs.len(), "{names:?}");
    }

    proptest! {
        #[test]
        fn every_name_is_one_that_models_take(server in ".{1,300}", tool in ".{0,300}") {
            let name = name_for_model(&server, &tool);
            prop_assert!(name.len() <= MCP_NAME_CHARS && name.starts_with(PREFIX) && name.chars().all(is_allowed), "{}", name);
            prop_assert_eq!(name_for_model(&server, &tool), name);
        }
    }
}

//! How the tools are described to a model.

/// One tool, as a model's API wants it described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolDefinition {
    /// The name that a tool use carries.
    pub name: &'static str,
    /// What it does, for the model.
    pub description: &'static str,
    /// The JSON schema of its input.
    pub input_schema: &'static str,
}

/// The tools that run inside the sandbox.
pub fn tool_definitions() -> Vec<ToolDefinition> {
    vec![
        ToolDefinition {
            name: "bash",
            description: "Run a command in a persistent bash shell. The working directory, variables, functions, options \
                          and background jobs stay between calls; the first starts in /workspace. Standard input is \
                          empty. A command may run for 120 seconds unless timeout_ms says otherwise (at most 600000); \
                          then its processes are ended and the shell starts anew, as it does after exit. Start long \
                          work in the background with its output in a file. Output above 100 KiB is cut in the middle. \
                          Set restart to true, without a command, for a fresh shell.",
            input_schema: r#"{"type":"object","properties":{"command":{"type":"string","description":"The command to run. Leave out only with restart."},"timeout_ms":{"type":"integer","description":"How long the command may run, in milliseconds."},"restart":{"type":"boolean","description":"End the shell and start a new one."}}}"#,
        },
        ToolDefinition {
            name: "read",
            description: "Read a text file. Each line is preceded by its number and a tab. Files above 256 KiB need \
                          view_range.",
            input_schema: r#"{"type":"object","properties":{"file_path":{"type":"string","description":"Absolute, or relative to /workspace."},"view_range":{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":2,"description":"[start_line, end_line], counted from 1, both included. An end_line of 0 or less means the end of the file."}},"required":["file_path"]}"#,
        },
        ToolDefinition {
            name: "write",
            description: "Write a whole file, replacing what was there. Missing folders are created.",
            input_schema: r#"{"type":"object","properties":{"file_path":{"type":"string","description":"Absolute, or relative to /workspace."},"content":{"type":"string","description":"The file's full content."}},"required":["file_path","content"]}"#,
        },
        ToolDefinition {
            name: "edit",
            description: "Replace text in a file. old_string must occur exactly once, unless replace_all is true.",
            input_schema: r#"{"type":"object","properties":{"file_path":{"type":"string","description":"Absolute, or relative to /workspace."},"old_string":{"type":"string","description":"The exact text to find."},"new_string":{"type":"string","description":"The text that takes its place."},"replace_all":{"type":"boolean","description":"Replace every occurrence."}},"required":["file_path","old_string","new_string"]}"#,
        },
        ToolDefinition {
            name: "glob",
            description: "List the files whose path fits a pattern such as **/*.py, newest first, at most 200.",
            input_schema: r#"{"type":"object","properties":{"pattern":{"type":"string","description":"The pattern, relative to path."},"path":{"type":"string","description":"The folder to search. Defaults to /workspace."}},"required":["pattern"]}"#,
        },
        ToolDefinition {
            name: "grep",
            description: "Search file contents for a regular expression. Folders named .git and node_modules, and binary \
                          files, are skipped.",
            input_schema: r#"{"type":"object","properties":{"pattern":{"type":"string","description":"The regular expression."},"path":{"type":"string","description":"The file or folder to search. Defaults to /workspace."},"glob":{"type":"string","description":"Search only files whose name fits this pattern, for example *.py."},"output_mode":{"type":"string","enum":["content","files_with_matches","count"],"description":"Matching lines (the default), only file paths, or the number of matching lines in each file."}},"required":["pattern"]}"#,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_json() {
        for tool in tool_definitions() {
            let schema: serde_json::Value = serde_json::from_str(tool.input_schema).unwrap();
            assert_eq!(schema["type"], "object", "{}", tool.name);
        }
    }
}

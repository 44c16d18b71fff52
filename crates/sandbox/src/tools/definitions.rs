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

/// The tools that run inside the sandbox. Their schemas are those that the hosted service was recorded to give a model,
/// closed; what the types of the SDKs have beside them (`restart` and `timeout_ms` of `bash`, `replace_all` of `edit`,
/// relative paths) is understood and not offered.
pub fn tool_definitions() -> Vec<ToolDefinition> {
    vec![
        ToolDefinition {
            name: "bash",
            description: "Run a command in a persistent bash shell. The working directory, variables, functions, options \
                          and background jobs stay between calls; the first starts in /workspace. Standard input is \
                          empty. A command may run for 120 seconds; then its processes are ended and the shell starts \
                          anew, as it does after exit. Start long work in the background with its output in a file. \
                          Output above 100 KiB is cut in the middle.",
            input_schema: r#"{"type":"object","properties":{"command":{"type":"string","description":"The command to run."}},"required":["command"],"additionalProperties":false}"#,
        },
        ToolDefinition {
            name: "read",
            description: "Read a text file. Each line is preceded by its number and a tab. Files above 256 KiB need \
                          view_range.",
            input_schema: r#"{"type":"object","properties":{"file_path":{"type":"string","pattern":"^\\/.*","description":"The file's absolute path."},"view_range":{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":2,"description":"[start_line, end_line], counted from 1, both included. An end_line of 0 or less means the end of the file."}},"required":["file_path"],"additionalProperties":false}"#,
        },
        ToolDefinition {
            name: "write",
            description: "Write a whole file, replacing what was there. Missing folders are created.",
            input_schema: r#"{"type":"object","properties":{"file_path":{"type":"string","pattern":"^\\/.*","description":"The file's absolute path."},"content":{"type":"string","description":"The file's full content."}},"required":["file_path","content"],"additionalProperties":false}"#,
        },
        ToolDefinition {
            name: "edit",
            description: "Replace text in a file. old_string must occur exactly once.",
            input_schema: r#"{"type":"object","properties":{"file_path":{"type":"string","pattern":"^\\/.*","description":"The file's absolute path."},"old_string":{"type":"string","minLength":1,"description":"The exact text to find."},"new_string":{"type":"string","description":"The text that takes its place."}},"required":["file_path","old_string","new_string"],"additionalProperties":false}"#,
        },
        ToolDefinition {
            name: "glob",
            description: "List the files whose path fits a pattern such as **/*.py, newest first, at most 100.",
            input_schema: r#"{"type":"object","properties":{"pattern":{"type":"string","description":"The pattern, relative to path."},"path":{"type":"string","description":"The folder to search. Defaults to /workspace."}},"required":["pattern"],"additionalProperties":false}"#,
        },
        ToolDefinition {
            name: "grep",
            description: "Search file contents for a regular expression, with the options of ripgrep. Folders named .git \
                          and node_modules, and binary files, are skipped. Without output_mode the answer is the paths of \
                          the files that have a match.",
            input_schema: r#"{"type":"object","properties":{"pattern":{"type":"string","description":"The regular expression."},"path":{"type":"string","description":"The file or folder to search. Defaults to /workspace."},"type":{"type":"string","description":"Search only files of this type, as ripgrep calls it: py, rust, js."},"glob":{"type":"string","description":"Search only files whose name fits this pattern, for example *.py."},"output_mode":{"type":"string","enum":["files_with_matches","content","count"],"description":"Only file paths (the default), matching lines, or the number of matching lines in each file."},"-n":{"type":"boolean","description":"Show line numbers, as is done unless this is false. Only with content."},"-A":{"type":"integer","minimum":0,"description":"Lines to show after each match. Only with content."},"-B":{"type":"integer","minimum":0,"description":"Lines to show before each match. Only with content."},"-C":{"type":"integer","minimum":0,"description":"Lines to show before and after each match. Only with content."},"context":{"type":"integer","minimum":0,"description":"The same as -C."},"-i":{"type":"boolean","description":"Capitals and small letters are the same."},"head_limit":{"type":"integer","minimum":0,"description":"Show at most this many lines of the answer; 0 means all."},"offset":{"type":"integer","minimum":0,"description":"Leave out this many lines of the answer first."},"multiline":{"type":"boolean","description":"Matches may go over several lines, and . stands for the end of a line too."}},"required":["pattern"],"additionalProperties":false}"#,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_are_those_that_the_hosted_service_was_recorded_to_give() {
        let expected: [(&str, &[&str], &[&str]); 6] = [
            ("bash", &["command"], &["command"]),
            ("read", &["file_path", "view_range"], &["file_path"]),
            ("write", &["file_path", "content"], &["file_path", "content"]),
            ("edit", &["file_path", "old_string", "new_string"], &["file_path", "old_string", "new_string"]),
            ("glob", &["pattern", "path"], &["pattern"]),
            (
                "grep",
                &[
                    "pattern",
                    "path",
                    "type",
                    "glob",
                    "output_mode",
                    "-n",
                    "-A",
                    "-B",
                    "-C",
                    "context",
                    "-i",
                    "head_limit",
                    "offset",
                    "multiline",
                ],
                &["pattern"],
            ),
        ];
        for (tool, (name, properties, required)) in tool_definitions().iter().zip(expected) {
            let schema: serde_json::Value = serde_json::from_str(tool.input_schema).unwrap();
            let found: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!((tool.name, &schema["type"]), (name, &serde_json::json!("object")));
            assert_eq!(found, properties, "{name}");
            assert_eq!(schema["required"], serde_json::json!(required), "{name}");
            assert_eq!(schema["additionalProperties"], false, "{name}");
        }
    }
}

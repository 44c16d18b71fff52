//! The built-in tools as a model uses them, and as an attacker would. The cases are listed in `fence.rs`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, unsafe_code)]

mod inside;

use inside::{Backend, bash, tool};
use serde_json::json;

#[tokio::test]
async fn the_shell_keeps_its_state_and_answers_with_what_was_printed() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let cases = [
        ("cd /tmp; x=5; f() { echo \"f $1\"; }; alias hi='echo hi'", "", false),
        ("f $x; pwd; hi", "f 5\n/tmp\nhi\n", false),
        ("echo out; echo err >&2; false", "out\nerr\n[exit status 1]", true),
        ("cat", "", false),
        ("echo 'open", "", true),
        ("yes | head -1", "y\n", false),
        ("printf %s 'no newline'", "no newline", false),
        ("exec 9>/tmp/lock; flock 9; echo locked", "locked\n", false),
        ("echo $0 $-", "", false),
    ];
    for (command, wanted, is_error) in cases {
        let output = bash(&sandbox, command).await;
        assert_eq!(output.is_error, is_error, "{command}: {}", output.content);
        assert!(wanted.is_empty() || output.content == wanted, "{command}: {:?}", output.content);
    }
    let exit = bash(&sandbox, "echo bye; exit 4").await;
    assert!(exit.is_error && exit.content.starts_with("bye\n[the shell exited with status 4"), "{}", exit.content);
    assert_eq!(bash(&sandbox, "echo ${x-unset}").await.content, "unset\n");
    let restarted = tool(&sandbox, "bash", json!({"restart": true})).await;
    assert!(!restarted.is_error && restarted.content.contains("restarted"));
    let background = bash(&sandbox, "(sleep 0.2; echo later) & echo now").await;
    assert_eq!(background.content, "now\n");
    let later = bash(&sandbox, "sleep 0.5; echo then").await;
    assert_eq!(later.content, "later\nthen\n");
    let long = format!("echo {} | wc -c", "x".repeat(200_000));
    assert_eq!(bash(&sandbox, &long).await.content, "200001\n");
}

#[tokio::test]
async fn a_tool_that_prints_nothing_says_so() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    for (command, wanted) in [
        ("true", "(no output)"),
        ("touch x", "(no output)"),
        ("cat x", "(no output)"),
        ("# nothing", "(no output)"),
        ("echo", "(nothing but white space)"),
        ("false", "[exit status 1]"),
    ] {
        assert_eq!(bash(&sandbox, command).await.content, wanted, "{command}");
    }
    bash(&sandbox, "echo >blank; printf 'a' >a").await;
    for (name, input) in [
        ("read", json!({"file_path": "x"})),
        ("read", json!({"file_path": "blank"})),
        ("write", json!({"file_path": "y", "content": ""})),
        ("edit", json!({"file_path": "a", "old_string": "a", "new_string": ""})),
        ("glob", json!({"pattern": ""})),
        ("grep", json!({"pattern": "nowhere"})),
    ] {
        let output = tool(&sandbox, name, input.clone()).await;
        assert!(!output.content.trim().is_empty() && !output.is_error, "{name} {input}: {output:?}");
    }
}

#[tokio::test]
async fn files_are_written_read_and_edited() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let wrote = tool(&sandbox, "write", json!({"file_path": "a/b/c.txt", "content": "one\ntwo\nthree\n"})).await;
    assert!(!wrote.is_error && wrote.content.contains("14 bytes"), "{}", wrote.content);
    let read = |input| tool(&sandbox, "read", input);
    assert_eq!(read(json!({"file_path": "/workspace/a/b/c.txt"})).await.content, "1\tone\n2\ttwo\n3\tthree\n");
    let part = read(json!({"file_path": "a/b/c.txt", "view_range": [2, 2]})).await;
    assert_eq!(part.content, "2\ttwo\n");
    let rest = read(json!({"file_path": "a/b/c.txt", "view_range": [2, -1]})).await;
    assert_eq!(rest.content, "2\ttwo\n3\tthree\n");
    let edit = |old: &str, new: &str, all: bool| {
        tool(
            &sandbox,
            "edit",
            json!({"file_path": "a/b/c.txt", "old_string": old, "new_string": new, "replace_all": all}),
        )
    };
    assert!(edit("four", "x", false).await.content.contains("was not found"));
    assert!(edit("o", "0", false).await.content.contains("occurs 2 times"));
    assert!(!edit("two", "2", false).await.is_error);
    assert!(!edit("e", "E", true).await.is_error);
    assert_eq!(bash(&sandbox, "cat a/b/c.txt").await.content, "onE\n2\nthrEE\n");
    bash(&sandbox, "head -c 300000 /dev/urandom > bin; yes 0123456789 | head -c 400000 > big; mkdir d; touch empty")
        .await;
    for (path, part) in [
        ("bin", "at most 262144"),
        ("big", "use view_range"),
        ("d", "is a directory"),
        ("absent", "no such file"),
        ("big/x", "not a directory"),
    ] {
        let answer = read(json!({"file_path": path})).await;
        assert!(answer.is_error && answer.content.to_lowercase().contains(part), "{path}: {}", answer.content);
    }
    assert!(read(json!({"file_path": "bin", "view_range": [1, 1]})).await.content.contains("not a text file"));
    assert_eq!(read(json!({"file_path": "big", "view_range": [30000, 30001]})).await.content.lines().count(), 2);
    assert_eq!(read(json!({"file_path": "empty"})).await.content, "(no output)");
    assert!(read(json!({"file_path": "a/b/c.txt", "view_range": [9, 12]})).await.content.contains("no line 9"));
}

#[tokio::test]
async fn files_are_found_by_name_and_by_content() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let make = "mkdir -p src/deep .git node_modules; echo 'fn main() {}' > src/main.rs; echo 'fn deep() {}' > src/deep/x.rs; \
                echo 'fn hidden' > .git/h.rs; echo note > n.txt; touch -d 2020-01-01 src/main.rs; \
                for i in $(seq 300); do echo > src/f$i.txt; done; printf 'fn long %3000s\\n' x > long.rs";
    bash(&sandbox, make).await;
    let glob = |input| tool(&sandbox, "glob", input);
    let found = glob(json!({"pattern": "src/**/*.rs"})).await.content;
    assert_eq!(found, "/workspace/src/deep/x.rs\n/workspace/src/main.rs\n", "newest first");
    assert_eq!(glob(json!({"pattern": "*.py"})).await.content, "No files found");
    let many = glob(json!({"pattern": "*.txt", "path": "src"})).await.content;
    assert!(many.lines().all(|path| path.strip_suffix(".txt").is_some()) && many.lines().count() == 100, "{many}");
    let grep = |input| tool(&sandbox, "grep", input);
    let names = grep(json!({"pattern": "fn (main|deep)"})).await.content;
    assert_eq!(names, "/workspace/src/deep/x.rs\n/workspace/src/main.rs\n");
    let lines = grep(json!({"pattern": "fn (main|deep)", "output_mode": "content"})).await.content;
    assert_eq!(lines, "/workspace/src/deep/x.rs:1:fn deep() {}\n/workspace/src/main.rs:1:fn main() {}\n");
    let names = grep(json!({"pattern": "fn", "output_mode": "files_with_matches", "glob": "m*.rs"})).await.content;
    assert_eq!(names, "/workspace/src/main.rs\n");
    let counts = grep(json!({"pattern": "fn", "output_mode": "count", "path": "src/main.rs"})).await.content;
    assert_eq!(counts, "/workspace/src/main.rs:1\n");
    let long = grep(json!({"pattern": "fn long", "output_mode": "content"})).await.content;
    assert!(long.len() < 2100 && long.contains("bytes cut]"), "{}", long.len());
    assert!(grep(json!({"pattern": "(", "path": "src"})).await.content.contains("invalid regular expression"));
    assert!(grep(json!({"pattern": "x", "path": "absent"})).await.content.contains("no such file"));
    bash(&sandbox, "yes 'match this line' | head -100000 > flood").await;
    let flood = grep(json!({"pattern": "match", "path": "flood", "output_mode": "content"})).await.content;
    assert!(flood.len() < 20_000 && flood.contains("bytes cut here"), "{}", flood.len());
    let file = named_file(&flood);
    assert_eq!(
        bash(&sandbox, &format!("tail -n 1 {file}; wc -l < {file}")).await.content,
        "/workspace/flood:100000:match this line\n100000\n"
    );
}

/// The file that an answer names as the one with all of the output.
fn named_file(answer: &str) -> &str {
    let from = answer.find("/var/tmp/tool-output/").unwrap();
    &answer[from..from + answer[from..].find(':').unwrap()]
}

#[tokio::test]
async fn a_long_output_is_in_a_file_that_the_answer_names() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let most = bash(&sandbox, "head -c 100000 /dev/zero | tr '\\0' x").await;
    assert_eq!(most.content, "x".repeat(100_000));
    let more = bash(&sandbox, "echo begin; head -c 100000 /dev/zero | tr '\\0' x; echo; echo end; false").await;
    assert!(more.is_error && more.content.starts_with("begin\nxxx"), "{}", &more.content[..100]);
    assert!(more.content.ends_with("xxx\nend\n[exit status 1]") && more.content.len() < 20_000);
    let file = named_file(&more.content);
    let ends = bash(&sandbox, &format!("head -n 1 {file}; tail -n 1 {file}; wc -c < {file}")).await;
    assert_eq!(ends.content, "begin\nend\n100011\n");
    let part = tool(&sandbox, "read", json!({"file_path": file, "view_range": [3, 3]})).await;
    assert_eq!(part.content, "3\tend\n");
}

#[tokio::test]
async fn file_tools_run_side_by_side() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    // Stops each process of a tool that it sees, until three are stopped at the same time: one may be a look at the disk. Where the
    // calls ran one after the other that would never be.
    let watch = "head -c 30000000 /dev/zero | tr '\\0' '\\n' > lines
        own=$(cat /proc/1/comm)
        (
            while [ ! -e together ]; do
                stopped=
                for place in /proc/[0-9]*; do
                    pid=${place#/proc/}
                    if [ $pid != 1 ] && read -r comm 2>/dev/null < $place/comm && [ \"$comm\" = \"$own\" ]; then
                        kill -STOP $pid 2>/dev/null && stopped=\"$stopped $pid\"
                    fi
                done
                if [ $(echo $stopped | wc -w) -ge 3 ]; then
                    touch together
                    kill -CONT $stopped
                fi
            done
        ) >/dev/null 2>&1 &";
    assert!(!bash(&sandbox, watch).await.is_error);
    let read = || tool(&sandbox, "read", json!({"file_path": "lines", "view_range": [29_999_999, 29_999_999]}));
    let answers = tokio::join!(read(), read(), read(), read(), read(), read(), read(), read());
    let answers = <[_; 8]>::from(answers);
    for answer in answers {
        assert_eq!(answer.content, "29999999\t\n");
    }
    assert_eq!(bash(&sandbox, "ls together").await.content, "together\n");
}

#[tokio::test]
async fn images_and_pdfs_are_read_as_they_are() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let make = "printf '\\211PNG\\r\\n\\032\\n' > a.png; printf '%%PDF-1.7' > b.txt; printf 'GIF' > c.gif; \
                cp a.png large.png; truncate -s 3750000 large.png; cp large.png larger.png; truncate -s 3750001 larger.png; \
                cp b.txt large.pdf; truncate -s 7340032 large.pdf";
    bash(&sandbox, make).await;
    let read = |path: &'static str| tool(&sandbox, "read", json!({"file_path": path}));
    let image = read("a.png").await;
    assert_eq!(image.media.unwrap().data, "iVBORw0KGgo=");
    assert!(!image.is_error && image.content.is_empty());
    let pdf = read("b.txt").await.media.unwrap();
    assert!(pdf.is_pdf() && pdf.media_type == "application/pdf", "its content says what it is");
    assert_eq!(read("c.gif").await.content, "1\tGIF\n");
    assert_eq!(read("large.png").await.media.unwrap().data.len(), 5_000_000);
    assert_eq!(read("large.pdf").await.media.unwrap().data.len(), 7_340_032_usize.div_ceil(3) * 4);
    let larger = read("larger.png").await;
    assert!(larger.is_error && larger.content.contains("larger than 3750000 bytes"), "{}", larger.content);
}

#[tokio::test]
async fn grep_has_the_options_of_ripgrep() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    bash(&sandbox, "printf 'one\\nTwo\\nthree\\ntwo\\nfive\\nsix\\nseven\\ntwo\\n' > a.py; echo two > b.rs").await;
    let cases = [
        (json!({"output_mode": "content", "-n": false}), "a.py:two\na.py:two\nb.rs:two\n"),
        (json!({"output_mode": "content", "type": "rust"}), "b.rs:1:two\n"),
        (
            json!({"output_mode": "content", "-B": 1, "path": "a.py"}),
            "a.py-3-three\na.py:4:two\n--\na.py-7-seven\na.py:8:two\n",
        ),
        (json!({"output_mode": "content", "-A": 1, "path": "a.py"}), "a.py:4:two\na.py-5-five\n--\na.py:8:two\n"),
        (json!({"output_mode": "content", "-C": 1, "-A": 0, "glob": "*.rs"}), "b.rs:1:two\n"),
        (json!({"output_mode": "content", "context": 1, "head_limit": 2}), "a.py-3-three\na.py:4:two\n"),
        (json!({"output_mode": "content", "-i": true, "head_limit": 2, "offset": 1}), "a.py:4:two\na.py:8:two\n"),
        (json!({"output_mode": "count", "-i": true}), "a.py:3\nb.rs:1\n"),
        (json!({"offset": 1}), "b.rs\n"),
        (json!({"head_limit": 1}), "a.py\n"),
        (json!({"-C": 3}), "a.py\nb.rs\n"),
        (
            json!({"pattern": "one.*?three", "multiline": true, "output_mode": "content"}),
            "a.py:1:one\na.py:2:Two\na.py:3:three\n",
        ),
        (json!({"pattern": "^t.*e$", "output_mode": "content"}), "a.py:3:three\n"),
        (json!({"pattern": "one.*three"}), "no matches"),
    ];
    for (options, expected) in cases {
        let mut input = json!({"pattern": "two"});
        input.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let found = tool(&sandbox, "grep", input).await.content.replace("/workspace/", "");
        assert_eq!(found, expected, "{options}");
    }
    let unknown = tool(&sandbox, "grep", json!({"pattern": "two", "type": "klingon"})).await;
    assert!(unknown.is_error && unknown.content.contains("klingon"), "{}", unknown.content);
}

#[tokio::test]
async fn line_numbers_in_messages_of_the_shell_are_the_command_s_own() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    bash(&sandbox, "true\ntrue\ntrue").await;
    let cases = [
        ("nosuch", "bash: line 1: nosuch: command not found\n[exit status 127]"),
        ("true\n\nnosuch", "bash: line 3: nosuch: command not found\n[exit status 127]"),
        ("f() {\n nosuch\n}\nf", "bash: line 2: nosuch: command not found\n[exit status 127]"),
        ("echo $LINENO\necho $LINENO", "1\n2\n"),
        (
            "true\nif then\nfi",
            "bash: eval: line 2: syntax error near unexpected token `then'\nbash: eval: line 2: `if then'\n[exit status 2]",
        ),
        ("shopt -s extglob\necho @(x|y)\nnosuch", "@(x|y)\nbash: line 3: nosuch: command not found\n[exit status 127]"),
        ("readonly LINENO", "(no output)"),
        ("echo @(x|y); echo still here", "@(x|y)\nstill here\n"),
    ];
    for (command, expected) in cases {
        assert_eq!(bash(&sandbox, command).await.content, expected, "{command}");
    }
}

#[tokio::test]
async fn no_tool_answers_without_bound() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    // Names of which each character is shown as several, in folders as deep as a path may be.
    let deep = "python3 -c '\nimport os\nfor i in range(15):\n os.mkdir(chr(1) * 250)\n os.chdir(chr(1) * 250)\n\
                for i in range(300): open(str(i), \"w\").write(\"needle\")'";
    assert!(!bash(&sandbox, deep).await.is_error);
    let listed = tool(&sandbox, "glob", json!({"pattern": "**/*[0-9]"})).await;
    assert!(!listed.is_error && listed.content.len() <= 110_000, "{}", listed.content.len());
    assert!(listed.content.ends_with(" more not shown]\n"), "{}", listed.content.len());
    for mode in ["content", "files_with_matches", "count"] {
        let found = tool(&sandbox, "grep", json!({"pattern": "needle", "output_mode": mode})).await;
        assert!(!found.is_error && found.content.len() <= 110_000, "{mode}: {}", found.content.len());
    }
    // The shortest lines there are, and many of them.
    bash(&sandbox, "head -c 100000000 /dev/zero | tr '\\0' '\\n' >lines; head -c 200000 lines >fewer").await;
    let all = tool(&sandbox, "read", json!({"file_path": "lines", "view_range": [1, -1]})).await;
    assert!(!all.is_error && all.content.len() <= 100_000, "{}", all.content.len());
    assert!(all.content.ends_with(", …]]\n") && all.content.contains("[cut here: go on with view_range ["));
    let some = tool(&sandbox, "read", json!({"file_path": "lines", "view_range": [99_000_000, 99_000_010]})).await;
    assert_eq!(some.content.lines().count(), 11);
    let swollen =
        json!({"file_path": "fewer", "old_string": "\n", "new_string": "x".repeat(1 << 20), "replace_all": true});
    let swollen = tool(&sandbox, "edit", swollen).await;
    assert!(swollen.is_error && swollen.content.contains("the most is 4194304"), "{}", swollen.content);
    assert_eq!(bash(&sandbox, "stat -c %s fewer").await.content, "200000\n");
}

#[tokio::test]
async fn no_path_leads_a_file_tool_to_the_host() {
    let backend = Backend::new();
    let secret = backend.folder.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let sandbox = backend.open().await;
    let host = secret.to_str().unwrap();
    let links = format!(
        "ln -s {host} direct; ln -s /proc/1/root{host} through_init; ln -s ../../../../../../..{host} up; \
         ln -s /etc dir; ln -s /proc/1/cwd cwd; ln -s loop loop"
    );
    bash(&sandbox, &links).await;
    let up = format!("../../../../../../../..{host}");
    for path in [host, up.as_str(), "direct", "through_init", "up", "/etc/shadow", "dir/shadow", "cwd/x", "loop"] {
        let read = tool(&sandbox, "read", json!({"file_path": path})).await;
        assert!(!read.content.contains("of the host"), "{path}: {}", read.content);
        let grep = tool(&sandbox, "grep", json!({"pattern": ".", "path": path, "output_mode": "content"})).await;
        assert!(!grep.content.contains("of the host"), "{path}: {}", grep.content);
        tool(&sandbox, "write", json!({"file_path": path, "content": "overwritten"})).await;
        tool(&sandbox, "edit", json!({"file_path": path, "old_string": "of the host", "new_string": "x"})).await;
    }
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host");
}

#[tokio::test]
async fn a_link_that_is_swapped_during_calls_never_leads_out() {
    let backend = Backend::new();
    let secret = backend.folder.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let sandbox = backend.open().await;
    let swap = format!(
        "python3 -c '\nimport os\nwhile True:\n for t in (\"real\", \"{0}\", \"/proc/1/root{0}\"):\n  os.symlink(t, \"new\")\n  \
         os.rename(\"new\", \"link\")' & echo inside > real",
        secret.display()
    );
    bash(&sandbox, &swap).await;
    for _ in 0..100 {
        let read = tool(&sandbox, "read", json!({"file_path": "link"})).await;
        assert!(!read.content.contains("of the host"), "{}", read.content);
        tool(&sandbox, "write", json!({"file_path": "link", "content": "inside"})).await;
    }
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host");
}

#[tokio::test]
async fn only_ordinary_files_are_opened() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    bash(&sandbox, "mkfifo fifo; ln -s /dev/zero zero; python3 -c 'import socket; socket.socket(1).bind(\"sock\")'")
        .await;
    for path in ["fifo", "zero", "/dev/zero", "/dev/tty", "/dev/stdin", "/proc/self/mem", "/proc/1/environ", "sock"] {
        for (name, input) in [
            ("read", json!({"file_path": path})),
            ("write", json!({"file_path": path, "content": "x"})),
            ("edit", json!({"file_path": path, "old_string": "a", "new_string": "b"})),
            ("grep", json!({"pattern": "a", "path": path})),
        ] {
            let answer = tool(&sandbox, name, input).await;
            assert!(answer.is_error, "{name} {path}: {}", answer.content);
        }
    }
}

#[tokio::test]
async fn what_is_not_text_becomes_text() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let noise = bash(&sandbox, r"printf '\377\000\033[31mred\033]0;title\007 \xc3'").await;
    let json = serde_json::to_string(&noise.content).unwrap();
    assert!(noise.content.contains('\u{fffd}') && noise.content.contains("\u{1b}[31mred"), "{json}");
    bash(&sandbox, "touch $'new\\nline' $'not\\xffutf8'; echo needle > $'new\\nline'; echo needle > $'not\\xffutf8'")
        .await;
    let listed = tool(&sandbox, "glob", json!({"pattern": "*"})).await;
    assert_eq!(listed.content.lines().count(), 2, "{:?}", listed.content);
    let found = tool(&sandbox, "grep", json!({"pattern": "needle"})).await;
    assert_eq!(found.content.lines().count(), 2, "{:?}", found.content);
}

#[tokio::test]
async fn the_folders_of_a_session_are_where_agents_expect_them() {
    let backend = Backend::new();
    let uploads = backend.embedded.session_dir("s").unwrap().join("uploads");
    let sandbox = backend.open().await;
    std::fs::write(uploads.join("given"), "by the server").unwrap();
    let seen =
        bash(&sandbox, "cat /mnt/session/uploads/given; echo; echo made > /mnt/session/outputs/result; pwd; id -un")
            .await;
    assert_eq!(seen.content, "by the server\n/workspace\nroot\n");
    let outputs = backend.embedded.session_dir("s").unwrap().join("outputs");
    assert_eq!(std::fs::read_to_string(outputs.join("result")).unwrap(), "made\n");
}

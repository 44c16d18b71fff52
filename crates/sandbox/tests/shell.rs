//! What commands do to their shell: it may reach later commands, as in a terminal, but never the way in which commands
//! arrive and results leave.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod inside;

use inside::{Backend, CommandLine, bash, bash_for, servers, tool};
use rota_sandbox::ToolCall;
use serde_json::json;

/// Three commands without a program, and what they answer in a shell that nothing was done to.
const ORDINARY: [(&str, &str); 3] = [
    ("echo one; echo two >&2", "one\ntwo\n"),
    ("[[ 1 = 2 ]]", "[exit status 1]"),
    ("echo run >>/workspace/runs; echo $(</workspace/runs)", "run\n"),
];

/// The beginning of what is said when a shell has ended.
const ENDED: &str = "[the shell ";

/// A command, and what it answers: all of it, or, before `…`, how it begins, or, after `…`, how it goes on.
type Trick = (&'static str, &'static str);

/// After these the ordinary commands answer as ever.
const HARMLESS: &[Trick] = &[
    // Ways out of a loop, and the like.
    ("continue", "…only meaningful in a `for', `while', or `until' loop\n"),
    ("break 2", "…only meaningful in a `for', `while', or `until' loop\n"),
    ("return 3", "…can only `return' from a function or sourced script\n[exit status 2]"),
    ("for i in 1 2; do continue 9; done; while :; do break 9; done", "(no output)"),
    ("shift 3; getopts a x; set -- a b c; shift", "(no output)"),
    // Names.
    (
        "eval() { echo no; }; builtin() { echo no; }; command() { echo no; }; source() { echo no; }; .() { echo no; }",
        "(no output)",
    ),
    (
        "printf() { echo no; }; mapfile() { echo no; }; read() { echo no; }; :() { echo no; }; [() { echo no; }",
        "(no output)",
    ),
    (
        "unset() { echo no; }; trap() { echo no; }; exit() { echo no; }; set() { echo no; }; exec() { echo no; }",
        "(no output)",
    ),
    (
        "cd() { echo no; }; test() { echo no; }; enable() { echo no; }; local() { echo no; }; return() { echo no; }",
        "(no output)",
    ),
    (
        "bash() { echo no; }; true() { echo no; }; shopt() { echo no; }; kill() { echo no; }; wait() { echo no; }",
        "(no output)",
    ),
    ("command_not_found_handle() { echo no; }", "(no output)"),
    ("alias eval=no printf=no read=no while=no done=no if=no case=no {=no }=no '!=no' time=no bash=no", "(no output)"),
    ("enable -n eval builtin command printf read mapfile trap unset set . source shopt exit", "(no output)"),
    ("readonly $(compgen -v | grep -vx _) 2>/dev/null; true", "(no output)"),
    ("readonly LINENO REPLY IFS PATH", "(no output)"),
    ("unset LINENO PATH IFS PWD OLDPWD HOME BASH_VERSION SHELLOPTS 2>/dev/null; hash -r", "(no output)"),
    ("declare -n x=IFS; x=' '; declare -i y=z; declare -u PATH", "(no output)"),
    // Variables that bash looks at.
    ("IFS=0123456789", "(no output)"),
    ("IFS='/>|-$?abcdef'", "(no output)"),
    ("PATH=/nowhere; hash -r", "(no output)"),
    (
        "export BASH_ENV=/workspace/x ENV=/workspace/x; PROMPT_COMMAND='echo no'; PS1=no PS2=no PS4=no PS0=no",
        "(no output)",
    ),
    (
        "POSIXLY_CORRECT=1; BASH_COMPAT=31; TMOUT=1; IGNOREEOF=1; FUNCNEST=1; EXECIGNORE='*'; GLOBIGNORE='*'",
        "(no output)",
    ),
    ("LC_ALL=C; LANG=xx; HISTFILE=/workspace/h; HISTCONTROL=ignoreboth; BASH_XTRACEFD=1; TIMEFORMAT=%R", "(no output)"),
    ("BASH_ARGV0=no", "(no output)"),
    // Options.
    ("set -u; set -f; set -C; set -a; set -k; set -h; set +B; set -P; set -b; set -p", "(no output)"),
    ("set -o posix", "(no output)"),
    ("set -T; set -E; set -m; set -o pipefail", "(no output)"),
    ("set -o history; set -H; history -c", "(no output)"),
    ("set -o vi; set -o ignoreeof", "(no output)"),
    ("shopt -s extdebug failglob nullglob lastpipe inherit_errexit extglob dotglob nocasematch", "(no output)"),
    ("shopt -s expand_aliases; shopt -u expand_aliases sourcepath", "(no output)"),
    ("shopt -s restricted_shell xpg_echo 2>/dev/null; true", "(no output)"),
    ("umask 777; ulimit -n 16; ulimit -c 0", "(no output)"),
    // Traps.
    ("trap 'echo bye' EXIT; trap 'echo ret' RETURN", "(no output)"),
    ("set -T; trap 'echo ret' RETURN", "(no output)"),
    ("trap '' TERM HUP INT QUIT PIPE CHLD USR1", "(no output)"),
    ("trap 'echo usr' USR1; kill -USR1 $$", "usr\n"),
    ("trap 'echo pipe >&2; exit 9' PIPE; trap 'true' CHLD", "(no output)"),
    ("trap 'false' DEBUG", "(no output)"),
    // Descriptors.
    ("exec 3>&- 4>&- 5<&-; exec 9>/dev/null", "(no output)"),
    ("i=2; while (( ++i < 256 )); do exec {i}>&-; done", "(no output)"),
    ("for ((i = 3; i < 256; i++)); do builtin eval \"exec $i>&-\"; done", "(no output)"),
    ("for ((i = 3; i < 256; i++)); do builtin eval \"exec $i</dev/null\"; done", "(no output)"),
    ("exec 100</dev/null 101>/dev/null 102</dev/null 255</dev/null 254<>/dev/null", "(no output)"),
    ("exec 0<&-", "(no output)"),
    ("exec 0</etc/passwd", "(no output)"),
    ("exec {fd}>/dev/null; coproc cat; exec 8>&${COPROC[1]}", "(no output)"),
    ("read x; cat; head -c 5; while read -r line; do echo $line; done", "(no output)"),
    ("stty -echo 2>/dev/null; stty raw 2>/dev/null; tty", "not a tty\n[exit status 1]"),
    ("(exec >&-; echo no 2>/dev/null); { echo no; } 2>&- >&-", "[exit status 1]"),
    // What is not complete, or not a command.
    ("echo 'open", "…unexpected EOF while looking for matching `''\n[exit status 2]"),
    ("echo \"open", "…unexpected EOF while looking for matching `\"'\n[exit status 2]"),
    ("echo $(open", "…unexpected EOF while looking for matching `)'\n[exit status 2]"),
    ("echo `open", "…unexpected EOF while looking for matching ``'\n[exit status 2]"),
    ("echo ${open", "…unexpected EOF while looking for matching `}'\n[exit status 2]"),
    ("cat <<END\nbody $((1 + 1))", "…wanted `END')\nbody 2\n"),
    ("cat <<'END'\nbody\n END", "…wanted `END')\nbody\n END\n"),
    ("if true; then echo no", "…unexpected end of file\n[exit status 2]"),
    ("f() {", "…unexpected end of file\n[exit status 2]"),
    ("echo no &&", "…unexpected end of file\n[exit status 2]"),
    ("echo )", "…unexpected token `)'\n"),
    ("done; echo no", "…unexpected token `done'\n"),
    ("}", "…unexpected token `}'\n"),
    ("echo first\necho )\necho no", "first\n…unexpected token `)'\n"),
    ("echo first; echo \\", "first\n\n"),
    ("echo first # it's", "first\n"),
    ("# it's", "(no output)"),
    ("\n\n  \n", "(no output)"),
    ("shopt -s extglob\ncd /\necho @(usr|nothing)", "usr\n"),
    ("echo !(x)", "…unexpected token `('\n"),
    ("alias begin='{ ' end='}'\nbegin echo from an alias; end", "from an alias\n"),
    ("echo -e 'a\\tb' $'c\\'d' \"e'f\"", "a\tb c'd e'f\n"),
    // What goes on behind the shell's back.
    ("sleep 100 & coproc sleep 100; disown -a", "(no output)"),
    ("(for fd in $(seq 3 255); do (echo 7 >&$fd; echo 7 <&$fd); done) >/dev/null 2>&1 &", "(no output)"),
    (
        "for i in $(seq 20); do (sleep 0.0$i; echo 7 >/dev/shell/7 ; kill -CHLD $$) & done 2>/dev/null; wait",
        "(no output)",
    ),
    ("cd /dev/shell; rm -rf -- * /dev/shell 2>/dev/null; chmod 0 /dev/shell; cd /", "(no output)"),
    ("mkdir -p /dev/shell/a/b; : >/dev/shell/bash; ln -s /etc/passwd /dev/shell/x; cd /", "(no output)"),
    ("touch /dev/shell/{1..100} 2>/dev/null; head -c 1M /dev/zero >/dev/shell/1 2>/dev/null; true", "(no output)"),
    ("kill -0 $$; kill -CONT $$; kill -WINCH $$", "(no output)"),
    ("suspend", "…suspend: cannot suspend: no job control\n[exit status 1]"),
    ("exec nosuchprogram || true", "…"),
];

/// What these do is seen in later commands, as in a terminal: what the ordinary ones answer then.
const SEEN: &[(&str, &str, [&str; 3])] = &[
    (
        "set -x",
        "(no output)",
        ["+ echo one\none\n+ echo two\ntwo\n", "+ [[ 1 = 2 ]]\n[exit status 1]", "+ echo run\n+ echo run\nrun\n"],
    ),
    (
        "set -v",
        "(no output)",
        [
            " echo one; echo two >&2\none\ntwo\n",
            " [[ 1 = 2 ]]\n[exit status 1]",
            " echo run >>/workspace/runs; echo $(</workspace/runs)\n< /workspace/runs\nrun\n",
        ],
    ),
    ("set -e", "(no output)", ["one\ntwo\n", ENDED, "run\n"]),
    (
        "trap 'echo \"($BASH_COMMAND)\"' DEBUG",
        "(no output)",
        [
            "(echo one)\none\n(echo two 1>&2)\ntwo\n",
            "([[ 1 = 2 ]])\n[exit status 1]",
            "(echo run >> /workspace/runs)\n…\nrun\n",
        ],
    ),
    ("trap 'echo err' ERR", "(no output)", ["one\ntwo\n", "err\n[exit status 1]", "run\n"]),
    ("exec >/workspace/out", "(no output)", ["two\n", "[exit status 1]", "(no output)"]),
    ("exec 2>/workspace/out", "(no output)", ["one\n", "[exit status 1]", "run\n"]),
    ("exec >&- 2>&-", "(no output)", ["[exit status 1]", "[exit status 1]", "[exit status 1]"]),
    (
        "exec 2>&1 >/dev/full",
        "(no output)",
        ["…No space left on device\ntwo\n", "[exit status 1]", "…No space left on device\n[exit status 1]"],
    ),
    (
        "echo() { command echo \"$@\"; command echo again >&2; }",
        "(no output)",
        ["one\nagain\ntwo\nagain\n", "[exit status 1]", "again\nrun\nagain\n"],
    ),
    ("enable -n echo", "(no output)", ["one\ntwo\n", "[exit status 1]", "run\n"]),
];

/// After these the shell has ended or is of no more use, and says so.
const ENDING: &[&str] = &[
    "exit 3",
    "exit",
    "exec ls /workspace",
    "exec true",
    "exec bash",
    "exec nosuchprogram",
    "kill $$",
    "kill -9 $$",
    "kill -ABRT $$",
    "set -e; false",
    "set -u; echo $nosuchvariable",
    "trap 'echo bye; exit 5' EXIT; exit 4",
    "trap 'exit 5' DEBUG; true",
    "trap 'kill -9 $$' DEBUG; true",
    "set -n",
    "set -n\necho no\nexit",
    "set -t",
    "set -r",
    "ulimit -n 3",
    "shopt -s extdebug; trap false DEBUG; true",
    "alias q=\"echo 'open\"\nq",
    "alias q='if true; then'\nq",
    "alias q='('\nq",
    "while :; do exit 6; done; echo no",
    "sh -c 'kill -9 $PPID'",
    "set -o posix; . /nosuchfile",
];

fn fits(found: &str, wanted: &str) -> bool {
    match wanted.split_once('…') {
        None if wanted == ENDED => found.contains(ENDED),
        None => found == wanted,
        Some((begins, goes_on)) => found.starts_with(begins) && found[begins.len()..].contains(goes_on),
    }
}

/// Plays a command and the ordinary ones in a session of their own, and finds what is wrong.
fn wrong(line: &CommandLine, session: &str, trick: &str, wanted: &str, ordinary: [&str; 3]) -> Option<String> {
    let counted = format!("echo run >>/workspace/tricks\n{trick}");
    let commands = [counted.as_str(), ORDINARY[0].0, ORDINARY[1].0, ORDINARY[2].0];
    let answers = line.answers(session, &commands);
    let wanted = [wanted, ordinary[0], ordinary[1], ordinary[2]];
    let fits = answers.len() == 4 && answers.iter().zip(wanted).all(|(found, wanted)| fits(found, wanted));
    let runs =
        |file: &str| std::fs::read_to_string(line.data().join("sessions").join(session).join("workspace").join(file));
    let once = ["tricks", "runs"].into_iter().all(|file| runs(file).is_ok_and(|runs| runs == "run\n"));
    (!fits || !once).then(|| format!("{trick:?}: found {answers:#?}, wanted {wanted:#?}, each once: {once}"))
}

const AS_EVER: [&str; 3] = [ORDINARY[0].1, ORDINARY[1].1, ORDINARY[2].1];

#[test]
fn what_a_command_does_to_its_shell_never_reaches_how_commands_arrive_and_results_leave() {
    for server in servers() {
        let line = CommandLine::new(server);
        let harmless = HARMLESS.iter().map(|(trick, answer)| (*trick, *answer, AS_EVER));
        let wrong: Vec<String> = harmless
            .chain(SEEN.iter().copied())
            .enumerate()
            .filter_map(|(number, (trick, answer, after))| {
                wrong(&line, &format!("trick{number}"), trick, answer, after)
            })
            .collect();
        assert!(wrong.is_empty(), "{server:?}: {}", wrong.join("\n"));
    }
}

#[test]
fn a_shell_that_a_command_ends_says_so_and_the_next_one_works() {
    for server in servers() {
        let line = CommandLine::new(server);
        let tricks = ENDING.iter().enumerate();
        let wrong: Vec<String> = tricks
            .filter_map(|(number, trick)| wrong(&line, &format!("ending{number}"), trick, ENDED, AS_EVER))
            .collect();
        assert!(wrong.is_empty(), "{server:?}: {}", wrong.join("\n"));
    }
}

#[tokio::test]
async fn after_any_tricks_a_command_is_run_once_or_the_shell_is_said_to_have_ended() {
    let all: Vec<&str> =
        HARMLESS.iter().map(|(trick, _)| *trick).chain(SEEN.iter().map(|(trick, ..)| *trick)).collect();
    let all = [&all[..], ENDING].concat();
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..25 {
        let mut played = Vec::new();
        for step in 0..5 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let trick = all[(state % all.len() as u64) as usize];
            played.push(trick);
            let mark = format!("{round}_{step}");
            // The line in front is run as it is, the lines behind may be an argument of eval.
            let command = format!("printf 'run\\n' >>/workspace/{mark}\n{trick}");
            for (file, command) in [(&mark, &command), (&format!("{mark}b"), &format!(">>/workspace/{mark}b"))] {
                let answer = bash_for(&sandbox, command, 20_000).await;
                assert!(!answer.content.contains("[timed out"), "{played:?}: {answer:?}");
                let runs = std::fs::read_to_string(backend.workspace().join(file));
                // Where `printf` is a function of the trick's, a trap of another trick's may add its line.
                let ran_once = runs.is_ok_and(|runs| runs.lines().filter(|line| *line != "ret").count() <= 1);
                assert!(ran_once || answer.content.contains(ENDED), "{played:?}, then {command:?}: {answer:?}");
            }
        }
        tool(&sandbox, "bash", json!({"restart": true})).await;
        let _ = std::fs::remove_file(backend.workspace().join("runs"));
        for (command, wanted) in ORDINARY {
            assert_eq!(bash(&sandbox, command).await.content, wanted, "{played:?}, restarted, then {command:?}");
        }
    }
}

#[tokio::test]
async fn what_one_call_leaves_in_its_shell_is_there_in_the_next() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let cases = [
        (
            "cd /tmp; umask 027; x=5; export y=6; a=(1 2 '3 4'); declare -A m=([k]=v); set -o pipefail; set -- p q",
            "(no output)",
        ),
        (
            "echo $PWD $(umask) $x ${a[2]} ${m[k]} $1$2; env | grep ^y=; false | true",
            "/tmp 0027 5 3 4 v pq\ny=6\n[exit status 1]",
        ),
        ("f() { return 7; }; alias hi='echo hi'; trap 'echo usr' USR1", "(no output)"),
        ("f; echo $?; hi; kill -USR1 $$", "7\nhi\nusr\n"),
        ("sleep 0.2 & sleep 100 & coproc cat; echo ${#COPROC[@]}", "2\n"),
        ("wait %1; echo $?; kill %2; wait %2 2>/dev/null; echo $?", "0\n143\n"),
        ("echo in >&${COPROC[1]}; read -r line <&${COPROC[0]}; echo $line; kill $COPROC_PID", "in\n"),
        ("exec 7>/tmp/file; echo to seven >&7", "(no output)"),
        ("echo again >&7; cat /tmp/file", "to seven\nagain\n"),
        (
            "echo out; echo err >&2; ls /nowhere; echo out again",
            "out\nerr\nls: cannot access '/nowhere': No such file or directory\nout again\n",
        ),
        ("exit 9", "[the shell exited with status 9"),
        ("echo $PWD ${x-unset}", "/workspace unset\n"),
    ];
    for (command, wanted) in cases {
        let answer = bash(&sandbox, command).await.content;
        assert!(answer == wanted || (wanted.starts_with('[') && answer.starts_with(wanted)), "{command}: {answer:?}");
    }
}

#[tokio::test]
async fn a_command_of_any_length_arrives_whole() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    // Around one page, which is what the shell's pipe holds, and the most that a command may be.
    for length in [4070, 4080, 4085, 4086, 4087, 4088, 4089, 4090, 4096, 4097, 8192, 100_000, (1 << 20) - 20] {
        for quotation in ["", "'"] {
            let text = "x".repeat(length);
            let command = format!("x={quotation}{text}{quotation}; echo ${{#x}}");
            assert_eq!(bash(&sandbox, &command).await.content, format!("{length}\n"));
        }
    }
    let lines: Vec<String> = (0..3000).map(|line| format!("echo {line} >>lines # it's line {line}")).collect();
    bash(&sandbox, &lines.join("\n")).await;
    assert_eq!(bash(&sandbox, "wc -l <lines; uniq -d lines").await.content, "3000\n");
}

#[tokio::test]
async fn a_restart_beside_commands_mixes_up_no_answers() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    let restart = ToolCall::Bash { command: None, timeout_ms: None, restart: true };
    for round in 0..40 {
        let (first, second) = (format!("echo first {round}"), format!("(echo second {round})"));
        let (first_answer, restarted, second_answer) = tokio::join!(
            bash(&sandbox, &first),
            async { sandbox.call("restart", &restart).await.unwrap() },
            bash(&sandbox, &second)
        );
        assert_eq!(restarted.content, "the shell was restarted");
        for (word, answer) in [("first", first_answer), ("second", second_answer)] {
            let wanted = [format!("{word} {round}\n"), "[ended: the shell was restarted]".to_owned()];
            assert!(wanted.contains(&answer.content), "{word} {round}: {answer:?}");
        }
    }
    assert_eq!(bash(&sandbox, "echo after").await.content, "after\n");
}

#[tokio::test]
async fn a_command_is_ended_whatever_it_did_to_its_shell() {
    let backend = Backend::new();
    let sandbox = backend.open().await;
    for trick in [
        "sleep 100",
        "while :; do :; done",
        "trap '' TERM INT HUP; while :; do :; done",
        "kill -STOP $$",
        "trap 'sleep 100' DEBUG; true",
        "trap '[[ $BASH_COMMAND != *dev/shell* ]] || sleep 100' DEBUG; true",
        "exec sleep 100",
        "read -r -u 255 line; read -r -u 255 line",
    ] {
        let ended = bash_for(&sandbox, trick, 300).await;
        assert!(ended.is_error && ended.shell_restarted, "{trick}: {ended:?}");
        assert_eq!(bash(&sandbox, "echo after").await.content, "after\n", "{trick}");
    }
}

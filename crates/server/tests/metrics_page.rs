//! Holds the table of metrics to what the code counts, and to it the page `docs/metrics.md`, the dashboard and the alerts. `make pages`
//! writes the page's lists.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rota_server::telemetry::table::{self, AREAS, Kind};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const BEGIN: &str = "<!-- metrics: `make pages` writes this from crates/server/src/telemetry/table.rs -->\n";
const END: &str = "<!-- end of metrics -->";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The metrics that the sources count (`metrics::counter!` and the like) or read when they are asked for (`.sample(`), with their kind
/// where that says it.
fn emitted() -> BTreeMap<String, BTreeSet<Option<&'static str>>> {
    const MARKS: [(&str, Option<&str>); 4] = [
        ("metrics::counter!(", Some("counter")),
        ("metrics::gauge!(", Some("gauge")),
        ("metrics::histogram!(", Some("histogram")),
        (".sample(", None),
    ];
    let mut found: BTreeMap<String, BTreeSet<Option<&str>>> = BTreeMap::new();
    for crate_ in ["api", "rota", "sandbox", "server"] {
        for file in sources(&Path::new(ROOT).join("crates").join(crate_).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            for (mark, kind) in MARKS {
                for (at, _) in text.match_indices(mark) {
                    let rest = text[at + mark.len()..].trim_start();
                    let name = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
                    let (name, _) = name.unwrap_or_else(|| panic!("{}: {mark} has no plain name", file.display()));
                    found.entry(name.to_owned()).or_default().insert(kind);
                }
            }
        }
    }
    found
}

#[test]
fn every_metric_that_the_code_counts_is_in_the_table_and_no_other() {
    let emitted = emitted();
    let names: BTreeSet<&str> = table::all().map(|metric| metric.name).collect();
    assert_eq!(names.len(), table::all().count(), "a name is in the table twice");
    let unknown: Vec<_> = emitted.keys().filter(|name| !names.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "not in telemetry/table.rs: {unknown:?}");
    for metric in table::all() {
        let kinds = emitted.get(metric.name).unwrap_or_else(|| panic!("nothing counts {}", metric.name));
        let kinds: Vec<_> = kinds.iter().copied().collect();
        assert!(kinds == [None] || kinds == [Some(metric.kind.name())], "{} is counted as {kinds:?}", metric.name);
    }
}

#[test]
fn metrics_are_named_as_prometheus_wants_it_and_say_what_they_are() {
    for metric in table::all() {
        let name = metric.name;
        assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let in_seconds = name.trim_end_matches("_total").ends_with("_seconds");
        let in_bytes = name.trim_end_matches("_total").ends_with("_bytes");
        assert_eq!(
            (metric.unit.as_str() == "seconds", metric.unit.as_str() == "bytes"),
            (in_seconds, in_bytes),
            "{name}"
        );
        assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '|']), "{name}");
        assert!(metric.labels.iter().all(|(_, values)| !values.contains('|') && !values.is_empty()), "{name}");
    }
}

fn list() -> String {
    let mut list = String::new();
    for area in AREAS {
        let about = if area.about.is_empty() { String::new() } else { format!("{}\n\n", area.about) };
        write!(list, "### {}\n\n{about}| name | | unit | labels | |\n|---|---|---|---|---|\n", area.title).unwrap();
        for metric in area.metrics {
            let labels = metric.labels.iter().map(|(label, values)| format!("`{label}`: {values}"));
            let labels = labels.collect::<Vec<_>>().join("; ");
            let unit = match metric.unit.as_str() {
                "count" => "",
                unit => unit,
            };
            writeln!(list, "| `{}` | {} | {unit} | {labels} | {} |", metric.name, metric.kind.name(), metric.help)
                .unwrap();
        }
        list.push('\n');
    }
    list
}

#[test]
fn the_page_lists_the_metrics_of_the_table() {
    let page = read("docs/metrics.md");
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    if env::var_os("ROTA_WRITE_PAGES").is_some() {
        fs::write(Path::new(ROOT).join("docs/metrics.md"), [before, BEGIN, &list(), END, after].concat()).unwrap();
    } else {
        assert!(shown == list(), "docs/metrics.md lists other metrics than the table: run `make pages`");
    }
}

/// The names of metrics in a text, without what Prometheus adds to those of histograms.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    // A prefix is no name.
    let words = words.filter(|word| !word.ends_with('_'));
    let ours = words.filter(|word| word.starts_with("rota_") || word.starts_with("process_"));
    let name = |word: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        histogram.unwrap_or(word).to_owned()
    };
    ours.map(name).collect()
}

#[test]
fn the_dashboard_and_the_alerts_name_metrics_of_the_table() {
    let names: BTreeSet<String> = table::all().map(|metric| metric.name.to_owned()).collect();
    for file in ["deploy/grafana-dashboard.json", "deploy/alerts.yml", "docs/metrics.md"] {
        let named = named(&read(file));
        let unknown: Vec<_> = named.difference(&names).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
        // The page has none while `make pages` writes it for the first time.
        assert!(named.len() > 8 || file.starts_with("docs/"), "{file} names {named:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 15 && panels.iter().all(|panel| panel["title"].is_string()));
}

#[test]
fn the_dashboard_is_what_its_script_prints() {
    let script = Path::new(ROOT).join("deploy/dashboard.py");
    let printed = Command::new("python3").arg(script).arg("--print").output();
    let printed = printed.expect("Python 3 is there, as for other tests: apt install python3");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    assert!(
        printed.stdout == read("deploy/grafana-dashboard.json").as_bytes(),
        "deploy/grafana-dashboard.json is another one: run `python3 deploy/dashboard.py`"
    );
}

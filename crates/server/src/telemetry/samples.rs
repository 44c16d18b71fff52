//! Values that are read when somebody asks for them, in the text format of Prometheus. Unlike what is counted they are this server's
//! own, also where several servers share a process, and what is not known is left out.

use std::fmt::Write;

use super::table;

/// A part of a scrape.
#[derive(Debug, Default)]
pub struct Samples {
    text: String,
    last: &'static str,
}

impl Samples {
    /// Adds a value of the metric `name` of the table. Those of one metric follow each other.
    pub fn sample(&mut self, name: &'static str, labels: &[(&str, &str)], value: f64) {
        if self.last != name {
            self.last = name;
            let metric = table::all().find(|metric| metric.name == name).expect("it is in the table");
            let (kind, help) = (metric.kind.name(), metric.help);
            let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        self.text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }
}

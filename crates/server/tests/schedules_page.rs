//! Holds the table of clock changes in docs/schedules.md to the code.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeSet, fs, iter};

use jiff::{SignedDuration, Timestamp};
use rota_server::scheduler::cron::Cron;

#[test]
fn clock_changes_do_what_the_page_says() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schedules.md")).unwrap();
    let (_, section) = page.split_once("## When the clocks change").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut zones = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [zone, _, expression, occurrences] = cells[..] else { panic!("{row}") };
        let said: Vec<Timestamp> = occurrences.split(", ").map(|at| at.parse().unwrap()).collect();
        let cron = Cron::parse(expression, zone).unwrap();
        let before = said[0] - SignedDuration::from_nanos(1);
        let found = iter::successors(cron.next(before), |at| cron.next(*at)).take(said.len());
        assert_eq!(found.collect::<Vec<_>>(), said, "{row}");
        let back = iter::successors(said.last().copied(), |at| cron.prev(*at)).take(said.len());
        assert!(back.eq(said.iter().rev().copied()), "{row}");
        zones.insert(zone.to_owned());
    }
    assert!(zones.len() >= 10, "{zones:?}");
}

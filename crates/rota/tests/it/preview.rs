//! Previews of schedules.

use reqwest::Url;
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid},
    given::Parts,
    server::Rota,
};

/// The path of a preview with `parameters`, each a name and a value.
fn path(parameters: &[(&str, &str)]) -> String {
    let url = Url::parse_with_params("http://server/rota/v1/schedules/preview", parameters).unwrap();
    url.as_str().strip_prefix("http://server").unwrap().to_owned()
}

async fn preview(api: &Api, expression: &str, timezone: &str, after: &str, count: &str) -> Value {
    let parameters = [("expression", expression), ("timezone", timezone), ("after", after), ("count", count)];
    api.get(&path(&parameters)).await
}

#[tokio::test]
async fn a_preview_tells_the_next_occurrences_and_what_the_clock_does_to_them() {
    let rota = Rota::without_engine().await;
    let spring = preview(&rota.api, "30 2 * * *", "America/New_York", "2026-03-07T00:00:00.000000Z", "2").await;
    let expected = json!({
        "type": "schedule_preview",
        "expression": "30 2 * * *",
        "timezone": "America/New_York",
        "occurrences": [
            {"at": "2026-03-07T07:30:00.000000Z", "local": "2026-03-07T02:30:00-05:00"},
            {"at": "2026-03-09T06:30:00.000000Z", "local": "2026-03-09T02:30:00-04:00"},
        ],
        "notes": [{
            "type": "skipped_local_time",
            "at": "2026-03-08T07:00:00.000000Z",
            "clock_before": "2026-03-08T02:00:00-05:00",
            "clock_after": "2026-03-08T03:00:00-04:00",
            "first_local": "2026-03-08T02:30:00",
            "last_local": "2026-03-08T02:30:00",
            "count": 1,
            "message": "the clock in America/New_York goes forward from 2026-03-08T02:00:00 to 2026-03-08T03:00:00: \
                        2026-03-08T02:30:00 does not exist, and does not fire",
        }],
    });
    assert_eq!(spring, expected);
    let autumn = preview(&rota.api, "*/30 1 * * *", "America/New_York", "2026-11-01T00:00:00.000000Z", "4").await;
    let local = ["01:00:00-04:00", "01:30:00-04:00", "01:00:00-05:00", "01:30:00-05:00"];
    let shown: Vec<_> =
        autumn["occurrences"].as_array().unwrap().iter().map(|o| o["local"].as_str().unwrap()).collect();
    assert_eq!(shown, local.map(|time| format!("2026-11-01T{time}")));
    assert_eq!(autumn["notes"][0]["type"], "repeated_local_time");
    let message = "the clock in America/New_York goes back from 2026-11-01T02:00:00 to 2026-11-01T01:00:00: the 2 times \
                   from 2026-11-01T01:00:00 to 2026-11-01T01:30:00 occur twice, and fire twice";
    assert_eq!(autumn["notes"][0]["message"], message);
}

#[tokio::test]
async fn a_preview_begins_now_and_lists_ten_unless_told_otherwise() {
    let rota = Rota::without_engine().await;
    let hourly = [("expression", "0 * * * *"), ("timezone", "UTC")];
    let now = rota.api.get(&path(&hourly)).await;
    let occurrences = now["occurrences"].as_array().unwrap();
    assert_eq!((occurrences.len(), &occurrences[0]["at"]), (10, &json!("2026-03-02T09:00:00.000000Z")));
    let most = rota.api.get(&path(&[hourly[0], hourly[1], ("count", "100")])).await;
    assert_eq!(most["occurrences"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn a_preview_refuses_what_a_deployment_would_refuse() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    for (expression, timezone) in [
        ("@daily", "UTC"),
        ("0 0 * * * *", "UTC"),
        ("0 0 * * FRI", "UTC"),
        ("0 0 31 2 *", "UTC"),
        ("0 0 * * *", "Mars/Phobos"),
    ] {
        let schedule = json!({"type": "cron", "expression": expression, "timezone": timezone});
        let body = parts.deployment_body(&json!({ "schedule": schedule }));
        let refused = rota.api.post_refused("/v1/deployments", body).await.message;
        let refused = invalid(refused.replacen("schedule.", "", 1));
        let parameters = [("expression", expression), ("timezone", timezone)];
        assert_eq!(rota.api.get_refused(&path(&parameters)).await, refused);
    }
    let hourly = [("expression", "0 * * * *"), ("timezone", "UTC")];
    for (parameters, message) in [
        (vec![hourly[0]], "timezone: Field required"),
        (vec![hourly[1]], "expression: Field required"),
        (vec![hourly[0], hourly[1], ("count", "0")], "count: value must be greater than or equal to 1"),
        (vec![hourly[0], hourly[1], ("count", "101")], "count: value must be less than or equal to 100"),
        (vec![hourly[0], hourly[1], ("after", "soon")], "after: Input should be a valid RFC 3339 time"),
        (vec![hourly[0], hourly[1], ("zone", "UTC")], "zone: Extra inputs are not permitted"),
    ] {
        assert_eq!(rota.api.get_refused(&path(&parameters)).await, invalid(message));
    }
}

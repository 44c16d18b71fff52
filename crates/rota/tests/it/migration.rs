//! Moving a store from SQLite to PostgreSQL. It needs a server of the latter.

use rota_server::copy_to_postgres;
use serde_json::json;

use crate::{
    database::{Database, NEEDED},
    given::{Parts, id, message, script},
    server::Rota,
    stream::text,
};

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn a_store_that_was_moved_is_the_same_store() {
    let database = Database::create().expect(NEEDED);
    let rota = Rota::with(|config| config.database = None).await;
    let parts = Parts::new(&rota.api).await;
    let deployment = parts.deployment(
        &rota.api,
        json!({"schedule": {"type": "cron", "expression": "0 9 * * *",
        "timezone": "Europe/Berlin"}}),
    );
    let deployment = deployment.await;
    let run = rota.api.call(&format!("/v1/deployments/{}/run", id(&deployment))).await;
    let session = parts.session_with(&rota.api, script("echo kept > note")).await;
    rota.api.stream_from(id(&session), 0).await.turn().await;
    rota.api.stream_from(run["session_id"].as_str().unwrap(), 0).await.turn().await;
    let paths = [
        "/v1/agents".to_owned(),
        "/v1/environments".to_owned(),
        "/v1/deployments".to_owned(),
        "/v1/deployment_runs".to_owned(),
        format!("/v1/sessions/{}/events", id(&session)),
    ];
    let mut before = Vec::new();
    for path in &paths {
        before.push(rota.api.get(path).await["data"].clone());
    }

    let data = rota.server.app().config.data.clone();
    let in_use = copy_to_postgres(&data, &database.url()).await.unwrap_err().to_string();
    assert!(in_use.starts_with("another server is using"), "{in_use}");
    let url = database.url();
    let rota = rota.restart_after(
        async {
            let copied = copy_to_postgres(&data, &url).await.unwrap();
            let rows = |table: &str| copied.iter().find(|copied| copied.table == table).unwrap().rows;
            assert_eq!((rows("agents"), rows("deployment_runs"), rows("sessions")), (1, 1, 2));
            let note = std::fs::read_to_string(data.join("database")).unwrap();
            assert!(url.0.ends_with(note.trim().rsplit_once('/').unwrap().1), "{note}");
            let again = copy_to_postgres(&data, &url).await.unwrap_err().to_string();
            assert!(again.contains("already"), "{again}");
        },
        |config| config.database = Some(database.url()),
    );
    let rota = rota.await;
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(rota.api.get(path).await["data"], before, "{path}");
    }
    // What was said a moment ago would be told again.
    rota.advance_seconds(6);
    let mut stream = rota.api.stream(id(&session)).await;
    rota.api.events(id(&session), json!([script("cat note"), message("thanks")])).await;
    let result = stream.until("agent.tool_result").await;
    assert!(text(&result.last().unwrap().event).contains("kept"), "the files are where they were");
}

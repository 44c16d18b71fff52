//! Sums over runs.

use rota_server::{
    config::PriceConfig,
    limits::{MAX_RUN_SUMS, MAX_SUMMED_RUNS},
};
use serde_json::{Value, json};

use crate::{
    client::{Api, invalid},
    given::{Parts, agent, environment, id, over},
    schedules::{path, tamper},
    server::Rota,
    upstream::{Reply, Upstream},
};

const SUMS: &str = "/rota/v1/runs/sums";

async fn sums(api: &Api, query: &str) -> Vec<Value> {
    api.get(&format!("{SUMS}?{query}")).await["data"].as_array().unwrap().clone()
}

/// Runs a deployment by hand, and waits until its session rests.
async fn run(rota: &Rota, deployment: &Value) -> Value {
    let run = rota.api.call(&format!("{}/run", path(deployment))).await;
    if let Some(session) = run["session_id"].as_str() {
        rota.api.stream_from(session, 0).await.turn().await;
    }
    run
}

/// How a sum counts: all, done, failed, waiting, working, deleted.
fn counts(sum: &Value) -> [u64; 6] {
    ["total", "done", "failed", "waiting", "working", "deleted"].map(|name| sum["runs"][name].as_u64().unwrap())
}

#[tokio::test]
async fn runs_are_summed_by_what_is_asked_for() {
    let says = || Reply::Message(vec![json!({"type": "text", "text": "hi"})]);
    let refuses =
        Reply::Error(400, "", json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}));
    let upstream = Upstream::start([says(), refuses, says(), says(), says()]).await;
    let mut model = upstream.model();
    // 0.4 cents for a token of input, one cent and a millionth of one for a token of output.
    model.price = Some(PriceConfig {
        input: 4_000.0,
        output: 10_000.01,
        cache_read: None,
        cache_write_5m: None,
        cache_write_1h: None,
    });
    let rota = Rota::with(|config| config.models.push(model)).await;
    let api = &rota.api;
    let parts = Parts { agent: agent(api, json!({"model": "house"})).await, environment: environment(api, "e").await };
    let plain = Parts { agent: agent(api, json!({})).await, environment: environment(api, "f").await };
    let one = parts.deployment(api, json!({"name": "one"})).await;
    let two = parts.deployment(api, json!({"name": "two"})).await;
    let free = plain.deployment(api, json!({"name": "free"})).await;
    run(&rota, &one).await;
    run(&rota, &one).await;
    rota.set_time("2026-03-03T08:00:00Z");
    run(&rota, &one).await;
    run(&rota, &two).await;
    let deleted = run(&rota, &two).await;
    api.delete(&format!("/v1/sessions/{}", deleted["session_id"].as_str().unwrap())).await;
    run(&rota, &free).await;
    api.call(&format!("/v1/environments/{}/archive", id(&parts.environment))).await;
    run(&rota, &two).await;
    rota.advance_seconds(1);

    tamper(&rota, "UPDATE sessions SET stopped_at = created_at + 2500000".to_owned()).await;
    let of_one = 5 * 400_000 + 7 * 1_000_001;
    let all = sums(api, "").await;
    assert_eq!(all, sums(api, "by=workspace").await);
    assert_eq!((all.len(), counts(&all[0])), (1, [7, 4, 2, 0, 0, 1]));
    assert_eq!(all[0]["cost"], json!({"micro_cents": 3 * of_one, "currency": "USD"}));
    let nothing = ["day", "deployment_id", "deployment_name", "agent_id", "model"];
    assert!(nothing.iter().all(|name| all[0][name].is_null()), "{:?}", all[0]);

    let by_deployment = sums(api, "by=deployment").await;
    let told: Vec<_> =
        by_deployment.iter().map(|sum| (sum["deployment_name"].as_str().unwrap(), counts(sum))).collect();
    let expected = [("one", [3, 2, 1, 0, 0, 0]), ("two", [3, 1, 1, 0, 0, 1]), ("free", [1, 1, 0, 0, 0, 0])];
    assert_eq!(told, expected);
    assert_eq!(by_deployment[0]["deployment_id"], one["id"]);
    assert_eq!(by_deployment[2]["cost"], Value::Null);
    // Five tokens and seven of each answer; what was refused has used none.
    let tokens = over(
        json!({"input_tokens": 10, "output_tokens": 14}),
        &json!({"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}),
    );
    assert_eq!(by_deployment[0]["tokens"], tokens);
    let took = (&by_deployment[0]["duration_seconds"], &by_deployment[0]["longest_seconds"]);
    assert_eq!(took, (&json!(7.5), &json!(2.5)));

    let days = async |query: &str| -> Vec<(String, u64)> {
        let told = |sum: &Value| (sum["day"].as_str().unwrap().to_owned(), counts(sum)[0]);
        sums(api, query).await.iter().map(told).collect()
    };
    assert_eq!(days("by=day").await, [("2026-03-02".to_owned(), 2), ("2026-03-03".to_owned(), 5)]);
    assert_eq!(days("by=day&from=2026-03-03T00:00:00Z").await, [("2026-03-03".to_owned(), 5)]);
    assert_eq!(days("by=day&to=2026-03-03T00:00:00Z").await, [("2026-03-02".to_owned(), 2)]);
    let of_two = format!("by=day&by=deployment&deployment_id={}", id(&two));
    assert_eq!(days(&of_two).await, [("2026-03-03".to_owned(), 3)]);
    assert_eq!(days(&format!("by[]=day&agent_id={}", id(&plain.agent))).await, [("2026-03-03".to_owned(), 1)]);
    let by_model = sums(api, "by=model").await;
    let models: Vec<_> = by_model.iter().map(|sum| (sum["model"].as_str().unwrap(), counts(sum)[0])).collect();
    assert_eq!(models, [("house", 6), ("playbook", 1)]);
    let by_agent = sums(api, "by=agent").await;
    let agents: Vec<_> = by_agent.iter().map(|sum| (sum["agent_id"].clone(), counts(sum)[0])).collect();
    assert_eq!(agents, [(parts.agent["id"].clone(), 6), (plain.agent["id"].clone(), 1)]);
    assert_eq!(sums(&rota.other_workspace().await, "").await, [] as [Value; 0]);
}

#[tokio::test]
async fn runs_that_are_not_over_are_told_apart() {
    let rota = Rota::without_engine().await;
    let made = Parts::new(&rota.api).await.deployment(&rota.api, json!({})).await;
    for _ in 0..2 {
        rota.api.call(&format!("{}/run", path(&made))).await;
    }
    rota.advance_seconds(1);
    let told = sums(&rota.api, "").await;
    assert_eq!((counts(&told[0]), &told[0]["duration_seconds"]), ([2, 0, 0, 0, 2, 0], &json!(0.0)));
}

#[tokio::test]
async fn sums_are_of_a_bounded_time_and_number_of_runs() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    for (query, message) in [
        ("by=colour", "by: \"colour\" is not a valid value"),
        ("limit=1", "limit: Extra inputs are not permitted"),
        ("agent_id=depl_1", "agent_id: is no id of this kind"),
        ("from=2026-03-02T09:00:00Z&to=2026-03-02T09:00:00Z", "from: must be before to"),
        ("from=2026-01-01T00:00:00Z&to=2026-04-05T00:00:00Z", "from: must be no more than 93 days before to"),
    ] {
        assert_eq!(api.get_refused(&format!("{SUMS}?{query}")).await, invalid(message), "{query}");
    }
    let made = Parts::new(api).await.deployment(api, json!({})).await;
    let run = api.call(&format!("{}/run", path(&made))).await;
    rota.advance_seconds(1);
    // As many runs as there may be, of more deployments than there may be sums.
    let copies = |count: i64| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO deployment_runs (id, workspace_id, deployment_id, agent_id, agent_version, error, created_at)
             SELECT r.id || CAST(n.i AS TEXT), r.workspace_id, r.deployment_id || CAST(n.i % {} AS TEXT), r.agent_id,
                 r.agent_version, '{{}}', r.created_at FROM deployment_runs r CROSS JOIN n WHERE r.id = '{}'",
            MAX_RUN_SUMS + 1,
            id(&run)
        )
    };
    tamper(&rota, copies(MAX_SUMMED_RUNS - 1)).await;
    assert_eq!(counts(&sums(api, "").await[0])[0], MAX_SUMMED_RUNS as u64);
    let refused = api.get_refused(&format!("{SUMS}?by=deployment")).await;
    assert_eq!(
        refused,
        invalid(format!("by: there are more than {MAX_RUN_SUMS} sums; choose a shorter time, or sum by less"))
    );
    api.call(&format!("{}/run", path(&made))).await;
    rota.advance_seconds(1);
    let refused = api.get_refused(SUMS).await;
    let said = format!(
        "from: there are more than {MAX_SUMMED_RUNS} runs in this time; choose a shorter one, or a deployment_id"
    );
    assert_eq!(refused, invalid(said));
    assert_eq!(sums(api, &format!("deployment_id={}", id(&made))).await.len(), 1);
}

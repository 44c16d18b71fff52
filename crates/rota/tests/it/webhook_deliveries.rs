//! Deliveries: signatures, retries, endpoints that are slow, wrong or gone, replays, and servers that end midway.

use std::time::Duration;

use rota_api::Time;
use rota_server::config::{Config, Role};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::{Api, ENDPOINTS, invalid, not_found},
    given::{environment, id},
    receiver::{Receiver, Reply},
    server::{PATIENCE, Rota},
    webhook_events::endpoint,
};

const CREATED: Option<&[&str]> = Some(&["environment.created"]);

fn quiet(config: &mut Config) {
    config.engine.concurrency = 0;
}

fn path(endpoint: &Value) -> String {
    format!("{ENDPOINTS}/{}", id(endpoint))
}

/// The delivery `event` to an endpoint, once it is as `wanted` says.
async fn delivery(api: &Api, endpoint: &Value, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let path = format!("{}/deliveries/{event}", path(endpoint));
    let looking = async {
        loop {
            let delivery = api.get(&path).await;
            if wanted(&delivery) {
                return delivery;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("the delivery does not become so")
}

fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |delivery| delivery["state"] == state
}

/// Whether an attempt has ended and another will follow.
fn waits(delivery: &Value) -> bool {
    delivery["state"] == "pending" && delivery["next_attempt_at"].is_string()
}

/// An endpoint, once it is disabled.
async fn disabled(api: &Api, endpoint: &Value) -> Value {
    let path = path(endpoint);
    let looking = async {
        loop {
            let endpoint = api.get(&path).await;
            if endpoint["state"] == "disabled" {
                return endpoint;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("the endpoint is not disabled")
}

#[tokio::test]
async fn a_delivery_is_signed_with_the_secret_of_now_and_recorded() {
    let rota = Rota::receiving(quiet).await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let made = endpoint(api, &receiver, CREATED).await;
    let secret = made["signing_secret"].as_str().unwrap();
    let e = environment(api, "a").await;
    let first = receiver.next().await;
    assert!(first.is_signed_with(secret));
    assert_eq!(first.timestamp(), rota.clock.now().micros() / 1_000_000);
    assert_eq!(first.event["created_at"], e["created_at"]);
    let recorded = delivery(api, &made, &first.id, is("delivered")).await;
    let expected = json!({
        "id": first.id,
        "type": "webhook_delivery",
        "webhook_endpoint_id": made["id"],
        "state": "delivered",
        "attempts": 1,
        "last_attempt_at": recorded["last_attempt_at"],
        "next_attempt_at": null,
        "response_status": 200,
        "response_excerpt": null,
        "error": null,
        "event": first.event,
        "created_at": first.event["created_at"],
    });
    assert_eq!(recorded, expected);
    let new = api.call(&format!("{}/regenerate_signing_secret", path(&made))).await;
    environment(api, "b").await;
    let second = receiver.next().await;
    assert!(second.is_signed_with(new["signing_secret"].as_str().unwrap()) && !second.is_signed_with(secret));
}

#[tokio::test]
async fn what_fails_is_sent_again_under_the_same_id_until_the_receiver_is_back() {
    let rota = Rota::receiving(quiet).await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let made = endpoint(api, &receiver, CREATED).await;
    receiver.replies(Reply::Status(503, "under\u{0} repair"));
    environment(api, "a").await;
    let first = receiver.next().await;
    for attempt in 1..=3 {
        let failed = delivery(api, &made, &first.id, waits).await;
        assert_eq!(failed["attempts"], attempt);
        assert_eq!(failed["error"], "the endpoint answered 503 Service Unavailable");
        assert_eq!((&failed["response_status"], &failed["response_excerpt"]), (&json!(503), &json!("under  repair")));
        let at = |field: &str| failed[field].as_str().unwrap().parse::<Time>().unwrap();
        let pause = at("next_attempt_at").seconds_since(at("last_attempt_at"));
        let longest = f64::from(5 << attempt);
        assert!((longest / 2.0..=longest + 1.0).contains(&pause), "{pause} s after attempt {attempt}");
        if attempt == 3 {
            receiver.replies(Reply::Status(204, ""));
        }
        rota.advance_seconds(120);
        let again = receiver.next().await;
        assert_eq!((&again.id, &again.event), (&first.id, &first.event));
    }
    let done = delivery(api, &made, &first.id, is("delivered")).await;
    assert_eq!((&done["attempts"], &done["response_status"], &done["error"]), (&json!(4), &json!(204), &Value::Null));
}

#[tokio::test]
async fn a_delivery_that_failed_for_good_is_listed_and_can_be_replayed() {
    let rota = Rota::receiving(|config| {
        quiet(config);
        config.webhooks.attempts = 2;
    })
    .await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let made = endpoint(api, &receiver, CREATED).await;
    environment(api, "a").await;
    let fine = receiver.next().await;
    delivery(api, &made, &fine.id, is("delivered")).await;
    receiver.replies(Reply::Status(500, ""));
    environment(api, "b").await;
    let lost = receiver.next().await;
    delivery(api, &made, &lost.id, waits).await;
    rota.advance_seconds(10);
    assert_eq!(receiver.next().await.id, lost.id);
    let failed = delivery(api, &made, &lost.id, is("failed")).await;
    assert_eq!((&failed["attempts"], &failed["next_attempt_at"]), (&json!(2), &Value::Null));

    let list = format!("{}/deliveries", path(&made));
    let ids = async |query: &str| -> Vec<String> {
        api.all(&format!("{list}{query}"), 1).await.iter().map(|delivery| id(delivery).to_owned()).collect()
    };
    assert_eq!(ids("").await, [&*lost.id, &*fine.id]);
    assert_eq!(ids("?state=failed").await, [&*lost.id]);
    assert_eq!(ids("?state=delivered").await, [&*fine.id]);
    assert_eq!(ids("?state=pending").await, [""; 0]);
    let refused = api.get_refused(&format!("{list}?state=lost")).await;
    assert_eq!(refused, invalid("state: \"lost\" is not a valid value"));

    receiver.replies(Reply::Status(200, ""));
    for event in [&lost, &fine] {
        let replayed = api.call(&format!("{list}/{}/replay", event.id)).await;
        assert_eq!(replayed["state"], "pending");
        let again = receiver.next().await;
        assert_eq!((&again.id, &again.event), (&event.id, &event.event));
        delivery(api, &made, &event.id, is("delivered")).await;
    }
    let refused = api.call_refused(&format!("{list}/whe_none/replay")).await;
    assert_eq!(refused, not_found("Webhook delivery `whe_none` not found."));
}

#[tokio::test]
async fn a_replay_has_all_its_attempts_again() {
    let rota = Rota::receiving(|config| {
        quiet(config);
        config.webhooks.attempts = 1;
    })
    .await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let made = endpoint(api, &receiver, CREATED).await;
    receiver.replies(Reply::Status(500, ""));
    environment(api, "a").await;
    let lost = receiver.next().await;
    delivery(api, &made, &lost.id, is("failed")).await;
    let rota = rota.restart_with(|config| config.webhooks.attempts = 2).await;
    let api = &rota.api;
    api.call(&format!("{}/deliveries/{}/replay", path(&made), lost.id)).await;
    receiver.next().await;
    assert_eq!(delivery(api, &made, &lost.id, waits).await["attempts"], 2);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_disables_at_once_until_the_url_is_set() {
    let rota = Rota::receiving(quiet).await;
    let api = &rota.api;
    let (mut old, mut new) = (Receiver::start().await, Receiver::start().await);
    let made = endpoint(api, &old, CREATED).await;
    old.replies(Reply::Redirect(new.url.clone()));
    environment(api, "a").await;
    let moved = old.next().await;
    let endpoint = disabled(api, &made).await;
    let reason = "url: it answered 302 Found, and redirects are not followed; set the URL that it leads to";
    assert_eq!(endpoint["disabled_reason"], reason);
    let parked = delivery(api, &made, &moved.id, |delivery| delivery["error"] == reason).await;
    assert_eq!((&parked["state"], &parked["next_attempt_at"]), (&json!("pending"), &Value::Null));
    let replay = format!("{}/deliveries/{}/replay", path(&made), moved.id);
    let refused = format!(
        "Webhook endpoint `{}` is disabled: enable it first. What is pending is then sent by itself.",
        id(&made)
    );
    assert_eq!(api.call_refused(&replay).await, invalid(refused));
    environment(api, "while disabled").await;
    rota.advance_seconds(3600);

    let mended = api.post(&path(&made), json!({"url": new.url, "state": "enabled"})).await;
    assert_eq!((&mended["state"], &mended["disabled_reason"]), (&json!("enabled"), &json!("")));
    assert_eq!(new.next().await.id, moved.id);
    delivery(api, &made, &moved.id, is("delivered")).await;
    assert!(new.so_far().is_empty() && old.so_far().is_empty());
}

#[tokio::test]
async fn what_was_stopped_has_all_its_attempts_again() {
    let rota = Rota::receiving(|config| {
        quiet(config);
        config.webhooks.attempts = 2;
    })
    .await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let made = endpoint(api, &receiver, CREATED).await;
    receiver.replies(Reply::Status(500, ""));
    environment(api, "a").await;
    let stopped = receiver.next().await;
    delivery(api, &made, &stopped.id, waits).await;
    receiver.replies(Reply::Redirect("http://127.0.0.1:1/".to_owned()));
    rota.advance_seconds(10);
    receiver.next().await;
    disabled(api, &made).await;
    receiver.replies(Reply::Status(500, ""));
    api.post(&path(&made), json!({"state": "enabled"})).await;
    receiver.next().await;
    assert_eq!(delivery(api, &made, &stopped.id, waits).await["attempts"], 3);
}

#[tokio::test]
async fn a_name_of_a_private_address_disables_at_once() {
    let rota = Rota::without_engine().await;
    let api = &rota.api;
    let body = json!({"url": "https://localhost:1/", "enabled_events": ["environment.created"]});
    let made = api.post(ENDPOINTS, body).await;
    environment(api, "a").await;
    let reason = disabled(api, &made).await["disabled_reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("url: localhost resolves to "), "{reason}");
    assert!(reason.ends_with(", a private address, which this server does not send to"), "{reason}");
}

#[tokio::test]
async fn a_url_that_is_no_longer_allowed_is_not_called() {
    let rota = Rota::receiving(quiet).await;
    let mut receiver = Receiver::start().await;
    let made = endpoint(&rota.api, &receiver, CREATED).await;
    let rota = rota.restart_with(|config| config.webhooks.allow_private = false).await;
    environment(&rota.api, "a").await;
    assert_eq!(disabled(&rota.api, &made).await["disabled_reason"], "url: must be an absolute https URL");
    assert!(receiver.so_far().is_empty());
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_given_up_on() {
    let rota = Rota::receiving(|config| {
        quiet(config);
        config.webhooks.timeout_seconds = 1;
    })
    .await;
    let mut receiver = Receiver::start().await;
    let made = endpoint(&rota.api, &receiver, CREATED).await;
    receiver.replies(Reply::Silence);
    environment(&rota.api, "a").await;
    let late = receiver.next().await;
    let failed = delivery(&rota.api, &made, &late.id, waits).await;
    assert_eq!((&failed["error"], &failed["response_status"]), (&json!("no answer within 1 s"), &Value::Null));
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_holds_up_no_other() {
    let rota = Rota::receiving(|config| {
        quiet(config);
        config.webhooks.timeout_seconds = 60;
    })
    .await;
    let (mut slow, mut fast) = (Receiver::start().await, Receiver::start().await);
    slow.replies(Reply::Silence);
    endpoint(&rota.api, &slow, CREATED).await;
    endpoint(&rota.api, &fast, CREATED).await;
    // More than a server sends at the same time.
    for number in 0..80 {
        environment(&rota.api, &number.to_string()).await;
    }
    for _ in 0..80 {
        fast.next().await;
    }
    assert_eq!(slow.so_far().len(), 4);
}

#[tokio::test]
async fn a_delivery_that_a_server_leaves_under_way_is_sent_again() {
    let rota = Rota::receiving(|config| {
        quiet(config);
        config.webhooks.timeout_seconds = 60;
    })
    .await;
    let mut receiver = Receiver::start().await;
    let made = endpoint(&rota.api, &receiver, CREATED).await;
    receiver.replies(Reply::Silence);
    environment(&rota.api, "a").await;
    let cut = receiver.next().await;
    let rota = rota.restart().await;
    assert_eq!(receiver.next().await.id, cut.id, "a server that stops gives it back");
    // As if that server were gone: its claim runs out.
    receiver.replies(Reply::Status(200, ""));
    rota.advance_seconds(76);
    assert_eq!(receiver.next().await.id, cut.id);
    assert_eq!(delivery(&rota.api, &made, &cut.id, is("delivered")).await["attempts"], 3);
}

#[tokio::test]
async fn servers_on_one_store_share_deliveries_and_send_each_once() {
    let one = Rota::receiving(quiet).await;
    let Some(two) = one.beside(|_| {}).await else { return };
    let mut receiver = Receiver::start().await;
    let made = endpoint(&one.api, &receiver, CREATED).await;
    for number in 0..30 {
        environment(&one.api, &format!("one {number}")).await;
        environment(&two.api, &format!("two {number}")).await;
    }
    for _ in 0..60 {
        let event = receiver.next().await.id;
        assert_eq!(delivery(&one.api, &made, &event, is("delivered")).await["attempts"], 1);
    }
    assert!(receiver.so_far().is_empty());
}

#[tokio::test]
async fn an_endpoint_whose_deliveries_all_fail_for_an_hour_is_disabled() {
    let rota = Rota::receiving(|config| {
        quiet(config);
        config.webhooks.attempts = 1;
    })
    .await;
    let api = &rota.api;
    let mut receiver = Receiver::start().await;
    let made = endpoint(api, &receiver, CREATED).await;
    receiver.replies(Reply::Status(500, ""));
    let fail = async |receiver: &mut Receiver, name: String| {
        environment(api, &name).await;
        let lost = receiver.next().await;
        delivery(api, &made, &lost.id, is("failed")).await;
    };
    for number in 0..12 {
        fail(&mut receiver, format!("at once {number}")).await;
    }
    assert_eq!(api.get(&path(&made)).await["state"], "enabled", "many, but within a moment");
    rota.advance_seconds(3600);
    receiver.replies(Reply::Status(200, ""));
    environment(api, "one is accepted").await;
    let accepted = receiver.next().await;
    delivery(api, &made, &accepted.id, is("delivered")).await;
    receiver.replies(Reply::Status(500, ""));
    for number in 0..9 {
        rota.advance_seconds(1200);
        fail(&mut receiver, format!("slowly {number}")).await;
    }
    assert_eq!(api.get(&path(&made)).await["state"], "enabled", "long, but not many in a row");
    fail(&mut receiver, "the tenth".to_owned()).await;
    let reason = "Deliveries have failed for too long. The last: the endpoint answered 500 Internal Server Error";
    assert_eq!(disabled(api, &made).await["disabled_reason"], reason);
}

#[tokio::test]
async fn a_delivery_is_kept_for_30_days() {
    let rota = Rota::receiving(quiet).await;
    let mut receiver = Receiver::start().await;
    let made = endpoint(&rota.api, &receiver, CREATED).await;
    environment(&rota.api, "a").await;
    let old = receiver.next().await;
    delivery(&rota.api, &made, &old.id, is("delivered")).await;
    rota.advance_seconds(29 * 86_400);
    environment(&rota.api, "b").await;
    let young = receiver.next().await;
    delivery(&rota.api, &made, &young.id, is("delivered")).await;
    rota.advance_seconds(86_400);
    let rota = rota.restart().await;
    let list = format!("{}/deliveries", path(&made));
    let purged = async {
        while rota.api.all(&list, 10).await.len() > 1 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, purged).await.expect("nothing is removed");
    assert_eq!(id(&rota.api.all(&list, 10).await[0]), young.id);
}

#[tokio::test]
async fn only_a_server_of_the_role_sends() {
    let rota = Rota::receiving(|config| config.roles = [Role::Api].into_iter().collect()).await;
    let mut receiver = Receiver::start().await;
    let made = endpoint(&rota.api, &receiver, CREATED).await;
    environment(&rota.api, "a").await;
    let list = format!("{}/deliveries?state=pending", path(&made));
    let pending = rota.api.all(&list, 10).await;
    let rota = rota.restart_with(|config| config.roles = [Role::Webhooks].into_iter().collect()).await;
    let sent = receiver.next().await;
    assert_eq!((&*sent.id, pending.len()), (id(&pending[0]), 1));
    assert_eq!(pending[0]["attempts"], 0);
    drop(rota);
}

//! Deliveries: signatures, retries, endpoints that are slow, wrong or gone, replays, and servers that end midway.

use rota_api::Time;
use rota_server::{
    config::{Config, Role},
    limits::WEBHOOK_SENDS_PER_ENDPOINT,
};
use serde_json::{Value, json};

use crate::{
    client::{Api, ENDPOINTS, invalid, not_found},
    database::NEEDED,
    given::{environment, id},
    receiver::{Delivery, Receiver, Reply},
    server::Rota,
    webhook_events::endpoint,
};

/// A server that runs no sessions, and an endpoint that is told of each environment that is created.
struct Subscribed {
    rota: Rota,
    receiver: Receiver,
    /// The endpoint, as its creation was answered.
    endpoint: Value,
}

impl Subscribed {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A server that is configured by `configure`.
    async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let rota = Rota::receiving(|config| {
            config.engine.concurrency = 0;
            configure(config);
        })
        .await;
        let receiver = Receiver::start().await;
        let endpoint = endpoint(&rota.api, &receiver, CREATED).await;
        Self { rota, receiver, endpoint }
    }

    /// Restarts the server, configured anew by `configure`.
    async fn restart_with(self, configure: impl FnOnce(&mut Config)) -> Self {
        Self { rota: self.rota.restart_with(configure).await, ..self }
    }

    /// Creates an environment.
    async fn create(&self, name: &str) -> Value {
        environment(&self.rota.api, name).await
    }

    /// Creates an environment and waits for the first attempt to tell of it.
    async fn attempt(&mut self, name: &str) -> Delivery {
        self.create(name).await;
        self.receiver.next().await
    }

    fn path(&self) -> String {
        format!("{ENDPOINTS}/{}", id(&self.endpoint))
    }

    fn deliveries(&self) -> String {
        format!("{}/deliveries", self.path())
    }

    fn replay(&self, event: &str) -> String {
        format!("{}/{event}/replay", self.deliveries())
    }

    async fn update(&self, changes: Value) -> Value {
        self.rota.api.post(&self.path(), changes).await
    }

    async fn is_enabled(&self) -> bool {
        self.rota.api.get(&self.path()).await["state"] == "enabled"
    }

    /// The delivery of an event, once it is as `wanted` says.
    async fn delivery(&self, event: &Delivery, wanted: impl Fn(&Value) -> bool) -> Value {
        self.rota.api.once(&format!("{}/{}", self.deliveries(), event.id), wanted).await
    }

    /// Why the endpoint is disabled, once it is.
    async fn disabled_reason(&self) -> String {
        disabled_reason(&self.rota.api, &self.endpoint).await
    }
}

const CREATED: Option<&[&str]> = Some(&["environment.created"]);

async fn disabled_reason(api: &Api, endpoint: &Value) -> String {
    let disabled = api.once(&format!("{ENDPOINTS}/{}", id(endpoint)), is("disabled")).await;
    disabled["disabled_reason"].as_str().unwrap().to_owned()
}

fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |found| found["state"] == state
}

/// Whether an attempt has ended and another will follow.
fn waits(delivery: &Value) -> bool {
    delivery["state"] == "pending" && delivery["next_attempt_at"].is_string()
}

#[tokio::test]
async fn a_delivery_is_signed_with_the_secret_of_now_and_recorded() {
    let mut told = Subscribed::start().await;
    let secret = told.endpoint["signing_secret"].as_str().unwrap().to_owned();
    let e = told.create("a").await;
    let first = told.receiver.next().await;
    assert!(first.is_signed_with(&secret));
    assert_eq!(first.timestamp(), told.rota.clock.now().micros() / 1_000_000);
    assert_eq!(first.event["created_at"], e["created_at"]);
    let recorded = told.delivery(&first, is("delivered")).await;
    let expected = json!({
        "id": first.id,
        "type": "webhook_delivery",
        "webhook_endpoint_id": told.endpoint["id"],
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
    let new = told.rota.api.call(&format!("{}/regenerate_signing_secret", told.path())).await;
    let second = told.attempt("b").await;
    assert!(second.is_signed_with(new["signing_secret"].as_str().unwrap()) && !second.is_signed_with(&secret));
}

#[tokio::test]
async fn what_fails_is_sent_again_under_the_same_id_until_the_receiver_is_back() {
    let mut told = Subscribed::start().await;
    told.receiver.replies(Reply::Status(503, "under\u{0} repair"));
    let first = told.attempt("a").await;
    for attempt in 1..=3 {
        let failed = told.delivery(&first, waits).await;
        assert_eq!(failed["attempts"], attempt);
        assert_eq!(failed["error"], "the endpoint answered 503 Service Unavailable");
        assert_eq!((&failed["response_status"], &failed["response_excerpt"]), (&json!(503), &json!("under  repair")));
        let at = |field: &str| failed[field].as_str().unwrap().parse::<Time>().unwrap();
        let pause = at("next_attempt_at").seconds_since(at("last_attempt_at"));
        let longest = f64::from(5 << attempt);
        assert!((longest / 2.0..=longest + 1.0).contains(&pause), "{pause} s after attempt {attempt}");
        if attempt == 3 {
            told.receiver.replies(Reply::Status(204, ""));
        }
        told.rota.advance_seconds(120);
        let again = told.receiver.next().await;
        assert_eq!((&again.id, &again.event), (&first.id, &first.event));
    }
    let done = told.delivery(&first, is("delivered")).await;
    assert_eq!((&done["attempts"], &done["response_status"], &done["error"]), (&json!(4), &json!(204), &Value::Null));
}

#[tokio::test]
async fn a_delivery_that_failed_for_good_is_listed_and_can_be_replayed() {
    let mut told = Subscribed::with(|config| config.webhooks.attempts = 2).await;
    let fine = told.attempt("a").await;
    told.delivery(&fine, is("delivered")).await;
    told.receiver.replies(Reply::Status(500, ""));
    let lost = told.attempt("b").await;
    told.delivery(&lost, waits).await;
    told.rota.advance_seconds(10);
    assert_eq!(told.receiver.next().await.id, lost.id);
    let failed = told.delivery(&lost, is("failed")).await;
    assert_eq!((&failed["attempts"], &failed["next_attempt_at"]), (&json!(2), &Value::Null));

    let list = told.deliveries();
    let ids = async |query: &str| -> Vec<String> {
        told.rota.api.all(&format!("{list}{query}"), 1).await.iter().map(|delivery| id(delivery).to_owned()).collect()
    };
    assert_eq!(ids("").await, [&*lost.id, &*fine.id]);
    assert_eq!(ids("?state=failed").await, [&*lost.id]);
    assert_eq!(ids("?state=delivered").await, [&*fine.id]);
    assert_eq!(ids("?state=pending").await, [""; 0]);
    let refused = told.rota.api.get_refused(&format!("{list}?state=lost")).await;
    assert_eq!(refused, invalid("state: \"lost\" is not a valid value"));

    told.receiver.replies(Reply::Status(200, ""));
    for event in [&lost, &fine] {
        let replayed = told.rota.api.call(&told.replay(&event.id)).await;
        assert_eq!(replayed["state"], "pending");
        let again = told.receiver.next().await;
        assert_eq!((&again.id, &again.event), (&event.id, &event.event));
        told.delivery(event, is("delivered")).await;
    }
    let refused = told.rota.api.call_refused(&told.replay("whe_none")).await;
    assert_eq!(refused, not_found("Webhook delivery `whe_none` not found."));
}

#[tokio::test]
async fn a_replay_has_all_its_attempts_again() {
    let mut told = Subscribed::with(|config| config.webhooks.attempts = 1).await;
    told.receiver.replies(Reply::Status(500, ""));
    let lost = told.attempt("a").await;
    told.delivery(&lost, is("failed")).await;
    let mut told = told.restart_with(|config| config.webhooks.attempts = 2).await;
    told.rota.api.call(&told.replay(&lost.id)).await;
    told.receiver.next().await;
    assert_eq!(told.delivery(&lost, waits).await["attempts"], 2);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_disables_at_once_until_the_url_is_set() {
    let mut told = Subscribed::start().await;
    let mut new = Receiver::start().await;
    told.receiver.replies(Reply::Redirect(new.url.clone()));
    let moved = told.attempt("a").await;
    let reason = "url: it answered 302 Found, and redirects are not followed; set the URL that it leads to";
    assert_eq!(told.disabled_reason().await, reason);
    let parked = told.delivery(&moved, |delivery| delivery["error"] == reason).await;
    assert_eq!((&parked["state"], &parked["next_attempt_at"]), (&json!("pending"), &Value::Null));
    let refused = format!(
        "Webhook endpoint `{}` is disabled: enable it first. What is pending is then sent by itself.",
        id(&told.endpoint)
    );
    assert_eq!(told.rota.api.call_refused(&told.replay(&moved.id)).await, invalid(refused));
    told.create("while disabled").await;
    told.rota.advance_seconds(3600);

    let mended = told.update(json!({"url": new.url, "state": "enabled"})).await;
    assert_eq!((&mended["state"], &mended["disabled_reason"]), (&json!("enabled"), &json!("")));
    assert_eq!(new.next().await.id, moved.id);
    told.delivery(&moved, is("delivered")).await;
    assert!(new.so_far().is_empty() && told.receiver.so_far().is_empty());
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_at_once() {
    let mut told = Subscribed::start().await;
    told.receiver.replies(Reply::Status(410, "moved away"));
    let gone = told.attempt("a").await;
    let reason = "url: it answered 410 Gone: nothing is to be sent there any more; set another URL";
    assert_eq!(told.disabled_reason().await, reason);
    let parked = told.delivery(&gone, |delivery| delivery["error"] == reason).await;
    assert_eq!((&parked["state"], &parked["next_attempt_at"]), (&json!("pending"), &Value::Null));
}

#[tokio::test]
async fn an_endpoint_that_says_when_to_come_again_is_left_alone_until_then() {
    for (asked, pause) in [(600, 600.0), (100_000, 3600.0)] {
        let mut told = Subscribed::start().await;
        told.receiver.replies(Reply::Later(503, asked));
        let first = told.attempt("a").await;
        let failed = told.delivery(&first, waits).await;
        let at = |field: &str| failed[field].as_str().unwrap().parse::<Time>().unwrap();
        let waits = at("next_attempt_at").seconds_since(at("last_attempt_at"));
        assert!((pause..pause + 60.0).contains(&waits), "{waits} s where {asked} were asked for");
    }
}

#[tokio::test]
async fn what_was_stopped_has_all_its_attempts_again() {
    let mut told = Subscribed::with(|config| config.webhooks.attempts = 2).await;
    told.receiver.replies(Reply::Status(500, ""));
    let stopped = told.attempt("a").await;
    told.delivery(&stopped, waits).await;
    told.receiver.replies(Reply::Redirect("http://127.0.0.1:1/".to_owned()));
    told.rota.advance_seconds(10);
    told.receiver.next().await;
    told.disabled_reason().await;
    told.receiver.replies(Reply::Status(500, ""));
    told.update(json!({"state": "enabled"})).await;
    told.receiver.next().await;
    assert_eq!(told.delivery(&stopped, waits).await["attempts"], 3);
}

#[tokio::test]
async fn an_attempt_from_before_an_endpoint_was_disabled_does_not_speak_for_what_is_sent_since() {
    let mut told = Subscribed::with(|config| {
        config.webhooks.timeout_seconds = 60;
        config.webhooks.attempts = 1;
    })
    .await;
    told.receiver.replies(Reply::Silence);
    // They have all the places of the endpoint.
    let mut under_way = Vec::new();
    for number in 0..WEBHOOK_SENDS_PER_ENDPOINT {
        under_way.push(told.attempt(&format!("slow {number}")).await);
    }
    told.update(json!({"state": "disabled"})).await;
    told.update(json!({"state": "enabled"})).await;
    // Nobody listens any more, so that all attempts end.
    told.receiver = Receiver::start().await;
    for event in &under_way {
        assert_eq!(told.delivery(event, is("failed")).await["attempts"], 2);
    }
}

#[tokio::test]
async fn a_name_of_a_private_address_disables_at_once() {
    let rota = Rota::without_engine().await;
    let body = json!({"url": "https://localhost:1/", "enabled_events": ["environment.created"]});
    let made = rota.api.post(ENDPOINTS, body).await;
    environment(&rota.api, "a").await;
    let reason = disabled_reason(&rota.api, &made).await;
    assert!(reason.starts_with("url: localhost resolves to "), "{reason}");
    assert!(reason.ends_with(", a private address, which this server does not send to"), "{reason}");
}

#[tokio::test]
async fn a_url_that_is_no_longer_allowed_is_not_called() {
    let told = Subscribed::start().await;
    let mut told = told.restart_with(|config| config.webhooks.allow_private = false).await;
    told.create("a").await;
    assert_eq!(told.disabled_reason().await, "url: must be an absolute https URL");
    assert!(told.receiver.so_far().is_empty());
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_given_up_on() {
    let mut told = Subscribed::with(|config| config.webhooks.timeout_seconds = 1).await;
    told.receiver.replies(Reply::Silence);
    let late = told.attempt("a").await;
    let failed = told.delivery(&late, waits).await;
    assert_eq!((&failed["error"], &failed["response_status"]), (&json!("no answer within 1 s"), &Value::Null));
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_holds_up_no_other() {
    let mut slow = Subscribed::with(|config| config.webhooks.timeout_seconds = 60).await;
    slow.receiver.replies(Reply::Silence);
    let mut fast = Receiver::start().await;
    endpoint(&slow.rota.api, &fast, CREATED).await;
    // More than a server sends at the same time.
    for number in 0..80 {
        slow.create(&number.to_string()).await;
    }
    for _ in 0..80 {
        fast.next().await;
    }
    assert_eq!(slow.receiver.so_far().len(), 4);
}

#[tokio::test]
async fn a_delivery_that_a_server_leaves_under_way_is_sent_again() {
    let mut told = Subscribed::with(|config| config.webhooks.timeout_seconds = 60).await;
    told.receiver.replies(Reply::Silence);
    let cut = told.attempt("a").await;
    let mut told = told.restart_with(|_| {}).await;
    assert_eq!(told.receiver.next().await.id, cut.id, "a server that stops gives it back");
    // As if that server were gone: its claim runs out.
    told.receiver.replies(Reply::Status(200, ""));
    told.rota.advance_seconds(76);
    assert_eq!(told.receiver.next().await.id, cut.id);
    assert_eq!(told.delivery(&cut, is("delivered")).await["attempts"], 3);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn servers_on_one_store_share_deliveries_and_send_each_once() {
    let mut told = Subscribed::start().await;
    let other = told.rota.beside(|_| {}).await.expect(NEEDED);
    for number in 0..30 {
        told.create(&format!("one {number}")).await;
        environment(&other.api, &format!("two {number}")).await;
    }
    for _ in 0..60 {
        let event = told.receiver.next().await;
        assert_eq!(told.delivery(&event, is("delivered")).await["attempts"], 1);
    }
    assert!(told.receiver.so_far().is_empty());
}

#[tokio::test]
async fn an_endpoint_whose_deliveries_all_fail_for_an_hour_is_disabled() {
    let mut told = Subscribed::with(|config| config.webhooks.attempts = 1).await;
    told.receiver.replies(Reply::Status(500, ""));
    let fail = async |told: &mut Subscribed, name: String| {
        let lost = told.attempt(&name).await;
        told.delivery(&lost, is("failed")).await;
    };
    for number in 0..12 {
        fail(&mut told, format!("at once {number}")).await;
    }
    assert!(told.is_enabled().await, "many, but within a moment");
    told.rota.advance_seconds(3600);
    told.receiver.replies(Reply::Status(200, ""));
    let accepted = told.attempt("one is accepted").await;
    told.delivery(&accepted, is("delivered")).await;
    told.receiver.replies(Reply::Status(500, ""));
    for number in 0..9 {
        told.rota.advance_seconds(1200);
        fail(&mut told, format!("slowly {number}")).await;
    }
    assert!(told.is_enabled().await, "long, but not many in a row");
    fail(&mut told, "the tenth".to_owned()).await;
    let reason = "Deliveries have failed for too long. The last: the endpoint answered 500 Internal Server Error";
    assert_eq!(told.disabled_reason().await, reason);
}

#[tokio::test]
async fn a_delivery_is_kept_for_30_days() {
    let mut told = Subscribed::start().await;
    let old = told.attempt("a").await;
    told.delivery(&old, is("delivered")).await;
    told.rota.advance_seconds(29 * 86_400);
    let young = told.attempt("b").await;
    told.delivery(&young, is("delivered")).await;
    told.rota.advance_seconds(86_400);
    let told = told.restart_with(|_| {}).await;
    let kept = told.rota.api.once(&told.deliveries(), |list| list["data"].as_array().unwrap().len() == 1).await;
    assert_eq!(id(&kept["data"][0]), young.id);
}

#[tokio::test]
async fn only_a_server_of_the_role_sends() {
    let told = Subscribed::with(|config| config.roles = [Role::Api].into_iter().collect()).await;
    told.create("a").await;
    let pending = told.rota.api.all(&format!("{}?state=pending", told.deliveries()), 10).await;
    let mut told = told.restart_with(|config| config.roles = [Role::Webhooks].into_iter().collect()).await;
    let sent = told.receiver.next().await;
    assert_eq!((&*sent.id, pending.len()), (id(&pending[0]), 1));
    assert_eq!(pending[0]["attempts"], 0);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/with-postgres"]
async fn an_endpoint_that_is_enabled_while_the_sender_looks_misses_nothing() {
    let mut subscribed = Subscribed::with(|config| config.roles = [Role::Api].into_iter().collect()).await;
    let database = subscribed.rota.database().expect(NEEDED);
    subscribed.create("told").await;
    // As an event is left that was written at the moment in which its endpoint was disabled.
    database.run("UPDATE webhook_endpoints SET state = 'disabled'");
    let url = database.url();
    let enabling = tokio::task::spawn_blocking(move || {
        // Held open until the sender, which has seen the endpoint disabled, waits for it.
        let enable = "BEGIN;
            UPDATE webhook_endpoints SET state = 'enabled';
            UPDATE webhook_deliveries SET due_at = created_at;
            DO $$ BEGIN
                WHILE NOT EXISTS (
                    SELECT 1 FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid)
                LOOP PERFORM pg_sleep(0.005); END LOOP;
            END $$;
            COMMIT;";
        crate::database::run(url.0, enable.to_owned());
    });
    // It holds the endpoint once it has come to the deliveries.
    database.run(
        "DO $$ BEGIN
            WHILE NOT EXISTS (SELECT 1 FROM pg_locks WHERE granted AND pid <> pg_backend_pid()
                AND mode = 'RowExclusiveLock' AND relation = 'webhook_deliveries'::regclass)
            LOOP PERFORM pg_sleep(0.005); END LOOP;
        END $$",
    );
    let sending = subscribed.rota.beside(|config| config.roles = [Role::Webhooks].into_iter().collect()).await;
    assert_eq!(subscribed.receiver.next().await.kind(), "environment.created");
    enabling.await.unwrap();
    drop(sending);
}

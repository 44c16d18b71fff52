//! What runs out for good: a log that is full.

use rota_server::{
    db::{Tx, Val},
    limits::MAX_SESSION_EVENTS,
};
use serde_json::json;

use crate::{
    client::invalid,
    given::{Parts, id, message},
    server::Rota,
};

#[tokio::test]
async fn a_message_for_which_the_log_has_no_room_is_refused_and_an_interrupt_is_not() {
    let rota = Rota::without_engine().await;
    let parts = Parts::new(&rota.api).await;
    // One at rest, and one that works and has two events waiting.
    for (first, events) in
        [(json!({}), MAX_SESSION_EVENTS - 2), (json!({"initial_events": [message("hi")]}), MAX_SESSION_EVENTS - 4)]
    {
        let session = parts.session(&rota.api, first.clone()).await;
        let works = first != json!({});
        if works {
            rota.api.events(id(&session), json!([message("waits")])).await;
        }
        let name = id(&session).to_owned();
        let fill = "UPDATE sessions SET next_seq = $2 WHERE id = $1";
        let fill = move |tx: &mut Tx<'_>| tx.execute(fill, &[Val::Text(&name), Val::Int(events + 1)]);
        rota.server.app().db.write(fill).await.unwrap();
        let path = format!("/v1/sessions/{}/events", id(&session));
        let refused = invalid(format!(
            "session {} has 49998 of at most 50000 events, and no room for more messages; create another one",
            id(&session)
        ));
        let two = json!({"events": [message("one"), message("too many")]});
        assert_eq!(rota.api.post_refused(&path, two).await, refused, "{works}");
        if works {
            rota.api.events(id(&session), json!([{"type": "user.interrupt"}, {"type": "user.interrupt"}])).await;
        } else {
            rota.api.events(id(&session), json!([message("the last one")])).await;
        }
    }
}

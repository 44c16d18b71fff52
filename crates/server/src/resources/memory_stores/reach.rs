//! Who reaches the memories of a store: a caller those of all stores of its workspace, a worker with the token of its work those
//! of the stores that its session has.

use rota_api::{id::SessionId, memory::Actor};

use super::store;
use crate::{
    db::{Tx, vals},
    error::{Error, Result},
    request::{CallerOrWorker, Worker, caller::Identity},
    resources::work_queue,
};

/// Whether a session can only read a store.
struct Attachment {
    session: SessionId,
    read_only: bool,
}

/// That a store can be read.
///
/// # Errors
/// For a worker: 404 when its session does not have the store; 403 when its work has ended, or it sends no token.
pub(super) fn check(tx: &mut Tx<'_>, caller: &CallerOrWorker, store: &str) -> Result<()> {
    caller.worker().map_or(Ok(()), |worker| attachment(tx, worker, store).map(drop))
}

/// As whom a request writes to a store.
///
/// # Errors
/// The same, and 403 where the session can only read the store.
pub(super) fn writer(tx: &mut Tx<'_>, caller: &CallerOrWorker, store: &str) -> Result<Actor> {
    let worker = match caller.identity() {
        Identity::Caller(key) => return Ok(Actor::Api { api_key_id: key.clone() }),
        Identity::Worker(worker) => worker,
    };
    let Attachment { session, read_only } = attachment(tx, worker, store)?;
    if read_only {
        return Err(Error::Forbidden(format!("session {session} has the memory store {store} to read, not to write")));
    }
    Ok(Actor::Session { session_id: session })
}

/// How the session that a worker works on has a store.
fn attachment(tx: &mut Tx<'_>, worker: &Worker, store: &str) -> Result<Attachment> {
    let token = worker.token.as_ref().ok_or_else(|| {
        let message = "the key of an environment reaches no memories: send the token in the secret of the work";
        Error::Forbidden(message.to_owned())
    })?;
    work_queue::check_goes_on(tx, token)?;
    let sql = "SELECT read_only FROM session_memory_stores WHERE session_id = $1 AND store_id = $2";
    let read_only =
        tx.one_or(sql, vals![&token.session, store], |row| Ok(row.int(0)? != 0), || store::not_found(store))?;
    Ok(Attachment { session: token.session.clone(), read_only })
}

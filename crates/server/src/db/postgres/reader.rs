//! Reads: each on a snapshot, on one connection of a pool.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    thread::sleep,
};

use super::{
    super::{Tx, dialect},
    connect::Connector,
    pause,
    session::Session,
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    limits,
};

/// The connections that only read; opened when they are needed.
pub(crate) struct Readers {
    connector: Connector,
    idle: Mutex<Vec<Session>>,
}

impl Readers {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, idle: Mutex::default() }
    }

    /// Runs `f` on a snapshot, and again when the connection is lost meanwhile.
    pub(crate) fn read<T>(&self, clock: &Clock, f: &impl Fn(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let mut tries = 1;
        loop {
            let read = self.session().map(|session| self.snapshot(session, clock, f));
            match read {
                Ok(Some(result)) => return result,
                Err(error) if tries == limits::DATABASE_TRIES => return Err(error),
                Ok(None) if tries == limits::DATABASE_TRIES => {
                    return Err(Error::Database("connections to the database are lost again and again".into()));
                }
                Ok(None) | Err(_) => {
                    sleep(pause(tries));
                    tries += 1;
                }
            }
        }
    }

    fn session(&self) -> Result<Session> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| Session::open(&self.connector), Ok)
    }

    /// `None` when the connection was lost.
    fn snapshot<T>(
        &self,
        mut session: Session,
        clock: &Clock,
        f: &impl Fn(&mut Tx<'_>) -> Result<T>,
    ) -> Option<Result<T>> {
        session.begin(dialect::BEGIN_READ);
        let result = catch_unwind(AssertUnwindSafe(|| f(&mut Tx::postgres(&mut session, clock))));
        session.roll_back();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if session.is_lost() {
            // Most likely the database was restarted, and the others are lost too.
            idle.clear();
            return None;
        }
        idle.push(session);
        Some(result.unwrap_or_else(|_| Err(Error::internal("a read panicked"))))
    }
}

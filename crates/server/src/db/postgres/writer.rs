//! Writes: a thread with a connection of its own takes several that wait into one transaction.
//!
//! They run one after the other and without savepoints, which each cost two round trips. When one of them fails after it
//! has written, or meets another transaction, everything is rolled back and each runs again in a transaction of its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::sleep,
};

use tokio::sync::{Mutex, mpsc};

use super::{
    super::{Notice, Tx, dialect, figures, job::Job, not_committed, writable::Failed},
    connect::Connector,
    hints::Hints,
    pause,
    session::{Fault, Session},
};
use crate::{
    clock::{Clock, Stopwatch},
    error::{Error, Result},
    limits,
};

type Group = Vec<Box<dyn Job>>;

/// Takes what waits and commits it.
pub(super) struct Writer {
    connector: Connector,
    clock: Clock,
    publish: Arc<dyn Fn(&Notice) + Send + Sync>,
    hints: Hints,
    failed: Failed,
    session: Option<Session>,
}

/// Why a transaction was not committed.
enum Stopped {
    /// A closure failed after it had written, or the database refused something: all of it is rolled back. The error is
    /// for what the closures do not know themselves.
    RolledBack(Option<Error>),
    /// Another transaction was in the way.
    Conflict(Error),
    /// The connection was lost before the commit, or could not be made.
    Lost(Error),
    /// The connection was lost during the commit: nobody knows whether it came through.
    Unknown(Error),
}

impl Writer {
    pub(super) fn new(
        connector: Connector,
        clock: Clock,
        publish: Arc<dyn Fn(&Notice) + Send + Sync>,
        hints: Hints,
        failed: Failed,
    ) -> Self {
        Self { connector, clock, publish, hints, failed, session: None }
    }

    /// Writes until nothing can come any more.
    pub(super) fn run(mut self, waiting: &Mutex<mpsc::Receiver<Box<dyn Job>>>) {
        while let Some(group) = next_group(waiting) {
            self.write(group);
        }
    }

    fn write(&mut self, mut group: Group) {
        let mut tries = 1;
        loop {
            let begun = Stopwatch::start();
            let stopped = match self.guarded(&mut group) {
                Ok(notices) => {
                    figures::committed(begun, group.len());
                    for notice in &notices {
                        (self.publish)(notice);
                    }
                    answer(group, || Ok(()));
                    return self.hints.send(notices);
                }
                Err(stopped) => stopped,
            };
            let again = tries < limits::DATABASE_TRIES;
            match stopped {
                Stopped::RolledBack(_) | Stopped::Conflict(_) if group.len() > 1 => {
                    return group.into_iter().for_each(|job| self.write(vec![job]));
                }
                Stopped::RolledBack(None) => return answer(group, || Ok(())),
                Stopped::Conflict(_) | Stopped::Lost(_) if again => {
                    sleep(pause(tries));
                    tries += 1;
                }
                Stopped::RolledBack(Some(error))
                | Stopped::Conflict(error)
                | Stopped::Lost(error)
                | Stopped::Unknown(error) => {
                    self.failed.note();
                    not_committed(&error, group.len());
                    return answer(group, || Err(error.of_group()));
                }
            }
        }
    }

    /// [`transaction`](Self::transaction), after a fault of which the thread goes on with another connection.
    fn guarded(&mut self, group: &mut Group) -> Result<Vec<Notice>, Stopped> {
        catch_unwind(AssertUnwindSafe(|| self.transaction(group))).unwrap_or_else(|_| {
            self.session = None;
            Err(Stopped::Unknown(Error::Database("a writer panicked".into())))
        })
    }

    /// Runs the jobs in one transaction. Returns what they say once it is durable.
    fn transaction(&mut self, group: &mut Group) -> Result<Vec<Notice>, Stopped> {
        let session = match &mut self.session {
            Some(session) if !session.is_lost() => session,
            gone => gone.insert(Session::open(&self.connector).map_err(Stopped::Lost)?),
        };
        session.begin(if group.len() > 1 { dialect::BEGIN_GROUP } else { dialect::BEGIN });
        let mut notices = Vec::new();
        for job in group {
            session.take_wrote();
            let mut tx = Tx::postgres(session, &self.clock);
            let succeeded = job.run(&mut tx);
            let mut said = tx.notices;
            match session.fault() {
                None if succeeded => notices.append(&mut said),
                None if !session.take_wrote() => {}
                fault => {
                    // It may be one that refuses every write; whoever wants to know looks.
                    if fault == Some(Fault::Refused) {
                        self.failed.note();
                    }
                    session.roll_back();
                    return Err(match fault {
                        Some(Fault::Lost) => Stopped::Lost(Error::Database("the connection was lost".into())),
                        Some(Fault::Conflict) => {
                            Stopped::Conflict(Error::Database("rows were held for too long".into()))
                        }
                        // A closure that goes on after a refusal does not know that nothing of it remains.
                        Some(Fault::Refused) if succeeded => Stopped::RolledBack(Some(Error::Database(
                            "a write went on after the database had refused a statement of it".into(),
                        ))),
                        Some(Fault::Refused) | None => Stopped::RolledBack(None),
                    });
                }
            }
        }
        if let Err((fault, error)) = session.commit() {
            session.roll_back();
            return Err(match fault {
                None => Stopped::Unknown(error),
                Some(Fault::Lost) => Stopped::Lost(error),
                Some(Fault::Conflict) => Stopped::Conflict(error),
                Some(Fault::Refused) => Stopped::RolledBack(Some(error)),
            });
        }
        Ok(notices)
    }
}

fn answer(group: Group, committed: impl Fn() -> Result<()>) {
    for job in group {
        job.answer(committed());
    }
}

/// What waits, as much as one commit takes. Of the writers that have nothing to do, one waits here and the others for it.
fn next_group(waiting: &Mutex<mpsc::Receiver<Box<dyn Job>>>) -> Option<Group> {
    let mut waiting = waiting.blocking_lock();
    let mut group = vec![waiting.blocking_recv()?];
    while group.len() < limits::POSTGRES_WRITE_BATCH
        && let Ok(job) = waiting.try_recv()
    {
        group.push(job);
    }
    Some(group)
}

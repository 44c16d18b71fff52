//! Who has a connection, and who makes room when there are no more places.
//!
//! Whoever has never sent a key goes first, and of those who has been silent longest; then connections that rest between
//! two requests. A connection on which a request with a key is being answered is never taken away. So silent strangers
//! cannot shut out those who speak, and no bound on an address is needed, which a proxy in front would reach first.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::limits::{FIRST_REQUEST_TIMEOUT, FREE_HEADER_BYTES, ROOM_RETRY, UNFINISHED_HEADER_BYTES};

/// The places of a listener.
pub(super) struct Places {
    most: usize,
    free: Arc<Semaphore>,
    /// Bytes that unfinished headers may still take.
    header_bytes: Semaphore,
    /// Counts up with whatever anybody says: who has the lowest number has been silent longest.
    turn: AtomicU64,
    guests: Mutex<HashMap<u64, Arc<Guest>>>,
}

/// A connection.
pub(super) struct Guest {
    places: Arc<Places>,
    number: u64,
    /// When it last said something, as [`Places::turn`] counts.
    spoke_at: AtomicU64,
    /// It has sent a whole request.
    has_spoken: AtomicBool,
    /// It has sent a key that counts.
    has_key: AtomicBool,
    /// A request is being answered.
    is_served: AtomicBool,
    /// Bytes of an answer may still have to be sent.
    is_owed_an_answer: AtomicBool,
    /// What it has sent of a request whose headers are not complete, in bytes.
    unfinished: AtomicU64,
    leave: CancellationToken,
}

/// The place of a connection, until this is dropped.
pub(super) struct Place {
    pub(super) guest: Arc<Guest>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            free: Arc::new(Semaphore::new(most)),
            header_bytes: Semaphore::new(UNFINISHED_HEADER_BYTES),
            turn: AtomicU64::new(0),
            guests: Mutex::default(),
        })
    }

    /// A place for one more connection, as soon as there is one.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        let permit = loop {
            let taken = match self.free.clone().try_acquire_owned() {
                Err(TryAcquireError::NoPermits) => {
                    self.make_room();
                    // Nobody may be there to go; but who is served now is not served for ever.
                    timeout(ROOM_RETRY, self.free.clone().acquire_owned()).await.ok().and_then(Result::ok)
                }
                taken => taken.ok(),
            };
            if let Some(permit) = taken {
                break permit;
            }
        };
        let number = self.next_turn();
        let guest = Arc::new(Guest {
            places: self.clone(),
            number,
            spoke_at: AtomicU64::new(number),
            has_spoken: AtomicBool::new(false),
            has_key: AtomicBool::new(false),
            is_served: AtomicBool::new(false),
            is_owed_an_answer: AtomicBool::new(false),
            unfinished: AtomicU64::new(0),
            leave: CancellationToken::new(),
        });
        self.guests().insert(number, guest.clone());
        Place { guest, _permit: permit }
    }

    /// Tells some of those who may go to leave: several at a time, so that looking for them costs little for each.
    pub(super) fn make_room(&self) {
        let guests = self.guests();
        let mut some: Vec<_> = guests.values().filter_map(|guest| Some((guest.rank()?, guest))).collect();
        some.sort_unstable_by_key(|(rank, _)| *rank);
        for (_, guest) in some.into_iter().take((self.most / 64).max(1)) {
            guest.leave.cancel();
        }
    }

    fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn guests(&self) -> MutexGuard<'_, HashMap<u64, Arc<Guest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Who goes first has the lowest rank; `None` stays.
    fn rank(&self) -> Option<(bool, Reverse<bool>, u64)> {
        let (has_key, is_served) = (self.has_key.load(Ordering::Relaxed), self.is_served());
        let stays = (has_key && is_served) || self.leave.is_cancelled();
        (!stays).then(|| (has_key, Reverse(!is_served), self.spoke_at.load(Ordering::Relaxed)))
    }

    /// A request has come; it is served until [`Guest::is_answered`].
    pub(super) fn speaks(&self) {
        self.is_served.store(true, Ordering::Relaxed);
        self.is_owed_an_answer.store(true, Ordering::Relaxed);
        self.has_spoken.store(true, Ordering::Relaxed);
        self.spoke_at.store(self.places.next_turn(), Ordering::Relaxed);
        self.finish_headers();
    }

    /// The answer is complete, up to its last byte, though not all of it need be sent.
    pub(super) fn is_answered(&self) {
        self.is_served.store(false, Ordering::Relaxed);
        self.spoke_at.store(self.places.next_turn(), Ordering::Relaxed);
    }

    /// Whether a request is being answered.
    pub(super) fn is_served(&self) -> bool {
        self.is_served.load(Ordering::Relaxed)
    }

    /// Everything there was to send is sent.
    pub(super) fn is_sent_everything(&self) {
        if !self.is_served() {
            self.is_owed_an_answer.store(false, Ordering::Relaxed);
        }
    }

    /// Whether what is sent now is a part of an answer to a request.
    pub(super) fn is_owed_an_answer(&self) -> bool {
        self.is_owed_an_answer.load(Ordering::Relaxed)
    }

    /// The request that is being answered has a key that counts.
    pub(super) fn shows_key(&self) {
        self.has_key.store(true, Ordering::Relaxed);
    }

    /// Whether any request had a key that counts.
    pub(super) fn has_key(&self) -> bool {
        self.has_key.load(Ordering::Relaxed)
    }

    /// So many more bytes of headers have come. Whether there is room for them.
    pub(super) fn takes_headers(&self, bytes: usize) -> bool {
        let before = self.unfinished.load(Ordering::Relaxed);
        let more = beyond_free(before + bytes as u64) - beyond_free(before);
        let Ok(permit) = self.places.header_bytes.try_acquire_many(u32::try_from(more).unwrap_or(u32::MAX)) else {
            return false;
        };
        permit.forget();
        self.unfinished.store(before + bytes as u64, Ordering::Relaxed);
        true
    }

    fn finish_headers(&self) {
        let held = beyond_free(self.unfinished.swap(0, Ordering::Relaxed));
        if held > 0 {
            self.places.header_bytes.add_permits(held as usize);
        }
    }

    /// Returns when the connection is to be closed: it makes room for others, or has never sent a whole request.
    pub(super) async fn must_leave(&self) -> &'static str {
        let says_nothing = async {
            sleep(FIRST_REQUEST_TIMEOUT).await;
            if self.has_spoken.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.leave.cancelled() => "it made room for another one",
            () = says_nothing => "its first request did not come",
        }
    }
}

fn beyond_free(bytes: u64) -> u64 {
    bytes.saturating_sub(FREE_HEADER_BYTES as u64)
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guest.finish_headers();
        self.guest.places.guests().remove(&self.guest.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(place: &Place) -> bool {
        place.guest.leave.is_cancelled()
    }

    #[tokio::test]
    async fn who_was_silent_longest_without_a_key_makes_room_first() {
        let places = Places::new(5);
        let [silent, fresh, asking, resting, served] = [(); 5].map(|()| places.take());
        let (silent, fresh, asking, resting, served) =
            (silent.await, fresh.await, asking.await, resting.await, served.await);
        silent.guest.speaks();
        silent.guest.is_answered();
        asking.guest.speaks();
        resting.guest.speaks();
        resting.guest.shows_key();
        resting.guest.is_answered();
        served.guest.speaks();
        served.guest.shows_key();
        for next in [&fresh, &silent, &asking, &resting] {
            assert!(!leaves(next));
            places.make_room();
            assert!(leaves(next));
        }
        places.make_room();
        assert!(!leaves(&served), "a request with a key is answered");
        drop(asking);
        places.take().await;
    }

    #[tokio::test]
    async fn unfinished_headers_are_bounded_together() {
        let places = Places::new(1000);
        let mut all = Vec::new();
        loop {
            let place = places.take().await;
            assert!(place.guest.takes_headers(FREE_HEADER_BYTES), "those everybody may have");
            let has_room = place.guest.takes_headers(28 * 1024);
            all.push(place);
            if !has_room {
                break;
            }
        }
        assert_eq!(all.len() - 1, UNFINISHED_HEADER_BYTES / (28 * 1024));
        let last = all.pop().unwrap();
        all[0].guest.speaks();
        assert!(last.guest.takes_headers(28 * 1024), "a request that is complete gives back");
        drop(all.pop());
        assert!(all[0].guest.takes_headers(32 * 1024), "a connection that ends gives back");
    }
}

//! The store for async code that runs on Tokio.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::clock::Deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventRef};
use crate::ids::Stream;
use crate::lanes::append::Appended;
use crate::store::Store;

/// A [`Store`] whose waits are awaited. Made of a store, which stays usable beside it; clones are cheap.
///
/// Whatever is in memory is given without a wait. Cold reads run on Tokio's threads for blocking work, so many at once
/// as was asked for.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// use esker::{Appended, AsyncStore, Config, Event, Store};
///
/// let store = AsyncStore::new(Store::open(Config::builder().memory("16MiB").build()?)?, 16);
/// let customer = store.store().stream("customer-42")?;
/// let stored = store.append(&Event::new(customer, 1, 0, 7).payload(b"attach")).await?;
/// assert_eq!(stored, Appended::Stored);
/// assert_eq!(store.fetch(1).await?.unwrap().payload(), b"attach");
/// # Ok::<(), esker::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct AsyncStore {
    store: Store,
    cold: Arc<Semaphore>,
}

impl AsyncStore {
    /// Of a store, with so many cold reads at once at most.
    pub fn new(store: Store, cold_reads: usize) -> Self {
        let permits = cold_reads.clamp(1, Semaphore::MAX_PERMITS);
        Self { store, cold: Arc::new(Semaphore::new(permits)) }
    }

    /// The store, for everything that never waits.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Appends an event. If there is no room, waits up to [`Config::append_timeout`](crate::Config::append_timeout)
    /// for some, without keeping a thread.
    ///
    /// # Errors
    /// As for [`Store::append`].
    pub async fn append(&self, event: &Event<'_>) -> Result<Appended> {
        let limit = self.store.config().append_timeout;
        let deadline = Deadline::after(limit);
        loop {
            match self.store.try_append(event) {
                Err(error) if error.kind() == ErrorKind::MemoryPressure && !deadline.has_passed() => {
                    tokio::time::sleep(deadline.left(error.retry_after().unwrap_or(limit))).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// The event of that id, from memory or from the cold tier.
    ///
    /// # Errors
    /// As for [`Store::fetch`].
    pub async fn fetch(&self, id: u64) -> Result<Option<EventRef<'static>>> {
        // No guard is held across a wait.
        if let Ok(Some(event)) = self.store.pin().try_get(id).map(|found| found.map(EventRef::into_owned)) {
            return Ok(Some(event));
        }
        self.cold(move |store| store.fetch(id)).await
    }

    /// A stream's newest events from all tiers, newest first, so many at most.
    ///
    /// # Errors
    /// The first that [`Store::fetch_history`] gives.
    pub async fn fetch_newest(&self, stream: Stream, most: usize) -> Result<Vec<EventRef<'static>>> {
        self.cold(move |store| store.fetch_history(stream).take(most).collect()).await
    }

    async fn cold<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let limit = self.store.config().fetch_timeout;
        let turn = tokio::time::timeout(limit, self.cold.clone().acquire_owned()).await;
        let turn = turn.map_err(|late| {
            Error::with_source(
                ErrorKind::Timeout,
                "other cold reads took all of the time; allow more at once",
                late,
            )
        })?;
        let store = self.store.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Given back when the read is over, not when somebody stops waiting for it.
            let _turn = turn;
            work(&store)
        });
        task.await
            .map_err(|source| Error::with_source(ErrorKind::Cold, "a cold read did not finish", source))?
    }
}

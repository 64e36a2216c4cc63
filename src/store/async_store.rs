//! The store for async code that runs on Tokio.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::Patience;
use crate::config::OnFull;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventRef};
use crate::ids::Stream;
use crate::lanes::append::{Appended, Checked};
use crate::log::logger::Log;
use crate::pressure::{Pressure, PressureReason};
use crate::store::Store;
use crate::store::admission::Decision;
use crate::store::screen::Screened;

/// How long a wait for room lasts at most before the store is asked again.
const ROOM_TURN: Duration = Duration::from_millis(50);
/// The same for a level of pressure.
const LEVEL_TURN: Duration = Duration::from_millis(100);

/// A [`Store`] whose waits are awaited. Made of a store, which stays usable beside it; clones are cheap.
///
/// Whatever is in memory is given without a wait. Cold reads run on Tokio's threads for blocking work, so many at once
/// as was asked for; so does making room, in a store without threads of its own.
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
    /// for some, without keeping a thread, or does what the event's class says.
    ///
    /// # Errors
    /// As for [`Store::append`].
    pub async fn append(&self, event: &Event<'_>) -> Result<Appended> {
        let core = &self.store.core;
        if !core.screen.is_active() {
            return self.append_unscreened(event).await;
        }
        core.check_open()?;
        match core.screen(event)? {
            Screened::Passed(event) => {
                let done = self.append_unscreened(&event).await?;
                if core.log.as_ref().is_some_and(Log::waits) {
                    let store = self.store.clone();
                    let wait = move || store.core.acknowledge(done);
                    return tokio::task::spawn_blocking(wait).await.map_err(|source| {
                        Error::with_source(
                            ErrorKind::NotDurable,
                            "waiting for the disk did not finish",
                            source,
                        )
                    })?;
                }
                Ok(done)
            }
            Screened::DeadLettered => Ok(Appended::DeadLettered),
        }
    }

    async fn append_unscreened(&self, event: &Event<'_>) -> Result<Appended> {
        let core = &self.store.core;
        let checked = core.lanes.check(0, event)?;
        let mut reason = match core.append_once(&checked)? {
            Ok(done) => return Ok(done),
            Err(reason) => reason,
        };
        let rejects = core.on_full(checked.class) == OnFull::Reject;
        let mut limit = if rejects { Duration::ZERO } else { core.config.append_timeout };
        let mut tries = 0;
        loop {
            match self.append_waiting(&checked, reason, core.lanes.clock.patience(limit)).await? {
                Ok(done) => return Ok(done),
                Err(short) => reason = short,
            }
            let pressure = core.back_pressure(reason, Some(checked.class));
            match core.decide(event, checked.class, &pressure, tries) {
                Decision::Refused(error) => return Err(error),
                Decision::Done(done) => return Ok(done),
                Decision::Retry(more) => (limit, tries) = (more, tries.saturating_add(1)),
            }
        }
    }

    /// Tries until there is room, or patience is over; once at least.
    async fn append_waiting(
        &self,
        checked: &Checked<'_, '_>,
        reason: PressureReason,
        mut patience: Patience,
    ) -> Result<Result<Appended, PressureReason>> {
        let core = &self.store.core;
        let _place = core.admission.line_up(reason);
        let mut waited = false;
        loop {
            // Listens before it looks, so that no ring between the two is missed.
            let mut rung = std::pin::pin!(core.room_async.notified());
            rung.as_mut().enable();
            match core.append_in_turn(checked)? {
                Err(reason) if !patience.is_over() => {
                    if !std::mem::replace(&mut waited, true) {
                        core.admission.count_wait(checked.class, reason);
                    }
                    if core.config.background {
                        core.mover_bell.ring();
                        // Readers that go make room without ringing.
                        let _ = tokio::time::timeout(patience.turn(ROOM_TURN), rung).await;
                    } else {
                        patience = self.make_room(patience).await?;
                    }
                }
                done => return Ok(done),
            }
        }
    }

    /// Waits until the pressure is at that level or below.
    ///
    /// ```no_run
    /// # async fn source(store: esker::AsyncStore) {
    /// // Do not ask for more events before there is room for them.
    /// store.wait_for(esker::Pressure::Warning).await;
    /// # }
    /// ```
    pub async fn wait_for(&self, level: Pressure) {
        let core = &self.store.core;
        loop {
            let mut rung = std::pin::pin!(core.room_async.notified());
            rung.as_mut().enable();
            if core.pressure() <= level || core.is_closed() {
                return;
            }
            let once = core.lanes.clock.patience(Duration::ZERO);
            if !core.config.background && self.make_room(once).await.is_err() {
                return;
            }
            let _ = tokio::time::timeout(LEVEL_TURN, rung).await;
        }
    }

    /// Does what the threads would do, where the store has none: on a thread for blocking work, since it may write to the
    /// cold tier.
    async fn make_room(&self, mut patience: Patience) -> Result<Patience> {
        let store = self.store.clone();
        let task =
            tokio::task::spawn_blocking(move || store.core.make_room(&mut patience).map(|()| patience));
        task.await.map_err(|source| {
            Error::with_source(ErrorKind::Cold, "making room for an event did not finish", source)
        })?
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

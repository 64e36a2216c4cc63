//! A process in which signals interrupt every call of the system.
#![expect(unsafe_code, reason = "setitimer")]
#![expect(clippy::disallowed_methods, reason = "a test that looks at real time")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use esker::{Config, DiskSync, Durability, ErrorKind, Event, Store, Stream};

const MINUTE: Duration = Duration::from_secs(60);
static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Interrupts whatever thread the system likes, some thousand times a second, until it is dropped. Calls are not begun anew
/// by the system.
struct Storm;

impl Storm {
    fn begin() -> Self {
        // SAFETY: the handler does what a handler may; the structures are what the calls ask for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
            assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
        }
        Self::every(150);
        Self
    }

    fn every(micros: libc::suseconds_t) {
        let time = libc::timeval { tv_sec: 0, tv_usec: micros };
        let timer = libc::itimerval { it_interval: time, it_value: time };
        // SAFETY: reads the structure.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }, 0);
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        Self::every(0);
    }
}

/// Opens, appends, spills, removes and closes, with a log that is synced for every batch, while every call is interrupted;
/// then again without signals, to see whether everything is there.
#[test]
fn calls_that_signals_interrupt_are_made_again() {
    let _alone = super::alone();
    let dir = tempfile::tempdir().unwrap();
    // Allocating a long range of a tmpfs is what takes longest, and begins anew each time.
    let shared = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = |sync| {
        let config = Config::builder().memory("256MiB").data_dir(dir.path().join("data"));
        let config = config.hot(|hot| hot.initial("128MiB"));
        config.durability(Durability::Disk(sync)).shared_dir(shared.path().join("pages")).build().unwrap()
    };
    let event = |id: u64| Event::new(Stream::from((id % 50) as u32), id, 0, 0).payload(&[7; 1000]);
    let (storm, begin) = (Storm::begin(), Instant::now());
    let (mut next, mut removed) = (0, Vec::new());
    let each = Duration::from_secs(1);
    for round in 0..4u32 {
        let sync =
            if round % 2 == 0 { DiskSync::EveryBatch } else { DiskSync::Interval(Duration::from_millis(5)) };
        // Another mode is taken where nothing is left in the log.
        let store = Store::open(config(sync)).unwrap();
        store.stream(&format!("name {round}")).unwrap();
        while begin.elapsed() < each * (round + 1) || next % 100 != 0 {
            let count = if next % 2 == 0 { 1 } else { 9 };
            let batch: Vec<Event<'_>> = (next..next + count).map(event).collect();
            // A disk that does not keep up has appends wait; those of the batch that were stored are duplicates then.
            let stored = || match count {
                1 => store.append(&batch[0]).map(drop),
                _ => store.append_batch(&batch).and_then(|batch| batch.all_accepted()).map(drop),
            };
            while let Err(error) = stored() {
                assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}");
                std::thread::sleep(error.retry_after().unwrap());
            }
            next += count;
            if next % 100 == 50 {
                assert!(store.remove(next - 20).unwrap());
                removed.push(next - 20);
            }
        }
        store.sync().unwrap();
        store.flush(MINUTE * 5).unwrap();
        assert_eq!(store.stats().warnings, [""; 0]);
        assert_eq!(store.close(MINUTE * 5).unwrap().left, 0);
    }
    drop(storm);
    assert!(SIGNALS.load(Ordering::Relaxed) > 1000, "{SIGNALS:?} signals");
    let store = Store::open(config(DiskSync::EveryBatch)).unwrap();
    assert!(next > 500, "{next} events");
    for id in 0..next {
        assert_eq!(store.fetch(id).unwrap().is_some(), !removed.contains(&id), "event {id} of {next}");
    }
    store.validate().unwrap();
}

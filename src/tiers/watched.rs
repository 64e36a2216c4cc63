//! A file of redb's that notes when a sync of it failed.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{BackendError, StorageBackend};

/// What is known of a file, however often it is opened.
#[derive(Debug, Default)]
pub(crate) struct Health {
    sync_failed: AtomicBool,
}

impl Health {
    /// Whether the system may hold for written what is not on the disk.
    pub(crate) fn sync_has_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
pub(crate) struct Watched<B> {
    file: B,
    health: Arc<Health>,
}

impl<B> Watched<B> {
    pub(crate) fn new(file: B, health: Arc<Health>) -> Self {
        Self { file, health }
    }
}

impl<B: StorageBackend> StorageBackend for Watched<B> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|_| self.health.sync_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes what it is asked, and fails what it is told to.
    #[derive(Debug, Default)]
    struct File {
        asked: Arc<Mutex<Vec<String>>>,
        fails: bool,
    }

    impl File {
        fn note(&self, call: String) -> io::Result<()> {
            self.asked.lock().unwrap().push(call);
            if self.fails { Err(io::Error::other("told to fail")) } else { Ok(()) }
        }

        fn lock(&self, call: &str, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.note(format!("{call} {start:?} {end:?}")).map_err(BackendError::from)
        }
    }

    impl StorageBackend for File {
        fn len(&self) -> io::Result<u64> {
            self.note("len".into()).map(|()| 77)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            out.fill(5);
            self.note(format!("read {offset} {}", out.len()))
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.note(format!("set_len {len}"))
        }

        fn sync_data(&self) -> io::Result<()> {
            self.note("sync_data".into())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.note(format!("write {offset} {data:?}"))
        }

        fn close(&self) -> io::Result<()> {
            self.note("close".into())
        }

        fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.lock("try_lock", start, end).map(|()| true)
        }

        fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.lock("try_lock_shared", start, end).map(|()| false)
        }

        fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.lock("lock", start, end)
        }

        fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.lock("lock_shared", start, end)
        }

        fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.lock("unlock", start, end)
        }

        fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.lock("query", start, end).map(|()| true)
        }
    }

    #[test]
    fn every_call_reaches_the_file_and_a_failed_sync_alone_is_noted() {
        let (health, asked) = (Arc::<Health>::default(), Arc::<Mutex<Vec<String>>>::default());
        let watched = |fails| Watched::new(File { asked: asked.clone(), fails }, health.clone());
        let told = || std::mem::take(&mut *asked.lock().unwrap());
        let (start, end) = (Bound::Included(1), Bound::Excluded(9));
        let call_all = |file: &Watched<File>| {
            let mut out = [0; 3];
            let outcomes = [
                file.len().map_or(0, |len| len as u32),
                u32::from(file.read(4, &mut out).is_ok()),
                u32::from(file.set_len(6).is_ok()),
                u32::from(file.write(7, &[8]).is_ok()),
                u32::from(file.close().is_ok()),
                file.try_lock_range(start, end).map_or(9, u32::from),
                file.try_lock_shared_range(start, end).map_or(9, u32::from),
                u32::from(file.lock_range(start, end).is_ok()),
                u32::from(file.lock_shared_range(start, end).is_ok()),
                u32::from(file.unlock_range(start, end).is_ok()),
                file.query_lock_range(start, end).map_or(9, u32::from),
            ];
            assert_eq!(out, [5; 3]);
            outcomes
        };
        let range = "Included(1) Excluded(9)";
        let locks = ["try_lock", "try_lock_shared", "lock", "lock_shared", "unlock", "query"];
        let mut calls: Vec<String> =
            ["len", "read 4 3", "set_len 6", "write 7 [8]", "close"].map(String::from).into();
        calls.extend(locks.map(|lock| format!("{lock} {range}")));
        for (fails, outcomes) in
            [(false, [77, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1]), (true, [0, 0, 0, 0, 0, 9, 9, 0, 0, 0, 9])]
        {
            assert_eq!(call_all(&watched(fails)), outcomes);
            assert_eq!(told(), calls);
            assert!(!health.sync_has_failed(), "no sync was asked for");
        }
        watched(false).sync_data().unwrap();
        assert!(!health.sync_has_failed());
        watched(true).sync_data().unwrap_err();
        assert!(health.sync_has_failed());
        assert_eq!(told(), ["sync_data"; 2]);
        watched(false).sync_data().unwrap();
        assert!(health.sync_has_failed(), "a later one says nothing of what that lost");
    }
}

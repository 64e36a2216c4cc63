//! What a directory knows of its namespace and page numbers: opening without the servers, and what is made up for when they are
//! back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock;
use crate::config::ClassConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::tiers::cold::Namespace;
use crate::tiers::shield::Shield;
use crate::tiers::shield::home::Home;
use crate::tiers::shield::remote::{Change, Op, Remote};

impl<R: Remote> Shield<R> {
    /// Notes which page numbers are used, before they can be seen by anybody.
    pub(super) fn mark(&self, ops: &[Arc<Op>]) -> Result<()> {
        let mut home = self.home.lock();
        let Some(home) = home.as_mut() else { return Ok(()) };
        let seq = |op: &Arc<Op>| match &op.change {
            Change::Block(block) => Some(block.id.first_seq),
            Change::Tombstone(stone) => Some(stone.seq),
            _ => None,
        };
        let mut next = home.clone();
        let marked = ops.iter().filter_map(seq).filter(|seq| next.mark(*seq)).count();
        if marked > 0 {
            next.save(&self.dir)?;
            *home = next;
        }
        Ok(())
    }

    /// Opens without the servers, if the directory knows the namespace.
    pub(super) fn begin_away(&self, classes: &[ClassConfig], error: Error) -> Result<u64> {
        let Some(mut home) = Home::load(&self.dir, &self.remote.label())? else {
            let text = format!(
                "{error}; without it only a directory that was open while it was there can be opened, which {} was not: \
                 page numbers of its own could collide with those that are in use",
                self.dir.display()
            );
            return Err(Error::with_source(error.kind(), text, error));
        };
        let first = home.go_on()?;
        home.save(&self.dir)?;
        self.note(&error);
        self.breaker.lock().trip(clock::now());
        self.unknown.store(true, Ordering::SeqCst);
        self.remote.begin_away(classes, first);
        self.first.store(first, Ordering::SeqCst);
        let range = home.first;
        *self.home.lock() = Some(home);
        // Should the servers have lost it, nobody else must be given it.
        self.write(vec![Change::Writer(range)])?;
        Ok(first)
    }

    /// The servers may be back: does what opening could not.
    pub(super) fn rejoin(&self) -> Result<()> {
        self.remote.rejoin()?;
        let Some(home) = self.home.lock().clone() else { return Ok(()) };
        match self.remote.namespace()? {
            Some(saved)
                if (saved.partitions, saved.seed) != (home.namespace.partitions, home.namespace.seed) =>
            {
                return Err(Error::new(
                    ErrorKind::Incompatible,
                    format!(
                        "the cluster's namespace {} is another one than {} knows (partitions and seed differ): nothing \
                         is written to it; see whether it is the right cluster",
                        home.label,
                        self.dir.display()
                    ),
                ));
            }
            Some(_) => {}
            None => self.remote.agree(&home.namespace)?,
        }
        self.unknown.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Remembers the namespace for openings without the servers.
    pub(super) fn remember(&self, namespace: &Namespace) -> Result<()> {
        let mut home = self.home.lock();
        let first = self.first.load(Ordering::SeqCst);
        if first == 0 || home.as_ref().is_some_and(|home| home.namespace == *namespace) {
            return Ok(());
        }
        let (label, namespace) = (self.remote.label(), namespace.clone());
        let used = home.as_ref().map_or(first, |home| home.used);
        let mut fresh = Home { label, namespace, first, used };
        fresh.mark(first);
        fresh.save(&self.dir)?;
        *home = Some(fresh);
        Ok(())
    }
}

//! The peers, each with the settings that its own users would give it and the reason for them.

pub(crate) mod caches;
pub(crate) mod esker;
pub(crate) mod fjall;
pub(crate) mod keys;
pub(crate) mod maps;
pub(crate) mod redb;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocks;
pub(crate) mod rolled;
pub(crate) mod segcache;
pub(crate) mod skiplist;

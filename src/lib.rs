//! An embeddable, tiered, in-memory event store.
//!
//! Events land in off-heap pages (*hot*), are squeezed by LZ4 as they age (*warm*), and are written to a *cold* tier
//! on disk before they leave memory. Reads go through all tiers. Memory is bounded by one number; when it is full, the
//! store waits or refuses, and loses nothing.
//!
//! ```
//! use esker::{Clock, Config, Event, Store};
//!
//! # fn main() -> Result<(), esker::Error> {
//! # let dir = tempfile::tempdir().map_err(|error| esker::Error::cold("no directory", error))?;
//! let store = Store::open(Config::builder().memory("64MiB").data_dir(dir.path()).build()?)?;
//! let customer = store.stream("customer-42")?;
//!
//! let now_ms = Clock::system().now_ms();
//! store.append(&Event::new(customer, 1, now_ms, 7).metadata(&[("cell", "A7")]).payload(b"attach"))?;
//!
//! let guard = store.pin();
//! let event = guard.get(1).expect("it was just appended");
//! assert_eq!(event.payload(), b"attach");
//! for event in guard.history(customer).take(100) {
//!     println!("{} {:?}", event.timestamp(), event.metadata_value("cell"));
//! }
//! # drop(guard);
//! store.close(std::time::Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//! * [`Store`]: open, append, read, close. [`Guard`]: reading from memory.
//! * [`Config`]: every number there is to set. [`ClassConfig`]: how long events stay where.
//! * [`Event`]: what goes in; [`EventPool`] for events that are assembled piece by piece. [`ClassResolver`]: which class
//!   a stream's events are of. [`DeadLetterDir`]: what becomes of events that nobody would take.
//! * [`Stats`]: what the store holds and has done.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(loom, allow(dead_code, unused_imports, reason = "loom builds only the lock-free pieces"))]

mod clock;
mod config;
mod error;
#[cfg(not(loom))]
mod event;
#[cfg(not(loom))]
mod eviction;
mod ids;
mod index;
#[cfg(not(loom))]
mod lanes;
#[cfg(not(loom))]
mod log;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(not(loom))]
mod observe;
mod pages;
mod pressure;
mod regions;
#[cfg(not(loom))]
mod store;
mod sync;
mod sys;
#[cfg(not(loom))]
mod tiers;

pub use clock::Clock;
pub use config::{
    Adaptive, Affinity, ByteSize, ClassConfig, Config, ConfigBuilder, ConfigFault, DiskSync, Durability,
    EVENT_MAX, ExpectedLoad, HugePages, IndexPlacement, IntoByteSize, NumaConfig, NumaPolicy, OnFull,
    OnLeave, Outside, PagePlacement, RegionBuilder, RegionConfig, SizeEstimate, SizeLimits, Skew, Thresholds,
};
/// For the tests of those who write parts of a store themselves.
#[cfg(not(loom))]
pub mod testing {
    pub use crate::store::contract::policy_contract;
    /// What [`DiskTier::on`](crate::DiskTier::on) keeps its data in.
    #[doc(hidden)]
    pub use redb::StorageBackend;
}
pub use error::{Error, ErrorKind, Result};
#[cfg(not(loom))]
pub use event::{
    Event, EventHeader, EventPool, EventPoolConfig, EventRef, Metadata, MetadataIter, PooledEvent,
};
pub use ids::{Class, Stream};
/// What decides which pages move between the tiers, and which leave memory.
#[cfg(not(loom))]
pub mod policy {
    pub use crate::eviction::{
        AllOf, ByClass, ClassView, FirstMatch, LaneView, Move, PageId, PageSummary, Plan, Policy,
        PriorityTime, Random2Lru, Refusal, RegionView, Sieve, SizeThreshold, Tier, TimeWindow, View,
    };
}
#[cfg(not(loom))]
pub use index::classes::ClassResolver;
#[cfg(not(loom))]
pub use lanes::append::Appended;
#[cfg(not(loom))]
pub use observe::recovered::{Recovered, RecoveryProgress};
#[cfg(not(loom))]
pub use observe::sizing::{SizeChange, SizeReason, SizingStats};
#[cfg(not(loom))]
pub use observe::stats::{
    ColdStats, DefragStats, EventStats, EvictionStats, LatencyStats, LogStats, SkewStats, Stats,
};
pub use pressure::{
    AdmissionStats, BackPressure, ByReason, Flow, HeldGuard, Hysteresis, Pressure, PressureReason,
    RegionKind, Stall,
};
#[cfg(not(loom))]
pub use regions::placement::{ArenaPlacement, RegionPlacement};
#[cfg(not(loom))]
pub use regions::region::RegionStats;
#[cfg(all(feature = "async", not(loom)))]
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
pub use store::AsyncStore;
#[cfg(not(loom))]
pub use store::{
    Batch, CloseReport, DeadLetterDir, DeadLetterSink, Drained, FetchHistory, FetchScan, FullHandler, Guard,
    HandOver, History, Home, Listening, Placement, PressureListener, Resized, Router, Scan, Store,
    StoreBuilder, Verdict,
};
#[cfg(all(fuzzing, not(loom)))]
#[doc(hidden)]
pub mod fuzz_doors;
#[cfg(not(loom))]
pub use sys::topology::{Cache, NumaNode, Topology, topology};
#[cfg(not(loom))]
pub use tiers::block::BlockId;
#[cfg(not(loom))]
pub use tiers::cold::{ColdBlock, ColdTier, Namespace, TierFigures, Tombstone};
#[cfg(not(loom))]
pub use tiers::disk::DiskTier;
#[cfg(not(loom))]
pub use tiers::letters::DeadLetter;
#[cfg(all(feature = "scylla", not(loom)))]
#[cfg_attr(docsrs, doc(cfg(feature = "scylla")))]
pub use tiers::scylla::ScyllaTier;
#[cfg(all(feature = "scylla", not(loom)))]
#[cfg_attr(docsrs, doc(cfg(feature = "scylla")))]
pub use tiers::scylla::config::{Consistency, Replication, ScyllaConfig, Server};

/// The README's example is compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So is what the operators' handbook shows.
#[cfg(doctest)]
#[doc = include_str!("../docs/operations.md")]
struct Operations;

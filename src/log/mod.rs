//! The log on a disk: what makes what was acknowledged survive loss of power.
//!
//! Nothing is copied on the way of an append. Whoever takes a *turn* ([`logger`]) goes round the lanes, copies what was
//! committed since the last turn from the pages, writes it in *units*, each whole or not there, and has the disk keep it.
//! A segment of the log is deleted when the pages that it has bytes of have left memory, are in the cold tier, or were
//! written again further on. [`replay`] puts the pages back.

pub(crate) mod frame;
pub(crate) mod logger;
pub(crate) mod marks;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod turn;

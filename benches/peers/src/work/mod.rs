//! The workloads, the same for every peer.

mod limits;
mod mixed;
mod read;
mod steady;
mod warm;
mod write;

pub(crate) use limits::limits;
pub(crate) use mixed::mixed;
pub(crate) use read::read;
pub(crate) use steady::steady;
pub(crate) use warm::warm;
pub(crate) use write::ingest;

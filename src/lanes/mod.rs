//! Lanes: each partition's append-only logs, one for each class.

pub(crate) mod append;
pub(crate) mod attach;
pub(crate) mod history;
mod index_room;
pub(crate) mod partition;
mod replay;
pub(crate) mod restore;
pub(crate) mod run;

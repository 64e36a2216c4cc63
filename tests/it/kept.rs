//! What tests of stores have in common whose pages outlive the process.

use esker::{ConfigBuilder, Error, ErrorKind, Event, Store, Stream};

use crate::common::append_proof;

pub(crate) fn open(config: ConfigBuilder) -> Result<Store, Error> {
    Store::open(config.build().unwrap())
}

pub(crate) fn refusal(config: ConfigBuilder) -> (ErrorKind, String) {
    let error = open(config).err().unwrap();
    (error.kind(), error.to_string())
}

pub(crate) fn stream_of(store: &Store, id: u64) -> Stream {
    if id.is_multiple_of(5) { store.stream("named").unwrap() } else { Stream::from((id % 9) as u32) }
}

pub(crate) fn append_some(store: &Store, ids: std::ops::Range<u64>) {
    for id in ids {
        append_proof(
            store,
            Event::new(stream_of(store, id), id, id as i64, id as u8),
            50 + (id % 300) as usize,
        );
    }
}

//! What the tests share.

use esker::{ClassConfig, Clock, Config, ConfigBuilder, Store};

/// A small store's configuration.
pub(crate) fn small() -> ConfigBuilder {
    Config::builder().memory("16MiB").partitions(2)
}

/// A small store without threads on a manual clock.
pub(crate) fn manual(config: ConfigBuilder) -> (Store, Clock) {
    let clock = Clock::manual(1_000_000);
    let config = config.background(false).build().unwrap();
    (Store::builder(config).clock(clock.clone()).open().unwrap(), clock)
}

/// Two classes: `a` stays long, `b` is for the moment.
pub(crate) fn two_classes() -> [ClassConfig; 2] {
    let seconds = std::time::Duration::from_secs;
    [
        ClassConfig::new("a").hot_for(seconds(60)).warm_for(seconds(600)),
        ClassConfig::new("b").hot_for(seconds(30)).warm_for(seconds(60)).retention(seconds(3600)),
    ]
}

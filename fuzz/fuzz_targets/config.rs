//! A configuration of any numbers: it is refused with what is wrong with it, or a store of it works.
#![no_main]

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use esker::{ClassConfig, Config, ErrorKind, Store};

struct Numbers<'b>(&'b [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Any number, most of them not far from a power of two.
    fn next(&mut self) -> Option<u64> {
        Some(match self.byte()? {
            255 => u64::MAX,
            254 => {
                let bytes = std::array::from_fn(|_| self.byte().unwrap_or(0));
                u64::from_le_bytes(bytes)
            }
            shift @ 0..64 => 1 << shift,
            shift @ 64..128 => (1 << (shift - 64)) - 1,
            shift => u64::from(self.byte()? | 1) << (shift % 48),
        })
    }

    fn time(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(self.next()?))
    }

    fn share(&mut self) -> Option<f64> {
        Some(match self.byte()? {
            255 => f64::NAN,
            254 => f64::INFINITY,
            253 => -1.0,
            byte => f64::from(byte) / 200.0,
        })
    }
}

fn build(numbers: &mut Numbers<'_>) -> Option<esker::Result<Config>> {
    // Most stores that can be opened are small.
    let memory = match numbers.byte()? {
        byte @ 0..200 => u64::from(byte) << 18,
        _ => numbers.next()?,
    };
    let mut config = Config::builder().memory(memory).background(false).huge_pages(false);
    while let Some(setting) = numbers.byte() {
        config = match setting % 24 {
            0 => config.buffers(numbers.next()?),
            1 => config.max_event(numbers.next()?),
            2 => {
                let number = numbers.next()?;
                config.hot(|hot| hot.max(number))
            }
            3 => {
                let number = numbers.next()?;
                config.hot(|hot| hot.page_size(number))
            }
            4 => {
                let number = numbers.next()?;
                config.hot(|hot| hot.ceiling(number))
            }
            5 => {
                let number = numbers.next()?;
                config.warm(|warm| warm.max(number))
            }
            6 => {
                let number = numbers.next()?;
                config.warm(|warm| warm.page_size(number))
            }
            7 => {
                let number = numbers.next()?;
                config.warm(|warm| warm.chunk(number))
            }
            8 => {
                let number = numbers.next()?;
                config.warm(|warm| warm.ceiling(number))
            }
            9 => {
                let number = numbers.next()?;
                config.index(|index| index.max(number))
            }
            10 => {
                let number = numbers.next()?;
                config.index(|index| index.page_size(number))
            }
            11 => {
                let number = numbers.next()?;
                config.index(|index| index.initial(number))
            }
            12 => {
                let number = numbers.next()?;
                config.index(|index| index.ceiling(number))
            }
            13 => config.partitions(numbers.next()? as usize),
            14 => config.block_bytes(numbers.next()?),
            15 => config.thresholds(numbers.share()?, numbers.share()?, numbers.share()?),
            16 => config.slice(numbers.next()? as usize, numbers.time()?),
            17 => config.move_rate(numbers.next()?),
            18 => config.defrag_below(numbers.share()?),
            19 => config.shrink_after(numbers.time()?),
            20 => config.fetch_timeout(numbers.time()?),
            21 => config.stall_after(numbers.time()?),
            _ => {
                let class = ClassConfig::new(format!("class {}", numbers.byte()? % 20))
                    .hot_for(numbers.time()?)
                    .warm_for(numbers.time()?)
                    .retention(numbers.time()?)
                    .priority(numbers.byte()?)
                    .quota(numbers.next()?);
                config.class(class)
            }
        };
    }
    Some(config.append_timeout(Duration::from_millis(1)).build())
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let config = match build(&mut Numbers(bytes)) {
        None => return,
        Some(Ok(config)) => config,
        Some(Err(error)) => {
            assert!(!error.config_faults().is_empty(), "{error:?}");
            return;
        }
    };
    if config.memory > 64 << 20 {
        return;
    }
    let text = format!("{config:?}");
    let store = match Store::open(config) {
        Ok(store) => store,
        // Ceilings that no address space has.
        Err(error) if error.kind() == ErrorKind::Io => return,
        Err(error) => panic!("{text}: {error:?}"),
    };
    let stored = common::append(&store, 1..40);
    store.maintain().unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let found = common::everything(&store).len();
    assert!(found <= stored, "{found} of {stored} events are found: {text}");
});

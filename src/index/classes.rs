//! Which class a stream's events are of, when they name none: what the caller said, or what the caller's resolver
//! answers.
//!
//! The map is in memory only and belongs to the caller, who fills it again after opening.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::RwLock;

use crate::error::{Error, ErrorKind, Result, call_user};
use crate::ids::{Class, Stream, mix};
use crate::index::names::Names;

/// Parts of the map, each with a lock of its own.
const SHARDS: usize = 64;
/// What a bucket of the map takes: stream, class, and a byte of the map's own.
const BUCKET: usize = 17;

/// Says of which class a stream's events are: a customer's tier, for example.
///
/// It is asked on the thread that appends, before the event is stored and with no lock held, when an event names no
/// class and its stream has none ([`Store::set_class`](crate::Store::set_class)). The answer is kept, so each stream is
/// asked for once; [`Store::forget_class`](crate::Store::forget_class) has it asked again. Two threads that meet a
/// stream at once may both ask. When there is no memory to keep an answer, it is used all the same, and the resolver is
/// asked again with the stream's next event.
///
/// If it panics, the append fails with [`ErrorKind::Panicked`] and stores nothing. A closure will do:
///
/// ```
/// use esker::{ClassConfig, Config, Event, Store, Stream};
///
/// let config = Config::builder()
///     .memory("16MiB")
///     .class(ClassConfig::new("basic"))
///     .class(ClassConfig::new("gold"))
///     .build()?;
/// let gold = config.class("gold");
/// let tier_of = move |_: Stream, name: Option<&str>| gold.filter(|_| name.is_some_and(|name| name.starts_with("vip-")));
/// let store = Store::builder(config).class_resolver(tier_of).open()?;
/// let customer = store.stream("vip-7")?;
/// store.append(&Event::new(customer, 1, 0, 0))?;
/// assert_eq!(store.pin().get(1).map(|event| event.class()), gold);
/// # Ok::<(), esker::Error>(())
/// ```
pub trait ClassResolver: Send + Sync + 'static {
    /// The class of a stream; `None` for the default class. `name` is that of a named stream.
    fn class_of(&self, stream: Stream, name: Option<&str>) -> Option<Class>;
}

impl<F> ClassResolver for F
where
    F: Fn(Stream, Option<&str>) -> Option<Class> + Send + Sync + 'static,
{
    fn class_of(&self, stream: Stream, name: Option<&str>) -> Option<Class> {
        self(stream, name)
    }
}

/// What is known of a stream.
#[derive(Clone, Copy)]
struct Known {
    class: Class,
    /// Whether the caller said so; otherwise it is the resolver's answer.
    told: bool,
}

/// Hashes a stream, seeded by the store, so that nobody can choose streams that collide.
#[derive(Clone, Copy)]
struct Seed(u64);

struct Mixer(u64);

impl BuildHasher for Seed {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(word, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Shard {
    known: HashMap<u64, Known, Seed>,
    /// What the map takes. Its capacity does not tell while it has places of streams that were forgotten.
    bytes: usize,
}

/// The map, and the resolver behind it.
pub(crate) struct Classes {
    shards: Vec<CachePadded<RwLock<Shard>>>,
    seed: Seed,
    /// How many classes there are.
    count: usize,
    resolver: Option<Arc<dyn ClassResolver>>,
    /// Calls of the resolver.
    pub(crate) asked: AtomicU64,
}

impl Classes {
    pub(crate) fn new(seed: u64, count: usize, resolver: Option<Arc<dyn ClassResolver>>) -> Self {
        let seed = Seed(seed);
        let shard = || CachePadded::new(RwLock::new(Shard { known: HashMap::with_hasher(seed), bytes: 0 }));
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { shards, seed, count, resolver, asked: AtomicU64::new(0) }
    }

    /// Streams whose class is known.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().known.len()).sum()
    }

    fn shard(&self, stream: Stream) -> &RwLock<Shard> {
        // Other bits than those by which the map finds its buckets.
        let hash = self.seed.hash_one(stream.as_u64());
        &self.shards[(hash >> 40) as usize % SHARDS]
    }

    fn check(&self, class: Class) -> Result<Class> {
        if class.index() < self.count {
            return Ok(class);
        }
        let text = format!("{class:?} is of another store: this one has {} classes", self.count);
        Err(Error::new(ErrorKind::InvalidInput, text))
    }

    /// Notes a stream's class. The class it had.
    ///
    /// # Errors
    /// A class that the store does not have, and [`ErrorKind::MemoryPressure`]: nothing has changed then.
    pub(crate) fn set(&self, names: &Names, stream: Stream, class: Class) -> Result<Option<Class>> {
        let known = Known { class: self.check(class)?, told: true };
        let mut shard = self.shard(stream).write();
        make_room(&mut shard, names, stream)?;
        Ok(shard.known.insert(stream.as_u64(), known).filter(|before| before.told).map(|before| before.class))
    }

    /// Forgets what is known of a stream. The class that the caller had set.
    pub(crate) fn forget(&self, stream: Stream) -> Option<Class> {
        let before = self.shard(stream).write().known.remove(&stream.as_u64());
        before.filter(|before| before.told).map(|before| before.class)
    }

    /// The class of a stream's events that name none. Calls the resolver if it must: no lock may be held.
    ///
    /// # Errors
    /// [`ErrorKind::Panicked`], and [`ErrorKind::InvalidInput`] for an answer that is no class of this store.
    pub(crate) fn of(&self, names: &Names, stream: Stream) -> Result<Class> {
        if let Some(known) = self.shard(stream).read().known.get(&stream.as_u64()) {
            return Ok(known.class);
        }
        let Some(resolver) = &self.resolver else { return Ok(Class::DEFAULT) };
        self.asked.fetch_add(1, Ordering::Relaxed);
        let name = stream.is_named().then(|| names.name_of(stream)).flatten();
        let answer = call_user("the store's ClassResolver", || resolver.class_of(stream, name.as_deref()))?;
        let class = self.check(answer.unwrap_or(Class::DEFAULT))?;
        let mut shard = self.shard(stream).write();
        if make_room(&mut shard, names, stream).is_err() {
            return Ok(class);
        }
        // What the caller has said meanwhile goes first.
        Ok(shard.known.entry(stream.as_u64()).or_insert(Known { class, told: false }).class)
    }
}

/// Lets a shard grow if it must for that stream.
///
/// # Errors
/// [`ErrorKind::MemoryPressure`].
fn make_room(shard: &mut Shard, names: &Names, stream: Stream) -> Result<()> {
    let known = &mut shard.known;
    if known.len() < known.capacity() || known.contains_key(&stream.as_u64()) {
        return Ok(());
    }
    known.reserve(1);
    let more = bytes(known.capacity()).saturating_sub(shard.bytes);
    if names.take(more) {
        shard.bytes += more;
        return Ok(());
    }
    known.shrink_to_fit();
    Err(names.full())
}

/// What a map of that capacity takes: seven eighths of its buckets are used at most.
fn bytes(capacity: usize) -> usize {
    if capacity == 0 { 0 } else { (capacity * 8).div_ceil(7).next_power_of_two() * BUCKET }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn names(limit: usize) -> Names {
        Names::new(1, limit)
    }

    fn stream(number: u32) -> Stream {
        Stream::from(number)
    }

    #[test]
    fn what_was_said_goes_before_what_the_resolver_answers() {
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = calls.clone();
        let resolver = move |stream: Stream, _: Option<&str>| {
            seen.fetch_add(1, Ordering::Relaxed);
            (stream.as_u64() > 10).then(|| Class::new(2))
        };
        let (classes, names) = (Classes::new(7, 3, Some(Arc::new(resolver))), names(1 << 20));
        assert_eq!(classes.set(&names, stream(11), Class::new(1)).unwrap(), None);
        let of = |number| classes.of(&names, stream(number)).unwrap().index();
        assert_eq!([11, 12, 12, 3, 3].map(of), [1, 2, 2, 0, 0]);
        assert_eq!(calls.load(Ordering::Relaxed), 2, "an answer is kept, also that there is none");
        // The resolver's answer is not what the caller had set.
        assert_eq!(classes.set(&names, stream(12), Class::new(1)).unwrap(), None);
        assert_eq!(classes.forget(stream(12)), Some(Class::new(1)));
        assert_eq!(of(12), 2);
        assert_eq!((classes.forget(stream(12)), classes.len()), (None, 2));
    }

    #[test]
    fn a_resolver_that_panics_or_lies_is_an_error_and_no_more() {
        let resolver = |stream: Stream, _: Option<&str>| match stream.as_u64() {
            1 => panic!("no such customer"),
            2 => Some(Class::new(9)),
            _ => None,
        };
        let (classes, names) = (Classes::new(7, 3, Some(Arc::new(resolver))), names(1 << 20));
        let error = classes.of(&names, stream(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(error.to_string().contains("no such customer"), "{error}");
        assert_eq!(classes.of(&names, stream(2)).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(classes.of(&names, stream(3)).unwrap(), Class::DEFAULT);
        assert!(classes.set(&names, stream(1), Class::new(3)).is_err());
        assert_eq!(classes.len(), 1);
    }

    #[test]
    fn the_map_ends_where_its_memory_does() {
        let names = names(64 << 10);
        let classes = Classes::new(7, 3, None);
        let mut set = 0u32;
        let error = loop {
            match classes.set(&names, stream(set), Class::new(1)) {
                Ok(_) => set += 1,
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::MemoryPressure, false));
        assert!((1000..4000).contains(&set), "{set} streams in 64 KiB");
        let counted: usize = classes.shards.iter().map(|shard| shard.read().bytes).sum();
        assert!(names.bytes() <= 64 << 10 && names.bytes() == counted, "{} of {counted}", names.bytes());
        // What is known can still change.
        assert_eq!(classes.set(&names, stream(0), Class::new(2)).unwrap(), Some(Class::new(1)));
        assert_eq!(classes.of(&names, stream(set - 1)).unwrap(), Class::new(1));
    }
}

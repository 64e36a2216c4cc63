//! How long events of a class stay where.

use std::time::Duration;

/// What becomes of a class's events when they leave memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum OnLeave {
    /// They are written to the cold tier first, and leave once it has confirmed them.
    #[default]
    Spill,
    /// They are dropped, oldest first, and counted. For events that are of no use once they are old.
    Drop,
}

/// What becomes of an event whose timestamp is outside of what its class takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Outside {
    /// It is refused with [`ErrorKind::OutsideWindow`](crate::ErrorKind::OutsideWindow).
    #[default]
    Refuse,
    /// It is stored with the nearest timestamp that the class takes. One that expires by itself keeps the time that it
    /// has to live.
    Clamp,
    /// It goes to the store's dead letters ([`StoreBuilder::dead_letters`](crate::StoreBuilder::dead_letters)) as it is,
    /// or fails with their error.
    DeadLetter,
}

/// Which timestamps a class takes, seen from the store's clock: a source whose clock is wrong, or that delivers what is
/// long over, is noticed at the door.
///
/// ```
/// use std::time::Duration;
/// use esker::{ClassConfig, Outside, Skew};
///
/// let minutes = |count: u64| Duration::from_secs(60 * count);
/// let window = Skew::new().ahead(minutes(5)).behind(minutes(24 * 60)).outside(Outside::Clamp);
/// let calls = ClassConfig::new("calls").skew(window);
/// # assert_eq!(calls.skew, window);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Skew {
    /// How far ahead of the clock a timestamp may be (default: however far).
    pub ahead: Option<Duration>,
    /// How far behind it may be (default: however far).
    pub behind: Option<Duration>,
    /// What becomes of other events (default: refused).
    pub outside: Outside,
}

impl Skew {
    /// Takes every timestamp.
    pub fn new() -> Self {
        Self::default()
    }

    /// How far ahead of the clock a timestamp may be.
    #[must_use]
    pub fn ahead(mut self, most: impl Into<Option<Duration>>) -> Self {
        self.ahead = most.into();
        self
    }

    /// How far behind the clock a timestamp may be.
    #[must_use]
    pub fn behind(mut self, most: impl Into<Option<Duration>>) -> Self {
        self.behind = most.into();
        self
    }

    /// What becomes of other events.
    #[must_use]
    pub fn outside(mut self, what: Outside) -> Self {
        self.outside = what;
        self
    }

    /// Whether it takes every timestamp.
    pub(crate) fn takes_all(&self) -> bool {
        self.ahead.is_none() && self.behind.is_none()
    }

    /// Whether events can go to the dead letters for their time.
    pub(crate) fn needs_letters(&self) -> bool {
        self.outside == Outside::DeadLetter && !self.takes_all()
    }
}

/// What becomes of an event for which there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum OnFull {
    /// The call waits up to its time-out; then the event is refused.
    #[default]
    Wait,
    /// The event is refused at once, whatever the time-out.
    Reject,
    /// The call waits up to its time-out; then the event goes to the store's dead letters
    /// ([`StoreBuilder::dead_letters`](crate::StoreBuilder::dead_letters)), and counts as refused if those fail.
    DeadLetter,
    /// The call waits up to its time-out; then the store's handler decides
    /// ([`StoreBuilder::on_full`](crate::StoreBuilder::on_full)).
    Ask,
    /// The call waits up to its time-out; then events of classes of lower [priority](ClassConfig::priority) are given up for
    /// it, the lowest class and the oldest events first, even if the cold tier does not have them yet. They count as
    /// [dropped](crate::EventStats::dropped), and are not found again: a block of theirs that the tier has taken without confirming it
    /// is deleted. When there are none, the event is refused.
    ///
    /// Events of lower classes that may leave memory anyhow always go first, whatever a class says here.
    EvictLower,
}

/// How long events of a class stay where, and what happens then.
///
/// Ages are counted from an event's own timestamp, or from its arrival where the timestamp lies after that, so
/// that an event from the future cannot stay for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClassConfig {
    /// The class's name; [`Store::class`](crate::Store::class) finds it.
    pub name: String,
    /// Age at which events are squeezed into the warm tier (default 4 h).
    pub hot_for: Duration,
    /// Age at which events leave memory (default 24 h).
    pub warm_for: Duration,
    /// Whether events go through the warm tier (default: yes). Without it they stay as they were written until they
    /// leave memory, and `hot_for` says nothing: no processor time goes into packing them, and memory holds fewer of
    /// them.
    pub compress: bool,
    /// Age at which events cease to exist, in every tier (default: never).
    pub retention: Option<Duration>,
    /// What becomes of events that leave memory (default: spill).
    pub on_leave: OnLeave,
    /// Who goes first under pressure: pages of the lowest priority, whatever their age (default: 0 for all).
    pub priority: u8,
    /// The most bytes of the hot and the warm region together that the class's pages take, not counting the open ones
    /// (default: no bound of its own).
    pub quota: Option<u64>,
    /// Which timestamps the class takes (default: every one).
    pub skew: Skew,
    /// Whether what the class's events held is overwritten when its memory is freed (default: no).
    pub sensitive: bool,
    /// What becomes of events for which there is no room; `None` for what the store does by default
    /// ([`Config::on_full`](crate::Config::on_full)).
    pub on_full: Option<OnFull>,
}

impl ClassConfig {
    /// A class with the default windows.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            hot_for: Duration::from_secs(4 * 3600),
            warm_for: Duration::from_secs(24 * 3600),
            compress: true,
            retention: None,
            on_leave: OnLeave::Spill,
            priority: 0,
            quota: None,
            skew: Skew::new(),
            sensitive: false,
            on_full: None,
        }
    }

    /// Age at which events are squeezed into the warm tier.
    #[must_use]
    pub fn hot_for(mut self, age: Duration) -> Self {
        self.hot_for = age;
        self
    }

    /// Age at which events leave memory.
    #[must_use]
    pub fn warm_for(mut self, age: Duration) -> Self {
        self.warm_for = age;
        self
    }

    /// Whether events go through the warm tier on their way out of memory.
    ///
    /// ```
    /// use esker::{ClassConfig, OnLeave};
    ///
    /// // A window of raw events that is kept as large as memory allows, and dropped at its old end.
    /// let probes = ClassConfig::new("probes").compress(false).on_leave(OnLeave::Drop);
    /// # assert!(!probes.compress);
    /// ```
    #[must_use]
    pub fn compress(mut self, yes: bool) -> Self {
        self.compress = yes;
        self
    }

    /// Age at which events cease to exist, in every tier.
    #[must_use]
    pub fn retention(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.retention = age.into();
        self
    }

    /// Which timestamps the class takes.
    #[must_use]
    pub fn skew(mut self, skew: Skew) -> Self {
        self.skew = skew;
        self
    }

    /// Whether what the class's events held must not stay in memory longer than the events: secrets, personal data.
    ///
    /// Pages, hot or warm, are overwritten with zeros when they are freed, and so are the frames that readers unpacked,
    /// and the mover's buffer. If a store has such a class, its hot and warm regions, with the events of all classes, are
    /// kept out of core dumps.
    ///
    /// Removed and expired events go with their page. Not covered are copies that callers have
    /// ([`EventRef::into_owned`](crate::EventRef::into_owned)), the buffers of an event that the caller appended (see
    /// [`EventPool`](crate::EventPool)), the id index, swap space, and what is written to the cold tier and read back
    /// from there; classes that must not reach a disk say [`OnLeave::Drop`].
    #[must_use]
    pub fn sensitive(mut self, yes: bool) -> Self {
        self.sensitive = yes;
        self
    }

    /// What becomes of events that leave memory.
    #[must_use]
    pub fn on_leave(mut self, what: OnLeave) -> Self {
        self.on_leave = what;
        self
    }

    /// Who goes first under pressure. While pages of a lower priority can leave memory, none of a higher one does
    /// because memory is short; ages and retention count for all alike.
    ///
    /// ```
    /// use esker::ClassConfig;
    ///
    /// let calls = ClassConfig::new("calls").priority(10);
    /// // Probes go first, and a storm of them takes 64 MiB at most.
    /// let probes = ClassConfig::new("probes").quota(64 << 20);
    /// # assert!(calls.priority > probes.priority);
    /// ```
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// The most bytes of the hot and the warm region together that the class's pages take. Above it, the class's own
    /// oldest pages go down and out, so that one noisy class does not push out the others. Open pages, one for each
    /// partition, are not counted, and what the cold tier has not confirmed stays: when that is an eighth more than the
    /// quota, the class's events wait or are refused ([`PressureReason::ClassQuota`](crate::PressureReason)) while others
    /// go on.
    #[must_use]
    pub fn quota(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.quota = bytes.into();
        self
    }

    /// What becomes of events for which there is no room.
    #[must_use]
    pub fn on_full(mut self, what: OnFull) -> Self {
        self.on_full = Some(what);
        self
    }
}

//! The one error type: what happened, what to do about it, and whether to try again.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::config::ConfigFault;
use crate::pressure::BackPressure;

/// A result whose error is [`Error`] unless stated otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong. Match on this; read the text for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no room in memory just now; [`Error::back_pressure`] says where and when to try again.
    MemoryPressure,
    /// A deadline passed before the answer was there.
    Timeout,
    /// The store has been closed.
    Closed,
    /// The process was forked from the one that opened the store.
    Forked,
    /// The configuration contradicts itself; [`Error::config_faults`] lists every fault.
    InvalidConfig,
    /// An argument is outside of what the call accepts.
    InvalidInput,
    /// The event is larger than the store accepts.
    TooLarge,
    /// The cold tier did not do what was asked.
    Cold,
    /// The cold tier's server refused the user, the password or the certificate.
    Denied,
    /// Stored bytes failed their check. What they held is not returned; everything else stays readable.
    Corrupt,
    /// Another process, or another store of this process, has the data directory open.
    AlreadyOpen,
    /// The data was written by a version, or with settings, that this store cannot take over.
    Incompatible,
    /// The operating system refused an operation on memory or a file.
    Io,
    /// Code of the caller's own, such as a [`ClassResolver`](crate::ClassResolver) or a [`FullHandler`](crate::FullHandler), panicked. The store goes on.
    Panicked,
    /// The event's timestamp is outside of what its class takes; see [`Skew`](crate::Skew).
    OutsideWindow,
    /// The dead letters have no room for one more; replay or discard some.
    DeadLettersFull,
    /// The log of [`Durability::Disk`](crate::Durability::Disk) is not on the disk. What an append was about is in memory
    /// all the same, and survives the end of the process, but perhaps not the loss of power.
    NotDurable,
}

/// An error of the store: one pointer in size, so that a `Result` stays cheap on the hot path.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    detail: Detail,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

enum Detail {
    None,
    Pressure(BackPressure),
    Config(Vec<ConfigFault>),
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), detail: Detail::None, source: None }))
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            detail: Detail::None,
            source: Some(source.into()),
        }))
    }

    pub(crate) fn pressure(pressure: BackPressure) -> Self {
        Self(Box::new(Inner {
            kind: ErrorKind::MemoryPressure,
            // Its text is made when somebody asks for it: a full store may refuse very often.
            message: String::new(),
            detail: Detail::Pressure(pressure),
            source: None,
        }))
    }

    pub(crate) fn config(faults: Vec<ConfigFault>) -> Self {
        let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Self(Box::new(Inner {
            kind: ErrorKind::InvalidConfig,
            message: format!("{} fault(s) in the configuration: {}", faults.len(), list.join("; ")),
            detail: Detail::Config(faults),
            source: None,
        }))
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the store is closed; open it again to use it")
    }

    /// The same for one more who is to be told; without what caused it.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.kind(), self.to_string())
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    pub(crate) fn already_open(dir: &std::path::Path) -> Self {
        let text = format!("{} belongs to another store; close that one first", dir.display());
        Self::new(ErrorKind::AlreadyOpen, text)
    }

    pub(crate) fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        Self::with_source(ErrorKind::Io, message, source)
    }

    /// An error of a cold tier written outside of this crate.
    pub fn cold(message: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::with_source(ErrorKind::Cold, message, source)
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call can succeed later without anyone changing anything. Of [`ErrorKind::MemoryPressure`] it can, but for
    /// [`BuffersFull`](crate::PressureReason::BuffersFull): what is known of streams stays.
    pub fn is_retryable(&self) -> bool {
        let passes = || self.back_pressure().is_none_or(|pressure| pressure.reason.passes());
        matches!(self.0.kind, ErrorKind::MemoryPressure | ErrorKind::Timeout | ErrorKind::Cold) && passes()
    }

    /// How long to wait before trying again, where the store can tell and it is of use.
    pub fn retry_after(&self) -> Option<Duration> {
        self.back_pressure().filter(|_| self.is_retryable()).map(|pressure| pressure.retry_after)
    }

    /// Which region is short of room and how badly, for [`ErrorKind::MemoryPressure`].
    pub fn back_pressure(&self) -> Option<&BackPressure> {
        match &self.0.detail {
            Detail::Pressure(pressure) => Some(pressure),
            _ => None,
        }
    }

    /// Every fault of the configuration, for [`ErrorKind::InvalidConfig`].
    pub fn config_faults(&self) -> &[ConfigFault] {
        match &self.0.detail {
            Detail::Config(faults) => faults,
            _ => &[],
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.detail {
            Detail::Pressure(pressure) => write!(f, "{pressure}"),
            _ => f.write_str(&self.0.message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("message", &self.to_string());
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// A vector with room for so many bytes, zeros: for those that may be large, so that a program without memory is told and not
/// ended.
///
/// # Errors
/// [`ErrorKind::Io`].
pub(crate) fn zeros(len: usize, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|error| {
        Error::with_source(
            ErrorKind::Io,
            format!("the system has no memory for the {len} bytes of {what}"),
            error,
        )
    })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Calls code of the caller's own, which may panic; `what` it is, for the error.
///
/// # Errors
/// [`ErrorKind::Panicked`] with the panic's text.
pub(crate) fn call_user<T>(what: &str, call: impl FnOnce() -> T) -> Result<T> {
    // Whatever it left half done is its own: the store shares nothing mutable with it.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).map_err(|panic| {
        let text =
            panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        Error::new(ErrorKind::Panicked, format!("{what} panicked: {}", text.unwrap_or("no text")))
    })
}

const _: () = assert!(size_of::<Error>() == 8);

//! What the driver's errors mean for a change.

use scylla::errors::{DbError, ExecutionError, NewSessionError, PrepareError, RequestAttemptError};

use crate::error::{Error, ErrorKind};

/// What to do about a request that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    /// The server is busy, or did not answer in time: try again soon.
    Busy,
    /// There is no connection: try again when there is one.
    Away,
    /// Tables or rights are missing: nothing is wrong with the request.
    Unprepared,
    /// Either that, or the request is wrong: it depends on whether the tables are as they should be.
    Invalid,
    /// The server will never take this request.
    Refused,
}

/// A failed request.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) meaning: Meaning,
    pub(crate) error: Error,
}

impl Failure {
    pub(crate) fn new(
        meaning: Meaning,
        what: &str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let text = source.to_string();
        let denied = is_denied(&text) || is_denied(&format!("{source:?}"));
        let (kind, advice) = match meaning {
            _ if denied => (ErrorKind::Denied, "check user, password, certificates and rights"),
            Meaning::Busy => (ErrorKind::Cold, "it is tried again; see whether the cluster is overloaded"),
            Meaning::Away => {
                (ErrorKind::Cold, "it is tried again; see whether the nodes run and can be reached")
            }
            Meaning::Unprepared => (ErrorKind::Cold, "create keyspace and tables as ScyllaConfig::ddl says"),
            Meaning::Invalid => {
                (ErrorKind::Cold, "see whether keyspace and tables are as ScyllaConfig::ddl says")
            }
            Meaning::Refused => (ErrorKind::Cold, "the cluster will not take it"),
        };
        let error = Error::with_source(kind, format!("cannot {what} the cluster: {text}; {advice}"), source);
        Self { meaning, error }
    }
}

fn is_denied(text: &str) -> bool {
    [
        "AuthenticationError",
        "MissingAuthentication",
        "bad credentials",
        "Unauthorized",
        "InvalidCertificate",
        "UnknownIssuer",
    ]
    .iter()
    .any(|word| text.contains(word))
}

pub(crate) fn of_execution(what: &str, error: ExecutionError) -> Failure {
    let meaning = match &error {
        ExecutionError::LastAttemptError(attempt) => of_attempt(attempt),
        ExecutionError::RequestTimeout(_) => Meaning::Busy,
        ExecutionError::BadQuery(_) => Meaning::Refused,
        ExecutionError::PrepareError(error) => of_preparing(error),
        _ => Meaning::Away,
    };
    Failure::new(meaning, what, error)
}

pub(crate) fn of_prepare(what: &str, error: PrepareError) -> Failure {
    Failure::new(of_preparing(&error), what, error)
}

pub(crate) fn of_connecting(error: NewSessionError) -> Failure {
    Failure::new(Meaning::Away, "connect to", error)
}

fn of_preparing(error: &PrepareError) -> Meaning {
    // The statements are ours and right: what they speak of is not there.
    if error.to_string().contains("Database returned an error") { Meaning::Unprepared } else { Meaning::Away }
}

fn of_attempt(error: &RequestAttemptError) -> Meaning {
    match error {
        RequestAttemptError::DbError(error, text) => of_database(error, text),
        RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
            Meaning::Refused
        }
        RequestAttemptError::UnableToAllocStreamId => Meaning::Busy,
        RequestAttemptError::RepreparedIdChanged { .. } => Meaning::Unprepared,
        _ => Meaning::Away,
    }
}

fn of_database(error: &DbError, text: &str) -> Meaning {
    match error {
        DbError::SyntaxError | DbError::ConfigError | DbError::FunctionFailure { .. } => Meaning::Refused,
        // "Rejected an oversized mutation" of Cassandra, among others.
        DbError::Invalid => Meaning::Invalid,
        DbError::ServerError if text.contains("too large") => Meaning::Invalid,
        DbError::Unauthorized | DbError::AuthenticationError | DbError::AlreadyExists { .. } => {
            Meaning::Unprepared
        }
        DbError::IsBootstrapping => Meaning::Away,
        DbError::Unprepared { .. } => Meaning::Unprepared,
        _ => Meaning::Busy,
    }
}

//! What the command line asks for.

use std::time::Duration;

use crate::{Outcome, ROUNDS};

/// What was asked for.
pub(crate) struct Wishes {
    /// How long the bare loop writes in a round.
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    pub(crate) partitions: usize,
    /// Sizes of payloads.
    pub(crate) bytes: Vec<usize>,
    /// Only bare loop and store, and only writing.
    pub(crate) only_writes: bool,
    /// Server and store have processors of their own.
    pub(crate) apart: bool,
    pub(crate) sweep: bool,
    /// Of a node that runs already, and has been written to for long.
    pub(crate) port: Option<u16>,
}

impl Wishes {
    pub(crate) fn read() -> Outcome<Self> {
        let mut wishes = Self {
            seconds: 5.0,
            rounds: ROUNDS,
            partitions: 4,
            bytes: vec![256, 1024],
            only_writes: false,
            apart: false,
            sweep: false,
            port: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "--seconds" => wishes.seconds = value()?.parse()?,
                "--rounds" => wishes.rounds = value()?.parse()?,
                "--partitions" => wishes.partitions = value()?.parse()?,
                "--bytes" => wishes.bytes = vec![value()?.parse()?],
                "--writes" => wishes.only_writes = true,
                "--apart" => wishes.apart = true,
                "--sweep" => wishes.sweep = true,
                "--port" => wishes.port = Some(value()?.parse()?),
                "--bench" => {}
                _ => {
                    return Err(format!(
                        "{arg} is none of --seconds N, --rounds N, --partitions N, --bytes N, --writes, --apart, --sweep, --port N"
                    )
                    .into());
                }
            }
        }
        Ok(wishes)
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

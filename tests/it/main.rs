//! Integration tests: one module for each promise.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod append;
mod common;

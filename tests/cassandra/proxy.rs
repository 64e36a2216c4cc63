//! Between tier and server: bytes that come late, are cut off, or are swallowed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What the proxy does to what passes through it.
#[derive(Default)]
struct Fault {
    /// Milliseconds by which answers come late.
    delay: AtomicU64,
    /// Bytes after which each connection is cut, in the middle of whatever it carries; 0 is never.
    cut_after: AtomicU64,
    /// Whether answers are swallowed: requests are done, and nobody is told.
    swallow: AtomicBool,
    ended: AtomicBool,
    cuts: AtomicU64,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    fault: Arc<Fault>,
}

impl Proxy {
    #[expect(clippy::disallowed_methods, reason = "the proxy is no part of a store")]
    pub(crate) fn new(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let fault = Arc::new(Fault::default());
        let state = fault.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if state.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let ends = [
                    (client.try_clone().unwrap(), server.try_clone().unwrap(), false),
                    (server, client, true),
                ];
                let passed = Arc::new(AtomicU64::new(0));
                for (from, to, answers) in ends {
                    let (state, passed) = (state.clone(), passed.clone());
                    std::thread::spawn(move || pass(from, to, answers, &state, &passed));
                }
            }
        });
        Self { port, fault }
    }

    pub(crate) fn delay(&self, by: Duration) {
        self.fault.delay.store(by.as_millis() as u64, Ordering::SeqCst);
    }

    pub(crate) fn cut_after(&self, bytes: u64) {
        self.fault.cut_after.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn swallow(&self, yes: bool) {
        self.fault.swallow.store(yes, Ordering::SeqCst);
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.fault.cuts.load(Ordering::SeqCst)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.fault.ended.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, answers: bool, fault: &Fault, passed: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len) = from.read(&mut buffer) {
        if len == 0 || fault.ended.load(Ordering::SeqCst) {
            break;
        }
        if answers && fault.swallow.load(Ordering::SeqCst) {
            continue;
        }
        if answers {
            std::thread::sleep(Duration::from_millis(fault.delay.load(Ordering::SeqCst)));
        }
        let limit = fault.cut_after.load(Ordering::SeqCst);
        let before = passed.fetch_add(len as u64, Ordering::SeqCst);
        if limit > 0 && before + len as u64 > limit {
            let part = (limit.saturating_sub(before) as usize).min(len);
            let _ = to.write_all(&buffer[..part]);
            fault.cuts.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

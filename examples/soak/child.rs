//! One life of the store: everything at once, until it is killed or its time is over.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::{Error, ErrorKind, Event, RegionKind, Store, Stream};

use crate::tier::Flaky;
use crate::{
    BATCH, Id, MARGIN_MS, RETENTION_MS, Slot, Slots, TTL_MS, WRITERS, check, checkpoint_file, now_ms, open,
};

/// A writer goes no further than this in a second, so that a life leaves no more than can be looked at.
const RATE: u64 = 6_000;

struct World<'a> {
    store: &'a Store,
    slots: &'a Slots,
    over: &'a AtomicBool,
    life: u64,
    acknowledged: [AtomicU64; WRITERS as usize],
    removed: [AtomicU64; WRITERS as usize],
}

impl World<'_> {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn count(&self, slot: Slot, by: u64) {
        self.slots.set(slot as usize, self.slots.get(slot as usize) + by);
    }
}

pub(crate) fn work(dir: &Path, life: u64, seconds: u64) {
    let (store, tier) = open(dir, life);
    let (slots, over) = (Slots::open(dir), AtomicBool::new(false));
    for slot in 0..Slot::End as usize {
        slots.set(slot, 0);
    }
    let world = World {
        store: &store,
        slots: &slots,
        over: &over,
        life,
        acknowledged: Default::default(),
        removed: Default::default(),
    };
    // One that fails ends the process, so that the parent sees it.
    let run = |task: &dyn Fn()| {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(task)).is_err() {
            std::process::exit(101);
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let world = &world;
            scope.spawn(move || run(&|| write(world, dir, writer)));
        }
        scope.spawn(|| run(&|| read(&world)));
        scope.spawn(|| run(&|| walk(&world)));
        scope.spawn(|| run(&|| operate(&world, &tier)));
        let end = now_ms() + seconds as i64 * 1000;
        while now_ms() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
    });
    tier.failing.store(0, Ordering::Relaxed);
    let report = store.close(Duration::from_secs(600)).unwrap();
    assert_eq!(report.left, 0, "{report:?}");
}

fn write(world: &World<'_>, dir: &Path, writer: u64) {
    let mut times =
        File::options().append(true).create(true).open(checkpoint_file(dir, world.life, writer)).unwrap();
    let (mut number, mut removed, began) = (1, 0, now_ms());
    let quick = world.store.class("quick").unwrap();
    while world.goes_on() {
        let count = if writer == 0 { 1 } else { BATCH };
        let now = now_ms();
        if number % 512 < count {
            let mut pair = number.to_le_bytes().to_vec();
            pair.extend_from_slice(&now.to_le_bytes());
            times.write_all(&pair).unwrap();
        }
        let ids: Vec<Id> =
            (number..number + count).map(|number| Id { life: world.life, writer, number }).collect();
        let made: Vec<(Id, Vec<u8>)> = ids.iter().map(|id| (*id, id.payload(now))).collect();
        match &made[..] {
            [(id, payload)] => append(world, quick, *id, now, payload),
            many => append_batch(world, quick, many, now),
        }
        number += count;
        world.acknowledged[writer as usize].store(number - 1, Ordering::Release);
        world.slots.set(Slot::Acknowledged as usize + writer as usize, number - 1);
        // Some way behind, so that events are removed in every tier.
        let lag = if number % 3 == 0 { 40 } else { 20_000 };
        while removed + lag < number {
            removed += 1;
            let id = Id { life: world.life, writer, number: removed };
            if id.is_removed() {
                remove(world, id.id());
            }
            world.removed[writer as usize].store(removed, Ordering::Release);
            world.slots.set(Slot::Removed as usize + writer as usize, removed);
        }
        let ahead = number as i64 * 1000 / RATE as i64 - (now_ms() - began);
        if ahead > 5 {
            std::thread::sleep(Duration::from_millis(ahead as u64));
        }
    }
}

fn event<'a>(quick: esker::Class, id: Id, now: i64, payload: &'a [u8]) -> Event<'a> {
    let event = Event::new(Stream::from(id.stream()), id.id(), now, id.number as u8).payload(payload);
    let event = if id.expires() { event.expires_at(now + TTL_MS) } else { event };
    if id.is_quick() { event.class(quick) } else { event }
}

fn refused(world: &World<'_>, error: &Error) {
    assert_eq!(error.kind(), ErrorKind::MemoryPressure, "{error}");
    world.count(Slot::Refused, 1);
    std::thread::sleep(error.retry_after().unwrap().min(Duration::from_millis(50)));
}

fn append(world: &World<'_>, quick: esker::Class, id: Id, now: i64, payload: &[u8]) {
    while let Err(error) = world.store.append(&event(quick, id, now, payload)) {
        refused(world, &error);
    }
}

fn append_batch(world: &World<'_>, quick: esker::Class, made: &[(Id, Vec<u8>)], now: i64) {
    let events: Vec<Event<'_>> = made.iter().map(|(id, payload)| event(quick, *id, now, payload)).collect();
    let batch = world.store.append_batch(&events).unwrap();
    for (at, (id, payload)) in made.iter().enumerate() {
        if let Err(error) = batch.outcome(at) {
            refused(world, error);
            append(world, quick, *id, now, payload);
        }
    }
}

/// Removes until it is certain.
fn remove(world: &World<'_>, id: u64) {
    loop {
        match world.store.remove(id) {
            Ok(_) => return,
            Err(error) => match error.kind() {
                ErrorKind::Cold | ErrorKind::MemoryPressure => std::thread::sleep(Duration::from_millis(5)),
                _ => panic!("remove: {error}"),
            },
        }
    }
}

/// Fetches what was acknowledged.
fn read(world: &World<'_>) {
    let mut draw = world.life;
    let began = now_ms();
    while world.goes_on() {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let writer = draw >> 20 & (WRITERS - 1);
        let most = world.acknowledged[writer as usize].load(Ordering::Acquire);
        if most == 0 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let id = Id { life: world.life, writer, number: 1 + (draw >> 24) % most };
        let gone = id.is_removed() && id.number <= world.removed[writer as usize].load(Ordering::Acquire);
        let now = now_ms();
        match world.store.fetch(id.id()) {
            Ok(Some(event)) => {
                check(&event, now);
                assert!(!gone, "{event:?} was removed");
            }
            // All of this life is young enough for the first while.
            Ok(None) => {
                let young = now_ms() - began < RETENTION_MS - MARGIN_MS;
                assert!(!young || id.is_removed() || id.expires(), "event {:x} is not found", id.id());
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Cold | ErrorKind::Timeout), "fetch: {error:?}")
            }
        }
        world.count(Slot::Reads, 1);
    }
}

/// Walks histories and scans, in memory and through all tiers.
fn walk(world: &World<'_>) {
    for turn in 0u32.. {
        if !world.goes_on() {
            return;
        }
        let (stream, began) = (Stream::from(turn % 64), now_ms());
        {
            let guard = world.store.pin();
            for event in guard.history(stream).newest().take(500) {
                assert_eq!(check(&event, began).stream(), turn % 64);
            }
            let mut seen = 0;
            for event in guard.scan(began - 3000..=began).take(5000) {
                check(&event, began);
                seen += 1;
            }
            world.count(Slot::Scanned, seen);
        }
        for event in world.store.fetch_history(stream).take(2000) {
            match event {
                Ok(event) => assert_eq!(check(&event, began).stream(), turn % 64),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Cold | ErrorKind::Timeout), "{error:?}")
                }
            }
        }
        world.count(Slot::Histories, 1);
    }
}

/// What operators do, and what befalls them.
fn operate(world: &World<'_>, tier: &Flaky) {
    for turn in 0u64.. {
        if !world.goes_on() {
            return;
        }
        tier.failing.store([0, 0, 20, 300, 1000][(turn % 5) as usize], Ordering::Relaxed);
        let (kind, size) =
            [(RegionKind::Hot, 12), (RegionKind::Warm, 8), (RegionKind::Hot, 6), (RegionKind::Warm, 4)]
                [(turn % 4) as usize];
        if world.store.resize_region(kind, (size << 20) as u64, Duration::from_millis(300)).is_ok() {
            world.count(Slot::Resized, 1);
        }
        {
            let began = now_ms();
            let guard = world.store.pin();
            let held: Vec<_> = guard.scan(..).take(300).collect();
            std::thread::sleep(Duration::from_millis(200 + turn % 7 * 100));
            assert!(held.iter().all(|event| check(event, began).id() == event.id()));
            world.count(Slot::Guards, 1);
        }
        let failed = tier.failed.load(Ordering::Relaxed);
        world.slots.set(Slot::TierFaults as usize, failed);
    }
}

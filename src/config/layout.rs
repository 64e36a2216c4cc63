//! How memory is divided among regions, and how large the tables are that describe them.

use crate::config::{
    ByteSize, Checked, Config, ConfigBuilder, ConfigFault, Durability, EVENT_MAX, KIB, LOGGED_ENTRY, MIB,
    PAGE_MAX, PAGE_MIN, PAGE_TABLE_ENTRY, PAGE_WARM, PAGES_MAX, PARTITIONS_MAX, RegionBuilder, RegionConfig,
};
use crate::ids::LogicalPage;
use crate::pressure::RegionKind;

/// The system region's page.
const SYSTEM_PAGE: u64 = 4 * KIB;

/// How memory is divided.
struct Parts {
    system: RegionConfig,
    hot: RegionConfig,
    warm: RegionConfig,
    index: RegionConfig,
    partitions: usize,
}

impl Parts {
    /// Bytes of all regions.
    fn total(&self) -> u64 {
        let parts = [&self.system, &self.hot, &self.warm, &self.index];
        parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.max))
    }
}

/// How often the tables are measured anew, which depend on the regions, and they on them.
const MEASURES: usize = 4;
const NAMES: [&str; 3] = ["hot", "warm", "index"];

impl ConfigBuilder {
    /// Divides the memory: what was asked for is taken as it is, the rest is shared 11 : 4 : 3 between hot, warm
    /// and index, or as the load asks for that is expected.
    fn parts(&mut self, memory: u64, buffers: u64) -> Parts {
        let asked = self.asked();
        let notes = if self.durability.keeps_pages() { memory / 128 } else { 0 };
        // The page table takes about 1/256 of the memory with default pages.
        let mut tables = memory / 64 + MIB / 2 + notes;
        let faults = self.faults.len();
        for _ in 0..MEASURES {
            let parts = self.parts_beside(tables, memory, buffers);
            let over = parts.total().saturating_add(buffers).saturating_sub(memory);
            if over == 0 || asked.iter().all(Option::is_some) {
                return parts;
            }
            // With small pages it takes more: what nobody asked for is smaller by as much.
            tables = tables.saturating_add(over);
            self.faults.truncate(faults);
        }
        self.parts_beside(tables, memory, buffers)
    }

    /// The sizes that were asked for.
    fn asked(&self) -> [Option<u64>; 3] {
        // Where no class goes through the warm tier, it gets what a region must have.
        let warm = if self.classes.iter().any(|class| class.compress) { None } else { Some(PAGE_WARM) };
        [self.hot.max, self.warm.max.or(warm), self.index.max]
    }

    /// The same, where tables take so much.
    fn parts_beside(&mut self, tables: u64, memory: u64, buffers: u64) -> Parts {
        let asked = self.asked();
        let fixed: u64 = asked.iter().flatten().fold(0, |sum: u64, max| sum.saturating_add(*max));
        let expected = self.adaptive_sizing.as_ref().and_then(|rules| rules.shares(&self.classes));
        let shares = expected.unwrap_or([11, 4, 3]);
        let open: u64 =
            asked.iter().zip(shares).filter(|(max, _)| max.is_none()).map(|(_, share)| share).sum();
        let rest = memory.saturating_sub(buffers).saturating_sub(tables).saturating_sub(fixed);
        let share =
            |asked: Option<u64>, share: u64| asked.unwrap_or((rest / open.max(1)).saturating_mul(share));
        // What nobody asked for is made to fit pages from a pool.
        let whole = if self.huge_pages.is_explicit() { PAGE_MAX } else { 1 };
        let share = |wish: Option<u64>, of| wish.unwrap_or_else(|| share(wish, of) / whole * whole);
        let (hot_max, warm_max, index_max) =
            (share(asked[0], shares[0]), share(asked[1], shares[1]), share(asked[2], shares[2]));

        let hot_page = floor_power(hot_max / 128).clamp(4 * KIB, 64 * KIB);
        let index_page = floor_power(index_max / 64).clamp(2 * KIB, 16 * KIB);
        let (hot, warm, index) = (self.hot.clone(), self.warm.clone(), self.index.clone());
        let hot = self.region(RegionKind::Hot, &hot, hot_max, hot_page, memory);
        let warm = self.region(RegionKind::Warm, &warm, warm_max, PAGE_WARM, memory);
        let index = self.region(RegionKind::Index, &index, index_max, index_page, memory);

        let partitions = self.partitions.unwrap_or_else(|| {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let room = (hot.max / hot.page_size) as usize / (8 * self.classes.len().max(1));
            cpus.next_power_of_two().clamp(4, 256).min(floor_power(room.max(1) as u64) as usize)
        });
        // What is at fault already must not make the sums below overflow.
        let partitions = partitions.clamp(1, PARTITIONS_MAX);
        let lanes = (partitions * self.classes.len()) as u64;
        if hot.max / hot.page_size < 2 * lanes + 2 {
            self.fault(
                "hot.max",
                format!(
                    "{} pages of {} are too few for {partitions} partitions of {} classes, which keep one page open \
                     each; use more memory, smaller pages or fewer partitions",
                    hot.max / hot.page_size,
                    ByteSize::new(hot.page_size),
                    self.classes.len()
                ),
            );
        }
        if index.max / index.page_size < 2 * partitions as u64 + 4 {
            let problem = format!("too small for {partitions} partitions; use at least a few pages for each");
            self.fault("index.max", problem);
        }
        let system = system_region(&hot, &warm, &index, partitions, self.durability);
        Parts { system, hot, warm, index, partitions }
    }

    /// Where what was asked for leaves too little for the rest, that is the fault, and all else follows from it.
    fn blame_what_was_asked(&mut self, known: usize, memory: u64, buffers: u64) {
        let asked = self.asked();
        let open = || NAMES.into_iter().zip(asked).filter(|(_, asked)| asked.is_none()).map(|(name, _)| name);
        let event_is_open = self.max_event.is_none();
        let follows = |field: &str| {
            field == "memory"
                || field == "max_event" && event_is_open
                || open().any(|name| field == format!("{name}.max"))
        };
        let starved = |fault: &ConfigFault| fault.field != "max_event" && follows(&fault.field);
        if !self.faults[known..].iter().any(starved) || open().count() == 0 {
            return;
        }
        let others = self.faults.split_off(known);
        self.faults.extend(others.into_iter().filter(|fault| !follows(&fault.field)));
        let mut parts: Vec<(String, u64)> = NAMES
            .into_iter()
            .zip([self.hot.max, self.warm.max, self.index.max])
            .filter_map(|(name, max)| Some((format!("{name}.max"), max?)))
            .collect();
        parts.extend(self.buffers.map(|buffers| ("buffers".into(), buffers)));
        let field = match &parts[..] {
            [(field, _)] => field.clone(),
            _ => "memory".into(),
        };
        parts.retain(|(name, _)| *name != "buffers");
        parts.push(("buffers".into(), buffers));
        let sizes: Vec<String> =
            parts.iter().map(|(name, bytes)| format!("{name} {}", ByteSize::new(*bytes))).collect();
        let problem = format!(
            "of the `memory` of {} too little is left for {} beside {}; raise it, or make these smaller",
            ByteSize::new(memory),
            open().collect::<Vec<_>>().join(", "),
            sizes.join(", ")
        );
        self.fault(field, problem);
    }

    /// Fills in everything that was left open.
    pub(super) fn layout(&mut self) -> Config {
        let memory = self.memory.unwrap_or(256 * MIB);
        let buffers = self.buffers.unwrap_or((memory / 8).clamp(2 * MIB, 256 * MIB));
        let known = self.faults.len();
        let parts = self.parts(memory, buffers);
        let regions = parts.total();
        let Parts { system, hot, warm, index, partitions } = parts;
        let max_event = self.max_event.unwrap_or(EVENT_MAX.min(hot.max / 8).min(buffers / 8));
        let most = EVENT_MAX.min(hot.max / 2).min(buffers / 8);
        if max_event > most || max_event < 64 {
            let problem = format!(
                "{} is not from 64 bytes to {}, the smallest of 16 MiB, half of the hot region ({}) and an eighth of \
                 the buffers ({})",
                ByteSize::new(max_event),
                ByteSize::new(most),
                ByteSize::new(hot.max),
                ByteSize::new(buffers)
            );
            self.fault("max_event", problem);
        }
        let total = regions.saturating_add(buffers);
        if total > memory {
            self.fault(
                "memory",
                format!(
                    "{} is less than its parts: system {}, hot {}, warm {}, index {}, buffers {}; raise it to {} or \
                     shrink a part",
                    ByteSize::new(memory),
                    ByteSize::new(system.max),
                    ByteSize::new(hot.max),
                    ByteSize::new(warm.max),
                    ByteSize::new(index.max),
                    ByteSize::new(buffers),
                    ByteSize::new(total)
                ),
            );
        }
        self.blame_what_was_asked(known, memory, buffers);
        if buffers < MIB {
            self.fault("buffers", format!("{} is less than 1 MiB", ByteSize::new(buffers)));
        }
        Config {
            memory,
            system,
            hot,
            warm,
            index,
            buffers,
            partitions,
            partitions_fixed: self.partitions.is_some(),
            sizes_fixed: self.asked().map(|asked| asked.is_some()),
            classes: std::mem::take(&mut self.classes),
            data_dir: self.data_dir.take(),
            durability: self.durability,
            shared_dir: self.shared_dir.take(),
            max_event,
            append_timeout: self.append_timeout,
            on_full: self.on_full,
            stall_after: self.stall_after,
            fetch_timeout: self.fetch_timeout,
            thresholds: self.thresholds,
            slice_events: self.slice_events,
            slice_time: self.slice_time,
            move_rate: self.move_rate,
            defrag_below: self.defrag_below,
            event_checksums: self.event_checksums,
            shrink_after: self.shrink_after,
            adaptive_sizing: self.adaptive_sizing.take(),
            block_bytes: self.block_bytes.min(buffers / 16),
            background: self.background,
            huge_pages: self.huge_pages,
            numa: std::mem::take(&mut self.numa),
            lock_memory: self.lock_memory,
            strict: self.strict,
            affinity: std::mem::take(&mut self.affinity),
            checked: Checked::default(),
        }
    }

    fn region(
        &mut self,
        kind: RegionKind,
        wish: &RegionBuilder,
        max: u64,
        page_size: u64,
        memory: u64,
    ) -> RegionConfig {
        let name = kind.name();
        let mut page_size = wish.page_size.unwrap_or(page_size);
        if !page_size.is_power_of_two() || !(PAGE_MIN..=PAGE_MAX).contains(&page_size) {
            let problem = format!("{page_size} bytes is not a power of two from 2 KiB to 2 MiB");
            self.fault(format!("{name}.page_size"), problem);
            page_size = 64 * KIB;
        }
        let pages = max / page_size;
        if pages == 0 {
            let problem = format!("{} has no room for a page of {page_size} bytes", ByteSize::new(max));
            self.fault(format!("{name}.max"), problem);
        } else if pages > PAGES_MAX {
            self.fault(format!("{name}.max"), "more than 2^30 pages; use larger pages");
        }
        let max = pages.clamp(1, PAGES_MAX) * page_size;
        if let Some(ceiling) = wish.ceiling
            && ceiling < max
        {
            let problem = format!("{} is less than max, {}", ByteSize::new(ceiling), ByteSize::new(max));
            self.fault(format!("{name}.ceiling"), problem);
        }
        // Pages from a pool are all taken at once, and the tables over files are allocated for all that there can ever be.
        let fixed = self.huge_pages.is_explicit() || self.durability.keeps_pages();
        let most = match kind {
            _ if fixed => max,
            // Its tables take memory for all of it, from the first moment on.
            RegionKind::Index => max.saturating_mul(8),
            _ => memory,
        };
        let ceiling = wish.ceiling.unwrap_or(most).min(memory) / page_size;
        let ceiling = ceiling.min(PAGES_MAX) * page_size;
        let chunk = wish.chunk.unwrap_or((64 * MIB).min(max)).max(page_size) / page_size * page_size;
        // In whole pages, as the maximum is.
        let initial = wish.initial.map_or_else(|| chunk.min(max), |bytes| bytes / page_size * page_size);
        if initial > max {
            let problem = format!("{} is more than max, {}", ByteSize::new(initial), ByteSize::new(max));
            self.fault(format!("{name}.initial"), problem);
        }
        RegionConfig {
            initial: initial.min(max),
            max,
            ceiling: ceiling.max(max),
            page_size,
            chunk,
            prefault: wish.prefault,
        }
    }
}

/// How many logical pages can be in regions of so many bytes: every hot page, and warm images down to an eighth of one.
pub(super) fn logical_pages(
    hot: &RegionConfig,
    warm: &RegionConfig,
    [hot_bytes, warm_bytes]: [u64; 2],
) -> u64 {
    let smallest_image = (hot.page_size / 8).max(warm.page_size);
    (hot_bytes / hot.page_size + warm_bytes / smallest_image + 64).min(u64::from(LogicalPage::LIMIT))
}

/// What the page table and the directories of the indexes take of memory for so many logical pages and an index of so
/// many bytes. The table of chunks is used all over, so it counts as large as it is.
pub(super) fn system_bytes(index: &RegionConfig, partitions: usize, pages: u64, index_bytes: u64) -> u64 {
    let table = (pages + 1) * (PAGE_TABLE_ENTRY + 8 + 8);
    let chunks = chunk_table_words(index) * 8;
    let directories = (4 + partitions as u64) * SYSTEM_PAGE;
    let sized = directory_bytes(index, partitions, index_bytes);
    (table + sized + chunks + directories).next_multiple_of(SYSTEM_PAGE) + 2 * SYSTEM_PAGE
}

/// What the directories of hash tables take for an index of so many bytes.
fn directory_bytes(index: &RegionConfig, partitions: usize, index_bytes: u64) -> u64 {
    let sized = RegionConfig { ceiling: index_bytes, ..*index };
    4 * (directory_slots(&sized) + partitions as u64 * stream_directory_slots(&sized, partitions))
}

/// The file of the index's directories and table of chunks, which is allocated for the most that there can be.
pub(super) fn index_tables(index: &RegionConfig, partitions: usize) -> RegionConfig {
    let slabs = [directory_slots(index) * 4, chunk_table_words(index) * 8];
    let streams = (stream_directory_slots(index, partitions) * 4).next_multiple_of(SYSTEM_PAGE);
    let whole: u64 = slabs.map(|bytes| bytes.next_multiple_of(SYSTEM_PAGE)).iter().sum();
    let bytes = whole + partitions as u64 * streams;
    RegionConfig {
        initial: bytes,
        max: bytes,
        ceiling: bytes,
        page_size: SYSTEM_PAGE,
        chunk: bytes,
        prefault: false,
    }
}

/// The page table and the directories of the indexes: address space for the most that the other regions can ever hold,
/// memory for what they can hold at first.
pub(super) fn system_region(
    hot: &RegionConfig,
    warm: &RegionConfig,
    index: &RegionConfig,
    partitions: usize,
    durability: Durability,
) -> RegionConfig {
    let shared = shared_bytes(hot, warm, index, partitions, durability);
    let bytes = |pages, index_bytes| system_bytes(index, partitions, pages, index_bytes) + shared;
    let max = bytes(logical_pages(hot, warm, [hot.max, warm.max]), index.max);
    let ceiling = bytes(logical_pages(hot, warm, [hot.ceiling, warm.ceiling]), index.ceiling);
    RegionConfig { initial: max, max, ceiling, page_size: SYSTEM_PAGE, chunk: max, prefault: false }
}

/// How many events that are in memory can have been removed at a time.
pub(super) fn removal_notes(hot: &RegionConfig, warm: &RegionConfig) -> u64 {
    ((hot.ceiling + warm.ceiling) / KIB).max(1024)
}

/// What the notes of removed events take, where there are such, and what the log has of each page. Page table and directories
/// then count as large as they can become, since files are allocated before they are used.
pub(super) fn shared_bytes(
    hot: &RegionConfig,
    warm: &RegionConfig,
    index: &RegionConfig,
    partitions: usize,
    durability: Durability,
) -> u64 {
    if !durability.keeps_pages() {
        return 0;
    }
    let pages = |sizes| logical_pages(hot, warm, sizes);
    let all = pages([hot.ceiling, warm.ceiling]);
    let more = all - pages([hot.max, warm.max]);
    let directories = |index_bytes| directory_bytes(index, partitions, index_bytes);
    let logged = if durability.disk().is_some() { (all + 1) * LOGGED_ENTRY + SYSTEM_PAGE } else { 0 };
    let bytes = removal_notes(hot, warm) * 8
        + more * (PAGE_TABLE_ENTRY + 8)
        + directories(index.ceiling).saturating_sub(directories(index.max))
        + logged
        + 4 * SYSTEM_PAGE;
    bytes.next_multiple_of(SYSTEM_PAGE)
}

/// Entries of the id index's directory: four for each page that the index region can ever have, so that an uneven
/// hash does not exhaust it.
pub(crate) fn directory_slots(index: &RegionConfig) -> u64 {
    (index.ceiling / index.page_size * 4).next_power_of_two()
}

/// Words of the table of chunks: two for each slot, and two slots for each page that the index region can have.
pub(crate) fn chunk_table_words(index: &RegionConfig) -> u64 {
    (index.ceiling / index.page_size * 2).next_power_of_two().max(4) * 2
}

/// Entries of one partition's stream directory.
pub(crate) fn stream_directory_slots(index: &RegionConfig, partitions: usize) -> u64 {
    (directory_slots(index) * 2 / partitions as u64).next_power_of_two().max(16)
}

fn floor_power(value: u64) -> u64 {
    if value == 0 { 1 } else { 1 << value.ilog2() }
}

//! The files of [`Durability::Process`]: what they were made for, and whether this store can take them over.
//!
//! ```text
//! lock       taken for as long as the store is open
//! record     what the others were made for, twice
//! hot, warm  page frames
//! table      page table: what is known of each page      places   where each page is
//! removed    notes of removed events                     ids      the last id that the store gave
//! names      log of stream names                         logged   what the log on the disk has of each page
//! index, index tables  the indexes             image  what of them was on the heap when the store was closed
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use crate::clock;
use crate::config::{ByteSize, Config, Durability, PAGE_TABLE_ENTRY};
use crate::error::{Error, ErrorKind, Result};
use crate::pages::restore::shared_slab;
use crate::store::builder::fresh_seed;
use crate::store::page_set::PageSet;
use crate::sys::memory::Slab;
use crate::sys::shared::{Log, LogEntries, Record, SharedDir};

/// The version of everything in the directory. Since 2 the record has the number of the pages ([`PageSet`]), and places have checks;
/// since 3 warm images may be of the form whose frames share a dictionary.
const VERSION: u32 = 3;
const RECORD: &str = "record";
/// The files whose length follows from the layout: if one is shorter, something of it is missing.
const TABLES: [&str; 3] = ["table", "places", "removed"];
const FILES: [&str; 11] =
    ["table", "places", "removed", "hot", "warm", "ids", "names", "logged", "index", "index tables", IMAGE];
/// The files that are mapped.
const MAPPED: [&str; 7] = ["table", "places", "removed", "hot", "warm", "index", "index tables"];
const IMAGE: &str = "image";

/// How a run of the store left the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// They were being made.
    New,
    /// They were in use.
    Open,
    /// The store was closed; some events were only here.
    Closed,
    /// The store was closed, and the cold tier has everything.
    Settled,
}

impl State {
    const ALL: [(Self, &str); 4] =
        [(Self::New, "new"), (Self::Open, "open"), (Self::Closed, "closed"), (Self::Settled, "settled")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("open", |(_, name)| name)
    }
}

/// What an earlier run left.
#[derive(Clone, Debug)]
pub(crate) struct Earlier {
    state: State,
    pub(crate) seed: u64,
    pub(crate) partitions: usize,
    /// The first page number of that run; see [`ColdTier::begin`](crate::ColdTier::begin).
    pub(crate) first_seq: u64,
    /// Which files of pages these are, where a log was written beside them: another number wherever they were made anew.
    pub(crate) pages: Option<u64>,
    /// Which pages of the data directory they are: see [`PageSet`].
    pub(crate) set: Option<u64>,
    fields: Vec<(String, String)>,
}

impl Earlier {
    pub(crate) fn was_closed(&self) -> bool {
        matches!(self.state, State::Closed | State::Settled)
    }

    /// Whether there may be events here that nothing else has.
    pub(crate) fn holds_events(&self) -> bool {
        matches!(self.state, State::Open | State::Closed)
    }

    /// Which start of the system it was that the files were used in, if a log was written beside them.
    fn boot(&self) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == "boot").map(|(_, value)| &**value)
    }

    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<(String, String)> = text
            .lines()
            .map(|line| line.split_once(' ').map(|(name, value)| (name.to_string(), value.to_string())))
            .collect::<Option<_>>()?;
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| &**value);
        let state = field("state")?;
        Some(Self {
            state: State::ALL.iter().find(|(_, name)| *name == state)?.0,
            seed: u64::from_str_radix(field("seed")?, 16).ok()?,
            partitions: field("partitions")?.parse().ok()?,
            first_seq: field("first_seq")?.parse().ok()?,
            pages: field("pages").map(|pages| u64::from_str_radix(pages, 16)).transpose().ok()?,
            set: field("set").map(|set| u64::from_str_radix(set, 16)).transpose().ok()?,
            fields,
        })
    }
}

/// Whether a record that says this can be understood.
#[cfg(fuzzing)]
pub(crate) fn understands(text: &str) -> bool {
    Earlier::parse(text).is_some()
}

/// The open files.
pub(crate) struct Shared {
    pub(crate) dir: SharedDir,
    record: Mutex<Record>,
    /// Everything that the record says beside the state.
    layout: Mutex<Vec<(String, String)>>,
    /// See [`Earlier::pages`].
    pub(crate) pages: u64,
    /// What a store that was closed has left of its heap. Any later write of the record makes it worthless.
    pub(crate) image: Option<Vec<u64>>,
    page_set: Mutex<PageSet>,
    /// Until the store is open: what the record said before, which holds still if it does not come to that.
    before: Mutex<Option<State>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(before) = self.before.get_mut().take() {
            // If this fails, too, the next opening takes it that the process was ended, which is as well.
            let _ = self.write(before);
        }
    }
}

/// A directory that was taken, and what an earlier run left there.
pub(crate) struct Taken {
    dir: SharedDir,
    record: Record,
    pub(crate) earlier: Option<Earlier>,
}

impl Taken {
    /// Takes the directory, if the configuration asks for one.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`], [`ErrorKind::Incompatible`] for files of a newer version, [`ErrorKind::Corrupt`] when
    /// it cannot be told what they are.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>> {
        let Some(path) = place(config)? else { return Ok(None) };
        if config.durability == Durability::Memory {
            return check_unused(&path).map(|()| None);
        }
        let dir = SharedDir::take(&path)?;
        let here = path.join(RECORD);
        if !dir.has(RECORD) {
            if let Some(left) = FILES.iter().find(|name| dir.has(name)) {
                return Err(Error::corrupt(format!(
                    "{} has a file {left:?} but no record that says what it is; move the directory away to begin anew",
                    path.display()
                )));
            }
            let record = Record::new(dir.file(RECORD)?);
            return Ok(Some(Self { dir, record, earlier: None }));
        }
        let (record, found) = match Record::read(dir.file(RECORD)?, &here) {
            // The very first thing that was to be written here never was.
            Err(error) if error.kind() == ErrorKind::Corrupt && !FILES.iter().any(|name| dir.has(name)) => {
                let record = Record::new(dir.file(RECORD)?);
                return Ok(Some(Self { dir, record, earlier: None }));
            }
            other => other?,
        };
        found.check_version(VERSION, &path)?;
        let earlier = Earlier::parse(&found.text)
            .ok_or_else(|| Error::corrupt(format!("{} makes no sense", here.display())))?;
        let is_new = earlier.state == State::New;
        // Files of pages that lie on a disk are of different moments after a crash of the system: the log is right.
        let is_of_other_boot =
            config.durability.disk().is_some() && earlier.boot().is_some_and(|then| then != boot());
        let mut taken = Self { dir, record, earlier: Some(earlier) };
        if is_new || is_of_other_boot {
            // Nothing was ever acknowledged, or it is in the log.
            taken.begin_anew()?;
        }
        Ok(Some(taken))
    }

    /// Lets the files go if the log went on beside others: what they hold is of an earlier time. Whether that is so.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn begin_anew_unless(&mut self, pages: u64, seed: u64) -> Result<bool> {
        // Those of another data directory are not ours to let go: they are refused later.
        let ours = self.earlier.as_ref().filter(|earlier| earlier.seed == seed);
        let are_others = ours.is_some_and(|earlier| earlier.pages.is_some_and(|these| these != pages));
        if are_others {
            self.begin_anew()?;
        }
        Ok(are_others)
    }

    fn begin_anew(&mut self) -> Result<()> {
        // Should this end in the middle, the next opening goes on with it.
        self.record.write(VERSION, "state new\nseed 0\nfirst_seq 0\npartitions 1\n")?;
        for name in FILES {
            self.dir.delete(name)?;
        }
        self.earlier = None;
        Ok(())
    }

    /// Makes sure that the files fit the configuration, and notes what they are made for. `begun` is the first page number
    /// that the cold tier gave to this run; the run goes on with those of the earlier one, if there are pages of it.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`], which says what differs; [`ErrorKind::Corrupt`] when a table is cut off.
    pub(crate) fn settle(
        mut self,
        config: &Config,
        seed: u64,
        begun: u64,
        mut page_set: PageSet,
    ) -> Result<(Shared, Option<Earlier>)> {
        let layout = |first_seq, pages| layout(config, seed, first_seq, pages, page_set.number());
        let pages_of = |earlier: &Option<Earlier>| {
            earlier.as_ref().and_then(|earlier| earlier.pages).unwrap_or_else(fresh_seed)
        };
        let settled = self.earlier.as_ref().is_some_and(|earlier| earlier.state == State::Settled);
        if page_set.is_left_over() && settled {
            self.begin_anew()?;
        }
        if let Some(earlier) = &self.earlier
            && let Err(error) =
                fits(&self.dir, earlier, &layout(earlier.first_seq, pages_of(&self.earlier)), config)
        {
            // What differs does not matter where the cold tier has everything.
            if earlier.state != State::Settled {
                return Err(error);
            }
            self.begin_anew()?;
        }
        let first_seq = self.earlier.as_ref().map_or(begun, |earlier| earlier.first_seq);
        let pages = pages_of(&self.earlier);
        let layout = Mutex::new(layout(first_seq, pages));
        if self.earlier.is_some() {
            check_lengths(&self.dir, config)?;
        }
        let Self { dir, record, earlier } = self;
        let closed = earlier.as_ref().is_some_and(Earlier::was_closed) && dir.lies_in_memory();
        let image = if closed { read_image(&dir, record.turn()) } else { None };
        let before = Mutex::new(earlier.as_ref().map(|earlier| earlier.state));
        page_set.begin(settled && !page_set.is_left_over())?;
        let (record, page_set) = (Mutex::new(record), Mutex::new(page_set));
        let shared = Shared { dir, record, layout, pages, image, page_set, before };
        shared.write(if earlier.is_some() { State::Open } else { State::New })?;
        Ok((shared, earlier))
    }
}

impl Shared {
    fn write(&self, state: State) -> Result<()> {
        let layout = self.layout.lock();
        let mut text = format!("state {}\n", state.name());
        for (name, value) in layout.iter() {
            text.push_str(&format!("{name} {value}\n"));
        }
        self.record.lock().write(VERSION, &text)
    }

    /// Notes that the files are whole and in use. In both copies: an older one that says that there is nothing to lose must
    /// not be what is left if the newer one is damaged.
    pub(crate) fn opened(&self, durability: Durability) -> Result<()> {
        self.write(State::Open)?;
        self.write(State::Open)?;
        self.page_set.lock().opened(durability)?;
        self.dir.delete(IMAGE)?;
        *self.before.lock() = None;
        Ok(())
    }

    /// Notes that the store was closed. `settled`: the cold tier has everything. `image` is what the next one needs so as
    /// not to build anew what the files hold.
    pub(crate) fn closed(&self, settled: bool, image: Option<&[u64]>) -> Result<()> {
        if let Some(image) = image {
            // It is of the record that is written next. Without it there is more to do, and nothing is lost.
            let number = self.record.lock().turn() + 1;
            let _ = self.dir.write_words(IMAGE, number, &[&lengths(&self.dir), image].concat());
        }
        self.write(if settled { State::Settled } else { State::Closed })?;
        if settled { self.page_set.lock().settled() } else { Ok(()) }
    }

    /// Whether the next opening can take over what the files hold as it is. Files on a disk may be of different moments
    /// when the machine has ended, or be damaged unnoticed, and every record is looked at there.
    pub(crate) fn can_be_attached(&self) -> bool {
        self.dir.lies_in_memory()
    }

    pub(crate) fn names(&self) -> Result<(Log, LogEntries)> {
        Log::open(self.dir.file("names")?)
    }

    /// The last id that the store gave.
    pub(crate) fn last_id(&self) -> Result<Slab<AtomicU64>> {
        shared_slab(&self.dir, "ids", 1)
    }
}

/// What a store that was closed has left of its heap, if the files are still as long as it left them: to be asked before
/// any is mapped, which makes it longer.
fn read_image(dir: &SharedDir, number: u64) -> Option<Vec<u64>> {
    let mut words = dir.words(IMAGE, number)?;
    let image = words.split_off(MAPPED.len().min(words.len()));
    (words == lengths(dir)).then_some(image)
}

fn lengths(dir: &SharedDir) -> [u64; MAPPED.len()] {
    MAPPED.map(|name| dir.len(name))
}

/// Where the files are or would be. The data directory, after which they are named, is made for it.
fn place(config: &Config) -> Result<Option<PathBuf>> {
    if config.durability.keeps_pages()
        && config.shared_dir.is_none()
        && let Some(data) = &config.data_dir
    {
        std::fs::create_dir_all(data)
            .map_err(|error| Error::io(format!("cannot make {}", data.display()), error))?;
    }
    Ok(config.shared_dir())
}

/// A store that keeps its pages to itself must not go on where another has left events that only its files hold: it would
/// number its pages as that one did.
fn check_unused(path: &Path) -> Result<()> {
    let record = path.join(RECORD);
    let Ok(file) = std::fs::File::open(&record) else { return Ok(()) };
    let earlier = Record::read(file, &record).ok().and_then(|(_, found)| Earlier::parse(&found.text));
    if !earlier.is_some_and(|earlier| earlier.holds_events()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Incompatible,
        format!(
            "{} holds events that a store with Durability::Process or Durability::Disk left there; open it with that once and close it, or \
             delete the directory if they may be lost",
            path.display()
        ),
    ))
}

/// What waits in a directory of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    /// The set that was asked for is not there.
    Nothing,
    /// It is, and the cold tier has everything of it.
    Settled,
    /// It is, or that cannot be told.
    Events,
}

/// Whether events of certain pages wait in a directory that this store does not have: those of which the number `is_asked_for`.
///
/// # Errors
/// [`ErrorKind::AlreadyOpen`] when a store has the directory; [`ErrorKind::Io`].
pub(crate) fn what_waits(path: &Path, is_asked_for: &dyn Fn(u64) -> bool) -> Result<Waiting> {
    let record = path.join(RECORD);
    let file = match std::fs::File::open(&record) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            // Without its record nobody can tell what they are.
            let left = FILES.iter().any(|name| path.join(name).exists());
            return Ok(if left { Waiting::Events } else { Waiting::Nothing });
        }
        Err(error) => return Err(Error::io(format!("cannot look at {}", record.display()), error)),
    };
    let earlier = match Record::read(file, &record) {
        Ok((_, found)) => Earlier::parse(&found.text),
        Err(error) if error.kind() == ErrorKind::Corrupt => None,
        Err(error) => return Err(error),
    };
    if earlier
        .as_ref()
        .is_some_and(|earlier| !earlier.set.is_some_and(is_asked_for) || earlier.state == State::New)
    {
        return Ok(Waiting::Nothing);
    }
    if SharedDir::is_taken(path) {
        return Err(Error::already_open(path));
    }
    Ok(match earlier {
        Some(earlier) if earlier.state == State::Settled => Waiting::Settled,
        _ => Waiting::Events,
    })
}

/// Everything that the bytes of the files depend on.
fn layout(config: &Config, seed: u64, first_seq: u64, pages: u64, set: Option<u64>) -> Vec<(String, String)> {
    let entries = u64::from(config.logical_pages_ceiling()) + 1;
    let mut fields = vec![
        ("seed".to_string(), format!("{seed:016x}")),
        ("first_seq".to_string(), first_seq.to_string()),
        ("partitions".to_string(), config.partitions.to_string()),
    ];
    for (name, region) in [("hot", &config.hot), ("warm", &config.warm)] {
        fields.push((format!("{name}.page_size"), region.page_size.to_string()));
        fields.push((format!("{name}.ceiling"), region.ceiling.to_string()));
    }
    fields.push(("table.entry".to_string(), PAGE_TABLE_ENTRY.to_string()));
    fields.push(("table.entries".to_string(), entries.to_string()));
    fields.push(("removed.entries".to_string(), config.removal_notes().to_string()));
    if config.durability.disk().is_some() {
        fields.push(("boot".to_string(), boot()));
        fields.push(("pages".to_string(), format!("{pages:016x}")));
    }
    if let Some(set) = set {
        fields.push(("set".to_string(), format!("{set:016x}")));
    }
    for (number, class) in config.classes.iter().enumerate() {
        let name: String = class.name.bytes().map(|byte| format!("{byte:02x}")).collect();
        fields.push((format!("class.{number}"), name));
    }
    fields
}

/// Which start of the system this is.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // Where the system does not say, no file of pages is ever trusted.
    if id.is_empty() { format!("{:?}", clock::now()) } else { id.trim().to_string() }
}

fn fits(dir: &SharedDir, earlier: &Earlier, layout: &[(String, String)], config: &Config) -> Result<()> {
    let value = |fields: &[(String, String)], name: &str| {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map_or("nothing".to_string(), |(_, value)| value.clone())
    };
    let differs = |name: &&str| value(&earlier.fields, name) != value(layout, name);
    let [hot, warm, _] = config.sizes_fixed;
    let follows = |name: &&str| match *name {
        "hot.ceiling" => !hot,
        "warm.ceiling" => !warm,
        "table.entries" | "removed.entries" => true,
        _ => false,
    };
    // Each opening gives the pages another number.
    let names =
        earlier.fields.iter().map(|(name, _)| name.as_str()).filter(|name| !["state", "set"].contains(name));
    let all: Vec<&str> = names.filter(differs).collect();
    // Rather what was changed than what came of it.
    let Some(name) = all.iter().find(|name| !follows(name)).or(all.first()) else { return Ok(()) };
    let (before, now) = (value(&earlier.fields, name), value(layout, name));
    let why = match *name {
        "seed" => " (they belong to another data directory)".to_string(),
        name if follows(&name) => why_it_follows(dir, earlier, config),
        _ => String::new(),
    };
    Err(Error::new(
        ErrorKind::Incompatible,
        format!(
            "the pages in {} were written with {name} {before}, the configuration says {now}{why}; open the store as it \
             was and close it cleanly with a cold tier before changing this. Events of classes that \
             are dropped never go there: if only those are left after a flush and may be lost, delete the directory",
            dir.path().display(),
        ),
    ))
}

/// Why a region that has no size of its own has another one than it had, and how it gets that again.
fn why_it_follows(dir: &SharedDir, earlier: &Earlier, config: &Config) -> String {
    let (index, mut keep) = (dir.len("index"), Vec::new());
    for (name, fixed) in ["hot", "warm"].into_iter().zip(config.sizes_fixed) {
        let ceiling = format!("{name}.ceiling");
        let before = earlier.fields.iter().find(|(field, _)| *field == ceiling);
        keep.extend(before.filter(|_| !fixed).map(|(_, bytes)| format!("{name}.max({bytes})")));
    }
    let changed = if config.sizes_fixed[2] && index != 0 && index != config.index.ceiling {
        let [before, now] = [index, config.index.ceiling].map(ByteSize::new);
        format!("`index`, which had {before} and has {now} now")
    } else {
        "`memory`, `buffers`, or the size of another region".to_string()
    };
    format!(
        ". That follows from what was changed: {changed}. To go on with the pages beside that, ask for {} as it was",
        keep.join(" and ")
    )
}

fn check_lengths(dir: &SharedDir, config: &Config) -> Result<()> {
    let entries = u64::from(config.logical_pages_ceiling()) + 1;
    let lengths = [entries * PAGE_TABLE_ENTRY, entries * 8, config.removal_notes() as u64 * 8];
    for (name, wanted) in TABLES.iter().zip(lengths) {
        let path = dir.path().join(name);
        let len = dir.len(name);
        if len < wanted {
            return Err(Error::corrupt(format!(
                "{} has {len} bytes of {wanted}: what is missing cannot be told; move the directory away to begin anew \
                 with what the cold tier has",
                path.display()
            )));
        }
    }
    Ok(())
}

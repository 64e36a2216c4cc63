//! The memory behind a region: which pages of the processor it has, and how it is tied to nodes.

use std::fs::File;
use std::sync::Arc;

use crate::config::{ByteSize, HugePages, NumaPolicy, RegionConfig};
use crate::error::Result;
use crate::pressure::RegionKind;
use crate::regions::arenas::Arenas;
use crate::sys::machine::{Layout, Machine};
use crate::sys::memory::{HUGE_PAGE, Mapping};

/// Pages of the processor behind a region, as far as was agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageKind {
    Small,
    /// Huge ones where the system finds some.
    Advised,
    /// From a pool, of `1 <<` so many bytes each.
    Explicit(u8),
}

pub(crate) struct Backing {
    pub(crate) mapping: Mapping,
    pub(crate) pages: PageKind,
    pub(crate) arenas: Option<Arenas>,
}

/// From this length on the system region has huge pages. It has a dozen tables, of each of which little is used at first: a huge
/// page for each would be most of what a small store takes beside its events, and what is read of them has room among the
/// processor's translations of small pages.
const SYSTEM_HUGE: usize = 256 << 20;

impl Backing {
    pub(crate) fn new(kind: RegionKind, config: &RegionConfig, machine: &Arc<Machine>) -> Result<Self> {
        let (mapping, pages) = map(kind, config.ceiling as usize, machine)?;
        Self::over(mapping, pages, kind, config, machine)
    }

    /// A region's memory in a file. There are no pools for that.
    pub(crate) fn shared(
        kind: RegionKind,
        config: &RegionConfig,
        machine: &Arc<Machine>,
        file: File,
    ) -> Result<Self> {
        let mapping = Mapping::shared(file, config.ceiling as usize, kind.name())?;
        // Whether the file system has huge pages is its own affair.
        let advised = machine.huge != HugePages::Never && mapping.advise_huge(0, mapping.len()).is_ok();
        let pages = if advised { PageKind::Advised } else { PageKind::Small };
        Self::over(mapping, pages, kind, config, machine)
    }

    fn over(
        mapping: Mapping,
        pages: PageKind,
        kind: RegionKind,
        config: &RegionConfig,
        machine: &Arc<Machine>,
    ) -> Result<Self> {
        let page = match pages {
            PageKind::Explicit(bits) => 1 << bits,
            PageKind::Small | PageKind::Advised => 1,
        };
        let arenas = match machine.layout(kind) {
            Layout::Plain => None,
            Layout::Interleaved(nodes) => {
                tie(
                    machine,
                    &mapping,
                    std::iter::once((0, mapping.len(), &nodes[..])),
                    NumaPolicy::Interleave,
                )?;
                None
            }
            Layout::Arenas => {
                let arenas = Arenas::new(machine.clone(), config, page);
                let tied = tie_arenas(machine, &mapping, &arenas, config.page_size as usize)?;
                tied.then_some(arenas)
            }
        };
        Ok(Self { mapping, pages, arenas })
    }
}

/// Reserves the address space, with the largest pages that were asked for and can be had.
fn map(kind: RegionKind, len: usize, machine: &Machine) -> Result<(Mapping, PageKind)> {
    // The page table is made for all that there can ever be, and little of it is used at first.
    let pools: &[u8] = match machine.huge {
        HugePages::Explicit1GiB if kind != RegionKind::System => &[30, 21],
        HugePages::Explicit2MiB if kind != RegionKind::System => &[21],
        _ => &[],
    };
    for bits in pools.iter().filter(|bits| len.is_multiple_of(1 << **bits)) {
        match Mapping::explicit(len, *bits) {
            Ok(mapping) => return Ok((mapping, PageKind::Explicit(*bits))),
            Err(error) => machine.trouble(|| {
                let (size, page) = (ByteSize::new(len as u64), ByteSize::new(1 << bits));
                format!(
                    "the system has not {size} in pages of {page} for the {} region ({error}): it gets other pages; set \
                     more of them aside (hugepages-*/nr_hugepages in /sys/kernel/mm/hugepages)",
                    kind.name()
                )
            })?,
        }
    }
    let mapping = Mapping::anonymous(len, kind.name())?;
    // Where there is no such advice, nobody misses it; a region smaller than a huge page has no use for it.
    let least = if kind == RegionKind::System { SYSTEM_HUGE } else { HUGE_PAGE };
    if machine.huge == HugePages::Never || !cfg!(target_os = "linux") || len < least {
        return Ok((mapping, PageKind::Small));
    }
    match mapping.advise_huge(0, len) {
        Ok(()) => Ok((mapping, PageKind::Advised)),
        Err(error) => {
            machine.trouble(|| {
                format!(
                    "madvise was refused ({error}): there are no huge pages; a kernel that was built with them takes \
                     more than this one out of a processor, and ConfigBuilder::huge_pages(false) does not ask for them"
                )
            })?;
            Ok((mapping, PageKind::Small))
        }
    }
}

fn tie_arenas(machine: &Machine, mapping: &Mapping, arenas: &Arenas, frame: usize) -> Result<bool> {
    let runs: Vec<(usize, usize, [u32; 1])> = arenas
        .runs()
        .map(|(first, count, node)| {
            let from = (first as usize * frame).min(mapping.len());
            (from, (count as usize * frame).min(mapping.len() - from), [node])
        })
        .collect();
    tie(machine, mapping, runs.iter().map(|(from, len, node)| (*from, *len, &node[..])), machine.policy())
}

/// Ties ranges to nodes. `false`: the system refuses.
fn tie<'a>(
    machine: &Machine,
    mapping: &Mapping,
    mut ranges: impl Iterator<Item = (usize, usize, &'a [u32])>,
    policy: NumaPolicy,
) -> Result<bool> {
    match ranges.try_for_each(|(from, len, nodes)| mapping.bind(from, len, nodes, policy)) {
        Ok(()) => Ok(true),
        Err(error) => {
            machine.trouble(|| {
                // Filters of containers say that it is not implemented, too.
                let unknown = match error.kind() {
                    std::io::ErrorKind::Unsupported => "; a kernel without NUMA has one node: leave out ConfigBuilder::numa",
                    _ => "",
                };
                format!(
                    "mbind was refused ({error}): memory lies on whichever node the system takes it from; in a \
                     container, allow the call (in Docker: --cap-add SYS_NICE){unknown}"
                )
            })?;
            Ok(false)
        }
    }
}

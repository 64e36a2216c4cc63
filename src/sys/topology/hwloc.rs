//! The machine as hwloc tells it.

use std::collections::HashSet;

use hwlocality::Topology as Hwloc;
use hwlocality::cpu::binding::CpuBindingFlags;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::distance::DistancesKind;
use hwlocality::object::types::{CacheType, ObjectType};
use hwlocality::topology::builder::BuildFlags;

use crate::sys::topology::{Cache, NumaNode, Topology};

const CACHES: [ObjectType; 5] =
    [ObjectType::L1Cache, ObjectType::L2Cache, ObjectType::L3Cache, ObjectType::L4Cache, ObjectType::L5Cache];

pub(super) fn read() -> Option<Topology> {
    // Also what the cgroup forbids, so that it can be told apart from what is not there.
    let hwloc = Hwloc::builder().with_flags(BuildFlags::INCLUDE_DISALLOWED).ok()?.build().ok()?;
    let bound = hwloc.cpu_binding(CpuBindingFlags::PROCESS).ok();
    let may_run = |cpu: usize| {
        let bound = bound.as_ref().is_none_or(|set| set.iter_set().any(|bit| usize::from(bit) == cpu));
        bound && hwloc.allowed_cpuset().iter_set().any(|bit| usize::from(bit) == cpu)
    };
    let mut objects: Vec<&TopologyObject> = hwloc.objects_with_type(ObjectType::NUMANode).collect();
    objects.sort_by_key(|object| object.os_index());
    let distances = distances(&hwloc, &objects);
    let mut taken = HashSet::new();
    let nodes = objects.iter().zip(distances).map(|(object, distances)| {
        let id = object.os_index()?;
        // Memory that has no processors is told to have those of the node nearest to it. Such nodes have the higher ids.
        let mut cpus = numbers(object);
        cpus.retain(|cpu| taken.insert(*cpu));
        Some(NumaNode {
            id: u32::try_from(id).ok()?,
            allowed_cpus: cpus.iter().copied().filter(|cpu| may_run(*cpu)).collect(),
            cpus,
            memory: match object.attributes() {
                Some(ObjectAttributes::NUMANode(node)) => node.local_memory().map_or(0, u64::from),
                _ => 0,
            },
            memory_allowed: hwloc.allowed_nodeset().iter_set().any(|bit| usize::from(bit) == id),
            distances,
        })
    });
    let nodes: Vec<NumaNode> = nodes.collect::<Option<_>>()?;
    let caches = CACHES.iter().flat_map(|kind| hwloc.objects_with_type(*kind)).filter_map(cache).collect();
    (!nodes.is_empty()).then(|| Topology { nodes, caches }.tidy())
}

fn numbers(object: &TopologyObject) -> Vec<usize> {
    object.cpuset().map(|set| set.iter_set().map(usize::from).collect()).unwrap_or_default()
}

/// For each node its distances to all of them; empty where hwloc has none.
fn distances(hwloc: &Hwloc, nodes: &[&TopologyObject]) -> Vec<Vec<u32>> {
    let kind = DistancesKind::FROM_OS | DistancesKind::MEANS_LATENCY;
    let all = hwloc.distances_with_type(Some(kind), ObjectType::NUMANode).unwrap_or_default();
    let Some(matrix) = all.into_iter().find(|matrix| matrix.num_objects() == nodes.len()) else {
        return vec![Vec::new(); nodes.len()];
    };
    let at = |node: &&TopologyObject| matrix.object_idx(node);
    let row = |from: &&TopologyObject| -> Option<Vec<u32>> {
        let from = at(from)?;
        nodes
            .iter()
            .map(|to| u32::try_from(*matrix.distances().get(from * nodes.len() + at(to)?)?).ok())
            .collect()
    };
    nodes.iter().map(|node| row(node).unwrap_or_default()).collect()
}

fn cache(object: &TopologyObject) -> Option<Cache> {
    let Some(ObjectAttributes::Cache(cache)) = object.attributes() else { return None };
    if cache.cache_type() == CacheType::Instruction {
        return None;
    }
    Some(Cache {
        level: u32::try_from(cache.depth()).ok()?,
        cpus: numbers(object),
        size: cache.size().map_or(0, u64::from),
        line: cache.line_size().and_then(|line| u32::try_from(line.get()).ok()).unwrap_or(0),
    })
}

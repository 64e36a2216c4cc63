//! Keeps a thread on a processor.

use crate::config::Affinity;
use crate::sys::topology::Topology;

impl Affinity {
    /// Keeps the calling thread on one processor: the `number`-th of those named, and so on in turn. Returns which one;
    /// `None` when none was named or may be used, and the system agreed to nothing.
    ///
    /// ```
    /// use esker::Affinity;
    ///
    /// assert_eq!(Affinity::Leave.pin(0), None);
    /// let first = esker::topology().nodes[0].allowed_cpus[0];
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| println!("on processor {:?}", Affinity::Cpus(vec![first]).pin(0)));
    /// });
    /// ```
    pub fn pin(&self, number: usize) -> Option<usize> {
        let cpus = self.cpus();
        let cpu = *cpus.get(number.checked_rem(cpus.len())?)?;
        pin_to(cpu).then_some(cpu)
    }

    /// The processors that threads are kept on.
    pub(crate) fn cpus(&self) -> Vec<usize> {
        match self {
            Self::Leave => Vec::new(),
            Self::Cpus(cpus) => cpus.clone(),
            Self::Nodes(nodes) => {
                let topology = Topology::nodes_of_this_machine();
                let named = topology.nodes.into_iter().filter(|node| nodes.contains(&node.id));
                named.flat_map(|node| node.allowed_cpus).collect()
            }
        }
    }
}

/// Keeps the calling thread on that processor. Returns whether the system agreed.
pub(crate) fn pin_to(cpu: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
}

//! Pins a thread to a processor.

/// Pins the calling thread to that processor. Returns whether the system agreed.
pub(crate) fn pin_to(cpu: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
}

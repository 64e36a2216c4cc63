//! Calls that the system refuses, as it does in containers: a filter (seccomp) makes them fail for one thread and those
//! that it starts, which are the store's.
#![expect(unsafe_code, reason = "a seccomp filter is installed by two calls of prctl")]

use esker::{ErrorKind, Event, NumaPolicy, RegionKind, Store};

/// Makes system calls of the calling thread fail: the number, the error, and a value of the third argument that it must
/// have.
fn refuse(calls: &[(libc::c_long, i32, Option<u32>)]) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = Vec::new();
    for (call, error, third) in calls {
        let end = step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | *error as u32);
        // Offsets in seccomp_data: the number at 0, the arguments from 16, eight bytes each.
        program.push(step(LOAD, 0, 0, 0));
        match third {
            Some(value) => program.extend([
                step(EQUAL, 0, 3, *call as u32),
                step(LOAD, 0, 0, 16 + 2 * 8),
                step(EQUAL, 0, 1, *value),
                end,
            ]),
            None => program.extend([step(EQUAL, 0, 1, *call as u32), end]),
        }
    }
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the first call takes numbers only; the second reads the program, which lives until it has returned.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter), 0);
    }
}

/// Opens a store on a thread whose calls are refused, uses it, and gives what it says of the regions and its warnings;
/// then tries the same strictly.
fn without(calls: &[(libc::c_long, i32, Option<u32>)]) -> (esker::Stats, esker::Error) {
    std::thread::scope(|scope| {
        let work = || {
            refuse(calls);
            let config = || {
                let config = super::small()
                    .lock_memory(true)
                    .numa(|numa| numa.nodes(super::ids(&super::with_memory())));
                config.numa(|numa| numa.policy(NumaPolicy::Bind))
            };
            let store = Store::open(config().build().unwrap()).unwrap();
            for id in 0..2000 {
                store.append(&Event::new(super::stream(id % 50), id, 0, 0).payload(&[1; 1000])).unwrap();
            }
            assert_eq!(store.pin().get(1234).unwrap().payload(), [1; 1000]);
            store.maintain().unwrap();
            store.validate().unwrap();
            let stats = store.stats();
            drop(store);
            (stats, Store::open(config().strict(true).build().unwrap()).unwrap_err())
        };
        scope.spawn(work).join().unwrap()
    })
}

#[test]
fn a_system_that_knows_no_nodes_is_one_warning() {
    for (error, text) in [(libc::EPERM, "not permitted"), (libc::ENOSYS, "not implemented")] {
        let (stats, strict) = without(&[(libc::SYS_mbind, error, None)]);
        let [warning] = &stats.warnings[..] else { panic!("{:?}", stats.warnings) };
        assert!(warning.starts_with("mbind was refused") && warning.contains(text), "{warning}");
        assert!(warning.contains("SYS_NICE"), "it says what to do: {warning}");
        assert_eq!(warning.contains("without NUMA"), error == libc::ENOSYS, "{warning}");
        assert_eq!(stats.region(RegionKind::Hot).arenas, 0);
        assert!(stats.locked_bytes > 0);
        assert_eq!(strict.kind(), ErrorKind::Io);
        assert!(strict.to_string().contains("mbind was refused"), "{strict}");
    }
}

#[test]
fn memory_that_cannot_be_locked_is_one_warning() {
    let (stats, strict) = without(&[(libc::SYS_mlock2, libc::EPERM, None)]);
    let [warning] = &stats.warnings[..] else { panic!("{:?}", stats.warnings) };
    assert!(warning.starts_with("mlock was refused") && warning.contains("ulimit -l"), "{warning}");
    assert_eq!(stats.locked_bytes, 0);
    assert!(stats.region(RegionKind::Hot).arenas > 0);
    assert!(strict.to_string().contains("mlock was refused"), "{strict}");
}

#[test]
fn a_kernel_without_huge_pages_is_one_warning() {
    let (stats, strict) = without(&[(libc::SYS_madvise, libc::EINVAL, Some(libc::MADV_HUGEPAGE as u32))]);
    let [warning] = &stats.warnings[..] else { panic!("{:?}", stats.warnings) };
    assert!(warning.starts_with("madvise was refused"), "{warning}");
    assert!(!stats.region(RegionKind::Hot).huge_pages);
    assert!(strict.to_string().contains("madvise was refused"), "{strict}");
}

#[test]
fn everything_refused_at_once_leaves_a_store_that_works() {
    let all = [
        (libc::SYS_mbind, libc::ENOSYS, None),
        (libc::SYS_move_pages, libc::ENOSYS, None),
        (libc::SYS_mlock2, libc::ENOSYS, None),
        (libc::SYS_madvise, libc::EINVAL, Some(libc::MADV_HUGEPAGE as u32)),
        (libc::SYS_sched_setaffinity, libc::EPERM, None),
    ];
    let (stats, _) = without(&all);
    assert_eq!(stats.warnings.len(), 3, "{:?}", stats.warnings);
    assert_eq!(stats.events.appended, 2000);
}

//! What the control group of this process, a container's for example, lets it have of memory.

use std::path::Path;

/// Where the kernel shows groups with their limits, and what the limit's file is called there: the second version, and the
/// first one.
const MOUNTS: [(&str, &str, &str); 2] =
    [("", "sys/fs/cgroup", "memory.max"), ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes")];
/// The first version says so where there is no limit, or a little less.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes of memory that this process may have together with the others of its group; `None` where there is no limit, or
/// where it cannot be known.
pub(crate) fn memory_limit() -> Option<u64> {
    limit_below(Path::new("/"))
}

/// The same of a system whose files are in that directory: the smallest limit of the process's group and of those around it.
fn limit_below(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for (controller, mount, file) in MOUNTS {
            if !controllers.split(',').any(|name| name == controller) {
                continue;
            }
            // In a container the path may be one of the host's, of which only the end is to be seen, or nothing.
            let mount = root.join(mount);
            for group in Path::new(path.trim_start_matches('/')).ancestors() {
                let text = std::fs::read_to_string(mount.join(group).join(file)).unwrap_or_default();
                let limit = text.trim().parse::<u64>().ok().filter(|limit| *limit < NO_LIMIT);
                least = least.into_iter().chain(limit).min();
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files.iter().chain([&("proc/self/cgroup", groups)]) {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        limit_below(dir.path())
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_those_around_it_counts() {
        let (old, new) = ("sys/fs/cgroup/memory", "sys/fs/cgroup");
        let at = |root: &str, path: &str, file: &str| format!("{root}/{path}/{file}");
        let file = at(new, "a/b", "memory.max");
        assert_eq!(system("0::/a/b\n", &[(&file, "4096\n")]), Some(4096));
        assert_eq!(system("0::/a/b\n", &[(&file, "max\n")]), None);
        let around = at(new, "a", "memory.max");
        assert_eq!(system("0::/a/b\n", &[(&file, "max\n"), (&around, "77\n")]), Some(77));
        assert_eq!(system("0::/a/b\n", &[(&file, "50\n"), (&around, "77\n")]), Some(50));
        // As a container sees it: its own group is the root.
        assert_eq!(system("0::/\n", &[("sys/fs/cgroup/memory.max", "99")]), Some(99));
        let groups = "9:cpu,cpuacct:/x\n4:memory:/docker/77\n0::/\n";
        let own = at(old, "docker/77", "memory.limit_in_bytes");
        assert_eq!(system(groups, &[(&own, "1234\n")]), Some(1234));
        let whole = format!("{old}/memory.limit_in_bytes");
        assert_eq!(system(groups, &[(&whole, "555")]), Some(555), "the path is the host's");
        assert_eq!(system(groups, &[(&whole, "9223372036854771712\n")]), None);
        assert_eq!(system("nonsense\n:\n1:memory\n", &[(&whole, "555")]), None);
        assert_eq!(system("0::/../../etc\n", &[(&whole, "x")]), None);
    }
}

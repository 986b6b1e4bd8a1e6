//! Finds the control groups of this process, in both versions, and reads their files.
//!
//! A limit holds for all groups below it, so it is looked up from the process's own group to the top.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folders of the system's files; tests use other folders.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) proc: PathBuf,
    /// The folder that is prefixed to the mount points named in `proc`.
    pub(crate) root: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self { proc: "/proc".into(), root: "/".into() }
    }
}

/// The version of control groups that a folder belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// The process's group under one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) version: Version,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// The process's own folder in it.
    pub(crate) folder: PathBuf,
}

impl Group {
    /// The group's own folder, and then all folders above it.
    fn upwards(&self) -> impl Iterator<Item = &Path> {
        let mount = &self.mount;
        self.folder.ancestors().take_while(move |folder| folder.starts_with(mount))
    }

    /// The smallest number in files of this name, and the folder with that file. A file without a limit
    /// says `max`.
    pub(crate) fn least(&self, file: &str) -> Option<(u64, PathBuf)> {
        let limit = |folder: &Path| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            Some((text.trim().parse::<u64>().ok()?, folder.to_owned()))
        };
        self.upwards().filter_map(limit).min_by_key(|(limit, _)| *limit)
    }

    /// The number behind `key` in a file of the group's own folder.
    pub(crate) fn count(&self, file: &str, key: &str) -> Option<u64> {
        count(&fs::read_to_string(self.folder.join(file)).ok()?, key)
    }
}

/// The number behind `key` in lines of keys and numbers.
pub(crate) fn count(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

impl System {
    /// The groups of this process that may have limits of `controller`: at most one of each version.
    pub(crate) fn groups(&self, controller: &str) -> Vec<Group> {
        let own = fs::read_to_string(self.proc.join("self/cgroup")).unwrap_or_default();
        let mounts = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        own.lines().filter_map(|line| self.group(line, &mounts, controller)).collect()
    }

    /// The group that a line such as `4:memory:/jobs/7` or `0::/jobs/7` names.
    fn group(&self, line: &str, mounts: &str, controller: &str) -> Option<Group> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let version = match controllers.split(',').find(|name| *name == controller) {
            Some(_) => Version::One,
            None if controllers.is_empty() => Version::Two,
            None => return None,
        };
        let is_it = |mount: &Mount<'_>| match version {
            Version::One => {
                mount.kind == "cgroup" && mount.options.split(',').any(|name| name == controller)
            }
            Version::Two => mount.kind == "cgroup2",
        };
        let mount = mounts.lines().filter_map(Mount::parse).find(is_it)?;
        // In a container, the mount may show only a part of the hierarchy, while the path is that of
        // the whole hierarchy.
        let below = Path::new(path).strip_prefix(mount.root).unwrap_or(Path::new(""));
        let below = below.strip_prefix("/").unwrap_or(below);
        let relative = mount.point.strip_prefix('/').unwrap_or(mount.point);
        let mount = self.root.join(relative);
        Some(Group { version, folder: mount.join(below), mount })
    }
}

/// A line of `mountinfo`.
struct Mount<'a> {
    /// The part of the file system that is mounted.
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (place, system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut system = system.split(' ');
        Some(Self {
            root: place.next()?,
            point: place.next()?,
            kind: system.next()?,
            options: system.nth(1)?,
        })
    }
}

/// The most threads and processes in this process's groups; none if there is no limit.
pub(crate) fn threads_limit() -> Option<u64> {
    let groups = System::default().groups("pids");
    groups.iter().filter_map(|group| group.least("pids.max")).map(|(limit, _)| limit).min()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A simulated system: paths with their contents.
    pub(crate) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let system = System { proc: folder.path().join("proc"), root: folder.path().into() };
        (folder, system)
    }

    #[test]
    fn the_own_group_is_found_in_either_version() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "8:pids:/\n4:memory:/jobs/7\n0::/user\n";
        let (folder, system) =
            machine(&[("proc/self/mountinfo", mounts), ("proc/self/cgroup", own)]);
        let groups = system.groups("memory");
        let at = |path: &str| folder.path().join("sys/fs/cgroup").join(path);
        let found: Vec<_> = groups.iter().map(|g| (g.version, g.folder.clone())).collect();
        assert_eq!(
            found,
            [(Version::One, at("memory/jobs/7")), (Version::Two, at("unified/user"))]
        );
    }

    /// The path is the host's, but the mount begins at the container's own group.
    #[test]
    fn a_container_without_a_namespace_for_groups_finds_its_own() {
        let mounts = "9 8 0:7 /docker/c0 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        for own in ["4:memory:/docker/c0\n", "4:memory:/elsewhere\n"] {
            let (folder, system) =
                machine(&[("proc/self/mountinfo", mounts), ("proc/self/cgroup", own)]);
            let groups = system.groups("memory");
            assert_eq!(groups[0].folder, folder.path().join("sys/fs/cgroup/memory"), "{own}");
        }
    }

    #[test]
    fn a_machine_without_groups_has_none() {
        let (_folder, system) = machine(&[("proc/self/cgroup", "")]);
        assert_eq!(system.groups("memory"), []);
    }
}

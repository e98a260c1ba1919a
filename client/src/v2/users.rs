// SPDX-License-Identifier: MIT OR Apache-2.0
//! What uses a disk: mounts, swap, disks made of it, and processes that have it open.
//!
//! The answer is for messages. It is as complete as this process may see, and took bounded time. Nothing here
//! opens the disk, or does I/O on a file system other than `/proc`, `/sys` and `/dev`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest time to look for processes.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most users of one kind in a message.
const SHOWN: usize = 4;

/// A process, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Process {
    /// Its process ID.
    pub pid: u32,
    /// The name of its program; empty if it could not be read.
    pub program: String,
}

impl Process {
    /// The process of this number.
    pub(crate) fn of(pid: u32) -> Self {
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self { pid, program: program.trim_end().to_owned() }
    }

    /// Whether the process was killed or exits, and so closes its descriptors, or has done so.
    pub(super) fn is_ending(pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| exits(&stat))
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if self.program.is_empty() { Ok(()) } else { write!(f, " ({})", self.program) }
    }
}

/// Whether a line of `/proc/PID/stat` says that the process exits.
fn exits(stat: &str) -> bool {
    /// `PF_EXITING` of the kernel.
    const EXITING: u64 = 4;
    // The name of the program may have spaces and brackets.
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_whitespace();
    let ended = matches!(fields.next(), Some("Z" | "X"));
    ended
        || fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & EXITING != 0)
}

/// What uses a disk or one of its partitions, as far as this process can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Users {
    /// Where file systems of the disk are mounted.
    pub mounts: Vec<PathBuf>,
    /// Swap spaces on the disk.
    pub swap: Vec<PathBuf>,
    /// Kernel names of disks that are made of this one, such as `dm-0` and `md127`.
    pub holders: Vec<String>,
    /// Processes that have the disk open.
    pub processes: Vec<Process>,
}

impl Users {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Looks for the users of the disk with this device number.
    pub(crate) fn of(disk: (u32, u32)) -> Self {
        let (devices, holders) = family(Path::new("/sys"), disk);
        let mut users = Self { holders, ..Self::default() };
        let mut mounts = BTreeSet::new();
        let mut look = |path: &str| {
            let text = fs::read(path).unwrap_or_default();
            mounts.extend(mounts_of(&text, &devices, number_of_node));
        };
        look("/proc/self/mountinfo");
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let swapped = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        let swapped = swapped.map(|path| unescape(path.as_bytes()));
        users.swap =
            swapped.filter(|path| number_of_node(path).is_some_and(|it| devices.contains(&it))).collect();
        let mut namespaces: BTreeSet<PathBuf> = fs::read_link("/proc/self/ns/mnt").into_iter().collect();
        let until = Instant::now() + PATIENCE;
        for pid in pids() {
            if Instant::now() >= until {
                break;
            }
            // Each mount namespace has its own list.
            if fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|space| namespaces.insert(space)) {
                look(&format!("/proc/{pid}/mountinfo"));
            }
            if open_files(pid, until, |path| path.starts_with("/dev"))
                .any(|(_, file)| number_of_node(&file).is_some_and(|it| devices.contains(&it)))
            {
                users.processes.push(Process::of(pid));
            }
        }
        users.mounts = mounts.into_iter().collect();
        users
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = |paths: &[PathBuf]| list(paths.iter().map(|path| path.display().to_string()));
        let mut parts = Vec::new();
        if !self.mounts.is_empty() {
            parts.push(format!("mounted on {}", paths(&self.mounts)));
        }
        if !self.swap.is_empty() {
            parts.push(format!("swap space {}", paths(&self.swap)));
        }
        if !self.holders.is_empty() {
            parts.push(format!("part of {}", list(self.holders.iter().cloned())));
        }
        if !self.processes.is_empty() {
            parts.push(format!("open in {}", list(self.processes.iter().map(ToString::to_string))));
        }
        if parts.is_empty() {
            return f.write_str("by nothing that this process can see");
        }
        f.write_str(&parts.join(", "))
    }
}

/// A list for a sentence, cut off after some entries.
pub(super) fn list(entries: impl ExactSizeIterator<Item = String>) -> String {
    let more = entries.len().saturating_sub(SHOWN);
    let text = entries.take(SHOWN).collect::<Vec<_>>().join(" and ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

/// All processes that can be seen.
pub(super) fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The open files of a process whose text in `/proc` is `wanted`: their descriptors, and the links to follow.
pub(super) fn open_files(
    pid: u32,
    until: Instant,
    wanted: impl Fn(&Path) -> bool,
) -> impl Iterator<Item = (i32, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.take_while(move |_| Instant::now() < until).filter_map(move |entry| {
        let path = entry.path();
        // The text is read first, because following a link may wait for a file system that hangs.
        let text = fs::read_link(&path).ok()?;
        wanted(&text).then_some(())?;
        Some((entry.file_name().to_str()?.parse().ok()?, path))
    })
}

/// Device numbers of the disk and its partitions, and the disks that are made of them.
fn family(sys: &Path, (major, minor): (u32, u32)) -> (Vec<(u32, u32)>, Vec<String>) {
    let mut devices = vec![(major, minor)];
    let disk = sys.join(format!("dev/block/{major}:{minor}"));
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let names = |path: PathBuf| entries(&path).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut holders: BTreeSet<String> = names(disk.join("holders")).collect();
    for part in entries(&disk).map(|entry| entry.path()).filter(|path| path.join("partition").exists()) {
        let dev = fs::read_to_string(part.join("dev")).unwrap_or_default();
        devices.extend(numbers(dev.trim()));
        holders.extend(names(part.join("holders")));
    }
    (devices, holders.into_iter().collect())
}

/// `major:minor`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Device number of a block node in `/dev`.
fn number_of_node(path: &Path) -> Option<(u32, u32)> {
    let metadata = fs::metadata(path).ok()?;
    let device = metadata.rdev();
    metadata.file_type().is_block_device().then(|| (rustix::fs::major(device), rustix::fs::minor(device)))
}

/// The mount points in a `mountinfo` that belong to one of the devices. A file system such as btrfs has a device
/// number of its own, so the source is looked at as well.
fn mounts_of(
    text: &[u8],
    devices: &[(u32, u32)],
    number: impl Fn(&Path) -> Option<(u32, u32)>,
) -> Vec<PathBuf> {
    let mounted = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ');
        let device = numbers(std::str::from_utf8(words.nth(2)?).ok()?)?;
        let point = unescape(words.nth(1)?);
        let mut optional = words.skip_while(|word| *word != b"-");
        let source = unescape(optional.nth(2).unwrap_or_default());
        let ours = devices.contains(&device)
            || (source.starts_with("/dev") && number(&source).is_some_and(|it| devices.contains(&it)));
        ours.then_some(point)
    };
    text.split(|byte| *byte == b'\n').filter_map(mounted).collect()
}

/// A path in which the kernel wrote blanks and the like as `\040`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let octal = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_exits_is_told_from_one_that_lives() {
        assert!(!Process::is_ending(std::process::id()) && !Process::is_ending(u32::MAX));
        assert!(!exits("7 (a) b) S 1 7 7 0 -1 4194304 100") && exits("7 (a) Z) Z 1 7 7 0 -1 4194304 100"));
        assert!(exits("7 (a) R 1 7 7 0 -1 4194308 100") && !exits("7") && !exits(""));
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let begin = Instant::now();
        while !Process::is_ending(child.id()) {
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().expect("wait");
    }

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let text = b"36 35 259:1 / /mnt\\040a rw - ext4 /dev/zosbd2-a1 rw\n\
            37 35 0:44 /sub /srv rw,noatime shared:1 master:2 - btrfs /dev/zosbd2-a rw\n\
            38 35 8:1 / / rw - ext4 /dev/sda1 rw\n\
            39 35 0:5 / /tmp rw - tmpfs none rw\nbroken\n";
        let number = |path: &Path| (path == Path::new("/dev/zosbd2-a")).then_some((252, 0));
        let found = mounts_of(text, &[(252, 0), (259, 1)], number);
        assert_eq!(found, [PathBuf::from("/mnt a"), PathBuf::from("/srv")]);
    }

    #[test]
    fn partitions_and_disks_above_belong_to_the_disk() {
        let sys = tempfile::tempdir().expect("a folder");
        let disk = sys.path().join("dev/block/252:0");
        for folder in ["holders/dm-0", "queue", "p1/holders/md7"] {
            fs::create_dir_all(disk.join(folder)).expect("folders");
        }
        fs::write(disk.join("p1/partition"), "1\n").expect("write");
        fs::write(disk.join("p1/dev"), "259:3\n").expect("write");
        let (devices, holders) = family(sys.path(), (252, 0));
        assert_eq!(devices, [(252, 0), (259, 3)]);
        assert_eq!(holders, ["dm-0", "md7"]);
    }

    #[test]
    fn a_sentence_names_all_kinds_of_users_and_not_too_many() {
        let mut users = Users::default();
        assert_eq!(users.to_string(), "by nothing that this process can see");
        users.mounts = ["/mnt", "/srv"].map(PathBuf::from).to_vec();
        users.holders = vec!["dm-0".to_owned()];
        let process = |pid| Process { pid, program: "dd".to_owned() };
        users.processes = (1..=6).map(process).collect();
        assert_eq!(
            users.to_string(),
            "mounted on /mnt and /srv, part of dm-0, open in process 1 (dd) and process 2 (dd) and process 3 (dd) \
             and process 4 (dd) and 2 more"
        );
    }

    #[test]
    fn an_open_file_of_a_process_is_found() {
        let null = fs::File::open("/dev/null").expect("null");
        let until = Instant::now() + Duration::from_secs(10);
        let found = open_files(std::process::id(), until, |path| path == Path::new("/dev/null")).count();
        assert!(found >= 1);
        drop(null);
        assert!(!Process::of(std::process::id()).program.is_empty());
    }
}

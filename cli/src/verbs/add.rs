// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 add KIND ...`: makes a disk with a server in the background, and prints its node when it can be used.

use crate::config::{Disk, Kind, Policy};
use crate::control;
use crate::failure::{Code, Context as _, Failure, Result};
use crate::launch::{Launcher, systemd};
use crate::node;
use crate::places::Places;
use crate::server::{self, How};
use crate::units::{Size, Time};
use clap::Subcommand;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use zosbd2::{Control, State};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    kind: Wanted,
}

/// What stores the data.
#[derive(Debug, Subcommand)]
enum Wanted {
    /// A file or a block device
    File {
        /// The file or block device
        path: PathBuf,
        /// Make the file if it is not there; needs --size
        #[arg(long, requires = "size")]
        create: bool,
        /// Size of a new file, or grow the file to this size
        #[arg(long)]
        size: Option<Size>,
        /// Bypass the page cache
        #[arg(long)]
        direct: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Memory; the data is gone at the reboot
    Ram {
        /// Size of the disk
        size: Size,
        #[command(flatten)]
        options: Options,
    },
    /// Nothing: reads give zeros, and writes are dropped; for measurements
    Null {
        /// Size of the disk
        size: Size,
        #[command(flatten)]
        options: Options,
    },
    /// A program of your own, which serves the disk that `ZOSBD2_NAME` names, and is started again when it dies
    Exec {
        #[command(flatten)]
        options: Options,
        /// The program and its arguments
        #[arg(last = true, required = true, num_args = 1.., value_name = "PROGRAM")]
        command: Vec<String>,
    },
}

/// Options of all kinds.
#[derive(Debug, clap::Args)]
struct Options {
    /// Name of the disk: its node is /dev/zosbd2-NAME. By default the name of the file, or the kind and a number
    #[arg(short, long, value_parser = crate::units::name)]
    name: Option<String>,
    /// Logical block size in bytes
    #[arg(short, long, value_name = "BYTES")]
    block_size: Option<u32>,
    /// Number of queues
    #[arg(short, long)]
    queues: Option<u32>,
    /// Requests of each queue
    #[arg(short, long)]
    depth: Option<u32>,
    /// Serving threads of each queue
    #[arg(long)]
    threads: Option<usize>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// How long I/O waits for a new server when one has died
    #[arg(long, value_name = "TIME")]
    grace: Option<Time>,
    /// Deadline of a request; 0: none
    #[arg(long, value_name = "TIME")]
    deadline: Option<Time>,
    /// What happens to a request that passes its deadline
    #[arg(long)]
    policy: Option<Policy>,
    /// Serial number
    #[arg(long)]
    serial: Option<String>,
    /// Permissions of the node, such as 0660
    #[arg(long)]
    mode: Option<String>,
    /// Owner of the node: USER:GROUP, USER or :GROUP
    #[arg(long)]
    owner: Option<String>,
    /// Write the configuration to /etc/zosbd2, so that the disk comes back at boot
    #[arg(long, conflicts_with = "foreground")]
    persist: bool,
    /// Serve in the foreground, until the disk is removed or a signal
    #[arg(short, long)]
    foreground: bool,
    /// A fault on purpose, for tests, such as read:nth=3:errno=EIO
    #[arg(long, value_name = "WORDS")]
    fault: Vec<String>,
}

impl Options {
    /// The disk with these options.
    fn apply(&self, disk: Disk) -> Disk {
        Disk {
            block_size: self.block_size,
            queues: self.queues,
            depth: self.depth,
            threads: self.threads,
            read_only: self.read_only,
            grace: self.grace,
            deadline: self.deadline,
            policy: self.policy,
            serial: self.serial.clone(),
            mode: self.mode.clone(),
            owner: self.owner.clone(),
            fault: self.fault.clone(),
            ..disk
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (places, launcher) = (Places::system(), Launcher::here());
    let (disk, options, base) = match &arguments.kind {
        Wanted::File { path, direct, options, .. } => {
            let path = std::path::absolute(path).context(format_args!("find {}", path.display()))?;
            let base = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            (Disk { path: Some(path), direct: *direct, ..Disk::new(Kind::File) }, options, base)
        }
        Wanted::Ram { size, options } => {
            (Disk { size: Some(*size), ..Disk::new(Kind::Ram) }, options, String::new())
        }
        Wanted::Null { size, options } => {
            (Disk { size: Some(*size), ..Disk::new(Kind::Null) }, options, String::new())
        }
        Wanted::Exec { options, command } => {
            let base = Path::new(&command[0]).file_stem().map(|stem| stem.to_string_lossy().into_owned());
            (Disk { command: command.clone(), ..Disk::new(Kind::Exec) }, options, base.unwrap_or_default())
        }
    };
    let disk = options.apply(disk);
    disk.check().map_err(Failure::usage)?;
    let control = control::open(None)?;
    let name = name(&control, &places, options.name.as_deref(), &base, disk.backend)?;
    free(&control, &places, &name)?;
    if let Wanted::File { path, create, size, .. } = &arguments.kind {
        store(path, *create, *size)?;
    }
    let path = if options.persist { places.persistent_file(&name) } else { places.run_file(&name) };
    disk.write(&path)?;
    let made = if options.foreground {
        let served = server::serve(&name, &disk, How::Follow, |node| println!("{}", node.display()));
        let _ = fs::remove_file(&path);
        return served;
    } else {
        if options.persist && launcher == Launcher::Systemd {
            systemd::read_again()?;
        }
        launcher.start(&places, &name, How::Follow)
    };
    if let Err(failure) = made {
        let _ = fs::remove_file(&path);
        // The reason is in the failure, and the disk leaves nothing behind.
        let _ = launcher.forget(&places, &name);
        return Err(failure);
    }
    let node = control::status(&control, &name)?.path();
    node::wait(&node)?;
    println!("{}", node.display());
    Ok(())
}

/// The wanted name, or a free one.
fn name(control: &Control, places: &Places, wanted: Option<&str>, base: &str, kind: Kind) -> Result<String> {
    if let Some(name) = wanted {
        return Ok(name.to_owned());
    }
    let base = cleaned(base);
    if !base.is_empty() {
        return Ok(base);
    }
    let taken = control.list()?;
    let is_taken = |name: &String| {
        taken.iter().any(|listed| listed.name == *name) || places.configuration(name).is_some()
    };
    let mut names = (0_u32..).map(|number| format!("{}{number}", kind.word()));
    names.find(|name| !is_taken(name)).ok_or_else(|| Failure::failed("no name is free: give one with --name"))
}

/// A name of a file as a name of a disk: other characters become `-`, and the end of a long one is cut off.
fn cleaned(base: &str) -> String {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-+:".contains(character);
    let text: String =
        base.chars().map(|character| if allowed(character) { character } else { '-' }).collect();
    text.trim_start_matches(|character: char| !character.is_ascii_alphanumeric()).chars().take(24).collect()
}

/// Fails if the name is taken, and says by whom.
fn free(control: &Control, places: &Places, name: &str) -> Result<()> {
    let taken = |why: String| Err(Failure::new(Code::InUse, format!("add disk {name}: {why}")));
    if let Ok(status) = control.status(name) {
        return match (status.state, status.process) {
            (State::Orphaned | State::Failed, _) => taken(format!(
                "a disk of that name has lost its server: `zosbd2 recover {name}` starts another one, \
                 `zosbd2 remove {name}` removes it"
            )),
            (_, Some(pid)) => taken(format!(
                "a disk of that name is served by process {pid} ({}): choose another --name, or `zosbd2 remove {name}`",
                status.program
            )),
            _ => {
                taken(format!("a disk of that name exists: choose another --name, or `zosbd2 remove {name}`"))
            }
        };
    }
    match places.configuration(name) {
        Some(path) => taken(format!(
            "{} describes a disk of that name, which is not served: `zosbd2 recover {name}` starts its server, \
             `zosbd2 remove --forget {name}` removes the file",
            path.display()
        )),
        None => Ok(()),
    }
}

/// Makes or grows the file of a disk, if that is asked for.
fn store(path: &Path, create: bool, size: Option<Size>) -> Result<()> {
    let doing = |what: &str| format!("{what} {}", path.display());
    if create && !path.exists() {
        let file = File::options().write(true).create_new(true).open(path).context(doing("create"))?;
        let made = file.set_len(size.unwrap_or_default().0).and_then(|()| file.sync_all());
        return made.context(doing("set the size of"));
    }
    let Some(Size(size)) = size else { return Ok(()) };
    let file = File::options().write(true).open(path).map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::NotFound { " (--create makes it)" } else { "" };
        Failure::failed(format!("{}: {error}{hint}", doing("open")))
    })?;
    let now = file.metadata().context(doing("look at"))?.len();
    if size < now {
        return Err(Failure::usage(format!(
            "{} has {now} bytes, more than --size {}: a file is not cut off",
            path.display(),
            Size(size)
        )));
    }
    file.set_len(size).context(doing("set the size of"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_become_names_of_disks() {
        assert_eq!(cleaned("disk"), "disk");
        assert_eq!(cleaned("my disk (1)"), "my-disk--1-");
        assert_eq!(cleaned("..hidden"), "hidden");
        assert_eq!(cleaned(&"x".repeat(40)).len(), 24);
        assert_eq!(cleaned("???"), "");
    }

    #[test]
    fn files_are_made_and_grown_but_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.img");
        assert!(store(&path, false, Some(Size(1))).unwrap_err().to_string().contains("--create makes it"));
        store(&path, true, Some(Size(4096))).unwrap();
        store(&path, false, Some(Size(8192))).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 8192);
        assert_eq!(store(&path, true, Some(Size(512))).unwrap_err().code, Code::Usage);
        store(&path, false, None).unwrap();
    }
}

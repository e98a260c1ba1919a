// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 resize NAME [+]SIZE`: changes the size of a disk in use.
//!
//! Only the server can resize its device, and a server follows its store. So this changes the size of the file behind the
//! disk, and waits until the device has the new size.

use crate::config::{Disk, Kind};
use crate::control;
use crate::edit;
use crate::failure::{Code, Context as _, Failure, Result};
use crate::places::Places;
use crate::units::Size;
use std::fs::File;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};
use zosbd2::{Control, State, Status, Which};

/// Time between two looks at the device. The server looks at its file every second.
const PERIOD: Duration = Duration::from_millis(50);
/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The disk
    #[arg(value_parser = crate::units::name)]
    name: String,
    /// The new size, or +SIZE to grow by, such as 20G or +10G
    size: Change,
    /// Make the disk smaller, too; what is behind the new end is lost
    #[arg(long)]
    shrink: bool,
    /// Shrink a disk that is in use
    #[arg(long, requires = "shrink")]
    force: bool,
}

/// A size, or how much is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    To(Size),
    By(Size),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.strip_prefix('+') {
            Some(more) => more.parse().map(Self::By),
            None => text.parse().map(Self::To),
        }
    }
}

impl Change {
    /// The new size of a disk with `now` bytes.
    fn of(self, now: u64) -> std::result::Result<u64, String> {
        match self {
            Self::To(Size(size)) => Ok(size),
            Self::By(Size(more)) => {
                now.checked_add(more).ok_or_else(|| "that is more than a disk can have".to_owned())
            }
        }
    }
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let (control, places, name) = (control::open(node)?, Places::system(), &arguments.name);
    let status = control::status(&control, name)?;
    let usage = |why: &str| Failure::usage(format!("resize disk {name}: {why}"));
    let size = arguments.size.of(status.size_bytes).map_err(|why| usage(&why))?;
    let block = u64::from(status.logical_block_size.max(1));
    if size == 0 || size % block != 0 {
        return Err(usage(&format!("{size} bytes are no multiple of its logical block of {block}")));
    }
    let file = store(&places, name)?;
    if status.state != State::Live {
        return Err(Failure::failed(format!(
            "resize disk {name}: it has no server, which does that; `zosbd2 recover {name}` starts one"
        )));
    }
    if size < status.size_bytes {
        shrinks(&control, &status, size, arguments)?;
    }
    file.set_len(size).context(format_args!("set the size of the file of disk {name}"))?;
    follow(&control, &status, size)?;
    for path in places.configurations(name) {
        if Disk::read(&path)?.size.is_some() {
            edit::set(&path, &[("size", Size(size).to_string())])?;
        }
    }
    Ok(())
}

/// The file behind a disk, or why the disk cannot be resized by this command.
fn store(places: &Places, name: &str) -> Result<File> {
    let cannot = |why: &str| Err(Failure::failed(format!("resize disk {name}: {why}")));
    if places.configuration(name).is_none() {
        return cannot(
            "it was not made by `zosbd2 add`, and only its program can resize it, by another size of its backend",
        );
    }
    let disk = Disk::find(places, name)?;
    let path = match (disk.backend, &disk.path) {
        (Kind::File, Some(path)) => path,
        (Kind::Exec, _) => {
            return cannot("its program decides about its size: resize what the program stores it in");
        }
        (kind, _) => {
            return cannot(&format!(
                "the server of a {} disk cannot change its size: remove the disk and add it with another size",
                kind.word()
            ));
        }
    };
    let kind = std::fs::metadata(path).context(format_args!("look at {}", path.display()))?.file_type();
    if kind.is_block_device() {
        return cannot(&format!(
            "it follows the block device {}: resize that, for example with lvextend, and the disk has its size \
             within a second",
            path.display()
        ));
    }
    File::options().write(true).open(path).context(format_args!("open {}", path.display()))
}

/// Fails if the disk must not shrink, and says what is lost.
fn shrinks(control: &Control, status: &Status, size: u64, arguments: &Arguments) -> Result<()> {
    let name = &status.name;
    let lost = status.size_bytes - size;
    let to =
        format!("resize disk {name}: from {} to {} bytes, the last {lost} bytes", status.size_bytes, size);
    if !arguments.shrink {
        return Err(Failure::usage(format!("{to} are lost: `--shrink` allows it")));
    }
    let now = control::status(control, name)?;
    let users = control.observe(Which::from(status))?.users()?;
    let used = now.opens > 0 || !users.is_empty();
    if used && !arguments.force {
        return Err(Failure::new(
            Code::InUse,
            format!(
                "{to} are lost, and it is in use ({users}): make what is on it smaller and end its use first; \
                 `--force` loses them at once"
            ),
        ));
    }
    eprintln!("{to} are lost{}", if used { format!(", and it is in use ({users})") } else { String::new() });
    Ok(())
}

/// Waits until the device has this size.
fn follow(control: &Control, before: &Status, size: u64) -> Result<()> {
    let (name, begin) = (&before.name, Instant::now());
    loop {
        let status = control::status(control, name)?;
        if status.handle == before.handle && status.size_bytes == size {
            return Ok(());
        }
        if status.handle != before.handle || begin.elapsed() > PATIENCE {
            return Err(Failure::failed(format!(
                "resize disk {name}: its file has {size} bytes, but the device still has {}: the log that \
                 `zosbd2 show {name}` names may say why",
                status.size_bytes
            )));
        }
        std::thread::sleep(PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_new_or_added() {
        let change = |text: &str| text.parse::<Change>();
        assert_eq!(change("10G").unwrap().of(1), Ok(10 << 30));
        assert_eq!(change("+1M").unwrap().of(1 << 20), Ok(2 << 20));
        assert!(change("+15E").unwrap().of(u64::MAX).is_err());
        assert!(change("-1G").is_err() && change("+").is_err());
    }

    #[test]
    fn disks_that_cannot_be_resized_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { persistent: folder.path().join("etc"), run: folder.path().join("run") };
        let said = || store(&places, "a").unwrap_err().to_string();
        assert!(said().contains("not made by `zosbd2 add`"), "{}", said());
        let write = |disk: Disk| disk.write(&places.run_file("a")).unwrap();
        write(Disk { size: Some(Size(1 << 20)), ..Disk::new(Kind::Ram) });
        assert!(said().contains("a ram disk cannot change"), "{}", said());
        write(Disk { command: vec!["/bin/x".to_owned()], ..Disk::new(Kind::Exec) });
        assert!(said().contains("its program decides"), "{}", said());
        let file = folder.path().join("a.img");
        write(Disk { path: Some(file.clone()), ..Disk::new(Kind::File) });
        assert!(said().contains("No such file"), "{}", said());
        std::fs::write(file, "").unwrap();
        store(&places, "a").unwrap();
    }
}

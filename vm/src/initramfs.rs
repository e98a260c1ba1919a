// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contents of the guest's root file system.
//!
//! The root file system consists of several archives: host tools with their libraries (large, the same for all
//! kernels), kernel modules, files that seldom change, and files that change with every run. All archives but the
//! last are cached, under a hash of their contents. [`write`] concatenates them into one file for QEMU.

use crate::cpio::Archive;
use crate::error::file;
use crate::kernels::{Kernel, target};
use crate::protocol::{MODULE, MODULE_ALIASES, MODULE_LIST, MODULES, PLAN, Plan};
use crate::{Error, Result, command, modules};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Host programs that tests may use, and their Debian packages.
pub const TOOLS: [(&str, &str); 15] = [
    ("/usr/bin/fio", "fio"),
    ("/sbin/mkfs.ext4", "e2fsprogs"),
    ("/sbin/e2fsck", "e2fsprogs"),
    ("/sbin/mkfs.xfs", "xfsprogs"),
    ("/sbin/xfs_repair", "xfsprogs"),
    ("/sbin/fstrim", "util-linux"),
    ("/sbin/blkdiscard", "util-linux"),
    ("/sbin/fsfreeze", "util-linux"),
    ("/sbin/losetup", "util-linux"),
    ("/sbin/mkswap", "util-linux"),
    ("/sbin/swapon", "util-linux"),
    ("/sbin/swapoff", "util-linux"),
    ("/sbin/mdadm", "mdadm"),
    ("/sbin/lvm", "lvm2"),
    ("/sbin/dmsetup", "dmsetup"),
];

/// Kernel modules that tests may load.
pub const KERNEL_MODULES: [&str; 10] =
    ["loop", "brd", "null_blk", "ext4", "xfs", "raid1", "dm_mod", "fuse", "virtio_pci", "virtio_blk"];

/// Contents of one machine's root file system.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The guest's init.
    pub init: PathBuf,
    /// The module under test.
    pub module: Option<PathBuf>,
    /// Programs of the project. They are installed in `/bin` under their own names.
    pub programs: Vec<PathBuf>,
    /// Other files and folders: path in the guest, path on the host.
    pub files: Vec<(String, PathBuf)>,
    /// Groups of files that seldom change, as in `files`, but without folders. Each group is packed once.
    pub cached: Vec<Vec<(String, PathBuf)>>,
    /// Kernel modules besides [`KERNEL_MODULES`].
    pub kernel_modules: Vec<String>,
    /// Host programs besides [`TOOLS`], with their packages.
    pub tools: Vec<(String, String)>,
}

/// Writes the root file system to `to`.
pub fn write(to: &Path, kernel: &Kernel, contents: &Contents, plan: &Plan) -> Result<()> {
    let tools = tools_archive(&contents.tools)?;
    let modules = modules_archive(kernel, &contents.kernel_modules)?;
    let groups = contents.cached.iter().map(|group| group_archive(group)).collect::<Result<Vec<_>>>()?;
    let small = small_archive(contents, plan)?;
    let mut out = BufWriter::new(File::create(to).map_err(file("create", to))?);
    for part in [tools, modules].into_iter().chain(groups) {
        let mut part_file = File::open(&part).map_err(file("read", &part))?;
        std::io::copy(&mut part_file, &mut out).map_err(file("write", to))?;
    }
    out.write_all(&small).map_err(file("write", to))?;
    out.flush().map_err(file("write", to))
}

fn small_archive(contents: &Contents, plan: &Plan) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "tmp", "run", "mnt", "etc", "root"] {
        archive.folder(folder);
    }
    // The kernel opens the console for init before init can mount /dev.
    archive.device("dev/console", 5, 1);
    archive.link("etc/mtab", "/proc/self/mounts");
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    archive.host("init", &contents.init)?;
    archive.file(PLAN, 0o644, plan.write().as_bytes());
    if let Some(module) = &contents.module {
        archive.host(MODULE, module)?;
    }
    for program in &contents.programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.host(&format!("bin/{name}"), program)?;
    }
    for (path, host) in &contents.files {
        archive.host(path, host)?;
    }
    Ok(archive.finish())
}

fn tools_archive(more: &[(String, String)]) -> Result<PathBuf> {
    let tools = TOOLS.iter().map(|(path, package)| ((*path).to_owned(), (*package).to_owned()));
    let tools: Vec<(String, String)> = tools.chain(more.iter().cloned()).collect();
    let mut key = DefaultHasher::new();
    for (path, package) in &tools {
        let metadata = fs::metadata(path)
            .map_err(|_| Error::MissingProgram { program: path.clone(), package: package.clone() })?;
        (path, metadata.size(), metadata.mtime()).hash(&mut key);
    }
    cached(&format!("tools-{:016x}", key.finish()), || {
        let mut archive = Archive::new();
        let mut libraries = BTreeSet::new();
        for (path, _) in &tools {
            archive.host(path, Path::new(path))?;
            let text = command::text(Command::new("ldd").arg(path), "libc-bin")?;
            // `libz.so.1 => /lib/libz.so.1 (0x7f)`, or `/lib64/ld-linux-x86-64.so.2 (0x7f)`
            let file =
                |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
            libraries.extend(text.lines().filter_map(file));
        }
        for library in libraries {
            archive.host(&library, Path::new(&library))?;
        }
        Ok(archive.finish())
    })
}

fn group_archive(files: &[(String, PathBuf)]) -> Result<PathBuf> {
    let mut key = DefaultHasher::new();
    for (path, host) in files {
        // Not the modification time: a rebuild seldom changes the contents.
        (path, fs::read(host).map_err(file("read", host))?).hash(&mut key);
    }
    cached(&format!("files-{:016x}", key.finish()), || {
        let mut archive = Archive::new();
        for (path, host) in files {
            archive.host(path, host)?;
        }
        Ok(archive.finish())
    })
}

fn modules_archive(kernel: &Kernel, more: &[String]) -> Result<PathBuf> {
    let wanted: Vec<&str> = KERNEL_MODULES.into_iter().chain(more.iter().map(String::as_str)).collect();
    let mut key = DefaultHasher::new();
    wanted.hash(&mut key);
    MODULE_ALIASES.hash(&mut key);
    cached(&format!("modules-{}-{:016x}", kernel.release, key.finish()), || {
        let mut archive = Archive::new();
        let mut list = String::new();
        for (name, files) in modules::resolve(kernel, &wanted)? {
            let _ = write!(list, "{name}:");
            for path in files {
                let own = format!("{}.ko", modules::module_name(&path));
                archive.file(
                    &format!("{MODULES}/{own}"),
                    0o644,
                    &modules::contents(&kernel.modules.join(path))?,
                );
                let _ = write!(list, " {own}");
            }
            list.push('\n');
        }
        archive.file(MODULE_LIST, 0o644, list.as_bytes());
        archive.file(MODULE_ALIASES, 0o644, modules::aliases(kernel, &wanted)?.as_bytes());
        Ok(archive.finish())
    })
}

/// A file of this name in `target/vm/cache`, created if it does not exist.
fn cached(name: &str, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<PathBuf> {
    let folder = target().join("vm/cache");
    fs::create_dir_all(&folder).map_err(file("create", &folder))?;
    // Two runs must not create the same large file at once, and no run may see a partial file.
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path).map_err(file("create", &lock_path))?;
    lock.lock().map_err(file("lock", &lock_path))?;
    let place = folder.join(format!("{name}.cpio"));
    if !place.exists() {
        let fresh = folder.join(format!("{name}.new"));
        fs::write(&fresh, make()?).map_err(file("write", &fresh))?;
        fs::rename(&fresh, &place).map_err(file("rename", &fresh))?;
    }
    Ok(place)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unpacks the packages of a kernel into a folder of the cache, complete or not at all, and makes the headers work
//! there.
//!
//! Kernels before 7 have `boot/vmlinuz-RELEASE`; later ones have `vmlinuz` in the folder of their modules.

use crate::error::file;
use crate::packages::{Archive, Package};
use crate::{Error, Result, command};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn unpack(archive: &Archive, cache: &Path, release: &str, packages: &[Package]) -> Result<()> {
    let fresh = cache.join(format!("{release}.new"));
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(file("remove", &fresh))?;
    }
    let debs = fresh.join("debs");
    fs::create_dir_all(&debs).map_err(file("create", &debs))?;
    archive.download(packages, &debs)?;
    for entry in fs::read_dir(&debs).map_err(file("read", &debs))? {
        let deb = entry.map_err(file("read", &debs))?.path();
        command::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&fresh), "dpkg")?;
    }
    fs::remove_dir_all(&debs).map_err(file("remove", &debs))?;
    if image_file(&fresh, release).is_none() {
        return Err(Error::NoImage(release.to_owned()));
    }
    relocate(&fresh, release)?;
    // The package's own script would do this during installation.
    let modules = modules_folder(&fresh, release);
    let base = if modules.starts_with(fresh.join("usr")) { fresh.join("usr") } else { fresh.clone() };
    command::output(Command::new("/sbin/depmod").arg("-b").arg(&base).arg(release), "kmod")?;
    let place = cache.join(release);
    fs::rename(&fresh, &place).map_err(file("rename", &fresh))
}

/// The image in an unpacked tree.
pub(super) fn image_file(tree: &Path, release: &str) -> Option<PathBuf> {
    let places =
        [tree.join("boot").join(format!("vmlinuz-{release}")), modules_folder(tree, release).join("vmlinuz")];
    places.into_iter().find(|place| place.is_file())
}

/// The folder of modules in an unpacked tree.
pub(super) fn modules_folder(tree: &Path, release: &str) -> PathBuf {
    let old = tree.join("lib/modules").join(release);
    if old.join("kernel").exists() { old } else { tree.join("usr/lib/modules").join(release) }
}

/// Makes the headers work in the cache: their Makefile and links refer to paths under /usr.
fn relocate(tree: &Path, release: &str) -> Result<()> {
    let headers = tree.join("usr/src").join(format!("linux-headers-{release}"));
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).map_err(file("read", &makefile))?;
    let here = "$(dir $(lastword $(MAKEFILE_LIST)))../";
    fs::write(&makefile, text.replace("/usr/src/", here)).map_err(file("write", &makefile))?;
    let sources = tree.join("usr/src");
    let mut links = vec![modules_folder(tree, release)];
    for entry in fs::read_dir(&sources).map_err(file("read", &sources))? {
        links.push(entry.map_err(file("read", &sources))?.path());
    }
    for folder in links {
        for entry in fs::read_dir(&folder).map_err(file("read", &folder))? {
            let link = entry.map_err(file("read", &folder))?.path();
            let Ok(to) = fs::read_link(&link) else { continue };
            let Ok(inside) = to.strip_prefix("/") else { continue };
            let up = folder.strip_prefix(tree).unwrap_or(&folder).components().count();
            let relative: PathBuf = std::iter::repeat_n(Path::new(".."), up).chain([inside]).collect();
            fs::remove_file(&link).map_err(file("remove", &link))?;
            symlink(&relative, &link).map_err(file("write", &link))?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Files of a kernel before 7, besides its headers.
    pub(crate) const WHOLE: [&str; 2] =
        ["boot/vmlinuz-6.1.0-57-cloud-amd64", "lib/modules/6.1.0-57-cloud-amd64/kernel/fs/ext4.ko"];

    /// Files of a kernel from 7 on, besides its headers.
    pub(crate) fn split(release: &str) -> Vec<String> {
        ["vmlinuz", "kernel/fs/ext4.ko"].map(|name| format!("usr/lib/modules/{release}/{name}")).into()
    }

    /// An empty folder, removed when dropped.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("zosbd2-kernels-{}-{number}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        pub(crate) fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn headers_refer_to_their_own_tree() {
        let release = "7.3.4+deb13-cloud-amd64";
        let scratch = Scratch::new();
        let tree = &scratch.0;
        for path in split(release) {
            scratch.write(&path, "");
        }
        let headers = format!("usr/src/linux-headers-{release}");
        scratch.write(
            &format!("{headers}/Makefile"),
            "include /usr/src/linux-headers-7.3.4+deb13-common/Makefile\n",
        );
        scratch.write("usr/src/linux-headers-7.3.4+deb13-common/Makefile", "all:\n");
        let build = modules_folder(tree, release).join("build");
        symlink(format!("/{headers}"), &build).unwrap();
        relocate(tree, release).unwrap();
        assert_eq!(build.canonicalize().unwrap(), tree.join(&headers).canonicalize().unwrap());
        let text = fs::read_to_string(tree.join(&headers).join("Makefile")).unwrap();
        assert_eq!(
            text,
            "include $(dir $(lastword $(MAKEFILE_LIST)))../linux-headers-7.3.4+deb13-common/Makefile\n"
        );
    }
}

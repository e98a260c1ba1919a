// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask install`, behind `make install`: the command and what belongs to it, for systems without the packages.
//!
//! Everything goes below a prefix, and is first put together in `target/install`. `make install` in a clone compiles the
//! command if cargo is there; as root without cargo it takes what `make build` has compiled before. The kernel module is
//! not installed: `make -C kernel` builds it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::kernels;

use crate::lock::lock;
use crate::{command, narrate, paths};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder below which everything is on the system that uses it
    #[arg(long, default_value = "/usr/local")]
    prefix: PathBuf,
    /// Folder that stands for the root of that system
    #[arg(long, default_value = "/")]
    destdir: PathBuf,
    /// Only compile the command
    #[arg(long, conflicts_with_all = ["no_build", "remove"])]
    only_build: bool,
    /// Take the command as it was compiled before
    #[arg(long)]
    no_build: bool,
    /// Remove what an installation with the same prefix has put there
    #[arg(long)]
    remove: bool,
    /// Take this program as the command
    #[arg(long)]
    command: Option<PathBuf>,
}

/// A text of `packaging/`, and where it goes below the prefix.
const TEXTS: [(&str, &str); 6] = [
    ("packaging/zosbd2@.service", "lib/systemd/system/zosbd2@.service"),
    ("packaging/61-zosbd2.rules", "lib/udev/rules.d/61-zosbd2.rules"),
    ("packaging/98-zosbd2.rules", "lib/udev/rules.d/98-zosbd2.rules"),
    ("packaging/modules-load.conf", "lib/modules-load.d/zosbd2.conf"),
    ("packaging/modprobe.conf", "lib/modprobe.d/zosbd2.conf"),
    ("packaging/zosbd2.pc", "share/pkgconfig/zosbd2.pc"),
];

/// The shells for which the command prints completions, and where these go below the prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/zosbd2"),
    ("zsh", "share/zsh/site-functions/_zosbd2"),
    ("fish", "share/fish/vendor_completions.d/zosbd2.fish"),
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let target = kernels::target();
    let built = target.join("release/zosbd2");
    let program = match &arguments.command {
        Some(program) => program.canonicalize().with_context(|| format!("find {}", program.display()))?,
        None if arguments.no_build || arguments.remove => built,
        None => compile(&paths::root(), &target, &[])?,
    };
    if arguments.only_build {
        println!("{}", program.display());
        return Ok(());
    }
    ensure!(
        program.is_file(),
        "the command is not compiled ({} is missing): run `make build` first",
        program.display()
    );
    let _lock = lock(&target.join("install.lock"), "another installation")?;
    let stage = target.join("install");
    remove_folder(&stage)?;
    let files =
        Tree { program: &program, sources: &paths::root(), prefix: &arguments.prefix, version: VERSION };
    files.install(&stage)?;
    let place = below(&arguments.destdir, &arguments.prefix);
    for name in names(&below(&stage, &arguments.prefix))? {
        let to = place.join(&name);
        if arguments.remove {
            match fs::remove_file(&to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", to.display()));
                }
                _ => continue,
            }
        }
        put(&below(&stage, &arguments.prefix).join(&name), &to)?;
        println!("{}", to.display());
    }
    if !arguments.remove && arguments.destdir == Path::new("/") {
        println!("run `systemctl daemon-reload`; `make -C kernel` builds the module");
    }
    Ok(())
}

/// The version of the workspace.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Compiles the command from the sources in a folder into `target/release`, with further flags for rustc.
pub(crate) fn compile(sources: &Path, target: &Path, flags: &[String]) -> Result<PathBuf> {
    ensure!(
        sources.join("cli/Cargo.toml").exists(),
        "{} has no folder cli with the command",
        sources.display()
    );
    let _doing = narrate::doing("compiling the command");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--package", "zosbd2-cli", "--bin", "zosbd2"]);
    cargo.current_dir(sources).env("CARGO_TARGET_DIR", target);
    if !flags.is_empty() {
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    }
    command::finish(&mut cargo)?;
    Ok(target.join("release/zosbd2"))
}

/// The files of an installation.
pub(crate) struct Tree<'a> {
    /// The command.
    pub(crate) program: &'a Path,
    pub(crate) sources: &'a Path,
    /// Where the files will be used.
    pub(crate) prefix: &'a Path,
    pub(crate) version: &'a str,
}

impl Tree<'_> {
    /// Puts the files below `root`, which stands for `/`.
    pub(crate) fn install(&self, root: &Path) -> Result<()> {
        let place = below(root, self.prefix);
        put(self.program, &place.join("bin/zosbd2"))?;
        let program = place.join("bin/zosbd2");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("change the mode of {}", program.display()))?;
        let generators = place.join("lib/systemd/system-generators");
        create(&generators)?;
        let generator = generators.join("zosbd2-generator");
        symlink("../../../bin/zosbd2", &generator)
            .with_context(|| format!("link {}", generator.display()))?;
        for (from, to) in TEXTS {
            let from = self.sources.join(from);
            let text = fs::read_to_string(&from).with_context(|| format!("read {}", from.display()))?;
            write(&place.join(to), self.adapt(&text).as_bytes())?;
        }
        put(&self.sources.join("abi/include/zosbd2.h"), &place.join("include/zosbd2.h"))?;
        let man = place.join("share/man/man8");
        create(&man)?;
        command::finish(Command::new(&program).arg("man").arg(&man)).context("make the man pages")?;
        for (shell, to) in COMPLETIONS {
            let printed = command::finish(Command::new(&program).args(["completion", shell]));
            let printed = printed.with_context(|| format!("make the completion for {shell}"))?.stdout;
            ensure!(!printed.is_empty(), "`zosbd2 completion {shell}` printed nothing");
            write(&place.join(to), &printed)?;
        }
        Ok(())
    }

    /// A text of `packaging/`, for this prefix and version.
    pub(crate) fn adapt(&self, text: &str) -> String {
        let prefix = self.prefix.display();
        let lines = text.replace("/usr/bin/zosbd2", &format!("{prefix}/bin/zosbd2"));
        lines.replace("prefix=/usr\n", &format!("prefix={prefix}\n")).replace("@VERSION@", self.version)
    }
}

/// An absolute path below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The files and links below a folder, relative to it, sorted.
pub(crate) fn names(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("read {}", next.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a file or link. A file appears by a rename, so that programs that are running keep theirs.
fn put(from: &Path, to: &Path) -> Result<()> {
    create(to.parent().context("a file is in a folder")?)?;
    let name = to.file_name().context("a file has a name")?.display().to_string();
    let fresh = to.with_file_name(format!(".{name}.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", fresh.display()));
        }
        _ => {}
    }
    match fs::read_link(from) {
        Ok(link) => symlink(link, &fresh),
        Err(_) => fs::copy(from, &fresh).map(drop),
    }
    .with_context(|| format!("copy {} to {}", from.display(), fresh.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("rename {}", fresh.display()))
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    create(path.parent().context("a file is in a folder")?)?;
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

pub(crate) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Stands for the command: writes a man page, and prints completions.
    pub(crate) const STAND_IN: &str = "#!/bin/sh\ncase $1 in\nman) echo '.TH zosbd2 8' >\"$2/zosbd2.8\" ;;\n\
                                       completion) echo \"completion for $2\" ;;\nesac\n";

    fn stand_in(folder: &Path) -> PathBuf {
        let path = folder.join("stand-in");
        fs::write(&path, STAND_IN).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn arguments(folder: &Path, remove: bool) -> Arguments {
        let (prefix, destdir) = (PathBuf::from("/opt/disks"), folder.join("root"));
        let command = Some(stand_in(folder));
        Arguments { prefix, destdir, only_build: false, no_build: true, remove, command }
    }

    #[test]
    fn the_prefix_is_in_paths_and_texts_and_everything_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        run(&arguments(folder.path(), false)).unwrap();
        // Again, over the first.
        run(&arguments(folder.path(), false)).unwrap();
        let place = folder.path().join("root/opt/disks");
        let text = |name: &str| fs::read_to_string(place.join(name)).unwrap();
        let unit = text("lib/systemd/system/zosbd2@.service");
        assert!(unit.contains("\nExecStart=@:/opt/disks/bin/zosbd2 @zosbd2 serve %I\n"), "{unit}");
        assert!(!unit.contains("/usr/"), "{unit}");
        let config = text("share/pkgconfig/zosbd2.pc");
        assert!(
            config.contains("prefix=/opt/disks\n") && config.contains(&format!("Version: {VERSION}\n")),
            "{config}"
        );
        let generator = place.join("lib/systemd/system-generators/zosbd2-generator").canonicalize().unwrap();
        assert_eq!(generator, place.join("bin/zosbd2").canonicalize().unwrap());
        assert_eq!(text("share/zsh/site-functions/_zosbd2"), "completion for zsh\n");
        assert_eq!(text("share/man/man8/zosbd2.8"), ".TH zosbd2 8\n");
        assert_eq!(names(&place).unwrap().len(), 13);
        run(&arguments(folder.path(), true)).unwrap();
        assert_eq!(names(&place).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn each_line_of_the_unit_has_a_reason() {
        let unit = include_str!("../../packaging/zosbd2@.service");
        let lines: Vec<&str> = unit.lines().skip_while(|line| *line != "[Unit]").collect();
        for pair in lines.windows(2) {
            let known = ["Description=", "Documentation=", "RestartSec=", "RestartMaxDelaySec="];
            if pair[1].contains('=') && !pair[1].starts_with('#') {
                let reason = pair[0].starts_with("# ") || known.iter().any(|word| pair[1].starts_with(word));
                assert!(reason, "{} has no comment", pair[1]);
            }
        }
    }
}

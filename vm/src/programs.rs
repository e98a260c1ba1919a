// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs of the host for the guest, with what they need: shared libraries, interpreters, Python's library.
//!
//! The dynamic loader of a program lists its libraries. They keep their paths; a folder in which the guest's loader would
//! not look is put into `LD_LIBRARY_PATH`. What a program opens while it runs is unknown here, such as plug-ins and
//! configuration files.

use crate::elf::Elf;
use crate::error::file;
use crate::{Error, Result, command};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs are put that a person adds.
pub const PROGRAMS: &str = "/usr/local/bin";
/// Where other files are put that a person adds: the working folder of the shell.
pub const FILES: &str = "/root";

/// Folders in which every loader of Debian looks.
const LIBRARY_FOLDERS: [&str; 7] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/i386-linux-gnu",
];
/// Folders in which programs are looked for, before those of `PATH`.
const FOLDERS: [&str; 6] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];
/// Parts of Python's library that servers hardly need.
const PYTHON_WITHOUT: [&str; 8] =
    ["__pycache__", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"];

/// Paths in the guest and on the host.
pub type Pairs = Vec<(String, PathBuf)>;

/// Files for the guest.
#[derive(Debug, Default)]
pub struct Files {
    all: BTreeMap<String, PathBuf>,
    library_folders: BTreeSet<String>,
    names: Vec<String>,
}

impl Files {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a program, a file or a folder for a person: `PATH`, or `PATH:PATH-IN-THE-GUEST`.
    pub fn add(&mut self, wanted: &str) -> Result<()> {
        let (host, guest) = split(wanted)?;
        let metadata = fs::metadata(&host).map_err(file("examine", &host))?;
        let program = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        let name = host.file_name().map(|name| name.to_string_lossy().into_owned());
        let guest = match (guest, name) {
            (Some(guest), _) => guest,
            (None, Some(name)) => format!("{}/{name}", if program { PROGRAMS } else { FILES }),
            (None, None) => {
                return Err(cannot(
                    &host,
                    "it has no name: give it a path in the guest, as in /etc/..:/root/etc",
                ));
            }
        };
        if let Some(other) = self.all.get(&guest).filter(|other| **other != host) {
            return Err(cannot(&host, format!("{} is {guest} in the guest, too", other.display())));
        }
        self.names.push(guest.clone());
        self.all.insert(guest, host.clone());
        if metadata.is_file() { self.needs_of(&host) } else { Ok(()) }
    }

    /// Adds a program of the host under its own path. Does nothing if it is not installed.
    pub fn tool(&mut self, name: &str) -> Result<()> {
        let Some(path) = find(name) else { return Ok(()) };
        self.all.insert(path.to_string_lossy().into_owned(), path.clone());
        self.needs_of(&path)
    }

    /// Adds a file under its own path, if it exists.
    pub fn optional(&mut self, path: &Path) {
        if path.is_file() {
            self.all.insert(path.to_string_lossy().into_owned(), path.to_owned());
        }
    }

    /// What was added for a person, as paths in the guest.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The value of `LD_LIBRARY_PATH`, if it is needed.
    #[must_use]
    pub fn library_path(&self) -> Option<String> {
        let folders: Vec<&str> = self.library_folders.iter().map(String::as_str).collect();
        (!folders.is_empty()).then(|| folders.join(":"))
    }

    /// All files, and all folders.
    #[must_use]
    pub fn parts(self) -> (Pairs, Pairs) {
        self.all.into_iter().partition(|(_, host)| host.is_file())
    }

    /// Adds what a file needs.
    fn needs_of(&mut self, path: &Path) -> Result<()> {
        let mut start = Vec::new();
        let opened = fs::File::open(path).map_err(file("open", path))?;
        opened.take(4096).read_to_end(&mut start).map_err(file("read", path))?;
        if start.starts_with(b"\x7fELF") {
            let whole = fs::read(path).map_err(file("read", path))?;
            let elf = Elf::parse(&whole).ok_or_else(|| cannot(path, "it is a damaged ELF file"))?;
            self.needs_of_elf(path, &elf)
        } else if let Some(line) = start.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            self.needs_of_script(path, &String::from_utf8_lossy(line))
        } else {
            Ok(())
        }
    }

    fn needs_of_elf(&mut self, path: &Path, elf: &Elf) -> Result<()> {
        if !elf.runs_on_amd64() {
            let problem = format!("it is for {}, and the guest is x86-64", elf.machine);
            return Err(cannot(path, problem));
        }
        let Some(loader) = &elf.loader else { return Ok(()) };
        if !Path::new(loader).exists() {
            return Err(cannot(path, format!("its dynamic loader {loader} is not on this machine")));
        }
        self.all.insert(loader.clone(), loader.into());
        for library in libraries(path, loader)? {
            let folder =
                Path::new(&library).parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
            if !LIBRARY_FOLDERS.contains(&folder.as_str()) {
                self.library_folders.insert(folder);
            }
            self.all.insert(library.clone(), library.into());
        }
        Ok(())
    }

    fn needs_of_script(&mut self, path: &Path, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let interpreter = words.next().ok_or_else(|| cannot(path, "its first line names no interpreter"))?;
        if !Path::new(interpreter).exists() {
            return Err(cannot(path, format!("its interpreter {interpreter} is not on this machine")));
        }
        self.interpreter(Path::new(interpreter), interpreter.to_owned())?;
        if interpreter.ends_with("/env") {
            // `#!/usr/bin/env -S NAME=VALUE python3 -u`
            let name = words.find(|word| !word.starts_with('-') && !word.contains('='));
            let name = name.ok_or_else(|| cannot(path, "its first line names no interpreter"))?;
            let found = find(name)
                .ok_or_else(|| cannot(path, format!("its interpreter {name} is not on this machine")))?;
            self.interpreter(&found, format!("{PROGRAMS}/{name}"))?;
        }
        Ok(())
    }

    /// Adds an interpreter at this path in the guest, and under its own path.
    fn interpreter(&mut self, path: &Path, guest: String) -> Result<()> {
        self.all.insert(guest, path.to_owned());
        self.all.insert(path.to_string_lossy().into_owned(), path.to_owned());
        self.needs_of(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("python3") { self.python_library(path) } else { Ok(()) }
    }

    /// Adds Python's own library, without the packages of the machine's administrator.
    fn python_library(&mut self, python: &Path) -> Result<()> {
        let script = "import sysconfig; print(sysconfig.get_path('stdlib'))";
        let folder = command::text(Command::new(python).args(["-I", "-S", "-c", script]), "python3")?;
        let mut folders = vec![PathBuf::from(folder.trim())];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(file("read", &folder))?.flatten() {
                let path = entry.path();
                let name = entry.file_name().to_string_lossy().into_owned();
                if path.is_dir() {
                    let left_out = PYTHON_WITHOUT.contains(&name.as_str()) || name.starts_with("config-");
                    if !left_out && !name.ends_with("-packages") {
                        folders.push(path);
                    }
                } else if path.is_file() {
                    self.all.insert(path.to_string_lossy().into_owned(), path.clone());
                    if path.extension().is_some_and(|end| end == "so") {
                        let loader = crate::arch::LOADER;
                        for library in libraries(&path, loader)? {
                            self.all.insert(library.clone(), library.into());
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The libraries of a program, as its loader lists them.
fn libraries(path: &Path, loader: &str) -> Result<Vec<String>> {
    // The loader looks for a name without a slash among the libraries.
    let path = &std::path::absolute(path).map_err(file("find", path))?;
    let mut command = Command::new(loader);
    if loader.contains("musl") {
        command.arg("--list");
    }
    // The loader of glibc lists the libraries instead of starting the program if this is set.
    let output = command.arg(path).env("LD_TRACE_LOADED_OBJECTS", "1").env("LC_ALL", "C").output();
    let output = output.map_err(file("run", Path::new(loader)))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let missing = said.lines().find_map(|line| line.trim().strip_suffix("=> not found"));
    // musl: "Error loading shared library libx.so: No such file or directory (needed by ...)"
    let missing = missing
        .or_else(|| complaint.lines().find_map(|line| line.strip_prefix("Error loading shared library ")))
        .map(|rest| rest.split([':', ' ']).next().unwrap_or(rest));
    if let Some(library) = missing {
        let problem = format!(
            "it needs the library {library}, which is not on this machine (or name its folder in LD_LIBRARY_PATH)"
        );
        return Err(cannot(path, problem));
    }
    if !output.status.success() {
        return Err(cannot(path, format!("{loader} does not list its libraries: {}", complaint.trim())));
    }
    // `libz.so.1 => /lib/libz.so.1 (0x7f)`, or `/lib64/ld-linux-x86-64.so.2 (0x7f)`
    let file = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    Ok(said.lines().filter_map(file).collect())
}

/// A program of the host.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = FOLDERS.into_iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Separates the path on the host from that in the guest.
fn split(wanted: &str) -> Result<(PathBuf, Option<String>)> {
    let whole = PathBuf::from(wanted);
    if whole.exists() {
        return Ok((whole, None));
    }
    match wanted.rsplit_once(':') {
        Some((host, guest)) if Path::new(host).exists() => {
            if !guest.starts_with('/') {
                return Err(cannot(Path::new(host), format!("{guest:?} is no absolute path in the guest")));
            }
            Ok((host.into(), Some(guest.to_owned())))
        }
        Some((host, guest)) if guest.starts_with('/') => {
            Err(cannot(Path::new(host), "there is no such file"))
        }
        _ => Err(cannot(&whole, "there is no such file")),
    }
}

fn cannot(path: &Path, problem: impl Into<String>) -> Error {
    Error::CannotAdd { path: path.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("zosbd2-vm-programs-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, bytes: &[u8]) -> String {
            let path = self.0.join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path.display().to_string()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn problem(wanted: &str) -> String {
        Files::new().add(wanted).unwrap_err().to_string()
    }

    #[test]
    fn a_program_comes_with_its_loader_and_libraries() {
        let mut files = Files::new();
        files.add("/bin/ls").unwrap();
        assert_eq!(files.names(), ["/usr/local/bin/ls"]);
        assert_eq!(files.library_path(), None);
        let (files, folders) = files.parts();
        for part in ["/usr/local/bin/ls", "ld-linux-x86-64.so.2", "libc.so.6"] {
            assert!(
                files.iter().any(|(guest, host)| guest.contains(part) && host.is_file()),
                "{part}: {files:?}"
            );
        }
        assert!(folders.is_empty());
    }

    #[test]
    fn a_script_comes_with_its_interpreters() {
        let folder = Folder::new("scripts");
        let script = folder.file("script", b"#!/usr/bin/env -S X=1 bash -u\necho\n");
        let mut files = Files::new();
        files.add(&script).unwrap();
        let (files, _) = files.parts();
        for part in ["/usr/local/bin/script", "/usr/bin/env", "/usr/local/bin/bash", "libc.so.6"] {
            assert!(files.iter().any(|(guest, _)| guest.ends_with(part)), "{part}: {files:?}");
        }
        assert!(
            problem(&folder.file("lost", b"#!/opt/lost/perl\n"))
                .ends_with("its interpreter /opt/lost/perl is not on this machine")
        );
        assert!(
            problem(&folder.file("unknown", b"#!/usr/bin/env nonsense-9\n"))
                .ends_with("its interpreter nonsense-9 is not on this machine")
        );
    }

    #[test]
    fn what_cannot_run_is_refused_with_the_reason() {
        let folder = Folder::new("refused");
        assert_eq!(problem("/nonexistent/x"), "/nonexistent/x cannot be added: there is no such file");
        assert_eq!(problem("/nonexistent/x:/bin/x"), "/nonexistent/x cannot be added: there is no such file");
        assert!(problem("/bin/ls:bin/x").contains("\"bin/x\" is no absolute path in the guest"));
        let mut other = fs::read("/bin/ls").unwrap();
        other[18] = 183;
        let arm = folder.file("arm", &other);
        assert!(problem(&arm).ends_with("it is for ARM64, and the guest is x86-64"), "{}", problem(&arm));
        // Another name of a library is a library that does not exist.
        let mut other = fs::read("/bin/ls").unwrap();
        let name = other.windows(10).position(|part| part == b"libc.so.6\0").unwrap();
        other[name..name + 9].copy_from_slice(b"libq.so.6");
        let lost = problem(&folder.file("lost", &other));
        assert!(lost.contains("needs the library libq.so.6, which is not on this machine"), "{lost}");
        let damaged = problem(&folder.file("damaged", b"\x7fELF\x02\x01"));
        assert!(damaged.ends_with("it is a damaged ELF file"), "{damaged}");
    }

    #[test]
    fn files_and_folders_are_put_where_they_are_wanted() {
        let folder = Folder::new("files");
        let data = folder.file("data", b"1");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o644)).unwrap();
        let mut files = Files::new();
        files.add(&data).unwrap();
        files.add(&format!("{}:/srv", folder.0.display())).unwrap();
        assert_eq!(files.names(), ["/root/data", "/srv"]);
        let error = files.add(&format!("{}:/root/data", folder.file("other", b"2"))).unwrap_err();
        assert!(error.to_string().contains("/data is /root/data in the guest, too"), "{error}");
        let (files, folders) = files.parts();
        assert_eq!((files.len(), folders.len()), (1, 1));
    }
}

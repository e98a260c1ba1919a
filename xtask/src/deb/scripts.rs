// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the maintainer scripts, with folders that stand for the system's and a program that stands for the command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::paths;

/// A system with the programs `zosbd2`, `systemctl` and `rmmod`, which log how they were called.
struct System {
    folder: TempDir,
}

impl System {
    fn new() -> Self {
        let system = Self { folder: tempfile::tempdir().unwrap() };
        system.write("log", "");
        system.write("table", "");
        // The table has a line NAME OPEN for each disk. A file `fails` makes every call but `list` fail.
        system.program("zosbd2", "[ \"$1\" != list ] || { cat table; exit; }\n[ ! -e fails ]");
        system.program("systemctl", "");
        system.program("rmmod", "[ ! -e fails ]");
        system.program("modinfo", "echo new");
        system.program("modprobe", "");
        system
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn program(&self, name: &str, script: &str) {
        let path = format!("bin/{name}");
        let log = if name == "modinfo" { "" } else { "echo \"$(basename \"$0\") $*\" >>log\n" };
        let folder = self.folder.path().display();
        self.write(&path, &format!("#!/bin/sh\ncd {folder}\n{log}{script}\n"));
        fs::set_permissions(self.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A configured disk that exists, and how many have it open.
    fn disk(&self, folder: &str, name: &str, open: u32) {
        self.write(&format!("{folder}/zosbd2/{name}.toml"), "");
        self.write(&format!("sys/block/zosbd2-{name}/size"), "");
        let table = fs::read_to_string(self.path("table")).unwrap();
        self.write("table", &format!("{table}{name}  {open}\n"));
    }

    /// Runs a script with these arguments. Returns what the programs were called with; the error is what it said.
    fn run(&self, script: &str, words: &[&str]) -> Result<String, String> {
        let text = fs::read_to_string(paths::root().join("packaging/debian").join(script)).unwrap();
        let folder = self.folder.path().display();
        let text = ["/run/", "/etc/", "/sys/", "/dev/", "/var/"].iter().fold(text, |text, path| {
            let parts: Vec<&str> = text.split(path).collect();
            // Not the one in /dev/null, which is no part of the system.
            parts.join(&format!("{folder}{path}")).replace(&format!("{folder}/dev/null"), "/dev/null")
        });
        let mut shell = Command::new("sh");
        shell.args(["-c", &text, script]).args(words);
        shell.env("PATH", format!("{folder}/bin:/usr/bin:/bin"));
        let output = shell.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        let log = fs::read_to_string(self.path("log")).unwrap();
        self.write("log", "");
        if output.status.success() { Ok(log + &said) } else { Err(log + &said) }
    }
}

#[test]
fn every_file_names_its_licence() {
    let folder = paths::root().join("packaging");
    for name in crate::install::names(&folder).unwrap() {
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        // dpkg-source wants a single line.
        let exempt = name.ends_with("source/format");
        assert!(exempt || text.contains("SPDX-License-Identifier: "), "{}", name.display());
    }
}

#[test]
fn a_removal_is_refused_while_a_disk_is_in_use_and_stops_nothing() {
    let system = System::new();
    system.disk("etc", "data", 2);
    system.disk("run", "a+b-c", 0);
    let error = system.run("zosbd2.prerm", &["remove"]).unwrap_err();
    assert!(error.contains("cannot be removed while these disks are in use: data."), "{error}");
    assert!(!error.contains("zosbd2 remove"), "{error}");
}

#[test]
fn a_removal_ends_the_servers_of_unused_disks() {
    let system = System::new();
    system.disk("etc", "data", 0);
    system.disk("run", "a+b-c", 0);
    // Of a program that does not belong to the package, in use.
    system.write("sys/block/zosbd2-other/size", "");
    system.write("table", "data 0\nother  3\na+b-c 0\n");
    // Configured, but not there.
    system.write("etc/zosbd2/off.toml", "");
    assert!(system.run("zosbd2.prerm", &["remove"]).unwrap().ends_with("zosbd2 remove a+b-c data\n"));
    system.write("fails", "");
    assert!(system.run("zosbd2.prerm", &["remove"]).is_err(), "a disk came into use meanwhile");
}

#[test]
fn nothing_is_stopped_without_disks_and_by_an_upgrade() {
    let system = System::new();
    assert_eq!(system.run("zosbd2.prerm", &["remove"]).unwrap(), "");
    system.disk("etc", "data", 2);
    for words in
        [&["upgrade", "0.2.0"][..], &["failed-upgrade", "0.2.0"], &["deconfigure", "in-favour", "x", "1"]]
    {
        assert_eq!(system.run("zosbd2.prerm", words).unwrap(), "");
    }
}

#[test]
fn an_upgrade_starts_new_servers_and_succeeds_without_them() {
    let system = System::new();
    let configure = |version| system.run("zosbd2.postinst", &["configure", version]).unwrap();
    system.write("dev/zosbd2ctl", "");
    assert_eq!(configure("0.1.0"), "", "there is no systemd");
    fs::create_dir_all(system.path("run/systemd/system")).unwrap();
    assert_eq!(configure("0.1.0"), "systemctl --system daemon-reload\nzosbd2 upgrade --all\n");
    assert_eq!(configure(""), "systemctl --system daemon-reload\n", "the first installation");
    system.write("fails", "");
    let said = configure("0.1.0");
    assert!(said.contains("keep the one of version 0.1.0"), "{said}");
    fs::remove_file(system.path("dev/zosbd2ctl")).unwrap();
    assert_eq!(configure("0.1.0"), "systemctl --system daemon-reload\n", "the module is not loaded");
    assert_eq!(system.run("zosbd2.postinst", &["abort-remove"]).unwrap(), "");
}

#[test]
fn a_purge_removes_what_the_package_did_not_bring() {
    let system = System::new();
    for file in ["etc/zosbd2/data.toml", "run/zosbd2/data.toml", "dev/shm/zosbd2-data", "dev/shm/other"] {
        system.write(file, "");
    }
    assert_eq!(system.run("zosbd2.postrm", &["remove"]).unwrap(), "");
    assert!(system.path("etc/zosbd2/data.toml").exists());
    assert_eq!(system.run("zosbd2.postrm", &["purge"]).unwrap(), "");
    for file in ["etc/zosbd2", "run/zosbd2", "dev/shm/zosbd2-data"] {
        assert!(!system.path(file).exists(), "{file}");
    }
    assert!(system.path("dev/shm/other").exists());
}

#[test]
fn a_new_module_is_loaded_unless_the_old_one_serves_disks() {
    let system = System::new();
    let configure = || system.run("zosbd2-dkms.postinst", &["configure", ""]).unwrap();
    assert_eq!(configure(), "");
    system.write("sys/module/zosbd2/srcversion", "new\n");
    assert_eq!(configure(), "");
    system.write("sys/module/zosbd2/srcversion", "old\n");
    assert_eq!(configure(), "rmmod zosbd2\nmodprobe zosbd2\n");
    system.write("fails", "");
    let said = configure();
    assert!(said.contains("until the next boot") && !said.contains("modprobe"), "{said}");
    let said = system.run("zosbd2-dkms.prerm", &["remove"]).unwrap();
    assert!(said.contains("stays loaded until the next boot"), "{said}");
    assert_eq!(system.run("zosbd2-dkms.prerm", &["upgrade", "0.2.0"]).unwrap(), "");
}

#[test]
fn secure_boot_is_explained_until_the_key_is_enrolled() {
    let system = System::new();
    let configure = || system.run("zosbd2-dkms.postinst", &["configure", ""]).unwrap();
    let firmware = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    system.write(firmware, "\u{6}\0\0\0\0");
    assert_eq!(configure(), "");
    system.write(firmware, "\u{6}\0\0\0\u{1}");
    system.program("mokutil", "echo \"$2 is not enrolled\"");
    let said = configure();
    assert!(said.contains("mokutil --import") && said.contains("var/lib/dkms/mok.pub"), "{said}");
    system.write("var/lib/dkms/mok.pub", "");
    assert!(configure().contains("Enroll MOK"));
    system.program("mokutil", "echo \"$2 is already enrolled\"");
    assert_eq!(configure().lines().filter(|line| !line.starts_with("mokutil ")).count(), 0);
    fs::remove_file(system.path(firmware)).unwrap();
    system.write("sys/module/module/parameters/sig_enforce", "Y\n");
    system.program("mokutil", "echo 'EFI variables are not supported on this system'; exit 1");
    assert!(configure().contains("Enroll MOK"));
}

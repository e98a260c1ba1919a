// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of `kernel/build.sh` and `kernel/Makefile` with a made-up kernel, whose build makes empty objects.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zosbd2_vm::arch;

use super::conditions;
use crate::{paths, setup};

/// Options of a kernel that `amd64-plain` fits.
const PLAIN: [&str; 1] = ["X86_64=y"];

/// Stands for the kernel's Makefile.
const MAKEFILE: &str =
    "%.o:\n\t@touch $(M)/$@\nmodules:\n\t@[ ! -e broken ]\n\t@echo module >$(M)/zosbd2.ko\n";

/// Stands for the kernel's `sign-file`: HASH KEY CERTIFICATE MODULE DESTINATION.
const SIGN_FILE: &str = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n[ ! -e refuses ] || exit 1\n\
                         [ ! -e waits ] || { touch signing; sleep 600; }\n{ cat \"$4\"; echo signed; } >\"$5\"\n";

/// Headers, and a folder to build in.
struct Kernel {
    folder: TempDir,
}

impl Kernel {
    fn new(options: &[&str]) -> Self {
        let kernel = Self { folder: tempfile::tempdir().unwrap() };
        let lines: Vec<String> = options.iter().map(|option| format!("CONFIG_{option}\n")).collect();
        kernel.write("kdir/include/config/auto.conf", &lines.concat());
        kernel.write("kdir/Makefile", MAKEFILE);
        kernel.write("kdir/scripts/sign-file", SIGN_FILE);
        let program = fs::Permissions::from_mode(0o755);
        fs::set_permissions(kernel.path("kdir/scripts/sign-file"), program).unwrap();
        kernel
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn module(&self) -> PathBuf {
        self.path("out/zosbd2.ko")
    }

    /// `build.sh` with these values of RUST and VARIANT.
    fn command(&self, rust: &Path, variant: &str) -> Command {
        let mut build = Command::new("sh");
        build.arg(paths::root().join("kernel/build.sh"));
        build.env("KDIR", self.path("kdir")).env("O", self.path("out"));
        build.env("RUST", rust).env("VARIANT", variant);
        for unset in ["SPARSE", "W", "SIGN_KEY", "SIGN_CERT", "QUIET", "KCFLAGS"] {
            build.env(unset, "");
        }
        build
    }

    /// What `build.sh` prints.
    fn build(&self, rust: &Path, variant: &str) -> Result<String, String> {
        result(&self.command(rust, variant).output().unwrap())
    }

    /// The name of the object that is chosen from those of the release archive.
    fn choice(&self) -> Result<String, String> {
        let objects = tempfile::tempdir().unwrap();
        for prebuilt in arch::ALL.iter().flat_map(|arch| arch.prebuilt) {
            fs::write(objects.path().join(format!("{}.conf", prebuilt.name)), conditions(prebuilt)).unwrap();
        }
        let path = PathBuf::from(self.build(objects.path(), "choose")?);
        Ok(path.file_name().unwrap().to_string_lossy().into_owned())
    }

    /// An object with every entry point and nothing else, for kernels like this one.
    fn object(&self) -> PathBuf {
        let exports = fs::read_to_string(paths::root().join("kernel/exports.txt")).unwrap();
        let code: String =
            exports.lines().flat_map(|name| [".globl ", name, "\n", name, ": ret\n"]).collect();
        self.write("object.s", &code);
        let object = self.path("object.o");
        let status = Command::new("as").arg("-o").arg(&object).arg(self.path("object.s")).status();
        assert!(status.unwrap().success());
        self.write("object.conf", "# Made up.\nX86_64=y\nKASAN=n\n");
        object
    }
}

fn result(output: &Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn a_file_that_is_no_object_is_refused_as_such() {
    let kernel = Kernel::new(&PLAIN);
    let file = kernel.path("file.o");
    let refused = || kernel.build(&file, "release").unwrap_err();
    assert!(refused().contains("there is no Rust object"), "{}", refused());
    kernel.write("file.conf", "X86_64=y\n");
    let program = fs::read("/bin/sh").unwrap();
    for bytes in [&b""[..], b"int main(void);\n", b"\x7fELF", &program] {
        fs::write(&file, bytes).unwrap();
        assert!(refused().contains("file.o is no object file"), "{}", refused());
    }
    // Bytes 16 and 17 are the type: 1 is a relocatable object. An object without the entry points is another error.
    let status = Command::new("ld").args(["-r", "-b", "binary", "-o"]).arg(&file).arg("/etc/passwd").status();
    assert!(status.unwrap().success());
    assert!(refused().contains("entry points are not those of"), "{}", refused());
}

#[test]
fn an_object_file_says_for_which_kernels_it_is() {
    let kernel = Kernel::new(&PLAIN);
    let object = kernel.object();
    let module = kernel.module().display().to_string();
    assert_eq!(kernel.build(&object, "release"), Ok(module));
    kernel.write("object.conf", "X86_64=y\nCALL_PADDING=y\n");
    let error = kernel.build(&object, "release").unwrap_err();
    assert!(error.contains("object.o does not fit"), "{error}");
    assert!(error.contains("CONFIG_CALL_PADDING: the object is for y, the kernel has n"), "{error}");
    assert!(!kernel.module().exists());
    fs::remove_file(kernel.path("object.conf")).unwrap();
    let error = kernel.build(&object, "release").unwrap_err();
    assert!(error.contains("there is no ") && error.contains("object.conf beside"), "{error}");
}

#[test]
fn the_object_that_fits_is_chosen() {
    let choice = |options: &[&str]| Kernel::new(options).choice();
    let newer = ["X86_64=y", "MITIGATION_RETHUNK=y", "CALL_PADDING=y", "FUNCTION_PADDING_BYTES=16"];
    assert_eq!(choice(&newer), Ok("amd64-padded.o".to_owned()));
    assert_eq!(choice(&["X86_64=y", "RETHUNK=y", "X86_KERNEL_IBT=y"]), Ok("amd64-thunks.o".to_owned()));
    assert_eq!(choice(&PLAIN), Ok("amd64-plain.o".to_owned()));
}

#[test]
fn a_kernel_that_no_object_fits_is_told_what_differs() {
    let options = ["X86_64=y", "RETHUNK=y", "CALL_PADDING=y", "FUNCTION_PADDING_BYTES=11"];
    let error = Kernel::new(&options).choice().unwrap_err();
    assert!(
        error.contains("CONFIG_FUNCTION_PADDING_BYTES: the object is for 16, the kernel has 11"),
        "{error}"
    );
    assert!(error.contains("ZOSBD2_RUST=source"), "{error}");
}

#[test]
fn a_kernel_that_is_not_supported_is_refused_by_name() {
    for (options, reason) in [
        (&["X86_64=y", "CFI=y"][..], "kCFI"),
        (&["X86_64=y", "CFI_CLANG=y"], "kCFI"),
        (&["ARM64=y", "CPU_BIG_ENDIAN=y"], "big-endian"),
        (&["X86_32=y"], "i386"),
        // Another object, or Rust, would not help.
        (&["ARM64=y"], "another architecture; supported: amd64\n"),
    ] {
        let kernel = Kernel::new(options);
        for error in [kernel.choice().unwrap_err(), kernel.build(&kernel.object(), "release").unwrap_err()] {
            assert!(error.contains("is not supported") && error.contains(reason), "{error}");
            assert!(!error.contains("source"), "{error}");
        }
    }
}

#[test]
fn choosing_changes_nothing() {
    for (options, fits) in [(&PLAIN[..], true), (&["X86_64=y", "KASAN=y"], false)] {
        let kernel = Kernel::new(options);
        assert_eq!(kernel.choice().is_ok(), fits);
        assert!(!kernel.path("out").exists());
        kernel.write("out/zosbd2.ko", "an earlier build's");
        assert_eq!(kernel.choice().is_ok(), fits);
        assert_eq!(fs::read_dir(kernel.path("out")).unwrap().count(), 1);
    }
}

#[test]
fn no_module_is_left_after_an_error() {
    let kernel = Kernel::new(&PLAIN);
    let object = kernel.object();
    kernel.build(&object, "release").unwrap();
    assert!(kernel.module().exists());
    kernel.write("kdir/broken", "");
    let error = kernel.build(&object, "release").unwrap_err();
    assert!(error.contains("building the module in"), "{error}");
    assert!(!kernel.module().exists());
    let error = kernel.build(&object, "fast").unwrap_err();
    assert!(error.contains("VARIANT=fast is unknown"), "{error}");
}

#[test]
fn a_module_is_signed_or_not_there() {
    let kernel = Kernel::new(&PLAIN);
    let object = kernel.object();
    kernel.write("key", "");
    kernel.write("certificate", "");
    let command = || {
        let mut command = kernel.command(&object, "release");
        command.env("SIGN_KEY", kernel.path("key")).env("SIGN_CERT", kernel.path("certificate"));
        command
    };
    result(&command().output().unwrap()).unwrap();
    assert_eq!(fs::read_to_string(kernel.module()).unwrap(), "module\nsigned\n");
    assert!(!kernel.path("out/zosbd2.unsigned").exists());
    kernel.write("kdir/scripts/refuses", "");
    let error = result(&command().output().unwrap()).unwrap_err();
    assert!(error.contains("cannot sign"), "{error}");
    let left = || ["ko", "signed", "unsigned"].map(|end| kernel.path(&format!("out/zosbd2.{end}")).exists());
    assert_eq!(left(), [false; 3]);
    fs::remove_file(kernel.path("kdir/scripts/refuses")).unwrap();
    // Interrupted while it signs, with its children, as by Ctrl-C.
    kernel.write("kdir/scripts/waits", "");
    let mut build = command().process_group(0).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !kernel.path("kdir/scripts/signing").exists() {
        assert!(start.elapsed() < Duration::from_mins(2), "the build does not come to sign");
        std::thread::sleep(Duration::from_millis(20));
    }
    let group = format!("-{}", build.id());
    assert!(Command::new("kill").args(["-TERM", "--", &group]).status().unwrap().success());
    assert!(!build.wait().unwrap().success());
    assert_eq!(left(), [false; 3]);
    let error = result(&command().env("SIGN_KEY", "").output().unwrap()).unwrap_err();
    assert!(error.contains("both SIGN_KEY= and SIGN_CERT="), "{error}");
}

#[test]
fn a_folder_of_another_user_is_refused_with_a_hint() {
    let kernel = Kernel::new(&PLAIN);
    let object = kernel.object();
    // What an earlier build left, which this one cannot open.
    fs::create_dir_all(kernel.path("out/lock")).unwrap();
    let error = kernel.build(&object, "release").unwrap_err();
    assert!(error.contains("name a folder of your own with O="), "{error}");
    // Now only the folders are another user's. The user nobody can read these copies.
    for name in ["build.sh", "refused.txt", "architectures.txt"] {
        kernel.write(name, &fs::read_to_string(paths::root().join("kernel").join(name)).unwrap());
    }
    let mut command = Command::new(if setup::is_root() { "setpriv" } else { "env" });
    if setup::is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    fs::remove_dir(kernel.path("out/lock")).unwrap();
    fs::set_permissions(kernel.path("out"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(kernel.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let inner = kernel.command(&object, "release");
    command.arg("sh").arg(kernel.path("build.sh"));
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let error = result(&command.output().unwrap()).unwrap_err();
    fs::set_permissions(kernel.path("out"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(error.contains("cannot write into") && error.contains("folder of your own with O="), "{error}");
    assert!(!error.contains("Permission denied"), "{error}");
}

/// What `make -C kernel` prints with these words.
fn make(words: &[&str]) -> Result<String, String> {
    let mut make = crate::command::outside_make(Command::new("make"));
    make.arg("--no-print-directory").arg("-C").arg(paths::root().join("kernel")).args(words);
    result(&make.output().unwrap())
}

#[test]
fn paths_that_make_cannot_handle_are_refused() {
    for path in ["/a b", "a b", "/it's", "/a\"b"] {
        for name in ["KDIR", "O", "ZOSBD2_RUST", "SIGN_KEY", "SIGN_CERT"] {
            let given = format!("{name}={path}");
            let error = make(&[&given]).unwrap_err();
            assert!(error.contains("cannot handle blanks and quotes") && error.contains(&given), "{error}");
        }
    }
}

#[test]
fn a_module_is_built_in_a_folder_for_its_kernel() {
    let kernel = Kernel::new(&PLAIN);
    kernel.write("kdir/include/generated/utsrelease.h", "#define UTS_RELEASE \"7.1-made-up\"\n");
    let kdir = format!("KDIR={}", kernel.path("kdir").canonicalize().unwrap().display());
    let folder = paths::root().join("target/kmod/7.1-made-up-faults");
    assert_eq!(make(&["where", &kdir, "VARIANT=faults"]), Ok(folder.display().to_string()));
    assert_eq!(make(&["where", &kdir, "O=/there"]), Ok("/there".to_owned()));
    let error = make(&["where", "KDIR=/no/such/folder"]).unwrap_err();
    assert!(error.contains("there are no kernel headers at /no/such/folder"), "{error}");
    fs::remove_file(kernel.path("kdir/include/config/auto.conf")).unwrap();
    let error = make(&["where", &kdir]).unwrap_err();
    assert!(error.contains("not the one that ends with -common"), "{error}");
}

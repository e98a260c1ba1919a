// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples in C and Python, and the files that they need in the guest.
//!
//! C programs are built into `target/examples`, statically linked, and rebuilt only if a source is newer. Python
//! consists of the host's interpreter and the modules that `ram.py` loads, without the rest of its library.

use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use zosbd2_vm::kernels;

use crate::paths;

/// Name, source, and word size in bits.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("ram-c", "ram.c", "64"),
    ("ram-c32", "ram.c", "32"),
    ("abi64", "abi32.c", "64"),
    ("abi32", "abi32.c", "32"),
];

/// The flags that the documentation gives to users, and static linking, so that the guest needs no libraries.
const FLAGS: [&str; 9] =
    ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2", "-pthread", "-static", "-s"];

/// The interpreter: Debian's, even if another python3 comes first in PATH.
const PYTHON: &str = "/usr/bin/python3";

/// Prints the files of the modules that a program loads, and of those that print its exceptions.
const MODULES: &str = "
import sys
path = sys.argv[1]
with open(path) as program:
    exec(compile(program.read(), path, 'exec'), {'__name__': 'example'})
import site, traceback, encodings.ascii, encodings.latin_1
for module in list(sys.modules.values()):
    if getattr(module, '__file__', None):
        print(module.__file__)
";

/// Builds the examples. Returns their paths in the guest and on the host.
pub(crate) fn build() -> Result<Vec<(String, PathBuf)>> {
    let folder = kernels::target().join("examples");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut built = vec![("/bin/ram.py".to_owned(), python_example())];
    for (name, source, bits) in PROGRAMS {
        let program = folder.join(name);
        let source = paths::root().join("examples/c").join(source);
        let inputs = [&source, &paths::root().join("abi/include/zosbd2.h"), &this_program()?];
        if !up_to_date(&program, &inputs) {
            compile(&source, &program, bits)?;
        }
        built.push((format!("/bin/{name}"), program));
    }
    Ok(built)
}

fn python_example() -> PathBuf {
    paths::root().join("examples/python/ram.py")
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("find this program")
}

fn up_to_date(program: &Path, inputs: &[&PathBuf]) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(built) = time(program) else { return false };
    inputs.iter().all(|input| time(input).unwrap_or_else(SystemTime::now) < built)
}

fn compile(source: &Path, program: &Path, bits: &str) -> Result<()> {
    // Another run may be copying the old program.
    let fresh = program.with_extension("new");
    let output = Command::new("cc")
        .args(FLAGS)
        .arg(format!("-m{bits}"))
        .arg("-I")
        .arg(paths::root().join("abi/include"))
        .arg(source)
        .arg("-o")
        .arg(&fresh)
        .output()
        .context("run cc (package gcc): `cargo xtask setup` installs it")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("compiling {} for {bits} bits failed{}\n{said}", source.display(), hint(bits, &said));
    }
    fs::rename(&fresh, program).with_context(|| format!("rename {}", fresh.display()))
}

/// Advice for a compiler without 32-bit support, which lacks a header, an object or a library.
fn hint(bits: &str, said: &str) -> &'static str {
    let lacking = ["No such file or directory", "cannot find", "skipping incompatible"];
    if bits == "32" && lacking.iter().any(|text| said.contains(text)) {
        " (the Debian package gcc-multilib is missing: `cargo xtask setup` installs it)"
    } else {
        ""
    }
}

/// Python for the examples: paths of its files in the guest and on the host.
pub(crate) fn python() -> Result<Vec<(String, PathBuf)>> {
    // Without modules that this machine's administrator or user has added.
    let modules = said(
        Command::new(PYTHON).args(["-I", "-S", "-B", "-c", MODULES]).arg(python_example()),
        "python3, `cargo xtask setup` installs it",
    )?;
    let mut files = BTreeSet::from([PYTHON.to_owned()]);
    files.extend(modules.lines().map(str::to_owned));
    let mut libraries = BTreeSet::new();
    let linked =
        |file: &&String| *file == PYTHON || Path::new(file).extension().is_some_and(|end| end == "so");
    for file in files.iter().filter(linked) {
        let text = said(Command::new("ldd").arg(file), "libc-bin")?;
        // `libz.so.1 => /lib/libz.so.1 (0x7f)`, or `/lib64/ld-linux-x86-64.so.2 (0x7f)`
        let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
        libraries.extend(text.lines().filter_map(path));
    }
    files.extend(libraries);
    let bytes = files.iter().map(|file| fs::metadata(file).map_or(0, |metadata| metadata.len())).sum::<u64>();
    ensure!(bytes < 20 << 20, "{PYTHON} and its modules take {bytes} bytes, too much for the guest");
    Ok(files.into_iter().map(|file| (file.clone(), PathBuf::from(file))).collect())
}

/// Output of a command.
fn said(command: &mut Command, package: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {program} (package {package})"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed ({}): {}", output.status, complaint.trim());
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed something that is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Prints the numbers and layouts of ram.py: `NAME VALUE`, `STRUCTURE SIZE`, `STRUCTURE.FIELD OFFSET`.
    const CONTENTS: &str = "
import ctypes, sys
names = {'__name__': 'example'}
with open(sys.argv[1]) as program:
    exec(compile(program.read(), sys.argv[1], 'exec'), names)
for name, value in names.items():
    if isinstance(value, int) and name.isupper():
        print(name, value)
    elif isinstance(value, type) and issubclass(value, ctypes.Structure):
        print(name.lower(), ctypes.sizeof(value))
        for field, *_ in value._fields_:
            print(name.lower() + '.' + field, getattr(value, field).offset)
";

    /// The same of the header.
    fn header() -> BTreeMap<String, u64> {
        let text = fs::read_to_string(paths::root().join("abi/include/zosbd2.h")).unwrap();
        let mut found = BTreeMap::new();
        for line in text.lines() {
            let number = |text: &str| text.trim_end_matches(['U', 'L', ';']).parse().ok();
            if let Some((name, value)) =
                line.strip_prefix("#define ZOSBD2_V2_").and_then(|rest| rest.split_once(' '))
            {
                found.extend(number(value).map(|value| (name.to_owned(), value)));
            } else if let Some(rest) = line.strip_prefix("ZOSBD2_ASSERT(") {
                let (left, right) = rest.split_once(" == ").expect("a layout");
                let name = left.trim_start_matches("__builtin_offsetof").trim_start_matches("sizeof");
                let name = name.trim_matches(['(', ')']).trim_start_matches("struct zosbd2_v2_");
                let value = right.trim_end_matches(',');
                found.extend(number(value).map(|value| (name.replace(", ", "."), value)));
            }
        }
        found
    }

    #[test]
    fn python_has_the_numbers_of_the_header() {
        let arguments = ["-I", "-B", "-c", CONTENTS];
        let text = said(Command::new(PYTHON).args(arguments).arg(python_example()), "python3").unwrap();
        let header = header();
        let own = ["BATCH", "PR_SET_IO_FLUSHER"];
        let mut compared = 0;
        for line in text.lines() {
            let (name, value) = line.split_once(' ').unwrap();
            if own.contains(&name) {
                continue;
            }
            let expected = header.get(name).unwrap_or_else(|| panic!("{name} is not in the header"));
            assert_eq!(value.parse(), Ok(*expected), "{name}");
            compared += 1;
        }
        // Structures with all their fields, and the constants.
        let fields = |name: &str| header.keys().filter(|key| key.starts_with(&format!("{name}."))).count();
        let structures = ["create", "attach", "status", "destroy", "start", "enter", "commit", "request"];
        let expected = structures.iter().map(|name| 1 + fields(name)).sum::<usize>();
        assert!(compared > expected, "{compared} of {expected} and the numbers:\n{text}");
    }

    #[test]
    fn guest_gets_a_small_python() {
        let files = python().unwrap();
        for part in ["/usr/bin/python3", "os.py", "ctypes/__init__.py", "_ctypes.", "libc.so.6"] {
            assert!(files.iter().any(|(path, _)| path.contains(part)), "{part} is not among {files:?}");
        }
        assert!(files.iter().all(|(path, host)| path.starts_with('/') && host.is_file()));
    }

    #[test]
    fn hint_is_for_what_it_knows() {
        assert!(
            hint("32", "/usr/bin/ld: cannot find crt1.o: No such file or directory").contains("gcc-multilib")
        );
        assert!(hint("32", "ram.c:3:1: error: unknown type name").is_empty());
        assert!(hint("64", "cannot find crt1.o").is_empty());
    }
}

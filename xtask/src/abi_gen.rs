// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask abi-gen [--check]`: generates `abi/include/zosbd2.h` from the source of the `abi` crate.
//!
//! The generator parses the Rust source, so the header has the same constants, structs and comments, and there is
//! no second copy to maintain. The header asserts sizes and offsets, computed from C's layout rules, so a C
//! compiler that disagrees rejects it. Rust source that the generator does not understand is an error and is never
//! left out. The file is replaced only after the whole header was generated; `--check` only compares.

mod constant;
mod render;

use anyhow::{Context, Result, bail};
use constant::Constants;
use std::path::{Path, PathBuf};

const HEADER: &str = "abi/include/zosbd2.h";

/// Arguments of the command.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Only say whether the header is up to date
    #[arg(long)]
    check: bool,
}

/// Runs the command in the work tree that this program was built from.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = root()?;
    let header = generate(&root.join("abi/src"))?;
    let path = root.join(HEADER);
    if arguments.check {
        let present = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if present != header {
            bail!("{HEADER} is stale: run `cargo xtask abi-gen`");
        }
        return Ok(());
    }
    let folder = path.parent().context("the header is in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    std::fs::write(&path, header).with_context(|| format!("write {}", path.display()))
}

fn root() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.parent().context("the crate is in a workspace")?.to_owned())
}

/// The header for the crate whose sources are in `folder`.
fn generate(folder: &Path) -> Result<String> {
    let mut header = render::Header::new();
    let root = parse(&folder.join("lib.rs"))?;
    let mut constants = Constants::default();
    header.module("", &root, &mut constants)?;
    for item in &root.items {
        if let syn::Item::Mod(module) = item
            && module.content.is_none()
            && matches!(module.vis, syn::Visibility::Public(_))
        {
            let name = module.ident.to_string();
            let file = parse(&folder.join(format!("{name}.rs")))?;
            // Each version is independent: it may not use the names of another version.
            let mut constants = Constants::default();
            header.module(&name, &file, &mut constants).with_context(|| format!("in module {name}"))?;
        }
    }
    Ok(header.finish())
}

fn parse(path: &Path) -> Result<syn::File> {
    let source = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    syn::parse_file(&source).with_context(|| format!("parse {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_header_is_up_to_date() {
        run(&Arguments { check: true }).expect("the header is up to date");
    }

    #[test]
    fn a_stale_source_gives_another_header() {
        let root = root().expect("root");
        let folder = std::env::temp_dir().join(format!("zosbd2-abi-gen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        let changed = |file: &str, from: &str, to: &str| {
            for name in ["lib.rs", "v1.rs"] {
                let source = std::fs::read_to_string(root.join("abi/src").join(name)).expect("source");
                let source = if name == file { source.replace(from, to) } else { source };
                std::fs::write(folder.join(name), source).expect("write");
            }
            let lib = std::fs::read_to_string(folder.join("lib.rs")).expect("source");
            // Modules that this test does not copy.
            let kept: Vec<_> =
                lib.lines().filter(|line| !line.starts_with("pub mod ") || line.contains(" v1;")).collect();
            std::fs::write(folder.join("lib.rs"), kept.join("\n")).expect("write");
            generate(&folder)
        };
        let same = changed("", "", "").expect("generates");
        let other = changed("v1.rs", "IOCTL_PING: u32 = 12", "IOCTL_PING: u32 = 13").expect("generates");
        assert_ne!(same, other);
        let strange = changed("v1.rs", "IOCTL_PING: u32 = 12", "IOCTL_PING: u32 = twelve()");
        assert!(strange.is_err(), "an expression that is not understood is an error");
        std::fs::remove_dir_all(folder).expect("remove");
    }

    #[test]
    fn c_and_cplusplus_compilers_accept_the_header() {
        let include = root().expect("root").join("abi/include");
        for (compiler, language) in [("cc", "c"), ("c++", "c++")] {
            let output = Command::new(compiler)
                .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-x", language])
                .arg(include.join("zosbd2.h"))
                .output();
            let Ok(output) = output else {
                assert_eq!(compiler, "c++", "cc is there, because cargo links with it");
                continue;
            };
            assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn the_sample_in_c_builds_without_a_warning() {
        let root = root().expect("root");
        let output = Command::new("cc")
            .args(["-Wall", "-Wextra", "-Werror", "-O2", "-pthread", "-fsyntax-only", "-I"])
            .arg(root.join("abi/include"))
            .arg(root.join("examples/c/zosbd2_ramdisk.c"))
            .output()
            .expect("cc");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn sizes_are_those_of_the_compiled_crate() {
        use zosbd2_abi::v1;
        let header = std::fs::read_to_string(root().expect("root").join(HEADER)).expect("header");
        for (name, size) in [
            ("create", size_of::<v1::Create>()),
            ("destroy_by_handle", size_of::<v1::DestroyByHandle>()),
            ("destroy_by_name", size_of::<v1::DestroyByName>()),
            ("destroy_all", size_of::<v1::DestroyAll>()),
            ("handle_by_name", size_of::<v1::HandleByName>()),
            ("list", size_of::<v1::List>()),
            ("status", size_of::<v1::Status>()),
            ("segment", size_of::<v1::Segment>()),
            ("operation_head", size_of::<v1::OperationHead>()),
            ("operation_tail", size_of::<v1::OperationTail>()),
            ("operation", size_of::<v1::Operation>()),
        ] {
            let assertion = format!("ZOSBD2_ASSERT(sizeof(struct zosbd2_v1_{name}) == {size},");
            assert!(header.contains(&assertion), "{assertion}");
        }
    }
}

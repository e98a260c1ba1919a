// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turns the items of a parsed module into C.
//!
//! Names: a constant `X` of module `v1` becomes `ZOSBD2_V1_X`, a struct `DestroyByName` becomes
//! `struct zosbd2_v1_destroy_by_name`. 64-bit fields are aligned to 8 bytes on every machine. Items that are not public,
//! and the compile-time assertions, have no counterpart; a public item of any other kind is an error.

use super::constant::Constants;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::fmt::Write;
use syn::{Attribute, Expr, Fields, File, Item, ItemConst, ItemStruct, Lit, Meta, Type, Visibility};

/// Column at which comments are wrapped.
const WIDTH: usize = 80;

const BEGIN: &str = "\
/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note OR MIT */
/*
 * zosbd2: Linux block devices in userspace, user/kernel interface.
 *
 * Generated from abi/src by `cargo xtask abi-gen`; do not edit.
 */
#ifndef ZOSBD2_H
#define ZOSBD2_H

#include <linux/types.h>

#ifdef __cplusplus
#define ZOSBD2_ASSERT(condition, text) static_assert(condition, text)
#else
#define ZOSBD2_ASSERT(condition, text) _Static_assert(condition, text)
#endif
";

const END: &str = "
#undef ZOSBD2_ASSERT

#endif /* ZOSBD2_H */
";

/// Size and alignment in bytes.
#[derive(Clone, Copy)]
struct Layout {
    size: u128,
    align: u128,
}

/// A field's type in C.
struct CType {
    name: String,
    /// `[N]` or nothing.
    suffix: String,
    layout: Layout,
}

/// A header under construction.
pub(crate) struct Header {
    text: String,
    /// The structs of the current module.
    structs: HashMap<String, Layout>,
    /// Prefix for the current module: `v1_`, or empty.
    prefix: String,
}

impl Header {
    /// A header without content.
    pub(crate) fn new() -> Self {
        Self { text: BEGIN.to_owned(), structs: HashMap::new(), prefix: String::new() }
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.text + END
    }

    /// Appends the public items of a module. The crate's root has the empty name.
    pub(crate) fn module(&mut self, name: &str, file: &File, constants: &mut Constants) -> Result<()> {
        self.prefix = if name.is_empty() { String::new() } else { format!("{name}_") };
        self.structs.clear();
        let zero = Layout { size: 0, align: 1 };
        // Comments may refer to later items.
        self.structs.extend(file.items.iter().filter_map(|item| match item {
            Item::Struct(item) => Some((item.ident.to_string(), zero)),
            _ => None,
        }));
        let names = known(file);
        if !name.is_empty() {
            let text = self.prose(&docs(&file.attrs)?, &names);
            self.comment("", &text);
        }
        for item in &file.items {
            match item {
                Item::Const(item) if is_public(&item.vis) => {
                    let place = format!("constant {}", item.ident);
                    self.constant(item, constants, &names).context(place)?;
                }
                Item::Struct(item) if is_public(&item.vis) => {
                    let place = format!("struct {}", item.ident);
                    self.structure(item, constants, &names).context(place)?;
                }
                // These items have no counterpart in C.
                Item::Const(_) | Item::Mod(_) | Item::Use(_) | Item::Impl(_) => {}
                _ => bail!("an item that the generator does not understand"),
            }
        }
        Ok(())
    }

    fn constant(&mut self, item: &ItemConst, constants: &mut Constants, names: &[String]) -> Result<()> {
        let name = item.ident.to_string();
        let value = if let Expr::Lit(literal) = &*item.expr
            && let Lit::Str(text) = &literal.lit
        {
            format!("{:?}", text.value())
        } else {
            let (bits, suffix) = match type_name(&item.ty)?.as_str() {
                "u32" => (32, "U"),
                "u64" => (64, "ULL"),
                // Used for sizes that fit any C integer.
                "usize" => (31, ""),
                other => bail!("type {other} is not known"),
            };
            let value = constants.evaluate(&item.expr, bits)?;
            constants.insert(&name, value);
            format!("{value}{suffix}")
        };
        let text = self.prose(&docs(&item.attrs)?, names);
        self.comment("", &text);
        writeln!(self.text, "#define {} {value}", self.macro_name(&name))?;
        Ok(())
    }

    fn structure(&mut self, item: &ItemStruct, constants: &Constants, names: &[String]) -> Result<()> {
        ensure!(item.generics.params.is_empty(), "is generic");
        let representation = item.attrs.iter().find(|attribute| attribute.path().is_ident("repr"));
        let is_c = match representation.map(|attribute| &attribute.meta) {
            Some(Meta::List(list)) => list.tokens.to_string() == "C",
            _ => false,
        };
        ensure!(is_c, "is not repr(C)");
        let Fields::Named(fields) = &item.fields else { bail!("has no named fields") };
        let name = self.struct_name(&item.ident.to_string());
        let mut paragraphs = vec![format!("struct {name} - {}", self.prose(&docs(&item.attrs)?, names))];
        let mut body = String::new();
        let mut assertions = String::new();
        let mut layout = Layout { size: 0, align: 1 };
        for field in &fields.named {
            let ident = field.ident.as_ref().context("a field has a name")?.to_string();
            ensure!(is_public(&field.vis), "field {ident} is not public");
            let c = self.c_type(&field.ty, constants).with_context(|| format!("field {ident}"))?;
            let offset = layout.size.next_multiple_of(c.layout.align);
            ensure!(offset == layout.size, "{} bytes of hidden padding before {ident}", offset - layout.size);
            layout.size += c.layout.size;
            layout.align = layout.align.max(c.layout.align);
            writeln!(body, "\t{} {ident}{};", c.name, c.suffix)?;
            writeln!(assertions, "ZOSBD2_ASSERT(__builtin_offsetof(struct {name}, {ident}) == {offset},")?;
            writeln!(assertions, "\t      \"offset of {name}.{ident}\");")?;
            paragraphs.push(format!("@{ident}: {}", self.prose(&docs(&field.attrs)?, names)));
        }
        ensure!(layout.size.is_multiple_of(layout.align), "has hidden padding at its end");
        self.comment("*", &paragraphs.join("\n"));
        write!(self.text, "struct {name} {{\n{body}}};\n\n")?;
        writeln!(self.text, "ZOSBD2_ASSERT(sizeof(struct {name}) == {},", layout.size)?;
        writeln!(self.text, "\t      \"size of {name}\");")?;
        self.text.push_str(&assertions);
        self.structs.insert(item.ident.to_string(), layout);
        Ok(())
    }

    fn c_type(&self, ty: &Type, constants: &Constants) -> Result<CType> {
        if let Type::Array(array) = ty {
            let element = self.c_type(&array.elem, constants)?;
            ensure!(element.suffix.is_empty(), "is an array of arrays");
            let count = constants.evaluate(&array.len, 31)?;
            let inner = if let Expr::Cast(cast) = &array.len { &*cast.expr } else { &array.len };
            let length = match inner {
                Expr::Path(path) => self.macro_name(&path.path.require_ident()?.to_string()),
                _ => count.to_string(),
            };
            let layout = Layout { size: element.layout.size * count, ..element.layout };
            return Ok(CType { name: element.name, suffix: format!("[{length}]"), layout });
        }
        let name = type_name(ty)?;
        let plain = |name: &str, size| {
            Ok(CType { name: name.to_owned(), suffix: String::new(), layout: Layout { size, align: size } })
        };
        match name.as_str() {
            "u8" => plain("__u8", 1),
            "u16" => plain("__u16", 2),
            "u32" => plain("__u32", 4),
            "i32" => plain("__s32", 4),
            // Its neighbours align it; the generated assertions check that.
            "i64" => plain("__s64", 8),
            "u64" => plain("__aligned_u64", 8),
            other => {
                let layout =
                    *self.structs.get(other).with_context(|| format!("type {other} is not known"))?;
                ensure!(layout.size > 0, "struct {other} comes later");
                Ok(CType {
                    name: format!("struct {}", self.struct_name(other)),
                    suffix: String::new(),
                    layout,
                })
            }
        }
    }

    fn macro_name(&self, name: &str) -> String {
        format!("ZOSBD2_{}{name}", self.prefix.to_uppercase())
    }

    fn struct_name(&self, name: &str) -> String {
        let mut snake = format!("zosbd2_{}", self.prefix);
        for (index, letter) in name.char_indices() {
            if letter.is_uppercase() && index > 0 {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        snake
    }

    /// A comment for C programmers: with the C names of items, and without Rust's markup.
    fn prose(&self, text: &str, names: &[String]) -> String {
        let mut out = String::new();
        for (index, part) in text.replace("[`", "`").replace("`]", "`").split('`').enumerate() {
            let is_code = index % 2 == 1;
            if is_code {
                let words = part.split_inclusive(|letter: char| !letter.is_alphanumeric() && letter != '_');
                for word in words {
                    let bare =
                        word.trim_end_matches(|letter: char| !letter.is_alphanumeric() && letter != '_');
                    let rest = &word[bare.len()..];
                    let mapped = if self.structs.contains_key(bare) {
                        format!("struct {}", self.struct_name(bare))
                    } else if names.iter().any(|name| name == bare) {
                        self.macro_name(bare)
                    } else {
                        bare.to_owned()
                    };
                    out.push_str(&mapped);
                    out.push_str(rest);
                }
            } else {
                out.push_str(part);
            }
        }
        out.replace("::", ".")
    }

    /// Writes a comment; `mark` follows the opening `/*`.
    fn comment(&mut self, mark: &str, text: &str) {
        let short = format!("/* {text} */");
        if mark.is_empty() && short.len() <= WIDTH && !text.contains('\n') {
            self.text.push('\n');
            self.text.push_str(&short);
            self.text.push('\n');
            return;
        }
        self.text.push_str("\n/*");
        self.text.push_str(mark);
        self.text.push('\n');
        for paragraph in text.lines() {
            let mut line = " *".to_owned();
            for word in paragraph.split_whitespace() {
                if line.len() + 1 + word.len() > WIDTH {
                    self.text.push_str(&line);
                    self.text.push('\n');
                    line = if paragraph.starts_with('@') { " *  ".to_owned() } else { " *".to_owned() };
                }
                line.push(' ');
                line.push_str(word);
            }
            self.text.push_str(&line);
            self.text.push('\n');
        }
        self.text.push_str(" */\n");
    }
}

/// Names of the public constants of a module.
fn known(file: &File) -> Vec<String> {
    let names = file.items.iter().filter_map(|item| match item {
        Item::Const(item) if is_public(&item.vis) => Some(item.ident.to_string()),
        _ => None,
    });
    names.collect()
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn type_name(ty: &Type) -> Result<String> {
    match ty {
        Type::Path(path) => Ok(path.path.require_ident()?.to_string()),
        Type::Reference(reference) => type_name(&reference.elem),
        _ => bail!("a type that the generator does not understand"),
    }
}

/// The documentation of an item: one line per paragraph.
fn docs(attributes: &[Attribute]) -> Result<String> {
    let mut text = String::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        let Meta::NameValue(pair) = &attribute.meta else { bail!("documentation that is not text") };
        let Expr::Lit(literal) = &pair.value else { bail!("documentation that is not a literal") };
        let Lit::Str(line) = &literal.lit else { bail!("documentation that is not a string") };
        let line = line.value();
        let line = line.trim();
        if line.is_empty() {
            text.push_str("\n\n");
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    ensure!(!text.is_empty(), "has no documentation");
    ensure!(!text.contains("*/"), "has documentation that ends a comment of C");
    Ok(text)
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Evaluates the constants of the `abi` crate.
//!
//! Knows integers of fixed width, the operators that such constants use, casts, and earlier constants. Anything
//! else, and any overflow, is an error that shows the expression.

use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use syn::{BinOp, Expr, Lit, UnOp};

/// The constants of one module, by name.
#[derive(Default)]
pub(crate) struct Constants {
    values: HashMap<String, u128>,
}

impl Constants {
    /// Adds a constant.
    pub(crate) fn insert(&mut self, name: &str, value: u128) {
        self.values.insert(name.to_owned(), value);
    }

    /// The value of an expression whose type has `bits` bits.
    pub(crate) fn evaluate(&self, expression: &Expr, bits: u32) -> Result<u128> {
        let value = match expression {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(number) => number.base10_parse()?,
                _ => bail!("a literal that is not an integer"),
            },
            Expr::Paren(inner) => self.evaluate(&inner.expr, bits)?,
            Expr::Cast(cast) => self.evaluate(&cast.expr, bits)?,
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                !self.evaluate(&unary.expr, bits)? & largest(bits)
            }
            Expr::Binary(binary) => {
                let left = self.evaluate(&binary.left, bits)?;
                let right = self.evaluate(&binary.right, bits)?;
                operate(&binary.op, left, right).context("an unknown operator, or an overflow")?
            }
            Expr::Path(path) => {
                let names: Vec<_> = path.path.segments.iter().map(|part| part.ident.to_string()).collect();
                match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["u32", "MAX"] => u32::MAX.into(),
                    ["u64", "MAX"] => u64::MAX.into(),
                    [name] => *self.values.get(name).with_context(|| format!("{name} is not defined yet"))?,
                    _ => bail!("{} is unknown", names.join("::")),
                }
            }
            _ => bail!("an expression that the generator does not understand"),
        };
        ensure!(value <= largest(bits), "{value} does not fit {bits} bits");
        Ok(value)
    }
}

fn largest(bits: u32) -> u128 {
    (1_u128 << bits) - 1
}

fn operate(operator: &BinOp, left: u128, right: u128) -> Option<u128> {
    match operator {
        BinOp::Add(_) => left.checked_add(right),
        BinOp::Sub(_) => left.checked_sub(right),
        BinOp::Mul(_) => left.checked_mul(right),
        BinOp::Div(_) => left.checked_div(right),
        BinOp::BitAnd(_) => Some(left & right),
        BinOp::BitOr(_) => Some(left | right),
        BinOp::Shl(_) => u32::try_from(right).ok().filter(|by| *by < 64).and_then(|by| left.checked_shl(by)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(source: &str, bits: u32) -> Result<u128> {
        let mut constants = Constants::default();
        constants.insert("BLOCK", 4096);
        constants.evaluate(&syn::parse_str(source)?, bits)
    }

    #[test]
    fn expressions_have_the_values_that_rust_gives_them() {
        assert_eq!(value("1_048_576", 32).expect("value"), 1_048_576);
        assert_eq!(value("u32::MAX & !(BLOCK - 1)", 32).expect("value"), 4_294_963_200);
        assert_eq!(value("2 + BLOCK as usize * 3", 64).expect("value"), 12_290);
        assert_eq!(value("1 << 40", 64).expect("value"), 1 << 40);
        assert_eq!(value("0x10 | 1", 32).expect("value"), 17);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for source in ["1 << 40", "0 - 1", "OTHER", "f(1)", "\"text\"", "1 << 99", "i8::MAX"] {
            assert!(value(source, 32).is_err(), "{source}");
        }
    }
}

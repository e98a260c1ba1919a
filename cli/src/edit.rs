// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes keys of a configuration, and keeps its comments and order.

use crate::config::Disk;
use crate::failure::{Context as _, Failure, Result};
use std::fs;
use std::path::Path;
use toml_edit::{DocumentMut, value};

/// Gives keys new values, as text. The result must be a valid configuration, and is written as a whole or not at all.
pub(crate) fn set(path: &Path, keys: &[(&str, String)]) -> Result<()> {
    let doing = format!("change the configuration {}", path.display());
    let text = fs::read_to_string(path).context(&doing)?;
    let mut document: DocumentMut = text.parse().context(&doing)?;
    for (key, text) in keys {
        match document.get_mut(key) {
            // The comment behind the value stays.
            Some(toml_edit::Item::Value(old)) => {
                let decor = old.decor().clone();
                *old = text.as_str().into();
                *old.decor_mut() = decor;
            }
            _ => document[key] = value(text),
        }
    }
    let text = document.to_string();
    let checked = toml::from_str::<Disk>(&text).map_err(|error| error.to_string());
    checked
        .and_then(|disk| disk.check())
        .map_err(|problem| Failure::failed(format!("{doing}: {}", problem.trim_end())))?;
    crate::config::replace(path, &text).context(&doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_order_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let text = "# mine\nbackend = \"ram\"\ngrace = \"5s\" # short\nsize = \"1G\"\n";
        fs::write(&path, text).unwrap();
        set(&path, &[("grace", "1m".to_owned()), ("policy", "dead".to_owned())]).unwrap();
        let wanted = "# mine\nbackend = \"ram\"\ngrace = \"1m\" # short\nsize = \"1G\"\npolicy = \"dead\"\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), wanted);
        let refused = set(&path, &[("policy", "x".to_owned())]).unwrap_err();
        assert!(refused.to_string().contains("unknown variant"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), wanted);
    }
}

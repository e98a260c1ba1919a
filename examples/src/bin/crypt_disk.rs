// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk /dev/zosbd2-crypt, until Ctrl-C: a file or device, encrypted with AES-256-XTS.
//!
//!     head -c 64 /dev/urandom > KEY; chmod 600 KEY
//!     crypt_disk STORE KEY
//!
//! The format is that of `cryptsetup --type plain --cipher aes-xts-plain64 --key-size 512`: sectors of 512 bytes, numbered
//! from 0. XTS keeps secrets, and proves nothing: who can write to the store can damage data without being noticed. The disk
//! offers no discard, because discarded blocks would show what is in use.

use aes::Aes256;
use aes::cipher::{KeyInit as _, generic_array::GenericArray};
use anyhow::{Context as _, Result, bail, ensure};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use xts_mode::{Xts128, get_tweak_default};
use zosbd2::{Backend, Builder, Capabilities, Errno};
use zosbd2_backends::FileOptions;

const SECTOR: usize = 512;
const KEY: usize = 64;

struct Crypt<B> {
    store: B,
    cipher: Xts128<Aes256>,
}

impl<B: Backend> Crypt<B> {
    fn new(store: B, key: &[u8; KEY]) -> Self {
        let half = |key| Aes256::new(GenericArray::from_slice(key));
        Self { store, cipher: Xts128::new(half(&key[..KEY / 2]), half(&key[KEY / 2..])) }
    }

    fn encrypt(&self, offset: u64, data: &mut [u8]) {
        self.cipher.encrypt_area(data, SECTOR, u128::from(offset / SECTOR as u64), get_tweak_default);
    }

    /// Tells keys apart, and tells nothing about the key: zeros, encrypted as a sector that no disk has.
    fn fingerprint(&self) -> String {
        let mut sector = [0; SECTOR];
        self.encrypt(u64::MAX, &mut sector);
        sector[..16].iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl<B: Backend> Backend for Crypt<B> {
    fn size(&self) -> u64 {
        self.store.size()
    }

    /// A write is as durable as the store makes it, so what the store says about its cache is said of this disk. Zeros and
    /// discards would reach the store unencrypted: the kernel writes zeros instead.
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities().write_zeroes(false).discard(false).secure_erase(false)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.store.read(offset, buffer)?;
        self.cipher.decrypt_area(buffer, SECTOR, u128::from(offset / SECTOR as u64), get_tweak_default);
        Ok(())
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.encrypt(offset, data);
        self.store.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Errno> {
        self.store.flush()
    }
}

fn read_key(path: &Path) -> Result<[u8; KEY]> {
    let others = path.metadata()?.mode() & 0o077;
    ensure!(others == 0, "others may read or write it: chmod 600");
    let Ok(key) = <[u8; KEY]>::try_from(std::fs::read(path)?) else {
        bail!("it must have 64 bytes: head -c 64 /dev/urandom > KEY");
    };
    ensure!(key[..KEY / 2] != key[KEY / 2..], "its halves are the same");
    Ok(key)
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [store, key] = &words[..] else { bail!("usage: crypt_disk STORE KEY") };
    let key = read_key(Path::new(key)).with_context(|| format!("key {key}"))?;
    let path = std::fs::canonicalize(store).with_context(|| store.clone())?;
    let disk = Crypt::new(FileOptions::default().open(&path)?, &key);
    // Started again with another key, the program must not go on with a disk in use.
    let mut identity = format!("{} {}", disk.fingerprint(), path.display()).into_bytes();
    identity.truncate(256);
    Builder::new("crypt").identity(&identity).on_event(|event| eprintln!("{event}")).serve(&disk)?;
    Ok(())
}

#[cfg(test)]
#[path = "../tests/crypt_disk.rs"]
mod tests;

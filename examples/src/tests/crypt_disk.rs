// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encrypting disk without a kernel: on a file, by the conformance suite.

use super::*;
use std::os::unix::fs::PermissionsExt as _;
use zosbd2_backends::{FileDisk, conformance};

const SIZE: u64 = 8 << 20;

fn key(seed: u8) -> [u8; KEY] {
    std::array::from_fn(|index| seed.wrapping_mul(17) ^ u8::try_from(index).unwrap())
}

fn store(folder: &Path) -> FileDisk {
    let path = folder.join("store");
    std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    FileOptions::default().open(&path).unwrap()
}

#[test]
fn conforms() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Crypt::new(store(folder.path()), &key(1));
    let report =
        conformance::run(&conformance::Direct::new(&disk), 42).unwrap_or_else(|failure| panic!("{failure}"));
    let skipped: Vec<_> =
        report.iter().filter(|check| check.skipped.is_some()).map(|check| check.name).collect();
    assert_eq!(skipped, ["write_zeroes", "discard"]);
}

#[test]
fn store_has_no_plain_text_and_another_key_reads_none() {
    let folder = tempfile::tempdir().unwrap();
    let plain = [b'a'; 4096];
    let disk = Crypt::new(store(folder.path()), &key(1));
    disk.write(8192, &mut plain.to_vec(), false).unwrap();
    drop(disk);
    let stored = std::fs::read(folder.path().join("store")).unwrap();
    assert!(!stored.windows(16).any(|part| part == &plain[..16]));
    // The same text in each sector looks different.
    assert_ne!(stored[8192..8704], stored[8704..9216]);
    let mut read = [0; 4096];
    let other = Crypt::new(store(folder.path()), &key(2));
    other.read(8192, &mut read).unwrap();
    assert_ne!(read, plain);
    let fingerprint = other.fingerprint();
    drop(other);
    let same = Crypt::new(store(folder.path()), &key(1));
    same.read(8192, &mut read).unwrap();
    assert_eq!(read, plain);
    assert_ne!(same.fingerprint(), fingerprint);
}

/// Vector 10 of IEEE 1619: sector 255 of a disk.
#[test]
fn format_is_the_standard_one() {
    let folder = tempfile::tempdir().unwrap();
    let digits = "2718281828459045235360287471352662497757247093699959574966967627\
                  3141592653589793238462643383279502884197169399375105820974944592";
    let bytes = |digits: &str| -> Vec<u8> {
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    };
    let disk = Crypt::new(store(folder.path()), &bytes(digits).try_into().unwrap());
    let mut data: Vec<u8> = (0..=255).chain(0..=255).collect();
    disk.write(255 * 512, &mut data, false).unwrap();
    let wanted = "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b";
    assert_eq!(data[..32], bytes(wanted));
}

#[test]
fn flush_and_cache_are_those_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let plain = store.capabilities();
    let disk = Crypt::new(store, &key(1)).capabilities();
    assert!(disk.volatile_cache && disk.fua && disk.cache_survives);
    assert_eq!(disk.write_through, plain.write_through);
    assert!(!disk.discard && !disk.write_zeroes && !disk.secure_erase);
}

#[test]
fn bad_keys_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let said = |bytes: &[u8], mode| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        read_key(&path).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(said(&key(1), 0o640).contains("chmod 600"));
    assert!(said(&key(1)[1..], 0o600).contains("64 bytes"));
    assert!(said(&[7; KEY], 0o600).contains("halves"));
    assert_eq!(said(&key(1), 0o600), "");
    assert!(read_key(&folder.path().join("none")).unwrap_err().to_string().contains("No such file"));
}

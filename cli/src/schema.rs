// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests: what `--json` prints is what `docs/schema` says, no less and no more.

use crate::config::{Disk, Kind};
use crate::facts::Facts;
use crate::places::Places;
use crate::sample::Sample;
use crate::verbs::events::tests::died;
use crate::verbs::gc::tests::garbage;
use crate::verbs::requests::tests::requests;
use crate::verbs::show::Details;
use crate::verbs::stat::Report;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use zosbd2::v2::abi;
use zosbd2::{Status, Users};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema"))
}

/// What is wrong with a document.
fn check(schema: &str, document: &Value) -> Result<(), String> {
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.set_default_draft(boon::Draft::V2020_12);
    compiler.enable_format_assertions();
    let path = folder().join(format!("{schema}.json"));
    let index = compiler.compile(path.to_str().unwrap(), &mut schemas).expect("a schema");
    schemas.validate(document, index).map_err(|error| format!("{error:#}"))
}

/// The document must be valid, and must not be without any of its keys, or with another one.
fn holds(schema: &str, facts: &impl Serialize) {
    let document = serde_json::to_value(facts).unwrap();
    check(schema, &document).unwrap_or_else(|error| panic!("{error}\n{document:#}"));
    let is_list = document.is_array();
    let Some(object) = (if is_list { document[0].as_object() } else { document.as_object() }) else { return };
    let whole = |object| if is_list { json!([Value::Object(object)]) } else { Value::Object(object) };
    for key in object.keys() {
        let mut less = object.clone();
        less.remove(key);
        assert!(check(schema, &whole(less)).is_err(), "{schema}: {key} may be missing");
    }
    let mut more = object.clone();
    more.insert("unknown-key".to_owned(), json!(1));
    assert!(check(schema, &whole(more)).is_err(), "{schema}: another key is allowed");
}

/// A device, and places in which it is configured.
fn device() -> (Status, Places, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let places = Places { persistent: folder.path().join("etc"), run: folder.path().join("run") };
    let disk = Disk { path: Some("/srv/a.img".into()), ..Disk::new(Kind::File) };
    disk.write(&places.persistent_file("a")).unwrap();
    let mut raw =
        abi::Status { state: abi::STATE_LIVE, version: 2, major: 252, pid: 7, ..abi::Status::default() };
    raw.name[0] = b'a';
    raw.program[0] = b'x';
    (Status::from(&raw), places, folder)
}

#[test]
fn disks_are_as_documented() {
    let (status, places, _folder) = device();
    let mut users = Users::default();
    users.mounts.push("/mnt".into());
    let live = || Facts::new(&places, &status, &users);
    let absent = || Facts::configured(&places, "a");
    let foreign = || Facts::configured(&places, "b");
    holds("list", &[live()]);
    holds("list", &[absent(), foreign()]);
    let none: [Facts; 0] = [];
    holds("list", &none);
    holds("show", &Details::with_version(&places, live(), Some(&status), "0.1.0"));
    holds("show", &Details::with_version(&places, absent(), None, "0.1.0"));
}

#[test]
fn counters_are_as_documented() {
    let mut sample = Sample { name: "a".to_owned(), ..Sample::default() };
    holds("stat", &Report::new(None, &[sample.clone()]));
    sample.total.0[31] = 1;
    sample.waiting.0[3] = u64::MAX;
    holds("stat", &Report::new(Some(Duration::from_millis(1)), &[sample]));
    // Keys of disks are as strict as those of the whole.
    let mut document = serde_json::to_value(Report::new(None, &[Sample::default()])).unwrap();
    document["disks"][0]["other"] = json!(1);
    check("stat", &document).unwrap_err();
}

#[test]
fn requests_are_as_documented() {
    holds("requests", &requests());
    let [held, _] = requests();
    let mut document = json!([held]);
    document[0]["holder"]["other"] = json!(1);
    check("requests", &document).unwrap_err();
}

#[test]
fn garbage_is_as_documented() {
    holds("gc", &[garbage()]);
}

#[test]
fn events_are_as_documented() {
    holds("events", &died());
}

/// Every key says what it is.
#[test]
fn every_key_is_described() {
    fn look(schema: &str, value: &Value) {
        if let Some(properties) = value["properties"].as_object() {
            for (key, property) in properties.iter().filter(|(_, property)| property["const"].is_null()) {
                let text = property["description"].as_str().unwrap_or_default();
                assert!(text.ends_with('.'), "{schema}: {key} has no description");
            }
        }
        match value {
            Value::Object(object) => object.values().for_each(|value| look(schema, value)),
            Value::Array(array) => array.iter().for_each(|value| look(schema, value)),
            _ => {}
        }
    }
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let value: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(value["$schema"], "https://json-schema.org/draft/2020-12/schema");
        look(&path.display().to_string(), &value);
        count += 1;
    }
    assert_eq!(count, 6);
}

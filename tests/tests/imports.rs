//! The import table of ARCHITECTURE.md, held against the manifests.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::process::Command;

type Imports = BTreeMap<String, BTreeSet<String>>;

fn repository_root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

/// What `cargo metadata` says that each of our crates depends on, among our crates.
fn imports_of_manifests() -> Imports {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(repository_root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &serde_json::Value| short(value["name"].as_str().expect("a package has a name"));
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            (name(package), dependencies.iter().map(name).filter(|name| ours.contains(name)).collect())
        })
        .collect()
}

/// The table in ARCHITECTURE.md whose first column is headed `crate` and second `may import of ours`.
fn imports_of_architecture() -> Imports {
    let text = std::fs::read_to_string(repository_root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| crate | may import of ours |"));
    assert!(lines.next().is_some(), "ARCHITECTURE.md has no import table");
    let cell = |line: &str, column: usize| line.split('|').nth(column).unwrap_or_default().replace('`', "");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let imports = cell(line, 2);
            let imports =
                imports.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty() && *name != "nothing");
            (cell(line, 1).trim().to_owned(), imports.map(str::to_owned).collect())
        })
        .collect()
}

fn short(name: &str) -> String {
    match name.strip_prefix("trimtab-") {
        Some(rest) => rest.to_owned(),
        None => name.to_owned(),
    }
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    let allowed = imports_of_architecture();
    for (name, imports) in imports_of_manifests() {
        let allowed = allowed.get(&name).unwrap_or_else(|| panic!("crate {name} is missing from the import table"));
        let more: Vec<_> = imports.difference(allowed).collect();
        assert!(more.is_empty(), "{name} imports {more:?}, which ARCHITECTURE.md does not allow");
    }
}

#[test]
fn the_import_table_names_no_crate_that_is_gone() {
    let manifests = imports_of_manifests();
    for name in imports_of_architecture().keys() {
        assert!(manifests.contains_key(name), "the import table names {name}, which is no crate of ours");
    }
}

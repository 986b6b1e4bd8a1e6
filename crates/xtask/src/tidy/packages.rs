//! The rules on external packages: their licences, their source, and which of them may have more
//! than one version.
//!
//! Known weaknesses are not checked, because this needs a list from the network.

use super::Breach;
use anyhow::Context as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The allowed licences. Each requires only that its text is distributed with the programs.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// The only source of packages.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Packages in more than one version, with the package that needs the older version.
const SEVERAL_VERSIONS: &[(&str, &str)] = &[
    ("base64", "tonic"),
    ("bit-vec", "yasna, of rcgen"),
    ("block-buffer", "digest 0.10"),
    ("constant_time_eq", "zip 0.6"),
    ("cpufeatures", "sha2 0.10"),
    ("crypto-common", "digest 0.10"),
    ("digest", "sha2 0.10"),
    ("foldhash", "hashbrown 0.15"),
    ("getrandom", "ring"),
    ("hashbrown", "petgraph, of prost-build"),
    ("miniz_oxide", "png"),
    ("num-bigint", "npyz"),
    ("prettyplease", "tonic-build"),
    ("rand", "tch"),
    ("rand_chacha", "tch"),
    ("rand_core", "tch"),
    ("safetensors", "tch"),
    ("sha2", "zip 0.6, of tch"),
    ("syn", "prost-derive, tracing-attributes and others"),
    ("synstructure", "asn1-rs, of rcgen"),
    ("thiserror", "tch"),
    ("thiserror-impl", "tch"),
    ("unicode-width", "miette, of protox"),
    ("zip", "tch"),
    ("zstd", "zip 0.6, of tch"),
    ("zstd-safe", "zip 0.6, of tch"),
];

/// All breaches in the output of `cargo metadata`.
pub(super) fn check(metadata: &[u8]) -> anyhow::Result<Vec<Breach>> {
    let metadata: Value =
        serde_json::from_slice(metadata).context("cargo metadata printed no JSON")?;
    let mut breaches = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |field: &str| package[field].as_str().unwrap_or_default();
        let mut report = |found: String, rule: &str| {
            breaches.push(Breach { place: text("name").into(), found, rule: rule.into() });
        };
        versions.entry(text("name")).or_default().insert(text("version"));
        if !is_allowed(text("license")) {
            let found = format!("its licence is {:?}", text("license"));
            report(found, "a package has a licence that is in LICENCES, or a choice of one");
        }
        if package["source"].as_str().is_some_and(|source| source != SOURCE) {
            report(format!("it comes from {}", text("source")), "packages come from crates.io");
        }
    }
    let several = versions.iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| *name);
    breaches.extend(compared(&several.collect()));
    Ok(breaches)
}

/// Whether a licence expression is allowed: each part must offer at least one of [`LICENCES`].
fn is_allowed(expression: &str) -> bool {
    // Some packages still write a choice with a slash.
    let expression = expression.replace(['(', ')'], "").replace(" / ", " OR ").replace('/', " OR ");
    let is_in = |name: &str| LICENCES.contains(&name);
    !expression.is_empty() && expression.split(" AND ").all(|part| part.split(" OR ").any(is_in))
}

/// The differences between the packages with several versions and [`SEVERAL_VERSIONS`].
fn compared(several: &BTreeSet<&str>) -> Vec<Breach> {
    let listed: BTreeSet<&str> = SEVERAL_VERSIONS.iter().map(|(name, _)| *name).collect();
    let breach = |name: &&str, found: &str, rule: &str| Breach {
        place: (*name).to_owned(),
        found: found.to_owned(),
        rule: rule.to_owned(),
    };
    let new = several.difference(&listed).map(|name| {
        let rule = "use the version that is there, or add a row to SEVERAL_VERSIONS";
        breach(name, "it is there in several versions", rule)
    });
    let gone = listed.difference(several).map(|name| {
        breach(name, "it is there in one version", "SEVERAL_VERSIONS has no row too many")
    });
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_licence_is_one_of_each_choice() {
        for allowed in [
            "MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for refused in ["", "GPL-3.0", "MIT AND GPL-3.0", "MITX"] {
            assert!(!is_allowed(refused), "{refused}");
        }
    }

    #[test]
    fn packages_come_from_one_place_in_listed_versions() {
        let package = |name: &str, version: &str, licence: &str, from: Value| {
            let mut package = json!({"name": name, "version": version, "license": licence});
            package["source"] = from;
            package
        };
        let listed = SEVERAL_VERSIONS.iter().flat_map(|(name, _)| {
            ["1.0.0", "2.0.0"].map(|version| package(name, version, "MIT", json!(SOURCE)))
        });
        let mut packages: Vec<Value> = listed.collect();
        let found = |packages: &[Value]| {
            let metadata = json!({ "packages": packages }).to_string();
            let breaches = check(metadata.as_bytes()).unwrap();
            let found =
                breaches.into_iter().map(|breach| format!("{}: {}", breach.place, breach.found));
            found.collect::<Vec<_>>()
        };
        packages.push(package("ours", "1.0.0", "Apache-2.0", Value::Null));
        assert_eq!(found(&packages), [""; 0]);
        packages.push(package("ours", "2.0.0", "GPL-3.0", json!("git+https://x.org")));
        assert_eq!(
            found(&packages),
            [
                "ours: its licence is \"GPL-3.0\"",
                "ours: it comes from git+https://x.org",
                "ours: it is there in several versions"
            ]
        );
        packages.remove(0);
        let one = format!("{}: it is there in one version", SEVERAL_VERSIONS[0].0);
        assert!(found(&packages).contains(&one));
    }
}

//! The rules on dependencies between crates and on packages, checked on the output of `cargo metadata`.

use super::Breach;
use super::architecture::{CRATES, Crate, FENCES, OTHER_FOLDERS, OUT_OF_REACH};
use anyhow::Context;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

/// The members of the workspace and all dependencies, according to cargo.
#[derive(Debug, Default)]
pub(super) struct Graph {
    members: Vec<Member>,
    /// From each package to the packages on which it depends, without dev-dependencies.
    links: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug)]
struct Member {
    name: String,
    /// Relative to the root of the workspace.
    folder: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug)]
struct Dependency {
    name: String,
    dev: bool,
}

impl Graph {
    /// Reads the output of `cargo metadata --format-version 1`.
    pub(super) fn parse(metadata: &[u8]) -> anyhow::Result<Graph> {
        let metadata: Value =
            serde_json::from_slice(metadata).context("cargo metadata printed no JSON")?;
        let root = Path::new(text(&metadata["workspace_root"]));
        let inside: BTreeSet<&str> = list(&metadata["workspace_members"]).map(text).collect();
        let mut graph = Graph::default();
        let mut names = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            names.insert(text(&package["id"]), text(&package["name"]));
            if inside.contains(text(&package["id"])) {
                graph.members.push(Member::parse(package, root));
            }
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let links = graph.links.entry(names[text(&node["id"])].to_owned()).or_default();
            for link in list(&node["deps"]).filter(|link| !only_for_tests(link)) {
                links.insert(names[text(&link["pkg"])].to_owned());
            }
        }
        anyhow::ensure!(
            !graph.members.is_empty(),
            "cargo metadata names no member of the workspace"
        );
        Ok(graph)
    }

    /// The packages on the shortest path from a package to a package of a family.
    fn way(&self, from: &str, family: &[&str]) -> Option<Vec<String>> {
        let mut ways = VecDeque::from([vec![from.to_owned()]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop_front() {
            let last = way.last()?;
            if in_family(last, family) {
                return Some(way);
            }
            for next in self.links.get(last).into_iter().flatten() {
                if seen.insert(next) {
                    ways.push_back([way.as_slice(), std::slice::from_ref(next)].concat());
                }
            }
        }
        None
    }
}

impl Member {
    fn parse(package: &Value, root: &Path) -> Member {
        let manifest = Path::new(text(&package["manifest_path"]));
        let folder = manifest.parent().unwrap_or(manifest);
        let dependencies = list(&package["dependencies"]).map(|dependency| Dependency {
            name: text(&dependency["name"]).to_owned(),
            dev: text(&dependency["kind"]) == "dev",
        });
        Member {
            name: text(&package["name"]).to_owned(),
            folder: folder.strip_prefix(root).unwrap_or(folder).display().to_string(),
            dependencies: dependencies.collect(),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn only_for_tests(link: &Value) -> bool {
    list(&link["dep_kinds"]).all(|kind| text(&kind["kind"]) == "dev")
}

/// Whether the package has a name of the family, or continues such a name with a dash.
fn in_family(package: &str, family: &[&str]) -> bool {
    let continues = |rest: &str| rest.is_empty() || rest.starts_with('-');
    family.iter().any(|name| package.strip_prefix(name).is_some_and(continues))
}

/// All breaches of the rules on dependencies.
pub(super) fn check(graph: &Graph) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for member in &graph.members {
        breaches.extend(misnamed(member));
        breaches.extend(arrows(member, graph));
        breaches.extend(fences(member));
    }
    breaches.extend(reached(graph));
    breaches
}

fn breach(place: &str, found: String, rule: impl Into<String>) -> Breach {
    Breach { place: place.to_owned(), found, rule: rule.into() }
}

fn misnamed(member: &Member) -> Option<Breach> {
    let other = OTHER_FOLDERS.iter().find(|(folder, _)| *folder == member.folder);
    let expected = match other {
        Some((_, package)) => Some(*package),
        None => member.folder.strip_prefix("crates/"),
    };
    (expected != Some(&member.name)).then(|| {
        let found = format!("the package is named {}", member.name);
        breach(
            &member.folder,
            found,
            "a crate's folder is crates/<name of the package> (other members: OTHER_FOLDERS)",
        )
    })
}

fn row_of(name: &str) -> Option<&'static Crate> {
    CRATES.iter().find(|row| row.name == name)
}

/// Dependencies of a crate on crates of the workspace that the table does not allow.
fn arrows(member: &Member, graph: &Graph) -> Vec<Breach> {
    let name = &member.name;
    let Some(row) = row_of(name) else {
        return vec![breach(
            name,
            "not in the table CRATES".into(),
            "every crate has a layer and a list of what it may use",
        )];
    };
    let is_member =
        |dependency: &&Dependency| graph.members.iter().any(|one| one.name == dependency.name);
    let forbidden = |dependency: &Dependency| {
        let used = &dependency.name;
        let up = row_of(used).is_none_or(|used| used.layer > row.layer);
        if dependency.dev {
            up.then(|| {
                breach(
                    name,
                    format!("has a dev-dependency on {used}"),
                    "dev-dependencies point down or sideways",
                )
            })
        } else if row.may_use.contains(&used.as_str()) {
            None
        } else if up {
            Some(breach(
                name,
                format!("depends on {used}, which is above it"),
                "arrows point down only",
            ))
        } else {
            let rule = format!("{name} may use [{}]", row.may_use.join(", "));
            Some(breach(name, format!("depends on {used}"), rule))
        }
    };
    member.dependencies.iter().filter(is_member).filter_map(forbidden).collect()
}

/// Dependencies of a crate on external packages that [`FENCES`] allows only in other crates.
fn fences(member: &Member) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for fence in FENCES.iter().filter(|fence| !fence.inside.contains(&member.name.as_str())) {
        for dependency in &member.dependencies {
            if in_family(&dependency.name, fence.packages) && (fence.tests_too || !dependency.dev) {
                let kind = if dependency.dev { "has a dev-dependency on" } else { "depends on" };
                breaches.push(breach(
                    &member.name,
                    format!("{kind} {}", dependency.name),
                    fence.rule,
                ));
            }
        }
    }
    breaches
}

/// Crates that depend, through others, on packages that are forbidden for them.
fn reached(graph: &Graph) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for rule in OUT_OF_REACH {
        for from in rule.from {
            if let Some(way) = graph.way(from, rule.packages) {
                breaches.push(breach(from, format!("reaches {}", way.join(" -> ")), rule.rule));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace of crates, each with its dependencies; `dev:` before a name makes it a
    /// dev-dependency.
    fn workspace(crates: &[(&str, &[&str])]) -> Graph {
        let mut graph = Graph::default();
        for (name, dependencies) in crates {
            let dependencies = dependencies.iter().map(|text| match text.strip_prefix("dev:") {
                Some(name) => Dependency { name: name.to_owned(), dev: true },
                None => Dependency { name: text.to_string(), dev: false },
            });
            let dependencies: Vec<Dependency> = dependencies.collect();
            let links = dependencies.iter().filter(|one| !one.dev).map(|one| one.name.clone());
            graph.links.insert(name.to_string(), links.collect());
            graph.members.push(Member {
                name: name.to_string(),
                folder: format!("crates/{name}"),
                dependencies,
            });
        }
        graph
    }

    /// The breaches, as "place: found".
    fn found(graph: &Graph) -> Vec<String> {
        check(graph).iter().map(|breach| format!("{}: {}", breach.place, breach.found)).collect()
    }

    #[test]
    fn allowed_arrows_are_no_breach() {
        let graph = workspace(&[
            ("collective", &["thiserror"]),
            ("config", &["serde"]),
            ("membership", &["collective"]),
            ("protocol", &["collective", "membership", "prost", "tonic-prost"]),
            ("coordinator", &["membership", "protocol", "clap", "tokio"]),
        ]);
        assert_eq!(found(&graph), [""; 0]);
    }

    #[test]
    fn an_arrow_up_is_a_breach() {
        let graph = workspace(&[("membership", &["protocol"]), ("protocol", &[])]);
        assert_eq!(found(&graph), ["membership: depends on protocol, which is above it"]);
    }

    #[test]
    fn an_arrow_down_that_is_not_in_the_table_is_a_breach() {
        let graph = workspace(&[("transport", &["data"]), ("data", &[])]);
        assert_eq!(found(&graph), ["transport: depends on data"]);
    }

    #[test]
    fn a_crate_that_is_not_in_the_table_is_a_breach() {
        assert_eq!(found(&workspace(&[("plumbing", &[])])), ["plumbing: not in the table CRATES"]);
    }

    #[test]
    fn dev_dependencies_may_point_sideways_but_not_up() {
        let sideways = workspace(&[("data", &["dev:checkpoint", "dev:clap"]), ("checkpoint", &[])]);
        assert_eq!(found(&sideways), [""; 0]);
        let up = workspace(&[("data", &["dev:model"]), ("model", &[])]);
        assert_eq!(found(&up), ["data: has a dev-dependency on model"]);
    }

    #[test]
    fn foreign_packages_stay_inside_their_fences() {
        for (name, package) in [
            ("data", "tch"),
            ("checkpoint", "torch-sys"),
            ("trainer", "tokio"),
            ("trainer", "tokio-stream"),
            ("latent", "tonic"),
            ("membership", "prost-types"),
            ("model", "anyhow"),
            ("protocol", "clap"),
            ("transport", "tracing-subscriber"),
        ] {
            let expected = format!("{name}: depends on {package}");
            assert!(found(&workspace(&[(name, &[package])])).contains(&expected), "{expected}");
        }
        assert_eq!(
            found(&workspace(&[("data", &["dev:tch"])])),
            ["data: has a dev-dependency on tch"]
        );
        assert_eq!(found(&workspace(&[("data", &["tracing", "tchotchke"])])), [""; 0]);
    }

    #[test]
    fn the_coordinator_must_not_reach_libtorch_through_others() {
        let mut graph = workspace(&[("coordinator", &["protocol"]), ("protocol", &["blend"])]);
        graph.links.insert("blend".into(), ["torch-sys".into()].into());
        assert_eq!(
            found(&graph),
            ["coordinator: reaches coordinator -> protocol -> blend -> torch-sys"]
        );
    }

    #[test]
    fn a_folder_has_the_name_of_its_package() {
        let mut graph = workspace(&[("data", &[]), ("scenarios", &[])]);
        graph.members[1].folder = "tests".into();
        assert_eq!(found(&graph), [""; 0]);
        graph.members[0].folder = "crates/mnist".into();
        graph.members[1].folder = "scenarios".into();
        let expected = [
            "crates/mnist: the package is named data",
            "scenarios: the package is named scenarios",
        ];
        assert_eq!(found(&graph), expected);
    }

    #[test]
    fn the_output_of_cargo_is_understood() {
        let package = |name: &str, dependencies: Value| {
            let manifest = format!("/w/crates/{name}/Cargo.toml");
            json!({
                "id": format!("id {name}"),
                "name": name,
                "manifest_path": manifest,
                "dependencies": dependencies,
            })
        };
        let kinds = |kind: Value| json!([{"kind": kind, "target": null}]);
        let metadata = json!({
            "workspace_root": "/w",
            "workspace_members": ["id data", "id model"],
            "packages": [
                package("data", json!([
                    {"name": "model", "kind": "dev"},
                    {"name": "sha2", "kind": null},
                ])),
                package("model", json!([])),
                package("sha2", json!([])),
            ],
            "resolve": {"nodes": [
                {"id": "id data", "deps": [
                    {"pkg": "id model", "dep_kinds": kinds(json!("dev"))},
                    {"pkg": "id sha2", "dep_kinds": kinds(Value::Null)},
                ]},
            ]},
        });
        let graph = Graph::parse(metadata.to_string().as_bytes()).unwrap();
        assert_eq!(graph.members.len(), 2);
        assert_eq!(graph.links["data"], ["sha2".to_owned()].into());
        assert_eq!(found(&graph), ["data: has a dev-dependency on model"]);
        assert!(Graph::parse(b"{}").is_err());
    }
}

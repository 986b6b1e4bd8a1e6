//! A run's configuration as flags and their values, for a comparison by people.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fields that are no flags: they describe the task.
const LEFT_OUT: [&str; 4] = ["metrics", "size", "summary", "example"];

/// The flags of a `config.json`, also of an earlier version, by name without the leading dashes. A
/// data set is represented by its name.
pub(crate) fn by_flag(config: &Value) -> BTreeMap<String, Value> {
    let mut flags = BTreeMap::new();
    let none = Map::new();
    for part in ["training", "operation"] {
        let fields = config[part].as_object().unwrap_or(&none);
        for (name, value) in fields.iter().filter(|(name, _)| *name != "task") {
            add(&mut flags, name, value);
        }
    }
    let task = config["training"]["task"].as_object().unwrap_or(&none);
    for (name, value) in task.iter().filter(|(name, _)| !LEFT_OUT.contains(&&name[..])) {
        match (&name[..], value) {
            ("options", Value::Object(options)) => {
                options.iter().for_each(|(name, value)| add(&mut flags, name, value));
            }
            ("name", value) => add(&mut flags, "task", value),
            ("revision", value) => add(&mut flags, "task_revision", value),
            ("dataset", dataset) => add(&mut flags, "dataset", &dataset["name"]),
            (name, value) => add(&mut flags, name, value),
        }
    }
    flags
}

fn add(flags: &mut BTreeMap<String, Value>, name: &str, value: &Value) {
    flags.insert(name.replace('_', "-"), value.clone());
}

//! Writes rows of the metrics: a flat object, with the task's metrics beside the fields.

use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq as _},
};

use crate::{
    parse::TEST_PREFIX,
    row::{EpochRow, MetricsRow, RankRow, StepsRow, Values},
};

impl Serialize for MetricsRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Steps(row) => write_steps(&mut map, row)?,
            Self::Epoch(row) => write_epoch(&mut map, row)?,
        }
        map.end()
    }
}

fn write_steps<M: SerializeMap>(map: &mut M, row: &StepsRow) -> Result<(), M::Error> {
    map.serialize_entry("kind", "steps")?;
    known(map, "time", row.time.as_ref())?;
    map.serialize_entry("generation", &row.generation)?;
    map.serialize_entry("epoch", &row.epoch)?;
    map.serialize_entry("step", &row.step)?;
    known(map, "steps", row.steps.as_ref())?;
    map.serialize_entry("examples", &row.examples)?;
    known(map, "seconds", row.seconds.as_ref())?;
    map.serialize_entry("examples_per_second", &row.examples_per_second)?;
    for (name, value) in row.values.iter() {
        map.serialize_entry(name, &value)?;
    }
    known(map, "loss_range", row.loss_range.as_ref())?;
    known(map, "learning_rate", row.learning_rate.as_ref())?;
    if !row.factors.is_empty() {
        map.serialize_entry("factors", &row.factors)?;
    }
    known(map, "gradient_norm", row.gradient_norm.as_ref())?;
    known(map, "gradient_norm_max", row.gradient_norm_max.as_ref())?;
    map.serialize_entry("ranks", &Ranks(&row.ranks))?;
    known(map, "rank_count", row.rank_count.as_ref())
}

fn write_epoch<M: SerializeMap>(map: &mut M, row: &EpochRow) -> Result<(), M::Error> {
    map.serialize_entry("kind", "epoch")?;
    known(map, "time", row.time.as_ref())?;
    map.serialize_entry("generation", &row.generation)?;
    map.serialize_entry("epoch", &row.epoch)?;
    map.serialize_entry("step", &row.step)?;
    map.serialize_entry("examples_per_second", &row.examples_per_second)?;
    for (name, value) in row.train.iter() {
        map.serialize_entry(name, &value)?;
    }
    for (name, value) in row.test.iter() {
        map.serialize_entry(&format!("{TEST_PREFIX}{name}"), &value)?;
    }
    map.serialize_entry("examples_counted", &row.examples_counted)?;
    map.serialize_entry("index_sum", &row.index_sum)?;
    known(map, "validation_loss", row.validation_loss.as_ref())?;
    known(map, "version", row.version.as_ref())
}

/// Writes a field that older versions did not have, if it is known.
fn known<M: SerializeMap, T: Serialize>(
    map: &mut M,
    name: &str,
    value: Option<&T>,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(name, value))
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

struct Ranks<'a>(&'a [RankRow]);

impl Serialize for Ranks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ranks = serializer.serialize_seq(Some(self.0.len()))?;
        for rank in self.0 {
            ranks.serialize_element(rank)?;
        }
        ranks.end()
    }
}

impl Serialize for RankRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rank", &self.rank)?;
        map.serialize_entry("compute_seconds", &rounded(self.compute_seconds))?;
        map.serialize_entry("all_reduce_seconds", &rounded(self.all_reduce_seconds))?;
        map.serialize_entry("waiting_seconds", &rounded(self.waiting_seconds))?;
        known(&mut map, "memory_bytes", self.memory_bytes.as_ref())?;
        map.end()
    }
}

/// Rounds seconds to the microsecond, the precision of the workers' measurements. A sum of seconds has
/// more digits than are exact.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

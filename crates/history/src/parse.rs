//! Reads rows of the metrics, also of older versions, which call examples images. An absent field is
//! not known.

use std::fmt::{self, Formatter};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess},
};

use crate::row::{EpochRow, MetricsRow, RankRow, StepsRow, Values};

/// The prefix of the names of metrics over test examples, in a row about an epoch.
pub(crate) const TEST_PREFIX: &str = "test_";

/// The fields of rows.
const FIELDS: [&str; 23] = [
    "kind",
    "time",
    "generation",
    "epoch",
    "step",
    "steps",
    "examples",
    "images",
    "seconds",
    "examples_per_second",
    "images_per_second",
    "loss_range",
    "learning_rate",
    "factors",
    "gradient_norm",
    "gradient_norm_max",
    "ranks",
    "rank_count",
    "examples_counted",
    "images_counted",
    "index_sum",
    "validation_loss",
    "version",
];

/// Whether a task's metric cannot have this name: rows have a field of this name, or the name begins
/// like the names of metrics over test examples.
#[must_use]
pub fn is_reserved(metric: &str) -> bool {
    FIELDS.contains(&metric) || metric.starts_with(TEST_PREFIX)
}

/// All fields that a row of either kind can hold.
#[derive(Default)]
struct Fields {
    kind: String,
    generation: Option<u64>,
    examples_counted: Option<u64>,
    index_sum: Option<u64>,
    validation_loss: Option<f64>,
    version: Option<String>,
    /// The remaining fields, as in a row about steps.
    row: StepsRow,
}

impl Fields {
    fn take_in<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let row = &mut self.row;
        match name {
            "kind" => self.kind = map.next_value()?,
            "time" => row.time = map.next_value()?,
            "generation" => self.generation = map.next_value()?,
            "epoch" => row.epoch = map.next_value()?,
            "step" => row.step = map.next_value()?,
            "steps" => row.steps = map.next_value()?,
            "examples" | "images" => row.examples = map.next_value()?,
            "seconds" => row.seconds = map.next_value()?,
            "examples_per_second" | "images_per_second" => {
                row.examples_per_second = map.next_value()?;
            }
            "loss_range" => row.loss_range = map.next_value()?,
            "learning_rate" => row.learning_rate = map.next_value()?,
            "factors" => row.factors = map.next_value::<Factors>()?.0,
            "gradient_norm" => row.gradient_norm = map.next_value()?,
            "gradient_norm_max" => row.gradient_norm_max = map.next_value()?,
            "ranks" => row.ranks = map.next_value()?,
            "rank_count" => row.rank_count = map.next_value()?,
            "examples_counted" | "images_counted" => self.examples_counted = map.next_value()?,
            "index_sum" => self.index_sum = map.next_value()?,
            "validation_loss" => self.validation_loss = map.next_value()?,
            "version" => self.version = map.next_value()?,
            metric => {
                if let Some(value) = map.next_value::<Number>()?.0 {
                    row.values.push(metric.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    fn into_row(self) -> Option<MetricsRow> {
        let Self {
            kind,
            generation,
            examples_counted,
            index_sum,
            validation_loss,
            version,
            mut row,
        } = self;
        row.generation = generation.unwrap_or_default();
        match &kind[..] {
            "steps" => Some(MetricsRow::Steps(row)),
            "epoch" => {
                let (mut train, mut test) = (Values::default(), Values::default());
                for (name, value) in row.values.iter() {
                    match name.strip_prefix(TEST_PREFIX) {
                        Some(name) => test.push(name.to_owned(), value),
                        None => train.push(name.to_owned(), value),
                    }
                }
                let StepsRow { time, epoch, step, examples_per_second, .. } = row;
                Some(MetricsRow::Epoch(EpochRow {
                    time,
                    epoch,
                    step,
                    generation,
                    examples_per_second,
                    examples_counted,
                    index_sum,
                    train,
                    test,
                    validation_loss,
                    version,
                }))
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for MetricsRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = MetricsRow;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a row of metrics")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MetricsRow, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<String>()? {
                    fields.take_in(&name, &mut map)?;
                }
                fields.into_row().ok_or_else(|| de::Error::custom("a row of another kind"))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A number or null; none if it is anything else.
struct Number(Option<Option<f64>>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Number;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(Some(Some(value))))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(Some(Some(value as f64))))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(Some(Some(value as f64))))
            }

            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number(Some(None)))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_str<E>(self, _: &str) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Number, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Number, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

struct Factors(Values);

impl<'de> Deserialize<'de> for Factors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Factors;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("numbers by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Factors, A::Error> {
                let mut values = Values::default();
                while let Some((name, value)) = map.next_entry::<String, Number>()? {
                    values.push(name, value.0.flatten());
                }
                Ok(Factors(values))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl<'de> Deserialize<'de> for RankRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            rank: u32,
            #[serde(default)]
            compute_seconds: Option<f64>,
            #[serde(default)]
            all_reduce_seconds: Option<f64>,
            #[serde(default)]
            waiting_seconds: Option<f64>,
            #[serde(default)]
            memory_bytes: Option<u64>,
        }
        let fields = Fields::deserialize(deserializer)?;
        Ok(Self {
            rank: fields.rank,
            compute_seconds: fields.compute_seconds.unwrap_or_default(),
            all_reduce_seconds: fields.all_reduce_seconds.unwrap_or_default(),
            waiting_seconds: fields.waiting_seconds.unwrap_or_default(),
            memory_bytes: fields.memory_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Time;

    fn parse(json: &str) -> MetricsRow {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    /// A row with every field.
    fn steps() -> StepsRow {
        StepsRow {
            time: Some(Time::from_unix_ms(1_772_366_400_250)),
            generation: 3,
            epoch: 2,
            step: 120,
            steps: Some(20),
            examples: 1280,
            seconds: Some(0.25),
            examples_per_second: Some(5120.0),
            values: [("loss", Some(101.5)), ("kl", None)].into_iter().collect(),
            loss_range: Some((99.0, 104.5)),
            learning_rate: Some(1e-3),
            factors: [("kl_weight", Some(0.5))].into_iter().collect(),
            gradient_norm: Some(7.5),
            gradient_norm_max: Some(9.0),
            ranks: vec![RankRow {
                rank: 1,
                compute_seconds: 0.125,
                all_reduce_seconds: 0.0625,
                waiting_seconds: 0.03125,
                memory_bytes: Some(123_456_789),
            }],
            rank_count: Some(100),
        }
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let rows = [MetricsRow::Steps(steps()), MetricsRow::Steps(StepsRow::default())];
        let epoch = EpochRow {
            time: Some(Time::from_unix_ms(1_772_366_400_250)),
            epoch: 2,
            step: 188,
            generation: Some(3),
            examples_per_second: Some(4000.0),
            examples_counted: Some(6000),
            index_sum: Some(17_997_000),
            train: [("loss", Some(110.0)), ("kl", Some(20.0))].into_iter().collect(),
            test: [("loss", Some(105.0)), ("kl", None)].into_iter().collect(),
            validation_loss: Some(107.5),
            version: Some("0.1.0".into()),
        };
        let epochs = [MetricsRow::Epoch(epoch), MetricsRow::Epoch(EpochRow::default())];
        for row in rows.into_iter().chain(epochs) {
            let json = serde_json::to_string(&row).unwrap();
            assert_eq!(parse(&json), row, "{json}");
        }
    }

    /// Lines that earlier versions have written, the oldest first.
    #[test]
    fn rows_of_older_versions_are_read() {
        let old = r#"{"epoch":1,"generation":1,"images":1280,"images_per_second":5000.5,"kind":
            "steps","kl":4.5,"loss":200.5,"ranks":[{"all_reduce_seconds":0.1,"compute_seconds":0.2,
            "rank":0,"waiting_seconds":0.3}],"reconstruction":196.0,"step":10}"#;
        let MetricsRow::Steps(row) = parse(old) else { panic!("{old}") };
        assert_eq!((row.examples, row.examples_per_second), (1280, Some(5000.5)));
        assert_eq!((row.values.get("loss"), row.values.get("kl")), (Some(200.5), Some(4.5)));
        assert_eq!((row.ranks[0].waiting_seconds, row.ranks[0].memory_bytes), (0.3, None));
        assert_eq!((row.time, row.seconds, row.gradient_norm, row.steps), (None, None, None, None));

        let old = r#"{"kind":"epoch","step":94,"epoch":1,"generation":null,"loss":1.5,"kl":null,
            "test_loss":1.25,"images_per_second":null,"images_counted":6000,"index_sum":5}"#;
        let MetricsRow::Epoch(row) = parse(old) else { panic!("{old}") };
        assert_eq!((row.generation, row.examples_counted), (None, Some(6000)));
        assert_eq!((row.train.first(), row.test.get("loss")), (Some(1.5), Some(1.25)));
        assert_eq!((row.train.get("kl"), row.version), (None, None));
    }

    #[test]
    fn what_a_newer_version_adds_is_passed_over() {
        let new = r#"{"kind":"steps","step":5,"loss":1,"mood":"good","nested":{"a":[1]},"x":[2],
            "flag":true}"#;
        let MetricsRow::Steps(row) = parse(new) else { panic!("{new}") };
        assert_eq!(row.values.iter().collect::<Vec<_>>(), [("loss", Some(1.0))]);
    }

    #[test]
    fn what_is_no_row_is_refused() {
        let lines =
            ["", "{}", "[]", "null", r#"{"kind":"other"}"#, r#"{"kind":"steps","step":-1}"#];
        for line in lines {
            assert!(serde_json::from_str::<MetricsRow>(line).is_err(), "{line}");
        }
    }

    #[test]
    fn fields_are_no_names_of_metrics() {
        let MetricsRow::Steps(row) = MetricsRow::Steps(steps()) else { return };
        let json = serde_json::to_value(MetricsRow::Steps(row)).unwrap();
        let is_metric = |name: &&String| !["loss", "kl"].contains(&&name[..]);
        assert!(json.as_object().unwrap().keys().filter(is_metric).all(|name| is_reserved(name)));
        assert!(is_reserved("test_loss") && is_reserved("images") && !is_reserved("accuracy"));
    }
}

//! All conversions of the trainer's state and ledger: to and from checkpoints, to and from other
//! workers, and to reports.

use std::collections::BTreeMap;

use collective::{TERMS_MAX, Tally};
use model::{Layout, ModelError, State, StateView};
use trainer::{EpochLedger, Ledger};
use transport::state::{Fetched, Snapshot, Vectors};

/// The state and the ledger that a checkpoint holds.
///
/// # Errors
/// A tensor of the layout is missing or has another shape.
pub(crate) fn from_checkpoint(
    checkpoint: checkpoint::Checkpoint,
    layout: &Layout,
) -> Result<(State, Ledger), ModelError> {
    let checkpoint::Checkpoint { metadata, tensors, .. } = checkpoint;
    let gather = |prefix: &str| {
        layout.gather(|name| {
            let tensor = tensors.get(&format!("{prefix}{name}"))?;
            Some((&tensor.shape[..], &tensor.data[..]))
        })
    };
    let state = State {
        step: metadata.step,
        parameters: gather("")?,
        exp_avg: gather("exp_avg.")?,
        exp_avg_sq: gather("exp_avg_sq.")?,
    };
    let validation = metadata.ledger.iter().map_while(|epoch| epoch.validation_loss).collect();
    let epoch = |epoch: checkpoint::EpochLedger| {
        let mut terms = [0.0; TERMS_MAX];
        terms.iter_mut().zip(epoch.loss_terms).for_each(|(sum, term)| *sum = term);
        EpochLedger { examples: epoch.images, index_sum: epoch.index_sum, terms }
    };
    Ok((state, Ledger { epochs: metadata.ledger.into_iter().map(epoch).collect(), validation }))
}

/// A state's tensors, with their names in a checkpoint.
pub(crate) fn checkpoint_tensors<'a>(
    state: &'a State,
    layout: &'a Layout,
) -> Vec<(String, &'a [usize], &'a [f32])> {
    let vectors =
        [("", &state.parameters), ("exp_avg.", &state.exp_avg), ("exp_avg_sq.", &state.exp_avg_sq)];
    let named = |(prefix, vector): (&'static str, &'a Vec<f32>)| {
        layout.entries().iter().map(move |entry| {
            let data = &vector[entry.range.clone()];
            (format!("{prefix}{}", entry.name), &entry.shape[..], data)
        })
    };
    vectors.into_iter().flat_map(named).collect()
}

/// A ledger for a checkpoint: its first `metrics` terms, with the test means of the epochs, which are
/// counted from 1.
pub(crate) fn checkpoint_ledger(
    ledger: &Ledger,
    metrics: usize,
    tests: &BTreeMap<u64, Vec<f64>>,
) -> Vec<checkpoint::EpochLedger> {
    let validation = |number: u64| {
        let index = usize::try_from(number - 1).ok()?;
        ledger.validation.get(index).copied()
    };
    let epoch = |(number, epoch): (u64, &EpochLedger)| checkpoint::EpochLedger {
        images: epoch.examples,
        index_sum: epoch.index_sum,
        loss_terms: epoch.terms[..metrics].to_vec(),
        test_losses: tests.get(&number).cloned().unwrap_or_default(),
        validation_loss: validation(number),
    };
    (1..).zip(&ledger.epochs).map(epoch).collect()
}

/// The state and the ledger for other workers.
pub(crate) fn to_snapshot(state: StateView<'_>, ledger: &Ledger, vectors: Vectors) -> Snapshot {
    let tally = |epoch: &EpochLedger| {
        let EpochLedger { examples, index_sum, terms } = *epoch;
        Tally { examples, index_sum, terms }
    };
    let epochs = ledger.epochs.iter().map(tally).collect();
    let validation = ledger.validation.clone();
    Snapshot { step: state.step, length: state.parameters.len(), epochs, validation, vectors }
}

/// The state and the ledger that another worker gave.
pub(crate) fn from_fetched(fetched: Fetched) -> (State, Ledger) {
    let Fetched { step, epochs, validation, vectors, .. } = fetched;
    let [parameters, exp_avg, exp_avg_sq] = vectors;
    let epoch = |Tally { examples, index_sum, terms }| EpochLedger { examples, index_sum, terms };
    let ledger = Ledger { epochs: epochs.into_iter().map(epoch).collect(), validation };
    (State { step, parameters, exp_avg, exp_avg_sq }, ledger)
}

/// The means over the examples, from their sums, for reports.
pub(crate) fn means(sums: &[f64], examples: u64) -> Vec<f64> {
    sums.iter().map(|sum| sum / examples.max(1) as f64).collect()
}

//! The inputs of an objective: the batch's examples as tensors, and random numbers.

use data::{Batch, Collate, Column, Stream, Values};
use model::{Isa, StepContext, noise};
use tch::{Device, Tensor};

/// The inputs of an objective, besides the module.
#[derive(Debug)]
pub struct Inputs<'a, D> {
    /// The examples.
    pub batch: &'a Batch<'a, D>,
    /// The device on which the sums are computed.
    pub device: Device,
    /// The stream of all random numbers.
    pub random: Stream,
    /// The position of the step in the run; none in an evaluation, which follows no schedule.
    pub context: Option<StepContext>,
}

impl<D> Inputs<'_, D> {
    /// Whether this is a training step, in which dropout and schedules have an effect.
    pub const fn is_training(&self) -> bool {
        self.context.is_some()
    }

    /// Standard normal numbers from the step's stream: the same on every device.
    pub fn normals(&self, shape: &[i64]) -> Tensor {
        let mut values = vec![0.0_f32; shape.iter().product::<i64>() as usize];
        noise::normals(Isa::best(), self.random, &mut values);
        Tensor::from_slice(&values).view(shape).to_device(self.device)
    }

    /// Numbers as rows, `[n, width]`, on the device.
    pub fn rows(&self, values: &[f32], width: usize) -> Tensor {
        Tensor::from_slice(values).view([-1, width as i64]).to_device(self.device)
    }
}

impl<D: Collate> Inputs<'_, D> {
    /// The examples as tensors, one per column of the data set; the first dimension of each
    /// is the number of examples. Use it as in `let [images, labels] = inputs.columns();`.
    ///
    /// # Panics
    ///
    /// If the data set has another number of columns.
    pub fn columns<const COUNT: usize>(&self) -> [Tensor; COUNT] {
        let tensor = |column: Column| {
            let shape: Vec<i64> = column.shape.iter().map(|&side| side as i64).collect();
            let values = match &column.values {
                Values::Bytes(values) => Tensor::from_slice(values),
                Values::Integers(values) => Tensor::from_slice(values),
                Values::Floats(values) => Tensor::from_slice(values),
            };
            values.view(&shape[..]).to_device(self.device)
        };
        let columns: Vec<Tensor> = D::collate(self.batch).into_iter().map(tensor).collect();
        columns.try_into().unwrap_or_else(|columns: Vec<Tensor>| {
            panic!("the data set has {} columns, and the objective takes {COUNT}", columns.len())
        })
    }
}

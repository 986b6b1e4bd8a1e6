//! The kernels in a form that a GPU can load: either compiled before the build and embedded (`cargo xtask kernels`),
//! or compiled at the first start from their sources, which every program contains.

use std::sync::OnceLock;

use model::cuda::{GpuError, compiler};

/// The files that [`SOURCE`] includes.
const HEADERS: [(&str, &str); 12] = [
    ("functions.cuh", include_str!("functions.cuh")),
    ("noise.cuh", include_str!("noise.cuh")),
    ("step.cuh", include_str!("step.cuh")),
    ("product.cuh", include_str!("product.cuh")),
    ("tensor.cuh", include_str!("tensor.cuh")),
    ("layers.cu", include_str!("layers.cu")),
    ("latent.cu", include_str!("latent.cu")),
    ("importance.cu", include_str!("importance.cu")),
    ("gradients.cu", include_str!("gradients.cu")),
    ("sums.cu", include_str!("sums.cu")),
    ("update.cu", include_str!("update.cu")),
    ("digest.cu", include_str!("digest.cu")),
];

const SOURCE: &str = include_str!("step.cu");

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// An image of the kernels that a GPU of this compute capability, times ten, can load.
pub(super) fn image(capability: u32) -> Result<&'static [u8], GpuError> {
    if let Some(image) = embedded(capability) {
        return Ok(image);
    }
    // A process computes on one GPU only, so the kernels are compiled for one capability.
    static COMPILED: OnceLock<Result<Option<Vec<u8>>, GpuError>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| compiler::compile(SOURCE, &HEADERS, capability));
    compiled.as_ref().map_err(Clone::clone)?.as_deref().ok_or(GpuError::NoKernels { capability })
}

/// Machine code for the same major capability and at most this minor one. If there is none, PTX, which the driver
/// compiles for any later GPU.
fn embedded(capability: u32) -> Option<&'static [u8]> {
    let fits = |of: &u32| of / 10 == capability / 10 && *of <= capability;
    let cubins = embedded::CUBINS.iter().filter(|(of, _)| fits(of));
    let best = cubins.max_by_key(|(of, _)| *of).map(|(_, image)| *image);
    best.or_else(|| embedded::PTX.filter(|(of, _)| *of <= capability).map(|(_, image)| image))
}

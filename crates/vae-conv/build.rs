//! Links this crate's tests and examples with libtorch.

fn main() {
    lockstep_build::link();
}

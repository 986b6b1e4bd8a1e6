//! Links this crate's tests with libtorch.

fn main() {
    lockstep_build::link();
}

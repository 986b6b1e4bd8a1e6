//! Lets this crate's tests and examples find libtorch.

fn main() {
    lockstep_build::link();
}

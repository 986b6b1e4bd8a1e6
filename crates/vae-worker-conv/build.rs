//! Lets the program find libtorch.

fn main() {
    lockstep_build::link();
}

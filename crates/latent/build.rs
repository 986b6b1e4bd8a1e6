//! Links the program with libtorch.

fn main() {
    lockstep_build::link();
}

//! Passes on where libtorch is to the build scripts of programs, and lets the tests find it.

fn main() {
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:libtorch_lib={lib}");
    }
    lockstep_build::link();
}

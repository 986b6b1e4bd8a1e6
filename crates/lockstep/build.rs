//! Passes the path of libtorch on to the build scripts of programs, and lets the tests find libtorch.

fn main() {
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:libtorch_lib={lib}");
    }
    lockstep_build::link();
}

//! Lets the binary find libtorch without LD_LIBRARY_PATH, and libtorch find what the crate
//! model exports for it.

fn main() {
    // Searched before LD_LIBRARY_PATH, which may lead to another libtorch (DT_RPATH); without this
    // flag, after it (DT_RUNPATH).
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    // A release has libtorch beside the programs; a checkout has it where it was built against.
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN/../lib");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    for targets in ["bins", "examples"] {
        println!(
            "cargo:rustc-link-arg-{targets}=-Wl,--export-dynamic-symbol=mkl_serv_intel_cpu_true"
        );
    }
}

//! Builds the library's files with their properties, and with the features that parse something.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cfg=fuzzing");
    for feature in ["serde", "postgres", "redis", "http1", "tower"] {
        println!("cargo:rustc-cfg=feature=\"{feature}\"");
    }
}

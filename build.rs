//! Arguments of the linker: see `src/runtime/ring_setup.rs` and `src/runtime/ring_enter.rs`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for function in ["__sys_io_uring_setup", "__sys_io_uring_enter", "__sys_io_uring_enter2"] {
        println!("cargo:rustc-link-arg-bins=-Wl,--wrap={function}");
    }
}

//! The heap of this process: giving back to the system what is free in it.
//!
//! The only unsafe code of the program: one call of the C library that takes no pointer. glibc keeps
//! what was freed for what is asked for next, which is wanted, unless memory has a bound.

/// Whether what is freed can be given back.
pub const GIVES_BACK: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// Gives back to the system every whole page that is free. Looks through everything that is free, and
/// holds up threads that take or free memory meanwhile: some milliseconds for tens of megabytes. Does
/// nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a call of the C library")]
    // SAFETY: `malloc_trim` has no conditions; it may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;
    use crate::ops::process::ResidentMemory;

    #[test]
    fn what_was_freed_is_given_back() {
        let mut resident = ResidentMemory::open().expect("a reading");
        let mut blocks: Vec<Vec<u8>> = (0..8192).map(|_| vec![1; 16 << 10]).collect();
        let full = resident.read().expect("a reading");
        // One block in 64 stays, so that what is free lies between what is not.
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 64 == 0
        });
        give_back();
        let after = resident.read().expect("a reading");
        // Other tests run beside this one, and take less.
        assert!(
            full.saturating_sub(after) > 64 << 20,
            "{full} and then {after}"
        );
        assert_eq!(blocks.len(), 128);
    }
}

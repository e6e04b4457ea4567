#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| roomcast_fuzz::send_queue::check(data));

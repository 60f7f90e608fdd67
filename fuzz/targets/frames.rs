#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| ai_proxy_fuzz::frames::check(input));

//! Numbers as text on a request's path, where the general formatting of the standard library would cost more than what
//! is said.

use std::time::Duration;

/// Appends a whole number.
pub(crate) fn append_number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends milliseconds with three decimals.
pub(crate) fn append_milliseconds(out: &mut Vec<u8>, duration: Duration) {
    append_number(out, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    out.push(b'.');
    append_digits::<3>(out, duration.subsec_micros() % 1000);
}

/// Appends the last N decimal digits of a number, leading zeros included.
pub(crate) fn append_digits<const N: usize>(out: &mut Vec<u8>, mut value: u32) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        // A digit is less than ten.
        *digit += (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

/// Appends a number in hexadecimal digits.
pub(crate) fn append_hexadecimal(out: &mut Vec<u8>, mut value: usize) {
    let mut digits = [0; size_of::<usize>() * 2];
    let mut first = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[value & 15];
        first -= 1;
        value >>= 4;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(append: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        append(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn leading_zeros_stand() {
        assert_eq!(text(|out| append_digits::<6>(out, 42)), "000042");
        assert_eq!(text(|out| append_milliseconds(out, Duration::from_micros(1_000_007))), "1000.007");
        assert_eq!(text(|out| append_milliseconds(out, Duration::from_nanos(999))), "0.000");
        for size in [0, 1, 15, 16, 255, 256, usize::MAX] {
            assert_eq!(text(|out| append_hexadecimal(out, size)), format!("{size:x}"));
        }
    }

    proptest! {
        #[test]
        fn numbers_are_those_of_the_standard_library(number in any::<u64>(), nanos in any::<u64>()) {
            prop_assert_eq!(text(|out| append_number(out, number)), number.to_string());
            let size = number as usize;
            prop_assert_eq!(text(|out| append_hexadecimal(out, size)), format!("{size:x}"));
            let micros = nanos / 1000;
            let expected = format!("{}.{:03}", micros / 1000, micros % 1000);
            prop_assert_eq!(text(|out| append_milliseconds(out, Duration::from_nanos(nanos))), expected);
        }
    }
}

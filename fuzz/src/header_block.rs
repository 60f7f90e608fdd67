//! Header blocks of HTTP/2 are read alike by whoever has read the same ones before, and what is written again is read as
//! the same.

use ai_proxy::hpack::Decoder;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn read(decoder: &mut Decoder, block: &[u8]) -> Option<Fields> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec()))).ok().map(|()| fields)
}

/// The same fields in the plainest way: spelled out, and for nobody to remember.
fn plain(fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    let length = |block: &mut Vec<u8>, length: usize| {
        let (mut rest, first) = (length.saturating_sub(0x7f), length.min(0x7f));
        block.push(first as u8);
        if first == 0x7f {
            while rest >= 0x80 {
                block.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
    };
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// Panics where the promise is broken. Each line is a block.
pub fn check(input: &[u8]) {
    let (mut one, mut other) = (Decoder::default(), Decoder::default());
    for block in input.split(|byte| *byte == b'\n') {
        let fields = read(&mut one, block);
        assert_eq!(read(&mut other, block), fields);
        let Some(fields) = fields else { return };
        assert_eq!(read(&mut one, &plain(&fields)).as_ref(), Some(&fields));
    }
}

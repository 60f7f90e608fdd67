#!/usr/bin/env python3
"""Says which crates a program names as its own: what cargo-auditable put into it, and `cargo audit bin` reads.

    tools/release/named_crates.py PROGRAM

prints JSON: {"packages": [{"name": …, "version": …, …}, …]}. Fails where there is none.
"""

import struct
import sys
import zlib
from pathlib import Path

SECTION = b".dep-v0"


def main():
    sys.stdout.buffer.write(zlib.decompress(section(Path(sys.argv[1]).read_bytes(), SECTION)))


def section(program, wanted):
    """The bytes of a section of a 64-bit ELF file. It may not be loaded into memory, and then objcopy leaves it out."""
    if program[:4] != b"\x7fELF" or program[4] != 2:
        sys.exit("no 64-bit ELF file")
    order = "<" if program[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", program, 0x28)
    size, count, names_at = struct.unpack_from(order + "3H", program, 0x3A)
    # Of each: where its name is, in the section of names; where it begins in the file; how long it is.
    headers = [struct.unpack_from(order + "I20xQQ", program, table + number * size) for number in range(count)]
    names = headers[names_at][1]
    for name, offset, length in headers:
        if program[names + name : program.index(b"\0", names + name)] == wanted:
            return program[offset : offset + length]
    sys.exit(f"no section {wanted.decode()}")


if __name__ == "__main__":
    main()

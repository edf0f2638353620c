"""Instructions beyond Armv8.0 in an aarch64 shared object, and which of them run as soon as it is loaded.

To contain an instruction says nothing: engines hold kernels that are chosen by the processor's features, and compilers
keep Armv8.1 atomics in helpers that test a flag first. What decides is whether the way to it passes a condition. So
the scan starts where the dynamic loader does, at DT_INIT and DT_INIT_ARRAY (constructors of global objects), and
follows what is executed in any case: straight on and through direct jumps and calls, up to a conditional branch, an
indirect jump or a return. What lies on that way runs at every load, and ends the process where the processor lacks it.

It rests on calls returning, and on the kernel naming all that the processor has. It misses what lies behind a
condition, an indirect call or a call into another library: a library can pass and die at its first model. What
`contains` counts is found by its bits alone, so constants among code can count; most are told from it.

Measured on 30 aarch64 wheels (onnxruntime, ai-edge-litert, tflite-runtime, ncnn, numpy, Pillow, OpenCV, usearch), each
library of which was also loaded on an emulated Cortex-A72: the scan names the two that die there, onnxruntime 1.21.0
(half-precision constants, the very instructions that trap) and LiteRT's WebGPU plugin, and no other.

Encodings: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter C4, A64 Instruction Set Encoding. Files:
System V ABI, chapters 4 and 5, and ELF for the Arm 64-bit Architecture (AAELF64).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime import EdgefaceError

Words = NDArray[np.uint32]
Flags = NDArray[np.bool_]

# Feature as /proc/cpuinfo says it → (mask, value) of its encodings: word & mask == value.
# fmt: off
ENCODINGS: dict[str, tuple[tuple[int, int], ...]] = {
    "crc32": ((0x7FE0E000, 0x1AC04000),),
    "aes": ((0xFFFFCC00, 0x4E284800),),
    "pmull": ((0xBFE0FC00, 0x0EE0E000),),
    # SHA1C, P, M, SU0; SHA1H, SU1
    "sha1": ((0xFFE0CC00, 0x5E000000), (0xFFFFEC00, 0x5E280800)),
    # SHA256H, H2; SHA256SU1; SHA256SU0
    "sha2": ((0xFFE0EC00, 0x5E004000), (0xFFE0FC00, 0x5E006000), (0xFFFFFC00, 0x5E282800)),
    "sha512": ((0xFFE0F800, 0xCE608000), (0xFFE0FC00, 0xCE608800), (0xFFFFFC00, 0xCEC08000)),
    # EOR3, BCAX; XAR; RAX1
    "sha3": ((0xFFC08000, 0xCE000000), (0xFFE00000, 0xCE800000), (0xFFE0FC00, 0xCE608C00)),
    # LDADD, CLR, EOR, SET, SMAX, SMIN, UMAX, UMIN; SWP; CAS; CASP
    "atomics": ((0x3F208C00, 0x38200000), (0x3F20FC00, 0x38208000), (0x3FA07C00, 0x08A07C00),
                (0xBFA07C00, 0x08207C00)),
    # SQRDMLAH, SQRDMLSH: vector, scalar, by element
    "asimdrdm": ((0xBF20F400, 0x2E008400), (0xFF20F400, 0x7E008400), (0xBF00D400, 0x2F00D000),
                 (0xFF00D400, 0x7F00D000)),
    "lrcpc": ((0x3FFFFC00, 0x38BFC000),),
    "ilrcpc": ((0x3F200C00, 0x19000000),),
    "jscvt": ((0xFFFFFC00, 0x1E7E0000),),
    # FCMLA, FCADD, FCMLA by element
    "fcma": ((0xBF20E400, 0x2E00C400), (0xBF20EC00, 0x2E00E400), (0xBF009400, 0x2F001000)),
    "paca": ((0xFFFFFBFF, 0xD65F0BFF), (0xFEFFF800, 0xD61F0800), (0xFF200400, 0xF8200400)),
    # scalar operations on ftype 11; 3-source
    "fphp": ((0x7FC00000, 0x1EC00000), (0xFFC00000, 0x1FC00000)),
    # three same, two-register miscellaneous: vector and scalar; across lanes; pairwise; FMOV; FMLA, FMLS, FMUL and
    # FMULX by element: vector and scalar; SCVTF, UCVTF, FCVTZS, FCVTZU of fixed point: vector and scalar
    "asimdhp": ((0x9F60C400, 0x0E400400), (0xDF60C400, 0x5E400400), (0x9F7E0C00, 0x0E780800), (0xDF7E0C00, 0x5E780800),
                (0xBF7FFC00, 0x0E30C800), (0xBF7FFC00, 0x0E30F800), (0xFF7FEC00, 0x5E30C800), (0xFF7FFC00, 0x5E30F800),
                (0xBFF8FC00, 0x0F00FC00),
                (0xBFC0B400, 0x0F001000), (0x9FC0F400, 0x0F009000), (0xFFC0B400, 0x5F001000), (0xDFC0F400, 0x5F009000),
                (0x9FF0FC00, 0x0F10E400), (0x9FF0FC00, 0x0F10FC00), (0xDFF0FC00, 0x5F10E400), (0xDFF0FC00, 0x5F10FC00)),
    # FMLAL, FMLSL, FMLAL2, FMLSL2: vector, by element
    "asimdfhm": ((0xBF60FC00, 0x0E20EC00), (0xBF60FC00, 0x2E20CC00), (0xBFC0B400, 0x0F800000),
                 (0xBFC0B400, 0x2F808000)),
    # SDOT, UDOT: vector, by element
    "asimddp": ((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000)),
    # USDOT; USDOT, SUDOT by element; SMMLA, UMMLA; USMMLA
    "i8mm": ((0xBFE0FC00, 0x0E809C00), (0xBF40F400, 0x0F00F000), (0xDFE0FC00, 0x4E80A400), (0xFFE0FC00, 0x4E80AC00)),
    # BFDOT, by element; BFMMLA; BFMLALB, BFMLALT, by element; BFCVT; BFCVTN
    "bf16": ((0xBFE0FC00, 0x2E40FC00), (0xBFC0F400, 0x0F40F000), (0xFFE0FC00, 0x6E40EC00), (0xBFE0FC00, 0x2EC0FC00),
             (0xBFC0F400, 0x0FC0F000), (0xFFFFFC00, 0x1E634000), (0xBFFFFC00, 0x0EA16800)),
    "sve": ((0x1E000000, 0x04000000),),
    "sme": ((0x9E000000, 0x80000000),),
}
# fmt: on
_FROM_HALF = (0xFFFE7C00, 0x1EE24000)
"""FCVT of a half-precision scalar to single or double: Armv8.0 has it, though its ftype is 11."""

_CALL = (0xFEE00000, 0xD6200000)
"""BLR and BLRAA: where to is not known, but it comes back."""
# B.cond; CBZ, CBNZ; TBZ, TBNZ; CB; BR, RET, ERET and their authenticated forms; UDF; BRK.
_STOPS = (
    (0xFF000000, 0x54000000),
    (0x7E000000, 0x34000000),
    (0x7E000000, 0x36000000),
    (0x7E000000, 0x74000000),
    (0xFE000000, 0xD6000000),
    (0xFFFF0000, 0x00000000),
    (0xFFE0001F, 0xD4200000),
)
_CHUNK = 1 << 18
_BLOCK = 64
_FEWEST = 32
"""Words of a feature in one library that are taken for code: constants left up to 23 in the libraries measured."""

_AARCH64 = 183
_MACHINES = {3: "x86", 40: "32-bit Arm", 62: "x86-64"}
_PROGBITS, _EXECINSTR, _PT_LOAD, _PT_DYNAMIC = 1, 4, 1, 2
_NEEDED, _STRTAB, _SYMTAB, _RELA, _RELASZ, _STRSZ, _INIT, _INIT_ARRAY, _INIT_ARRAYSZ = 1, 5, 6, 7, 8, 10, 12, 25, 27
_ABS64, _RELATIVE = 257, 1027
_RELOCATION = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_SYMBOL_BYTES, _SYMBOL_VALUE = 24, 8


class ElfError(EdgefaceError):
    """A file is no shared object of 64-bit Arm, or a damaged one: names the file and says what it is."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """A shared object of 64-bit Arm, as far as the scan needs it."""

    path: Path
    code: tuple[tuple[int, Words], ...]
    """Of each executable section its address and its instruction words, mapped from the file."""
    starts: tuple[int, ...]
    """Addresses that the dynamic loader calls, in its order."""
    needed: tuple[str, ...]
    """Names of the libraries that are loaded with it."""
    is_module: bool
    """Whether Python can import it (it has a PyInit function)."""


def uses(words: Words) -> dict[str, Flags]:
    """Which instruction words need which feature: feature → a flag for each word."""
    found = {}
    for feature, encodings in ENCODINGS.items():
        flags = np.zeros(words.shape, bool)
        for mask, value in encodings:
            flags |= (words & np.uint32(mask)) == value
        found[feature] = flags
    found["fphp"] &= (words & np.uint32(_FROM_HALF[0])) != _FROM_HALF[1]
    return found


def at_load(library: Library) -> dict[str, int]:
    """Feature → address of an instruction that needs it and that is executed whenever the library is loaded."""
    way = dict(_walk(library))
    addresses, words = list(way), np.fromiter(way.values(), np.uint32, len(way))
    return {feature: addresses[flags.argmax()] for feature, flags in uses(words).items() if flags.any()}


def contains(library: Library) -> dict[str, int]:
    """Feature → number of instructions that need it, whenever and whether they are executed."""
    counts = dict.fromkeys(ENCODINGS, 0)
    for _, words in library.code:
        for start in range(0, len(words), _CHUNK):
            chunk = np.array(words[start : start + _CHUNK])
            code = ~_among_constants(chunk)
            for feature, flags in uses(chunk).items():
                counts[feature] += int(np.count_nonzero(flags & code))
    return {feature: count for feature, count in counts.items() if count >= _FEWEST}


def loaded_on_import(libraries: Sequence[Library]) -> list[Library]:
    """Of a package's libraries those that Python imports, and those that are loaded with them; not its plugins."""
    by_name = {library.path.name: library for library in libraries}
    found: dict[str, Library] = {}
    pending = [library for library in libraries if library.is_module]
    while pending:
        library = pending.pop()
        if library.path.name not in found:
            found[library.path.name] = library
            pending += [by_name[name] for name in library.needed if name in by_name]
    return list(found.values())


def read_library(path: Path) -> Library:
    """Reads the tables of a shared object; its code stays in the file until it is looked at.

    Raises:
        ElfError: the file is something else, or its tables lead out of it.
    """
    try:
        data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    except OSError as error:
        raise ElfError(f"{path}: {error.strerror}") from error
    if bytes(data[:4]) != b"\x7fELF" or len(data) < 64:
        raise ElfError(f"{path}: is no ELF file")
    if (data[4], data[5]) != (2, 1):
        raise ElfError(f"{path}: is an ELF file, but not of 64 bit and little-endian")
    (machine,) = struct.unpack_from("<H", data.data, 18)
    if machine != _AARCH64:
        raise ElfError(f"{path}: is built for {_MACHINES.get(machine, f'ELF machine {machine}')}, not for aarch64")
    try:
        return _read_tables(path, data)
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise ElfError(f"{path}: is damaged, its tables lead out of the file") from error


def _walk(library: Library) -> Iterator[tuple[int, int]]:
    """(Address, word) of each instruction that loading executes in any case, once."""
    seen: set[int] = set()
    pending = list(reversed(library.starts))
    while pending:
        address: int | None = pending.pop()
        while address is not None and address not in seen:
            word = _word_at(library, address)
            if word is None:
                break
            seen.add(address)
            yield address, word
            address, called = _next(address, word)
            if called is not None:
                pending.append(called)


def _next(address: int, word: int) -> tuple[int | None, int | None]:
    """Where an instruction surely leads, and what it calls on the way."""
    if word & 0x7C000000 == 0x14000000:  # B, BL
        target = address + 4 * _signed(word & 0x3FFFFFF, 26)
        return (address + 4, target) if word >> 31 else (target, None)
    if word & _CALL[0] != _CALL[1] and any(word & mask == value for mask, value in _STOPS):
        return None, None
    return address + 4, None


def _signed(field: int, bits: int) -> int:
    return field - (field >> (bits - 1) << bits)


def _word_at(library: Library, address: int) -> int | None:
    for start, words in library.code:
        if 0 <= address - start < 4 * len(words):
            return int(words.item((address - start) // 4))
    return None


def _among_constants(words: Words) -> Flags:
    """Words in a block that also has one of the groups that no instruction is in (bits 28 to 25: 0001 or 0011)."""
    impossible = (words & np.uint32(0x1A000000)) == 0x02000000
    blocks = np.pad(impossible, (0, -len(words) % _BLOCK)).reshape(-1, _BLOCK)
    return np.repeat(blocks.any(axis=1), _BLOCK)[: len(words)]


def _read_tables(path: Path, data: NDArray[np.uint8]) -> Library:
    segments_at, sections_at = struct.unpack_from("<QQ", data.data, 32)
    _, segments, _, sections = struct.unpack_from("<HHHH", data.data, 54)
    code, loads, needed = [], [], []
    dynamic: dict[int, int] = {}
    for number in range(sections):
        _, kind, flags, address, offset, size = struct.unpack_from("<IIQQQQ", data.data, sections_at + 64 * number)
        if kind == _PROGBITS and flags & _EXECINSTR:
            code.append((address, _cut(data, offset, size // 4 * 4).view("<u4")))
    for number in range(segments):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data.data, segments_at + 56 * number)
        if kind == _PT_LOAD:
            loads.append((address, _cut(data, offset, size)))
        if kind == _PT_DYNAMIC:
            for tag, value in _cut(data, offset, size // 16 * 16).view("<u8").reshape(-1, 2).tolist():
                if tag == 0:
                    break
                dynamic[tag] = value
                needed += [value] * (tag == _NEEDED)
    strings = bytes(_mapped(loads, dynamic[_STRTAB], dynamic[_STRSZ])) if _STRTAB in dynamic else b""
    return Library(
        path=path,
        code=tuple(code),
        starts=tuple(_starts(loads, dynamic)),
        needed=tuple(strings[at : strings.index(b"\0", at)].decode() for at in needed),
        is_module=b"\0PyInit_" in strings,
    )


def _starts(loads: Sequence[tuple[int, NDArray[np.uint8]]], dynamic: dict[int, int]) -> Iterator[int]:
    if _INIT in dynamic:
        yield dynamic[_INIT]
    if _INIT_ARRAY not in dynamic:
        return
    first, size = dynamic[_INIT_ARRAY], dynamic[_INIT_ARRAYSZ] // 8 * 8
    entries = _mapped(loads, first, size).view("<u8").tolist()
    if _RELA in dynamic:
        table = _mapped(loads, dynamic[_RELA], dynamic[_RELASZ] // 24 * 24).view(_RELOCATION)
        for offset, kind, symbol, addend in table[(table["offset"] - first) < size].tolist():
            if kind == _RELATIVE:
                entries[(offset - first) // 8] = addend
            elif kind == _ABS64:
                at = dynamic[_SYMTAB] + _SYMBOL_BYTES * symbol + _SYMBOL_VALUE
                entries[(offset - first) // 8] = addend + int(_mapped(loads, at, 8).view("<u8")[0])
    yield from entries


def _mapped(loads: Sequence[tuple[int, NDArray[np.uint8]]], address: int, size: int) -> NDArray[np.uint8]:
    for start, data in loads:
        if start <= address and address + size <= start + len(data):
            return data[address - start : address - start + size]
    raise ValueError(address)


def _cut(data: NDArray[np.uint8], offset: int, size: int) -> NDArray[np.uint8]:
    if offset + size > len(data):
        raise ValueError(offset)
    return data[offset : offset + size]

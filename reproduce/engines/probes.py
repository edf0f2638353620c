"""Opens one file in one engine: ``python probes.py PROBE MODEL IMAGES.npy ANSWER.json``, run by that engine's Python.

IMAGES.npy holds a batch as the file's contract wants it; each image goes in alone. ANSWER.json becomes
``{"outputs": [[…], …]}``, or ``{"error": "…"}`` with what the engine said. Nothing of edgeface is imported here.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Any], Any]
"""One image of the batch, with its batch axis of 1, to its embedding."""


def onnxruntime(path: str, first: Any, option: str) -> Run:
    """On one thread of the CPU, with the kernels whose int8 sums do not overflow on x86 without VNNI."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def _interpreter(module: Any, path: str, **more: Any) -> Run:
    interpreter = module.Interpreter(model_path=path, num_threads=1, **more)
    interpreter.allocate_tensors()
    (taken,), given = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: Any) -> Any:
        interpreter.set_tensor(taken["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(given[0]["index"])

    return run


def litert(path: str, first: Any, option: str) -> Run:
    """``reference``: with the built-in kernels alone, without XNNPACK."""
    from ai_edge_litert import interpreter

    plain = {"experimental_op_resolver_type": interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    return _interpreter(interpreter, path, **(plain if option == "reference" else {}))


def tflite_runtime(path: str, first: Any, option: str) -> Run:
    """The predecessor of LiteRT."""
    from tflite_runtime import interpreter

    return _interpreter(interpreter, path)


def tensorflow(path: str, first: Any, option: str) -> Run:
    """The interpreter inside TensorFlow."""
    import tensorflow as tf

    return _interpreter(tf.lite, path)


def compiled_model(path: str, first: Any, option: str) -> Run:
    """LiteRT's newer interface, on the CPU."""
    from ai_edge_litert.compiled_model import CompiledModel

    model = CompiledModel.from_file(path)
    (taken,), given = model.create_input_buffers(0), model.create_output_buffers(0)
    (details,) = model.get_output_tensor_details(next(iter(model.get_signature_list()))).values()

    def run(image: Any) -> Any:
        taken.write(image)
        model.run_by_index(0, [taken], given)
        return given[0].read(int(np.prod(details["shape"])), np.float32)

    return run


def tflite_micro(path: str, first: Any, option: str) -> Run:
    """With an arena large enough for any of the files."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=8 << 20)

    def run(image: Any) -> Any:
        interpreter.set_input(image, 0)
        interpreter.invoke()
        return interpreter.get_output(0)

    return run


def mediapipe(path: str, first: Any, option: str) -> Run:
    """The task that takes a picture and gives an embedding."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    if first.dtype != np.uint8 or first.shape[3] != 3:
        raise ValueError("takes pictures alone, and this file wants floats")
    embedder = vision.ImageEmbedder.create_from_options(
        vision.ImageEmbedderOptions(base_options=BaseOptions(model_asset_path=path))
    )
    return lambda image: (
        embedder.embed(mp.Image(image_format=mp.ImageFormat.SRGB, data=image[0])).embeddings[0].embedding
    )


def openvino(path: str, first: Any, option: str) -> Run:
    """On the CPU; the option is the precision that it may compute in."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape(list(first.shape))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": option} if option else {})
    return lambda image: compiled(image)[0]


def opencv(path: str, first: Any, option: str) -> Run:
    """The option is an engine of OpenCV 5, ``classic`` or ``new``. It takes TFLite files' images as float32 NCHW."""
    import cv2

    is_tflite = path.endswith(".tflite")
    read = cv2.dnn.readNetFromTFLite if is_tflite else cv2.dnn.readNetFromONNX
    net = read(path, *([getattr(cv2.dnn, f"ENGINE_{option.upper()}")] if option else []))

    def run(image: Any) -> Any:
        net.setInput(np.ascontiguousarray(image.transpose(0, 3, 1, 2), np.float32) if is_tflite else image)
        return net.forward().copy()

    return run


def mnn(path: str, first: Any, option: str) -> Run:
    """Converted first, by what MNN.tools.mnnconvert calls: that module installs a package and reports conversions."""
    import _tools
    import MNN

    kind = "TFLITE" if path.endswith(".tflite") else "ONNX"
    with tempfile.TemporaryDirectory() as folder:
        made = str(Path(folder) / "net.mnn")
        _tools.mnnconvert(["mnnconvert", "-f", kind, "--modelFile", path, "--MNNModel", made, "--bizCode", "x"])
        if not Path(made).exists():
            raise ValueError("its converter writes no file")
        net = MNN.nn.load_module_from_file(made, [], [])
        types = {"uint8": MNN.expr.uint8, "float32": MNN.expr.float}
        layout = MNN.expr.NHWC if kind == "TFLITE" else MNN.expr.NCHW  # of the format, not of the picture

        def run(image: Any) -> Any:
            taken = MNN.expr.placeholder(list(image.shape), layout, types[str(image.dtype)])
            taken.write(image)
            return np.array(net.forward(taken).read()).copy()

        run(first)
    return run


def tract(path: str, first: Any, option: str) -> Run:
    """With the batch fixed at 1, as it wants its shapes."""
    import tract

    model = tract.onnx().load(path)
    kind = {"uint8": "u8", "float32": "f32"}[str(first.dtype)]
    model.set_input_fact(0, ",".join([*map(str, first.shape), kind]))
    runnable = model.into_model().into_runnable()
    return lambda image: runnable.run([image])[0].to_numpy()


def onnx2tf(path: str, first: Any, option: str) -> Run:
    """Converted to a float TFLite file, which TensorFlow runs."""
    import onnx
    import onnx2tf
    import tensorflow as tf

    name = onnx.load(path).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        # In the trial's own folder, or it would download photos of this name.
        np.save("calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), np.float32))
        onnx2tf.convert(
            input_onnx_file_path=path,
            output_folder_path=folder,
            batch_size=1,
            keep_shape_absolutely_input_names=[name],
            non_verbose=True,
        )
        (made,) = Path(folder).glob("*_float32.tflite")
        return _interpreter(tf.lite, str(made))


def ncnn(path: str, first: Any, option: str) -> Run:
    """In float32 where the file is, else as ncnn likes."""
    import ncnn

    with tempfile.TemporaryDirectory() as folder, tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
        net = ncnn.Net()
        net.opt.num_threads = 1
        if json.loads((Path(folder) / "edgeface.json").read_text("utf-8"))["precision"] == "fp32":
            for narrow in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
                setattr(net.opt, narrow, False)
        if net.load_param(str(Path(folder) / "model.param")) or net.load_model(str(Path(folder) / "model.bin")):
            raise ValueError("does not load")

    def run(image: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], ncnn.Mat(np.ascontiguousarray(image[0], np.float32)).clone())
        return np.array(extractor.extract(net.output_names()[0])[1])

    return run


PROBES = (
    onnxruntime, litert, tflite_runtime, tensorflow, compiled_model, tflite_micro, mediapipe, openvino, opencv, mnn,
    tract, onnx2tf, ncnn,
)  # fmt: skip


def answer(probe: str, model: str, images: Any) -> dict[str, object]:
    """What the engine gives for each image, or what it says."""
    name, _, option = probe.partition(":")
    functions = {function.__name__: function for function in PROBES}
    try:
        run = functions[name](model, images[:1], option)
        return {"outputs": [np.asarray(run(image[None]), np.float32).ravel().tolist() for image in images]}
    except Exception as error:  # each engine raises types of its own
        return {"error": (str(error).strip() or type(error).__name__).splitlines()[0]}


def main() -> None:
    """Parses, opens, writes."""
    probe, model, images, output = sys.argv[1:]
    written = json.dumps(answer(probe, model, np.load(images)))
    Path(output).write_text(written, "utf-8")
    os._exit(0)  # some engines do not survive their own end


if __name__ == "__main__":
    main()

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("torchvision") is None:
    pytest.skip("needs torchvision", allow_module_level=True)

from torch import nn

from edgeface.backbones import BACKBONES, build_backbone, file_stem, parse_backbone
from edgeface.backbones.layers import Leaky, ZeroPaddedMaxPool
from edgeface_export.rewrite import cost_table
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import InputSpec, UsageError

NETS = (
    "mobilefacenet:act=relu", "mobilefacenet:act=leaky,width=0.5", "mobilefacenet-tiny", "resnet18", "vgg11",
    "resnet18:pool=none", "vgg11:pool=none", "resnet18:attention=cbam", "mobilefacenet-tiny:attention=eca",
    "mobilefacenet:early=relu,depthwise=relu",
)  # fmt: skip


def tensors(text: str, size: int = 112) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(text, embedding=128, size=size).eval()


@pytest.mark.parametrize(
    ("text", "macs", "parameters"),
    [
        ("mobilefacenet:act=leaky", 221, 1.00),
        ("mobilefacenet:act=relu6,stem=foamliu", 234, 1.00),
        ("mobilefacenet:early=relu,depthwise=relu", 221, 1.00),
        ("mobilefacenet-tiny", 59, 0.29),
        ("mobilefacenet:attention=se", 221, 1.03),
        ("mobilefacenet:attention=eca", 221, 1.00),
        ("mobilefacenet:attention=cbam", 222, 1.03),
        ("resnet18", 485, 11.2),
        ("resnet18:attention=se", 485, 11.3),
        ("resnet18:stem=stride1", 1730, 11.2),
        ("resnet18:pool=none", 486, 12.2),
        ("vgg11", 1871, 9.3),
        ("vgg11:pool=none", 1872, 9.8),
        ("vgg16", 3837, 14.8),
    ],
)
def test_multiply_accumulates_and_parameters(text: str, macs: float, parameters: float):
    net = tensors(text)
    assert sum(cost.macs for cost in cost_table(net, 112).values()) / 1e6 == pytest.approx(macs, abs=0.6)
    assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(parameters, abs=0.05)


def test_activations_differ_by_the_size_of_the_map_and_behind_depthwise_convolutions():
    net = tensors("mobilefacenet:early=relu,depthwise=relu6")
    convolutions: list[nn.Conv2d] = []
    found: set[tuple[str, bool, bool]] = set()  # activation, whether the map is wide, whether it is depthwise

    def note(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            convolutions.append(layer)
        else:
            is_depthwise = convolutions[-1].groups > 1
            found.add((type(layer).__name__, output.shape[-1] > 14, is_depthwise))

    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ReLU, nn.ReLU6, nn.PReLU)):
            layer.register_forward_hook(note)
    with torch.no_grad():
        net(torch.zeros(1, 3, 112, 112))
    assert found == {
        ("ReLU", True, False),
        ("ReLU", True, True),
        ("PReLU", False, False),
        ("ReLU6", False, True),
    }


def test_the_tiny_net_is_the_one_of_half_width():
    half, tiny = (tensors(text).state_dict() for text in ("mobilefacenet:width=0.5", "mobilefacenet-tiny"))
    assert {name: value.shape for name, value in half.items()} == {name: value.shape for name, value in tiny.items()}


@pytest.mark.parametrize("text", ["resnet18", "resnet18:stem=stride1,pool=none", "vgg11", "vgg11:pool=none"])
@pytest.mark.parametrize("size", [112, 224])
def test_both_sizes_give_an_embedding(text: str, size: int):
    with torch.no_grad():
        assert tensors(text, size)(torch.zeros(1, 3, size, size)).shape == (1, 128)


def test_resnet_and_vgg_are_torchvisions_up_to_the_last_map():
    repair()
    from torchvision.models import resnet18
    from torchvision.models.vgg import VGG, cfgs, make_layers

    x = torch.rand(1, 3, 112, 112) - 0.5
    theirs = resnet18(weights=None, num_classes=2).eval()
    ours = tensors("resnet18")
    ours.trunk.load_state_dict({name: value for name, value in theirs.state_dict().items() if "fc" not in name})
    vgg = VGG(make_layers(cfgs["A"], batch_norm=True), num_classes=2, init_weights=False).eval()
    deep = tensors("vgg11")
    deep.trunk.load_state_dict(vgg.features.state_dict())
    theirs.avgpool = theirs.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(ours.trunk(x).flatten(), theirs(x).flatten())
        torch.testing.assert_close(deep.trunk(x), vgg.features(x))


def test_the_embedding_is_a_linear_layer_of_the_maps_mean():
    net, maps = tensors("resnet18"), torch.rand(2, 512, 4, 4)
    net.embed[2].running_mean.uniform_(-1, 1)
    linear = nn.functional.linear(maps.mean((2, 3)), net.embed[1].weight[:, :, 0, 0])
    torch.testing.assert_close(net.embed(maps), net.embed[2](linear[:, :, None, None])[:, :, 0, 0])


def test_without_pooling_the_embedding_is_a_linear_layer_of_the_whole_map():
    net, maps = tensors("vgg11:pool=none"), torch.rand(2, 512, 3, 3)
    net.embed[2].running_mean.uniform_(-1, 1)
    linear = maps.flatten(1) @ net.embed[1].weight.flatten(1).T
    torch.testing.assert_close(net.embed(maps), net.embed[2](linear[:, :, None, None])[:, :, 0, 0])


@pytest.mark.parametrize("side", [7, 56])
def test_zero_padding_pools_as_padding_with_infinity_does_after_a_relu(side: int):
    x = torch.relu(torch.randn(2, 3, side, side))
    assert torch.equal(ZeroPaddedMaxPool()(x), nn.MaxPool2d(3, 2, 1)(x))


def test_leaky_is_torchs():
    x = torch.randn(2, 3, 5, 5)
    layer = Leaky(3)
    torch.testing.assert_close(layer(x), nn.LeakyReLU(0.25)(x))
    assert not any(weight.requires_grad for weight in layer.parameters())


@pytest.mark.parametrize("text", NETS)
def test_every_net_survives_the_rewrite_that_exports_do(text: str):
    from edgeface_export.rewrite import embedder, torch_embeddings

    net, spec = tensors(text), InputSpec(size=112)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    faces = torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8)
    exported = embedder(net, spec, "affine")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in exported.modules())
    with torch.no_grad():
        found = nn.functional.normalize(exported(faces)).numpy()
    assert found == pytest.approx(torch_embeddings(net, spec, faces.numpy()), abs=1e-5)


def every_string() -> Iterator[tuple[str, str, dict[str, str | float]]]:
    for name, row in BACKBONES.items():
        yield name, name, {}
        for key, allowed in row.options.items():
            for value in allowed:
                yield (
                    f"{name}:{key}={value:g}" if isinstance(value, float) else f"{name}:{key}={value}",
                    name,
                    {key: value},
                )


@pytest.mark.parametrize(("text", "name", "options"), list(every_string()))
def test_a_string_names_a_net_and_its_options(text: str, name: str, options: dict[str, str | float]):
    assert parse_backbone(text) == (name, options)
    assert not set(file_stem(text)) & set(":=, ")


def test_options_reach_the_net():
    assert parse_backbone("mobilefacenet:act=relu,width=0.5") == ("mobilefacenet", {"act": "relu", "width": 0.5})
    assert any(isinstance(module, nn.ReLU) for module in tensors("mobilefacenet:act=relu").modules())
    assert file_stem("mobilefacenet:act=relu,width=0.5") == "mobilefacenet-relu-0.5"
    assert parse_backbone("timm:resnet10t.c3_in1k,pool=none") == ("timm:resnet10t.c3_in1k", {"pool": "none"})
    assert parse_backbone("timm:resnet10t:pool=none") == ("timm:resnet10t", {"pool": "none"})
    assert parse_backbone("mobilefacenet,act=relu,width=0.5") == ("mobilefacenet", {"act": "relu", "width": 0.5})
    assert file_stem("timm:resnet10t.c3_in1k,pool=none") == "timm-resnet10t-c3_in1k-none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet19", "no backbone 'resnet19'; there are: mobilefacenet, "),
        ("resnet18:act=relu", "resnet18 has no option 'act=relu'; it takes stem"),
        ("resnet18:stride1", "resnet18 has no option 'stride1'"),
        ("resnet18:stem=stride3", "stem is stride2 or stride1"),
        ("vgg11:stem=stride1", "it takes pool, as in vgg11:key=value"),
        ("vgg11:attention=se", "vgg11 has no option 'attention=se'; it takes pool"),
        ("resnet18:attention=spatial", "attention is none or se or eca or cbam"),
        ("timm:", "no backbone 'timm:'; .* and timm:NAME for a net of timm"),
        (
            "timm:resnet10t,stem=x",
            "timm:resnet10t has no option 'stem=x'; it takes pool, as in timm:resnet10t:key=value",
        ),
        ("mobilefacenet:width=9", "width is a number from 0.25 to 2"),
        ("mobilefacenet:width=wide", "width is a number"),
        ("mobilefacenet:width=nan", "width is a number"),
    ],
)
def test_bad_strings_say_what_there_is(text: str, message: str):
    with pytest.raises(UsageError, match=message):
        build_backbone(text, embedding=8, size=112)


def test_the_pool_is_one_operator_that_each_engine_has(tmp_path: Path):
    pytest.importorskip("onnx")
    pytest.importorskip("litert_torch")
    import onnx
    from ai_edge_litert.interpreter import Interpreter

    from edgeface_export.formats import onnx_file, tflite_file
    from edgeface_export.rewrite import embedder

    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), ZeroPaddedMaxPool()).eval()
    net = nn.Sequential(stem, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    exported = embedder(net, InputSpec(size=32), "affine")
    onnx_file.write_float(exported, 32, tmp_path / "stem.onnx")
    tflite_file.write_float(exported, 32, tmp_path / "stem.tflite")
    kinds = {node.op_type for node in onnx.load(tmp_path / "stem.onnx").graph.node}
    assert "MaxPool" in kinds
    assert "Pad" not in kinds
    interpreter = Interpreter(str(tmp_path / "stem.tflite"))
    kinds = {details["op_name"] for details in interpreter._get_ops_details()}
    assert {"MAX_POOL_2D", "PAD"} <= kinds
    assert "PADV2" not in kinds

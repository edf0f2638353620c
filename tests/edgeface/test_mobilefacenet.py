from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from edgeface.backbones import BACKBONES, build_backbone
from edgeface.backbones.layers import PReLU
from edgeface.backbones.mobilefacenet import Bottleneck, MobileFaceNet
from edgeface_export.rewrite import cost_table
from edgeface_runtime import UsageError

# Table 1 of the paper: what each row gives for a 112×112 input, (channels, side); the bottleneck rows per block.
TABLE = [
    (64, 56),
    (64, 56),
    *[(64, 28)] * 5,
    (128, 14),
    *[(128, 14)] * 6,
    (128, 7),
    *[(128, 7)] * 2,
    (512, 7),
    (512, 1),
]


def test_shapes_are_those_of_the_table():
    net = MobileFaceNet().eval()
    shapes = []

    def note(module: object, _: object, output: torch.Tensor) -> None:
        assert output.shape[2] == output.shape[3]
        shapes.append(tuple(output.shape[1:3]))

    for module in net.layers:
        if isinstance(module, (torch.nn.BatchNorm2d, Bottleneck)):
            module.register_forward_hook(note)
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 112, 112)).shape == (2, 128)
    assert shapes == [*TABLE, (128, 1)]


def test_size_is_the_papers():
    net = MobileFaceNet()
    assert sum(cost.macs for cost in cost_table(net.eval(), 112).values()) / 1e6 == pytest.approx(221, abs=0.5)
    assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(1.00, abs=0.01)


@pytest.mark.parametrize(("embedding", "size"), [(64, 112), (256, 112), (128, 224)])
def test_embedding_length_and_size_are_parameters(embedding: int, size: int):
    net = build_backbone("mobilefacenet", embedding=embedding, size=size).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, size, size)).shape == (1, embedding)


def test_shortcuts_are_where_shapes_allow():
    blocks = [module for module in MobileFaceNet().modules() if isinstance(module, Bottleneck)]
    assert [block.shortcut for block in blocks] == [*[False, *[True] * 4], False, *[True] * 6, False, *[True] * 2]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prelu_is_torchs_with_the_same_gradients(dtype: torch.dtype, memory: torch.memory_format):
    torch.manual_seed(0)
    ours, theirs = PReLU(5), torch.nn.PReLU(5)
    slopes = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.75])
    ours.load_state_dict({"weight": slopes})
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 4, 4, dtype=dtype).contiguous(memory_format=memory)
    x[0, :, 1] = 0.0  # where both slopes meet, torch's takes the left one
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for layer, values in zip((ours, theirs.to(dtype)), inputs, strict=True):
        layer(values).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs(x), check_dtype=False)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.weight.grad.to(dtype), theirs.weight.grad)


def test_frozen_slopes_of_prelu_get_no_gradient():
    layer, x = PReLU(2), torch.tensor([[[[2.0]], [[-2.0]]]], requires_grad=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert (layer.weight.grad, x.grad.flatten().tolist()) == (None, [1.0, 0.25])


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UsageError, match=rf"no backbone 'resnet'; there are: {', '.join(BACKBONES)}"):
        build_backbone("resnet", embedding=8, size=112)

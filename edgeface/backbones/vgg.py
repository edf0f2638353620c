"""VGG with batch norm (K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks", ICLR 2015) from torchvision."""

from __future__ import annotations

from torch import nn

from edgeface.backbones.layers import Pooled
from edgeface_export.torchvision_repair import repair

# Names of torchvision's tables of layers.
_TABLES = {"vgg11": "A", "vgg16": "D"}


def vgg(name: str, embedding: int, size: int, pool: str = "mean") -> nn.Module:
    """(N, 3, S, S) normalised RGB → (N, embedding) float, for S of at least 32.

    The convolutions of VGG; its three fully connected layers give way to one. ``vgg11``: 1,871 M
    multiply-accumulates at 112 px, 9.3 M parameters.

    Args:
        name: ``vgg11`` or ``vgg16``.
        embedding: length of the output.
        size: S; with ``pool=mean`` the net takes every size.
        pool: ``mean``: the linear layer sees the mean over the last map, or ``none``: the whole map, as VGG's
            own first one does (0.5 M parameters more at 112 px).
    """
    repair()
    from torchvision.models.vgg import cfgs, make_layers

    return Pooled(
        make_layers(cfgs[_TABLES[name]], batch_norm=True), 512, embedding, size // 32 if pool == "none" else 0
    )

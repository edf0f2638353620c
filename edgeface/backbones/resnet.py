"""ResNet18 (K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning", CVPR 2016) from torchvision's definition."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from edgeface.backbones.attention import ATTENTION
from edgeface.backbones.layers import Pooled, ZeroPaddedMaxPool
from edgeface_export.torchvision_repair import repair


def resnet18(
    embedding: int, size: int, stem: str = "stride2", pool: str = "mean", attention: str = "none"
) -> nn.Module:
    """(N, 3, S, S) normalised RGB → (N, embedding) float; 11.2 M parameters.

    Args:
        embedding: length of the output.
        size: S; with ``pool=mean`` the net takes every size.
        stem: ``stride2``, torchvision's 7×7 convolution and max-pool (485 M multiply-accumulates at
            112 px), or ``stride1``, a 3×3 convolution on all pixels and a first stage that halves
            (1,730 M), as face recognizers have it.
        pool: ``mean``, torchvision's mean over the last map, or ``none``: the linear layer sees the whole
            map (1 M parameters more at 112 px, 3.1 M with ``stride1``), as ArcFace's nets have it ("option E" of
            its section 3).
        attention: a key of ``ATTENTION``, for every residual block.
    """
    repair()
    from torchvision.models.resnet import BasicBlock, ResNet

    class Block(BasicBlock):
        """Torchvision's, with attention before the shortcut is added."""

        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            self.attention = ATTENTION[attention](self.bn2.num_features)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            y = self.attention(y) + (x if self.downsample is None else self.downsample(x))
            z: Tensor = self.relu(y)
            return z

    net = ResNet(BasicBlock if attention == "none" else Block, [2, 2, 2, 2], num_classes=1)
    net.maxpool = ZeroPaddedMaxPool()
    if stem == "stride1":
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
        net.layer1[0].conv1.stride = (2, 2)
        net.layer1[0].downsample = nn.Sequential(nn.Conv2d(64, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
    del net.avgpool, net.fc
    side = -(-size // (32 if stem == "stride2" else 16)) if pool == "none" else 0
    return Pooled(nn.Sequential(OrderedDict(net.named_children())), 512, embedding, side)

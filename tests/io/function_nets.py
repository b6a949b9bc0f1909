"""Nets written as users of PyTorch write them: layers for what has weights, functions for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import preimage.functional as F  # noqa: N812 - as its users import it
from preimage import nn, ops


class UNet(nn.Module):
    """An encoder and a decoder that pads what it got to the size of what it is joined with."""

    def __init__(self, channels: int = 3, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1, rng=0)
        self.second = nn.Conv2d(width, 2 * width, 3, padding=1, rng=1)
        self.bottom = nn.Conv2d(2 * width, 4 * width, 3, padding=1, rng=2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2, rng=3)
        self.conv2 = nn.Conv2d(4 * width, 2 * width, 3, padding=1, rng=4)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2, rng=5)
        self.conv1 = nn.Conv2d(2 * width, width, 3, rng=6)
        self.head = nn.Conv2d(width, 2, 1, rng=7)

    @staticmethod
    def joined(skip: Any, x: Any) -> Any:
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return F.cat([skip, x], dim=1)

    def forward(self, x: Any) -> Any:
        one = F.relu(self.first(x))
        two = F.relu(self.second(F.max_pool2d(one, 2)))
        low = F.relu(self.bottom(F.max_pool2d(two, 2)))
        two = F.relu(self.conv2(self.joined(two, self.up2(low))))
        one = F.relu(self.conv1(self.joined(one, self.up1(two))))
        return self.head(one[:, :, 1:-1, 1:-1])  # cropped


class Residual(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False, rng=0)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False, rng=1)
        self.bn2 = nn.BatchNorm2d(after)
        self.down = nn.Conv2d(before, after, 1, stride=stride, rng=2) if stride > 1 else None

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return F.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1, rng=3)
        self.blocks = nn.Sequential(Residual(4, 4, 1), Residual(4, 6, 2))
        self.fc = nn.Linear(6, 5, rng=4)

    def forward(self, x: Any) -> Any:
        x = self.blocks(F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1))
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return F.softmax(self.fc(x.view(x.shape[0], -1)), dim=1)


class ConvNeXt(nn.Module):
    """A block: depthwise, layer normalisation of channels last, two linear layers, a scale for each channel."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width, rng=0)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.wide = nn.Linear(width, 4 * width, rng=1)
        self.narrow = nn.Linear(4 * width, width, rng=2)
        self.gamma = nn.Parameter(np.float32([0.5, 0.2, -0.4, 1.0]))

    def forward(self, x: Any) -> Any:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(F.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


class ViT(nn.Module):
    """Patches, a class token, positions, and a block with attention by hand."""

    def __init__(self, width: int = 8, heads: int = 2, patch: int = 4, tokens: int = 9) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.heads = heads
        self.patches = nn.Conv2d(3, width, patch, stride=patch, rng=0)
        self.token = nn.Parameter(rng.standard_normal((1, 1, width)).astype(np.float32))
        self.positions = nn.Parameter(rng.standard_normal((1, tokens + 1, width)).astype(np.float32))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width, rng=1), nn.Linear(width, width, rng=2)
        self.wide, self.narrow = nn.Linear(width, 2 * width, rng=3), nn.Linear(2 * width, width, rng=4)
        self.head = nn.Linear(width, 5, rng=5)

    def attention(self, x: Any) -> Any:
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = F.softmax((q @ k.swapaxes(-2, -1)) * (c // self.heads) ** -0.5, dim=-1)
        return self.project((weights @ v).swapaxes(1, 2).reshape(n, t, c))

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).swapaxes(1, 2)
        x = F.cat([self.token.broadcast_to((x.shape[0], 1, x.shape[2])), x], dim=1) + self.positions
        x = x + self.attention(self.norm1(x))
        x = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class ShuffleUnit(nn.Module):
    """Half of the channels convolved, and both halves shuffled."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        half = width // 2
        self.point1 = nn.Conv2d(half, half, 1, rng=0)
        self.depthwise = nn.Conv2d(half, half, 3, padding=1, groups=half, rng=1)
        self.point2 = nn.Conv2d(half, half, 1, rng=2)

    def forward(self, x: Any) -> Any:
        first, second = F.chunk(x, 2, dim=1)
        second = F.relu(self.point2(self.depthwise(F.relu(self.point1(second)))))
        x = F.cat([first, second], dim=1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).swapaxes(1, 2)
        return x.reshape(n, -1, h, w)


class SuperResolution(nn.Module):
    """ESPCN above a picture resized by interpolation."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2, rng=0)
        self.conv2 = nn.Conv2d(6, scale**2, 3, padding=1, rng=1)

    def forward(self, x: Any) -> Any:
        y = F.pixel_shuffle(self.conv2(F.tanh(self.conv1(x))), self.scale)
        plain = F.interpolate(x, scale_factor=self.scale, mode="bicubic", align_corners=False)
        return F.clamp(y + plain, 0.0, 1.0)


class SSIM(nn.Module):
    """1 - the structural similarity of two pictures (Wang et al. 2004), by convolution with a Gaussian."""

    def __init__(self, size: int = 5, sigma: float = 1.5) -> None:
        super().__init__()
        at = np.arange(size) - size // 2
        line = np.exp(-(at**2) / (2 * sigma**2))
        self.register_buffer("window", np.outer(line, line)[None, None].astype(np.float32) / np.float32(line.sum() ** 2))

    def forward(self, x: Any, y: Any) -> Any:
        c1, c2 = 0.01**2, 0.03**2
        mx, my = F.conv2d(x, self.window), F.conv2d(y, self.window)
        vx = F.conv2d(x * x, self.window) - mx**2
        vy = F.conv2d(y * y, self.window) - my**2
        both = F.conv2d(x * y, self.window) - mx * my
        score = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        return 1 - score.mean()


class Vocoder(nn.Module):
    """A 1-D net in the way of HiFi-GAN and Demucs: reflected margins, gated units, dilated residuals, a skip that is cut to size."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.enter = nn.Conv1d(3, width, 7, rng=0)
        self.down = nn.Conv1d(width, 2 * width, 8, stride=4, rng=1)
        self.rewrite = nn.Conv1d(2 * width, 4 * width, 1, rng=2)
        self.up = nn.ConvTranspose1d(2 * width, width, 8, stride=4, rng=3)
        self.dilated = nn.ModuleList([nn.Conv1d(width, width, 3, dilation=d, rng=4 + d) for d in (1, 3)])
        self.leave = nn.Conv1d(width, 1, 7, rng=9)

    def forward(self, x: Any) -> Any:
        mean, spread = x.mean(dim=(1, 2), keepdims=True), x.std(dim=(1, 2), keepdims=True)
        x = self.enter(F.pad((x - mean) / (1e-5 + spread), (3, 3), mode="reflect"))
        length = x.shape[-1]
        x = F.leaky_relu(F.pad(x, (0, -(length - 8) % 4)), 0.1)
        low = F.glu(self.rewrite(F.relu(self.down(x))), dim=1)
        y = self.up(low)[..., :length] + x[..., :length]
        for conv in self.dilated:
            margin = conv.dilation[0]
            y = y + conv(F.pad(F.leaky_relu(y, 0.1), (margin, margin), mode="replicate"))
        y = F.tanh(self.leave(F.pad(F.leaky_relu(y), (3, 3), mode="reflect")))
        return y * spread + mean


class GRUHead(nn.Module):
    """Columns of a feature map read by a recurrent layer: a recogniser of text."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1, rng=0)
        self.gru = nn.GRU(6, 4, bidirectional=True, batch_first=True, rng=1)
        self.fc = nn.Linear(8, 5, rng=2)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.conv(x)), (2, 1)).mean(2).permute(0, 2, 1)
        y, _ = self.gru(x)
        return F.log_softmax(self.fc(y), dim=-1)


class WeightNormed(nn.Module):
    """A convolution whose weight is a direction and a length, and one that is standardised."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.v = nn.Parameter(rng.standard_normal((4, 3, 3, 3)).astype(np.float32))
        self.g = nn.Parameter(rng.random((4, 1, 1, 1), np.float32))
        self.w = nn.Parameter(rng.standard_normal((2, 4, 3, 3)).astype(np.float32))

    def forward(self, x: Any) -> Any:
        x = F.silu(F.conv2d(x, self.g * self.v / (self.v**2).sum((1, 2, 3), keepdims=True) ** 0.5))
        w = self.w
        return F.conv2d(x, (w - w.mean((1, 2, 3), keepdims=True)) / (w.var((1, 2, 3), keepdims=True) + 1e-5).sqrt())


class Detector(nn.Module):
    """Boxes from a map of offsets, several outputs, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, stride=2, padding=1, rng=0)

    def forward(self, x: Any) -> dict[str, Any]:
        y = self.conv(x)
        n, _, h, w = y.shape
        y = y.permute(0, 2, 3, 1).reshape(n, h * w, 7)
        cells = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).reshape(1, -1, 2).astype(np.float32)
        centre = (F.sigmoid(y[..., :2]) + cells) * 2.0
        size = ops.exp(F.clamp(y[..., 2:4], -4.0, 4.0)) * 3.0
        boxes = F.cat([centre - size / 2, centre + size / 2], dim=-1)
        score = F.sigmoid(y[..., 4])
        chosen = ops.where(score > 0.5, score, 0.0)
        return {"boxes": boxes, "scores": chosen, "classes": y[..., 5:].argmax(-1)}


PICTURE = (2, 3, 12, 12)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "UNet": (UNet, ((2, 3, 19, 14),)),
    "ResNet": (ResNet, ((2, 3, 17, 20),)),
    "ConvNeXt": (ConvNeXt, ((2, 4, 9, 10),)),
    "ViT": (ViT, (PICTURE,)),
    "ShuffleUnit": (ShuffleUnit, ((2, 8, 5, 6),)),
    "SuperResolution": (SuperResolution, ((2, 1, 7, 9),)),
    "SSIM": (SSIM, ((2, 1, 9, 11), (2, 1, 9, 11))),
    "Vocoder": (Vocoder, ((2, 3, 61),)),
    "GRUHead": (GRUHead, ((2, 1, 8, 13),)),
    "WeightNormed": (WeightNormed, (PICTURE,)),
    "Detector": (Detector, (PICTURE,)),
}

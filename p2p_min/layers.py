"""What several files share: what counts as a number, reading a config, the resnet block, going down and up one size."""
import math
from numbers import Integral, Real

import torch.nn.functional as F
from torch import nn


def is_number(x):
    return isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)


def is_whole(x):
    return isinstance(x, Integral) and not isinstance(x, bool)


def read_config(config, what, used, fixed, ignored=()):
    """A checkpoint's `config.json` as a dict of the values that the code uses.

    used     key -> the value that diffusers takes where the file has none
    fixed    key -> the values that the code implements; None (absent) always means the first
    ignored  keys that cannot change what is computed
    Raises ValueError for a value that is not implemented and for a key nobody knows, naming it: a setting that
    changes the maths is never passed over.
    """
    for key, value in config.items():
        if key.startswith("_") or key in used or key in ignored or value is None:
            continue
        if key not in fixed:
            raise ValueError(f"{what}: its config has {key} = {value!r}, which p2p_min does not know")
        if value not in fixed[key]:
            allowed = " or ".join(repr(v) for v in fixed[key])
            raise ValueError(f"{what}: its config has {key} = {value!r}; p2p_min implements {allowed} only")
    return {key: default if config.get(key) is None else config[key] for key, default in used.items()}


def per_block(value, blocks, what):
    """A setting given once or once per block, as a list of one value per block."""
    if not isinstance(value, (list, tuple)):
        return [value] * blocks
    if len(value) != blocks:
        raise ValueError(f"{what}: {len(value)} values for {blocks} blocks")
    return list(value)


class Resnet(nn.Module):
    """Two 3×3 convolutions around a residual; the UNet's adds its time embedding between them."""

    def __init__(self, inputs, outputs, groups, eps, time_width=None):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        if time_width:
            self.time_emb_proj = nn.Linear(time_width, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, time=None):
        h = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Downsample(nn.Module):
    """A convolution of stride 2. The UNet pads all round, the VAE right and bottom only."""

    def __init__(self, channels, pad_all_round):
        super().__init__()
        self.pad_all_round = pad_all_round
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if pad_all_round else 0)

    def forward(self, x):
        return self.conv(x if self.pad_all_round else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour to `size` (twice the size unless a skip connection is odd), then a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, size=None):
        height, width = x.shape[-2:]
        return self.conv(F.interpolate(x, size or (2 * height, 2 * width), mode="nearest"))

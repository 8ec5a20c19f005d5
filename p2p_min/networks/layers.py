"""What the UNet and the VAE share: the resnet block, going down and up one size."""
import torch.nn.functional as F
from torch import nn


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
    """A convolution of stride 2. The UNet pads all sides, the VAE only right and bottom."""
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

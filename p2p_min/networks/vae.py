"""The VAE of Stable Diffusion: pictures to latents and back (Kingma & Welling 2013; Rombach et al. 2022)."""
import torch.nn.functional as F
from torch import nn

from ..attention import Attention
from .config import read_config
from .layers import Downsample, Resnet, Upsample

KEYS = dict(
    in_channels=(3, 3), out_channels=(3, 3), latent_channels=(4, int), scaling_factor=(0.18215, float),
    block_out_channels=((64,), [int]), layers_per_block=(1, int), norm_num_groups=(32, int),
    down_block_types=(("DownEncoderBlock2D",), ["DownEncoderBlock2D"]),
    up_block_types=(("UpDecoderBlock2D",), ["UpDecoderBlock2D"]),
    mid_block_add_attention=(True, bool), use_quant_conv=(True, bool), use_post_quant_conv=(True, bool),
    force_upcast=(False, bool),        # see checkpoints/
    act_fn=("silu", "silu", "swish"))
IGNORED = ("sample_size",)             # the preferred size
EPS = 1e-6


class PixelAttention(Attention):
    """One head over all pixels, around a residual."""
    def __init__(self, channels, groups):
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)

    def forward(self, x):
        size = x.shape[-2:]
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)          # (rows, pixels, channels)
        return x + super().forward(tokens, size).transpose(1, 2).unflatten(2, size)


class MidBlock(nn.Module):
    def __init__(self, channels, groups, attends):
        super().__init__()
        self.attentions = nn.ModuleList([PixelAttention(channels, groups)] if attends else [])
        self.resnets = nn.ModuleList([Resnet(channels, channels, groups, EPS) for _ in range(2)])

    def forward(self, x):
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Block(nn.Module):
    """Resnets, then a down- or upsampler."""
    def __init__(self, inputs, outputs, layers, groups, resample):
        super().__init__()
        self.resnets = nn.ModuleList(
            Resnet(inputs if i == 0 else outputs, outputs, groups, EPS) for i in range(layers))
        self.downsamplers = nn.ModuleList([Downsample(outputs, False)] if resample == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(outputs)] if resample == "up" else [])

    def forward(self, x):
        for module in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = module(x)
        return x


class Coder(nn.Module):
    """The encoder: pictures (rows, 3, H, W) to the moments of their latents (rows, 8, H/f, W/f), going "down".
    The decoder: latents (rows, 4, h, w) to pictures (rows, 3, f h, f w), going "up"."""
    def __init__(self, inputs, outputs, way, config):
        super().__init__()
        widths, layers = config["block_out_channels"], config["layers_per_block"]
        groups = config["norm_num_groups"]
        self.mid_block = MidBlock(widths[-1], groups, config["mid_block_add_attention"])
        if way == "down":
            self.down_blocks = stack(widths, layers, groups, way)
        else:
            widths = widths[::-1]
            self.up_blocks = stack(widths, layers + 1, groups, way)
        self.conv_in = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)
        self.way = way

    def forward(self, x):
        blocks = (*self.down_blocks, self.mid_block) if self.way == "down" else (self.mid_block, *self.up_blocks)
        x = self.conv_in(x)
        for block in blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def stack(widths, layers, groups, resample):
    """One block for each width; all but the last change the size."""
    inputs = [widths[0], *widths[:-1]]
    return nn.ModuleList(
        Block(a, b, layers, groups, resample if i < len(widths) - 1 else None)
        for i, (a, b) in enumerate(zip(inputs, widths)))


class VAE(nn.Module):
    """Pictures (rows, 3, H, W) in [-1, 1] to latents (rows, 4, H/f, W/f) and back; f is `factor`, 8 in SD."""
    def __init__(self, config):
        """config: the dict of a diffusers `vae/config.json`. Raises ValueError for anything not implemented."""
        super().__init__()
        self.config = c = read_config(config, "VAE", KEYS, IGNORED)
        latent = c["latent_channels"]
        self.factor = 2 ** (len(c["block_out_channels"]) - 1)
        self.encoder = Coder(c["in_channels"], 2 * latent, "down", c)
        self.decoder = Coder(latent, c["out_channels"], "up", c)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if c["use_quant_conv"] else nn.Identity()
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if c["use_post_quant_conv"] else nn.Identity()

    def moments(self, pictures):
        """Mean and log-variance of the latents, each (rows, 4, H/f, W/f), unscaled."""
        return self.quant_conv(self.encoder(pictures)).chunk(2, dim=1)

    def encode(self, pictures):
        """The mean latents, scaled as the UNet expects them."""
        return self.moments(pictures)[0] * self.config["scaling_factor"]

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z / self.config["scaling_factor"]))

"""The VAE of Stable Diffusion: pictures to latents and back (Kingma & Welling 2013; Rombach et al. 2022)."""
import torch.nn.functional as F
from torch import nn

from ..attention import Attention
from .config import FLAG, listed, number, one_of, per_block, read_config, whole
from .layers import Downsample, Resnet, Upsample

WIDTH, SCALE = whole(1, 2 ** 14), number(0.001, 1000)
USED = dict(
    in_channels=(3, one_of(3)), out_channels=(3, one_of(3)), latent_channels=(4, whole(1, 64)),
    block_out_channels=((64,), listed(WIDTH)), layers_per_block=(1, whole(1, 6)), norm_num_groups=(32, WIDTH),
    down_block_types=(("DownEncoderBlock2D",), listed(one_of("DownEncoderBlock2D"))),
    up_block_types=(("UpDecoderBlock2D",), listed(one_of("UpDecoderBlock2D"))),
    scaling_factor=(0.18215, SCALE), mid_block_add_attention=(True, FLAG), use_quant_conv=(True, FLAG),
    use_post_quant_conv=(True, FLAG), force_upcast=(False, FLAG))              # the last: see checkpoints/
FIXED = dict(act_fn=("silu", "swish"), shift_factor=(None,), latents_mean=(None,), latents_std=(None,))
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


class Encoder(nn.Module):
    """Pictures (rows, 3, H, W) to the moments of their latents (rows, 8, H/f, W/f)."""

    def __init__(self, config):
        super().__init__()
        widths, groups = config["block_out_channels"], config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.down_blocks = stack(widths, config["layers_per_block"], groups, "down")
        self.mid_block = MidBlock(widths[-1], groups, config["mid_block_add_attention"])
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config["latent_channels"], 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents (rows, 4, h, w) to pictures (rows, 3, f h, f w)."""

    def __init__(self, config):
        super().__init__()
        widths, groups = config["block_out_channels"][::-1], config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["latent_channels"], widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, config["mid_block_add_attention"])
        self.up_blocks = stack(widths, config["layers_per_block"] + 1, groups, "up")
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], config["out_channels"], 3, padding=1)

    def forward(self, x):
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def stack(widths, layers, groups, resample):
    """One block for each width; all but the last change the size."""
    inputs = [widths[0], *widths[:-1]]
    return nn.ModuleList(Block(a, b, layers, groups, resample if i < len(widths) - 1 else None)
                         for i, (a, b) in enumerate(zip(inputs, widths)))


class VAE(nn.Module):
    """Pictures (rows, 3, H, W) in [-1, 1] to latents (rows, 4, H/f, W/f) and back; f is `factor`, 8 in SD."""

    def __init__(self, config):
        """config: the dict of a diffusers `vae/config.json`. Raises ValueError for anything not implemented."""
        super().__init__()
        self.config = c = read_config(config, "VAE", USED, FIXED, IGNORED)
        for key in ("down_block_types", "up_block_types"):
            per_block(c[key], len(c["block_out_channels"]), f"VAE: {key}")
        latent = c["latent_channels"]
        self.factor = 2 ** (len(c["block_out_channels"]) - 1)
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
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

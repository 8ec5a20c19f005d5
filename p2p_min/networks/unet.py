"""The conditional UNet of Stable Diffusion, built from its checkpoint's own config.

Modules have the names of the diffusers checkpoints, so that a folder loads without renaming. Edits are passed from
`UNet.forward` to every attention layer as one argument, `edits`.

Stable Diffusion 1.5 at 512 pixels (r: a resnet; a: a resnet and a transformer, which attends to pixels and text):

    conv_in          4 to 320 channels, 64 × 64             up_blocks.3      a a a     320    64 × 64, then conv_out
    down_blocks.0    a a     320    64 × 64                 up_blocks.2      a a a     640    32 × 32
    down_blocks.1    a a     640    32 × 32                 up_blocks.1      a a a    1280    16 × 16
    down_blocks.2    a a    1280    16 × 16                 up_blocks.0      r r r    1280     8 × 8
    down_blocks.3    r r    1280     8 × 8                  mid_block        a r      1280     8 × 8

Each resnet on the way up also takes one stored output of the way down (conv_in, layers, halvings), newest first.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from ..attention import Attention, Edits
from ..checks import must
from .config import one_each, read_config
from .layers import Downsample, Resnet, Upsample

MID = {"UNetMidBlock2DCrossAttn": (2, True), "UNetMidBlock2D": (1, False), None: (0, False)}  # its resnets; attends?
KEYS = dict(
    in_channels=(4, int), out_channels=(4, int),
    sample_size=(None, int, [int]),
    block_out_channels=((320, 640, 1280, 1280), [int]),
    layers_per_block=(2, int, [int]),
    down_block_types=(("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), ["CrossAttnDownBlock2D", "DownBlock2D"]),
    up_block_types=(("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, ["CrossAttnUpBlock2D", "UpBlock2D"]),
    mid_block_type=("UNetMidBlock2DCrossAttn", *MID),
    attention_head_dim=(8, int, [int]),
    transformer_layers_per_block=(1, int, [int, [int]]),
    reverse_transformer_layers_per_block=(None, int, [int, [int]]),
    cross_attention_dim=(1280, int),
    norm_num_groups=(32, int), norm_eps=(1e-5, float), act_fn=("silu", "silu", "swish"),
    use_linear_projection=(False, bool), upcast_attention=(False, bool),
    addition_embed_type=(None, "text_time"),
    addition_time_embed_dim=(None, int),
    projection_class_embeddings_input_dim=(None, int))
FIXED = dict(
    flip_sin_to_cos=True, freq_shift=0, center_input_sample=False, only_cross_attention=False,
    mid_block_only_cross_attention=False, dual_cross_attention=False, attention_type="default", downsample_padding=1,
    mid_block_scale_factor=1, conv_in_kernel=3, conv_out_kernel=3, resnet_time_scale_shift="default",
    resnet_skip_time_act=False, resnet_out_scale_factor=1, time_embedding_type="positional",
    class_embeddings_concat=False)
IGNORED = ("dropout", "addition_embed_type_num_heads",
           # bookkeeping of the EMA weights, which diffusers' training scripts leave in the file
           "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")
HINTS = dict(time_cond_proj_dim="it is an LCM", class_embed_type="it may be an unCLIP model")


def time_features(timestep, width):
    """Sinusoids of the timestep (Vaswani et al. 2017), cosines first: (rows,) -> (rows, width), fp32."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
    angles = timestep[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class GEGLU(nn.Module):
    """Half of a projection gates the other half through the exact (erf) GELU."""
    def __init__(self, inputs, outputs):
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def forward(self, x):
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward: where the paper's maps M live (`attn2`)."""
    def __init__(self, channels, heads, context_width, upcast):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, upcast=upcast)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, context_width, upcast=upcast)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x, size, context, edits):
        x = x + self.attn1(self.norm1(x), size, edits=edits)
        x = x + self.attn2(self.norm2(x), size, context, edits)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Pixels as tokens through the transformer blocks, and back, around a residual."""
    def __init__(self, channels, heads, layers, config):
        super().__init__()
        must(channels % heads == 0, "UNet: attention_head_dim", f"a number that divides {channels}", heads)
        linear = config["use_linear_projection"]
        projection = nn.Linear if linear else lambda inputs, outputs: nn.Conv2d(inputs, outputs, 1)
        self.norm = nn.GroupNorm(config["norm_num_groups"], channels, eps=1e-6)
        self.proj_in = projection(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, config["cross_attention_dim"], config["upcast_attention"])
            for _ in range(layers))
        self.proj_out = projection(channels, channels)

    def forward(self, x, context, edits):
        size = x.shape[-2:]
        tokens = self.norm(x).flatten(2).transpose(1, 2)                # (rows, pixels, channels)
        tokens = F.linear(tokens, self.proj_in.weight.flatten(1), self.proj_in.bias)       # a 1×1 convolution in SD 1.x
        for block in self.transformer_blocks:
            tokens = block(tokens, size, context, edits)
        out = F.linear(tokens, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + out.transpose(1, 2).unflatten(2, size)


class Block(nn.Module):
    """One size of the UNet: resnets, the first of them followed by a transformer each, then down or up."""
    def __init__(self, inputs, channels, heads, depths, config, resample=None):
        """inputs: the channels that enter each resnet; depths: the layers of each transformer, of which there may be
        fewer; resample: None, "down" or "up"."""
        super().__init__()
        resnet = config["norm_num_groups"], config["norm_eps"], 4 * config["block_out_channels"][0]
        self.resnets = nn.ModuleList(Resnet(n, channels, *resnet) for n in inputs)
        self.attentions = nn.ModuleList(Transformer(channels, heads, depth, config) for depth in depths)
        self.downsamplers = nn.ModuleList([Downsample(channels, True)] if resample == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(channels)] if resample == "up" else [])

    def layer(self, i, x, time, context, edits):
        x = self.resnets[i](x, time)
        for attention in self.attentions[i:i + 1]:
            x = attention(x, context, edits)
        return x

    def down(self, x, time, context, edits):
        """x and every output of the block, for the skip connections."""
        outputs = [x]
        for i in range(len(self.resnets)):
            outputs.append(self.layer(i, outputs[-1], time, context, edits))
        for downsample in self.downsamplers:
            outputs.append(downsample(outputs[-1]))
        return outputs

    def up(self, x, skips, size, time, context, edits):
        """skips: one for each resnet, in the order of the way down; size: that of the block above."""
        for i, skip in enumerate(reversed(skips)):
            x = self.layer(i, torch.cat([x, skip], dim=1), time, context, edits)
        for upsample in self.upsamplers:
            x = upsample(x, size)
        return x


def transformers(block_type, depth, resnets):
    """The layers of each transformer in a block, from one number or from one for each resnet."""
    depths = one_each(depth, resnets, "UNet: transformer_layers_per_block of a block")
    return depths if block_type.startswith("CrossAttn") else []


class UNet(nn.Module):
    """eps (or v) = UNet(z_t, timestep, P): Rombach et al. 2022, in diffusers' arrangement."""
    def __init__(self, config):
        """config: the dict of a diffusers `unet/config.json`. Raises ValueError for anything not implemented."""
        super().__init__()
        always = {key: (value, value) for key, value in FIXED.items()}
        self.config = c = read_config(config, "UNet", KEYS | always, IGNORED, HINTS)

        # What each of the n blocks on the way down has, and each on the way up, as lists.
        channels = c["block_out_channels"]
        n = len(channels)
        each = lambda key: one_each(c[key], n, f"UNet: {key}")
        heads = each("attention_head_dim")                 # despite its name, this counts heads
        down = each("layers_per_block")
        up = [k + 1 for k in down[::-1]]
        depths = each("transformer_layers_per_block")
        depths_up = each("reverse_transformer_layers_per_block")
        if c["reverse_transformer_layers_per_block"] is None:
            depths_up = depths[::-1]
        down_depths = list(map(transformers, each("down_block_types"), depths, down))
        up_depths = list(map(transformers, each("up_block_types"), depths_up, up))
        # The middle has the depth of the last block; null means here that there is none.
        mid, mid_attends = MID[config.get("mid_block_type", "UNetMidBlock2DCrossAttn")]
        last, *_ = depths[-1] if isinstance(depths[-1], (list, tuple)) else [depths[-1]]
        mid_depths = [last] * mid_attends

        self.conv_in = nn.Conv2d(c["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], 4 * channels[0])
        self.add_embedding = None                          # SDXL's pooled text and sizes
        if c["addition_embed_type"]:
            self.add_embedding = TimeEmbedding(c["projection_class_embeddings_input_dim"], 4 * channels[0])

        # Down; `skips` are the channels of the outputs that the way up will take.
        width, skips = channels[0], [channels[0]]
        self.down_blocks = nn.ModuleList()
        for i in range(n):
            inputs = [width] + [channels[i]] * (down[i] - 1)
            is_last, width = i == n - 1, channels[i]
            self.down_blocks.append(Block(inputs, width, heads[i], down_depths[i], c, None if is_last else "down"))
            skips += [width] * (down[i] + (not is_last))
        self.mid_block = Block([width] * mid, width, heads[-1], mid_depths, c)
        # Up, in reverse; `inputs` are what comes from below and the skip connection.
        self.up_blocks = nn.ModuleList()
        for i in range(n):
            inputs = []
            for _ in range(up[i]):
                inputs.append(width + skips.pop())
                width = channels[-1 - i]
            resample = "up" if i < n - 1 else None
            self.up_blocks.append(Block(inputs, width, heads[-1 - i], up_depths[i], c, resample))

        self.conv_norm_out = nn.GroupNorm(c["norm_num_groups"], width, eps=c["norm_eps"])
        self.conv_out = nn.Conv2d(width, c["out_channels"], 3, padding=1)
        for name, module in self.named_modules():
            if isinstance(module, Attention):
                module.name = name                         # to find its edit in {prefix: edit}

    def forward(self, z, timestep, context, cross_edit=None, self_edit=None, t=None, rows=None, looks=()):
        """One prediction for every row.

        z           (all rows, 4, height, width)   latents; with edits, row 0 is the source, the next ones are targets
        timestep    int, or a tensor () or (all rows,)  of the training schedule, 0 to 999
        context     (all rows, keys, width)        the text's states; or a `text.Context`, as SDXL needs
        cross_edit, self_edit                      an Edit (see attention.py), or {module-name prefix: Edit}
        t           float in (0, 1]                the time that is passed to the edits; None: there are none
        rows        how many of the first rows the edits and looks see, 0 in a call of unconditional rows; None: all
        looks       functions (M, M_star, M_hat, t), or {module-name prefix: function}, that see the cross-attention
        returns     (all rows, 4, height, width)
        Raises ValueError for a prefix that matches no attention layer.
        """
        for edit in (cross_edit, *looks):
            self.check_prefixes(edit, "cross")
        self.check_prefixes(self_edit, "self")
        edits = Edits(cross_edit, self_edit, t, rows, looks)
        pooled = sizes = None
        if isinstance(context, tuple):
            context, pooled, sizes = context
        time = torch.as_tensor(timestep, device=z.device).expand(z.shape[0])
        time = self.time_embedding(time_features(time, self.conv_in.out_channels).to(z.dtype))
        if self.add_embedding is not None:
            if pooled is None:
                raise ValueError("this UNet needs pooled text and sizes (SDXL): give the Context of text.encode")
            sizes = time_features(sizes.flatten(), self.config["addition_time_embed_dim"])
            added = torch.cat([pooled, sizes.view(len(pooled), -1).to(pooled)], dim=-1)
            time = time + self.add_embedding(added.to(z.dtype))
        # Down, middle, up; `skips` are the outputs that wait for their counterpart.
        x = self.conv_in(z)
        skips = [x]
        for block in self.down_blocks:
            skips += block.down(skips[-1], time, context, edits)[1:]
        x = self.mid_block.down(skips[-1], time, context, edits)[-1]
        for block in self.up_blocks:
            n = len(block.resnets)
            skips, taken = skips[:-n], skips[-n:]
            size = skips[-1].shape[-2:] if skips else None
            x = block.up(x, taken, size, time, context, edits)
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def check_prefixes(self, edit, kind):
        for prefix in edit if isinstance(edit, dict) else ():
            names = self.attention_names(kind)
            if prefix != "" and not any(f"{name}.".startswith(f"{prefix}.") for name in names):
                raise ValueError(f"no {kind}-attention has the prefix {prefix!r}; names look like {names[0]!r}")

    def attention_names(self, kind):
        """The names of its attention layers, "cross" or "self", in the order in which they are called."""
        must(kind in ("cross", "self"), "kind", "'cross' or 'self'", kind)
        last = dict(cross="attn2", self="attn1")[kind]
        return [each.name for each in self.modules() if isinstance(each, Attention) and each.name.endswith(last)]

    def map_sizes(self, height, width):
        """The sizes (height, width) of the attention maps for latents of this size, largest first."""
        sizes = []
        for down, up in zip(self.down_blocks, reversed(self.up_blocks)):
            is_last = not down.downsamplers                # of the size of the middle
            if down.attentions or up.attentions or is_last and self.mid_block.attentions:
                sizes.append((height, width))
            height, width = -(-height // 2), -(-width // 2)
        return sizes

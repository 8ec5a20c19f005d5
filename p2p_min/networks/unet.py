"""The conditional UNet of Stable Diffusion, built from its checkpoint's own config.

Modules have the names of the diffusers checkpoints, so that a folder loads without renaming. Edits are passed from
`UNet.forward` to every attention layer as one argument, `edits`.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from ..attention import Attention, Edits
from .config import FLAG, either, listed, number, one_of, one_or_each, per_block, read_config, whole
from .layers import Downsample, Resnet, Upsample

DOWN_ATTENDS = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
UP_ATTENDS = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
MID_ATTENDS = {"UNetMidBlock2DCrossAttn": True, "UNetMidBlock2D": False}         # and null: no middle block
CHANNELS, WIDTH, SIDE = whole(1, 64), whole(1, 2 ** 14), whole(1, 1024)
LAYERS = one_or_each(either(whole(0, 16), listed(whole(0, 16))))               # a list: one for each resnet of a block
USED = dict(
    in_channels=(4, CHANNELS), out_channels=(4, CHANNELS), sample_size=(None, either(SIDE, listed(SIDE, 2, 2))),
    block_out_channels=((320, 640, 1280, 1280), listed(WIDTH)), layers_per_block=(2, one_or_each(whole(1, 6))),
    down_block_types=(("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), listed(one_of(*DOWN_ATTENDS))),
    up_block_types=(("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, listed(one_of(*UP_ATTENDS))),
    mid_block_type=("UNetMidBlock2DCrossAttn", one_of(*MID_ATTENDS)), attention_head_dim=(8, one_or_each(WIDTH)),
    transformer_layers_per_block=(1, LAYERS), reverse_transformer_layers_per_block=(None, LAYERS),
    cross_attention_dim=(1280, WIDTH), norm_num_groups=(32, WIDTH), norm_eps=(1e-5, number(0, 1)),
    use_linear_projection=(False, FLAG), upcast_attention=(False, FLAG),
    addition_embed_type=(None, one_of("text_time")), addition_time_embed_dim=(None, WIDTH),
    projection_class_embeddings_input_dim=(None, WIDTH))
FIXED = dict(
    act_fn=("silu", "swish"), flip_sin_to_cos=(True,), freq_shift=(0,),
    center_input_sample=(False,), only_cross_attention=(False,), mid_block_only_cross_attention=(False,),
    dual_cross_attention=(False,), attention_type=("default",), cross_attention_norm=(None,), downsample_padding=(1,),
    mid_block_scale_factor=(1,), conv_in_kernel=(3,), conv_out_kernel=(3,), resnet_time_scale_shift=("default",),
    resnet_skip_time_act=(False,), resnet_out_scale_factor=(1,), time_embedding_type=("positional",),
    time_embedding_dim=(None,), time_embedding_act_fn=(None,), timestep_post_act=(None,), time_cond_proj_dim=(None,),
    class_embed_type=(None,), num_class_embeds=(None,), class_embeddings_concat=(False,), encoder_hid_dim=(None,),
    encoder_hid_dim_type=(None,), num_attention_heads=(None,))
IGNORED = ("dropout", "addition_embed_type_num_heads",
           # bookkeeping of the EMA weights, which diffusers' training scripts leave in the file
           "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")


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
        if channels % heads:
            raise ValueError(f"UNet: {channels} channels do not divide into {heads} attention heads "
                             "(attention_head_dim in its config counts heads)")
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
        tokens = project(self.proj_in, tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, size, context, edits)
        return x + project(self.proj_out, tokens).transpose(1, 2).unflatten(2, size)


def project(layer, tokens):
    """A matrix over tokens; SD 1.x stores it as a 1×1 convolution."""
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)


class Block(nn.Module):
    """One size of the UNet: resnets, each followed by a transformer if the block attends, then down or up."""

    def __init__(self, inputs, channels, heads, layers, config, attends, resample):
        """inputs: the channels that enter each resnet; layers: transformer layers; resample: None, "down" or "up"."""
        super().__init__()
        self.resnets = nn.ModuleList(
            Resnet(n, channels, config["norm_num_groups"], config["norm_eps"], 4 * config["block_out_channels"][0])
            for n in inputs)
        self.attentions = nn.ModuleList(
            Transformer(channels, heads, n, config)
            for n in (per_block(layers, len(inputs), "transformer_layers_per_block") if attends else ()))
        self.downsamplers = nn.ModuleList([Downsample(channels, True)] if resample == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(channels)] if resample == "up" else [])

    def layer(self, i, x, time, context, edits):
        x = self.resnets[i](x, time)
        if self.attentions:
            x = self.attentions[i](x, context, edits)
        return x

    def down(self, x, time, context, edits):
        """Every output of the block, for the skip connections."""
        outputs = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, time, context, edits)
            outputs.append(x)
        for downsample in self.downsamplers:
            outputs.append(downsample(x))
        return outputs

    def up(self, x, skips, size, time, context, edits):
        """skips: one for each resnet, last first; size: that of the block above."""
        for i, skip in enumerate(reversed(skips)):
            x = self.layer(i, torch.cat([x, skip], dim=1), time, context, edits)
        for upsample in self.upsamplers:
            x = upsample(x, size)
        return x


class MidBlock(nn.Module):
    """Resnet, transformer, resnet; in slimmed models only the first resnet."""

    def __init__(self, channels, heads, layers, config, attends):
        super().__init__()
        resnet = (channels, channels, config["norm_num_groups"], config["norm_eps"],
                  4 * config["block_out_channels"][0])
        self.attentions = nn.ModuleList([Transformer(channels, heads, layers, config)] if attends else [])
        self.resnets = nn.ModuleList(Resnet(*resnet) for _ in range(2 if attends else 1))

    def forward(self, x, time, context, edits):
        x = self.resnets[0](x, time)
        for attention, resnet in zip(self.attentions, self.resnets[1:]):
            x = resnet(attention(x, context, edits), time)
        return x


class UNet(nn.Module):
    """eps (or v) = UNet(z_t, timestep, P): Rombach et al. 2022, in diffusers' arrangement."""

    def __init__(self, config):
        """config: the dict of a diffusers `unet/config.json`. Raises ValueError for anything not implemented."""
        super().__init__()
        self.config = c = read_config(config, "UNet", USED, FIXED, IGNORED)
        channels, n = c["block_out_channels"], len(c["block_out_channels"])
        heads = per_block(c["attention_head_dim"], n, "attention_head_dim")     # misnamed in checkpoints: a count
        resnets = per_block(c["layers_per_block"], n, "layers_per_block")
        layers = per_block(c["transformer_layers_per_block"], n, "transformer_layers_per_block")
        layers_up = c["reverse_transformer_layers_per_block"]
        layers_up = per_block(layers[::-1] if layers_up is None else layers_up, n,
                              "reverse_transformer_layers_per_block")
        down_attends = [DOWN_ATTENDS[name] for name in per_block(c["down_block_types"], n, "down_block_types")]
        up_attends = [UP_ATTENDS[name] for name in per_block(c["up_block_types"], n, "up_block_types")]

        self.conv_in = nn.Conv2d(c["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], 4 * channels[0])
        self.add_embedding = None                          # SDXL's pooled text and sizes
        if c["addition_embed_type"]:
            for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
                if c[key] is None:
                    raise ValueError(f"UNet: its config has addition_embed_type = 'text_time', but {key} = None")
            self.add_embedding = TimeEmbedding(c["projection_class_embeddings_input_dim"], 4 * channels[0])

        width, skips = channels[0], [channels[0]]          # current channels, and those of every skip connection
        self.down_blocks = nn.ModuleList()
        for i in range(n):
            inputs = [width] + [channels[i]] * (resnets[i] - 1)
            last = i == n - 1
            self.down_blocks.append(
                Block(inputs, channels[i], heads[i], layers[i], c, down_attends[i], None if last else "down"))
            width = channels[i]
            skips += [width] * (resnets[i] + (not last))

        self.mid_block = None
        if config.get("mid_block_type", "") is not None:   # null does not mean the default here
            mid_layers = layers[-1] if isinstance(layers[-1], int) else layers[-1][0]
            self.mid_block = MidBlock(width, heads[-1], mid_layers, c, MID_ATTENDS[c["mid_block_type"]])

        self.up_blocks = nn.ModuleList()
        for i in range(n):
            j, last = n - 1 - i, i == n - 1                # j: the down block of the same size
            inputs = []
            for _ in range(resnets[j] + 1):
                inputs.append(width + skips.pop())
                width = channels[j]
            self.up_blocks.append(
                Block(inputs, channels[j], heads[j], layers_up[i], c, up_attends[i], None if last else "up"))

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
        t           float in (0, 1]                the time that is passed to the edits
        rows        how many of the first rows the edits and looks see; the others are not edited. None: all
        looks       functions (M, M_star, M_hat, t), or {module-name prefix: function}, that see the cross-attention
        returns     (all rows, 4, height, width)
        Raises ValueError for a prefix that matches no attention layer.
        """
        for edit in (cross_edit, *looks):
            self.check_prefixes(edit, "cross")
        self.check_prefixes(self_edit, "self")
        edits = Edits(cross_edit, self_edit, t, rows, looks)
        context, pooled, sizes = context if isinstance(context, tuple) else (context, None, None)
        time = torch.as_tensor(timestep, device=z.device).expand(z.shape[0])
        time = self.time_embedding(time_features(time, self.conv_in.out_channels).to(z.dtype))
        if self.add_embedding is not None:
            if pooled is None:
                raise ValueError("this UNet needs pooled text and sizes (SDXL): give the Context of text.encode")
            sizes = time_features(sizes.flatten(), self.config["addition_time_embed_dim"]).view(len(pooled), -1)
            time = time + self.add_embedding(torch.cat([pooled, sizes.to(pooled)], dim=-1).to(z.dtype))
        x = self.conv_in(z)
        skips = [x]
        for block in self.down_blocks:
            skips += block.down(skips[-1], time, context, edits)
        x = skips[-1]
        if self.mid_block is not None:
            x = self.mid_block(x, time, context, edits)
        for block in self.up_blocks:
            n = len(block.resnets)
            skips, taken = skips[:-n], skips[-n:]
            size = skips[-1].shape[-2:] if skips else None
            x = block.up(x, taken, size, time, context, edits)
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def check_prefixes(self, edit, kind):
        if not isinstance(edit, dict):
            return
        names = self.attention_names(kind)
        for prefix in edit:
            if prefix and not any(f"{name}.".startswith(f"{prefix}.") for name in names):
                layer = names[0].rpartition(".")[2]
                raise ValueError(f"no {layer} layer has the prefix {prefix!r}; names look like {names[0]!r}")

    def attention_names(self, kind):
        """The names of its attention layers, "cross" or "self", in the order in which they are called."""
        if kind not in ("cross", "self"):
            raise ValueError(f"kind must be 'cross' or 'self', not {kind!r}")
        last = dict(cross="attn2", self="attn1")[kind]
        return [each.name for each in self.modules() if isinstance(each, Attention) and each.name.endswith(last)]

    def map_sizes(self, height, width):
        """The sizes (height, width) of the attention maps for latents of this size, largest first."""
        sizes = [(height, width)]
        for _ in self.down_blocks[1:]:
            height, width = -(-height // 2), -(-width // 2)
            sizes.append((height, width))
        mid = self.mid_block is not None and len(self.mid_block.attentions)
        return [size for i, size in enumerate(sizes)
                if self.down_blocks[i].attentions or self.up_blocks[-1 - i].attentions or (mid and i == len(sizes) - 1)]

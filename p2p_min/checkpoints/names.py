"""The names that real checkpoints have where they are not those of today."""
import re
from functools import partial

import torch

# ---- folders in the diffusers layout -------------------------------------------------------------------------------

# Files of a part: the plain one, and the half-precision one that may stand beside it or instead of it.
NETWORK = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
ENCODER = ("model.safetensors", "model.fp16.safetensors")
WEIGHTS = dict(unet=NETWORK, vae=NETWORK, text_encoder=ENCODER, text_encoder_2=ENCODER)
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

# Old spellings of the VAE's attention: (old, new), as parts of a name between dots.
VAE_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))

# Written by older transformers: not a weight, always 0, 1, 2, …
TEXT_IGNORED = ("embeddings.position_ids",)
TEXT_PREFIX = "text_model."


def vae(name):
    """A VAE parameter's name as it is today, from one of any age."""
    for old, new in VAE_ATTENTION:
        name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    return name


def text(name):
    """A text encoder parameter's name without the prefix that some versions of transformers write; None: no weight."""
    name = name.removeprefix(TEXT_PREFIX)
    return None if name in TEXT_IGNORED else name


# ---- single files in the original layout ---------------------------------------------------------------------------

# Where the names of each part begin. Of several layouts of a kind, the first that fits.
UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
SD_TURBO = "conditioner.embedders.0.model."
LAYOUTS = (
    ("SDXL", dict(text_encoder="conditioner.embedders.0.transformer.text_model.",
                  text_encoder_2="conditioner.embedders.1.model.")),
    ("SD 2.x", dict(text_encoder="cond_stage_model.model.")),
    ("SD 2.x", dict(text_encoder=SD_TURBO)),
    ("SD 1.x", dict(text_encoder="cond_stage_model.transformer.text_model.")),
    ("SD 1.x", dict(text_encoder="cond_stage_model.transformer.")),                    # some old merges
)
# What else such a file may hold, none of it needed: averages, schedules, what training left behind.
SINGLE_IGNORED = re.compile(
    r"(first_stage_model\.)?model_ema\..*|first_stage_model\.loss\..*|v_pred|ztsnr|"
    r"betas|((sqrt|log)_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|posterior_(variance|log_variance_clipped|"
    r"mean_coef[12])|logvar|lvlb_weights|scale_factor|denoiser\.sigmas|"
    r"(global_step|epoch|optimizer|optimizer_states|lr_schedulers|callbacks|loops)(\..*)?|"
    r".*\.(position_ids|attn_mask|logit_scale)|(cond_stage_model|conditioner\.embedders\.0)\..*text_projection(\.weight)?")
RESBLOCK = re.compile(r".*\.transformer\.resblocks\.(\d+)\..*")

UNET = (                               # (today's, the original), from the start of a name
    ("conv_in.", "input_blocks.0.0."), ("conv_norm_out.", "out.0."), ("conv_out.", "out.2."),
    ("time_embedding.linear_1.", "time_embed.0."), ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."), ("add_embedding.linear_2.", "label_emb.0.2."),
    ("mid_block.resnets.0.", "middle_block.0."), ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.1.", "middle_block.2."))
UNET_RESNET = (                        # anywhere in the name of a resnet
    ("norm1.", "in_layers.0."), ("conv1.", "in_layers.2."), ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."), ("conv2.", "out_layers.3."), ("conv_shortcut.", "skip_connection."))
VAE = (
    ("conv_norm_out.", "norm_out."), ("mid_block.resnets.0.", "mid.block_1."), ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.", "mid.attn_1."), ("conv_shortcut.", "nin_shortcut."), ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."), ("group_norm.", "norm."), ("to_q.", "q."), ("to_k.", "k."), ("to_v.", "v."),
    ("to_out.0.", "proj_out."))
OPENCLIP = (
    ("embeddings.token_embedding.", "token_embedding."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("encoder.layers.", "transformer.resblocks."), ("layer_norm1.", "ln_1."), ("layer_norm2.", "ln_2."),
    ("self_attn.", "attn."), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj."),
    ("final_layer_norm.", "ln_final."))


def is_openclip(prefix):
    return prefix.endswith(".model.")


def original(part, name, prefix, config, there):
    """(a parameter's name in a single file, what makes the parameter of that tensor, or None).

    config  of the part
    there   the names in the file
    """
    if part == "unet":
        return prefix + original_unet(name, config), None
    if part == "vae":
        return prefix + original_vae(name, len(config["block_out_channels"])), (
            pointwise if re.search(r"\.to_\w+(\.0)?\.weight$", name) else None)
    if is_openclip(prefix):
        return original_openclip(name.removeprefix(TEXT_PREFIX), prefix, there)
    return prefix + name.removeprefix(TEXT_PREFIX), None


def original_unet(name, config):
    if ".resnets." in name:
        for new, old in UNET_RESNET:
            name = name.replace(f".{new}", f".{old}")
    for new, old in UNET:
        if name.startswith(new):
            return old + name[len(new):]
    way, i, kind, j, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()
    i, j, layers = int(i), int(j), config["layers_per_block"]
    attends = "CrossAttn" in config[f"{way}_block_types"][i]
    if way == "down":                                      # each block: its layers, then the one that halves the size
        first = 1 + sum(n + 1 for n in layers[:i])
        if kind == "downsamplers":
            return f"input_blocks.{first + layers[i]}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{first + j}.{int(kind == 'attentions')}.{rest}"
    counts = [n + 1 for n in reversed(layers)]
    first = sum(counts[:i])
    if kind == "upsamplers":                               # stands behind the last layer of its block
        return f"output_blocks.{first + counts[i] - 1}.{1 + attends}.{rest}"
    return f"output_blocks.{first + j}.{int(kind == 'attentions')}.{rest}"


def original_vae(name, blocks):
    """The blocks on the way up are counted from the largest picture."""
    for new, old in VAE:
        name = name.replace(new, old)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{blocks - 1 - int(m[1])}.", name)
    return name.replace("down_blocks.", "down.").replace(".resnets.", ".block.")


def original_openclip(name, prefix, there):
    if name == "text_projection.weight" and prefix + name not in there:            # x @ P there, a linear layer here
        return prefix + "text_projection", torch.t
    match = re.fullmatch(r"(.*self_attn\.)([qkv])_proj\.(weight|bias)", name)
    if match:                                              # the three projections are stored as one tensor
        name = f"{match[1]}in_proj_{match[3]}"
    for new, old in OPENCLIP:
        name = name.replace(new, old)
    return prefix + name, match and partial(third, i="qkv".index(match[2]))


def third(tensor, i):
    return tensor.chunk(3)[i]


def pointwise(tensor):
    """A matrix, which may be stored as a 1×1 convolution."""
    return tensor[:, :, 0, 0] if tensor.shape[2:] == (1, 1) else tensor


def is_ignored(name, kind, configs):
    """Whether a tensor of a single file is nothing that a picture needs."""
    if kind == "SD 2.x" and (match := RESBLOCK.fullmatch(name)):           # those behind the layer that is read
        return int(match[1]) >= configs["text_encoder"]["num_hidden_layers"]
    return SINGLE_IGNORED.fullmatch(name) is not None


def some(names):
    """The first three of some names, and how many more there are."""
    names = sorted(names)
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else "")

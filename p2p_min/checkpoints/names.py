"""The names in real checkpoints that differ from today's."""
import re
from functools import partial

import torch

# ---- folders in the diffusers layout -------------------------------------------------------------------------------

# A part's files begin with this: one file, or (above 10 GB, in diffusers) several, with an index.
NETWORK, ENCODER = "diffusion_pytorch_model", "model"
STEMS = dict(unet=NETWORK, vae=NETWORK, text_encoder=ENCODER, text_encoder_2=ENCODER)
PLAIN, HALF = (".safetensors", ".safetensors.index.json"), (".fp16.safetensors", ".safetensors.index.fp16.json")
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

# Old spellings of the VAE's attention: (old, new), as parts of a name between dots.
VAE_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))

# Written by older transformers: not a weight, always 0, 1, 2, …
TEXT_IGNORED = ("embeddings.position_ids",)
TEXT_PREFIX = "text_model."


def weights(part, there, dtype):
    """The file with a part's weights (or the index of its shards), of those that are `there`: the one that fits
    `dtype`, as there may be one in half precision beside the plain one or instead of it. None: there are no weights.

    Raises ValueError, its message beginning with a verb, if they are there twice, since the two may differ.
    """
    plain, half = ([STEMS[part] + end for end in ends if STEMS[part] + end in there] for ends in (PLAIN, HALF))
    found = (half or plain) if dtype in (torch.float16, torch.bfloat16) else (plain or half)
    if len(found) > 1:
        raise ValueError(f"has the weights of {part} twice, as {' and '.join(found)}: remove one of them")
    return found[0] if found else None


def vae(name):
    """Today's name of a VAE parameter, from a name of any age."""
    for old, new in VAE_ATTENTION:
        name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    return name


def text(name):
    """A text encoder parameter's name without the prefix of some versions of transformers; None: not a weight."""
    name = name.removeprefix(TEXT_PREFIX)
    return None if name in TEXT_IGNORED else name


# ---- known kinds that p2p_min does not run -------------------------------------------------------------------------

LCM, UNCLIP = "an LCM", "an unCLIP model"
INPUTS = {5: "a depth model", 7: "an upscaler", 8: "an instruct-pix2pix model", 9: "an inpainting model"}  # by channels

# ---- single files in the original layout ---------------------------------------------------------------------------

# How the names of each part begin. If a kind has several layouts, the first that fits is used.
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
# What else such a file may hold, though none of it is needed: averages, schedules, leftovers of training.
SINGLE_IGNORED = re.compile(
    r"(first_stage_model\.)?(model_ema|loss)\..*|v_pred|ztsnr|"
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


def original(part, name, found, there):
    """(a parameter's name in a single file, the function that converts that tensor to the parameter, or None).

    found  what the file holds (recognise.py)
    there  the names in the file
    """
    prefix = found.prefixes[part]
    if part == "unet":
        return prefix + original_unet(name, found.places), None
    if part == "vae":
        spellings = [prefix + spelt for spelt in original_vae(name, len(found.configs["vae"]["block_out_channels"]))]
        return next((spelt for spelt in spellings if spelt in there), spellings[0]), (
            pointwise if re.search(r"\.to_\w+(\.0)?\.(weight|bias)$", name) else None)
    if is_openclip(prefix):
        return original_openclip(name.removeprefix(TEXT_PREFIX), prefix, there)
    return prefix + name.removeprefix(TEXT_PREFIX), None


def original_unet(name, places):
    if ".resnets." in name:
        for new, old in UNET_RESNET:
            name = name.replace(f".{new}", f".{old}")
    return next(old + name[len(new):] for new, old in (*UNET, *places.items()) if name.startswith(new))


def original_vae(name, blocks):
    """All names that a VAE parameter may have: the original's; the same with today's attention, as diffusers' own
    conversion wrote it for half of 2023; today's; that of the first diffusers folders.
    """
    old = name
    for new, original_name in VAE:
        old = old.replace(new, original_name)
    old = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{blocks - 1 - int(m[1])}.", old)    # 0 has the largest maps
    old = old.replace("down_blocks.", "down.").replace(".resnets.", ".block.")
    mixed, first = re.sub(r"\.(q|k|v)\.", r".to_\1.", old).replace(".attn_1.proj_out.", ".attn_1.to_out.0."), name
    for before, today in VAE_ATTENTION:
        first = first.replace(f"attentions.0.{today}.", f"attentions.0.{before}.")
    return old, mixed, name, first


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
    """A matrix, which may be stored as a 1×1 convolution; its bias too, in some files."""
    return tensor[..., 0, 0] if tensor.ndim > 2 and tensor.shape[-2:] == (1, 1) else tensor


def is_ignored(name, found):
    """Whether a tensor of a single file is not needed to generate pictures."""
    if found.kind == "SD 2.x" and (match := RESBLOCK.fullmatch(name)):     # those after the last layer in use
        return int(match[1]) >= found.configs["text_encoder"]["num_hidden_layers"]
    return SINGLE_IGNORED.fullmatch(name) is not None


def some(names):
    """The first three of some names, and how many more there are."""
    names = [name if len(name) < 200 else name[:200] + "…" for name in sorted(names)]
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else "")

"""Names in one direction: from those of any checkpoint, old or new, to today's, which are those of diffusers."""
import re
from functools import partial

import torch

# A part's files begin with this: one file, or (above 10 GB, in diffusers) several, with an index.
NETWORK, ENCODER = "diffusion_pytorch_model", "model"
STEMS = dict(unet=NETWORK, vae=NETWORK, text_encoder=ENCODER, text_encoder_2=ENCODER)
PLAIN, HALF = (".safetensors", ".safetensors.index.json"), (".fp16.safetensors", ".safetensors.index.fp16.json")
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def weights_file(part, files, dtype):
    """The one of a folder's `files` with the weights of a part, or the index of its shards; None: it has none.

    One in half precision may be beside the plain one or instead of it: the one that fits `dtype` is taken.
    Raises ValueError, its message beginning with a verb, for two of the same precision, since they may differ.
    """
    plain, half = ([STEMS[part] + end for end in ends if STEMS[part] + end in files] for ends in (PLAIN, HALF))
    found = (half or plain) if dtype in (torch.float16, torch.bfloat16) else (plain or half)
    if len(found) > 1:
        raise ValueError(f"has the weights of {part} twice, as {' and '.join(found)}: remove one of them")
    return found[0] if found else None


TEXT_PREFIX = "text_model."                    # in some versions of transformers

UNET = (                               # (the original's, today's), from the start of a name
    ("input_blocks.0.0.", "conv_in."), ("out.0.", "conv_norm_out."), ("out.2.", "conv_out."),
    ("time_embed.0.", "time_embedding.linear_1."), ("time_embed.2.", "time_embedding.linear_2."),
    ("label_emb.0.0.", "add_embedding.linear_1."), ("label_emb.0.2.", "add_embedding.linear_2."),
    ("middle_block.0.", "mid_block.resnets.0."), ("middle_block.1.", "mid_block.attentions.0."),
    ("middle_block.2.", "mid_block.resnets.1."))
RESNET = (                             # from here on: anywhere in a name, between dots
    ("in_layers.0", "norm1"), ("in_layers.2", "conv1"), ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"), ("out_layers.3", "conv2"), ("skip_connection", "conv_shortcut"))
VAE = (                                # the last two rows are of diffusers before 2023
    ("mid.block_1", "mid_block.resnets.0"), ("mid.block_2", "mid_block.resnets.1"),
    ("mid.attn_1", "mid_block.attentions.0"), ("down", "down_blocks"), ("block", "resnets"),
    ("downsample", "downsamplers.0"), ("upsample", "upsamplers.0"), ("nin_shortcut", "conv_shortcut"),
    ("norm_out", "conv_norm_out"), ("norm", "group_norm"),
    ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"),
    ("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
OPENCLIP = (
    ("transformer.resblocks", "encoder.layers"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
    ("attn", "self_attn"), ("c_fc", "fc1"), ("c_proj", "fc2"), ("ln_final", "final_layer_norm"))
OPENCLIP_WHOLE = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight"}


def sources(part, stored_names, prefix=""):
    """{today's name of a parameter: (its name in the file, the conversion of that tensor)} of a part.

    prefix  how its names in the file begin; other names are passed over
    Names that are not known are kept, for `fill` to refuse. Raises ValueError for a parameter that is there twice.
    """
    known = [name.removeprefix(prefix) for name in stored_names if name.startswith(prefix)]
    if part == "unet":
        today = partial(unet, places=unet_places(set(known)))
    elif part == "vae":
        today = partial(vae, levels=count(known, "decoder.up.#."))
    else:
        today = text
    found = {}
    for name in known:
        for parameter, conversion in today(name):
            if parameter in found:
                raise ValueError(f"has {some([prefix + name, found[parameter][0]])}, which are the same parameter")
            found[parameter] = prefix + name, conversion
    return found


def unet(name, places):
    """[(today's name, conversion)] of a parameter of the UNet."""
    for old, new in (*UNET, *places.items()):
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    return [(renamed(name, RESNET), as_it_is)]


def unet_places(names):
    """{how a name in the original begins: how today's}, for the blocks of a UNet, from the numbers in its names. They
    have gaps where diffusers' script left out a layer of a slimmed model, and an upsampler may have its own number.
    """
    places, block, layer = {}, 0, 0
    for i in numbers(names, "input_blocks.#.")[1:]:
        if f"input_blocks.{i}.0.op.weight" in names:       # a downsampler: the block ends here
            places[f"input_blocks.{i}.0.op."] = f"down_blocks.{block}.downsamplers.0.conv."
            block, layer = block + 1, 0
        else:
            places[f"input_blocks.{i}.0."] = f"down_blocks.{block}.resnets.{layer}."
            places[f"input_blocks.{i}.1."] = f"down_blocks.{block}.attentions.{layer}."
            layer += 1
    block = layer = 0
    for i in numbers(names, "output_blocks.#."):
        upsampler = [f"output_blocks.{i}.{j}.conv." for j in (1, 2) if f"output_blocks.{i}.{j}.conv.weight" in names]
        places |= {old: f"up_blocks.{block}.upsamplers.0.conv." for old in upsampler}
        if f"output_blocks.{i}.0.in_layers.0.weight" in names:
            places[f"output_blocks.{i}.0."] = f"up_blocks.{block}.resnets.{layer}."
            places[f"output_blocks.{i}.1."] = f"up_blocks.{block}.attentions.{layer}."
            layer += 1
        if upsampler:
            block, layer = block + 1, 0
    return places


def vae(name, levels):
    """[(today's name, conversion)] of a parameter of the VAE; the original counts `levels` on the way up backwards."""
    name = re.sub(r"^decoder\.up\.(\d+)\.", lambda match: f"decoder.up_blocks.{levels - 1 - int(match[1])}.", name)
    name = renamed(name, VAE)
    is_attention = re.search(r"\.to_\w+(\.0)?\.(weight|bias)$", name)
    return [(name, pointwise if is_attention else as_it_is)]


def text(name):
    """[(today's name, conversion)] of a tensor of a text encoder, CLIP or OpenCLIP, which fuses three projections."""
    name = name.removeprefix(TEXT_PREFIX)
    if name == "embeddings.position_ids":                  # by older transformers: not a weight, always 0, 1, 2, …
        return []
    if name == "text_projection":                          # x @ P in OpenCLIP, a linear layer today
        return [("text_projection.weight", torch.t)]
    name = OPENCLIP_WHOLE.get(name) or renamed(name, OPENCLIP)
    if fused := re.fullmatch(r"(.*self_attn\.)in_proj_(weight|bias)", name):
        return [(f"{fused[1]}{x}_proj.{fused[2]}", partial(third, i=i)) for i, x in enumerate("qkv")]
    return [(name, as_it_is)]


def renamed(name, table):
    name = f".{name}"
    for old, new in table:
        name = name.replace(f".{old}.", f".{new}.")
    return name[1:]


def as_it_is(tensor):
    return tensor


def third(tensor, i):
    return tensor.chunk(3)[i]


def pointwise(tensor):
    """A matrix, which may be stored as a 1×1 convolution; its bias too, in some files."""
    return tensor[..., 0, 0] if tensor.ndim > 2 and tensor.shape[-2:] == (1, 1) else tensor


def numbers(names, pattern):
    """The sorted numbers in place of the # of `pattern`, in those names that begin with it."""
    pattern = re.compile(re.escape(pattern).replace(r"\#", r"(\d+)"))
    return sorted({int(match[1]) for match in map(pattern.match, names) if match})


def count(names, pattern):
    return len(numbers(names, pattern))


def some(names):
    """The first three of some names, and how many more there are."""
    names = [name if len(name) < 200 else name[:200] + "…" for name in sorted(names)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:3]) + more

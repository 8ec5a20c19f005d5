"""Names in one direction: from those of any checkpoint, old or new, to today's, which are those of diffusers."""
import re
from functools import partial

import torch

# A part's files begin with this: one file, or (above 10 GB, in diffusers) several, with an index.
STEMS = dict(dict.fromkeys(("unet", "vae"), "diffusion_pytorch_model"), text_encoder="model", text_encoder_2="model")
VARIANTS = "", "fp32", "fp16", "bf16"          # in this order, of STEM.fp16.safetensors; any other, as non_ema, last
HALF = {torch.float16: ("fp16",), torch.bfloat16: ("bf16", "fp16")}            # those to be read first, by the dtype
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def variant_of(part, file):
    """The variant of a part's weights, of one of their shards or of their index; None: it is another file."""
    shard, end = r"(?:-\d+-of-\d+)?", r"\.safetensors(?:\.index(?:\.(\w+))?\.json)?"
    match = re.fullmatch(rf"{STEMS[part]}(?:\.(\w+))?{shard}(?:\.(\w+))?{end}", file)
    return match and next(filter(None, match.groups()), "")


def weights_file(part, files, dtype):
    """The one of a folder's `files` with the weights of a part, or the index of its shards, in the variant that fits
    `dtype` best, or None. Raises ValueError for two that fit equally, since they may differ."""
    variants = {file: variant_of(part, file) for file in files if "-of-" not in file}
    order = [*HALF.get(dtype, ()), *VARIANTS]
    ranks = {file: [*order, variant].index(variant) for file, variant in variants.items() if variant is not None}
    found = sorted(file for file in ranks if ranks[file] == min(ranks.values()))
    if len(found) > 1:
        raise ValueError(f"has the weights of {part} twice, as {' and '.join(found)}: remove one of them")
    return found[0] if found else None


TEXT_PREFIX = "text_model."                    # in some versions of transformers
NOT_TEXT = "vision_model.", "visual_projection.", "logit_scale", "embeddings.position_ids"     # in a whole CLIPModel
LORA = re.compile(r"(.*\.)?(lora_\w+|base_layer)\..*")
UNET = (                               # (the original's, today's), from the start of a name
    ("input_blocks.0.0.", "conv_in."), ("out.0.", "conv_norm_out."), ("out.2.", "conv_out."),
    ("time_embed.0.", "time_embedding.linear_1."), ("time_embed.2.", "time_embedding.linear_2."),
    ("label_emb.0.0.", "add_embedding.linear_1."), ("label_emb.0.2.", "add_embedding.linear_2."),
    ("middle_block.0.", "mid_block.resnets.0."), ("middle_block.1.", "mid_block.attentions.0."),
    ("middle_block.2.", "mid_block.resnets.1."))
RESNET = (                             # from here on: anywhere in a name, between dots
    ("in_layers.0", "norm1"), ("in_layers.2", "conv1"), ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"), ("out_layers.3", "conv2"), ("skip_connection", "conv_shortcut"))
VAE = (                                # the last row is of diffusers before 2023
    ("mid.block_1", "mid_block.resnets.0"), ("mid.block_2", "mid_block.resnets.1"), ("nin_shortcut", "conv_shortcut"),
    ("mid.attn_1", "mid_block.attentions.0"), ("down", "down_blocks"), ("block", "resnets"), ("norm", "group_norm"),
    ("downsample", "downsamplers.0"), ("upsample", "upsamplers.0"), ("norm_out", "conv_norm_out"),
    ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"),
    ("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
OPENCLIP = (
    ("transformer.resblocks", "encoder.layers"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
    ("attn", "self_attn"), ("c_fc", "fc1"), ("c_proj", "fc2"), ("ln_final", "final_layer_norm"))
OPENCLIP_WHOLE = {"token_embedding.weight": "embeddings.token_embedding.weight",
                  "positional_embedding": "embeddings.position_embedding.weight"}

count = lambda names, pattern: len(numbers(names, pattern))
as_it_is = lambda tensor: tensor
# A matrix, which may be stored as a 1×1 convolution; its bias too, in some files.
pointwise = lambda tensor: tensor[..., 0, 0] if tensor.ndim > 2 and tensor.shape[-2:] == (1, 1) else tensor


def sources(part, stored_names, prefix=""):
    """{today's name: (the name in the file, the conversion of that tensor)} of a part, whose names begin with `prefix`;
    unknown ones are kept, to be refused later. Raises ValueError for a LoRA, or for one that is there twice."""
    known = [name.removeprefix(prefix) for name in stored_names if name.startswith(prefix)]
    if lora := list(filter(LORA.fullmatch, known)):
        raise ValueError(f"has tensors of a LoRA, {some(lora)}: save it after fuse_lora() and unload_lora_weights()")
    today = dict(unet=partial(unet, places=unet_places(set(known))), text_encoder=partial(text, projects=False),
                 vae=partial(vae, levels=count(known, "decoder.up.#."))).get(part, text)
    found = {}
    for name in known:
        for parameter, conversion in today(name):
            if parameter in found:
                raise ValueError(f"has {some([prefix + name, found[parameter][0]])}, which are the same parameter")
            found[parameter] = prefix + name, conversion
    return found


def unet(name, places):
    """[(today's name, conversion)] of a parameter of the UNet."""
    old, new = next((pair for pair in (*UNET, *places.items()) if name.startswith(pair[0])), ("", ""))
    return [(renamed(new + name.removeprefix(old), RESNET), as_it_is)]


def unet_places(names):
    """{how a name of the original UNet begins: how today's}, from its numbers, which have gaps in a slimmed model."""
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


def text(name, projects=True):
    """[(today's name, conversion)] of a tensor of a text encoder, CLIP or OpenCLIP; none for one that is not used."""
    name = name.removeprefix(TEXT_PREFIX)
    if name.startswith(NOT_TEXT) or not projects and name.startswith("text_projection"):
        return []
    if name == "text_projection":                          # x @ P in OpenCLIP, a linear layer today
        return [("text_projection.weight", torch.t)]
    name = OPENCLIP_WHOLE.get(name) or renamed(name, OPENCLIP)
    if fused := re.fullmatch(r"(.*self_attn\.)in_proj_(weight|bias)", name):
        return [(f"{fused[1]}{x}_proj.{fused[2]}", lambda t, i=i: t.chunk(3)[i]) for i, x in enumerate("qkv")]
    return [(name, as_it_is)]


def renamed(name, table):
    name = f".{name}"
    for old, new in table:
        name = name.replace(f".{old}.", f".{new}.")
    return name[1:]


def numbers(names, pattern):
    """The sorted numbers in place of the # of `pattern`, in those names that begin with it."""
    pattern = re.compile(re.escape(pattern).replace(r"\#", r"(\d+)"))
    return sorted({int(match[1]) for match in map(pattern.match, names) if match})


def some(names):
    """The first three of some names, and how many more there are."""
    names = [name if len(name) < 200 else name[:200] + "…" for name in sorted(names)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names[:3]) + more

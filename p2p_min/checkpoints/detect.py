"""Which Stable Diffusion a single file holds: read from its tensors' names and shapes, as configs like a folder's."""
import re
from typing import NamedTuple

from ..checks import PREDICTIONS
from . import names
from .names import UNET_PREFIX as UNET
from .names import VAE_PREFIX as VAE

SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False)
PREDICTION_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")       # in a file's metadata
SPELLINGS = dict(epsilon="epsilon", eps="epsilon", v="v_prediction", v_prediction="v_prediction", v_pred="v_prediction")
ZERO_SNR = re.compile(r"z(ero)?[-_ ]?(t(erminal)?[-_ ]?)?snr|zero[-_ ]?terminal", re.IGNORECASE)
V_SPREAD = 0.09            # of one norm's bias: v-prediction models of 2.x are above it, others below (ComfyUI)
V_BLOCK = 11               # where that norm is in the full UNet of 2.x
SD2_LAYERS = 23            # of OpenCLIP's 24: SD 2.x uses the second to last, with the final norm


class Found(NamedTuple):
    kind: str              # "SD 1.x", "SD 2.x" or "SDXL"
    prefixes: dict         # {part: how the names of its tensors begin}
    configs: dict          # {part: the config that a diffusers folder would have}
    prediction: str        # "epsilon" or "v_prediction"
    why: str               # how the prediction is known
    places: dict           # {prefix of a UNet parameter's name: its prefix in the file}


def recognise(stored, prediction=None, own_vae=True):
    """What an open file holds; its VAE is ignored unless `own_vae`. Raises ValueError, its message beginning with a
    verb, for anything but the three kinds.
    """
    shapes = shapes_of(stored)
    kind, prefixes = family(shapes)
    prediction, why = choose_prediction(stored, shapes, kind, prediction)
    unet, places = unet_config(shapes, kind, prediction)
    configs = dict(unet=unet)
    if own_vae:
        if not any(name.startswith(VAE) for name in shapes):
            raise ValueError(f"has no VAE (nothing in it begins with {VAE}); give one with --vae, a diffusers folder "
                             "vae/ or a single file")
        prefixes["vae"], configs["vae"] = VAE, vae_config(shapes, VAE, kind == "SDXL")
    for part in ("text_encoder", "text_encoder_2"):
        if part in prefixes:
            read = openclip_config if names.is_openclip(prefixes[part]) else clip_config
            configs[part] = read(shapes, prefixes[part])
    if kind == "SD 2.x":
        layers = configs["text_encoder"]["num_hidden_layers"]
        configs["text_encoder"]["num_hidden_layers"] = min(layers, SD2_LAYERS)
    if kind == "SDXL":                                     # its UNet also gets the pooled text and six numbers
        wide = need(shapes, UNET + "label_emb.0.0.weight", 2)[1]
        configs["unet"] |= dict(
            addition_embed_type="text_time", projection_class_embeddings_input_dim=wide,
            addition_time_embed_dim=(wide - configs["text_encoder_2"]["projection_dim"]) // 6)
    return Found(kind, prefixes, configs, prediction, why, places)


def recognise_vae(stored, is_xl):
    """A VAE alone in an open file. Whether it is for SDXL must be given: its tensors do not tell."""
    shapes = shapes_of(stored)
    if any(name.startswith(UNET) for name in shapes):
        raise ValueError("is a whole checkpoint, or a UNet; --vae takes a file with only a VAE")
    prefix = VAE if any(name.startswith(VAE) for name in shapes) else ""
    return Found("VAE", dict(vae=prefix), dict(vae=vae_config(shapes, prefix, is_xl)), "", "", {})


def shapes_of(stored):
    return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}


def family(there):
    """(kind, prefixes) of a checkpoint. Raises ValueError for any other file, saying what it looks like."""
    starts = lambda prefix: any(name.startswith(prefix) for name in there)
    inputs = there.get(UNET + "input_blocks.0.0.weight", ())[1:2]
    if not inputs and any("lora" in name.lower() for name in there):
        raise ValueError("is a LoRA, which changes a checkpoint but is not one; p2p_min does not support LoRAs")
    for known, sign in ((names.UNCLIP, starts("noise_augmentor.") and "it has tensors noise_augmentor."),
                        (names.LCM, any(name.endswith("cond_proj.weight") for name in there) and "it has a cond_proj"),
                        *((names.INPUTS.get(n), f"its UNet takes {n} channels") for n in inputs)):
        if known and sign:
            raise ValueError(f"is {known}, which p2p_min does not run ({sign})")
    inside = [name for name in there if re.match(re.escape(UNET) + r"(down_blocks|up_blocks|mid_block)\.", name)]
    if inside:
        raise ValueError("has diffusers' names left in it, as its conversion script leaves them in a model that it "
                         f"does not know ({names.some(inside)}); give the diffusers folder that it was made from")
    if starts(names.SD_TURBO) and starts(UNET + "label_emb."):
        raise ValueError("is SDXL's refiner, which p2p_min does not run; give the base model")
    if starts(UNET + "input_blocks."):
        for kind, encoders in names.LAYOUTS:
            if all(map(starts, encoders.values())):
                return kind, dict(unet=UNET, **encoders)
        raise ValueError("has a UNet but no text encoder that p2p_min knows; give a complete checkpoint")
    if any(map(starts, ("down_blocks.", "encoder.", "decoder.", "text_model."))):
        raise ValueError("is only one part of a model; give the diffusers folder that holds unet/, vae/, …")
    raise ValueError("is not a Stable Diffusion 1.x, 2.x or XL checkpoint in the original layout; its first tensors "
                     "are " + names.some(there))


def choose_prediction(stored, shapes, kind, given):
    """What the UNet predicts, and how that is known: shapes cannot tell."""
    metadata = stored.metadata() or {}                     # in any order
    said = {key: metadata[key] for key in PREDICTION_KEYS if key in metadata}
    meant = {key: SPELLINGS.get(value.strip().lower().replace("-", "_")) for key, value in said.items()}
    tell = lambda keys: " and ".join(f"{key} = {said[key][:40]!r}" for key in keys)
    told, strange = tell(said), tell(key for key in said if meant[key] is None)
    if "ztsnr" in shapes or any(ZERO_SNR.search(value) for value in said.values()):
        why = "it has a tensor named ztsnr" if "ztsnr" in shapes else f"its metadata say {told}"
        raise ValueError(f"was trained to zero terminal SNR ({why}), which p2p_min does not implement")
    prediction, why = known_prediction(stored, shapes, kind, given, {*meant.values()} - {None}, told)
    return prediction, why + (f"; its metadata say {strange}, which p2p_min does not know" if strange else "")


def known_prediction(stored, shapes, kind, given, meant, told):
    """(prediction, why). meant: the predictions named in the metadata; told: the metadata's words."""
    if given is not None:
        return given, "as given"
    if "v_pred" in shapes:
        return "v_prediction", "it has a tensor named v_pred"
    if len(meant) > 1:
        raise ValueError(f"contradicts itself: its metadata say {told}; choose one with --prediction")
    if meant:
        return *meant, "its metadata say so"
    if kind != "SD 2.x":
        return "epsilon", f"as {kind} has it, unless --prediction says otherwise"
    blocks = numbers(shapes, UNET + "output_blocks.#.1.transformer_blocks.0.norm1.bias")
    if not blocks:
        raise ValueError("has a UNet without attention in its up blocks")
    bias = stored.get_tensor(f"{UNET}output_blocks.{blocks[-1]}.1.transformer_blocks.0.norm1.bias")
    spread = bias.float().std(unbiased=False).item()
    guess = "" if blocks[-1] == V_BLOCK else ", a guess for a UNet that is not the full one of 2.x"
    return PREDICTIONS[spread > V_SPREAD], (f"judged by the spread of one norm, {spread:.3f} against {V_SPREAD}"
                                            f"{guess}, unless --prediction says otherwise")


def unet_blocks(shapes):
    """(layers of each down block, layers of each up block, `Found.places`), from the numbers in the names. They have
    gaps where diffusers' conversion script left out a layer of a slimmed model, and an upsampler may have its own.
    """
    downs, ups, places = [[]], [[]], {}
    for i in numbers(shapes, UNET + "input_blocks.#.")[1:]:
        if f"{UNET}input_blocks.{i}.0.op.weight" in shapes:                    # a downsampler: the block ends here
            places[f"down_blocks.{len(downs) - 1}.downsamplers.0.conv."] = f"input_blocks.{i}.0.op."
            downs.append([])
        else:
            downs[-1].append(f"input_blocks.{i}")
    for i in numbers(shapes, UNET + "output_blocks.#."):
        layer = f"output_blocks.{i}"
        doubles = [f"{layer}.{j}.conv." for j in numbers(shapes, f"{UNET}{layer}.#.conv.")]
        if any(name.startswith(f"{UNET}{layer}.0.") for name in shapes):
            ups[-1].append(layer)                          # the upsampler comes after the other modules
            attends = any(name.startswith(f"{UNET}{layer}.1.transformer_blocks.") for name in shapes)
            doubles = [name for name in doubles if name == f"{layer}.{1 + attends}.conv."]
        if doubles:
            places[f"up_blocks.{len(ups) - 1}.upsamplers.0.conv."] = doubles[0]
            ups.append([])
    if not all(downs):
        raise ValueError("has a UNet with an empty block")
    if [len(block) for block in ups] != [len(block) + 1 for block in reversed(downs)]:
        raise ValueError(f"has a UNet whose down blocks have {list(map(len, downs))} layers and whose up blocks have "
                         f"{list(map(len, ups))}; they should have one more each, in reverse order")
    for way, blocks in (("down", downs), ("up", ups)):
        for i, block in enumerate(blocks):
            for j, layer in enumerate(block):
                places |= {f"{way}_blocks.{i}.{part}.{j}.": f"{layer}.{k}."
                           for k, part in enumerate(("resnets", "attentions"))}
    return downs, ups, places


def unet_config(shapes, kind, prediction):
    """(config, `Found.places`)"""
    size = lambda name, dims: need(shapes, UNET + name, dims)
    depth = lambda layer: len(numbers(shapes, f"{UNET}{layer}.1.transformer_blocks.#."))
    downs, ups, places = unet_blocks(shapes)
    channels = [size(f"{block[0]}.0.out_layers.3.weight", 4)[0] for block in downs]
    downs, ups = ([[depth(layer) for layer in block] for block in blocks] for blocks in (downs, ups))
    mid = depth("middle_block")
    layers = [block if any(block) else 1 for block in downs]                   # the last one is for the middle too
    if not any(downs[-1]):
        layers[-1] = mid or 1
    elif mid not in (0, downs[-1][0]):
        raise ValueError(f"has a UNet whose middle has {mid} transformer layers where its last block has "
                         f"{downs[-1][0]}")
    attends = next((name for name in shapes if name.startswith(UNET) and name.endswith(".attn2.to_k.weight")), None)
    if attends is None:
        raise ValueError("has a UNet without cross-attention")
    linear = len(shapes.get(re.sub(r"transformer_blocks.*", "proj_in.weight", attends), ())) == 2
    middle = any(name.startswith(UNET + "middle_block.") for name in shapes)
    return dict(
        in_channels=size("input_blocks.0.0.weight", 4)[1], out_channels=size("out.2.weight", 4)[0],
        block_out_channels=channels, layers_per_block=list(map(len, downs)),
        cross_attention_dim=need(shapes, attends, 2)[1],
        down_block_types=["CrossAttnDownBlock2D" if any(block) else "DownBlock2D" for block in downs],
        up_block_types=["CrossAttnUpBlock2D" if any(block) else "UpBlock2D" for block in ups],
        mid_block_type="UNetMidBlock2DCrossAttn" if mid else "UNetMidBlock2D" if middle else None,
        transformer_layers_per_block=layers,
        reverse_transformer_layers_per_block=[block if any(block) else 1 for block in ups],
        use_linear_projection=linear, attention_head_dim=[n // 64 for n in channels] if linear else 8,
        upcast_attention=kind == "SD 2.x",
        sample_size=128 if kind == "SDXL" else 96 if (kind, prediction) == ("SD 2.x", "v_prediction") else 64), places


def vae_config(shapes, prefix, is_xl):
    """Names are the original's; in a file with only a VAE they may be today's."""
    is_todays = f"{prefix}encoder.down_blocks.0.resnets.0.conv2.weight" in shapes
    down, layer = ("down_blocks", "resnets") if is_todays else ("down", "block")
    blocks = numbers(shapes, f"{prefix}encoder.{down}.#.")
    width = lambda i: need(shapes, f"{prefix}encoder.{down}.{i}.{layer}.0.conv2.weight", 4)[0]
    return dict(
        block_out_channels=list(map(width, blocks or [0])),
        layers_per_block=len(numbers(shapes, f"{prefix}encoder.{down}.0.{layer}.#.")),
        latent_channels=need(shapes, prefix + "quant_conv.weight", 4)[0] // 2,
        down_block_types=["DownEncoderBlock2D"] * len(blocks), up_block_types=["UpDecoderBlock2D"] * len(blocks),
        mid_block_add_attention=any(name.startswith((f"{prefix}encoder.mid.attn_1.", f"{prefix}encoder.mid_block.att"))
                                    for name in shapes),
        force_upcast=is_xl, scaling_factor=scaling_factor(is_xl))


def scaling_factor(is_xl):
    """What the latents of an official VAE are multiplied by."""
    return 0.13025 if is_xl else 0.18215


def clip_config(shapes, prefix):
    size = lambda name: need(shapes, prefix + name, 2)
    return text_config(size("embeddings.token_embedding.weight"), size("embeddings.position_embedding.weight"),
                       size("encoder.layers.0.mlp.fc1.weight"), numbers(shapes, prefix + "encoder.layers.#."),
                       "quick_gelu")


def openclip_config(shapes, prefix):
    size = lambda name: need(shapes, prefix + name, 2)
    config = text_config(size("token_embedding.weight"), size("positional_embedding"),
                         size("transformer.resblocks.0.mlp.c_fc.weight"),
                         numbers(shapes, prefix + "transformer.resblocks.#."), "gelu")
    if prefix + "text_projection.weight" in shapes:        # a linear layer's, transposed
        config["projection_dim"] = size("text_projection.weight")[0]
    elif prefix + "text_projection" in shapes:
        config["projection_dim"] = size("text_projection")[1]
    return config


def text_config(tokens, positions, inner, layers, activation):
    return dict(vocab_size=tokens[0], hidden_size=tokens[1], num_hidden_layers=len(layers), projection_dim=tokens[1],
                num_attention_heads=tokens[1] // 64, hidden_act=activation, max_position_embeddings=positions[0],
                intermediate_size=inner[0])


def numbers(there, pattern):
    """The sorted numbers in place of the # of `pattern`, in those names `there` that begin with it."""
    pattern = re.compile(re.escape(pattern).replace(r"\#", r"(\d+)"))
    return sorted({int(match[1]) for match in map(pattern.match, there) if match})


def need(shapes, name, dims):
    """The shape of a tensor that must be there."""
    if name not in shapes:
        raise ValueError(f"lacks {name}")
    if len(shapes[name]) != dims:
        raise ValueError(f"has a tensor {name} of shape {shapes[name]}, which should have {dims} dimensions")
    return shapes[name]

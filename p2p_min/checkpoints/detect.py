"""Which Stable Diffusion a single file holds: read from its tensors' names and shapes, as configs like a folder's."""
import re
from collections import namedtuple

from ..checks import PREDICTIONS
from .names import count, some, sources

# How the names of each part begin. If a kind has several layouts, the first that fits is used.
UNET, VAE, SD_TURBO = "model.diffusion_model.", "first_stage_model.", "conditioner.embedders.0.model."
LAYOUTS = (
    ("SDXL", dict(text_encoder="conditioner.embedders.0.transformer.",
                  text_encoder_2="conditioner.embedders.1.model.")),
    ("SD 2.x", dict(text_encoder="cond_stage_model.model.")), ("SD 2.x", dict(text_encoder=SD_TURBO)),
    ("SD 1.x", dict(text_encoder="cond_stage_model.transformer.")))
# What else such a file may hold, though none of it is needed: averages, schedules, leftovers of training.
IGNORED = re.compile(
    r"(first_stage_model\.)?(model_ema|loss)\..*|v_pred|ztsnr|betas|((sqrt|log)_)?(one_minus_|recip_|"
    r"recipm1_)?alphas_cumprod(_prev)?|posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights|"
    r"scale_factor|denoiser\.sigmas|(global_step|epoch|optimizer|optimizer_states|lr_schedulers|callbacks|"
    r"loops)(\..*)?|.*\.(position_ids|attn_mask|logit_scale)|(cond_stage_model|"
    r"conditioner\.embedders\.0)\..*text_projection(\.weight)?")
INPUTS = {5: "a depth model", 7: "an upscaler", 8: "an instruct-pix2pix model", 9: "an inpainting model"}  # by channels

SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False)
PREDICTION_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")       # in a file's metadata
SPELLINGS = dict(epsilon="epsilon", eps="epsilon", v="v_prediction", v_prediction="v_prediction", v_pred="v_prediction")
ZERO_SNR = re.compile(r"z(ero)?[-_ ]?(t(erminal)?[-_ ]?)?snr|zero[-_ ]?terminal", re.IGNORECASE)
# What the tensors of an official VAE do not tell, without and with SDXL; latents are multiplied by the factor.
VAES = dict(force_upcast=False, scaling_factor=0.18215), dict(force_upcast=True, scaling_factor=0.13025)
V_SPREAD = 0.09            # of one norm's bias: v-prediction models of 2.x are above it, others below (ComfyUI)
SD2_LAYERS = 23            # of OpenCLIP's 24: SD 2.x uses the second to last, with the final norm
# What `detect` gives: "SD 1.x", "SD 2.x" or "SDXL"; {part: the config that a diffusers folder would have}; {part: its
# `names.sources`}; "epsilon" or "v_prediction", and how that is known; the spacing of the timesteps.
Found = namedtuple("Found", "kind configs sources prediction why spacing")


def detect(stored, prediction=None, own_vae=True):
    """What an open file holds, its VAE only if `own_vae`. Raises ValueError, beginning with a verb, for other kinds."""
    names = [name for name in stored if not IGNORED.fullmatch(name) and (own_vae or not name.startswith(VAE))]
    kind, prefixes = family(stored, names)
    if own_vae:
        prefixes["vae"] = VAE
        if not any(name.startswith(VAE) for name in names):
            raise ValueError("has no VAE; give one with --vae, a diffusers folder vae/ or a single file")
    parts = find_parts(names, prefixes)
    # The configs; what the tensors do not tell is the same in all models of a kind.
    make = dict(unet=unet_config, vae=vae_config)
    configs = {part: make.get(part, text_config)(*view(stored, parts[part])) for part in parts}
    prediction, why = choose_prediction(stored, parts["unet"], kind, prediction)
    unet, text = configs["unet"], configs["text_encoder"]
    if kind == "SD 2.x":
        unet |= dict(upcast_attention=True, sample_size=96 if prediction == "v_prediction" else 64)
        text |= dict(hidden_act="gelu", num_hidden_layers=min(SD2_LAYERS, text["num_hidden_layers"]))
    if kind == "SDXL":                                     # its UNet also gets the pooled text and six numbers
        second = configs["text_encoder_2"]
        second["hidden_act"] = "gelu"
        added = view(stored, parts["unet"])[1]("add_embedding.linear_1.weight")[1]
        unet |= dict(sample_size=128, addition_embed_type="text_time", projection_class_embeddings_input_dim=added,
                     addition_time_embed_dim=(added - second["projection_dim"]) // 6)
    if own_vae:
        configs["vae"] |= VAES[kind == "SDXL"]
    return Found(kind, configs, parts, prediction, why, "trailing" if SD_TURBO in prefixes.values() else "leading")


def find_parts(names, prefixes):
    """{part: its `sources`}, by how its names begin. Raises ValueError for a name that belongs to no part."""
    parts = {part: sources(part, names, prefix) for part, prefix in prefixes.items()}
    used = {name for part in parts.values() for name, _ in part.values()}
    if unknown := [name for name in names if name not in used]:
        raise ValueError(f"has tensors that p2p_min does not know: {some(unknown)}")
    return parts


def view(stored, part):
    """(today's names of a part, the function that gives the shape of one of them)"""
    def shape(name):
        if name not in part:
            raise ValueError(f"lacks {name}")
        stored_name, convert = part[name]
        return tuple(convert(stored[stored_name].get_tensor(stored_name)).shape)
    return list(part), shape


def family(stored, names):
    """(kind, prefixes) of a checkpoint. Raises ValueError for any other file, saying what it looks like."""
    starts = lambda *prefixes: any(name.startswith(prefixes) for name in names)
    first = UNET + "input_blocks.0.0.weight"
    inputs = stored[first].get_slice(first).get_shape()[1] if first in stored else None
    is_unet = starts(UNET + "input_blocks.")
    kinds = [(kind, dict(unet=UNET, **parts)) for kind, parts in LAYOUTS if all(map(starts, parts.values()))]
    signs = (                          # what the file is, whether it is that
        ("a LoRA, which changes a checkpoint but is not one", not is_unet and any("lora" in name for name in names)),
        ("an unCLIP model (it has tensors noise_augmentor.)", starts("noise_augmentor.")),
        ("an LCM (it has a cond_proj)", any(name.endswith("cond_proj.weight") for name in names)),
        (f"{INPUTS.get(inputs)} (its UNet takes {inputs} channels)", inputs in INPUTS),
        ("SDXL's refiner, not the base model", starts(SD_TURBO) and starts(UNET + "label_emb.")),
        ("one part of a model, not the diffusers folder that holds unet/, vae/, …",
         not starts(UNET) and starts("down_blocks.", "encoder.", "decoder.", "text_model.")),
        ("a UNet without a text encoder that p2p_min knows, not a complete checkpoint", is_unet and not kinds),
        (f"not a Stable Diffusion 1.x, 2.x or XL in the original layout (it begins with {some(names)})", not is_unet))
    if what := next((what for what, is_it in signs if is_it), None):
        raise ValueError(f"is {what}: p2p_min does not run it")
    return kinds[0]


def choose_prediction(stored, unet, kind, given):
    """(what the UNet predicts, how that is known): shapes cannot tell."""
    metadata = next(iter(stored.values())).metadata() or {}
    said = [metadata[key] for key in PREDICTION_KEYS if key in metadata]
    metadata_say = f"its metadata say {' and '.join(said)[:80]!r}"
    if "ztsnr" in stored or any(map(ZERO_SNR.search, said)):
        why = "it has a tensor named ztsnr" if "ztsnr" in stored else metadata_say
        raise ValueError(f"was trained to zero terminal SNR ({why}), which p2p_min does not implement")
    meant = list(filter(None, (SPELLINGS.get(word.strip().lower().replace("-", "_")) for word in said)))
    note = "" if len(meant) == len(said) else f"; {metadata_say}"
    if given is not None:
        return given, "as given"
    if "v_pred" in stored:
        return "v_prediction", "it has a tensor named v_pred"
    if meant:
        return meant[0], "its metadata say so"
    if kind != "SD 2.x":
        return "epsilon", f"as {kind} has it, unless --prediction says otherwise{note}"
    norm = max(name for name in unet if re.match(r"up_blocks.*\.transformer_blocks\.0\.norm1\.bias", name))
    spread = stored[unet[norm][0]].get_tensor(unet[norm][0]).float().std(unbiased=False).item()
    if not norm.startswith("up_blocks.3.attentions.2."):   # of the UNet for which the limit is known
        note = f", a guess for a slimmed UNet{note}"
    why = f"judged by the spread of one norm, {spread:.3f} against {V_SPREAD}, unless --prediction says otherwise"
    return PREDICTIONS[spread > V_SPREAD], why + note


def unet_config(names, shape):
    blocks = range(count(names, "down_blocks.#."))
    # The layers of each transformer, block by block, with 0 where a resnet has none.
    depths = lambda way: [[count(names, f"{way}_blocks.{i}.attentions.{j}.transformer_blocks.#.")
                           for j in range(count(names, f"{way}_blocks.{i}.resnets.#."))] for i in blocks]
    down, up, mid = depths("down"), depths("up"), count(names, "mid_block.attentions.0.transformer_blocks.#.")
    layers, layers_up = ([depth if any(depth) else 1 for depth in way] for way in (down, up))
    if not any(down[-1]):
        layers[-1] = mid or 1                              # the last one is for the middle too
    to_k = next((name for name in names if name.endswith(".attn2.to_k.weight")), "any cross-attention")
    is_linear = len(shape(re.sub(r"transformer_blocks.*", "proj_in.weight", to_k))) == 2
    has_middle = any(name.startswith("mid_block.") for name in names)
    channels = [shape(f"down_blocks.{i}.resnets.0.conv2.weight")[0] for i in blocks]
    return dict(
        sample_size=64, in_channels=shape("conv_in.weight")[1], out_channels=shape("conv_out.weight")[0],
        block_out_channels=channels, layers_per_block=list(map(len, down)), cross_attention_dim=shape(to_k)[1],
        down_block_types=["CrossAttnDownBlock2D" if any(depth) else "DownBlock2D" for depth in down],
        up_block_types=["CrossAttnUpBlock2D" if any(depth) else "UpBlock2D" for depth in up],
        mid_block_type="UNetMidBlock2DCrossAttn" if mid else "UNetMidBlock2D" if has_middle else None,
        transformer_layers_per_block=layers, reverse_transformer_layers_per_block=layers_up,
        use_linear_projection=is_linear, attention_head_dim=[n // 64 for n in channels] if is_linear else 8)


def vae_config(names, shape):
    n = count(names, "encoder.down_blocks.#.")
    return dict(
        block_out_channels=[shape(f"encoder.down_blocks.{i}.resnets.0.conv2.weight")[0] for i in range(max(n, 1))],
        layers_per_block=count(names, "encoder.down_blocks.0.resnets.#."),
        latent_channels=shape("quant_conv.weight")[0] // 2,
        down_block_types=["DownEncoderBlock2D"] * n, up_block_types=["UpDecoderBlock2D"] * n,
        mid_block_add_attention=any(name.startswith("encoder.mid_block.attentions.") for name in names))


def text_config(names, shape):
    """Of CLIP; OpenCLIP has another activation."""
    (tokens, width), projection = shape("embeddings.token_embedding.weight"), "text_projection.weight"
    return dict(
        vocab_size=tokens, hidden_size=width, num_attention_heads=width // 64, hidden_act="quick_gelu",
        intermediate_size=shape("encoder.layers.0.mlp.fc1.weight")[0],
        max_position_embeddings=shape("embeddings.position_embedding.weight")[0],
        num_hidden_layers=count(names, "encoder.layers.#."),
        projection_dim=shape(projection)[0] if projection in names else width)

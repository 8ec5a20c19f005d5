"""A folder in the diffusers layout: a config and one or more safetensors files for each part."""
import re

from ..ddim import Schedule
from ..networks.config import FLAG, read_config
from . import names
from .tensors import (
    PARTS,
    default_dtype,
    describe,
    fill,
    in_one_line,
    open_weights,
    part_dtype,
    read_json,
    refuse_pickle,
)
from .tokenizers import choose_tokenizer, fit_tokenizer

INDEX = dict(force_zeros_for_empty_prompt=(True, FLAG))
RENAME = dict(unet=str, vae=names.vae, text_encoder=names.text, text_encoder_2=names.text)


def load_folder(folder, device, dtype, prediction, spacing, tokenizer, own_vae):
    """The parts of a `Model`, by name; without `own_vae` its VAE is skipped."""
    check_folder(folder, own_vae)
    parts, about, is_xl = {}, [], (folder / "text_encoder_2").is_dir()
    configs = {name: read_json(folder / name / "config.json") for name in PARTS
               if (name != "text_encoder_2" or is_xl) and (name != "vae" or own_vae)}
    own = {name: folder / name.replace("text_encoder", "tokenizer") for name in configs if "text_encoder" in name}
    words = choose_tokenizer(tokenizer, own, configs)
    for name, config in configs.items():
        parts[name], said = load_part(name, folder / name, device, dtype, is_xl, config)
        about += said
        dtype = dtype or next(parts["unet"].parameters()).dtype
    fit_tokenizer(words, {name: parts[name].config.to_dict() for name in own})
    schedule = load_schedule(folder / "scheduler" / "scheduler_config.json")
    schedule = schedule._replace(prediction=prediction or schedule.prediction, spacing=spacing or schedule.spacing)
    index = folder / "model_index.json"
    index = read_config(read_json(index) if index.is_file() else {}, str(index), INDEX)
    return dict(parts, tokenizer=words, schedule=schedule, about="; ".join(about),
                zeros_for_empty=index["force_zeros_for_empty_prompt"])


def check_folder(folder, own_vae):
    if (folder / "text_encoder_2").is_dir() and not (folder / "text_encoder").is_dir():
        raise ValueError(f"{folder} is SDXL's refiner, which p2p_min does not run; give the base model")
    second = ["tokenizer_2"] * (folder / "text_encoder_2").is_dir()
    for name in ("unet", *["vae"] * own_vae, "text_encoder", "tokenizer", "scheduler", *second):
        if not (folder / name).is_dir():
            there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            why = "it is not a diffusers checkpoint" if name != "vae" else "use --vae for a VAE from elsewhere"
            raise FileNotFoundError(f"{folder} has no folder {name}/ ({why}); it holds {there}")


def load_part(name, folder, device, dtype, is_xl=False, config=None):
    """(the module, notes about it for the user: a list). config: the folder's own, if it was read before."""
    config, file = config or read_json(folder / "config.json"), weights_file(name, folder, dtype)
    config = of_its_age(name, config, is_xl)
    refuse_kind(name, config, folder)
    with open_weights(file) as stored:
        dtype = dtype or default_dtype(stored, device)
        module = describe(PARTS[name], config, folder / "config.json")
        behind = layers_behind(module, stored.keys()) if name.startswith("text") else {}
        sources = folder_sources(module, [key for key in stored.keys() if key not in behind], RENAME[name], file)
        about = [f"{name} without the last {len(set(behind.values()))} of its {max(behind.values()) + 1} layers, as "
                 "its config says (CLIP skip)"] if behind else []
        return fill(module, stored, sources, file, device, part_dtype(name, config, dtype)), about


def of_its_age(part, config, is_xl):
    """A part's config as diffusers would write it today: older versions left things out, or wrote them differently."""
    version = [int(number) for number in re.findall(r"\d{1,9}", str(config.get("_diffusers_version")))[:2]]
    if part == "unet" and config.get("sample_size") == 32 and [] < version < [0, 9]:
        return dict(config, sample_size=64)
    if part == "vae" and is_xl and config.get("force_upcast") is None:         # the key was new in July 2023
        return dict(config, force_upcast=True)
    return config


def refuse_kind(part, config, folder):
    """Raises ValueError for a UNet of a known kind that p2p_min does not run."""
    for key, is_it, kind in (("time_cond_proj_dim", config.get("time_cond_proj_dim") is not None, names.LCM),
                             ("class_embed_type", config.get("class_embed_type") == "projection", names.UNCLIP)):
        if part == "unet" and is_it:
            raise ValueError(f"{folder} holds {kind}, which p2p_min does not run (its config has {key} = "
                             f"{config[key]!r})")


def weights_file(part, folder, dtype):
    """The safetensors file of a part, or the index of its shards; of two precisions, the one that fits `dtype`."""
    try:
        found = names.weights(part, [file.name for file in folder.iterdir() if file.is_file()], dtype)
    except ValueError as error:
        raise in_one_line(folder, error) from None
    if found is None:
        for file in sorted(folder.iterdir()):
            refuse_pickle(file)
            if re.search(r"-\d{5}-of-\d{5}\.", file.name):
                raise FileNotFoundError(f"{folder} has shards, such as {file.name}, but no index "
                                        f"of them, {names.STEMS[part]}.safetensors.index.json")
        raise FileNotFoundError(f"{folder} has no {names.STEMS[part]}.safetensors, nor one in half precision or in "
                                "shards")
    return folder / found


def layers_behind(module, there):
    """{name: layer} of the text layers in a file that come after the last one in the config (CLIP skip)."""
    own = {name.removeprefix(names.TEXT_PREFIX) for name in module.state_dict()}
    found = {name: re.fullmatch(r"encoder\.layers\.(\d{1,3})\.(.+)", name.removeprefix(names.TEXT_PREFIX))
             for name in there}
    return {name: int(layer[1]) for name, layer in found.items() if layer
            and int(layer[1]) >= module.config.num_hidden_layers and f"encoder.layers.0.{layer[2]}" in own}


def folder_sources(module, stored_names, rename, file):
    """{parameter: (name in the file, None)}; names not in the module are kept, and `fill` refuses them."""
    own = {name.removeprefix(names.TEXT_PREFIX): name for name in module.state_dict()}     # not all files have it
    sources = {}
    for name in stored_names:
        new = own.get(rename(name), rename(name))
        if new in sources:
            raise ValueError(f"{file} has {names.some([name, sources[new][0]])}, which are the same parameter")
        if new is not None:
            sources[new] = name, None
    return sources


def load_schedule(file):
    config = read_json(file)
    try:
        return Schedule.from_config(config)
    except Exception as error:
        raise in_one_line(f"{file}:", error) from error

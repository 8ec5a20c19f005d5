"""A folder in the diffusers layout: a config and one or more safetensors files for each part."""
import re

from ..ddim import Schedule
from ..networks.text import KEYS
from . import names
from .tensors import blaming, default_dtype, load_part, open_weights, read_json, read_settings
from .tokenizers import choose_tokenizer, fit_tokenizer

INDEX = dict(force_zeros_for_empty_prompt=(True, bool))


def load_folder(folder, device, dtype, prediction, spacing, tokenizer, own_vae):
    """The parts of a `Model`, by name; without `own_vae` its VAE is skipped."""
    is_xl = (folder / "text_encoder_2").is_dir()
    if is_xl and not (folder / "text_encoder").is_dir():
        raise ValueError(f"{folder} is SDXL's refiner, which p2p_min does not run; give the base model")
    words = ["tokenizer", *["tokenizer_2"] * is_xl] * (tokenizer is None)
    for name in ("unet", *["vae"] * own_vae, "text_encoder", *words, "scheduler"):
        if not (folder / name).is_dir():
            content = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            why = "it is not a diffusers checkpoint" if name != "vae" else "use --vae for a VAE from elsewhere"
            raise FileNotFoundError(f"{folder} has no folder {name}/ ({why}); it holds {content}")
    # The text, which decides some of the encoders' settings.
    encoders = ["text_encoder"] + ["text_encoder_2"] * is_xl
    configs = {name: read_config_file(name, folder / name, is_xl) for name in ("unet", *encoders, *["vae"] * own_vae)}
    own = {name: folder / name.replace("text_encoder", "tokenizer") for name in encoders}
    words = choose_tokenizer(tokenizer, own, configs)
    # The networks, in the dtype of the UNet.
    parts = {}
    for name, config in configs.items():
        parts[name] = load_network(name, folder / name, device, dtype, config)
        dtype = dtype or next(parts["unet"].parameters()).dtype
    fit_tokenizer(words, [parts[name].config for name in encoders])
    # The schedule, and whether an empty negative prompt is zeros.
    file = folder / "scheduler" / "scheduler_config.json"
    config = read_json(file)
    with blaming(f"{file}:"):
        schedule = Schedule.from_config(config)
    schedule = schedule._replace(prediction=prediction or schedule.prediction, spacing=spacing or schedule.spacing)
    zeros = read_settings(folder / "model_index.json", INDEX)["force_zeros_for_empty_prompt"]
    about = [f"{name} without the last {n} of its layers: CLIP skip" for name in encoders if (n := parts[name].skipped)]
    return dict(parts, tokenizer=words, schedule=schedule, zeros_for_empty=zeros, about=about)


def read_config_file(part, folder, is_xl):
    """A part's config as diffusers would write it today: older versions left things out, or wrote them differently."""
    config = read_json(folder / "config.json")
    version = [int(number) for number in re.findall(r"\d{1,9}", str(config.get("_diffusers_version")))[:2]]
    if part == "unet" and config.get("sample_size") == 32 and [] < version < [0, 9]:
        return config | dict(sample_size=64)
    if part == "vae" and is_xl and config.get("force_upcast") is None:         # the key was new in July 2023
        return config | dict(force_upcast=True)
    if part.startswith("text") and isinstance(config.get("text_config"), dict):            # of a whole CLIPModel
        return {key: value for key, value in config["text_config"].items() if key in KEYS}
    return config


def load_network(part, folder, device, dtype, config):
    """The module of a part in its own folder; dtype None: as `default_dtype` has it."""
    files = sorted(file.name for file in folder.iterdir() if file.is_file())
    with blaming(folder):
        found = names.weights_file(part, files, dtype)
    pickled = [name for name in files if name.endswith(names.PICKLED)]
    if found is None and not pickled:
        stem = f"{names.STEMS[part]}.safetensors"
        raise FileNotFoundError(f"{folder} has no {stem}, no variant of it and no index of shards, {stem}.index.json")
    file = folder / (found or pickled[0])                  # which is refused as what it is
    with open_weights(file) as stored:
        with blaming(file):
            sources = names.sources(part, stored)
        dtype = dtype or default_dtype(stored, sources, device)
        return load_part(part, config, folder / "config.json", stored, sources, file, device, dtype)

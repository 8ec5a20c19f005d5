"""A folder in the diffusers layout: a config and one or more safetensors files for each part."""
import re

from ..ddim import Schedule
from ..networks.config import read_config
from . import names
from .tensors import blaming, default_dtype, load_part, open_weights, read_json, refuse_pickle
from .tokenizers import choose_tokenizer, fit_tokenizer

INDEX = dict(force_zeros_for_empty_prompt=(True, bool))


def load_folder(folder, device, dtype, prediction, spacing, tokenizer, own_vae):
    """The parts of a `Model`, by name; without `own_vae` its VAE is skipped."""
    is_xl = (folder / "text_encoder_2").is_dir()
    check_folder(folder, is_xl, own_vae)
    # The text, which decides some of the encoders' settings.
    encoders = ["text_encoder"] + ["text_encoder_2"] * is_xl
    configs = {name: read_config_file(name, folder / name, is_xl)
               for name in ("unet", *encoders, *["vae"] * own_vae)}
    own = {name: folder / name.replace("text_encoder", "tokenizer") for name in encoders}
    words = choose_tokenizer(tokenizer, own, configs)
    # The networks, in the dtype of the UNet.
    parts = {}
    for name, config in configs.items():
        parts[name] = load_network(name, folder / name, device, dtype, config)
        dtype = dtype or next(parts["unet"].parameters()).dtype
    fit_tokenizer(words, [parts[name].config for name in encoders])
    # The schedule, and whether an empty negative prompt is zeros.
    config = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_json(config)
    with blaming(f"{config}:"):
        schedule = Schedule.from_config(scheduler)
    schedule = schedule._replace(prediction=prediction or schedule.prediction, spacing=spacing or schedule.spacing)
    index = folder / "model_index.json"
    index = read_config(read_json(index) if index.is_file() else {}, str(index), INDEX, ignored=None)
    return dict(parts, tokenizer=words, schedule=schedule, zeros_for_empty=index["force_zeros_for_empty_prompt"])


def check_folder(folder, is_xl, own_vae):
    """Raises ValueError or FileNotFoundError if a part is missing."""
    if is_xl and not (folder / "text_encoder").is_dir():
        raise ValueError(f"{folder} is SDXL's refiner, which p2p_min does not run; give the base model")
    for name in ("unet", *["vae"] * own_vae, "text_encoder", "tokenizer", "scheduler", *["tokenizer_2"] * is_xl):
        if not (folder / name).is_dir():
            content = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            why = "it is not a diffusers checkpoint" if name != "vae" else "use --vae for a VAE from elsewhere"
            raise FileNotFoundError(f"{folder} has no folder {name}/ ({why}); it holds {content}")


def read_config_file(part, folder, is_xl):
    """A part's config as diffusers would write it today: older versions left things out, or wrote them differently."""
    config = read_json(folder / "config.json")
    version = [int(number) for number in re.findall(r"\d{1,9}", str(config.get("_diffusers_version")))[:2]]
    if part == "unet" and config.get("sample_size") == 32 and [] < version < [0, 9]:
        return config | dict(sample_size=64)
    if part == "vae" and is_xl and config.get("force_upcast") is None:         # the key was new in July 2023
        return config | dict(force_upcast=True)
    return config


def load_network(part, folder, device, dtype, config):
    """The module of a part in its own folder; dtype None: as `default_dtype` has it."""
    file = weights_file(part, folder, dtype)
    with open_weights(file) as stored:
        with blaming(file):
            sources = names.sources(part, stored)
        dtype = dtype or default_dtype(stored, sources, device)
        return load_part(part, config, folder / "config.json", stored, sources, file, device, dtype)


def weights_file(part, folder, dtype):
    """The safetensors file of a part, or the index of its shards; of two precisions, the one that fits `dtype`."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    with blaming(folder):
        found = names.weights_file(part, [file.name for file in files], dtype)
    if found is None:
        for file in files:
            refuse_pickle(file)
        shards = [file.name for file in files if re.search(r"-\d{5}-of-\d{5}\.", file.name)]
        lacking = f"index, {names.STEMS[part]}.safetensors.index.json, of its shards" if shards else (
            f"{names.STEMS[part]}.safetensors, nor one in half precision or in shards")
        raise FileNotFoundError(f"{folder} has no {lacking}")
    return folder / found

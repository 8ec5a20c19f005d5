"""A folder in the diffusers layout: a config and a safetensors file for each part."""
import json

import torch

from ..ddim import Schedule
from . import names
from .filling import PARTS, default_dtype, describe, fill, in_one_line, open_file, part_dtype
from .hub import refuse_pickle
from .tokenizers import choose_tokenizer, fit_tokenizer

RENAME = dict(unet=str, vae=names.vae, text_encoder=names.text, text_encoder_2=names.text)


def load_folder(folder, device, dtype, prediction, spacing, tokenizer):
    """The parts of a `Model`, by name."""
    check_folder(folder)
    parts, configs = {}, {name: read_json(folder / name / "config.json") for name in PARTS if (folder / name).is_dir()}
    own = {name: folder / name.replace("text_encoder", "tokenizer") for name in configs if "text_encoder" in name}
    words = choose_tokenizer(tokenizer, own, configs)
    for name, config in configs.items():
        parts[name] = load_part(name, folder / name, device, dtype, config)
        dtype = dtype or next(parts["unet"].parameters()).dtype
    fit_tokenizer(words, {name: parts[name].config.to_dict() for name in own})
    schedule = load_schedule(folder / "scheduler" / "scheduler_config.json")
    schedule = schedule._replace(prediction=prediction or schedule.prediction, spacing=spacing or schedule.spacing)
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    zeros = bool(index.get("force_zeros_for_empty_prompt", True))
    return dict(parts, tokenizer=words, schedule=schedule, zeros_for_empty=zeros)


def check_folder(folder):
    if (folder / "text_encoder_2").is_dir() and not (folder / "text_encoder").is_dir():
        raise ValueError(f"{folder} is SDXL's refiner, which p2p_min does not run; give the base model")
    second = ["tokenizer_2"] * (folder / "text_encoder_2").is_dir()
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", *second):
        if not (folder / name).is_dir():
            there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(f"{folder} has no folder {name}/ (it is not a diffusers checkpoint); it holds "
                                    f"{there}")


def load_part(name, folder, device, dtype, config=None):
    config = read_json(folder / "config.json") if config is None else config
    file = weights_file(folder, names.WEIGHTS[name], dtype)
    with open_file(file) as stored:
        dtype = dtype or default_dtype(stored, device)
        module = describe(PARTS[name], config, folder / "config.json")
        sources = folder_sources(module, stored.keys(), RENAME[name], file)
        return fill(module, stored, sources, file, device, part_dtype(name, config, dtype))


def weights_file(folder, files, dtype):
    """The safetensors file of a part; where there is a half-precision one beside it, the one that fits `dtype`."""
    there = [folder / name for name in files if (folder / name).is_file()]
    if there:
        return there[-1] if dtype in (torch.float16, torch.bfloat16) else there[0]
    for file in sorted(folder.iterdir()):
        refuse_pickle(file)
    raise FileNotFoundError(f"{folder} has no {' or '.join(files)}")


def folder_sources(module, stored_names, rename, file):
    """{parameter: (name in the file, None)}; what the module does not have keeps its name, for `fill` to refuse."""
    own = {name.removeprefix(names.TEXT_PREFIX): name for name in module.state_dict()}     # that prefix comes and goes
    sources = {}
    for name in stored_names:
        new = own.get(rename(name), rename(name))
        if new in sources:
            raise ValueError(f"{file} has {names.some([name, sources[new][0]])}, which are one parameter")
        if new is not None:
            sources[new] = name, None
    return sources


def read_json(file):
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return config


def load_schedule(file):
    config = read_json(file)
    try:
        return Schedule.from_config(config)
    except Exception as error:
        raise in_one_line(f"{file}:", error) from error

"""A single file in the original layout, recognised by its tensors; and a VAE alone, in a file or a folder."""
import re

from ..ddim import Schedule
from ..networks.config import read_config
from ..networks.vae import SCALE
from . import names
from .detect import SCHEDULER, recognise, recognise_vae, scaling_factor
from .folder import load_part
from .tensors import PARTS, default_dtype, describe, fill, in_one_line, open_file, part_dtype, read_json
from .tokenizers import choose_tokenizer, find_tokenizer, fit_tokenizer


def load_file(file, device, dtype, prediction, spacing, tokenizer, own_vae):
    """The parts of a `Model`, by name. All tensors of the file must be known; without `own_vae` its VAE is skipped.

    Tensors are not checked for being finite: that would read the whole memory-mapped file. Pictures are (editing.py).
    """
    with open_file(file) as stored:
        try:
            found = recognise(stored, prediction, own_vae)
        except Exception as error:
            raise in_one_line(file, error) from error
        words = choose_tokenizer(find_tokenizer(file, tokenizer), {}, found.configs)
        fit_tokenizer(words, found.configs)
        dtype = dtype or default_dtype(stored, device, found.prefixes["unet"])
        there = [name for name in stored.keys() if own_vae or not name.startswith(names.VAE_PREFIX)]
        parts = read(stored, there, found, file, device, dtype)
    spacing = spacing or ("trailing" if found.prefixes["text_encoder"] == names.SD_TURBO else "leading")
    schedule = Schedule.from_config(dict(SCHEDULER, prediction_type=found.prediction, timestep_spacing=spacing))
    about = f"{found.kind}, {found.prediction}: {found.why}; {spacing} timesteps, see --spacing"
    if any(re.match(r"(first_stage_model\.)?model_ema\.(?!decay$|num_updates$)", name) for name in there):
        about += "; its averaged weights (model_ema.) are ignored"
    return dict(parts, tokenizer=words, schedule=schedule, about=about)


def load_vae(file, path, parts, device):
    """The VAE in its own folder or file, for the checkpoint at `path` whose other `parts` are already loaded."""
    if not file.exists():
        raise FileNotFoundError(f"there is no VAE at {file}; --vae takes a diffusers folder vae/ or a single file")
    if (file / "vae").is_dir():
        raise ValueError(f"{file} is a whole checkpoint; give its folder {file / 'vae'} to --vae")
    dtype, is_xl, config = next(parts["unet"].parameters()).dtype, "text_encoder_2" in parts, path / "vae/config.json"
    said, usual = read_json(config) if config.is_file() else {}, scaling_factor(is_xl)
    scale = read_config(said, str(config), dict(scaling_factor=(usual, SCALE)))["scaling_factor"]
    if file.is_dir():
        vae, _ = load_part("vae", file, device, dtype, is_xl)
    else:
        with open_file(file) as stored:
            try:
                found = recognise_vae(stored, is_xl)
            except Exception as error:
                raise in_one_line(file, error) from error
            vae = read(stored, list(stored.keys()), found, file, device, dtype)["vae"]
    if vae.config["scaling_factor"] != scale:
        raise ValueError(f"the VAE {file} scales its latents by {vae.config['scaling_factor']}, {path} needs {scale}: "
                         "they are for different kinds of models")
    return vae


def read(stored, there, found, file, device, dtype):
    """{part: module} of an open file, from what was `found` in it. All names that are `there` must be known."""
    modules, sources, has = {}, {}, set(there)
    for part, config in found.configs.items():
        modules[part] = describe(PARTS[part], config, file)
        sources[part] = {name: names.original(part, name, found, has) for name in modules[part].state_dict()}
    used = {stored_name for of_part in sources.values() for stored_name, _ in of_part.values()}
    unknown = [name for name in there if name not in used and not names.is_ignored(name, found)]
    if lora := [name for name in unknown if "lora" in name.lower()]:
        raise ValueError(f"{file} has tensors of a LoRA besides its own, which p2p_min does not apply: "
                         f"{names.some(lora)}")
    if unknown:
        raise ValueError(f"{file} has tensors that p2p_min does not know: {names.some(unknown)}")
    return {part: fill(module, stored, sources[part], file, device, part_dtype(part, found.configs[part], dtype))
            for part, module in modules.items()}

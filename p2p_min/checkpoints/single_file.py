"""A single file in the original layout, recognised by its tensors; and a VAE alone, in a file or a folder."""
import re

from ..ddim import Schedule
from ..networks.config import read_config
from .detect import SCHEDULER, detect, detect_vae, of_kind
from .folder import load_network, read_config_file
from .tensors import blaming, default_dtype, load_part, open_weights, read_json
from .tokenizers import choose_tokenizer, find_tokenizer, fit_tokenizer


def load_file(file, device, dtype, prediction, spacing, tokenizer, own_vae):
    """The parts of a `Model`, by name. All tensors of the file must be known; without `own_vae` its VAE is skipped.

    Tensors are not checked for being finite: that would read the whole memory-mapped file. Pictures are (editing.py).
    """
    with open_weights(file) as stored:
        with blaming(file):
            found = detect(stored, prediction, own_vae)
        words = choose_tokenizer(find_tokenizer(file, tokenizer), {}, found.configs)
        dtype = dtype or default_dtype(stored, found.sources["unet"], device)
        parts = load_parts(found, stored, file, device, dtype)
    fit_tokenizer(words, [part.config for name, part in parts.items() if "text_encoder" in name])
    spacing = spacing or found.spacing
    schedule = Schedule.from_config(dict(SCHEDULER, prediction_type=found.prediction, timestep_spacing=spacing))
    about = f"{found.kind}, {found.prediction}: {found.why}; {spacing} timesteps, see --spacing"
    if any(re.match(r"model_ema\.(?!decay$|num_updates$)", name) for name in stored):
        about += "; its averaged weights (model_ema.) are ignored"
    return dict(parts, tokenizer=words, schedule=schedule, about=about)


def load_vae(path, checkpoint, parts, device):
    """The VAE in its own folder or file, for a checkpoint whose other `parts` are already loaded.

    Raises FileNotFoundError or ValueError if it is none, or of another kind than the checkpoint's own.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no VAE at {path}; --vae takes a diffusers folder vae/ or a single file")
    if (path / "vae").is_dir():
        raise ValueError(f"{path} is a whole checkpoint; give its folder {path / 'vae'} to --vae")
    dtype, is_xl = next(parts["unet"].parameters()).dtype, "text_encoder_2" in parts
    if path.is_dir():
        vae = load_network("vae", path, device, dtype, read_config_file("vae", path, is_xl))
    else:
        with open_weights(path) as stored:
            with blaming(path):
                found = detect_vae(stored, is_xl)
            vae = load_parts(found, stored, path, device, dtype)["vae"]
    # SD 1.x, 2.x and XL differ in how latents are scaled: by the checkpoint's own VAE, where it has one.
    config = checkpoint / "vae" / "config.json"
    keys = dict(scaling_factor=(of_kind(is_xl)["scaling_factor"], float))
    own = read_config(read_json(config) if config.is_file() else {}, str(config), keys, ignored=None)["scaling_factor"]
    if vae.config["scaling_factor"] != own:
        raise ValueError(f"the VAE {path} scales its latents by {vae.config['scaling_factor']}, {checkpoint} needs "
                         f"{own}: they are for different kinds of models")
    return vae


def load_parts(found, stored, file, device, dtype):
    """{part: module} of an open file, from what was `found` in it."""
    return {part: load_part(part, config, file, stored, found.sources[part], file, device, dtype)
            for part, config in found.configs.items()}

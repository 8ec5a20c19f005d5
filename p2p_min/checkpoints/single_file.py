"""A single file in the original layout, recognised by its tensors; and a VAE alone, in a file or a folder."""
import re

from ..ddim import Schedule
from .detect import IGNORED, SCHEDULER, UNET, VAE, VAES, detect, find_parts, vae_config, view
from .folder import load_network, read_config_file
from .tensors import blaming, default_dtype, load_part, open_weights, read_settings
from .tokenizers import choose_tokenizer, find_tokenizer, fit_tokenizer


def load_file(file, device, dtype, prediction, spacing, tokenizer, own_vae):
    """The parts of a `Model`, by name. All tensors of the file must be known; without `own_vae` its VAE is skipped."""
    with open_weights(file) as stored:
        with blaming(file):
            found = detect(stored, prediction, own_vae)
        words = choose_tokenizer(tokenizer or find_tokenizer(file), {}, found.configs)
        dtype = dtype or default_dtype(stored, found.sources["unet"], device)
        parts = {part: load_part(part, config, file, stored, found.sources[part], file, device, dtype)
                 for part, config in found.configs.items()}
    fit_tokenizer(words, [part.config for name, part in parts.items() if "text_encoder" in name])
    spacing = spacing or found.spacing
    schedule = Schedule.from_config(dict(SCHEDULER, prediction_type=found.prediction, timestep_spacing=spacing))
    about = [f"{found.kind}, {found.prediction}: {found.why}; {spacing} timesteps, see --spacing"]
    if any(re.match(r"model_ema\.(?!decay$|num_updates$)", name) for name in stored):
        about.append("its averaged weights (model_ema.) are ignored")
    return dict(parts, tokenizer=words, schedule=schedule, about=about)


def load_vae(path, checkpoint, parts, device):
    """The VAE in its own folder or file, for a checkpoint whose other `parts` are already loaded."""
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
                if any(name.startswith(UNET) for name in stored):
                    raise ValueError("is a whole checkpoint, or a UNet; --vae takes a file with only a VAE")
                names = [name for name in stored if not IGNORED.fullmatch(name)]
                prefix = VAE if any(name.startswith(VAE) for name in names) else ""
                sources = find_parts(names, dict(vae=prefix))["vae"]
                config = vae_config(*view(stored, sources)) | VAES[is_xl]      # whether it is for SDXL, no tensor tells
            vae = load_part("vae", config, path, stored, sources, path, device, dtype)
    # SD 1.x, 2.x and XL differ in how latents are scaled: by the checkpoint's own VAE, where it has one.
    key = "scaling_factor"
    own = read_settings(checkpoint / "vae" / "config.json", {key: (VAES[is_xl][key], float)})[key]
    if vae.config[key] != own:
        raise ValueError(f"the VAE {path} scales its latents by {vae.config[key]}, {checkpoint} needs {own}: they are "
                         "for different kinds of models")
    return vae

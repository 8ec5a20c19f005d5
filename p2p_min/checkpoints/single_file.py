"""A single file in the original layout: what it is, is read from its tensors."""
from ..ddim import Schedule
from . import names
from .filling import PARTS, default_dtype, describe, fill, in_one_line, open_file, part_dtype
from .recognise import SCHEDULER, recognise
from .tokenizers import choose_tokenizer, find_tokenizer, fit_tokenizer


def load_file(file, device, dtype, prediction, spacing, tokenizer):
    """The parts of a `Model`, by name. All tensors of the file must have a use.

    That tensors are finite is not checked: it would read all of a file that is only mapped. Pictures are (editing.py).
    """
    with open_file(file) as stored:
        try:
            kind, prefixes, configs, prediction, why = recognise(stored, prediction)
        except Exception as error:
            raise in_one_line(file, error) from error
        words = choose_tokenizer(find_tokenizer(file, tokenizer), {}, configs)
        fit_tokenizer(words, configs)
        there, modules, sources = set(stored.keys()), {}, {}
        for part, config in configs.items():
            modules[part] = describe(PARTS[part], config, file)
            sources[part] = {name: names.original(part, name, prefixes[part], config, there)
                             for name in modules[part].state_dict()}
        used = {stored_name for of_part in sources.values() for stored_name, _ in of_part.values()}
        unknown = [name for name in there - used if not names.is_ignored(name, kind, configs)]
        if unknown:
            raise ValueError(f"{file} has tensors that p2p_min does not know: {names.some(unknown)}")
        dtype = dtype or default_dtype(stored, device, prefixes["unet"])
        parts = {part: fill(module, stored, sources[part], file, device, part_dtype(part, configs[part], dtype))
                 for part, module in modules.items()}
    spacing = spacing or ("trailing" if prefixes["text_encoder"] == names.SD_TURBO else "leading")
    schedule = Schedule.from_config(dict(SCHEDULER, prediction_type=prediction, timestep_spacing=spacing))
    side = configs["unet"]["sample_size"] * parts["vae"].factor      # by the kind, so too large for XL Turbo
    about = (f"{kind}, {prediction}: {why}; {side} × {side} pixels, see --height and --width; {spacing} timesteps, see "
             "--spacing")
    return dict(parts, tokenizer=words, schedule=schedule, about=about)

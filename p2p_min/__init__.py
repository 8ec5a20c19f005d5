"""Prompt-to-Prompt image editing with cross-attention control (Hertz et al. 2022), from scratch."""
import sys
import types
import warnings

warnings.filterwarnings("ignore", "IProgress not found")   # tqdm's, in notebooks without ipywidgets

__all__ = ["Inversion", "LocalBlend", "Recorder", "auto", "explorer", "invert", "load", "prompt_to_prompt", "refine",
           "replace", "reweight", "self_replace", "word_sheet"]
__version__ = "0.1.0"


def __getattr__(name):
    """The names of `__all__`, and the modules that they come from, imported when one is asked for: the command line's
    --help need not wait for torch.
    """
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .blend import LocalBlend
    from .checkpoints import load
    from .editing import prompt_to_prompt
    from .edits import auto, refine, replace, reweight, self_replace
    from .explorer import Recorder, explorer, word_sheet
    from .inversion import Inversion, invert
    if name in __all__:
        return locals()[name]
    if name in globals():                                  # `p2p.editing`, which is there now
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})


class Face(types.ModuleType):
    def __setattr__(self, name, value):
        """`explorer` is the function, although Python would make it the folder of that name once that is imported."""
        if name not in __all__ or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = Face

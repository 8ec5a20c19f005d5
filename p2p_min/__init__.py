"""Prompt-to-Prompt image editing with cross-attention control (Hertz et al. 2022), from scratch."""
import importlib
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:                              # what editors complete; imported below when a name is used
    from .blend import LocalBlend
    from .checkpoints.model import load
    from .editing import prompt_to_prompt
    from .edits import auto, refine, replace, reweight, self_replace
    from .inversion import Inversion, invert
    from .maps.page import explorer
    from .maps.recorder import Recorder
    from .maps.server import live
    from .maps.sheet import word_sheet

warnings.filterwarnings("ignore", "IProgress not found")   # tqdm's, in notebooks without ipywidgets

__all__ = ["Inversion", "LocalBlend", "Recorder", "auto", "explorer", "invert", "live", "load",
           "prompt_to_prompt", "refine", "replace", "reweight", "self_replace", "word_sheet"]
__version__ = "0.1.0"
MODULES = ("editing", "edits", "blend", "inversion", "checkpoints.model", "maps.recorder", "maps.page", "maps.sheet",
           "maps.server")                      # which have them


def __getattr__(name):
    """A name of `__all__`, imported when it is used: the command line's --help need not wait for torch."""
    if name in __all__:
        modules = (importlib.import_module(f"p2p_min.{module}") for module in MODULES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})

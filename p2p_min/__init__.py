"""Prompt-to-Prompt image editing with cross-attention control (Hertz et al. 2022), from scratch."""
import warnings

warnings.filterwarnings("ignore", "IProgress not found")   # tqdm's, in notebooks without ipywidgets

from .blend import LocalBlend
from .checkpoints import load
from .editing import prompt_to_prompt
from .edits import auto, refine, replace, reweight, self_replace
from .explorer import Recorder, explorer, word_sheet
from .inversion import Inversion, invert

__all__ = ["Inversion", "LocalBlend", "Recorder", "auto", "explorer", "invert", "load", "prompt_to_prompt", "refine",
           "replace", "reweight", "self_replace", "word_sheet"]
__version__ = "0.1.0"

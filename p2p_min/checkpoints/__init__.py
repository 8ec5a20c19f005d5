"""From files to modules: folders, single files, models on the hub."""
from .model import Model, load

__all__ = ["Model", "load"]

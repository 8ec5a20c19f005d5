"""Where pictures attend to words: recorded, as a picture, as a page to explore."""
from .page import explorer
from .recorder import Recorder
from .sheet import word_sheet

__all__ = ["Recorder", "explorer", "word_sheet"]

"""What the READMEs show in Python runs: all blocks of a file in one namespace, few steps, in a folder of their own."""
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import p2p_min as p2p

ROOT = Path(__file__).parents[2]
BLOCKS = {str(path.relative_to(ROOT)): re.findall(r"(?ms)^```python\n(.*?)^```", path.read_text(encoding="utf-8"))
          for path in [ROOT / "README.md", *sorted((ROOT / "scripts").glob("**/README.md"))]}


@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks])
def test_the_python_of_a_readme_runs(name, tmp_path, monkeypatch):
    """`...` stands for what was said before; pictures that a block reads are given to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save("car-0.png")
    for function in ("prompt_to_prompt", "invert"):
        full = getattr(p2p, function)
        monkeypatch.setattr(p2p, function, lambda *args, full=full, **kwargs: full(*args, **{**kwargs, "steps": 2}))
    namespace = {"other_edit": None}
    for block in BLOCKS[name]:
        block = block.replace("[..., ", '["a red car on the beach", ')
        exec(compile(block, name, "exec"), namespace)
    assert BLOCKS[name]


def test_the_words_of_the_small_model_are_listed():
    """In the README, under the first command: all that the model knows."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| objects |")[1].split("\n\n")[0]
    config = json.loads((ROOT / "weights" / "toy" / "tokenizer" / "tokenizer_config.json").read_text())
    assert not set(config["known_words"]) - set(re.findall(r"\w+", table)) - {"a", "an"}


NAMED = [(module, name) for module, names in re.findall(
    r"`([\w/]+)\.py`: ((?:`\w+`(?:, )?)+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    for name in re.findall(r"\w+", names)]


@pytest.mark.parametrize("module, name", NAMED, ids="-".join)
def test_what_the_paper_table_names_is_there(module, name):
    assert hasattr(importlib.import_module(f"p2p_min.{module.replace('/', '.')}"), name)


def test_the_paper_table_is_read():
    assert ("attention", "attend") in NAMED and len(NAMED) > 15

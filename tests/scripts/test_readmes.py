"""What the READMEs say is so: their Python runs, their commands fit, their names and links exist."""
import importlib
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import p2p_min as p2p
from conftest import differ, sample
from p2p_min.cli.options import build_parser

ROOT = Path(__file__).parents[2]
FRONT, INSIDE, WEIGHTS = "README.md", "p2p_min/README.md", "weights/README.md"
PATHS = [ROOT / FRONT, ROOT / INSIDE, ROOT / WEIGHTS, *sorted((ROOT / "scripts").glob("**/README.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PATHS}


def test_the_front_page_is_short():
    assert len(TEXTS[FRONT].splitlines()) <= 170


# ---- Python ----------------------------------------------------------------------------------------------------------

BLOCKS = {name: re.findall(r"(?ms)^```python\n(.*?)^```", text) for name, text in TEXTS.items()}


def in_two_steps(function):
    def run(*args, **kwargs):
        return function(*args, **{**kwargs, "steps": 2})
    return run


@pytest.mark.parametrize("name", [name for name, blocks in BLOCKS.items() if blocks])
def test_the_python_of_a_readme_runs(name, tmp_path, monkeypatch):
    """The blocks of a file share a namespace, take two steps, and run in a folder that holds the picture they read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    Image.effect_noise((64, 64), 50).convert("RGB").save("car-0.png")
    for function in ("prompt_to_prompt", "invert"):
        monkeypatch.setattr(p2p, function, in_two_steps(getattr(p2p, function)))
    namespace = {}
    for block in BLOCKS[name]:
        exec(compile(block, name, "exec"), namespace)


def test_features_are_injected_into_the_targets_alone(model):
    """The recipe, PlugAndPlay: in either call of a step, and in no other rows; with the hook gone, nothing is left."""
    recipe = next(block for block in BLOCKS[INSIDE] if "class PlugAndPlay" in block)
    namespace, seen = {}, []
    exec(recipe.partition("\nunet = ")[0], namespace)
    layer = "up_blocks.1.resnets.1"
    plain = sample(model, edit_unconditional=True).latents
    unet = namespace["PlugAndPlay"](model.unet, layer, until=500)
    after = model.unet.get_submodule(layer).register_forward_hook(lambda *its: seen.append(its[-1]))
    try:
        injected = sample(replace(model, unet=unet), edit_unconditional=True).latents
        sample(replace(model, unet=unet), steps=2)
    finally:
        after.remove()
        unet.hook.remove()
    assert torch.equal(injected[0], plain[0]) and differ(injected[1], plain[1])
    assert [torch.equal(rows[0], rows[1]) for rows in seen[:8]] == [True] * 4 + [False] * 4     # until timestep 500
    assert [torch.equal(seen[8][0], row) for row in seen[8]] == [True, True, False, False]
    assert torch.equal(sample(model, edit_unconditional=True).latents, plain)


def test_the_front_page_shows_a_method_as_it_stands():
    _, _, shown = TEXTS[FRONT].partition("def masactrl(")
    shown, _, _ = shown.partition("```")
    assert shown in (ROOT / "scripts" / "methods.py").read_text(encoding="utf-8") and "return" in shown


# ---- commands --------------------------------------------------------------------------------------------------------

COMMANDS = {command for text in TEXTS.values() for command in re.findall(r"python -m p2p_min (\"[^`\n]+)", text)}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_command_line_takes_the_commands(command):
    assert build_parser().parse_args(shlex.split(command)).source.startswith("a ")


# ---- names -----------------------------------------------------------------------------------------------------------

ENTRIES = re.findall(r"`([\w/]+)\.py`: ((?:`\w+`(?:, )?)+)", TEXTS[INSIDE])         # `file.py`: `name`, `name`
NAMED = [(module, name) for module, names in ENTRIES for name in re.findall(r"\w+", names)]


@pytest.mark.parametrize("module, name", NAMED)
def test_what_the_paper_table_names_is_there(module, name):
    assert hasattr(importlib.import_module(f"p2p_min.{module.replace('/', '.')}"), name)


def test_the_paper_table_is_read():
    assert ("attention", "attend") in NAMED and len(NAMED) > 15 and len(COMMANDS) > 5


@pytest.mark.parametrize("name", [FRONT, INSIDE])
def test_the_tree_of_the_package_is_the_package(name):
    """Its files and rooms; the front page leaves the smaller ones out."""
    tree = TEXTS[name].split("\np2p_min/\n")[1].split("```")[0]
    shown = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    package = ROOT / "p2p_min"
    there = {path.name for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    small = {"__init__.py"}
    if name == FRONT:
        small |= {"__main__.py", "checks.py", "files.py", "pictures.py"}
    assert shown <= there <= shown | small


def test_the_words_of_the_small_model_are_listed():
    """All that the model knows."""
    table = TEXTS[WEIGHTS].split("| objects |")[1].split("\n\n")[0]
    config = json.loads((ROOT / "weights" / "toy" / "tokenizer" / "tokenizer_config.json").read_text())
    assert not set(config["known_words"]) - set(re.findall(r"\w+", table)) - {"a", "an"}


# ---- links -----------------------------------------------------------------------------------------------------------

LINKS = [(name, link) for name, text in TEXTS.items()
         for link in re.findall(r"\]\(([^)\s]+)\)", text.replace("\n", " ")) if not link.startswith("http")]


def anchors(text):
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name, link", LINKS)
def test_links_and_pictures_are_there(name, link):
    path, _, anchor = link.partition("#")
    target = (ROOT / name).parent / path if path else ROOT / name
    assert target.exists()
    assert not anchor or anchor in anchors(target.read_text(encoding="utf-8"))

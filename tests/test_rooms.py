"""Which room may know which; how large they may be; and edits are arguments, not hooks."""
import ast
import io
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import p2p_min

PACKAGE = Path(p2p_min.__file__).parent
# What holds the paper, from the bottom up: a file knows only those that stand on a lower floor.
PAPER = dict(pictures=0, ddim=0, attention=0, align=0, edits=1, blend=1, inversion=1, editing=2)
FLOOR = {"checks", "files"}                                # they know nothing of p2p_min
MAY_KNOW = dict(
    networks={"networks", "attention", "checks"}, checkpoints={"checkpoints", "networks", "ddim", "checks"},
    maps=PAPER.keys() | {"maps", "networks", "checks"}, **{name: PAPER.keys() | FLOOR | {"networks"} for name in PAPER})
FACE = {"__init__", "__main__", "cli"}                     # they know everything; nothing but them knows them
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module):
    """The folder of a file; of a file at the top its own name."""
    return module.split(".")[0]


def imports(module, code=None):
    """Every module that a file imports, wherever in it, by its full name: those of p2p_min begin with "p2p_min."."""
    here = ["p2p_min", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(code or FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[:len(here) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            inside = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if name.removeprefix("p2p_min.") in FILES else base for name in inside)


def known(module):
    """The files of p2p_min that a file imports, by their names in `FILES`."""
    for name in imports(module):
        if name.split(".")[0] == "p2p_min":
            inner = name.removeprefix("p2p_min").removeprefix(".") or "__init__"
            yield inner if inner in FILES else f"{inner}.__init__"


def test_the_rooms_hold_what_they_should():
    """The paper at the top, the rooms beside it, and nothing else."""
    assert {room(module) for module in FILES} == MAY_KNOW.keys() | FLOOR | FACE


@pytest.mark.parametrize("module", FILES)
def test_a_file_knows_only_what_its_room_may_know(module):
    """And the command line's options know only what needs no torch, so that --help is there at once."""
    for other in known(module):
        if module == "cli.options":
            assert other in ("checks", "files"), f"{module} imports {other}"
        elif room(module) not in FACE:
            allowed = () if module in FLOOR else MAY_KNOW[room(module)]
            assert room(other) in allowed, f"{module} imports {other}"
        if module in PAPER and other in PAPER:
            assert PAPER[other] < PAPER[module], f"{module} imports {other}, which does not stand below it"


def test_imports_run_in_no_circle():
    """Raises CycleError otherwise."""
    # "from . import names" in a room is not the room's __init__, which imports what is inside.
    TopologicalSorter({module: set(known(module)) for module in FILES}).prepare()


@pytest.mark.parametrize("module", FILES)
def test_diffusers_is_never_imported(module):
    """From scratch: diffusers is for the parity tests only."""
    assert not any(name.split(".")[0] == "diffusers" for name in imports(module))


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_registered_on_the_networks(module):
    """Trap 3: the edit travels down the calls as an argument; no hooks, no attention processors, no patched forward."""
    code = FILES[module].read_text(encoding="utf-8")
    for word in ("__import__", "register_forward", "_hook(", "set_attn_processor", "AttnProcessor", ".forward ="):
        assert word not in code


def test_the_test_sees_imports():
    """Of every kind: it would be no test if it found none."""
    assert {"attention", "networks.layers", "networks.config"} <= set(known("networks.unet"))
    assert {"checkpoints.names", "networks.unet"} <= set(known("checkpoints.tensors"))
    assert {"__init__", "pictures"} <= set(known("cli.run")) and "checkpoints.model" in known("__init__")
    assert set(imports("editing", "from . import ddim, checkpoints")) == {"p2p_min.ddim", "p2p_min"}
    assert set(imports("networks.unet", "from .. import attention, maps")) == {"p2p_min.attention", "p2p_min"}


# ---- small is a promise --------------------------------------------------------------------------------------------

SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
STUDIED = PAPER.keys() - {"pictures"} | {"networks"}


def size(text):
    """(lines, lines of code, tokens) of a file; comments and docstrings are no code and no tokens."""
    docs = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            docs |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline)
              if token.type not in SKIPPED and token.start[0] not in docs]
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(text.splitlines()), len(code), len(tokens)


SIZES = {module: size(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


@pytest.mark.parametrize("rooms, lines, tokens", [
    (STUDIED, 1850, 16_500), (MAY_KNOW.keys() | FLOOR | FACE, 4000, 34_500)], ids=["studied", "package"])
def test_it_stays_small(rooms, lines, tokens):
    """Whoever adds takes away elsewhere. Both count, since lines alone can be saved by packing them."""
    sizes = [SIZES[module] for module in FILES if room(module) in rooms]
    assert sum(size[0] for size in sizes) <= lines and sum(size[2] for size in sizes) <= tokens


@pytest.mark.parametrize("module", FILES)
def test_a_file_can_be_skimmed(module):
    """At most 13 tokens on a line of code, on average."""
    _, code, tokens = SIZES[module]
    assert tokens <= 13.05 * code


def test_the_size_is_measured():
    """A docstring, a comment and an empty line are lines, and nothing else."""
    assert size('"""Doc\nstring."""\n\nx = f(1)  # one\n') == (4, 1, 6)

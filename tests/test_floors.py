"""The floors of DESIGN.md: imports run downward only, and edits are arguments, not hooks."""
import ast
from pathlib import Path

import pytest

import p2p_min

PACKAGE = Path(p2p_min.__file__).parent
FLOORS = [
    {"layers", "attention", "align", "ddim", "pictures"}, {"unet", "vae", "text", "edits", "blend", "maps"},
    {"checkpoint", "keys", "files", "recognise", "show"},
    {"editing", "inversion", "page"}, {"__main__"}]
ON_ONE_FLOOR = {("blend", "edits"), ("checkpoint", "keys"), ("checkpoint", "recognise"),
               ("checkpoint", "files"), ("files", "keys"),
               ("recognise", "keys"), ("ddim", "layers"), ("pictures", "layers"), ("editing", "inversion"),
                ("page", "editing")}
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports(name):
    """Every module that p2p_min/name.py imports, wherever in the file, by its full name."""
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["p2p_min" if node.level else None, node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "p2p_min" else [base]
            yield from names


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downward_only(name):
    """A file imports from floors below; five steps aside are listed here. Only the command line uses the face."""
    assert name in FLOOR, f"{name}.py stands on no floor; add it to DESIGN.md and here"
    for module in imports(name):
        if module == "p2p_min":
            assert name == "__main__"
        elif module.startswith("p2p_min."):
            other = module.split(".")[1]
            assert FLOOR[other] < FLOOR[name] or (name, other) in ON_ONE_FLOOR, f"{name} imports {other}"


@pytest.mark.parametrize("name", ["__init__", *MODULES])
def test_diffusers_is_never_imported(name):
    """From scratch: diffusers is for the parity tests only."""
    assert not any(module.split(".")[0] in ("diffusers", "importlib") for module in imports(name))


@pytest.mark.parametrize("name", ["__init__", *MODULES])
def test_nothing_is_registered_on_the_networks(name):
    """Trap 3: the edit travels down the calls as an argument; no hooks, no attention processors, no patched forward."""
    code = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
    for word in ("register_forward", "_hook(", "set_attn_processor", "AttnProcessor", ".forward ="):
        assert word not in code


def test_floors_name_no_file_that_does_not_exist():
    assert set(FLOOR) == set(MODULES)

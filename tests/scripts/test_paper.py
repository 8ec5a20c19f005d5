"""The page of the paper's figures: with the toy at few steps, killed and resumed, by two processes, and its proof."""
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

import fits
import full_size
import originals
import p2p_min as p2p
import paper
import proof
from conftest import UNET, VAE_
from p2p_min.lessons import examples

ROOT = Path(__file__).parents[2]
PROMPTS = ["a red car on the beach", "a blue boat on the beach"]
QUICK = ["--steps", 1, "--seeds", 1]
needs_diffusers = pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed")


def run(*arguments):
    return paper.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The toy's page, with all figures but those that need diffusers; and the whole list of its figures."""
    out = tmp_path_factory.mktemp("paper")
    names = [example.name for example in examples.TOY["examples"]] + ["grid", "versions", "files"]
    command = [*QUICK, "--device", "cpu", "--out", out, "--prompts", *PROMPTS, "--only", *names]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paper, "FRACTIONS", (0, 1))
        patched.setattr(paper, "ENDS", (0, 1))
        assert run(*command) == 0
    return out, names, command


def test_the_page_is_one_file_that_asks_for_nothing(drawn):
    out, names, _ = drawn
    page = (out / "index.html").read_text()
    assert page.count("<section>") == len(names) and page.count("data:image/png;base64,") == len(names) - 2
    assert "default-src 'none'" in page and not re.search(r'(src|href)="(?!data:)', page) and "failed" not in page
    assert "grey" not in page and "--ground: #f7f6f3" in page                    # the explorer page's look
    for name in names[:-2]:
        assert min(Image.open(out / f"{name}.png").size) > 100


def test_the_files_are_named_by_their_sha256(drawn):
    rows = json.loads((drawn[0] / "files.json").read_text())["rows"]
    names = [row[0] for row in rows[1:]]
    assert "unet/diffusion_pytorch_model.safetensors" in names and all(len(row[2]) == 64 for row in rows[1:])


def test_a_stopped_run_goes_on_and_a_failed_figure_ends_no_other(drawn, monkeypatch, capsys):
    """What is there is not drawn again; what failed is told on the page, and tried again."""
    out, names, command = drawn
    before = {name: (out / f"{name}.json").stat().st_mtime_ns for name in names}
    for name in ("tau", "maps"):
        (out / f"{name}.json").unlink()

    def fails(*arguments):
        raise RuntimeError("CUDA out of memory")
    with monkeypatch.context() as patched:
        patched.setattr(paper, "draw_maps", fails)
        assert run(*command) == 1
    told = capsys.readouterr()
    assert f"{len(names) - 2} of them done already" in told.out and "maps failed: CUDA out of memory" in told.err
    assert "<b>This figure failed:</b> CUDA out of memory" in (out / "index.html").read_text()
    assert not (out / "maps.json").exists() and (out / "tau.json").exists()
    assert run(*command) == 0
    after = {name: (out / f"{name}.json").stat().st_mtime_ns for name in names}
    assert [name for name in names if after[name] != before[name]] == ["maps", "tau"]


@pytest.mark.long                              # test_benchmark_edits.py starts two processes that share in the same way
def test_two_processes_share_the_figures(drawn, tmp_path):
    """torchrun: each figure once, the same pictures to the bit, one page."""
    out, _, command = drawn
    names = ["word_swap", "maps", "local_edit", "versions"]
    command = [*map(str, command[:command.index("--out")]), "--out", str(tmp_path), "--only", *names]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, str(ROOT / "scripts" / "paper.py"), *command], capture_output=True, text=True,
                          timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "4 figures, 0 of them done already; 2 processes" in done.stdout
    for name in names[:-1]:
        assert (tmp_path / f"{name}.png").read_bytes() == (out / f"{name}.png").read_bytes()
    assert (tmp_path / "index.html").read_text().count("data:image/png") == 3


def test_the_grid_of_a_picture_of_ones_own(tmp_path, monkeypatch):
    """--image is inverted; its prompt is the first."""
    monkeypatch.setattr(paper, "FRACTIONS", (0, 1))
    file = tmp_path / "mine.png"
    Image.radial_gradient("L").convert("RGB").save(file)
    assert run("--only", "grid", "--prompts", *PROMPTS, "--image", file, "--steps", 1, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "grid.png").exists()


@pytest.mark.parametrize("arguments, message", [
    (["--image", "x.png"], "--prompts"), (["--only", "grid"], "--prompts"), (["--seeds", 0], "--seeds"),
    (["--model", "nowhere"], "no checkpoint"), (["--only", "nothing"], "nothing"), (["--guidance", "much"], "much")])
def test_what_cannot_be_done_is_told_in_one_line(arguments, message, tmp_path, capsys):
    assert run(*arguments, "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("paper: error: ")


def test_a_folder_holds_one_runs_results(drawn, capsys):
    out, _, command = drawn
    assert run(*command, "--seeds", 2) == 2
    assert "give another --out" in capsys.readouterr().err


def test_every_example_can_be_told_to_its_model(tokenizer):
    """Both tables have the same figures; every edit can be built, the paper's with a real tokenizer's words too."""
    toy = p2p.load("weights/toy", "cpu").tokenizer
    assert [e.name for e in examples.TOY["examples"]] == [e.name for e in examples.STABLE_DIFFUSION["examples"]]
    for table, words in ((examples.TOY, toy), (examples.STABLE_DIFFUSION, tokenizer)):
        for example in table["examples"]:
            assert len(example.labels()) == len(example.prompts) - 1 and all(example.labels())
            if example.prompts[1:]:
                example.edits(words)
    known = set(toy.init_kwargs["known_words"])
    assert all(word in known for example in examples.TOY["examples"] for prompt in example.prompts
               for word in prompt.split())


# ---- the proof -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """{kind: a checkpoint in its shapes, with thin layers}, made when asked for."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            full_size.write(kind, made[kind], is_narrow=True)
        return made[kind]
    return folder


@needs_diffusers
@pytest.mark.parametrize("kind", ["sd15", pytest.param("sd21", marks=pytest.mark.long),
                                  pytest.param("sdxl", marks=pytest.mark.long)])
def test_the_proof_agrees_with_diffusers(narrow, kind, tmp_path, monkeypatch):
    """Every row is within what is normal, and the page shows them."""
    monkeypatch.setattr(proof, "REPEAT", 1)
    out = tmp_path / "out"
    command = ["--model", narrow(kind), "--dtype", "float32", "--device", "cpu", "--size", 64, "--out", out]
    assert run(*command, "--only", "parity", "cost", "versions") == 0
    head, *rows = json.loads((out / "parity.json").read_text())["rows"]
    assert len(rows) == 8 + (kind == "sdxl") and all(row[-1] == "yes" for row in rows)
    assert all(float(row[1]) < 1e-5 for row in rows)
    costs = json.loads((out / "cost.json").read_text())["rows"][1:]
    assert [row[0] for row in costs] == [proof.THEIRS, proof.OFFICIAL, proof.EDITED, proof.UNEDITED]
    assert costs[0][2] == "1.00" and (out / "index.html").read_text().count("<table>") == 3


@needs_diffusers
def test_the_proof_of_a_single_file(tmp_path, tokenizer):
    """Diffusers' networks, built by its own classes, with the tensors that were read."""
    file = originals.write(tmp_path / "one.safetensors", originals.fill(originals.sd1(len(tokenizer))))
    model = p2p.load(file, "cpu", tokenizer=ROOT / "weights/toy/tokenizer")
    rows = proof.parity(model, 64, 64)[1:]
    assert len(rows) == 8 and all(row[-1] == "yes" and float(row[1]) < 1e-5 for row in rows)


@needs_diffusers
def test_the_proof_notices_other_weights(narrow):
    """One layer off by a thousandth of itself: the UNet's rows say so, the VAE's do not.

    What is alike is in memory once: all of the UNet but that layer.
    """
    model = p2p.load(narrow("sd15"), "cpu", "float32")
    model.unet.conv_out.weight.data *= 1.001
    rows = {row[0]: row[-1] for row in proof.parity(model, 64, 64)}
    assert rows["UNet, timestep 500"] == "NO" and rows["VAE, decoding"] == "yes"
    theirs, ours = proof.read_theirs(model, "unet").state_dict(), model.unet.state_dict()
    assert [name for name in ours if theirs[name].data_ptr() != ours[name].data_ptr()] == ["conv_out.weight"]


def test_without_diffusers_the_rest_of_the_page_is_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(proof, "HAS_DIFFUSERS", False)
    assert run("--only", "parity", "--out", tmp_path) == 2
    assert "pip install diffusers" in capsys.readouterr().err
    monkeypatch.setattr(examples, "TOY", dict(examples.TOY, examples=()))
    assert run("--device", "cpu", "--out", tmp_path) == 0
    page = (tmp_path / "index.html").read_text()
    assert "pip install diffusers" in page and "SHA-256" in page and "relative error" not in page


# ---- what fits -----------------------------------------------------------------------------------------------------

def test_the_peak_is_of_what_is_alive():
    """An addition's result, not its views, not what is gone, and not the weights."""
    layer = torch.nn.Linear(256, 256)
    with torch.no_grad(), fits.Peak(layer) as peak:
        x = torch.ones(4, 256)                             # 4 KiB
        for _ in range(3):
            y = layer(x).view(2, 512)                      # 4 KiB more; while it is made, the one before is still there
    assert y.shape == (2, 512) and peak.peak == 3 * 4096 and peak.now == 2 * 4096


@pytest.mark.long                              # to import what counts takes seconds
def test_computed_memory(monkeypatch):
    """Half the dtype is half the bytes; fewer rows take less, a gradient and a recorder more."""
    tiny = dict(full_size.narrow(full_size.MODELS["sd15"]), unet=UNET, vae=VAE_)
    monkeypatch.setitem(full_size.MODELS, "tiny", tiny)
    found, half = (fits.computed("tiny", dtype) for dtype in (torch.float32, torch.float16))
    assert found["weights"] == sum(fits.bytes_of(network) for network in full_size.networks(tiny).values())
    assert half["weights"] == found["weights"] / 2 and 0.4 < half["null-text"] / found["null-text"] < 0.6
    assert found["direct"] < found["edit"] < found["page"] and all(found.values())

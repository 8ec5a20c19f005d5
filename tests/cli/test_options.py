"""The options: what a command line means, and one line for what it cannot mean. No model, and no torch."""
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import refuses
from p2p_min.__main__ import main
from p2p_min.cli.options import EXAMPLES, parse

SOURCE, TARGET = "a big car next to a river", "a big bicycle next to a river"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- what a command line means -------------------------------------------------------------------------------------

def test_defaults():
    """The source, one target, the usual steps, one picture."""
    args = parse([SOURCE, TARGET])
    assert args.prompts == [SOURCE, TARGET] and args.factors == [{}] and args.live is None and args.singles == []
    assert args.cross_steps == {"default_": (0.0, 0.8)} and args.self_steps == (0.0, 0.4) and args.seed == 0
    assert (args.steps, args.guidance, args.negative, args.out) == (50, 7.5, "", Path("p2p.png"))


@pytest.mark.parametrize("options, name, value", [
    (["--cross-steps", "0.2,0.7"], "cross_steps", {"default_": (0.2, 0.7)}),
    (["--cross-steps", "0.5", "--cross-steps", "car=0.4", "--cross-steps", "big=0.1,1"], "cross_steps",
     {"default_": (0.0, 0.5), "car": (0.0, 0.4), "big": (0.1, 1.0)}),
    (["--self-steps", "0"], "self_steps", (0.0, 0.0)),
    (["--image", "x.png", "--size", "512"], "size", 512),
    (["--image", "x.png", "--size", "768x512"], "size", (512, 768)),
    (["--blend", "big"], "blend", ["big", "big"]), (["--blend", "-", "bicycle"], "blend", [None, "bicycle"]),
    (["--blend", "car", "-", "--subtract", "-", "a#2"], "subtract", [None, "a#2"]),
    (["--singles", "--out", "x.png"], "singles", [Path("x-0.png"), Path("x-1.png")]),
    (["--seed", "0"], "seed", 0)])
def test_options_are_read(options, name, value):
    """As what the library takes."""
    assert getattr(parse([SOURCE, TARGET, *options]), name) == value


@pytest.mark.parametrize("arguments, prompts, factors", [
    ((SOURCE, "--reweight", "big=-2,0,2"), [SOURCE] * 4, [{"big": -2}, {"big": 0}, {"big": 2}]),
    ((SOURCE, TARGET, "--reweight", "big=2"), [SOURCE, TARGET], [{"big": 2}]),
    ((SOURCE, TARGET, "--reweight", "bicycle=1,2"), [SOURCE, TARGET, TARGET], [{"bicycle": 1}, {"bicycle": 2}]),
    ((SOURCE, TARGET, SOURCE, "--reweight", "big=1,2"), [SOURCE, TARGET, SOURCE], [{"big": 1}, {"big": 2}]),
    ((SOURCE, TARGET, SOURCE, "--reweight", "big=3"), [SOURCE, TARGET, SOURCE], [{"big": 3}] * 2),
    ((SOURCE, "--reweight", "big=1,2", "--reweight", "a river=-1"), [SOURCE] * 3,
     [{"big": 1, "a river": -1}, {"big": 2, "a river": -1}])])
def test_factors_make_targets(arguments, prompts, factors):
    """--reweight WORD=C[,C...]: several factors make one target each; the target may be left out."""
    args = parse(arguments)
    assert args.prompts == prompts and args.factors == factors


@pytest.mark.parametrize("arguments, source, target, port", [
    (["--live"], None, [], 0), (["--live", "8000"], None, [], 8000), (["--live=8000", "a", "b"], "a", ["b"], 8000),
    (["a", "b", "--live", "--device", "cpu"], "a", ["b"], 0), (["a", "--live"], "a", [], 0)])
def test_live_takes_prompts_and_a_model(arguments, source, target, port):
    args = parse(arguments)
    assert (args.source, args.targets, args.live) == (source, target, port)


@pytest.mark.parametrize("line", [line for line in EXAMPLES.splitlines() if "python -m p2p_min" in line])
def test_examples_of_help(line):
    """Each is a command line that fits together."""
    parse(shlex.split(line)[shlex.split(line).index("p2p_min") + 1:])


# ---- what it cannot mean -------------------------------------------------------------------------------------------

WRONG = {
    "nothing": ([], "give SOURCE and TARGET"),
    "no target": ([SOURCE], "--maps or --page"),
    "prompts after --blend": (["--blend", "big", SOURCE, TARGET], "prompts go before options"),
    "a target after --blend": ([SOURCE, "--blend", "big", TARGET], "prompts go before options"),
    "a mask without a target": ([SOURCE, "--maps", "m.png", "--mask", "m.png"], "--mask is for a TARGET"),
    "steps without a target": ([SOURCE, "--maps", "m.png", "--self-steps", "0.4"], "--self-steps is for a TARGET"),
    "a word's steps without a target": ([SOURCE, "--maps", "m.png", "--cross-steps", "big=0.4"], "for a TARGET"),
    "too many targets": ([SOURCE, TARGET, TARGET, TARGET, "--reweight", "big=1,2"], "--reweight must be one factor"),
    "live with an option": (["--live", "--steps", "3"], "--live must be alone, or with SOURCE"),
    "live with a third prompt": (["a", "b", "c", "--live"], "'c'"),
    "live with a prompt as its port": (["--live", "a car"], "'a car' (see --help; prompts go before options)"),
    "live beyond all ports": (["--live", "65536"], "--live must be a port from 0"),
}
WRONG_OPTIONS = [
    (["--stepz", "3"], "--stepz"), (["--model"], "--model"), (["--spacing", "late"], "--spacing"),
    (["--seed", "x"], "--seed"), (["--steps", "2.5"], "--steps"), (["--guidance", "x"], "--guidance"),
    (["--cross-steps", "1.5"], "argument --cross-steps: steps must be a fraction of the schedule from 0 to 1"),
    (["--cross-steps", "0.7,0.2"], "not [0.7, 0.2]"), (["--cross-steps", "nan"], "not nan"),
    (["--cross-steps", "car="], "could not convert string to float: ''"),
    (["--self-steps", "0.1,0.2,0.3"], "--self-steps"), (["--self-steps", "car=0.4"], "'car=0.4'"),
    (["--reweight", "big="], "'big='"), (["--reweight", "big"], "'big'"),
    (["--reweight", "big=2", "--reweight", "big=3"], "--reweight must be given once for each word, not ['big', 'big']"),
    (["--cross-steps", "0.2", "--cross-steps", "0.3"], "--cross-steps must be given once for each word"),
    (["--reweight", "big=1,2", "--reweight", "river=1,2,3"], "the same number for all"),
    (["--blend", "-"], "--blend must be one word"), (["--blend", "big", "big", "big"], "each of the 2 prompts"),
    (["--subtract", "river"], "--subtract needs --blend"), (["--invert", "ddim"], "--invert needs --image"),
    (["--size", "32"], "--size needs --image"), (["--image", "x.png", "--seed", "0"], "--seed cannot be used"),
    (["--image", "x.png", "--height", "32"], "--size"), (["--image", "x.png", "--size", "big"], "'big'"),
    (["--image", "x.png", "--size", "1x2x3"], "'1x2x3'"), (["--image", "x.png", "--invert", "magic"], "null-text"),
    (["--image", "x.png", "--invert", "null-text", "--negative", "dog"], "--negative cannot be used with --invert"),
    (["--out", "p2p.jpg"], "--out must be a file that ends in .png"), (["--out", ""], ".png"),
    (["--maps", "maps.html"], "--maps must"), (["--page", "page.png"], "--page must be a file that ends in .html"),
    (["--out", "nowhere/p2p.png"], "--out: nowhere/p2p.png cannot be written"),
    (["--page", "nowhere/page.html"], "--page: nowhere/page.html cannot be written"),
    (["--maps", "p2p.png"], "--maps and --out are the same file"),
]


@pytest.mark.parametrize("arguments, says", [*WRONG.values(), *(([SOURCE, TARGET, *more], says)
                                                                for more, says in WRONG_OPTIONS)], ids=str)
def test_wrong_command_lines(arguments, says, capsys):
    """Exit status 2, and one line on standard error that names what is wrong."""
    refuses(lambda: parse(arguments), says)
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert not out and error.startswith("p2p-min: error: ") and error.count("\n") == 1 and says in error


@pytest.mark.parametrize("option", ["device", "seed", "cross-steps", "blend", "out", "reweight", "negative", "live"])
def test_no_value(option, capsys):
    """--OPT=--, of which Python 3.11 makes an empty list: no traceback, and no default in its place."""
    assert main([SOURCE, TARGET, f"--{option}=--"]) == 2
    assert capsys.readouterr().err == f"p2p-min: error: --{option} must be given a value, not '--'\n"


def test_a_message_has_at_most_400_characters(capsys):
    """Of which the beginning and the end say what is wrong and what to do."""
    assert main([SOURCE, TARGET, "--live", 5000 * "a"]) == main([SOURCE, "--reweight", 5000 * "a"]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert len(line) <= 400 + len("p2p-min: error: ") and "aaa … aaa" in line and line.endswith("before options)")


def test_options_between_prompts():
    """As long as they do not take every word after them."""
    assert parse([SOURCE, "--seed", "3", TARGET]).prompts == [SOURCE, TARGET]
    assert parse(["--seed", "3", "--", SOURCE, "-a cake"]).prompts == [SOURCE, "-a cake"]


def test_help_names_every_option(capsys):
    """And shows an example of each edit."""
    with pytest.raises(SystemExit, match="^0$"):
        main(["--help"])
    out = capsys.readouterr().out
    for name in ("model", "prediction", "spacing", "tokenizer", "vae", "out", "singles", "seed", "steps", "guidance",
                 "negative", "height", "width", "cross-steps", "self-steps", "reweight", "blend", "subtract", "image",
                 "size", "mask", "invert", "maps", "page", "live", "device", "dtype"):
        assert f"  --{name} " in out
    assert EXAMPLES.strip() in out


def test_help_and_wrong_command_lines_need_no_torch():
    """They come at once."""
    code = f"""
import sys
from p2p_min.__main__ import main
assert main({[SOURCE, TARGET, "--cross-steps", "2"]}) == main({[SOURCE, TARGET, "--out", "nowhere/x.png"]}) == 2
try:
    main(["--help"])
except SystemExit as stop:
    assert not stop.code
assert not {{"torch", "transformers", "numpy", "PIL", "p2p_min.cli.run"}} & sys.modules.keys()"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr.count("\n") == 2, done.stderr

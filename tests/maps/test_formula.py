"""What the page says of an edit: its formulas, which make M_hat of M and M_star, come from the edit's own numbers."""
import json
import re

import numpy as np
import pytest
from PIL import Image

import p2p_min as p2p
from browser import CHROMIUM, Page
from conftest import own, sample
from p2p_min.maps.page import edits_of, page_data

SWAP = ["a big car next to a river", "a big bicycle next to a river"]
SHARED = ["a big watercolor next to a river", "a big bicycle next to a river"]           # 3 tokens to 2
PHRASE = ["a car next to a river", "a big red car next to the river"]
STEPS = 5


def edits(tokenizer):
    """{case: (prompts, the cross-attention's edit, arguments of the run)}"""
    swap = p2p.replace(tokenizer, SWAP, 0.6)
    blend = p2p.LocalBlend(tokenizer, SWAP, ["car", "bicycle"], ["big", None], start=0.4, threshold=(0.5, 0.7))
    return {
        "swap": (SWAP, swap, {}), "shared tokens": (SHARED, p2p.replace(tokenizer, SHARED, 0.6), {}),
        "windows": (SWAP, p2p.replace(tokenizer, SWAP, {"default_": (0.2, 0.8), "bicycle": 0.4}), {}),
        "phrase": (PHRASE, p2p.refine(tokenizer, PHRASE, 0.6), {}),
        "re-weighting": (SWAP, p2p.reweight(tokenizer, SWAP, {"big": 2.0, "bicycle": -0.5, "river": 0}, swap, 0.8), {}),
        "re-weighting alone": (SWAP[:1] * 2, p2p.reweight(tokenizer, SWAP[:1] * 2, {"car": 3}), {}),
        "two targets": ([*SWAP, PHRASE[1]], p2p.auto(tokenizer, [*SWAP, PHRASE[1]], 0.6), {}),
        "blend": (SWAP, swap, dict(blend=blend)),
        "inversion": (SWAP, swap, dict(inversion=True)), "none": (SWAP, None, {})}


def run(model, prompts, edit, arguments):
    """(recorder, result) of each step."""
    if arguments.get("inversion"):
        picture = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
        arguments = dict(inversion=p2p.invert(model, picture, prompts[0], steps=STEPS))
    recorder = p2p.Recorder(model.tokenizer, prompts, per_step=True)
    return recorder, sample(model, prompts, edit, p2p.self_replace((0.2, 0.6), 16), recorder=recorder, steps=STEPS,
                            **arguments)


@pytest.fixture(scope="module")
def runs(model):
    """Each case's run, made once: `runs(case)`."""
    made, cases = {}, edits(model.tokenizer)

    def of(case):
        if case not in made:
            made[case] = run(model, *cases[case])
        return made[case]
    return of


def test_what_an_edit_holds_is_in_numbers(model, runs):
    """Of self-attention, blend, and edits by layers; a function of one's own has none, nor has what re-weights one."""
    found = edits_of(runs("blend")[0])
    assert found["self"] == dict(start=0.2, end=0.6, max_pixels=16)
    blend = found["blend"]
    assert [blend[name] for name in ("start", "threshold", "threshold_subtract", "mask")] == [0.4, 0.5, 0.7, None]
    assert [np.flatnonzero(row).tolist() for row in blend["words"]] == [[3], [3, 4]]
    assert [np.flatnonzero(row).tolist() for row in blend["subtract"]] == [[2], []]
    assert edits_of(runs("swap")[0])["blend"] is None
    tokenizer = model.tokenizer
    recorder = p2p.Recorder(tokenizer, SWAP)
    edits = {"up_blocks": p2p.reweight(tokenizer, SWAP, {"big": 2}, own), "": None}
    mask = p2p.LocalBlend(tokenizer, SWAP, None, mask=Image.new("L", (32, 32), "white"))
    sample(model, SWAP, edits, own, steps=1, blend=mask, recorder=recorder)
    found = json.loads(json.dumps(edits_of(recorder)))
    assert found["cross"][""] is None and found["cross"]["up_blocks"]["base"] == {} and found["self"] == {}
    assert found["cross"]["up_blocks"]["c"][0][2] == 2
    assert found["blend"]["mask"] == {} and found["blend"]["words"] is None


# ---- in a browser --------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")
WORST = """(() => {
    // How far the formula shown, of the M and M* shown, is from the M̂ shown; 1 is what rounding allows.
    let worst = 0;
    const level = (size, row) => (data.maps[size].ranges[row][1] - data.maps[size].ranges[row][0]) / 255;
    for (const target of [...data.prompts.keys()].slice(1)) for (const [word] of data.prompts[target].words.entries()) {
        for (const [size] of data.sizes.entries()) for (const [kept] of data.times.entries()) {
            const sum = expected(target, word, 1 + data.every * kept), row = data.prompts[target].used + word;
            const levels = sum.reduce((x, [c, row]) => x + Math.abs(c) * level(size, row), level(size, row));
            const allowed = levels / 2 + 1e-6;
            const made = sum.map(([c, row]) => maps[size](row, kept + 1).map(value => c * value));
            maps[size](row, kept + 1).forEach((value, i) => {
                worst = Math.max(worst, Math.abs(value - made.reduce((x, map) => x + map[i], 0)) / allowed);
            });
        }
    }
    return worst;
})()"""
SAYS = {                                                   # word: what the formulas of all steps say
    "swap": {"big": "M̂ = M(“big”) in steps 1 to 3 of 5; M̂ = M* after τ = 0.40.",
             "bicycle": "M̂ = M(“car”) (each of its 2 tokens takes ½ M(“car”)) in steps 1 to 3 of 5; "
                        "M̂ = M* after τ = 0.40."},
    "shared tokens": {"bicycle": "M̂ = M(“watercolor”) (each of its 2 tokens takes ½ M(“wa”) + ½ M(“ter”) + ½ M(“color”)"
                                 ") in steps 1 to 3 of 5; M̂ = M* after τ = 0.40."},
    "windows": {"big": "M̂ = M* in step 1 of 5; M̂ = M(“big”) in steps 2 to 4 of 5; M̂ = M* after τ = 0.20."},
    "phrase": {"red": "M̂ = M* in all 5 steps. It is new: the source has no map for it.", "car":
               "M̂ = M(“car”) in steps 1 to 3 of 5; M̂ = M* after τ = 0.40."},
    "re-weighting": {"big": "M̂ = 2 × M(“big”) in steps 1 to 3 of 5; M̂ = 2 × M* in step 4 of 5; M̂ = M* after τ = 0.20.",
                     "bicycle": "M̂ = −½ M(“car”) (each of its 2 tokens takes −¼ M(“car”)) in steps 1 to 3 of 5; "
                                "M̂ = −½ M* in step 4 of 5; M̂ = M* after τ = 0.20.",
                     "river": "M̂ = 0 in steps 1 to 4 of 5; M̂ = M* after τ = 0.20."},
    "re-weighting alone": {"car": "M̂ = 3 × M(“car”) in all 5 steps."},
    "two targets": {}, "blend": {"big": "M̂ = M(“big”) in steps 1 to 3 of 5; M̂ = M* after τ = 0.40."},
    "inversion": {"big": "M̂ = M(“big”) in steps 1 to 3 of 5; M̂ = M* after τ = 0.40."},
    "none": {"big": "M̂ = M* in all 5 steps."}}


@pytest.fixture(scope="module")
def page(model, runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(p2p.explorer(model, *reversed(runs("swap"))), encoding="utf-8")
    with Page(path, tmp_path_factory.mktemp("browser")) as page:
        yield page


def show(page, model, recorder, result, without=None):
    data = page_data(model, result, recorder, without=without)
    page.run(f"render({json.dumps(data)})")


@needs_browser
@pytest.mark.parametrize("case", SAYS)
def test_the_formula_shown_makes_the_m_hat_shown(page, model, runs, case):
    """Of every word, size and step, within what 255 levels allow; and it reads as it should."""
    show(page, model, *runs(case))
    assert 0 <= page.run(WORST) <= 1
    page.run("set({step: 0, target: 1})")
    words = page.run("data.prompts[1].words")
    for word, says in SAYS[case].items():
        page.run(f"set({{chosen: [1, {words.index(word)}]}})")
        assert page.run("$('said').textContent").replace("\xa0", " ") == f"“{word}”: {says}"


@needs_browser
def test_the_numbers_are_those_of_the_maps(page, model, runs):
    """At a step, where M̂ is largest: as the recorder has them, to two digits."""
    recorder, _ = runs("re-weighting")
    show(page, model, *runs("re-weighting"))
    page.run("set({step: 2, chosen: [1, data.prompts[1].words.indexOf('big')], size: data.sizes.length - 1})")
    maps = [recorder.maps("big", prompt, edited=edited, per_step=True, size=(8, 8))[1]
            for prompt, edited in ((0, True), (1, False), (1, True))]
    said = page.run("$('numbers').textContent").replace("\xa0", " ")
    place, *numbers = re.fullmatch(
        r"At (row \d+, column \d+), where M̂ is largest: M = (.*?), M\* = (.*?), M̂ = (.*?) [=≈] 2 × \2.", said).groups()
    row, column = np.unravel_index(maps[2].argmax(), maps[2].shape)
    assert place == f"row {row + 1}, column {column + 1}"
    assert np.allclose([float(number) for number in numbers], [each[row, column] for each in maps], rtol=0.06)
    page.run("set({step: 0})")
    assert page.run("$('numbers').hidden")


@needs_browser
def test_self_attention_and_blend_are_told(page, model, runs):
    show(page, model, *runs("blend"))
    told = page.run("[$('self-line').textContent, $('blend-line').textContent]")
    assert told[0] == ("Self-attention: in steps 2 to 3 of 5 the target's pixels look at each other as the source's "
                       "do, in maps of 4 × 4 and 2 × 2, not of 8 × 8.")
    assert told[1] == ("Local blend: from step 3 on, the target may differ from the source only where M(“car”) or "
                       "M̂(“bicycle”) is over 0.5 of its largest value (summed over the steps so far), not where "
                       "M(“big”) is over 0.7 of its largest value.")
    show(page, model, *runs("swap"))
    assert page.run("$('blend-line').hidden")


@needs_browser
def test_without_cross_attention_the_page_says_what_self_attention_does(page, model, runs):
    """How far the picture is from the source's, with and without injection: the mean over all channels, of 255."""
    recorder, result = runs("none")
    plain = sample(model, SWAP, steps=STEPS)
    show(page, model, recorder, result, plain)
    source, *both = (np.asarray(image, float) for image in (*result.images, plain.images[1]))
    apart = [int(abs(image - source).mean() + 0.5) for image in both]
    assert page.run("$('self-line').textContent").endswith(
        "Cross-attention is not injected: what keeps the source's layout is this alone. On average, a pixel of the "
        f"target differs by {apart[0]} of 255 from the source's; {apart[1]} without injection.")


@needs_browser
def test_of_a_function_of_ones_own_only_the_numbers_are_told(page, model):
    """And what became of its maps, as far as the numbers say."""
    edit = p2p.replace(model.tokenizer, SWAP)

    def edited(M, M_star, t):
        return M_star if t <= 0.2 else M_star / 2 if t <= 0.6 else edit(M, M_star, t)
    recorder = p2p.Recorder(model.tokenizer, SWAP, per_step=True)
    result = sample(model, SWAP, edited, own, blend=lambda z, z_star, t: z_star, recorder=recorder, steps=STEPS)
    show(page, model, recorder, result)
    page.run("set({step: 1, chosen: [1, data.prompts[1].words.indexOf('big')]})")
    said = page.run("['said', 'numbers', 'self-line', 'blend-line'].map(x => $(x).textContent.replaceAll('\xa0', ' '))")
    assert said[0] == "“big” at this step: M̂ = a function of one's own; the numbers alone say what it does."
    assert re.search("where M̂ is largest: M = [0-9.]+, M[*] = [0-9.]+, M̂ = [0-9.]+[.]$", said[1])
    assert said[2].startswith("A function of one's own edits the self-attention.")
    assert said[3].startswith("A blend of one's own")
    assert page.run("data.prompts[1].fates[data.prompts[1].words.indexOf('big')]") == "ssxxo"


@needs_browser
def test_layers_are_told_apart(page, model):
    tokenizer, recorder = model.tokenizer, p2p.Recorder(model.tokenizer, SWAP, per_step=True)
    edits = [{"up_blocks": edit} for edit in (p2p.replace(tokenizer, SWAP, 0.6), p2p.self_replace(0.4))]
    show(page, model, recorder, sample(model, SWAP, *edits, recorder=recorder, steps=STEPS))
    page.run("set({step: 0, chosen: [1, data.prompts[1].words.indexOf('big')]})")
    assert page.run("$('said').textContent").replace("\xa0", " ") == (
        "“big”: in up_blocks: M̂ = M(“big”) in steps 1 to 3 of 5; M̂ = M* after τ = 0.40; in all other layers: M̂ = M*.")
    assert page.run("$('self-line').textContent").startswith("Self-attention in up_blocks: in steps 1 to 2 of 5")


@needs_browser
def test_m_star_without_injection_is_the_map_of_the_other_run(page, model, runs):
    """It is shown where its recorder is there, and told in the text."""
    recorder, result = runs("swap")
    show(page, model, recorder, result)
    assert page.run("$('M-plain').closest('figure').hidden")
    seen = p2p.Recorder(model.tokenizer, SWAP, per_step=True)
    plain = sample(model, SWAP, steps=STEPS, recorder=seen)
    show(page, model, recorder, result, (plain, seen))
    told = page.run("document.body.innerText")
    assert page.run("$('M-plain').closest('figure').hidden") is False
    assert "inside the edited run" in told and "M* without injection" in told
    row = page.run("data.prompts[1].plain + data.prompts[1].words.indexOf('bicycle')")
    shown = np.array(page.run(f"[...maps[data.size]({row}, 2)]"))
    wanted = seen.maps("bicycle", 1, per_step=True)[1].ravel()
    assert np.allclose(shown, wanted, atol=wanted.max() / 100) and not np.allclose(
        shown, recorder.maps("bicycle", 1, edited=False, per_step=True)[1].ravel(), atol=wanted.max() / 100)
    assert not [event for event in page.events if event["method"] == "Runtime.exceptionThrown"]

"""The benchmark's results as tables and as a contact sheet."""
import io
from statistics import fmean

from PIL import Image

from p2p_min.pictures import sheet

NAMES = {"vae": "VAE alone"}
# name of the number: head of its column, in two lines; what it is multiplied by; digits
COLUMNS = {
    "reconstruction": ("source", "PSNR", 1, 1),
    "psnr": ("outside", "PSNR", 1, 1), "mse": ("outside", "MSE·10⁴", 1e4, 1),
    "ssim": ("outside", "SSIM %", 100, 1), "target": ("target", "read %", 100, 0), "kept": ("others", "kept %", 100, 0),
    "right": ("to right", "PSNR", 1, 1), "clip": ("CLIP", "whole", 1, 2), "clip_edited": ("CLIP", "edited", 1, 2),
    "seconds": ("", "seconds", 1, 1), "rows": ("UNet", "rows", 1, 0)}
LEGEND = """\
source: reconstruction of the given picture; outside: of the mask, as PIE-Bench computes it; to right: edited picture
against the right answer; seconds and rows: inversion and edit; VAE alone: what its encoding and decoding costs"""


def means(results):
    """{column: mean}, of the results that have such a number; and their count."""
    found = {name: [r["numbers"][name] for r in results if r["numbers"].get(name) is not None] for name in COLUMNS}
    return {"count": len(results)} | {name: fmean(numbers) for name, numbers in found.items() if numbers}


def summary(results, presets, methods, kinds):
    """preset -> "all" or kind -> method -> means"""
    def rows(chosen, preset):
        by_method = {method: [r for r in chosen if r["method"] == method and r["preset"] in (None, preset)]
                     for method in ("vae", *methods)}
        return {method: means(of_method) for method, of_method in by_method.items() if of_method}

    return {preset: {"all": rows(results, preset)} | {
        kind: rows([r for r in results if r["kind"] == kind], preset) for kind in kinds} for preset in presets}


def table(summary, notes, skipped, hidden=()):
    """The summary as lines: a block for each preset, first all items, then each kind of edit; no `hidden` columns."""
    every = [row for blocks in summary.values() for rows in blocks.values() for row in rows.values()]
    columns = [name for name in COLUMNS if name not in hidden and any(name in row for row in every)]
    first = max(len(kind) for blocks in summary.values() for kind in blocks) + 2
    lines = []
    for preset, blocks in summary.items():
        lines += ["", f"{preset}: {notes[preset]}"]
        for line in range(2):
            lines.append(" " * (first + 16) + "".join(f"{COLUMNS[name][line]:>9}" for name in columns))
        for kind, rows in blocks.items():
            for i, (method, row) in enumerate(rows.items()):
                label = "" if i else kind if kind != "all" else f"all {row['count']}"
                cells = "".join(cell(name, row) for name in columns)
                lines.append(f"{label:{first}}{NAMES.get(method, method):16}{cells}")
    lines += ["", LEGEND]
    if skipped:
        lines += ["", f"annotated words that were skipped, since their prompts do not have them: {len(skipped)}"]
        lines += [f"  {line}" for line in skipped[:10]] + [f"  and {len(skipped) - 10} more"] * (len(skipped) > 10)
    return "\n".join(lines)


def cell(name, row):
    _, _, factor, digits = COLUMNS[name]
    return f"{row[name] * factor:9.{digits}f}" if name in row else f"{'–':>9}"


def contact_sheet(items, images, key_of, presets, methods, open_pictures):
    """For each item and preset: source, right answer where there is one, the edited picture of each method. A row each,
    or two where they are short."""
    pictures, captions = [], []
    for item in items:
        source, right, _ = open_pictures(item)
        factors = "".join(f" [{word}={c:g}]" for word, c in item.factors.items())
        given = [(source, item.prompts[0] if right else " -> ".join(item.prompts))]
        given += [(right, item.prompts[1] + factors)] if right else []
        for preset in presets:
            made = [Image.open(io.BytesIO(images[key_of(item, method, preset)])) for method in methods]
            for image, text in given + [(image, f"{method}, {preset}") for image, method in zip(made, methods)]:
                pictures.append(image.resize(made[0].size, Image.Resampling.LANCZOS))
                captions.append(text)
    width = len(pictures) // (len(items) * len(presets))
    return sheet(pictures, captions, columns=width * max(1, 6 // width), side=128)

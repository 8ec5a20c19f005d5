"""Results as pictures."""
from PIL import Image, ImageDraw, ImageFont

MARGIN = 12


def sheet(images, captions, columns=None, side=256):
    """Pictures side by side, each over its caption.

    images    PIL pictures of one size; small ones are enlarged, by a whole number, to at least `side` pixels
    captions  one text per picture
    columns   pictures a row; None: all in one row
    """
    columns = columns or len(images)
    factor = max(1, -(-side // max(images[0].size)))
    width, height = (factor * n for n in images[0].size)
    font = ImageFont.load_default(size=max(14, width // 18))
    texts = [wrap(text, font, width) for text in captions]
    line = font.getbbox("Ag")[3] + 4
    lines = max(len(text) for text in texts)
    cell_w, cell_h = width + MARGIN, height + lines * line + MARGIN
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * cell_w + MARGIN, rows * cell_h + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for i, (image, text) in enumerate(zip(images, texts)):
        x, y = MARGIN + i % columns * cell_w, MARGIN + i // columns * cell_h
        page.paste(image.resize((width, height), Image.Resampling.BICUBIC), (x, y))
        for n, words in enumerate(text):
            draw.text((x, y + height + 4 + n * line), words, "black", font)
    return page


def wrap(text, font, width):
    """The text as lines of at most `width` pixels, broken between words, and in words that are longer than a line."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            lines += [""] if font.getlength(lines[-1] + letter) > width else []
            lines[-1] += letter
    return [line for line in lines if line]

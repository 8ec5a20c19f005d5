"""What the benchmark of edits measures in pictures. All pictures are PIL, RGB, of one size.

PSNR, MSE and SSIM outside a mask are taken as PIE-Bench takes them (PnP Inversion, Ju et al. 2023): both pictures are
multiplied by what should stay, black elsewhere, and averaged over all pixels, the black ones too. So the figures
compare with the published ones, and rise with the size of the mask.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

MOST = 100.0                                   # dB: what the PSNR of equal pictures counts as, since means are taken
WINDOW, SIGMA = 11, 1.5                        # of SSIM


def values(image, keep=None):
    """(3, height, width), float64 in [0, 1]; black outside of `keep`, a (height, width) array of truths."""
    pixels = torch.from_numpy(np.array(image, np.float64) / 255).permute(2, 0, 1)
    return pixels if keep is None else pixels * torch.from_numpy(np.asarray(keep, np.float64))


def mse(a, b, keep=None):
    return ((values(a, keep) - values(b, keep)) ** 2).mean().item()


def psnr(a, b, keep=None):
    return psnr_of(mse(a, b, keep))


def psnr_of(error):
    return min(MOST, -10 * math.log10(error)) if error else MOST


def ssim(a, b, keep=None):
    """Structural similarity with a Gaussian window, averaged over the pixels whose window lies inside the picture.

    That is what torchmetrics computed when PIE-Bench was published; since its pull request 2721 of September 2024 it
    also counts the border, where the picture is mirrored.
    """
    x = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    kernel = (-(x / SIGMA) ** 2 / 2).exp()
    kernel = kernel / kernel.sum()

    def blur(pictures):                        # (n, 3, height, width), smaller by WINDOW - 1
        rows = F.conv2d(pictures.flatten(0, 1)[:, None], kernel.view(1, 1, 1, -1))
        return F.conv2d(rows, kernel.view(1, 1, -1, 1)).view(len(pictures), 3, -1, rows.shape[-1])

    a, b = values(a, keep), values(b, keep)
    mean_a, mean_b, aa, bb, ab = blur(torch.stack([a, b, a * a, b * b, a * b]))
    variances = (aa - mean_a ** 2).clamp(min=0) + (bb - mean_b ** 2).clamp(min=0)
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * (ab - mean_a * mean_b) + c2)
    return (likeness / ((mean_a ** 2 + mean_b ** 2 + c1) * (variances + c2))).mean().item()


def outside(source, edited, mask):
    """The published columns, of what lies outside the mask; nothing if all of the picture may change."""
    if mask.all():
        return {}
    error = mse(source, edited, ~mask)
    return dict(psnr=psnr_of(error), mse=error, ssim=ssim(source, edited, ~mask))


def only(image, mask):
    """The picture, black outside the mask."""
    return Image.fromarray(np.asarray(image) * mask[..., None].astype(np.uint8))


def clip_similarity(folder, device):
    """score(image, text): 100 times the cosine between CLIP's embeddings, at least 0 (torchmetrics' CLIPScore)."""
    try:
        model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True).eval().to(device)
        processor = transformers.CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"there is no CLIP model that can be read in {folder}: {str(error).splitlines()[0]}") from None
    longest = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def score(image, text):
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest).to(device)
        found = model(**tokens, pixel_values=processor(image, return_tensors="pt").pixel_values.to(device))
        return max(0.0, 100 * F.cosine_similarity(found.image_embeds, found.text_embeds).item())
    return score

"""DDIM (Song et al. 2020) with eta = 0: a step and its inverse along a checkpoint's noise schedule, and the schedule.

With ᾱ = alphas_cumprod, a step from level ᾱ_t to the level below it, ᾱ_{t-1}, is

    z_0     = (z_t − √(1 − ᾱ_t) eps) / √ᾱ_t                  the clean latent that eps implies
    z_{t-1} = √ᾱ_{t-1} z_0 + √(1 − ᾱ_{t-1}) eps              the same with less noise (equation 12)

and inversion is the same with the two levels swapped. All are pure functions. The seed s of the paper's
DM(z_t, P, t, s) is only used to draw z_T: the steps are deterministic.

Five things could be called time; the code names each:

    steps      N, the number of steps of a run
    i          counts them: 0 at pure noise, N - 1 at the last
    times[i]   the training timestep at which step i asks the network, such as 981 … 1
    t          the paper's, as edits, blends and watches see it: (N - i)/N, 1 at pure noise, never 0
    step()     goes from level i to the next one; `steps=0.8` of an edit is the part of the run in which it acts
"""
import warnings
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from .checks import PREDICTIONS, SPACINGS, is_whole, must
from .networks.config import read_config

KEYS = dict(                           # of a scheduler's config: (the default of diffusers, what it may be)
    num_train_timesteps=(1000, int), beta_schedule=("linear", "linear", "scaled_linear"), beta_start=(0.0001, float),
    beta_end=(0.02, float), trained_betas=(None, [float]), set_alpha_to_one=(True, bool), steps_offset=(0, int),
    timestep_spacing=("leading", *SPACINGS), prediction_type=("epsilon", *PREDICTIONS),
    thresholding=(False, False), rescale_betas_zero_snr=(False, False))


class Schedule(NamedTuple):
    """What DDIM needs to know of the noise process that a checkpoint was trained with."""
    alphas_cumprod: torch.Tensor       # (1000,) fp32, decreasing
    final_alpha: float                 # used as alphas_cumprod below timestep 0
    offset: int                        # added to every timestep ("leading" spacing)
    spacing: str                       # one of SPACINGS
    prediction: str                    # what the UNet predicts: "epsilon" or "v_prediction"

    @classmethod
    def from_config(cls, config):
        """From the dict of a `scheduler_config.json`; missing keys take diffusers' defaults.

        The config may be for any scheduler (PNDM, Euler): keys about how those step do not matter to DDIM.
        `clip_sample` is for pixel-space models: diffusers' Stable Diffusion pipeline turns it off, whatever the file
        says. Raises ValueError for a value that is not implemented, naming it, and for a scheduler without betas.
        """
        c = read_config(config, "scheduler", KEYS, ignored=None)
        if config.get("beta_schedule") is None and config.get("trained_betas") is None:
            raise ValueError("scheduler: its config has neither beta_schedule nor trained_betas, so DDIM, which "
                             "p2p_min uses, cannot sample its model (flow matching, EDM)")
        # ᾱ, which must go from near 1 to near 0.
        first, last, n = c["beta_start"], c["beta_end"], c["num_train_timesteps"]
        if c["trained_betas"] is not None:
            betas = torch.tensor(c["trained_betas"], dtype=torch.float32)
            must(betas.shape == (n,), "scheduler: trained_betas", f"a list of {n}, one for each timestep", betas)
        elif c["beta_schedule"] == "scaled_linear":
            betas = torch.linspace(first ** 0.5, last ** 0.5, n, dtype=torch.float32) ** 2
        else:
            betas = torch.linspace(first, last, n, dtype=torch.float32)
        alphas_cumprod = (1 - betas).cumprod(0)
        if not 0 < alphas_cumprod[-1] <= alphas_cumprod[0] < 1:
            raise ValueError("scheduler: the betas of its config add no noise, or so much that nothing of the picture "
                             "is left in 32-bit numbers")
        final_alpha = 1.0 if c["set_alpha_to_one"] else alphas_cumprod[0].item()
        return cls(alphas_cumprod, final_alpha, c["steps_offset"], c["timestep_spacing"], c["prediction_type"])


def alphas(schedule, times, i):
    """alphas_cumprod where step i starts and ends. As in diffusers, its end and the next one's start are a little apart
    with "trailing" or "linspace" where N does not divide the schedule."""
    below = times[i] - len(schedule.alphas_cumprod) // len(times)
    return (schedule.alphas_cumprod[times[i]].item(),
            schedule.alphas_cumprod[below].item() if below >= 0 else schedule.final_alpha)


def to_eps(schedule, output, z, alpha):
    """The network's output as the noise eps in z (v-prediction: Salimans & Ho 2022)."""
    return output if schedule.prediction == "epsilon" else alpha ** 0.5 * output + (1 - alpha) ** 0.5 * z


def change_level(z, eps, alpha, alpha_to):
    """z at noise level `alpha`, with the noise eps in it, taken to the level `alpha_to` (Song et al., eq. 12)."""
    z_0 = (z - (1 - alpha) ** 0.5 * eps) / alpha ** 0.5
    return alpha_to ** 0.5 * z_0 + (1 - alpha_to) ** 0.5 * eps


def predict(schedule, z_t, output, times, i):
    """z_0 as predicted at step i: where `step` would end if it removed all noise at once."""
    alpha, _ = alphas(schedule, times, i)
    return change_level(z_t, to_eps(schedule, output, z_t, alpha), alpha, 1.0)


def step(schedule, z_t, output, times, i):
    """z_{t-1} from z_t and the network's output at times[i]."""
    alpha, alpha_below = alphas(schedule, times, i)
    return change_level(z_t, to_eps(schedule, output, z_t, alpha), alpha, alpha_below)


def inverse_step(schedule, z_below, output, times, i):
    """z_t from z_{t-1}: `step` in reverse. The output is for the lower latent, at the *upper* timestep, times[i]; so v
    is converted to eps with the upper alpha. (diffusers takes the lower one, and its round trip is less exact.)"""
    alpha, alpha_below = alphas(schedule, times, i)
    return change_level(z_below, to_eps(schedule, output, z_below, alpha), alpha_below, alpha)


def timesteps(schedule, steps):
    """The `steps` timesteps at which the network is called, decreasing: a list of ints in 0 … 999.
    Raises ValueError for a number of steps that the schedule cannot have; warns if the first is far from pure noise."""
    train = len(schedule.alphas_cumprod)
    must(is_whole(steps) and 1 <= steps <= train, "steps", f"a whole number from 1 to {train}", steps)
    if schedule.spacing == "leading":
        ratio = train // steps
        offset = min(schedule.offset, train - 1 - (steps - 1) * ratio)      # never beyond the last timestep
        times = [i * ratio + offset for i in reversed(range(steps))]
    elif schedule.spacing == "trailing":                   # numpy rounds halves like diffusers
        times = (np.arange(train, 0, -train / steps)[:steps].round().astype(int) - 1).tolist()
    else:
        times = np.linspace(0, train - 1, steps).round().astype(int)[::-1].tolist()
    if times[0] < 0.8 * train:
        warnings.warn(f"{schedule.spacing} spacing puts the first of {steps} timesteps at {times[0]}, "
                      f"{train - 1 - times[0]} below the noisiest: the model would treat pure noise as a half-denoised "
                      "picture. Use spacing 'trailing' (--spacing trailing), which few-step models need, or another "
                      "number of steps", stacklevel=1)     # a fixed location, so that Python shows it once
    return times


def bar(progress, steps, desc):
    """The steps, with a progress bar; `progress` may be a function of one's own that shows them, or False."""
    return progress(steps, desc) if callable(progress) else tqdm(steps, desc=desc, disable=not progress)

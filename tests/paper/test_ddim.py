"""The schedule and the two steps along it."""
import warnings

import pytest
import torch

from p2p_min.ddim import Schedule, alphas, change_level, inverse_step, step, timesteps

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 333, 999, 1000])
def test_n_steps_are_n_times_that_exist(spacing, steps):
    """N steps give exactly N falling times, and none is beyond 999: also N = 1000 with an offset."""
    times = timesteps(Schedule.from_config(dict(SD, timestep_spacing=spacing)), steps)
    assert len(times) == steps and times == sorted(set(times), reverse=True)
    assert 0 <= times[-1] and times[0] <= 999


@pytest.mark.parametrize("to_one, last", [(False, 0.99915), (True, 1.0)])
def test_the_last_step_goes_where_the_config_says(to_one, last):
    """`set_alpha_to_one` false: the last step goes to alphas_cumprod[0], else to 1."""
    schedule = Schedule.from_config(dict(SD, set_alpha_to_one=to_one))
    times = timesteps(schedule, 50)
    assert alphas(schedule, times, 49) == pytest.approx((schedule.alphas_cumprod[1].item(), last))
    assert alphas(schedule, times, 0)[1] == schedule.alphas_cumprod[times[1]].item()


def test_a_step_keeps_the_picture_and_the_noise_and_changes_their_shares():
    """DDIM, eta 0: with the true eps, every level is sqrt(alpha) z_0 + sqrt(1 - alpha) eps of the same two."""
    z_0, eps = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mix = lambda alpha: alpha ** 0.5 * z_0 + (1 - alpha) ** 0.5 * eps
    torch.testing.assert_close(change_level(mix(0.1), eps, 0.1, 0.7), mix(0.7))
    torch.testing.assert_close(change_level(mix(0.7), eps, 0.7, 0.1), mix(0.1))


@pytest.mark.parametrize("variance", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_inversion_comes_back_with_eps_and_with_v(prediction, variance):
    """Up 50 steps and down again with the best possible prediction for Gaussian data: back within 3 %.

    A v converted to eps at the lower alpha, as diffusers does, would come back with an error of 5 %.
    """
    schedule = Schedule.from_config(dict(SD, prediction_type=prediction))
    times = timesteps(schedule, 50)

    def network(z, time):
        alpha = schedule.alphas_cumprod[time].item()
        eps = (1 - alpha) ** 0.5 * z / (alpha * variance + 1 - alpha)
        z_0 = alpha ** 0.5 * variance * z / (alpha * variance + 1 - alpha)
        return eps if prediction == "epsilon" else alpha ** 0.5 * eps - (1 - alpha) ** 0.5 * z_0

    z = start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * variance ** 0.5
    for i in reversed(range(50)):
        z = inverse_step(schedule, z, network(z, times[i]), times, i)
    for i in range(50):
        z = step(schedule, z, network(z, times[i]), times, i)
    assert (z - start).norm() / start.norm() < 0.03


@pytest.mark.parametrize("spacing, steps, first", [
    ("leading", 1, 1), ("leading", 2, 501), ("leading", 4, 751), ("leading", 600, 600), ("linspace", 1, 0)])
def test_a_schedule_that_begins_far_from_noise_says_so(spacing, steps, first):
    """Few steps, or a number that does not divide 1000: how far, and what to do. diffusers does that without a word."""
    far = f"first of {steps} timesteps at {first}, {999 - first} below the noisiest: .*--spacing trailing"
    with pytest.warns(UserWarning, match=far):
        assert timesteps(Schedule.from_config(dict(SD, timestep_spacing=spacing)), steps)[0] == first


@pytest.mark.parametrize("spacing, steps", [
    ("leading", 5), ("leading", 50), ("leading", 1000), ("trailing", 1), ("trailing", 4), ("trailing", 600),
    ("linspace", 2), ("linspace", 50)])
def test_a_schedule_that_begins_at_noise_says_nothing(spacing, steps):
    """Within a fifth of the schedule."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert timesteps(Schedule.from_config(dict(SD, timestep_spacing=spacing)), steps)[0] >= 800


@pytest.mark.parametrize("name, config", [
    ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0)), ("EDMEulerScheduler", dict(sigma_data=0.5)),
    ("EDMDPMSolverMultistepScheduler", dict(beta_schedule=None, trained_betas=None, prediction_type="epsilon"))])
def test_a_scheduler_without_betas_is_refused_by_its_class(name, config):
    """Flow matching and EDM: no betas are invented for them."""
    with pytest.raises(ValueError, match="has neither beta_schedule nor trained_betas, .*flow matching, EDM"):
        Schedule.from_config(dict(config, _class_name=name, num_train_timesteps=1000))


def test_betas_of_their_own_need_no_name():
    """A config with trained_betas and no beta_schedule."""
    betas = torch.linspace(0.001, 0.01, 10)
    schedule = Schedule.from_config(dict(trained_betas=betas.tolist(), num_train_timesteps=10))
    assert torch.equal(schedule.alphas_cumprod, (1 - betas).cumprod(0))


@pytest.mark.parametrize("config, named", [
    (dict(prediction_type="sample"), "prediction_type .* not 'sample'"),
    (dict(beta_schedule="cosine"), "beta_schedule"),
    (dict(timestep_spacing="other"), "timestep_spacing"),
    (dict(steps_offset="1"), "steps_offset .* a whole number, not '1'"),
    (dict(trained_betas=[0.1, 0.2]), "trained_betas must be a list of 1000"),
    (dict(thresholding=True), "thresholding"),
    (dict(rescale_betas_zero_snr=True), "rescale_betas_zero_snr")])
def test_a_setting_that_is_not_implemented_is_named(config, named):
    """A config value that would change the maths, or makes no sense, is never passed over."""
    with pytest.raises(ValueError, match=named):
        Schedule.from_config(dict(SD, **config))


@pytest.mark.parametrize("config", [
    dict(beta_start=1e-30, beta_end=1e-30), dict(beta_start=0.5, beta_end=0.99), dict(beta_end=0.999999),
    dict(trained_betas=[1e-20] * 1000), dict(trained_betas=[0.5] * 1000)])
def test_betas_that_leave_no_schedule_are_refused(config):
    """No noise at all, or nothing of the picture: both would be found out as pictures of not-a-number, or never."""
    with pytest.raises(ValueError, match="the betas of its config"):
        Schedule.from_config(dict(SD, **config))

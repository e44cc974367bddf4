"""The experiment mountain-car: what is kept of a run, and how followers are judged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from bilevel_rl import figures
from bilevel_rl.cli import main
from bilevel_rl.followers import learn
from bilevel_rl.problems import mountain_car
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig
from bilevel_rl.studies.mountain_car import figures as drawing, study
from bilevel_rl.studies.mountain_car.figures import animate_mountain_car
from bilevel_rl.studies.mountain_car.study import LABELS, MountainCarStudy

FEW = ["--num-seeds", "2", "--num-iterations", "60", "--log-every", "30", "--width", "8", "--num-chains", "4"]
SMALL = MountainCarStudy(width=8, run=RunConfig(num_seeds=2, num_iterations=60))


@pytest.fixture
def few_episodes(monkeypatch):
    monkeypatch.setattr(study, "NUM_EPISODES", 4)


@pytest.fixture
def little_to_draw(monkeypatch):
    monkeypatch.setattr(drawing, "FRAME_EVERY", 20)
    monkeypatch.setattr(figures, "draw_outcome", lambda folder: None)  # Other tests draw these.


@pytest.mark.slow
def test_a_run_compares_shapings_and_is_drawn_again_from_its_folder(few_episodes, little_to_draw, tmp_path, capsys):
    path = tmp_path / "run"
    main(["run", "mountain-car", "--folder", str(path), "--no-progress", "--initial-spread", "0.5", *FEW])
    printed = capsys.readouterr().out
    assert "followers trained from scratch, 2 seeds: with the learned shaping" in printed
    folder = RunFolder.open(path)
    assert folder.path.joinpath("table.md").read_text() in printed
    data = folder.read_arrays("followers")
    logged = [[row[f"x{i}"] for i in range(12)] for row in folder.read_rows("metrics")]
    np.testing.assert_allclose(data["first_x"].reshape(2, 12), logged[:2], rtol=1e-6)
    np.testing.assert_allclose(data["last_x"].reshape(2, 12), logged[-2:], rtol=1e-6)
    transitions = {name: int(data[f"{name}_transitions"]) for name in LABELS}
    assert transitions == dict.fromkeys(LABELS, 240) | {"none_longer": 720}
    for name in LABELS:
        assert np.all((data[f"{name}_arrived"] >= 0) & (data[f"{name}_steps"] <= 200))
        assert data[f"{name}_states"].shape == (201, 4, 2)
    animation = path / "figures" / "follower.gif"
    with Image.open(animation) as image:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 11 * 70
        assert image.size == (480, 380)
    first = animation.read_bytes()
    animation.unlink()
    animate_mountain_car(folder)
    assert animation.read_bytes() == first
    assert (path / "figures" / "mountain_car_shaping.png").stat().st_size > 1_000


@pytest.mark.slow
def test_arrivals_and_steps_are_counted_in_the_episodes(few_episodes):
    algorithm, xs = SMALL.algorithm(), np.zeros((2, 4, 3), np.float32)
    untrained = learn(algorithm, jnp.zeros((4, 3)), jax.random.key(0), 0)
    judged = SMALL.watch(algorithm, xs, [_pushing_along(untrained), untrained], 0)
    np.testing.assert_array_equal(judged.arrived, [1.0, 0.0])  # Chance does not leave the valley.
    assert judged.steps[1] == 200
    arrival = np.argmax(judged.states[..., 0] >= mountain_car.GOAL, axis=0)
    assert judged.steps[0] == pytest.approx(arrival.mean())
    assert 80 < judged.steps[0] < 180


def _pushing_along(follower):
    """Pushes almost surely in the direction of motion: the first number of every layer is the sign of the velocity."""
    first, first_bias, second, second_bias, last, last_bias = (
        jnp.zeros_like(array) for array in follower.weights.actor
    )
    actor = (
        first.at[0, 1].set(100.0),
        first_bias,
        second.at[0, 0].set(10.0),
        second_bias,
        last.at[0, 0].set(-20.0).at[2, 0].set(20.0),
        last_bias,
    )
    return dataclasses.replace(follower, weights=follower.weights._replace(actor=actor))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy_scale": -1.0}, "energy_scale must be finite and not negative"),
        ({"height_scale": float("inf")}, "height_scale must be finite and not negative"),
        ({"width": 0}, "width must be at least 1"),
        ({"num_positions": 1}, "num_positions must be at least 2"),
        ({"averaging": -1.0}, "averaging must be finite and not negative"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MountainCarStudy(), **options).check()

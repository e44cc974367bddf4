"""The experiment pendulum-design: its run folder, its figures, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageSequence

from bilevel_rl.cli import main
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies import reward_design
from bilevel_rl.studies.pendulum_design import PendulumDesignStudy


@pytest.mark.slow
def test_a_run_writes_figures_and_an_animation_that_are_drawn_again_from_its_folder(
    phys2d, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(reward_design, "NUM_EPISODES", 4)
    monkeypatch.setattr(reward_design, "NUM_STEPS", 60)
    path = tmp_path / "run"
    options = ["--num-seeds", "2", "--num-iterations", "20", "--log-every", "10", "--width", "8", "--num-chains", "4"]
    main(["run", "pendulum-design", "--folder", str(path), "--no-progress", "--judging-transitions", "400", *options])
    assert "designer's cost of followers trained from scratch, median of 2 seeds" in capsys.readouterr().out
    folder = RunFolder.open(path)
    data = folder.read_arrays("followers")
    assert data["last_x"].shape == (2, 10)
    assert np.any(data["last_x"] != data["first_x"])
    assert data["actions_after"].shape == (60, 4, 1)
    assert folder.read_rows("metrics")[-1]["num_transitions"] == 20 * 2 * 16 * 4
    animation = path / "figures" / "follower.gif"
    with Image.open(animation) as image:
        # Pictures that are alike are one, shown for longer.
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 60 * 50
        assert image.size == (480, 240)
    first = animation.read_bytes()
    animation.unlink()
    main(["plot", str(path)])
    assert animation.read_bytes() == first
    assert {figure.stem for figure in (path / "figures").glob("*.png")} == {
        "pendulum_design",
        "sampled_curves",
        "step_sizes",
        "x",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judging_transitions": 3.0}, "judging_transitions"),
        ({"width": 0}, "width must be at least 1"),
        ({"num_steps": 1}, "gae_lambda must be 0 where num_steps is 1"),
    ],
)
def test_bad_options_are_refused(phys2d, options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PendulumDesignStudy(), **options).check()

"""The experiment cartpole-design and its tools: followers at a fixed x, judged by episodes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from bilevel_rl import (
    BilevelProblem,
    Followers,
    FunctionalEnvironment,
    NeuralActorCritic,
    OccupancyCost,
    SingleLoopActorCritic,
)
from bilevel_rl.algorithms.step_sizes import StepSizes
from bilevel_rl.cli import main
from bilevel_rl.followers import learn, rollout
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies import reward_design
from bilevel_rl.studies.cartpole_design import CartpoleDesignStudy, is_fallen

DISCOUNT = 0.8


def switch(num_chains=8, **options):
    """A lamp that is on (1) or off (0) as the last action was; paid x where it is on, and −1 for the leader."""
    environment = FunctionalEnvironment(
        initial=lambda key: jnp.float32(0.0),
        transition=lambda state, action, key: jnp.float32(action),
        observe=lambda state: state[None],
        discount=DISCOUNT,
        num_actions=2,
    )
    problem = BilevelProblem(
        environment,
        lambda x, s, a: x * s,
        OccupancyCost(lambda x, s, a: -s, regularizer=lambda x: 1.0 + 0.0 * x, cost_bound=1.0),
        initial_x=1.0,
        reward_bound=2.0,
    )
    step_sizes = StepSizes.constant_entropy(actor=0.01, critic=0.03, entropy=0.1)
    policies = NeuralActorCritic.mlp(environment, width=8, depth=1)
    return SingleLoopActorCritic(problem, step_sizes, Followers(num_chains, policies=policies, **options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("x", "share_on", "window"), [(1.0, 1.0, {}), (-1.0, 0.0, {}), (1.0, 1.0, {"num_steps": 4, "gae_lambda": 0.9})]
)
def test_a_follower_trained_at_a_fixed_x_answers_as_it_should(x, share_on, window):
    algorithm = switch(**window)
    follower = learn(algorithm, jnp.float32(x), jax.random.key(0), 8 * 1_500 * algorithm.followers.num_steps)
    watched = rollout(algorithm.problem, follower, x, jax.random.key(1), num_episodes=256, num_steps=40)
    # On from the second step on is a share γ of the discounted time, off for ever none.
    assert watched.upper_value == pytest.approx(1 - DISCOUNT * share_on, abs=0.05)
    assert watched.states.shape == (40, 256)
    np.testing.assert_array_equal(watched.states[1:], watched.actions[:-1])


@pytest.mark.slow
def test_an_untrained_follower_costs_what_chance_does():
    algorithm = switch()
    follower = learn(algorithm, jnp.float32(1.0), jax.random.key(0), 7)
    watched = rollout(algorithm.problem, follower, 1.0, jax.random.key(1), num_episodes=4_096, num_steps=60)
    # Half of the time on, but for the first step: an orthogonal start is within 1 % of the uniform policy.
    assert watched.upper_value == pytest.approx(1 - DISCOUNT / 2, abs=0.01)


@pytest.fixture(scope="module")
def options():
    return ["--num-seeds", "2", "--num-iterations", "60", "--log-every", "30", "--width", "8", "--num-chains", "4"]


@pytest.mark.slow
def test_a_run_writes_figures_and_an_animation_that_are_drawn_again_from_its_folder(
    phys2d, tmp_path, options, capsys, monkeypatch
):
    monkeypatch.setattr(reward_design, "NUM_EPISODES", 4)
    monkeypatch.setattr(reward_design, "NUM_STEPS", 60)
    path = tmp_path / "run"
    main(["run", "cartpole-design", "--folder", str(path), "--no-progress", "--judging-transitions", "400", *options])
    assert "designer's cost of followers trained from scratch, median of 2 seeds" in capsys.readouterr().out
    data = RunFolder.open(path).read_arrays("followers")
    assert data["last_x"].shape == (2, 9)
    assert np.any(data["last_x"] != data["first_x"])
    assert np.all((data["before"] > 0) & (data["before"] <= 1))
    animation = path / "figures" / "follower.gif"
    with Image.open(animation) as image:
        # Pictures that are alike are one, shown for longer.
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 30 * 40
        assert image.size == (480, 260)
    first = animation.read_bytes()
    animation.unlink()
    main(["plot", str(path)])
    assert animation.read_bytes() == first
    assert {figure.stem for figure in (path / "figures").glob("*.png")} == {
        "cartpole_design",
        "sampled_curves",
        "step_sizes",
        "x",
    }


def test_a_fallen_pole_is_seen_where_the_environment_ends(phys2d):
    environment = CartpoleDesignStudy().problem().environment
    states = jnp.array([[2.41, 0, 0, 0], [2.39, 0, 0, 0], [0, 0, -0.21, 0], [0, 9, 0.209, 9.0]], jnp.float32)
    episodes = environment.reset(jnp.zeros(4))._replace(state=states)
    np.testing.assert_array_equal(is_fallen(np.asarray(states)), environment.is_terminal(episodes))
    np.testing.assert_array_equal(is_fallen(np.asarray(states)), [True, False, True, False])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"judging_transitions": 3.0}, "judging_transitions"), ({"width": 0}, "width must be at least 1")],
)
def test_bad_options_are_refused(phys2d, options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CartpoleDesignStudy(), **options).check()

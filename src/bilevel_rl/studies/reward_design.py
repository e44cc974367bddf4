"""What experiments have in common whose leader designs a reward for neural followers, with nothing known exactly."""

import math
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from bilevel_rl import figures
from bilevel_rl.algorithms import SingleLoopActorCritic
from bilevel_rl.runs import processes
from bilevel_rl.runs.folder import RunFolder
from bilevel_rl.studies.config import RunConfig, ScheduleConfig
from bilevel_rl.studies.followers import Watched, lower, train, watch

NUM_EPISODES, NUM_STEPS = 256, 800
"""By which a follower is judged at the end; 0.99^800 = 0.0003 of the time is later."""

SHOWN = 32
"""Episodes of the first seed whose states and actions are kept."""


@runtime_checkable
class RewardDesign(Protocol):
    """The config of such an experiment."""

    @property
    def run(self) -> RunConfig:
        """How it is run."""
        ...

    @property
    def schedule(self) -> ScheduleConfig:
        """Step sizes and chains."""
        ...

    @property
    def judging_transitions(self) -> float:
        """For which followers are trained from scratch to judge an x."""
        ...

    def algorithm(self) -> SingleLoopActorCritic:
        """What runs."""
        ...


def check(config: RewardDesign):
    """Raises `ValueError` for options that no follower can be trained with."""
    num_chains = config.schedule.num_chains
    if not (config.judging_transitions >= num_chains and math.isfinite(config.judging_transitions)):
        raise ValueError(
            f"judging_transitions must be finite and at least one for each of num_chains, got "
            f"{config.judging_transitions:g}"
        )


def judge(config: RewardDesign, algorithm: SingleLoopActorCritic, x: np.ndarray, seed: int) -> Watched:
    """Episodes of a follower that is trained at x from scratch, and f estimated from them."""
    key = jax.random.key(config.run.seed, impl=config.run.generator)
    learning, watching = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, seed), 2**31))
    follower = train(algorithm, x, learning, int(config.judging_transitions))
    return watch(algorithm, x, follower, watching, NUM_EPISODES, NUM_STEPS)


def run_and_judge(config: RewardDesign, folder: RunFolder, *, progress: bool = True) -> bool:
    """Runs the experiment, judges the first and the last x of every seed, and writes `followers.npz`.

    Returns:
        Whether this process is the one that writes.
    """
    algorithm = config.algorithm()
    result = config.run.run(algorithm, folder, progress=progress)
    if not processes.is_writer():
        return False
    first, last = np.asarray(algorithm.problem.initial_x, np.float32), np.asarray(result.x)
    before = [judge(config, algorithm, first, seed) for seed in range(config.run.num_seeds)]
    after = [judge(config, algorithm, x, seed) for seed, x in enumerate(last)]
    learned = [
        float(watch(algorithm, x, lower(result.states, seed), jax.random.key(seed), NUM_EPISODES, NUM_STEPS).objective)
        for seed, x in enumerate(last)
    ]
    episodes = {
        f"{name}_{when}": np.asarray(leaf)[:, :SHOWN]
        for when, watched in (("before", before[0]), ("after", after[0]))
        for name, leaf in (("states", watched.states), ("actions", watched.actions))
    }
    folder.write_arrays(
        "followers",
        first_x=first,
        last_x=last,
        before=np.array([float(watched.objective) for watched in before]),
        after=np.array([float(watched.objective) for watched in after]),
        learned=np.array(learned),
        **episodes,
    )
    return True


def summarize(folder: RunFolder) -> str:
    """One line about the outcome."""
    data = folder.read_arrays("followers")
    before, after, learned = (np.median(data[name]) for name in ("before", "after", "learned"))
    worst = 100 * (data["after"] / data["before"] - 1).max()
    return (
        f"designer's cost of followers trained from scratch, median of {len(data['after'])} seeds: {before:.3f} with "
        f"the first reward, {after:.3f} with the last (worst seed {worst:+.0f} %); its own policies {learned:.3f}"
    )


def plot_curves(folder: RunFolder):
    """The figures that all of them have."""
    figures.draw_step_sizes(folder)
    figures.draw_sampled_curves(folder)

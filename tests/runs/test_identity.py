"""A folder goes on with the run that it holds, and with no other one, wherever the difference stands."""

import dataclasses
import functools
import json
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel_rl as brl
from bilevel_rl.cli import main
from bilevel_rl.runs import identity
from bilevel_rl.runs.identity import differences, identity_of
from bilevel_rl.runs.log_points import LogPoints
from garnets import random_problem

KEY = jax.random.key(0)
WORLD = random_problem(seed=3, num_states=4, num_actions=2, num_successors=2).environment


def algorithm(
    reward=lambda x, s, a: x * (s == 1), *, cost=lambda x, s, a: 1.0 * (s == 0), environment=WORLD, **options
):
    upper = brl.OccupancyCost(cost, regularizer=options.pop("regularizer", lambda x: 0.1 * x**2))
    problem = brl.BilevelProblem(environment, reward, upper, initial_x=options.pop("initial_x", 0.5), **options)
    return brl.SingleLoopActorCritic(problem, brl.StepSizes.constant_entropy(critic=1.0, actor=0.5))


def between(one, other, program: str | None = "not traced"):
    """What a run of `other` in the folder of `one` is told."""
    noted, now = (json.loads(json.dumps(identity_of(which, KEY, LogPoints(10), program))) for which in (one, other))
    return differences(noted, now)


# One number, hidden in every way that we could think of.


def in_code(bonus):
    return (lambda x, s, a: x * (s == 1) + 0.0) if bonus == 0 else (lambda x, s, a: x * (s == 1) + 1.0)


def in_closure(bonus):
    return lambda x, s, a: x * (s == 1) + bonus


def in_default(bonus):
    return lambda x, s, a, bonus=bonus: x * (s == 1) + bonus


def in_jax_array(bonus):
    table = jnp.array([bonus, 0.0, 0.0, 0.0])
    return lambda x, s, a: x * (s == 1) + table[s]


def in_numpy_array(bonus):
    table = np.array([bonus, 0.0, 0.0, 0.0])
    return lambda x, s, a: x * (s == 1) + jnp.asarray(table)[s]


class Reward:
    def __init__(self, bonus):
        self.bonus, self.tables = bonus, {"bonus": [np.array([bonus, 0.0, 0.0, 0.0])]}

    def __call__(self, x, s, a):
        return x * (s == 1) + self.bonus

    def by_table(self, x, s, a):
        return x * (s == 1) + jnp.asarray(self.tables["bonus"][0])[s]


def in_method(bonus):
    return Reward(bonus).by_table


def in_partial(bonus):
    return functools.partial(lambda bonus, x, s, a: x * (s == 1) + bonus, bonus)


def in_partial_table(bonus):
    return functools.partial(lambda table, x, s, a: x * (s == 1) + jnp.asarray(table)[s], np.array([bonus, 0, 0, 0]))


def in_module_global(bonus):
    module = types.ModuleType("rewards_of_a_user")
    code = "def reward(x, s, a):\n    return helper(x, s)\n\ndef helper(x, s):\n    return x * (s == 1) + BONUS"
    exec(code, vars(module))
    vars(module)["BONUS"] = bonus
    return module.reward


class Module(eqx.Module):
    bonus: np.ndarray

    def __call__(self, x, s, a):
        return x * (s == 1) + self.bonus


def in_module(bonus):
    return Module(np.array(bonus))


def on_the_host(bonus):
    def add(value):
        return np.asarray(value) + np.float32(bonus)

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return lambda x, s, a: x * (s == 1) + jax.pure_callback(add, shape, jnp.float32(0), vmap_method="sequential")


WAYS = [
    in_code,
    in_closure,
    in_default,
    in_jax_array,
    in_numpy_array,
    Reward,
    in_method,
    in_partial,
    in_partial_table,
    in_module_global,
    in_module,
    on_the_host,
]


@pytest.mark.variants(rest="long")
@pytest.mark.parametrize("hidden", WAYS)
def test_another_number_in_the_reward_is_another_run(hidden):
    assert between(algorithm(hidden(0.0)), algorithm(hidden(0.0))) == []
    assert between(algorithm(hidden(0.0)), algorithm(hidden(1.0))) == ["its reward is another one"]


def functional(push=0.1, *, edge=3.0, start=0.0, seen=1.0):
    return brl.FunctionalEnvironment(
        initial=lambda key: jax.random.normal(key) + start,
        transition=lambda s, a, key: s + jnp.where(a == 1, push, -push),
        observe=lambda s: seen * s[None],
        discount=0.9,
        num_actions=2,
        is_end=lambda s: s > edge,
    )


def networks(environment):
    upper = brl.OccupancyCost(lambda x, s, a: s**2)
    problem = brl.BilevelProblem(environment, lambda x, s, a: x * s, upper, initial_x=0.5)
    followers = brl.Followers(2, policies=brl.NeuralActorCritic.mlp(environment, width=4))
    return brl.SingleLoopActorCritic(problem, brl.StepSizes.decaying(actor=1e-3, critic=3e-3), followers)


@pytest.mark.parametrize("change", [{"push": 0.2}, {"edge": 2.0}, {"start": 1.0}, {"seen": 2.0}], ids=str)
def test_an_environment_of_other_functions_is_another_run(change):
    one = networks(functional())
    assert between(one, networks(functional())) == []
    assert between(one, networks(functional(**change))) == ["its environment is another one"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cost": lambda x, s, a: 2.0 * (s == 0)}, "its cost is another one"),
        ({"regularizer": lambda x: 0.2 * x**2}, "its regularizer is another one"),
        ({"project": lambda x: jnp.clip(x, 0.0, 2.0)}, "its projection is another one"),
        ({"initial_x": 0.6}, "its initial_x is another one"),
        ({"reward_bound": 2.0}, "its reward_bound is inf, not 2.0"),
        ({"environment": random_problem(seed=4, num_states=4, num_actions=2, num_successors=2).environment}, None),
    ],
    ids=["cost", "regularizer", "project", "initial_x", "reward_bound", "environment"],
)
def test_a_refusal_names_the_part(change, sentence):
    assert between(algorithm(), algorithm(**change)) == [sentence or "its environment is another one"]


@pytest.mark.parametrize("weight", [0.4, 0.7])
def test_other_outcome_probabilities_are_another_run(weight):
    def driven(weight):
        share = lambda x, s, a: jnp.array([weight, 1 - weight])  # noqa: E731
        return algorithm(outcome_probabilities=share)

    expected = [] if weight == 0.4 else ["its outcome_probabilities is another one"]
    assert between(driven(0.4), driven(weight)) == expected


def test_an_option_that_no_part_shows_is_seen_in_the_program():
    one = algorithm()
    other = dataclasses.replace(one, upper_steps=brl.UpperSteps(optax.adam(1.0)))
    assert between(one, dataclasses.replace(one), program=None) == []
    (sentence,) = between(one, other, program=None)
    assert sentence.startswith("its program is another one (a function or an option of the algorithm")


@pytest.mark.parametrize(
    ("setting", "there", "here"),
    [
        (jax.enable_x64, False, True),
        (jax.threefry_partitionable, True, False),
        (jax.default_matmul_precision, None, "float32"),
    ],
    ids=["jax_enable_x64", "jax_threefry_partitionable", "jax_default_matmul_precision"],
)
def test_settings_of_jax_that_decide_numbers_are_part_of_a_run(request, setting, there, here):
    name = request.node.callspec.id
    noted = identity_of(algorithm(), KEY, LogPoints(10), "not traced")
    with setting(here):
        now = identity_of(algorithm(), KEY, LogPoints(10), "not traced")
    assert f"its {name} is {there}, not {here}" in differences(noted, now)


def test_a_folder_of_an_earlier_version_is_not_gone_on_with():
    now = identity_of(algorithm(), KEY, LogPoints(10), "not traced")
    noted = {name: value for name, value in now.items() if name != "digests"}
    assert differences(noted, now) == ["it was begun by a version that did not note what it computes"]


def test_nothing_is_traced_without_a_folder(monkeypatch, tmp_path):
    of_program, traced = identity.fingerprint.of_program, []

    def noted(function, *arguments):
        traced.append(function)
        return of_program(function, *arguments)

    monkeypatch.setattr(identity.fingerprint, "of_program", noted)
    brl.run(algorithm(), KEY, 1, 2, 2, progress=False)
    assert not traced
    brl.run(algorithm(), KEY, 1, 2, 2, folder=tmp_path, progress=False)
    assert traced


# In folders.


def test_the_old_answer_is_not_given_for_a_new_reward(tmp_path):
    def small(reward):
        return brl.run(algorithm(reward), KEY, 1, 20, 10, folder=tmp_path, progress=False)

    first = small(in_closure(0.0))
    assert small(in_closure(0.0)).x == first.x
    with pytest.raises(brl.RunFolderError, match="another run: its reward is another one; use another folder"):
        small(in_closure(1.0))


def test_versions_that_changed_are_named_where_a_program_differs(tmp_path):
    brl.run(algorithm(), KEY, 1, 2, 2, folder=tmp_path, progress=False)
    path = tmp_path / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"versions": {"jax": "0.1.2"}}))
    with pytest.raises(brl.RunFolderError, match=r"another one \(jax is now .*, was 0\.1\.2, which may be why\); use"):
        brl.run(algorithm(in_closure(1.0)), KEY, 1, 2, 2, folder=tmp_path, progress=False)


@pytest.mark.slow
def test_a_study_whose_config_was_edited_is_not_resumed(tmp_path, capsys):
    path, size = tmp_path / "run", ["--size", "3", "--target", "2", "0", "--initial-x", "0", "2"]
    lengths = ["--num-seeds", "1", "--num-iterations", "4", "--log-every", "2"]
    main(["run", "goal-position", *size, *lengths, "--folder", str(path), "--no-progress"])
    main(["resume", str(path), "--no-progress"])
    config = json.loads((path / "config.json").read_text())
    config["options"]["width"] = 1.25
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        main(["resume", str(path), "--no-progress"])
    assert "holds another run: its reward is another one" in "".join(capsys.readouterr())

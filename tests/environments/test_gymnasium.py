import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_rl import BilevelProblem, OccupancyCost, TabularMDP, exact
from bilevel_rl.environments import gymnasium_reward
from dense_reference import kernel, value_iteration

FROZEN_LAKE_ENDS = [5, 7, 11, 12, 15]
CLIFF_GOAL = 47
TAXI_STANDS = ((0, 0), (0, 4), (4, 0), (4, 3))


def table_values(environment_id: str, discount: float, num_sweeps: int) -> np.ndarray:
    """Optimal values straight from Gymnasium's table: nothing follows a transition that terminates."""
    table = gymnasium.make(environment_id).unwrapped.P
    outcomes = np.zeros((len(table), len(table[0]), 3, 4))  # at most three outcomes of four numbers
    for state, actions in table.items():
        for action, listed in actions.items():
            outcomes[state, action, : len(listed)] = listed
    probabilities, successors, rewards, terminated = np.moveaxis(outcomes, -1, 0)
    values = np.zeros(len(table))
    for _ in range(num_sweeps):
        future = np.where(terminated, 0, values[successors.astype(int)])
        values = (probabilities * (rewards + discount * future)).sum(-1).max(-1)
    return values


def test_frozen_lake_has_the_table_of_gymnasium():
    table = gymnasium.make("FrozenLake-v1").unwrapped.P
    mdp = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.99)

    expected = np.zeros((16, 4, 16))
    for state in range(16):
        for action in range(4):
            for probability, successor, _, _ in table[state][action]:
                expected[state, action, state if state in FROZEN_LAKE_ENDS else successor] += probability
    np.testing.assert_allclose(kernel(mdp), expected, rtol=1e-15)
    np.testing.assert_array_equal(np.flatnonzero(mdp.terminal), FROZEN_LAKE_ENDS)
    np.testing.assert_array_equal(mdp.initial, np.eye(16)[0])


def test_frozen_lake_slips_by_hand():
    mdp = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.99)
    right = kernel(mdp)[14, 2]

    np.testing.assert_allclose(right[[10, 14, 15]], 1 / 3, rtol=1e-15)
    reward = gymnasium_reward("FrozenLake-v1")
    expected = np.zeros((16, 4))
    expected[14, 1:4] = 1 / 3  # down, right and up can slip into the goal; left cannot
    np.testing.assert_allclose(reward, expected, rtol=1e-15)


def test_frozen_lake_optimal_value():
    mdp, reward = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.99), gymnasium_reward("FrozenLake-v1")
    problem = BilevelProblem(
        environment=mdp,
        reward=lambda x, s, a: x * jnp.asarray(reward)[s, a],
        upper=OccupancyCost(cost=lambda x, s, a: -jnp.asarray(reward)[s, a]),
        initial_x=3.0,
    )

    value_at_start = -exact.hyper_objective(problem, 3.0, entropy_weight=0) / (1 - 0.99)

    assert value_at_start == pytest.approx(table_values("FrozenLake-v1", 0.99, 3000)[0], rel=1e-10)
    assert value_at_start == pytest.approx(0.5420, abs=1e-4)  # the value that is known for this map


def test_cliff_walking():
    mdp, reward = TabularMDP.from_gymnasium("CliffWalking-v1", discount=0.9), gymnasium_reward("CliffWalking-v1")

    assert (mdp.num_states, mdp.num_actions) == (48, 4)
    assert np.flatnonzero(mdp.terminal).tolist() == [CLIFF_GOAL]
    assert kernel(mdp)[36, 1, 36] == 1  # right of the start is the cliff, which leads back
    assert reward[36].tolist() == [-1, -100, -1, -1]
    assert reward[CLIFF_GOAL].tolist() == [0, 0, 0, 0]
    thirteen_steps = -(1 - 0.9**13) / (1 - 0.9)
    assert value_iteration(mdp, reward)[36] == pytest.approx(thirteen_steps, rel=1e-12)
    assert table_values("CliffWalking-v1", 0.9, 100)[36] == pytest.approx(thirteen_steps, rel=1e-12)


def test_states_that_no_episode_visits_do_not_contradict_the_end():
    mdp, reward = TabularMDP.from_gymnasium("Taxi-v4", discount=0.5), gymnasium_reward("Taxi-v4")

    delivered = [((row * 5 + column) * 5 + place) * 4 + place for place, (row, column) in enumerate(TAXI_STANDS)]
    assert np.flatnonzero(mdp.terminal).tolist() == sorted(delivered)
    starts = mdp.initial > 0
    values, expected = value_iteration(mdp, reward, num_sweeps=60), table_values("Taxi-v4", 0.5, num_sweeps=60)
    np.testing.assert_allclose(values[starts], expected[starts], rtol=1e-10)


def test_make_arguments_reach_the_environment():
    mdp = TabularMDP.from_gymnasium("FrozenLake-v1", discount=0.9, is_slippery=False, desc=["SF", "HG"])
    reward = gymnasium_reward("FrozenLake-v1", is_slippery=False, desc=["SF", "HG"])

    assert mdp.num_states == 4
    assert [int(mdp.step(0, a, 0.5)) for a in range(4)] == [0, 2, 1, 0]
    assert np.argwhere(reward == 1).tolist() == [[1, 1]]


@pytest.mark.parametrize("load", [lambda name: TabularMDP.from_gymnasium(name, discount=0.9), gymnasium_reward])
def test_an_environment_without_a_table_is_refused(load):
    with pytest.raises(ValueError, match=r"^environment_id must name a toy-text .*'CartPole-v1'.*from_successors"):
        load("CartPole-v1")


def test_a_state_entered_both_ending_and_not_is_refused(monkeypatch):
    class TwoFaced(gymnasium.Env):
        initial_state_distrib = np.array([1.0, 0.0])
        P = {0: {0: [(0.5, 1, 0.0, True), (0.5, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 0.0, True)]}}  # noqa: RUF012

    monkeypatch.setattr(gymnasium, "make", lambda environment_id: TwoFaced())

    with pytest.raises(ValueError, match=r"'TwoFaced' enters state 1 both with and without ending"):
        TabularMDP.from_gymnasium("TwoFaced", discount=0.9)


def test_discounts_are_checked_here_too():
    with pytest.raises(ValueError, match=r"^discount must lie in \[0, 1\), got 1\.0"):
        TabularMDP.from_gymnasium("FrozenLake-v1", discount=1.0)


class Ring(gymnasium.Env):
    """Three states in a ring, with options that act outside of the table."""

    initial_state_distrib = np.array([1.0, 0.0, 0.0])

    def __init__(self, jumps=False, pays=0.0, keeps="s"):
        self.P = {s: {a: [(1.0, (s + 1 + a) % 3, 0.5 * s, False)] for a in range(2)} for s in range(3)}
        self.observation_space, self.action_space = gymnasium.spaces.Discrete(3), gymnasium.spaces.Discrete(2)
        self._jumps, self._pays, self._name = jumps, pays, keeps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        setattr(self, self._name, 0)
        return 0, {}

    def step(self, action):
        _, after, reward, is_end = self.P[getattr(self, self._name)][action][0]
        if self._jumps and after == 2 and self.np_random.random() < 0.2:
            after = 0
        setattr(self, self._name, after)
        return after, reward + self._pays * (after == 1), is_end, False, {}


@pytest.fixture
def ring():
    gymnasium.register("Ring-v0", Ring)
    yield lambda **options: TabularMDP.from_gymnasium("Ring-v0", discount=0.9, **options)
    gymnasium.registry.pop("Ring-v0")


@pytest.mark.parametrize("keeps", ["s", "place"])
def test_steps_outside_of_the_table_are_refused_with_what_was_seen(ring, keeps):
    np.testing.assert_array_equal(ring(keeps=keeps).successors[:, :, 0], [[1, 2], [2, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"^environment_id 'Ring-v0' must step as its table `P` says, got .* state 0"):
        ring(jumps=True, keeps=keeps)
    with pytest.raises(ValueError, match=r"to state 1 with reward .*; leave out the options"):
        ring(pays=0.25, keeps=keeps)


@pytest.mark.parametrize(("options", "is_told"), [({"is_rainy": True}, True), ({"fickle_passenger": True}, False)])
def test_options_of_taxi_that_its_table_tells(options, is_told):
    if is_told:
        assert TabularMDP.from_gymnasium("Taxi-v4", discount=0.9, **options).probabilities.shape[-1] == 3
        return
    for load in (gymnasium_reward, lambda name, **options: TabularMDP.from_gymnasium(name, discount=0.9, **options)):
        with pytest.raises(ValueError, match=r"^environment_id 'Taxi-v4' must step as its table"):
            load("Taxi-v4", **options)

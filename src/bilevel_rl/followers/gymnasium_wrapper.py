"""A Gymnasium environment that pays a learned reward."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium

from bilevel_rl import checks

if TYPE_CHECKING:
    from bilevel_rl.followers.learned_reward import LearnedReward


class LearnedRewardWrapper(gymnasium.RewardWrapper, gymnasium.utils.RecordConstructorArgs):
    """Pays r_x(s, a) for the step from s by a. Made by `LearnedReward.as_gymnasium_wrapper`, which says of what.

    Args:
        env: what is wrapped.
        learned: the reward.
        adds: pays it beside the environment's own reward.
        state_of: from an observation to a state.
    """

    def __init__(
        self,
        env: Any,
        learned: "LearnedReward",
        *,
        adds: bool = False,
        state_of: Callable[[Any], Any] | None = None,
    ):
        checks.instance("env", env, gymnasium.Env)
        gymnasium.utils.RecordConstructorArgs.__init__(self, learned=learned, adds=adds, state_of=state_of)
        super().__init__(env)
        self._learned, self._adds = learned, checks.flag("adds", adds)
        self._state_of = state_of if state_of is None else checks.function("state_of", state_of)
        self._first = int(getattr(env.action_space, "start", 0))
        self._pair: tuple[Any, Any] | None = None
        self._observation: Any = None
        if learned.table is None:
            if learned.function is None:
                raise ValueError("reward must be given: LearnedReward.load(path, reward=…), since files hold no code")
            return
        sizes = (getattr(env.observation_space, "n", None), getattr(env.action_space, "n", None))
        if sizes[1] != learned.table.shape[1] or (state_of is None and sizes[0] != learned.table.shape[0]):
            raise ValueError(
                f"env must number {learned.table.shape[0]} states and {learned.table.shape[1]} actions, as the table "
                f"of the reward does, got {env.observation_space} and {env.action_space}"
            )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        self._observation, info = super().reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the environment's, with the learned reward."""
        state = self._observation if self._state_of is None else self._state_of(self._observation)
        discrete = isinstance(self.env.action_space, gymnasium.spaces.Discrete)
        self._pair = state, int(action) - self._first if discrete else action
        self._observation, *rest = super().step(action)
        return self._observation, *rest  # pyright: ignore[reportReturnType]

    def reward(self, reward: SupportsFloat) -> float:
        """That of the step which is being taken."""
        assert self._pair is not None
        return self._learned(*self._pair) + (float(reward) if self._adds else 0.0)

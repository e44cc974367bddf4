"""The single loop with steps that are worked out from the problem: nothing is left to tune.

| sequence  | initial value          | unit          | why                                                            |
|-----------|------------------------|---------------|----------------------------------------------------------------|
| τ entropy | R / 10                 | reward        | entropy is added to rewards, step by step: no 1 / (1 − γ)      |
| w penalty | 4 τ / C                | reward / cost | logits of π^L and π* then differ by 4 A_c / C                  |
| β critic  | B' / 4                 | 1             | a quarter of the way to the target, per visit                  |
| α actor   | B' / (160 τ A)         | 1 / reward    | logits are values over τ; natural steps are about A as long    |
| ζ upper   | 30 X / offset          | x             | Adam's directions are at most 1: at most 30 X in the offset    |
| offset    | 640 S A / B iterations | 1             | 640 visits of every pair, were they even; but at least 320,000 |
|           |                        |               | transitions of each policy, or noise is not averaged out       |

R, C and X are the problem's scales (`formulation.measure_scales`), B' = min(B, S). A follower with an entropy weight λ
of its own keeps it: τ = λ throughout. The exponents are the paper's, but where the leader pays costs and there is no λ:
there τ falls with the power 3/4 instead of 1/20, since answers are judged near R / 100 and a run would never come
there; and α with 1/4 instead of 1/2, since policies settle at the rate α τ. No proof of convergence covers these two. A
likelihood, or a map of visits, has no such limit: what is not random enough cannot match it.

The form is what units leave: rewards times c_r, costs times c_c and x times c_x give the same policies at every
iteration, and c_x times the same x. docs/reports/untuned.md says how the six numbers were found, and how well they do.
"""

import warnings

from bilevel_rl import checks
from bilevel_rl.algorithms.followers import Followers
from bilevel_rl.algorithms.single_loop import SingleLoopActorCritic
from bilevel_rl.algorithms.step_sizes import ScheduleWarning, StepSizes
from bilevel_rl.algorithms.upper_steps import ADAM, UpperSteps
from bilevel_rl.formulation import BilevelProblem, OccupancyCost, ProblemScales, measure_scales
from bilevel_rl.formulation.scales import ENTROPY_SHARE

PENALTY_OVER_ENTROPY = 4.0
CRITIC_STEP_PER_VISIT = 1 / 4
ACTOR_STEP_PER_VISIT = 1 / 160
UPPER_DISTANCE = 30.0
VISITS = 640.0
HELD_TRANSITIONS = 320_000.0
AVERAGING = 3.0
EXPONENTS = (9 / 10, 1 / 2, 1 / 2, 3 / 20, 1 / 20)
EXPONENTS_OF_COSTS = (9 / 10, 1 / 4, 1 / 2, 3 / 20, 3 / 4)


def untuned(
    problem: BilevelProblem, num_chains: int = 16, *, coupled: bool = True, scales: ProblemScales | None = None
) -> SingleLoopActorCritic:
    """A single loop for a problem, with no step size to choose.

    Natural actors, Adam on x, averaged iterates, and ∇_x r and ∇_x c as means over actions.

    Args:
        problem: what is solved. Give it bounds of reward and cost, so that their scales need not be measured at x_0.
        num_chains: B. It changes how many iterations a number of transitions is, not what they do, while B ≤ S.
        coupled: both followers' chains use the same random numbers.
        scales: the problem's units, where `measure_scales` cannot know them.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a scale is not finite and positive, or cannot be measured; or as `SingleLoopActorCritic`.

    Example:
        >>> import bilevel_rl as brl
        >>> algorithm = brl.untuned(brl.problems.goal_position())
        >>> round(float(algorithm.step_sizes(0).entropy), 6), round(float(algorithm.step_sizes(0).penalty), 3)
        (0.1, 0.471)
    """
    checks.instance("problem", problem, BilevelProblem)
    checks.integer("num_chains", num_chains, at_least=1)
    checks.flag("coupled", coupled)
    scales = measure_scales(problem) if scales is None else scales
    checks.instance("scales", scales, ProblemScales)
    for name, scale in scales._asdict().items():
        checks.number(f"scales, {name},", scale, above=0)
    with warnings.catch_warnings(action="ignore", category=ScheduleWarning):
        # "actor <= critic" compares 1 / reward with a pure number; in units of R it holds.
        return SingleLoopActorCritic(
            problem,
            untuned_step_sizes(problem, num_chains, scales),
            Followers(num_chains, coupled=coupled, natural=True),
            expects_actions=True,
            upper_steps=UpperSteps(ADAM, averaging=AVERAGING),
        )


def untuned_step_sizes(problem: BilevelProblem, num_chains: int, scales: ProblemScales) -> StepSizes:
    """The table above."""
    num_states, num_actions = problem.mdp.num_states, problem.mdp.num_actions
    entropy = ENTROPY_SHARE * scales.reward if problem.entropy_weight is None else problem.entropy_weight
    offset = max(VISITS * num_states * num_actions, HELD_TRANSITIONS) / num_chains
    # With more chains than states the chains of one state add up in one iteration.
    visits = min(num_chains, num_states)
    if problem.entropy_weight is not None:
        exponents = (*EXPONENTS[:-1], 0.0)
    else:
        exponents = EXPONENTS_OF_COSTS if isinstance(problem.upper, OccupancyCost) else EXPONENTS
    return StepSizes.decaying(
        upper=UPPER_DISTANCE * scales.x / offset,
        actor=ACTOR_STEP_PER_VISIT * visits / (entropy * num_actions),
        critic=CRITIC_STEP_PER_VISIT * visits,
        penalty=PENALTY_OVER_ENTROPY * entropy / scales.cost,
        entropy=entropy,
        offset=offset,
        exponents=exponents,
    )

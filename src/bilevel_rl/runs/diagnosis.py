"""Which failure does a finished run show? The signatures of docs/explanation/method.md, section 4, read off its metric
rows.

Knows only files. Every rule looks at one seed and compares quantities of the same unit, so it does not depend on the
scale of rewards, costs or x. Columns are described in docs/reference/metrics.md, the rules in
docs/reports/ablations.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bilevel_rl.runs.course import LAGS, Course, share
from bilevel_rl.runs.folder import Row, RunFolder, RunFolderError

FEWEST_LOG_POINTS = 12
"""Rules compare the last quarter of a run with the one before; fewer log points say nothing."""

COLLAPSED, TOO_CERTAIN = 0.5, 0.05
"""A policy has collapsed that has less than this share of the best answer's entropy in the same states, and lies below
it by this share of log |A|: below that, both are nearly deterministic."""

TOO_RANDOM = 0.15
"""A policy has not learned yet whose entropy is this share of log |A| above that of the best answer."""

MISSED = 0.2
"""States are unexplored where the best answer spends this share of its time, and the follower hardly any."""

FLAT, STILL_STEEP = 0.05, 0.2
"""Frozen: below this share of the slope that the first τ shows, while that one is this share of its largest, and x at
rest."""

BLURRED = 0.25
"""τ is too large where the follower at τ_k would show the leader less than this share of what a step gains."""

MISLED = 0.05
"""τ is too large too where Φ has risen from its lowest by this share of its range, while at τ_k that is a descent."""


@dataclass(frozen=True)
class Signature:
    """A way to fail.

    Attributes:
        name: what `bilevel-rl diagnose` calls it.
        remedy: what to change.
        sign: from one seed's course to the evidence in numbers, or None where the seed does not show it.
    """

    name: str
    remedy: str
    sign: Callable[[Course], str | None]


@dataclass(frozen=True)
class Finding:
    """What some seeds of a run show.

    Attributes:
        name: of the signature, or "diverged", "unfinished", "not judged", or "healthy".
        seeds: which seeds.
        evidence: a sentence with the numbers of the first of them.
        remedy: what to change; empty where there is nothing to.
    """

    name: str
    seeds: tuple[int, ...]
    evidence: str
    remedy: str


def collapsed(run: Course) -> str | None:
    """The softmax saturated on an over-valued action: less random than τ asks for, and wrong."""
    own, best = run.late("lower_mean_entropy"), run.late("optimal_entropy")
    gap = share(best - own, run.entropy_of_uniform)
    if not (run.lags and own < COLLAPSED * best and gap > TOO_CERTAIN):
        return None
    return (
        f"the policy has {own / best:.0%} of the best answer's entropy, misses {run.missed_return:.0%} of its return "
        "and learns no more"
    )


def noisy(run: Course) -> str | None:
    """The noise of (U), which grows like 1/w, moves x more than the slope of Φ does."""
    if not (run.runs_away and run.noise > 1):
        return None
    return f"the noise of a step of x is {run.noise:.1f} times the steepest slope of Φ; {run.stray}"


def unexplored(run: Course) -> str | None:
    """The follower never gets to where the best answer lives."""
    missed = run.late("missed_occupancy")
    if not (run.lags and missed > MISSED):
        return None
    return (
        f"the best answer spends {missed:.0%} of its time in states that the follower hardly ever sees; it misses "
        f"{run.missed_return:.0%} of its return and learns no more"
    )


def outrun(run: Course) -> str | None:
    """x moves faster than the follower can answer, and not because of noise."""
    if run.runs_away and run.noise <= 1:
        return f"{run.stray}, though the noise of its steps is only {run.noise:.2f} times the steepest slope of Φ"
    gap = share(run.late("lower_mean_entropy") - run.late("optimal_entropy"), run.entropy_of_uniform)
    if not (run.is_felt and run.is_at_rest and run.lags and gap > TOO_RANDOM):
        return None
    return (
        f"the policy's entropy is {gap:.0%} of log |A| above the best answer's and it misses "
        f"{run.missed_return:.0%} of its return, while x has moved by {run['x_distance'][-1]:.3g}"
    )


def frozen(run: Course) -> str | None:
    """Φ_τ has become flat before x reached an optimum."""
    slope, first = run.late("hyper_gradient_norm"), run.late("hyper_gradient_norm_at_first_entropy")
    remaining = share(first, np.nanmax(run["hyper_gradient_norm_at_first_entropy"]))
    if not (slope < FLAT * first and remaining > STILL_STEEP and run.is_at_rest):
        return None
    fall = run["entropy_weight"][0] / run["entropy_weight"][-1]
    return (
        f"with τ {fall:.3g} times smaller the slope of Φ is {slope / first:.1%} of what the first τ shows at the same "
        f"x, which is still {remaining:.0%} of its largest"
    )


def blurred(run: Course) -> str | None:
    """At the τ of the run the follower acts at random over differences that x could make, or asks for another x."""
    τ, evaluated = run["entropy_weight"][-1], run["evaluation_entropy_weight"][-1]
    seen = share(run.late("descent_seen"), run.late("descent_left"))
    if τ <= evaluated:
        return None
    if not run.is_near_stationary and seen < BLURRED:
        return (
            f"one exact step at τ = {evaluated:.3g} would lower Φ by {run.left:.0%} of its range over the run; at τ = "
            f"{τ:.3g}, that of the run, the leader sees {max(seen, 0.0):.0%} of that"
        )
    if run.is_felt and run.rise > MISLED and seen < 0:
        return (
            f"Φ at τ = {evaluated:.3g} ended above its lowest by {run.rise:.0%} of its range; an exact step that would "
            f"lower it raises Φ at τ = {τ:.3g}, which is what the run descends"
        )
    return None


def short(run: Course) -> str | None:
    """x came to rest before it was anywhere near a stationary point."""
    if run.is_near_stationary or not run.is_at_rest:
        return None
    return f"x is at rest, and one exact step would lower Φ by {run.left:.0%} of its range over the run"


SIGNATURES = (
    Signature(
        "policy collapsed (actor faster than critic)",
        "lower `actor`, keep it below `critic`; with many chains on few states lower both",
        collapsed,
    ),
    Signature("w too small for the batch (x random-walks)", "raise `penalty` or `num_chains`, or lower `upper`", noisy),
    Signature(
        "too little entropy (states never explored)",
        "raise `entropy_weight`, or start the follower in more states",
        unexplored,
    ),
    Signature(
        "x outruns the follower (upper faster than actor)", "lower `upper`, or raise `actor` and `critic`", outrun
    ),
    Signature(
        "x frozen (τ decays too fast)", "let τ decay more slowly, or start from a larger `entropy_weight`", frozen
    ),
    Signature(
        "τ too large for these rewards (x makes no difference)",
        "lower `entropy_weight`, for `untuned` by scales=ProblemScales(reward, cost, x) with a smaller reward, or let "
        "τ decay faster",
        blurred,
    ),
    Signature("x stopped short (not near a stationary point)", "raise `upper`, or let it decay more slowly", short),
)
"""In the order in which they are looked for: each seed gets the first that it shows."""

HEALTHY, UNFINISHED, NOT_JUDGED = "healthy", "unfinished", "not judged"


def find_runs(path: Path | str) -> list[RunFolder]:
    """The folders with metric rows in a run folder: itself, or the subfolders of an experiment with several runs.

    Raises:
        RunFolderError: the path is not a run folder, or it holds no metrics.
    """
    path = Path(path)
    if not any((path / name).is_file() for name in ("config.json", "run.json")):
        raise RunFolderError(f"{path} is not a run folder: it has no config.json")
    folders = sorted(file.parent for file in path.rglob("metrics.csv"))
    if not folders:
        raise RunFolderError(f"{path} has no metrics yet; `bilevel-rl resume` it")
    return [RunFolder(folder) for folder in folders]


def diagnose(folder: RunFolder) -> list[Finding]:
    """What the seeds of a run show, the most frequent finding first.

    Args:
        folder: one with `metrics.csv`.

    Raises:
        RunFolderError: there are no metric rows.
    """
    rows = folder.read_rows("metrics")
    if not rows:
        raise RunFolderError(f"{folder.path} has no metrics yet; `bilevel-rl resume` it")
    diverged = {int(entry["seed"]): entry for entry in folder.read_divergences()}
    found: dict[str, Finding] = {}
    for seed in sorted({int(row["seed"]) for row in rows}):
        finding = (
            _of_divergence(diverged[seed]) if seed in diverged else _of_rows([r for r in rows if r["seed"] == seed])
        )
        earlier = found.get(finding.name, Finding(finding.name, (), finding.evidence, finding.remedy))
        found[finding.name] = Finding(finding.name, (*earlier.seeds, seed), earlier.evidence, earlier.remedy)
    return sorted(found.values(), key=lambda finding: -len(finding.seeds))


def _of_divergence(entry: dict) -> Finding:
    evidence = f"{entry['quantity']} left the finite numbers after iteration {entry['num_iterations']}"
    return Finding("diverged", (), evidence, entry["likely_cause"])


def _of_rows(rows: Sequence[Row]) -> Finding:
    if rows[0].get("is_sampled") or "descent_left" not in rows[0]:  # Earlier versions did not write all columns.
        how = "`--diagnostics exact` gives them where there are tables"
        evidence = f"without exact columns only divergence can be told; {how}"
        return Finding(NOT_JUDGED, (), evidence, "")
    if len(rows) < FEWEST_LOG_POINTS:
        evidence = f"{len(rows)} log points are too few, {FEWEST_LOG_POINTS} would do (`--log-every`)"
        return Finding(NOT_JUDGED, (), evidence, "")
    course = Course(rows)
    for signature in SIGNATURES:
        if evidence := signature.sign(course):
            return Finding(signature.name, (), evidence, signature.remedy)
    evidence = (
        f"Φ from {course['upper_objective'][0]:.4g} to {course['upper_objective'][-1]:.4g}, the follower misses "
        f"{course.missed_return:.1%} of its return"
    )
    if not course.is_near_stationary:
        evidence = f"x still moves, and one exact step would lower Φ by {course.left:.0%} of its range over the run"
        return Finding(UNFINISHED, (), evidence, "run longer, or raise `upper`")
    if course.missed_return > LAGS:
        return Finding(UNFINISHED, (), evidence, "run longer")
    return Finding(HEALTHY, (), evidence, "")

"""Run folders to figures: what several studies draw. Nothing here runs an algorithm."""

from bilevel_rl.figures.curves import (
    draw_curves as draw_curves,
    draw_learning_curves as draw_learning_curves,
    draw_panels as draw_panels,
    draw_residuals as draw_residuals,
    draw_sampled_curves as draw_sampled_curves,
    draw_step_sizes as draw_step_sizes,
)
from bilevel_rl.figures.outcomes import draw_outcome as draw_outcome, draw_side_by_side as draw_side_by_side
from bilevel_rl.figures.style import also_for_print as also_for_print
from bilevel_rl.figures.tables import (
    columns_of as columns_of,
    final_values as final_values,
    first_measured as first_measured,
    initial_values as initial_values,
    is_sampled as is_sampled,
    read_curves as read_curves,
    read_paths as read_paths,
    seeds_of as seeds_of,
    summarize_samples as summarize_samples,
)

"""Run folders to figures. Nothing here runs an algorithm."""

from bilevel_rl.plots.ablations import Panel as Panel, draw_ablation as draw_ablation
from bilevel_rl.plots.cartpole_design import (
    animate_cartpole as animate_cartpole,
    draw_cartpole_design as draw_cartpole_design,
)
from bilevel_rl.plots.comparison import (
    Outcome as Outcome,
    draw_comparison as draw_comparison,
    read_outcome as read_outcome,
    read_outcomes as read_outcomes,
)
from bilevel_rl.plots.comparison_tables import (
    summarize_comparison as summarize_comparison,
    write_tables as write_tables,
)
from bilevel_rl.plots.coupling import draw_coupling as draw_coupling
from bilevel_rl.plots.curves import (
    draw_learning_curves as draw_learning_curves,
    draw_rates as draw_rates,
    draw_residuals as draw_residuals,
    draw_sampled_curves as draw_sampled_curves,
    draw_step_sizes as draw_step_sizes,
    draw_trade_off as draw_trade_off,
)
from bilevel_rl.plots.four_rooms import (
    draw_four_rooms as draw_four_rooms,
    draw_four_rooms_comparison as draw_four_rooms_comparison,
)
from bilevel_rl.plots.grids import draw_goal_placement as draw_goal_placement, draw_goal_position as draw_goal_position
from bilevel_rl.plots.happy_tweets import (
    draw_happy_tweets as draw_happy_tweets,
    draw_happy_tweets_study as draw_happy_tweets_study,
    read_evaluation as read_evaluation,
)
from bilevel_rl.plots.mountain_car_shaping import (
    animate_mountain_car as animate_mountain_car,
    draw_mountain_car_shaping as draw_mountain_car_shaping,
)
from bilevel_rl.plots.pendulum_design import (
    animate_pendulum as animate_pendulum,
    draw_pendulum_design as draw_pendulum_design,
)
from bilevel_rl.plots.reward_learning import draw_reward_learning as draw_reward_learning
from bilevel_rl.plots.tables import (
    final_values as final_values,
    initial_values as initial_values,
    is_sampled as is_sampled,
    read_curves as read_curves,
    summarize_samples as summarize_samples,
)
from bilevel_rl.plots.tuning import (
    draw_tuning as draw_tuning,
    summarize_tuning as summarize_tuning,
    write_trials as write_trials,
)
from bilevel_rl.plots.wind_design import draw_wind_design as draw_wind_design

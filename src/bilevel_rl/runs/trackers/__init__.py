"""Where metric rows go besides `metrics.csv`: TensorBoard, Weights & Biases, Trackio or MLflow, one file each.

All get the same rows (docs/how_to/trackers.md). What they are told by their own settings and environment variables,
such as `WANDB_MODE` or `MLFLOW_TRACKING_URI`, counts.
"""

from bilevel_rl.runs.trackers.report import Report as Report
from bilevel_rl.runs.trackers.tracker import ReportTo as ReportTo, Tracker as Tracker, check_tracker as check_tracker

"""The command `bilevel-rl`. Every option is a field of a dataclass; `studies.registry` finds what can be run."""

from bilevel_rl.cli.entry import main as main

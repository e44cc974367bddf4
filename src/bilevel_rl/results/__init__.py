"""What runs leave behind: read as data, and gone on with."""

from bilevel_rl.results.loaded import Results as Results, load as load
from bilevel_rl.results.opened import OpenRun as OpenRun, open_run as open_run
from bilevel_rl.runs.folder import RunFolder as RunFolder, RunFolderError as RunFolderError

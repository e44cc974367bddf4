"""One process at a time in a run folder."""

import os
import subprocess
import sys
import threading

import pytest
from test_loop import Counter, OneProcess

from bilevel_rl.runs import lock
from bilevel_rl.runs.folder import RunFolder, RunFolderError
from bilevel_rl.runs.log_points import LogPoints
from bilevel_rl.runs.loop import follow

HOLD = """
import sys
from bilevel_rl.runs import lock
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_by_who_holds_it(holder, tmp_path):
    message = rf"{tmp_path} is in use by process {holder.pid} on .+ since \d{{4}}-\d\d-\d\d \d\d:\d\d"
    with pytest.raises(RunFolderError, match=message), lock.hold(tmp_path):
        pytest.fail("both hold it")
    with pytest.raises(RunFolderError, match="is in use"):
        follow(Counter(), 7, LogPoints(3), folder=RunFolder(tmp_path), checkpoint_every=0.0, progress=False)
    assert {entry.name for entry in tmp_path.iterdir()} == {"lock"}


@pytest.mark.parametrize("end", ["of its work", "by a kill"])
def test_the_lock_ends_with_its_process(holder, tmp_path, end):
    if end == "by a kill":
        holder.kill()
        holder.communicate()
        assert (tmp_path / "lock").exists()
    else:
        holder.communicate("go\n")
        assert not (tmp_path / "lock").exists()
    with lock.hold(tmp_path):
        assert f'"process": {os.getpid()}' in (tmp_path / "lock").read_text()
    assert not (tmp_path / "lock").exists()


def test_who_waits_comes_next(holder, tmp_path):
    threading.Timer(0.3, lambda: holder.stdin.write("go\n") and holder.stdin.flush()).start()
    with lock.hold(tmp_path, waits=True):
        assert holder.wait(10) == 0


def test_the_holder_may_ask_again_but_another_thread_may_not(tmp_path):
    refused = []

    def ask():
        try:
            with lock.hold(tmp_path):
                pass
        except RunFolderError as error:
            refused.append(str(error))

    with lock.hold(tmp_path):
        with lock.hold(str(tmp_path)):
            pass
        assert (tmp_path / "lock").exists(), "the inner one lets go of nothing"
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert len(refused) == 1
    ask()
    assert len(refused) == 1


def test_a_crew_that_may_not_work_hears_of_it(holder, tmp_path):
    crew = OneProcess()
    with pytest.raises(RunFolderError):
        follow(Counter(crew=crew), 7, LogPoints(3), folder=RunFolder(tmp_path), checkpoint_every=0.0, progress=False)
    assert crew.asked == [False]
    with (
        pytest.raises(RunFolderError, match="it says why"),
        lock.hold_together(tmp_path, OneProcess(is_writer=False, hears=[False])),
    ):
        pytest.fail("it may not")


def test_only_the_writer_of_a_crew_holds_the_folder(holder, tmp_path):
    held = (tmp_path / "lock").read_text()
    with lock.hold_together(tmp_path, OneProcess(is_writer=False, hears=[True])):
        assert f'"process": {holder.pid}' in held
    assert (tmp_path / "lock").read_text() == held, "it is still the holder's"

"""The files of a training run: its states in a folder, its weights in `out`; who may write them, and what they hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..autoencoder import AsymmetricAutoencoder
from ..checkpoint import save
from ..outputs import ExistsError, Lock, check_output, remove_leftovers
from .resume import SUMMARY_KEY, check_same_run, differences, read_summary
from .state import State, newest_step, read_state, remove_states, write_state

logger = logging.getLogger(__name__)


class RunFiles:
    """
    Args:
        out: the `.safetensors` file to write.
        folder: for the states.
        resume: go on from the newest state, if there is one.
        overwrite: `out` may be a file that no run of this folder wrote; without `resume`, an earlier run is replaced.
        writes: whether this process is the one that writes, and that no other may write beside.

    Attributes:
        state_step: of the last state on disk, of this run; None before the first.
        out_step: of the weights in `out`, likewise.
        notes: what the user should know of how the run goes on, in sentences.

    Raises:
        ValueError: a name that no file can have.
        LockedError: another process writes these files.
    """

    def __init__(self, out: Path, folder: Path, *, resume: bool, overwrite: bool, writes: bool):
        self.out, self.folder = out, folder
        self.resume, self.overwrite, self.writes = resume, overwrite, writes
        self.state_step: int | None = None
        self.out_step: int | None = None
        self.notes: list[str] = []
        self._may_replace = overwrite
        self._replaces_run = overwrite and not resume
        if writes:
            check_output(out, overwrite=True)
        paths = (folder, out) if writes else ()
        self._locks = [Lock(path.with_name(f".{path.name}.lock"), str(path)) for path in paths]
        self.acquire()

    def acquire(self) -> None:
        """
        Raises:
            LockedError: another process writes these files.
        """
        try:
            for lock in self._locks:
                lock.acquire()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Lets other processes write these files."""
        for lock in self._locks:
            lock.release()

    def state_to_resume(self, settings: Mapping[str, Any]) -> State | None:
        """The newest state that is whole, if it is of a run that can go on with these settings.

        Raises:
            ValueError: it is of another run, or of one that is finished and asked for something else.
            ExistsError: there is an earlier run that is not to be resumed, or `out` is another's file.
        """
        state = None if self._replaces_run else read_state(self.folder)
        if state is not None and not self.resume:
            raise ExistsError(
                f"Expected no earlier run, but {self.folder} holds one at step {state.step}. Resume it, choose another "
                "name, or remove that folder."
            )
        if not self._may_replace:
            self._check_out(None if state is None else state.settings.get("run"), has_run=state is not None)
        if state is None:
            return None
        check_same_run(state, settings, self.folder)
        self._check_unfinished(state, settings)
        newest = newest_step(self.folder)
        if newest is not None and newest > state.step:
            self.notes.append(f"The state of step {newest} is damaged: going on from that of step {state.step}.")
        for note in self.notes:
            logger.info("%s", note)
        self.state_step = state.step
        return state

    def _check_unfinished(self, state: State, settings: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: the run has made all its steps, and is asked for something else.
        """
        steps, others = settings["recipe"]["steps"], differences(state, settings)
        if state.step < steps:
            if others:
                self.notes.append(f"Going on at step {state.step} with other settings: {', '.join(others)}.")
        elif others or state.step > steps:
            others = others or [f"steps {state.step} → {steps}"]
            raise ValueError(
                f"Expected more steps or the same settings, but the run in {self.folder} has made all its "
                f"{state.step} steps, and these differ: {', '.join(others)}. Ask for more steps to train it "
                "further, or give another name for a new run."
            )
        else:
            self.notes.append(f"This run had made all its {state.step} steps before: nothing was left to train.")

    def _check_out(self, run: str | None, *, has_run: bool) -> None:
        """
        Raises:
            ExistsError: `out` is a file that `run` did not write.
        """
        if not self.writes or not self.out.exists():
            return
        summary = read_summary(self.out)
        if not has_run or summary is None or summary.get("run") != run:
            raise ExistsError(
                f"Expected a new file or that of the run in {self.folder}, but {self.out} is another. Choose another "
                "name, or move that file away."
            )

    def write_state(self, state: State) -> None:
        """
        Raises:
            OSError: it cannot be written. Earlier states are as they were.
        """
        if self._replaces_run:
            remove_states(self.folder)
            self._replaces_run = False
        write_state(self.folder, state)
        self.state_step = state.step

    def write_out(self, vae: AsymmetricAutoencoder, summary: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """
        Args:
            vae: float32, on the CPU.
            summary: of the run, with "steps" and "run", for the header.
            metadata: for the header besides.

        Raises:
            ExistsError: another's file has come there in the meantime.
            OSError, ValueError: it cannot be written. The earlier file is as it was.
        """
        if not self._may_replace:
            self._check_out(summary["run"], has_run=True)
        remove_leftovers(self.out.parent)
        save(vae, self.out, metadata={SUMMARY_KEY: json.dumps(summary), **metadata})
        self.out_step, self._may_replace = summary["steps"], False

    def out_holds(self, run: str | None, step: int) -> bool:
        """Whether `out` is the file of this run's step, or of a later one. A process that was killed between its last
        state and its file could not write it; somebody may have moved it away."""
        summary = read_summary(self.out)
        if summary is None or summary.get("run") != run or summary.get("steps", 0) < step:
            return False
        self.out_step = step
        return True

    def on_disk(self) -> str:
        """What there is of the run, in words."""
        if self.state_step is None:
            return "Nothing of this run is on disk yet."
        text = f"The last good state, of step {self.state_step}, is in {self.folder}"
        if self.out_step == self.state_step:
            return f"{text}, and its weights are in {self.out}."
        return f"{text}; resuming writes its weights to {self.out}."

"""What `maskserve train` was asked to do for one arm, and the command line that says it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskserve.protos.errors import ConfigError
from maskserve.training.own_command import own_command
from maskserve.training.presets import ARMS
from maskserve.training.run_folder import RunFolder, working_folder

BASE_LR = "SOLVER.BASE_LR"
INIT, SEED = "auto", 1
"""Of a new training that asks for none."""


@dataclass(frozen=True)
class Machines:
    """One process a GPU, on one machine or on several with as many GPUs each."""

    gpus: int = 1
    """On each machine; 1 also stands for a machine without any."""
    count: int = 1
    rank: int = 0
    """Which of the machines this one is; 0 leads and has the run folder."""
    url: str = "auto"
    """Where machine 0 listens: tcp://HOST:PORT."""

    @property
    def processes(self) -> int:
        return self.gpus * self.count

    def check(self) -> None:
        """Raises ConfigError when these machines cannot find each other, or this one has too few GPUs."""
        if not 0 <= self.rank < self.count:
            raise ConfigError(f"--machine-rank {self.rank}: {self.count} machines have the ranks 0 to {self.count - 1}")
        if self.count > 1 and not self.url.startswith("tcp://"):
            raise ConfigError(
                f"--dist-url {self.url}: with several machines name the address of machine 0 and a free port on it, "
                "the same on all: --dist-url tcp://HOST:PORT"
            )
        found = torch.cuda.device_count()
        if found < self.gpus and self.processes > 1:
            there = "no GPU" if not found else "1 GPU" if found == 1 else f"{found} GPUs"
            advice = f"ask for {found}" if found else "leave the options for several GPUs and machines away"
            raise ConfigError(f"--num-gpus {self.gpus}: this machine has {there} that torch can use; {advice}")


@dataclass(frozen=True)
class Job:
    """What `maskserve train` was asked to do for one arm."""

    backbone: str
    data: Path
    """A dataset folder or its train.json."""
    preset: str = "standard"
    init: str | None = None
    """None: INIT, or what an interrupted training began with."""
    output: Path = Path("runs")
    seed: int | None = None
    """None: SEED, or what an interrupted training began with."""
    resume: bool = False
    overrides: tuple[str, ...] = ()
    deterministic: bool = False
    force: bool = False
    """Train on data in which `data check` finds errors."""
    machines: Machines = Machines()

    @property
    def folder(self) -> Path:
        """Where the complete run goes."""
        return self.output / ARMS[self.backbone].model

    @property
    def run(self) -> RunFolder:
        """Where it is trained."""
        return working_folder(self.output, ARMS[self.backbone].model)

    def check(self) -> None:
        """Raises ConfigError for what cannot be done as asked, whatever the data."""
        if self.backbone not in ARMS:
            raise ConfigError(f"unknown backbone {self.backbone!r}; choose {' or '.join(ARMS)}")
        self.machines.check()

    def difference(self, facts: Mapping[str, Any]) -> str | None:
        """The first option that the training of `facts` (setup.json, run.json) was given otherwise; None: it is this.

        What the job leaves open or the facts do not tell is no difference.
        """
        asked = {"--preset": self.preset, "--seed": self.seed, "--init": self.init}
        init = facts.get("init", {}).get("asked")
        was = {"--preset": facts.get("preset"), "--seed": facts.get("seed"), "--init": init}
        known = (flag for flag in asked if None not in (asked[flag], was[flag]))
        flags = (f"{flag} {was[flag]}" for flag in known if asked[flag] != was[flag])
        return next(flags, None) or self._other_pairs(facts.get("overrides"))

    def _other_pairs(self, overrides: Sequence[str] | None) -> str | None:
        """The KEY VALUE pairs of a training that was given others; its rate may be another one."""
        asked, was = ({**pairs(words or ()), BASE_LR: ""} for words in (self.overrides, overrides))
        if overrides is None or len(asked) == 1 or asked == was:
            return None
        return " ".join(overrides) or "no KEY VALUE pairs"

    def resume_command(self, rate: float | None = None) -> str:
        """The command that goes on with this job's training, perhaps with another base rate."""
        changed = [] if rate is None else [BASE_LR, f"{rate:g}"]
        return _command(self, [*self._flags(), "--resume", *changed])

    def restart_command(self, rate: float) -> str:
        """The command that starts this job's training anew with another base rate."""
        kept = [word for key, value in pairs(self.overrides).items() if key != BASE_LR for word in (key, value)]
        flags = [flag for flag, on in (("--deterministic", self.deterministic), ("--force", self.force)) if on]
        return _command(self, [*flags, *self._flags(), *kept, BASE_LR, f"{rate:g}"])

    def _flags(self) -> list[str]:
        machines = self.machines
        several = ["--num-machines", str(machines.count), "--machine-rank", str(machines.rank)]
        several += ["--dist-url", machines.url]
        return [
            *(["--num-gpus", str(machines.gpus)] if machines.gpus > 1 else []),
            *(several if machines.count > 1 else []),
        ]


def pairs(overrides: Sequence[str]) -> dict[str, str]:
    """{key: value} of a command line's KEY VALUE …; of a key that is there twice the last value."""
    return dict(zip(overrides[::2], overrides[1::2], strict=False))


def _command(job: Job, words: Iterable[str]) -> str:
    place = ["--data", str(job.data), "--output", str(job.output), "--preset", job.preset]
    init = [] if job.init in (None, INIT) else ["--init", str(job.init)]
    seed = [] if job.seed in (None, SEED) else ["--seed", str(job.seed)]
    return own_command("train", job.backbone, *place, *init, *seed, *words)
